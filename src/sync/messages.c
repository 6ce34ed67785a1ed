/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One run over one folder:
 *
 *   SELECT, as a QRESYNC when there is something to resync from
 *   ├ other UIDVALIDITY, or never listed: read everything, one UID FETCH 1:*
 *   └ else  changes: told by QRESYNC, or FETCH CHANGEDSINCE, or FETCH FLAGS of everything
 *           new ones: UID FETCH from the old UIDNEXT on
 *           gone ones: told by QRESYNC, or found by comparing with UID SEARCH ALL when the count
 *           does not add up
 *
 * Responses are gathered in memory (bounded) and written in bursts between reads, so that the
 * writer lock of the store is never held while the network is waited for. What the server says
 * about messages is believed only as far as it can do no harm: a FETCH without UID is dropped.
 */
#include "sync/sync.h"

#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "mime/names.h"

#define BURST 1000
#define PROGRESS_US (G_USEC_PER_SEC / 4)

/* What one line of news needs after the commit. */
typedef struct {
  SyncNewsKind kind;
  guint32 uid;
  char *name;
} Pending;

/* A FETCH response kept until the next burst. */
typedef struct {
  guint32 uid;
  guint flags;
  guint64 modseq;
  guint64 size;
  gint64 internal_date;
  gboolean whole; /* carries all that a new row needs */
  char *keywords;
  char *name;
} Row;

typedef struct {
  Store *store;
  ImapSession *session;
  const SyncHooks *hooks;
  StoreFolder *folder;
  StoreBatch *batch;
  GArray *rows;    /* of Row */
  GArray *gone;    /* of ImapRange, from VANISHED */
  GArray *pending; /* of Pending */
  gboolean modseqs;   /* the mailbox keeps them (it may not even where the server does) */
  gboolean quiet;     /* a first listing: no news of single messages */
  GArray *answered;   /* of guint32: UIDs that a FETCH of everything told of, or NULL */
  guint32 total, done;
  gint64 progressed;  /* monotonic µs of the last progress call */
  GError *failure;    /* of a burst within a handler */
} Run;

static void pending_clear(gpointer data) {
  g_free(((Pending *) data)->name);
}

static void row_clear(gpointer data) {
  Row *row = data;
  g_free(row->keywords);
  g_free(row->name);
}

static void note(Run *run, SyncNewsKind kind, guint32 uid, const char *name) {
  if (run->quiet)
    return;
  Pending pending = {.kind = kind, .uid = uid, .name = g_strdup(name)};
  g_array_append_val(run->pending, pending);
}

static gboolean on_gone(const StoreMessage *message, gpointer data) {
  note(data, SYNC_MESSAGE_GONE, message->uid, message->name);
  return TRUE;
}

/* Writes what was gathered as one transaction. */
static gboolean write_burst(Run *run, GError **error) {
  gint64 now = g_get_real_time() / G_USEC_PER_SEC;
  for (guint i = 0; i < run->gone->len; i++) {
    const ImapRange *range = &g_array_index(run->gone, ImapRange, i);
    if (!store_batch_remove(run->batch, range->first, range->last, on_gone, run, error))
      return FALSE;
  }
  for (guint i = 0; i < run->rows->len; i++) {
    const Row *row = &g_array_index(run->rows, Row, i);
    gboolean changed = FALSE;
    if (row->whole) {
      StoreMessage message = {
          .uid = row->uid,
          .size = row->size,
          .internal_date = row->internal_date,
          .ctime = now,
          .flags = row->flags,
          .modseq = row->modseq,
          .keywords = row->keywords,
          .name = row->name,
      };
      if (!store_batch_put(run->batch, &message, &changed, error))
        return FALSE;
      if (changed)
        note(run, SYNC_MESSAGE_NEW, row->uid, row->name);
    } else {
      if (!store_batch_flags(run->batch, row->uid, row->flags, row->keywords, row->modseq, now,
                             &changed, error))
        return FALSE;
      if (changed)
        note(run, SYNC_MESSAGE_FLAGS, row->uid, NULL);
    }
  }
  g_array_set_size(run->gone, 0);
  g_array_set_size(run->rows, 0);
  return store_batch_flush(run->batch, error);
}

static void report_progress(Run *run, gboolean last) {
  gint64 now = g_get_monotonic_time();
  if (!run->hooks->progress || (!last && now - run->progressed < PROGRESS_US))
    return;
  run->progressed = now;
  run->hooks->progress(run->folder->id, run->done, run->total, run->hooks->data);
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  Run *run = data;
  const guint whole =
      IMAP_FETCH_FLAGS | IMAP_FETCH_SIZE | IMAP_FETCH_DATE | IMAP_FETCH_HEADER;
  if (!fetch->uid || !(fetch->have & IMAP_FETCH_FLAGS) || run->failure)
    return;
  if (run->answered)
    g_array_append_val(run->answered, fetch->uid);
  Row row = {
      .uid = fetch->uid,
      .flags = fetch->flags & ~MSG_FLAG_RECENT,
      .modseq = fetch->modseq,
      .size = fetch->size,
      .internal_date = fetch->internal_date,
      .whole = (fetch->have & whole) == whole,
      .keywords = g_strjoinv(" ", (char **) fetch->keywords),
  };
  if (row.whole && run->hooks->name)
    row.name = run->hooks->name(run->folder, row.uid, run->hooks->data);
  if (row.whole && !row.name)
    row.name = name_for_message(fetch->header, fetch->header_size, fetch->internal_date, fetch->uid);
  g_array_append_val(run->rows, row);
  run->done++;
  report_progress(run, FALSE);
  if (run->rows->len >= BURST)
    write_burst(run, &run->failure);
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  Run *run = data;
  g_array_append_vals(run->gone, ranges, (guint) count);
}

static const ImapHandler handler = {.fetch = on_fetch, .vanished = on_vanished};

/* Sends a FETCH, waits, and writes all that came. */
static gboolean fetch_rows(Run *run, const char *set, const char *items, const char *modifiers,
                           GError **error) {
  ImapTag tag = imap_fetch_send(run->session, set, items, modifiers, error);
  if (!tag || !imap_wait(run->session, tag, error))
    return FALSE;
  if (run->failure) {
    g_propagate_error(error, g_steal_pointer(&run->failure));
    return FALSE;
  }
  return write_burst(run, error);
}

static gboolean fetch_whole(Run *run, const char *set, GError **error) {
  g_autofree char *items = g_strdup_printf(
      "(UID FLAGS RFC822.SIZE INTERNALDATE%s BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)])",
      run->modseqs ? " MODSEQ" : "");
  return fetch_rows(run, set, items, NULL, error);
}

static gboolean collect_uid(const StoreMessage *message, gpointer data) {
  g_array_append_val((GArray *) data, message->uid);
  return TRUE;
}

static int compare_uids(gconstpointer a, gconstpointer b) {
  guint32 x = *(const guint32 *) a, y = *(const guint32 *) b;
  return (x > y) - (x < y);
}

/* Fetches whole rows for @uids (ascending), a bounded command at a time. */
static gboolean fetch_missing(Run *run, const GArray *uids, GError **error) {
  for (guint i = 0; i < uids->len;) {
    g_autoptr(GString) set = g_string_new(NULL);
    while (i < uids->len && set->len < 4000) {
      guint32 first = g_array_index(uids, guint32, i), last = first;
      while (i + 1 < uids->len && g_array_index(uids, guint32, i + 1) == last + 1) {
        last++;
        i++;
      }
      i++;
      g_string_append_printf(set, last > first ? "%s%u:%u" : "%s%u", set->len ? "," : "", first, last);
    }
    if (!fetch_whole(run, set->str, error))
      return FALSE;
  }
  return TRUE;
}

/* Makes the index hold exactly @uids (any order): others are removed, missing ones are fetched. */
static gboolean reconcile(Run *run, GArray *uids, GError **error) {
  g_autoptr(GArray) ours = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_autoptr(GArray) missing = g_array_new(FALSE, FALSE, sizeof(guint32));
  if (!store_messages_scan(run->store, run->folder->space, 0, G_MAXUINT, collect_uid, ours, error))
    return FALSE;
  g_array_sort(uids, compare_uids);
  for (guint i = 0, j = 0; i < ours->len || j < uids->len;) {
    guint64 mine = i < ours->len ? g_array_index(ours, guint32, i) : G_MAXUINT64;
    guint64 theirs = j < uids->len ? g_array_index(uids, guint32, j) : G_MAXUINT64;
    if (mine < theirs) {
      ImapRange range = {(guint32) mine, (guint32) mine};
      g_array_append_val(run->gone, range);
    } else if (theirs < mine) {
      guint32 uid = (guint32) theirs;
      g_array_append_val(missing, uid);
    }
    i += mine <= theirs;
    j += theirs <= mine;
  }
  return write_burst(run, error) && fetch_missing(run, missing, error);
}

/* Asks for all UIDs and reconciles; for when the count does not add up. */
static gboolean reconcile_all(Run *run, GError **error) {
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  return imap_search_all(run->session, uids, error) && reconcile(run, uids, error);
}

/* Reads everything. What an earlier run that broke off left behind is overwritten or removed. */
static gboolean list_all(Run *run, const ImapSelected *selected, GError **error) {
  run->total = selected->exists;
  run->quiet = TRUE;
  g_autoptr(GArray) answered = g_array_new(FALSE, FALSE, sizeof(guint32));
  if (selected->exists) {
    report_progress(run, TRUE);
    run->answered = answered;
    gboolean ok = fetch_whole(run, "1:*", error);
    run->answered = NULL;
    if (!ok)
      return FALSE;
    report_progress(run, TRUE);
  }
  return run->folder->count == 0 || reconcile(run, answered, error);
}

/* Flags of everything, compared with ours: servers without CONDSTORE. */
static gboolean compare_all(Run *run, const ImapSelected *selected, GError **error) {
  g_autoptr(GArray) answered = g_array_new(FALSE, FALSE, sizeof(guint32));
  if (selected->exists) {
    run->answered = answered;
    gboolean ok = fetch_rows(run, "1:*", "(UID FLAGS)", NULL, error);
    run->answered = NULL;
    if (!ok)
      return FALSE;
  }
  return reconcile(run, answered, error);
}

/* The number of messages in the index, or G_MAXUINT32 when the folder is gone. */
static guint32 count_now(Run *run) {
  g_autoptr(StoreFolder) folder = store_folder_get(run->store, run->folder->id, NULL);
  return folder ? folder->count : G_MAXUINT32;
}

static gboolean catch_up(Run *run, const ImapSelected *selected, GError **error) {
  const StoreFolder *folder = run->folder;
  gboolean condstore = selected->highestmodseq && folder->modseq;
  if (!write_burst(run, error)) /* what a QRESYNC told during SELECT */
    return FALSE;
  if (!selected->resynced && condstore && selected->highestmodseq != folder->modseq &&
      folder->uidnext > 1) {
    g_autofree char *set = g_strdup_printf("1:%u", folder->uidnext - 1);
    g_autofree char *since =
        g_strdup_printf("(CHANGEDSINCE %" G_GUINT64_FORMAT ")", folder->modseq);
    if (selected->exists && !fetch_rows(run, set, "(UID FLAGS MODSEQ)", since, error))
      return FALSE;
  } else if (!selected->resynced && !condstore) {
    return compare_all(run, selected, error);
  }
  if (selected->exists && selected->uidnext != folder->uidnext) {
    g_autofree char *set = g_strdup_printf("%u:*", MAX(folder->uidnext, 1));
    if (!fetch_whole(run, set, error))
      return FALSE;
  }
  return count_now(run) == selected->exists || reconcile_all(run, error);
}

/* The UIDNEXT to go on from: the server's, or behind the last UID when it does not say. */
static guint32 next_uid(Run *run, const ImapSelected *selected) {
  if (selected->uidnext)
    return selected->uidnext;
  guint32 last = 0;
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  if (store_messages_scan(run->store, run->folder->space, 0, G_MAXUINT, collect_uid, uids, NULL) &&
      uids->len)
    last = g_array_index(uids, guint32, uids->len - 1);
  return last + 1;
}

/* Tells what is in the index now about the listing as a whole. */
static void send_listing(Run *run, guint32 space, SyncNewsKind kind) {
  run->hooks->news(kind, run->folder->id, (MsgId){space, 0}, NULL, run->hooks->data);
}

static void send_news(Run *run, guint32 space) {
  const SyncHooks *hooks = run->hooks;
  for (guint i = 0; i < run->pending->len; i++) {
    const Pending *pending = &g_array_index(run->pending, Pending, i);
    hooks->news(pending->kind, run->folder->id, (MsgId){space, pending->uid}, pending->name,
                hooks->data);
  }
}

static gboolean run_folder(Run *run, GError **error) {
  StoreFolder *folder = run->folder;
  gboolean resumable = folder->listed && folder->space;
  ImapSelected selected;
  run->batch = resumable ? store_batch_new(run->store, folder->space) : NULL;
  if (!imap_select(run->session, folder->mailbox, FALSE, resumable ? folder->uidvalidity : 0,
                   resumable ? folder->modseq : 0, &selected, error))
    return FALSE;
  if (run->failure) {
    g_propagate_error(error, g_steal_pointer(&run->failure));
    return FALSE;
  }
  if (!selected.uidvalidity) {
    g_set_error(error, EML_ERROR, EML_ERROR_PROTOCOL,
                "the server gave no UIDVALIDITY for %s, its messages cannot be told apart",
                folder->name);
    return FALSE;
  }

  run->modseqs = selected.highestmodseq != 0;
  gboolean was_listed = FALSE;
  gboolean renewed = selected.uidvalidity != folder->uidvalidity || !folder->space;
  if (renewed) {
    if (folder->space)
      log_warning("%s: its UIDVALIDITY changed, all of it is read again", folder->name);
    store_batch_abort(&run->batch);
    g_array_set_size(run->rows, 0);
    g_array_set_size(run->gone, 0);
    was_listed = folder->listed;
    if (!store_folder_renew(run->store, folder->id, selected.uidvalidity, &folder->space, error))
      return FALSE;
    folder->listed = FALSE;
    folder->count = 0;
    folder->uidvalidity = selected.uidvalidity;
    if (was_listed)
      send_listing(run, folder->space, SYNC_RESET);
  }
  if (!run->batch)
    run->batch = store_batch_new(run->store, folder->space);

  gboolean first = !folder->listed;
  if (first) {
    g_array_set_size(run->rows, 0);
    g_array_set_size(run->gone, 0);
  }
  if (!(first ? list_all(run, &selected, error) : catch_up(run, &selected, error)))
    return FALSE;
  gboolean moved = FALSE;
  for (guint i = 0; i < run->pending->len && !moved; i++)
    moved = g_array_index(run->pending, Pending, i).kind != SYNC_MESSAGE_FLAGS;
  gint64 mtime = first || moved ? g_get_real_time() / G_USEC_PER_SEC : 0;
  if (!store_batch_commit(&run->batch, next_uid(run, &selected), selected.highestmodseq, mtime, error))
    return FALSE;
  if (first)
    send_listing(run, folder->space, was_listed ? SYNC_RESET : SYNC_LISTED);
  send_news(run, folder->space);
  return TRUE;
}

gboolean sync_messages(Store *store, ImapSession *session, guint32 id, const SyncHooks *hooks,
                       GError **error) {
  g_autoptr(StoreFolder) folder = store_folder_get(store, id, error);
  if (!folder)
    return FALSE;
  if (!folder->mailbox || !folder->selectable) {
    g_set_error(error, EML_ERROR, EML_ERROR_NOT_FOUND, "%s cannot hold messages", folder->name);
    return FALSE;
  }
  Run run = {.store = store, .session = session, .hooks = hooks, .folder = folder};
  run.rows = g_array_new(FALSE, FALSE, sizeof(Row));
  g_array_set_clear_func(run.rows, row_clear);
  run.gone = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  run.pending = g_array_new(FALSE, FALSE, sizeof(Pending));
  g_array_set_clear_func(run.pending, pending_clear);
  imap_session_set_handler(session, &handler, &run);
  gboolean ok = run_folder(&run, error);
  imap_session_set_handler(session, NULL, NULL);
  /* What was written before a failure is in the index, so its news must not be lost: flags and
   * rows of bursts that were flushed. */
  if (!ok && run.pending->len)
    send_news(&run, folder->space);
  store_batch_abort(&run.batch);
  g_clear_error(&run.failure);
  g_array_unref(run.rows);
  g_array_unref(run.gone);
  g_array_unref(run.pending);
  return ok;
}
