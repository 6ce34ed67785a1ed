/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Local files: their rows, their octets, and bringing the octets to the disk.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/journal-private.h"

#define NAME_SIZE 16 /* of a file in DIR/local */

static void file_name(guint32 id, char name_out[NAME_SIZE]) {
  g_snprintf(name_out, NAME_SIZE, "%u", id);
}

static gboolean has_octets(const Local *local) {
  return !local->is_folder && !local->mailbox;
}

Local *local_copy(const Local *local) {
  if (!local)
    return NULL;
  Local *copy = g_memdup2(local, sizeof *local);
  copy->folder = g_strdup(local->folder);
  copy->name = g_strdup(local->name);
  copy->reason = g_strdup(local->reason);
  copy->mailbox = g_strdup(local->mailbox);
  return copy;
}

void local_free(Local *local) {
  if (!local)
    return;
  g_free(local->folder);
  g_free(local->name);
  g_free(local->reason);
  g_free(local->mailbox);
  g_free(local);
}

/* ---- opening ---- */

/* The numbers that files in DIR/local have; files of other names are not ours. */
static GHashTable *list_files(Journal *journal, GError **error) {
  autofd int fd = openat(journal->local_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (!dir) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot read %s/local", journal->dir);
    return NULL;
  }
  steal_fd(&fd);
  GHashTable *files = g_hash_table_new(NULL, NULL);
  const struct dirent *entry;
  while ((entry = readdir(dir))) {
    guint64 id;
    if (entry->d_name[0] != '0' &&
        g_ascii_string_to_unsigned(entry->d_name, 10, 1, ID_MAX, &id, NULL))
      g_hash_table_add(files, GUINT_TO_POINTER((guint) id));
  }
  closedir(dir);
  return files;
}

/* What lies in DIR/local when the journal has only just begun was promised by one that is gone. */
static gboolean set_files_aside(Journal *journal, GError **error) {
  g_autoptr(GDateTime) now = g_date_time_new_now_local();
  g_autofree char *name = g_date_time_format(now, "local.aside-%Y%m%d-%H%M%S");
  if (renameat(journal->dir_fd, "local", journal->dir_fd, name) != 0 ||
      mkdirat(journal->dir_fd, "local", 0700) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot move %s/local to %s",
                               journal->dir, name);
  close(journal->local_fd);
  journal->local_fd =
      openat(journal->dir_fd, "local", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (journal->local_fd < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot open %s/local",
                               journal->dir);
  log_warning("letters of a journal that is gone were found: they are in %s/%s", journal->dir,
              name);
  return TRUE;
}

/* Takes files that have a row from @files, and adds rows that have no file to @lost. */
static gboolean match_rows(Journal *journal, GHashTable *files, GArray *lost, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_LOCAL_NAMED);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    guint32 id = stmt_uint(stmt, 0);
    const char *name = (const char *) sqlite3_column_text(stmt, 1);
    if (g_hash_table_remove(files, GUINT_TO_POINTER(id))) {
      /* Whether the last process brought it to the disk is not known. */
      g_hash_table_add(journal->unsynced, GUINT_TO_POINTER(id));
    } else if (sqlite3_column_int(stmt, 2)) {
      log_warning("%s/local/%u is missing: \"%s\" cannot be uploaded", journal->dir, id, name);
    } else {
      log_warning("%s/local/%u is missing: \"%s\" is lost", journal->dir, id, name);
      g_array_append_val(lost, id);
    }
  }
  return rc == SQLITE_DONE || journal_fail_locked(journal, "cannot read", error);
}

static gboolean delete_row_locked(Journal *journal, guint32 id, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_LOCAL_DELETE);
  STMT_BIND(stmt, id);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot remove a local file from", error);
  g_hash_table_remove(journal->unsynced, GUINT_TO_POINTER(id));
  return TRUE;
}

static gboolean load_number(Journal *journal, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_LOCAL_NUMBER);
  if (sqlite3_step(stmt) != SQLITE_ROW)
    return journal_fail_locked(journal, "cannot read", error);
  journal->number = (guint32) CLAMP(sqlite3_column_int64(stmt, 0), 0, ID_MAX);
  return TRUE;
}

gboolean journal_locals_load(Journal *journal, gboolean fresh, GError **error) {
  if (!load_number(journal, error))
    return FALSE;
  g_autoptr(GHashTable) files = list_files(journal, error);
  if (!files)
    return FALSE;
  if (fresh && g_hash_table_size(files) > 0)
    return set_files_aside(journal, error);
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &id, NULL))
    journal->number = MAX(journal->number, GPOINTER_TO_UINT(id));
  g_autoptr(GArray) lost = g_array_new(FALSE, FALSE, sizeof(guint32));
  if (!match_rows(journal, files, lost, error))
    return FALSE;
  for (guint i = 0; i < lost->len; i++)
    if (!delete_row_locked(journal, g_array_index(lost, guint32, i), error))
      return FALSE;
  g_hash_table_iter_init(&iter, files);
  while (g_hash_table_iter_next(&iter, &id, NULL))
    journal_local_unlink(journal, GPOINTER_TO_UINT(id));
  return TRUE;
}

/* ---- octets ---- */

guint32 journal_local_number(Journal *journal) {
  g_mutex_lock(&journal->lock);
  guint32 number = journal->number < ID_MAX ? ++journal->number : 0;
  g_mutex_unlock(&journal->lock);
  return number;
}

int journal_local_fd(Journal *journal, guint32 id, gboolean create, GError **error) {
  char name[NAME_SIZE];
  file_name(id, name);
  int fd = openat(journal->local_fd, name,
                  O_RDWR | O_NOFOLLOW | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
  if (fd < 0)
    eml_error_set_errno(error, errno == ENOENT ? EML_ERROR_NOT_FOUND : EML_ERROR_FAILED, errno,
                        "cannot open %s/local/%s", journal->dir, name);
  return fd;
}

void journal_local_unlink(Journal *journal, guint32 id) {
  char name[NAME_SIZE];
  file_name(id, name);
  /* The next open tries again. */
  if (unlinkat(journal->local_fd, name, 0) != 0 && errno != ENOENT)
    log_warning("cannot remove %s/local/%s: %s", journal->dir, name, g_strerror(errno));
}

static gboolean sync_octets(Journal *journal, guint32 id, GError **error) {
  char name[NAME_SIZE];
  file_name(id, name);
  autofd int fd = openat(journal->local_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) /* removed meanwhile */
    return TRUE;
  if (fd < 0 || fsync(fd) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot sync %s/local/%s",
                               journal->dir, name);
  return TRUE;
}

/* What a row says is synced before the row. A log that is not there has been brought into the
 * database, which SQLite syncs itself. */
static gboolean sync_all(Journal *journal, GHashTable *ids, GError **error) {
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, ids);
  while (g_hash_table_iter_next(&iter, &id, NULL))
    if (!sync_octets(journal, GPOINTER_TO_UINT(id), error))
      return FALSE;
  if (fsync(journal->local_fd) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot sync %s/local",
                               journal->dir);
  autofd int wal = openat(journal->dir_fd, "journal.db-wal", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (wal < 0 ? errno != ENOENT : fsync(wal) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot sync %s/journal.db-wal",
                               journal->dir);
  autofd int above = journal->placed
                         ? -1
                         : openat(journal->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fsync(journal->dir_fd) != 0 || (above >= 0 && fsync(above) != 0))
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot sync %s", journal->dir);
  journal->placed = TRUE;
  return TRUE;
}

gboolean journal_sync(Journal *journal, GError **error) {
  g_mutex_lock(&journal->syncing);
  g_mutex_lock(&journal->lock);
  g_autoptr(GHashTable) ids = g_steal_pointer(&journal->unsynced);
  journal->unsynced = g_hash_table_new(NULL, NULL);
  g_mutex_unlock(&journal->lock);
  gboolean ok = sync_all(journal, ids, error);
  if (!ok) {
    GHashTableIter iter;
    gpointer id;
    g_hash_table_iter_init(&iter, ids);
    g_mutex_lock(&journal->lock);
    while (g_hash_table_iter_next(&iter, &id, NULL))
      g_hash_table_add(journal->unsynced, id);
    g_mutex_unlock(&journal->lock);
  }
  g_mutex_unlock(&journal->syncing);
  return ok;
}

/* ---- rows ---- */

gboolean journal_local_put_locked(Journal *journal, const Local *local, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_LOCAL_PUT);
  STMT_BIND(stmt, local->id, local->parent, 0, 0, local->is_folder, local->state,
            (gint64) local->size, local->mtime, local->ctime, 0, 0, local->uidvalidity, local->uid);
  stmt_bind_text(stmt, 3, local->folder);
  stmt_bind_text(stmt, 4, local->name);
  stmt_bind_text(stmt, 10, local->reason);
  stmt_bind_text(stmt, 11, local->mailbox);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return journal_fail_locked(journal, "cannot note a local file in", error);
  if (has_octets(local))
    g_hash_table_add(journal->unsynced, GUINT_TO_POINTER(local->id));
  return TRUE;
}

gboolean journal_local_put(Journal *journal, const Local *local, GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = journal_local_put_locked(journal, local, error);
  g_mutex_unlock(&journal->lock);
  return ok;
}

gboolean journal_local_remove(Journal *journal, guint32 id, GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = delete_row_locked(journal, id, error);
  g_mutex_unlock(&journal->lock);
  if (ok)
    journal_local_unlink(journal, id);
  return ok;
}

static Local *local_from_row(sqlite3_stmt *stmt) {
  Local *local = g_new0(Local, 1);
  local->id = stmt_uint(stmt, 0);
  local->parent = stmt_uint(stmt, 1);
  local->folder = stmt_dup_text(stmt, 2);
  local->name = stmt_dup_text(stmt, 3);
  local->is_folder = sqlite3_column_int(stmt, 4) != 0;
  local->state = (LocalState) sqlite3_column_int(stmt, 5);
  local->size = (guint64) sqlite3_column_int64(stmt, 6);
  local->mtime = sqlite3_column_int64(stmt, 7);
  local->ctime = sqlite3_column_int64(stmt, 8);
  local->reason = stmt_dup_text(stmt, 9);
  local->mailbox = stmt_dup_text(stmt, 10);
  local->uidvalidity = stmt_uint(stmt, 11);
  local->uid = stmt_uint(stmt, 12);
  return local;
}

static gboolean read_locals_locked(Journal *journal, GPtrArray *locals, GError **error) {
  autostmt *stmt = journal_stmt_locked(journal, SQL_LOCAL_ALL);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
    g_ptr_array_add(locals, local_from_row(stmt));
  return rc == SQLITE_DONE || journal_fail_locked(journal, "cannot read", error);
}

GPtrArray *journal_locals(Journal *journal, GError **error) {
  g_autoptr(GPtrArray) locals = g_ptr_array_new_with_free_func((GDestroyNotify) local_free);
  g_mutex_lock(&journal->lock);
  gboolean ok = read_locals_locked(journal, locals, error);
  g_mutex_unlock(&journal->lock);
  return ok ? g_steal_pointer(&locals) : NULL;
}
