/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/ahead.h"

#include <fcntl.h>
#include <unistd.h>

#include "fs/files.h"
#include "fs/notify.h"

#define READERS 4 /* followed at a time, one a folder */
#define STEPS 2   /* reads in order that make a reader */
#define STRIDE 4096 /* UIDs; who skips more is not reading in order */
#define GONE_US (3 * G_USEC_PER_SEC)
#define FIRST 16 /* messages pushed at first … */
#define MOST 512 /* … and at most in one step, */
#define MOST_BYTES (8 * 1024 * 1024) /* which together have no more octets than this */
#define BODY_BYTES (1024 * 1024) /* of one message; further on the kernel reads ahead by itself */
#define DISK_DEPTH 8 /* bodies being read from the disk at a time */

/* Who reads a folder in the order of UIDs. */
typedef struct {
  guint32 space; /* 0: unused */
  guint32 last;  /* UID whose READ was seen last */
  guint steps;   /* so many in order */
  guint32 next;  /* all up to here were pushed or skipped */
  guint32 probe; /* the one left out; 0: none */
  guint count;   /* length of the next step */
  gboolean due;  /* the thread is to make it */
  gint64 seen;   /* monotonic µs, when `last` was */
} Follow;

struct Ahead {
  struct fuse_session *session;
  Fs *fs;
  GThread *thread;
  char *buffer; /* BODY_BYTES; the thread's */

  GMutex lock; /* guards what follows; a leaf */
  GCond wake;
  Follow readers[READERS];
  gboolean stopping, stopped;
};

static Follow *find_locked(Ahead *ahead, guint32 space) {
  for (guint i = 0; i < READERS; i++)
    if (ahead->readers[i].space == space)
      return &ahead->readers[i];
  return NULL;
}

static Follow *replace_locked(Ahead *ahead, guint32 space) {
  Follow *oldest = &ahead->readers[0];
  for (guint i = 1; i < READERS; i++)
    if (ahead->readers[i].seen < oldest->seen)
      oldest = &ahead->readers[i];
  *oldest = (Follow){.space = space};
  return oldest;
}

void ahead_read(Ahead *ahead, EngineMsg msg) {
  gint64 now = g_get_monotonic_time();
  g_mutex_lock(&ahead->lock);
  Follow *reader = find_locked(ahead, msg.space);
  if (!reader)
    reader = replace_locked(ahead, msg.space);
  gboolean in_order = msg.uid > reader->last && msg.uid - reader->last <= STRIDE
                      && now - reader->seen < GONE_US;
  if (!in_order)
    *reader = (Follow){.space = msg.space, .count = FIRST};
  reader->last = msg.uid;
  reader->seen = now;
  reader->steps += in_order;
  gboolean asks = msg.uid == reader->probe || msg.uid > reader->next;
  if (asks && reader->steps >= STEPS && !reader->due) {
    reader->due = TRUE;
    reader->probe = 0;
    reader->next = MAX(reader->next, msg.uid);
    g_cond_broadcast(&ahead->wake);
  }
  g_mutex_unlock(&ahead->lock);
}

/* ---- the thread ---- */

typedef struct {
  char *buffer;
  gboolean ok;
} Reading;

static void on_octets(int fd, gint64 offset, gsize size, gpointer data, const GError *error) {
  Reading *reading = data;
  reading->ok = !error && pread(fd, reading->buffer, size, offset) == (gssize) size;
}

static void on_place(int fd, gint64 offset, gsize size, gpointer data, const GError *error) {
  if (!error)
    posix_fadvise(fd, offset, (off_t) size, POSIX_FADV_WILLNEED);
}

/* A body whose octets are being read from the disk, until it is pushed. */
typedef struct {
  EngineMsg msg;
  EngineBody *body;
} Coming;

/* Where the step is to go on after @uid, 0: nowhere. The reader may have overtaken it. */
static guint32 position(Ahead *ahead, guint32 space, guint32 uid) {
  g_mutex_lock(&ahead->lock);
  Follow *reader = find_locked(ahead, space);
  guint32 at = reader && !ahead->stopping ? MAX(uid, reader->last) : 0;
  g_mutex_unlock(&ahead->lock);
  return at;
}

static void set_probe(Ahead *ahead, guint32 space, guint32 uid) {
  g_mutex_lock(&ahead->lock);
  Follow *reader = find_locked(ahead, space);
  if (reader)
    reader->probe = uid;
  g_mutex_unlock(&ahead->lock);
}

/* Pushes the first octets of what comes next, unless the reader is there already. FALSE: the kernel
 * does not know the node. */
static gboolean push(Ahead *ahead, const Coming *coming) {
  EngineMsg msg = coming->msg;
  gsize size = (gsize) MIN(engine_body_size(coming->body), BODY_BYTES);
  guint64 ino = node_message_ino(msg.space, msg.uid);
  if (!size || position(ahead, msg.space, msg.uid) != msg.uid || files_was_edited(ahead->fs, ino))
    return TRUE;
  Reading reading = {ahead->buffer, FALSE};
  engine_body_read(coming->body, 0, size, on_octets, &reading);
  if (!reading.ok || notify_has_sizes(ahead->fs->notify))
    return TRUE;
  struct fuse_bufvec octets = FUSE_BUFVEC_INIT(size);
  octets.buf[0].mem = ahead->buffer;
  int stored = fuse_lowlevel_notify_store(ahead->session, ino, 0, &octets, FUSE_BUF_NO_SPLICE);
  if (files_was_edited(ahead->fs, ino)) /* opened for writing meanwhile: these are not its octets */
    fuse_lowlevel_notify_inval_inode(ahead->session, ino, 0, 0);
  return stored != -ENOENT;
}

/* Pushes @count messages after @uid. The one in the middle is the probe, so that the next step has
 * begun before the reader is through with this one. Returns up to where nothing is left to do. */
static guint32 step(Ahead *ahead, guint32 space, guint32 uid, guint count) {
  Coming coming[DISK_DEPTH];
  guint64 bytes = 0;
  guint taken = 0, pushed = 0;
  gboolean probed = FALSE, useful = TRUE, more = TRUE;
  while (pushed < taken || more) {
    more = more && taken < count && bytes < MOST_BYTES && useful;
    if (more && taken - pushed < DISK_DEPTH) {
      EngineMsg msg = {space, position(ahead, space, uid)};
      EngineBody *body = msg.uid ? engine_body_next(ahead->fs->engine, &msg) : NULL;
      if (!body) {
        useful = FALSE; /* what follows has to be fetched first */
        continue;
      }
      uid = msg.uid;
      guint64 size = MIN(engine_body_size(body), BODY_BYTES);
      bytes += size;
      if (!probed && size && (taken >= count / 2 || bytes >= MOST_BYTES / 2)) {
        set_probe(ahead, space, uid);
        probed = TRUE;
        engine_body_close(&body);
        continue;
      }
      engine_body_read(body, 0, size, on_place, NULL);
      coming[taken++ % DISK_DEPTH] = (Coming){msg, body};
      continue;
    }
    if (pushed == taken)
      break;
    Coming *first = &coming[pushed++ % DISK_DEPTH];
    useful = push(ahead, first) && useful; /* else he goes by names, not by a listing */
    engine_body_close(&first->body);
  }
  return useful ? uid : uid + STRIDE / 4;
}

static Follow *due_locked(Ahead *ahead) {
  for (guint i = 0; i < READERS; i++)
    if (ahead->readers[i].due)
      return &ahead->readers[i];
  return NULL;
}

static gpointer ahead_thread(gpointer data) {
  Ahead *ahead = data;
  g_mutex_lock(&ahead->lock);
  while (!ahead->stopping) {
    Follow *reader = due_locked(ahead);
    if (!reader) {
      g_cond_wait(&ahead->wake, &ahead->lock);
      continue;
    }
    guint32 space = reader->space, from = reader->next;
    guint count = reader->count;
    g_mutex_unlock(&ahead->lock);
    guint32 next = step(ahead, space, from, count);
    g_mutex_lock(&ahead->lock);
    reader = find_locked(ahead, space); /* it may have been begun anew */
    if (reader && reader->due && reader->next == from) {
      reader->due = FALSE;
      reader->next = MAX(next, from);
      reader->count = MIN(2 * count, MOST);
    }
  }
  ahead->stopped = TRUE;
  g_cond_broadcast(&ahead->wake);
  g_mutex_unlock(&ahead->lock);
  return NULL;
}

/* ---- life ---- */

Ahead *ahead_new(struct fuse_session *session, Fs *fs) {
  Ahead *ahead = g_new0(Ahead, 1);
  g_mutex_init(&ahead->lock);
  g_cond_init(&ahead->wake);
  ahead->session = session;
  ahead->fs = fs;
  ahead->buffer = g_malloc(BODY_BYTES);
  ahead->thread = g_thread_new("ahead", ahead_thread, ahead);
  return ahead;
}

gboolean ahead_stop(Ahead *ahead, guint ms) {
  gint64 until = g_get_monotonic_time() + (gint64) ms * 1000;
  g_mutex_lock(&ahead->lock);
  ahead->stopping = TRUE;
  g_cond_broadcast(&ahead->wake);
  while (!ahead->stopped && g_cond_wait_until(&ahead->wake, &ahead->lock, until))
    ;
  gboolean stopped = ahead->stopped;
  g_mutex_unlock(&ahead->lock);
  return stopped;
}

void ahead_free(Ahead **ahead_inout) {
  Ahead *ahead = g_steal_pointer(ahead_inout);
  if (!ahead)
    return;
  g_thread_join(ahead->thread);
  g_cond_clear(&ahead->wake);
  g_mutex_clear(&ahead->lock);
  g_free(ahead->buffer);
  g_free(ahead);
}
