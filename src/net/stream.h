/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A byte stream to a mail server: TCP, then TLS by OpenSSL, then deflate where it was agreed, all
 * in one mailstream_low driver of ours under libetpan's mailstream. It never sends a byte in clear
 * text after TLS was asked for, verifies chain and host name always, and never waits longer than
 * its deadline. One stream, one thread; only the GCancellable may be used from another.
 *
 * RFC 8446, RFC 9525 (names), RFC 8314 (mail over TLS), RFC 4978 (COMPRESS).
 */
#pragma once

#include <gio/gio.h>

typedef struct Stream Stream;

typedef enum { STREAM_TLS, STREAM_STARTTLS } StreamSecurity;

/* Where to connect. Plain data, owned by the caller; copied by stream_open. */
typedef struct {
  const char *host; /* host name or address literal; also the name the certificate must bear */
  guint16 port;
  StreamSecurity security;
  const char *ca_file; /* PEM file of further trust anchors, or NULL */
} StreamEndpoint;

/* Connects (every address of the host in turn, RFC 8305) and, with STREAM_TLS, completes the
 * handshake, all before @deadline. @cancellable, when not NULL, ends any later wait of this stream
 * with EML_ERROR_CANCELLED. Errors: OFFLINE, TIMEOUT, TLS, CANCELLED. A TLS session of the same
 * endpoint is resumed where the server allows. */
Stream *stream_open(const StreamEndpoint *endpoint, gint64 deadline, GCancellable *cancellable,
                    GError **error);

/* Closes without waiting for the server. *@stream becomes NULL. NULL is fine. */
void stream_close(Stream **stream);

/* Every later call ends before @deadline (monotonic µs). */
void stream_set_deadline(Stream *stream, gint64 deadline);

/* Turns a STREAM_STARTTLS stream to TLS after the server's go-ahead line was read. Bytes that the
 * server sent after that line are an injection: PROTOCOL. */
gboolean stream_start_tls(Stream *stream, GError **error);

/* From now on both directions are raw deflate (RFC 1951); what was read ahead is inflated too. */
gboolean stream_start_deflate(Stream *stream, GError **error);

/* Puts @size bytes back in front of what is read next; for a reader that took in more than it
 * understood when deflate starts. */
void stream_unread(Stream *stream, const void *data, gsize size);

/* Reads at least one and at most @size bytes; 0 only with @error set (end of stream is OFFLINE). */
gsize stream_read(Stream *stream, void *buffer, gsize size, GError **error);

/* Queues @size bytes; they may leave now or with stream_flush. */
gboolean stream_write(Stream *stream, const void *data, gsize size, GError **error);
gboolean stream_flush(Stream *stream, GError **error);

/* Waits until stream_read would not block, @wake_fd (-1: none) is readable, or the deadline.
 * Returns FALSE with @error on failure or passed deadline (TIMEOUT); else *@readable_out tells
 * whether the stream (not only @wake_fd) is ready. */
gboolean stream_wait(Stream *stream, int wake_fd, gboolean *readable_out, GError **error);

/* For long transfers to a server that may talk meanwhile. Sends what goes of @size bytes without
 * waiting (what stream_write queued comes first, and waits); *@taken_out tells how many went. The
 * next thing written must begin with the rest, and stay so until all of it went. When it fails,
 * what the server had said before can still be read; stream_pending tells. */
gboolean stream_try_write(Stream *stream, const void *data, gsize size, gsize *taken_out,
                          GError **error);

/* Waits until stream_read would not block, or stream_try_write, which took less than all, would get
 * on, or the deadline, which is TIMEOUT. *@readable_out tells whether stream_read would not. */
gboolean stream_wait_both(Stream *stream, gboolean *readable_out, GError **error);

/* Bytes that came, and of ours those that the other side's kernel has acknowledged. It grows as
 * long as anything moves, also while what we wrote still leaves from the socket's buffer. */
guint64 stream_progress(const Stream *stream);

/* Whether bytes can be read without waiting for the socket. */
gboolean stream_pending(Stream *stream);

/* Whether the connection is under TLS now. */
gboolean stream_is_tls(const Stream *stream);

/* Bytes on the wire so far, both ways together, as the socket saw them. */
guint64 stream_wire_bytes(const Stream *stream);

/* Microseconds spent waiting for something to read so far. */
gint64 stream_waited_us(const Stream *stream);

/* Whether stream_start_deflate took effect. */
gboolean stream_is_deflating(const Stream *stream);

/* The libetpan mailstream inside, for its submission client; owned by @stream. After one of
 * libetpan's calls failed, stream_read or stream_flush tell why. */
struct _mailstream *stream_mailstream(Stream *stream);
