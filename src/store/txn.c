/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The writer's connection and its one open transaction.
 *
 * Writers share a transaction: whoever writes joins the one that is open. It is committed when
 * somebody wants his rows durable, when it is large or old, and at the latest by the keeper. So
 * nobody holds the writer's lock while he waits for the network, and a thread may write through a
 * batch and beside it. The price: a transaction that cannot be committed is lost for all who had
 * a part in it; each batch is told at its next call.
 */
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

void writer_lock(Store *store) {
  g_mutex_lock(&store->writer);
}

void writer_unlock(Store *store) {
  g_mutex_unlock(&store->writer);
}

gboolean txn_begin_locked(Store *store, GError **error) {
  if (store->txn_open)
    return TRUE;
  autostmt *stmt = conn_stmt(store->conn, STMT_BEGIN);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return store_sql_error(store, store->conn, "cannot begin to write the index", error);
  store->txn_open = TRUE;
  store->txn_rows = 0;
  store->txn_since = g_get_monotonic_time();
  keeper_due(store, JOB_COMMIT, TXN_US);
  return TRUE;
}

static void txn_end_locked(Store *store) {
  store->txn_open = FALSE;
  store->txn_bodies = 0;
  for (guint i = 0; i < store->txn_batches->len; i++) {
    StoreBatch *batch = g_ptr_array_index(store->txn_batches, i);
    batch->in_txn = FALSE;
    batch->delta = 0;
  }
  g_ptr_array_set_size(store->txn_batches, 0);
  g_array_set_size(store->txn_victims, 0);
}

gboolean txn_fail_locked(Store *store, const char *what, GError **error) {
  g_autoptr(GError) problem = NULL;
  store_sql_error(store, store->conn, what, &problem);
  for (guint i = 0; i < STMT_COUNT; i++)
    if (store->conn->stmts[i])
      sqlite3_reset(store->conn->stmts[i]);
  if (!sqlite3_get_autocommit(store->conn->db))
    sqlite3_exec(store->conn->db, "ROLLBACK", NULL, NULL, NULL);
  for (guint i = 0; i < store->txn_batches->len; i++) {
    StoreBatch *batch = g_ptr_array_index(store->txn_batches, i);
    if (!batch->failure)
      batch->failure = g_error_copy(problem);
  }
  txn_end_locked(store);
  log_warning("changes to the index were lost: %s", problem->message);
  g_propagate_error(error, g_steal_pointer(&problem));
  return FALSE;
}

void txn_undo_locked(Store *store) {
  if (!sqlite3_get_autocommit(store->conn->db))
    sqlite3_exec(store->conn->db, "ROLLBACK", NULL, NULL, NULL);
  txn_end_locked(store);
}

gboolean txn_commit_locked(Store *store, GError **error) {
  if (!store->txn_open)
    return TRUE;
  for (guint i = 0; i < store->txn_batches->len; i++) {
    StoreBatch *batch = g_ptr_array_index(store->txn_batches, i);
    if (batch->delta == 0)
      continue;
    autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_COUNT);
    STMT_BIND(stmt, batch->space, batch->delta);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot count messages", error);
    batch->delta = 0;
  }
  autostmt *stmt = conn_stmt(store->conn, STMT_COMMIT);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot write the index", error);
  if (store->txn_victims->len > 0 || store->txn_bodies != 0) {
    g_mutex_lock(&store->lock);
    if (store->txn_victims->len > 0) {
      g_array_append_vals(store->graveyard, store->txn_victims->data, store->txn_victims->len);
      keeper_due_locked(store, JOB_BURY, G_USEC_PER_SEC);
      store->bury_generation++;
    }
    store->bodies = (guint64) ((gint64) store->bodies + store->txn_bodies);
    g_mutex_unlock(&store->lock);
  }
  txn_end_locked(store);
  return TRUE;
}

gboolean txn_row_locked(Store *store, GError **error) {
  store->txn_rows++;
  if (store->txn_rows < TXN_ROWS &&
      (store->txn_rows % 64 != 0 || g_get_monotonic_time() - store->txn_since < TXN_US))
    return TRUE;
  return txn_commit_locked(store, error);
}

gboolean txn_join_locked(Store *store, StoreBatch *batch, GError **error) {
  if (batch->failure) {
    g_propagate_error(error, g_error_copy(batch->failure));
    return FALSE;
  }
  if (batch->in_txn)
    return TRUE;
  if (!txn_begin_locked(store, error))
    return FALSE;
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_ALIVE);
  STMT_BIND(stmt, batch->space);
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_DONE) {
    g_set_error(error, EML_ERROR, EML_ERROR_STALE, "the folder was renumbered or removed");
    return FALSE;
  }
  if (rc != SQLITE_ROW)
    return txn_fail_locked(store, "cannot read the index", error);
  batch->in_txn = TRUE;
  g_ptr_array_add(store->txn_batches, batch);
  return TRUE;
}

void txn_victim_locked(Store *store, Extent extent, gint bodies) {
  store->txn_bodies -= bodies;
  g_array_append_val(store->txn_victims, extent);
}

gboolean txn_drop_bodies_locked(Store *store, guint32 space, guint32 first, guint32 last,
                                GError **error) {
  guint found = 0;
  {
    autostmt *stmt = conn_stmt(store->conn, STMT_BODY_RANGE);
    STMT_BIND(stmt, space, first, last);
    int rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
      Extent at = {.pack = (guint32) sqlite3_column_int64(stmt, 0),
                   .offset = (guint64) sqlite3_column_int64(stmt, 1),
                   .length = (guint64) sqlite3_column_int64(stmt, 2)};
      txn_victim_locked(store, at, 1);
      found++;
    }
    if (rc != SQLITE_DONE)
      return txn_fail_locked(store, "cannot read bodies", error);
  }
  if (found > 0) {
    autostmt *stmt = conn_stmt(store->conn, STMT_BODY_DELETE_RANGE);
    STMT_BIND(stmt, space, first, last);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot remove bodies", error);
  }

  g_mutex_lock(&store->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->pending);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pending *pending = value;
    if (pending->id.space == space && pending->id.uid >= first && pending->id.uid <= last) {
      txn_victim_locked(store, pending->at, 0);
      g_hash_table_iter_remove(&iter);
    }
  }
  g_mutex_unlock(&store->lock);
  return TRUE;
}

gboolean txn_drop_space_locked(Store *store, guint32 space, GError **error) {
  if (!txn_drop_bodies_locked(store, space, 0, G_MAXUINT32, error))
    return FALSE;
  autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_DELETE);
  STMT_BIND(stmt, space, 0, G_MAXUINT32);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot remove messages", error);
  return TRUE;
}
