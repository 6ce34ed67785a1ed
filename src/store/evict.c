/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Freeing the bytes of bodies: those that were removed, and the least recently used when the cache
 * is full. Only the keeper's jobs (and store_settle, store_drop_bodies) do this.
 *
 * Bytes go only after the deletion of their rows is durable. Otherwise a crash of the machine could
 * bring a row back whose bytes are zeros by then.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

#define EVICT_ROWS 1024
#define FULL_BYTES (4 << 20) /* at least so much is freed on a full disk: the reserve, and some */

/* ---- burying ---- */

static gboolean sync_path(Store *store, const char *path) {
  autofd int fd = openat(store->dir_fd, path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? errno == ENOENT : fdatasync(fd) == 0;
}

static int compare_extents(gconstpointer a, gconstpointer b) {
  const Extent *first = a, *second = b;
  if (first->pack != second->pack)
    return first->pack < second->pack ? -1 : 1;
  return (first->offset > second->offset) - (first->offset < second->offset);
}

static void bury_file(Store *store, const Extent *at) {
  g_autofree char *path = body_file_path(at->offset);
  if (unlinkat(store->dir_fd, path, 0) != 0 && errno != ENOENT)
    log_warning("cannot delete %s/%s: %s", store->dir, path, g_strerror(errno));
  g_mutex_lock(&store->lock);
  store->disk_files -= MIN(store->disk_files, at->length);
  g_mutex_unlock(&store->lock);
}

/* Frees extents @from…@to of @dead, all of one pack. */
static void bury_in_pack(Store *store, const GArray *dead, guint from, guint to) {
  guint32 number = g_array_index(dead, Extent, from).pack;
  g_autofree char *path = pack_path(number);
  autofd int fd = openat(store->dir_fd, path, O_WRONLY | O_CLOEXEC);
  guint64 bytes = 0;
  for (guint i = from; i < to;) {
    guint64 begin = g_array_index(dead, Extent, i).offset, end = begin;
    for (; i < to && g_array_index(dead, Extent, i).offset == end; i++) {
      end += extent_room(g_array_index(dead, Extent, i).length);
      bytes += extent_room(g_array_index(dead, Extent, i).length);
    }
    if (fd >= 0)
      pack_punch(store, fd, begin, end);
  }
  struct stat status;
  gboolean known = fd >= 0 && fstat(fd, &status) == 0;
  g_mutex_lock(&store->lock);
  Pack *pack = g_hash_table_lookup(store->packs, GUINT_TO_POINTER(number));
  if (pack) {
    pack->live -= MIN(pack->live, bytes);
    guint64 disk = known ? MIN((guint64) status.st_blocks * 512, pack->end + STORE_BLOCK) : 0;
    store->disk_packs = store->disk_packs - pack->disk + disk;
    pack->disk = disk;
    pack_maybe_drop_locked(store, pack);
  }
  g_mutex_unlock(&store->lock);
}

gboolean bury_run(Store *store, GError **error) {
  g_mutex_lock(&store->lock);
  g_autoptr(GArray) dead = g_steal_pointer(&store->graveyard);
  store->graveyard = g_array_new(FALSE, FALSE, sizeof(Extent));
  g_mutex_unlock(&store->lock);
  if (dead->len == 0)
    return TRUE;
  if (!sync_path(store, "index.db-wal")) {
    int problem = errno;
    g_mutex_lock(&store->lock);
    g_array_append_vals(store->graveyard, dead->data, dead->len);
    g_mutex_unlock(&store->lock);
    return eml_error_set_errno(error, EML_ERROR_FAILED, problem, "cannot sync the index");
  }

  g_array_sort(dead, compare_extents);
  guint kept = 0;
  g_mutex_lock(&store->lock);
  store->bury_generation++;
  for (guint i = 0; i < dead->len; i++) {
    Extent at = g_array_index(dead, Extent, i);
    Pin *pin = g_hash_table_lookup(store->pins, &at);
    /* A file may be unlinked while it is open, bytes of a pack may not be taken away. */
    if (pin && pin->pack)
      pin->doomed = TRUE;
    else
      g_array_index(dead, Extent, kept++) = at;
  }
  g_mutex_unlock(&store->lock);
  g_array_set_size(dead, kept);

  for (guint i = 0; i < dead->len;) {
    const Extent *at = &g_array_index(dead, Extent, i);
    if (at->pack == 0) {
      bury_file(store, at);
      i++;
      continue;
    }
    guint end = i;
    while (end < dead->len && g_array_index(dead, Extent, end).pack == at->pack)
      end++;
    bury_in_pack(store, dead, i, end);
    i = end;
  }
  return TRUE;
}

/* ---- evicting ---- */

typedef struct {
  MsgId id;
  Extent at;
} Row;

/* The rows that @stmt finds: pack, offset, length, space, uid. */
static GArray *collect(Store *store, sqlite3_stmt *stmt, GError **error) {
  g_autoptr(GArray) rows = g_array_new(FALSE, FALSE, sizeof(Row));
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    Row row = {.at = {.pack = (guint32) sqlite3_column_int64(stmt, 0),
                      .offset = (guint64) sqlite3_column_int64(stmt, 1),
                      .length = (guint64) sqlite3_column_int64(stmt, 2)},
               .id = {.space = (guint32) sqlite3_column_int64(stmt, 3),
                      .uid = (guint32) sqlite3_column_int64(stmt, 4)}};
    g_array_append_val(rows, row);
  }
  sqlite3_reset(stmt);
  if (rc != SQLITE_DONE) {
    txn_fail_locked(store, "cannot list bodies", error);
    return NULL;
  }
  return g_steal_pointer(&rows);
}

/* Deletes rows, oldest first, until @bytes are found; a pinned one is left, but counts as used now,
 * so that it does not stand in the way. *@freed_out grows. */
static gboolean delete_rows_locked(Store *store, const GArray *rows, guint64 bytes,
                                   guint64 *freed_out, GError **error) {
  guint64 freed = 0;
  for (guint i = 0; i < rows->len && freed < bytes; i++) {
    const Row *row = &g_array_index(rows, Row, i);
    g_mutex_lock(&store->lock);
    gboolean pinned = g_hash_table_contains(store->pins, &row->at);
    gint64 now = pinned ? store->clock++ : 0;
    g_mutex_unlock(&store->lock);
    autostmt *stmt = conn_stmt(store->conn, pinned ? STMT_BODY_TOUCH : STMT_BODY_DELETE);
    STMT_BIND(stmt, row->id.space, row->id.uid);
    if (pinned)
      sqlite3_bind_int64(stmt, 3, now);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot evict bodies", error);
    if (pinned)
      continue;
    txn_victim_locked(store, row->at, 1);
    freed += extent_room(row->at.length);
  }
  *freed_out += freed;
  return TRUE;
}

static gboolean evict_oldest(Store *store, guint64 bytes, guint64 *freed_out, GError **error) {
  writer_lock(store);
  gboolean ok = txn_commit_locked(store, error) && txn_begin_locked(store, error);
  if (ok) {
    sqlite3_stmt *stmt = conn_stmt(store->conn, STMT_BODY_OLDEST);
    STMT_BIND(stmt, EVICT_ROWS);
    g_autoptr(GArray) rows = collect(store, stmt, error);
    ok = rows && delete_rows_locked(store, rows, bytes, freed_out, error) &&
         txn_commit_locked(store, error);
  }
  writer_unlock(store);
  return ok;
}

/* The first of @rows that nobody holds. */
static const Row *first_free(Store *store, const GArray *rows) {
  const Row *found = NULL;
  g_mutex_lock(&store->lock);
  for (guint i = 0; i < rows->len && !found; i++)
    if (!g_hash_table_contains(store->pins, &g_array_index(rows, Row, i).at))
      found = &g_array_index(rows, Row, i);
  /* The next body begins a new pack, so that this one can go. */
  if (found && store->current && store->current->number == found->at.pack)
    store->current = NULL;
  g_mutex_unlock(&store->lock);
  return found;
}

static gboolean evict_pack_locked(Store *store, guint64 *freed_out, GError **error) {
  sqlite3_stmt *stmt = conn_stmt(store->conn, STMT_BODY_OLDEST);
  STMT_BIND(stmt, EVICT_ROWS);
  g_autoptr(GArray) oldest = collect(store, stmt, error);
  if (!oldest)
    return FALSE;
  const Row *row = first_free(store, oldest);
  if (!row || row->at.pack == 0)
    return delete_rows_locked(store, oldest, 1, freed_out, error);
  stmt = conn_stmt(store->conn, STMT_BODY_OF_PACK);
  STMT_BIND(stmt, row->at.pack);
  g_autoptr(GArray) rows = collect(store, stmt, error);
  return rows && delete_rows_locked(store, rows, G_MAXUINT64, freed_out, error);
}

/* Where no holes can be punched: the least recently used body takes all of its pack with it. */
static gboolean evict_pack(Store *store, guint64 *freed_out, GError **error) {
  writer_lock(store);
  gboolean ok = txn_commit_locked(store, error) && txn_begin_locked(store, error) &&
                evict_pack_locked(store, freed_out, error) && txn_commit_locked(store, error);
  writer_unlock(store);
  return ok;
}

static guint64 disk_used(Store *store) {
  g_mutex_lock(&store->lock);
  guint64 used = store->disk_packs + store->disk_files;
  g_mutex_unlock(&store->lock);
  return used;
}

gboolean evict_run(Store *store, GError **error) {
  g_mutex_lock(&store->lock);
  guint64 used = store->disk_packs + store->disk_files;
  guint64 want = store->evict_want;
  store->evict_want = 0;
  g_mutex_unlock(&store->lock);
  guint64 target = used - MIN(used, want);
  if (used > store->limit)
    target = MIN(target, store->limit / 10 * 9);
  if (used <= target) {
    g_atomic_int_set(&store->full, FALSE); /* nothing to give: the next writer finds out */
    return TRUE;
  }

  /* Rows of bodies not yet written are not evicted, so have them written; on a full disk that may
   * fail, and then it is tried again later. */
  gboolean ok = (body_flush(store, want > 0 ? NULL : error) || want > 0) && bury_run(store, error);
  while (ok && (used = disk_used(store)) > target) {
    guint64 freed = 0;
    ok = (g_atomic_int_get(&store->can_punch) ? evict_oldest(store, used - target, &freed, error)
                           : evict_pack(store, &freed, error)) &&
         bury_run(store, error);
    if (freed == 0)
      break;
  }
  if (ok) {
    dir_reserve(store->dir_fd);
    g_atomic_int_set(&store->full, FALSE);
  }
  return ok;
}

void evict_some(Store *store, guint64 bytes) {
  /* The index gets the reserve; bodies get nothing before something was freed. */
  g_atomic_int_set(&store->full, TRUE);
  dir_reserve_drop(store->dir_fd);
  g_mutex_lock(&store->lock);
  guint64 used = store->disk_packs + store->disk_files;
  store->evict_want = MAX(store->evict_want, MAX(8 * bytes + FULL_BYTES, used / 10));
  keeper_due_locked(store, JOB_EVICT, 0);
  g_mutex_unlock(&store->lock);
}

gboolean evict_is_full(Store *store, GError **error) {
  if (!g_atomic_int_get(&store->full))
    return FALSE;
  g_set_error(error, EML_ERROR, EML_ERROR_NO_SPACE, "the disk of %s is full", store->dir);
  return TRUE;
}

static gboolean drop_page(Store *store, MsgId *after, gboolean *more_out, GError **error) {
  guint64 freed = 0;
  writer_lock(store);
  gboolean ok = txn_commit_locked(store, error) && txn_begin_locked(store, error);
  if (ok) {
    sqlite3_stmt *stmt = conn_stmt(store->conn, STMT_BODY_PAGE);
    STMT_BIND(stmt, after->space, after->uid, EVICT_ROWS);
    g_autoptr(GArray) rows = collect(store, stmt, error);
    ok = rows && delete_rows_locked(store, rows, G_MAXUINT64, &freed, error) &&
         txn_commit_locked(store, error);
    *more_out = ok && rows->len > 0;
    if (*more_out)
      *after = g_array_index(rows, Row, rows->len - 1).id;
  }
  writer_unlock(store);
  return ok;
}

gboolean store_drop_bodies(Store *store, GError **error) {
  g_mutex_lock(&store->keeping);
  gboolean ok = body_flush(store, error), more = TRUE;
  MsgId after = {0, 0};
  while (ok && more)
    ok = drop_page(store, &after, &more, error);
  g_mutex_lock(&store->lock);
  Pack *current = store->current;
  store->current = NULL; /* the next body begins a new pack */
  if (current && current->live == 0)
    pack_maybe_drop_locked(store, current);
  g_mutex_unlock(&store->lock);
  ok = ok && bury_run(store, error);
  g_mutex_unlock(&store->keeping);
  return ok;
}

/* ---- the mark ---- */

gboolean mark_run(Store *store, GError **error) {
  g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
  g_mutex_lock(&store->lock);
  gint64 mark = store->clock; /* every body born before was written before */
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->packs);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pack *pack = value;
    if (pack->dirty)
      g_ptr_array_add(paths, pack_path(pack->number));
    pack->dirty = FALSE;
  }
  for (guint i = 0; i < store->dirty_files->len; i++)
    g_ptr_array_add(paths, body_file_path(g_array_index(store->dirty_files, guint64, i)));
  g_array_set_size(store->dirty_files, 0);
  store->dirty_bytes = 0;
  g_mutex_unlock(&store->lock);
  for (guint i = 0; i < paths->len && !store->mark_lost; i++)
    if (!sync_path(store, g_ptr_array_index(paths, i))) {
      log_warning("cannot sync %s/%s: %s", store->dir, (const char *) g_ptr_array_index(paths, i),
                  g_strerror(errno));
      /* The kernel tells of a lost write once only: the mark must never move past it. */
      store->mark_lost = TRUE;
    }
  if (store->mark_lost)
    return TRUE;
  writer_lock(store);
  gboolean ok = txn_begin_locked(store, error);
  if (ok && conn_meta_set(store->conn, "mark", mark) != SQLITE_OK)
    ok = txn_fail_locked(store, "cannot note what is durable", error);
  ok = ok && txn_commit_locked(store, error);
  writer_unlock(store);
  return ok;
}
