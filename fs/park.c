/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/park.h"

typedef struct {
  EngineWait wait; /* 0: not known yet */
  gboolean interrupted;
  gboolean unasked; /* no request waits for it */
} Park;

struct Parks {
  GMutex lock; /* guards what follows */
  GCond emptied;
  GHashTable *parks; /* number → Park */
  guint unasked; /* how many of them */
  gsize last;
  gboolean ending;

  ParkCancelFn cancel;
  gpointer cancel_data;
  ParkHookFn hook;
};

/* The interrupt function gets one pointer, and a number alone does not say which mount it belongs
 * to. A process has one mount; it ends (parks_free) after the threads that interrupt have ended. */
static Parks *the_parks;

Parks *parks_new(ParkCancelFn cancel, gpointer data) {
  Parks *parks = g_new0(Parks, 1);
  g_mutex_init(&parks->lock);
  g_cond_init(&parks->emptied);
  parks->parks = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
  parks->cancel = cancel;
  parks->cancel_data = data;
  parks->hook = fuse_req_interrupt_func;
  g_assert(!the_parks);
  the_parks = parks;
  return parks;
}

void parks_free(Parks **parks_inout) {
  Parks *parks = g_steal_pointer(parks_inout);
  if (!parks)
    return;
  the_parks = NULL;
  g_hash_table_unref(parks->parks);
  g_cond_clear(&parks->emptied);
  g_mutex_clear(&parks->lock);
  g_free(parks);
}

void parks_set_hook(Parks *parks, ParkHookFn hook) {
  parks->hook = hook;
}

static void on_interrupt(fuse_req_t req, void *number) {
  Parks *parks = the_parks;
  EngineWait wait = 0;
  g_mutex_lock(&parks->lock);
  Park *park = g_hash_table_lookup(parks->parks, number);
  if (park) {
    park->interrupted = TRUE;
    wait = park->wait;
  }
  g_mutex_unlock(&parks->lock);
  /* With a known wait the call does not come from inside park_begin, so a completion that
   * answers before this returns is fine: libfuse holds a reference of its own. */
  if (wait)
    parks->cancel(wait, parks->cancel_data);
}

guint64 park_begin(Parks *parks, fuse_req_t req) {
  g_mutex_lock(&parks->lock);
  gsize number = ++parks->last;
  Park *park = g_new0(Park, 1);
  park->interrupted = parks->ending;
  park->unasked = req == NULL;
  parks->unasked += park->unasked;
  g_hash_table_insert(parks->parks, GSIZE_TO_POINTER(number), park);
  g_mutex_unlock(&parks->lock);
  if (req)
    parks->hook(req, on_interrupt, GSIZE_TO_POINTER(number));
  return number;
}

void park_waits(Parks *parks, guint64 number, EngineWait wait) {
  if (!wait)
    return;
  g_mutex_lock(&parks->lock);
  Park *park = g_hash_table_lookup(parks->parks, GSIZE_TO_POINTER(number));
  gboolean cancel = park && park->interrupted;
  if (park)
    park->wait = wait;
  g_mutex_unlock(&parks->lock);
  if (cancel)
    parks->cancel(wait, parks->cancel_data);
}

void park_end(Parks *parks, guint64 number) {
  g_mutex_lock(&parks->lock);
  Park *park = g_hash_table_lookup(parks->parks, GSIZE_TO_POINTER(number));
  gboolean known = park != NULL;
  if (park)
    parks->unasked -= park->unasked;
  g_hash_table_remove(parks->parks, GSIZE_TO_POINTER(number));
  if (!parks->unasked)
    g_cond_broadcast(&parks->emptied);
  g_mutex_unlock(&parks->lock);
  g_assert(known); /* a completion came twice */
}

void parks_cancel_all(Parks *parks) {
  g_autoptr(GArray) waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  g_mutex_lock(&parks->lock);
  parks->ending = TRUE;
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, parks->parks);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Park *park = value;
    park->interrupted = TRUE;
    if (park->wait)
      g_array_append_val(waits, park->wait);
  }
  g_mutex_unlock(&parks->lock);
  for (guint i = 0; i < waits->len; i++)
    parks->cancel(g_array_index(waits, EngineWait, i), parks->cancel_data);
}

gboolean parks_wait_empty(Parks *parks, guint ms) {
  gint64 until = g_get_monotonic_time() + (gint64) ms * 1000;
  g_mutex_lock(&parks->lock);
  while (g_hash_table_size(parks->parks) > 0)
    if (!g_cond_wait_until(&parks->emptied, &parks->lock, until))
      break;
  gboolean empty = g_hash_table_size(parks->parks) == 0;
  g_mutex_unlock(&parks->lock);
  return empty;
}

gboolean parks_wait_unasked(Parks *parks, guint ms) {
  gint64 until = g_get_monotonic_time() + (gint64) ms * 1000;
  g_mutex_lock(&parks->lock);
  while (parks->unasked && g_cond_wait_until(&parks->emptied, &parks->lock, until))
    ;
  gboolean none = parks->unasked == 0;
  g_mutex_unlock(&parks->lock);
  return none;
}

guint parks_count(Parks *parks) {
  g_mutex_lock(&parks->lock);
  guint count = g_hash_table_size(parks->parks);
  g_mutex_unlock(&parks->lock);
  return count;
}
