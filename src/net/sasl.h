/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The client side of SASL for IMAP and submission: SCRAM-SHA-256 (RFC 7677), PLAIN (RFC 4616),
 * LOGIN, OAUTHBEARER (RFC 7628) and XOAUTH2. Only ever used inside TLS.
 */
#pragma once

#include "base/secret.h"

typedef struct Sasl Sasl;

typedef struct {
  const char *user;  /* authentication identity, UTF-8 */
  const char *host;  /* for OAUTHBEARER */
  guint16 port;      /* for OAUTHBEARER */
  Secret *password;  /* or NULL */
  Secret *token;     /* OAuth 2.0 access token, or NULL; with a token only token mechanisms are tried */
} SaslLogin;

/* Picks the best mechanism out of @offered (NULL-ended, names in any case): with a token
 * OAUTHBEARER then XOAUTH2, else SCRAM-SHA-256, PLAIN, LOGIN. AUTH error when none fits. */
Sasl *sasl_new(const char *const *offered, const SaslLogin *login, GError **error);
void sasl_free(Sasl *sasl);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Sasl, sasl_free)

/* The mechanism's registered name. */
const char *sasl_mechanism(const Sasl *sasl);

/* Whether the client speaks first, so that an initial response (SASL-IR) may be sent. */
gboolean sasl_client_first(const Sasl *sasl);

/* Answers one challenge (@size bytes, decoded; NULL for the initial response). The response is
 * allocated, secret, and to be wiped by the caller (secret_wipe + g_free). NULL with @error on a
 * challenge that is wrong (AUTH, PROTOCOL). */
char *sasl_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out, GError **error);

/* TRUE when the server may say OK now: for SCRAM only after its signature was verified. */
gboolean sasl_complete(const Sasl *sasl);

/* For tests with the RFCs' vectors: fixes SCRAM's client nonce. */
void sasl_set_nonce(Sasl *sasl, const char *nonce);
