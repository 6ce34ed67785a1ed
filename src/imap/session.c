/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The engine of a session. Commands are numbered and written; whoever waits reads responses, one
 * at a time, through session_step: data goes to the handler, a tagged response becomes the
 * Outcome of its command and stays until somebody waits for that command. So any number of
 * commands can be in flight, and complete in any order.
 *
 * Time: every read from the stream may take response_ms. A transfer that flows has no limit; a
 * silence has. A large message is long in the kernel's buffer when we have written it all and wait
 * for the answer, so what leaves from there counts as well. During login there is a total, too.
 */
#include <string.h>

#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "imap/session-internal.h"

#define FOUND_SLACK 10000 /* messages that may arrive while we search */
#define LOGOUT_MS 100
#define MOVED_MIN (16 * 1024) /* commands are shorter; a message that leaves moves more */

typedef struct {
  ImapTag tag;
  char *verb;
} Flight;

typedef struct {
  Condition condition;
  char *verb, *code, *arguments, *text;
} Outcome;

static void clear_flight(gpointer data) {
  g_free(((Flight *) data)->verb);
}

static void free_outcome(gpointer data) {
  Outcome *outcome = data;
  g_free(outcome->verb);
  g_free(outcome->code);
  g_free(outcome->arguments);
  g_free(outcome->text);
  g_free(outcome);
}

void session_arm_deadline(ImapSession *session) {
  gint64 silence = deadline_in_ms(session->response_ms);
  session->progress = stream_progress(session->stream);
  stream_set_deadline(session->stream, MIN(silence, session->login_deadline));
}

gboolean session_still_moving(ImapSession *session) {
  return stream_progress(session->stream) >= session->progress + MOVED_MIN &&
         g_get_monotonic_time() < session->login_deadline;
}

static gsize read_source(gpointer data, void *buffer, gsize size, GError **error) {
  ImapSession *session = data;
  if (session->upload && !upload_until_readable(session, error))
    return 0;
  for (;;) {
    GError *failure = NULL;
    session_arm_deadline(session);
    gsize got = stream_read(session->stream, buffer, size, &failure);
    if (got > 0)
      return got;
    if (!g_error_matches(failure, EML_ERROR, EML_ERROR_TIMEOUT) ||
        !session_still_moving(session)) {
      g_propagate_error(error, failure);
      return 0;
    }
    g_error_free(failure);
  }
}

ImapSession *imap_session_open(const ImapConfig *config, GCancellable *cancellable,
                               GError **error) {
  ImapSession *session = g_new0(ImapSession, 1);
  session->host = g_strdup(config->endpoint.host);
  session->ca_file = g_strdup(config->endpoint.ca_file);
  session->user = g_strdup(config->user);
  session->endpoint = config->endpoint;
  session->endpoint.host = session->host;
  session->endpoint.ca_file = session->ca_file;
  session->secret = config->secret;
  session->secret_data = config->secret_data;
  session->compress = config->compress;
  session->login_ms = config->login_ms;
  session->response_ms = config->response_ms;
  session->cancellable = cancellable ? g_object_ref(cancellable) : NULL;
  session->login_deadline = deadline_in_ms(config->login_ms);
  session->in_flight = g_array_new(FALSE, FALSE, sizeof(Flight));
  g_array_set_clear_func(session->in_flight, clear_flight);
  session->done = g_hash_table_new_full(NULL, NULL, NULL, free_outcome);
  session->token = token_new(read_source, session);
  session->reader = response_reader_new(session->token);
  session->server = g_strdup(session->host);
  session->prefix = g_strdup("");

  session->stream =
      stream_open(&session->endpoint, session->login_deadline, cancellable, error);
  if (!session->stream || !session_login(session, error)) {
    imap_session_close(&session);
    return NULL;
  }
  session->login_deadline = DEADLINE_NEVER;
  return session;
}

void imap_session_close(ImapSession **session_ref) {
  ImapSession *session = *session_ref;
  *session_ref = NULL;
  if (!session)
    return;
  if (session->stream && !session->failure) {
    static const char logout[] = "A0 LOGOUT\r\n";
    stream_set_deadline(session->stream, deadline_in_ms(LOGOUT_MS));
    if (stream_write(session->stream, logout, sizeof logout - 1, NULL))
      stream_flush(session->stream, NULL);
  }
  response_reader_free(session->reader);
  token_free(session->token);
  stream_close(&session->stream);
  g_array_unref(session->in_flight);
  g_hash_table_unref(session->done);
  g_clear_error(&session->failure);
  g_clear_object(&session->cancellable);
  g_free(session->host);
  g_free(session->ca_file);
  g_free(session->user);
  g_free(session->server);
  g_free(session->prefix);
  g_free(session->selected);
  g_free(session);
}

gboolean session_die(ImapSession *session, GError *failure, GError **error) {
  if (session->failure)
    g_error_free(failure);
  else
    session->failure = failure;
  return session_check(session, error);
}

gboolean session_check(const ImapSession *session, GError **error) {
  if (!session->failure)
    return TRUE;
  g_propagate_error(error, g_error_copy(session->failure));
  return FALSE;
}

Command *session_command(const ImapSession *session, const char *verb) {
  const ResponseFacts *facts = response_facts(session->reader);
  CommandLiterals literals = facts->caps & IMAP_CAP_LITERAL_PLUS ? COMMAND_LITERAL_PLUS
                             : facts->literal_minus              ? COMMAND_LITERAL_MINUS
                                                                 : COMMAND_LITERAL_SYNC;
  return command_new(literals, verb);
}

static gboolean write_octets(ImapSession *session, const char *data, gsize size, gboolean flush,
                             GError **error) {
  GError *failure = NULL;
  session_arm_deadline(session);
  if (stream_write(session->stream, data, size, &failure) &&
      (!flush || stream_flush(session->stream, &failure)))
    return TRUE;
  return session_die(session, failure, error);
}

gboolean session_write(ImapSession *session, const char *data, gsize size, GError **error) {
  return session_check(session, error) && write_octets(session, data, size, TRUE, error);
}

ImapTag session_enlist(ImapSession *session, const char *verb) {
  Flight flight = {++session->last_tag, g_strdup(verb)};
  g_array_append_val(session->in_flight, flight);
  return flight.tag;
}

gboolean session_await_go(ImapSession *session, ImapTag tag, gboolean *go_out, GError **error) {
  *go_out = FALSE;
  while (!*go_out && !session_is_done(session, tag)) {
    Response response;
    if (!session_step(session, &response, error))
      return FALSE;
    *go_out = response.kind == RESPONSE_CONTINUE;
  }
  return TRUE;
}

ImapTag session_send(ImapSession *session, Command *command, gboolean flush, GError **error) {
  if (!session_check(session, error) || !command_check(command, error))
    return 0;
  ImapTag tag = session_enlist(session, command_verb(command));
  char start[16];
  g_snprintf(start, sizeof start, "A%u ", tag);
  if (!write_octets(session, start, strlen(start), FALSE, error))
    return 0;
  gsize size = 0, next_size = 0;
  const char *part = command_part(command, 0, &size);
  for (guint i = 1; part; i++, size = next_size) {
    const char *next = command_part(command, i, &next_size);
    if (!write_octets(session, part, size, next || flush, error))
      return 0;
    part = next;
    gboolean go = TRUE;
    if (part && !session_await_go(session, tag, &go, error))
      return 0;
    if (!go)
      break; /* refused before all of it was sent */
  }
  return tag;
}

gboolean session_run(ImapSession *session, Command *command, GError **error) {
  ImapTag tag = session_send(session, command, TRUE, error);
  command_free(command);
  return tag && imap_wait(session, tag, error);
}

/* Codes whose arguments somebody asks for. */
static gboolean tells_more(const char *code) {
  return g_str_equal(code, "APPENDUID") || g_str_equal(code, "COPYUID") ||
         g_str_equal(code, "MODIFIED");
}

/* Files a tagged response under its command. */
static gboolean complete(ImapSession *session, const Response *response, GError **error) {
  for (guint i = 0; i < session->in_flight->len; i++) {
    Flight *flight = &g_array_index(session->in_flight, Flight, i);
    if (flight->tag != response->tag)
      continue;
    Outcome *outcome = g_new0(Outcome, 1);
    outcome->condition = response->condition;
    outcome->verb = g_steal_pointer(&flight->verb);
    outcome->code = g_strdup(response->code);
    outcome->arguments = g_strdup(tells_more(response->code) ? response->arguments : "");
    outcome->text = g_strdup(response->text);
    g_hash_table_insert(session->done, GUINT_TO_POINTER(response->tag), outcome);
    g_array_remove_index(session->in_flight, i);
    return TRUE;
  }
  return session_die(session,
                     g_error_new(EML_ERROR, EML_ERROR_PROTOCOL,
                                 "the server answered a command that was not sent"),
                     error);
}

gboolean session_step(ImapSession *session, Response *response_out, GError **error) {
  if (!session_check(session, error))
    return FALSE;
  if (!response_read(session->reader, response_out))
    return session_die(session, g_error_copy(token_error(session->token)), error);
  switch (response_out->kind) {
  case RESPONSE_TAGGED:
    return complete(session, response_out, error);
  case RESPONSE_DATA:
    session->said++;
    return TRUE;
  case RESPONSE_CONTINUE:
    return TRUE;
  case RESPONSE_STATUS:
    if (g_str_equal(response_out->code, "ALERT"))
      log_warning("%s says: %s", session->host, response_out->text);
    else if (response_out->condition == CONDITION_NO || response_out->condition == CONDITION_BAD)
      log_info("%s says: %s", session->host, response_out->text);
    if (g_str_equal(response_out->code, "NOTIFICATIONOVERFLOW"))
      session->said++;
    if (session->listener)
      session->listener(response_out, session->listener_data);
    if (response_out->condition != CONDITION_BYE)
      return TRUE;
    /* RFC 7888, 4: this way a literal is refused that came unasked. Later it is no smaller. */
    return session_die(session,
                       g_error_new(EML_ERROR,
                                   g_str_equal(response_out->code, "TOOBIG") ? EML_ERROR_TOO_BIG
                                                                             : EML_ERROR_OFFLINE,
                                   "%s ended the connection: %s", session->host,
                                   *response_out->text ? response_out->text : "BYE"),
                       error);
  }
  return TRUE;
}

gboolean session_is_done(const ImapSession *session, ImapTag tag) {
  return g_hash_table_contains(session->done, GUINT_TO_POINTER(tag));
}

static gboolean is_in_flight(const ImapSession *session, ImapTag tag) {
  for (guint i = 0; i < session->in_flight->len; i++)
    if (g_array_index(session->in_flight, Flight, i).tag == tag)
      return TRUE;
  return FALSE;
}

gboolean session_drain(ImapSession *session, GError **error) {
  Response response;
  if (!session_check(session, error))
    return FALSE;
  while (session->in_flight->len > 0)
    if (!session_step(session, &response, error))
      return FALSE;
  return TRUE;
}

/* Which error a NO is. All but these are REFUSED. */
static const struct {
  const char *code;
  EmlError error;
} refusals[] = {
    {"NONEXISTENT", EML_ERROR_NOT_FOUND},       {"TRYCREATE", EML_ERROR_NOT_FOUND},
    {"OVERQUOTA", EML_ERROR_QUOTA},             {"INUSE", EML_ERROR_BUSY},
    {"UNAVAILABLE", EML_ERROR_BUSY},            {"ALREADYEXISTS", EML_ERROR_EXISTS},
    {"HASCHILDREN", EML_ERROR_EXISTS},          {"CANNOT", EML_ERROR_INVALID},
    {"TOOBIG", EML_ERROR_TOO_BIG},              {"LIMIT", EML_ERROR_TOO_BIG},
    {"AUTHENTICATIONFAILED", EML_ERROR_AUTH},   {"AUTHORIZATIONFAILED", EML_ERROR_AUTH},
};

/* The same for texts without a code, by their beginnings: Cyrus and Courier have few codes. */
static const struct {
  const char *text;
  EmlError error;
} refusal_texts[] = {
    {"Over quota", EML_ERROR_QUOTA},
    {"You exceeded your mail quota", EML_ERROR_QUOTA},
    {"Invalid mailbox name", EML_ERROR_INVALID},
};

static EmlError refusal_of(const Outcome *outcome) {
  for (gsize i = 0; i < G_N_ELEMENTS(refusals); i++)
    if (g_str_equal(outcome->code, refusals[i].code))
      return refusals[i].error;
  gboolean uncoded = !*outcome->code || g_str_equal(outcome->code, "ALERT");
  for (gsize i = 0; i < G_N_ELEMENTS(refusal_texts) && uncoded; i++)
    if (g_ascii_strncasecmp(outcome->text, refusal_texts[i].text,
                            strlen(refusal_texts[i].text)) == 0)
      return refusal_texts[i].error;
  return EML_ERROR_REFUSED;
}

gboolean imap_wait(ImapSession *session, ImapTag tag, GError **error) {
  return session_wait(session, tag, NULL, NULL, error);
}

gboolean session_wait(ImapSession *session, ImapTag tag, char **code_out, char **arguments_out,
                      GError **error) {
  while (!session_is_done(session, tag)) {
    Response response;
    if (!session_check(session, error))
      return FALSE;
    if (!is_in_flight(session, tag)) {
      g_set_error(error, EML_ERROR, EML_ERROR_FAILED, "there is no command %u to wait for", tag);
      return FALSE;
    }
    if (!session_step(session, &response, error))
      return FALSE;
  }
  Outcome *outcome = g_hash_table_lookup(session->done, GUINT_TO_POINTER(tag));
  gboolean ok = outcome->condition == CONDITION_OK;
  if (code_out)
    *code_out = g_strdup(outcome->code);
  if (arguments_out)
    *arguments_out = g_strdup(outcome->arguments);
  if (!ok) {
    gboolean login =
        g_str_equal(outcome->verb, "AUTHENTICATE") || g_str_equal(outcome->verb, "LOGIN");
    g_set_error(error, EML_ERROR, refusal_of(outcome), "%s %s %s: %s", session->host,
                outcome->condition == CONDITION_NO ? "refused" : "did not understand",
                login ? "the login" : outcome->verb, *outcome->text ? outcome->text : "no reason given");
  }
  g_hash_table_remove(session->done, GUINT_TO_POINTER(tag));
  return ok;
}

guint imap_in_flight(const ImapSession *session) {
  return session->in_flight->len;
}

guint imap_session_caps(const ImapSession *session) {
  return session->caps;
}

const char *imap_session_caps_text(const ImapSession *session) {
  const char *text = response_facts(session->reader)->caps_text;
  return text ? text : "";
}

const char *imap_session_server(const ImapSession *session) {
  return session->server;
}

const char *imap_session_prefix(const ImapSession *session, char *delimiter_out) {
  if (delimiter_out)
    *delimiter_out = session->delimiter;
  return session->prefix;
}

guint64 imap_session_append_limit(const ImapSession *session) {
  return response_facts(session->reader)->append_limit;
}

guint64 imap_session_wire_bytes(const ImapSession *session) {
  return stream_wire_bytes(session->stream);
}

gint64 imap_session_waited_us(const ImapSession *session) {
  return stream_waited_us(session->stream);
}

gboolean imap_session_compressed(const ImapSession *session) {
  return stream_is_deflating(session->stream);
}

gboolean imap_session_alive(const ImapSession *session) {
  return session->failure == NULL;
}

const char *imap_session_selected(const ImapSession *session) {
  return session->selected;
}

guint32 imap_session_uidvalidity(const ImapSession *session) {
  return session->selected ? response_facts(session->reader)->selected.uidvalidity : 0;
}

void imap_session_set_handler(ImapSession *session, const ImapHandler *handler, gpointer data) {
  session->handler = handler;
  session->handler_data = data;
  response_set_handler(session->reader, handler, data);
}

/* The STATUS items that this server knows. */
static const char *status_items(const ImapSession *session) {
  return session->caps & IMAP_CAP_CONDSTORE
             ? "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)"
             : "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)";
}

gboolean imap_list(ImapSession *session, GError **error) {
  if (session->caps & IMAP_CAP_LIST_EXTENDED) {
    g_autoptr(GString) options = g_string_new("RETURN (SUBSCRIBED");
    if (session->caps & IMAP_CAP_SPECIAL_USE)
      g_string_append(options, " SPECIAL-USE");
    if (session->caps & IMAP_CAP_LIST_STATUS)
      g_string_append_printf(options, " STATUS %s", status_items(session));
    g_string_append_c(options, ')');
    Command *command = session_command(session, "LIST");
    command_raw(command, "\"\" \"*\"");
    command_raw(command, options->str);
    g_autoptr(GError) refused = NULL;
    if (session_run(session, command, &refused))
      return TRUE;
    if (session->failure) {
      g_propagate_error(error, g_steal_pointer(&refused));
      return FALSE;
    }
    log_info("%s; trying the plain form", refused->message);
  }
  Command *command = session_command(session, "LIST");
  command_raw(command, "\"\" \"*\"");
  return session_run(session, command, error);
}

ImapTag imap_status_send(ImapSession *session, const char *mailbox, GError **error) {
  g_autoptr(Command) command = session_command(session, "STATUS");
  command_string(command, mailbox);
  command_raw(command, status_items(session));
  return session_send(session, command, TRUE, error);
}

/* What the server still says about the mailbox that was selected must not reach a handler that
 * waits for the next one, so that one is left first; both commands travel together. */
static ImapTag leave_selected(ImapSession *session, GError **error) {
  g_autoptr(Command) command = session_command(session, "UNSELECT");
  response_set_handler(session->reader, NULL, NULL);
  return session_send(session, command, FALSE, error);
}

typedef struct {
  const char *mailbox;
  gboolean found;
} Sought;

static void note_sought(const ImapList *list, gpointer data) {
  Sought *sought = data;
  if (g_str_equal(list->mailbox, sought->mailbox))
    sought->found = TRUE;
}

void session_explain(ImapSession *session, const char *mailbox, EmlError there, EmlError absent,
                     GError **error) {
  static const ImapHandler asker = {.list = note_sought};
  Sought sought = {mailbox, FALSE};
  if (session->failure || !g_error_matches(*error, EML_ERROR, EML_ERROR_REFUSED))
    return;
  Command *command = session_command(session, "LIST");
  command_raw(command, "\"\"");
  command_string(command, mailbox);
  response_set_handler(session->reader, &asker, &sought);
  gboolean listed = session_run(session, command, NULL);
  response_set_handler(session->reader, session->handler, session->handler_data);
  if (listed)
    (*error)->code = (int) (sought.found ? there : absent);
}

gboolean imap_select(ImapSession *session, const char *mailbox, gboolean read_only,
                     guint32 uidvalidity, guint64 modseq, ImapSelected *selected_out,
                     GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  memset(selected_out, 0, sizeof *selected_out);
  g_autoptr(Command) command = session_command(session, read_only ? "EXAMINE" : "SELECT");
  command_string(command, mailbox);
  gboolean resync = session->caps & IMAP_CAP_QRESYNC && uidvalidity && modseq;
  if (resync) {
    g_autofree char *known =
        g_strdup_printf("(QRESYNC (%u %" G_GUINT64_FORMAT "))", uidvalidity, modseq);
    command_raw(command, known);
  } else if (session->caps & IMAP_CAP_CONDSTORE) {
    command_raw(command, "(CONDSTORE)");
  }
  if (!command_check(command, error) || !session_drain(session, error))
    return FALSE;

  ImapTag left = 0;
  gboolean leave = session->selected && session->caps & IMAP_CAP_UNSELECT;
  if (leave) {
    left = leave_selected(session, error);
    if (!left)
      return FALSE;
  }
  g_clear_pointer(&session->selected, g_free);
  ImapTag tag = session_send(session, command, TRUE, error);
  if (!tag)
    return FALSE;
  if (leave && !imap_wait(session, left, NULL) && !session_check(session, error))
    return FALSE;
  response_set_handler(session->reader, session->handler, session->handler_data);
  response_forget_selected(session->reader);
  g_autoptr(GError) refused = NULL;
  if (!imap_wait(session, tag, &refused)) {
    session_explain(session, mailbox, EML_ERROR_REFUSED, EML_ERROR_NOT_FOUND, &refused);
    g_propagate_error(error, g_steal_pointer(&refused));
    return FALSE;
  }

  session->selected = g_strdup(mailbox);
  *selected_out = facts->selected;
  selected_out->read_only |= read_only;
  selected_out->resynced =
      resync && selected_out->uidvalidity == uidvalidity && selected_out->highestmodseq > 0;
  return TRUE;
}

ImapTag imap_fetch_send(ImapSession *session, const char *set, const char *items,
                        const char *modifiers, GError **error) {
  g_autoptr(Command) command = session_command(session, "UID FETCH");
  command_raw(command, set);
  command_raw(command, items);
  if (modifiers)
    command_raw(command, modifiers);
  return session_send(session, command, TRUE, error);
}

static int compare_uids(gconstpointer a, gconstpointer b) {
  guint32 left = *(const guint32 *) a, right = *(const guint32 *) b;
  return (left > right) - (left < right);
}

gboolean session_search(ImapSession *session, Command *command, gsize max, GArray *uids_out,
                        GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(guint32));
  facts->found = found;
  facts->found_max = max;
  gboolean ok = session_run(session, command, error);
  facts->found = NULL;
  if (!ok)
    return FALSE;
  g_array_sort(found, compare_uids);
  guint32 last = 0;
  for (guint i = 0; i < found->len; i++) {
    guint32 uid = g_array_index(found, guint32, i);
    if (uid != last)
      g_array_append_val(uids_out, uid);
    last = uid;
  }
  return TRUE;
}

gboolean imap_search_all(ImapSession *session, GArray *uids_out, GError **error) {
  gsize max = (gsize) response_facts(session->reader)->selected.exists + FOUND_SLACK;
  Command *command = session_command(session, "UID SEARCH");
  command_raw(command, session->caps & IMAP_CAP_ESEARCH ? "RETURN (ALL) ALL" : "ALL");
  return session_search(session, command, max, uids_out, error);
}

gboolean imap_noop(ImapSession *session, GError **error) {
  return session_run(session, session_command(session, "NOOP"), error);
}

gboolean imap_quota(ImapSession *session, const char *mailbox, GError **error) {
  if (!(session->caps & IMAP_CAP_QUOTA))
    return session_check(session, error); /* nothing to tell is no failure */
  Command *command = session_command(session, "GETQUOTAROOT");
  command_string(command, mailbox);
  return session_run(session, command, error);
}
