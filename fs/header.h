/* SPDX-License-Identifier: GPL-3.0-or-later */
#pragma once

#include <glib.h>

/* The value of the first field @name of the message that begins with @octets (RFC 5322 2.2):
 * unfolded, without the white space around it, control octets as spaces; not decoded. NULL when
 * there is none. Line ends may be CRLF or LF. Free with g_free. Any thread. */
char *header_field(const char *octets, gsize size, const char *name);
