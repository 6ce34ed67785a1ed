/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What locals.c (octets) and commit.c (making them messages) share.
 *
 * A File is what all handles of one thing share. It has a number by which the kernel knows it (the
 * local file, or the message that is edited) and, apart from that, the number of its data file: what
 * was handed to the journal for an upload is not written to any more, so the next write goes to a
 * copy under a new number. A File lasts as long as somebody has it open; what is on its way is in the
 * journal and the overlay.
 *
 * Lock order: Locals.lock after File.lock, where both are held; then the overlay's and the journal's.
 */
#pragma once

#include "engine/changes-private.h"

typedef struct {
  Locals *locals;
  GMutex lock;      /* guards what follows but refs and pending */
  guint refs;       /* handles; under Locals.lock */
  gboolean pending; /* a clone that is on its way, under Locals.lock: nothing else knows its source */
  guint32 shown;    /* number of the local file, also of an edit (where it is not shown) */
  guint32 data;     /* number of the data file */
  EngineMsg base;   /* the message that is edited, uid 0: none */
  char *name;       /* of that message */
  EngineMsg replaces; /* the message whose name a letter took over, uid 0: none */
  gint flags;         /* the message is to have them, and … */
  char *keywords;     /* … these; NULL: what it says itself */
  int fd;           /* of the data file, -1: a clone */
  EngineMsg clone;  /* it is a copy of this one, uid 0: no */
  guint64 size;
  gint64 mtime;        /* nanoseconds */
  gboolean dirty;      /* there is something to commit */
  gboolean sealed;     /* the data file belongs to the journal */
  gboolean unlinked;
} File;

struct EngineFile {
  File *file;
};

struct Locals {
  Engine *engine;
  GMutex lock;
  GHashTable *by_local; /* shown → File */
  GHashTable *by_msg;   /* EngineMsg → File */
  GHashTable *data;     /* shown → number of its data file, where that is another */
};

/* The open file of @shown (a local file) or @msg (an edit), or NULL. */
File *locals_find_locked(Locals *locals, EngineMsg msg, guint32 shown);
/* Puts one into the table; takes over @fd. */
File *locals_add_locked(Locals *locals, guint32 shown, guint32 data, EngineMsg base, int fd);
/* Frees it unless somebody needs it. */
void locals_retire_locked(File *file);
/* The number of the data file of a local file. Takes Locals.lock. */
guint32 locals_data_number(Locals *locals, guint32 shown);
/* Gives it another data file, taking over @fd. Takes Locals.lock. */
void file_set_data_locked(File *file, guint32 data, int fd);
/* The row of the local file that @entry shows. Takes Locals.lock. */
Local *locals_row(Locals *locals, const OverlayEntry *entry, LocalState state, const char *reason);
/* Journals what was written so far, so that it is found again, as a failed upload, should nobody be
 * there to commit it: after a kill. */
gboolean commit_unfinished_locked(File *file, GError **error);
/* What the kernel and others see of its size and time. */
void file_show_locked(File *file);
