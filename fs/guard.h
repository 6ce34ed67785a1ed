/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A small process that outlives a killed daemon for a moment.
 *
 * A daemon that is killed while one of its threads waits inside the kernel for the mount itself
 * (a notification that waits for a directory which a reader holds) never closes /dev/fuse: that
 * thread cannot die before the request is answered, and the request cannot be answered. The
 * readers are then stuck for good. The guard aborts the connection and detaches the mount.
 *
 * It learns of the death by PR_SET_PDEATHSIG, which fires as soon as the *thread* that forked it
 * is gone, whatever the other threads of that process still hang in (a pidfd and the end of a pipe
 * do not). So the main thread forks it and lives as long as the daemon does. It holds no file of
 * the mount, no /dev/fuse, no terminal and no working directory.
 */
#pragma once

#include <glib.h>

typedef struct Guard Guard;

/* Before any thread exists. */
Guard *guard_start(GError **error);

/* What to end when the daemon dies: the mount on @path with device minor @minor. */
void guard_watch(Guard *guard, guint32 minor, const char *path);

/* A clean end: it leaves and is reaped. */
void guard_dismiss(Guard **guard);
