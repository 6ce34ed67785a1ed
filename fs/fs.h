/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What every handler sees: the userdata of the FUSE session. The fields are set before the first
 * request and stay until after the last reply, so they need no lock.
 */
#pragma once

#include <fuse_lowlevel.h>

#include "engine/changes.h"
#include "fs/maildir.h"
#include "fs/node.h"

typedef struct Parks Parks;
typedef struct Notify Notify;
typedef struct Replay Replay;
typedef struct Ahead Ahead;
typedef struct Virtual Virtual;
typedef struct OpenFiles OpenFiles;
typedef struct MaildirMemory MaildirMemory;

typedef struct {
  Engine *engine;
  Parks *parks;
  Notify *notify;
  Replay *replay;
  Ahead *ahead;
  Virtual *virtual;
  OpenFiles *files;
  MaildirMemory *maildir;
  uid_t uid; /* owner of everything: who mounted */
  gid_t gid;
  gint64 began; /* seconds: mtime of the root */
  gint64 init_unique; /* for init-reply.c alone */
} Fs;

/* The name of the directory of virtual files. */
#define CONTROL_NAME ".control"

/* What the kernel was told it may keep until news says otherwise. Finite, so that a lost
 * invalidation heals by itself. */
#define KEEP_SECONDS 86400.0

/* Each adds the handlers of its file to @ops. */
void ops_change_add(struct fuse_lowlevel_ops *ops);
void ops_dir_add(struct fuse_lowlevel_ops *ops);
void ops_file_add(struct fuse_lowlevel_ops *ops);
void ops_fs_add(struct fuse_lowlevel_ops *ops);
void ops_write_add(struct fuse_lowlevel_ops *ops);
void ops_xattr_add(struct fuse_lowlevel_ops *ops);

/* ---- ops-dir.c ---- */

/* The directory that @ino is, as the engine names it. Returns 0, or what a change in it answers: ESTALE,
 * ENOTDIR, EROFS for the directory of virtual files. */
int dir_of_node(fuse_ino_t ino, EngineDir *dir_out);

/* Answers a GETATTR or SETATTR with the attributes of @ino as the index has them. */
void reply_attributes(Fs *fs, fuse_req_t req, fuse_ino_t ino);
gboolean stat_node(Fs *fs, Node node, struct stat *st_out, GError **error);

/* Answers with the entry that @name in @dir has just become. */
void reply_new_entry(Fs *fs, fuse_req_t req, EngineDir dir, const char *name);

/* ---- attributes, from index rows; attr.c. Any thread. ---- */

void attr_root(const Fs *fs, guint folders, struct stat *st_out);
void attr_folder(const Fs *fs, const EngineFolder *folder, struct stat *st_out);
void attr_message(const Fs *fs, EngineMsg msg, const EngineMessage *message, struct stat *st_out);
void attr_local(const Fs *fs, const EngineLocal *local, struct stat *st_out);
/* Whichever of these @entry is. */
void attr_named(const Fs *fs, const EngineEntry *entry, struct stat *st_out);
/* A directory or file of the Maildir view; @folder NULL: its top. */
void attr_maildir(const Fs *fs, const EngineFolder *folder, MaildirPart part, struct stat *st_out);
void attr_control_dir(const Fs *fs, struct stat *st_out);
void attr_control_file(const Fs *fs, guint32 id, guint64 size, gint64 mtime, struct stat *st_out);

/* An entry with the attributes of @st, to be kept by the kernel. */
struct fuse_entry_param attr_entry(const struct stat *st);
