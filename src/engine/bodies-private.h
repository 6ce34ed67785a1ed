/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What body.c (who wants which body) and fetch.c (the jobs that fetch them) share.
 *
 * What is wanted stands in a table by message, so that many readers of one message cause one fetch.
 * Per uidspace there is a queue of those somebody waits for, one of those that will probably be read
 * next and one of those that are wanted some time (engine/offline.c); who comes and waits takes his
 * message out of the latter two. A job serves one queue (a prefetch also those who wait). It counts
 * itself in `serving` in the same locked section in which it finds work and out of it where it finds
 * none, so that no want is left behind.
 */
#pragma once

#include "engine/private.h"

typedef enum { WANT_WAITED, WANT_AHEAD, WANT_LATER, WANT_QUEUES, WANT_IN_FLIGHT } WantState;

/* One body that is to be fetched. */
typedef struct {
  EngineMsg msg; /* the key */
  guint32 folder;
  guint64 size;
  WantState state;
  gboolean refused; /* as one of several: it is fetched by itself now */
  gboolean missed;  /* the server did not know it, perhaps not yet */
  gboolean offline; /* offline.c is told of its end */
  GList link;       /* in the space's queue, unless in flight */
  GArray *waits;    /* of EngineWait */
} Want;

/* One uidspace that is being read. */
typedef struct {
  guint32 space, folder;
  GQueue queues[WANT_QUEUES];  /* of Want.link */
  guint serving[WANT_QUEUES];  /* jobs of each kind, queued or at work */
  /* the sequential reader */
  guint32 last_uid;   /* opened last */
  guint steps;        /* opens in order up to it */
  guint32 ahead_uid;  /* prefetch has been planned up to this UID */
  guint ahead_count;  /* how many to plan next time */
  gint64 last_open;   /* monotonic µs */
} Space;

struct Bodies {
  Engine *engine;
  GMutex lock; /* guards everything below, wants and spaces included */
  GHashTable *wants;     /* of Want by its msg */
  GHashTable *spaces;    /* of Space by number */
  GHashTable *downloads; /* of Download (no reference held) by its msg */
};

#define READER_GONE_US (3 * G_USEC_PER_SEC)

static inline Space *bodies_space_locked(Bodies *bodies, guint32 number) {
  return g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(number));
}

/* Puts a want that is in no queue into the one it belongs to. */
void bodies_queue_locked(Bodies *bodies, Want *want);

/* Forgets what was planned ahead in @space. */
void bodies_drop_ahead_locked(Bodies *bodies, Space *space);

/* Ends @msg's want, if there is one: everybody who waits gets @whole (a reference each) or @error. */
void bodies_finish(Bodies *bodies, EngineMsg msg, StoreBody *whole, const GError *error);

/* How many more jobs are to serve that queue of @space; they are counted here and must be pushed after
 * the lock is released. */
guint fetch_claim_locked(Space *space, WantState kind);
void fetch_push(Bodies *bodies, guint32 space, guint32 folder, WantState kind, guint count);
