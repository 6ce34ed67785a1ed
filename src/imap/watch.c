/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Listening for news: IDLE (RFC 2177), NOTIFY (RFC 5465), or plain waiting with a NOOP at its end.
 */
#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "imap/session-internal.h"

#define IDLE_RENEW_MS (28 * 60 * 1000) /* servers may hang up after 30 minutes (RFC 2177) */
#define GATHER_MS 20                   /* news come in groups: EXISTS, then FETCH … */

gboolean imap_notify(ImapSession *session, GError **error) {
  if (!(session->caps & IMAP_CAP_NOTIFY)) {
    g_set_error(error, EML_ERROR, EML_ERROR_REFUSED, "%s does not offer NOTIFY", session->host);
    return FALSE;
  }
  Command *command = session_command(session, "NOTIFY SET");
  command_raw(command, "STATUS (selected (MessageNew MessageExpunge FlagChange)) "
                       "(personal (MessageNew MessageExpunge FlagChange MailboxName "
                       "SubscriptionChange))");
  return session_run(session, command, error);
}

typedef enum { HEARD, WOKEN, EXPIRED, BROKEN } Heard;

/* Waits until the server says something that matters, the wake or @until. */
static Heard listen_until(ImapSession *session, int wake_fd, gint64 until, GError **error) {
  guint64 before = session->said;
  while (session->said == before) {
    gboolean readable = TRUE;
    if (token_buffered(session->token) == 0) {
      GError *failure = NULL;
      stream_set_deadline(session->stream, until);
      if (!stream_wait(session->stream, wake_fd, &readable, &failure)) {
        if (!g_error_matches(failure, EML_ERROR, EML_ERROR_TIMEOUT)) {
          session_die(session, failure, error);
          return BROKEN;
        }
        g_error_free(failure);
        return EXPIRED;
      }
    }
    if (!readable)
      return WOKEN;
    Response response; /* such as "* OK Still here", which is no news */
    if (!session_step(session, &response, error))
      return BROKEN;
  }
  return HEARD;
}

/* Sends IDLE and waits for the "+"; news may come before it. *@tag_out is 0 when the server takes
 * no IDLE after all. */
static gboolean idle_begin(ImapSession *session, ImapTag *tag_out, GError **error) {
  g_autoptr(Command) command = session_command(session, "IDLE");
  *tag_out = session_send(session, command, TRUE, error);
  if (!*tag_out)
    return FALSE;
  for (Response response = {0}; response.kind != RESPONSE_CONTINUE;) {
    if (session_is_done(session, *tag_out)) {
      g_autoptr(GError) refused = NULL;
      imap_wait(session, *tag_out, &refused);
      log_info("no IDLE: %s", refused ? refused->message : "ended at once");
      session->caps &= ~(guint) IMAP_CAP_IDLE;
      *tag_out = 0;
      return TRUE;
    }
    if (!session_step(session, &response, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean idle_end(ImapSession *session, ImapTag tag, GError **error) {
  if (session_is_done(session, tag)) /* the server ended it by itself */
    return imap_wait(session, tag, NULL) || session_check(session, error);
  if (!session_write(session, "DONE\r\n", 6, error))
    return FALSE;
  return imap_wait(session, tag, NULL) || session_check(session, error);
}

gboolean imap_idle(ImapSession *session, gboolean idle, int wake_fd, gint64 deadline,
                   GError **error) {
  guint64 before = session->said;
  if (!session_drain(session, error))
    return FALSE;
  Heard heard = session->said != before ? HEARD : EXPIRED;
  for (gboolean again = TRUE; again;) {
    ImapTag tag = 0;
    if (idle && session->caps & IMAP_CAP_IDLE && !idle_begin(session, &tag, error))
      return FALSE;
    gint64 until = tag ? MIN(deadline, deadline_in_ms(IDLE_RENEW_MS)) : deadline;
    if (session->said != before)
      heard = HEARD;
    else
      heard = listen_until(session, wake_fd, until, error);
    if (heard == HEARD) {
      gint64 gathered = deadline_in_ms(GATHER_MS);
      while (heard == HEARD)
        heard = listen_until(session, -1, gathered, error);
      if (heard == EXPIRED)
        heard = HEARD;
    }
    if (heard == BROKEN || (tag && !idle_end(session, tag, error)))
      return FALSE;
    again = heard == EXPIRED && until < deadline;
    if (heard == EXPIRED && !again && !tag)
      return imap_noop(session, error); /* DONE was a sign of life, without IDLE this is */
  }
  return TRUE;
}
