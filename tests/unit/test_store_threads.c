/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Readers that scan and open bodies while others write batches, write and evict bodies. Run under
 * ThreadSanitizer too.
 */
#include "base/name-uid.h"
#include "store_help.h"

#define LIMIT (G_GUINT64_CONSTANT(3) << 20)
#define MESSAGES 2000
#define READERS 3
#define WRITERS 2

typedef struct {
  Store *store;
  guint32 space;
  guint number;
  gint *stop; /* atomic */
  guint done;
} Worker;

static gsize size_of(guint32 uid) {
  return uid % 101 == 0 ? BODY_SMALL_MAX + 5000 : 3000 + uid * 11 % 9000;
}

typedef struct {
  guint32 last;
  guint count;
} Scan;

static gboolean check_order(const StoreMessage *message, gpointer data) {
  Scan *scan = data;
  g_assert_cmpuint(message->uid, >, scan->last);
  g_assert_cmpuint(name_uid(message->name), ==, message->uid);
  scan->last = message->uid;
  scan->count++;
  return TRUE;
}

static gpointer read_main(gpointer data) {
  Worker *worker = data;
  g_autoptr(GRand) rand = g_rand_new_with_seed(worker->number);
  while (!g_atomic_int_get(worker->stop)) {
    g_autoptr(GError) error = NULL;
    Scan scan = {0};
    guint before;
    do {
      before = scan.count;
      g_assert_true(store_messages_scan(worker->store, worker->space, scan.last, 500, check_order,
                                        &scan, &error));
    } while (scan.count - before == 500);
    for (guint i = 0; i < 100; i++) {
      MsgId id = {worker->space, (guint32) g_rand_int_range(rand, 1, MESSAGES)};
      g_autoptr(StoreBody) body = store_body_get(worker->store, id, &error);
      g_assert_no_error(error);
      if (!body)
        continue;
      g_assert_cmpuint(body->length, ==, size_of(id.uid));
      g_autoptr(StoreBody) more = store_body_ref(body);
      if (i % 10 == 0)
        g_usleep(100);
      g_assert_true(body_matches(more, id, 0));
      worker->done++;
    }
    StoreStats stats;
    g_assert_true(store_stats(worker->store, &stats, &error));
    g_autoptr(StoreFolder) folder = store_folder_by_space(worker->store, worker->space, &error);
    g_assert_nonnull(folder);
  }
  return NULL;
}

static gpointer write_main(gpointer data) {
  Worker *worker = data;
  g_autoptr(GRand) rand = g_rand_new_with_seed(1000 + worker->number);
  while (!g_atomic_int_get(worker->stop)) {
    g_autoptr(GError) error = NULL;
    MsgId id = {worker->space, (guint32) g_rand_int_range(rand, 1, MESSAGES)};
    g_autoptr(StoreBody) body = write_body(worker->store, id, size_of(id.uid), 0, &error);
    if (!body) /* the message was removed meanwhile */
      g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
    else
      g_assert_true(body_matches(body, id, 0));
    worker->done++;
  }
  return NULL;
}

static gpointer batch_main(gpointer data) {
  Worker *worker = data;
  g_autoptr(GRand) rand = g_rand_new_with_seed(2000 + worker->number);
  while (!g_atomic_int_get(worker->stop)) {
    g_autoptr(GError) error = NULL;
    guint32 uid = (guint32) g_rand_int_range(rand, 1, MESSAGES);
    StoreBatch *batch = store_batch_new(worker->store, worker->space);
    if (worker->done % 3 == 0)
      store_batch_remove(batch, uid, uid + 20, NULL, NULL, &error);
    g_assert_no_error(error);
    for (guint32 n = uid; n < uid + 100; n++)
      store_batch_flags(batch, n, n & 3, "", n, n, NULL, &error);
    g_assert_no_error(error);
    if (worker->done % 5 == 0) {
      store_batch_abort(&batch);
    } else {
      store_batch_commit(&batch, MESSAGES, 1, 0, &error);
      g_assert_no_error(error);
    }
    if (worker->done % 3 == 0)
      put_messages(worker->store, worker->space, uid, uid + 20, 10);
    worker->done++;
    g_usleep(500);
  }
  return NULL;
}

static void test_threads(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, LIMIT);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, MESSAGES + 40, 10);
  gint stop = 0;
  Worker workers[READERS + WRITERS + 2];
  GThread *threads[G_N_ELEMENTS(workers)];
  for (guint i = 0; i < G_N_ELEMENTS(workers); i++) {
    workers[i] = (Worker){store, space, i, &stop, 0};
    threads[i] = g_thread_new("worker",
                              i < READERS             ? read_main
                              : i < READERS + WRITERS ? write_main
                                                      : batch_main,
                              &workers[i]);
  }
  g_usleep((g_test_slow() ? 20 : 3) * G_USEC_PER_SEC);
  g_atomic_int_set(&stop, 1);
  for (guint i = 0; i < G_N_ELEMENTS(workers); i++) {
    g_thread_join(threads[i]);
    g_test_message("thread %u: %u", i, workers[i].done);
    g_assert_cmpuint(workers[i].done, >, 0);
  }
  settle(store);
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.body_bytes, <=, LIMIT);
  Scan scan = {0};
  g_assert_true(store_messages_scan(store, space, 0, G_MAXUINT32, check_order, &scan, &error));
  g_assert_cmpuint(stats.messages, ==, scan.count);
  guint here = 0;
  for (guint32 uid = 1; uid <= MESSAGES + 40; uid++)
    here += has_body(store, (MsgId){space, uid}, size_of(uid), 0);
  g_assert_cmpuint(stats.bodies, ==, here);
  g_assert_true(store_healthy(store));
  store_close(&store);
  store = open_store(dir, LIMIT);
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, here);
  close_and_remove(&store, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/store/threads", test_threads);
  return g_test_run();
}
