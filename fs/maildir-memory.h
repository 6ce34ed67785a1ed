/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the Maildir view remembers for the life of a mount, as mail has no place for it: which messages
 * without flags were moved from new to cur, when something last changed in a folder, which files of
 * tmp have a second name, and which folders were just made. All of it is bounded: what is forgotten is
 * shown in new again.
 *
 * Any thread; a leaf lock.
 */
#pragma once

#include "engine/engine.h"
#include "fs/maildir.h"

typedef struct MaildirMemory MaildirMemory;

MaildirMemory *maildir_memory_new(void);
void maildir_memory_free(MaildirMemory **memory);

/* ---- places, by folder and plain name, which stay the same when a letter becomes a message ---- */

/* It was put into @part with @letters. */
void maildir_place_set(MaildirMemory *memory, guint32 folder, const char *plain, MaildirPart part,
                       MaildirFlags letters);
/* FALSE: unknown. */
gboolean maildir_place_get(MaildirMemory *memory, guint32 folder, const char *plain,
                           MaildirPart *part_out, MaildirFlags *letters_out);

/* ---- times ---- */

/* Something changed in @folder: names, flags or octets. */
void maildir_touch(MaildirMemory *memory, guint32 folder);
/* An EngineNewsFn. */
void maildir_news(const EngineNews *news, gsize count, gpointer memory);
/* When that was last, in nanoseconds; never before the mount began, as nobody knows what happened until
 * then. Grows with every change. Also sees changes of @folder that nobody told of. */
gint64 maildir_changed(MaildirMemory *memory, const EngineFolder *folder);

/* ---- folders that were just made ----
 *
 * Who makes a Maildir makes a directory, then cur, new and tmp in it, and gives up when one is there
 * already. So they are not there before they are made, or until some seconds have passed. */

void maildir_fresh_set(MaildirMemory *memory, guint32 folder);
/* Whether @part of @folder is still to be made. */
gboolean maildir_is_fresh(MaildirMemory *memory, guint32 folder, MaildirPart part);
/* Makes it. FALSE: it was there. */
gboolean maildir_fresh_make(MaildirMemory *memory, guint32 folder, MaildirPart part);

/* ---- files of tmp that were delivered by link(2) and not unlinked yet ---- */

/* @tmp (a plain name) in @folder is called @plain by now. */
void maildir_link_set(MaildirMemory *memory, guint32 folder, const char *tmp, const char *plain);
/* NULL: it is none. g_free. */
char *maildir_link_get(MaildirMemory *memory, guint32 folder, const char *tmp);
/* FALSE: it was none. */
gboolean maildir_link_drop(MaildirMemory *memory, guint32 folder, const char *tmp);
