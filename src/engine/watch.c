/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The connections that listen. One always: with NOTIFY (RFC 5465) it hears of all folders, else it
 * idles in INBOX (RFC 2177). Once a minute it asks for the STATUS of all folders, for what the server
 * did not hear of itself, and to see that the server is still there. Without NOTIFY a second one
 * idles in the folder that was looked at last. What is heard only schedules work for the pool;
 * nothing is fetched here.
 *
 * The first one also is the one that reconnects: while the link is offline the pool does not try.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"
#include "sync/sync.h"

#define BACKOFF_FIRST_MS 250
#define BACKOFF_MOST_MS 60000
#define POLL_MS 60000        /* STATUS of all folders: a server may not hear of everything itself */
#define UNPOLLED_MS 15000    /* servers with neither NOTIFY nor IDLE: NOOP in the folder in use */
#define STEADY_MS 10000      /* a connection that lasted so long was a good one */

/* One listening connection. */
typedef struct {
  Watch *watch;
  gboolean main;
  GThread *thread;
  int wake; /* eventfd */
} Listener;

struct Watch {
  Engine *engine;
  Listener main, folder;
  GMutex lock; /* guards what follows; a leaf */
  gboolean stopping;
  gboolean second;   /* the second listener was begun */
  gboolean spared;   /* no second listener: the server allows too few connections */
  gboolean refresh;  /* the list of folders is to be read again */
  gboolean lost;     /* somebody found the server gone: look at once */
  gboolean probe;    /* the server is to give a sign of life */
  gboolean idling;   /* the main listener is listening and can be asked for one */
  guint listings;    /* of the folders, so far */
  GCond probed;      /* `probe` or `idling` fell, or it stops */
  guint32 inbox;     /* folder that the main listener idles in, 0 with NOTIFY */
  guint32 looked_at; /* folder that the second listener is to idle in */
  const char *mode;  /* for the status text */
};

/* ---- what is heard ---- */

typedef struct {
  Engine *engine;
  guint32 selected; /* folder id, or 0 */
  gboolean changed; /* something about the selected folder */
  gboolean folders; /* the list of folders changed */
} Heard;

static void on_exists(guint32 count, gpointer data) {
  ((Heard *) data)->changed = TRUE;
}

static void on_expunge(guint32 seq, gpointer data) {
  ((Heard *) data)->changed = TRUE;
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  ((Heard *) data)->changed = TRUE;
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  ((Heard *) data)->changed = TRUE;
}

static void on_list(const ImapList *list, gpointer data) {
  ((Heard *) data)->folders = TRUE;
}

static void schedule_if_differs(Engine *engine, const ImapStatus *status, JobPriority priority) {
  g_autoptr(StoreFolder) folder = store_folder_by_mailbox(engine->store, status->mailbox, NULL);
  if (folder && folder->selectable && sync_status_differs(folder, status))
    syncs_schedule(engine->syncs, folder->id, folder->listed ? priority : JOB_BACKGROUND);
}

static void on_status(const ImapStatus *status, gpointer data) {
  Heard *heard = data;
  schedule_if_differs(heard->engine, status, JOB_NEWS);
}

static const ImapHandler handler = {
    .exists = on_exists,
    .expunge = on_expunge,
    .vanished = on_vanished,
    .fetch = on_fetch,
    .list = on_list,
    .status = on_status,
};

/* ---- folders ---- */

typedef struct {
  Engine *engine;
  GHashTable *told; /* mailboxes that came with a STATUS */
  GArray *status;   /* of ImapStatus, its mailbox owned by `told` */
} Listing;

static void collect_status(const ImapStatus *status, gpointer data) {
  Listing *listing = data;
  if (g_hash_table_contains(listing->told, status->mailbox))
    return;
  ImapStatus copy = *status;
  copy.mailbox = g_strdup(status->mailbox);
  g_hash_table_add(listing->told, (char *) copy.mailbox);
  g_array_append_val(listing->status, copy);
}

static void tell_folders(Engine *engine, EngineNewsKind kind, const GPtrArray *changes) {
  for (guint i = 0; i < changes->len; i++) {
    const StoreFolderChange *change = g_ptr_array_index(changes, i);
    EngineNews news = {
        .kind = kind, .folder = change->folder, .parent = change->parent, .name = change->name};
    engine_emit(engine, &news, 1);
  }
}

gboolean watch_list_folders(Engine *engine, ImapSession *session, GError **error) {
  g_autoptr(GHashTable) told = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr(GArray) status = g_array_new(FALSE, FALSE, sizeof(ImapStatus));
  Listing listing = {engine, told, status};
  g_autoptr(GPtrArray) added = NULL, removed = NULL;
  g_rec_mutex_lock(&engine->folders);
  gboolean listed =
      sync_folders(engine->store, session, &added, &removed, collect_status, &listing, error);
  g_rec_mutex_unlock(&engine->folders);
  if (!listed)
    return FALSE;
  tell_folders(engine, ENGINE_NEWS_FOLDER_GONE, removed);
  tell_folders(engine, ENGINE_NEWS_FOLDER_NEW, added);
  for (guint i = 0; i < status->len; i++)
    schedule_if_differs(engine, &g_array_index(status, ImapStatus, i), JOB_NEWS);
  g_autoptr(GPtrArray) folders = store_folders(engine->store, G_MAXUINT32, error);
  if (!folders)
    return FALSE;
  for (guint i = 0; i < folders->len; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    if (folder->selectable && folder->mailbox && !g_hash_table_contains(told, folder->mailbox))
      syncs_schedule(engine->syncs, folder->id, JOB_BACKGROUND);
  }
  g_mutex_lock(&engine->watch->lock);
  engine->watch->listings++;
  g_mutex_unlock(&engine->watch->lock);
  return TRUE;
}

/* Asks for the STATUS of every folder but the one selected; servers without NOTIFY. Where LIST can
 * bring it along that is one command, else they are sent together and waited for together. */
static gboolean poll_folders(Engine *engine, ImapSession *session, Heard *heard, GError **error) {
  if (imap_session_caps(session) & IMAP_CAP_LIST_STATUS)
    return watch_list_folders(engine, session, error);
  g_autoptr(GPtrArray) folders = store_folders(engine->store, G_MAXUINT32, error);
  if (!folders)
    return FALSE;
  imap_session_set_handler(session, &handler, heard);
  for (guint i = 0; i < folders->len; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    if (!folder->selectable || !folder->mailbox || folder->id == heard->selected)
      continue;
    ImapTag tag = imap_status_send(session, folder->mailbox, error);
    if (!tag)
      return FALSE;
    g_autoptr(GError) refusal = NULL;
    if (!imap_wait(session, tag, &refusal) && !imap_session_alive(session)) {
      g_propagate_error(error, g_steal_pointer(&refusal));
      return FALSE;
    }
    if (refusal)
      heard->folders = TRUE; /* deleted meanwhile, probably */
  }
  return TRUE;
}

/* ---- quota ---- */

static void on_quota(const char *root, gint64 used_kib, gint64 limit_kib, gint64 used_messages,
                     gint64 limit_messages, gpointer data) {
  EngineQuota *quota = data;
  if (used_kib < 0)
    return;
  quota->used = used_kib * 1024;
  quota->limit = limit_kib > 0 ? limit_kib * 1024 : -1;
}

static gboolean learn_quota(Engine *engine, ImapSession *session, GError **error) {
  static const ImapHandler quota_handler = {.quota = on_quota};
  EngineQuota quota = {.used = -1, .limit = -1};
  g_autoptr(GError) refusal = NULL;
  imap_session_set_handler(session, &quota_handler, &quota);
  gboolean ok = imap_quota(session, "INBOX", &refusal);
  imap_session_set_handler(session, NULL, NULL);
  if (!ok && !imap_session_alive(session)) {
    g_propagate_error(error, g_steal_pointer(&refusal));
    return FALSE;
  }
  g_mutex_lock(&engine->lock);
  engine->quota.used = quota.used;
  engine->quota.limit = quota.limit;
  engine->quota_asked = TRUE;
  g_mutex_unlock(&engine->lock);
  return TRUE;
}

/* ---- listening ---- */

static gboolean is_stopping(const Listener *listener) {
  Watch *watch = listener->watch;
  g_mutex_lock(&watch->lock);
  gboolean stopping = watch->stopping || (!listener->main && watch->spared);
  g_mutex_unlock(&watch->lock);
  return stopping;
}

static void set_mode(Watch *watch, const char *mode) {
  g_mutex_lock(&watch->lock);
  watch->mode = mode;
  g_mutex_unlock(&watch->lock);
}

static void ring(Listener *listener) {
  guint64 one = 1;
  if (write(listener->wake, &one, sizeof one) < 0)
    return; /* full: it is ringing already */
}

static void quiet(Listener *listener) {
  guint64 count;
  if (read(listener->wake, &count, sizeof count) < 0)
    return; /* it was not ringing */
}

static gboolean take(Watch *watch, gboolean *flag) {
  g_mutex_lock(&watch->lock);
  gboolean set = *flag;
  *flag = FALSE;
  g_mutex_unlock(&watch->lock);
  return set;
}

/* Listens as imap_idle does. While the main one does, watch_probe may ask for a sign of life. */
static gboolean idle(Listener *listener, ImapSession *session, gboolean by_idle, gint64 until,
                     GError **error) {
  Watch *watch = listener->watch;
  if (!listener->main)
    return imap_idle(session, by_idle, listener->wake, until, error);
  g_mutex_lock(&watch->lock);
  watch->idling = TRUE;
  g_mutex_unlock(&watch->lock);
  gboolean ok = imap_idle(session, by_idle, listener->wake, until, error);
  g_mutex_lock(&watch->lock);
  gboolean probe = watch->probe;
  g_mutex_unlock(&watch->lock);
  if (ok && probe)
    ok = imap_noop(session, error);
  g_mutex_lock(&watch->lock);
  watch->idling = FALSE;
  if (ok)
    watch->probe = FALSE;
  g_cond_broadcast(&watch->probed);
  g_mutex_unlock(&watch->lock);
  return ok;
}

/* Selects @folder for idling; 0 or a folder that is gone: nothing is selected. What it tells makes
 * the pool catch up with whatever happened before. */
static gboolean settle_in(Engine *engine, ImapSession *session, guint32 id, Heard *heard,
                          GError **error) {
  heard->selected = 0;
  g_autoptr(StoreFolder) folder = id ? store_folder_get(engine->store, id, NULL) : NULL;
  if (!folder || !folder->mailbox)
    return TRUE;
  ImapSelected selected;
  g_autoptr(GError) refusal = NULL;
  imap_session_set_handler(session, NULL, NULL);
  if (!imap_select(session, folder->mailbox, TRUE, 0, 0, &selected, &refusal)) {
    if (imap_session_alive(session))
      return TRUE;
    g_propagate_error(error, g_steal_pointer(&refusal));
    return FALSE;
  }
  heard->selected = id;
  ImapStatus status = {.mailbox = folder->mailbox,
                       .messages = selected.exists,
                       .uidnext = selected.uidnext,
                       .uidvalidity = selected.uidvalidity,
                       .highestmodseq = (gint64) selected.highestmodseq};
  schedule_if_differs(engine, &status, JOB_NEWS);
  return TRUE;
}

static guint32 inbox_id(Watch *watch) {
  g_autoptr(StoreFolder) inbox = store_folder_by_mailbox(watch->engine->store, "INBOX", NULL);
  guint32 id = inbox ? inbox->id : 0;
  g_mutex_lock(&watch->lock);
  watch->inbox = id;
  g_mutex_unlock(&watch->lock);
  return id;
}

/* Listens on one connection until it breaks or the watch stops. */
static gboolean listen_on(Listener *listener, ImapSession *session, GError **error) {
  Watch *watch = listener->watch;
  Engine *engine = watch->engine;
  guint caps = imap_session_caps(session);
  gboolean notify = caps & IMAP_CAP_NOTIFY, can_idle = caps & IMAP_CAP_IDLE;
  Heard heard = {.engine = engine};
  guint32 folder = 0;
  gint64 poll_at = deadline_in_ms(POLL_MS), quota_at = 0;

  if (listener->main) {
    set_mode(watch, notify ? "NOTIFY, all folders"
                    : can_idle ? "IDLE in INBOX and in the folder in use, the others once a minute"
                               : "NOOP in the folder in use, the others once a minute");
    if (notify) {
      imap_session_set_handler(session, &handler, &heard);
      if (!imap_notify(session, error))
        return FALSE;
    } else {
      folder = inbox_id(watch);
      if (!settle_in(engine, session, folder, &heard, error))
        return FALSE;
    }
  }

  for (;;) {
    if (is_stopping(listener))
      return TRUE;
    if (listener->main) {
      if (take(watch, &watch->lost) && !link_usable(engine->link, NULL)) {
        g_set_error(error, EML_ERROR, EML_ERROR_OFFLINE, "another connection found the server gone");
        return FALSE;
      }
      if (take(watch, &watch->refresh) || heard.folders) {
        heard.folders = FALSE;
        quota_at = 0;
        if (!watch_list_folders(engine, session, error))
          return FALSE;
      }
      gint64 now = g_get_monotonic_time();
      if (now >= quota_at) {
        if (!learn_quota(engine, session, error))
          return FALSE;
        quota_at = deadline_in_ms(5 * POLL_MS);
      }
      if (now >= poll_at) {
        if (!poll_folders(engine, session, &heard, error))
          return FALSE;
        poll_at = deadline_in_ms(POLL_MS);
      }
    } else {
      g_mutex_lock(&watch->lock);
      guint32 wanted = watch->looked_at;
      g_mutex_unlock(&watch->lock);
      if (wanted != folder) {
        folder = wanted;
        if (!settle_in(engine, session, folder, &heard, error))
          return FALSE;
      }
    }
    imap_session_set_handler(session, &handler, &heard);
    gint64 until = listener->main ? MIN(poll_at, syncs_retry(engine->syncs)) : deadline_in_ms(POLL_MS);
    if (!notify && !can_idle)
      until = MIN(until, deadline_in_ms(UNPOLLED_MS));
    if (!idle(listener, session, can_idle && !notify, until, error))
      return FALSE;
    quiet(listener);
    if (heard.changed && heard.selected)
      syncs_schedule(engine->syncs, heard.selected, JOB_NEWS);
    heard.changed = FALSE;
  }
}

/* Waits before the next try; somebody who knows better may ring: TRUE. */
static gboolean pause_for(Listener *listener, gint64 ms) {
  gint64 jittered = ms / 2 + g_random_int_range(0, (gint32) ms);
  GPollFD fd = {.fd = listener->wake, .events = G_IO_IN};
  gboolean rung = !is_stopping(listener) && g_poll(&fd, 1, (gint) jittered) > 0;
  quiet(listener);
  return rung;
}

static gpointer listener_main(gpointer data);

/* Begins the second listener, once. */
static void start_second(Watch *watch) {
  if (watch->folder.thread)
    return;
  g_mutex_lock(&watch->lock);
  watch->second = TRUE;
  g_mutex_unlock(&watch->lock);
  watch->folder.thread = g_thread_new("watch folder", listener_main, &watch->folder);
}

/* The main listener has a connection: what is known is brought up to date, then it listens. */
static gboolean main_session(Listener *listener, ImapSession *session, GError **error) {
  Watch *watch = listener->watch;
  Engine *engine = watch->engine;
  take(watch, &watch->lost);
  link_works(engine->link);
  g_mutex_lock(&engine->lock);
  g_free(engine->server);
  engine->server = g_strdup(imap_session_server(session));
  g_free(engine->caps);
  engine->caps = g_strdup(imap_session_caps_text(session));
  engine->append_limit = imap_session_append_limit(session);
  g_mutex_unlock(&engine->lock);
  if (!watch_list_folders(engine, session, error))
    return FALSE;
  if (!(imap_session_caps(session) & IMAP_CAP_NOTIFY))
    start_second(watch);
  ring(&watch->folder);
  return listen_on(listener, session, error);
}

static gpointer listener_main(gpointer data) {
  Listener *listener = data;
  Watch *watch = listener->watch;
  Engine *engine = watch->engine;
  gint64 backoff = BACKOFF_FIRST_MS;
  while (!is_stopping(listener)) {
    gboolean wait = listener->main ? link_is_held(engine->link) : !link_usable(engine->link, NULL);
    if (wait) {
      pause_for(listener, BACKOFF_MOST_MS); /* who ends that state rings */
      backoff = BACKOFF_FIRST_MS;
      continue;
    }
    g_autoptr(GError) error = NULL;
    gint64 began = g_get_monotonic_time();
    ImapSession *session = listener->main ? g_steal_pointer(&engine->first_session) : NULL;
    g_autoptr(GCancellable) generation = link_cancellable(engine->link);
    if (!session)
      session = imap_session_open(&engine->imap, generation, &error);
    if (session) {
      gboolean ok = listener->main ? main_session(listener, session, &error)
                                   : listen_on(listener, session, &error);
      imap_session_close(&session);
      if (ok)
        continue;
      if (g_get_monotonic_time() - began > STEADY_MS * 1000)
        backoff = BACKOFF_FIRST_MS;
    }
    if (g_cancellable_is_cancelled(engine->cancellable))
      break;
    log_debug("the %s watching connection ended: %s", listener->main ? "main" : "second",
              error->message);
    if (g_error_matches(error, EML_ERROR, EML_ERROR_CANCELLED))
      continue; /* by link_renew or link_hold */
    if (listener->main && link_failed(engine->link, error)) {
      pause_for(listener, BACKOFF_FIRST_MS); /* still in its grace */
      continue;
    }
    backoff = pause_for(listener, backoff) ? BACKOFF_FIRST_MS : MIN(backoff * 2, BACKOFF_MOST_MS);
  }
  return NULL;
}

/* ---- life ---- */

Watch *watch_new(Engine *engine) {
  Watch *watch = g_new0(Watch, 1);
  watch->engine = engine;
  g_mutex_init(&watch->lock);
  g_cond_init(&watch->probed);
  watch->main = (Listener){.watch = watch, .main = TRUE, .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  watch->folder = (Listener){.watch = watch, .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  watch->mode = "not yet";
  return watch;
}

void watch_start(Watch *watch) {
  watch->main.thread = g_thread_new("watch", listener_main, &watch->main);
}

void watch_stop(Watch *watch) {
  g_mutex_lock(&watch->lock);
  watch->stopping = TRUE;
  g_cond_broadcast(&watch->probed);
  g_mutex_unlock(&watch->lock);
  ring(&watch->main);
  if (watch->main.thread)
    g_thread_join(g_steal_pointer(&watch->main.thread));
  /* Only the main one starts the second, and it has ended. */
  ring(&watch->folder);
  if (watch->folder.thread)
    g_thread_join(g_steal_pointer(&watch->folder.thread));
}

void watch_free(Watch *watch) {
  if (watch->main.wake >= 0)
    close(watch->main.wake);
  if (watch->folder.wake >= 0)
    close(watch->folder.wake);
  g_cond_clear(&watch->probed);
  g_mutex_clear(&watch->lock);
  g_free(watch);
}

void watch_look(Watch *watch, guint32 folder) {
  g_mutex_lock(&watch->lock);
  gboolean other = folder != watch->looked_at && folder != watch->inbox;
  if (other)
    watch->looked_at = folder;
  g_mutex_unlock(&watch->lock);
  if (other)
    ring(&watch->folder);
}

void watch_refresh(Watch *watch) {
  g_mutex_lock(&watch->lock);
  watch->refresh = TRUE;
  g_mutex_unlock(&watch->lock);
  ring(&watch->main);
}

void watch_wake(Watch *watch) {
  ring(&watch->main);
}

gboolean watch_spare(Watch *watch) {
  g_mutex_lock(&watch->lock);
  watch->spared = TRUE;
  gboolean had = watch->second;
  g_mutex_unlock(&watch->lock);
  ring(&watch->folder);
  return had;
}

void watch_lost(Watch *watch) {
  g_mutex_lock(&watch->lock);
  watch->lost = TRUE;
  g_mutex_unlock(&watch->lock);
  ring(&watch->main);
}

guint watch_listings(Watch *watch) {
  g_mutex_lock(&watch->lock);
  guint count = watch->listings;
  g_mutex_unlock(&watch->lock);
  return count;
}

gboolean watch_probe(Watch *watch, gint64 ms) {
  gint64 until = deadline_in_ms(ms);
  g_mutex_lock(&watch->lock);
  /* While it connects or has a command under way, that has a deadline of its own. */
  watch->probe = watch->idling;
  g_mutex_unlock(&watch->lock);
  ring(&watch->main);
  g_mutex_lock(&watch->lock);
  gboolean waits = TRUE;
  while (waits && watch->probe && watch->idling && !watch->stopping)
    waits = g_cond_wait_until(&watch->probed, &watch->lock, until);
  gboolean silent = watch->probe && watch->idling && !watch->stopping;
  watch->probe = FALSE;
  g_mutex_unlock(&watch->lock);
  return !silent;
}

const char *watch_mode(Watch *watch) {
  g_mutex_lock(&watch->lock);
  const char *mode = watch->mode;
  g_mutex_unlock(&watch->lock);
  return mode;
}
