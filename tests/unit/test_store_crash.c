/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The store after kill -9, after a crash of the machine (as far as it can be staged), and with a
 * damaged folder.
 */
#include "small_disk.h"
#include "store_help.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CACHE (G_GUINT64_CONSTANT(64) << 20)

static gsize size_of(guint32 uid) {
  return uid % 97 == 0 ? BODY_SMALL_MAX + uid * 13 % 90000 : uid * 37 % 20000;
}

/* ---- kill -9 ---- */

/* What the child has been told is safe; shared memory, so that it survives the child. */
typedef struct {
  gint committed; /* messages 1…committed are in the index */
  gint removed;   /* messages 1…removed were removed */
} Progress;

static void write_until_killed(const char *dir, guint32 space, guint32 first, Progress *progress) {
  Store *store = open_store(dir, 4 << 20);
  for (guint32 uid = first;; uid += 50) {
    put_messages(store, space, uid, uid + 49, 10);
    g_atomic_int_set(&progress->committed, (gint) uid + 49);
    for (guint32 n = uid; n < uid + 50; n++)
      put_body(store, (MsgId){space, n}, size_of(n), 0);
    for (guint32 n = uid; n < uid + 50; n += 7) {
      put_body(store, (MsgId){space, n}, size_of(n), 0); /* replaced */
      g_assert_true(has_body(store, (MsgId){space, n}, size_of(n), 0));
    }
    if (uid > 1500) {
      g_autoptr(GError) error = NULL;
      StoreBatch *batch = store_batch_new(store, space);
      store_batch_remove(batch, 1, uid - 1500, NULL, NULL, &error);
      store_batch_commit(&batch, 0, 0, 0, &error);
      g_assert_no_error(error);
      g_atomic_int_set(&progress->removed, (gint) uid - 1500);
    }
  }
}

static gboolean count_one(const StoreMessage *message, gpointer data) {
  (*(guint *) data)++;
  return TRUE;
}

static void assert_index_ok(const char *dir) {
  g_autofree char *path = g_build_filename(dir, "index.db", NULL);
  sqlite3 *db;
  sqlite3_stmt *stmt;
  g_assert_cmpint(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), ==, SQLITE_OK);
  g_assert_cmpint(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &stmt, NULL), ==, SQLITE_OK);
  g_assert_cmpint(sqlite3_step(stmt), ==, SQLITE_ROW);
  g_assert_cmpstr((const char *) sqlite3_column_text(stmt, 0), ==, "ok");
  sqlite3_finalize(stmt);
  sqlite3_close(db);
}

static void test_kill(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Progress *progress =
      mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  g_assert_true(progress != MAP_FAILED);
  Store *store = open_store(dir, CACHE);
  guint32 space = make_inbox(store, NULL);
  store_close(&store);
  guint64 bodies = 0;
  /* 50 rounds, and as many more, with more time each, as a slow machine needs to keep anything. */
  for (guint round = 0; round < 50 || (bodies <= 1000 && round < 300); round++) {
    guint32 first = (guint32) g_atomic_int_get(&progress->committed) + 1;
    pid_t child = fork();
    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
      write_until_killed(dir, space, first, progress);
      _exit(1);
    }
    g_usleep((gulong) g_test_rand_int_range(1000, 150000 + 5000 * (int) (round / 50 * 50)));
    kill(child, SIGKILL);
    int status;
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_true(WIFSIGNALED(status)); /* it did not fail by itself */

    store = open_store(dir, CACHE);
    assert_index_ok(dir);
    guint32 committed = (guint32) progress->committed, removed = (guint32) progress->removed;
    g_autoptr(StoreFolder) folder = store_folder_by_space(store, space, &error);
    g_assert_no_error(error);
    guint count = 0;
    g_assert_true(store_messages_scan(store, space, 0, G_MAXUINT32, count_one, &count, &error));
    g_assert_cmpuint(folder->count, ==, count);
    for (guint32 uid = 1; uid <= committed; uid++) {
      g_autoptr(StoreMessage) message = store_message_get(store, (MsgId){space, uid}, NULL);
      if (uid <= removed)
        g_assert_null(message);
      else if (uid > removed + 50) /* the next removal may have been under way */
        g_assert_nonnull(message);
      if (!message)
        g_assert_false(has_body(store, (MsgId){space, uid}, size_of(uid), 0));
      else
        bodies += has_body(store, (MsgId){space, uid}, size_of(uid), 0);
    }
    store_close(&store);
  }
  g_test_message("%u messages, %" G_GUINT64_FORMAT " bodies checked", (guint) progress->committed,
                 bodies);
  g_assert_cmpuint(bodies, >, 1000);
  munmap(progress, sizeof *progress);
  dir_remove_tree(dir);
  g_free(dir);
}

/* ---- staged crashes: a child that ends without closing ---- */

typedef void (*ChildFn)(Store *store, guint32 space);

/* Runs @child in a process of its own that ends without store_close. */
static void in_child(const char *dir, guint32 space, ChildFn child) {
  pid_t pid = fork();
  g_assert_cmpint(pid, >=, 0);
  if (pid == 0) {
    Store *store = open_store(dir, CACHE);
    child(store, space);
    _exit(0);
  }
  int status;
  g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
  g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void sql(const char *dir, const char *statement) {
  g_autofree char *path = g_build_filename(dir, "index.db", NULL);
  sqlite3 *db;
  g_assert_cmpint(sqlite3_open(path, &db), ==, SQLITE_OK);
  g_assert_cmpint(sqlite3_exec(db, statement, NULL, NULL, NULL), ==, SQLITE_OK);
  sqlite3_close(db);
}

static void child_writes(Store *store, guint32 space) {
  for (guint uid = 1; uid <= 10; uid++)
    put_body(store, (MsgId){space, uid}, 5000, 0);
  put_body(store, (MsgId){space, 11}, 500000, 0);
  settle(store); /* the mark covers these */
  for (guint uid = 12; uid <= 20; uid++)
    put_body(store, (MsgId){space, uid}, 5000, 0);
  put_body(store, (MsgId){space, 21}, 500000, 0);
  g_autoptr(GError) error = NULL;
  g_assert_true(body_flush(store, &error)); /* rows written, bytes not synced */
}

static void crash_test(gboolean machine) {
  char *dir = new_dir();
  Store *store = open_store(dir, CACHE);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 30, 10);
  store_close(&store);
  in_child(dir, space, child_writes);
  if (machine)
    sql(dir, "UPDATE meta SET value = 'another' WHERE key = 'boot'");
  store = open_store(dir, CACHE);
  /* What a killed process wrote is not synced yet, and must be before a mark covers it. */
  g_mutex_lock(&store->lock);
  Pack *pack = g_hash_table_lookup(store->packs, GUINT_TO_POINTER(1));
  g_assert_cmpint(pack->dirty, ==, !machine);
  g_assert_cmpuint(store->dirty_files->len, ==, machine ? 0 : 1);
  g_mutex_unlock(&store->lock);
  for (guint uid = 1; uid <= 21; uid++)
    g_assert_cmpint(has_body(store, (MsgId){space, uid}, uid == 11 || uid == 21 ? 500000 : 5000, 0),
                    ==, uid <= 11 || !machine);
  close_and_remove(&store, dir);
}

static void test_crash_process(void) {
  crash_test(FALSE);
}

static void test_crash_machine(void) {
  crash_test(TRUE);
}

/* After a clean close another boot loses nothing. */
static void test_reboot(void) {
  char *dir = new_dir();
  Store *store = open_store(dir, CACHE);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 30, 10);
  put_body(store, (MsgId){space, 1}, 5000, 0);
  store_close(&store);
  sql(dir, "UPDATE meta SET value = 'another' WHERE key = 'boot'");
  store = open_store(dir, CACHE);
  g_assert_true(has_body(store, (MsgId){space, 1}, 5000, 0));
  close_and_remove(&store, dir);
}

static void child_appends(Store *store, guint32 space) {
  g_autoptr(GError) error = NULL;
  for (guint uid = 1; uid <= 3; uid++)
    put_body(store, (MsgId){space, uid}, 100000, 0);
  settle(store);
  /* Bytes without rows: in the pack, as a file of its own, as a partial file, as a whole pack. */
  Extent at;
  g_autofree guchar *octets = g_malloc0(200000);
  g_assert_true(pack_append(store, octets, 200000, &at, &error));
  g_autofree char *file = g_build_filename(store->dir, "bodies", "07", NULL);
  g_mkdir(file, 0700);
  g_autofree char *stray = g_build_filename(file, "7", NULL);
  g_assert_true(g_file_set_contents(stray, "x", 1, NULL));
  g_autofree char *pack = g_build_filename(store->dir, "packs", "000077", NULL);
  g_assert_true(g_file_set_contents(pack, "x", 1, NULL));
  /* A row that went while its bytes did not. */
  writer_lock(store);
  g_assert_true(txn_begin_locked(store, &error));
  g_assert_true(txn_drop_bodies_locked(store, space, 2, 2, &error));
  g_assert_true(txn_commit_locked(store, &error));
  writer_unlock(store);
}

static void test_garbage(void) {
  char *dir = new_dir();
  Store *store = open_store(dir, CACHE);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 30, 10);
  store_close(&store);
  in_child(dir, space, child_appends);
  store = open_store(dir, CACHE);
  g_autofree char *pack = g_build_filename(dir, "packs", "000001", NULL);
  struct stat status;
  g_assert_cmpint(stat(pack, &status), ==, 0);
  g_assert_cmpint(status.st_size, ==, 300000);
  g_assert_cmpint(status.st_blocks * 512, <=, 200000 + 4 * STORE_BLOCK);
  g_autofree char *stray = g_build_filename(dir, "bodies", "07", "7", NULL);
  g_assert_false(g_file_test(stray, G_FILE_TEST_EXISTS));
  g_autofree char *other = g_build_filename(dir, "packs", "000077", NULL);
  g_assert_false(g_file_test(other, G_FILE_TEST_EXISTS));
  g_assert_true(has_body(store, (MsgId){space, 1}, 100000, 0));
  g_assert_false(has_body(store, (MsgId){space, 2}, 100000, 0));
  g_assert_true(has_body(store, (MsgId){space, 3}, 100000, 0));
  close_and_remove(&store, dir);
}

/* ---- damage ---- */

static guint count_asides(const char *dir) {
  g_autofree char *parent = g_path_get_dirname(dir);
  g_autofree char *base = g_path_get_basename(dir);
  g_autofree char *prefix = g_strconcat(base, ".aside-", NULL);
  g_autoptr(GDir) entries = g_dir_open(parent, 0, NULL);
  guint count = 0;
  const char *name;
  while ((name = g_dir_read_name(entries)))
    count += g_str_has_prefix(name, prefix);
  return count;
}

static void remove_all(char *dir) {
  g_autofree char *command = g_strdup_printf("rm -rf '%s' '%s'.aside-*", dir, dir);
  g_assert_cmpint(system(command), ==, 0);
  g_free(dir);
}

/* Opens a store that must be set aside. */
static Store *open_aside(const char *dir, const char *identity, const char *why) {
  g_autoptr(GError) error = NULL;
  g_autofree char *notice = NULL;
  StoreConfig config = {.dir = dir, .identity = identity, .cache_size = CACHE};
  Store *store = store_open(&config, &notice, &error);
  g_assert_no_error(error);
  g_assert_nonnull(notice);
  g_test_message("%s", notice);
  g_assert_nonnull(strstr(notice, why));
  g_assert_null(strchr(notice, '\n'));
  g_assert_true(store_healthy(store));
  g_autoptr(GPtrArray) folders = store_folders(store, G_MAXUINT32, &error);
  g_assert_cmpuint(folders->len, ==, 0);
  return store;
}

static void overwrite(const char *dir, const char *file, off_t offset, gsize size) {
  g_autofree char *path = g_build_filename(dir, file, NULL);
  int fd = open(path, O_WRONLY | O_CREAT, 0600);
  g_assert_cmpint(fd, >=, 0);
  g_autofree char *octets = g_malloc(size);
  memset(octets, 0xa5, size);
  g_assert_cmpint(pwrite(fd, octets, size, offset), ==, size);
  close(fd);
}

static void make_store(const char *dir, guint32 *space_out) {
  Store *store = open_store(dir, CACHE);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 5000, 10);
  for (guint uid = 1; uid <= 20; uid++)
    put_body(store, (MsgId){space, uid}, 10000, 0);
  put_body(store, (MsgId){space, 21}, 1000000, 0);
  store_close(&store);
  if (space_out)
    *space_out = space;
}

typedef enum {
  HARM_GARBAGE,
  HARM_TRUNCATED,
  HARM_HEADER_ONLY,
  HARM_FOREIGN,
  HARM_FUTURE,
  HARM_NOT_OURS,
  HARM_BODIES,
  HARM_NO_TABLE,
} Harm;

static void harm_test(gconstpointer data) {
  Harm harm = (Harm) GPOINTER_TO_INT(data);
  char *dir = new_dir();
  make_store(dir, NULL);
  g_autofree char *index = g_build_filename(dir, "index.db", NULL);
  const char *identity = IDENTITY, *why = "damaged";
  switch (harm) {
  case HARM_GARBAGE:
    overwrite(dir, "index.db", 0, 100000);
    break;
  case HARM_TRUNCATED:
    g_assert_cmpint(truncate(index, 40960), ==, 0);
    break;
  case HARM_HEADER_ONLY:
    g_assert_cmpint(truncate(index, 50), ==, 0);
    break;
  case HARM_FOREIGN:
    identity = "bert@example.org@mail.example.org";
    why = "another account";
    break;
  case HARM_FUTURE:
    sql(dir, "PRAGMA user_version = 99");
    why = "another version";
    break;
  case HARM_NOT_OURS:
    g_assert_cmpint(g_unlink(index), ==, 0);
    sql(dir, "CREATE TABLE x(y)");
    why = "another version";
    break;
  case HARM_NO_TABLE:
    sql(dir, "DROP TABLE body");
    break;
  case HARM_BODIES: {
    /* Every page but the first few. */
    struct stat status;
    g_assert_cmpint(stat(index, &status), ==, 0);
    overwrite(dir, "index.db", 4096 * 3, (gsize) status.st_size - 4096 * 3);
    break;
  }
  default:
    g_assert_not_reached();
  }
  Store *store = open_aside(dir, identity, why);
  g_assert_cmpuint(count_asides(dir), ==, 1);
  g_autofree char *pack = g_build_filename(dir, "packs", "000001", NULL);
  g_assert_false(g_file_test(pack, G_FILE_TEST_EXISTS));
  store_close(&store);
  remove_all(dir);
}

/* At most two are kept, whatever else lies beside. */
static void test_asides(void) {
  char *dir = new_dir();
  g_autofree char *other = g_strconcat(dir, ".aside-mine", NULL);
  g_mkdir(other, 0700);
  for (guint i = 0; i < 4; i++) {
    make_store(dir, NULL);
    overwrite(dir, "index.db", 0, 100000);
    Store *store = open_aside(dir, IDENTITY, "damaged");
    store_close(&store);
    g_assert_cmpuint(count_asides(dir), ==, 1 + MIN(i + 1, 2));
  }
  remove_all(dir);
}

/* Damage that shows while the store is open: unhealthy, and set aside at the next open. */
static void test_later_damage(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  guint32 space;
  make_store(dir, &space);
  Store *store = open_store(dir, CACHE);
  g_assert_true(store_healthy(store));
  struct stat status;
  g_autofree char *index = g_build_filename(dir, "index.db", NULL);
  g_assert_cmpint(stat(index, &status), ==, 0);
  overwrite(dir, "index.db", 4096 * 20, (gsize) status.st_size - 4096 * 20);
  guint count = 0;
  g_assert_false(store_messages_scan(store, space, 0, G_MAXUINT32, count_one, &count, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_CORRUPT);
  g_assert_false(store_healthy(store));
  store_close(&store);
  store = open_aside(dir, IDENTITY, "damaged");
  store_close(&store);
  remove_all(dir);
}

static void test_packs_damaged(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  guint32 space;
  make_store(dir, &space);
  g_autofree char *pack = g_build_filename(dir, "packs", "000001", NULL);
  g_assert_cmpint(truncate(pack, 10000 * 10 + 5000), ==, 0);
  Store *store = open_store(dir, CACHE);
  for (guint uid = 1; uid <= 21; uid++)
    g_assert_cmpint(has_body(store, (MsgId){space, uid}, uid == 21 ? 1000000 : 10000, 0), ==,
                    uid <= 10 || uid == 21);
  /* While it is open. */
  g_assert_cmpint(truncate(pack, 5000), ==, 0);
  g_assert_false(has_body(store, (MsgId){space, 5}, 10000, 0));
  settle(store);
  g_autoptr(GArray) missing = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
  g_assert_true(store_missing_bodies(store, space, 4, 1, 1000, missing, &error));
  g_assert_cmpuint(g_array_index(missing, StoreMissing, 0).uid, ==, 5);
  /* A file of its own, cut short and then gone. */
  g_autofree char *cut =
      g_strdup_printf("find '%s/bodies' -type f -exec truncate -s 1000 {} +", dir);
  g_assert_cmpint(system(cut), ==, 0);
  g_assert_false(has_body(store, (MsgId){space, 21}, 1000000, 0));
  put_body(store, (MsgId){space, 21}, 1000000, 0);
  settle(store);
  g_autofree char *gone = g_strdup_printf("find '%s/bodies' -type f -delete", dir);
  g_assert_cmpint(system(gone), ==, 0);
  g_assert_false(has_body(store, (MsgId){space, 21}, 1000000, 0));
  put_body(store, (MsgId){space, 5}, 777, 0); /* it heals */
  g_assert_true(has_body(store, (MsgId){space, 5}, 777, 0));
  store_close(&store);
  g_assert_cmpint(g_unlink(pack), ==, 0);
  store = open_store(dir, CACHE);
  for (guint uid = 1; uid <= 21; uid++)
    g_assert_false(has_body(store, (MsgId){space, uid}, 10000, 0));
  put_body(store, (MsgId){space, 5}, 777, 0);
  g_assert_true(has_body(store, (MsgId){space, 5}, 777, 0));
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, 1);
  close_and_remove(&store, dir);
}

static void test_busy(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  g_assert_cmpint(chmod(dir, 0755), ==, 0);
  Store *store = open_store(dir, CACHE);
  struct stat status;
  g_assert_cmpint(stat(dir, &status), ==, 0);
  g_assert_cmpuint(status.st_mode & 0777, ==, 0700);
  StoreConfig config = {.dir = dir, .identity = IDENTITY, .cache_size = CACHE};
  g_assert_null(store_open(&config, NULL, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_BUSY);
  g_autofree char *pid = g_strdup_printf("process %d", (int) getpid());
  g_assert_nonnull(strstr(error->message, pid));
  store_close(&store);
  store_close(&store);
  store = open_store(dir, CACHE);
  close_and_remove(&store, dir);
}

/* ---- a full disk ---- */

static void full_disk_child(const char *dir) {
  in_small_filesystem(dir, "size=8m,mode=0700");
  Store *store = open_store(dir, G_GUINT64_CONSTANT(1) << 30);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 2000, 10);
  guint failed = 0, written = 0;
  for (guint uid = 1; uid <= 2000; uid++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StoreBody) body =
        write_body(store, (MsgId){space, uid}, uid % 100 == 0 ? 400000 : 20000, 0, &error);
    if (!body) {
      g_assert_error(error, EML_ERROR, EML_ERROR_NO_SPACE);
      failed++;
      /* The index keeps working. */
      g_clear_error(&error);
      settle(store);
      StoreBatch *batch = store_batch_new(store, space);
      g_assert_true(store_batch_flags(batch, uid, 1, "k", uid + 1, 5, NULL, &error));
      store_batch_commit(&batch, 1, 1, 1, &error);
      g_assert_no_error(error);
    } else {
      written++;
      g_assert_true(body_matches(body, (MsgId){space, uid}, 0));
    }
  }
  g_assert_cmpuint(failed, >, 0);
  g_assert_cmpuint(written, >, 1000);
  g_assert_true(store_healthy(store));
  settle(store);
  guint here = 0;
  for (guint uid = 1; uid <= 2000; uid++)
    here += has_body(store, (MsgId){space, uid}, uid % 100 == 0 ? 400000 : 20000, 0);
  g_assert_cmpuint(here, >, 50);
  store_close(&store);
  store = open_store(dir, G_GUINT64_CONSTANT(1) << 30);
  g_assert_true(store_healthy(store));
  store_close(&store);
  _exit(0);
}

G_GNUC_UNUSED static void test_full_disk(void) {
  on_small_disk(full_disk_child);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/store/kill", test_kill);
  g_test_add_func("/store/crash-process", test_crash_process);
  g_test_add_func("/store/crash-machine", test_crash_machine);
  g_test_add_func("/store/reboot", test_reboot);
  g_test_add_func("/store/garbage", test_garbage);
  static const char *const harms[] = {"garbage", "truncated", "header-only", "foreign",
                                      "future",  "not-ours",  "bodies",      "no-table"};
  for (guint i = 0; i < G_N_ELEMENTS(harms); i++) {
    g_autofree char *path = g_strconcat("/store/harm/", harms[i], NULL);
    g_test_add_data_func(path, GINT_TO_POINTER(i), harm_test);
  }
  g_test_add_func("/store/asides", test_asides);
  g_test_add_func("/store/later-damage", test_later_damage);
  g_test_add_func("/store/packs-damaged", test_packs_damaged);
  g_test_add_func("/store/busy", test_busy);
#ifndef __SANITIZE_THREAD__ /* whose own thread keeps an ordinary user from a user namespace */
  g_test_add_func("/store/full-disk", test_full_disk);
#endif
  return g_test_run();
}
