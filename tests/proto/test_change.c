/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Verbs that change something, and servers that answer them well and badly. Sending messages is in
 * test_upload.c.
 */
#include <string.h>

#include "base/autofd.h"
#include "base/err.h"
#include "imap/change.h"
#include "peer.h"

/* Plays @script for one session. */
typedef struct {
  Peer *peer;
  ImapSession *session;
  GString *log; /* what the handler saw */
} Stage;

static void on_expunge(guint32 seq, gpointer data) {
  g_string_append_printf(data, "expunge %u;", seq);
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  g_string_append_printf(data, "vanished %u:%u;", ranges[0].first, ranges[0].last);
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  g_string_append_printf(data, "fetch %u flags %u;", fetch->uid, fetch->flags);
}

static const ImapHandler handler = {
    .expunge = on_expunge, .vanished = on_vanished, .fetch = on_fetch};

static void stage_open(Stage *stage, PeerScript script) {
  stage->peer = peer_start(script, 1, TRUE, CERT_GOOD, NULL);
  stage->session = peer_session_ok(stage->peer);
  stage->log = g_string_new(NULL);
  imap_session_set_handler(stage->session, &handler, stage->log);
}

static void stage_close(Stage *stage) {
  imap_session_close(&stage->session);
  peer_stop(stage->peer);
  g_string_free(stage->log, TRUE);
}

/* Reads @command and answers @answer. */
static void play(Peer *peer, const char *command, const char *answer) {
  peer_expect(peer, command);
  peer_send(peer, answer);
}

static void storing(Peer *peer) {
  peer_let_in(peer, "CONDSTORE");
  play(peer, "A2 UID STORE 4,7:9 +FLAGS (\\Seen \\Flagged)",
       "* 4 FETCH (UID 4 FLAGS (\\Seen \\Flagged))\r\nA2 OK\r\n");
  peer_expect(peer, "A3 UID STORE 4 -FLAGS.SILENT (\\Answered \\Deleted $Junk ]odd[)");
  peer_expect(peer, "A4 UID STORE 1:? (UNCHANGEDSINCE 12345678901234) FLAGS.SILENT ()");
  peer_send(peer, "A4 OK [MODIFIED 7,9:11,3] some\r\nA3 OK\r\n");
  play(peer, "A5 UID STORE 4 (UNCHANGEDSINCE 1) FLAGS (\\Draft)", "A5 NO [MODIFIED 4] gone\r\n");
  play(peer, "A6 UID STORE 4 FLAGS ()", "A6 OK [MODIFIED 4,0] x\r\n");
  peer_hang(peer);
}

static void test_store(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) modified = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  static const char *const keywords[] = {"$Junk", "]odd[", NULL};
  Stage stage = {0};
  stage_open(&stage, storing);
  ImapStore store = {.flags = MSG_FLAG_SEEN | MSG_FLAG_FLAGGED | MSG_FLAG_RECENT};
  ImapTag tag = imap_store_send(stage.session, "4,7:9", &store, &error);
  g_assert_true(imap_store_wait(stage.session, tag, modified, &error));
  g_assert_cmpuint(modified->len, ==, 0);
  g_assert_cmpstr(stage.log->str, ==, "fetch 4 flags 5;");

  store = (ImapStore){IMAP_STORE_REMOVE, MSG_FLAG_ANSWERED | MSG_FLAG_DELETED, keywords, TRUE, 0};
  ImapTag first = imap_store_send(stage.session, "4", &store, &error);
  store = (ImapStore){.mode = IMAP_STORE_SET, .silent = TRUE, .unchanged_since = 12345678901234};
  ImapTag second = imap_store_send(stage.session, "1:*", &store, &error);
  g_assert_true(imap_store_wait(stage.session, first, modified, &error));
  g_assert_cmpuint(modified->len, ==, 0);
  g_assert_true(imap_store_wait(stage.session, second, modified, &error));
  g_assert_cmpuint(modified->len, ==, 3);
  g_assert_cmpuint(g_array_index(modified, ImapRange, 1).first, ==, 9);
  g_assert_cmpuint(g_array_index(modified, ImapRange, 1).last, ==, 11);

  store = (ImapStore){IMAP_STORE_SET, MSG_FLAG_DRAFT, NULL, FALSE, 1};
  tag = imap_store_send(stage.session, "4", &store, &error);
  g_assert_false(imap_store_wait(stage.session, tag, modified, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "gone");
  g_assert_cmpuint(modified->len, ==, 4);

  static const char *const bad[] = {"", "4 FLAGS ()", "4\r\n", "{3}", "(4)"};
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_assert_cmpuint(imap_store_send(stage.session, bad[i], &store, &error), ==, 0);
    peer_assert_error(&error, EML_ERROR_FAILED, "set");
  }

  store = (ImapStore){.mode = IMAP_STORE_SET};
  tag = imap_store_send(stage.session, "4", &store, &error);
  g_assert_false(imap_store_wait(stage.session, tag, modified, &error));
  peer_assert_error(&error, EML_ERROR_PROTOCOL, "MODIFIED");
  g_assert_false(imap_session_alive(stage.session));
  stage_close(&stage);
}

/* A COPYUID (or what is said instead) and what is made of it. */
static const struct {
  const char *code, *wanted;
} copies[] = {
    {"[COPYUID 7 4,8:9 11:13] x", "4>11 8>12 9>13 in 7"},
    {"[COPYUID 7 9:8,4 13,11:12] x", "8>13 9>11 4>12 in 7"},
    {"done", " in 0"},
    {"[COPYUID 7 4,8 11:13] x", " in 0"},
    {"[COPYUID 7 4,8:9 11] x", " in 0"},
    {"[COPYUID 7 1:4294967295 1:4294967295] x", " in 0"},
    {"[COPYUID 7 4:4000000000 5:4000000001] x", " in 0"},
    {"[COPYUID 7 5 11] x", " in 0"}, /* nobody asked for that one */
    {"[COPYUID 0 4 11] x", " in 0"},
    {"[COPYUID 7 4 0] x", " in 0"},
    {"[COPYUID 7 4 *] x", " in 0"},
    {"[COPYUID 7 4] x", " in 0"},
    {"[COPYUID 7  ] x", " in 0"},
    {"[COPYUID] x", " in 0"},
    {"[COPYUID 7 4 11", " in 0"},
    {"[COPYUID 7 4 11 12] x", " in 0"},
    {"[COPYUID 4294967296 4 11] x", " in 0"},
    {"[COPYUID 7 4, 11,] x", " in 0"},
    {"[COPYUID 7 4: 11:] x", " in 0"},
    {"[COPYUID 7 4 99999999999999999999999] x", " in 0"},
};

static void copying(Peer *peer) {
  peer_let_in(peer, "UIDPLUS");
  for (guint i = 0; i < G_N_ELEMENTS(copies); i++) {
    g_autofree char *command =
        g_strdup_printf("A%u UID COPY 4,8:9,?:20 \"a \\\"b\\\\c\"", i + 2);
    g_autofree char *answer = g_strdup_printf("A%u OK %s\r\n", i + 2, copies[i].code);
    play(peer, command, answer);
  }
  peer_hang(peer);
}

static char *mapping_text(guint32 uidvalidity, const GArray *pairs) {
  GString *text = g_string_new(NULL);
  for (guint i = 0; i < pairs->len; i++) {
    const ImapCopy *pair = &g_array_index(pairs, ImapCopy, i);
    g_string_append_printf(text, "%s%u>%u", i ? " " : "", pair->from, pair->to);
  }
  g_string_append_printf(text, " in %u", uidvalidity);
  return g_string_free(text, FALSE);
}

static void test_copy(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, copying);
  for (guint i = 0; i < G_N_ELEMENTS(copies); i++) {
    g_autoptr(GArray) pairs = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
    guint32 uidvalidity = 99;
    g_assert_true(
        imap_copy(stage.session, "4,8:9,*:20", "a \"b\\c", &uidvalidity, pairs, &error));
    g_assert_no_error(error);
    g_autofree char *text = mapping_text(uidvalidity, pairs);
    g_assert_cmpstr(text, ==, copies[i].wanted);
  }
  stage_close(&stage);
}

/* A mapping longer than is kept, which would be wrong if it were taken for whole. */
static void copies_long(Peer *peer) {
  g_autoptr(GString) answer = g_string_new("A2 OK [COPYUID 7 1 ");
  peer_let_in(peer, "UIDPLUS");
  while (answer->len < 500000)
    g_string_append_c(answer, '0');
  g_string_append(answer, "11] x\r\n");
  play(peer, "A2 UID COPY 1 x", answer->str);
  g_string_assign(answer, "A3 OK [COPYUID 7 1:25000 1");
  for (guint uid = 3; uid <= 50001; uid += 2)
    g_string_append_printf(answer, ",%u", uid);
  g_string_truncate(answer, answer->len - 6);
  g_string_append(answer, "] x\r\n");
  play(peer, "A3 UID COPY 1:? x", answer->str);
  peer_hang(peer);
}

static void test_copy_told_at_length(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) pairs = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
  guint32 uidvalidity;
  Stage stage = {0};
  stage_open(&stage, copies_long);
  g_assert_true(imap_copy(stage.session, "1", "x", &uidvalidity, pairs, &error));
  g_assert_cmpuint(pairs->len + uidvalidity, ==, 0);
  g_assert_true(imap_copy(stage.session, "1:*", "x", &uidvalidity, pairs, &error));
  g_assert_cmpuint(uidvalidity, ==, 7);
  g_assert_cmpuint(pairs->len, ==, 25000);
  g_assert_cmpuint(g_array_index(pairs, ImapCopy, 24999).from, ==, 25000);
  g_assert_cmpuint(g_array_index(pairs, ImapCopy, 24999).to, ==, 49999);
  stage_close(&stage);
}

static void moving(Peer *peer) {
  peer_let_in(peer, "UIDPLUS MOVE");
  play(peer, "A2 UID MOVE 4:9 Trash",
       "* OK [COPYUID 7 4:5 11:12] Moved\r\n* 3 EXPUNGE\r\n* OK [COPYUID 7 9 13] Moved\r\n"
       "* VANISHED 5:9\r\nA2 OK done\r\n");
  play(peer, "A3 UID MOVE 4 Trash", "A3 OK [COPYUID 7 4 14] not as it should be\r\n");
  play(peer, "A4 UID MOVE 4:5 gone", "* OK [COPYUID 7 4 15] x\r\n* 1 EXPUNGE\r\n"
                                     "A4 NO [TRYCREATE] no such mailbox\r\n");
  play(peer, "A5 UID MOVE 4:5 Trash", "* OK [COPYUID 7 4 15] x\r\n* OK [COPYUID 8 5 16] x\r\nA5 OK\r\n");
  play(peer, "A6 UID MOVE 4 full", "A6 NO Over quota\r\n");
  play(peer, "A7 UID EXPUNGE 4:9", "* 1 EXPUNGE\r\nA7 OK\r\n");
  peer_expect(peer, "A8 UID MOVE 4 Trash");
  peer_send(peer, "* OK [COPYUID 7 4 15] x\r\n");
}

static void test_move(void) {
  static const struct {
    const char *set, *mailbox, *wanted;
    int code; /* -1: none */
    const char *words;
  } steps[] = {
      {"4:9", "Trash", "4>11 5>12 9>13 in 7", -1, NULL},
      {"4", "Trash", "4>14 in 7", -1, NULL},
      {"4:5", "gone", "4>15 in 7", EML_ERROR_NOT_FOUND, "no such"},
      {"4:5", "Trash", " in 0", -1, NULL},
      {"4", "full", " in 0", EML_ERROR_QUOTA, "quota"},
      {"4", "Trash", "4>15 in 7", EML_ERROR_OFFLINE, "closed"},
  };
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, moving);
  for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
    g_autoptr(GArray) pairs = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
    guint32 uidvalidity = 99;
    if (i == 5)
      g_assert_true(imap_expunge(stage.session, "4:9", &error));
    gboolean ok =
        imap_move(stage.session, steps[i].set, steps[i].mailbox, &uidvalidity, pairs, &error);
    g_assert_cmpint(ok, ==, steps[i].code < 0);
    if (!ok)
      peer_assert_error(&error, steps[i].code, steps[i].words);
    g_autofree char *text = mapping_text(uidvalidity, pairs);
    g_assert_cmpstr(text, ==, steps[i].wanted);
  }
  g_assert_cmpstr(stage.log->str, ==, "expunge 3;vanished 5:9;expunge 1;expunge 1;");
  stage_close(&stage);
}

static void offers_nothing(Peer *peer) {
  peer_let_in(peer, "");
  play(peer, "A2 CREATE Sent", "A2 OK\r\n");
  peer_hang(peer);
}

static void test_not_offered(void) {
  g_autoptr(GError) error = NULL;
  g_autofree char *rights = NULL;
  guint32 uidvalidity = 99;
  ImapAppended appended = {1, 1};
  ImapMessage message = {.fd = -1};
  ImapStore store = {.unchanged_since = 1};
  Stage stage = {0};
  stage_open(&stage, offers_nothing);
  g_assert_false(imap_move(stage.session, "1", "x", &uidvalidity, NULL, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "MOVE");
  g_assert_cmpuint(uidvalidity, ==, 0);
  g_assert_false(imap_expunge(stage.session, "1", &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "UIDPLUS");
  g_assert_false(imap_replace(stage.session, 1, "x", &message, &appended, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "REPLACE");
  g_assert_cmpuint(appended.uid, ==, 0);
  g_assert_cmpuint(imap_store_send(stage.session, "1", &store, &error), ==, 0);
  peer_assert_error(&error, EML_ERROR_REFUSED, "CONDSTORE");
  g_assert_true(imap_my_rights(stage.session, "x", &rights, &error));
  g_assert_null(rights);
  g_assert_true(imap_create(stage.session, "Sent", IMAP_MAILBOX_SENT, &error));
  stage_close(&stage);
}

/* Every refusal, of CREATE, in order. */
static const struct {
  const char *answer;
  int code;
} refusals[] = {
    {"NO [ALREADYEXISTS] x", EML_ERROR_EXISTS},    {"NO [NONEXISTENT] x", EML_ERROR_NOT_FOUND},
    {"NO [CANNOT] x", EML_ERROR_INVALID},          {"NO [NOPERM] x", EML_ERROR_REFUSED},
    {"NO [OVERQUOTA] x", EML_ERROR_QUOTA},      {"NO [overquota] x", EML_ERROR_QUOTA},
    {"NO [TRYCREATE] x", EML_ERROR_NOT_FOUND},     {"NO [TOOBIG] x", EML_ERROR_TOO_BIG},
    {"NO [LIMIT] x", EML_ERROR_TOO_BIG},           {"NO [INUSE] x", EML_ERROR_BUSY},
    {"NO [UNAVAILABLE] x", EML_ERROR_BUSY},        {"NO [HASCHILDREN] x", EML_ERROR_EXISTS},
    {"NO [USEATTR] x", EML_ERROR_REFUSED},         {"NO [SERVERBUG] x", EML_ERROR_REFUSED},
    {"NO [X-UNHEARD-OF (a \"]\" b)] x", EML_ERROR_REFUSED}, {"NO x", EML_ERROR_REFUSED},
    {"BAD x", EML_ERROR_REFUSED},                  {"NO [ALREADYEXISTS x", EML_ERROR_EXISTS},
    {"NO Over quota", EML_ERROR_QUOTA},         {"NO Invalid mailbox name.", EML_ERROR_INVALID},
    {"NO [NOPERM] Over quota", EML_ERROR_REFUSED},
    {"NO [ALERT] You exceeded your mail quota.", EML_ERROR_QUOTA},
};

static void refusing(Peer *peer) {
  peer_let_in(peer, "");
  for (guint i = 0, tag = 2; i < G_N_ELEMENTS(refusals); i++, tag++) {
    g_autofree char *command = g_strdup_printf("A%u CREATE a/b", tag);
    g_autofree char *answer = g_strdup_printf("A%u %s\r\n", tag, refusals[i].answer);
    play(peer, command, answer);
    if (refusals[i].code != EML_ERROR_REFUSED)
      continue;
    g_autofree char *ask = g_strdup_printf("A%u LIST \"\" a/b", ++tag);
    g_autofree char *none = g_strdup_printf("A%u OK\r\n", tag);
    play(peer, ask, none);
  }
  peer_hang(peer);
}

static void few_codes(Peer *peer) {
  peer_let_in(peer, "");
  play(peer, "A2 CREATE a", "A2 NO Cannot create this folder.\r\n");
  play(peer, "A3 LIST \"\" a", "* LIST () \".\" a\r\nA3 OK\r\n");
  play(peer, "A4 DELETE gone", "A4 NO Mailbox does not exist\r\n");
  play(peer, "A5 LIST \"\" gone", "A5 OK\r\n");
  play(peer, "A6 DELETE a", "A6 NO Permission denied\r\n");
  play(peer, "A7 LIST \"\" a", "* LIST () \".\" a\r\nA7 OK\r\n");
  play(peer, "A8 RENAME a b", "A8 NO File exists\r\n");
  play(peer, "A9 LIST \"\" a", "* LIST () \".\" a\r\nA9 OK\r\n");
  play(peer, "A10 LIST \"\" b", "* LIST () \".\" b\r\nA10 OK\r\n");
  play(peer, "A11 RENAME gone b", "A11 NO Mailbox does not exist\r\n");
  play(peer, "A12 LIST \"\" gone", "A12 NO not now\r\n");
  play(peer, "A13 LIST \"\" b", "A13 BAD not now\r\n");
  peer_expect(peer, "A14 DELETE a");
  peer_send(peer, "A14 NO no\r\n"); /* and is gone before it is asked why */
}

static void test_refusals_without_codes(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, few_codes);
  g_assert_false(imap_create(stage.session, "a", 0, &error));
  peer_assert_error(&error, EML_ERROR_EXISTS, "Cannot create");
  g_assert_false(imap_delete(stage.session, "gone", &error));
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "exist");
  g_assert_false(imap_delete(stage.session, "a", &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "denied");
  g_assert_false(imap_rename(stage.session, "a", "b", &error));
  peer_assert_error(&error, EML_ERROR_EXISTS, "File exists");
  g_assert_false(imap_rename(stage.session, "gone", "b", &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "exist");
  g_assert_false(imap_delete(stage.session, "a", &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "no");
  g_assert_false(imap_session_alive(stage.session));
  stage_close(&stage);
}

static void test_refusals(void) {
  g_autoptr(GError) error = NULL;
  Stage stage = {0};
  stage_open(&stage, refusing);
  for (guint i = 0; i < G_N_ELEMENTS(refusals); i++) {
    g_assert_false(imap_create(stage.session, "a/b", 0, &error));
    peer_assert_error(&error, refusals[i].code, "");
    g_assert_true(imap_session_alive(stage.session));
  }
  stage_close(&stage);
}

static void keeping_house(Peer *peer) {
  peer_let_in(peer, "CREATE-SPECIAL-USE SPECIAL-USE LITERAL+ ACL");
  play(peer, "A2 CREATE Ablage (USE (\\Archive))", "A2 OK [MAILBOXID (x)] made\r\n");
  play(peer, "A3 CREATE \"with \\\"quotes\\\" and \\\\ and ?\"", "A3 OK\r\n");
  play(peer, "A4 CREATE &U,BTFw-/&ZeVnLIqe-", "A4 OK\r\n");
  peer_expect(peer, "A5 DELETE {4+}");
  peer_expect_bytes(peer, "caf\xe9\r\n");
  peer_send(peer, "A5 NO [NONEXISTENT] none\r\n");
  play(peer, "A6 RENAME \"a b\" \"b[]\"", "A6 NO [ALREADYEXISTS] there\r\n");
  play(peer, "A7 SUBSCRIBE \"\"", "A7 OK\r\n");
  play(peer, "A8 UNSUBSCRIBE \"NIL\"", "A8 OK\r\n");
  play(peer, "A9 MYRIGHTS INBOX", "* MYRIGHTS INBOX lrswipkxtea\r\nA9 OK\r\n");
  play(peer, "A10 MYRIGHTS INBOX", "* MYRIGHTS {5}\r\nINBOX \"lr\" more\r\nA10 OK\r\n");
  play(peer, "A11 MYRIGHTS INBOX", "A11 OK\r\n");
  play(peer, "A12 MYRIGHTS none", "* MYRIGHTS none lr\r\nA12 NO [NONEXISTENT] none\r\n");
  play(peer, "A13 NOOP", "* MYRIGHTS INBOX unasked\r\nA13 OK\r\n");
  peer_expect(peer, "A14 MYRIGHTS INBOX");
  g_autoptr(GString) endless = g_string_new("* MYRIGHTS INBOX ");
  for (guint i = 0; i < 1000; i++)
    g_string_append_c(endless, 'l');
  peer_send(peer, endless->str);
  peer_hang(peer);
}

static void expect_rights(Stage *stage, const char *wanted) {
  g_autoptr(GError) error = NULL;
  g_autofree char *rights = NULL;
  g_assert_true(imap_my_rights(stage->session, "INBOX", &rights, &error));
  g_assert_cmpstr(rights, ==, wanted);
}

static void test_mailboxes(void) {
  g_autoptr(GError) error = NULL;
  char *rights;
  Stage stage = {0};
  stage_open(&stage, keeping_house);
  g_assert_true(imap_create(stage.session, "Ablage", IMAP_MAILBOX_ARCHIVE, &error));
  g_assert_true(imap_create(stage.session, "with \"quotes\" and \\ and *", 0, &error));
  g_assert_true(imap_create(stage.session, "&U,BTFw-/&ZeVnLIqe-", 0, &error));
  g_assert_false(imap_delete(stage.session, "caf\xe9", &error));
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "none");
  g_assert_false(imap_rename(stage.session, "a b", "b[]", &error));
  peer_assert_error(&error, EML_ERROR_EXISTS, "there");
  g_assert_true(imap_subscribe(stage.session, "", TRUE, &error));
  g_assert_true(imap_subscribe(stage.session, "NIL", FALSE, &error));
  expect_rights(&stage, "lrswipkxtea");
  expect_rights(&stage, "lr");
  expect_rights(&stage, NULL);
  g_assert_false(imap_my_rights(stage.session, "none", &rights, &error));
  g_assert_null(rights);
  peer_assert_error(&error, EML_ERROR_NOT_FOUND, "none");
  g_assert_true(imap_noop(stage.session, &error));

  static const char *const bad[] = {"a\rb", "a\nb", "a\r\nA9 DELETE INBOX"};
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_assert_false(imap_create(stage.session, bad[i], 0, &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
    g_assert_false(imap_delete(stage.session, bad[i], &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
    g_assert_false(imap_rename(stage.session, "a", bad[i], &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
    g_assert_false(imap_subscribe(stage.session, bad[i], TRUE, &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
    g_assert_false(imap_copy(stage.session, "1", bad[i], NULL, NULL, &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
    g_assert_false(imap_my_rights(stage.session, bad[i], &rights, &error));
    peer_assert_error(&error, EML_ERROR_FAILED, "line break");
  }
  g_assert_false(imap_my_rights(stage.session, "INBOX", &rights, &error));
  peer_assert_error(&error, EML_ERROR_PROTOCOL, "too long");
  stage_close(&stage);
}

static void leaving(Peer *peer) {
  peer_let_in(peer, "UNSELECT NAMESPACE");
  play(peer, "A2 NAMESPACE", "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\nA2 OK\r\n");
  play(peer, "A3 SELECT a/b", "* 1 EXISTS\r\nA3 OK\r\n");
  play(peer, "A4 DELETE a/bc", "A4 OK\r\n");
  play(peer, "A5 UNSELECT", "A5 OK\r\n");
  play(peer, "A6 RENAME a c", "A6 OK\r\n");
  play(peer, "A7 SELECT a/b", "* 1 EXISTS\r\nA7 OK\r\n");
  play(peer, "A8 UNSELECT", "A8 OK\r\n");
  play(peer, "A9 DELETE a/b", "A9 OK\r\n");
  peer_hang(peer);
}

static void test_selected_mailbox_is_left(void) {
  g_autoptr(GError) error = NULL;
  ImapSelected selected;
  Stage stage = {0};
  stage_open(&stage, leaving);
  g_assert_true(imap_select(stage.session, "a/b", FALSE, 0, 0, &selected, &error));
  g_assert_true(imap_delete(stage.session, "a/bc", &error));
  g_assert_nonnull(imap_session_selected(stage.session));
  g_assert_true(imap_rename(stage.session, "a", "c", &error));
  g_assert_null(imap_session_selected(stage.session));
  g_assert_true(imap_select(stage.session, "a/b", FALSE, 0, 0, &selected, &error));
  g_assert_true(imap_delete(stage.session, "a/b", &error));
  g_assert_no_error(error);
  stage_close(&stage);
}

static void searching(Peer *peer) {
  peer_let_in(peer, "ESEARCH LITERAL+");
  play(peer, "A2 UID SEARCH RETURN (ALL) HEADER Message-ID <a.b@example.org>",
       "* ESEARCH (TAG \"A2\") UID ALL 9,3\r\nA2 OK\r\n");
  play(peer, "A3 UID SEARCH RETURN (ALL) HEADER Message-ID \"<\\\"a b\\\"@x>\"",
       "* SEARCH 4\r\nA3 OK\r\n");
  peer_expect(peer, "A4 UID SEARCH RETURN (ALL) CHARSET UTF-8 HEADER Message-ID {6+}");
  peer_expect_bytes(peer, "<\xc3\xa9@x>\r\n");
  peer_send(peer, "A4 NO [BADCHARSET (US-ASCII)] no\r\n");
  play(peer, "A5 UID SEARCH RETURN (ALL) HEADER Message-ID <x>", "* ESEARCH UID\r\nA5 OK\r\n");
  play(peer, "A6 UID SEARCH RETURN (ALL) HEADER Message-ID <x>",
       "* ESEARCH UID ALL 1:4294967295\r\nA6 OK\r\n");
  peer_hang(peer);
}

static void test_search_message_id(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  Stage stage = {0};
  stage_open(&stage, searching);
  g_assert_true(imap_search_message_id(stage.session, "<a.b@example.org>", uids, &error));
  g_assert_cmpuint(uids->len, ==, 2);
  g_assert_cmpuint(g_array_index(uids, guint32, 0), ==, 3);
  g_assert_true(imap_search_message_id(stage.session, "<\"a b\"@x>", uids, &error));
  g_assert_cmpuint(g_array_index(uids, guint32, 2), ==, 4);
  g_assert_false(imap_search_message_id(stage.session, "<\xc3\xa9@x>", uids, &error));
  peer_assert_error(&error, EML_ERROR_REFUSED, "no");
  g_assert_false(imap_search_message_id(stage.session, "", uids, &error));
  peer_assert_error(&error, EML_ERROR_FAILED, "empty");
  g_assert_false(imap_search_message_id(stage.session, "<a>\r\n", uids, &error));
  peer_assert_error(&error, EML_ERROR_FAILED, "line break");
  g_assert_true(imap_search_message_id(stage.session, "<x>", uids, &error));
  g_assert_cmpuint(uids->len, ==, 3);
  g_assert_false(imap_search_message_id(stage.session, "<x>", uids, &error));
  peer_assert_error(&error, EML_ERROR_PROTOCOL, "more messages");
  stage_close(&stage);
}

static void replacing(Peer *peer) {
  peer_let_in(peer, "REPLACE LITERAL+");
  peer_expect(peer, "A2 UID REPLACE 4 Drafts (\\Draft) \"01-Jan-1970 00:00:00 +0000\" {3+}");
  peer_expect_bytes(peer, "new\r\n");
  peer_send(peer, "* OK [APPENDUID 1 2000] Replacement ready\r\n* 4 EXPUNGE\r\nA2 OK\r\n");
  peer_expect(peer, "A3 UID REPLACE 4294967295 Drafts () \"01-Jan-1970 00:00:00 +0000\" {3+}");
  peer_expect_bytes(peer, "new\r\n");
  peer_send(peer, "* OK [APPENDUID 1 2000] x\r\nA3 NO [OVERQUOTA] full\r\n");
  peer_hang(peer);
}

static void test_replace(void) {
  g_autoptr(GError) error = NULL;
  char path[] = "/tmp/emlfs-change-XXXXXX";
  autofd int fd = g_mkstemp(path);
  g_assert_cmpint(write(fd, "new", 3), ==, 3);
  unlink(path);
  ImapMessage message = {.flags = MSG_FLAG_DRAFT, .fd = fd, .size = 3};
  ImapAppended appended;
  Stage stage = {0};
  stage_open(&stage, replacing);
  g_assert_true(imap_replace(stage.session, 4, "Drafts", &message, &appended, &error));
  g_assert_cmpuint(appended.uidvalidity, ==, 1);
  g_assert_cmpuint(appended.uid, ==, 2000);
  g_assert_cmpstr(stage.log->str, ==, "expunge 4;");
  message.flags = 0;
  g_assert_false(imap_replace(stage.session, G_MAXUINT32, "Drafts", &message, &appended, &error));
  peer_assert_error(&error, EML_ERROR_QUOTA, "full");
  g_assert_cmpuint(appended.uid, ==, 0);
  stage_close(&stage);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/change/" #name, test_##name)
  TEST(store);
  TEST(copy);
  TEST(copy_told_at_length);
  TEST(move);
  TEST(not_offered);
  TEST(refusals);
  TEST(refusals_without_codes);
  TEST(mailboxes);
  TEST(selected_mailbox_is_left);
  TEST(search_message_id);
  TEST(replace);
#undef TEST
  int result = g_test_run();
  peer_cleanup();
  return result;
}
