/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <string.h>

#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"
#include "sync/sync.h"

#define RETRY_FIRST_MS 1000
#define RETRY_MOST_MS (5 * 60 * 1000)

/* One folder that has a run queued, going on, or waited for. */
typedef struct {
  guint32 folder;
  gboolean queued[JOB_PRIORITIES]; /* a job of that priority stands in the pool's queue */
  gboolean wanted;                 /* a run is due; whichever job comes first does it */
  gboolean running;
  guint holds;         /* changes go on there: a run has to wait */
  guint32 done, total; /* of a listing */
  guint failures;      /* runs in a row that the server refused */
  gint64 retry_at;     /* monotonic µs, 0: nothing to try again */
  GArray *waits;       /* of EngineWait */
} Sync;

struct Syncs {
  Engine *engine;
  GMutex lock; /* guards the table and what is in it; a leaf */
  GHashTable *table; /* of Sync by folder id */
};

/* The job's data: ids only, so that it may outlive anything. */
typedef struct {
  Syncs *syncs;
  guint32 folder;
  JobPriority priority;
} Ticket;

static void sync_free(gpointer data) {
  Sync *sync = data;
  g_array_unref(sync->waits);
  g_free(sync);
}

Syncs *syncs_new(Engine *engine) {
  Syncs *syncs = g_new0(Syncs, 1);
  syncs->engine = engine;
  g_mutex_init(&syncs->lock);
  syncs->table = g_hash_table_new_full(NULL, NULL, NULL, sync_free);
  return syncs;
}

void syncs_free(Syncs *syncs) {
  g_hash_table_unref(syncs->table);
  g_mutex_clear(&syncs->lock);
  g_free(syncs);
}

static Sync *find_locked(Syncs *syncs, guint32 folder) {
  return g_hash_table_lookup(syncs->table, GUINT_TO_POINTER(folder));
}

static Sync *get_locked(Syncs *syncs, guint32 folder) {
  Sync *sync = find_locked(syncs, folder);
  if (!sync) {
    sync = g_new0(Sync, 1);
    sync->folder = folder;
    sync->waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
    g_hash_table_insert(syncs->table, GUINT_TO_POINTER(folder), sync);
  }
  return sync;
}

/* Completes everybody who waits for @folder, with success when @error is NULL. */
static void answer(Syncs *syncs, guint32 folder, const GError *error) {
  g_autoptr(GArray) waits = NULL;
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, folder);
  if (sync) {
    waits = sync->waits;
    sync->waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  }
  g_mutex_unlock(&syncs->lock);
  for (guint i = 0; waits && i < waits->len; i++) {
    WaitCall call;
    if (waits_take(syncs->engine->waits, g_array_index(waits, EngineWait, i), &call))
      call.done.folder(call.data, error);
  }
}

/* A name that the user gave goes with its message. */
static void drop_name(Engine *engine, guint32 id, guint32 uid) {
  g_autoptr(StoreFolder) folder = store_folder_get(engine->store, id, NULL);
  if (folder && folder->mailbox &&
      journal_names_any(engine->journal, folder->mailbox, folder->uidvalidity))
    journal_names_drop(engine->journal, folder->mailbox, folder->uidvalidity, uid, uid, NULL);
}

static void on_news(SyncNewsKind kind, guint32 folder, MsgId id, const char *name, gpointer data) {
  static const EngineNewsKind kinds[] = {
      [SYNC_MESSAGE_NEW] = ENGINE_NEWS_MESSAGE_NEW,
      [SYNC_MESSAGE_GONE] = ENGINE_NEWS_MESSAGE_GONE,
      [SYNC_MESSAGE_FLAGS] = ENGINE_NEWS_MESSAGE_FLAGS,
      [SYNC_LISTED] = ENGINE_NEWS_FOLDER_LISTED,
      [SYNC_RESET] = ENGINE_NEWS_FOLDER_RESET,
  };
  Ticket *ticket = data;
  if (kind == SYNC_MESSAGE_GONE)
    drop_name(ticket->syncs->engine, folder, id.uid);
  EngineNews news = {
      .kind = kinds[kind], .folder = folder, .msg = {id.space, id.uid}, .name = name};
  engine_emit(ticket->syncs->engine, &news, 1);
}

/* A listing goes on: keeps those who wait for it patient. */
static void on_progress(guint32 folder, guint32 done, guint32 total, gpointer data) {
  Syncs *syncs = ((Ticket *) data)->syncs;
  g_autoptr(GArray) waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, folder);
  if (sync) {
    sync->done = done;
    sync->total = total;
    g_array_append_vals(waits, sync->waits->data, sync->waits->len);
  }
  g_mutex_unlock(&syncs->lock);
  for (guint i = 0; i < waits->len; i++)
    waits_touch(syncs->engine->waits, g_array_index(waits, EngineWait, i));
}

/* The name that the user gave. */
static char *on_name(const StoreFolder *folder, guint32 uid, gpointer data) {
  Journal *journal = ((Ticket *) data)->syncs->engine->journal;
  return journal_names_any(journal, folder->mailbox, folder->uidvalidity)
             ? journal_name_get(journal, folder->mailbox, folder->uidvalidity, uid)
             : NULL;
}

/* Takes the run that is due, or tells that there is none (any more) for this job. From here on the
 * job no longer counts as queued: what becomes due later needs a job of its own. */
static gboolean begin(Syncs *syncs, const Ticket *ticket) {
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, ticket->folder);
  if (sync)
    sync->queued[ticket->priority] = FALSE;
  gboolean due = sync && sync->wanted && !sync->running && !sync->holds;
  if (due) {
    sync->wanted = FALSE;
    sync->running = TRUE;
    sync->done = sync->total = 0;
  }
  g_mutex_unlock(&syncs->lock);
  return due;
}

/* When to try again what the server refused for no lasting reason. */
static gint64 retry_time(guint failures) {
  return deadline_in_ms(MIN(RETRY_FIRST_MS << MIN(failures, 20), RETRY_MOST_MS));
}

/* Ends a run; TRUE when another one became due meanwhile. */
static gboolean end(Syncs *syncs, guint32 folder) {
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, folder);
  sync->running = FALSE;
  sync->failures = 0;
  gboolean again = sync->wanted;
  g_mutex_unlock(&syncs->lock);
  return again;
}

static gboolean job_run(ImapSession *session, gpointer data, GError **error) {
  Ticket *ticket = data;
  Syncs *syncs = ticket->syncs;
  const SyncHooks hooks = {
      .news = on_news, .progress = on_progress, .name = on_name, .data = ticket};
  while (begin(syncs, ticket)) {
    gboolean ok = sync_messages(syncs->engine->store, session, ticket->folder, &hooks, error);
    if (!ok) {
      /* The pool may run this job again: then the run must be due again. */
      g_mutex_lock(&syncs->lock);
      Sync *sync = find_locked(syncs, ticket->folder);
      sync->wanted = TRUE;
      sync->running = FALSE;
      g_mutex_unlock(&syncs->lock);
      changes_wake(syncs->engine->changes);
      return FALSE;
    }
    gboolean again = end(syncs, ticket->folder);
    answer(syncs, ticket->folder, NULL);
    changes_wake(syncs->engine->changes);
    if (!again)
      break;
  }
  return TRUE;
}

static void job_failed(gpointer data, const GError *error) {
  Ticket *ticket = data;
  Syncs *syncs = ticket->syncs;
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, ticket->folder);
  gboolean running = sync && sync->running; /* by another connection: its end answers */
  if (sync)
    sync->queued[ticket->priority] = FALSE;
  gboolean gone = g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  /* Without a connection there is nothing to try: when it is back, everything is compared. */
  gboolean retry = !gone && link_usable(syncs->engine->link, NULL) &&
                   !g_cancellable_is_cancelled(syncs->engine->cancellable);
  if (sync && !running) {
    sync->wanted = FALSE;
    if (retry)
      sync->retry_at = retry_time(sync->failures++);
  }
  g_mutex_unlock(&syncs->lock);
  if (running)
    return;
  answer(syncs, ticket->folder, error);
  if (gone)
    watch_refresh(syncs->engine->watch); /* deleted or renamed by somebody else */
  else if (!g_error_matches(error, EML_ERROR, EML_ERROR_CANCELLED))
    log_warning("folder %u could not be brought up to date: %s", ticket->folder, error->message);
  if (retry)
    watch_wake(syncs->engine->watch);
}

gint64 syncs_retry(Syncs *syncs) {
  gint64 now = g_get_monotonic_time(), next = DEADLINE_NEVER;
  g_autoptr(GArray) due = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_mutex_lock(&syncs->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, syncs->table);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Sync *sync = value;
    if (sync->retry_at && sync->retry_at <= now) {
      sync->retry_at = 0;
      g_array_append_val(due, sync->folder);
    } else if (sync->retry_at) {
      next = MIN(next, sync->retry_at);
    }
  }
  g_mutex_unlock(&syncs->lock);
  for (guint i = 0; i < due->len; i++)
    syncs_schedule(syncs, g_array_index(due, guint32, i), JOB_NEWS);
  return next;
}

static void job_free(gpointer data) {
  Ticket *ticket = data;
  g_mutex_lock(&ticket->syncs->lock);
  Sync *sync = find_locked(ticket->syncs, ticket->folder);
  gboolean idle = sync && !sync->wanted && !sync->running && !sync->holds && !sync->retry_at && !sync->waits->len;
  for (guint i = 0; i < JOB_PRIORITIES && idle; i++)
    idle = !sync->queued[i];
  if (idle)
    g_hash_table_remove(ticket->syncs->table, GUINT_TO_POINTER(ticket->folder));
  g_mutex_unlock(&ticket->syncs->lock);
  g_free(ticket);
}

/* Queues a job unless one at least as urgent is queued already. */
static gboolean claim_locked(Sync *sync, JobPriority priority) {
  for (guint i = 0; i <= priority; i++)
    if (sync->queued[i])
      return FALSE;
  sync->queued[priority] = TRUE;
  return TRUE;
}

static void push(Syncs *syncs, guint32 folder, JobPriority priority) {
  Ticket *ticket = g_new(Ticket, 1);
  *ticket = (Ticket){syncs, folder, priority};
  PoolJob job = {.priority = priority,
                 .folder = folder,
                 .run = job_run,
                 .failed = job_failed,
                 .free = job_free,
                 .data = ticket};
  pool_push(syncs->engine->pool, &job);
}

void syncs_schedule(Syncs *syncs, guint32 folder, JobPriority priority) {
  g_mutex_lock(&syncs->lock);
  Sync *sync = get_locked(syncs, folder);
  sync->wanted = TRUE;
  /* A running one goes round once more by itself. */
  gboolean claimed = !sync->running && !sync->holds && claim_locked(sync, priority);
  g_mutex_unlock(&syncs->lock);
  if (claimed)
    push(syncs, folder, priority);
}

EngineWait syncs_await(Syncs *syncs, guint32 id, EngineDone done, gpointer data) {
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreFolder) folder = store_folder_get(syncs->engine->store, id, &error);
  if (!folder || folder->listed || !folder->selectable || !folder->mailbox) {
    done(data, error);
    return 0;
  }
  if (!link_usable(syncs->engine->link, &error)) {
    done(data, error);
    return 0;
  }
  WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
  EngineWait wait = waits_add(syncs->engine->waits, &call);
  g_mutex_lock(&syncs->lock);
  Sync *sync = get_locked(syncs, id);
  g_array_append_val(sync->waits, wait);
  if (!sync->running)
    sync->wanted = TRUE;
  gboolean claimed = !sync->running && !sync->holds && claim_locked(sync, JOB_INTERACTIVE);
  g_mutex_unlock(&syncs->lock);
  if (claimed)
    push(syncs, id, JOB_INTERACTIVE);
  return wait;
}

gboolean syncs_hold(Syncs *syncs, guint32 folder) {
  g_mutex_lock(&syncs->lock);
  Sync *sync = get_locked(syncs, folder);
  gboolean held = !sync->running;
  sync->holds += held;
  g_mutex_unlock(&syncs->lock);
  return held;
}

void syncs_release(Syncs *syncs, guint32 folder) {
  g_mutex_lock(&syncs->lock);
  Sync *sync = find_locked(syncs, folder);
  sync->holds--;
  JobPriority priority = sync->waits->len ? JOB_INTERACTIVE : JOB_NEWS;
  gboolean claimed =
      !sync->holds && sync->wanted && !sync->running && claim_locked(sync, priority);
  g_mutex_unlock(&syncs->lock);
  if (claimed)
    push(syncs, folder, priority);
}

gboolean syncs_is_busy(Syncs *syncs, guint32 folder) {
  g_mutex_lock(&syncs->lock);
  const Sync *sync = find_locked(syncs, folder);
  gboolean busy = sync && (sync->wanted || sync->running);
  g_mutex_unlock(&syncs->lock);
  return busy;
}

gboolean syncs_is_refused(Syncs *syncs, guint32 folder) {
  g_mutex_lock(&syncs->lock);
  const Sync *sync = find_locked(syncs, folder);
  gboolean refused = sync && sync->failures > 0;
  g_mutex_unlock(&syncs->lock);
  return refused;
}

void syncs_describe(Syncs *syncs, GString *text) {
  g_autoptr(GArray) running = g_array_new(FALSE, FALSE, sizeof(Sync));
  guint due = 0;
  g_mutex_lock(&syncs->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, syncs->table);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Sync *sync = value;
    due += sync->wanted;
    if (sync->running)
      g_array_append_val(running, *sync);
  }
  g_mutex_unlock(&syncs->lock);
  for (guint i = 0; i < running->len; i++) {
    const Sync *sync = &g_array_index(running, Sync, i);
    g_autoptr(StoreFolder) folder = store_folder_get(syncs->engine->store, sync->folder, NULL);
    if (folder && sync->total)
      g_string_append_printf(text, "listing: %s, %u of %u messages\n", folder->name, sync->done,
                             sync->total);
    else if (folder)
      g_string_append_printf(text, "checking: %s\n", folder->name);
  }
  g_string_append_printf(text, "folders to check: %u\n", due);
}
