/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of the journal share. The DESIGN comment is in journal.c.
 */
#pragma once

#include <sqlite3.h>

#include "store/journal.h"
#include "store/store-private.h"

typedef enum {
  SQL_BEGIN,
  SQL_COMMIT,
  SQL_IDENTITY_GET,
  SQL_IDENTITY_SET,
  SQL_PENDING,
  SQL_NAME_CLEAR,
  SQL_LOCAL_NUMBER,
  SQL_LOCAL_PUT,
  SQL_LOCAL_DELETE,
  SQL_LOCAL_END,
  SQL_LOCAL_ALL,
  SQL_LOCAL_NAMED,
  SQL_CHANGE_ADD,
  SQL_CHANGE_UPDATE,
  SQL_CHANGE_TARGET,
  SQL_CHANGE_DELETE,
  SQL_CHANGE_ALL,
  SQL_NAME_GET,
  SQL_NAME_UPDATE,
  SQL_NAME_INSERT,
  SQL_NAME_DELETE,
  SQL_NAME_COUNTS,
  SQL_RENAME_NAME,
  SQL_RENAME_SOURCE,
  SQL_RENAME_TARGET,
  SQL_RENAME_COPY,
  SQL_RENAME_FOLDER,
  SQL_COUNT
} JournalSql;

struct Journal {
  char *dir;
  int dir_fd, local_fd;

  GMutex syncing;  /* one thread at a time waits for the disk; guards: */
  gboolean placed; /* that DIR itself is there is on the disk */

  GMutex lock; /* guards all below: */
  sqlite3 *db;
  sqlite3_stmt *stmts[SQL_COUNT];
  guint32 number;       /* the last one handed out to a local file */
  GHashTable *unsynced; /* numbers of data files that may not be on the disk yet */
  GHashTable *names;    /* NameKey → how many messages have a name, never 0 */
};

/* ---- connection and transactions: journal-db.c ---- */

/* Opens DIR/journal.db. *@fresh_out: there was nothing in it. */
gboolean journal_db_open(Journal *journal, const char *identity, gboolean *fresh_out,
                         GError **error);
void journal_db_close(Journal *journal);
/* The statement, reset. */
sqlite3_stmt *journal_stmt_locked(Journal *journal, JournalSql id);
gboolean journal_begin_locked(Journal *journal, GError **error);
/* Commits; when that fails, undoes it. */
gboolean journal_commit_locked(Journal *journal, const char *what, GError **error);
/* For a statement that failed: sets @error, undoes the transaction if one is open. Always FALSE. */
gboolean journal_fail_locked(Journal *journal, const char *what, GError **error);

static inline void stmt_bind_text(sqlite3_stmt *stmt, int column, const char *text) {
  sqlite3_bind_text(stmt, column, text, -1, SQLITE_STATIC);
}

static inline char *stmt_dup_text(sqlite3_stmt *stmt, int column) {
  return g_strdup((const char *) sqlite3_column_text(stmt, column));
}

static inline guint32 stmt_uint(sqlite3_stmt *stmt, int column) {
  return (guint32) sqlite3_column_int64(stmt, column);
}

/* ---- local files: journal-local.c ---- */

/* Makes rows and files agree. @fresh: the files are of another journal and are set aside. */
gboolean journal_locals_load(Journal *journal, gboolean fresh, GError **error);
/* Writes the row within the open transaction, or in one of its own. */
gboolean journal_local_put_locked(Journal *journal, const Local *local, GError **error);
/* Deletes octets whose row is gone. Without the lock. */
void journal_local_unlink(Journal *journal, guint32 id);
