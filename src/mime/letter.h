/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Whether a file is a message (RFC 5322), and making it fit to be stored.
 */
#pragma once

#include <glib.h>

#include "base/flags.h"

typedef struct {
  guint64 size;      /* with CRLF line ends throughout */
  gboolean bare;     /* has bare LF or CR line ends: letter_normalize is needed */
  guint flags;       /* MsgFlag bits from Status and X-Status (mbox and mutt's convention:
                        R, O; A, F, D, T) */
  char *message_id;  /* with angle brackets, or NULL */
} Letter;
void letter_clear(Letter *letter);

/* Reads @size octets of @fd by pread, in constant memory. FALSE with INVALID and a reason for a
 * person when it is not a message: empty, no header field on the first line (an mbox "From " line is
 * told apart in the reason), a header that does not end within 1 MiB or has a line that is no field,
 * NUL octets anywhere, a line of over 1 MiB. Any charset and any 8-bit octets are fine, and so is a
 * message without a body. @letter_out needs letter_clear. Any thread. */
gboolean letter_check(int fd, guint64 size, Letter *letter_out, GError **error);

/* Copies @size octets of @from to @to (written from its start), making every line end CRLF: bare LF
 * and bare CR. Any thread. */
gboolean letter_normalize(int from, guint64 size, int to, GError **error);
