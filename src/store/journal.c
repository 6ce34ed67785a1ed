/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * DESIGN of the journal
 *
 *   DIR/journal.db      SQLite, WAL: local files, changes, names (journal-db.c)
 *   DIR/local/N         octets of local file N (journal-local.c)
 *   DIR/local.aside-…   such files whose journal was gone when a new one began
 *
 * Invariants
 *  1. A call that writes is one transaction, committed before it returns. The write-ahead log then
 *     lies in the page cache, which outlives the process; journal_sync brings it to the disk.
 *  2. A file is deleted only after its row, so a row without octets is an accident, while octets
 *     without a row are left over; journal_locals_load removes them.
 *  3. No id is used twice: AUTOINCREMENT remembers the highest, also that of rows that are gone.
 *  4. Journal.names counts the rows of `name`. It is changed after the commit, under the same lock.
 *
 * Lock order: syncing → lock; the log's own lock last. `lock` is not held while the disk is waited
 * for, but when SQLite brings its log into the database, once in a thousand pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/journal-private.h"

/* ---- how many names there are ---- */

typedef struct {
  char *mailbox;
  guint32 uidvalidity;
} NameKey;

static guint name_key_hash(gconstpointer data) {
  const NameKey *key = data;
  return g_str_hash(key->mailbox) ^ key->uidvalidity;
}

static gboolean name_key_equal(gconstpointer a, gconstpointer b) {
  const NameKey *left = a, *right = b;
  return left->uidvalidity == right->uidvalidity && strcmp(left->mailbox, right->mailbox) == 0;
}

static void name_key_free(gpointer data) {
  NameKey *key = data;
  g_free(key->mailbox);
  g_free(key);
}

static NameKey *name_key_new(const char *mailbox, guint32 uidvalidity) {
  NameKey *key = g_new(NameKey, 1);
  *key = (NameKey){g_strdup(mailbox), uidvalidity};
  return key;
}

static guint names_count_locked(Journal *journal, const char *mailbox, guint32 uidvalidity) {
  NameKey key = {(char *) mailbox, uidvalidity};
  return GPOINTER_TO_UINT(g_hash_table_lookup(journal->names, &key));
}

static void names_add_locked(Journal *journal, const char *mailbox, guint32 uidvalidity,
                             gint delta) {
  NameKey key = {(char *) mailbox, uidvalidity};
  guint count = names_count_locked(journal, mailbox, uidvalidity) + (guint) delta;
  if (count == 0)
    g_hash_table_remove(journal->names, &key);
  else
    g_hash_table_replace(journal->names, name_key_new(mailbox, uidvalidity),
                         GUINT_TO_POINTER(count));
}

static GHashTable *names_read_locked(Journal *journal, GError **error) {
  g_autoptr(GHashTable) names =
      g_hash_table_new_full(name_key_hash, name_key_equal, name_key_free, NULL);
  autostmt *stmt = journal_stmt_locked(journal, SQL_NAME_COUNTS);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
    g_hash_table_insert(
        names, name_key_new((const char *) sqlite3_column_text(stmt, 0), stmt_uint(stmt, 1)),
        GUINT_TO_POINTER(stmt_uint(stmt, 2)));
  if (rc == SQLITE_DONE)
    return g_steal_pointer(&names);
  journal_fail_locked(journal, "cannot read", error);
  return NULL;
}

/* ---- opening ---- */

static gboolean open_folders(Journal *journal, GError **error) {
  if (g_mkdir_with_parents(journal->dir, 0700) != 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot create %s", journal->dir);
  journal->dir_fd = open(journal->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat status;
  if (journal->dir_fd < 0 || fstat(journal->dir_fd, &status) != 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot open %s", journal->dir);
  if ((status.st_mode & 0077) != 0 && fchmod(journal->dir_fd, 0700) != 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot make %s private",
                               journal->dir);
  if (mkdirat(journal->dir_fd, "local", 0700) != 0 && errno != EEXIST)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot create %s/local",
                               journal->dir);
  journal->local_fd =
      openat(journal->dir_fd, "local", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (journal->local_fd < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot open %s/local",
                               journal->dir);
  return TRUE;
}

Journal *journal_open(const char *dir, const char *identity, GError **error) {
  Journal *journal = g_new0(Journal, 1);
  journal->dir = g_strdup(dir);
  journal->dir_fd = journal->local_fd = -1;
  journal->unsynced = g_hash_table_new(NULL, NULL);
  g_mutex_init(&journal->syncing);
  g_mutex_init(&journal->lock);
  gboolean fresh = FALSE;
  if (!open_folders(journal, error) || !journal_db_open(journal, identity, &fresh, error) ||
      !(journal->names = names_read_locked(journal, error)) ||
      !journal_locals_load(journal, fresh, error))
    journal_close(&journal);
  return journal;
}

void journal_close(Journal **journal) {
  Journal *taken = g_steal_pointer(journal);
  if (!taken)
    return;
  journal_db_close(taken);
  g_clear_pointer(&taken->names, g_hash_table_unref);
  g_hash_table_unref(taken->unsynced);
  g_mutex_clear(&taken->syncing);
  g_mutex_clear(&taken->lock);
  if (taken->local_fd >= 0)
    close(taken->local_fd);
  if (taken->dir_fd >= 0)
    close(taken->dir_fd);
  g_free(taken->dir);
  g_free(taken);
}

/* ---- names ---- */

char *journal_name_get(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid) {
  char *name = NULL;
  g_mutex_lock(&journal->lock);
  if (names_count_locked(journal, mailbox, uidvalidity) > 0) {
    autostmt *stmt = journal_stmt_locked(journal, SQL_NAME_GET);
    STMT_BIND(stmt, 0, uidvalidity, uid);
    stmt_bind_text(stmt, 1, mailbox);
    g_autoptr(GError) error = NULL;
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
      name = stmt_dup_text(stmt, 0);
    else if (rc != SQLITE_DONE && !journal_fail_locked(journal, "cannot read", &error))
      log_warning("%s", error->message);
  }
  g_mutex_unlock(&journal->lock);
  return name;
}

/* Within the open transaction, or in one of its own. *@added_out: it had none before. */
static gboolean name_put_locked(Journal *journal, const char *mailbox, guint32 uidvalidity,
                                guint32 uid, const char *name, gboolean *added_out,
                                GError **error) {
  static const JournalSql tries[] = {SQL_NAME_UPDATE, SQL_NAME_INSERT};
  for (guint i = 0; i < G_N_ELEMENTS(tries); i++) {
    *added_out = tries[i] == SQL_NAME_INSERT;
    autostmt *stmt = journal_stmt_locked(journal, tries[i]);
    STMT_BIND(stmt, 0, uidvalidity, uid);
    stmt_bind_text(stmt, 1, mailbox);
    stmt_bind_text(stmt, 4, name);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return journal_fail_locked(journal, "cannot note a name in", error);
    if (sqlite3_changes(journal->db) > 0)
      break;
  }
  return TRUE;
}

static gboolean names_drop_locked(Journal *journal, const char *mailbox, guint32 uidvalidity,
                                  guint32 first, guint32 last, GError **error) {
  if (names_count_locked(journal, mailbox, uidvalidity) == 0)
    return TRUE;
  autostmt *stmt = journal_stmt_locked(journal, SQL_NAME_DELETE);
  STMT_BIND(stmt, 0, uidvalidity, first, last);
  stmt_bind_text(stmt, 1, mailbox);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot remove a name from", error);
  names_add_locked(journal, mailbox, uidvalidity, -sqlite3_changes(journal->db));
  return TRUE;
}

gboolean journal_name_set(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid,
                          const char *name, GError **error) {
  if (!name)
    return journal_names_drop(journal, mailbox, uidvalidity, uid, uid, error);
  g_mutex_lock(&journal->lock);
  gboolean added;
  gboolean ok = name_put_locked(journal, mailbox, uidvalidity, uid, name, &added, error);
  if (ok && added)
    names_add_locked(journal, mailbox, uidvalidity, 1);
  g_mutex_unlock(&journal->lock);
  return ok;
}

gboolean journal_names_any(Journal *journal, const char *mailbox, guint32 uidvalidity) {
  g_mutex_lock(&journal->lock);
  gboolean any = names_count_locked(journal, mailbox, uidvalidity) > 0;
  g_mutex_unlock(&journal->lock);
  return any;
}

gboolean journal_names_drop(Journal *journal, const char *mailbox, guint32 uidvalidity,
                            guint32 first, guint32 last, GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = names_drop_locked(journal, mailbox, uidvalidity, first, last, error);
  g_mutex_unlock(&journal->lock);
  return ok;
}

/* ---- changes ---- */

Change *change_copy(const Change *change) {
  if (!change)
    return NULL;
  Change *copy = g_memdup2(change, sizeof *change);
  copy->mailbox = g_strdup(change->mailbox);
  copy->target = g_strdup(change->target);
  copy->name = g_strdup(change->name);
  copy->keywords = g_strdup(change->keywords);
  copy->add_keywords = g_strdup(change->add_keywords);
  copy->remove_keywords = g_strdup(change->remove_keywords);
  return copy;
}

void change_free(Change *change) {
  if (!change)
    return;
  g_free(change->mailbox);
  g_free(change->target);
  g_free(change->name);
  g_free(change->keywords);
  g_free(change->add_keywords);
  g_free(change->remove_keywords);
  g_free(change);
}

static const char *or_empty(const char *text) {
  return text ? text : "";
}

static gboolean change_insert_locked(Journal *journal, Change *change, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_CHANGE_ADD);
  STMT_BIND(stmt, change->kind, change->stage, change->abandoned, 0, change->uidvalidity,
            change->uid, 0, change->target_uidvalidity, change->target_uidnext, 0, change->arrived,
            (gint64) change->size, change->date, change->flags, 0, change->local, change->add,
            change->remove);
  stmt_bind_text(stmt, 4, change->mailbox);
  stmt_bind_text(stmt, 7, change->target);
  stmt_bind_text(stmt, 10, change->name);
  stmt_bind_text(stmt, 15, or_empty(change->keywords));
  stmt_bind_text(stmt, 19, or_empty(change->add_keywords));
  stmt_bind_text(stmt, 20, or_empty(change->remove_keywords));
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot note a change in", error);
  change->id = (guint32) sqlite3_last_insert_rowid(journal->db);
  return TRUE;
}

static gboolean change_add_locked(Journal *journal, Change *changes, gsize count,
                                  const Local *local, GError **error) {
  if (!journal_begin_locked(journal, error) ||
      (local && !journal_local_put_locked(journal, local, error)))
    return FALSE;
  for (gsize i = 0; i < count; i++)
    if (!change_insert_locked(journal, &changes[i], error))
      return FALSE;
  return journal_commit_locked(journal, "cannot note changes in", error);
}

gboolean journal_change_add(Journal *journal, Change *changes, gsize count, const Local *local,
                            GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = change_add_locked(journal, changes, count, local, error);
  g_mutex_unlock(&journal->lock);
  for (gsize i = 0; i < count && !ok; i++)
    changes[i].id = 0;
  return ok;
}

static gboolean change_update_locked(Journal *journal, const Change *const *changes, gsize count,
                                     GError **error) {
  if (!journal_begin_locked(journal, error))
    return FALSE;
  for (gsize i = 0; i < count; i++) {
    const Change *change = changes[i];
    autostmt *stmt = journal_stmt_locked(journal, SQL_CHANGE_UPDATE);
    STMT_BIND(stmt, change->id, change->stage, change->abandoned, change->arrived);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return journal_fail_locked(journal, "cannot note the stage of a change in", error);
  }
  return journal_commit_locked(journal, "cannot note the stage of changes in", error);
}

gboolean journal_change_update(Journal *journal, const Change *const *changes, gsize count,
                               GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = change_update_locked(journal, changes, count, error);
  g_mutex_unlock(&journal->lock);
  return ok;
}

/* Gives the message that came of @change its name. The target is that of the row: it may have been
 * renamed since the caller got the change. Names that are new are added to @added. */
static gboolean change_name_locked(Journal *journal, const Change *change, guint32 uidvalidity,
                                   guint32 uid, GPtrArray *added, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_CHANGE_TARGET);
  STMT_BIND(stmt, change->id);
  int rc = sqlite3_step(stmt);
  if (rc != SQLITE_ROW && rc != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot read", error);
  g_autofree char *target = rc == SQLITE_ROW ? stmt_dup_text(stmt, 0) : NULL;
  gboolean is_new;
  if (!target)
    return TRUE;
  if (!name_put_locked(journal, target, uidvalidity, uid, change->name, &is_new, error))
    return FALSE;
  if (is_new)
    g_ptr_array_add(added, name_key_new(target, uidvalidity));
  return TRUE;
}

/* Deletes the rows of @change and of its local file, whose number is then added to @gone. */
static gboolean change_delete_locked(Journal *journal, const Change *change, GArray *gone,
                                     GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_CHANGE_DELETE);
  STMT_BIND(stmt, change->id);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot end a change in", error);
  if (change->local == 0)
    return TRUE;
  autostmt *local = journal_stmt_locked(journal, SQL_LOCAL_END);
  STMT_BIND(local, change->local, LOCAL_FAILED);
  if (sqlite3_step(local) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot remove a local file from", error);
  if (sqlite3_changes(journal->db) > 0)
    g_array_append_val(gone, change->local);
  return TRUE;
}

static gboolean change_end_locked(Journal *journal, const Change *const *changes, gsize count,
                                  const guint32 *uidvalidities, const guint32 *uids, GArray *gone,
                                  GError **error) {
  g_autoptr(GPtrArray) added = g_ptr_array_new_with_free_func(name_key_free);
  if (!journal_begin_locked(journal, error))
    return FALSE;
  for (gsize i = 0; i < count; i++) {
    if (uids && uids[i] != 0 && changes[i]->name &&
        !change_name_locked(journal, changes[i], uidvalidities[i], uids[i], added, error))
      return FALSE;
    if (!change_delete_locked(journal, changes[i], gone, error))
      return FALSE;
  }
  if (!journal_commit_locked(journal, "cannot end changes in", error))
    return FALSE;
  for (guint i = 0; i < added->len; i++) {
    const NameKey *key = g_ptr_array_index(added, i);
    names_add_locked(journal, key->mailbox, key->uidvalidity, 1);
  }
  for (guint i = 0; i < gone->len; i++)
    g_hash_table_remove(journal->unsynced, GUINT_TO_POINTER(g_array_index(gone, guint32, i)));
  return TRUE;
}

gboolean journal_change_end(Journal *journal, const Change *const *changes, gsize count,
                            const guint32 *uidvalidities, const guint32 *uids, GError **error) {
  g_autoptr(GArray) gone = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_mutex_lock(&journal->lock);
  gboolean ok = change_end_locked(journal, changes, count, uidvalidities, uids, gone, error);
  g_mutex_unlock(&journal->lock);
  for (guint i = 0; i < gone->len && ok; i++)
    journal_local_unlink(journal, g_array_index(gone, guint32, i));
  return ok;
}

static Change *change_from_row(sqlite3_stmt *stmt) {
  Change *change = g_new0(Change, 1);
  change->id = stmt_uint(stmt, 0);
  change->kind = (ChangeKind) sqlite3_column_int(stmt, 1);
  change->stage = (ChangeStage) sqlite3_column_int(stmt, 2);
  change->abandoned = sqlite3_column_int(stmt, 3) != 0;
  change->mailbox = stmt_dup_text(stmt, 4);
  change->uidvalidity = stmt_uint(stmt, 5);
  change->uid = stmt_uint(stmt, 6);
  change->target = stmt_dup_text(stmt, 7);
  change->target_uidvalidity = stmt_uint(stmt, 8);
  change->target_uidnext = stmt_uint(stmt, 9);
  change->name = stmt_dup_text(stmt, 10);
  change->arrived = stmt_uint(stmt, 11);
  change->size = (guint64) sqlite3_column_int64(stmt, 12);
  change->date = sqlite3_column_int64(stmt, 13);
  change->flags = stmt_uint(stmt, 14);
  change->keywords = stmt_dup_text(stmt, 15);
  change->local = stmt_uint(stmt, 16);
  change->add = stmt_uint(stmt, 17);
  change->remove = stmt_uint(stmt, 18);
  change->add_keywords = stmt_dup_text(stmt, 19);
  change->remove_keywords = stmt_dup_text(stmt, 20);
  return change;
}

static gboolean read_changes_locked(Journal *journal, GPtrArray *changes, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_CHANGE_ALL);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
    g_ptr_array_add(changes, change_from_row(stmt));
  return rc == SQLITE_DONE || journal_fail_locked(journal, "cannot read", error);
}

GPtrArray *journal_changes(Journal *journal, GError **error) {
  g_autoptr(GPtrArray) changes = g_ptr_array_new_with_free_func((GDestroyNotify) change_free);
  g_mutex_lock(&journal->lock);
  gboolean ok = read_changes_locked(journal, changes, error);
  g_mutex_unlock(&journal->lock);
  return ok ? g_steal_pointer(&changes) : NULL;
}

/* ---- folders ---- */

static gboolean rename_locked(Journal *journal, const char *from, const char *to,
                              const char *delimiter, const char *from_path, const char *to_path,
                              GError **error) {
  const struct {
    JournalSql sql;
    const char *from, *to, *delimiter;
  } steps[] = {
      {SQL_RENAME_NAME, from, to, delimiter},     {SQL_RENAME_SOURCE, from, to, delimiter},
      {SQL_RENAME_TARGET, from, to, delimiter},   {SQL_RENAME_COPY, from, to, delimiter},
      {SQL_RENAME_FOLDER, from_path, to_path, "/"},
  };
  if (!journal_begin_locked(journal, error))
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
    autostmt *stmt = journal_stmt_locked(journal, steps[i].sql);
    stmt_bind_text(stmt, 1, steps[i].from);
    stmt_bind_text(stmt, 2, steps[i].to);
    stmt_bind_text(stmt, 3, steps[i].delimiter);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return journal_fail_locked(journal, "cannot rename a folder in", error);
  }
  g_autoptr(GHashTable) names = names_read_locked(journal, error);
  if (!names || !journal_commit_locked(journal, "cannot rename a folder in", error))
    return FALSE;
  g_hash_table_unref(journal->names);
  journal->names = g_steal_pointer(&names);
  return TRUE;
}

gboolean journal_rename(Journal *journal, const char *from, const char *to, char delimiter,
                        const char *from_path, const char *to_path, GError **error) {
  const char below[] = {delimiter, '\0'};
  g_mutex_lock(&journal->lock);
  gboolean ok = rename_locked(journal, from, to, below, from_path, to_path, error);
  g_mutex_unlock(&journal->lock);
  return ok;
}
