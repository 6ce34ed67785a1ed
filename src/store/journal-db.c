/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The journal's schema, statements and connection.
 *
 * The connection locks the database for as long as it is open: the account's lock keeps other
 * processes out anyway, and with nobody to share with SQLite needs no shared memory and no lock a
 * call, which is half of what a small transaction costs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "store/journal-private.h"

#define JOURNAL_VERSION 1
#define JOURNAL_APPLICATION_ID 0x656d6c6a /* "emlj" */
#define CHECK_US (2 * G_USEC_PER_SEC)     /* the longest check at open */

static const char schema[] =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    "CREATE TABLE local(id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL,"
    " folder TEXT, name TEXT NOT NULL, is_folder INTEGER NOT NULL, state INTEGER NOT NULL,"
    " size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, reason TEXT,"
    " mailbox TEXT, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL);"
    "CREATE TABLE change(id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL,"
    " stage INTEGER NOT NULL, abandoned INTEGER NOT NULL, mailbox TEXT,"
    " uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL, target TEXT,"
    " target_uidvalidity INTEGER NOT NULL, target_uidnext INTEGER NOT NULL, name TEXT,"
    " arrived INTEGER NOT NULL, size INTEGER NOT NULL, date INTEGER NOT NULL,"
    " flags INTEGER NOT NULL, keywords TEXT NOT NULL, local INTEGER NOT NULL,"
    " added INTEGER NOT NULL, removed INTEGER NOT NULL, added_keywords TEXT NOT NULL,"
    " removed_keywords TEXT NOT NULL);"
    "CREATE TABLE name(mailbox TEXT NOT NULL, uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL,"
    " name TEXT NOT NULL, PRIMARY KEY(mailbox, uidvalidity, uid)) WITHOUT ROWID;";

#define LOCAL_COLUMNS                                                                              \
  "id, parent, folder, name, is_folder, state, size, mtime, ctime, reason, mailbox, uidvalidity, " \
  "uid"
#define CHANGE_COLUMNS                                                                             \
  "kind, stage, abandoned, mailbox, uidvalidity, uid, target, target_uidvalidity, "                \
  "target_uidnext, name, arrived, size, date, flags, keywords, local, added, removed, "            \
  "added_keywords, removed_keywords"
/* ?1 becomes ?2, and with it all that begins with ?1 and the delimiter ?3 ('': none). */
#define RENAME(table, column)                                                                      \
  "UPDATE OR REPLACE " table " SET " column " = ?2 || substr(" column ", length(?1) + 1)"          \
  " WHERE " column " = ?1 OR (?3 <> '' AND substr(" column ", 1, length(?1) + 1) = ?1 || ?3)"

static const char *const statements[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_IDENTITY_GET] = "SELECT value FROM meta WHERE key = 'identity'",
    [SQL_PENDING] = "SELECT EXISTS(SELECT 1 FROM change) OR EXISTS(SELECT 1 FROM local)",
    [SQL_NAME_CLEAR] = "DELETE FROM name",
    [SQL_IDENTITY_SET] = "INSERT OR REPLACE INTO meta VALUES('identity', ?1)",
    [SQL_LOCAL_NUMBER] =
        "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'local'), 0),"
        " coalesce((SELECT max(id) FROM local), 0))",
    [SQL_LOCAL_PUT] = "INSERT OR REPLACE INTO local(" LOCAL_COLUMNS ")"
                      " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    [SQL_LOCAL_DELETE] = "DELETE FROM local WHERE id = ?1",
    [SQL_LOCAL_END] = "DELETE FROM local WHERE id = ?1 AND state <> ?2",
    [SQL_LOCAL_ALL] = "SELECT " LOCAL_COLUMNS " FROM local ORDER BY id",
    /* those that have octets, and whether a change names them */
    [SQL_LOCAL_NAMED] = "SELECT id, name, id IN (SELECT local FROM change) FROM local"
                        " WHERE is_folder = 0 AND mailbox IS NULL",
    [SQL_CHANGE_ADD] = "INSERT INTO change(" CHANGE_COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7,"
                       " ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    [SQL_CHANGE_UPDATE] =
        "UPDATE change SET stage = ?2, abandoned = ?3, arrived = ?4 WHERE id = ?1",
    [SQL_CHANGE_TARGET] = "SELECT target FROM change WHERE id = ?1",
    [SQL_CHANGE_DELETE] = "DELETE FROM change WHERE id = ?1",
    [SQL_CHANGE_ALL] = "SELECT id, " CHANGE_COLUMNS " FROM change ORDER BY id",
    [SQL_NAME_GET] = "SELECT name FROM name WHERE mailbox = ?1 AND uidvalidity = ?2 AND uid = ?3",
    [SQL_NAME_UPDATE] =
        "UPDATE name SET name = ?4 WHERE mailbox = ?1 AND uidvalidity = ?2 AND uid = ?3",
    [SQL_NAME_INSERT] = "INSERT INTO name(mailbox, uidvalidity, uid, name) VALUES(?1, ?2, ?3, ?4)",
    [SQL_NAME_DELETE] =
        "DELETE FROM name WHERE mailbox = ?1 AND uidvalidity = ?2 AND uid BETWEEN ?3 AND ?4",
    [SQL_NAME_COUNTS] =
        "SELECT mailbox, uidvalidity, count(*) FROM name GROUP BY mailbox, uidvalidity",
    [SQL_RENAME_NAME] = RENAME("name", "mailbox"),
    [SQL_RENAME_SOURCE] = RENAME("change", "mailbox"),
    [SQL_RENAME_TARGET] = RENAME("change", "target"),
    [SQL_RENAME_COPY] = RENAME("local", "mailbox"),
    [SQL_RENAME_FOLDER] = RENAME("local", "folder"),
};

sqlite3_stmt *journal_stmt_locked(Journal *journal, JournalSql id) {
  if (!journal->stmts[id])
    sqlite3_prepare_v3(journal->db, statements[id], -1, SQLITE_PREPARE_PERSISTENT,
                       &journal->stmts[id], NULL);
  return journal->stmts[id];
}

/* ---- errors ---- */

/* Always FALSE. */
static gboolean set_damaged(Journal *journal, const char *why, GError **error) {
  g_set_error(error, EML_ERROR, EML_ERROR_CORRUPT,
              "%s/journal.db is damaged (%s) and was left as it is: move %s away to begin anew;"
              " letters that were not uploaded yet are in %s/local",
              journal->dir, why, journal->dir, journal->dir);
  return FALSE;
}

static gboolean set_config(Journal *journal, const char *why, GError **error) {
  g_set_error(error, EML_ERROR, EML_ERROR_CONFIG,
              "%s/journal.db %s and was left as it is: move %s away to begin anew", journal->dir,
              why, journal->dir);
  return FALSE;
}

static gboolean is_damage(int code) {
  return code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_FORMAT;
}

/* Sets @error to what SQLite said last. Always FALSE. */
static gboolean set_sql(Journal *journal, const char *what, GError **error) {
  int code = sqlite3_errcode(journal->db) & 0xff;
  int system = sqlite3_system_errno(journal->db);
  const char *text = sqlite3_errmsg(journal->db);
  if (is_damage(code))
    return set_damaged(journal, text, error);
  EmlError kind = EML_ERROR_FAILED;
  if (code == SQLITE_FULL || (code == SQLITE_IOERR && (system == ENOSPC || system == EDQUOT)))
    kind = EML_ERROR_NO_SPACE;
  else if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
    kind = EML_ERROR_BUSY;
  g_set_error(error, EML_ERROR, kind, "%s %s/journal.db: %s", what, journal->dir, text);
  return FALSE;
}

/* ---- transactions ---- */

gboolean journal_fail_locked(Journal *journal, const char *what, GError **error) {
  set_sql(journal, what, error);
  for (guint i = 0; i < SQL_COUNT; i++)
    sqlite3_reset(journal->stmts[i]);
  /* SQLite may have undone it by itself. */
  if (!sqlite3_get_autocommit(journal->db))
    sqlite3_exec(journal->db, "ROLLBACK", NULL, NULL, NULL);
  return FALSE;
}

gboolean journal_begin_locked(Journal *journal, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_BEGIN);
  return sqlite3_step(stmt) == SQLITE_DONE || journal_fail_locked(journal, "cannot write", error);
}

gboolean journal_commit_locked(Journal *journal, const char *what, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_COMMIT);
  return sqlite3_step(stmt) == SQLITE_DONE || journal_fail_locked(journal, what, error);
}

/* ---- opening ---- */

/* Makes the file, private, if there is none, and sees what SQLite would not: a file that was cut
 * off. With a write-ahead log it may rightly be shorter than its header says, but not empty: SQLite
 * would delete that log. No descriptor of the file is closed later on, since that would drop
 * SQLite's locks. */
static gboolean check_file(Journal *journal, GError **error) {
  struct stat wal = {0}, status;
  gboolean has_wal =
      fstatat(journal->dir_fd, "journal.db-wal", &wal, AT_SYMLINK_NOFOLLOW) == 0 && wal.st_size > 0;
  if (has_wal && faccessat(journal->dir_fd, "journal.db", F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return set_damaged(journal, "it is missing, but its log is there", error);
  autofd int fd = openat(journal->dir_fd, "journal.db",
                         O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
  if (fd < 0 || fstat(fd, &status) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot open %s/journal.db",
                               journal->dir);
  if ((status.st_mode & 0077) != 0 && fchmod(fd, 0600) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot make %s/journal.db private",
                               journal->dir);
  if (status.st_size == 0)
    return !has_wal || set_damaged(journal, "it is empty, but its log is not", error);
  guchar header[100];
  if (pread(fd, header, sizeof header, 0) != (ssize_t) sizeof header)
    return set_damaged(journal, "it was cut off", error);
  guint64 page = (guint64) header[16] << 8 | header[17];
  guint64 pages = (guint64) header[28] << 24 | header[29] << 16 | header[30] << 8 | header[31];
  if (!has_wal && memcmp(header, "SQLite format 3", 16) == 0 &&
      (guint64) status.st_size < (page == 1 ? 65536 : page) * pages)
    return set_damaged(journal, "it was cut off", error);
  return TRUE;
}

static gboolean pragma_int(Journal *journal, const char *sql, gint64 *value_out, GError **error) {
  sqlite3_stmt *stmt = NULL;
  gboolean ok = sqlite3_prepare_v2(journal->db, sql, -1, &stmt, NULL) == SQLITE_OK &&
                sqlite3_step(stmt) == SQLITE_ROW;
  if (ok)
    *value_out = sqlite3_column_int64(stmt, 0);
  else
    set_sql(journal, "cannot read", error);
  sqlite3_finalize(stmt);
  return ok;
}

static gboolean create(Journal *journal, const char *identity, GError **error) {
  g_autofree char *sql = g_strdup_printf(
      "BEGIN IMMEDIATE; PRAGMA application_id = %d; PRAGMA user_version = %d; %s",
      JOURNAL_APPLICATION_ID, JOURNAL_VERSION, schema);
  if (sqlite3_exec(journal->db, sql, NULL, NULL, NULL) != SQLITE_OK)
    return journal_fail_locked(journal, "cannot create", error);
  autostmt *stmt = journal_stmt_locked(journal, SQL_IDENTITY_SET);
  stmt_bind_text(stmt, 1, identity);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot create", error);
  return journal_commit_locked(journal, "cannot create", error);
}

static int check_deadline(void *deadline) {
  return g_get_monotonic_time() > *(gint64 *) deadline;
}

/* Looks for damage, but not for longer than CHECK_US. */
static gboolean quick_check(Journal *journal, GError **error) {
  gint64 deadline = g_get_monotonic_time() + CHECK_US;
  sqlite3_progress_handler(journal->db, 10000, check_deadline, &deadline);
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(journal->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
  if (rc == SQLITE_OK)
    rc = sqlite3_step(stmt);
  gboolean ok = TRUE;
  if (rc == SQLITE_ROW) {
    g_autofree char *found = stmt_dup_text(stmt, 0);
    if (g_strcmp0(found, "ok") != 0)
      ok = set_damaged(journal, g_strdelimit(found, "\n", ' '), error);
  } else if ((rc & 0xff) != SQLITE_INTERRUPT) {
    ok = set_sql(journal, "cannot read", error);
  }
  sqlite3_finalize(stmt);
  sqlite3_progress_handler(journal->db, 0, NULL, NULL);
  return ok;
}

static gboolean run_sql(Journal *journal, JournalSql id, const char *text) {
  autostmt *stmt = journal_stmt_locked(journal, id);
  if (text)
    stmt_bind_text(stmt, 1, text);
  return sqlite3_step(stmt) == SQLITE_DONE;
}

/* Another account's journal, in which nothing is left to do, is this one's from now on. */
static gboolean take_over(Journal *journal, const char *identity, GError **error) {
  return (run_sql(journal, SQL_BEGIN, NULL) && run_sql(journal, SQL_NAME_CLEAR, NULL) &&
          run_sql(journal, SQL_IDENTITY_SET, identity) && run_sql(journal, SQL_COMMIT, NULL)) ||
         set_sql(journal, "cannot begin", error);
}

static gboolean is_pending(Journal *journal) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_PENDING);
  return sqlite3_step(stmt) != SQLITE_ROW || sqlite3_column_int(stmt, 0) != 0;
}

static gboolean check_identity(Journal *journal, const char *identity, GError **error) {
  gboolean ours;
  {
    autostmt *stmt = journal_stmt_locked(journal, SQL_IDENTITY_GET);
    if (sqlite3_step(stmt) != SQLITE_ROW)
      return set_damaged(journal, "it does not say whose it is", error);
    ours = g_strcmp0((const char *) sqlite3_column_text(stmt, 0), identity) == 0;
  }
  if (ours)
    return TRUE;
  return is_pending(journal) ? set_config(journal, "belongs to another account", error)
                             : take_over(journal, identity, error);
}

static gboolean check_content(Journal *journal, const char *identity, gboolean *fresh_out,
                              GError **error) {
  gint64 version, application, tables;
  if (!pragma_int(journal, "PRAGMA user_version", &version, error) ||
      !pragma_int(journal, "PRAGMA application_id", &application, error) ||
      !pragma_int(journal, "SELECT count(*) FROM sqlite_schema", &tables, error))
    return FALSE;
  *fresh_out = version == 0 && application == 0 && tables == 0;
  if (*fresh_out)
    return create(journal, identity, error);
  if (application != JOURNAL_APPLICATION_ID)
    return set_config(journal, "is not a journal of emlfs", error);
  if (version > JOURNAL_VERSION)
    return set_config(journal, "was written by a newer version of emlfs", error);
  if (version < JOURNAL_VERSION)
    return set_damaged(journal, "its version is wrong", error);
  /* Every statement must compile, which finds a table or column that is not there. */
  for (int i = 0; i < SQL_COUNT; i++)
    if (!journal_stmt_locked(journal, (JournalSql) i))
      return (sqlite3_errcode(journal->db) & 0xff) == SQLITE_ERROR
                 ? set_damaged(journal, sqlite3_errmsg(journal->db), error)
                 : set_sql(journal, "cannot read", error);
  return quick_check(journal, error) && check_identity(journal, identity, error);
}

static gboolean run(Journal *journal, const char *sql, GError **error) {
  return sqlite3_exec(journal->db, sql, NULL, NULL, NULL) == SQLITE_OK ||
         set_sql(journal, "cannot open", error);
}

gboolean journal_db_open(Journal *journal, const char *identity, gboolean *fresh_out,
                         GError **error) {
  if (!check_file(journal, error))
    return FALSE;
  /* SQLite refuses links anywhere in the path; those above DIR are the user's own. */
  g_autofree char *real = realpath(journal->dir, NULL);
  if (!real)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot find %s", journal->dir);
  g_autofree char *path = g_build_filename(real, "journal.db", NULL);
  if (sqlite3_open_v2(path, &journal->db,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                          SQLITE_OPEN_NOFOLLOW,
                      NULL) != SQLITE_OK)
    return set_sql(journal, "cannot open", error);
  /* What turns out to be damaged or not ours is left as it is, its log too. */
  sqlite3_db_config(journal->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
  if (!run(journal,
           "PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-2048; PRAGMA mmap_size=0;"
           "PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF",
           error) ||
      !check_content(journal, identity, fresh_out, error))
    return FALSE;
  sqlite3_db_config(journal->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
  return run(journal,
             "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
             "PRAGMA journal_size_limit=8388608",
             error);
}

void journal_db_close(Journal *journal) {
  for (guint i = 0; i < SQL_COUNT; i++)
    sqlite3_finalize(journal->stmts[i]);
  sqlite3_close(journal->db);
}
