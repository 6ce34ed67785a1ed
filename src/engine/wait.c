/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/wait.h"

#include "base/deadline.h"
#include "base/err.h"

typedef struct {
  EngineWait id;
  gint64 deadline;
  gint64 parked_at;
  WaitCall call;
} Parked;

#define PATIENCE_TIMES 20 /* how many patiences the flow of other bodies is worth */

struct Waits {
  GMutex lock; /* guards everything below; a leaf */
  GCond changed;
  GHashTable *table; /* of Parked by id */
  EngineWait last;
  gint64 patience_ms;
  gboolean stopping;
  GThread *clock;
};

void wait_fail(const WaitCall *call, const GError *error) {
  switch (call->kind) {
  case WAIT_FOLDER:
    call->done.folder(call->data, error);
    break;
  case WAIT_BODY:
    call->done.body(NULL, call->data, error);
    break;
  case WAIT_READ:
    call->done.read(-1, 0, 0, call->data, error);
    break;
  case WAIT_FILE:
    call->done.file(NULL, call->data, error);
    break;
  }
}

/* Moves the calls whose deadline is at or before @now to @due and returns the next deadline. */
static gint64 take_due_locked(Waits *waits, gint64 now, GArray *due) {
  GHashTableIter iter;
  gpointer value;
  gint64 next = DEADLINE_NEVER;
  g_hash_table_iter_init(&iter, waits->table);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Parked *parked = value;
    if (parked->deadline > now) {
      next = MIN(next, parked->deadline);
      continue;
    }
    g_array_append_val(due, parked->call);
    g_hash_table_iter_remove(&iter);
  }
  return next;
}

static void fail_all(GArray *calls, const GError *error) {
  for (guint i = 0; i < calls->len; i++)
    wait_fail(&g_array_index(calls, WaitCall, i), error);
  g_array_set_size(calls, 0);
}

static gpointer clock_main(gpointer data) {
  Waits *waits = data;
  g_autoptr(GArray) due = g_array_new(FALSE, FALSE, sizeof(WaitCall));
  g_autoptr(GError) late = g_error_new(EML_ERROR, EML_ERROR_TIMEOUT,
                                       "the server did not answer within %" G_GINT64_FORMAT " s",
                                       waits->patience_ms / 1000);
  g_mutex_lock(&waits->lock);
  while (!waits->stopping) {
    gint64 next = take_due_locked(waits, g_get_monotonic_time(), due);
    if (due->len) {
      g_mutex_unlock(&waits->lock);
      fail_all(due, late);
      g_mutex_lock(&waits->lock);
    } else if (next == DEADLINE_NEVER) {
      g_cond_wait(&waits->changed, &waits->lock);
    } else {
      g_cond_wait_until(&waits->changed, &waits->lock, next);
    }
  }
  g_mutex_unlock(&waits->lock);
  return NULL;
}

Waits *waits_new(gint64 patience_ms) {
  Waits *waits = g_new0(Waits, 1);
  g_mutex_init(&waits->lock);
  g_cond_init(&waits->changed);
  waits->table = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
  waits->patience_ms = patience_ms;
  waits->clock = g_thread_new("deadlines", clock_main, waits);
  return waits;
}

void waits_stop(Waits *waits) {
  g_mutex_lock(&waits->lock);
  waits->stopping = TRUE;
  g_cond_broadcast(&waits->changed);
  GThread *clock = g_steal_pointer(&waits->clock);
  g_mutex_unlock(&waits->lock);
  if (clock)
    g_thread_join(clock);

  g_autoptr(GArray) left = g_array_new(FALSE, FALSE, sizeof(WaitCall));
  g_autoptr(GError) stopped =
      g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "the file system is being unmounted");
  g_mutex_lock(&waits->lock);
  take_due_locked(waits, DEADLINE_NEVER, left);
  g_mutex_unlock(&waits->lock);
  fail_all(left, stopped);
}

void waits_free(Waits *waits) {
  g_hash_table_unref(waits->table);
  g_cond_clear(&waits->changed);
  g_mutex_clear(&waits->lock);
  g_free(waits);
}

EngineWait waits_add(Waits *waits, const WaitCall *call) {
  Parked *parked = g_new(Parked, 1);
  parked->call = *call;
  parked->parked_at = g_get_monotonic_time();
  parked->deadline = deadline_in_ms(waits->patience_ms);
  g_mutex_lock(&waits->lock);
  EngineWait id = parked->id = ++waits->last;
  gboolean stopping = waits->stopping;
  if (!stopping) {
    /* Patience is the same for all, so a new deadline is never the next one: the clock has to be
     * woken only when it had none. */
    if (g_hash_table_size(waits->table) == 0)
      g_cond_signal(&waits->changed);
    g_hash_table_insert(waits->table, &parked->id, parked);
  }
  g_mutex_unlock(&waits->lock);
  if (stopping) {
    g_autoptr(GError) stopped =
        g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "the file system is being unmounted");
    wait_fail(call, stopped);
    g_free(parked);
  }
  return id;
}

void waits_touch(Waits *waits, EngineWait wait) {
  g_mutex_lock(&waits->lock);
  Parked *parked = g_hash_table_lookup(waits->table, &wait);
  if (parked)
    parked->deadline = deadline_in_ms(waits->patience_ms);
  g_mutex_unlock(&waits->lock);
}

void waits_touch_bodies(Waits *waits) {
  GHashTableIter iter;
  gpointer value;
  g_mutex_lock(&waits->lock);
  g_hash_table_iter_init(&iter, waits->table);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Parked *parked = value;
    gint64 last = parked->parked_at + PATIENCE_TIMES * waits->patience_ms * 1000;
    if (parked->call.kind == WAIT_BODY)
      parked->deadline = MAX(parked->deadline, MIN(deadline_in_ms(waits->patience_ms), last));
  }
  g_mutex_unlock(&waits->lock);
}

gboolean waits_peek(Waits *waits, EngineWait wait, WaitCall *call_out) {
  g_mutex_lock(&waits->lock);
  Parked *parked = g_hash_table_lookup(waits->table, &wait);
  if (parked)
    *call_out = parked->call;
  g_mutex_unlock(&waits->lock);
  return parked != NULL;
}

gboolean waits_take(Waits *waits, EngineWait wait, WaitCall *call_out) {
  g_mutex_lock(&waits->lock);
  Parked *parked = g_hash_table_lookup(waits->table, &wait);
  if (parked) {
    *call_out = parked->call;
    g_hash_table_remove(waits->table, &wait);
  }
  g_mutex_unlock(&waits->lock);
  return parked != NULL;
}

void waits_fail(Waits *waits, EngineWait wait, const GError *error) {
  WaitCall call;
  if (waits_take(waits, wait, &call))
    wait_fail(&call, error);
}

guint waits_count(Waits *waits) {
  g_mutex_lock(&waits->lock);
  guint count = g_hash_table_size(waits->table);
  g_mutex_unlock(&waits->lock);
  return count;
}
