/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The queue of changes. What is alike and stands together is done together: a group has one folder,
 * one target and one kind, and becomes one job of the pool. Two groups run at once only when they
 * have no folder in common, and no group overtakes an older change of one of its folders, so that
 * the order in each folder is that of the calls.
 *
 * While a group runs, no sync runs in its folders (syncs_hold): what it does there would look like
 * news.
 *
 * A change whose asker still waits is given up when the link goes down: before it was sent it is
 * dropped, after that it is abandoned, which leaves only finding out. One that was acknowledged stays
 * until it is done or refused.
 */
#include <string.h>

#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/changes-private.h"

#define GROUPS_MOST 3                        /* running at once */
#define SET_MOST 2000                        /* changes in a group of UIDs */
#define UPLOADS_MOST 500                     /* in a group of uploads … */
#define UPLOAD_BYTES (32 * 1024 * 1024)      /* … which has not more octets, unless it is one */
#define LOOK_AHEAD 64                        /* how far down the queue a further group is looked for */
#define BELIEF_US (60 * G_USEC_PER_SEC)      /* so long after a success the next is taken for granted */
#define SETTLE_AT 256                        /* results are written so many together */
#define ATTEMPTS_MOST 5                      /* of a server that breaks the protocol over it */

typedef struct {
  guint32 change, folder; /* either */
  ChangesFn fn;
  gpointer data;
} After;

struct Changes {
  Engine *engine;
  GMutex lock; /* guards all below; a leaf but for the waits and syncs_hold */
  GQueue queue;          /* ChangeItem, waiting, by number */
  GHashTable *alive;     /* number → ChangeItem, waiting or running */
  GHashTable *busy;      /* ids of folders of running groups */
  GHashTable *load;      /* folder id → how many changes of it are alive */
  GHashTable *believed;  /* kind and folder → gint64 monotonic µs of the last success */
  GArray *afters;        /* After */
  guint groups;
  guint64 upload_bytes;  /* not yet settled */
  guint refused;         /* changes that were acknowledged and then refused */
  gboolean stopping;
};

typedef struct {
  Changes *changes;
  ChangeKind kind;
  guint32 folder, target;
  GPtrArray *items;    /* ChangeItem, owned until they are settled or put back */
  GHashTable *by_change; /* Change → ChangeItem; of the run that goes on */
  GArray *results;     /* Settled, not yet written */
  StoreBatch *flags;   /* FLAGS: the server's word */
  guint32 space;
  GError *failure;     /* of writing results */
} Group;

void change_item_free(ChangeItem *item) {
  if (!item)
    return;
  change_free(item->change);
  g_free(item);
}

void changes_answer(Engine *engine, EngineWait wait, const GError *error) {
  WaitCall call;
  if (wait && waits_take(engine->waits, wait, &call))
    call.done.folder(call.data, error);
}

/* ---- belief ---- */

static gint64 belief_key(const ChangeItem *item) {
  guint32 folder = item->target ? item->target : item->folder;
  return (gint64) item->change->kind << 32 | folder;
}

/* Whether the quota, as far as it is known, has room for what is on its way. */
static gboolean has_room(Engine *engine, guint64 bytes) {
  EngineQuota quota;
  engine_quota(engine, &quota);
  return quota.limit < 0 || quota.used < 0 || (guint64) quota.used + bytes <= (guint64) quota.limit;
}

static gboolean is_believed_locked(Changes *changes, const ChangeItem *item) {
  gint64 key = belief_key(item);
  const gint64 *when = g_hash_table_lookup(changes->believed, &key);
  if (!when || g_get_monotonic_time() - *when > BELIEF_US)
    return FALSE;
  return item->change->kind != CHANGE_UPLOAD ||
         has_room(changes->engine, changes->upload_bytes + item->change->size);
}

static void believe_locked(Changes *changes, const ChangeItem *item, gboolean success) {
  gint64 key = belief_key(item), now = g_get_monotonic_time();
  if (success)
    g_hash_table_replace(changes->believed, g_memdup2(&key, sizeof key),
                         g_memdup2(&now, sizeof now));
  else
    g_hash_table_remove(changes->believed, &key);
}

/* ---- life ---- */

Changes *changes_new(Engine *engine) {
  Changes *changes = g_new0(Changes, 1);
  changes->engine = engine;
  g_mutex_init(&changes->lock);
  g_queue_init(&changes->queue);
  changes->alive = g_hash_table_new(NULL, NULL);
  changes->busy = g_hash_table_new(NULL, NULL);
  changes->load = g_hash_table_new(NULL, NULL);
  changes->believed = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
  changes->afters = g_array_new(FALSE, FALSE, sizeof(After));
  return changes;
}

void changes_stop(Changes *changes) {
  g_mutex_lock(&changes->lock);
  changes->stopping = TRUE;
  g_mutex_unlock(&changes->lock);
}

void changes_free(Changes *changes) {
  ChangeItem *item;
  while ((item = g_queue_pop_head(&changes->queue)))
    change_item_free(item); /* it is in the journal */
  for (guint i = 0; i < changes->afters->len; i++) {
    const After *after = &g_array_index(changes->afters, After, i);
    after->fn(after->data);
  }
  g_array_unref(changes->afters);
  g_hash_table_unref(changes->alive);
  g_hash_table_unref(changes->busy);
  g_hash_table_unref(changes->load);
  g_hash_table_unref(changes->believed);
  g_mutex_clear(&changes->lock);
  g_free(changes);
}

/* ---- alive ---- */

static void count_locked(Changes *changes, guint32 folder, gint by) {
  if (!folder)
    return;
  guint count = GPOINTER_TO_UINT(g_hash_table_lookup(changes->load, GUINT_TO_POINTER(folder)));
  count = (guint) ((gint) count + by);
  if (count)
    g_hash_table_replace(changes->load, GUINT_TO_POINTER(folder), GUINT_TO_POINTER(count));
  else
    g_hash_table_remove(changes->load, GUINT_TO_POINTER(folder));
}

static void add_locked(Changes *changes, ChangeItem *item) {
  g_hash_table_insert(changes->alive, GUINT_TO_POINTER(item->change->id), item);
  g_queue_push_tail(&changes->queue, item);
  count_locked(changes, item->folder, 1);
  if (item->target != item->folder)
    count_locked(changes, item->target, 1);
  if (item->change->kind == CHANGE_UPLOAD)
    changes->upload_bytes += item->change->size;
}

static void remove_locked(Changes *changes, const ChangeItem *item) {
  g_hash_table_remove(changes->alive, GUINT_TO_POINTER(item->change->id));
  count_locked(changes, item->folder, -1);
  if (item->target != item->folder)
    count_locked(changes, item->target, -1);
  if (item->change->kind == CHANGE_UPLOAD)
    changes->upload_bytes -= item->change->size;
}

static gboolean is_due_locked(Changes *changes, const After *after) {
  return after->change
             ? !g_hash_table_contains(changes->alive, GUINT_TO_POINTER(after->change))
             : !g_hash_table_contains(changes->load, GUINT_TO_POINTER(after->folder));
}

/* Calls those that waited for what is settled now. */
static void run_afters(Changes *changes) {
  g_autoptr(GArray) due = g_array_new(FALSE, FALSE, sizeof(After));
  g_mutex_lock(&changes->lock);
  for (guint i = 0; i < changes->afters->len;) {
    After after = g_array_index(changes->afters, After, i);
    if (is_due_locked(changes, &after)) {
      g_array_append_val(due, after);
      g_array_remove_index(changes->afters, i);
    } else {
      i++;
    }
  }
  g_mutex_unlock(&changes->lock);
  for (guint i = 0; i < due->len; i++) {
    const After *after = &g_array_index(due, After, i);
    after->fn(after->data);
  }
}

static void add_after(Changes *changes, const After *after) {
  g_mutex_lock(&changes->lock);
  gboolean due = is_due_locked(changes, after);
  if (!due)
    g_array_append_val(changes->afters, *after);
  g_mutex_unlock(&changes->lock);
  if (due)
    after->fn(after->data);
}

void changes_after(Changes *changes, guint32 change, ChangesFn fn, gpointer data) {
  After after = {.change = change, .fn = fn, .data = data};
  add_after(changes, &after);
}

void changes_after_folder(Changes *changes, guint32 folder, ChangesFn fn, gpointer data) {
  After after = {.folder = folder, .fn = fn, .data = data};
  add_after(changes, &after);
}

/* ---- results ---- */

/* What was stored takes room from now on, whether or not the server is asked soon. */
static void count_quota(Engine *engine, const Settled *result) {
  const Change *change = result->item->change;
  if (result->outcome == CHANGE_REFUSED ||
      (change->kind != CHANGE_UPLOAD && change->kind != CHANGE_COPY))
    return;
  g_mutex_lock(&engine->lock);
  if (engine->quota.used >= 0)
    engine->quota.used += (gint64) change->size;
  g_mutex_unlock(&engine->lock);
}

/* Writes the results gathered so far and answers. */
static gboolean write_results(Group *group, GError **error) {
  Changes *changes = group->changes;
  g_autoptr(GArray) results = g_steal_pointer(&group->results);
  group->results = g_array_new(FALSE, FALSE, sizeof(Settled));
  if (group->flags && !store_batch_flush(group->flags, error))
    log_warning("flags could not be noted: %s", (*error)->message);
  g_clear_error(error);
  gboolean ok = !results->len || settle(changes->engine, results, error);
  for (guint i = 0; i < results->len; i++) {
    Settled *result = &g_array_index(results, Settled, i);
    ChangeItem *item = result->item;
    if (ok) {
      gboolean success = result->outcome != CHANGE_REFUSED;
      count_quota(changes->engine, result);
      g_mutex_lock(&changes->lock);
      believe_locked(changes, item, success);
      changes->refused += !success && !item->wait;
      remove_locked(changes, item);
      g_mutex_unlock(&changes->lock);
      g_autoptr(GError) gone = NULL;
      if (result->outcome == CHANGE_GONE && item->change->kind != CHANGE_UPLOAD)
        gone = g_error_new_literal(EML_ERROR, EML_ERROR_NOT_FOUND, "the message is gone");
      changes_answer(changes->engine, item->wait, result->error ? result->error : gone);
      item->settled = TRUE;
    }
    g_clear_error(&result->error);
  }
  if (ok)
    run_afters(changes);
  return ok;
}

static void on_settled(Change *change, const ChangeResult *result, gpointer data) {
  Group *group = data;
  Settled settled = {.item = g_hash_table_lookup(group->by_change, change),
                     .outcome = result->outcome,
                     .uidvalidity = result->uidvalidity,
                     .uid = result->uid,
                     .guessed = result->guessed,
                     .error = result->error ? g_error_copy(result->error) : NULL};
  g_array_append_val(group->results, settled);
  /* Who waits is not kept waiting for the others. */
  if (!group->failure && (settled.item->wait || group->results->len >= SETTLE_AT))
    write_results(group, &group->failure);
}

static void on_flags(guint32 uid, guint flags, const char *const *keywords, guint64 modseq,
                     gpointer data) {
  Group *group = data;
  if (!group->space)
    return;
  if (!group->flags)
    group->flags = store_batch_new(group->changes->engine->store, group->space);
  g_autofree char *joined = g_strjoinv(" ", (char **) keywords);
  gboolean changed = FALSE;
  if (!store_batch_flags(group->flags, uid, flags & ~(guint) MSG_FLAG_RECENT, joined, modseq,
                         g_get_real_time() / G_USEC_PER_SEC, &changed, NULL) ||
      !changed)
    return;
  EngineNews news = {
      .kind = ENGINE_NEWS_MESSAGE_FLAGS, .folder = group->folder, .msg = {group->space, uid}};
  engine_emit(group->changes->engine, &news, 1);
}

/* Octets flow: whoever waits for an upload of this group is kept patient. */
static void on_progress(guint64 done, guint64 total, gpointer data) {
  Group *group = data;
  for (guint i = 0; i < group->items->len; i++) {
    const ChangeItem *item = g_ptr_array_index(group->items, i);
    if (item->wait && !item->settled)
      waits_touch(group->changes->engine->waits, item->wait);
  }
}

/* ---- jobs ---- */

static void group_free(gpointer data) {
  Group *group = data;
  for (guint i = 0; i < group->items->len; i++) {
    ChangeItem *item = g_ptr_array_index(group->items, i);
    if (item->settled)
      change_item_free(item);
  }
  g_ptr_array_unref(group->items);
  g_array_unref(group->results);
  g_clear_error(&group->failure);
  g_free(group);
}

/* Its folders are free for others. */
static void release(Group *group) {
  Changes *changes = group->changes;
  const guint32 folders[] = {group->folder, group->target};
  for (guint i = 0; i < G_N_ELEMENTS(folders); i++) {
    if (!folders[i] || (i && folders[i] == folders[0]))
      continue;
    g_mutex_lock(&changes->lock);
    g_hash_table_remove(changes->busy, GUINT_TO_POINTER(folders[i]));
    g_mutex_unlock(&changes->lock);
    syncs_release(changes->engine->syncs, folders[i]);
  }
  g_mutex_lock(&changes->lock);
  changes->groups--;
  g_mutex_unlock(&changes->lock);
}

static guint32 space_of(Engine *engine, guint32 folder) {
  g_autoptr(StoreFolder) found = folder ? store_folder_get(engine->store, folder, NULL) : NULL;
  return found ? found->space : 0;
}

static gboolean group_run(ImapSession *session, gpointer data, GError **error) {
  Group *group = data;
  Changes *changes = group->changes;
  const ChangeHooks hooks = {
      .settled = on_settled, .flags = on_flags, .progress = on_progress, .data = group};
  g_autoptr(GPtrArray) due = g_ptr_array_new();
  g_autoptr(GHashTable) by_change = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < group->items->len; i++) {
    ChangeItem *item = g_ptr_array_index(group->items, i);
    if (item->settled)
      continue;
    g_ptr_array_add(due, item->change);
    g_hash_table_insert(by_change, item->change, item);
  }
  group->by_change = by_change;
  group->space = space_of(changes->engine, group->folder);
  gboolean ok = sync_changes(changes->engine->journal, session, due, &hooks, error);
  g_autoptr(GError) failure = NULL;
  gboolean written = write_results(group, &failure);
  store_batch_abort(&group->flags);
  group->by_change = NULL;
  if (!group->failure && !written)
    group->failure = g_steal_pointer(&failure);
  if (ok && group->failure) {
    g_propagate_error(error, g_steal_pointer(&group->failure));
    ok = FALSE;
  }
  if (!ok)
    return FALSE;
  release(group);
  changes_wake(changes);
  return TRUE;
}

/* It will not be done: shown as it is on the server again. */
static void drop(Changes *changes, ChangeItem *item, const GError *why) {
  g_autoptr(GArray) results = g_array_new(FALSE, FALSE, sizeof(Settled));
  Settled result = {.item = item, .outcome = CHANGE_REFUSED, .error = (GError *) why};
  g_array_append_val(results, result);
  g_autoptr(GError) error = NULL;
  if (!settle(changes->engine, results, &error))
    log_error("the journal cannot be written: %s", error->message);
  g_mutex_lock(&changes->lock);
  believe_locked(changes, item, FALSE);
  changes->refused += !item->wait;
  remove_locked(changes, item);
  g_mutex_unlock(&changes->lock);
  changes_answer(changes->engine, item->wait, why);
}

/* Who waits for @item is told that it failed, and it is given up as far as it can be. TRUE: it is
 * gone from the queue for good. */
static gboolean give_up(Changes *changes, ChangeItem *item, const GError *why) {
  if (item->change->stage == CHANGE_QUEUED) {
    drop(changes, item, why);
    return TRUE;
  }
  item->change->abandoned = TRUE;
  g_autoptr(GError) error = NULL;
  const Change *one = item->change;
  if (!journal_change_update(changes->engine->journal, &one, 1, &error))
    log_error("the journal cannot be written: %s", error->message);
  changes_answer(changes->engine, item->wait, why);
  item->wait = 0;
  return FALSE;
}

static void group_failed(gpointer data, const GError *error) {
  Group *group = data;
  Changes *changes = group->changes;
  gboolean passing = g_error_matches(error, EML_ERROR, EML_ERROR_OFFLINE) ||
                     g_error_matches(error, EML_ERROR, EML_ERROR_TIMEOUT) ||
                     g_error_matches(error, EML_ERROR, EML_ERROR_CANCELLED);
  GQueue back = G_QUEUE_INIT;
  for (guint i = 0; i < group->items->len; i++) {
    ChangeItem *item = g_ptr_array_index(group->items, i);
    if (item->settled)
      continue;
    gboolean hopeless = !passing && ++item->attempts >= ATTEMPTS_MOST;
    gboolean gone = FALSE;
    if (hopeless) {
      drop(changes, item, error);
      gone = TRUE;
    } else if (item->wait) {
      gone = give_up(changes, item, error);
    }
    if (gone)
      item->settled = TRUE; /* group_free frees it */
    else
      g_queue_push_tail(&back, item);
  }
  if (!passing)
    log_warning("changes could not be made: %s", error->message);
  g_mutex_lock(&changes->lock);
  ChangeItem *item;
  while ((item = g_queue_pop_tail(&back)))
    g_queue_push_head(&changes->queue, item);
  g_mutex_unlock(&changes->lock);
  release(group);
  run_afters(changes);
  /* When the link is back, it is tried again; what is no fault of the link at once. */
  if (!passing)
    changes_wake(changes);
}

/* ---- groups ---- */

static gboolean same_text(const char *a, const char *b) {
  return g_strcmp0(a, b) == 0;
}

static gboolean fits(const Group *group, const ChangeItem *first, const ChangeItem *item) {
  const Change *a = first->change, *b = item->change;
  if (a->kind != b->kind || first->folder != item->folder || first->target != item->target ||
      a->abandoned != b->abandoned || !same_text(a->target, b->target))
    return FALSE;
  if (a->kind == CHANGE_UPLOAD)
    /* One that replaces is done by itself: source and target are one folder there. */
    return !a->mailbox && !b->mailbox;
  if (!same_text(a->mailbox, b->mailbox) || a->uidvalidity != b->uidvalidity)
    return FALSE;
  return a->kind != CHANGE_FLAGS ||
         (a->add == b->add && a->remove == b->remove && same_text(a->add_keywords, b->add_keywords) &&
          same_text(a->remove_keywords, b->remove_keywords));
}

static gboolean is_taken(GHashTable *folders, guint32 folder) {
  return folder && g_hash_table_contains(folders, GUINT_TO_POINTER(folder));
}

static void mark(GHashTable *folders, guint32 folder) {
  if (folder)
    g_hash_table_add(folders, GUINT_TO_POINTER(folder));
}

/* Keeps syncs out of both folders, or of none. */
static gboolean hold(Changes *changes, const ChangeItem *item) {
  Syncs *syncs = changes->engine->syncs;
  if (item->folder && !syncs_hold(syncs, item->folder))
    return FALSE;
  if (!item->target || item->target == item->folder || syncs_hold(syncs, item->target))
    return TRUE;
  if (item->folder)
    syncs_release(syncs, item->folder);
  return FALSE;
}

/* Takes the next group that can run, or NULL. */
static Group *next_group_locked(Changes *changes) {
  g_autoptr(GHashTable) blocked = g_hash_table_new(NULL, NULL);
  ChangeItem *first = NULL;
  GList *link = changes->queue.head;
  for (guint i = 0; link && i < LOOK_AHEAD && !first; i++) {
    ChangeItem *item = link->data;
    gboolean open = !is_taken(changes->busy, item->folder) && !is_taken(blocked, item->folder) &&
                    !is_taken(changes->busy, item->target) && !is_taken(blocked, item->target);
    if (open && hold(changes, item)) {
      first = item;
    } else {
      mark(blocked, item->folder);
      mark(blocked, item->target);
      link = link->next;
    }
  }
  if (!first)
    return NULL;
  Group *group = g_new0(Group, 1);
  *group = (Group){.changes = changes,
                   .kind = first->change->kind,
                   .folder = first->folder,
                   .target = first->target,
                   .items = g_ptr_array_new(),
                   .results = g_array_new(FALSE, FALSE, sizeof(Settled))};
  guint most = group->kind == CHANGE_UPLOAD ? UPLOADS_MOST : SET_MOST;
  guint64 bytes = 0;
  while (link && group->items->len < most) {
    ChangeItem *item = link->data;
    guint64 size = group->kind == CHANGE_UPLOAD ? item->change->size : 0;
    if (group->items->len && (!fits(group, first, item) || bytes + size > UPLOAD_BYTES))
      break;
    GList *next = link->next;
    g_queue_delete_link(&changes->queue, link);
    g_ptr_array_add(group->items, item);
    bytes += size;
    link = next;
  }
  mark(changes->busy, group->folder);
  mark(changes->busy, group->target);
  changes->groups++;
  return group;
}

/* Drops those whose asker gave up before anything was sent. TRUE: some are left. */
static gboolean weed(Group *group) {
  Changes *changes = group->changes;
  g_autoptr(GError) cancelled =
      g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "given up before it was begun");
  guint left = 0;
  for (guint i = 0; i < group->items->len; i++) {
    ChangeItem *item = g_ptr_array_index(group->items, i);
    WaitCall call;
    if (item->wait && item->change->stage == CHANGE_QUEUED &&
        !waits_peek(changes->engine->waits, item->wait, &call)) {
      drop(changes, item, cancelled);
      item->settled = TRUE;
    }
    left += !item->settled;
  }
  return left > 0;
}

static void push(Group *group) {
  gboolean waited = FALSE;
  for (guint i = 0; i < group->items->len; i++)
    waited |= ((ChangeItem *) g_ptr_array_index(group->items, i))->wait != 0;
  PoolJob job = {.priority = waited ? JOB_INTERACTIVE : JOB_NEWS,
                 .folder = group->folder ? group->folder : group->target,
                 .run = group_run,
                 .failed = group_failed,
                 .free = group_free,
                 .data = group};
  pool_push(group->changes->engine->pool, &job);
}

void changes_wake(Changes *changes) {
  for (;;) {
    g_mutex_lock(&changes->lock);
    gboolean able = !changes->stopping && changes->groups < GROUPS_MOST && changes->queue.length &&
                    link_usable(changes->engine->link, NULL);
    Group *group = able ? next_group_locked(changes) : NULL;
    g_mutex_unlock(&changes->lock);
    if (!group)
      return;
    if (weed(group)) {
      push(group);
    } else {
      release(group);
      group_free(group);
      run_afters(changes);
    }
  }
}

void changes_submit(Changes *changes, ChangeItem *item, const Local *local, EngineWait wait) {
  Engine *engine = changes->engine;
  g_autoptr(GError) error = NULL;
  if (!link_usable(engine->link, &error) ||
      !journal_change_add(engine->journal, item->change, 1, local, &error)) {
    changes_answer(engine, wait, error);
    change_item_free(item);
    return;
  }
  settle_show(engine, item);
  g_mutex_lock(&changes->lock);
  gboolean believed = is_believed_locked(changes, item);
  item->wait = believed ? 0 : wait;
  add_locked(changes, item);
  g_mutex_unlock(&changes->lock);
  if (believed)
    changes_answer(engine, wait, NULL);
  changes_wake(changes);
}

/* ---- at start ---- */

static guint32 folder_of(Engine *engine, const char *mailbox, guint32 uidvalidity, guint32 *space_out) {
  g_autoptr(StoreFolder) folder =
      mailbox ? store_folder_by_mailbox(engine->store, mailbox, NULL) : NULL;
  if (space_out)
    *space_out = folder && folder->uidvalidity == uidvalidity ? folder->space : 0;
  return folder ? folder->id : 0;
}

gboolean changes_load(Changes *changes, GError **error) {
  Engine *engine = changes->engine;
  g_autoptr(GPtrArray) rows = journal_changes(engine->journal, error);
  if (!rows)
    return FALSE;
  for (guint i = 0; i < rows->len; i++) {
    ChangeItem *item = g_new0(ChangeItem, 1);
    item->change = change_copy(g_ptr_array_index(rows, i));
    guint32 space;
    item->folder = folder_of(engine, item->change->mailbox, item->change->uidvalidity, &space);
    item->target = folder_of(engine, item->change->target, 0, NULL);
    item->msg = space ? (EngineMsg){space, item->change->uid} : (EngineMsg){0, 0};
    item->shown = item->change->local;
    settle_show(engine, item);
    g_mutex_lock(&changes->lock);
    add_locked(changes, item);
    g_mutex_unlock(&changes->lock);
  }
  if (rows->len)
    log_info("%u changes of an earlier run are still to be made", rows->len);
  changes_wake(changes);
  return TRUE;
}

void engine_changes_describe(Engine *engine, GString *text) {
  Changes *changes = engine->changes;
  guint counts[CHANGE_FLAGS + 1] = {0};
  g_mutex_lock(&changes->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, changes->alive);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    counts[((ChangeItem *) value)->change->kind]++;
  guint refused = changes->refused;
  guint64 bytes = changes->upload_bytes;
  g_mutex_unlock(&changes->lock);
  g_string_append_printf(text,
                         "changes: %u to upload (%" G_GUINT64_FORMAT
                         " bytes), %u to copy, %u to move, %u to delete, %u to flag\n",
                         counts[CHANGE_UPLOAD], bytes, counts[CHANGE_COPY], counts[CHANGE_MOVE],
                         counts[CHANGE_EXPUNGE], counts[CHANGE_FLAGS]);
  if (refused)
    g_string_append_printf(text, "refused: %u changes that were taken for done; see .control/log\n",
                           refused);
  locals_describe(engine->locals, text);
}
