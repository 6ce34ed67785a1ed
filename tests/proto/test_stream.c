/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The byte stream by itself, in clear text and under TLS.
 */
#include <libetpan/mailstream.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"
#include "peer.h"

static Stream *open_stream(Peer *peer, StreamSecurity security) {
  g_autoptr(GError) error = NULL;
  StreamEndpoint endpoint = {"localhost", peer_port(peer), security, peer_ca_file()};
  Stream *stream = stream_open(&endpoint, deadline_in_ms(10000), NULL, &error);
  g_assert_no_error(error);
  return stream;
}

static void expect_read(Stream *stream, gsize size, const char *wanted) {
  g_autoptr(GError) error = NULL;
  char buffer[65536];
  gsize got = stream_read(stream, buffer, size, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(got, ==, strlen(wanted));
  g_assert_true(memcmp(buffer, wanted, got) == 0);
}

static void say_two_lines(Peer *peer) {
  peer_send(peer, "0123456789abcdef\r\n");
  peer_hang(peer);
}

/* A read never waits for more than is there, whatever its size and whatever was buffered. */
static void read_pieces(gboolean tls) {
  Peer *peer = peer_start(say_two_lines, 1, tls, CERT_GOOD, NULL);
  Stream *stream = open_stream(peer, tls ? STREAM_TLS : STREAM_STARTTLS);
  g_assert_cmpint(stream_is_tls(stream), ==, tls);
  expect_read(stream, 4, "0123");
  g_assert_true(stream_pending(stream));
  expect_read(stream, 65536, "456789abcdef\r\n");
  g_assert_false(stream_pending(stream));
  stream_close(&stream);
  g_assert_null(stream);
  peer_stop(peer);
}

static void test_reads(void) {
  read_pieces(FALSE);
  read_pieces(TRUE);
}

static void test_unread(void) {
  Peer *peer = peer_start(say_two_lines, 1, TRUE, CERT_GOOD, NULL);
  Stream *stream = open_stream(peer, STREAM_TLS);
  expect_read(stream, 4, "0123");
  stream_unread(stream, "xyz", 3);
  g_assert_true(stream_pending(stream));
  expect_read(stream, 1, "x");
  expect_read(stream, 65536, "yz456789abcdef\r\n");
  stream_close(&stream);
  peer_stop(peer);
}

static void echo_once(Peer *peer) {
  peer_expect(peer, "ping");
  peer_send(peer, "pong\r\n");
  peer_hang(peer);
}

static void test_wait(void) {
  g_autoptr(GError) error = NULL;
  autofd int wake = eventfd(0, EFD_CLOEXEC);
  gboolean readable;
  Peer *peer = peer_start(echo_once, 1, TRUE, CERT_GOOD, NULL);
  Stream *stream = open_stream(peer, STREAM_TLS);
  stream_set_deadline(stream, deadline_in_ms(20));
  g_assert_false(stream_wait(stream, wake, &readable, &error));
  peer_assert_error(&error, EML_ERROR_TIMEOUT, "in time");
  stream_set_deadline(stream, deadline_in_ms(10000)); /* a deadline of the past is no end */
  g_assert_cmpint(eventfd_write(wake, 1), ==, 0);
  g_assert_true(stream_wait(stream, wake, &readable, &error));
  g_assert_false(readable);
  g_assert_true(stream_write(stream, "ping\r\n", 6, &error));
  g_assert_true(stream_flush(stream, &error));
  g_assert_true(stream_wait(stream, -1, &readable, &error));
  g_assert_true(readable);
  g_assert_true(stream_wait(stream, -1, &readable, &error)); /* still */
  g_assert_true(readable);
  expect_read(stream, 100, "pong\r\n");
  g_assert_no_error(error);
  stream_close(&stream);
  peer_stop(peer);
}

static void hang_up(Peer *peer) {
  peer_expect(peer, "go");
}

/* Whoever writes to a peer that has gone gets an error, not SIGPIPE. */
static void write_to_nobody(gboolean tls) {
  static char bulk[65536];
  g_autoptr(GError) error = NULL;
  Peer *peer = peer_start(hang_up, 1, tls, CERT_GOOD, NULL);
  Stream *stream = open_stream(peer, tls ? STREAM_TLS : STREAM_STARTTLS);
  g_assert_true(stream_write(stream, "go\r\n", 4, &error));
  g_assert_true(stream_flush(stream, &error));
  peer_stop(peer);
  while (!error && stream_write(stream, bulk, sizeof bulk, &error))
    stream_flush(stream, &error);
  peer_assert_error(&error, EML_ERROR_OFFLINE, "");
  g_assert_false(stream_flush(stream, &error));
  peer_assert_error(&error, EML_ERROR_OFFLINE, "");
  stream_close(&stream);
}

static void test_peer_gone(void) {
  write_to_nobody(FALSE);
  write_to_nobody(TRUE);
}

static void deaf(Peer *peer) {
  GCancellable *done = peer_data(peer);
  GPollFD fd;
  g_cancellable_make_pollfd(done, &fd);
  g_poll(&fd, 1, -1);
  g_cancellable_release_fd(done);
}

static void test_peer_does_not_read(void) {
  static char bulk[65536];
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) done = g_cancellable_new();
  Peer *peer = peer_start(deaf, 1, TRUE, CERT_GOOD, done);
  Stream *stream = open_stream(peer, STREAM_TLS);
  stream_set_deadline(stream, deadline_in_ms(200));
  while (stream_write(stream, bulk, sizeof bulk, &error)) {
  }
  peer_assert_error(&error, EML_ERROR_TIMEOUT, "in time");
  g_assert_false(stream_write(stream, "x", 1, &error)); /* half a write is the end */
  peer_assert_error(&error, EML_ERROR_TIMEOUT, "in time");
  g_cancellable_cancel(done);
  stream_close(&stream);
  peer_stop(peer);
}

static void test_mailstream_inside(void) {
  Peer *peer = peer_start(echo_once, 1, TRUE, CERT_GOOD, NULL);
  Stream *stream = open_stream(peer, STREAM_TLS);
  mailstream *mail = stream_mailstream(stream);
  g_assert_cmpint(mailstream_write(mail, "ping\r\n", 6), ==, 6);
  g_assert_cmpint(mailstream_flush(mail), ==, 0);
  MMAPString *line = mmap_string_new("");
  g_assert_cmpstr(mailstream_read_line_remove_eol(mail, line), ==, "pong");
  mmap_string_free(line);
  stream_close(&stream);
  peer_stop(peer);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/stream/" #name, test_##name)
  TEST(reads);
  TEST(unread);
  TEST(wait);
  TEST(peer_gone);
  TEST(peer_does_not_read);
  TEST(mailstream_inside);
#undef TEST
  int result = g_test_run();
  peer_cleanup();
  return result;
}
