/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * inotify for what happens on the server.
 *
 * No notification to the kernel raises an inotify event; only what is done through the mount does.
 * So a thread does it there once more: a new message is created, a gone one unlinked, a changed one
 * has its times set, folders are made and removed. The handlers know these calls by the thread
 * that makes them and by the one change that it announces at that moment, and answer as if they
 * had just done it; everybody else's calls are done. Should the thread not be known by its requests (a
 * mount in another PID namespace), it makes none.
 *
 * What is seen: a new message IN_CREATE, IN_OPEN, IN_CLOSE_WRITE; a gone one IN_DELETE; flags
 * IN_ATTRIB; folders IN_CREATE and IN_DELETE with IN_ISDIR; a folder that was listed anew as a
 * whole IN_ATTRIB.
 *
 * The thread waits inside the kernel for the threads that answer requests, and holds the lock of a
 * directory meanwhile. So no thread that answers requests ever waits for it, nor does the notify
 * thread but inside the kernel. It is inside the mount only while it announces: between two
 * changes that are some time apart it holds neither a file nor a directory of it, so that an umount
 * is not refused because of it. It enters by the path of the mount, each time anew, and goes on
 * only if it has come to the root of this very mount: that may be covered, or gone.
 */
#pragma once

#include "fs/fs.h"

/* Starts the thread; @path and @minor say where the mount is, nothing but @path is copied. */
Replay *replay_new(Fs *fs, const char *path, guint32 minor);

/* An EngineNewsFn; queues changes that the kernel's caches have been told of. Copies and returns at
 * once. Changes that cancel each other out while they wait are dropped; when there are too many, it
 * is only told which folders changed. */
void replay_news(const EngineNews *news, gsize count, gpointer replay);

/* ---- handlers: each is TRUE when the request comes from the thread; it is answered then ---- */

gboolean replay_lookup(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean replay_create(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name,
                       struct fuse_file_info *fi);
gboolean replay_mkdir(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name);
/* unlink and rmdir */
gboolean replay_remove(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean replay_setattr(Replay *replay, fuse_req_t req, fuse_ino_t ino);

/* Takes no more news and waits @ms for the thread to end. FALSE: it is inside the kernel; call
 * again once the connection is aborted. */
gboolean replay_stop(Replay *replay, guint ms);
/* After replay_stop succeeded. */
void replay_free(Replay **replay);
