/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What session.c (the engine: sending, reading, results), login.c (from connect to ready) and
 * watch.c (IDLE, NOTIFY) share. One thread each session, so there are no locks.
 */
#pragma once

#include "imap/command.h"
#include "imap/response.h"
#include "imap/session.h"

struct ImapSession {
  /* Configuration, copied. */
  char *host, *ca_file, *user;
  StreamEndpoint endpoint; /* points at the strings above */
  ImapSecretFn secret;
  gpointer secret_data;
  gboolean compress;
  gint64 login_ms, response_ms;

  GCancellable *cancellable;
  Stream *stream;
  Token *token;
  ResponseReader *reader;
  gint64 login_deadline; /* DEADLINE_NEVER once logged in */
  GError *failure;       /* what killed the session */

  const ImapHandler *handler;
  gpointer handler_data;

  guint32 last_tag;
  GArray *in_flight; /* Flight, in the order they were sent */
  GHashTable *done;  /* tag → Outcome */
  guint64 said;      /* untagged data so far */

  guint caps; /* as the owner may rely on them */
  char *server, *prefix;
  char delimiter;
  char *selected;
};

/* Ends the session with @failure (taken over) and hands a copy to @error. Always FALSE. */
gboolean session_die(ImapSession *session, GError *failure, GError **error);
/* FALSE with @error when the session is dead. */
gboolean session_check(const ImapSession *session, GError **error);

/* A command with what the server takes as literals. */
Command *session_command(const ImapSession *session, const char *verb);
/* Writes @command, waiting for each "+" that its literals need. With @flush it leaves at once, else
 * with the next one that does. When the server refuses a literal, the outcome is there for
 * imap_wait. */
ImapTag session_send(ImapSession *session, Command *command, gboolean flush, GError **error);
/* session_send and imap_wait. Takes @command over. */
gboolean session_run(ImapSession *session, Command *command, GError **error);
/* Writes octets outside of any command (a SASL response, DONE) and flushes. */
gboolean session_write(ImapSession *session, const char *data, gsize size, GError **error);

/* Reads one response and files it. Strings in @response_out are valid until the next call. */
gboolean session_step(ImapSession *session, Response *response_out, GError **error);
/* Whether the command @tag was answered; then imap_wait does not wait. */
gboolean session_is_done(const ImapSession *session, ImapTag tag);
/* Waits for all that is in flight; outcomes stay for imap_wait. */
gboolean session_drain(ImapSession *session, GError **error);

/* login.c: from a fresh session to one that is ready. */
gboolean session_login(ImapSession *session, GError **error);
