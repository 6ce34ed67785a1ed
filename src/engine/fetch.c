/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The jobs that fetch wanted bodies: batches of them, two commands in flight on a connection. A job
 * ends when its queue is empty, or early when something more urgent wants its connection.
 */
#include <string.h>

#include "base/err.h"
#include "engine/bodies-private.h"

#define BATCH_COUNT 100
#define BATCH_BYTES (4 * 1024 * 1024)
#define LATER_LEAST (256 * 1024) /* of a batch that nobody waits for */
#define LATER_PART 4             /* it takes this part of a second, as fast as the line is */
#define IN_FLIGHT 2
#define PATIENCE_BYTES (128 * 1024)
#define JOBS_MOST 3 /* at once for one queue of one space */

/* One job. */
typedef struct {
  Bodies *bodies;
  guint32 space, folder;
  WantState kind; /* whose queue it serves */
  gboolean refused; /* a command of it was, so this is a run on another connection */
} Serve;

static const JobPriority priorities[WANT_QUEUES] = {
    [WANT_WAITED] = JOB_INTERACTIVE, [WANT_AHEAD] = JOB_PREFETCH, [WANT_LATER] = JOB_BACKGROUND};

guint fetch_claim_locked(Space *space, WantState kind) {
  guint length = space->queues[kind].length;
  /* One job for a few, more in parallel when there is enough for each. */
  guint useful = length == 0 ? 0 : 1 + length / (kind == WANT_WAITED ? 8 : BATCH_COUNT);
  guint target = MIN(useful, JOBS_MOST);
  guint more = target > space->serving[kind] ? target - space->serving[kind] : 0;
  space->serving[kind] += more;
  return more;
}

/* How many octets a batch may have. One that nobody waits for is short in time, because who comes and
 * waits may have to wait for its end. */
static guint64 batch_bytes(const Serve *serve) {
  if (serve->kind != WANT_LATER)
    return BATCH_BYTES;
  return CLAMP(line_rate(serve->bodies->engine->line) / LATER_PART, LATER_LEAST, BATCH_BYTES);
}

/* The queue that a job of @kind takes from next, or NULL. A prefetch helps out those who wait, which
 * are likely to be its own reader. A job of background work does not: it has much in flight that the
 * answer would stand behind, and another connection is free for them. */
static GQueue *next_queue_locked(Space *space, WantState kind) {
  if (kind == WANT_AHEAD && space->queues[WANT_WAITED].length)
    return &space->queues[WANT_WAITED];
  return space->queues[kind].length ? &space->queues[kind] : NULL;
}

/* Takes the next batch, a GArray of EngineMsg. When it is empty and the job has nothing in flight
 * (@last_chance), the job no longer counts as serving. Wants are named by their msg from here on:
 * anybody's answer may end them. */
static GArray *take_batch(const Serve *serve, gboolean last_chance) {
  Bodies *bodies = serve->bodies;
  GArray *batch = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  guint64 bytes = 0, most = batch_bytes(serve);
  gboolean somebody_waits = FALSE;
  g_mutex_lock(&bodies->lock);
  Space *space = bodies_space_locked(bodies, serve->space);
  if (serve->kind == WANT_AHEAD && g_get_monotonic_time() - space->last_open > READER_GONE_US)
    bodies_drop_ahead_locked(bodies, space);
  while (batch->len < BATCH_COUNT && bytes < most) {
    GQueue *queue = next_queue_locked(space, serve->kind);
    /* Those who wait must not wait for what nobody asked for yet. */
    if (!queue || (queue != &space->queues[WANT_WAITED] && somebody_waits))
      break;
    Want *want = queue->head->data;
    gboolean alone = want->refused || want->size > DOWNLOAD_FROM_BYTES;
    if (alone && batch->len)
      break;
    g_queue_unlink(queue, &want->link);
    want->state = WANT_IN_FLIGHT;
    somebody_waits |= want->waits->len > 0;
    bytes += want->size;
    g_array_append_val(batch, want->msg);
    if (alone)
      break;
  }
  if (!batch->len && last_chance)
    space->serving[serve->kind]--;
  g_mutex_unlock(&bodies->lock);
  return batch;
}

/* ---- the job ---- */

typedef struct {
  ImapTag tag;
  GArray *msgs; /* of EngineMsg; those that were answered have no want any more */
} Batch;

typedef struct {
  Bodies *bodies;
  guint32 space;
  StoreWriter *writer; /* of the body being received */
  GError *failure; /* of the disk */
  guint64 flowed;  /* octets since those who wait were last told that there is progress */
  LineMeter meter;
} Receiving;

static void batch_clear(gpointer data) {
  g_array_unref(((Batch *) data)->msgs);
}

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  Receiving *receiving = data;
  store_writer_abort(&receiving->writer);
  line_meter_count(&receiving->meter, 0);
  g_clear_error(&receiving->failure);
  receiving->writer = store_writer_new(receiving->bodies->engine->store, size, &receiving->failure);
  return receiving->writer != NULL;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  Receiving *receiving = data;
  line_meter_count(&receiving->meter, size);
  receiving->flowed += size;
  if (receiving->flowed >= PATIENCE_BYTES) {
    receiving->flowed = 0;
    waits_touch_bodies(receiving->bodies->engine->waits);
  }
  if (store_writer_write(receiving->writer, octets, size, &receiving->failure))
    return TRUE;
  store_writer_abort(&receiving->writer);
  return FALSE;
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  Receiving *receiving = data;
  Bodies *bodies = receiving->bodies;
  if (!fetch->uid || !(fetch->have & (IMAP_FETCH_BODY | IMAP_FETCH_BODY_NIL)))
    return; /* flags that changed: the watching connection tells of them */
  EngineMsg msg = {receiving->space, fetch->uid};
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreBody) whole = NULL;
  if (fetch->have & IMAP_FETCH_BODY_NIL)
    g_set_error(&error, EML_ERROR, EML_ERROR_NOT_FOUND, "the message is no longer on the server");
  else if (receiving->failure)
    error = g_steal_pointer(&receiving->failure);
  else if (receiving->writer)
    whole = store_writer_commit(&receiving->writer, (MsgId){msg.space, msg.uid}, &error);
  if (!whole && !error)
    return;

  if (whole) {
    g_mutex_lock(&bodies->lock);
    Want *want = g_hash_table_lookup(bodies->wants, &msg);
    gboolean lied = want && want->size != whole->length;
    g_mutex_unlock(&bodies->lock);
    if (lied) {
      engine_set_size(bodies->engine, msg, whole->length);
      engine_tell_size(bodies->engine, msg);
    }
  }
  bodies_finish(bodies, msg, whole, error);
}

static const ImapHandler handler = {
    .fetch = on_fetch, .body_begin = on_body_begin, .body_data = on_body_data};

static int compare_msg(gconstpointer a, gconstpointer b) {
  guint32 x = ((const EngineMsg *) a)->uid, y = ((const EngineMsg *) b)->uid;
  return (x > y) - (x < y);
}

/* Sends one FETCH for @msgs (taken over) and notes it in @in_flight. */
static gboolean send_batch(ImapSession *session, GArray *msgs, GArray *in_flight, GError **error) {
  g_autoptr(GString) set = g_string_new(NULL);
  g_array_sort(msgs, compare_msg);
  for (guint i = 0; i < msgs->len; i++) {
    guint32 first = g_array_index(msgs, EngineMsg, i).uid, last = first;
    while (i + 1 < msgs->len && g_array_index(msgs, EngineMsg, i + 1).uid == last + 1) {
      last++;
      i++;
    }
    g_string_append_printf(set, first < last ? "%s%u:%u" : "%s%u", set->len ? "," : "", first, last);
  }
  Batch batch = {.msgs = msgs,
                 .tag = imap_fetch_send(session, set->str, "(UID BODY.PEEK[])", NULL, error)};
  g_array_append_val(in_flight, batch);
  return batch.tag != 0;
}

/* Why what was not answered is tried again. */
typedef enum {
  AGAIN_BROKEN,  /* the connection broke: the pool counts how often */
  AGAIN_REFUSED, /* NO: once, by itself */
  AGAIN_MISSED,  /* OK, but not a word of it: once */
} Again;

/* Puts the messages of a batch that were not answered back into the queue, if they may be tried
 * again; *@lost_out gets the others. Tells whether any were put back. */
static gboolean put_back(Bodies *bodies, const Batch *batch, Again why, GArray *lost_out) {
  gboolean any = FALSE;
  g_mutex_lock(&bodies->lock);
  for (guint i = 0; i < batch->msgs->len; i++) {
    Want *want = g_hash_table_lookup(bodies->wants, &g_array_index(batch->msgs, EngineMsg, i));
    if (!want || want->state != WANT_IN_FLIGHT)
      continue;
    if ((why == AGAIN_REFUSED && want->refused) || (why == AGAIN_MISSED && want->missed)) {
      g_array_append_val(lost_out, want->msg);
      continue;
    }
    want->refused |= why == AGAIN_REFUSED;
    want->missed |= why == AGAIN_MISSED;
    bodies_queue_locked(bodies, want);
    any = TRUE;
  }
  g_mutex_unlock(&bodies->lock);
  return any;
}

/* Waits for the oldest batch. A NO may be about one message of many, or about the session: what was
 * not answered is tried once more by itself, and on another connection when it is the first NO. An
 * OK without a message may come from a session that has not seen it yet (RFC 9051 5.2). */
static gboolean receive(Serve *serve, ImapSession *session, GArray *in_flight, GError **error) {
  g_autoptr(GError) refusal = NULL;
  gboolean ok = imap_wait(session, g_array_index(in_flight, Batch, 0).tag, &refusal);
  if (!ok && !imap_session_alive(session)) {
    g_propagate_error(error, g_steal_pointer(&refusal));
    return FALSE;
  }
  g_autoptr(GArray) lost = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  gboolean again = put_back(serve->bodies, &g_array_index(in_flight, Batch, 0),
                            ok ? AGAIN_MISSED : AGAIN_REFUSED, lost);
  g_array_remove_index(in_flight, 0);
  if (ok)
    refusal = g_error_new_literal(EML_ERROR, EML_ERROR_NOT_FOUND,
                                  "the message is no longer on the server");
  for (guint i = 0; i < lost->len; i++)
    bodies_finish(serve->bodies, g_array_index(lost, EngineMsg, i), NULL, refusal);
  if (ok && lost->len) /* what the index has and the server has not: the index is behind */
    syncs_schedule(serve->bodies->engine->syncs, serve->folder, JOB_NEWS);
  if (ok)
    return !again || imap_noop(session, error);
  if (!again || serve->refused)
    return TRUE;
  serve->refused = TRUE;
  g_propagate_error(error, g_steal_pointer(&refusal));
  return FALSE;
}

/* Whether the rest is to be left to another job. What was sent is received first. */
static gboolean makes_way(const Serve *serve, const ImapSession *session) {
  return serve->kind != WANT_WAITED &&
         pool_make_way(serve->bodies->engine->pool, priorities[serve->kind], session);
}

static gboolean job_run(ImapSession *session, gpointer data, GError **error) {
  Serve *serve = data;
  Bodies *bodies = serve->bodies;
  Receiving receiving = {.bodies = bodies,
                         .space = serve->space,
                         .meter = {.line = bodies->engine->line, .session = session}};
  g_autoptr(GArray) in_flight = g_array_new(FALSE, FALSE, sizeof(Batch));
  g_array_set_clear_func(in_flight, batch_clear);
  imap_session_set_handler(session, NULL, NULL);
  gboolean ok = bodies_select(bodies->engine, session, serve->folder, serve->space, error);
  imap_session_set_handler(session, &handler, &receiving);
  gboolean done = FALSE, leaving = FALSE;
  while (ok && !done) {
    leaving = leaving || makes_way(serve, session);
    if (leaving && in_flight->len == 0) {
      /* Behind the more urgent one. Its place in `serving` goes over to the new job. */
      fetch_push(bodies, serve->space, serve->folder, serve->kind, 1);
      break;
    }
    if (!leaving && in_flight->len < IN_FLIGHT) {
      g_autoptr(GArray) msgs = take_batch(serve, in_flight->len == 0);
      if (msgs->len) {
        ok = send_batch(session, g_steal_pointer(&msgs), in_flight, error);
        continue;
      }
      done = in_flight->len == 0;
    }
    if (in_flight->len)
      ok = receive(serve, session, in_flight, error);
    if (!in_flight->len)
      line_meter_pause(&receiving.meter);
  }
  imap_session_set_handler(session, NULL, NULL);
  store_writer_abort(&receiving.writer);
  g_clear_error(&receiving.failure);
  g_autoptr(GArray) lost = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  for (guint i = 0; i < in_flight->len; i++)
    put_back(bodies, &g_array_index(in_flight, Batch, i), AGAIN_BROKEN, lost);
  return ok;
}

/* Nothing of @serve's queue can be had: everybody who waits is told. */
static void job_failed(gpointer data, const GError *error) {
  Serve *serve = data;
  Bodies *bodies = serve->bodies;
  g_autoptr(GArray) msgs = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  g_mutex_lock(&bodies->lock);
  Space *space = bodies_space_locked(bodies, serve->space);
  space->serving[serve->kind]--;
  if (serve->kind != WANT_LATER) {
    space->steps = 0;
    bodies_drop_ahead_locked(bodies, space);
  }
  /* Another job of its kind may be at work with better luck, but it would find the queue empty. */
  WantState queue = serve->kind == WANT_LATER ? WANT_LATER : WANT_WAITED;
  GList *link;
  while (!space->serving[queue] && (link = g_queue_pop_head_link(&space->queues[queue]))) {
    Want *want = link->data;
    want->state = WANT_IN_FLIGHT; /* in no queue any more */
    g_array_append_val(msgs, want->msg);
  }
  g_mutex_unlock(&bodies->lock);
  for (guint i = 0; i < msgs->len; i++)
    bodies_finish(bodies, g_array_index(msgs, EngineMsg, i), NULL, error);
}

void fetch_push(Bodies *bodies, guint32 space, guint32 folder, WantState kind, guint count) {
  for (guint i = 0; i < count; i++) {
    Serve *serve = g_new(Serve, 1);
    *serve = (Serve){bodies, space, folder, kind, FALSE};
    PoolJob job = {.priority = priorities[kind],
                   .folder = folder,
                   .run = job_run,
                   .failed = job_failed,
                   .free = g_free,
                   .data = serve};
    pool_push(bodies->engine->pool, &job);
  }
}
