/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/line.h"

#define SECOND G_USEC_PER_SEC

typedef struct {
  Line *line;
  gint64 now;
} Case;

static Case begin(gboolean offered) {
  Case test = {line_new(), 100 * SECOND};
  line_offered(test.line, offered);
  return test;
}

/* @seconds of a transfer over connections of the kind that is wanted: @rate octets a second that take
 * @wire_part of that on the wire, waited for @waited of the time. */
static void transfer(Case *test, int seconds, double rate, double wire_part, double waited) {
  for (int i = 0; i < 5 * seconds; i++) {
    test->now += SECOND / 5;
    LineSample sample = {.compressed = line_compress(test->line),
                         .octets = (guint64) (rate / 5),
                         .wire = (guint64) (rate / 5 * wire_part),
                         .us = SECOND / 5,
                         .waited_us = (gint64) (SECOND / 5 * waited)};
    line_note(test->line, &sample, test->now);
  }
}

static void test_slow_line(void) {
  Case test = begin(TRUE);
  transfer(&test, 1, 1e6, 1, 0.95);
  transfer(&test, 2, 1e6, 1, 0.95);
  g_assert_true(line_compress(test.line));
  transfer(&test, 60, 2.5e6, 0.4, 0.8); /* it pays */
  g_assert_true(line_compress(test.line));
  g_assert_cmpuint(line_rate(test.line), >, 2400000);
  line_free(test.line);
}

static void test_it_does_not_pay(void) {
  Case test = begin(TRUE);
  transfer(&test, 3, 1e6, 1, 0.95);
  g_assert_true(line_compress(test.line));
  transfer(&test, 10, 1e6, 0.9, 0.95); /* the server is slow, not the line */
  g_assert_false(line_compress(test.line));
  transfer(&test, 300, 1e6, 1, 0.95); /* and it is not tried all the time, */
  g_assert_false(line_compress(test.line));
  for (int i = 0; i < 600 && !line_compress(test.line); i++)
    transfer(&test, 1, 1e6, 1, 0.95);
  g_assert_true(line_compress(test.line)); /* but again some time */
  line_free(test.line);
}

static void test_fast_line(void) {
  Case test = begin(TRUE);
  transfer(&test, 20, 50e6, 1, 0.9);
  g_assert_false(line_compress(test.line));
  transfer(&test, 20, 2e6, 1, 0.2); /* we are what is slow */
  g_assert_false(line_compress(test.line));
  line_free(test.line);
}

static void test_hysteresis(void) {
  Case test = begin(TRUE);
  transfer(&test, 3, 3e6, 1, 0.9);
  g_assert_true(line_compress(test.line));
  transfer(&test, 20, 12e6, 0.5, 0.7); /* 6 MB/s on the wire: more than the threshold, not much more */
  g_assert_true(line_compress(test.line));
  transfer(&test, 5, 20e6, 0.5, 0.7);
  g_assert_false(line_compress(test.line));
  line_free(test.line);
}

static void test_not_offered(void) {
  Case test = begin(FALSE);
  transfer(&test, 20, 1e5, 1, 0.99);
  g_assert_false(line_compress(test.line));
  g_autoptr(GString) text = g_string_new(NULL);
  line_describe(test.line, text);
  g_assert_cmpstr(text->str, ==, "compression: not offered by the server, line 0.1 MB/s\n");
  line_free(test.line);
}

static void test_very_slow(void) {
  Case test = begin(TRUE);
  transfer(&test, 30, 2e4, 1, 0.99);
  g_assert_true(line_compress(test.line));
  line_free(test.line);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/line/slow", test_slow_line);
  g_test_add_func("/line/does-not-pay", test_it_does_not_pay);
  g_test_add_func("/line/fast", test_fast_line);
  g_test_add_func("/line/hysteresis", test_hysteresis);
  g_test_add_func("/line/not-offered", test_not_offered);
  g_test_add_func("/line/very-slow", test_very_slow);
  return g_test_run();
}
