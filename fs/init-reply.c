/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/init-reply.h"

#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"

#ifdef HAVE_CUSTOM_IO

#define DONE G_MAXINT64

/* Fs.init_unique: 0 until INIT has come, then the number its reply will bear, DONE after that.
 * Only the thread that handles INIT writes it, before any other request is sent. */

static ssize_t io_read(int fd, void *buffer, size_t size, void *userdata) {
  Fs *fs = userdata;
  ssize_t got = read(fd, buffer, size);
  if (G_UNLIKELY(__atomic_load_n(&fs->init_unique, __ATOMIC_RELAXED) == 0)
      && got >= (ssize_t) (sizeof(struct fuse_in_header) + 16)) {
    const struct fuse_in_header *header = buffer;
    const struct fuse_init_in *in = (const void *) (header + 1);
    gboolean offered = in->flags & FUSE_PARALLEL_DIROPS;
    if (header->opcode == FUSE_INIT)
      __atomic_store_n(&fs->init_unique, offered ? (gint64) header->unique : DONE,
                       __ATOMIC_RELAXED);
  }
  return got;
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata) {
  Fs *fs = userdata;
  gint64 unique = __atomic_load_n(&fs->init_unique, __ATOMIC_RELAXED);
  const struct fuse_out_header *header = iov[0].iov_base;
  struct fuse_init_out out;
  if (G_UNLIKELY(unique != DONE && unique != 0) && (gint64) header->unique == unique && count == 2
      && header->error == 0 && iov[1].iov_len >= 24 && iov[1].iov_len <= sizeof out) {
    memcpy(&out, iov[1].iov_base, iov[1].iov_len);
    out.flags |= FUSE_PARALLEL_DIROPS;
    struct iovec changed[2] = {iov[0], {.iov_base = &out, .iov_len = iov[1].iov_len}};
    __atomic_store_n(&fs->init_unique, DONE, __ATOMIC_RELAXED);
    return writev(fd, changed, 2);
  }
  return writev(fd, iov, count);
}

void init_reply_fix(struct fuse_session *session, Fs *fs) {
  static const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};
  if (fuse_session_custom_io(session, &io, fuse_session_fd(session)) != 0)
    log_warning("lookups in one directory will be sent one at a time");
}

#else

void init_reply_fix(struct fuse_session *session, Fs *fs) {
}

#endif
