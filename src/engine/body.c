/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bodies: who wants which, and opening them. bodies-private.h tells how it is organized.
 *
 * Prefetch follows a reader that opens one message after the other in the order of their UIDs: each
 * step doubles what is fetched ahead of it, within limits. It is dropped when the reader is gone.
 */
#include <string.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/bodies-private.h"
#include "engine/overlay.h"

#define AHEAD_FIRST 16
#define AHEAD_MOST 1024
#define AHEAD_BYTES (32 * 1024 * 1024)
#define AHEAD_MESSAGE_BYTES (16 * 1024 * 1024) /* a larger one is left to its reader */
#define READER_STEPS 2 /* so many opens in order make a sequential reader */
#define READER_STRIDE 4096 /* UIDs; who skips more is not reading in order */

static void want_free(gpointer data) {
  Want *want = data;
  g_array_unref(want->waits);
  g_free(want);
}

Bodies *bodies_new(Engine *engine) {
  Bodies *bodies = g_new0(Bodies, 1);
  bodies->engine = engine;
  g_mutex_init(&bodies->lock);
  bodies->wants = g_hash_table_new_full(engine_msg_hash, engine_msg_equal, NULL, want_free);
  bodies->spaces = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  bodies->downloads = g_hash_table_new_full(engine_msg_hash, engine_msg_equal, g_free, NULL);
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
  *body = (EngineBody){.engine = engine, .whole = whole, .edited = -1};
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
  Space *space = bodies_space_locked(bodies, number);
  if (!space) {
    space = g_new0(Space, 1);
    space->space = number;
    space->folder = folder;
    for (guint i = 0; i < WANT_QUEUES; i++)
      g_queue_init(&space->queues[i]);
    g_hash_table_insert(bodies->spaces, GUINT_TO_POINTER(number), space);
  }
  return space;
}

static void enqueue_locked(Space *space, Want *want, WantState state) {
  want->state = state;
  g_queue_push_tail_link(&space->queues[state], &want->link);
}

static Want *want_new_locked(Bodies *bodies, Space *space, guint32 uid, guint64 size,
                             WantState state) {
  Want *want = g_new0(Want, 1);
  want->msg = (EngineMsg){space->space, uid};
  want->folder = space->folder;
  want->size = size;
  want->link.data = want;
  want->waits = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  g_hash_table_insert(bodies->wants, &want->msg, want);
  enqueue_locked(space, want, state);
  return want;
}

void bodies_queue_locked(Bodies *bodies, Want *want) {
  Space *space = bodies_space_locked(bodies, want->msg.space);
  enqueue_locked(space, want, want->waits->len ? WANT_WAITED
                              : want->offline  ? WANT_LATER
                                               : WANT_AHEAD);
}

void bodies_drop_ahead_locked(Bodies *bodies, Space *space) {
  GList *link;
  while ((link = g_queue_pop_head_link(&space->queues[WANT_AHEAD]))) {
    Want *want = link->data;
    if (want->offline)
      enqueue_locked(space, want, WANT_LATER);
    else
      g_hash_table_remove(bodies->wants, &want->msg);
  }
}

/* ---- completion ---- */

void bodies_finish(Bodies *bodies, EngineMsg msg, StoreBody *whole, const GError *error) {
  g_autoptr(GArray) waits = NULL;
  gboolean offline = FALSE;
  guint64 size = 0;
  g_mutex_lock(&bodies->lock);
  Want *want = g_hash_table_lookup(bodies->wants, &msg);
  if (want) {
    waits = g_array_ref(want->waits);
    offline = want->offline;
    size = want->size;
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
  if (offline)
    offline_settled(bodies->engine->offline, msg, size, error);
}

/* ---- the sequential reader ---- */

/* Follows the reader of @space who opens @uid, and plans what to fetch ahead of it. */
static void follow(Bodies *bodies, guint32 number, guint32 uid) {
  guint plan = 0;
  guint32 after = 0, folder = 0;
  g_mutex_lock(&bodies->lock);
  Space *space = bodies_space_locked(bodies, number);
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
      bodies_drop_ahead_locked(bodies, space);
      space->ahead_uid = 0;
      space->ahead_count = AHEAD_FIRST;
    }
  }
  space->last_uid = uid;
  space->last_open = now;
  if (space->steps >= READER_STEPS && space->queues[WANT_AHEAD].length < space->ahead_count / 2 &&
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
    if (one->size <= AHEAD_MESSAGE_BYTES && !g_hash_table_contains(bodies->wants, &msg))
      want_new_locked(bodies, space, one->uid, one->size, WANT_AHEAD);
    space->ahead_uid = MAX(space->ahead_uid, one->uid);
  }
  if (!missing->len)
    space->ahead_uid = G_MAXUINT32; /* nothing further is missing */
  more = fetch_claim_locked(space, WANT_AHEAD);
  g_mutex_unlock(&bodies->lock);
  fetch_push(bodies, number, folder, WANT_AHEAD, more);
}

/* ---- offline use ---- */

void bodies_fetch_later(Bodies *bodies, guint32 number, guint32 folder, const GArray *missing) {
  g_mutex_lock(&bodies->lock);
  Space *space = space_get_locked(bodies, number, folder);
  for (guint i = 0; i < missing->len; i++) {
    const StoreMissing *one = &g_array_index(missing, StoreMissing, i);
    EngineMsg msg = {number, one->uid};
    Want *want = g_hash_table_lookup(bodies->wants, &msg);
    if (!want)
      want = want_new_locked(bodies, space, one->uid, one->size, WANT_LATER);
    want->offline = TRUE;
  }
  guint more = fetch_claim_locked(space, WANT_LATER);
  g_mutex_unlock(&bodies->lock);
  fetch_push(bodies, number, folder, WANT_LATER, more);
}

void bodies_drop_later(Bodies *bodies) {
  g_autoptr(GArray) msgs = g_array_new(FALSE, FALSE, sizeof(EngineMsg));
  g_autoptr(GError) stopped = g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "stopped");
  g_mutex_lock(&bodies->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, bodies->spaces);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    GList *link;
    while ((link = g_queue_pop_head_link(&((Space *) value)->queues[WANT_LATER]))) {
      Want *want = link->data;
      want->state = WANT_IN_FLIGHT; /* in no queue any more */
      g_array_append_val(msgs, want->msg);
    }
  }
  g_mutex_unlock(&bodies->lock);
  for (guint i = 0; i < msgs->len; i++)
    bodies_finish(bodies, g_array_index(msgs, EngineMsg, i), NULL, stopped);
}

/* ---- opening ---- */

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
  if (want->state == WANT_AHEAD || want->state == WANT_LATER) {
    g_queue_unlink(&space->queues[want->state], &want->link);
    enqueue_locked(space, want, WANT_WAITED);
  }
  guint more = fetch_claim_locked(space, WANT_WAITED);
  g_mutex_unlock(&bodies->lock);
  fetch_push(bodies, msg.space, folder, WANT_WAITED, more);
  return wait;
}

/* Whether the body of a large message is on its way as a whole, because its reader was expected. One
 * that only stands in the queue is left to its reader, who gets it in pieces and sooner. */
static gboolean is_in_flight(Bodies *bodies, EngineMsg msg) {
  g_mutex_lock(&bodies->lock);
  Want *want = g_hash_table_lookup(bodies->wants, &msg);
  gboolean in_flight = want && want->state == WANT_IN_FLIGHT;
  if (want && want->state == WANT_AHEAD && !want->offline) {
    g_queue_unlink(&bodies_space_locked(bodies, msg.space)->queues[WANT_AHEAD], &want->link);
    g_hash_table_remove(bodies->wants, &msg);
  }
  g_mutex_unlock(&bodies->lock);
  return in_flight;
}

EngineWait engine_body_open(Engine *engine, EngineMsg msg, EngineBodyDone done, gpointer data) {
  g_autoptr(GError) error = NULL;
  msg = overlay_resolve(engine->overlay, msg);
  guint64 edited_size;
  int edited = locals_edited(engine->locals, msg, &edited_size);
  if (edited >= 0) {
    EngineBody *body = g_new0(EngineBody, 1);
    *body = (EngineBody){.engine = engine, .edited = edited, .size = edited_size};
    done(body, data, NULL);
    return 0;
  }
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
  if (message->size > DOWNLOAD_FROM_BYTES && !is_in_flight(engine->bodies, msg)) {
    Download *download = download_get(engine->bodies, msg, folder->id, message->size, &error);
    EngineBody *body = NULL;
    if (download) {
      body = g_new0(EngineBody, 1);
      *body = (EngineBody){.engine = engine, .download = download, .edited = -1};
    }
    follow(engine->bodies, msg.space, msg.uid);
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
  autofd_clear(&closing->edited);
  g_free(closing);
}

guint64 engine_body_size(const EngineBody *body) {
  if (body->edited >= 0)
    return body->size;
  return body->whole ? body->whole->length : download_size(body->download);
}

EngineWait engine_body_read(EngineBody *body, guint64 offset, gsize size, EngineReadDone done,
                            gpointer data) {
  if (body->download)
    return download_read(body->download, offset, size, done, data);
  guint64 length = engine_body_size(body);
  guint64 left = offset < length ? length - offset : 0;
  int fd = body->whole ? body->whole->fd : body->edited;
  gint64 begin = body->whole ? body->whole->offset : 0;
  done(fd, begin + (gint64) offset, (gsize) MIN(size, left), data, NULL);
  return 0;
}
