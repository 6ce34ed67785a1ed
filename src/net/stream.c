/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The layers, outermost first:
 *
 *   stream_read/stream_write → mailstream (write buffer, small reads) → our driver
 *     → `ahead` (bytes taken in early by stream_wait) → inflate/deflate → SSL → BIO → socket
 *
 * Below the driver every call is non-blocking and answers "so many bytes", "would block" or
 * "failed"; the waiting is in one place, wait_for(), which polls the socket together with the
 * cancellable and the caller's descriptor until the deadline. A failure is kept and repeated by
 * every later call. Our BIO sends with MSG_NOSIGNAL, so a program with the library needs no
 * SIGPIPE handling, and counts the bytes of the wire.
 *
 * libetpan's mailstream asks for no more than its buffer when a read is small, and passes a big
 * read through; the IMAP side reads 64 KiB at a time, so nothing is copied twice there.
 */
#include "net/stream.h"

#include <libetpan/mailstream.h>
#include <linux/sockios.h>
#include <openssl/err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <zlib.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"
#include "base/secret.h"
#include "net/dial.h"
#include "net/tls.h"

#define MAILSTREAM_BUFFER 8192
#define AHEAD_MAX (16 * 1024)
#define BULK_FROM (64 * 1024) /* an answer so long is not the end of a short exchange */
#define PACKED_MAX (32 * 1024)
#define UNPACKED_MAX (16 * 1024) /* deflated, it fits PACKED_MAX whatever it is */

struct Stream {
  char *host;
  char *ca_file;
  StreamEndpoint endpoint; /* points at the two above */
  int fd;
  GCancellable *cancellable;
  int cancel_fd;
  gint64 deadline;
  guint64 wire;
  guint64 answered; /* octets read since the last were written */
  gint64 waited_us; /* for something to read */
  SSL *ssl; /* NULL: clear text */
  mailstream *mail;
  GError *failure; /* what ended the stream */
  short blocked_on; /* POLLIN or POLLOUT, after a call that would block */
  gsize ahead_from;
  GByteArray *ahead;
  gboolean deflating;
  gboolean inflate_more; /* the last inflate filled its output: there may be more inside */
  z_stream inflater, deflater;
  guint8 *packed; /* PACKED_MAX octets that wait for the inflater */
  /* Of stream_try_write. */
  short write_blocked_on; /* POLLIN or POLLOUT; 0: it is not blocked */
  guint8 *leaving;        /* PACKED_MAX octets that wait for the wire */
  gsize leaving_from, leaving_end;
  gsize leaving_for; /* as many octets of the caller are in them */
};

typedef enum { TRY_OK, TRY_BLOCKED, TRY_FAILED } Try;

/* Remembers the reason of the end, unless there is one. */
static void fail(Stream *stream, EmlError code, const char *format, ...) G_GNUC_PRINTF(3, 4);
static void fail(Stream *stream, EmlError code, const char *format, ...) {
  if (stream->failure)
    return;
  va_list args;
  va_start(args, format);
  g_autofree char *text = g_strdup_vprintf(format, args);
  va_end(args);
  stream->failure = g_error_new_literal(EML_ERROR, code, text);
}

static gboolean report_failure(const Stream *stream, GError **error) {
  g_propagate_error(error, g_error_copy(stream->failure));
  return FALSE;
}

static gboolean is_cancelled(Stream *stream) {
  if (!stream->cancellable || !g_cancellable_is_cancelled(stream->cancellable))
    return FALSE;
  fail(stream, EML_ERROR_CANCELLED, "cancelled");
  return TRUE;
}

/* Waits for @events on the socket, @wake_fd or the deadline. TRUE: one of the descriptors is
 * ready, *@socket_ready_out tells whether it is the socket. A deadline does not end the stream. */
static gboolean wait_for(Stream *stream, short events, int wake_fd, gboolean *socket_ready_out,
                         GError **error) {
  struct pollfd polls[] = {{.fd = stream->fd, .events = events},
                           {.fd = stream->cancel_fd, .events = POLLIN},
                           {.fd = wake_fd, .events = POLLIN}};
  for (;;) {
    if (is_cancelled(stream))
      return report_failure(stream, error);
    /* A server that leaves Nagle's algorithm on holds its last segment until we acknowledge the one
     * before, which the kernel puts off for 40 ms. The option does not last, so it is set here; not
     * while much flows, where it would only double the packets. */
    int on = 1;
    if (events & POLLIN && stream->answered < BULK_FROM)
      (void) setsockopt(stream->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    gint64 began = g_get_monotonic_time();
    int ready = poll(polls, G_N_ELEMENTS(polls), deadline_poll_ms(stream->deadline));
    if (events & POLLIN)
      stream->waited_us += g_get_monotonic_time() - began;
    if (ready < 0 && errno != EINTR) {
      fail(stream, EML_ERROR_OFFLINE, "poll: %s", g_strerror(errno));
      return report_failure(stream, error);
    }
    if (is_cancelled(stream))
      return report_failure(stream, error);
    if (ready > 0 && (polls[0].revents || polls[2].revents)) {
      *socket_ready_out = polls[0].revents != 0;
      return TRUE;
    }
    if (g_get_monotonic_time() >= stream->deadline) {
      g_set_error(error, EML_ERROR, EML_ERROR_TIMEOUT, "%s does not answer in time",
                  stream->host);
      return FALSE;
    }
  }
}

/* The BIO: our socket under OpenSSL. */

static int bio_write(BIO *bio, const char *data, int size) {
  Stream *stream = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  ssize_t sent;
  do
    sent = send(stream->fd, data, (gsize) size, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == EAGAIN)
    BIO_set_retry_write(bio);
  if (sent > 0) {
    stream->wire += (guint64) sent;
    stream->answered = 0;
  }
  return (int) sent;
}

static int bio_read(BIO *bio, char *data, int size) {
  Stream *stream = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  ssize_t got;
  do
    got = recv(stream->fd, data, (gsize) size, 0);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN)
    BIO_set_retry_read(bio);
  if (got > 0) {
    stream->wire += (guint64) got;
    stream->answered += (guint64) got;
  }
  return (int) got;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *bio_method(void) {
  static gsize once;
  if (g_once_init_enter(&once)) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "emlfs socket");
    BIO_meth_set_write(method, bio_write);
    BIO_meth_set_read(method, bio_read);
    BIO_meth_set_ctrl(method, bio_ctrl);
    g_once_init_leave(&once, (gsize) method);
  }
  return (BIO_METHOD *) once;
}

/* After an SSL call that moved nothing. */
static Try ssl_outcome(Stream *stream, int result) {
  int why = SSL_get_error(stream->ssl, result);
  if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
    stream->blocked_on = why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT;
    return TRY_BLOCKED;
  }
  g_autofree char *reason = tls_reason();
  if (why == SSL_ERROR_SSL)
    fail(stream, EML_ERROR_OFFLINE, "%s broke the TLS connection: %s", stream->host, reason);
  else
    fail(stream, EML_ERROR_OFFLINE, "%s closed the connection", stream->host);
  return TRY_FAILED;
}

/* Wire level: at least one byte, blocked, or failed. */
static Try wire_read(Stream *stream, void *buffer, gsize size, gsize *got_out) {
  gsize total = 0;
  if (stream->ssl) {
    ERR_clear_error();
    do {
      int got = SSL_read(stream->ssl, (char *) buffer + total, (int) MIN(size - total, G_MAXINT));
      if (got <= 0) {
        Try outcome = ssl_outcome(stream, got);
        if (total == 0)
          return outcome;
        break; /* a failure is kept and comes with the next call */
      }
      total += (gsize) got;
    } while (total < size && SSL_has_pending(stream->ssl));
    *got_out = total;
    return TRY_OK;
  }
  ssize_t got;
  do
    got = recv(stream->fd, buffer, size, 0);
  while (got < 0 && errno == EINTR);
  if (got > 0) {
    stream->wire += (guint64) got;
    stream->answered += (guint64) got;
    *got_out = (gsize) got;
    return TRY_OK;
  }
  if (got < 0 && errno == EAGAIN) {
    stream->blocked_on = POLLIN;
    return TRY_BLOCKED;
  }
  if (got == 0)
    fail(stream, EML_ERROR_OFFLINE, "%s closed the connection", stream->host);
  else
    fail(stream, EML_ERROR_OFFLINE, "the connection to %s was lost: %s", stream->host,
         g_strerror(errno));
  return TRY_FAILED;
}

static Try inflate_read(Stream *stream, void *buffer, gsize size, gsize *got_out) {
  z_stream *z = &stream->inflater;
  for (;;) {
    if (z->avail_in > 0 || stream->inflate_more) {
      z->next_out = buffer;
      z->avail_out = (uInt) MIN(size, G_MAXINT);
      uInt room = z->avail_out;
      int result = inflate(z, Z_SYNC_FLUSH);
      stream->inflate_more = z->avail_out == 0;
      if (room != z->avail_out) {
        *got_out = room - z->avail_out;
        return TRY_OK;
      }
      if (result == Z_STREAM_END) {
        fail(stream, EML_ERROR_OFFLINE, "%s closed the connection", stream->host);
        return TRY_FAILED;
      }
      if (result != Z_OK && result != Z_BUF_ERROR) {
        fail(stream, EML_ERROR_PROTOCOL, "%s sent damaged compressed data", stream->host);
        return TRY_FAILED;
      }
    }
    if (z->avail_in > 0) /* no output and no progress */
      memmove(stream->packed, z->next_in, z->avail_in);
    gsize got = 0;
    Try outcome = wire_read(stream, stream->packed + z->avail_in, PACKED_MAX - z->avail_in, &got);
    if (outcome != TRY_OK)
      return outcome;
    z->next_in = stream->packed;
    z->avail_in += (uInt) got;
  }
}

/* The next bytes without waiting. */
static Try try_read(Stream *stream, void *buffer, gsize size, gsize *got_out) {
  gsize ready = stream->ahead->len - stream->ahead_from;
  if (ready > 0) {
    *got_out = MIN(ready, size);
    memcpy(buffer, stream->ahead->data + stream->ahead_from, *got_out);
    stream->ahead_from += *got_out;
    if (stream->ahead_from == stream->ahead->len) {
      g_byte_array_set_size(stream->ahead, 0);
      stream->ahead_from = 0;
    }
    return TRY_OK;
  }
  if (stream->failure || is_cancelled(stream))
    return TRY_FAILED;
  return stream->deflating ? inflate_read(stream, buffer, size, got_out)
                           : wire_read(stream, buffer, size, got_out);
}

/* Takes in what is there. TRY_OK: something is in `ahead`. */
static Try look_ahead(Stream *stream) {
  if (stream->ahead->len > stream->ahead_from)
    return TRY_OK;
  guint8 bytes[AHEAD_MAX];
  gsize got = 0;
  Try outcome = try_read(stream, bytes, sizeof bytes, &got);
  if (outcome == TRY_OK)
    g_byte_array_append(stream->ahead, bytes, (guint) got);
  return outcome;
}

/* Wire level: at least one byte of @size, blocked, or failed. */
static Try wire_try_write(Stream *stream, const void *data, gsize size, gsize *sent_out) {
  gssize sent;
  if (stream->ssl) {
    ERR_clear_error();
    sent = SSL_write(stream->ssl, data, (int) MIN(size, G_MAXINT));
    if (sent <= 0)
      return ssl_outcome(stream, (int) sent);
  } else {
    do
      sent = send(stream->fd, data, size, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EAGAIN) {
      stream->blocked_on = POLLOUT;
      return TRY_BLOCKED;
    }
    if (sent < 0) {
      fail(stream, EML_ERROR_OFFLINE, "the connection to %s was lost: %s", stream->host,
           g_strerror(errno));
      return TRY_FAILED;
    }
    stream->wire += (guint64) sent;
    stream->answered = 0;
  }
  *sent_out = (gsize) sent;
  return TRY_OK;
}

/* Wire level: sends all, waiting as needed. A write that does not get through in time leaves half
 * a command behind, so it ends the stream. */
static gboolean wire_write(Stream *stream, const void *data, gsize size) {
  const char *from = data;
  while (size > 0) {
    gsize sent = 0;
    Try outcome = wire_try_write(stream, from, size, &sent);
    if (outcome == TRY_FAILED)
      return FALSE;
    if (outcome == TRY_OK) {
      from += sent;
      size -= sent;
      continue;
    }
    g_autoptr(GError) error = NULL;
    gboolean ready;
    if (!wait_for(stream, stream->blocked_on, -1, &ready, &error)) {
      fail(stream, (EmlError) error->code, "%s", error->message);
      return FALSE;
    }
  }
  return TRUE;
}

/* libetpan's side: the driver. It knows -1 only; the reason is in stream->failure, or a deadline
 * that passed. */

static ssize_t driver_read(mailstream_low *low, void *buffer, size_t size) {
  Stream *stream = low->data;
  for (;;) {
    gsize got = 0;
    Try outcome = try_read(stream, buffer, size, &got);
    if (outcome == TRY_OK)
      return (ssize_t) got;
    gboolean ready;
    if (outcome == TRY_FAILED || !wait_for(stream, stream->blocked_on, -1, &ready, NULL))
      return -1;
  }
}

static ssize_t driver_write(mailstream_low *low, const void *data, size_t size) {
  Stream *stream = low->data;
  if (stream->failure || is_cancelled(stream))
    return -1;
  if (!stream->deflating)
    return wire_write(stream, data, size) ? (ssize_t) size : -1;
  z_stream *z = &stream->deflater;
  z->next_in = (Bytef *) data;
  z->avail_in = (uInt) size; /* at most the mailstream's buffer */
  guint8 packed[MAILSTREAM_BUFFER];
  do {
    z->next_out = packed;
    z->avail_out = sizeof packed;
    deflate(z, Z_SYNC_FLUSH); /* mailstream hands over on a flush or a full buffer only */
    if (!wire_write(stream, packed, sizeof packed - z->avail_out))
      return -1;
  } while (z->avail_out == 0);
  return (ssize_t) size;
}

static int driver_close(mailstream_low *low) {
  return 0; /* the Stream owns the descriptor */
}

static int driver_get_fd(mailstream_low *low) {
  return ((Stream *) low->data)->fd;
}

static void driver_free(mailstream_low *low) {
  free(low); /* libetpan allocates with malloc */
}

static void driver_cancel(mailstream_low *low) {
}

static struct mailstream_cancel *driver_get_cancel(mailstream_low *low) {
  return NULL;
}

/* Not const because libetpan does not say so; nobody writes to it. */
static mailstream_low_driver driver = {
    .mailstream_read = driver_read,
    .mailstream_write = driver_write,
    .mailstream_close = driver_close,
    .mailstream_get_fd = driver_get_fd,
    .mailstream_free = driver_free,
    .mailstream_cancel = driver_cancel,
    .mailstream_get_cancel = driver_get_cancel,
};

static gboolean handshake(Stream *stream, GError **error) {
  BIO *bio = BIO_new(bio_method());
  BIO_set_data(bio, stream);
  BIO_set_init(bio, 1);
  SSL *ssl = tls_new(&stream->endpoint, bio, error);
  if (!ssl)
    return FALSE;
  stream->ssl = ssl;
  for (;;) {
    ERR_clear_error();
    int result = SSL_connect(ssl);
    if (result == 1) {
      tls_tell(ssl, stream->host);
      return TRUE;
    }
    int why = SSL_get_error(ssl, result);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
      tls_explain(ssl, &stream->endpoint, why, &stream->failure);
      return report_failure(stream, error);
    }
    gboolean ready;
    if (!wait_for(stream, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, -1, &ready, error))
      return FALSE;
  }
}

Stream *stream_open(const StreamEndpoint *endpoint, gint64 deadline, GCancellable *cancellable,
                    GError **error) {
  Stream *stream = g_new0(Stream, 1);
  stream->host = g_strdup(endpoint->host);
  stream->ca_file = g_strdup(endpoint->ca_file);
  stream->endpoint = *endpoint;
  stream->endpoint.host = stream->host;
  stream->endpoint.ca_file = stream->ca_file;
  stream->deadline = deadline;
  stream->ahead = g_byte_array_new();
  stream->fd = -1;
  stream->cancel_fd = -1;
  if (cancellable) {
    stream->cancellable = g_object_ref(cancellable);
    stream->cancel_fd = g_cancellable_get_fd(cancellable);
  }
  mailstream_low *low = mailstream_low_new(stream, &driver);
  stream->mail = low ? mailstream_new(low, MAILSTREAM_BUFFER) : NULL;
  if (!stream->mail)
    g_error("out of memory for a stream");

  stream->fd =
      dial(stream->host, endpoint->port, deadline, cancellable, stream->cancel_fd, error);
  if (stream->fd < 0 || (endpoint->security == STREAM_TLS && !handshake(stream, error)))
    stream_close(&stream);
  return stream;
}

void stream_close(Stream **stream_ref) {
  Stream *stream = *stream_ref;
  *stream_ref = NULL;
  if (!stream)
    return;
  mailstream_close(stream->mail);
  tls_free(stream->ssl);
  if (stream->deflating) {
    inflateEnd(&stream->inflater);
    deflateEnd(&stream->deflater);
  }
  autofd_clear(&stream->fd);
  if (stream->cancel_fd >= 0)
    g_cancellable_release_fd(stream->cancellable);
  g_clear_object(&stream->cancellable);
  g_clear_error(&stream->failure);
  g_byte_array_unref(stream->ahead);
  g_free(stream->packed);
  g_free(stream->leaving);
  g_free(stream->host);
  g_free(stream->ca_file);
  g_free(stream);
}

void stream_set_deadline(Stream *stream, gint64 deadline) {
  stream->deadline = deadline;
}

gboolean stream_start_tls(Stream *stream, GError **error) {
  if (stream->failure)
    return report_failure(stream, error);
  char byte;
  /* A server waits for our ClientHello; whatever is here already was put here by somebody else. */
  if (stream->ssl || stream_pending(stream) || recv(stream->fd, &byte, 1, MSG_PEEK) > 0) {
    fail(stream, EML_ERROR_PROTOCOL,
         "%s sent bytes between STARTTLS and TLS: somebody may be in between", stream->host);
    return report_failure(stream, error);
  }
  return handshake(stream, error);
}

gboolean stream_start_deflate(Stream *stream, GError **error) {
  if (stream->failure)
    return report_failure(stream, error);
  gsize early = stream->mail->read_buffer_len;
  gsize ahead = stream->ahead->len - stream->ahead_from;
  if (stream->deflating || early + ahead > PACKED_MAX) {
    fail(stream, EML_ERROR_PROTOCOL, "compression cannot start here");
    return report_failure(stream, error);
  }
  /* mailstream's bytes came first. */
  stream->packed = g_malloc(PACKED_MAX);
  stream->leaving = g_malloc(PACKED_MAX);
  memcpy(stream->packed, stream->mail->read_buffer, early);
  if (ahead > 0)
    memcpy(stream->packed + early, stream->ahead->data + stream->ahead_from, ahead);
  stream->mail->read_buffer_len = 0;
  g_byte_array_set_size(stream->ahead, 0);
  stream->ahead_from = 0;
  if (inflateInit2(&stream->inflater, -MAX_WBITS) != Z_OK)
    g_error("out of memory for zlib");
  if (deflateInit2(&stream->deflater, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8,
                   Z_DEFAULT_STRATEGY) != Z_OK)
    g_error("out of memory for zlib");
  stream->inflater.next_in = stream->packed;
  stream->inflater.avail_in = (uInt) (early + ahead);
  stream->deflating = TRUE;
  return TRUE;
}

void stream_unread(Stream *stream, const void *data, gsize size) {
  if (size == 0)
    return;
  /* Before all that is buffered, in order: @data, mailstream's bytes, `ahead`. */
  g_byte_array_remove_range(stream->ahead, 0, (guint) stream->ahead_from);
  stream->ahead_from = 0;
  g_byte_array_prepend(stream->ahead, (const guint8 *) stream->mail->read_buffer,
                       (guint) stream->mail->read_buffer_len);
  stream->mail->read_buffer_len = 0;
  g_byte_array_prepend(stream->ahead, data, (guint) size);
}

/* What a mailstream call that failed means. */
static gboolean mail_failed(Stream *stream, GError **error) {
  if (stream->failure)
    return report_failure(stream, error);
  g_set_error(error, EML_ERROR, EML_ERROR_TIMEOUT, "%s does not answer in time", stream->host);
  return FALSE;
}

gsize stream_read(Stream *stream, void *buffer, gsize size, GError **error) {
  /* mailstream_read waits for more when its buffer gives less than asked. */
  if (stream->mail->read_buffer_len > 0)
    size = MIN(size, stream->mail->read_buffer_len);
  ssize_t got = mailstream_read(stream->mail, buffer, size);
  if (got > 0)
    return (gsize) got;
  mail_failed(stream, error);
  return 0;
}

gboolean stream_write(Stream *stream, const void *data, gsize size, GError **error) {
  if (stream->failure)
    return report_failure(stream, error);
  while (size > 0) {
    ssize_t taken = mailstream_write(stream->mail, data, size);
    if (taken <= 0)
      return mail_failed(stream, error);
    data = (const char *) data + taken;
    size -= (gsize) taken;
  }
  return TRUE;
}

gboolean stream_flush(Stream *stream, GError **error) {
  if (stream->failure)
    return report_failure(stream, error);
  gsize queued = stream->mail->write_buffer_len;
  int result = mailstream_flush(stream->mail);
  secret_wipe(stream->mail->write_buffer, queued); /* it may have been a password */
  return result == 0 || mail_failed(stream, error);
}

/* Deflates the next piece into `leaving`, unless there is one. */
static void deflate_piece(Stream *stream, const void *data, gsize size) {
  if (stream->leaving_for > 0)
    return;
  z_stream *z = &stream->deflater;
  stream->leaving_for = MIN(size, UNPACKED_MAX);
  z->next_in = (Bytef *) data;
  z->avail_in = (uInt) stream->leaving_for;
  z->next_out = stream->leaving;
  z->avail_out = PACKED_MAX;
  deflate(z, Z_SYNC_FLUSH);
  stream->leaving_from = 0;
  stream->leaving_end = PACKED_MAX - z->avail_out;
}

/* Sends the next piece. Under deflate the caller's octets count as taken when all that they became
 * has left. */
static Try try_write_piece(Stream *stream, const void *data, gsize size, gsize *taken_out) {
  *taken_out = 0;
  if (!stream->deflating)
    return wire_try_write(stream, data, size, taken_out);
  deflate_piece(stream, data, size);
  while (stream->leaving_from < stream->leaving_end) {
    gsize sent = 0;
    Try outcome = wire_try_write(stream, stream->leaving + stream->leaving_from,
                                 stream->leaving_end - stream->leaving_from, &sent);
    if (outcome != TRY_OK)
      return outcome;
    stream->leaving_from += sent;
  }
  *taken_out = stream->leaving_for;
  stream->leaving_for = 0;
  return TRY_OK;
}

/* A server that hangs up tells why before; what it said is taken in although writing failed. */
static void hear_last_words(Stream *stream) {
  GError *failure = g_steal_pointer(&stream->failure);
  while (stream->ahead->len < AHEAD_MAX && !stream->failure) {
    guint8 bytes[AHEAD_MAX];
    gsize got = 0;
    Try outcome = stream->deflating ? inflate_read(stream, bytes, sizeof bytes, &got)
                                    : wire_read(stream, bytes, sizeof bytes, &got);
    if (outcome != TRY_OK)
      break;
    g_byte_array_append(stream->ahead, bytes, (guint) got);
  }
  g_clear_error(&stream->failure);
  stream->failure = failure;
}

gboolean stream_try_write(Stream *stream, const void *data, gsize size, gsize *taken_out,
                          GError **error) {
  *taken_out = 0;
  stream->write_blocked_on = 0;
  if (stream->mail->write_buffer_len > 0 && !stream_flush(stream, error))
    return FALSE;
  while (*taken_out < size) {
    gsize taken = 0;
    if (stream->failure || is_cancelled(stream))
      return report_failure(stream, error);
    Try outcome = try_write_piece(stream, (const char *) data + *taken_out, size - *taken_out,
                                  &taken);
    if (outcome == TRY_FAILED) {
      hear_last_words(stream);
      return report_failure(stream, error);
    }
    *taken_out += taken;
    if (outcome == TRY_BLOCKED) {
      stream->write_blocked_on = stream->blocked_on;
      break;
    }
  }
  return TRUE;
}

gboolean stream_wait_both(Stream *stream, gboolean *readable_out, GError **error) {
  *readable_out = stream_pending(stream);
  if (*readable_out)
    return TRUE;
  if (stream->failure)
    return report_failure(stream, error);
  gboolean socket_ready;
  if (!wait_for(stream, (short) (stream->blocked_on | stream->write_blocked_on), -1, &socket_ready,
                error))
    return FALSE;
  *readable_out = stream_pending(stream);
  return TRUE;
}

guint64 stream_progress(const Stream *stream) {
  int unacknowledged = 0;
  if (ioctl(stream->fd, SIOCOUTQ, &unacknowledged) != 0)
    unacknowledged = 0;
  return stream->wire - MIN(stream->wire, (guint64) unacknowledged);
}

gboolean stream_pending(Stream *stream) {
  return stream->mail->read_buffer_len > 0 || look_ahead(stream) == TRY_OK;
}

gboolean stream_wait(Stream *stream, int wake_fd, gboolean *readable_out, GError **error) {
  for (;;) {
    *readable_out = stream_pending(stream);
    if (*readable_out)
      return TRUE;
    if (stream->failure)
      return report_failure(stream, error);
    gboolean socket_ready;
    if (!wait_for(stream, stream->blocked_on, wake_fd, &socket_ready, error))
      return FALSE;
    if (!socket_ready)
      return TRUE;
  }
}

gboolean stream_is_tls(const Stream *stream) {
  return stream->ssl != NULL;
}

guint64 stream_wire_bytes(const Stream *stream) {
  return stream->wire;
}

gint64 stream_waited_us(const Stream *stream) {
  return stream->waited_us;
}

gboolean stream_is_deflating(const Stream *stream) {
  return stream->deflating;
}

struct _mailstream *stream_mailstream(Stream *stream) {
  return stream->mail;
}
