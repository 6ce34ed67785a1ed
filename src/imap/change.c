/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Results come in response codes, some in the tagged response, some in an untagged OK before it
 * (MOVE, REPLACE: RFC 6851 4.3, RFC 8508 3.4). Those that merely save a look (APPENDUID, COPYUID)
 * are believed when they are whole and fit what was asked, else dropped: the change is done, and the
 * caller finds the new UIDs as with a server that tells none. MODIFIED says what was not done;
 * one that cannot be read is PROTOCOL.
 */
#include "imap/change.h"

#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/log.h"
#include "imap/code.h"
#include "imap/session-internal.h"

#define ASK_FROM (1024 * 1024) /* a message this long is worth a round trip that may spare it */
#define FOUND_MAX 4096         /* messages with one Message-ID */

static gboolean refuse(const ImapSession *session, const char *feature, GError **error) {
  g_set_error(error, EML_ERROR, EML_ERROR_REFUSED, "%s does not offer %s", session->host, feature);
  return FALSE;
}

/* A set goes out unquoted, so it is looked at. */
static gboolean check_set(const char *set, GError **error) {
  if (*set && strspn(set, "0123456789:,*") == strlen(set))
    return TRUE;
  g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "that is no set of messages");
  return FALSE;
}

static gboolean check_keyword(const char *keyword, GError **error) {
  gboolean good = *keyword != '\0';
  for (const char *p = keyword; *p; p++)
    if (*p <= 0x20 || *p > 0x7e || strchr("(){%*\"\\", *p))
      good = FALSE;
  if (!good)
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "a keyword that cannot be sent");
  return good;
}

/* "(\Seen $Forwarded)"; NULL with @error. */
static char *flag_list(guint flags, const char *const *keywords, GError **error) {
  static const struct {
    guint flag;
    const char *name;
  } names[] = {
      {MSG_FLAG_SEEN, "\\Seen"},       {MSG_FLAG_ANSWERED, "\\Answered"},
      {MSG_FLAG_FLAGGED, "\\Flagged"}, {MSG_FLAG_DELETED, "\\Deleted"},
      {MSG_FLAG_DRAFT, "\\Draft"},
  };
  g_autoptr(GString) list = g_string_new("(");
  for (gsize i = 0; i < G_N_ELEMENTS(names); i++)
    if (flags & names[i].flag)
      g_string_append_printf(list, "%s%s", list->len > 1 ? " " : "", names[i].name);
  for (const char *const *keyword = keywords; keyword && *keyword; keyword++) {
    if (!check_keyword(*keyword, error))
      return NULL;
    g_string_append_printf(list, "%s%s", list->len > 1 ? " " : "", *keyword);
  }
  g_string_append_c(list, ')');
  return g_string_free(g_steal_pointer(&list), FALSE);
}

/* "\"17-Jul-1996 09:44:25 +0000\""; NULL for the server's now. Cyrus and Courier take no date before
 * 1970. */
static char *date_text(gint64 seconds) {
  static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  time_t when = (time_t) MAX(seconds, 0);
  struct tm tm;
  if (seconds == IMAP_NO_DATE || !gmtime_r(&when, &tm) || tm.tm_year > 9999 - 1900)
    return NULL;
  return g_strdup_printf("\"%02d-%s-%04d %02d:%02d:%02d +0000\"", tm.tm_mday, months[tm.tm_mon],
                         tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* Appends @message to @command, up to its octets. */
static gboolean add_message(const ImapSession *session, Command *command,
                            const ImapMessage *message, gboolean ask, GError **error) {
  guint64 limit = imap_session_append_limit(session);
  if (limit > 0 && message->size > limit) {
    g_set_error(error, EML_ERROR, EML_ERROR_TOO_BIG,
                "%s takes messages of up to %" G_GUINT64_FORMAT " bytes", session->host, limit);
    return FALSE;
  }
  g_autofree char *flags = flag_list(message->flags, message->keywords, error);
  g_autofree char *date = date_text(message->internal_date);
  if (!flags)
    return FALSE;
  command_raw(command, flags);
  if (date)
    command_raw(command, date);
  command_file(command, message->size, ask);
  return TRUE;
}

/* Completes @command by the mailbox and @message and sends all of it. */
static ImapTag send_message(ImapSession *session, Command *command, const char *mailbox,
                            const ImapMessage *message, GError **error) {
  command_string(command, mailbox);
  if (!add_message(session, command, message, message->size >= ASK_FROM, error))
    return 0;
  return session_send_files(session, command, message, 1, NULL, error);
}

ImapTag imap_append_send(ImapSession *session, const char *mailbox, const ImapMessage *message,
                         GError **error) {
  g_autoptr(Command) command = session_command(session, "APPEND");
  return send_message(session, command, mailbox, message, error);
}

ImapTag imap_append_many_send(ImapSession *session, const char *mailbox,
                              const ImapMessage *messages, gsize count, gsize *unread_out,
                              GError **error) {
  if (unread_out)
    *unread_out = count;
  if (!(session->caps & IMAP_CAP_MULTIAPPEND))
    return (ImapTag) refuse(session, "MULTIAPPEND", error);
  if (!(session->caps & IMAP_CAP_LITERAL_PLUS))
    return (ImapTag) refuse(session, "LITERAL+", error);
  g_autoptr(Command) command = session_command(session, "APPEND");
  command_string(command, mailbox);
  for (gsize i = 0; i < count; i++) {
    if (messages[i].size == 0) { /* to the server it would mean: take none */
      g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "an empty message among others");
      return 0;
    }
    if (!add_message(session, command, &messages[i], FALSE, error))
      return 0;
  }
  return session_send_files(session, command, messages, count, unread_out, error);
}

/* What APPENDUID told, if @code is one. */
static void note_appended(const char *code, const char *arguments, ImapAppended *appended) {
  if (g_strcmp0(code, "APPENDUID") == 0 && !code_append_uid(arguments, appended))
    log_info("an APPENDUID that cannot be read");
}

gboolean imap_append_wait(ImapSession *session, ImapTag tag, ImapAppended *appended_out,
                          GError **error) {
  g_autofree char *code = NULL, *arguments = NULL;
  ImapAppended appended = {0};
  gboolean ok = session_wait(session, tag, &code, &arguments, error);
  if (ok)
    note_appended(code, arguments, &appended);
  if (appended_out)
    *appended_out = appended;
  return ok;
}

gboolean imap_append_many_wait(ImapSession *session, ImapTag tag, gsize count,
                               guint32 *uidvalidity_out, GArray *uids_out, GError **error) {
  g_autofree char *code = NULL, *arguments = NULL;
  *uidvalidity_out = 0;
  if (!session_wait(session, tag, &code, &arguments, error))
    return FALSE;
  if (g_strcmp0(code, "APPENDUID") == 0 &&
      !code_append_uids(arguments, count, uidvalidity_out, uids_out))
    log_info("an APPENDUID that cannot be believed");
  return TRUE;
}

static void hear_appended(const Response *response, gpointer data) {
  if (response->condition == CONDITION_OK)
    note_appended(response->code, response->arguments, data);
}

gboolean imap_replace(ImapSession *session, guint32 uid, const char *mailbox,
                      const ImapMessage *message, ImapAppended *appended_out, GError **error) {
  ImapAppended before = {0}, appended = {0};
  if (appended_out)
    *appended_out = before;
  if (!(session->caps & IMAP_CAP_REPLACE))
    return refuse(session, "REPLACE", error);
  g_autoptr(Command) command = session_command(session, "UID REPLACE");
  char number[16];
  g_snprintf(number, sizeof number, "%u", uid);
  command_raw(command, number);
  session->listener = hear_appended;
  session->listener_data = &before;
  ImapTag tag = send_message(session, command, mailbox, message, error);
  gboolean ok = tag && imap_append_wait(session, tag, &appended, error);
  session->listener = NULL;
  if (ok && appended_out)
    *appended_out = appended.uid ? appended : before;
  return ok;
}

ImapTag imap_store_send(ImapSession *session, const char *set, const ImapStore *store,
                        GError **error) {
  static const char *const items[] = {
      [IMAP_STORE_ADD] = "+FLAGS", [IMAP_STORE_REMOVE] = "-FLAGS", [IMAP_STORE_SET] = "FLAGS"};
  g_autofree char *flags = flag_list(store->flags, store->keywords, error);
  if (!flags || !check_set(set, error))
    return 0;
  if (store->unchanged_since && !(session->caps & IMAP_CAP_CONDSTORE))
    return (ImapTag) refuse(session, "CONDSTORE", error);
  g_autoptr(Command) command = session_command(session, "UID STORE");
  command_raw(command, set);
  if (store->unchanged_since) {
    g_autofree char *condition =
        g_strdup_printf("(UNCHANGEDSINCE %" G_GUINT64_FORMAT ")", store->unchanged_since);
    command_raw(command, condition);
  }
  command_raw(command, items[store->mode]);
  if (store->silent)
    command_glue(command, ".SILENT");
  command_raw(command, flags);
  return session_send(session, command, TRUE, error);
}

gboolean imap_store_wait(ImapSession *session, ImapTag tag, GArray *modified_out, GError **error) {
  g_autofree char *code = NULL, *arguments = NULL;
  g_autoptr(GArray) modified = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  g_autoptr(GError) refused = NULL;
  gboolean ok = session_wait(session, tag, &code, &arguments, &refused);
  if (g_strcmp0(code, "MODIFIED") == 0 && !code_set(arguments, modified))
    return session_die(session,
                       g_error_new_literal(EML_ERROR, EML_ERROR_PROTOCOL,
                                           "the server broke the protocol: a MODIFIED that "
                                           "cannot be read"),
                       error);
  if (modified_out && modified->len > 0)
    g_array_append_vals(modified_out, modified->data, modified->len);
  if (!ok)
    g_propagate_error(error, g_steal_pointer(&refused));
  return ok;
}

/* Collects what COPYUID tells about a command. */
typedef struct {
  const char *set;
  guint32 uidvalidity;
  GArray *copies;
  gboolean odd;
} Mapping;

static void note_copied(const char *code, const char *arguments, Mapping *mapping) {
  if (g_strcmp0(code, "COPYUID") != 0 || mapping->odd)
    return;
  guint32 uidvalidity = 0;
  mapping->odd = mapping->copies->len > CODE_PAIRS_MAX ||
                 !code_copy_uid(arguments, mapping->set, &uidvalidity, mapping->copies) ||
                 (mapping->uidvalidity && mapping->uidvalidity != uidvalidity);
  mapping->uidvalidity = uidvalidity;
}

static void hear_copied(const Response *response, gpointer data) {
  if (response->condition == CONDITION_OK)
    note_copied(response->code, response->arguments, data);
}

/* Runs @verb, whose mapping may come in pieces. */
static gboolean transfer(ImapSession *session, const char *verb, const char *set,
                         const char *mailbox, guint32 *uidvalidity_out, GArray *copies_out,
                         GError **error) {
  if (uidvalidity_out)
    *uidvalidity_out = 0;
  if (!check_set(set, error))
    return FALSE;
  g_autofree char *code = NULL, *arguments = NULL;
  g_autoptr(GArray) copies = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
  g_autoptr(Command) command = session_command(session, verb);
  Mapping mapping = {.set = set, .copies = copies};
  command_raw(command, set);
  command_string(command, mailbox);
  session->listener = hear_copied;
  session->listener_data = &mapping;
  ImapTag tag = session_send(session, command, TRUE, error);
  gboolean ok = tag && session_wait(session, tag, &code, &arguments, error);
  session->listener = NULL;
  if (ok)
    note_copied(code, arguments, &mapping);
  if (mapping.odd) {
    log_info("a COPYUID that cannot be believed");
    return ok;
  }
  if (uidvalidity_out)
    *uidvalidity_out = mapping.uidvalidity;
  if (copies_out && copies->len > 0)
    g_array_append_vals(copies_out, copies->data, copies->len);
  return ok;
}

gboolean imap_copy(ImapSession *session, const char *set, const char *mailbox,
                   guint32 *uidvalidity_out, GArray *copies_out, GError **error) {
  return transfer(session, "UID COPY", set, mailbox, uidvalidity_out, copies_out, error);
}

gboolean imap_move(ImapSession *session, const char *set, const char *mailbox,
                   guint32 *uidvalidity_out, GArray *copies_out, GError **error) {
  if (uidvalidity_out)
    *uidvalidity_out = 0;
  if (!(session->caps & IMAP_CAP_MOVE))
    return refuse(session, "MOVE", error);
  return transfer(session, "UID MOVE", set, mailbox, uidvalidity_out, copies_out, error);
}

gboolean imap_expunge(ImapSession *session, const char *set, GError **error) {
  if (!(session->caps & IMAP_CAP_UIDPLUS))
    return refuse(session, "UIDPLUS", error);
  if (!check_set(set, error))
    return FALSE;
  Command *command = session_command(session, "UID EXPUNGE");
  command_raw(command, set);
  return session_run(session, command, error);
}

/* session_run for a change of mailboxes. A refusal without a code is NOT_FOUND when @from, if not
 * NULL, is not there, and EXISTS when @to, if not NULL, is. */
static gboolean run_explained(ImapSession *session, Command *command, const char *from,
                              const char *to, GError **error) {
  g_autoptr(GError) refused = NULL;
  if (session_run(session, command, &refused))
    return TRUE;
  if (from)
    session_explain(session, from, EML_ERROR_REFUSED, EML_ERROR_NOT_FOUND, &refused);
  if (to)
    session_explain(session, to, EML_ERROR_EXISTS, EML_ERROR_REFUSED, &refused);
  g_propagate_error(error, g_steal_pointer(&refused));
  return FALSE;
}

gboolean imap_create(ImapSession *session, const char *mailbox, guint use, GError **error) {
  static const struct {
    guint use;
    const char *text;
  } uses[] = {
      {IMAP_MAILBOX_ALL, "(USE (\\All))"},         {IMAP_MAILBOX_ARCHIVE, "(USE (\\Archive))"},
      {IMAP_MAILBOX_DRAFTS, "(USE (\\Drafts))"},   {IMAP_MAILBOX_FLAGGED, "(USE (\\Flagged))"},
      {IMAP_MAILBOX_JUNK, "(USE (\\Junk))"},       {IMAP_MAILBOX_SENT, "(USE (\\Sent))"},
      {IMAP_MAILBOX_TRASH, "(USE (\\Trash))"},
  };
  Command *command = session_command(session, "CREATE");
  command_string(command, mailbox);
  if (session->caps & IMAP_CAP_CREATE_SPECIAL_USE)
    for (gsize i = 0; i < G_N_ELEMENTS(uses); i++)
      if (use == uses[i].use)
        command_raw(command, uses[i].text);
  return run_explained(session, command, NULL, mailbox, error);
}

/* Servers take it badly when the selected mailbox goes away under them: it is left before. */
static gboolean leave(ImapSession *session, const char *mailbox, GError **error) {
  gsize length = strlen(mailbox);
  if (!session->selected || !(session->caps & IMAP_CAP_UNSELECT) ||
      strncmp(session->selected, mailbox, length) != 0 ||
      (session->selected[length] != '\0' && session->selected[length] != session->delimiter))
    return TRUE;
  g_clear_pointer(&session->selected, g_free);
  return session_run(session, session_command(session, "UNSELECT"), error);
}

gboolean imap_delete(ImapSession *session, const char *mailbox, GError **error) {
  Command *command = session_command(session, "DELETE");
  command_string(command, mailbox);
  if (!leave(session, mailbox, error)) {
    command_free(command);
    return FALSE;
  }
  return run_explained(session, command, mailbox, NULL, error);
}

gboolean imap_rename(ImapSession *session, const char *mailbox, const char *to, GError **error) {
  Command *command = session_command(session, "RENAME");
  command_string(command, mailbox);
  command_string(command, to);
  if (!leave(session, mailbox, error)) {
    command_free(command);
    return FALSE;
  }
  return run_explained(session, command, mailbox, to, error);
}

gboolean imap_subscribe(ImapSession *session, const char *mailbox, gboolean subscribed,
                        GError **error) {
  Command *command = session_command(session, subscribed ? "SUBSCRIBE" : "UNSUBSCRIBE");
  command_string(command, mailbox);
  return run_explained(session, command, mailbox, NULL, error);
}

gboolean imap_search_message_id(ImapSession *session, const char *message_id, GArray *uids_out,
                                GError **error) {
  if (!*message_id) { /* it would find every message that has one */
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "an empty Message-ID");
    return FALSE;
  }
  Command *command = session_command(session, "UID SEARCH");
  if (session->caps & IMAP_CAP_ESEARCH)
    command_raw(command, "RETURN (ALL)");
  if (!g_str_is_ascii(message_id))
    command_raw(command, "CHARSET UTF-8");
  command_raw(command, "HEADER Message-ID");
  command_string(command, message_id);
  return session_search(session, command, FOUND_MAX, uids_out, error);
}

gboolean imap_my_rights(ImapSession *session, const char *mailbox, char **rights_out,
                        GError **error) {
  ResponseFacts *facts = response_facts(session->reader);
  *rights_out = NULL;
  if (!(session->caps & IMAP_CAP_ACL))
    return session_check(session, error); /* nothing to tell is no failure */
  g_autoptr(GString) rights = g_string_new(NULL);
  facts->rights = rights;
  Command *command = session_command(session, "MYRIGHTS");
  command_string(command, mailbox);
  gboolean ok = run_explained(session, command, mailbox, NULL, error);
  facts->rights = NULL;
  if (ok && rights->len > 0)
    *rights_out = g_strdup(rights->str);
  return ok;
}
