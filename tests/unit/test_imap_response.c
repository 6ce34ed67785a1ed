/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The reader on text in memory, which arrives whole or an octet at a time.
 */
#include <string.h>

#include "base/err.h"
#include "imap/response.h"

typedef struct {
  const char *at;
  gsize left, piece;
  GString *log;
} Text;

static gsize source(gpointer data, void *buffer, gsize size, GError **error) {
  Text *text = data;
  gsize count = MIN(MIN(size, text->left), text->piece);
  memcpy(buffer, text->at, count);
  text->at += count;
  text->left -= count;
  if (count == 0)
    g_set_error_literal(error, EML_ERROR, EML_ERROR_OFFLINE, "end");
  return count;
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  GString *log = ((Text *) data)->log;
  g_string_append_printf(log, "[%u uid=%u have=%x", fetch->seq, fetch->uid, fetch->have);
  if (fetch->have & IMAP_FETCH_FLAGS) {
    g_string_append_printf(log, " flags=%x", fetch->flags);
    for (const char *const *keyword = fetch->keywords; *keyword; keyword++)
      g_string_append_printf(log, ",%s", *keyword);
  }
  if (fetch->have & IMAP_FETCH_DATE)
    g_string_append_printf(log, " date=%" G_GINT64_FORMAT, fetch->internal_date);
  if (fetch->have & IMAP_FETCH_MODSEQ)
    g_string_append_printf(log, " modseq=%" G_GUINT64_FORMAT, fetch->modseq);
  if (fetch->have & IMAP_FETCH_HEADER)
    g_string_append_printf(log, " header=%" G_GSIZE_FORMAT ":%.3s", fetch->header_size,
                           fetch->header);
  g_string_append_c(log, ']');
}

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  g_string_append(((Text *) data)->log, "<");
  return size != 13; /* a size nobody wants */
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  g_string_append_len(((Text *) data)->log, octets, (gssize) size);
  return TRUE;
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  for (gsize i = 0; i < count; i++)
    g_string_append_printf(((Text *) data)->log, "%u-%u%s", ranges[i].first, ranges[i].last,
                           i + 1 < count ? "," : ";");
}

static const ImapHandler handler = {
    .fetch = on_fetch,
    .body_begin = on_body_begin,
    .body_data = on_body_data,
    .vanished = on_vanished,
};

/* Reads all of @input; the log must be @wanted. */
static void expect_sized(const char *input, gsize size, const char *wanted) {
  static const gsize pieces[] = {1, 2, 7, G_MAXSIZE};
  for (gsize i = 0; i < G_N_ELEMENTS(pieces); i++) {
    Text text = {input, size, pieces[i], g_string_new(NULL)};
    g_autoptr(Token) token = token_new(source, &text);
    g_autoptr(ResponseReader) reader = response_reader_new(token);
    Response response;
    response_set_handler(reader, &handler, &text);
    while (response_read(reader, &response)) {
      if (response.kind == RESPONSE_TAGGED || response.kind == RESPONSE_STATUS)
        g_string_append_printf(text.log, "{%u %d %s|%s|%s}", response.tag, response.condition,
                               response.code, response.arguments, response.text);
      else if (response.kind == RESPONSE_CONTINUE)
        g_string_append_printf(text.log, "+%s", response.text);
    }
    if (token_error(token)->code != EML_ERROR_OFFLINE)
      g_string_append_printf(text.log, "!%s", token_error(token)->message);
    g_assert_cmpstr(text.log->str, ==, wanted);
    g_string_free(text.log, TRUE);
  }
}

static void expect(const char *input, const char *wanted) {
  expect_sized(input, strlen(input), wanted);
}

static void test_fetch(void) {
  expect("* 2 FETCH (FLAGS (\\Seen $Forwarded \\X ]odd[ NonJunk) INTERNALDATE \"17-Jul-1996 "
         "02:44:25 -0700\" RFC822.SIZE 4286 MODSEQ (65402) UID 7)\r\n",
         "[2 uid=7 have=f flags=1,$Forwarded,]odd[,NonJunk date=837596665 modseq=65402]");
  expect("* 1 FETCH (BODY[] {3}\r\na)b UID 4)\r\n", "<a)b[1 uid=4 have=20]");
  expect("* 1 FETCH (BODY[]<5> ~{3+}\r\na)b UID 4)\n", "<a)b[1 uid=4 have=20]");
  expect("* 1 FETCH (BODY[] {13}\r\n1234567890123)\r\n", "<[1 uid=0 have=20]");
  expect("* 1 FETCH (BODY[] \"q\\\"\\\\\")\r\n", "<q\"\\[1 uid=0 have=20]");
  expect("* 1 FETCH (BODY[HEADER.FIELDS (\"FROM\" Sub)] {8}\r\nA: b\r\n\r\n)\r\n",
         "[1 uid=0 have=10 header=8:A: ]");
}

static void test_fetch_skips(void) {
  expect("* 3 FETCH (ENVELOPE (\"a\" NIL ((\"b\" {2}\r\n)( NIL))) BODY[1.2]<3> NIL X-A(b) UID 9)\r\n",
         "!the server broke the protocol: something else than ' '");
  expect("* 3 FETCH (ENVELOPE (\"a\" NIL ((\"b\" {2}\r\n)( NIL))) BODY[1.2]<3> NIL X-A (b ()) UID "
         "9 BODY (\"x\" 3) BINARY.SIZE[1] 17 BODY[TEXT] {2}\r\n\r\n PREVIEW \"\\\"\")\r\n",
         "[3 uid=9 have=0]");
}

static void test_header_is_cut(void) {
  g_autoptr(GString) input = g_string_new("* 3 FETCH (BODY[HEADER] {100000}\r\n");
  gsize start = input->len;
  g_string_set_size(input, start + 100000);
  memset(input->str + start, 'h', 100000);
  g_string_append(input, " UID 3)\r\nA1 OK x\r\n");
  expect(input->str, "[3 uid=3 have=10 header=65536:hhh]{1 0 ||x}");
}

static void test_status_responses(void) {
  expect("* OK [UIDNEXT 12] hello\r\n", "{0 0 UIDNEXT|12|hello}");
  expect("* BYE\r\n* NO\r\nA12 BAD\r\n", "{0 4 ||}{0 1 ||}{12 2 ||}");
  expect("* OK [alert]\r\n", "{0 0 ALERT||}");
  expect("* OK [ALERT\r\n", "{0 0 ALERT||}");
  expect("* OK []\r\n", "{0 0 ||}");
  expect("* OK [BADCHARSET (\"a]b\" \"c\")] x\r\n", "{0 0 BADCHARSET|(\"a]b\" \"c\")|x}");
  expect("* OK [X \"] y\r\n", "{0 0 X|\"|y}");
  expect("a3 OK x\r\n", "!the server broke the protocol: a line that is no response");
  expect("A3 FINE x\r\n",
         "!the server broke the protocol: a tagged response without OK, NO or BAD");
  expect("+ abc\r\n+\r\n", "+abc+");
  static const char nasty[] = "* OK a\0b\r\n* OK c\x1b[31m\xff\r\n";
  expect_sized(nasty, sizeof nasty - 1, "{0 0 ||a}{0 0 ||c?[31m\xef\xbf\xbd}");
}

static void test_vanished(void) {
  expect("* VANISHED (EARLIER) 41,43:116,9:7\r\n", "41-41,43-116,7-9;");
  expect("* VANISHED 4294967295\r\n", "4294967295-4294967295;");
  expect("* VANISHED 0\r\n", "!the server broke the protocol: a message number 0");
  expect("* VANISHED 1,\r\n", "!the server broke the protocol: no number where one belongs");
}

static void test_unknown(void) {
  expect("* X {2}\r\n\r\n{3}\r\nabc {1\r\n* X{}\r\n* X {+}\r\n* X {5}y\r\n* X {5\r\n* X ~{1}\r\n\n\r\n"
         "A1 OK\r\n",
         "{1 0 ||}");
}

static void test_bounds(void) {
  expect("* 99999999999999999999 EXISTS\r\n",
         "!the server broke the protocol: a number out of range");
  expect("* 1 FETCH (RFC822.SIZE 9223372036854775808)\r\n",
         "!the server broke the protocol: a number out of range");
  expect("* 1 FETCH (RFC822.SIZE 9223372036854775807)\r\n", "[1 uid=0 have=2]");
  expect("* 1 FETCH (FLAGS (\"x\"))\r\n",
         "!the server broke the protocol: no word where one belongs");
  expect("* 1 FETCH (BODY[ \r\n", "!the server broke the protocol: a section that does not end");
  expect("* LIST () \"a\r\n", "!the server broke the protocol: a string that does not end");
  static const char with_nul[] = "* LIST () \"/\" {3}\r\na\0b\r\n";
  expect_sized(with_nul, sizeof with_nul - 1,
               "!the server broke the protocol: a string with a NUL");
}

static void test_dates(void) {
  static const struct {
    const char *text;
    gint64 seconds;
  } good[] = {
      {"01-Jan-1970 00:00:00 +0000", 0},
      {" 1-Jan-1970 01:00:00 +0100", 0},
      {"31-Dec-1969 23:59:59 +0000", -1},
      {"29-Feb-2000 12:00:00 +0000", 951825600},
      {"17-Jul-1996 02:44:25 -0700", 837596665},
      {"19-jan-2038 03:14:08 +0000", 2147483648},
      {"31-Dec-2099 23:59:60 +0000", 4102444800},
      {"01-Mar-2100 00:00:00 -0330", 4107555000},
  };
  static const char *const bad[] = {
      "",
      "1-Jan-1970 00:00:00 +0000",
      "29-Feb-1900 12:00:00 +0000",
      "31-Apr-2000 12:00:00 +0000",
      "00-Jan-2000 12:00:00 +0000",
      "01-Foo-2000 12:00:00 +0000",
      "01-Jan-2000 24:00:00 +0000",
      "01-Jan-2000 12:60:00 +0000",
      "01-Jan-2000 12:00:00 *0000",
      "01-Jan-2000 12:00:00 +0060",
      "01-Jan-0000 12:00:00 +0000",
      "01-Jan-2000T12:00:00 +0000",
      "01-Jan-2000 12:00:00 +00000",
  };
  gint64 seconds;
  for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
    g_assert_true(response_parse_date(good[i].text, strlen(good[i].text), &seconds));
    g_assert_cmpint(seconds, ==, good[i].seconds);
  }
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++)
    g_assert_false(response_parse_date(bad[i], strlen(bad[i]), &seconds));
  for (int day = 0; day < 60000; day += 13) { /* against GLib, 1970 to 2134 */
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_utc((gint64) day * 86400 + 4711);
    g_autofree char *text = g_date_time_format(date, "%d-%b-%Y %H:%M:%S +0000");
    g_assert_true(response_parse_date(text, strlen(text), &seconds));
    g_assert_cmpint(seconds, ==, (gint64) day * 86400 + 4711);
  }
}

static void count_fetch(const ImapFetch *fetch, gpointer data) {
  ++*(guint *) ((Text *) data)->log;
}

/* Not a benchmark, but slowness of another order is a bug. */
static void test_100000_lines(void) {
  static const ImapHandler counter = {.fetch = count_fetch};
  g_autoptr(GString) input = g_string_new(NULL);
  guint seen = 0;
  for (guint i = 1; i <= 100000; i++)
    g_string_append_printf(input,
                           "* %u FETCH (UID %u FLAGS (\\Seen $Forwarded) RFC822.SIZE 10061 "
                           "INTERNALDATE \"24-Nov-2026 13:39:13 +0000\")\r\n", i, i);
  Text text = {input->str, input->len, G_MAXSIZE, (GString *) &seen};
  g_autoptr(Token) token = token_new(source, &text);
  g_autoptr(ResponseReader) reader = response_reader_new(token);
  Response response;
  response_set_handler(reader, &counter, &text);
  gint64 began = g_get_monotonic_time();
  while (response_read(reader, &response)) {
  }
  double took = (double) (g_get_monotonic_time() - began) / G_USEC_PER_SEC;
  g_test_message("%.3f s", took);
  g_assert_cmpuint(seen, ==, 100000);
  g_assert_cmpfloat(took, <, 5);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/response/" #name, test_##name)
  TEST(fetch);
  TEST(fetch_skips);
  TEST(header_is_cut);
  TEST(status_responses);
  TEST(vanished);
  TEST(unknown);
  TEST(bounds);
  TEST(dates);
  TEST(100000_lines);
#undef TEST
  return g_test_run();
}
