/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * init and statfs.
 */
#include "fs/fs.h"

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
  /* "> message" then opens it without fetching what is to be thrown away, as one request. */
  conn->want |= conn->capable & FUSE_CAP_ATOMIC_O_TRUNC;
  conn->want &= ~(unsigned) FUSE_CAP_WRITEBACK_CACHE; /* sizes change on the server, too */
  conn->max_background = 64;
  conn->congestion_threshold = 48;
}

void ops_fs_add(struct fuse_lowlevel_ops *ops) {
  ops->init = op_init;
  ops->statfs = op_statfs;
}
