/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sends a command with files as its literals, in constant memory, to a server that may talk back.
 * Several small ones and what is between them leave together.
 *
 * Both sides could wait for each other: we for room in the socket, the server for us to read what
 * it says. So nothing here waits for one direction alone. The loop sends until there is something
 * to read, then lets session_step read one response; and when that response is not complete yet, the
 * wait for its rest (read_source in session.c) comes back here and goes on sending. Thus neither
 * half a response nor a megabyte of them stops the upload, and nothing is piled up.
 *
 * A message was announced with its size. If its file turns out shorter or cannot be read, only the
 * end of the connection keeps the server from storing something else, so the session dies.
 */
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "imap/session-internal.h"

#define PIECE (64 * 1024)

struct Upload {
  Command *command;
  guint index;      /* of the part of it that is under way, or was */
  const char *part; /* what is left of that */
  gsize part_left;
  guint gap; /* what is due after it */
  const ImapMessage *messages;
  gsize begun;    /* files */
  gsize unread;   /* the file that could not be read; as many as there are: none */
  guint64 left;   /* of the file that was begun last */
  guint64 read;   /* octets of all files */
  gboolean ended; /* nothing may follow what is in `buffer`, or not before a "+" */
  gsize at, end;  /* what of `buffer` is to be sent */
  guint8 buffer[PIECE];
};

static void begin_part(Upload *upload, guint index) {
  upload->index = index;
  upload->part = command_part(upload->command, index, &upload->part_left);
  upload->gap = upload->part ? command_gap(upload->command, index) : 0;
  upload->ended = !upload->part;
}

/* Goes on to what comes after a part or a file. */
static void step(Upload *upload) {
  if (upload->gap & COMMAND_GO) {
    upload->ended = TRUE;
  } else if (upload->gap & COMMAND_FILE) {
    upload->gap &= ~(guint) COMMAND_FILE;
    upload->left = upload->messages[upload->begun++].size;
  } else {
    begin_part(upload, upload->index + 1);
  }
}

/* Takes more of a file into the buffer. */
static gboolean read_file(Upload *upload, GError **error) {
  const ImapMessage *message = &upload->messages[upload->begun - 1];
  gsize want = (gsize) MIN(upload->left, PIECE - upload->end);
  guint64 offset = message->offset + message->size - upload->left;
  gssize got = pread(message->fd, upload->buffer + upload->end, want, (goffset) offset);
  if (got < 0 && errno == EINTR)
    return TRUE;
  if (got > 0) {
    upload->end += (gsize) got;
    upload->left -= (guint64) got;
    upload->read += (guint64) got;
    return TRUE;
  }
  upload->unread = upload->begun - 1;
  if (got < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "the message that was being sent");
  g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED,
                      "the message became shorter while it was being sent");
  return FALSE;
}

/* Adds to the buffer what comes next. */
static gboolean fill(Upload *upload, GError **error) {
  while (!upload->ended && upload->end < PIECE) {
    gsize size = MIN(upload->part_left, PIECE - upload->end);
    if (size > 0) {
      memcpy(upload->buffer + upload->end, upload->part, size);
      upload->part += size;
      upload->part_left -= size;
      upload->end += size;
    } else if (upload->left == 0) {
      step(upload);
    } else if (!read_file(upload, error)) {
      return FALSE;
    }
  }
  return TRUE;
}

/* Replaces the buffer, which was sent. */
static gboolean refill(Upload *upload, GError **error) {
  upload->at = upload->end = 0;
  return fill(upload, error);
}

static gboolean is_sent(const Upload *upload) {
  return upload->ended && upload->at == upload->end;
}

static void report_sent(const Upload *upload) {
  const ImapMessage *first = upload->messages;
  guint64 unsent = upload->end - upload->at;
  if (first->sent)
    first->sent(upload->read - MIN(upload->read, unsent), first->sent_data);
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

ImapTag session_send_files(ImapSession *session, Command *command, const ImapMessage *messages,
                           gsize count, gsize *unread_out, GError **error) {
  if (!session_check(session, error) || !command_check(command, error))
    return 0;
  ImapTag tag = session_enlist(session, command_verb(command));
  g_autofree Upload *upload = g_malloc(sizeof *upload); /* the buffer need not be cleared */
  memset(upload, 0, offsetof(Upload, buffer));
  upload->command = command;
  upload->messages = messages;
  upload->unread = count;
  upload->end = (gsize) g_snprintf((char *) upload->buffer, PIECE, "A%u ", tag);
  begin_part(upload, 0);
  GError *failure = NULL;
  gboolean ok = fill(upload, &failure) || session_die(session, failure, error);
  ok = ok && run(session, upload, error);
  for (gboolean go = TRUE; ok && go && upload->gap & COMMAND_GO;) {
    ok = session_await_go(session, tag, &go, error);
    upload->gap &= ~(guint) COMMAND_GO;
    upload->ended = FALSE;
    if (ok && go) /* else it was refused before all of it was sent */
      ok = run(session, upload, error);
  }
  if (unread_out)
    *unread_out = upload->unread;
  return ok ? tag : 0;
}
