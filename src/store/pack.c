/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Pack files: many small bodies in one file, appended, with holes where bodies were. No byte of a
 * pack is ever written twice: what a row points to was written before the row, and is the same for
 * as long as the row is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

#define OPEN_PACKS_MAX 64

char *pack_path(guint32 number) {
  return g_strdup_printf("packs/%06u", number);
}

char *body_file_path(guint64 number) {
  return g_strdup_printf("bodies/%02x/%" G_GUINT64_FORMAT, (guint) (number & 0xff), number);
}

static void pack_free(gpointer data) {
  Pack *pack = data;
  if (pack->fd >= 0)
    close(pack->fd);
  g_free(pack);
}

static Pack *pack_add(Store *store, guint32 number) {
  Pack *pack = g_new0(Pack, 1);
  pack->number = number;
  pack->fd = -1;
  g_hash_table_insert(store->packs, GUINT_TO_POINTER(number), pack);
  store->last_pack = MAX(store->last_pack, number);
  return pack;
}

void packs_free(Store *store) {
  g_clear_pointer(&store->packs, g_hash_table_unref);
  store->current = NULL;
  if (store->current_fd >= 0)
    close(store->current_fd);
  store->current_fd = -1;
}

/* ---- loading ---- */

/* Sums up all rows: per pack where it ends and what lives in it. @numbers: if not NULL the numbers
 * of all files of their own are added, and what was written since @mark counts as not yet synced:
 * the process that wrote it was killed before it could. */
static int sum_rows(Store *store, GHashTable *numbers, gint64 mark) {
  g_hash_table_remove_all(store->packs);
  g_array_set_size(store->dirty_files, 0);
  store->bodies = 0;
  store->disk_files = 0;
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(store->conn->db,
                              "SELECT pack, offset, length, born, used FROM body", -1, &stmt, NULL);
  Pack *pack = NULL;
  while (rc == SQLITE_OK || rc == SQLITE_ROW) {
    rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW)
      break;
    guint32 number = (guint32) sqlite3_column_int64(stmt, 0);
    guint64 offset = (guint64) sqlite3_column_int64(stmt, 1);
    guint64 length = (guint64) sqlite3_column_int64(stmt, 2);
    gint64 born = sqlite3_column_int64(stmt, 3);
    store->clock = MAX(store->clock, born + 1);
    store->clock = MAX(store->clock, sqlite3_column_int64(stmt, 4) + 1);
    store->bodies++;
    if (number == 0) {
      store->disk_files += length;
      if (numbers)
        g_hash_table_add(numbers, g_memdup2(&offset, sizeof offset));
      if (numbers && born >= mark)
        g_array_append_val(store->dirty_files, offset);
      continue;
    }
    if (!pack || pack->number != number)
      pack = g_hash_table_lookup(store->packs, GUINT_TO_POINTER(number));
    if (!pack)
      pack = pack_add(store, number);
    pack->end = MAX(pack->end, offset + extent_room(length));
    pack->live += extent_room(length);
    pack->dirty |= numbers && born >= mark;
  }
  sqlite3_finalize(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Deletes the rows of @number that lie beyond @size. */
static int drop_beyond(Store *store, guint32 number, guint64 size) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(store->conn->db,
                              "DELETE FROM body WHERE pack = ?1 AND offset + length > ?2", -1,
                              &stmt, NULL);
  STMT_BIND(stmt, number, (gint64) size);
  if (rc == SQLITE_OK)
    rc = sqlite3_step(stmt);
  sqlite3_finalize(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Frees what no row points to. The process was killed between removing rows and bytes, or between
 * bytes and row. */
static int punch_gaps(Store *store) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(
      store->conn->db,
      "SELECT pack, offset, length FROM body WHERE pack > 0 ORDER BY pack, offset", -1, &stmt,
      NULL);
  autofd int fd = -1;
  guint32 open_pack = 0;
  guint64 end = 0;
  while (rc == SQLITE_OK || rc == SQLITE_ROW) {
    rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW)
      break;
    guint32 number = (guint32) sqlite3_column_int64(stmt, 0);
    guint64 offset = (guint64) sqlite3_column_int64(stmt, 1);
    if (number != open_pack) {
      g_autofree char *path = pack_path(number);
      if (fd >= 0)
        close(fd);
      fd = openat(store->dir_fd, path, O_WRONLY | O_CLOEXEC);
      open_pack = number;
      end = 0;
    }
    if (fd >= 0 && offset > end)
      pack_punch(store, fd, end, offset);
    end = offset + extent_room((guint64) sqlite3_column_int64(stmt, 2));
  }
  sqlite3_finalize(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The number that a file is called by, 0 when it is not one of ours. */
static guint64 file_number(const char *name) {
  guint64 number;
  return g_ascii_string_to_unsigned(name, 10, 1, G_MAXINT64, &number, NULL) ? number : 0;
}

static void remove_stray_packs(Store *store) {
  g_autofree char *path = g_build_filename(store->dir, "packs", NULL);
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name(dir))) {
    guint64 number = file_number(name);
    if (number == 0 || number > G_MAXUINT32 ||
        g_hash_table_contains(store->packs, GUINT_TO_POINTER((guint) number)))
      continue;
    g_autofree char *file = pack_path((guint32) number);
    unlinkat(store->dir_fd, file, 0);
    store->last_pack = MAX(store->last_pack, (guint32) number);
  }
}

static void remove_stray_files(Store *store, GHashTable *numbers) {
  for (guint i = 0; i < 256; i++) {
    g_autofree char *path = g_strdup_printf("%s/bodies/%02x", store->dir, i);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
      guint64 number = file_number(name);
      if (number == 0 || g_hash_table_contains(numbers, &number))
        continue;
      g_autofree char *file = body_file_path(number);
      unlinkat(store->dir_fd, file, 0);
    }
  }
}

static void remove_partials(Store *store) {
  g_autofree char *path = g_build_filename(store->dir, "partial", NULL);
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name(dir))) {
    g_autofree char *file = g_build_filename("partial", name, NULL);
    unlinkat(store->dir_fd, file, 0);
  }
}

/* Whether every pack is there and as long as its rows say; deletes the rows of those that are not.
 * Cuts off what was appended without a row. */
static int check_packs(Store *store, gboolean *all_well_out) {
  *all_well_out = TRUE;
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->packs);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pack *pack = value;
    g_autofree char *path = pack_path(pack->number);
    autofd int fd = openat(store->dir_fd, path, O_WRONLY | O_CLOEXEC);
    struct stat status = {0};
    if (fd >= 0 && fstat(fd, &status) != 0)
      status.st_size = 0;
    if ((guint64) status.st_size < pack->end) {
      log_warning("%s/%s is shorter than it was: what is missing will be fetched again", store->dir,
                  path);
      *all_well_out = FALSE;
      int rc = drop_beyond(store, pack->number, (guint64) status.st_size);
      if (rc != SQLITE_OK)
        return rc;
    } else if ((guint64) status.st_size > pack->end &&
               ftruncate(fd, (off_t) pack->end) == 0) {
      fstat(fd, &status);
    }
    pack->disk = MIN((guint64) status.st_blocks * 512, pack->end + STORE_BLOCK);
  }
  return SQLITE_OK;
}

gboolean packs_load(Store *store, gboolean clean, GError **error) {
  store->packs = g_hash_table_new_full(NULL, NULL, NULL, pack_free);
  remove_partials(store);
  gint64 mark = store->clock;
  for (;;) {
    g_autoptr(GHashTable) numbers =
        clean ? NULL : g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    gboolean all_well = TRUE;
    int rc = sum_rows(store, numbers, mark);
    if (rc == SQLITE_OK && !clean)
      rc = punch_gaps(store);
    if (rc == SQLITE_OK)
      rc = check_packs(store, &all_well);
    if (rc != SQLITE_OK)
      return store_code_error(store, rc, sqlite3_errstr(rc), "cannot read where bodies lie", error);
    if (!all_well)
      continue; /* their rows are gone now: sum up again */
    if (numbers)
      remove_stray_files(store, numbers);
    break;
  }
  remove_stray_packs(store);

  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->packs);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pack *pack = value;
    store->disk_packs += pack->disk;
  }
  Pack *last = g_hash_table_lookup(store->packs, GUINT_TO_POINTER(store->last_pack));
  if (last && last->end < store->pack_limit) {
    g_autofree char *path = pack_path(last->number);
    store->current_fd = openat(store->dir_fd, path, O_WRONLY | O_CLOEXEC);
    store->current = store->current_fd >= 0 ? last : NULL;
  }
  return TRUE;
}

/* ---- appending ---- */

static gboolean begin_pack_locked(Store *store, GError **error) {
  for (;;) {
    g_autofree char *path = pack_path(store->last_pack + 1);
    int fd = openat(store->dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) {
      store->last_pack++;
      continue;
    }
    if (fd < 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot create %s/%s", store->dir,
                                 path);
    Pack *before = store->current;
    if (store->current_fd >= 0)
      close(store->current_fd);
    store->current = pack_add(store, store->last_pack + 1);
    store->current_fd = fd;
    if (before)
      pack_maybe_drop_locked(store, before);
    return TRUE;
  }
}

gboolean pack_append(Store *store, const void *octets, gsize size, Extent *at_out,
                     GError **error) {
  if (evict_is_full(store, error))
    return FALSE;
  gsize length = size;
  if (size == 0) {
    octets = "\n";
    size = 1;
  }
  g_mutex_lock(&store->lock);
  if ((!store->current ||
       (store->current->end > 0 && store->current->end + size > store->pack_limit)) &&
      !begin_pack_locked(store, error)) {
    g_mutex_unlock(&store->lock);
    return FALSE;
  }
  Pack *pack = store->current;
  *at_out = (Extent){.pack = pack->number, .offset = pack->end, .length = length};
  pack->end += size;
  pack->live += size;
  pack->disk += size;
  store->disk_packs += size;
  pack->pins++; /* so that it stays while it is written to */
  int fd = dup(store->current_fd);
  int problem = fd < 0 ? errno : 0;
  g_mutex_unlock(&store->lock);

  /* The place is ours alone: the writing needs no lock. */
  const char *from = octets;
  for (gsize done = 0; fd >= 0 && done < size;) {
    ssize_t n = pwrite(fd, from + done, size - done, (off_t) (at_out->offset + done));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0) {
      problem = n < 0 ? errno : EIO;
      break;
    }
    done += (gsize) n;
  }
  if (fd >= 0)
    close(fd);

  g_mutex_lock(&store->lock);
  pack->dirty = TRUE;
  store->dirty_bytes += size;
  if (problem) /* no row will ever point there */
    g_array_append_val(store->graveyard, *at_out);
  pack_unpin_locked(store, pack);
  g_mutex_unlock(&store->lock);
  if (!problem)
    return TRUE;
  keeper_due(store, JOB_BURY, 0);
  if (problem == ENOSPC || problem == EDQUOT)
    evict_some(store, size);
  return eml_error_set_errno(error, EML_ERROR_FAILED, problem, "cannot write a body in %s",
                             store->dir);
}

/* ---- reading and freeing ---- */

int pack_fd_locked(Store *store, Pack *pack) {
  if (pack->fd < 0) {
    g_autofree char *path = pack_path(pack->number);
    pack->fd = openat(store->dir_fd, path, O_RDONLY | O_CLOEXEC);
  }
  return pack->fd;
}

void pack_unpin_locked(Store *store, Pack *pack) {
  pack->pins--;
  if (pack->pins > 0)
    return;
  if (pack->fd >= 0 && g_hash_table_size(store->packs) > OPEN_PACKS_MAX) {
    close(pack->fd);
    pack->fd = -1;
  }
  pack_maybe_drop_locked(store, pack);
}

void pack_maybe_drop_locked(Store *store, Pack *pack) {
  if (pack->live > 0 || pack->pins > 0 || pack == store->current)
    return;
  g_autofree char *path = pack_path(pack->number);
  unlinkat(store->dir_fd, path, 0);
  store->disk_packs -= pack->disk;
  g_hash_table_remove(store->packs, GUINT_TO_POINTER(pack->number));
}

void pack_punch(Store *store, int fd, guint64 from, guint64 to) {
  /* A block that another body shares cannot be freed. */
  from = (from + STORE_BLOCK - 1) / STORE_BLOCK * STORE_BLOCK;
  to = to / STORE_BLOCK * STORE_BLOCK;
  if (from >= to || !g_atomic_int_get(&store->can_punch))
    return;
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) from,
                (off_t) (to - from)) != 0 &&
      (errno == EOPNOTSUPP || errno == ENOSYS)) {
    log_info("the file system of %s cannot punch holes: room is freed by whole packs", store->dir);
    g_atomic_int_set(&store->can_punch, FALSE);
  }
}
