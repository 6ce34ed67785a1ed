/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "peer.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include "base/err.h"

#define CONTEXT_ID "peer"

struct Peer {
  PeerScript script;
  gpointer data;
  guint connections;
  gboolean tls;
  guint16 port;
  int listener, fd;
  SSL_CTX *context;
  SSL *ssl;
  gboolean deflating;
  z_stream inflater, deflater;
  guint8 packed[16384];
  guint8 buffer[16384];
  gsize at, end;
  GString *line;
  GThread *thread;
};

/* The authorities, made once by the first test; only the main thread makes servers. */
static EVP_PKEY *ca_key, *other_key;
static X509 *ca_certificate;
static char *ca_directory, *ca_path;

static X509 *make_certificate(EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key, const char *name,
                              const char *alt_names, long from, long to) {
  X509 *certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), (long) g_random_int_range(1, G_MAXINT));
  X509_gmtime_adj(X509_getm_notBefore(certificate), from);
  X509_gmtime_adj(X509_getm_notAfter(certificate), to);
  X509_set_pubkey(certificate, key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             (const guchar *) name, -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer ? issuer : certificate));
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer ? issuer : certificate, certificate, NULL, NULL, 0);
  X509_EXTENSION *extension =
      alt_names ? X509V3_EXT_conf_nid(NULL, &context, NID_subject_alt_name, alt_names)
                : X509V3_EXT_conf_nid(NULL, &context, NID_basic_constraints, "critical,CA:TRUE");
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  g_assert_cmpint(X509_sign(certificate, issuer_key, EVP_sha256()), >, 0);
  return certificate;
}

static void make_authorities(void) {
  if (ca_key)
    return;
  ca_key = EVP_EC_gen("P-256");
  other_key = EVP_EC_gen("P-256");
  ca_certificate = make_certificate(ca_key, NULL, ca_key, "Test CA", NULL, -86400, 86400);
  ca_directory = g_dir_make_tmp("emlfs-proto-XXXXXX", NULL);
  ca_path = g_build_filename(ca_directory, "ca.pem", NULL);
  FILE *file = g_fopen(ca_path, "w");
  g_assert_nonnull(file);
  PEM_write_X509(file, ca_certificate);
  fclose(file);
}

const char *peer_ca_file(void) {
  make_authorities();
  return ca_path;
}

void peer_cleanup(void) {
  if (!ca_key)
    return;
  g_unlink(ca_path);
  g_rmdir(ca_directory);
  g_free(ca_path);
  g_free(ca_directory);
  X509_free(ca_certificate);
  EVP_PKEY_free(ca_key);
  EVP_PKEY_free(other_key);
}

static SSL_CTX *server_context(PeerCert cert) {
  static const char good[] = "DNS:localhost, IP:127.0.0.1";
  long from = cert == CERT_FUTURE ? 3600 : cert == CERT_EXPIRED ? -7200 : -3600;
  long to = cert == CERT_EXPIRED ? -3600 : 7200;
  gboolean untrusted = cert == CERT_UNTRUSTED;
  g_autofree char *names = g_strdup(cert == CERT_WRONG_HOST ? "DNS:other.example" : good);
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *certificate = make_certificate(key, ca_certificate, untrusted ? other_key : ca_key,
                                       "localhost", names, from, to);
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_use_certificate(context, certificate);
  SSL_CTX_use_PrivateKey(context, key);
  SSL_CTX_set_session_id_context(context, (const guchar *) CONTEXT_ID, strlen(CONTEXT_ID));
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

static void serve(Peer *peer) {
  peer->fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
  g_assert_cmpint(peer->fd, >=, 0);
  peer->at = peer->end = 0;
  if (!peer->tls || peer_start_tls(peer))
    peer->script(peer);
  if (peer->ssl) {
    SSL_free(peer->ssl);
    peer->ssl = NULL;
  }
  if (peer->deflating) {
    inflateEnd(&peer->inflater);
    deflateEnd(&peer->deflater);
    peer->deflating = FALSE;
  }
  ERR_clear_error();
  close(peer->fd);
}

static gpointer run(gpointer data) {
  Peer *peer = data;
  /* The scripts write to clients that have gone; the client must not need this. */
  sigset_t broken_pipe;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, NULL);
  for (guint i = 0; i < peer->connections; i++)
    serve(peer);
  return NULL;
}

Peer *peer_start(PeerScript script, guint connections, gboolean tls, PeerCert cert,
                 gpointer data) {
  make_authorities();
  Peer *peer = g_new0(Peer, 1);
  peer->script = script;
  peer->connections = connections;
  peer->tls = tls;
  peer->data = data;
  peer->line = g_string_new(NULL);
  peer->context = server_context(cert);
  peer->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  g_assert_cmpint(bind(peer->listener, (struct sockaddr *) &address, size), ==, 0);
  g_assert_cmpint(listen(peer->listener, 4), ==, 0);
  g_assert_cmpint(getsockname(peer->listener, (struct sockaddr *) &address, &size), ==, 0);
  peer->port = ntohs(address.sin_port);
  peer->thread = g_thread_new("peer", run, peer);
  return peer;
}

void peer_stop(Peer *peer) {
  g_thread_join(peer->thread);
  close(peer->listener);
  SSL_CTX_free(peer->context);
  g_string_free(peer->line, TRUE);
  g_free(peer);
}

guint16 peer_port(const Peer *peer) {
  return peer->port;
}

gpointer peer_data(const Peer *peer) {
  return peer->data;
}

static gboolean raw_send(Peer *peer, const char *data, gsize size) {
  while (size > 0) {
    gssize sent = peer->ssl ? SSL_write(peer->ssl, data, (int) size)
                            : send(peer->fd, data, size, MSG_NOSIGNAL);
    if (sent <= 0)
      return FALSE;
    data += sent;
    size -= (gsize) sent;
  }
  return TRUE;
}

gboolean peer_send_bytes(Peer *peer, const void *data, gsize size) {
  if (!peer->deflating)
    return raw_send(peer, data, size);
  z_stream *z = &peer->deflater;
  z->next_in = (Bytef *) data;
  z->avail_in = (uInt) size;
  do {
    guint8 out[16384];
    z->next_out = out;
    z->avail_out = sizeof out;
    deflate(z, Z_SYNC_FLUSH);
    if (!raw_send(peer, (const char *) out, sizeof out - z->avail_out))
      return FALSE;
  } while (z->avail_out == 0);
  return TRUE;
}

gboolean peer_send(Peer *peer, const char *text) {
  return peer_send_bytes(peer, text, strlen(text));
}

static gssize raw_read(Peer *peer, guint8 *buffer, gsize size) {
  return peer->ssl ? SSL_read(peer->ssl, buffer, (int) size) : recv(peer->fd, buffer, size, 0);
}

static gboolean fill(Peer *peer) {
  peer->at = peer->end = 0;
  if (!peer->deflating) {
    gssize got = raw_read(peer, peer->buffer, sizeof peer->buffer);
    peer->end = got > 0 ? (gsize) got : 0;
    return got > 0;
  }
  z_stream *z = &peer->inflater;
  for (;;) {
    if (z->avail_in == 0) {
      gssize got = raw_read(peer, peer->packed, sizeof peer->packed);
      if (got <= 0)
        return FALSE;
      z->next_in = peer->packed;
      z->avail_in = (uInt) got;
    }
    z->next_out = peer->buffer;
    z->avail_out = sizeof peer->buffer;
    inflate(z, Z_SYNC_FLUSH);
    peer->end = sizeof peer->buffer - z->avail_out;
    if (peer->end > 0)
      return TRUE;
  }
}

static int next(Peer *peer) {
  return peer->at < peer->end || fill(peer) ? peer->buffer[peer->at++] : -1;
}

const char *peer_line(Peer *peer) {
  g_string_truncate(peer->line, 0);
  for (int c; (c = next(peer)) >= 0;) {
    if (c == '\n') {
      g_assert_true(peer->line->len > 0 && peer->line->str[peer->line->len - 1] == '\r');
      g_string_truncate(peer->line, peer->line->len - 1);
      return peer->line->str;
    }
    g_string_append_c(peer->line, (char) c);
  }
  return NULL;
}

const char *peer_expect(Peer *peer, const char *pattern) {
  const char *line = peer_line(peer);
  if (!line || !g_pattern_match_simple(pattern, line))
    g_error("the server expected '%s' and got '%s'", pattern, line ? line : "(end)");
  return line;
}

void peer_expect_bytes(Peer *peer, const char *text) {
  for (; *text; text++)
    g_assert_cmpint(next(peer), ==, (guchar) *text);
}

/* Reads @size octets into @checksum, or nowhere. */
static gboolean take(Peer *peer, guint64 size, GChecksum *checksum) {
  while (size > 0) {
    if (peer->at == peer->end && !fill(peer))
      return FALSE;
    gsize piece = (gsize) MIN(size, peer->end - peer->at);
    if (checksum)
      g_checksum_update(checksum, peer->buffer + peer->at, (gssize) piece);
    peer->at += piece;
    size -= piece;
  }
  return TRUE;
}

gboolean peer_skip(Peer *peer, guint64 size) {
  return take(peer, size, NULL);
}

void peer_expect_digest(Peer *peer, guint64 size, const char *digest) {
  g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
  g_assert_true(take(peer, size, checksum));
  g_assert_cmpstr(g_checksum_get_string(checksum), ==, digest);
}

gboolean peer_start_tls(Peer *peer) {
  peer->ssl = SSL_new(peer->context);
  SSL_set_fd(peer->ssl, peer->fd);
  return SSL_accept(peer->ssl) == 1;
}

void peer_start_deflate(Peer *peer) {
  memset(&peer->inflater, 0, sizeof peer->inflater);
  memset(&peer->deflater, 0, sizeof peer->deflater);
  inflateInit2(&peer->inflater, -MAX_WBITS);
  deflateInit2(&peer->deflater, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  peer->deflating = TRUE;
}

gboolean peer_resumed(const Peer *peer) {
  return SSL_session_reused(peer->ssl);
}

void peer_hang(Peer *peer) {
  while (next(peer) >= 0) {
  }
}

void peer_let_in(Peer *peer, const char *caps) {
  peer_send(peer, "* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] peer\r\n");
  peer_expect(peer, "A1 AUTHENTICATE PLAIN AGFubmEAc2VjcmV0LXdvcmQ=");
  g_autofree char *in =
      g_strdup_printf("A1 OK [CAPABILITY IMAP4rev1 %s] Logged in\r\n", caps);
  peer_send(peer, in);
}

static Secret *give_secret(gboolean again, gboolean *is_token_out, gpointer data,
                           GError **error) {
  *is_token_out = FALSE;
  return secret_new("secret-word", -1);
}

ImapSession *peer_session(Peer *peer, StreamSecurity security, gint64 silence_ms,
                          GCancellable *cancellable, GError **error) {
  ImapConfig config = {
      .endpoint = {"localhost", peer->port, security, peer_ca_file()},
      .user = "anna",
      .secret = give_secret,
      .compress = TRUE,
      .login_ms = MIN(silence_ms * 3, 10000),
      .response_ms = silence_ms,
  };
  return imap_session_open(&config, cancellable, error);
}

ImapSession *peer_session_ok(Peer *peer) {
  g_autoptr(GError) error = NULL;
  ImapSession *session = peer_session(peer, STREAM_TLS, 10000, NULL, &error);
  g_assert_no_error(error);
  g_assert_nonnull(session);
  return session;
}

void peer_assert_error(GError **error, int code, const char *words) {
  g_assert_error(*error, EML_ERROR, code);
  g_test_message("%s", (*error)->message);
  if (!strstr((*error)->message, words))
    g_error("'%s' is not in: %s", words, (*error)->message);
  g_assert_null(strchr((*error)->message, '\n'));
  g_clear_error(error);
}
