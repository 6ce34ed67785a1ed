/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sends a command with a file as its literal, in constant memory, to a server that may talk back.
 *
 * Both sides could wait for each other: we for room in the socket, the server for us to read what
 * it says. So nothing here waits for one direction alone. The loop sends until there is something
 * to read, then lets session_step read one response; and when that response is not complete yet, the
 * wait for its rest (read_source in session.c) comes back here and goes on sending. Thus neither
 * half a response nor a megabyte of them stops the upload, and nothing is piled up.
 *
 * The message was announced with its size. If the file turns out shorter or cannot be read, only the
 * end of the connection keeps the server from storing something else, so the session dies.
 */
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "imap/session-internal.h"

#define PIECE (64 * 1024)

struct Upload {
  const char *head; /* octets that come before the file */
  gsize head_left;
  const ImapMessage *message;
  int fd; /* -1: no file, and no line end after it */
  guint64 offset, left;
  gboolean ended; /* nothing comes after what is in `buffer` */
  gsize at, end;  /* what of `buffer` is to be sent */
  guint8 buffer[PIECE + 2];
};

/* Replaces the buffer, which was sent, by what comes next. */
static gboolean refill(Upload *upload, GError **error) {
  gsize head = MIN(upload->head_left, PIECE);
  memcpy(upload->buffer, upload->head, head);
  upload->head += head;
  upload->head_left -= head;
  upload->at = 0;
  upload->end = head;
  if (upload->head_left > 0)
    return TRUE;
  while (upload->left > 0 && upload->end < PIECE) {
    gsize want = (gsize) MIN(upload->left, PIECE - upload->end);
    gssize got =
        pread(upload->fd, upload->buffer + upload->end, want, (goffset) upload->offset);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno,
                                 "the message that was being sent");
    if (got == 0) {
      g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED,
                          "the message became shorter while it was being sent");
      return FALSE;
    }
    upload->end += (gsize) got;
    upload->offset += (guint64) got;
    upload->left -= (guint64) got;
  }
  if (upload->left > 0)
    return TRUE;
  if (upload->fd >= 0) {
    memcpy(upload->buffer + upload->end, "\r\n", 2);
    upload->end += 2;
  }
  upload->ended = TRUE;
  return TRUE;
}

static gboolean is_sent(const Upload *upload) {
  return upload->ended && upload->at == upload->end;
}

static void report_sent(const Upload *upload) {
  const ImapMessage *message = upload->message;
  guint64 read = upload->offset - message->offset, unsent = upload->end - upload->at;
  if (upload->fd >= 0 && message->sent)
    message->sent(read - MIN(read, unsent), message->sent_data);
}

static gboolean report(GError *failure, GError **error) {
  g_propagate_error(error, failure);
  return FALSE;
}

gboolean upload_until_readable(ImapSession *session, GError **error) {
  Upload *upload = session->upload;
  session_arm_deadline(session);
  /* Reading goes first: the last thing a server says before it hangs up is the reason. */
  for (gboolean readable = stream_pending(session->stream); !readable && !is_sent(upload);) {
    gsize taken;
    if (upload->at == upload->end && !refill(upload, error))
      return FALSE;
    GError *failure = NULL;
    if (!stream_try_write(session->stream, upload->buffer + upload->at, upload->end - upload->at,
                          &taken, &failure)) {
      readable = stream_pending(session->stream);
      if (!readable)
        return report(failure, error);
      g_error_free(failure); /* it comes again, unless there is a better reason */
      continue;
    }
    upload->at += taken;
    if (taken > 0) {
      session_arm_deadline(session);
      report_sent(upload);
    }
    if (upload->at == upload->end) {
      readable = stream_pending(session->stream);
      continue;
    }
    if (stream_wait_both(session->stream, &readable, &failure))
      continue;
    if (!g_error_matches(failure, EML_ERROR, EML_ERROR_TIMEOUT) || !session_still_moving(session))
      return report(failure, error);
    g_error_free(failure);
    session_arm_deadline(session);
  }
  return TRUE;
}

/* Sends all of @upload and handles what the server says meanwhile. */
static gboolean run(ImapSession *session, Upload *upload, GError **error) {
  gboolean ok = TRUE;
  session->upload = upload;
  while (ok && !is_sent(upload)) {
    GError *failure = NULL;
    Response response;
    if (token_buffered(session->token) == 0 && !upload_until_readable(session, &failure))
      ok = session_die(session, failure, error);
    else if (!is_sent(upload))
      ok = session_step(session, &response, error);
  }
  session->upload = NULL;
  return ok;
}

ImapTag session_send_file(ImapSession *session, Command *command, const ImapMessage *message,
                          GError **error) {
  if (!session_check(session, error) || !command_check(command, error))
    return 0;
  g_autofree Upload *upload = g_malloc(sizeof *upload); /* the buffer need not be cleared */
  g_autoptr(GString) first = g_string_new(NULL);
  ImapTag tag = session_enlist(session, command_verb(command));
  g_string_printf(first, "A%u ", tag);
  gsize length = 0, next_length = 0;
  const char *part = command_part(command, 0, &length);
  g_string_append_len(first, part, (gssize) length);
  part = first->str;
  length = first->len;
  for (guint i = 1; part; i++, length = next_length) {
    const char *next = command_part(command, i, &next_length);
    memset(upload, 0, offsetof(Upload, buffer));
    upload->head = part;
    upload->head_left = length;
    upload->message = message;
    upload->fd = next ? -1 : message->fd;
    upload->offset = message->offset;
    upload->left = next ? 0 : message->size;
    if (!run(session, upload, error))
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
