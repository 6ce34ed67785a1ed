/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * open, read, release of messages and of the virtual files.
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
#include "fs/fs.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/replay.h"
#include "fs/reply.h"
#include "fs/virtual.h"

/* A file handle: one of the three. */
typedef struct {
  EngineBody *body;
  VirtualText *text;
  Ctl *ctl;
} OpenFile;

struct OpenFiles {
  Fs *fs;
  GMutex lock; /* guards `files`; a leaf */
  GHashTable *files; /* OpenFile */
};

static void file_close(Fs *fs, OpenFile *file) {
  if (file->body)
    engine_body_close(&file->body);
  if (file->text)
    virtual_close(fs->virtual, file->text);
  if (file->ctl)
    ctl_free(file->ctl);
  g_free(file);
}

OpenFiles *open_files_new(Fs *fs) {
  OpenFiles *files = g_new0(OpenFiles, 1);
  files->fs = fs;
  g_mutex_init(&files->lock);
  files->files = g_hash_table_new(g_direct_hash, g_direct_equal);
  return files;
}

void open_files_free(OpenFiles **files_inout) {
  OpenFiles *files = g_steal_pointer(files_inout);
  if (!files)
    return;
  GHashTableIter iter;
  gpointer file;
  g_hash_table_iter_init(&iter, files->files);
  while (g_hash_table_iter_next(&iter, &file, NULL))
    file_close(files->fs, file);
  g_hash_table_unref(files->files);
  g_mutex_clear(&files->lock);
  g_free(files);
}

static OpenFile *file_of(const struct fuse_file_info *fi) {
  return (OpenFile *) (uintptr_t) fi->fh;
}

static void release_file(Fs *fs, OpenFile *file) {
  g_mutex_lock(&fs->files->lock);
  g_hash_table_remove(fs->files->files, file);
  g_mutex_unlock(&fs->files->lock);
  file_close(fs, file);
}

/* Takes ownership of what is in @opened. */
static void reply_file(Fs *fs, fuse_req_t req, struct fuse_file_info *fi, OpenFile opened) {
  OpenFile *file = g_memdup2(&opened, sizeof opened);
  g_mutex_lock(&fs->files->lock);
  g_hash_table_add(fs->files->files, file);
  g_mutex_unlock(&fs->files->lock);
  fi->fh = (uintptr_t) file;
  fi->noflush = 1;
  if (fuse_reply_open(req, fi) != 0)
    release_file(fs, file); /* nobody took it, so no RELEASE will come */
}

/* ---- open ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  struct fuse_file_info fi;
  EngineBody *body;
} OpenWait;

static void reply_body(gpointer data) {
  OpenWait *wait = data;
  wait->fi.keep_cache = 1; /* messages never change */
  reply_file(wait->fs, wait->req, &wait->fi, (OpenFile){.body = wait->body});
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
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if (ctl_is(ino)) {
    fi->direct_io = 1;
    reply_file(fs, req, fi, (OpenFile){.ctl = ctl_new(fs->engine)});
  } else if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
    fuse_reply_err(req, EROFS);
  } else if (node.kind == NODE_MESSAGE) {
    OpenWait *wait = g_new0(OpenWait, 1);
    *wait = (OpenWait){.fs = fs, .req = req, .fi = *fi};
    guint64 park = wait->park = park_begin(fs->parks, req);
    EngineMsg msg = {node.id, node.uid};
    park_waits(fs->parks, park, engine_body_open(fs->engine, msg, on_body, wait));
  } else if (node.kind == NODE_CONTROL_FILE && virtual_name(node.id)) {
    fi->direct_io = 1;
    reply_file(fs, req, fi, (OpenFile){.text = virtual_open(fs->virtual, node.id)});
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

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if (ctl_is(ino)) {
    ctl_read(file_of(fi)->ctl, req, size, offset);
  } else if (node.kind == NODE_CONTROL_FILE) {
    gsize have;
    const char *data = virtual_data(file_of(fi)->text, &have);
    gsize from = MIN((gsize) offset, have), count = MIN(size, have - from);
    /* A copy: once it is answered the file may be closed, before the call that answers has returned. */
    char *buffer = read_buffer(count);
    if (count)
      memcpy(buffer, data + from, count);
    fuse_reply_buf(req, buffer, count);
  } else {
    ReadWait *wait = g_new0(ReadWait, 1);
    *wait = (ReadWait){.fs = fs, .req = req};
    guint64 park = wait->park = park_begin(fs->parks, req);
    EngineBody *body = file_of(fi)->body;
    if (offset == 0)
      ahead_read(fs->ahead, (EngineMsg){node.id, node.uid});
    park_waits(fs->parks, park, engine_body_read(body, (guint64) offset, size, on_read, wait));
  }
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
                     struct fuse_file_info *fi) {
  if (ctl_is(ino))
    ctl_write(file_of(fi)->ctl, req, data, size, offset);
  else
    fuse_reply_err(req, EROFS);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                       struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  int by_truncation = FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW
                      | FUSE_SET_ATTR_CTIME;
  if (ctl_is(ino) && (to_set & FUSE_SET_ATTR_SIZE) && !(to_set & ~by_truncation))
    ctl_setattr(fs, req);
  else if (!replay_setattr(fs->replay, req, ino))
    fuse_reply_err(req, EROFS);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  if (fi->fh) /* what replay.c created has none */
    release_file(fuse_req_userdata(req), file_of(fi));
  fuse_reply_err(req, 0);
}

void ops_file_add(struct fuse_lowlevel_ops *ops) {
  ops->open = op_open;
  ops->read = op_read;
  ops->write = op_write;
  ops->setattr = op_setattr;
  ops->release = op_release;
}
