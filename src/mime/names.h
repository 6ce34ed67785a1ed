/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * File names out of mail. Nothing that a sender or a server wrote reaches a path but through here.
 */
#pragma once

#include <glib.h>

/* Once per process before any other function of mime/. Any thread. */
void mime_init(void);

/* The longest message file name in bytes. */
#define NAME_MAX_BYTES 200

/* The file name DATE_From_Subject.UID.eml for a message: @header is the octets of (at least) its
 * From and Subject fields (RFC 5322, RFC 2047, RFC 6532; raw 8-bit in any charset is tolerated),
 * @internal_date in seconds UTC. Letters and digits of any script and . _ - @ + are kept, every
 * other run becomes one '-'; bidi, control and invisible characters are dropped; NFC; at most
 * NAME_MAX_BYTES, cut at a character; never a leading dot or dash; always valid UTF-8; a missing
 * From or Subject is left out. Never fails. Free with g_free. Any thread. */
char *name_for_message(const char *header, gsize size, gint64 internal_date, guint32 uid);

/* One path component for one level of a mailbox name (@level: UTF-8, or octets that are not). What
 * cannot be a file name ('/', control bytes, invalid UTF-8, ".", "..", an empty name, a leading '.')
 * is written as %XX, and so is a '%' that two hex digits follow; over 255 bytes it is cut and ends
 * in '~' and a digest. Reserved names of the top (Outbox) are not handled here. Never fails. Free
 * with g_free. Any thread. */
char *name_for_level(const char *level);
