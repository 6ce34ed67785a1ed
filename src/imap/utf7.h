/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Modified UTF-7 of mailbox names (RFC 3501 5.1.3).
 */
#pragma once

#include <glib.h>

/* UTF-8 for @name; NULL when it is not valid modified UTF-7 (or not the canonical form, so that
 * encoding the result gives @name back). Free with g_free. Any thread. */
char *utf7_decode(const char *name);

/* Modified UTF-7 for the valid UTF-8 string @name. Free with g_free. Any thread. */
char *utf7_encode(const char *name);
