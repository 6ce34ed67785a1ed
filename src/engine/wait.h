/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Parked calls. Each has a number, a deadline and one completion function, and is completed exactly
 * once: by whoever takes it out of the table first, be it the result, a cancel or the deadline.
 * Others keep only its number, so nobody holds a pointer across a wait.
 *
 * Any function may be called from any thread. Completion functions run with no lock held.
 */
#pragma once

#include "engine/changes.h"

typedef struct Waits Waits;

/* @patience_ms: how long a call may stay parked before it is answered with TIMEOUT. */
Waits *waits_new(gint64 patience_ms);
/* Answers everything with CANCELLED; later calls are answered at once. */
void waits_stop(Waits *waits);
void waits_free(Waits *waits);

typedef enum { WAIT_FOLDER, WAIT_BODY, WAIT_READ, WAIT_FILE } WaitKind;

typedef struct {
  WaitKind kind;
  union {
    EngineDone folder;
    EngineBodyDone body;
    EngineReadDone read;
    EngineFileDone file;
  } done;
  gpointer data;
  /* WAIT_READ only */
  guint64 offset;
  gsize size;
} WaitCall;

/* Parks @call and returns its number. */
EngineWait waits_add(Waits *waits, const WaitCall *call);

/* Pushes the deadline of @wait back to full patience: there is progress. */
void waits_touch(Waits *waits, EngineWait wait);

/* The same for everybody who waits for a body to be opened: bodies are flowing, and they come one
 * after the other. Not for ever, though. */
void waits_touch_bodies(Waits *waits);

/* Looks at a parked call: FALSE when it is done already. */
gboolean waits_peek(Waits *waits, EngineWait wait, WaitCall *call_out);

/* Takes the call out: FALSE when it is done already, else the caller must complete *@call_out by
 * wait_fail or its own means. */
gboolean waits_take(Waits *waits, EngineWait wait, WaitCall *call_out);

/* Completes a call that was taken with an error. */
void wait_fail(const WaitCall *call, const GError *error);

/* Takes and fails; fine when it is done already. */
void waits_fail(Waits *waits, EngineWait wait, const GError *error);

/* How many are parked. */
guint waits_count(Waits *waits);
