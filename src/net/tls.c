/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An SSL_CTX is shared by the streams that trust the same ca_file: reading the system's anchors from
 * one file costs 20 to 30 ms, half of a connection on a fast line. It is made anew now and then, so
 * that a daemon that runs for months sees anchors come and go.
 *
 * A resumed session skips the certificate, so the cache key holds all that was verified: host,
 * port and CA file. TLS 1.3 tickets are for one use; a session is taken out of the cache when
 * used, and the server sends new ones.
 */
#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "base/err.h"
#include "base/log.h"

#define SESSIONS_PER_KEY 4
#define SESSION_KEYS_MAX 64
#define READ_AHEAD (64 * 1024 + 512)

#define CONTEXT_KEPT_US (5 * 60 * G_USEC_PER_SEC)

/* `lock` guards `sessions` (key → GQueue of SSL_SESSION*) and `shared`; it is a leaf. */
static GMutex lock;
static GHashTable *sessions;
static struct {
  SSL_CTX *context; /* or NULL */
  char *ca_file;
  gint64 until; /* monotonic µs */
} shared;

/* What an SSL carries of ours. */
typedef struct {
  char *key;   /* of the session cache */
  char *names; /* for whom the refused certificate is, or NULL */
} Notes;

static void free_notes(void *parent, void *notes_data, CRYPTO_EX_DATA *data, int index, long argl,
                       void *argp) {
  Notes *notes = notes_data;
  if (notes) {
    g_free(notes->key);
    g_free(notes->names);
    g_free(notes);
  }
}

/* Where it carries them. */
static int notes_index(void) {
  static gsize once;
  if (g_once_init_enter(&once)) {
    int index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_notes);
    g_once_init_leave(&once, (gsize) index + 1);
  }
  return (int) once - 1;
}

static void free_queue(gpointer data) {
  g_queue_free_full(data, (GDestroyNotify) SSL_SESSION_free);
}

/* Called by OpenSSL, once the handshake has verified the peer; returns 1 to keep @session. */
static int keep_session(SSL *ssl, SSL_SESSION *session) {
  const Notes *notes = SSL_get_ex_data(ssl, notes_index());
  if (!notes || !SSL_SESSION_is_resumable(session) || SSL_get_verify_result(ssl) != X509_V_OK)
    return 0;
  const char *key = notes->key;
  g_mutex_lock(&lock);
  if (!sessions)
    sessions = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_queue);
  GQueue *queue = g_hash_table_lookup(sessions, key);
  if (!queue) {
    if (g_hash_table_size(sessions) >= SESSION_KEYS_MAX)
      g_hash_table_remove_all(sessions);
    queue = g_queue_new();
    g_hash_table_insert(sessions, g_strdup(key), queue);
  }
  g_queue_push_head(queue, session);
  SSL_SESSION *oldest = queue->length > SESSIONS_PER_KEY ? g_queue_pop_tail(queue) : NULL;
  g_mutex_unlock(&lock);
  SSL_SESSION_free(oldest);
  return 1;
}

static SSL_SESSION *take_session(const char *key) {
  g_mutex_lock(&lock);
  GQueue *queue = sessions ? g_hash_table_lookup(sessions, key) : NULL;
  SSL_SESSION *session = queue ? g_queue_pop_head(queue) : NULL;
  g_mutex_unlock(&lock);
  return session;
}

char *tls_reason(void) {
  unsigned long code = ERR_get_error();
  const char *text = ERR_SYSTEM_ERROR(code) ? g_strerror(ERR_GET_REASON(code))
                     : code                 ? ERR_reason_error_string(code)
                                            : NULL;
  ERR_clear_error();
  return g_strdup(text ? text : "no reason given");
}

/* "mail.example.org, example.org": the names in @certificate, at most four. */
static char *certificate_names(X509 *certificate) {
  GString *names = g_string_new(NULL);
  GENERAL_NAMES *list = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
  int shown = 0;
  for (int i = 0; list && i < sk_GENERAL_NAME_num(list) && shown < 4; i++) {
    GENERAL_NAME *name = sk_GENERAL_NAME_value(list, i);
    if (name->type != GEN_DNS)
      continue;
    int size = ASN1_STRING_length(name->d.dNSName);
    g_autofree char *text =
        g_strndup((const char *) ASN1_STRING_get0_data(name->d.dNSName), (gsize) MIN(size, 100));
    g_autofree char *printable = g_strescape(text, NULL);
    g_string_append_printf(names, "%s%s", shown++ ? ", " : "", printable);
  }
  GENERAL_NAMES_free(list);
  if (shown == 0)
    g_string_append(names, "no host at all");
  return g_string_free(names, FALSE);
}

/* Called by OpenSSL for each verdict. A refused certificate is gone when the handshake has failed,
 * so its names are noted here. The verdict stays as it is. */
static int note_refusal(int accepted, X509_STORE_CTX *context) {
  SSL *ssl = X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx());
  X509 *certificate = X509_STORE_CTX_get0_cert(context);
  Notes *notes = ssl ? SSL_get_ex_data(ssl, notes_index()) : NULL;
  if (!accepted && notes && !notes->names && certificate)
    notes->names = certificate_names(certificate);
  return accepted;
}

static SSL_CTX *make_context(const StreamEndpoint *endpoint, GError **error) {
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  if (!context) {
    g_autofree char *reason = tls_reason();
    g_set_error(error, EML_ERROR, EML_ERROR_TLS, "OpenSSL does not start: %s", reason);
    return NULL;
  }
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1); /* several records a recv(2) */
  SSL_CTX_set_default_read_buffer_len(context, READ_AHEAD);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, note_refusal);
  SSL_CTX_set_session_cache_mode(context,
                                 SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
  SSL_CTX_sess_set_new_cb(context, keep_session);
  SSL_CTX_set_default_verify_paths(context);
  if (endpoint->ca_file && !SSL_CTX_load_verify_file(context, endpoint->ca_file)) {
    g_autofree char *reason = tls_reason();
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "ca_file %s: no certificates: %s",
                endpoint->ca_file, reason);
    SSL_CTX_free(context);
    return NULL;
  }
  return context;
}

/* A reference to the context for @endpoint. */
static SSL_CTX *get_context(const StreamEndpoint *endpoint, GError **error) {
  SSL_CTX *context = NULL;
  g_mutex_lock(&lock);
  if (shared.context && g_strcmp0(shared.ca_file, endpoint->ca_file) == 0 &&
      g_get_monotonic_time() < shared.until) {
    context = shared.context;
    SSL_CTX_up_ref(context);
  }
  g_mutex_unlock(&lock);
  if (context)
    return context;
  context = make_context(endpoint, error);
  if (!context)
    return NULL;
  SSL_CTX_up_ref(context);
  g_mutex_lock(&lock);
  SSL_CTX *old = shared.context;
  g_free(shared.ca_file);
  shared.context = context;
  shared.ca_file = g_strdup(endpoint->ca_file);
  shared.until = g_get_monotonic_time() + CONTEXT_KEPT_US;
  g_mutex_unlock(&lock);
  SSL_CTX_free(old);
  return context;
}

SSL *tls_new(const StreamEndpoint *endpoint, BIO *bio, GError **error) {
  ERR_clear_error();
  SSL_CTX *context = get_context(endpoint, error);
  SSL *ssl = context ? SSL_new(context) : NULL;
  SSL_CTX_free(context); /* @ssl holds its own reference */
  if (!ssl) {
    BIO_free(bio);
    if (context)
      g_set_error_literal(error, EML_ERROR, EML_ERROR_TLS, "OpenSSL does not start");
    return NULL;
  }
  SSL_set_bio(ssl, bio, bio);
  SSL_set_connect_state(ssl);

  X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
  /* What the user names as an anchor is one, be it a root or not. */
  X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
  gboolean bound;
  if (g_hostname_is_ip_address(endpoint->host)) {
    bound = X509_VERIFY_PARAM_set1_ip_asc(param, endpoint->host);
  } else {
    g_autofree char *ascii = g_hostname_to_ascii(endpoint->host);
    gsize length = ascii ? strlen(ascii) : 0;
    if (length > 0 && ascii[length - 1] == '.')
      ascii[length - 1] = '\0';
    X509_VERIFY_PARAM_set_hostflags(
        param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    bound = ascii && *ascii && X509_VERIFY_PARAM_set1_host(param, ascii, 0) &&
            SSL_set_tlsext_host_name(ssl, ascii);
  }
  if (!bound) {
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "'%s' is not a host name", endpoint->host);
    SSL_free(ssl);
    return NULL;
  }

  char *key = g_strdup_printf("%s\n%u\n%s", endpoint->host, endpoint->port,
                              endpoint->ca_file ? endpoint->ca_file : "");
  Notes *notes = g_new0(Notes, 1);
  notes->key = key;
  SSL_set_ex_data(ssl, notes_index(), notes);
  SSL_SESSION *session = take_session(key);
  if (session) {
    SSL_set_session(ssl, session);
    SSL_SESSION_free(session);
  }
  return ssl;
}

void tls_free(SSL *ssl) {
  if (!ssl)
    return;
  /* Nobody waits for the peer's close_notify; saying that the end was meant keeps the session. */
  SSL_set_quiet_shutdown(ssl, 1);
  SSL_shutdown(ssl);
  SSL_free(ssl);
  ERR_clear_error();
}

void tls_tell(SSL *ssl, const char *host) {
  static gint counts[2]; /* full, resumed */
  gint resumed = SSL_session_reused(ssl) ? 1 : 0;
  g_atomic_int_inc(&counts[resumed]);
  log_debug("%s with %s, %s; so far %d full, %d resumed", SSL_get_version(ssl), host,
            resumed ? "resumed" : "full handshake", g_atomic_int_get(&counts[0]),
            g_atomic_int_get(&counts[1]));
}

static void explain_certificate(SSL *ssl, const char *host, long result, GError **error) {
  const Notes *notes = SSL_get_ex_data(ssl, notes_index());
  switch (result) {
  case X509_V_ERR_CERT_HAS_EXPIRED:
    g_set_error(error, EML_ERROR, EML_ERROR_TLS,
                "the certificate of %s has expired: its administrator must renew it; check this "
                "computer's clock too", host);
    return;
  case X509_V_ERR_CERT_NOT_YET_VALID:
    g_set_error(error, EML_ERROR, EML_ERROR_TLS,
                "the certificate of %s is not yet valid: check this computer's clock", host);
    return;
  case X509_V_ERR_HOSTNAME_MISMATCH:
  case X509_V_ERR_IP_ADDRESS_MISMATCH:
    g_set_error(error, EML_ERROR, EML_ERROR_TLS,
                "wrong host name: the certificate of %s is for %s; use the server name that the "
                "provider gives", host, notes->names ? notes->names : "others");
    return;
  case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
  case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
  case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
  case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
  case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
  case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    g_set_error(error, EML_ERROR, EML_ERROR_TLS,
                "the certificate of %s is not trusted: no known authority signed it; if it is your "
                "own server, name its authority's certificate as ca_file", host);
    return;
  default:
    g_set_error(error, EML_ERROR, EML_ERROR_TLS, "the certificate of %s is not acceptable: %s",
                host, X509_verify_cert_error_string(result));
  }
}

void tls_explain(SSL *ssl, const StreamEndpoint *endpoint, int ssl_error, GError **error) {
  long result = SSL_get_verify_result(ssl);
  unsigned long code = ERR_peek_error();
  int reason_code = ERR_GET_REASON(code);
  if (ssl_error == SSL_ERROR_SYSCALL || ssl_error == SSL_ERROR_ZERO_RETURN ||
      (ssl_error == SSL_ERROR_SSL && reason_code == SSL_R_UNEXPECTED_EOF_WHILE_READING)) {
    ERR_clear_error();
    g_set_error(error, EML_ERROR, EML_ERROR_OFFLINE,
                "%s:%u hung up during the TLS handshake", endpoint->host, endpoint->port);
    return;
  }
  if (result != X509_V_OK && ssl_error == SSL_ERROR_SSL) {
    ERR_clear_error();
    explain_certificate(ssl, endpoint->host, result, error);
    return;
  }
  gboolean no_tls = reason_code == SSL_R_WRONG_VERSION_NUMBER;
  g_autofree char *reason = tls_reason();
  if (no_tls && endpoint->security == STREAM_TLS)
    g_set_error(error, EML_ERROR, EML_ERROR_TLS,
                "TLS handshake failed: %s does not speak TLS on port %u; that may be the STARTTLS "
                "port", endpoint->host, endpoint->port);
  else
    g_set_error(error, EML_ERROR, EML_ERROR_TLS, "TLS handshake with %s:%u failed: %s",
                endpoint->host, endpoint->port, reason);
}
