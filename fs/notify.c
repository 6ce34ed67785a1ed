/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * News is merged while it waits, so a burst of 10,000 new messages is one invalidation of their
 * directory and the queue stays small whatever the server does.
 */
#include "fs/notify.h"

#include <linux/fuse.h>
#include <string.h>

#include "base/log.h"

#ifndef FUSE_NOTIFY_INC_EPOCH
/* Since protocol 7.44: every cached name is looked up again once. Older kernels answer EINVAL. */
#define NOTIFY_INC_EPOCH 8
#else
#define NOTIFY_INC_EPOCH FUSE_NOTIFY_INC_EPOCH
#endif

/* An entry name that does not exist: notifying of it only takes the directory's lock. */
#define NO_SUCH_NAME "\001"

typedef struct {
  guint64 parent, child;
  char *name;
} Gone;

typedef struct {
  NotifyFn fn;
  gpointer data;
} After;

typedef struct {
  GHashTable *listings;   /* ino (gint64 *) of directories whose listing changed */
  GHashTable *barriers;   /* ino (gint64 *) of directories whose lock is to be taken once */
  GHashTable *attributes; /* ino (gint64 *) of nodes whose attributes changed */
  GHashTable *views;      /* folder ids: attributes of their directories in the Maildir view */
  GHashTable *resets;     /* folder ids that were listed anew */
  GArray *gone;           /* Gone */
  GArray *names;          /* Gone, without child: what stands for another node now */
  GHashTable *locals;     /* local files whose size or times changed */
  GArray *news;           /* EngineNews, their names owned: for `told` */
  GArray *after;          /* After */
} Batch;

struct Notify {
  struct fuse_session *session;
  Engine *engine;
  EngineNewsFn told;
  gpointer told_data;
  GThread *thread;

  GMutex lock; /* guards what follows; a leaf */
  GCond wake;  /* the queue, `stopping` or `done_batches` changed, or a section was left */
  Batch *queue;
  guint queued;       /* changes in `queue`, after it was empty */
  guint sizes;        /* size changes queued or being told */
  guint64 turn;       /* its lowest bit says which of `active` newcomers count in */
  guint active[2];
  guint64 taken, done; /* batches */
  gboolean stopping, stopped;

  GHashTable *spaces; /* folder id → uidspace its names belong to; the thread's own */
};

static void gone_clear(gpointer data) {
  g_free(((Gone *) data)->name);
}

static void news_clear(gpointer data) {
  g_free((char *) ((EngineNews *) data)->name);
}

static Batch *batch_new(void) {
  Batch *batch = g_new0(Batch, 1);
  batch->listings = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  batch->barriers = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  batch->attributes = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  batch->views = g_hash_table_new(g_direct_hash, g_direct_equal);
  batch->resets = g_hash_table_new(g_direct_hash, g_direct_equal);
  batch->gone = g_array_new(FALSE, FALSE, sizeof(Gone));
  g_array_set_clear_func(batch->gone, gone_clear);
  batch->names = g_array_new(FALSE, FALSE, sizeof(Gone));
  g_array_set_clear_func(batch->names, gone_clear);
  batch->locals = g_hash_table_new(g_direct_hash, g_direct_equal);
  batch->news = g_array_new(FALSE, FALSE, sizeof(EngineNews));
  g_array_set_clear_func(batch->news, news_clear);
  batch->after = g_array_new(FALSE, FALSE, sizeof(After));
  return batch;
}

static void batch_free(Batch *batch) {
  g_hash_table_unref(batch->listings);
  g_hash_table_unref(batch->barriers);
  g_hash_table_unref(batch->attributes);
  g_hash_table_unref(batch->views);
  g_hash_table_unref(batch->resets);
  g_array_unref(batch->gone);
  g_array_unref(batch->names);
  g_hash_table_unref(batch->locals);
  g_array_unref(batch->news);
  g_array_unref(batch->after);
  g_free(batch);
}

static void add_ino(GHashTable *set, guint64 ino) {
  if (!g_hash_table_contains(set, &ino))
    g_hash_table_add(set, g_memdup2(&ino, sizeof ino));
}

/* ---- into the queue ---- */

static void add_gone(GArray *array, guint64 parent, guint64 child, const char *name) {
  if (!name)
    return;
  Gone gone = {parent, child, g_strdup(name)};
  g_array_append_val(array, gone);
}

static void queue_locked(Notify *notify, const EngineNews *news) {
  Batch *queue = notify->queue;
  guint64 folder = node_folder_ino(news->folder);
  guint64 parent = node_folder_ino(news->parent);
  switch (news->kind) {
  case ENGINE_NEWS_MESSAGE_NEW:
    add_ino(queue->listings, folder);
    break;
  case ENGINE_NEWS_MESSAGE_GONE:
    add_ino(queue->listings, folder);
    add_gone(queue->gone, folder, node_message_ino(news->msg.space, news->msg.uid), news->name);
    break;
  case ENGINE_NEWS_MESSAGE_SIZE:
    notify->sizes++;
    G_GNUC_FALLTHROUGH;
  case ENGINE_NEWS_MESSAGE_FLAGS:
    add_ino(queue->barriers, folder);
    add_ino(queue->attributes, node_message_ino(news->msg.space, news->msg.uid));
    break;
  case ENGINE_NEWS_FOLDER_NEW:
    add_ino(queue->listings, parent);
    g_hash_table_add(queue->resets, GUINT_TO_POINTER(news->folder)); /* learn its uidspace */
    break;
  case ENGINE_NEWS_FOLDER_GONE:
    add_ino(queue->listings, parent);
    add_gone(queue->gone, parent, folder, news->name);
    break;
  case ENGINE_NEWS_FOLDER_LISTED:
  case ENGINE_NEWS_FOLDER_RESET:
    add_ino(queue->listings, folder);
    g_hash_table_add(queue->resets, GUINT_TO_POINTER(news->folder));
    break;
  case ENGINE_NEWS_NAME:
    add_ino(queue->listings, folder);
    add_gone(queue->names, folder, 0, news->name);
    break;
  case ENGINE_NEWS_LOCAL:
    g_hash_table_add(queue->locals, GUINT_TO_POINTER(news->local));
    break;
  }
  g_hash_table_add(queue->views, GUINT_TO_POINTER(news->folder));
  EngineNews copy = *news;
  copy.name = g_strdup(news->name);
  g_array_append_val(queue->news, copy);
  notify->queued++;
}

void notify_news(const EngineNews *news, gsize count, gpointer data) {
  Notify *notify = data;
  g_mutex_lock(&notify->lock);
  for (gsize i = 0; i < count && !notify->stopping; i++)
    queue_locked(notify, &news[i]);
  g_cond_broadcast(&notify->wake);
  g_mutex_unlock(&notify->lock);
}

void notify_view(Notify *notify, guint32 folder) {
  g_mutex_lock(&notify->lock);
  if (!notify->stopping) {
    g_hash_table_add(notify->queue->views, GUINT_TO_POINTER(folder));
    notify->queued++;
    g_cond_broadcast(&notify->wake);
  }
  g_mutex_unlock(&notify->lock);
}

void notify_after_sizes(Notify *notify, NotifyFn fn, gpointer data) {
  g_mutex_lock(&notify->lock);
  gboolean later = notify->sizes > 0 && !notify->stopping;
  if (later) {
    After after = {fn, data};
    g_array_append_val(notify->queue->after, after);
    notify->queued++;
    g_cond_broadcast(&notify->wake);
  }
  g_mutex_unlock(&notify->lock);
  if (!later)
    fn(data);
}

gboolean notify_has_sizes(Notify *notify) {
  g_mutex_lock(&notify->lock);
  gboolean has = notify->sizes > 0;
  g_mutex_unlock(&notify->lock);
  return has;
}

/* ---- sections ---- */

guint notify_enter(Notify *notify) {
  g_mutex_lock(&notify->lock);
  guint section = (guint) (notify->turn & 1);
  notify->active[section]++;
  g_mutex_unlock(&notify->lock);
  return section;
}

void notify_leave(Notify *notify, guint section) {
  g_mutex_lock(&notify->lock);
  if (--notify->active[section] == 0 && section != (notify->turn & 1))
    g_cond_broadcast(&notify->wake);
  g_mutex_unlock(&notify->lock);
}

/* Newcomers count in the other half from here on; that half is empty, since the last wait ended
 * only when it was. */
static void wait_for_sections_locked(Notify *notify) {
  guint old = (guint) (notify->turn++ & 1);
  while (notify->active[old] && !notify->stopping)
    g_cond_wait(&notify->wake, &notify->lock);
}

/* ---- to the kernel; the thread alone, no lock held ---- */

static void take_directory_lock(Notify *notify, guint64 dir) {
  fuse_lowlevel_notify_inval_entry(notify->session, dir, NO_SUCH_NAME, strlen(NO_SUCH_NAME));
}

/* The names of @folder belong to messages that are gone for good. */
static void forget_names(Notify *notify, const EngineFolder *folder) {
  struct fuse_out_header header = {.len = sizeof header, .error = NOTIFY_INC_EPOCH, .unique = 0};
  if (write(fuse_session_fd(notify->session), &header, sizeof header) == (gssize) sizeof header)
    return;
  /* This also unhashes the directory itself, so a shell inside it has to cd again: only where
   * there is no better way. */
  fuse_lowlevel_notify_inval_entry(notify->session, node_folder_ino(folder->parent), folder->name,
                                   strlen(folder->name));
}

static void tell_reset(Notify *notify, guint32 id) {
  g_autoptr(EngineFolder) folder = engine_folder_get(notify->engine, id, NULL);
  if (!folder)
    return;
  guint32 known = GPOINTER_TO_UINT(g_hash_table_lookup(notify->spaces, GUINT_TO_POINTER(id)));
  if (known && folder->space && known != folder->space)
    forget_names(notify, folder);
  if (folder->space)
    g_hash_table_insert(notify->spaces, GUINT_TO_POINTER(id), GUINT_TO_POINTER(folder->space));
}

/* Its directory's lock first, as for messages. Its pages go, too: nobody waits for the network with
 * one of them. */
static void tell_local(Notify *notify, guint32 id) {
  g_autoptr(EngineLocal) local = engine_local_get(notify->engine, id, NULL);
  if (local)
    take_directory_lock(notify, local->parent ? node_local_ino(local->parent, TRUE)
                                              : node_folder_ino(local->folder));
  fuse_lowlevel_notify_inval_inode(notify->session, node_local_ino(id, local && local->is_folder),
                                   0, 0);
}

/* Names there are not kept for long, and listings go by the time of the directory; that is what has to
 * go, so that who looks at it sees at once that something changed. */
static void tell_view(Notify *notify, guint32 folder) {
  for (guint32 part = MAILDIR_FOLDER; folder && part <= MAILDIR_TMP; part++)
    fuse_lowlevel_notify_inval_inode(notify->session, node_maildir_ino(folder, part), -1, 0);
}

static void tell(Notify *notify, Batch *batch) {
  struct fuse_session *session = notify->session;
  GHashTableIter iter;
  gpointer key;

  for (guint i = 0; i < batch->gone->len; i++) {
    Gone *gone = &g_array_index(batch->gone, Gone, i);
    fuse_lowlevel_notify_delete(session, gone->parent, gone->child, gone->name,
                                strlen(gone->name));
  }
  for (guint i = 0; i < batch->names->len; i++) {
    Gone *gone = &g_array_index(batch->names, Gone, i);
    fuse_lowlevel_notify_inval_entry(session, gone->parent, gone->name, strlen(gone->name));
  }
  g_hash_table_iter_init(&iter, batch->locals);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    tell_local(notify, GPOINTER_TO_UINT(key));
  g_hash_table_iter_init(&iter, batch->resets);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    tell_reset(notify, GPOINTER_TO_UINT(key));
  g_hash_table_iter_init(&iter, batch->barriers);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    take_directory_lock(notify, *(guint64 *) key);
  /* Attributes only: dropping the pages would wait for a READ that is parked. When the size has
   * changed, the kernel drops them itself as it learns the new one. */
  g_hash_table_iter_init(&iter, batch->attributes);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    fuse_lowlevel_notify_inval_inode(session, *(guint64 *) key, -1, 0);
  g_hash_table_iter_init(&iter, batch->listings);
  while (g_hash_table_iter_next(&iter, &key, NULL)) {
    take_directory_lock(notify, *(guint64 *) key);
    fuse_lowlevel_notify_inval_inode(session, *(guint64 *) key, 0, 0);
  }
  g_hash_table_iter_init(&iter, batch->views);
  while (g_hash_table_iter_next(&iter, &key, NULL))
    tell_view(notify, GPOINTER_TO_UINT(key));
}

static void call_after(Batch *batch) {
  for (guint i = 0; i < batch->after->len; i++) {
    After *after = &g_array_index(batch->after, After, i);
    after->fn(after->data);
  }
}

static gpointer notify_thread(gpointer data) {
  Notify *notify = data;
  g_mutex_lock(&notify->lock);
  for (;;) {
    while (!notify->queued && !notify->stopping)
      g_cond_wait(&notify->wake, &notify->lock);
    Batch *batch = notify->queue;
    gboolean last = notify->stopping;
    guint sizes = notify->sizes;
    notify->queue = batch_new();
    notify->queued = 0;
    notify->taken++;
    if (!last)
      wait_for_sections_locked(notify);
    g_mutex_unlock(&notify->lock);

    if (!last)
      tell(notify, batch);
    call_after(batch);
    if (!last && batch->news->len)
      notify->told((const EngineNews *) (gconstpointer) batch->news->data, batch->news->len,
                   notify->told_data);
    batch_free(batch);

    g_mutex_lock(&notify->lock);
    notify->sizes -= sizes;
    notify->done = notify->taken;
    g_cond_broadcast(&notify->wake);
    if (last)
      break;
  }
  notify->stopped = TRUE;
  g_cond_broadcast(&notify->wake);
  g_mutex_unlock(&notify->lock);
  return NULL;
}

/* ---- life ---- */

static void learn_spaces(Notify *notify, guint32 parent) {
  g_autoptr(GPtrArray) folders = engine_folders(notify->engine, parent, NULL);
  for (guint i = 0; folders && i < folders->len; i++) {
    const EngineFolder *folder = g_ptr_array_index(folders, i);
    g_hash_table_insert(notify->spaces, GUINT_TO_POINTER(folder->id),
                        GUINT_TO_POINTER(folder->space));
    if (folder->subfolders)
      learn_spaces(notify, folder->id);
  }
}

Notify *notify_new(struct fuse_session *session, Engine *engine, EngineNewsFn told, gpointer data) {
  Notify *notify = g_new0(Notify, 1);
  g_mutex_init(&notify->lock);
  g_cond_init(&notify->wake);
  notify->session = session;
  notify->engine = engine;
  notify->told = told;
  notify->told_data = data;
  notify->queue = batch_new();
  notify->spaces = g_hash_table_new(g_direct_hash, g_direct_equal);
  learn_spaces(notify, 0);
  notify->thread = g_thread_new("notify", notify_thread, notify);
  return notify;
}

void notify_flush(Notify *notify) {
  g_mutex_lock(&notify->lock);
  guint64 target = notify->taken + (notify->queued ? 1 : 0);
  while (notify->done < target && !notify->stopped)
    g_cond_wait(&notify->wake, &notify->lock);
  g_mutex_unlock(&notify->lock);
}

gboolean notify_stop(Notify *notify, guint ms) {
  gint64 until = g_get_monotonic_time() + (gint64) ms * 1000;
  g_mutex_lock(&notify->lock);
  notify->stopping = TRUE;
  g_cond_broadcast(&notify->wake);
  while (!notify->stopped && g_cond_wait_until(&notify->wake, &notify->lock, until))
    ;
  gboolean stopped = notify->stopped;
  g_mutex_unlock(&notify->lock);
  return stopped;
}

void notify_free(Notify **notify_inout) {
  Notify *notify = g_steal_pointer(notify_inout);
  if (!notify)
    return;
  g_thread_join(notify->thread);
  batch_free(notify->queue);
  g_hash_table_unref(notify->spaces);
  g_cond_clear(&notify->wake);
  g_mutex_clear(&notify->lock);
  g_free(notify);
}
