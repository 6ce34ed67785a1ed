/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A password or token in memory that is locked, left out of core dumps and wiped when freed.
 */
#pragma once

#include <glib.h>

typedef struct Secret Secret; /* reference counted */

/* Copies @text (@length bytes, -1: up to NUL) and registers it with the log's redaction. The
 * caller wipes its own copy. Any thread. */
Secret *secret_new(const char *text, gssize length);
Secret *secret_ref(Secret *secret);
void secret_unref(Secret *secret);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Secret, secret_unref)

/* The text, NUL-ended, owned by @secret. Any thread. */
const char *secret_text(const Secret *secret);

/* Overwrites @size bytes so that the compiler cannot leave it out. Any thread. */
void secret_wipe(void *memory, gsize size);
