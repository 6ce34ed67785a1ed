/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is inside the brackets of response codes that tell results: APPENDUID and COPYUID (RFC 4315),
 * MODIFIED (RFC 7162). The text is the server's; every function takes all of it or nothing.
 */
#pragma once

#include "imap/change.h"

#define CODE_RANGES_MAX 65536
#define CODE_PAIRS_MAX 100000

/* "1,5:7" as ImapRange, appended to @ranges. No "*". Any thread. */
gboolean code_set(const char *text, GArray *ranges);

/* "38505 3955". Any thread. */
gboolean code_append_uid(const char *arguments, ImapAppended *appended_out);

/* "38505 3955,3957:3958" of @count messages: their UIDs as guint32, appended to @uids, ascending, as
 * the server has to give them out. Any thread. */
gboolean code_append_uids(const char *arguments, gsize count, guint32 *uidvalidity_out,
                          GArray *uids);

/* "38505 304,319:320 3956:3958" as ImapCopy, appended to @pairs: so many sources as destinations,
 * and sources only from @set, in which "*" is the largest number there is. Any thread. */
gboolean code_copy_uid(const char *arguments, const char *set, guint32 *uidvalidity_out,
                       GArray *pairs);
