/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Requests that wait for the engine. The handler returns; the engine's completion answers later,
 * from any thread; Ctrl-C in the asking program cancels the engine's call, which then completes.
 *
 *   guint64 park = park_begin(parks, req);          // before the engine can complete it
 *   park_waits(parks, park, engine_x(…, done, ctx)); // req and ctx may be gone already
 *   …
 *   done: park_end(parks, ctx->park); answer; free ctx
 *
 * What makes it safe:
 * - The completion alone answers and frees, and the engine calls it exactly once.
 * - libfuse may call the interrupt function while the completion runs and after it. It is
 *   therefore given the number of the park, never a pointer; numbers are not used again.
 * - The interrupt may come before the engine's wait is known: it is then only noted, and
 *   park_waits cancels. It may come inside park_begin, where libfuse holds the request's lock and
 *   would not survive an answer; there too it is only noted.
 *
 * Lock order: libfuse's request lock, then ours, which is a leaf: neither the engine nor libfuse is
 * called while it is held.
 */
#pragma once

#include "fs/fs.h"

/* Cancels the engine's call @wait; a stale number does nothing. */
typedef void (*ParkCancelFn)(guint64 wait, gpointer data);
/* As fuse_req_interrupt_func (which is the default); for tests. */
typedef void (*ParkHookFn)(fuse_req_t req, fuse_interrupt_func_t func, void *data);

Parks *parks_new(ParkCancelFn cancel, gpointer data);
/* All parks have ended by now. */
void parks_free(Parks **parks);
void parks_set_hook(Parks *parks, ParkHookFn hook);

/* Any thread; the number is never 0. @req NULL: nobody waits, only the end of the mount cancels it. */
guint64 park_begin(Parks *parks, fuse_req_t req);
void park_waits(Parks *parks, guint64 park, EngineWait wait);
void park_end(Parks *parks, guint64 park);

/* Cancels everything that waits, now and from now on: the mount is ending. */
void parks_cancel_all(Parks *parks);

/* Waits @ms for the last park to end; whether it did. */
gboolean parks_wait_empty(Parks *parks, guint ms);

/* The same for those that no request waits for. */
gboolean parks_wait_unasked(Parks *parks, guint ms);

/* How many wait; for tests and the status. */
guint parks_count(Parks *parks);
