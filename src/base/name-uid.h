/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Message file names end in ".UID.eml": who has the name has the UID.
 */
#pragma once

#include <glib.h>

/* The UID at the end of a message file name, 0 when it is not of that form. Any thread. */
guint32 name_uid(const char *name);
