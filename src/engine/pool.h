/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Connections that do work. Each belongs to one thread, which takes jobs in the order of their
 * priority and opens or reopens its connection as needed. Threads are started when there is work
 * that nobody is free for, and close their connection when there was none for a while.
 */
#pragma once

#include "engine/line.h"
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

/* Work for one connection. Retriable: may be run again from its start on a fresh connection, after the
 * connection broke, and once after the server refused it (REFUSED). */
typedef struct {
  JobPriority priority;
  guint32 folder; /* a connection that has it selected is preferred */
  gboolean (*run)(ImapSession *session, gpointer data, GError **error);
  /* It could not be done. Called instead of a further run. */
  void (*failed)(gpointer data, const GError *error);
  GDestroyNotify free; /* of data, after run or failed; may be NULL */
  gpointer data;
} PoolJob;

/* At most @size connections by @config (not copied), compressed as @line says. A cancelled
 * @cancellable means that the pool is about to stop. */
Pool *pool_new(const ImapConfig *config, guint size, Link *link, Line *line,
               GCancellable *cancellable);

/* When the server refuses the only connection of the pool, @spare is asked to give up one that is
 * less needed; it returns whether there was one. Set once, before the first job. */
void pool_set_spare(Pool *pool, gboolean (*spare)(gpointer data), gpointer data);

/* Queues *@job (copied). Any thread. After pool_stop it fails at once. */
void pool_push(Pool *pool, const PoolJob *job);

/* Whether a long job of @priority on @session should end, having queued its rest as a new one: a more
 * urgent one waits for a free connection, there are to be fewer of its kind, or the connection is to
 * be compressed, or no longer. Any thread. */
gboolean pool_make_way(Pool *pool, JobPriority priority, const ImapSession *session);

/* For a time of much background work: at most @most jobs of it at once (but never the last
 * connection), and, while that is not 0, one connection is kept open for who comes and waits.
 * 0: back to normal. Any thread. */
void pool_set_background(Pool *pool, guint most);

/* How many jobs of background work there can be at once. */
guint pool_background_limit(Pool *pool);

/* Has idle connections that are not to be trusted any more closed. Any thread. */
void pool_wake(Pool *pool);

/* Ends the threads, once @cancellable was cancelled, and fails what is queued with CANCELLED. */
void pool_stop(Pool *pool);
void pool_free(Pool *pool);

typedef struct {
  guint connections, busy, queued[JOB_PRIORITIES];
  guint64 wire_bytes; /* by all connections so far, both ways */
} PoolStats;
void pool_stats(Pool *pool, PoolStats *stats_out);
