/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What session.c (the engine: sending, reading, results), upload.c (sending files), login.c (from
 * connect to ready), change.c (verbs that change something) and watch.c (IDLE, NOTIFY) share. One
 * thread each session, so there are no locks.
 */
#pragma once

#include "base/err.h"
#include "imap/change.h"
#include "imap/command.h"
#include "imap/response.h"

/* A command with files that is being sent, see upload.c. */
typedef struct Upload Upload;

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
  guint64 progress;  /* stream_progress when the deadline was set */
  Upload *upload;    /* reading goes on sending it; NULL: none */
  /* Sees untagged status responses while a command is under way whose results come in them. */
  void (*listener)(const Response *response, gpointer data);
  gpointer listener_data;

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
/* Numbers a command whose writing begins now. */
ImapTag session_enlist(ImapSession *session, const char *verb);
/* Reads until the server asks for the rest of @tag by "+"; *@go_out is FALSE when it ended the
 * command instead. */
gboolean session_await_go(ImapSession *session, ImapTag tag, gboolean *go_out, GError **error);
/* session_send of a @command with @count files (command_file), which are the octets of @messages.
 * What the server says meanwhile is read and handled. @messages[0].sent hears of the octets of all
 * together. *@unread_out (or NULL): which of the files could not be read, and ended the session;
 * @count: none. */
ImapTag session_send_files(ImapSession *session, Command *command, const ImapMessage *messages,
                           gsize count, gsize *unread_out, GError **error);
/* session_send and imap_wait. Takes @command over. */
gboolean session_run(ImapSession *session, Command *command, GError **error);
/* Writes octets outside of any command (a SASL response, DONE) and flushes. */
gboolean session_write(ImapSession *session, const char *data, gsize size, GError **error);

/* Reads one response and files it. Strings in @response_out are valid until the next call. */
gboolean session_step(ImapSession *session, Response *response_out, GError **error);
/* imap_wait that also tells the response code and its arguments, of a refusal as well; free both,
 * NULL without an answer. Only the arguments of codes that change.c asks for are kept, else "". */
gboolean session_wait(ImapSession *session, ImapTag tag, char **code_out, char **arguments_out,
                      GError **error);
/* Not every server says [NONEXISTENT] or [ALREADYEXISTS] when it refuses something: whether @mailbox
 * is there tells LIST. Turns the REFUSED of @error into @there or @absent. */
void session_explain(ImapSession *session, const char *mailbox, EmlError there, EmlError absent,
                     GError **error);
/* Runs @command, a SEARCH (taken over), with at most @max results, and appends them to @uids_out,
 * ascending, each once. */
gboolean session_search(ImapSession *session, Command *command, gsize max, GArray *uids_out,
                        GError **error);
/* Sets the stream's deadline anew. */
void session_arm_deadline(ImapSession *session);
/* After a wait that ended with TIMEOUT: whether there was no silence after all, because much of
 * what we wrote has left since the deadline was set. Then waiting may go on. */
gboolean session_still_moving(ImapSession *session);
/* Whether the command @tag was answered; then imap_wait does not wait. */
gboolean session_is_done(const ImapSession *session, ImapTag tag);
/* Waits for all that is in flight; outcomes stay for imap_wait. */
gboolean session_drain(ImapSession *session, GError **error);

/* upload.c: sends what it can of session->upload until something can be read. */
gboolean upload_until_readable(ImapSession *session, GError **error);

/* login.c: from a fresh session to one that is ready. */
gboolean session_login(ImapSession *session, GError **error);
