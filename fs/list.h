/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One answer to READDIR or READDIRPLUS while it is made.
 */
#pragma once

#include "fs/fs.h"
#include "fs/listed.h"

typedef struct {
  Fs *fs;
  fuse_req_t req;
  gboolean plus, full;
  char *buffer;
  gsize size, used;
  guint32 space; /* of the messages */
  Listed *listed;
  CookieClass class; /* of the messages that are being listed */
  guint32 last;      /* UID of the last one */
  guint32 folder;    /* of the Maildir view: its directory, and … */
  MaildirPart part;  /* … which part of it */
} Listing;

/* FALSE, and `full`, when the entry does not fit. */
gboolean list_add(Listing *list, const char *name, const struct fuse_entry_param *entry,
                  gint64 cookie);

/* "." and "..", but for those up to number @after. */
void list_dots(Listing *list, guint32 after, guint64 self, guint64 parent);

/* From @offset on as much as fits of the messages of list->space, what is in @dir besides, and what
 * turned from that into a message meanwhile. @message and @guest get the Listing and add what is to be
 * listed; @message with a cookie of list->class, and it sets `last`. */
gboolean list_mail(Listing *list, EngineDir dir, gint64 offset, EngineMessageFn message,
                   EngineGuestFn guest, GError **error);
