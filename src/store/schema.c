/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The schema, the statements and the connections.
 *
 * A message row is found by (space, uid) without an index beside the table, so a listing is one
 * ordered walk. Nothing is mapped into memory: with a million rows mapped pages would count as the
 * daemon's, and reads through a small page cache cost no more here.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x656d6c66 /* "emlf" */
#define IDLE_READERS 8

static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE fact(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    /* level: the component as wished, without the suffix that makes it unique */
    "CREATE TABLE folder(id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL,"
    " level TEXT NOT NULL, name TEXT NOT NULL, mailbox TEXT UNIQUE, space INTEGER UNIQUE,"
    " selectable INTEGER NOT NULL, role INTEGER NOT NULL, uidvalidity INTEGER NOT NULL DEFAULT 0,"
    " uidnext INTEGER NOT NULL DEFAULT 0, modseq INTEGER NOT NULL DEFAULT 0,"
    " count INTEGER NOT NULL DEFAULT 0, mtime INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 0,"
    " UNIQUE(parent, name));"
    /* given: the name does not say the UID */
    "CREATE TABLE message(space INTEGER NOT NULL, uid INTEGER NOT NULL, size INTEGER NOT NULL,"
    " date INTEGER NOT NULL, ctime INTEGER NOT NULL, flags INTEGER NOT NULL,"
    " modseq INTEGER NOT NULL, given INTEGER NOT NULL, keywords TEXT NOT NULL, name TEXT NOT NULL,"
    " PRIMARY KEY(space, uid)) WITHOUT ROWID;"
    "CREATE INDEX message_given ON message(space, name) WHERE given = 1;"
    /* born: clock when it was written; used: clock when it was used last */
    "CREATE TABLE body(space INTEGER NOT NULL, uid INTEGER NOT NULL, pack INTEGER NOT NULL,"
    " offset INTEGER NOT NULL, length INTEGER NOT NULL, born INTEGER NOT NULL,"
    " used INTEGER NOT NULL, PRIMARY KEY(space, uid)) WITHOUT ROWID;"
    "CREATE INDEX body_used ON body(used);";

#define FOLDER_COLUMNS                                                                             \
  "id, parent, space, name, mailbox, selectable, role, uidvalidity, uidnext, modseq, count, "      \
  "mtime, listed, level"
#define MESSAGE_COLUMNS "uid, size, date, ctime, flags, modseq, keywords, name"

static const char *const statements[STMT_COUNT] = {
    [STMT_BEGIN] = "BEGIN IMMEDIATE",
    [STMT_COMMIT] = "COMMIT",
    [STMT_META_GET] = "SELECT value FROM meta WHERE key = ?1",
    [STMT_META_SET] = "INSERT OR REPLACE INTO meta VALUES(?1, ?2)",
    [STMT_FACT_GET] = "SELECT value FROM fact WHERE key = ?1",
    [STMT_FACT_SET] = "INSERT OR REPLACE INTO fact VALUES(?1, ?2)",
    [STMT_STATS] = "SELECT count(*), total(count) FROM folder",
    [STMT_FOLDER_GET] = "SELECT " FOLDER_COLUMNS " FROM folder WHERE id = ?1",
    [STMT_FOLDER_BY_NAME] = "SELECT " FOLDER_COLUMNS " FROM folder WHERE parent = ?1 AND name = ?2",
    [STMT_FOLDER_BY_MAILBOX] = "SELECT " FOLDER_COLUMNS " FROM folder WHERE mailbox = ?1",
    [STMT_FOLDER_BY_SPACE] = "SELECT " FOLDER_COLUMNS " FROM folder WHERE space = ?1",
    [STMT_FOLDER_CHILDREN] =
        "SELECT " FOLDER_COLUMNS " FROM folder WHERE parent = ?1 ORDER BY name",
    [STMT_FOLDER_ALL] =
        "WITH RECURSIVE tree(node, depth) AS (SELECT id, 0 FROM folder WHERE parent = 0 UNION ALL"
        " SELECT id, depth + 1 FROM tree JOIN folder ON parent = node)"
        " SELECT " FOLDER_COLUMNS " FROM tree JOIN folder ON id = node ORDER BY depth, name",
    [STMT_FOLDER_ALIVE] = "SELECT 1 FROM folder WHERE space = ?1",
    [STMT_FOLDER_INSERT] =
        "INSERT INTO folder(parent, level, name, mailbox, selectable, role, mtime)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [STMT_FOLDER_UPDATE] = "UPDATE folder SET parent = ?2, level = ?3, name = ?4, mailbox = ?5,"
                           " selectable = ?6, role = ?7 WHERE id = ?1",
    [STMT_FOLDER_RENAME] = "UPDATE folder SET mailbox = ?2 || substr(mailbox, length(?1) + 1)"
                           " WHERE mailbox = ?1 OR (?3 <> '' AND"
                           " substr(mailbox, 1, length(?1) + 1) = ?1 || ?3)",
    [STMT_FOLDER_DELETE] = "DELETE FROM folder WHERE id = ?1",
    [STMT_FOLDER_RENEW] = "UPDATE folder SET space = ?2, uidvalidity = ?3, uidnext = 0, modseq = 0,"
                          " count = 0, mtime = ?4, listed = 0 WHERE id = ?1",
    [STMT_FOLDER_EMPTY] = "UPDATE folder SET space = NULL, uidvalidity = 0, uidnext = 0,"
                          " modseq = 0, count = 0, mtime = ?2, listed = 0 WHERE id = ?1",
    [STMT_FOLDER_COUNT] = "UPDATE folder SET count = count + ?2 WHERE space = ?1",
    [STMT_FOLDER_SYNCED] = "UPDATE folder SET uidnext = ?2, modseq = ?3, listed = 1,"
                           " mtime = CASE ?4 WHEN 0 THEN mtime ELSE ?4 END WHERE space = ?1",
    [STMT_MESSAGE_GET] = "SELECT " MESSAGE_COLUMNS " FROM message WHERE space = ?1 AND uid = ?2",
    /* Without statistics SQLite would rather read all of the space than use the index. */
    [STMT_MESSAGE_BY_GIVEN] = "SELECT " MESSAGE_COLUMNS " FROM message INDEXED BY message_given"
                              " WHERE space = ?1 AND name = ?2 AND given = 1",
    [STMT_MESSAGE_SCAN] = "SELECT " MESSAGE_COLUMNS
                          " FROM message WHERE space = ?1 AND uid > ?2 ORDER BY uid LIMIT ?3",
    [STMT_MESSAGE_RANGE] = "SELECT " MESSAGE_COLUMNS " FROM message WHERE space = ?1"
                           " AND uid BETWEEN ?2 AND ?3 ORDER BY uid LIMIT ?4",
    [STMT_MESSAGE_EXISTS] = "SELECT 1 FROM message WHERE space = ?1 AND uid = ?2",
    [STMT_MESSAGE_INSERT] =
        "INSERT OR IGNORE INTO message(space, uid, size, date, ctime, flags, modseq, given,"
        " keywords, name) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    [STMT_MESSAGE_REPLACE] =
        "UPDATE message SET size = ?3, date = ?4, ctime = ?5, flags = ?6, modseq = ?7, given = ?8,"
        " keywords = ?9, name = ?10 WHERE space = ?1 AND uid = ?2",
    [STMT_MESSAGE_FLAGS] = "UPDATE message SET flags = ?3, modseq = ?4, ctime = ?5, keywords = ?6"
                           " WHERE space = ?1 AND uid = ?2",
    [STMT_MESSAGE_SIZE] = "UPDATE message SET size = ?3 WHERE space = ?1 AND uid = ?2",
    [STMT_MESSAGE_DELETE] = "DELETE FROM message WHERE space = ?1 AND uid BETWEEN ?2 AND ?3",
    [STMT_MESSAGE_MISSING] =
        "SELECT uid, size FROM message WHERE space = ?1 AND uid > ?2 AND NOT EXISTS"
        " (SELECT 1 FROM body WHERE body.space = ?1 AND body.uid = message.uid) ORDER BY uid",
    [STMT_BODY_GET] =
        "SELECT pack, offset, length, used FROM body WHERE space = ?1 AND uid = ?2",
    [STMT_BODY_NEXT] = "SELECT pack, offset, length, used, uid FROM body"
                       " WHERE space = ?1 AND uid >= ?2 ORDER BY uid LIMIT ?3",
    /* The message may have gone since its body was committed; then nothing is written. */
    [STMT_BODY_PUT] =
        "INSERT OR REPLACE INTO body(space, uid, pack, offset, length, born, used)"
        " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?6 WHERE EXISTS"
        " (SELECT 1 FROM message WHERE space = ?1 AND uid = ?2)",
    [STMT_BODY_DELETE] = "DELETE FROM body WHERE space = ?1 AND uid = ?2",
    [STMT_BODY_FORGET] =
        "DELETE FROM body WHERE space = ?1 AND uid = ?2 AND pack = ?3 AND offset = ?4",
    [STMT_BODY_RANGE] = "SELECT pack, offset, length FROM body WHERE space = ?1"
                        " AND uid BETWEEN ?2 AND ?3",
    [STMT_BODY_DELETE_RANGE] = "DELETE FROM body WHERE space = ?1 AND uid BETWEEN ?2 AND ?3",
    [STMT_BODY_OLDEST] =
        "SELECT pack, offset, length, space, uid FROM body ORDER BY used LIMIT ?1",
    [STMT_BODY_PAGE] = "SELECT pack, offset, length, space, uid FROM body"
                       " WHERE (space, uid) > (?1, ?2) ORDER BY space, uid LIMIT ?3",
    [STMT_BODY_OF_PACK] = "SELECT pack, offset, length, space, uid FROM body WHERE pack = ?1",
    [STMT_BODY_TOUCH] = "UPDATE body SET used = ?3 WHERE space = ?1 AND uid = ?2 AND used < ?3",
};

Conn *conn_open(const char *path, gboolean writer, int *rc_out) {
  Conn *conn = g_new0(Conn, 1);
  int rc = sqlite3_open_v2(path, &conn->db,
                           SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                               (writer ? SQLITE_OPEN_CREATE : 0),
                           NULL);
  if (rc == SQLITE_OK) {
    sqlite3_busy_timeout(conn->db, 10000);
    rc = sqlite3_exec(conn->db,
                      writer ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                               "PRAGMA cache_size=-4096; PRAGMA mmap_size=0;"
                               "PRAGMA journal_size_limit=8388608; PRAGMA cell_size_check=ON;"
                               "PRAGMA trusted_schema=OFF"
                             : "PRAGMA query_only=ON; PRAGMA cache_size=-512; PRAGMA mmap_size=0;"
                               "PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF",
                      NULL, NULL, NULL);
  }
  *rc_out = rc;
  if (rc == SQLITE_OK)
    return conn;
  conn_close(conn);
  return NULL;
}

void conn_close(Conn *conn) {
  if (!conn)
    return;
  for (guint i = 0; i < STMT_COUNT; i++)
    sqlite3_finalize(conn->stmts[i]);
  sqlite3_close(conn->db);
  g_free(conn);
}

sqlite3_stmt *conn_stmt(Conn *conn, StmtId id) {
  if (!conn->stmts[id])
    sqlite3_prepare_v3(conn->db, statements[id], -1, SQLITE_PREPARE_PERSISTENT, &conn->stmts[id],
                       NULL);
  return conn->stmts[id];
}

void stmt_bind(sqlite3_stmt *stmt, guint count, const gint64 *values) {
  for (guint i = 0; i < count; i++)
    sqlite3_bind_int64(stmt, (int) i + 1, values[i]);
}

gint64 conn_meta_get(Conn *conn, const char *key, gint64 otherwise) {
  autostmt *stmt = conn_stmt(conn, STMT_META_GET);
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  return sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : otherwise;
}

int conn_meta_set(Conn *conn, const char *key, gint64 value) {
  autostmt *stmt = conn_stmt(conn, STMT_META_SET);
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_int64(stmt, 2, value);
  int rc = sqlite3_step(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int pragma_int(Conn *conn, const char *sql, gint64 *value_out) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(conn->db, sql, -1, &stmt, NULL);
  if (rc == SQLITE_OK)
    rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    *value_out = sqlite3_column_int64(stmt, 0);
    rc = SQLITE_OK;
  }
  sqlite3_finalize(stmt);
  return rc;
}

static int schema_create(Conn *conn, const char *identity) {
  g_autofree char *begin =
      g_strdup_printf("BEGIN; PRAGMA application_id = %d; PRAGMA user_version = %d",
                      APPLICATION_ID, SCHEMA_VERSION);
  int rc = sqlite3_exec(conn->db, begin, NULL, NULL, NULL);
  if (rc == SQLITE_OK)
    rc = sqlite3_exec(conn->db, schema, NULL, NULL, NULL);
  if (rc == SQLITE_OK) {
    autostmt *stmt = conn_stmt(conn, STMT_META_SET);
    sqlite3_bind_text(stmt, 1, "identity", -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, identity, -1, SQLITE_STATIC);
    rc = sqlite3_step(stmt);
    rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
  }
  if (rc == SQLITE_OK)
    rc = conn_meta_set(conn, "clean", 1);
  if (rc == SQLITE_OK)
    rc = sqlite3_exec(conn->db, "COMMIT", NULL, NULL, NULL);
  return rc;
}

int schema_check(Conn *conn, const char *identity, const char **why_out) {
  gint64 version = 0, application = 0, tables = 0;
  int rc = pragma_int(conn, "PRAGMA user_version", &version);
  if (rc == SQLITE_OK)
    rc = pragma_int(conn, "PRAGMA application_id", &application);
  if (rc == SQLITE_OK)
    rc = pragma_int(conn, "SELECT count(*) FROM sqlite_schema", &tables);
  if (rc != SQLITE_OK)
    return rc;
  if (version == 0 && application == 0 && tables == 0)
    return schema_create(conn, identity);
  *why_out = "it was written by another version of emlfs";
  if (version != SCHEMA_VERSION || application != APPLICATION_ID)
    return SQLITE_MISMATCH;

  autostmt *stmt = conn_stmt(conn, STMT_META_GET);
  sqlite3_bind_text(stmt, 1, "identity", -1, SQLITE_STATIC);
  rc = sqlite3_step(stmt);
  if (rc != SQLITE_ROW)
    return rc == SQLITE_DONE ? SQLITE_CORRUPT : rc;
  *why_out = "it belongs to another account";
  if (g_strcmp0((const char *) sqlite3_column_text(stmt, 0), identity) != 0)
    return SQLITE_MISMATCH;
  *why_out = "the index is damaged";
  /* Every statement must compile, which finds a table or column that is not there. */
  for (int i = 0; i < STMT_COUNT; i++)
    if (!conn_stmt(conn, (StmtId) i)) {
      rc = sqlite3_errcode(conn->db) & 0xff;
      return rc == SQLITE_ERROR ? SQLITE_CORRUPT : rc;
    }
  return SQLITE_OK;
}

Reader reader_take(Store *store, GError **error) {
  Reader reader = {.store = store};
  g_mutex_lock(&store->pool);
  if (store->idle->len > 0)
    reader.conn = g_ptr_array_steal_index(store->idle, store->idle->len - 1);
  g_mutex_unlock(&store->pool);
  if (!reader.conn) {
    int rc;
    reader.conn = conn_open(store->index_path, FALSE, &rc);
    if (!reader.conn)
      store_code_error(store, rc, sqlite3_errstr(rc), "cannot open the index", error);
  }
  return reader;
}

void reader_give(Reader *reader) {
  if (!reader->conn)
    return;
  Store *store = reader->store;
  g_mutex_lock(&store->pool);
  gboolean keep = store->idle->len < IDLE_READERS;
  if (keep)
    g_ptr_array_add(store->idle, reader->conn);
  g_mutex_unlock(&store->pool);
  if (!keep)
    conn_close(reader->conn);
}

gboolean store_code_error(Store *store, int rc, const char *text, const char *what,
                          GError **error) {
  EmlError code = EML_ERROR_FAILED;
  switch (rc & 0xff) {
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
    code = EML_ERROR_CORRUPT;
    if (g_atomic_int_compare_and_exchange(&store->unhealthy, 0, 1)) {
      log_error("the index in %s is damaged (%s): it is begun anew at the next start", store->dir,
                text);
      dir_note_damage(store->dir_fd);
    }
    break;
  case SQLITE_FULL:
    code = EML_ERROR_NO_SPACE;
    evict_some(store, 0);
    break;
  case SQLITE_IOERR:
    if (g_atomic_int_compare_and_exchange(&store->unhealthy, 0, 1))
      log_error("the index in %s cannot be read or written: %s", store->dir, text);
    break;
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    code = EML_ERROR_BUSY;
    break;
  default:
    break;
  }
  g_set_error(error, EML_ERROR, code, "%s: %s", what, text);
  return FALSE;
}

gboolean store_sql_error(Store *store, Conn *conn, const char *what, GError **error) {
  return store_code_error(store, sqlite3_extended_errcode(conn->db), sqlite3_errmsg(conn->db), what,
                          error);
}
