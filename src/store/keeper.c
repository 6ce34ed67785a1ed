/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The keeper: one thread that does what nobody should wait for. It sleeps until a job is due, so a
 * store that nobody writes to costs nothing.
 */
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

#define RETRY_US (5 * G_USEC_PER_SEC)

static gboolean commit_run(Store *store, GError **error) {
  writer_lock(store);
  gboolean ok = txn_commit_locked(store, error);
  writer_unlock(store);
  return ok;
}

/* In the order in which they are run when several are due. */
static gboolean (*const jobs[JOB_COUNT])(Store *store, GError **error) = {
    [JOB_COMMIT] = commit_run, [JOB_FLUSH] = body_flush, [JOB_TOUCH] = body_flush_touches,
    [JOB_EVICT] = evict_run,   [JOB_BURY] = bury_run,    [JOB_MARK] = mark_run,
};

void keeper_due_locked(Store *store, Job job, gint64 delay_us) {
  gint64 when = g_get_monotonic_time() + delay_us;
  if (when >= store->due[job])
    return;
  store->due[job] = when;
  g_cond_signal(&store->wake);
}

void keeper_due(Store *store, Job job, gint64 delay_us) {
  g_mutex_lock(&store->lock);
  keeper_due_locked(store, job, delay_us);
  g_mutex_unlock(&store->lock);
}

static void run(Store *store, Job job) {
  g_autoptr(GError) error = NULL;
  g_mutex_lock(&store->keeping);
  gboolean ok = jobs[job](store, &error);
  g_mutex_unlock(&store->keeping);
  if (ok)
    return;
  log_warning("store: %s", error->message);
  /* A lost transaction stays lost, and a damaged index does not heal. */
  if (job != JOB_COMMIT && store_healthy(store))
    keeper_due(store, job, RETRY_US);
}

static gpointer keeper_main(gpointer data) {
  Store *store = data;
  g_mutex_lock(&store->lock);
  while (!store->stopping) {
    gint64 now = g_get_monotonic_time(), next = G_MAXINT64;
    gboolean ran = FALSE;
    for (int job = 0; job < JOB_COUNT && !store->stopping; job++) {
      if (store->due[job] <= now) {
        store->due[job] = G_MAXINT64;
        g_mutex_unlock(&store->lock);
        run(store, (Job) job);
        g_mutex_lock(&store->lock);
        ran = TRUE;
      }
      next = MIN(next, store->due[job]);
    }
    if (ran || store->stopping)
      continue;
    if (next == G_MAXINT64)
      g_cond_wait(&store->wake, &store->lock);
    else
      g_cond_wait_until(&store->wake, &store->lock, next);
  }
  g_mutex_unlock(&store->lock);
  return NULL;
}

void keeper_start(Store *store) {
  store->keeper = g_thread_new("store-keeper", keeper_main, store);
}

void keeper_stop(Store *store) {
  g_mutex_lock(&store->lock);
  store->stopping = TRUE;
  g_cond_signal(&store->wake);
  g_mutex_unlock(&store->lock);
  g_clear_pointer(&store->keeper, g_thread_join);
}

gboolean store_settle(Store *store, GError **error) {
  gboolean ok = TRUE;
  g_mutex_lock(&store->keeping);
  for (int job = 0; job < JOB_COUNT; job++)
    ok = jobs[job](store, ok ? error : NULL) && ok;
  g_mutex_unlock(&store->keeping);
  return ok;
}
