/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Pushes into the kernel's page cache what will be read next, so that a reader who goes through a
 * folder (grep -r, tar) finds the pages there and sends no READ.
 *
 * A READ says that its reader works with a cold cache and where he is. Two in the order of UIDs,
 * and the bodies that follow and are on disk are pushed by a thread of its own, in steps that
 * double. One of each step is left out: its READ tells that the reader follows, and asks for the
 * next step. So a reader whose pages are all there costs nothing, and one who stops leaves at most
 * a step behind.
 *
 * What keeps it harmless: only bodies whose octets the store has whole are pushed, and those never
 * change; a message that was open for writing is left alone. The kernel takes them only for nodes
 * that it knows. The thread may wait inside the kernel for a page that a READ has locked, so no
 * thread that answers requests ever waits for it; nothing is pushed while a change of size is on
 * its way to the kernel.
 */
#pragma once

#include "fs/fs.h"

/* Starts the thread. No argument is owned. */
Ahead *ahead_new(struct fuse_session *session, Fs *fs);

/* Somebody reads the first octets of @msg. Returns at once. */
void ahead_read(Ahead *ahead, EngineMsg msg);

/* Waits @ms for the thread to end. FALSE: it is inside the kernel; call again once the connection
 * is aborted. */
gboolean ahead_stop(Ahead *ahead, guint ms);
/* After ahead_stop succeeded. */
void ahead_free(Ahead **ahead);
