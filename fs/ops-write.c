/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * create, write, flush, fsync, copy_file_range, setattr, release.
 *
 * When a letter is whole. Nothing says so but close(2), and programs close descriptors for other
 * reasons: a shell opens the target of ">", closes the copy that it does not need, and lets several
 * programs write one after the other, each of which closes its own copy as it ends. So a FLUSH commits
 * only what was written through that handle, and only when it comes from the process that opened it;
 * what is left then is committed by RELEASE, when the last copy is closed and nobody waits. A file that
 * was only created is not committed at all: `touch x.eml` is followed by somebody who fills it. Neither
 * is what a program had written when it was killed: half a letter is none, least of all in the place of a
 * whole one.
 */
#include <fcntl.h>

#include "base/err.h"
#include "base/log.h"
#include "fs/ctl.h"
#include "fs/files.h"
#include "fs/maildir-view.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/replay.h"
#include "fs/reply.h"

#define NANOSECONDS 1000000000

/* ---- create ---- */

/* Somebody was quicker. */
static void open_existing(Fs *fs, fuse_req_t req, EngineDir dir, const char *name,
                          struct fuse_file_info *fi) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  Node node;
  struct stat st;
  if (fi->flags & O_EXCL) {
    fuse_reply_err(req, EEXIST);
  } else if (!engine_entry_get(fs->engine, dir, name, &found, &error)) {
    reply_error(req, error);
  } else {
    attr_named(fs, &found, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    entry.entry_timeout = entry.attr_timeout = 0; /* it is answered after a wait */
    if (S_ISDIR(st.st_mode) || !node_parse(st.st_ino, &node))
      fuse_reply_err(req, EISDIR);
    else
      files_open(fs, req, node, fi, &entry);
  }
}

/* @view: it has another name there, which is not to be kept. */
static void create(Fs *fs, fuse_req_t req, EngineDir dir, const char *name, gboolean view,
                   struct fuse_file_info *fi) {
  g_autoptr(GError) error = NULL;
  pid_t owner = files_process(fuse_req_ctx(req)->pid);
  guint section = notify_enter(fs->notify);
  EngineFile *file = engine_file_create(fs->engine, dir, name, &error);
  g_autoptr(EngineLocal) local = file
      ? engine_local_get(fs->engine, engine_file_local(file), &error) : NULL;
  if (local) {
    struct stat st;
    attr_local(fs, local, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    if (view)
      entry.entry_timeout = 0;
    files_reply(fs, req, fi,
                (OpenFile){.file = file, .ino = st.st_ino, .writable = TRUE, .owner = owner}, &entry);
  }
  notify_leave(fs->notify, section);
  if (local && view)
    view_tell(fs, dir, name);
  if (local)
    return;
  if (file)
    engine_file_close(&file);
  if (g_error_matches(error, EML_ERROR, EML_ERROR_EXISTS))
    open_existing(fs, req, dir, name, fi);
  else
    reply_error(req, error);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  g_autoptr(GError) error = NULL;
  g_auto(ViewName) view = {0};
  EngineDir dir;
  if (replay_create(fs->replay, req, parent, name, fi))
    return;
  gboolean in_view = view_is(parent);
  int failure = in_view ? 0 : dir_of_node(parent, &dir);
  if (failure)
    fuse_reply_err(req, failure);
  else if (!in_view)
    create(fs, req, dir, name, FALSE, fi);
  else if (view_scratch(fs, parent, name, &view, &error))
    create(fs, req, view.dir, view.plain, TRUE, fi);
  else
    reply_error(req, error);
}

/* ---- write ---- */

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  OpenFile *file = files_of(fi);
  g_autoptr(GError) error = NULL;
  if (ctl_is(ino)) {
    ctl_write(file->ctl, req, data, size, offset);
    return;
  }
  if (!file || !file->file) {
    fuse_reply_err(req, EBADF);
    return;
  }
  g_mutex_lock(files_octets(fs, file));
  gboolean ok = engine_file_write(file->file, data, size, (guint64) offset, &error);
  g_mutex_unlock(files_octets(fs, file));
  if (ok) {
    files_written(fs, file, fi->writepage);
    fuse_reply_write(req, size);
  } else {
    reply_error_node(req, error);
  }
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi) {
  OpenFile *file = files_of(fi);
  g_autoptr(GError) error = NULL;
  if (file && file->file && !engine_file_sync(file->file, &error))
    reply_error_node(req, error);
  else
    fuse_reply_err(req, 0);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi) {
  fuse_reply_err(req, EOPNOTSUPP);
}

/* ---- commit ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req; /* NULL: nobody waits */
  guint64 park;
  OpenFile *file; /* a reference */
} CommitWait;

static void on_commit(gpointer data, const GError *error) {
  CommitWait *wait = data;
  if (!wait->req && error)
    log_error("what was written could not be stored: %s", error->message);
  files_unref(wait->fs, wait->file);
  park_end(wait->fs->parks, wait->park);
  if (wait->req && error)
    reply_error_node(wait->req, error);
  else if (wait->req)
    fuse_reply_err(wait->req, 0);
  g_free(wait);
}

/* Of what is written while this goes on there will be another one. */
static void commit(Fs *fs, fuse_req_t req, OpenFile *file) {
  g_atomic_int_set(&file->changes, CHANGES_NONE);
  CommitWait *wait = g_new0(CommitWait, 1);
  *wait = (CommitWait){.fs = fs, .req = req, .file = files_ref(fs, file)};
  EngineFile *octets = file->file;
  guint64 park = wait->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_file_commit(octets, on_commit, wait));
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  OpenFile *file = files_of(fi);
  pid_t thread = fuse_req_ctx(req)->pid;
  gint changes = file && file->file ? g_atomic_int_get(&file->changes) : CHANGES_NONE;
  gboolean killed = changes != CHANGES_NONE && files_is_killed(thread);
  if (changes != CHANGES_NONE)
    g_atomic_int_set(&file->abandoned, killed);
  if (changes == CHANGES_WRITTEN && !killed
      && (thread == file->owner || files_process(thread) == file->owner)
      && engine_file_is_dirty(file->file))
    commit(fs, req, file);
  else
    fuse_reply_err(req, 0);
}

/* What the kernel knows of a message that was open for writing may be of octets that it never got. */
static void tell_kernel(Fs *fs, fuse_ino_t ino) {
  Node node;
  if (!node_parse(ino, &node) || node.kind != NODE_MESSAGE)
    return;
  g_autoptr(EngineFolder) folder = engine_folder_by_space(fs->engine, node.id, NULL);
  EngineNews news = {.kind = ENGINE_NEWS_MESSAGE_SIZE, .folder = folder ? folder->id : 0,
                     .msg = {node.id, node.uid}};
  notify_news(&news, 1, fs->notify);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  OpenFile *file = files_of(fi);
  gboolean writable = file && file->writable;
  if (file && file->file && g_atomic_int_get(&file->changes) != CHANGES_NONE
      && engine_file_is_dirty(file->file)) {
    if (g_atomic_int_get(&file->abandoned))
      log_info("what a program was writing when it was killed is not stored on the server");
    else
      commit(fs, NULL, file);
  }
  if (file)
    files_unref(fs, file);
  if (writable)
    tell_kernel(fs, ino);
  fuse_reply_err(req, 0);
}

/* ---- copy_file_range ---- */

/* How many octets the message has that is open as @fi, G_MAXUINT64: that is not what it is. */
static guint64 message_size(Fs *fs, EngineMsg msg, const struct fuse_file_info *fi) {
  const OpenFile *file = files_of(fi);
  if (file && file->body)
    return engine_body_size(file->body);
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, msg, NULL);
  return message ? message->size : G_MAXUINT64;
}

static void op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t offset_in,
                               struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t offset_out,
                               struct fuse_file_info *fi_out, size_t length, int flags) {
  Fs *fs = fuse_req_userdata(req);
  OpenFile *file = files_of(fi_out);
  Node node;
  if (!node_parse(ino_in, &node) || node.kind != NODE_MESSAGE || !file || !file->file || offset_in
      || offset_out) {
    fuse_reply_err(req, EOPNOTSUPP); /* the kernel then reads and writes */
    return;
  }
  EngineMsg msg = {node.id, node.uid};
  guint64 size = message_size(fs, msg, fi_in);
  gboolean cloned = FALSE;
  if (size && size <= length) {
    g_mutex_lock(files_octets(fs, file));
    cloned = engine_file_clone(file->file, msg);
    g_mutex_unlock(files_octets(fs, file));
  }
  if (cloned) {
    files_written(fs, file, FALSE);
    fuse_reply_write(req, size);
  } else {
    fuse_reply_err(req, EOPNOTSUPP);
  }
}

/* ---- setattr ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  fuse_ino_t ino;
  struct stat before;
  guint64 size;
} TruncateWait;

static void on_truncated(gpointer data, const GError *error) {
  TruncateWait *wait = data;
  struct stat st;
  Node node;
  park_end(wait->fs->parks, wait->park);
  if (error) {
    reply_error_node(wait->req, error);
  } else {
    /* It may be another message by now. */
    if (!node_parse(wait->ino, &node) || !stat_node(wait->fs, node, &st, NULL)) {
      st = wait->before;
      st.st_size = (off_t) wait->size;
      st.st_blocks = (blkcnt_t) ((wait->size + 511) / 512);
    }
    fuse_reply_attr(wait->req, &st, 0);
  }
  g_free(wait);
}

/* What somebody has open is truncated under him, and committed when he closes it. */
static void set_size(Fs *fs, fuse_req_t req, fuse_ino_t ino, Node node, guint64 size,
                     const struct fuse_file_info *fi) {
  g_autoptr(GError) error = NULL;
  OpenFile *file = fi && files_of(fi) && files_of(fi)->file ? files_ref(fs, files_of(fi))
                                                            : files_find(fs, ino);
  if (file) {
    g_mutex_lock(files_octets(fs, file));
    gboolean ok = engine_file_truncate(file->file, size, &error);
    g_mutex_unlock(files_octets(fs, file));
    if (ok)
      files_written(fs, file, FALSE);
    files_unref(fs, file);
    if (ok)
      reply_attributes(fs, req, ino);
    else
      reply_error_node(req, error);
    return;
  }
  TruncateWait *wait = g_new0(TruncateWait, 1);
  *wait = (TruncateWait){.fs = fs, .req = req, .ino = ino, .size = size};
  if (!stat_node(fs, node, &wait->before, &error)) {
    reply_error_node(req, error);
    g_free(wait);
    return;
  }
  EngineMsg msg;
  guint32 local;
  files_engine_id(node, &msg, &local);
  guint64 park = wait->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_truncate(fs->engine, msg, local, size, on_truncated, wait));
}

/* A message has its INTERNALDATE for good; a file on its way to be one can still be given it, and so can
 * what is about to replace a message. */
static gboolean set_mtime(Fs *fs, fuse_ino_t ino, Node node, const struct timespec *mtime,
                          GError **error) {
  guint32 local = node.kind == NODE_LOCAL ? node.id : 0;
  OpenFile *file = local ? NULL : files_find(fs, ino);
  if (file) {
    local = engine_file_is_dirty(file->file) ? engine_file_local(file->file) : 0;
    files_unref(fs, file);
  }
  if (local) {
    gint64 time = mtime ? mtime->tv_sec * NANOSECONDS + mtime->tv_nsec : g_get_real_time() * 1000;
    return engine_local_set_mtime(fs->engine, local, time, error);
  }
  EngineMsg msg = {node.id, node.uid};
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, msg, error);
  if (message && mtime && mtime->tv_sec == message->mtime)
    return TRUE;
  if (message)
    g_set_error(error, EML_ERROR, EML_ERROR_FIXED, "the date of a message cannot be changed");
  return FALSE;
}

/* Modes and groups are for programs that want to keep them (cp -p, rsync, tar, git): they mean nothing
 * here, and neither do the times of folders, nor of what was put into a Maildir: mutt sets them last, and
 * takes the message for lost when it cannot. */
static void set_attributes(Fs *fs, fuse_req_t req, fuse_ino_t ino, const struct stat *attr,
                           int to_set, const struct fuse_file_info *fi) {
  g_autoptr(GError) error = NULL;
  Node node;
  gboolean now = (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  gboolean is_file = node.kind == NODE_MESSAGE || (node.kind == NODE_LOCAL && !node.uid);
  if (node.kind == NODE_CONTROL_DIR || node.kind == NODE_CONTROL_FILE
      || (node.kind == NODE_MAILDIR && node.uid == MAILDIR_KEYWORDS))
    fuse_reply_err(req, EROFS);
  else if ((to_set & FUSE_SET_ATTR_UID) && attr->st_uid != fs->uid)
    fuse_reply_err(req, EPERM);
  else if (is_file && (to_set & FUSE_SET_ATTR_SIZE))
    set_size(fs, req, ino, node, (guint64) attr->st_size, fi);
  else if (is_file && (to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW))
           && !set_mtime(fs, ino, node, now ? NULL : &attr->st_mtim, &error)
           && !(g_error_matches(error, EML_ERROR, EML_ERROR_FIXED) && view_was_put(fs, node)))
    reply_error_node(req, error);
  else
    reply_attributes(fs, req, ino);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  int by_truncation = FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW
                      | FUSE_SET_ATTR_CTIME;
  if (ctl_is(ino) && (to_set & FUSE_SET_ATTR_SIZE) && !(to_set & ~by_truncation))
    ctl_setattr(fs, req);
  else if (!replay_setattr(fs->replay, req, ino))
    set_attributes(fs, req, ino, attr, to_set, fi);
}

void ops_write_add(struct fuse_lowlevel_ops *ops) {
  ops->create = op_create;
  ops->write = op_write;
  ops->fsync = op_fsync;
  ops->fallocate = op_fallocate;
  ops->flush = op_flush;
  ops->release = op_release;
  ops->copy_file_range = op_copy_file_range;
  ops->setattr = op_setattr;
}
