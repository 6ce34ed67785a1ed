/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Ends the mount on SIGTERM, SIGINT or SIGHUP. One thread takes these signals (all others block
 * them), so what it does need not be signal-safe.
 *
 * Order: nothing parks any more and what is parked is cancelled; the threads that talk to the
 * kernel end while requests are still being answered (they may wait for them); the mount is
 * detached, lazily, so that a shell inside does not keep it; the connection is aborted, which ends
 * the session's loop.
 */
#pragma once

#include "fs/fs.h"

typedef struct Stopper Stopper;

/* Blocks the signals in this thread and those that it starts; call in the main thread, before any
 * other exists. Until stopper_mounted a signal cancels @cancellable, a second one exits. */
Stopper *stopper_new(GCancellable *cancellable);

/* From now on a signal ends the mount. The caller runs the session loop next. */
void stopper_mounted(Stopper *stopper, Fs *fs, struct fuse_session *session, const char *path,
                     guint32 minor);

/* After the loop: waits for a stop that is under way. */
void stopper_free(Stopper **stopper);
