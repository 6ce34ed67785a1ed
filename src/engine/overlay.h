/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a folder shows that the index does not have (yet): local files, and guests, which are
 * messages on their way in; and what it no longer shows: messages on their way out. The index stays
 * what the server said, so that taking back what the server refuses is dropping an entry here.
 *
 * A listing takes its time, and its view of the index may be older than what is here. So what left
 * stays hidden for as long as somebody may still have a row of it.
 *
 * All in memory, made again from the journal at every start. Any function may be called from any
 * thread; a leaf lock, nobody is called.
 */
#pragma once

#include "engine/changes.h"

typedef struct Overlay Overlay;

Overlay *overlay_new(void);
void overlay_free(Overlay *overlay);

/* A local file or a guest. */
typedef struct {
  guint32 number; /* overlay_local_number or overlay_guest_number */
  EngineDir dir;
  char *name;
  EngineLocal *local;     /* either this */
  EngineMsg msg;          /* or a guest: where it comes from, as it was there */
  EngineMessage *message;
  guint32 change; /* the change that it waits for, 0: none */
} OverlayEntry;
void overlay_entry_free(OverlayEntry *entry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(OverlayEntry, overlay_entry_free)

/* Numbers in a listing: of a local file by its id, of a guest by its change. */
static inline guint32 overlay_local_number(guint32 local) {
  return 2 * local + 1;
}
static inline guint32 overlay_guest_number(guint32 change) {
  return 2 * change;
}

/* Copies @local, whose folder, parent and name say where it is. */
void overlay_add_local(Overlay *overlay, const EngineLocal *local, guint32 change);
void overlay_add_guest(Overlay *overlay, guint32 change, guint32 folder, const char *name,
                       EngineMsg msg, const EngineMessage *message);
/* No error when there is none. */
void overlay_remove(Overlay *overlay, guint32 number);
/* Gives it another place and name; of a local file also another change to wait for. */
void overlay_move(Overlay *overlay, guint32 number, EngineDir dir, const char *name);
void overlay_set_change(Overlay *overlay, guint32 number, guint32 change);
/* New size and times of a local file. */
void overlay_set_size(Overlay *overlay, guint32 local, guint64 size, gint64 mtime);

/* A copy, or NULL. */
OverlayEntry *overlay_find(Overlay *overlay, EngineDir dir, const char *name);
OverlayEntry *overlay_get(Overlay *overlay, guint32 number);
/* The guest that comes from @msg, or NULL. */
OverlayEntry *overlay_get_guest(Overlay *overlay, EngineMsg msg);
/* Copies of at most @limit entries of @dir with numbers above @after, ascending: GPtrArray of
 * OverlayEntry with free function. */
GPtrArray *overlay_list(Overlay *overlay, EngineDir dir, guint32 after, guint limit);
guint overlay_count(Overlay *overlay, EngineDir dir);
/* How many of them are local folders. */
guint overlay_folders(Overlay *overlay, EngineDir dir);

/* Messages on their way out, each for one change. */
void overlay_hide(Overlay *overlay, EngineMsg msg, guint32 change);
/* It is not on its way out any more: it stays … */
void overlay_unhide(Overlay *overlay, EngineMsg msg);
/* … or it is gone from the index, and never comes back. */
void overlay_left(Overlay *overlay, EngineMsg msg);
gboolean overlay_is_hidden(Overlay *overlay, EngineMsg msg);
/* Whether any is; cheap. */
gboolean overlay_hides(Overlay *overlay);

/* Messages that are edited or being replaced: they have another size and time, and may not be
 * touched until @change is done (0: it is not journaled yet). */
void overlay_replace(Overlay *overlay, EngineMsg msg, guint32 local, guint64 size, gint64 mtime,
                     guint32 change);
void overlay_unreplace(Overlay *overlay, EngineMsg msg);
typedef struct {
  guint32 local; /* the local file that holds the new octets */
  guint64 size;
  gint64 mtime; /* nanoseconds */
  guint32 change;
} OverlayReplaced;
gboolean overlay_get_replaced(Overlay *overlay, EngineMsg msg, OverlayReplaced *out);

/* What became of something that the kernel may still know under its old number. */
void overlay_became(Overlay *overlay, EngineMsg from, EngineMsg to);
void overlay_local_became(Overlay *overlay, guint32 local, EngineMsg to);
/* The message that @msg is now; itself when nothing is known. */
EngineMsg overlay_resolve(Overlay *overlay, EngineMsg msg);
gboolean overlay_resolve_local(Overlay *overlay, guint32 local, EngineMsg *msg_out);

/* Something came or went in @folder: its mtime is now. */
void overlay_touch(Overlay *overlay, guint32 folder);
/* When that was last, seconds, 0: not in this run. */
gint64 overlay_touched(Overlay *overlay, guint32 folder);
