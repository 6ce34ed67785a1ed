/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tells the kernel what it must no longer believe. One thread takes what notify_news queued and
 * talks to the kernel, holding no lock.
 *
 * A notification may wait inside the kernel for requests of other processes (it takes the lock of
 * a directory that a LOOKUP or READDIR holds), so it never comes from a thread that answers
 * requests, and no such thread ever waits for it.
 *
 * Exactness. An answer that was computed before a change but reaches the kernel after its
 * notification would be believed for a day. Handlers that answer with entries therefore read the
 * index and reply between notify_enter and notify_leave, and the thread, before it notifies of
 * what it took from the queue, waits for all who entered before. The part inside the kernel (the
 * answer is written, but its reader has not processed it yet) is closed by first taking the
 * directory's lock once: an invalidation of an entry that does not exist does just that.
 */
#pragma once

#include "fs/fs.h"

/* Starts the thread; @engine is asked for folders. @told (an EngineNewsFn) is called by the thread
 * with the news that the kernel has been told of. No argument is owned. */
Notify *notify_new(struct fuse_session *session, Engine *engine, EngineNewsFn told, gpointer data);

/* An EngineNewsFn; @data is the Notify. Copies and returns at once. */
void notify_news(const EngineNews *news, gsize count, gpointer data);

/* Brackets index reads whose answer carries entries; short, never around a wait. */
guint notify_enter(Notify *notify);
void notify_leave(Notify *notify, guint section);

/* The directories of @folder in the Maildir view have another time. */
void notify_view(Notify *notify, guint32 folder);

typedef void (*NotifyFn)(gpointer data);
/* Calls @fn once the kernel has been told all size changes that were queued before: at once, in
 * this thread, when there are none. */
void notify_after_sizes(Notify *notify, NotifyFn fn, gpointer data);

/* Whether a size change is queued that the kernel has not been told yet. */
gboolean notify_has_sizes(Notify *notify);

/* Blocks until everything queued before has been told; for tests. */
void notify_flush(Notify *notify);

/* Takes no more news, calls what notify_after_sizes still holds and waits @ms for the thread to
 * end. FALSE: it is inside the kernel; call again once the connection is aborted. */
gboolean notify_stop(Notify *notify, guint ms);
/* After notify_stop succeeded. */
void notify_free(Notify **notify);
