/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is open: a directory, a message for reading, a message or local file whose octets may change, a
 * text of .control. An inode number is all that most requests bring, so what is open can be asked for
 * by that, too: a file that has lost its name, or that became a message meanwhile, is still there for
 * who has it open.
 *
 * A handle belongs to the kernel from the answer of OPEN or CREATE until RELEASE; who else wants it takes
 * a reference. Any thread may call any of these.
 */
#pragma once

#include <sys/stat.h>

#include "fs/fs.h"

typedef struct Ctl Ctl;
typedef struct VirtualText VirtualText;
typedef struct Listed Listed;

/* How much there is to commit that was done through a handle. */
typedef enum {
  CHANGES_NONE,
  CHANGES_BY_OPEN, /* O_TRUNC: the shell closes a copy of the descriptor before anybody has written */
  CHANGES_WRITTEN,
} Changes;

/* Of the first five one is set. */
typedef struct {
  Listed *listed;
  EngineBody *body;
  VirtualText *text;
  Ctl *ctl;
  EngineFile *file;
  fuse_ino_t ino;
  gboolean writable;
  pid_t owner;          /* `file`: the process that opened it */
  gint changes;         /* `file`: Changes, atomic */
  gint abandoned;       /* `file`: who closed it last was being killed; atomic */
  /* Under the lock of OpenFiles: */
  gboolean nameless;    /* `last` are the attributes it had when its name went */
  struct stat last;
  guint references;
} OpenFile;

/* Those that are still open when the mount ends under them are closed with it (the kernel then sends no
 * RELEASE). Free it after the last request, before the engine and the virtual files. */
OpenFiles *files_new(Fs *fs);
void files_free(OpenFiles **files);

/* NULL: what replay.c created has none. */
static inline OpenFile *files_of(const struct fuse_file_info *fi) {
  return (OpenFile *) (uintptr_t) fi->fh;
}

/* Answers an OPEN or OPENDIR, or with @entry a CREATE. Takes ownership of what is in @opened. */
void files_reply(Fs *fs, fuse_req_t req, struct fuse_file_info *fi, OpenFile opened,
                 const struct fuse_entry_param *entry);

/* Opens a message or local file whose octets may change, waits for them, and answers as files_reply. */
void files_open(Fs *fs, fuse_req_t req, Node node, struct fuse_file_info *fi,
                const struct fuse_entry_param *entry);

/* References; the last one closes it. files_find: one that is open for writing, NULL: there is none. */
OpenFile *files_ref(Fs *fs, OpenFile *file);
OpenFile *files_find(Fs *fs, fuse_ino_t ino);
void files_unref(Fs *fs, OpenFile *file);

/* Notes that something was written; @by_page: by a mapping, which may be another handle's. */
void files_written(Fs *fs, OpenFile *file, gboolean by_page);

/* Whether a message was open for writing since the mount began: what the kernel has of it may not be it. */
gboolean files_was_edited(Fs *fs, fuse_ino_t ino);

/* The lock under which the octets of @file are changed and read. It is a leaf but for the engine's. */
GMutex *files_octets(Fs *fs, const OpenFile *file);

/* Before a name goes: keeps the attributes @st for those that have the node open. */
void files_keep(Fs *fs, const struct stat *st);
/* Attributes of a node that the engine does not know any more, but somebody has open. */
gboolean files_stat(Fs *fs, fuse_ino_t ino, struct stat *st_out);

/* Whether thread @thread is ending because a signal killed its process. */
gboolean files_is_killed(pid_t thread);

/* What the engine knows @node, a message or local file, as: one of the two, the other is 0. */
static inline void files_engine_id(Node node, EngineMsg *msg_out, guint32 *local_out) {
  gboolean local = node.kind == NODE_LOCAL;
  *msg_out = local ? (EngineMsg){0, 0} : (EngineMsg){node.id, node.uid};
  *local_out = local ? node.id : 0;
}

/* The process that thread @thread is part of, as far as it can be told. */
pid_t files_process(pid_t thread);
