/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <string.h>

#include "fs/fs.h"
#include "fs/maildir-memory.h"

#define NANOSECONDS 1000000000

static void attr_common(const Fs *fs, guint64 ino, mode_t mode, gint64 mtime, gint64 ctime_,
                        struct stat *st_out) {
  *st_out = (struct stat){
      .st_ino = ino,
      .st_mode = mode,
      .st_nlink = 1,
      .st_uid = fs->uid,
      .st_gid = fs->gid,
      .st_blksize = 4096,
      .st_atim.tv_sec = mtime,
      .st_mtim.tv_sec = mtime,
      .st_ctim.tv_sec = ctime_,
  };
}

/* find trusts a link count of 2 + subdirectories to skip the stat of what cannot be a directory. */
static guint link_count(const Fs *fs, EngineDir dir, guint folders) {
  return 2 + folders + engine_local_folders(fs->engine, dir);
}

void attr_root(const Fs *fs, guint folders, struct stat *st_out) {
  attr_common(fs, NODE_ROOT_INO, S_IFDIR | 0700, fs->began, fs->began, st_out);
  st_out->st_nlink = link_count(fs, (EngineDir){0, 0}, folders) + 1; /* .control */
}

void attr_folder(const Fs *fs, const EngineFolder *folder, struct stat *st_out) {
  attr_common(fs, node_folder_ino(folder->id), S_IFDIR | 0700, folder->mtime, folder->mtime,
              st_out);
  st_out->st_nlink = link_count(fs, (EngineDir){folder->id, 0}, folder->subfolders);
  st_out->st_size = (off_t) folder->count + folder->subfolders;
}

void attr_message(const Fs *fs, EngineMsg msg, const EngineMessage *message, struct stat *st_out) {
  attr_common(fs, node_message_ino(msg.space, msg.uid), S_IFREG | 0600, message->mtime,
              message->ctime, st_out);
  st_out->st_size = (off_t) message->size;
  st_out->st_blocks = (blkcnt_t) ((message->size + 511) / 512);
}

void attr_local(const Fs *fs, const EngineLocal *local, struct stat *st_out) {
  attr_common(fs, node_local_ino(local->id, local->is_folder),
              local->is_folder ? S_IFDIR | 0700 : S_IFREG | 0600, local->mtime / NANOSECONDS,
              local->ctime, st_out);
  st_out->st_mtim.tv_nsec = st_out->st_atim.tv_nsec = local->mtime % NANOSECONDS;
  if (local->is_folder)
    st_out->st_nlink = link_count(fs, (EngineDir){0, local->id}, 0);
  st_out->st_size = (off_t) local->size;
  st_out->st_blocks = (blkcnt_t) ((local->size + 511) / 512);
}

void attr_named(const Fs *fs, const EngineEntry *entry, struct stat *st_out) {
  if (entry->folder)
    attr_folder(fs, entry->folder, st_out);
  else if (entry->message)
    attr_message(fs, entry->msg, entry->message, st_out);
  else
    attr_local(fs, entry->local, st_out);
}

/* Programs look at the times of directories alone to see whether something came, went or got another
 * name, which flags are part of; some take the mtime, some the ctime. */
void attr_maildir(const Fs *fs, const EngineFolder *folder, MaildirPart part, struct stat *st_out) {
  guint64 ino = node_maildir_ino(folder ? folder->id : 0, part);
  if (part == MAILDIR_KEYWORDS) {
    attr_common(fs, ino, S_IFREG | 0400, fs->began, fs->began, st_out);
    st_out->st_size = (off_t) strlen(maildir_keywords_text());
    return;
  }
  gint64 changed = folder ? maildir_changed(fs->maildir, folder) : fs->began * NANOSECONDS;
  attr_common(fs, ino, S_IFDIR | 0700, changed / NANOSECONDS, changed / NANOSECONDS, st_out);
  st_out->st_mtim.tv_nsec = st_out->st_ctim.tv_nsec = changed % NANOSECONDS;
  /* How many directories are in one is not counted: 1 is "unknown" for find and fts. */
  st_out->st_nlink = part == MAILDIR_FOLDER ? 1 : 2;
  st_out->st_size = folder ? (off_t) folder->count : 0;
}

void attr_control_dir(const Fs *fs, struct stat *st_out) {
  attr_common(fs, node_ino((Node){NODE_CONTROL_DIR, 0, 0}), S_IFDIR | 0700, fs->began, fs->began,
              st_out);
  st_out->st_nlink = 2;
}

void attr_control_file(const Fs *fs, guint32 id, guint64 size, gint64 mtime, struct stat *st_out) {
  attr_common(fs, node_ino((Node){NODE_CONTROL_FILE, id, 0}), S_IFREG | 0400, mtime, mtime, st_out);
  st_out->st_size = (off_t) size;
  st_out->st_blocks = (blkcnt_t) ((size + 511) / 512);
}

struct fuse_entry_param attr_entry(const struct stat *st) {
  return (struct fuse_entry_param){
      .ino = st->st_ino,
      .generation = NODE_GENERATION,
      .attr = *st,
      .attr_timeout = KEEP_SECONDS,
      .entry_timeout = KEEP_SECONDS,
  };
}
