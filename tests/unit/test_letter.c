/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is a message, and what it looks like when it is stored.
 */
#include <string.h>
#include <sys/mman.h>

#include "base/autofd.h"
#include "base/err.h"
#include "mime/letter.h"

#define MIB (1024 * 1024)
#define BLOCK (256 * 1024) /* what the code reads at once */

static int file_with(const char *octets, gsize size) {
  int fd = memfd_create("letter", MFD_CLOEXEC);
  for (gsize done = 0; done < size;) {
    gssize put = write(fd, octets + done, size - done);
    g_assert_cmpint(put, >, 0);
    done += (gsize) put;
  }
  return fd;
}

/* Checks @octets, which must be a message. */
static Letter check_good(const char *octets, gsize size) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_with(octets, size);
  Letter letter;
  gboolean ok = letter_check(fd, size, &letter, &error);
  g_assert_no_error(error);
  g_assert_true(ok);
  return letter;
}

/* Checks @octets, which must be refused with @words as the reason. */
static void check_bad(const char *octets, gsize size, const char *words) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_with(octets, size);
  Letter letter;
  g_assert_false(letter_check(fd, size, &letter, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_INVALID);
  if (!strstr(error->message, words))
    g_error("'%s' is not in: %s", words, error->message);
  g_assert_null(strchr(error->message, '\n'));
  letter_clear(&letter);
}

static const struct {
  const char *octets, *message_id;
  guint flags;
  guint added; /* octets of line ends */
} good[] = {
    {"A: b\r\n\r\nbody\r\n", NULL, 0, 0},
    {"A: b\n\nbody\n", NULL, 0, 3},
    {"A: b\r\rbody\r", NULL, 0, 3},
    {"A: b\r\n\r\nx\ry\nz\r\r\n\n", NULL, 0, 4},
    {"A: b\r\n\r\n\n\r\r\n\n\r", NULL, 0, 4},
    {"A: b", NULL, 0, 0},
    {"A: b\r\n", NULL, 0, 0},
    {"A: b\r\n\r\n", NULL, 0, 0},
    {"A:\r\n", NULL, 0, 0},
    {"Obsolete : yes\n", NULL, 0, 1},
    {"From : a@b\n", NULL, 0, 1},
    {"A: b\r\n\r\nno field: \x80\xff\r\n", NULL, 0, 0},
    {"Subject: caf\xe9 \xc3\xa9\r\n\r\n", NULL, 0, 0},
    {"A: b\r\n \r\n\tc\r\n\r\n", NULL, 0, 0},
    {"Message-ID: <a@b>\r\n\r\n", "<a@b>", 0, 0},
    {"MESSAGE-id:<a@b>", "<a@b>", 0, 0},
    {"Message-ID:\r\n <a@b>\r\n\r\n", "<a@b>", 0, 0},
    {"Message-ID :\n\t(x)\n\t<a@b> y\nA: b\n", "<a@b>", 0, 4},
    {"Message-ID: <a\r\n @b>\r\n\r\n", NULL, 0, 0},
    {"Message-ID: <a@b\r\n\r\n>", NULL, 0, 0},
    {"Message-ID: <>\r\n", NULL, 0, 0},
    {"Message-ID: >a<\r\n", NULL, 0, 0},
    {"Message-ID: a@b\r\nMessage-ID: <c@d>\r\nMessage-ID: <e@f>\r\n", "<c@d>", 0, 0},
    {"X-Message-ID: <a@b>\r\nMessage-IDs: <a@b>\r\n", NULL, 0, 0},
    {"A: b\r\n\r\nMessage-ID: <a@b>\r\nStatus: RO\r\n", NULL, 0, 0},
    {"Status: RO\r\n\r\n", NULL, MSG_FLAG_SEEN, 0},
    {"Status: O\r\nX-Status: AF\r\n\r\n", NULL, MSG_FLAG_ANSWERED | MSG_FLAG_FLAGGED, 0},
    {"X-Status: D\r\n T\r\n", NULL, MSG_FLAG_DELETED | MSG_FLAG_DRAFT, 0},
    {"X-Status: R\r\nStatus: AFDT\r\n", NULL, 0, 0},
};

static void test_good(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
    gsize size = strlen(good[i].octets);
    Letter letter = check_good(good[i].octets, size);
    g_test_message("%" G_GSIZE_FORMAT, i);
    g_assert_cmpstr(letter.message_id, ==, good[i].message_id);
    g_assert_cmpuint(letter.flags, ==, good[i].flags);
    g_assert_cmpuint(letter.size, ==, size + good[i].added);
    g_assert_cmpint(letter.bare, ==, good[i].added > 0);
    letter_clear(&letter);
  }
}

static void test_bad(void) {
  static const struct {
    const char *octets, *words;
  } bad[] = {
      {"", "empty"},
      {"\r\n", "first line"},
      {"\n\nA: b\n", "first line"},
      {" A: b\r\n", "first line"},
      {"hello\r\n", "first line"},
      {": b\r\n", "first line"},
      {"\xef\xbb\xbf" "A: b\r\n", "first line"},
      {"caf\xc3\xa9: b\r\n", "first line"},
      {"A b: c\r\n", "first line"},
      {"From anna@example.org Thu Nov 20 2026\r\nA: b\r\n", "mbox"},
      {"A: b\r\nhello\r\n\r\n", "line 2"},
      {"A: b\r\n c\r\nFrom x\r\n\r\n", "line 3"},
      {"A: b\rc\r\n\r\n", "line 2"}, /* it would be one when it is stored */
  };
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
    check_bad(bad[i].octets, strlen(bad[i].octets), bad[i].words);
  check_bad("A: b\0\r\n\r\n", 9, "NUL");
  check_bad("A: b\r\n\r\n\0", 9, "NUL");
  check_bad("A\0: b\r\n\r\n", 9, "first line");
}

/* "A: " and as many x as make @size octets together with @end. */
static GString *long_text(gsize size, const char *end) {
  GString *text = g_string_new("A: ");
  gsize room = size - strlen(end);
  g_string_set_size(text, room);
  memset(text->str + 3, 'x', room - 3);
  g_string_append(text, end);
  return text;
}

static void test_limits(void) {
  g_autoptr(GString) fits = long_text(MIB, "\r\n\r\n");
  Letter letter = check_good(fits->str, fits->len);
  letter_clear(&letter);
  g_string_append(fits, "body");
  letter = check_good(fits->str, fits->len);
  letter_clear(&letter);
  g_autoptr(GString) over = long_text(MIB + 2, "\r\n\r\n");
  check_bad(over->str, over->len, "does not end");

  /* lines of a body: the last one need not have an end */
  for (guint end = 0; end < 2; end++) {
    g_autoptr(GString) text = g_string_new("A: b\n\n");
    gsize before = text->len;
    g_string_set_size(text, before + MIB);
    memset(text->str + before, 'y', MIB);
    if (end)
      g_string_append_c(text, '\n');
    letter = check_good(text->str, text->len);
    letter_clear(&letter);
    g_string_insert_c(text, (gssize) before, 'y');
    check_bad(text->str, text->len, "line of over 1 MiB");
  }

  autofd int fd = file_with("A: b\r\n", 6);
  g_autoptr(GError) error = NULL;
  g_assert_false(letter_check(fd, 7, &letter, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_FAILED);
  letter_clear(&letter);
}

/* Normalizes @octets and gives them back. */
static GBytes *normalized(const char *octets, gsize size) {
  g_autoptr(GError) error = NULL;
  autofd int from = file_with(octets, size);
  autofd int to = memfd_create("normal", MFD_CLOEXEC);
  g_assert_true(letter_normalize(from, size, to, &error));
  g_assert_no_error(error);
  gsize length = (gsize) lseek(to, 0, SEEK_END);
  char *text = g_malloc(length + 1);
  g_assert_cmpint(pread(to, text, length, 0), ==, (gssize) length);
  return g_bytes_new_take(text, length);
}

static void test_normalize(void) {
  static const char *const pairs[][2] = {
      {"", ""},
      {"\n", "\r\n"},
      {"\r", "\r\n"},
      {"\r\n", "\r\n"},
      {"\n\r", "\r\n\r\n"},
      {"a\nb\rc\r\nd", "a\r\nb\r\nc\r\nd"},
      {"\r\r\n\n", "\r\n\r\n\r\n"},
      {"x\t\x01\xff\n", "x\t\x01\xff\r\n"},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(pairs); i++) {
    g_autoptr(GBytes) bytes = normalized(pairs[i][0], strlen(pairs[i][0]));
    g_assert_cmpmem(g_bytes_get_data(bytes, NULL), (int) g_bytes_get_size(bytes), pairs[i][1],
                    (int) strlen(pairs[i][1]));
  }
}

/* Line ends of any kind on both sides of where one block ends and the next begins. */
static void test_blocks(void) {
  static const char *const ends[] = {"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n\r\n", "\n\n"};
  for (gsize i = 0; i < G_N_ELEMENTS(ends); i++)
    for (gsize before = BLOCK - 4; before <= BLOCK; before++) {
      g_autoptr(GString) text = g_string_new("A: b\n\n");
      while (text->len < before)
        g_string_append(text, text->len + 64 < before ? "0123456789abcdef\r\n" : "z");
      g_string_append_printf(text, "%sB: c\r\n", ends[i]);
      Letter letter = check_good(text->str, text->len);
      g_autoptr(GBytes) bytes = normalized(text->str, text->len);
      g_assert_cmpuint(letter.size, ==, g_bytes_get_size(bytes));
      g_assert_true(letter.bare);
      letter_clear(&letter);
      Letter again = check_good(g_bytes_get_data(bytes, NULL), g_bytes_get_size(bytes));
      g_assert_false(again.bare);
      g_assert_cmpuint(again.size, ==, g_bytes_get_size(bytes));
      letter_clear(&again);
    }
}

/* test_letter -m perf: 256 MiB each; else a little that only has to work. */
static void test_speed(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GString) text = g_string_new("A: b\r\n\r\n");
  while (text->len < MIB)
    g_string_append(text, "Lorem ipsum dolor sit amet, consectetur adipisci elit, sed eiusmod\n");
  autofd int fd = memfd_create("letter", MFD_CLOEXEC);
  autofd int to = memfd_create("normal", MFD_CLOEXEC);
  guint64 size = 0;
  for (guint i = 0; i < (g_test_perf() ? 256 : 4); i++)
    size += (guint64) write(fd, text->str, text->len);
  gint64 begun = g_get_monotonic_time();
  Letter letter;
  g_assert_true(letter_check(fd, size, &letter, &error));
  gint64 checked = g_get_monotonic_time();
  g_assert_true(letter_normalize(fd, size, to, &error));
  gint64 done = g_get_monotonic_time();
  g_assert_cmpint(lseek(to, 0, SEEK_END), ==, (goffset) letter.size);
  letter_clear(&letter);
  g_test_message("check: %.0f MB/s, normalize: %.0f MB/s",
                 (double) size / (double) MAX(checked - begun, 1),
                 (double) size / (double) MAX(done - checked, 1));
  if (g_test_perf()) {
    g_assert_cmpint(checked - begun, <, (gint64) (size / 200));
    g_assert_cmpint(done - checked, <, (gint64) (size / 200));
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/letter/good", test_good);
  g_test_add_func("/letter/bad", test_bad);
  g_test_add_func("/letter/limits", test_limits);
  g_test_add_func("/letter/normalize", test_normalize);
  g_test_add_func("/letter/blocks", test_blocks);
  g_test_add_func("/letter/speed", test_speed);
  return g_test_run();
}
