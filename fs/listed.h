/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What one open directory has listed of that which can become something else meanwhile: a local file or
 * guest turns into a message when it has arrived on the server, with a UID above all that there were.
 * When the messages were listed before that and the guests come after it, nobody would see it. So what
 * came to the messages since they were listed is listed at the end, but for what was there as a guest.
 */
#pragma once

#include <glib.h>

typedef struct Listed Listed;

Listed *listed_new(void);
void listed_free(Listed *listed);

/* The listing begins anew. Any thread, as with the others. */
void listed_restart(Listed *listed);
/* All messages up to @uid were listed, and none is above it. */
void listed_messages(Listed *listed, guint32 uid);
void listed_guest(Listed *listed, const char *name);

/* The UID above which messages came later. FALSE: unknown, as the listing went on from one that the
 * kernel had kept. */
gboolean listed_later(Listed *listed, guint32 *uid_out);
gboolean listed_has_guest(Listed *listed, const char *name);
