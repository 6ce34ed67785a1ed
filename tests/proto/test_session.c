/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A session that is logged in, and servers that misbehave.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"
#include "peer.h"

#define SILENCE_MS 300
#define IN_TIME_US (5 * G_USEC_PER_SEC)

/* What the handler saw, in order, as text. */
typedef struct {
  GString *log;
  guint64 body_octets;
  guint fetches;
} Seen;

static void on_exists(guint32 count, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "exists %u;", count);
}

static void on_expunge(guint32 seq, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "expunge %u;", seq);
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "vanished%s", earlier ? " earlier" : "");
  for (gsize i = 0; i < count; i++)
    g_string_append_printf(((Seen *) data)->log, " %u:%u", ranges[i].first, ranges[i].last);
  g_string_append_c(((Seen *) data)->log, ';');
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  Seen *seen = data;
  seen->fetches++;
  g_string_append_printf(seen->log, "fetch %u uid %u", fetch->seq, fetch->uid);
  if (fetch->have & IMAP_FETCH_SIZE)
    g_string_append_printf(seen->log, " size %" G_GUINT64_FORMAT, fetch->size);
  if (fetch->have & IMAP_FETCH_FLAGS)
    g_string_append_printf(seen->log, " flags %u", fetch->flags);
  if (fetch->have & IMAP_FETCH_BODY)
    g_string_append(seen->log, " body");
  if (fetch->have & IMAP_FETCH_BODY_NIL)
    g_string_append(seen->log, " nil");
  g_string_append_c(seen->log, ';');
}

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  g_string_append_printf(((Seen *) data)->log,
                         "begin uid %u at %" G_GUINT64_FORMAT " size %" G_GUINT64_FORMAT ";", uid,
                         origin, size);
  return TRUE;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  ((Seen *) data)->body_octets += size;
  return TRUE;
}

static void on_list(const ImapList *list, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "list %s=%s %x;", list->mailbox, list->name,
                         list->attributes);
}

static void on_status(const ImapStatus *status, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "status %s %d %d;", status->mailbox,
                         (int) status->messages, (int) status->highestmodseq);
}

static void on_quota(const char *root, gint64 used_kib, gint64 limit_kib, gint64 used_messages,
                     gint64 limit_messages, gpointer data) {
  g_string_append_printf(((Seen *) data)->log, "quota %s %d/%d %d/%d;", root, (int) used_kib,
                         (int) limit_kib, (int) used_messages, (int) limit_messages);
}

static const ImapHandler handler = {
    .exists = on_exists,
    .expunge = on_expunge,
    .vanished = on_vanished,
    .fetch = on_fetch,
    .body_begin = on_body_begin,
    .body_data = on_body_data,
    .list = on_list,
    .status = on_status,
    .quota = on_quota,
};

/* A server that plays @script, a session to it, and what its handler saw. */
typedef struct {
  Peer *peer;
  ImapSession *session;
  Seen seen;
  GCancellable *cancellable;
} Stage;

static void stage_open(Stage *stage, PeerScript script, gint64 silence_ms, gpointer data) {
  g_autoptr(GError) error = NULL;
  stage->peer = peer_start(script, 1, TRUE, CERT_GOOD, data);
  stage->session =
      peer_session(stage->peer, STREAM_TLS, silence_ms, stage->cancellable, &error);
  g_assert_no_error(error);
  stage->seen = (Seen){.log = g_string_new(NULL)};
  imap_session_set_handler(stage->session, &handler, &stage->seen);
}

static void stage_close(Stage *stage) {
  imap_session_close(&stage->session);
  peer_stop(stage->peer);
  g_string_free(stage->seen.log, TRUE);
}

/* Plays @script, sends one FETCH and expects it to end the session with @code and @words, soon. */
static void expect_death(PeerScript script, int code, const char *words) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, script, SILENCE_MS, NULL);
  gint64 began = g_get_monotonic_time();
  ImapTag tag = imap_fetch_send(stage.session, "1:*", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_no_error(error);
  g_assert_false(imap_wait(stage.session, tag, &error));
  g_assert_cmpint(g_get_monotonic_time() - began, <, IN_TIME_US);
  peer_assert_error(&error, code, words);
  g_assert_false(imap_session_alive(stage.session));
  g_assert_false(imap_noop(stage.session, &error)); /* dead is dead */
  peer_assert_error(&error, code, words);
  stage_close(&stage);
}

static void answer(Peer *peer, const char *text) {
  peer_let_in(peer, "");
  peer_expect(peer, "A2 UID FETCH 1:? (UID BODY.PEEK[])");
  peer_send(peer, text);
  peer_hang(peer);
}

/* Plays @script, sends one FETCH, which must succeed, and compares what was seen. */
static void expect_seen(PeerScript script, const char *wanted) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, script, 10000, NULL);
  ImapTag tag = imap_fetch_send(stage.session, "1:*", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_true(imap_wait(stage.session, tag, &error));
  g_assert_no_error(error);
  g_assert_cmpstr(stage.seen.log->str, ==, wanted);
  stage_close(&stage);
}

#define ANSWER(name, text)                                                                        \
  static void name(Peer *peer) {                                                                  \
    answer(peer, text);                                                                           \
  }

ANSWER(literal_hangs, "* 1 FETCH (UID 1 BODY[] {100}\r\nhalf of it")
static void test_literal_hangs(void) {
  expect_death(literal_hangs, EML_ERROR_TIMEOUT, "in time");
}

static void literal_breaks(Peer *peer) {
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, "* 1 FETCH (UID 1 BODY[] {100}\r\nhalf of it");
}
static void test_literal_breaks_off(void) {
  expect_death(literal_breaks, EML_ERROR_OFFLINE, "closed");
}

ANSWER(literal_4gib, "* LIST () \"/\" {4294967296}\r\nx")
static void test_string_of_4_gib(void) {
  expect_death(literal_4gib, EML_ERROR_PROTOCOL, "too long");
}

ANSWER(literal_64bit, "* 1 FETCH (BODY[] {18446744073709551616}\r\nx")
static void test_literal_over_64_bits(void) {
  expect_death(literal_64bit, EML_ERROR_PROTOCOL, "out of range");
}

ANSWER(literal_unknown, "* FOO {99999999999999999999999}\r\nx")
static void test_unknown_line_with_huge_literal(void) {
  expect_death(literal_unknown, EML_ERROR_PROTOCOL, "nobody asked");
}

ANSWER(exists_33bit, "* 4294967296 EXISTS\r\n")
static void test_number_over_32_bits(void) {
  expect_death(exists_33bit, EML_ERROR_PROTOCOL, "out of range");
}

ANSWER(wrong_tag, "A77 OK done\r\n")
static void test_tag_never_sent(void) {
  expect_death(wrong_tag, EML_ERROR_PROTOCOL, "not sent");
}

ANSWER(bad_fetch, "* 1 FETCH (UID 0)\r\nA2 OK\r\n")
static void test_uid_zero(void) {
  expect_death(bad_fetch, EML_ERROR_PROTOCOL, "UID 0");
}

ANSWER(bye, "* BYE [UNAVAILABLE] Shutting down\r\n")
static void test_bye(void) {
  expect_death(bye, EML_ERROR_OFFLINE, "Shutting down");
}

static void parentheses(Peer *peer) {
  g_autoptr(GString) text = g_string_new("* 1 FETCH (BODYSTRUCTURE ");
  for (guint i = 0; i < 20000; i++)
    g_string_append_c(text, '(');
  answer(peer, text->str);
}
static void test_20000_parentheses(void) {
  expect_death(parentheses, EML_ERROR_PROTOCOL, "too deep");
}

/* @kind and then 300 MB without a line end. */
static void long_line(Peer *peer, const char *kind) {
  static char bulk[65536];
  memset(bulk, 'x', sizeof bulk);
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, kind);
  for (guint i = 0; i < 4800 && peer_send_bytes(peer, bulk, sizeof bulk); i++) {
  }
  peer_hang(peer);
}

static void long_unknown(Peer *peer) {
  long_line(peer, "* FOO ");
}

static void long_status(Peer *peer) {
  long_line(peer, "* OK ");
}

static void long_capability(Peer *peer) {
  long_line(peer, "* CAPABILITY ");
}

static void test_line_of_300_mb(void) {
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  expect_death(long_unknown, EML_ERROR_PROTOCOL, "without end");
  expect_death(long_status, EML_ERROR_PROTOCOL, "without end");
  expect_death(long_capability, EML_ERROR_PROTOCOL, "without end");
  getrusage(RUSAGE_SELF, &after);
  g_assert_cmpint(after.ru_maxrss - before.ru_maxrss, <, 100 * 1024); /* sanitizers hoard */
}

ANSWER(unknown_lines, "* FOO bar (\"x\" {3}\r\nabc) {4+}\r\n\r\n\r\n baz\r\n* 3 FOO\r\n"
                      "* THREAD (2)(3 6)\r\n* 1 FETCH (UID 1)\r\n* OK\r\n* OK [X\r\nA2 OK\r\n")
static void test_unknown_lines(void) {
  expect_seen(unknown_lines, "fetch 1 uid 1;");
}

ANSWER(large_size, "* 1 FETCH (UID 1 RFC822.SIZE 9663676416)\r\nA2 OK\r\n")
static void test_size_over_4_gib(void) {
  expect_seen(large_size, "fetch 1 uid 1 size 9663676416;");
}

ANSWER(uid_late, "* 1 FETCH (BODY[]<7> {3}\r\nabc UID 5)\r\nA2 OK\r\n")
static void test_uid_after_body(void) {
  expect_seen(uid_late, "begin uid 0 at 7 size 3;fetch 1 uid 5 body;");
}

ANSWER(body_nil, "* 1 FETCH (UID 5 BODY[] NIL)\r\n* 2 FETCH (UID 6 BODY[] \"\")\r\n"
                 "* 3 FETCH (UID 7 BODY[] {0}\r\n)\r\nA2 OK\r\n")
static void test_body_nil(void) {
  expect_seen(body_nil, "fetch 1 uid 5 nil;begin uid 6 at 0 size 0;fetch 2 uid 6 body;"
                        "begin uid 7 at 0 size 0;fetch 3 uid 7 body;");
}

ANSWER(continuation, "+ surprise\r\n+\r\n* 1 FETCH (UID 5)\r\n+ again\r\nA2 OK\r\n")
static void test_continuation_nobody_waits_for(void) {
  expect_seen(continuation, "fetch 1 uid 5;");
}

ANSWER(expunge_in_fetch, "* 1 FETCH (UID 5 BODY[] {2}\r\nab)\r\n* 2 EXPUNGE\r\n* VANISHED 9,7:6\r\n"
                         "* 2 FETCH (UID 7 BODY[] {1}\r\nc)\r\nA2 OK [EXPUNGEISSUED] ok\r\n")
static void test_expunge_in_mid_fetch(void) {
  expect_seen(expunge_in_fetch,
              "begin uid 5 at 0 size 2;fetch 1 uid 5 body;expunge 2;vanished 9:9 6:7;"
              "begin uid 7 at 0 size 1;fetch 2 uid 7 body;");
}

ANSWER(cyrus_case, "* 1 fetch (uid 5 flags (\\SEEN) rfc822.size 3 body[] {1}\r\nc)\r\nA2 ok\r\n")
static void test_lower_case(void) {
  expect_seen(cyrus_case, "begin uid 5 at 0 size 1;fetch 1 uid 5 size 3 flags 1 body;");
}

static void fetch_then_no(Peer *peer) {
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, "* 1 FETCH (UID 5 BODY[] {1}\r\nc)\r\nA2 NO [SERVERBUG] disk error\r\n");
  peer_expect(peer, "A3 STATUS gone *");
  peer_send(peer, "A3 NO [NONEXISTENT] no such mailbox\r\n");
  peer_expect(peer, "A4 NOOP");
  peer_send(peer, "A4 NO [OVERQUOTA] full\r\n");
  peer_expect(peer, "A5 NOOP");
  peer_send(peer, "A5 OK\r\n");
  peer_hang(peer);
}

static void test_fetch_then_no(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, fetch_then_no, 10000, NULL);
  ImapTag tag = imap_fetch_send(stage.session, "5", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_false(imap_wait(stage.session, tag, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "disk error");
  tag = imap_status_send(stage.session, "gone", &error);
  g_assert_false(imap_wait(stage.session, tag, &error));
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "no such mailbox");
  g_assert_false(imap_noop(stage.session, &error));
  peer_assert_error(&error, EML_ERROR_QUOTA, "full");
  g_assert_true(imap_noop(stage.session, &error));
  g_assert_false(imap_wait(stage.session, 99, &error));
  peer_assert_error(&error, EML_ERROR_FAILED, "99");
  g_assert_true(imap_session_alive(stage.session));
  stage_close(&stage);
}

static void out_of_order(Peer *peer) {
  peer_let_in(peer, "");
  for (guint i = 2; i <= 5; i++) {
    g_autofree char *line = g_strdup_printf("A%u UID FETCH %u *", i, i);
    peer_expect(peer, line);
  }
  peer_send(peer, "* 4 FETCH (UID 4)\r\nA4 OK\r\n* 2 FETCH (UID 2)\r\nA2 OK\r\n"
                  "A3 NO no\r\n* 5 FETCH (UID 5)\r\nA5 OK\r\n");
  peer_hang(peer);
}

static void test_pipelined_out_of_order(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  ImapTag tags[4];
  stage_open(&stage, out_of_order, 10000, NULL);
  for (guint i = 0; i < 4; i++) {
    g_autofree char *set = g_strdup_printf("%u", i + 2);
    tags[i] = imap_fetch_send(stage.session, set, "(UID)", NULL, &error);
    g_assert_cmpuint(tags[i], !=, 0);
  }
  g_assert_cmpuint(imap_in_flight(stage.session), ==, 4);
  g_assert_true(imap_wait(stage.session, tags[0], &error));
  g_assert_cmpstr(stage.seen.log->str, ==, "fetch 4 uid 4;fetch 2 uid 2;");
  g_assert_true(imap_wait(stage.session, tags[3], &error));
  g_assert_true(imap_wait(stage.session, tags[2], &error));
  g_assert_no_error(error);
  g_assert_false(imap_wait(stage.session, tags[1], &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "no");
  g_assert_cmpuint(imap_in_flight(stage.session), ==, 0);
  stage_close(&stage);
}

static void cancelled(Peer *peer) {
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, "* 1 FETCH (UID 1 BODY[] {100}\r\nhalf of it");
  g_cancellable_cancel(peer_data(peer));
  peer_hang(peer);
}

static void test_cancel_in_mid_read(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  Stage stage = {.cancellable = cancellable};
  stage_open(&stage, cancelled, 60000, cancellable);
  ImapTag tag = imap_fetch_send(stage.session, "1", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_false(imap_wait(stage.session, tag, &error));
  peer_assert_error(&error, EML_ERROR_CANCELLED, "");
  stage_close(&stage);
}

/* A body that takes four times the silence that is allowed, but flows. Time is the subject here, so
 * the server lets it pass, waiting for a condition that never comes. */
static void slow_body(Peer *peer) {
  GMutex mutex;
  GCond never;
  g_mutex_init(&mutex);
  g_cond_init(&never);
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, "* 1 FETCH (UID 1 BODY[] {8}\r\n");
  g_mutex_lock(&mutex);
  for (guint i = 0; i < 8; i++) {
    gint64 until = g_get_monotonic_time() + SILENCE_MS * 1000 / 2;
    while (g_cond_wait_until(&never, &mutex, until)) {
    }
    peer_send(peer, "x");
  }
  g_mutex_unlock(&mutex);
  g_mutex_clear(&mutex);
  g_cond_clear(&never);
  peer_send(peer, ")\r\nA2 OK\r\n");
  peer_hang(peer);
}

static void test_slow_body_flows(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, slow_body, SILENCE_MS, NULL);
  ImapTag tag = imap_fetch_send(stage.session, "1", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_true(imap_wait(stage.session, tag, &error));
  g_assert_no_error(error);
  g_assert_cmpuint(stage.seen.body_octets, ==, 8);
  stage_close(&stage);
}

static void listing(Peer *peer) {
  peer_let_in(peer, "NAMESPACE LIST-EXTENDED SPECIAL-USE LIST-STATUS CONDSTORE");
  peer_expect(peer, "A2 NAMESPACE");
  peer_send(peer, "* NAMESPACE ((\"\" \"/\")) ((\"~\" \"/\")) ((\"Shared/\" \"/\"))\r\nA2 OK\r\n");
  peer_expect(peer, "A3 LIST \"\" \"?\" RETURN (SUBSCRIBED SPECIAL-USE STATUS (MESSAGES UIDNEXT "
                    "UIDVALIDITY UNSEEN HIGHESTMODSEQ))");
  peer_send(peer, "A3 BAD what?\r\n");
  peer_expect(peer, "A4 LIST \"\" \"?\"");
  peer_send(peer, "* LIST (\\Trash \\X-Foo) \"/\" Cestino\r\n"
                  "* LIST () \"/\" \"&ZeVnLIqe-\"\r\n"
                  "* LIST () \"/\" \"&ZeVnLIqf-&-&!\"\r\n"
                  "* LIST (\\Noselect) NIL {3}\r\na\"b\r\n"
                  "* LIST () \"/\" Shared/news\r\n"
                  "* LIST () \"/\" inbox (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n"
                  "* STATUS Cestino (MESSAGES 3 HIGHESTMODSEQ 17 X-NEW (a (b)) )\r\n"
                  "A4 OK\r\n");
  peer_hang(peer);
}

static void test_list_with_bad_utf7(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, listing, 10000, NULL);
  g_assert_true(imap_list(stage.session, &error));
  g_assert_no_error(error);
  g_assert_cmpstr(stage.seen.log->str, ==,
                  "list Cestino=Cestino 100;list &ZeVnLIqe-=日本語 0;"
                  "list &ZeVnLIqf-&-&!=&ZeVnLIqf-&-&! 0;list a\"b=a\"b 1;list inbox=INBOX 0;"
                  "status Cestino 3 17;");
  stage_close(&stage);
}

static void selecting(Peer *peer) {
  peer_let_in(peer, "ENABLE QRESYNC UNSELECT");
  peer_expect(peer, "A2 ENABLE QRESYNC");
  peer_send(peer, "* ENABLED QRESYNC\r\nA2 OK\r\n");
  peer_expect(peer, "A3 SELECT INBOX (CONDSTORE)");
  peer_send(peer, "* 7 EXISTS\r\n* OK [UIDVALIDITY 11] x\r\n* OK [UIDNEXT 99] x\r\n"
                  "* OK [HIGHESTMODSEQ 1234567890123] x\r\nA3 OK [READ-WRITE] done\r\n");
  peer_expect(peer, "A4 UNSELECT");
  peer_expect(peer, "A5 EXAMINE \"a \\\"b\" (QRESYNC (12 34))");
  peer_send(peer, "* 8 EXISTS\r\n* 1 EXPUNGE\r\nA4 OK\r\n"
                  "* 3 EXISTS\r\n* OK [UIDVALIDITY 12] x\r\n* OK [HIGHESTMODSEQ 40] x\r\n"
                  "* VANISHED (EARLIER) 1:4\r\n* 2 FETCH (UID 6 FLAGS (\\Seen) MODSEQ (39))\r\n"
                  "A5 OK [READ-ONLY] done\r\n");
  peer_expect(peer, "A6 UNSELECT");
  peer_expect(peer, "A7 SELECT gone (CONDSTORE)");
  peer_send(peer, "A6 OK\r\nA7 NO no such mailbox\r\n");
  peer_expect(peer, "A8 LIST \"\" gone");
  peer_send(peer, "A8 OK\r\n");
  peer_expect(peer, "A9 SELECT closed (CONDSTORE)");
  peer_send(peer, "A9 NO permission denied\r\n");
  peer_expect(peer, "A10 LIST \"\" closed");
  peer_send(peer, "* LIST () \"/\" closed\r\nA10 OK\r\n");
  peer_hang(peer);
}

static void test_select(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  ImapSelected selected;
  stage_open(&stage, selecting, 10000, NULL);
  g_assert_true(imap_select(stage.session, "INBOX", FALSE, 0, 0, &selected, &error));
  g_assert_cmpuint(selected.exists, ==, 7);
  g_assert_cmpuint(selected.uidvalidity, ==, 11);
  g_assert_cmpuint(selected.uidnext, ==, 99);
  g_assert_cmpuint(selected.highestmodseq, ==, 1234567890123);
  g_assert_false(selected.read_only || selected.resynced);
  g_string_truncate(stage.seen.log, 0);
  g_assert_true(imap_select(stage.session, "a \"b", TRUE, 12, 34, &selected, &error));
  g_assert_true(selected.read_only && selected.resynced);
  g_assert_cmpuint(selected.exists, ==, 3);
  g_assert_cmpstr(stage.seen.log->str, ==,
                  "exists 3;vanished earlier 1:4;fetch 2 uid 6 flags 1;");
  g_assert_cmpstr(imap_session_selected(stage.session), ==, "a \"b");
  g_assert_false(imap_select(stage.session, "gone", FALSE, 0, 0, &selected, &error));
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "no such mailbox");
  g_assert_null(imap_session_selected(stage.session));
  g_assert_false(imap_select(stage.session, "closed", FALSE, 0, 0, &selected, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "permission");
  g_assert_false(imap_select(stage.session, "in\r\njection", FALSE, 0, 0, &selected, &error));
  peer_assert_error(&error, EML_ERROR_FAILED, "line break");
  g_assert_true(imap_session_alive(stage.session));
  stage_close(&stage);
}

static void searching(Peer *peer) {
  peer_let_in(peer, "ESEARCH QUOTA");
  peer_expect(peer, "A2 UID SEARCH RETURN (ALL) ALL");
  peer_send(peer, "* ESEARCH (TAG \"A2\") UID ALL 9,3:5,4\r\nA2 OK\r\n");
  peer_expect(peer, "A3 GETQUOTAROOT INBOX");
  peer_send(peer, "* QUOTAROOT INBOX x\r\n* QUOTA x (STORAGE 3 9 MESSAGE 1 2)\r\n"
                  "* QUOTA y (STORAGE 3 -1)\r\n* QUOTA \"\" ()\r\nA3 OK\r\n");
  peer_expect(peer, "A4 UID SEARCH RETURN (ALL) ALL");
  peer_send(peer, "* ESEARCH UID ALL 1:4294967295\r\nA4 OK\r\n");
  peer_hang(peer);
}

static void test_search_with_more_than_there_is(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  Stage stage = {0};
  stage_open(&stage, searching, 10000, NULL);
  g_assert_true(imap_search_all(stage.session, uids, &error));
  g_assert_cmpuint(uids->len, ==, 4);
  for (guint i = 0; i < 4; i++)
    g_assert_cmpuint(g_array_index(uids, guint32, i), ==, i == 3 ? 9 : i + 3);
  g_assert_true(imap_quota(stage.session, "INBOX", &error));
  g_assert_cmpstr(stage.seen.log->str, ==, "quota x 3/9 1/2;quota  -1/-1 -1/-1;");
  g_assert_false(imap_search_all(stage.session, uids, &error));
  peer_assert_error(&error, EML_ERROR_PROTOCOL, "more messages");
  stage_close(&stage);
}

static void idling(Peer *peer) {
  peer_let_in(peer, "IDLE");
  peer_expect(peer, "A2 IDLE");
  peer_send(peer, "* 5 EXISTS\r\n+ idling\r\n"); /* news before the "+" */
  peer_expect(peer, "DONE");
  peer_send(peer, "A2 OK\r\n");
  peer_expect(peer, "A3 IDLE");
  peer_send(peer, "+ idling\r\n* OK Still here\r\n* 6 EXISTS\r\n* 6 FETCH (FLAGS (\\Recent))\r\n");
  peer_expect(peer, "DONE");
  peer_send(peer, "* 7 EXISTS\r\nA3 OK\r\n");
  peer_expect(peer, "A4 IDLE");
  peer_send(peer, "+ idling\r\n");
  peer_expect(peer, "DONE"); /* the wake */
  peer_send(peer, "A4 OK\r\n");
  peer_expect(peer, "A5 IDLE");
  peer_send(peer, "+ idling\r\n");
  peer_expect(peer, "DONE"); /* the deadline */
  peer_send(peer, "A5 OK\r\n");
  peer_expect(peer, "A6 NOOP"); /* without IDLE */
  peer_send(peer, "* 8 EXISTS\r\nA6 OK\r\n");
  peer_expect(peer, "A7 IDLE");
  peer_send(peer, "A7 BAD no IDLE after all\r\n");
  peer_expect(peer, "A8 NOOP");
  peer_hang(peer); /* no sign of life */
}

static void test_idle(void) {
  g_autoptr(GError) error = NULL;
  autofd int wake = eventfd(0, EFD_CLOEXEC);
  Stage stage = {0};
  stage_open(&stage, idling, SILENCE_MS, NULL);
  gint64 far = deadline_in_ms(60000);
  g_assert_true(imap_idle(stage.session, TRUE, wake, far, &error));
  g_assert_cmpstr(stage.seen.log->str, ==, "exists 5;");
  g_string_truncate(stage.seen.log, 0);
  g_assert_true(imap_idle(stage.session, TRUE, wake, far, &error));
  g_assert_cmpstr(stage.seen.log->str, ==, "exists 6;fetch 6 uid 0 flags 32;exists 7;");
  g_assert_cmpint(eventfd_write(wake, 1), ==, 0);
  g_assert_true(imap_idle(stage.session, TRUE, wake, far, &error));
  g_assert_true(imap_idle(stage.session, TRUE, -1, deadline_in_ms(50), &error));
  g_assert_true(imap_idle(stage.session, FALSE, -1, deadline_in_ms(50), &error));
  g_assert_no_error(error);
  g_assert_false(imap_idle(stage.session, TRUE, -1, deadline_in_ms(50), &error));
  peer_assert_error(&error, EML_ERROR_TIMEOUT, "in time");
  stage_close(&stage);
}

static void notifying(Peer *peer) {
  peer_let_in(peer, "NOTIFY IDLE");
  peer_expect(peer, "A2 NOTIFY SET STATUS (selected (*)) (personal (*))");
  peer_send(peer, "* STATUS a (MESSAGES 1)\r\nA2 OK\r\n* STATUS b (MESSAGES 2)\r\n");
  peer_hang(peer);
}

static void test_notify(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, notifying, 10000, NULL);
  g_assert_true(imap_notify(stage.session, &error));
  g_assert_true(imap_idle(stage.session, FALSE, -1, deadline_in_ms(60000), &error));
  g_assert_no_error(error);
  g_assert_cmpstr(stage.seen.log->str, ==, "status a 1 -1;status b 2 -1;");
  stage_close(&stage);
}

static void literals(Peer *peer) {
  peer_let_in(peer, ""); /* no LITERAL+, as with Courier */
  peer_expect(peer, "A2 STATUS {4}");
  peer_send(peer, "* 1 EXISTS\r\n+ go\r\n");
  peer_expect_bytes(peer, "caf\xe9");
  peer_expect(peer, " (MESSAGES *)");
  peer_send(peer, "* STATUS {4}\r\ncaf\xe9 (MESSAGES 1)\r\nA2 OK\r\n");
  peer_expect(peer, "A3 STATUS {4}");
  peer_send(peer, "A3 NO never\r\n");
  peer_expect(peer, "A4 NOOP");
  peer_send(peer, "A4 OK\r\n");
  peer_hang(peer);
}

static void test_literal_asked_for_and_refused(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, literals, 10000, NULL);
  ImapTag tag = imap_status_send(stage.session, "caf\xe9", &error);
  g_assert_true(imap_wait(stage.session, tag, &error));
  g_assert_cmpstr(stage.seen.log->str, ==, "exists 1;status caf\xe9 1 -1;");
  tag = imap_status_send(stage.session, "caf\xe9", &error);
  g_assert_no_error(error);
  g_assert_false(imap_wait(stage.session, tag, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "never");
  g_assert_true(imap_noop(stage.session, &error));
  stage_close(&stage);
}

static void large_body(Peer *peer) {
  static char bulk[65536];
  peer_let_in(peer, "");
  peer_line(peer);
  peer_send(peer, "* 1 FETCH (UID 1 BODY[] {209715200}\r\n");
  for (guint i = 0; i < 3200; i++)
    peer_send_bytes(peer, bulk, sizeof bulk);
  peer_send(peer, ")\r\nA2 OK\r\n");
  peer_hang(peer);
}

static void test_body_of_200_mb(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  struct rusage before, after;
  stage_open(&stage, large_body, 10000, NULL);
  getrusage(RUSAGE_SELF, &before);
  ImapTag tag = imap_fetch_send(stage.session, "1", "(UID BODY.PEEK[])", NULL, &error);
  g_assert_true(imap_wait(stage.session, tag, &error));
  getrusage(RUSAGE_SELF, &after);
  g_assert_no_error(error);
  g_assert_cmpuint(stage.seen.body_octets, ==, 209715200);
  g_assert_cmpint(after.ru_maxrss - before.ru_maxrss, <, 100 * 1024);
  stage_close(&stage);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/session/" #name, test_##name)
  TEST(literal_hangs);
  TEST(literal_breaks_off);
  TEST(string_of_4_gib);
  TEST(literal_over_64_bits);
  TEST(unknown_line_with_huge_literal);
  TEST(number_over_32_bits);
  TEST(tag_never_sent);
  TEST(uid_zero);
  TEST(bye);
  TEST(20000_parentheses);
  TEST(line_of_300_mb);
  TEST(unknown_lines);
  TEST(size_over_4_gib);
  TEST(uid_after_body);
  TEST(body_nil);
  TEST(continuation_nobody_waits_for);
  TEST(expunge_in_mid_fetch);
  TEST(lower_case);
  TEST(fetch_then_no);
  TEST(pipelined_out_of_order);
  TEST(cancel_in_mid_read);
  TEST(slow_body_flows);
  TEST(list_with_bad_utf7);
  TEST(select);
  TEST(search_with_more_than_there_is);
  TEST(idle);
  TEST(notify);
  TEST(literal_asked_for_and_refused);
  TEST(body_of_200_mb);
#undef TEST
  int result = g_test_run();
  peer_cleanup();
  return result;
}
