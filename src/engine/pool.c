/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/pool.h"

#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"

#define IDLE_CLOSE_MS (5 * 60 * 1000)
#define AFFINITY_LOOK 16
#define RETRY_FIRST_MS 50
#define RETRY_MOST_MS 800
#define COLD_MS 10000 /* a spare connection that could not be opened is tried again after this */
#define SPARE_TRIES 5 /* until the server has noticed that a connection was given up */

struct Pool {
  const ImapConfig *config;
  Link *link;
  Line *line;
  GCancellable *cancellable;
  gboolean (*spare)(gpointer data);
  gpointer spare_data;
  GMutex lock; /* guards everything below; a leaf */
  GCond changed;
  GQueue queues[JOB_PRIORITIES]; /* of PoolJob */
  GPtrArray *workers;            /* of Worker */
  guint size;                    /* at most so many connections; falls when the server wants fewer */
  guint idle, low;               /* threads without a job; with one of PREFETCH or BACKGROUND */
  guint background;              /* threads with one of BACKGROUND */
  guint background_most;         /* at most so many of these; 0: no limit, and no spare connection */
  guint connections;
  guint64 wire_bytes; /* of connections closed */
  gboolean stopping;
};

typedef struct {
  Pool *pool;
  GThread *thread;
  ImapSession *session; /* used by the worker's thread only */
  guint epoch;          /* of the link when the session was opened */
  guint32 folder;       /* of the last job */
  guint64 wire_bytes;   /* of the open session, as of its last job */
  gint64 cold_until;    /* monotonic µs: not opened in advance before */
} Worker;

Pool *pool_new(const ImapConfig *config, guint size, Link *link, Line *line,
               GCancellable *cancellable) {
  Pool *pool = g_new0(Pool, 1);
  pool->config = config;
  pool->link = link;
  pool->line = line;
  pool->cancellable = cancellable;
  pool->size = MAX(size, 1);
  pool->workers = g_ptr_array_new_with_free_func(g_free);
  g_mutex_init(&pool->lock);
  g_cond_init(&pool->changed);
  for (guint i = 0; i < JOB_PRIORITIES; i++)
    g_queue_init(&pool->queues[i]);
  return pool;
}

void pool_set_spare(Pool *pool, gboolean (*spare)(gpointer), gpointer data) {
  pool->spare = spare;
  pool->spare_data = data;
}

static void job_free(PoolJob *job) {
  if (job->free)
    job->free(job->data);
  g_free(job);
}

static gboolean is_low(JobPriority priority) {
  return priority >= JOB_PREFETCH;
}

/* Takes the job that @worker should do next, or NULL. One connection is kept from low priorities
 * where there is more than one, so that whoever waits never stands behind them. */
static PoolJob *pick_locked(Pool *pool, Worker *worker) {
  for (guint priority = 0; priority < JOB_PRIORITIES; priority++) {
    GQueue *queue = &pool->queues[priority];
    if (is_low(priority) && pool->size > 1 && pool->low >= pool->size - 1)
      return NULL;
    if (priority == JOB_BACKGROUND && pool->background_most &&
        pool->background >= pool->background_most)
      return NULL;
    GList *link = queue->head;
    for (guint i = 0; link && i < AFFINITY_LOOK; i++, link = link->next)
      if (((PoolJob *) link->data)->folder == worker->folder)
        break;
    if (!link || ((PoolJob *) link->data)->folder != worker->folder)
      link = queue->head;
    if (link) {
      PoolJob *job = link->data;
      g_queue_delete_link(queue, link);
      return job;
    }
  }
  return NULL;
}

static void close_session(Worker *worker) {
  Pool *pool = worker->pool;
  if (!worker->session)
    return;
  guint64 bytes = imap_session_wire_bytes(worker->session);
  imap_session_close(&worker->session);
  g_mutex_lock(&pool->lock);
  pool->connections--;
  pool->wire_bytes += bytes;
  worker->wire_bytes = 0;
  g_mutex_unlock(&pool->lock);
}

/* Waits @ms unless the pool stops. */
static void pause_for(Pool *pool, gint64 ms) {
  gint64 until = deadline_in_ms(ms);
  g_mutex_lock(&pool->lock);
  while (!pool->stopping && g_cond_wait_until(&pool->changed, &pool->lock, until))
    ;
  g_mutex_unlock(&pool->lock);
}

static guint connections(Pool *pool) {
  g_mutex_lock(&pool->lock);
  guint count = pool->connections;
  g_mutex_unlock(&pool->lock);
  return count;
}

static gboolean is_refusal(const GError *error) {
  return g_error_matches(error, EML_ERROR, EML_ERROR_AUTH) ||
         g_error_matches(error, EML_ERROR, EML_ERROR_REFUSED);
}

/* Whether @session could be compressed but is not, or the other way round. */
static gboolean is_of_wrong_kind(const Pool *pool, const ImapSession *session) {
  gboolean compress =
      line_compress(pool->line) && (imap_session_caps(session) & IMAP_CAP_COMPRESS_DEFLATE);
  return imap_session_compressed(session) != compress;
}

static ImapSession *open_session(Pool *pool, GError **error) {
  g_autoptr(GCancellable) generation = link_cancellable(pool->link);
  ImapConfig config = *pool->config;
  config.compress = line_compress(pool->line);
  ImapSession *session = imap_session_open(&config, generation, error);
  if (session)
    line_offered(pool->line, (imap_session_caps(session) & IMAP_CAP_COMPRESS_DEFLATE) != 0);
  return session;
}

/* The connection was ended by link_renew or link_hold, not by the server or the end of the pool. */
static gboolean is_renewed(Pool *pool, const GError *error) {
  return g_error_matches(error, EML_ERROR, EML_ERROR_CANCELLED) &&
         !g_cancellable_is_cancelled(pool->cancellable);
}

/* Makes sure that the worker has a connection that can be trusted and, where nobody waits, is of the
 * right kind. A link that is shaky is given its grace. */
static gboolean have_session(Worker *worker, JobPriority priority, GError **error) {
  Pool *pool = worker->pool;
  guint epoch = link_epoch(pool->link);
  if (worker->session && (worker->epoch != epoch || !imap_session_alive(worker->session)))
    close_session(worker);
  if (worker->session && is_low(priority) && is_of_wrong_kind(pool, worker->session))
    close_session(worker);
  guint tries = 0;
  for (gint64 pause_ms = RETRY_FIRST_MS; !worker->session; pause_ms = MIN(2 * pause_ms, RETRY_MOST_MS)) {
    if (!link_usable(pool->link, error))
      return FALSE;
    g_autoptr(GError) failure = NULL;
    worker->epoch = link_epoch(pool->link);
    worker->session = open_session(pool, &failure);
    if (worker->session) {
      g_mutex_lock(&pool->lock);
      pool->connections++;
      g_mutex_unlock(&pool->lock);
      link_works(pool->link);
      return TRUE;
    }
    if (is_renewed(pool, failure))
      continue;
    /* A server may let us have only so many connections. While others of the pool work, it makes do
     * with them (make_do_with_fewer); else one that is less needed is given up. */
    gboolean stop = g_cancellable_is_cancelled(pool->cancellable);
    if (!stop && is_refusal(failure)) {
      if (connections(pool) == 0 && pool->spare && tries < SPARE_TRIES && pool->spare(pool->spare_data))
        stop = FALSE;
      else
        stop = connections(pool) > 0 || !link_failed(pool->link, failure);
    } else if (!stop) {
      stop = !link_failed(pool->link, failure);
    }
    if (stop) {
      g_propagate_error(error, g_steal_pointer(&failure));
      return FALSE;
    }
    tries++;
    pause_for(pool, pause_ms);
  }
  return TRUE;
}

/* The server lets us have no further connection (RFC 9051 leaves it free how it says so) while
 * others work: then the pool gets smaller instead of going offline. */
static gboolean make_do_with_fewer(Worker *worker, PoolJob *job, const GError *error) {
  Pool *pool = worker->pool;
  if (worker->session || !is_refusal(error))
    return FALSE;
  g_mutex_lock(&pool->lock);
  gboolean fewer = pool->connections > 0;
  if (fewer) {
    pool->size = pool->connections;
    g_queue_push_head(&pool->queues[job->priority], job);
    g_cond_broadcast(&pool->changed);
  }
  g_mutex_unlock(&pool->lock);
  if (fewer)
    log_info("going on with %u connections: %s", pool->size, error->message);
  return fewer;
}

/* Runs @job and frees it. FALSE: the thread is to end, the job was put back. */
static gboolean run_job(Worker *worker, PoolJob *job) {
  for (guint attempt = 0;;) {
    g_autoptr(GError) error = NULL;
    if (!have_session(worker, job->priority, &error)) {
      if (make_do_with_fewer(worker, job, error))
        return FALSE;
      job->failed(job->data, error);
      break;
    }
    worker->folder = job->folder;
    if (job->run(worker->session, job->data, &error))
      break;
    /* A server's session can be in a bad way by itself (its mailbox was replaced under it, say): what
     * it refuses is tried once more on a new one. */
    gboolean refused = g_error_matches(error, EML_ERROR, EML_ERROR_REFUSED) && attempt == 0;
    if (imap_session_alive(worker->session) && !refused) {
      job->failed(job->data, error);
      break;
    }
    close_session(worker);
    if (is_renewed(worker->pool, error))
      continue;
    if (refused) {
      attempt++;
      continue;
    }
    /* A server that breaks the protocol over one answer can still be reached. */
    gboolean reachable = g_error_matches(error, EML_ERROR, EML_ERROR_PROTOCOL);
    gboolean again = !g_cancellable_is_cancelled(worker->pool->cancellable) &&
                     (reachable || link_failed(worker->pool->link, error)) && attempt < 2;
    if (!again) {
      job->failed(job->data, error);
      break;
    }
    attempt++;
    log_debug("connection lost, trying again: %s", error->message);
  }
  job_free(job);
  return TRUE;
}

/* Opens a connection before there is a job, so that who comes and waits finds it. */
static void warm_up(Worker *worker) {
  g_autoptr(GError) error = NULL;
  if (!have_session(worker, JOB_INTERACTIVE, &error)) {
    log_debug("no spare connection: %s", error->message);
    worker->cold_until = deadline_in_ms(COLD_MS);
  }
}

static void close_unlocked(Worker *worker) {
  g_mutex_unlock(&worker->pool->lock);
  close_session(worker);
  g_mutex_lock(&worker->pool->lock);
}

/* Waits for a job, or does what there is to do without one: closes a connection that is not to be
 * trusted or was not used for long, opens one in advance. */
static void idle_locked(Worker *worker) {
  Pool *pool = worker->pool;
  if (worker->session && worker->epoch != link_epoch(pool->link)) {
    close_unlocked(worker);
    return;
  }
  gboolean warm = pool->background_most > 0;
  if (warm && !worker->session && link_usable(pool->link, NULL) &&
      g_get_monotonic_time() >= worker->cold_until) {
    g_mutex_unlock(&pool->lock);
    warm_up(worker);
    g_mutex_lock(&pool->lock);
    return;
  }
  gint64 until = deadline_in_ms(IDLE_CLOSE_MS);
  pool->idle++;
  gboolean woken = g_cond_wait_until(&pool->changed, &pool->lock, until);
  pool->idle--;
  if (!woken && !warm && worker->session)
    close_unlocked(worker);
}

static gpointer worker_main(gpointer data) {
  Worker *worker = data;
  Pool *pool = worker->pool;
  g_mutex_lock(&pool->lock);
  while (!pool->stopping) {
    PoolJob *job = pick_locked(pool, worker);
    if (!job) {
      idle_locked(worker);
      continue;
    }
    gboolean low = is_low(job->priority), background = job->priority == JOB_BACKGROUND;
    pool->low += low;
    pool->background += background;
    g_mutex_unlock(&pool->lock);
    gboolean go_on = run_job(worker, job);
    g_mutex_lock(&pool->lock);
    pool->low -= low;
    pool->background -= background;
    if (low)
      g_cond_broadcast(&pool->changed); /* another low one may run now */
    if (worker->session)
      worker->wire_bytes = imap_session_wire_bytes(worker->session);
    if (!go_on)
      break;
  }
  g_mutex_unlock(&pool->lock);
  close_session(worker);
  return NULL;
}

/* Adds a thread when there is work, or a connection to be kept open, that nobody is free for. */
static void add_worker_locked(Pool *pool) {
  guint wanted = pool->background_most > 0;
  for (guint i = 0; i < JOB_PRIORITIES; i++)
    wanted += pool->queues[i].length;
  if (wanted <= pool->idle || pool->workers->len >= pool->size || pool->stopping)
    return;
  Worker *worker = g_new0(Worker, 1);
  worker->pool = pool;
  g_ptr_array_add(pool->workers, worker);
  worker->thread = g_thread_new("imap", worker_main, worker);
}

void pool_push(Pool *pool, const PoolJob *job) {
  PoolJob *copy = g_memdup2(job, sizeof *job);
  g_mutex_lock(&pool->lock);
  if (pool->stopping) {
    g_mutex_unlock(&pool->lock);
    g_autoptr(GError) error =
        g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "the file system is being unmounted");
    copy->failed(copy->data, error);
    job_free(copy);
    return;
  }
  g_queue_push_tail(&pool->queues[job->priority], copy);
  add_worker_locked(pool);
  /* All are woken: an idle one may be kept from this job by its priority. */
  g_cond_broadcast(&pool->changed);
  g_mutex_unlock(&pool->lock);
}

gboolean pool_make_way(Pool *pool, JobPriority priority, const ImapSession *session) {
  g_mutex_lock(&pool->lock);
  gboolean wanted = FALSE;
  for (guint i = 0; i < priority && !wanted; i++)
    wanted = pool->queues[i].length > 0;
  gboolean too_many = priority == JOB_BACKGROUND && pool->background_most &&
                      pool->background > pool->background_most;
  g_mutex_unlock(&pool->lock);
  return wanted || too_many || (is_low(priority) && is_of_wrong_kind(pool, session));
}

void pool_set_background(Pool *pool, guint most) {
  g_mutex_lock(&pool->lock);
  pool->background_most = most;
  add_worker_locked(pool);
  g_cond_broadcast(&pool->changed);
  g_mutex_unlock(&pool->lock);
}

guint pool_background_limit(Pool *pool) {
  g_mutex_lock(&pool->lock);
  guint limit = MAX(pool->size - 1, 1);
  g_mutex_unlock(&pool->lock);
  return limit;
}

void pool_wake(Pool *pool) {
  g_mutex_lock(&pool->lock);
  g_cond_broadcast(&pool->changed);
  g_mutex_unlock(&pool->lock);
}

void pool_stop(Pool *pool) {
  g_mutex_lock(&pool->lock);
  pool->stopping = TRUE;
  g_cond_broadcast(&pool->changed);
  g_mutex_unlock(&pool->lock);
  /* No thread is added any more, so the array can be walked without the lock. */
  for (guint i = 0; i < pool->workers->len; i++)
    g_thread_join(((Worker *) g_ptr_array_index(pool->workers, i))->thread);

  g_autoptr(GError) error =
      g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "the file system is being unmounted");
  for (guint i = 0; i < JOB_PRIORITIES; i++) {
    PoolJob *job;
    while ((job = g_queue_pop_head(&pool->queues[i]))) {
      job->failed(job->data, error);
      job_free(job);
    }
  }
}

void pool_free(Pool *pool) {
  g_ptr_array_unref(pool->workers);
  g_cond_clear(&pool->changed);
  g_mutex_clear(&pool->lock);
  g_free(pool);
}

void pool_stats(Pool *pool, PoolStats *stats_out) {
  *stats_out = (PoolStats){0};
  g_mutex_lock(&pool->lock);
  stats_out->connections = pool->connections;
  stats_out->busy = pool->workers->len - pool->idle;
  stats_out->wire_bytes = pool->wire_bytes;
  for (guint i = 0; i < pool->workers->len; i++)
    stats_out->wire_bytes += ((Worker *) g_ptr_array_index(pool->workers, i))->wire_bytes;
  for (guint i = 0; i < JOB_PRIORITIES; i++)
    stats_out->queued[i] = pool->queues[i].length;
  g_mutex_unlock(&pool->lock);
}
