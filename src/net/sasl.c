/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A mechanism is a row of `mechanisms`: its name, who speaks first, what secret it wants, and one
 * step function. `sasl->step` counts the challenges that were answered.
 *
 * SCRAM takes no channel binding ("n,,"): the stream below has verified the server's name already.
 */
#include "net/sasl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/err.h"

#define DIGEST 32
#define ITERATIONS_MIN 4096    /* RFC 7677, 4 */
#define ITERATIONS_MAX 1000000 /* a server may make us work for about a second, no longer */
#define SALT_MAX 1024

typedef struct {
  const char *name;
  gboolean client_first;
  gboolean token;
  /* The answer to @challenge, or NULL with @error. */
  char *(*step)(Sasl *sasl, const char *challenge, gsize size, gsize *size_out, GError **error);
} Mechanism;

struct Sasl {
  const Mechanism *mechanism;
  char *user;
  char *host;
  guint16 port;
  Secret *secret;
  guint step;
  gboolean complete;
  /* SCRAM */
  char *nonce;
  char *client_first_bare;
  guint8 server_signature[DIGEST];
};

/* The secret responses are built in a buffer that is large enough from the start, so that growing
 * leaves no copy behind. */
static GString *response_new(const Sasl *sasl) {
  return g_string_sized_new(strlen(sasl->user) * 3 + strlen(secret_text(sasl->secret)) +
                            strlen(sasl->host) + 256);
}

static char *finish(GString *response, gsize *size_out) {
  *size_out = response->len;
  return g_string_free(response, FALSE);
}

static char *wrong(GError **error, EmlError code, const char *text) {
  g_set_error_literal(error, EML_ERROR, code, text);
  return NULL;
}

static char *plain_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out,
                        GError **error) {
  if (sasl->step > 1)
    return wrong(error, EML_ERROR_PROTOCOL, "the server asks for more than PLAIN has");
  GString *response = response_new(sasl);
  g_string_append_c(response, '\0');
  g_string_append(response, sasl->user);
  g_string_append_c(response, '\0');
  g_string_append(response, secret_text(sasl->secret));
  sasl->complete = TRUE;
  return finish(response, size_out);
}

/* The prompts are not standard ("Username:", "User Name", …): the first asks for the name. */
static char *login_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out,
                        GError **error) {
  if (sasl->step > 2)
    return wrong(error, EML_ERROR_PROTOCOL, "the server asks for more than LOGIN has");
  GString *response = response_new(sasl);
  g_string_append(response, sasl->step == 1 ? sasl->user : secret_text(sasl->secret));
  sasl->complete = sasl->step == 2;
  return finish(response, size_out);
}

/* RFC 5802, 5.1: saslname. */
static void append_saslname(GString *response, const char *name) {
  for (; *name; name++) {
    if (*name == '=')
      g_string_append(response, "=3D");
    else if (*name == ',')
      g_string_append(response, "=2C");
    else
      g_string_append_c(response, *name);
  }
}

/* A second challenge carries the error report; an answer is due before the server says NO. */
static char *oauthbearer_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out,
                              GError **error) {
  if (sasl->step > 2)
    return wrong(error, EML_ERROR_PROTOCOL, "the server asks for more than OAUTHBEARER has");
  GString *response = response_new(sasl);
  if (sasl->step == 2) {
    sasl->complete = FALSE;
    g_string_append_c(response, 1);
    return finish(response, size_out);
  }
  g_string_append(response, "n,a=");
  append_saslname(response, sasl->user);
  g_string_append_printf(response, ",\1host=%s\1port=%u\1auth=Bearer ", sasl->host, sasl->port);
  g_string_append(response, secret_text(sasl->secret));
  g_string_append(response, "\1\1");
  sasl->complete = TRUE;
  return finish(response, size_out);
}

static char *xoauth2_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out,
                          GError **error) {
  if (sasl->step > 2)
    return wrong(error, EML_ERROR_PROTOCOL, "the server asks for more than XOAUTH2 has");
  GString *response = response_new(sasl);
  if (sasl->step == 2) {
    sasl->complete = FALSE;
    return finish(response, size_out);
  }
  g_string_append_printf(response, "user=%s\1auth=Bearer ", sasl->user);
  g_string_append(response, secret_text(sasl->secret));
  g_string_append(response, "\1\1");
  sasl->complete = TRUE;
  return finish(response, size_out);
}

/* SASLprep (RFC 4013) as far as it matters for a password typed here: other spaces become a
 * space, what maps to nothing goes, NFKC; control characters are refused. Free with wipe_free. */
static char *saslprep(const char *text, const char *what, GError **error) {
  if (!g_utf8_validate(text, -1, NULL)) {
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "the %s is not UTF-8", what);
    return NULL;
  }
  GString *mapped = g_string_sized_new(strlen(text) + 1); /* a mapping never grows */
  for (const char *p = text; *p; p = g_utf8_next_char(p)) {
    gunichar c = g_utf8_get_char(p);
    GUnicodeType type = g_unichar_type(c);
    if (type == G_UNICODE_SPACE_SEPARATOR)
      g_string_append_c(mapped, ' ');
    else if (c == 0xad || c == 0x34f || c == 0x1806 || (c >= 0x180b && c <= 0x180d) ||
             (c >= 0x200b && c <= 0x200d) || c == 0x2060 || (c >= 0xfe00 && c <= 0xfe0f) ||
             c == 0xfeff)
      continue; /* RFC 3454, B.1 */
    else if (type == G_UNICODE_CONTROL || type == G_UNICODE_UNASSIGNED ||
             type == G_UNICODE_PRIVATE_USE) {
      secret_wipe(mapped->str, mapped->len);
      g_string_free(mapped, TRUE);
      g_set_error(error, EML_ERROR, EML_ERROR_AUTH,
                  "the %s has a character that cannot be part of one", what);
      return NULL;
    } else
      g_string_append_len(mapped, p, g_utf8_next_char(p) - p);
  }
  char *normal = g_utf8_normalize(mapped->str, (gssize) mapped->len, G_NORMALIZE_NFKC);
  secret_wipe(mapped->str, mapped->len);
  g_string_free(mapped, TRUE);
  return normal;
}

static void wipe_free(char *text) {
  if (text)
    secret_wipe(text, strlen(text));
  g_free(text);
}

static char *scram_first(Sasl *sasl, gsize *size_out, GError **error) {
  char *user = saslprep(sasl->user, "user name", error);
  if (!user)
    return NULL;
  if (!sasl->nonce) {
    guint8 random[24];
    if (RAND_bytes(random, sizeof random) != 1) {
      g_free(user);
      return wrong(error, EML_ERROR_FAILED, "no random numbers");
    }
    sasl->nonce = g_base64_encode(random, sizeof random); /* has no comma */
  }
  GString *bare = g_string_new("n=");
  append_saslname(bare, user);
  g_string_append_printf(bare, ",r=%s", sasl->nonce);
  g_free(user);
  sasl->client_first_bare = g_string_free(bare, FALSE);
  char *response = g_strconcat("n,,", sasl->client_first_bare, NULL);
  *size_out = strlen(response);
  return response;
}

static void hmac(const guint8 *key, const char *data, gsize size, guint8 *digest_out) {
  if (!HMAC(EVP_sha256(), key, DIGEST, (const guint8 *) data, size, digest_out, NULL))
    g_error("OpenSSL has no HMAC-SHA-256");
}

/* RFC 5802, 3: proof and server signature from the salted password. */
static char *scram_final(Sasl *sasl, const char *server_first, const char *nonce,
                         const guint8 *salt, gsize salt_size, guint64 iterations, gsize *size_out,
                         GError **error) {
  char *password = saslprep(secret_text(sasl->secret), "password", error);
  if (!password)
    return NULL;
  guint8 salted[DIGEST], client_key[DIGEST], stored_key[DIGEST], signature[DIGEST],
      server_key[DIGEST];
  int made = PKCS5_PBKDF2_HMAC(password, (int) strlen(password), salt, (int) salt_size,
                               (int) iterations, EVP_sha256(), DIGEST, salted);
  wipe_free(password);
  if (made != 1)
    return wrong(error, EML_ERROR_FAILED, "OpenSSL has no PBKDF2");

  g_autofree char *without_proof = g_strconcat("c=biws,r=", nonce, NULL);
  g_autofree char *message =
      g_strconcat(sasl->client_first_bare, ",", server_first, ",", without_proof, NULL);
  hmac(salted, "Client Key", 10, client_key);
  EVP_Digest(client_key, DIGEST, stored_key, NULL, EVP_sha256(), NULL);
  hmac(stored_key, message, strlen(message), signature);
  for (guint i = 0; i < DIGEST; i++)
    client_key[i] ^= signature[i];
  hmac(salted, "Server Key", 10, server_key);
  hmac(server_key, message, strlen(message), sasl->server_signature);
  g_autofree char *proof = g_base64_encode(client_key, DIGEST);
  secret_wipe(salted, sizeof salted);
  secret_wipe(client_key, sizeof client_key);
  secret_wipe(server_key, sizeof server_key);
  char *response = g_strconcat(without_proof, ",p=", proof, NULL);
  *size_out = strlen(response);
  return response;
}

/* "KEY=VALUE": the value of @part when its key is @key, else NULL. */
static const char *attribute(const char *part, char key) {
  return part && part[0] == key && part[1] == '=' ? part + 2 : NULL;
}

static char *scram_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out,
                        GError **error) {
  if (sasl->step == 1)
    return scram_first(sasl, size_out, error);
  if (sasl->step > 3 || !challenge || memchr(challenge, '\0', size) || size > 8192)
    return wrong(error, EML_ERROR_PROTOCOL, "the server's SCRAM challenge is wrong");
  g_autofree char *text = g_strndup(challenge, size);
  g_auto(GStrv) parts = g_strsplit(text, ",", -1);

  if (sasl->step == 3) {
    const char *refused = attribute(parts[0], 'e');
    if (refused) {
      g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "the server refused the login: %.100s",
                  refused);
      return NULL;
    }
    const char *verifier = attribute(parts[0], 'v');
    gsize length = 0;
    g_autofree guchar *signature = verifier ? g_base64_decode(verifier, &length) : NULL;
    if (length != DIGEST || CRYPTO_memcmp(signature, sasl->server_signature, DIGEST) != 0)
      return wrong(error, EML_ERROR_AUTH,
                   "the server could not prove that it knows the password: it may not be the "
                   "right one");
    sasl->complete = TRUE;
    *size_out = 0;
    return g_strdup("");
  }

  const char *nonce = attribute(parts[0], 'r');
  const char *salt_text = nonce ? attribute(parts[1], 's') : NULL;
  const char *count = salt_text ? attribute(parts[2], 'i') : NULL;
  guint64 iterations;
  if (!count || !g_str_has_prefix(nonce, sasl->nonce) || strlen(nonce) <= strlen(sasl->nonce) ||
      !g_ascii_string_to_unsigned(count, 10, 1, G_MAXUINT32, &iterations, NULL))
    return wrong(error, EML_ERROR_PROTOCOL, "the server's SCRAM challenge is wrong");
  if (iterations < ITERATIONS_MIN || iterations > ITERATIONS_MAX) {
    g_set_error(error, EML_ERROR, EML_ERROR_PROTOCOL,
                "the server wants %" G_GUINT64_FORMAT " rounds of SCRAM: %d to %d are acceptable",
                iterations, ITERATIONS_MIN, ITERATIONS_MAX);
    return NULL;
  }
  gsize salt_size = 0;
  g_autofree guchar *salt = g_base64_decode(salt_text, &salt_size);
  if (salt_size == 0 || salt_size > SALT_MAX)
    return wrong(error, EML_ERROR_PROTOCOL, "the server's SCRAM salt is wrong");
  return scram_final(sasl, text, nonce, salt, salt_size, iterations, size_out, error);
}

/* Best first. */
static const Mechanism mechanisms[] = {
    {"OAUTHBEARER", TRUE, TRUE, oauthbearer_step},
    {"XOAUTH2", TRUE, TRUE, xoauth2_step},
    {"SCRAM-SHA-256", TRUE, FALSE, scram_step},
    {"PLAIN", TRUE, FALSE, plain_step},
    {"LOGIN", FALSE, FALSE, login_step},
};

static gboolean is_offered(const char *const *offered, const char *name) {
  for (; *offered; offered++)
    if (g_ascii_strcasecmp(*offered, name) == 0)
      return TRUE;
  return FALSE;
}

Sasl *sasl_new(const char *const *offered, const SaslLogin *login, GError **error) {
  const Mechanism *found = NULL;
  for (gsize i = 0; i < G_N_ELEMENTS(mechanisms) && !found; i++)
    if (mechanisms[i].token == (login->token != NULL) && is_offered(offered, mechanisms[i].name))
      found = &mechanisms[i];
  Secret *secret = login->token ? login->token : login->password;
  if (!found || !secret) {
    g_autofree char *list = g_strjoinv(" ", (char **) offered);
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH,
                "the server takes no login with a %s that we know; it offers: %s",
                login->token ? "token" : "password", *list ? list : "nothing");
    return NULL;
  }
  Sasl *sasl = g_new0(Sasl, 1);
  sasl->mechanism = found;
  sasl->user = g_strdup(login->user);
  sasl->host = g_strdup(login->host ? login->host : "");
  sasl->port = login->port;
  sasl->secret = secret_ref(secret);
  return sasl;
}

void sasl_free(Sasl *sasl) {
  if (!sasl)
    return;
  secret_unref(sasl->secret);
  secret_wipe(sasl->server_signature, sizeof sasl->server_signature);
  g_free(sasl->user);
  g_free(sasl->host);
  g_free(sasl->nonce);
  g_free(sasl->client_first_bare);
  g_free(sasl);
}

const char *sasl_mechanism(const Sasl *sasl) {
  return sasl->mechanism->name;
}

gboolean sasl_client_first(const Sasl *sasl) {
  return sasl->mechanism->client_first;
}

char *sasl_step(Sasl *sasl, const char *challenge, gsize size, gsize *size_out, GError **error) {
  *size_out = 0;
  sasl->step++;
  return sasl->mechanism->step(sasl, challenge, size, size_out, error);
}

gboolean sasl_complete(const Sasl *sasl) {
  return sasl->complete;
}

void sasl_set_nonce(Sasl *sasl, const char *nonce) {
  g_free(sasl->nonce);
  sasl->nonce = g_strdup(nonce);
}
