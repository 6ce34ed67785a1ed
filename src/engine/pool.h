/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Connections that do work. Each belongs to one thread, which takes jobs in the order of their
 * priority and opens or reopens its connection as needed. Threads are started when there is work
 * that nobody is free for, and close their connection when there was none for a while.
 */
#pragma once

#include "engine/link.h"
#include "imap/session.h"

typedef struct Pool Pool;

typedef enum {
  JOB_INTERACTIVE, /* somebody waits */
  JOB_NEWS,        /* the server said that something changed */
  JOB_PREFETCH,    /* somebody will probably want it */
  JOB_BACKGROUND,
  JOB_PRIORITIES,
} JobPriority;

/* Work for one connection. Retriable: may be run again from its start on a fresh connection. */
typedef struct {
  JobPriority priority;
  guint32 folder; /* a connection that has it selected is preferred */
  gboolean (*run)(ImapSession *session, gpointer data, GError **error);
  /* It could not be done. Called instead of a further run. */
  void (*failed)(gpointer data, const GError *error);
  GDestroyNotify free; /* of data, after run or failed; may be NULL */
  gpointer data;
} PoolJob;

/* At most @size connections by @config (not copied), ended by @cancellable. */
Pool *pool_new(const ImapConfig *config, guint size, Link *link, GCancellable *cancellable);

/* When the server refuses the only connection of the pool, @spare is asked to give up one that is
 * less needed; it returns whether there was one. Set once, before the first job. */
void pool_set_spare(Pool *pool, gboolean (*spare)(gpointer data), gpointer data);

/* Queues *@job (copied). Any thread. After pool_stop it fails at once. */
void pool_push(Pool *pool, const PoolJob *job);

/* Whether a job more urgent than @priority waits for a free connection: a long job may make way.
 * Any thread. */
gboolean pool_is_wanted(Pool *pool, JobPriority priority);

/* Ends the threads, once @cancellable was cancelled, and fails what is queued with CANCELLED. */
void pool_stop(Pool *pool);
void pool_free(Pool *pool);

typedef struct {
  guint connections, busy, queued[JOB_PRIORITIES];
  guint64 wire_bytes; /* by all connections so far, both ways */
} PoolStats;
void pool_stats(Pool *pool, PoolStats *stats_out);
