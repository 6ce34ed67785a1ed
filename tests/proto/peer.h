/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A scripted mail server: one thread on a loopback port that plays a function for each connection,
 * with TLS from a certificate authority that lives in this process only. What a script waits for
 * and does not get aborts the test.
 */
#pragma once

#include <gio/gio.h>

#include "imap/session.h"

typedef struct Peer Peer;
typedef void (*PeerScript)(Peer *peer);

typedef enum { CERT_GOOD, CERT_EXPIRED, CERT_FUTURE, CERT_WRONG_HOST, CERT_UNTRUSTED } PeerCert;

/* Starts a server that plays @script for one connection after the other, @connections times.
 * @tls: from the first byte. @data is for the script. */
Peer *peer_start(PeerScript script, guint connections, gboolean tls, PeerCert cert, gpointer data);
/* Waits for the script's end and frees. */
void peer_stop(Peer *peer);

guint16 peer_port(const Peer *peer);
gpointer peer_data(const Peer *peer);
/* The PEM file of the authority, for the client. */
const char *peer_ca_file(void);
/* Removes it. */
void peer_cleanup(void);

/* For scripts. The senders return FALSE once the client is gone. */
gboolean peer_send(Peer *peer, const char *text);
gboolean peer_send_bytes(Peer *peer, const void *data, gsize size);
/* Reads a line without its CRLF, valid until the next; NULL when the client is gone. */
const char *peer_line(Peer *peer);
/* Reads a line that must match @pattern (with * and ?). */
const char *peer_expect(Peer *peer, const char *pattern);
/* Reads @size octets that must equal @text. */
void peer_expect_bytes(Peer *peer, const char *text);
/* Reads @size octets of any kind; FALSE once the client is gone. */
gboolean peer_skip(Peer *peer, guint64 size);
/* The same; their SHA-256 must be @digest (hexadecimal). */
void peer_expect_digest(Peer *peer, guint64 size, const char *digest);
/* TLS from here on; FALSE when the client does not like it. */
gboolean peer_start_tls(Peer *peer);
/* Deflate from here on. */
void peer_start_deflate(Peer *peer);
/* Whether the TLS session was resumed. */
gboolean peer_resumed(const Peer *peer);
/* Reads until the client hangs up. */
void peer_hang(Peer *peer);
/* Greets, lets the client in by PLAIN, and lists "IMAP4rev1" and @caps. */
void peer_let_in(Peer *peer, const char *caps);

/* For clients: a session to @peer that gives up after @silence_ms. */
ImapSession *peer_session(Peer *peer, StreamSecurity security, gint64 silence_ms,
                          GCancellable *cancellable, GError **error);
/* The same, which must succeed. */
ImapSession *peer_session_ok(Peer *peer);
/* Asserts that @error has @code and a one-line message that contains @words; clears it. */
void peer_assert_error(GError **error, int code, const char *words);
