/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Small bodies. What is wanted stands in a table by message, so that many readers of one message
 * cause one fetch; per uidspace there is a queue of those somebody waits for and one of those that
 * will probably be read next. Jobs take batches from these queues, first the former, and keep two
 * commands in flight; a job ends when its queue is empty or something more urgent wants its
 * connection. A job counts itself in `serving` of its space in the same locked section in which it
 * finds work and out of it where it finds none, so that no want is left behind.
 *
 * Prefetch follows a reader that opens one message after the other in the order of their UIDs: each
 * step doubles what is fetched ahead of it, within limits. It is dropped when the reader is gone.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"

#define BATCH_COUNT 100
#define BATCH_BYTES (4 * 1024 * 1024)
#define IN_FLIGHT 2
#define AHEAD_FIRST 16
#define AHEAD_MOST 1024
#define AHEAD_BYTES (24 * 1024 * 1024)
#define READER_GONE_US (3 * G_USEC_PER_SEC)
#define READER_STEPS 2 /* so many opens in order make a sequential reader */
#define READER_STRIDE 4096 /* UIDs; who skips more is not reading in order */

typedef enum { WANT_WAITED, WANT_AHEAD, WANT_IN_FLIGHT } WantState;

/* One body that is to be fetched. */
typedef struct {
  EngineMsg msg; /* the key */
  guint32 folder;
  guint64 size;
  WantState state;
  gboolean refused; /* as one of several: it is fetched by itself now */
  gboolean missed;  /* the server did not know it, perhaps not yet */
  GList link;    /* in the space's queue, unless in flight */
  GArray *waits; /* of EngineWait; empty for prefetch */
} Want;

/* One uidspace that is being read. */
typedef struct {
  guint32 space, folder;
  GQueue waited, ahead; /* of Want.link */
  guint serving[2];     /* jobs queued or at work: for those waited for, for prefetch */
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

static guint msg_hash(gconstpointer key) {
  const EngineMsg *msg = key;
  return msg->space * 2654435761u ^ msg->uid;
}

static gboolean msg_equal(gconstpointer a, gconstpointer b) {
  const EngineMsg *x = a, *y = b;
  return x->space == y->space && x->uid == y->uid;
}

static void want_free(gpointer data) {
  Want *want = data;
  g_array_unref(want->waits);
  g_free(want);
}

Bodies *bodies_new(Engine *engine) {
  Bodies *bodies = g_new0(Bodies, 1);
  bodies->engine = engine;
  g_mutex_init(&bodies->lock);
  bodies->wants = g_hash_table_new_full(msg_hash, msg_equal, NULL, want_free);
  bodies->spaces = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  bodies->downloads = g_hash_table_new_full(msg_hash, msg_equal, g_free, NULL);
  return bodies;
}

void bodies_free(Bodies *bodies) {
  g_hash_table_unref(bodies->wants);
  g_hash_table_unref(bodies->spaces);
  g_hash_table_unref(bodies->downloads);
  g_mutex_clear(&bodies->lock);
  g_free(bodies);
}

EngineBody *engine_body_whole(Engine *engine, StoreBody *whole) {
  EngineBody *body = g_new0(EngineBody, 1);
  body->engine = engine;
  body->whole = whole;
  return body;
}

void engine_set_size(Engine *engine, EngineMsg msg, guint64 size) {
  g_autoptr(GError) error = NULL;
  if (!store_message_set_size(engine->store, (MsgId){msg.space, msg.uid}, size, &error))
    log_warning("the size of message %u could not be corrected: %s", msg.uid, error->message);
}

void engine_tell_size(Engine *engine, EngineMsg msg) {
  g_autoptr(StoreFolder) folder = store_folder_by_space(engine->store, msg.space, NULL);
  EngineNews news = {.kind = ENGINE_NEWS_MESSAGE_SIZE, .folder = folder ? folder->id : 0, .msg = msg};
  engine_emit(engine, &news, 1);
}

gboolean bodies_select(Engine *engine, ImapSession *session, guint32 id, guint32 space,
                       GError **error) {
  g_autoptr(StoreFolder) folder = store_folder_get(engine->store, id, error);
  if (!folder)
    return FALSE;
  if (folder->space == space && g_strcmp0(imap_session_selected(session), folder->mailbox) == 0 &&
      imap_session_uidvalidity(session) == folder->uidvalidity)
    return TRUE;
  ImapSelected selected = {0};
  if (folder->space == space &&
      !imap_select(session, folder->mailbox, FALSE, 0, 0, &selected, error))
    return FALSE;
  if (folder->space != space || selected.uidvalidity != folder->uidvalidity) {
    syncs_schedule(engine->syncs, id, JOB_NEWS);
    g_set_error(error, EML_ERROR, EML_ERROR_STALE, "the server has renumbered the messages of %s",
                folder->name);
    return FALSE;
  }
  return TRUE;
}

/* ---- queues ---- */

static Space *space_get_locked(Bodies *bodies, guint32 number, guint32 folder) {
  Space *space = g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(number));
  if (!space) {
    space = g_new0(Space, 1);
    space->space = number;
    space->folder = folder;
    g_queue_init(&space->waited);
    g_queue_init(&space->ahead);
    g_hash_table_insert(bodies->spaces, GUINT_TO_POINTER(number), space);
  }
  return space;
}

static Want *want_new_locked(Bodies *bodies, Space *space, guint32 uid, guint64 size,
                             WantState state) {
  Want *want = g_new0(Want, 1);
  want->msg = (EngineMsg){space->space, uid};
  want->folder = space->folder;
  want->size = size;
  want->state = state;
  want->link.data = want;
  want->waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  g_hash_table_insert(bodies->wants, &want->msg, want);
  g_queue_push_tail_link(state == WANT_WAITED ? &space->waited : &space->ahead, &want->link);
  return want;
}

/* Forgets what was planned ahead in @space. */
static void drop_ahead_locked(Bodies *bodies, Space *space) {
  GList *link;
  while ((link = g_queue_pop_head_link(&space->ahead)))
    g_hash_table_remove(bodies->wants, &((Want *) link->data)->msg);
}

/* Which jobs are to be pushed for @space; they are counted here and must be pushed by the caller
 * after it has unlocked. */
typedef struct {
  Bodies *bodies;
  guint32 space, folder;
  gboolean ahead;
  gboolean refused; /* a command of it was, so this is a run on another connection */
} Serve;

static guint claim_locked(Space *space, gboolean ahead) {
  guint length = ahead ? space->ahead.length : space->waited.length;
  /* One job for a few, more in parallel when there is enough for each. */
  guint useful = length == 0 ? 0 : 1 + length / (ahead ? BATCH_COUNT : 8);
  guint most = 3;
  guint target = MIN(useful, most);
  guint more = target > space->serving[ahead] ? target - space->serving[ahead] : 0;
  space->serving[ahead] += more;
  return more;
}

static void push(Bodies *bodies, guint32 space, guint32 folder, gboolean ahead, guint count);

/* Takes the next batch, a GArray of EngineMsg: what is waited for first, and for a prefetch job then
 * what is planned ahead. When it is empty and the job has nothing in flight (@last_chance), the job
 * no longer counts as serving. Wants are named by their msg from here on: anybody's answer may end
 * them. */
static GArray *take_batch(const Serve *serve, gboolean last_chance) {
  Bodies *bodies = serve->bodies;
  GArray *batch = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  guint64 bytes = 0;
  gboolean somebody_waits = FALSE;
  g_mutex_lock(&bodies->lock);
  Space *space = g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(serve->space));
  if (serve->ahead && g_get_monotonic_time() - space->last_open > READER_GONE_US)
    drop_ahead_locked(bodies, space);
  while (batch->len < BATCH_COUNT && bytes < BATCH_BYTES) {
    GQueue *queue = space->waited.length || !serve->ahead ? &space->waited : &space->ahead;
    /* Those who wait must not wait for what nobody asked for yet. */
    if (queue == &space->ahead && somebody_waits)
      break;
    GList *link = g_queue_pop_head_link(queue);
    if (!link)
      break;
    Want *want = link->data;
    if (want->refused && batch->len) {
      g_queue_push_head_link(queue, link);
      break;
    }
    want->state = WANT_IN_FLIGHT;
    somebody_waits |= want->waits->len > 0;
    bytes += want->size;
    g_array_append_val(batch, want->msg);
    if (want->refused)
      break;
  }
  if (!batch->len && last_chance)
    space->serving[serve->ahead]--;
  g_mutex_unlock(&bodies->lock);
  return batch;
}

/* ---- completion ---- */

/* Ends @msg's want, if there is one: everybody who waits gets @whole (a reference each) or @error. */
static void finish(Bodies *bodies, EngineMsg msg, StoreBody *whole, const GError *error) {
  g_autoptr(GArray) waits = NULL;
  g_mutex_lock(&bodies->lock);
  Want *want = g_hash_table_lookup(bodies->wants, &msg);
  if (want) {
    waits = g_array_ref(want->waits);
    g_hash_table_remove(bodies->wants, &msg);
  }
  g_mutex_unlock(&bodies->lock);
  for (guint i = 0; waits && i < waits->len; i++) {
    WaitCall call;
    if (!waits_take(bodies->engine->waits, g_array_index(waits, EngineWait, i), &call))
      continue;
    EngineBody *body = whole ? engine_body_whole(bodies->engine, store_body_ref(whole)) : NULL;
    call.done.body(body, call.data, error);
  }
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
  guint64 size;
  GError *failure; /* of the disk */
} Receiving;

static void batch_clear(gpointer data) {
  g_array_unref(((Batch *) data)->msgs);
}

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  Receiving *receiving = data;
  store_writer_abort(&receiving->writer);
  receiving->size = size;
  g_clear_error(&receiving->failure);
  receiving->writer = store_writer_new(receiving->bodies->engine->store, size, &receiving->failure);
  return receiving->writer != NULL;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  Receiving *receiving = data;
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
  finish(bodies, msg, whole, error);
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
    Space *space = g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(want->msg.space));
    gboolean waited = want->waits->len > 0;
    want->state = waited ? WANT_WAITED : WANT_AHEAD;
    want->refused |= why == AGAIN_REFUSED;
    want->missed |= why == AGAIN_MISSED;
    g_queue_push_tail_link(waited ? &space->waited : &space->ahead, &want->link);
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
    finish(serve->bodies, g_array_index(lost, EngineMsg, i), NULL, refusal);
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

static gboolean job_run(ImapSession *session, gpointer data, GError **error) {
  Serve *serve = data;
  Bodies *bodies = serve->bodies;
  Receiving receiving = {.bodies = bodies, .space = serve->space};
  g_autoptr(GArray) in_flight = g_array_new(FALSE, FALSE, sizeof(Batch));
  g_array_set_clear_func(in_flight, batch_clear);
  imap_session_set_handler(session, NULL, NULL);
  gboolean ok = bodies_select(bodies->engine, session, serve->folder, serve->space, error);
  imap_session_set_handler(session, &handler, &receiving);
  gboolean done = FALSE;
  while (ok && !done) {
    /* Only one that is idle may leave its place in `serving`. */
    gboolean make_way = in_flight->len == 0 && serve->ahead &&
                        pool_is_wanted(bodies->engine->pool, JOB_PREFETCH);
    if (make_way) {
      push(bodies, serve->space, serve->folder, TRUE, 1); /* behind the more urgent one */
      break;
    }
    if (in_flight->len < IN_FLIGHT) {
      g_autoptr(GArray) msgs = take_batch(serve, in_flight->len == 0);
      if (msgs->len) {
        ok = send_batch(session, g_steal_pointer(&msgs), in_flight, error);
        continue;
      }
      done = in_flight->len == 0;
    }
    if (in_flight->len)
      ok = receive(serve, session, in_flight, error);
  }
  imap_session_set_handler(session, NULL, NULL);
  store_writer_abort(&receiving.writer);
  g_clear_error(&receiving.failure);
  g_autoptr(GArray) lost = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  for (guint i = 0; i < in_flight->len; i++)
    put_back(bodies, &g_array_index(in_flight, Batch, i), AGAIN_BROKEN, lost);
  return ok;
}

/* Nothing of @serve's space can be had: everybody who waits is told. */
static void job_failed(gpointer data, const GError *error) {
  Serve *serve = data;
  Bodies *bodies = serve->bodies;
  g_autoptr(GArray) msgs = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  g_mutex_lock(&bodies->lock);
  Space *space = g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(serve->space));
  space->serving[serve->ahead]--;
  space->steps = 0;
  drop_ahead_locked(bodies, space);
  /* Another job of this space may be at work with better luck, but it would find the queue empty. */
  GList *link;
  while (!space->serving[FALSE] && (link = g_queue_pop_head_link(&space->waited))) {
    Want *want = link->data;
    want->state = WANT_IN_FLIGHT; /* in no queue any more */
    g_array_append_val(msgs, want->msg);
  }
  g_mutex_unlock(&bodies->lock);
  for (guint i = 0; i < msgs->len; i++)
    finish(bodies, g_array_index(msgs, EngineMsg, i), NULL, error);
}

static void push(Bodies *bodies, guint32 space, guint32 folder, gboolean ahead, guint count) {
  for (guint i = 0; i < count; i++) {
    Serve *serve = g_new(Serve, 1);
    *serve = (Serve){bodies, space, folder, ahead, FALSE};
    PoolJob job = {.priority = ahead ? JOB_PREFETCH : JOB_INTERACTIVE,
                   .folder = folder,
                   .run = job_run,
                   .failed = job_failed,
                   .free = g_free,
                   .data = serve};
    pool_push(bodies->engine->pool, &job);
  }
}

/* ---- opening ---- */

/* Follows the reader of @space who opens @uid, and plans what to fetch ahead of it. */
static void follow(Bodies *bodies, guint32 number, guint32 uid) {
  guint plan = 0;
  guint32 after = 0, folder = 0;
  g_mutex_lock(&bodies->lock);
  Space *space = g_hash_table_lookup(bodies->spaces, GUINT_TO_POINTER(number));
  if (!space) {
    g_mutex_unlock(&bodies->lock);
    g_autoptr(StoreFolder) found = store_folder_by_space(bodies->engine->store, number, NULL);
    if (!found)
      return;
    g_mutex_lock(&bodies->lock);
    space = space_get_locked(bodies, number, found->id);
  }
  folder = space->folder; /* a uidspace never comes to another */
  gint64 now = g_get_monotonic_time();
  gboolean in_order = uid > space->last_uid && uid - space->last_uid <= READER_STRIDE &&
                      now - space->last_open < READER_GONE_US;
  if (uid != space->last_uid) {
    space->steps = in_order ? space->steps + 1 : 0;
    if (!in_order) {
      drop_ahead_locked(bodies, space);
      space->ahead_uid = 0;
      space->ahead_count = AHEAD_FIRST;
    }
  }
  space->last_uid = uid;
  space->last_open = now;
  if (space->steps >= READER_STEPS && space->ahead.length < space->ahead_count / 2 &&
      space->ahead_uid != G_MAXUINT32 && link_usable(bodies->engine->link, NULL)) {
    plan = space->ahead_count;
    after = MAX(space->ahead_uid, uid);
    space->ahead_count = MIN(2 * space->ahead_count, AHEAD_MOST);
  }
  g_mutex_unlock(&bodies->lock);
  if (!plan)
    return;

  g_autoptr(GArray) missing = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
  if (!store_missing_bodies(bodies->engine->store, number, after, plan, AHEAD_BYTES, missing, NULL))
    return;
  guint more = 0;
  g_mutex_lock(&bodies->lock);
  space = space_get_locked(bodies, number, folder);
  space->ahead_uid = after;
  for (guint i = 0; i < missing->len; i++) {
    const StoreMissing *one = &g_array_index(missing, StoreMissing, i);
    EngineMsg msg = {number, one->uid};
    if (one->size <= DOWNLOAD_FROM_BYTES && !g_hash_table_contains(bodies->wants, &msg))
      want_new_locked(bodies, space, one->uid, one->size, WANT_AHEAD);
    space->ahead_uid = MAX(space->ahead_uid, one->uid);
  }
  if (!missing->len)
    space->ahead_uid = G_MAXUINT32; /* nothing further is missing */
  more = claim_locked(space, TRUE);
  g_mutex_unlock(&bodies->lock);
  push(bodies, number, folder, TRUE, more);
}

static Download *download_get(Bodies *bodies, EngineMsg msg, guint32 folder, guint64 size,
                              GError **error) {
  g_mutex_lock(&bodies->lock);
  Download *download = g_hash_table_lookup(bodies->downloads, &msg);
  if (!download || !download_try_ref(download)) {
    download = download_new(bodies->engine, msg, folder, size, error);
    if (download)
      g_hash_table_replace(bodies->downloads, g_memdup2(&msg, sizeof msg), download);
  }
  g_mutex_unlock(&bodies->lock);
  return download;
}

void bodies_forget(Bodies *bodies, Download *download) {
  EngineMsg msg = download_msg(download);
  g_mutex_lock(&bodies->lock);
  if (g_hash_table_lookup(bodies->downloads, &msg) == download)
    g_hash_table_remove(bodies->downloads, &msg);
  g_mutex_unlock(&bodies->lock);
}

/* Joins or begins the fetch of a small body; @call is parked. */
static EngineWait want_body(Bodies *bodies, EngineMsg msg, guint32 folder, guint64 size,
                            const WaitCall *call) {
  EngineWait wait = waits_add(bodies->engine->waits, call);
  g_mutex_lock(&bodies->lock);
  Space *space = space_get_locked(bodies, msg.space, folder);
  Want *want = g_hash_table_lookup(bodies->wants, &msg);
  if (!want) {
    /* A want ends only after its body is in the store: looked at under this lock, it is either
     * there or nobody is fetching it. */
    StoreBody *whole = store_body_get(bodies->engine->store, (MsgId){msg.space, msg.uid}, NULL);
    if (whole) {
      g_mutex_unlock(&bodies->lock);
      WaitCall own;
      if (waits_take(bodies->engine->waits, wait, &own))
        own.done.body(engine_body_whole(bodies->engine, whole), own.data, NULL);
      else
        store_body_unref(whole);
      return 0;
    }
    want = want_new_locked(bodies, space, msg.uid, size, WANT_WAITED);
  }
  g_array_append_val(want->waits, wait);
  if (want->state == WANT_AHEAD) {
    g_queue_unlink(&space->ahead, &want->link);
    g_queue_push_tail_link(&space->waited, &want->link);
    want->state = WANT_WAITED;
  }
  guint more = claim_locked(space, FALSE);
  g_mutex_unlock(&bodies->lock);
  push(bodies, msg.space, folder, FALSE, more);
  return wait;
}

EngineWait engine_body_open(Engine *engine, EngineMsg msg, EngineBodyDone done, gpointer data) {
  g_autoptr(GError) error = NULL;
  MsgId id = {msg.space, msg.uid};
  g_autoptr(StoreBody) whole = store_body_get(engine->store, id, &error);
  if (whole) {
    follow(engine->bodies, msg.space, msg.uid);
    done(engine_body_whole(engine, g_steal_pointer(&whole)), data, NULL);
    return 0;
  }
  if (error)
    log_warning("message %u is fetched again: %s", msg.uid, error->message);
  g_clear_error(&error);
  g_autoptr(StoreMessage) message = store_message_get(engine->store, id, &error);
  g_autoptr(StoreFolder) folder = store_folder_by_space(engine->store, msg.space, NULL);
  if (message && !folder)
    g_set_error(&error, EML_ERROR, EML_ERROR_STALE, "the folder is gone");
  if (error || !link_usable(engine->link, &error)) {
    done(NULL, data, error);
    return 0;
  }
  if (message->size > DOWNLOAD_FROM_BYTES) {
    Download *download = download_get(engine->bodies, msg, folder->id, message->size, &error);
    EngineBody *body = NULL;
    if (download) {
      body = g_new0(EngineBody, 1);
      body->engine = engine;
      body->download = download;
    }
    done(body, data, error);
    return 0;
  }
  WaitCall call = {.kind = WAIT_BODY, .done.body = done, .data = data};
  EngineWait wait = want_body(engine->bodies, msg, folder->id, message->size, &call);
  follow(engine->bodies, msg.space, msg.uid);
  return wait;
}

EngineBody *engine_body_next(Engine *engine, EngineMsg *msg_inout) {
  MsgId id = {msg_inout->space, msg_inout->uid};
  StoreBody *whole = store_body_next(engine->store, &id);
  msg_inout->uid = id.uid;
  return whole ? engine_body_whole(engine, whole) : NULL;
}

void engine_body_close(EngineBody **body) {
  EngineBody *closing = g_steal_pointer(body);
  if (!closing)
    return;
  if (closing->whole)
    store_body_unref(closing->whole);
  if (closing->download)
    download_unref(closing->download);
  g_free(closing);
}

guint64 engine_body_size(const EngineBody *body) {
  return body->whole ? body->whole->length : download_size(body->download);
}

EngineWait engine_body_read(EngineBody *body, guint64 offset, gsize size, EngineReadDone done,
                            gpointer data) {
  if (body->download)
    return download_read(body->download, offset, size, done, data);
  guint64 left = offset < body->whole->length ? body->whole->length - offset : 0;
  done(body->whole->fd, body->whole->offset + (gint64) offset, (gsize) MIN(size, left), data, NULL);
  return 0;
}
