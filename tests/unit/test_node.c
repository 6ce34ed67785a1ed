/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/node.h"

static void check_round_trip(Node node) {
  Node back;
  guint64 ino = node_ino(node);
  g_assert_true(node_parse(ino, &back));
  g_assert_cmpint(back.kind, ==, node.kind);
  g_assert_cmpuint(back.id, ==, node.id);
  g_assert_cmpuint(back.uid, ==, node.uid);
  g_assert_cmpuint(ino, <, (guint64) 1 << 63);
}

static void test_round_trip(void) {
  check_round_trip((Node){NODE_ROOT, 0, 0});
  check_round_trip((Node){NODE_FOLDER, 1, 0});
  check_round_trip((Node){NODE_FOLDER, NODE_MAX_ID, 0});
  check_round_trip((Node){NODE_MESSAGE, 1, 1});
  check_round_trip((Node){NODE_MESSAGE, NODE_MAX_ID, G_MAXUINT32});
  check_round_trip((Node){NODE_CONTROL_DIR, 0, 0});
  check_round_trip((Node){NODE_CONTROL_FILE, 2, 0});
  check_round_trip((Node){NODE_LOCAL, 1, 0});
  check_round_trip((Node){NODE_LOCAL, NODE_MAX_ID, 1});
  check_round_trip((Node){NODE_MAILDIR, 0, 0});
  check_round_trip((Node){NODE_MAILDIR, NODE_MAX_ID, 4});
}

/* Programs remember inode numbers: these never change. */
static void test_numbers_are_fixed(void) {
  g_assert_cmphex(node_ino((Node){NODE_ROOT, 0, 0}), ==, 1);
  g_assert_cmphex(node_folder_ino(0), ==, 1);
  g_assert_cmphex(node_folder_ino(5), ==, 0x1000000500000000);
  g_assert_cmphex(node_message_ino(0xabcdef1, 0xfffffffe), ==, 0x2abcdef1fffffffe);
  g_assert_cmphex(node_ino((Node){NODE_CONTROL_DIR, 0, 0}), ==, 0x3000000000000000);
  g_assert_cmphex(node_ino((Node){NODE_CONTROL_FILE, 1, 0}), ==, 0x4000000100000000);
  g_assert_cmphex(node_local_ino(7, FALSE), ==, 0x5000000700000000);
  g_assert_cmphex(node_local_ino(7, TRUE), ==, 0x5000000700000001);
  g_assert_cmphex(node_maildir_ino(0, 0), ==, 0x6000000000000000);
  g_assert_cmphex(node_maildir_ino(7, 3), ==, 0x6000000700000003);
}

static void test_foreign_numbers(void) {
  static const guint64 foreign[] = {
      0, 2, 0xffffffff, 0x1000000000000000, 0x1000000500000001, 0x2000000000000001,
      0x2000000100000000, 0x3000000000000001, 0x4000000000000000, 0x5000000000000000,
      0x5000000100000002, 0x6000000000000001, 0x6000000100000005, 0x7000000100000001, G_MAXUINT64,
  };
  Node node;
  for (gsize i = 0; i < G_N_ELEMENTS(foreign); i++)
    g_assert_false(node_parse(foreign[i], &node));
}

static void test_cookies_sort(void) {
  gint64 in_order[] = {
      cookie_make(COOKIE_SPECIAL, 1),          cookie_make(COOKIE_SPECIAL, 3),
      cookie_make(COOKIE_FOLDER, 1),           cookie_make(COOKIE_FOLDER, NODE_MAX_ID),
      cookie_make(COOKIE_MESSAGE, 1),          cookie_make(COOKIE_MESSAGE, G_MAXUINT32),
      cookie_make(COOKIE_GUEST, 1),            cookie_make(COOKIE_GUEST, G_MAXUINT32),
      cookie_make(COOKIE_LATER, 1),            cookie_make(COOKIE_LATER, G_MAXUINT32),
  };
  gint64 last = 0;
  for (gsize i = 0; i < G_N_ELEMENTS(in_order); i++) {
    g_assert_cmpint(in_order[i], >, last);
    last = in_order[i];
  }
  g_assert_cmpint(cookie_class(last), ==, COOKIE_LATER);
  g_assert_cmpuint(cookie_number(last), ==, G_MAXUINT32);
  g_assert_cmpint(cookie_class(0), ==, COOKIE_START);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/node/round-trip", test_round_trip);
  g_test_add_func("/node/numbers-are-fixed", test_numbers_are_fixed);
  g_test_add_func("/node/foreign-numbers", test_foreign_numbers);
  g_test_add_func("/node/cookies-sort", test_cookies_sort);
  return g_test_run();
}
