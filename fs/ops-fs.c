/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * statfs, init, and everything that would write: EROFS, but for .control/ctl (ops-file.c) and the
 * calls of replay.h. The mount is not "ro" for the kernel, since it will not stay so.
 */
#include "fs/fs.h"
#include "fs/replay.h"

static Replay *replay_of(fuse_req_t req) {
  return ((Fs *) fuse_req_userdata(req))->replay;
}

#define BLOCK 4096
/* Free space shown when the account has no limit: 1 PiB. Programs take 0 for a full disk. */
#define PLENTY (1ull << 50)

static void op_statfs(fuse_req_t req, fuse_ino_t ino) {
  Fs *fs = fuse_req_userdata(req);
  EngineQuota quota = {.limit = -1};
  engine_quota(fs->engine, &quota);
  guint64 used = quota.used > 0 ? (guint64) quota.used : 0;
  guint64 limit = quota.limit > 0 ? (guint64) quota.limit : used + PLENTY;
  guint64 blocks = MAX(limit / BLOCK, 1);
  guint64 taken = (used + BLOCK - 1) / BLOCK;
  struct statvfs st = {
      .f_bsize = BLOCK,
      .f_frsize = BLOCK,
      .f_blocks = blocks,
      .f_bfree = taken < blocks ? blocks - taken : 0,
      .f_files = quota.messages + G_MAXUINT32,
      .f_ffree = G_MAXUINT32,
      .f_favail = G_MAXUINT32,
      .f_namemax = 255,
  };
  st.f_bavail = st.f_bfree;
  fuse_reply_statfs(req, &st);
}

static void op_init(void *userdata, struct fuse_conn_info *conn) {
  /* The first listing brings all attributes along; "auto" would ask for each of them later. */
  conn->want |= conn->capable & FUSE_CAP_READDIRPLUS;
  conn->want &= ~(unsigned) FUSE_CAP_READDIRPLUS_AUTO;
  conn->want |= conn->capable & FUSE_CAP_PARALLEL_DIROPS;
  conn->want &= ~(unsigned) (FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
  conn->want &= ~(unsigned) (FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_WRITEBACK_CACHE);
  conn->max_background = 64;
  conn->congestion_threshold = 48;
}

static void no_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev) {
  fuse_reply_err(req, EROFS);
}
static void no_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  if (!replay_mkdir(replay_of(req), req, parent, name))
    fuse_reply_err(req, EROFS);
}
static void no_unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
  if (!replay_remove(replay_of(req), req, parent, name))
    fuse_reply_err(req, EROFS);
}
static void no_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
  fuse_reply_err(req, EROFS);
}
static void no_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned flags) {
  fuse_reply_err(req, EROFS);
}
static void no_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname) {
  fuse_reply_err(req, EROFS);
}
static void no_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi) {
  if (!replay_create(replay_of(req), req, parent, name, fi))
    fuse_reply_err(req, EROFS);
}
static void no_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
                         struct fuse_file_info *fi) {
  fuse_reply_err(req, EROFS);
}
static void no_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags) {
  fuse_reply_err(req, EROFS);
}
static void no_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) {
  fuse_reply_err(req, EROFS);
}

void ops_fs_add(struct fuse_lowlevel_ops *ops) {
  ops->init = op_init;
  ops->statfs = op_statfs;
  ops->mknod = no_mknod;
  ops->mkdir = no_mkdir;
  ops->unlink = no_unlink;
  ops->rmdir = no_unlink;
  ops->symlink = no_symlink;
  ops->rename = no_rename;
  ops->link = no_link;
  ops->create = no_create;
  ops->fallocate = no_fallocate;
  ops->setxattr = no_setxattr;
  ops->removexattr = no_removexattr;
}
