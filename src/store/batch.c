/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Batches of changes to one folder's messages. A batch holds no lock between two calls; its rows
 * go into the shared transaction (txn.c). Callbacks run with no lock held.
 */
#include <string.h>

#include "base/err.h"
#include "base/name-uid.h"
#include "store/store-private.h"

#define REMOVE_CHUNK 500

StoreBatch *store_batch_new(Store *store, guint32 space) {
  StoreBatch *batch = g_new0(StoreBatch, 1);
  batch->store = store;
  batch->space = space;
  return batch;
}

static void batch_free(StoreBatch *batch) {
  g_clear_error(&batch->failure);
  g_free(batch);
}

static void bind_message(sqlite3_stmt *stmt, guint32 space, const StoreMessage *message) {
  STMT_BIND(stmt, space, message->uid, (gint64) message->size, message->internal_date,
            message->ctime, message->flags, (gint64) message->modseq,
            name_uid(message->name) != message->uid);
  sqlite3_bind_text(stmt, 9, message->keywords ? message->keywords : "", -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 10, message->name, -1, SQLITE_STATIC);
}

static gboolean put_locked(StoreBatch *batch, const StoreMessage *message, gboolean *added_out,
                           GError **error) {
  Store *store = batch->store;
  if (!txn_join_locked(store, batch, error))
    return FALSE;
  {
    autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_INSERT);
    bind_message(stmt, batch->space, message);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot add a message", error);
  }
  gboolean added = sqlite3_changes(store->conn->db) > 0;
  if (added) {
    batch->delta++;
  } else {
    autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_REPLACE);
    bind_message(stmt, batch->space, message);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot replace a message", error);
  }
  if (added_out)
    *added_out = added;
  return txn_row_locked(store, error);
}

gboolean store_batch_put(StoreBatch *batch, const StoreMessage *message, gboolean *added_out,
                         GError **error) {
  writer_lock(batch->store);
  gboolean ok = put_locked(batch, message, added_out, error);
  writer_unlock(batch->store);
  return ok;
}

static gboolean flags_locked(StoreBatch *batch, guint32 uid, guint flags, const char *keywords,
                             guint64 modseq, gint64 now, gboolean *changed_out, GError **error) {
  Store *store = batch->store;
  if (!txn_join_locked(store, batch, error))
    return FALSE;
  gint64 ctime;
  gboolean changed;
  {
    autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_GET);
    STMT_BIND(stmt, batch->space, uid);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_DONE)
      return TRUE;
    if (rc != SQLITE_ROW)
      return txn_fail_locked(store, "cannot read a message", error);
    StoreMessage before;
    message_from_row(stmt, &before);
    changed = before.flags != flags || strcmp(before.keywords, keywords) != 0;
    if (!changed && before.modseq == modseq)
      return TRUE;
    ctime = changed ? now : before.ctime;
  }
  autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_FLAGS);
  STMT_BIND(stmt, batch->space, uid, flags, (gint64) modseq, ctime);
  sqlite3_bind_text(stmt, 6, keywords, -1, SQLITE_STATIC);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot set flags", error);
  if (changed_out)
    *changed_out = changed;
  return txn_row_locked(store, error);
}

gboolean store_batch_flags(StoreBatch *batch, guint32 uid, guint flags, const char *keywords,
                           guint64 modseq, gint64 now, gboolean *changed_out, GError **error) {
  if (changed_out)
    *changed_out = FALSE;
  writer_lock(batch->store);
  gboolean ok = flags_locked(batch, uid, flags, keywords ? keywords : "", modseq, now, changed_out,
                             error);
  writer_unlock(batch->store);
  return ok;
}

/* The next messages to remove, copied, so that the callback can be called with no lock held. */
static GPtrArray *removal_chunk_locked(StoreBatch *batch, guint32 first, guint32 last,
                                       GError **error) {
  Store *store = batch->store;
  if (!txn_join_locked(store, batch, error))
    return NULL;
  g_autoptr(GPtrArray) chunk = g_ptr_array_new_with_free_func((GDestroyNotify) store_message_free);
  autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_RANGE);
  STMT_BIND(stmt, batch->space, first, last, REMOVE_CHUNK);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    StoreMessage message;
    message_from_row(stmt, &message);
    g_ptr_array_add(chunk, store_message_copy(&message));
  }
  if (rc != SQLITE_DONE) {
    txn_fail_locked(store, "cannot read messages", error);
    return NULL;
  }
  return g_steal_pointer(&chunk);
}

static gboolean remove_locked(StoreBatch *batch, guint32 first, guint32 last, GError **error) {
  Store *store = batch->store;
  if (!txn_join_locked(store, batch, error) ||
      !txn_drop_bodies_locked(store, batch->space, first, last, error))
    return FALSE;
  autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_DELETE);
  STMT_BIND(stmt, batch->space, first, last);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot remove messages", error);
  int gone = sqlite3_changes(store->conn->db);
  batch->delta -= gone;
  store->txn_rows += (guint) gone;
  return txn_row_locked(store, error);
}

gboolean store_batch_remove(StoreBatch *batch, guint32 first, guint32 last, StoreMessageFn gone,
                            gpointer data, GError **error) {
  if (first > last)
    return TRUE;
  for (;;) {
    writer_lock(batch->store);
    g_autoptr(GPtrArray) chunk = removal_chunk_locked(batch, first, last, error);
    writer_unlock(batch->store);
    if (!chunk)
      return FALSE;
    if (chunk->len == 0)
      return TRUE;
    if (gone)
      for (guint i = 0; i < chunk->len; i++)
        gone(g_ptr_array_index(chunk, i), data);
    guint32 end = ((StoreMessage *) g_ptr_array_index(chunk, chunk->len - 1))->uid;
    writer_lock(batch->store);
    gboolean ok = remove_locked(batch, first, end, error);
    writer_unlock(batch->store);
    if (!ok)
      return FALSE;
    if (chunk->len < REMOVE_CHUNK || end >= last)
      return TRUE;
    first = end + 1;
  }
}

static gboolean flush_locked(StoreBatch *batch, GError **error) {
  if (batch->failure) {
    g_propagate_error(error, g_error_copy(batch->failure));
    return FALSE;
  }
  return !batch->in_txn || txn_commit_locked(batch->store, error);
}

gboolean store_batch_flush(StoreBatch *batch, GError **error) {
  writer_lock(batch->store);
  gboolean ok = flush_locked(batch, error);
  writer_unlock(batch->store);
  return ok;
}

static gboolean commit_locked(StoreBatch *batch, guint32 uidnext, guint64 modseq, gint64 mtime,
                              GError **error) {
  Store *store = batch->store;
  if (!txn_join_locked(store, batch, error))
    return FALSE;
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_SYNCED);
  STMT_BIND(stmt, batch->space, uidnext, (gint64) modseq, mtime);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot write the state of a folder", error);
  return txn_commit_locked(store, error);
}

gboolean store_batch_commit(StoreBatch **batch, guint32 uidnext, guint64 modseq, gint64 mtime,
                            GError **error) {
  StoreBatch *taken = g_steal_pointer(batch);
  Store *store = taken->store;
  writer_lock(store);
  gboolean ok = commit_locked(taken, uidnext, modseq, mtime, error);
  if (taken->in_txn) /* it failed without losing the transaction: let go of it */
    txn_commit_locked(store, NULL);
  writer_unlock(store);
  batch_free(taken);
  return ok;
}

void store_batch_abort(StoreBatch **batch) {
  StoreBatch *taken = g_steal_pointer(batch);
  if (!taken)
    return;
  Store *store = taken->store;
  /* What is in the transaction may be there for others too, so it is kept rather than undone. */
  writer_lock(store);
  if (taken->in_txn)
    txn_commit_locked(store, NULL);
  writer_unlock(store);
  batch_free(taken);
}
