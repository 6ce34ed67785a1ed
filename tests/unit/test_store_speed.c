/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Measures the store with many messages: test_store_speed -m perf. Without, a small run that only
 * has to work.
 */
#include "store_help.h"

static double since(gint64 begun) {
  return (double) (g_get_monotonic_time() - begun) / G_USEC_PER_SEC;
}

static guint64 resident_kib(const char *what) {
  g_autofree char *text = NULL;
  g_assert_true(g_file_get_contents("/proc/self/status", &text, NULL, NULL));
  return g_ascii_strtoull(strstr(text, what) + strlen(what), NULL, 10);
}

static gboolean count_one(const StoreMessage *message, gpointer data) {
  ((guint32 *) data)[0]++;
  ((guint32 *) data)[1] = message->uid;
  return TRUE;
}

static void measure(guint32 messages, guint32 bodies) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, G_GUINT64_CONSTANT(2) << 30);
  guint32 id, space = make_inbox(store, &id);
  gint64 begun = g_get_monotonic_time();
  put_messages(store, space, 1, messages, 10000);
  g_test_message("%u messages put: %.3f s", messages, since(begun));

  for (guint i = 0; i < 2; i++) {
    begun = g_get_monotonic_time();
    guint32 seen[2] = {0, 0}, before;
    do {
      before = seen[0];
      store_messages_scan(store, space, seen[1], 1000, count_one, seen, &error);
      g_assert_no_error(error);
    } while (seen[0] > before);
    g_assert_cmpuint(seen[0], ==, messages);
    g_test_message("scan in chunks of 1000: %.3f s", since(begun));
  }

  begun = g_get_monotonic_time();
  StoreBatch *batch = store_batch_new(store, space);
  for (guint32 uid = 1; uid <= messages; uid++)
    store_batch_flags(batch, uid, MSG_FLAG_SEEN, "", uid + 5, 1, NULL, &error);
  store_batch_commit(&batch, messages + 1, 1, 1, &error);
  g_assert_no_error(error);
  g_test_message("flags of all: %.3f s", since(begun));

  begun = g_get_monotonic_time();
  for (guint32 i = 0; i < bodies; i++) {
    char name[80];
    guint32 uid = 1 + (guint32) ((guint64) i * 7919 % messages);
    g_snprintf(name, sizeof name, "2026-11-20_Anna-Alpha_Subject-of-number-%u.%u.eml", uid, uid);
    store_message_free(store_message_by_name(store, space, name, &error));
    g_assert_no_error(error);
  }
  g_test_message("by name: %.2f us", since(begun) * 1e6 / bodies);

  begun = g_get_monotonic_time();
  for (guint32 uid = 1; uid <= bodies; uid++) {
    static char octets[10000];
    StoreWriter *writer = store_writer_new(store, sizeof octets, &error);
    store_writer_write(writer, octets, sizeof octets, &error);
    store_body_unref(store_writer_commit(&writer, (MsgId){space, uid}, &error));
    g_assert_no_error(error);
  }
  settle(store);
  g_test_message("body of 10 kB written: %.2f us", since(begun) * 1e6 / bodies);
  for (guint i = 0; i < 2; i++) {
    begun = g_get_monotonic_time();
    for (guint32 uid = 1; uid <= bodies; uid++)
      store_body_unref(store_body_get(store, (MsgId){space, uid}, &error));
    g_assert_no_error(error);
    g_test_message("body got: %.2f us", since(begun) * 1e6 / bodies);
  }
  begun = g_get_monotonic_time();
  g_autoptr(GArray) missing = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
  store_missing_bodies(store, space, 0, 1, 1, missing, &error);
  g_test_message("missing bodies past %u: %.3f s", bodies, since(begun));
  g_test_message("resident %" G_GUINT64_FORMAT " KiB, at most %" G_GUINT64_FORMAT " KiB",
                 resident_kib("VmRSS:"), resident_kib("VmHWM:"));
  begun = g_get_monotonic_time();
  store_close(&store);
  g_test_message("close: %.3f s", since(begun));
  begun = g_get_monotonic_time();
  store = open_store(dir, G_GUINT64_CONSTANT(2) << 30);
  g_test_message("open: %.3f s", since(begun));
  begun = g_get_monotonic_time();
  g_assert_true(store_drop_bodies(store, &error));
  g_test_message("drop bodies: %.3f s", since(begun));
  begun = g_get_monotonic_time();
  guint32 renewed;
  g_assert_true(store_folder_renew(store, id, 2, &renewed, &error));
  g_test_message("renew: %.3f s", since(begun));
  g_test_message("resident %" G_GUINT64_FORMAT " KiB, at most %" G_GUINT64_FORMAT " KiB",
                 resident_kib("VmRSS:"), resident_kib("VmHWM:"));
  close_and_remove(&store, dir);
}

static void test_small(void) {
  measure(2000, 500);
}

static void test_large(void) {
  measure(100000, 50000);
}

static void test_huge(void) {
  measure(1000000, 100000);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  if (g_test_perf()) {
    g_test_add_func("/store/speed/100,000", test_large);
    g_test_add_func("/store/speed/1,000,000", test_huge);
  } else {
    g_test_add_func("/store/speed/small", test_small);
  }
  return g_test_run();
}
