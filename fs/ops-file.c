/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * open, read, release of messages, local files and the virtual files. What is written: ops-write.c.
 *
 * Ctrl-C ends a waiting OPEN, but never a buffered READ: the kernel holds the page and sends no
 * INTERRUPT. So the engine fetches small bodies at open, and a READ of a large one is bounded by
 * the engine's deadline. Direct I/O would be interruptible, but rules out mmap.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "fs/ahead.h"
#include "fs/ctl.h"
#include "fs/files.h"
#include "fs/maildir-view.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/reply.h"
#include "fs/virtual.h"

/* ---- open ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  fuse_ino_t ino;
  struct fuse_file_info fi;
  EngineBody *body;
} OpenWait;

static void reply_body(gpointer data) {
  OpenWait *wait = data;
  wait->fi.keep_cache = !files_was_edited(wait->fs, wait->ino); /* else messages never change */
  files_reply(wait->fs, wait->req, &wait->fi, (OpenFile){.body = wait->body, .ino = wait->ino}, NULL);
  g_free(wait);
}

static void on_body(EngineBody *body, gpointer data, const GError *error) {
  OpenWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error) {
    reply_error(wait->req, error);
    g_free(wait);
    return;
  }
  /* Fetching it may have corrected its size. The reader must not see the old end of file. */
  wait->body = body;
  notify_after_sizes(wait->fs->notify, reply_body, wait);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  gboolean writes = (fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC);
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if (view_open(fs, req, ino, fi)) {
    return;
  } else if (ctl_is(ino)) {
    fi->direct_io = 1;
    files_reply(fs, req, fi, (OpenFile){.ctl = ctl_new(fs->engine), .ino = ino}, NULL);
  } else if (node.kind == NODE_CONTROL_FILE && virtual_name(node.id)) {
    if (writes) {
      fuse_reply_err(req, EROFS);
      return;
    }
    fi->direct_io = 1;
    files_reply(fs, req, fi, (OpenFile){.text = virtual_open(fs->virtual, node.id), .ino = ino},
                NULL);
  } else if ((node.kind == NODE_LOCAL && !node.uid) || (node.kind == NODE_MESSAGE && writes)) {
    files_open(fs, req, node, fi, NULL);
  } else if (node.kind == NODE_MESSAGE) {
    OpenWait *wait = g_new0(OpenWait, 1);
    *wait = (OpenWait){.fs = fs, .req = req, .ino = ino, .fi = *fi};
    guint64 park = wait->park = park_begin(fs->parks, req);
    EngineMsg msg = {node.id, node.uid};
    park_waits(fs->parks, park, engine_body_open(fs->engine, msg, on_body, wait));
  } else {
    fuse_reply_err(req, EISDIR);
  }
}

/* ---- read ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  char *data; /* of a reply that has to wait for a change of size */
  gsize size;
} ReadWait;

/* A thread's buffer for replies: an allocation of this size each time would be an mmap each time.
 * (fuse_reply_data does just that; splice is slower with few workers.) */
typedef struct {
  gsize size;
  char *data;
} ReadBuffer;

static void read_buffer_free(gpointer data) {
  g_free(((ReadBuffer *) data)->data);
  g_free(data);
}

static char *read_buffer(gsize size) {
  static GPrivate key = G_PRIVATE_INIT(read_buffer_free);
  ReadBuffer *buffer = g_private_get(&key);
  if (!buffer) {
    buffer = g_new0(ReadBuffer, 1);
    g_private_set(&key, buffer);
  }
  if (buffer->size < size) {
    g_free(buffer->data);
    buffer->data = g_malloc(size);
    buffer->size = size;
  }
  return buffer->data;
}

static void reply_read(gpointer data) {
  ReadWait *wait = data;
  fuse_reply_buf(wait->req, wait->data, wait->size);
  g_free(wait->data);
  g_free(wait);
}

static void on_read(int fd, gint64 offset, gsize size, gpointer data, const GError *error) {
  ReadWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error) {
    reply_error_node(wait->req, error);
    g_free(wait);
    return;
  }
  char *buffer = read_buffer(size);
  gsize done = 0;
  int failure = 0;
  while (done < size && !failure) {
    gssize got = pread(fd, buffer + done, size - done, offset + (gint64) done);
    if (got > 0)
      done += (gsize) got;
    else if (got == 0 || errno != EINTR)
      failure = got == 0 ? EIO : errno;
  }
  if (failure) {
    g_autoptr(GError) local = NULL;
    eml_error_set_errno(&local, EML_ERROR_FAILED, failure, "cannot read a cached body");
    reply_error(wait->req, local);
  } else if (notify_has_sizes(wait->fs->notify)) {
    /* It may have turned out that the message goes on: the reader must not see the old end. */
    wait->data = g_memdup2(buffer, size);
    wait->size = size;
    notify_after_sizes(wait->fs->notify, reply_read, wait);
    return;
  } else {
    fuse_reply_buf(wait->req, buffer, size);
  }
  g_free(wait);
}

/* The local disk is all that this waits for. */
static void read_file(Fs *fs, fuse_req_t req, OpenFile *file, gsize size, off_t offset) {
  char *buffer = read_buffer(size);
  g_autoptr(GError) error = NULL;
  gsize done = 0;
  g_mutex_lock(files_octets(fs, file));
  int fd = engine_file_fd(file->file, &error);
  while (fd >= 0 && done < size && !error) {
    gssize got = pread(fd, buffer + done, size - done, offset + (off_t) done);
    if (got == 0)
      break;
    if (got > 0)
      done += (gsize) got;
    else if (errno != EINTR)
      eml_error_set_errno(&error, EML_ERROR_FAILED, errno, "cannot read a local file");
  }
  g_mutex_unlock(files_octets(fs, file));
  if (error)
    reply_error_node(req, error);
  else
    fuse_reply_buf(req, buffer, done);
}

static void read_body(Fs *fs, fuse_req_t req, OpenFile *file, gsize size, off_t offset) {
  Node node;
  if (offset == 0 && node_parse(file->ino, &node))
    ahead_read(fs->ahead, (EngineMsg){node.id, node.uid});
  ReadWait *wait = g_new0(ReadWait, 1);
  *wait = (ReadWait){.fs = fs, .req = req};
  guint64 park = wait->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park,
             engine_body_read(file->body, (guint64) offset, size, on_read, wait));
}

static void read_text(fuse_req_t req, const VirtualText *text, gsize size, off_t offset) {
  gsize have;
  const char *data = virtual_data(text, &have);
  gsize from = MIN((gsize) offset, have), count = MIN(size, have - from);
  /* A copy: once it is answered the file may be closed, before the call that answers has returned. */
  char *buffer = read_buffer(count);
  if (count)
    memcpy(buffer, data + from, count);
  fuse_reply_buf(req, buffer, count);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  OpenFile *file = files_of(fi);
  if (!file)
    fuse_reply_err(req, EIO);
  else if (view_read(req, ino, size, offset))
    return;
  else if (file->ctl)
    ctl_read(file->ctl, req, size, offset);
  else if (file->text)
    read_text(req, file->text, size, offset);
  else if (file->file)
    read_file(fs, req, file, size, offset);
  else
    read_body(fs, req, file, size, offset);
}

void ops_file_add(struct fuse_lowlevel_ops *ops) {
  ops->open = op_open;
  ops->read = op_read;
}
