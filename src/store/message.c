/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages: reading single ones and listings.
 */
#include <string.h>

#include "base/err.h"
#include "base/name-uid.h"
#include "store/store-private.h"

StoreMessage *store_message_copy(const StoreMessage *message) {
  /* One piece of memory: a message is copied for every lookup. */
  gsize keywords = strlen(message->keywords) + 1, name = strlen(message->name) + 1;
  char *memory = g_malloc(sizeof(StoreMessage) + keywords + name);
  StoreMessage *copy = (StoreMessage *) memory;
  *copy = *message;
  copy->keywords = memcpy(memory + sizeof(StoreMessage), message->keywords, keywords);
  copy->name = memcpy(memory + sizeof(StoreMessage) + keywords, message->name, name);
  return copy;
}

void store_message_free(StoreMessage *message) {
  g_free(message);
}

void message_from_row(sqlite3_stmt *stmt, StoreMessage *message_out) {
  const char *keywords = (const char *) sqlite3_column_text(stmt, 6);
  const char *name = (const char *) sqlite3_column_text(stmt, 7);
  *message_out = (StoreMessage){
      .uid = (guint32) sqlite3_column_int64(stmt, 0),
      .size = (guint64) sqlite3_column_int64(stmt, 1),
      .internal_date = sqlite3_column_int64(stmt, 2),
      .ctime = sqlite3_column_int64(stmt, 3),
      .flags = (guint) sqlite3_column_int64(stmt, 4),
      .modseq = (guint64) sqlite3_column_int64(stmt, 5),
      .keywords = keywords ? keywords : "",
      .name = name ? name : "",
  };
}

static gboolean no_message(GError **error) {
  g_set_error_literal(error, EML_ERROR, EML_ERROR_NOT_FOUND, "no such message");
  return FALSE;
}

StoreMessage *store_message_get(Store *store, MsgId id, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_GET);
  STMT_BIND(stmt, id.space, id.uid);
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    StoreMessage message;
    message_from_row(stmt, &message);
    return store_message_copy(&message);
  }
  if (rc == SQLITE_DONE)
    no_message(error);
  else
    store_sql_error(store, reader.conn, "cannot read a message", error);
  return NULL;
}

StoreMessage *store_message_by_name(Store *store, guint32 space, const char *name,
                                    GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return NULL;
  StoreMessage message;
  guint32 uid = name_uid(name);
  if (uid != 0) {
    autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_GET);
    STMT_BIND(stmt, space, uid);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
      message_from_row(stmt, &message);
      if (strcmp(message.name, name) == 0)
        return store_message_copy(&message);
    } else if (rc != SQLITE_DONE) {
      store_sql_error(store, reader.conn, "cannot read a message", error);
      return NULL;
    }
  }
  /* A name that a user gave may end in any number. */
  autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_BY_GIVEN);
  STMT_BIND(stmt, space);
  sqlite3_bind_text(stmt, 2, name, -1, SQLITE_STATIC);
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    message_from_row(stmt, &message);
    return store_message_copy(&message);
  }
  if (rc == SQLITE_DONE)
    no_message(error);
  else
    store_sql_error(store, reader.conn, "cannot find a message", error);
  return NULL;
}

gboolean store_messages_scan(Store *store, guint32 space, guint32 after, guint limit,
                             StoreMessageFn each, gpointer data, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return FALSE;
  autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_SCAN);
  STMT_BIND(stmt, space, after, limit);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    StoreMessage message;
    message_from_row(stmt, &message);
    if (!each(&message, data))
      return TRUE;
  }
  return rc == SQLITE_DONE || store_sql_error(store, reader.conn, "cannot list messages", error);
}

gboolean message_exists(Store *store, MsgId id, GError **error) {
  {
    autoreader reader = reader_take(store, error);
    if (!reader.conn)
      return FALSE;
    autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_EXISTS);
    STMT_BIND(stmt, id.space, id.uid);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
      return TRUE;
    if (rc != SQLITE_DONE)
      return store_sql_error(store, reader.conn, "cannot read a message", error);
  }
  /* It may be in the open transaction, which only the writer's connection sees. */
  writer_lock(store);
  gboolean found = FALSE;
  if (store->txn_open) {
    autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_EXISTS);
    STMT_BIND(stmt, id.space, id.uid);
    found = sqlite3_step(stmt) == SQLITE_ROW;
  }
  writer_unlock(store);
  return found || no_message(error);
}

gboolean store_message_set_size(Store *store, MsgId id, guint64 size, GError **error) {
  writer_lock(store);
  gboolean ok = txn_begin_locked(store, error);
  if (ok) {
    autostmt *stmt = conn_stmt(store->conn, STMT_MESSAGE_SIZE);
    STMT_BIND(stmt, id.space, id.uid, (gint64) size);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      ok = txn_fail_locked(store, "cannot correct a size", error);
  }
  gboolean found = ok && sqlite3_changes(store->conn->db) > 0;
  ok = ok && txn_commit_locked(store, error);
  writer_unlock(store);
  return ok && (found || no_message(error));
}

gboolean store_missing_bodies(Store *store, guint32 space, guint32 after, guint limit,
                              guint64 max_bytes, GArray *out, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return FALSE;
  autostmt *stmt = conn_stmt(reader.conn, STMT_MESSAGE_MISSING);
  STMT_BIND(stmt, space, after);
  guint64 bytes = 0;
  guint found = 0;
  int rc = SQLITE_DONE;
  while (found < limit && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    StoreMissing missing = {.uid = (guint32) sqlite3_column_int64(stmt, 0),
                            .size = (guint64) sqlite3_column_int64(stmt, 1)};
    MsgId id = {space, missing.uid};
    g_mutex_lock(&store->lock);
    gboolean pending = g_hash_table_contains(store->pending, &id);
    g_mutex_unlock(&store->lock);
    if (pending)
      continue;
    if (found > 0 && (missing.size > max_bytes || bytes > max_bytes - missing.size))
      return TRUE;
    bytes += missing.size;
    g_array_append_val(out, missing);
    found++;
  }
  return rc == SQLITE_DONE || rc == SQLITE_ROW ||
         store_sql_error(store, reader.conn, "cannot list missing bodies", error);
}
