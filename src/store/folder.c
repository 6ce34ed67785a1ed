/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Folders: reading them, and beginning a uidspace. apply.c makes them what the server lists.
 */
#include <string.h>

#include "base/err.h"
#include "store/folder-private.h"
#include "store/store-private.h"

StoreFolder *store_folder_copy(const StoreFolder *folder) {
  StoreFolder *copy = g_memdup2(folder, sizeof *folder);
  copy->name = g_strdup(folder->name);
  copy->mailbox = g_strdup(folder->mailbox);
  return copy;
}

void store_folder_free(StoreFolder *folder) {
  if (!folder)
    return;
  g_free(folder->name);
  g_free(folder->mailbox);
  g_free(folder);
}

StoreFolder *folder_from_row(sqlite3_stmt *stmt) {
  StoreFolder *folder = g_new0(StoreFolder, 1);
  folder->id = (guint32) sqlite3_column_int64(stmt, 0);
  folder->parent = (guint32) sqlite3_column_int64(stmt, 1);
  folder->space = (guint32) sqlite3_column_int64(stmt, 2);
  folder->name = g_strdup((const char *) sqlite3_column_text(stmt, 3));
  folder->mailbox = g_strdup((const char *) sqlite3_column_text(stmt, 4));
  folder->selectable = sqlite3_column_int(stmt, 5) != 0;
  folder->role = (StoreRole) sqlite3_column_int(stmt, 6);
  folder->uidvalidity = (guint32) sqlite3_column_int64(stmt, 7);
  folder->uidnext = (guint32) sqlite3_column_int64(stmt, 8);
  folder->modseq = (guint64) sqlite3_column_int64(stmt, 9);
  folder->count = (guint32) sqlite3_column_int64(stmt, 10);
  folder->mtime = sqlite3_column_int64(stmt, 11);
  folder->listed = sqlite3_column_int(stmt, 12) != 0;
  return folder;
}

const char *folder_mailbox_key(const char *mailbox) {
  return g_ascii_strcasecmp(mailbox, "INBOX") == 0 ? "INBOX" : mailbox;
}

/* The folder of the row that @stmt finds, or NULL with @error. */
static StoreFolder *find(Store *store, Conn *conn, sqlite3_stmt *stmt, GError **error) {
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW)
    return folder_from_row(stmt);
  if (rc == SQLITE_DONE)
    g_set_error_literal(error, EML_ERROR, EML_ERROR_NOT_FOUND, "no such folder");
  else
    store_sql_error(store, conn, "cannot read a folder", error);
  return NULL;
}

static StoreFolder *find_by_number(Store *store, StmtId id, guint32 number, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn, id);
  STMT_BIND(stmt, number);
  return find(store, reader.conn, stmt, error);
}

StoreFolder *store_folder_get(Store *store, guint32 id, GError **error) {
  return find_by_number(store, STMT_FOLDER_GET, id, error);
}

StoreFolder *store_folder_by_space(Store *store, guint32 space, GError **error) {
  return find_by_number(store, STMT_FOLDER_BY_SPACE, space, error);
}

StoreFolder *store_folder_by_name(Store *store, guint32 parent, const char *name, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn, STMT_FOLDER_BY_NAME);
  STMT_BIND(stmt, parent);
  sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
  return find(store, reader.conn, stmt, error);
}

StoreFolder *store_folder_by_mailbox(Store *store, const char *mailbox, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn, STMT_FOLDER_BY_MAILBOX);
  sqlite3_bind_text(stmt, 1, folder_mailbox_key(mailbox), -1, SQLITE_STATIC);
  return find(store, reader.conn, stmt, error);
}

GPtrArray *store_folders(Store *store, guint32 parent, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn,
                             parent == G_MAXUINT32 ? STMT_FOLDER_ALL : STMT_FOLDER_CHILDREN);
  if (parent != G_MAXUINT32)
    STMT_BIND(stmt, parent);
  g_autoptr(GPtrArray) folders = g_ptr_array_new_with_free_func((GDestroyNotify) store_folder_free);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
    g_ptr_array_add(folders, folder_from_row(stmt));
  if (rc != SQLITE_DONE) {
    store_sql_error(store, reader.conn, "cannot list folders", error);
    return NULL;
  }
  return g_steal_pointer(&folders);
}

static gboolean renew_locked(Store *store, guint32 id, guint32 uidvalidity, guint32 *space_out,
                             GError **error) {
  /* What others have in the open transaction must not be lost if this fails. */
  if (!txn_commit_locked(store, error) || !txn_begin_locked(store, error))
    return FALSE;
  g_autoptr(StoreFolder) folder = NULL;
  {
    autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_GET);
    STMT_BIND(stmt, id);
    folder = find(store, store->conn, stmt, error);
  }
  if (!folder)
    return FALSE;
  gint64 space = conn_meta_get(store->conn, "next_space", 1);
  if (space > ID_MAX) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "uidspaces are used up");
    return FALSE;
  }
  if (folder->space != 0 && !txn_drop_space_locked(store, folder->space, error))
    return FALSE;
  if (conn_meta_set(store->conn, "next_space", space + 1) != SQLITE_OK)
    return txn_fail_locked(store, "cannot begin a uidspace", error);
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_RENEW);
  STMT_BIND(stmt, id, space, uidvalidity, g_get_real_time() / G_USEC_PER_SEC);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot begin a uidspace", error);
  *space_out = (guint32) space;
  return txn_commit_locked(store, error);
}

static gboolean rename_locked(Store *store, const char *from, const char *to, char delimiter,
                              GError **error) {
  if (!txn_commit_locked(store, error) || !txn_begin_locked(store, error))
    return FALSE;
  const char below[] = {delimiter, 0};
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_RENAME);
  sqlite3_bind_text(stmt, 1, from, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 2, to, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 3, below, -1, SQLITE_STATIC);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot rename a folder", error);
  return txn_commit_locked(store, error);
}

gboolean store_folder_rename(Store *store, const char *from, const char *to, char delimiter,
                             GError **error) {
  writer_lock(store);
  gboolean ok = rename_locked(store, from, to, delimiter, error);
  writer_unlock(store);
  return ok;
}

gboolean store_folder_renew(Store *store, guint32 folder, guint32 uidvalidity, guint32 *space_out,
                            GError **error) {
  writer_lock(store);
  gboolean ok = renew_locked(store, folder, uidvalidity, space_out, error);
  writer_unlock(store);
  return ok;
}
