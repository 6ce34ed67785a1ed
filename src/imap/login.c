/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * From a connection to a session that is ready:
 *
 *   greeting → [STARTTLS] → CAPABILITY → AUTHENTICATE or LOGIN → CAPABILITY
 *            → ID, NAMESPACE, ENABLE, COMPRESS in one go
 *
 * Nothing that was said before TLS is believed after it, and nothing is authenticated before it.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "imap/session-internal.h"
#include "net/sasl.h"

#define CHECK_PASSWORD                                                                            \
  "check: the full address as user name; a device password, not the provider account's password"
#define CHECK_TOKEN "check: the full address as user name; that the token allows IMAP"

static gboolean die(ImapSession *session, EmlError code, GError **error, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
static gboolean die(ImapSession *session, EmlError code, GError **error, const char *format, ...) {
  va_list args;
  va_start(args, format);
  GError *failure = g_error_new_valist(EML_ERROR, code, format, args);
  va_end(args);
  return session_die(session, failure, error);
}

/* Reads the greeting. *@ready_out: PREAUTH, no login needed. */
static gboolean greeting(ImapSession *session, gboolean *ready_out, GError **error) {
  Response response;
  g_autoptr(GError) failure = NULL;
  if (!session_step(session, &response, &failure)) {
    if (failure->code == EML_ERROR_PROTOCOL)
      g_prefix_error(&failure, "%s:%u does not greet like an IMAP server: ", session->host,
                     session->endpoint.port);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
  }
  if (response.kind != RESPONSE_STATUS ||
      (response.condition != CONDITION_OK && response.condition != CONDITION_PREAUTH))
    return die(session, EML_ERROR_PROTOCOL, error, "%s:%u does not greet like an IMAP server",
               session->host, session->endpoint.port);
  *ready_out = response.condition == CONDITION_PREAUTH;
  if (*response.text) {
    g_free(session->server);
    session->server = g_strdup(response.text);
    char *end = strstr(session->server, ". "); /* a copyright may follow */
    if (end)
      *end = '\0';
  }
  return TRUE;
}

static gboolean ask_caps(ImapSession *session, GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  if (facts->caps_known)
    return TRUE;
  if (!session_run(session, session_command(session, "CAPABILITY"), error))
    return FALSE;
  return facts->caps_known || die(session, EML_ERROR_PROTOCOL, error,
                                  "%s does not say what it can do", session->host);
}

static gboolean start_tls(ImapSession *session, gboolean preauth, GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  if (preauth)
    return die(session, EML_ERROR_TLS, error,
               "%s:%u skips the login and with it STARTTLS: nothing would be encrypted; somebody "
               "may be in between", session->host, session->endpoint.port);
  if (!ask_caps(session, error))
    return FALSE;
  if (!facts->starttls)
    return die(session, EML_ERROR_TLS, error,
               "%s:%u does not offer STARTTLS, so nothing would be encrypted: use port 993 "
               "(imaps), or somebody may be in between", session->host, session->endpoint.port);
  g_autoptr(GError) refused = NULL;
  if (!session_run(session, session_command(session, "STARTTLS"), &refused)) {
    if (!session->failure)
      return die(session, EML_ERROR_TLS, error, "%s", refused->message);
    g_propagate_error(error, g_steal_pointer(&refused));
    return FALSE;
  }
  if (token_buffered(session->token) > 0)
    return die(session, EML_ERROR_PROTOCOL, error,
               "%s sent bytes between STARTTLS and TLS: somebody may be in between",
               session->host);
  GError *failure = NULL;
  stream_set_deadline(session->stream, session->login_deadline);
  if (!stream_start_tls(session->stream, &failure))
    return session_die(session, failure, error);
  response_forget_caps(session->reader);
  return TRUE;
}

/* Base64 of a SASL response plus CRLF, or after a space with "=" for the empty one. */
static char *encode_response(char *response, gsize size, gboolean initial) {
  char *encoded = g_base64_encode((const guchar *) response, size);
  char *line = initial ? g_strconcat(" ", size ? encoded : "=", NULL)
                       : g_strconcat(encoded, "\r\n", NULL);
  secret_wipe(encoded, strlen(encoded));
  secret_wipe(response, size);
  g_free(encoded);
  g_free(response);
  return line;
}

/* One exchange. TRUE: the command is done, its outcome waits under *@tag_out. */
static gboolean authenticate(ImapSession *session, Sasl *sasl, gboolean initial_response,
                             ImapTag *tag_out, GError **error) {
  GError *failure = NULL;
  gsize size;
  gboolean speak_first = sasl_client_first(sasl);
  g_autoptr(Command) command = session_command(session, "AUTHENTICATE");
  command_raw(command, sasl_mechanism(sasl));
  if (speak_first && initial_response) {
    char *response = sasl_step(sasl, NULL, 0, &size, &failure);
    if (!response)
      return session_die(session, failure, error);
    char *line = encode_response(response, size, TRUE);
    command_glue(command, line);
    secret_wipe(line, strlen(line));
    g_free(line);
    speak_first = FALSE;
  }
  response_forget_caps(session->reader);
  *tag_out = session_send(session, command, TRUE, error);
  if (!*tag_out)
    return FALSE;
  while (!session_is_done(session, *tag_out)) {
    Response reply;
    if (!session_step(session, &reply, error))
      return FALSE;
    if (reply.kind != RESPONSE_CONTINUE)
      continue;
    gsize challenge_size = 0;
    g_autofree guchar *challenge = g_base64_decode(reply.text, &challenge_size);
    char *response =
        speak_first
            ? sasl_step(sasl, NULL, 0, &size, &failure)
            : sasl_step(sasl, challenge ? (const char *) challenge : "", challenge_size, &size,
                        &failure);
    speak_first = FALSE;
    if (!response)
      return session_die(session, failure, error);
    char *line = encode_response(response, size, FALSE);
    gboolean sent = session_write(session, line, strlen(line), error);
    secret_wipe(line, strlen(line));
    g_free(line);
    if (!sent)
      return FALSE;
  }
  return TRUE;
}

/* What the server offered before login; the login itself makes us forget it. */
typedef struct {
  char **mechanisms;
  gboolean initial_response, login_disabled;
} Offer;

/* One try with @secret. */
static gboolean log_in_with(ImapSession *session, const Offer *offer, Secret *secret,
                            gboolean is_token, GError **error) {
  SaslLogin login = {.user = session->user,
                     .host = session->host,
                     .port = session->endpoint.port,
                     .password = is_token ? NULL : secret,
                     .token = is_token ? secret : NULL};
  g_autoptr(GError) refused = NULL;
  g_autoptr(Sasl) sasl =
      sasl_new((const char *const *) offer->mechanisms, &login, &refused);
  ImapTag tag = 0;
  if (sasl) {
    if (!authenticate(session, sasl, offer->initial_response, &tag, error))
      return FALSE;
  } else if (is_token || offer->login_disabled) {
    return die(session, EML_ERROR_AUTH, error, "%s: %s", session->host, refused->message);
  } else {
    g_clear_error(&refused);
    g_autoptr(Command) command = session_command(session, "LOGIN");
    command_string(command, session->user);
    command_string(command, secret_text(secret));
    response_forget_caps(session->reader);
    tag = session_send(session, command, TRUE, error);
    if (!tag)
      return FALSE;
  }
  if (imap_wait(session, tag, &refused)) {
    if (!sasl || sasl_complete(sasl))
      return TRUE;
    return die(session, EML_ERROR_AUTH, error,
               "%s let us in without proving that it knows the password: it may not be the right "
               "one", session->host);
  }
  g_propagate_error(error, g_steal_pointer(&refused));
  return FALSE;
}

/* Takes SCRAM out of @mechanisms. TRUE when it was there and the password can be sent as it is. */
static gboolean drop_scram(char **mechanisms) {
  gboolean had = FALSE, other = FALSE;
  char **kept = mechanisms;
  for (char **name = mechanisms; *name; name++) {
    if (g_ascii_strcasecmp(*name, "SCRAM-SHA-256") == 0) {
      had = TRUE;
      g_free(*name);
      continue;
    }
    if (g_ascii_strcasecmp(*name, "PLAIN") == 0 || g_ascii_strcasecmp(*name, "LOGIN") == 0)
      other = TRUE;
    *kept++ = *name;
  }
  *kept = NULL;
  return had && other;
}

/* A refused login is tried once more where that may help: with a fresh token, or, since a server
 * that keeps a password hashed in another way offers SCRAM in vain, with PLAIN. */
static gboolean log_in(ImapSession *session, GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  g_auto(GStrv) mechanisms = g_strdupv((char **) facts->mechanisms->pdata);
  Offer offer = {mechanisms, (facts->caps & IMAP_CAP_SASL_IR) != 0, facts->login_disabled};
  g_autoptr(Secret) secret = NULL;
  gboolean again = FALSE, is_token = FALSE;
  for (;;) {
    GError *failure = NULL;
    if (!secret)
      secret = session->secret(again, &is_token, session->secret_data, &failure);
    if (!secret)
      return session_die(session, failure, error);
    g_autoptr(GError) refused = NULL;
    if (log_in_with(session, &offer, secret, is_token, &refused))
      return TRUE;
    if (session->failure) {
      g_propagate_error(error, g_steal_pointer(&refused));
      return FALSE;
    }
    if (refused->code == EML_ERROR_BUSY) /* not the password's fault; later it may work */
      return die(session, EML_ERROR_OFFLINE, error, "%s", refused->message);
    if (is_token && !again) {
      again = TRUE;
      g_clear_pointer(&secret, secret_unref);
      continue;
    }
    if (!is_token && drop_scram(mechanisms))
      continue;
    return die(session, EML_ERROR_AUTH, error, "%s; %s", refused->message,
               is_token ? CHECK_TOKEN : CHECK_PASSWORD);
  }
}

/* Waits for a command whose refusal changes nothing. *@ok_out: it was not refused. */
static gboolean settle(ImapSession *session, ImapTag tag, gboolean *ok_out, GError **error) {
  g_autoptr(GError) refused = NULL;
  *ok_out = tag && imap_wait(session, tag, &refused);
  if (session->failure)
    return session_check(session, error);
  if (refused)
    log_info("%s", refused->message);
  return TRUE;
}

static ImapTag send_raw(ImapSession *session, const char *verb, const char *arguments,
                        GError **error) {
  g_autoptr(Command) command = session_command(session, verb);
  if (arguments)
    command_raw(command, arguments);
  return session_send(session, command, FALSE, error);
}

/* ID, NAMESPACE, ENABLE and COMPRESS travel together; COMPRESS is the last, since nothing may be
 * sent between it and its OK. */
static gboolean introduce(ImapSession *session, GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  guint caps = facts->caps;
  ImapTag id = 0, namespaces = 0, enable = 0, compress = 0;
  if (caps & IMAP_CAP_ID)
    id = send_raw(session, "ID",
                  "(\"name\" \"emlfs\" \"version\" \"" EMLFS_VERSION "\")", NULL);
  if (caps & IMAP_CAP_NAMESPACE)
    namespaces = send_raw(session, "NAMESPACE", NULL, NULL);
  if (caps & IMAP_CAP_ENABLE && caps & IMAP_CAP_CONDSTORE)
    enable = send_raw(session, "ENABLE", caps & IMAP_CAP_QRESYNC ? "QRESYNC" : "CONDSTORE", NULL);
  if (session->compress && caps & IMAP_CAP_COMPRESS_DEFLATE)
    compress = send_raw(session, "COMPRESS", "DEFLATE", NULL);
  gboolean ok, compressed;
  if (!session_write(session, "", 0, error) || !settle(session, id, &ok, error) ||
      !settle(session, namespaces, &ok, error) || !settle(session, enable, &ok, error) ||
      !settle(session, compress, &compressed, error))
    return FALSE;
  if (compressed) {
    gsize size;
    const void *early = token_take_buffered(session->token, &size);
    stream_unread(session->stream, early, size);
    GError *failure = NULL;
    if (!stream_start_deflate(session->stream, &failure))
      return session_die(session, failure, error);
  }
  /* QRESYNC holds only once it is enabled. */
  if (!(facts->enabled & IMAP_CAP_QRESYNC))
    caps &= ~(guint) IMAP_CAP_QRESYNC;
  session->caps = caps;
  if (facts->server) {
    g_free(session->server);
    session->server = g_strdup(facts->server);
  }
  if (facts->prefix) {
    g_free(session->prefix);
    session->prefix = g_strdup(facts->prefix);
    session->delimiter = facts->delimiter;
  }
  return TRUE;
}

gboolean session_login(ImapSession *session, GError **error) {
  gboolean ready = FALSE;
  if (!greeting(session, &ready, error))
    return FALSE;
  if (session->endpoint.security == STREAM_STARTTLS && !start_tls(session, ready, error))
    return FALSE;
  g_assert(stream_is_tls(session->stream)); /* no login in clear text, whatever happens above */
  if (!ready && (!ask_caps(session, error) || !log_in(session, error)))
    return FALSE;
  return ask_caps(session, error) && introduce(session, error);
}
