/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From the first packet to the end of the login. Each test is named after the failure it stages.
 */
#include <string.h>
#include <sys/socket.h>

#include "base/deadline.h"
#include "base/err.h"
#include "peer.h"

#define SILENCE_MS 300
#define IN_TIME_US (5 * G_USEC_PER_SEC)

/* Opens a session that must fail with @code and @words, in time. */
static void expect_failure(PeerScript script, gboolean tls, StreamSecurity security, PeerCert cert,
                           int code, const char *words) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(script, 1, tls, cert, NULL);
  gint64 began = g_get_monotonic_time();
  ImapSession *session = peer_session(peer, security, SILENCE_MS, NULL, &error);
  g_assert_null(session);
  g_assert_cmpint(g_get_monotonic_time() - began, <, IN_TIME_US);
  peer_assert_error(&error, code, words);
  peer_stop(peer);
}

static void nothing(Peer *peer) {
}

static void test_certificate_expired(void) {
  expect_failure(nothing, TRUE, STREAM_TLS, CERT_EXPIRED, EML_ERROR_TLS, "expired");
}

static void test_certificate_not_yet_valid(void) {
  expect_failure(nothing, TRUE, STREAM_TLS, CERT_FUTURE, EML_ERROR_TLS, "not yet valid");
}

static void test_certificate_wrong_host(void) {
  expect_failure(nothing, TRUE, STREAM_TLS, CERT_WRONG_HOST, EML_ERROR_TLS,
                 "is for other.example");
}

static void test_certificate_untrusted(void) {
  expect_failure(nothing, TRUE, STREAM_TLS, CERT_UNTRUSTED, EML_ERROR_TLS, "not trusted");
}

static void test_certificate_unknown_authority(void) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(nothing, 1, TRUE, CERT_GOOD, NULL);
  StreamEndpoint endpoint = {"localhost", peer_port(peer), STREAM_TLS, NULL};
  Stream *stream = stream_open(&endpoint, deadline_in_ms(5000), NULL, &error);
  g_assert_null(stream);
  peer_assert_error(&error, EML_ERROR_TLS, "not trusted");
  peer_stop(peer);
}

static void test_ca_file_unreadable(void) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(nothing, 1, TRUE, CERT_GOOD, NULL);
  StreamEndpoint endpoint = {"localhost", peer_port(peer), STREAM_TLS, "/nonexistent/ca.pem"};
  Stream *stream = stream_open(&endpoint, deadline_in_ms(5000), NULL, &error);
  g_assert_null(stream);
  peer_assert_error(&error, EML_ERROR_CONFIG, "/nonexistent/ca.pem");
  peer_stop(peer);
}

static void test_certificate_of_an_address(void) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(peer_hang, 1, TRUE, CERT_GOOD, NULL);
  StreamEndpoint endpoint = {"127.0.0.1", peer_port(peer), STREAM_TLS, peer_ca_file()};
  Stream *stream = stream_open(&endpoint, deadline_in_ms(5000), NULL, &error);
  g_assert_no_error(error);
  g_assert_true(stream_is_tls(stream));
  stream_close(&stream);
  peer_stop(peer);
}

static void clear_text(Peer *peer) {
  peer_send(peer, "* OK hello in clear text\r\n");
  peer_hang(peer);
}

static void test_no_tls_spoken(void) {
  expect_failure(clear_text, FALSE, STREAM_TLS, CERT_GOOD, EML_ERROR_TLS, "does not speak TLS");
}

static void test_handshake_hangs(void) {
  expect_failure(peer_hang, FALSE, STREAM_TLS, CERT_GOOD, EML_ERROR_TIMEOUT, "in time");
}

static void test_handshake_hangs_up(void) {
  expect_failure(nothing, FALSE, STREAM_TLS, CERT_GOOD, EML_ERROR_OFFLINE, "");
}

static void test_nobody_listens(void) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(nothing, 0, TRUE, CERT_GOOD, NULL);
  guint16 port = peer_port(peer);
  peer_stop(peer);
  StreamEndpoint endpoint = {"localhost", port, STREAM_TLS, NULL};
  g_assert_null(stream_open(&endpoint, deadline_in_ms(5000), NULL, &error));
  peer_assert_error(&error, EML_ERROR_OFFLINE, "refused");
}

static void test_host_does_not_exist(void) {
  g_autoptr(GError) error = NULL;
  StreamEndpoint endpoint = {"no-such-host.invalid", 993, STREAM_TLS, NULL};
  g_assert_null(stream_open(&endpoint, deadline_in_ms(20000), NULL, &error));
  peer_assert_error(&error, EML_ERROR_OFFLINE, "no-such-host.invalid");
}

static void note_resumed(Peer *peer) {
  gboolean *seen = peer_data(peer);
  seen[0] = seen[1];
  seen[1] = peer_resumed(peer);
  peer_let_in(peer, "");
  peer_hang(peer);
}

static void test_session_is_resumed(void) {
  gboolean resumed[2] = {FALSE, FALSE};
  Peer *peer = peer_start(note_resumed, 2, TRUE, CERT_GOOD, resumed);
  for (guint i = 0; i < 2; i++) {
    ImapSession *session = peer_session_ok(peer);
    imap_session_close(&session);
  }
  peer_stop(peer);
  g_assert_false(resumed[0]);
  g_assert_true(resumed[1]);
}

static void banner_garbage(Peer *peer) {
  peer_send(peer, "220 smtp.example.org ESMTP\r\n");
  peer_hang(peer);
}

static void test_banner_is_garbage(void) {
  expect_failure(banner_garbage, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_PROTOCOL,
                 "does not greet like an IMAP server");
}

static void banner_bye(Peer *peer) {
  peer_send(peer, "* BYE [ALERT] Too many connections\r\n");
}

static void test_banner_is_bye(void) {
  expect_failure(banner_bye, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_OFFLINE,
                 "Too many connections");
}

static void test_banner_hangs(void) {
  expect_failure(peer_hang, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_TIMEOUT, "in time");
}

static void banner_badcharset(Peer *peer) {
  peer_send(peer, "* OK [BADCHARSET (\"US-ASCII\" (\"] odd\r\n");
  peer_expect(peer, "A1 CAPABILITY");
  peer_send(peer, "* OK [ALERT]\r\n* CAPABILITY IMAP4rev1 AUTH=LOGIN\r\nA1 OK\r\n");
  peer_expect(peer, "A2 AUTHENTICATE LOGIN");
  peer_send(peer, "+ VXNlcm5hbWU6\r\n");
  peer_expect(peer, "YW5uYQ==");
  peer_send(peer, "+ UGFzc3dvcmQ6\r\n");
  peer_expect(peer, "c2VjcmV0LXdvcmQ=");
  peer_send(peer, "A2 OK\r\n");
  peer_expect(peer, "A3 CAPABILITY");
  peer_send(peer, "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nA3 OK\r\n"); /* as Cyrus does */
  peer_hang(peer);
}

static void test_codes_of_odd_shape(void) {
  Peer *peer = peer_start(banner_badcharset, 1, TRUE, CERT_GOOD, NULL);
  ImapSession *session = peer_session_ok(peer);
  g_assert_cmpstr(imap_session_caps_text(session), ==, "IMAP4rev1 LOGINDISABLED");
  imap_session_close(&session);
  peer_stop(peer);
}

static void starttls_ok(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN SASL-IR X-LIE IDLE] hi\r\n");
  peer_expect(peer, "A1 STARTTLS");
  peer_send(peer, "A1 OK go\r\n");
  g_assert_true(peer_start_tls(peer));
  peer_expect(peer, "A2 CAPABILITY");
  peer_send(peer, "* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nA2 OK\r\n");
  peer_expect(peer, "A3 AUTHENTICATE PLAIN"); /* SASL-IR was forgotten */
  peer_send(peer, "+ \r\n");
  peer_expect(peer, "AGFubmEAc2VjcmV0LXdvcmQ=");
  peer_send(peer, "* CAPABILITY IMAP4rev1 MOVE\r\nA3 OK\r\n");
  peer_hang(peer);
}

static void test_starttls_forgets_capabilities(void) {
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(starttls_ok, 1, FALSE, CERT_GOOD, NULL);
  ImapSession *session = peer_session(peer, STREAM_STARTTLS, 10000, NULL, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(imap_session_caps(session), ==, IMAP_CAP_MOVE);
  imap_session_close(&session);
  peer_stop(peer);
}

static void starttls_stripped(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\r\n");
  g_assert_null(peer_line(peer)); /* no login in clear text */
}

static void test_starttls_stripped(void) {
  expect_failure(starttls_stripped, FALSE, STREAM_STARTTLS, CERT_GOOD, EML_ERROR_TLS,
                 "does not offer STARTTLS");
}

static void starttls_refused(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n");
  peer_expect(peer, "A1 STARTTLS");
  peer_send(peer, "A1 NO not today\r\n");
  g_assert_cmpstr(peer_line(peer), ==, NULL);
}

static void test_starttls_refused(void) {
  expect_failure(starttls_refused, FALSE, STREAM_STARTTLS, CERT_GOOD, EML_ERROR_TLS, "not today");
}

static void starttls_injected(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n");
  peer_expect(peer, "A1 STARTTLS");
  peer_send(peer, "A1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=EVIL\r\n");
  peer_hang(peer);
}

static void test_starttls_injection(void) {
  expect_failure(starttls_injected, FALSE, STREAM_STARTTLS, CERT_GOOD, EML_ERROR_PROTOCOL,
                 "in between");
}

static void starttls_preauth(Peer *peer) {
  peer_send(peer, "* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] in already\r\n");
  g_assert_null(peer_line(peer));
}

static void test_starttls_preauth(void) {
  expect_failure(starttls_preauth, FALSE, STREAM_STARTTLS, CERT_GOOD, EML_ERROR_TLS,
                 "skips the login");
}

static void starttls_untrusted(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n");
  peer_expect(peer, "A1 STARTTLS");
  peer_send(peer, "A1 OK go\r\n");
  peer_start_tls(peer);
}

static void test_starttls_wrong_host(void) {
  expect_failure(starttls_untrusted, FALSE, STREAM_STARTTLS, CERT_WRONG_HOST, EML_ERROR_TLS,
                 "wrong host name");
}

static void preauth(Peer *peer) {
  peer_send(peer, "* PREAUTH [CAPABILITY IMAP4rev1] in already\r\n");
  peer_hang(peer);
}

static void test_preauth_under_tls(void) {
  Peer *peer = peer_start(preauth, 1, TRUE, CERT_GOOD, NULL);
  ImapSession *session = peer_session_ok(peer);
  imap_session_close(&session);
  peer_stop(peer);
}

static void login_refused(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE *");
  peer_send(peer, "A1 NO [AUTHENTICATIONFAILED] Wrong\tcredentials\r\n");
  peer_hang(peer);
}

static void test_login_refused(void) {
  expect_failure(login_refused, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_AUTH,
                 "Wrong?credentials; check: the full address as user name; a device password");
}

static void login_unavailable(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE *");
  peer_send(peer, "A1 NO [UNAVAILABLE] LDAP is down\r\n");
  peer_hang(peer);
}

static void test_login_unavailable(void) {
  expect_failure(login_unavailable, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_OFFLINE, "LDAP");
}

static void login_disabled(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=GSSAPI] hi\r\n");
  g_assert_null(peer_line(peer));
}

static void test_login_disabled(void) {
  expect_failure(login_disabled, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_AUTH, "GSSAPI");
}

static void login_command(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1] hi\r\n");
  peer_expect(peer, "A1 LOGIN anna secret-word");
  peer_send(peer, "A1 OK [CAPABILITY IMAP4rev1 IDLE] in\r\n");
  peer_hang(peer);
}

static void test_login_command(void) {
  Peer *peer = peer_start(login_command, 1, TRUE, CERT_GOOD, NULL);
  ImapSession *session = peer_session_ok(peer);
  g_assert_cmpuint(imap_session_caps(session), ==, IMAP_CAP_IDLE);
  imap_session_close(&session);
  peer_stop(peer);
}

static void scram_wrong_signature(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=SCRAM-SHA-256] hi\r\n");
  const char *line = peer_expect(peer, "A1 AUTHENTICATE SCRAM-SHA-256 *");
  gsize size;
  g_autofree guchar *first = g_base64_decode(strrchr(line, ' ') + 1, &size);
  g_autofree char *text = g_strndup((const char *) first, size);
  g_autofree char *reply = g_strdup_printf("%sXYZ,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                                           strstr(text, "r="));
  g_autofree char *encoded = g_base64_encode((const guchar *) reply, strlen(reply));
  g_autofree char *sent = g_strdup_printf("+ %s\r\n", encoded);
  peer_send(peer, sent);
  g_assert_nonnull(peer_line(peer));
  peer_send(peer, "+ dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==\r\n");
  g_assert_null(peer_line(peer));
}

static void test_scram_wrong_signature(void) {
  expect_failure(scram_wrong_signature, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_AUTH, "prove");
}

static void scram_without_signature(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE SCRAM-SHA-256 *");
  peer_send(peer, "A1 OK welcome\r\n");
  g_assert_null(peer_line(peer));
}

static void test_scram_without_signature(void) {
  expect_failure(scram_without_signature, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_AUTH, "proving");
}

static void scram_refused(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256 AUTH=PLAIN] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE SCRAM-SHA-256 *");
  peer_send(peer, "A1 NO [AUTHENTICATIONFAILED] no such scheme\r\n");
  peer_expect(peer, "A2 AUTHENTICATE PLAIN AGFubmEAc2VjcmV0LXdvcmQ=");
  peer_send(peer, "A2 OK [CAPABILITY IMAP4rev1] in\r\n");
  peer_hang(peer);
}

static void test_scram_offered_in_vain(void) {
  Peer *peer = peer_start(scram_refused, 1, TRUE, CERT_GOOD, NULL);
  ImapSession *session = peer_session_ok(peer);
  imap_session_close(&session);
  peer_stop(peer);
}

static void bye_in_login(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE *");
  peer_send(peer, "* BYE Maximum number of connections\r\n");
}

static void test_bye_in_login(void) {
  expect_failure(bye_in_login, TRUE, STREAM_TLS, CERT_GOOD, EML_ERROR_OFFLINE,
                 "Maximum number of connections");
}

static Secret *give_token(gboolean again, gboolean *is_token_out, gpointer data, GError **error) {
  *is_token_out = TRUE;
  ++*(guint *) data;
  return secret_new(again ? "fresh-token" : "stale-token", -1);
}

static void token_renewed(Peer *peer) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2] hi\r\n");
  peer_expect(peer, "A1 AUTHENTICATE XOAUTH2 *");
  peer_send(peer, "+ eyJzdGF0dXMiOiI0MDEifQ==\r\n");
  peer_expect(peer, "");
  peer_send(peer, "A1 NO [AUTHENTICATIONFAILED] expired\r\n");
  peer_expect(peer, "A2 AUTHENTICATE XOAUTH2 dXNlcj1hbm5hAWF1dGg9QmVhcmVyIGZyZXNoLXRva2VuAQE=");
  peer_send(peer, "A2 OK [CAPABILITY IMAP4rev1] in\r\n");
  peer_hang(peer);
}

static void test_token_expired_once(void) {
  g_autoptr(GError) error = NULL;
  guint asked = 0;
  Peer *peer = peer_start(token_renewed, 1, TRUE, CERT_GOOD, NULL);
  ImapConfig config = {
      .endpoint = {"localhost", peer_port(peer), STREAM_TLS, peer_ca_file()},
      .user = "anna",
      .secret = give_token,
      .secret_data = &asked,
      .login_ms = 5000,
      .response_ms = 5000,
  };
  ImapSession *session = imap_session_open(&config, NULL, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(asked, ==, 2);
  imap_session_close(&session);
  peer_stop(peer);
}

static void introduction(Peer *peer) {
  peer_let_in(peer, "ID NAMESPACE ENABLE QRESYNC IDLE COMPRESS=DEFLATE APPENDLIMIT=210763776");
  peer_expect(peer, "A2 ID (\"name\" \"emlfs\" *");
  peer_expect(peer, "A3 NAMESPACE");
  peer_expect(peer, "A4 ENABLE QRESYNC");
  peer_expect(peer, "A5 COMPRESS DEFLATE");
  peer_send(peer, "* ID (\"name\" \"Peer\" \"version\" \"1.2\")\r\nA2 OK\r\n"
                  "* NAMESPACE ((\"INBOX.\" \".\")) NIL ((\"#shared.\" \".\"))\r\nA3 OK\r\n"
                  "* ENABLED QRESYNC\r\nA4 OK\r\nA5 OK\r\n");
  peer_start_deflate(peer);
  peer_expect(peer, "A6 NOOP");
  g_autoptr(GString) bulk = g_string_new(NULL);
  for (guint i = 1; i <= 20000; i++)
    g_string_append_printf(bulk, "* %u EXISTS\r\n", i);
  g_string_append(bulk, "A6 OK\r\n");
  peer_send(peer, bulk->str);
  peer_hang(peer);
}

static void count_exists(guint32 count, gpointer data) {
  guint *seen = data;
  g_assert_cmpuint(count, ==, ++*seen);
}

static void test_introduction_and_deflate(void) {
  static const ImapHandler handler = {.exists = count_exists};
  g_autoptr(GError) error = NULL;
  guint seen = 0;
  char delimiter;
  Peer *peer = peer_start(introduction, 1, TRUE, CERT_GOOD, NULL);
  ImapSession *session = peer_session_ok(peer);
  g_assert_cmpstr(imap_session_server(session), ==, "Peer 1.2");
  g_assert_cmpstr(imap_session_prefix(session, &delimiter), ==, "INBOX.");
  g_assert_cmpint(delimiter, ==, '.');
  g_assert_cmpuint(imap_session_append_limit(session), ==, 210763776);
  g_assert_true(imap_session_caps(session) & IMAP_CAP_QRESYNC);
  imap_session_set_handler(session, &handler, &seen);
  guint64 before = imap_session_wire_bytes(session);
  g_assert_true(imap_noop(session, &error));
  g_assert_no_error(error);
  g_assert_cmpuint(seen, ==, 20000);
  g_assert_cmpuint(imap_session_wire_bytes(session) - before, <, 100000);
  imap_session_close(&session);
  peer_stop(peer);
}

static void cancel_in_login(Peer *peer) {
  g_cancellable_cancel(peer_data(peer));
  peer_hang(peer);
}

static void test_cancel_in_login(void) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  Peer *peer = peer_start(cancel_in_login, 1, TRUE, CERT_GOOD, cancellable);
  g_assert_null(peer_session(peer, STREAM_TLS, 10000, cancellable, &error));
  peer_assert_error(&error, EML_ERROR_CANCELLED, "");
  peer_stop(peer);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/connect/" #name, test_##name)
  TEST(certificate_expired);
  TEST(certificate_not_yet_valid);
  TEST(certificate_wrong_host);
  TEST(certificate_untrusted);
  TEST(certificate_unknown_authority);
  TEST(ca_file_unreadable);
  TEST(certificate_of_an_address);
  TEST(no_tls_spoken);
  TEST(handshake_hangs);
  TEST(handshake_hangs_up);
  TEST(nobody_listens);
  TEST(host_does_not_exist);
  TEST(session_is_resumed);
  TEST(banner_is_garbage);
  TEST(banner_is_bye);
  TEST(banner_hangs);
  TEST(codes_of_odd_shape);
  TEST(starttls_forgets_capabilities);
  TEST(starttls_stripped);
  TEST(starttls_refused);
  TEST(starttls_injection);
  TEST(starttls_preauth);
  TEST(starttls_wrong_host);
  TEST(preauth_under_tls);
  TEST(login_refused);
  TEST(login_unavailable);
  TEST(login_disabled);
  TEST(login_command);
  TEST(scram_wrong_signature);
  TEST(scram_without_signature);
  TEST(scram_offered_in_vain);
  TEST(bye_in_login);
  TEST(token_expired_once);
  TEST(introduction_and_deflate);
  TEST(cancel_in_login);
#undef TEST
  int result = g_test_run();
  peer_cleanup();
  return result;
}
