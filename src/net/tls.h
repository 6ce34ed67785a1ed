/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The OpenSSL side of a stream: a client that always verifies chain and host name, with sessions
 * kept for resumption, and errors in one line that say what to do.
 */
#pragma once

#include <openssl/ssl.h>

#include "net/stream.h"

/* A client for @endpoint whose wire is @bio (taken over). NULL with @error (TLS, CONFIG for a CA
 * file that cannot be read). Free with tls_free. Any thread. */
SSL *tls_new(const StreamEndpoint *endpoint, BIO *bio, GError **error);
void tls_free(SSL *ssl);

/* After SSL_connect succeeded: counts it for the log, which tells how many were resumed. */
void tls_tell(SSL *ssl, const char *host);

/* After SSL_connect failed with @ssl_error: one line on why. Clears OpenSSL's error queue. */
void tls_explain(SSL *ssl, const StreamEndpoint *endpoint, int ssl_error, GError **error);

/* The text of OpenSSL's oldest queued error, for people; empties the queue. Free with g_free. */
char *tls_reason(void);
