/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * DESIGN of the store
 *
 *   DIR/lock           flock()ed by the process that has the store; its pid inside
 *   DIR/index.db       SQLite, WAL: folders, messages, where bodies lie (schema.c)
 *   DIR/packs/NNNNNN   small bodies, appended; holes where they were evicted (pack.c)
 *   DIR/bodies/XX/N    large bodies, a file each
 *   DIR/partial/N      files being written; deleted at open
 *   DIR/reserve        1 MiB that is given up when the disk is full, so that rows can be deleted
 *   DIR/damaged        the index was found malformed: it is set aside at the next open
 *
 * Invariants
 *  1. A row of `body` points to bytes that were written, whole, before the row was. Bytes without a
 *     row are garbage; packs_load frees them.
 *  2. Bytes are freed only after the deletion of their row is durable, and never while pinned.
 *  3. No byte of a pack is written twice, no number of a file is used twice.
 *  4. folder.count is the number of its rows in `message`, in every committed transaction.
 *  5. Folder ids and uidspaces are never used again.
 *
 * After kill -9 the page cache still has all that was written, so 1 is enough. After a crash of the
 * machine it is not: a row may have reached the disk before its bytes. So the keeper syncs packs
 * and files now and then and writes a *mark*; rows born after the mark are dropped at open when the
 * store was not closed and the boot id is another.
 *
 * Threads. Writers share one connection and one open transaction (txn.c). Readers take a connection
 * from a pool for the length of a call. The keeper (keeper.c) is the store's only own thread: it
 * commits what was left open, writes rows of bodies in groups, evicts, frees bytes, syncs.
 *
 * Lock order: keeping → writer → lock → pool; the log's own lock last. No callback is called with
 * any of them held.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

#define PACK_LIMIT_MIN (G_GUINT64_CONSTANT(1) << 20)
#define PACK_LIMIT_MAX (G_GUINT64_CONSTANT(256) << 20)
#define CHECK_US (2 * G_USEC_PER_SEC)           /* the longest check of the index at open … */
#define CHECK_SAME_BOOT_US (G_USEC_PER_SEC / 4) /* … after a mere kill -9, which cannot harm it */

/* ---- opening ---- */

static int check_deadline(void *deadline) {
  return g_get_monotonic_time() > *(gint64 *) deadline;
}

/* Looks for damage, but not for longer than @budget_us: what it has not found by then, a read will
 * find later. */
static int quick_check(Conn *conn, gint64 budget_us) {
  gint64 deadline = g_get_monotonic_time() + budget_us;
  sqlite3_progress_handler(conn->db, 10000, check_deadline, &deadline);
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(conn->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
  if (rc == SQLITE_OK)
    rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW)
    rc = g_strcmp0((const char *) sqlite3_column_text(stmt, 0), "ok") == 0 ? SQLITE_OK
                                                                          : SQLITE_CORRUPT;
  else if ((rc & 0xff) == SQLITE_INTERRUPT)
    rc = SQLITE_OK;
  sqlite3_finalize(stmt);
  sqlite3_progress_handler(conn->db, 0, NULL, NULL);
  return rc;
}

/* A database that was cut off: SQLite would notice only where it reads. With a write-ahead log the
 * file may rightly be shorter than its header says. */
static gboolean is_truncated(int dir_fd) {
  struct stat status;
  if (fstatat(dir_fd, "index.db-wal", &status, 0) == 0 && status.st_size > 0)
    return FALSE;
  autofd int fd = openat(dir_fd, "index.db", O_RDONLY | O_CLOEXEC);
  guchar header[100];
  if (fd < 0 || fstat(fd, &status) != 0 || status.st_size == 0)
    return FALSE;
  if (pread(fd, header, sizeof header, 0) != (ssize_t) sizeof header)
    return TRUE;
  guint64 page = (guint64) header[16] << 8 | header[17];
  guint64 pages = (guint64) header[28] << 24 | header[29] << 16 | header[30] << 8 | header[31];
  return (guint64) status.st_size < (page == 1 ? 65536 : page) * pages;
}

static char *meta_text(Conn *conn, const char *key) {
  autostmt *stmt = conn_stmt(conn, STMT_META_GET);
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  return sqlite3_step(stmt) == SQLITE_ROW
             ? g_strdup((const char *) sqlite3_column_text(stmt, 0))
             : NULL;
}

static int meta_set_text(Conn *conn, const char *key, const char *value) {
  autostmt *stmt = conn_stmt(conn, STMT_META_SET);
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
  int rc = sqlite3_step(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Rows whose bytes may not have reached the disk when the machine stopped. */
static int drop_after_mark(Conn *conn) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(conn->db, "DELETE FROM body WHERE born >= ?1", -1, &stmt, NULL);
  sqlite3_bind_int64(stmt, 1, conn_meta_get(conn, "mark", 0));
  if (rc == SQLITE_OK)
    rc = sqlite3_step(stmt);
  sqlite3_finalize(stmt);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Opens the index of @store. An SQLite code; @why_out says in words why it cannot be used. */
static int open_index(Store *store, const char *identity, gboolean *clean_out,
                      const char **why_out) {
  *why_out = "the index is damaged";
  if (dir_is_damaged(store->dir_fd) || is_truncated(store->dir_fd))
    return SQLITE_CORRUPT;
  int rc;
  store->conn = conn_open(store->index_path, TRUE, &rc);
  if (!store->conn)
    return rc;
  rc = schema_check(store->conn, identity, why_out);
  if (rc != SQLITE_OK)
    return rc;
  *why_out = "the index is damaged";
  g_autofree char *boot = boot_id();
  g_autofree char *boot_before = meta_text(store->conn, "boot");
  gboolean clean = conn_meta_get(store->conn, "clean", 0) != 0;
  gboolean same_boot = boot[0] && g_strcmp0(boot, boot_before) == 0;
  if (!clean) {
    log_info("the store in %s was not closed: checking it", store->dir);
    rc = quick_check(store->conn, same_boot ? CHECK_SAME_BOOT_US : CHECK_US);
    if (rc == SQLITE_OK && !same_boot)
      rc = drop_after_mark(store->conn);
  }
  if (rc == SQLITE_OK)
    rc = meta_set_text(store->conn, "boot", boot);
  if (rc == SQLITE_OK)
    rc = conn_meta_set(store->conn, "clean", 0);
  store->clock = conn_meta_get(store->conn, "mark", 1);
  *clean_out = clean;
  return rc;
}

static void close_index(Store *store) {
  for (guint i = 0; i < store->idle->len; i++)
    conn_close(g_ptr_array_index(store->idle, i));
  g_ptr_array_set_size(store->idle, 0);
  g_clear_pointer(&store->conn, conn_close);
}

static gboolean make_folders(Store *store, GError **error) {
  static const char *const folders[] = {"packs", "bodies", "partial"};
  for (guint i = 0; i < G_N_ELEMENTS(folders); i++)
    if (mkdirat(store->dir_fd, folders[i], 0700) != 0 && errno != EEXIST)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot create %s/%s", store->dir,
                                 folders[i]);
  return TRUE;
}

/* Whether @rc means that what is there is of no use, rather than that it cannot be reached now. */
static gboolean is_useless(int rc) {
  int code = rc & 0xff;
  return code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_MISMATCH ||
         code == SQLITE_SCHEMA || code == SQLITE_ERROR || code == SQLITE_FORMAT;
}

static gboolean load(Store *store, const StoreConfig *config, char **notice_out, GError **error) {
  for (gboolean first = TRUE;; first = FALSE) {
    const char *why = NULL;
    gboolean clean = TRUE;
    int rc = open_index(store, config->identity, &clean, &why);
    g_autoptr(GError) problem = NULL;
    if (rc == SQLITE_OK) {
      if (!make_folders(store, error))
        return FALSE;
      if (packs_load(store, clean, &problem))
        return TRUE;
      if (!g_error_matches(problem, EML_ERROR, EML_ERROR_CORRUPT)) {
        g_propagate_error(error, g_steal_pointer(&problem));
        return FALSE;
      }
    } else if (!is_useless(rc)) {
      return store_code_error(store, rc, sqlite3_errstr(rc), "cannot open the index", error);
    }
    close_index(store);
    packs_free(store);
    if (!first) {
      g_set_error(error, EML_ERROR, EML_ERROR_CORRUPT, "cannot begin an index in %s", store->dir);
      return FALSE;
    }
    g_autofree char *moved_to = NULL;
    if (!dir_set_aside(store->dir, store->dir_fd, &moved_to, error))
      return FALSE;
    g_atomic_int_set(&store->unhealthy, 0);
    g_free(*notice_out);
    *notice_out = g_strdup_printf("the cache in %s was moved to %s, because %s", store->dir,
                                  moved_to, why);
    log_warning("%s", *notice_out);
  }
}

static void store_free(Store *store) {
  close_index(store);
  if (store->packs)
    packs_free(store);
  g_ptr_array_unref(store->idle);
  g_ptr_array_unref(store->txn_batches);
  g_array_unref(store->txn_victims);
  g_hash_table_unref(store->pins);
  g_hash_table_unref(store->pending);
  g_array_unref(store->graveyard);
  g_array_unref(store->touches);
  for (guint i = 0; i < G_N_ELEMENTS(store->known); i++)
    g_array_unref(store->known[i].rows);
  g_array_unref(store->forgotten);
  g_array_unref(store->dirty_files);
  g_mutex_clear(&store->keeping);
  g_mutex_clear(&store->writer);
  g_mutex_clear(&store->lock);
  g_mutex_clear(&store->pool);
  g_cond_clear(&store->wake);
  if (store->lock_fd >= 0)
    close(store->lock_fd);
  if (store->dir_fd >= 0)
    close(store->dir_fd);
  g_free(store->index_path);
  g_free(store->dir);
  g_free(store);
}

Store *store_open(const StoreConfig *config, char **notice_out, GError **error) {
  g_autofree char *notice = NULL;
  if (notice_out)
    *notice_out = NULL;
  int dir_fd, lock_fd;
  if (!dir_open(config->dir, &dir_fd, &lock_fd, error))
    return NULL;
  Store *store = g_new0(Store, 1);
  store->dir = g_strdup(config->dir);
  store->index_path = g_build_filename(config->dir, "index.db", NULL);
  store->dir_fd = dir_fd;
  store->lock_fd = lock_fd;
  store->limit = config->cache_size;
  store->pack_limit = CLAMP(config->cache_size / 16, PACK_LIMIT_MIN, PACK_LIMIT_MAX);
  store->can_punch = TRUE;
  store->current_fd = -1;
  store->clock = 1;
  for (int job = 0; job < JOB_COUNT; job++)
    store->due[job] = G_MAXINT64;
  store->idle = g_ptr_array_new();
  store->txn_batches = g_ptr_array_new();
  store->txn_victims = g_array_new(FALSE, FALSE, sizeof(Extent));
  store->pins = g_hash_table_new(extent_hash, extent_equal);
  store->pending = g_hash_table_new_full(msgid_hash, msgid_equal, NULL, g_free);
  store->graveyard = g_array_new(FALSE, FALSE, sizeof(Extent));
  store->touches = g_array_new(FALSE, FALSE, sizeof(Touch));
  for (guint i = 0; i < G_N_ELEMENTS(store->known); i++)
    store->known[i].rows = g_array_new(FALSE, FALSE, sizeof(BodyRow));
  store->forgotten = g_array_new(FALSE, FALSE, sizeof(Pending));
  store->dirty_files = g_array_new(FALSE, FALSE, sizeof(guint64));
  g_mutex_init(&store->keeping);
  g_mutex_init(&store->writer);
  g_mutex_init(&store->lock);
  g_mutex_init(&store->pool);
  g_cond_init(&store->wake);
  dir_reserve_drop(store->dir_fd); /* on a full disk not even the index could be opened */
  if (!load(store, config, &notice, error)) {
    store_free(store);
    return NULL;
  }
  dir_reserve(store->dir_fd);
  if (store->disk_packs + store->disk_files > store->limit)
    store->due[JOB_EVICT] = 0;
  store->due[JOB_MARK] = g_get_monotonic_time() + 10 * G_USEC_PER_SEC;
  keeper_start(store);
  if (notice_out)
    *notice_out = g_steal_pointer(&notice);
  return store;
}

/* ---- closing ---- */

/* Bodies that outlive the store stay readable; they own their descriptor from here on. FALSE when
 * the bytes of one should have been freed by now: then the next open has to look for them. */
static gboolean orphan_pins(Store *store) {
  gboolean clean = TRUE;
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->pins);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pin *pin = value;
    if (pin->pack)
      pin->body.fd = dup(pin->body.fd);
    pin->pack = NULL;
    pin->store = NULL;
    clean = clean && !pin->doomed;
  }
  return clean;
}

void store_close(Store **store) {
  Store *taken = g_steal_pointer(store);
  if (!taken)
    return;
  keeper_stop(taken);
  g_autoptr(GError) error = NULL;
  gboolean clean = store_settle(taken, &error) && store_healthy(taken) && !taken->mark_lost;
  if (error)
    log_warning("store: %s", error->message);
  if (orphan_pins(taken) && clean && taken->graveyard->len == 0)
    conn_meta_set(taken->conn, "clean", 1);
  store_free(taken);
}

gboolean store_healthy(Store *store) {
  return !g_atomic_int_get(&store->unhealthy);
}

/* ---- facts and figures ---- */

gboolean store_stats(Store *store, StoreStats *stats_out, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return FALSE;
  autostmt *stmt = conn_stmt(reader.conn, STMT_STATS);
  if (sqlite3_step(stmt) != SQLITE_ROW)
    return store_sql_error(store, reader.conn, "cannot read the index", error);
  stats_out->folders = (guint64) sqlite3_column_int64(stmt, 0);
  stats_out->messages = (guint64) sqlite3_column_int64(stmt, 1);
  stats_out->limit = store->limit;
  g_mutex_lock(&store->lock);
  stats_out->bodies = store->bodies + g_hash_table_size(store->pending);
  stats_out->body_bytes = store->disk_packs + store->disk_files;
  g_mutex_unlock(&store->lock);
  return TRUE;
}

char *store_fact_get(Store *store, const char *key) {
  autoreader reader = reader_take(store, NULL);
  if (!reader.conn)
    return NULL;
  autostmt *stmt = conn_stmt(reader.conn, STMT_FACT_GET);
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  return sqlite3_step(stmt) == SQLITE_ROW
             ? g_strdup((const char *) sqlite3_column_text(stmt, 0))
             : NULL;
}

gboolean store_fact_set(Store *store, const char *key, const char *value, GError **error) {
  writer_lock(store);
  gboolean ok = txn_begin_locked(store, error);
  if (ok) {
    autostmt *stmt = conn_stmt(store->conn, STMT_FACT_SET);
    sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, value, -1, SQLITE_STATIC);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      ok = txn_fail_locked(store, "cannot note a fact", error);
  }
  ok = ok && txn_commit_locked(store, error);
  writer_unlock(store);
  return ok;
}
