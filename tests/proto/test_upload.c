/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages that are sent to servers that refuse, stall, talk back or hang up.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/autofd.h"
#include "base/err.h"
#include "imap/change.h"
#include "peer.h"

#define SILENCE_MS 300
#define IN_TIME_US (5 * G_USEC_PER_SEC)
#define MIB (1024 * 1024)
#define LONG (64 * MIB) /* more than the socket's buffers on both sides take */

/* A server that plays @script, a session to it, and how many FETCH lines came. */
typedef struct {
  Peer *peer;
  ImapSession *session;
  int release; /* an eventfd that a script which must not read waits on */
  const char *digest;
  guint64 got; /* octets that arrived before the end */
  guint fetches;
} Stage;

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  ((Stage *) data)->fetches++;
}

static const ImapHandler handler = {.fetch = on_fetch};

static void stage_open(Stage *stage, PeerScript script, gint64 silence_ms,
                       GCancellable *cancellable) {
  g_autoptr(GError) error = NULL;
  stage->release = eventfd(0, EFD_CLOEXEC);
  stage->peer = peer_start(script, 1, TRUE, CERT_GOOD, stage);
  stage->session = peer_session(stage->peer, STREAM_TLS, silence_ms, cancellable, &error);
  g_assert_no_error(error);
  imap_session_set_handler(stage->session, &handler, stage);
}

static void stage_close(Stage *stage) {
  imap_session_close(&stage->session);
  g_assert_cmpint(eventfd_write(stage->release, 1), ==, 0);
  peer_stop(stage->peer);
  autofd_clear(&stage->release);
}

/* Does not read until the test lets it. */
static void stall(Peer *peer) {
  eventfd_t value;
  g_assert_cmpint(eventfd_read(((Stage *) peer_data(peer))->release, &value), ==, 0);
}

/* A file in memory with @text. */
static int file_with(const char *text) {
  gsize size = strlen(text);
  int fd = memfd_create("message", MFD_CLOEXEC);
  g_assert_cmpint(write(fd, text, size), ==, (gssize) size);
  return fd;
}

/* A file of @size zeros that takes no memory. */
static int file_of(gint64 size) {
  int fd = memfd_create("message", MFD_CLOEXEC);
  g_assert_cmpint(ftruncate(fd, size), ==, 0);
  return fd;
}

/* Sends @size octets of @fd to @mailbox. */
static ImapTag send_octets(Stage *stage, const char *mailbox, int fd, guint64 size,
                           GError **error) {
  ImapMessage message = {.internal_date = IMAP_NO_DATE, .fd = fd, .size = size};
  return imap_append_send(stage->session, mailbox, &message, error);
}

/* Notes how far an upload is. */
static void on_sent(guint64 octets, gpointer data) {
  guint64 *sent = data;
  g_assert_cmpuint(octets, >=, *sent);
  g_assert_cmpuint(octets, <=, LONG);
  *sent = octets;
}

/* Sends a long message to @script and expects it to end the session with @code and @words, soon. */
static void expect_death(PeerScript script, int code, const char *words) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(LONG);
  Stage stage = {0};
  stage_open(&stage, script, SILENCE_MS, NULL);
  gint64 began = g_get_monotonic_time();
  ImapTag tag = send_octets(&stage, "INBOX", fd, LONG, &error);
  if (tag)
    g_assert_false(imap_append_wait(stage.session, tag, NULL, &error));
  g_assert_cmpint(g_get_monotonic_time() - began, <, IN_TIME_US);
  peer_assert_error(&error, code, words);
  g_assert_false(imap_session_alive(stage.session));
  g_assert_false(imap_noop(stage.session, &error)); /* dead is dead */
  peer_assert_error(&error, code, words);
  stage_close(&stage);
}

static void pipelined(Peer *peer) {
  peer_let_in(peer, "LITERAL+ UIDPLUS");
  peer_expect(peer, "A2 APPEND Sent (\\Seen \\Draft $Forwarded) \"17-Jul-1996 09:44:25 +0000\" {5+}");
  peer_expect_bytes(peer, "h\n\xff\rz\r\n");
  peer_expect(peer, "A3 APPEND \"a \\\"b\" () {1+}");
  peer_expect_bytes(peer, "\n\r\n");
  for (guint i = 4; i <= 7; i++) {
    g_autofree char *line = g_strdup_printf("A%u APPEND INBOX () {0+}", i);
    peer_expect(peer, line);
    peer_expect_bytes(peer, "\r\n");
  }
  peer_send(peer, "A3 NO [OVERQUOTA] full\r\n* 2 EXISTS\r\nA2 OK [APPENDUID 7 4294967295] x\r\n"
                  "A4 OK\r\nA5 OK [APPENDUID 7 4294967296] x\r\nA6 OK [APPENDUID 0 3] x\r\n"
                  "A7 OK [APPENDUID 7 1:3] x\r\n");
  peer_hang(peer);
}

static void test_pipelined(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_with("1h\n\xff\rz");
  static const char *const keywords[] = {"$Forwarded", NULL};
  ImapMessage message = {
      .flags = MSG_FLAG_SEEN | MSG_FLAG_DRAFT | MSG_FLAG_RECENT,
      .keywords = keywords,
      .internal_date = 837596665,
      .fd = fd,
      .offset = 1,
      .size = 5,
  };
  ImapAppended appended;
  Stage stage = {0};
  stage_open(&stage, pipelined, 10000, NULL);
  ImapTag first = imap_append_send(stage.session, "Sent", &message, &error);
  message = (ImapMessage){.internal_date = G_MAXINT64, .fd = fd, .offset = 2, .size = 1};
  ImapTag second = imap_append_send(stage.session, "a \"b", &message, &error);
  ImapTag others[4];
  for (guint i = 0; i < 4; i++)
    others[i] = send_octets(&stage, "INBOX", fd, 0, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(imap_in_flight(stage.session), ==, 6);
  g_assert_true(imap_append_wait(stage.session, first, &appended, &error));
  g_assert_cmpuint(appended.uidvalidity, ==, 7);
  g_assert_cmpuint(appended.uid, ==, 4294967295);
  g_assert_false(imap_append_wait(stage.session, second, &appended, &error));
  peer_assert_error(&error, EML_ERROR_QUOTA, "full");
  for (guint i = 0; i < 4; i++) {
    g_assert_true(imap_append_wait(stage.session, others[i], &appended, &error));
    g_assert_cmpuint(appended.uid + appended.uidvalidity, ==, 0);
  }
  g_assert_true(imap_session_alive(stage.session));
  stage_close(&stage);
}

static void asked(Peer *peer) {
  peer_let_in(peer, ""); /* as with Courier */
  peer_expect(peer, "A2 APPEND gone () {2}");
  peer_send(peer, "A2 NO [TRYCREATE] no such mailbox\r\n");
  peer_expect(peer, "A3 APPEND INBOX () {2}");
  peer_send(peer, "* 1 FETCH (UID 1)\r\n+ go\r\n");
  peer_expect_bytes(peer, "ab\r\n");
  peer_send(peer, "A3 OK [APPENDUID 7 8] x\r\n");
  peer_expect(peer, "A4 APPEND {4}");
  peer_send(peer, "+ go\r\n");
  peer_expect_bytes(peer, "caf\xe9");
  peer_expect(peer, " () {2}");
  peer_send(peer, "A4 NO [LIMIT] not yours\r\n");
  peer_expect(peer, "A5 APPEND &AOk-t&AOk- () {2}");
  peer_send(peer, "+\r\n");
  peer_expect_bytes(peer, "ab\r\n");
  peer_send(peer, "A5 BAD what\r\n");
  peer_hang(peer);
}

static void test_literal_asked_for_and_refused(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_with("ab");
  ImapAppended appended;
  Stage stage = {0};
  stage_open(&stage, asked, 10000, NULL);
  ImapTag tag = send_octets(&stage, "gone", fd, 2, &error);
  g_assert_no_error(error);
  g_assert_false(imap_append_wait(stage.session, tag, &appended, &error));
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "no such");
  tag = send_octets(&stage, "INBOX", fd, 2, &error);
  g_assert_true(imap_append_wait(stage.session, tag, &appended, &error));
  g_assert_cmpuint(appended.uid, ==, 8);
  g_assert_cmpuint(stage.fetches, ==, 1);
  tag = send_octets(&stage, "caf\xe9", fd, 2, &error);
  g_assert_false(imap_append_wait(stage.session, tag, NULL, &error));
  peer_assert_error(&error, EML_ERROR_TOO_BIG, "not yours");
  tag = send_octets(&stage, "&AOk-t&AOk-", fd, 2, &error);
  g_assert_false(imap_append_wait(stage.session, tag, NULL, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "what");
  static const char *const bad[] = {"", "a b", "a\r", "\xc3\xa9", "\\Seen", "a)", "{3}"};
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    const char *keywords[] = {bad[i], NULL};
    ImapMessage message = {.keywords = keywords, .fd = fd, .size = 2};
    g_assert_cmpuint(imap_append_send(stage.session, "INBOX", &message, &error), ==, 0);
    peer_assert_error(&error, EML_ERROR_FAILED, "keyword");
  }
  g_assert_cmpuint(send_octets(&stage, "a\r\nb", fd, 2, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_FAILED, "line break");
  g_assert_true(imap_session_alive(stage.session));
  g_assert_cmpuint(imap_in_flight(stage.session), ==, 0);
  stage_close(&stage);
}

static void minus(Peer *peer) {
  peer_let_in(peer, "LITERAL- APPENDLIMIT=2000000");
  peer_expect(peer, "A2 APPEND INBOX () {4096+}");
  g_assert_true(peer_skip(peer, 4098));
  peer_send(peer, "A2 OK\r\n");
  peer_expect(peer, "A3 APPEND INBOX () {4097}");
  peer_send(peer, "A3 NO [TOOBIG] over 4096\r\n");
  peer_hang(peer);
}

static void plus(Peer *peer) {
  peer_let_in(peer, "LITERAL+");
  peer_expect(peer, "A2 APPEND INBOX () {1048575+}");
  g_assert_true(peer_skip(peer, MIB + 1));
  peer_send(peer, "A2 OK\r\n");
  peer_expect(peer, "A3 APPEND INBOX () {1048576}"); /* worth asking */
  peer_send(peer, "A3 NO [OVERQUOTA] full\r\n");
  peer_hang(peer);
}

static void test_when_to_ask(void) {
  static const struct {
    PeerScript script;
    guint64 size;
    EmlError code;
  } cases[] = {{minus, 4096, EML_ERROR_TOO_BIG}, {plus, MIB - 1, EML_ERROR_QUOTA}};
  autofd int fd = file_of(4 * MIB);
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    Stage stage = {0};
    stage_open(&stage, cases[i].script, 10000, NULL);
    ImapTag tag = send_octets(&stage, "INBOX", fd, cases[i].size, &error);
    g_assert_true(imap_append_wait(stage.session, tag, NULL, &error));
    tag = send_octets(&stage, "INBOX", fd, cases[i].size + 1, &error);
    g_assert_false(imap_append_wait(stage.session, tag, NULL, &error));
    peer_assert_error(&error, (int) cases[i].code, "");
    if (cases[i].script == minus) {
      g_assert_cmpuint(send_octets(&stage, "INBOX", fd, 2000001, &error), ==, 0);
      peer_assert_error(&error, EML_ERROR_TOO_BIG, "2000000");
    }
    g_assert_true(imap_session_alive(stage.session));
    stage_close(&stage);
  }
}

/* ---- several at once ---- */

static void takes_many(Peer *peer) {
  peer_let_in(peer, "MULTIAPPEND LITERAL+ UIDPLUS APPENDLIMIT=200000");
  peer_expect_bytes(peer, "A2 APPEND \"a b\" (\\Seen $x) \"17-Jul-1996 09:44:25 +0000\" {5+}\r\n"
                          "h\n\xff\rz () {1+}\r\n\n () {2+}\r\nh\n\r\n");
  peer_send(peer, "* 3 EXISTS\r\nA2 OK [APPENDUID 7 3:4,9] x\r\n");
  /* longer than the buffer, in the middle of others */
  peer_expect(peer, "A3 APPEND INBOX () {1+}");
  peer_expect_bytes(peer, "h");
  peer_expect(peer, " () {200000+}");
  g_assert_true(peer_skip(peer, 200000));
  peer_expect_bytes(peer, " () {1+}\r\nh\r\n");
  peer_send(peer, "A3 NO [OVERQUOTA] full\r\n");
  peer_expect(peer, "A4 NOOP");
  peer_send(peer, "A4 OK\r\n");
  peer_hang(peer);
}

static void test_many(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_with("1h\n\xff\rz"), long_fd = file_of(200001);
  static const char *const keywords[] = {"$x", NULL};
  guint64 sent = 0;
  ImapMessage messages[] = {
      {.flags = MSG_FLAG_SEEN,
       .keywords = keywords,
       .internal_date = 837596665,
       .fd = fd,
       .offset = 1,
       .size = 5,
       .sent = on_sent,
       .sent_data = &sent},
      {.internal_date = IMAP_NO_DATE, .fd = fd, .offset = 2, .size = 1},
      {.internal_date = IMAP_NO_DATE, .fd = fd, .offset = 1, .size = 2},
  };
  guint32 uidvalidity;
  gsize unread;
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  Stage stage = {0};
  stage_open(&stage, takes_many, 10000, NULL);
  ImapTag tag = imap_append_many_send(stage.session, "a b", messages, 3, &unread, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(unread, ==, 3);
  g_assert_cmpuint(sent, ==, 8);
  g_assert_true(imap_append_many_wait(stage.session, tag, 3, &uidvalidity, uids, &error));
  g_assert_cmpuint(uidvalidity, ==, 7);
  g_assert_cmpuint(uids->len, ==, 3);
  g_assert_cmpuint(g_array_index(uids, guint32, 0), ==, 3);
  g_assert_cmpuint(g_array_index(uids, guint32, 1), ==, 4);
  g_assert_cmpuint(g_array_index(uids, guint32, 2), ==, 9);

  sent = 0;
  messages[0] = messages[2] = (ImapMessage){.internal_date = IMAP_NO_DATE,
                                            .fd = fd,
                                            .offset = 1,
                                            .size = 1,
                                            .sent = on_sent,
                                            .sent_data = &sent};
  messages[1] = (ImapMessage){.internal_date = IMAP_NO_DATE, .fd = long_fd, .size = 200000};
  tag = imap_append_many_send(stage.session, "INBOX", messages, 3, NULL, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(sent, ==, 200002);
  g_assert_false(imap_append_many_wait(stage.session, tag, 3, &uidvalidity, uids, &error));
  peer_assert_error(&error, EML_ERROR_QUOTA, "full");
  g_assert_cmpuint(uidvalidity, ==, 0);
  g_assert_cmpuint(uids->len, ==, 3);

  messages[1].size = 200001;
  g_assert_cmpuint(imap_append_many_send(stage.session, "INBOX", messages, 3, NULL, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_TOO_BIG, "200000");
  messages[1].size = 0;
  g_assert_cmpuint(imap_append_many_send(stage.session, "INBOX", messages, 3, NULL, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_FAILED, "empty");
  g_assert_true(imap_noop(stage.session, &error));
  stage_close(&stage);
}

/* What APPENDUID tells of two messages, and whether that can be so. */
static const struct {
  const char *told;
  guint32 first, second;
} tellings[] = {
    {"7 3:4", 3, 4},
    {"7 4:3", 3, 4}, /* the same (RFC 9051, 9) */
    {"7 3,9", 3, 9},
    {"7 4294967294:4294967295", 4294967294, 4294967295},
    {"7 3", 0, 0},
    {"7 3:5", 0, 0},
    {"7 3,4,5", 0, 0},
    {"7 1:4294967295", 0, 0},
    {"7 3,3", 0, 0},
    {"7 4,3", 0, 0},
    {"7 3:*", 0, 0},
    {"7 0:1", 0, 0},
    {"7 3,", 0, 0},
    {"7 3:4 5", 0, 0},
    {"0 3:4", 0, 0},
    {"7", 0, 0},
    {"", 0, 0},
};

static void tells_sets(Peer *peer) {
  peer_let_in(peer, "MULTIAPPEND LITERAL+");
  for (gsize i = 0; i < G_N_ELEMENTS(tellings); i++) {
    peer_expect(peer, "A* APPEND INBOX () {1+}");
    peer_expect_bytes(peer, "a () {1+}\r\nb\r\n");
    g_autofree char *answer =
        g_strdup_printf("A%" G_GSIZE_FORMAT " OK [APPENDUID %s] x\r\n", i + 2, tellings[i].told);
    peer_send(peer, answer);
  }
  peer_hang(peer);
}

static void test_uids_of_many(void) {
  autofd int fd = file_with("ab");
  const ImapMessage messages[] = {
      {.internal_date = IMAP_NO_DATE, .fd = fd, .size = 1},
      {.internal_date = IMAP_NO_DATE, .fd = fd, .offset = 1, .size = 1},
  };
  Stage stage = {0};
  stage_open(&stage, tells_sets, 10000, NULL);
  for (gsize i = 0; i < G_N_ELEMENTS(tellings); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(GArray) uids = g_array_new(FALSE, TRUE, sizeof(guint32));
    guint32 uidvalidity = 1;
    gboolean believed = tellings[i].first > 0;
    g_test_message("%s", tellings[i].told);
    ImapTag tag = imap_append_many_send(stage.session, "INBOX", messages, 2, NULL, &error);
    g_assert_true(imap_append_many_wait(stage.session, tag, 2, &uidvalidity, uids, &error));
    g_assert_cmpuint(uidvalidity, ==, believed ? 7 : 0);
    g_assert_cmpuint(uids->len, ==, believed ? 2 : 0);
    g_assert_true(!believed || (g_array_index(uids, guint32, 0) == tellings[i].first &&
                                g_array_index(uids, guint32, 1) == tellings[i].second));
  }
  stage_close(&stage);
}

static void offers_half(Peer *peer) {
  peer_let_in(peer, "MULTIAPPEND LITERAL-");
  peer_hang(peer);
}

static void offers_other_half(Peer *peer) {
  peer_let_in(peer, "LITERAL+");
  peer_hang(peer);
}

static void test_many_not_offered(void) {
  static const struct {
    PeerScript script;
    const char *words;
  } cases[] = {{offers_half, "LITERAL+"}, {offers_other_half, "MULTIAPPEND"}};
  autofd int fd = file_with("a");
  const ImapMessage message = {.internal_date = IMAP_NO_DATE, .fd = fd, .size = 1};
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    Stage stage = {0};
    stage_open(&stage, cases[i].script, 10000, NULL);
    g_assert_cmpuint(imap_append_many_send(stage.session, "INBOX", &message, 1, NULL, &error), ==,
                     0);
    peer_assert_error(&error, EML_ERROR_REFUSED, cases[i].words);
    g_assert_true(imap_session_alive(stage.session));
    stage_close(&stage);
  }
}

/* Lets in and asks for the octets of a long message. */
static void begin_long(Peer *peer) {
  peer_let_in(peer, "");
  peer_expect(peer, "A2 APPEND INBOX () {67108864}");
  peer_send(peer, "+ go\r\n");
}

static void hangs_before(Peer *peer) {
  peer_let_in(peer, "");
  peer_hang(peer);
}

static void hangs_within(Peer *peer) {
  begin_long(peer);
  g_assert_true(peer_skip(peer, MIB));
  stall(peer);
}

static void hangs_after(Peer *peer) {
  begin_long(peer);
  peer_hang(peer);
}

static void hangs_in_response(Peer *peer) {
  begin_long(peer);
  peer_send(peer, "* 1 FETCH (UID");
  stall(peer);
}

static void test_server_hangs(void) {
  expect_death(hangs_before, EML_ERROR_TIMEOUT, "in time");
  expect_death(hangs_within, EML_ERROR_TIMEOUT, "in time");
  expect_death(hangs_after, EML_ERROR_TIMEOUT, "in time");
  expect_death(hangs_in_response, EML_ERROR_TIMEOUT, "in time");
}

static void cut_within(Peer *peer) {
  begin_long(peer);
  g_assert_true(peer_skip(peer, MIB));
}

static void cut_after(Peer *peer) {
  begin_long(peer);
  g_assert_true(peer_skip(peer, LONG + 2));
}

static void says_bye(Peer *peer) {
  begin_long(peer);
  g_assert_true(peer_skip(peer, MIB));
  peer_send(peer, "* BYE [TOOBIG] Enough\r\n");
}

static void says_nonsense(Peer *peer) {
  begin_long(peer);
  peer_send(peer, "A9 OK\r\n");
  stall(peer);
}

static void says_no_end(Peer *peer) {
  static char bulk[65536];
  memset(bulk, 'x', sizeof bulk);
  begin_long(peer);
  peer_send(peer, "* OK ");
  for (guint i = 0; i < 4800 && peer_send_bytes(peer, bulk, sizeof bulk); i++) {
  }
}

static void test_server_breaks_off(void) {
  expect_death(cut_within, EML_ERROR_OFFLINE, "");
  expect_death(cut_after, EML_ERROR_OFFLINE, "closed");
  for (guint i = 0; i < 10; i++) /* whichever side sees the end first */
    expect_death(says_bye, EML_ERROR_TOO_BIG, "Enough");
  expect_death(says_nonsense, EML_ERROR_PROTOCOL, "not sent");
  expect_death(says_no_end, EML_ERROR_PROTOCOL, "without end");
}

/* More than the buffers take before it reads on, and half a response while it does. */
static void talks_back(Peer *peer) {
  g_autoptr(GString) lines = g_string_new(NULL);
  for (guint i = 1; i <= 10000; i++)
    g_string_append_printf(lines, "* %u FETCH (FLAGS (\\Seen $Forwarded) MODSEQ (123456789012) "
                                  "INTERNALDATE \"24-Nov-2026 13:39:13 +0000\")\r\n", i);
  peer_let_in(peer, "LITERAL+ LITERAL-");
  peer_expect(peer, "A2 APPEND INBOX () {67108864}");
  peer_send(peer, "+ go\r\n");
  for (guint i = 0; i < 20; i++)
    g_assert_true(peer_send_bytes(peer, lines->str, lines->len));
  g_assert_true(peer_skip(peer, MIB));
  peer_send(peer, "* 1 FETCH (UID");
  g_assert_true(peer_skip(peer, LONG - MIB + 2));
  peer_send(peer, " 4)\r\nA2 OK [APPENDUID 1 2] x\r\n");
  peer_expect(peer, "A3 NOOP");
  peer_send(peer, "A3 OK\r\n");
  peer_hang(peer);
}

static void test_server_talks_back(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(LONG);
  ImapAppended appended;
  Stage stage = {0};
  stage_open(&stage, talks_back, 10000, NULL);
  ImapTag tag = send_octets(&stage, "INBOX", fd, LONG, &error);
  g_assert_no_error(error);
  g_assert_true(imap_append_wait(stage.session, tag, &appended, &error));
  g_assert_cmpuint(appended.uid, ==, 2);
  g_assert_cmpuint(stage.fetches, ==, 200001);
  g_assert_true(imap_noop(stage.session, &error));
  stage_close(&stage);
}

/* Refused at once, but what was announced still has to come. */
static void refuses_early(Peer *peer) {
  peer_let_in(peer, "LITERAL+");
  peer_expect(peer, "A2 APPEND INBOX () {1000000+}");
  peer_send(peer, "A2 NO [OVERQUOTA] full\r\n");
  g_assert_true(peer_skip(peer, 1000002));
  peer_expect(peer, "A3 NOOP");
  peer_send(peer, "A3 OK\r\n");
  peer_hang(peer);
}

static void test_refused_early(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(MIB);
  Stage stage = {0};
  stage_open(&stage, refuses_early, 10000, NULL);
  ImapTag tag = send_octets(&stage, "INBOX", fd, 1000000, &error);
  g_assert_false(imap_append_wait(stage.session, tag, NULL, &error));
  peer_assert_error(&error, EML_ERROR_QUOTA, "full");
  g_assert_true(imap_noop(stage.session, &error));
  stage_close(&stage);
}

/* Takes longer than the silence that is allowed, but never stops for so long. */
static void reads_slowly(Peer *peer) {
  begin_long(peer);
  for (guint64 left = LONG; left > 0; left -= 4 * MIB) {
    g_assert_true(peer_skip(peer, 4 * MIB));
    g_usleep(SILENCE_MS * 1000 / 4);
  }
  g_assert_true(peer_skip(peer, 2));
  peer_send(peer, "A2 OK\r\n");
  peer_hang(peer);
}

static void test_slow_upload_flows(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(LONG);
  Stage stage = {0};
  stage_open(&stage, reads_slowly, SILENCE_MS, NULL);
  gint64 began = g_get_monotonic_time();
  guint64 sent = 0;
  ImapMessage message = {
      .internal_date = IMAP_NO_DATE, .fd = fd, .size = LONG, .sent = on_sent, .sent_data = &sent};
  ImapTag tag = imap_append_send(stage.session, "INBOX", &message, &error);
  g_assert_cmpuint(sent, ==, LONG);
  g_assert_true(imap_append_wait(stage.session, tag, NULL, &error));
  g_assert_no_error(error);
  g_assert_cmpint(g_get_monotonic_time() - began, >, 3 * SILENCE_MS * 1000);
  stage_close(&stage);
}

static void reads_to_the_end(Peer *peer) {
  Stage *stage = peer_data(peer);
  peer_let_in(peer, "LITERAL+");
  peer_line(peer); /* it may not even come */
  while (peer_skip(peer, 1))
    stage->got++;
}

static void test_file_shorter_than_told(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(999999);
  Stage stage = {0};
  stage_open(&stage, reads_to_the_end, 10000, NULL);
  g_assert_cmpuint(send_octets(&stage, "INBOX", fd, 1000000, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_FAILED, "shorter");
  g_assert_false(imap_session_alive(stage.session));
  stage_close(&stage);
  g_assert_cmpuint(stage.got, <, 1000000);
}

static void test_file_cannot_be_read(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, reads_to_the_end, 10000, NULL);
  g_assert_cmpuint(send_octets(&stage, "INBOX", stage.release, 1000000, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_FAILED, "message");
  g_assert_false(imap_session_alive(stage.session));
  stage_close(&stage);
  g_assert_cmpuint(stage.got, <, 1000000);
}

static void reads_many_to_the_end(Peer *peer) {
  peer_let_in(peer, "MULTIAPPEND LITERAL+");
  while (peer_skip(peer, 1))
    ((Stage *) peer_data(peer))->got++;
}

static void test_one_of_many_cannot_be_read(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(100000), short_fd = file_of(99999);
  ImapMessage messages[] = {{.fd = fd, .size = 100000},
                            {.fd = short_fd, .size = 100000},
                            {.fd = fd, .size = 100000}};
  gsize unread;
  Stage stage = {0};
  stage_open(&stage, reads_many_to_the_end, 10000, NULL);
  ImapTag tag = imap_append_many_send(stage.session, "INBOX", messages, 3, &unread, &error);
  g_assert_cmpuint(tag, ==, 0);
  g_assert_cmpuint(unread, ==, 1);
  peer_assert_error(&error, EML_ERROR_FAILED, "shorter");
  g_assert_false(imap_session_alive(stage.session));
  g_assert_cmpuint(imap_append_many_send(stage.session, "INBOX", messages, 3, &unread, &error), ==,
                   0);
  g_assert_cmpuint(unread, ==, 3);
  stage_close(&stage);
  g_assert_cmpuint(stage.got, <, 200000);
}

static gpointer cancel_soon(gpointer data) {
  g_usleep(50000);
  g_cancellable_cancel(data);
  return NULL;
}

static void test_cancelled(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  autofd int fd = file_of(LONG);
  Stage stage = {0};
  stage_open(&stage, hangs_within, 10000, cancellable);
  gint64 began = g_get_monotonic_time();
  GThread *thread = g_thread_new("cancel", cancel_soon, cancellable);
  ImapTag tag = send_octets(&stage, "INBOX", fd, LONG, &error);
  g_assert_cmpuint(tag, ==, 0);
  g_assert_cmpint(g_get_monotonic_time() - began, <, IN_TIME_US);
  peer_assert_error(&error, EML_ERROR_CANCELLED, "");
  g_thread_join(thread);
  stage_close(&stage);
}

/* Octets that do not compress, under deflate, to a server that is slow at first. */
static void takes_deflated(Peer *peer) {
  Stage *stage = peer_data(peer);
  peer_let_in(peer, "COMPRESS=DEFLATE LITERAL+");
  peer_expect(peer, "A2 COMPRESS DEFLATE");
  peer_send(peer, "A2 OK\r\n");
  peer_start_deflate(peer);
  peer_expect(peer, "A3 APPEND INBOX () {20971520}");
  peer_send(peer, "* 1 FETCH (UID 2)\r\n+ go\r\n");
  g_usleep(100000);
  peer_send(peer, "* 1 FETCH (UID 2)\r\n");
  peer_expect_digest(peer, 20 * MIB, stage->digest);
  peer_expect_bytes(peer, "\r\n");
  peer_send(peer, "A3 OK\r\n");
  peer_expect(peer, "A4 APPEND INBOX () {3+}");
  g_assert_true(peer_skip(peer, 5));
  peer_send(peer, "A4 OK\r\n");
  peer_expect(peer, "A5 NOOP");
  peer_send(peer, "A5 OK\r\n");
  peer_hang(peer);
}

static void test_under_deflate(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(20 * MIB);
  g_autofree guint32 *noise = g_new(guint32, MIB / 4);
  g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
  for (guint i = 0; i < 20; i++) {
    for (guint at = 0; at < MIB / 4; at++)
      noise[at] = i == 9 ? 0 : g_test_rand_int_range(G_MININT32, G_MAXINT32);
    g_assert_cmpint(pwrite(fd, noise, MIB, (goffset) i * MIB), ==, MIB);
    g_checksum_update(checksum, (const guchar *) noise, MIB);
  }
  Stage stage = {.digest = g_checksum_get_string(checksum)};
  stage_open(&stage, takes_deflated, 10000, NULL);
  ImapTag tag = send_octets(&stage, "INBOX", fd, 20 * MIB, &error);
  g_assert_true(imap_append_wait(stage.session, tag, NULL, &error));
  tag = send_octets(&stage, "INBOX", fd, 3, &error);
  g_assert_true(imap_append_wait(stage.session, tag, NULL, &error));
  g_assert_true(imap_noop(stage.session, &error));
  g_assert_cmpuint(stage.fetches, ==, 2);
  stage_close(&stage);
}

static void takes_200_mb(Peer *peer) {
  peer_let_in(peer, "");
  peer_expect(peer, "A2 APPEND INBOX () {209715200}");
  peer_send(peer, "+ go\r\n");
  g_assert_true(peer_skip(peer, 209715200));
  peer_expect_bytes(peer, "\r\n");
  peer_send(peer, "A2 OK\r\n");
  peer_hang(peer);
}

static void test_200_mb(void) {
  g_autoptr(GError) error = NULL;
  autofd int fd = file_of(209715200);
  struct rusage before, after;
  Stage stage = {0};
  stage_open(&stage, takes_200_mb, 10000, NULL);
  getrusage(RUSAGE_SELF, &before);
  ImapTag tag = send_octets(&stage, "INBOX", fd, 209715200, &error);
  g_assert_true(imap_append_wait(stage.session, tag, NULL, &error));
  getrusage(RUSAGE_SELF, &after);
  g_test_message("%ld KiB more", after.ru_maxrss - before.ru_maxrss);
  g_assert_cmpint(after.ru_maxrss - before.ru_maxrss, <, 100 * 1024); /* sanitizers hoard */
  stage_close(&stage);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/upload/" #name, test_##name)
  TEST(200_mb); /* first, while the process is small */
  TEST(pipelined);
  TEST(literal_asked_for_and_refused);
  TEST(when_to_ask);
  TEST(many);
  TEST(uids_of_many);
  TEST(many_not_offered);
  TEST(server_hangs);
  TEST(server_breaks_off);
  TEST(server_talks_back);
  TEST(refused_early);
  TEST(slow_upload_flows);
  TEST(file_shorter_than_told);
  TEST(file_cannot_be_read);
  TEST(one_of_many_cannot_be_read);
  TEST(cancelled);
  TEST(under_deflate);
#undef TEST
  int result = g_test_run();
  peer_cleanup();
  return result;
}
