/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The queue holds at most one change a node, in the order of their news: who comes to a folder
 * finds it made, and its messages are gone before it. Numbers of nodes are never used again
 * (node.h), so that what came and went while it waited can simply be forgotten.
 */
#include "fs/replay.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/log.h"
#include "fs/notify.h"

#define QUEUE_MOST 10000 /* changes; a client's own queue holds 16,384 events by default */
#define VISIT_MOST 64    /* changes announced in one stay */
#define NO_SUCH_NAME "\001"
#define PAUSE_US 2000    /* between two stays, in which an umount or a reader gets through */

typedef struct {
  EngineNewsKind kind;
  guint32 folder, parent; /* as in EngineNews */
  EngineMsg msg;
  char *name;  /* of the entry; NULL: the index knows it */
  guint64 ino; /* the node concerned; the key */
  GList link;
} Change;

struct Replay {
  Fs *fs;
  char *path;
  guint32 minor;
  GThread *thread;
  gint tid; /* atomic; 0: not yet known */
  gint known; /* atomic: a request of the thread was seen to be its */

  GMutex lock; /* guards what follows; a leaf */
  GCond wake;
  GQueue queue;         /* of Change.link */
  GHashTable *by_ino;   /* the Changes in the queue by their ino */
  gboolean stopping, stopped;
  gboolean useless;     /* the mount does not take these calls: see give_up */
  const Change *now;    /* what is being announced; the thread's, and in no queue any more */
  guint64 now_dir;      /* in which directory */
  const char *now_name; /* under which name */
};

static void change_free(Change *change) {
  g_free(change->name);
  g_free(change);
}

/* ---- into the queue ---- */

static guint64 ino_of(const EngineNews *news) {
  switch (news->kind) {
  case ENGINE_NEWS_FOLDER_NEW:
  case ENGINE_NEWS_FOLDER_GONE:
  case ENGINE_NEWS_FOLDER_RESET:
    return node_folder_ino(news->folder);
  default:
    return node_message_ino(news->msg.space, news->msg.uid);
  }
}

static void forget_locked(Replay *replay, Change *change) {
  g_queue_unlink(&replay->queue, &change->link);
  g_hash_table_remove(replay->by_ino, &change->ino);
  change_free(change);
}

static void add_locked(Replay *replay, const EngineNews *news) {
  guint64 ino = ino_of(news);
  gboolean gone = news->kind == ENGINE_NEWS_MESSAGE_GONE || news->kind == ENGINE_NEWS_FOLDER_GONE;
  Change *before = g_hash_table_lookup(replay->by_ino, &ino);
  if (before && !gone)
    return; /* whoever sees that looks at the node as it is by then */
  gboolean unseen = before && (before->kind == ENGINE_NEWS_MESSAGE_NEW
                               || before->kind == ENGINE_NEWS_FOLDER_NEW);
  if (before)
    forget_locked(replay, before);
  if (unseen)
    return;
  Change *change = g_new0(Change, 1);
  *change = (Change){.kind = news->kind, .folder = news->folder, .parent = news->parent,
                     .msg = news->msg, .name = g_strdup(news->name), .ino = ino};
  change->link.data = change;
  g_queue_push_tail_link(&replay->queue, &change->link);
  g_hash_table_insert(replay->by_ino, &change->ino, change);
}

static gboolean is_wanted(const EngineNews *news) {
  switch (news->kind) {
  case ENGINE_NEWS_MESSAGE_NEW:
  case ENGINE_NEWS_MESSAGE_GONE:
  case ENGINE_NEWS_FOLDER_NEW:
  case ENGINE_NEWS_FOLDER_GONE:
    return news->name != NULL;
  case ENGINE_NEWS_MESSAGE_FLAGS:
  case ENGINE_NEWS_FOLDER_RESET:
    return TRUE;
  default:
    return FALSE;
  }
}

void replay_news(const EngineNews *news, gsize count, gpointer data) {
  Replay *replay = data;
  g_mutex_lock(&replay->lock);
  for (gsize i = 0; i < count && !replay->stopping && !replay->useless; i++) {
    EngineNews one = news[i];
    if (!is_wanted(&one))
      continue;
    gboolean of_message = one.kind == ENGINE_NEWS_MESSAGE_NEW
                          || one.kind == ENGINE_NEWS_MESSAGE_GONE
                          || one.kind == ENGINE_NEWS_MESSAGE_FLAGS;
    if (of_message && replay->queue.length >= QUEUE_MOST)
      one = (EngineNews){.kind = ENGINE_NEWS_FOLDER_RESET, .folder = one.folder};
    add_locked(replay, &one);
  }
  g_cond_broadcast(&replay->wake);
  g_mutex_unlock(&replay->lock);
}

/* ---- the thread: one stay in the mount ---- */

typedef struct {
  Replay *replay;
  int root, dir; /* O_PATH; -1: not open */
  guint32 folder; /* whose directory `dir` is; 0: none */
} Visit;

static void visit_leave(Visit *visit) {
  autofd_clear(&visit->dir);
  autofd_clear(&visit->root);
}

/* Whether @fd is node @ino of our mount; asks the daemon nothing. */
static gboolean is_node(const Replay *replay, int fd, guint64 ino) {
  struct statx st;
  return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st) == 0
         && st.stx_dev_major == 0 && st.stx_dev_minor == replay->minor && st.stx_ino == ino;
}

/* Nothing can be announced: the mount was made read-only, or its requests do not tell our thread
 * id because it was mounted in another PID namespace. */
static void give_up(Replay *replay) {
  log_info("inotify will not tell of new mail: the mount does not take emlfs's own calls");
  g_mutex_lock(&replay->lock);
  replay->useless = TRUE;
  g_mutex_unlock(&replay->lock);
}

/* What is not known to be ours would be done in earnest. So the first thing is a question. */
static gboolean visit_enter(Visit *visit) {
  Replay *replay = visit->replay;
  struct stat st;
  visit->root = open(replay->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (visit->root < 0 || !is_node(replay, visit->root, NODE_ROOT_INO))
    return FALSE;
  if (g_atomic_int_get(&replay->known))
    return TRUE;
  fstatat(visit->root, NO_SUCH_NAME, &st, AT_SYMLINK_NOFOLLOW);
  if (!g_atomic_int_get(&replay->known))
    give_up(replay);
  return g_atomic_int_get(&replay->known) != 0;
}

/* "Lists/Debian", or NULL when @id is gone. */
static char *folder_path(Engine *engine, guint32 id) {
  g_autoptr(GString) path = g_string_new(NULL);
  while (id) {
    g_autoptr(EngineFolder) folder = engine_folder_get(engine, id, NULL);
    if (!folder)
      return NULL;
    if (path->len)
      g_string_prepend_c(path, '/');
    g_string_prepend(path, folder->name);
    id = folder->parent;
  }
  return g_strdup(path->str);
}

/* The descriptor of the directory of folder @id (0: the root), owned by @visit; -1: it cannot be
 * reached. Something else may be mounted on the way to it. */
static int visit_folder(Visit *visit, guint32 id) {
  if (id == 0)
    return visit->root;
  if (visit->folder == id)
    return visit->dir;
  autofd_clear(&visit->dir);
  visit->dir = -1;
  visit->folder = 0;
  g_autofree char *path = folder_path(visit->replay->fs->engine, id);
  if (!path)
    return -1;
  struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                         .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
  visit->dir = (int) syscall(SYS_openat2, visit->root, path, &how, sizeof how);
  if (visit->dir < 0 || !is_node(visit->replay, visit->dir, node_folder_ino(id)))
    return -1;
  visit->folder = id;
  return visit->dir;
}

static int touch(int dir, const char *name, gint64 mtime) {
  struct timespec times[2] = {{.tv_sec = mtime}, {.tv_sec = mtime}}; /* both, or it is IN_MODIFY */
  return utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
}

static int make(int dir, const char *name) {
  autofd int fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
  return fd < 0 ? -1 : 0;
}

static int call(const Change *change, int dir, const char *name, gint64 mtime) {
  switch (change->kind) {
  case ENGINE_NEWS_MESSAGE_NEW:
    return make(dir, name);
  case ENGINE_NEWS_MESSAGE_GONE:
    return unlinkat(dir, name, 0);
  case ENGINE_NEWS_FOLDER_NEW:
    return mkdirat(dir, name, 0700);
  case ENGINE_NEWS_FOLDER_GONE:
    return unlinkat(dir, name, AT_REMOVEDIR);
  default:
    return touch(dir, name, mtime);
  }
}

static void announce(Visit *visit, const Change *change) {
  Replay *replay = visit->replay;
  Engine *engine = replay->fs->engine;
  guint32 folder = change->folder;
  const char *name = change->name;
  gint64 mtime = 0;
  g_autoptr(EngineMessage) message = NULL;
  g_autoptr(EngineFolder) itself = NULL;
  if (change->kind == ENGINE_NEWS_MESSAGE_FLAGS) {
    message = engine_message_get(engine, change->msg, NULL);
    if (!message)
      return;
    name = message->name;
    mtime = message->mtime;
  } else if (change->kind == ENGINE_NEWS_FOLDER_RESET) {
    itself = engine_folder_get(engine, change->folder, NULL);
    if (!itself)
      return;
    folder = itself->parent;
    name = itself->name;
    mtime = itself->mtime;
  } else if (change->kind != ENGINE_NEWS_MESSAGE_NEW && change->kind != ENGINE_NEWS_MESSAGE_GONE) {
    folder = change->parent;
  }
  int dir = visit_folder(visit, folder);
  if (dir < 0)
    return;
  g_mutex_lock(&replay->lock);
  replay->now = change;
  replay->now_dir = node_folder_ino(folder);
  replay->now_name = name;
  g_mutex_unlock(&replay->lock);
  int failure = call(change, dir, name, mtime) == 0 ? 0 : errno;
  g_mutex_lock(&replay->lock);
  replay->now = NULL;
  g_mutex_unlock(&replay->lock);
  if (failure == EROFS)
    give_up(replay);
  else if (failure)
    log_debug("inotify was not told of %s: %s", name, g_strerror(failure));
}

static Change *take_locked(Replay *replay) {
  GList *link = g_queue_pop_head_link(&replay->queue);
  if (link)
    g_hash_table_remove(replay->by_ino, &((Change *) link->data)->ino);
  return link ? link->data : NULL;
}

/* Takes what is queued, but not for too long. */
static void visit(Replay *replay) {
  Visit stay = {replay, -1, -1, 0};
  gboolean inside = visit_enter(&stay);
  for (guint i = 0; i < VISIT_MOST; i++) {
    g_mutex_lock(&replay->lock);
    Change *change = replay->stopping ? NULL : take_locked(replay);
    g_mutex_unlock(&replay->lock);
    if (!change)
      break;
    if (inside)
      announce(&stay, change);
    change_free(change);
  }
  visit_leave(&stay);
}

static gpointer replay_thread(gpointer data) {
  Replay *replay = data;
  g_atomic_int_set(&replay->tid, (gint) syscall(SYS_gettid));
  g_mutex_lock(&replay->lock);
  while (!replay->stopping) {
    if (!replay->queue.length) {
      g_cond_wait(&replay->wake, &replay->lock);
      continue;
    }
    g_mutex_unlock(&replay->lock);
    visit(replay);
    g_mutex_lock(&replay->lock);
    gint64 until = g_get_monotonic_time() + PAUSE_US;
    while (!replay->stopping && g_cond_wait_until(&replay->wake, &replay->lock, until))
      ;
  }
  replay->stopped = TRUE;
  g_cond_broadcast(&replay->wake);
  g_mutex_unlock(&replay->lock);
  return NULL;
}

/* ---- handlers ---- */

static gboolean is_ours(Replay *replay, fuse_req_t req) {
  gint tid = g_atomic_int_get(&replay->tid);
  gboolean ours = tid && fuse_req_ctx(req)->pid == tid;
  if (ours)
    g_atomic_int_set(&replay->known, 1);
  return ours;
}

/* The thread never does anything in earnest, should a name stand for something else by now. */
static gboolean refuse(Replay *replay, fuse_req_t req) {
  gboolean ours = is_ours(replay, req);
  if (ours)
    fuse_reply_err(req, ENOENT);
  return ours;
}

/* Whether @name in @parent is what is being announced; *@now_out is then a copy without name. */
static gboolean is_now(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name,
                       Change *now_out) {
  if (!is_ours(replay, req))
    return FALSE;
  g_mutex_lock(&replay->lock);
  gboolean now = replay->now && replay->now_dir == parent && g_str_equal(replay->now_name, name);
  if (now) {
    *now_out = *replay->now;
    now_out->name = NULL;
  }
  g_mutex_unlock(&replay->lock);
  return now;
}

/* A node for the short while in which something gone is removed once more. Not the one that it had:
 * that may still be open, and must keep its size. */
static struct fuse_entry_param ghost(const Change *now) {
  gboolean folder = now->kind == ENGINE_NEWS_FOLDER_GONE;
  struct stat st = {.st_mode = folder ? S_IFDIR | 0700 : S_IFREG | 0600, .st_nlink = 1};
  st.st_ino = folder ? node_ino((Node){NODE_GONE_FOLDER, now->folder, 0})
                     : node_ino((Node){NODE_GONE_MESSAGE, now->msg.space, now->msg.uid});
  struct fuse_entry_param entry = attr_entry(&st);
  entry.entry_timeout = entry.attr_timeout = 0;
  return entry;
}

gboolean replay_lookup(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name) {
  Change now;
  if (!is_now(replay, req, parent, name, &now))
    return FALSE;
  struct fuse_entry_param entry;
  switch (now.kind) {
  case ENGINE_NEWS_MESSAGE_NEW:
  case ENGINE_NEWS_FOLDER_NEW:
    fuse_reply_err(req, ENOENT);
    return TRUE;
  case ENGINE_NEWS_MESSAGE_GONE:
  case ENGINE_NEWS_FOLDER_GONE:
    entry = ghost(&now);
    fuse_reply_entry(req, &entry);
    return TRUE;
  default:
    return FALSE;
  }
}

gboolean replay_create(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name,
                       struct fuse_file_info *fi) {
  Fs *fs = replay->fs;
  Change now;
  if (!is_now(replay, req, parent, name, &now) || now.kind != ENGINE_NEWS_MESSAGE_NEW)
    return refuse(replay, req);
  guint section = notify_enter(fs->notify);
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, now.msg, NULL);
  if (message) {
    struct stat st;
    attr_message(fs, now.msg, message, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    fi->fh = 0; /* there is nothing to read from */
    fi->noflush = 1;
    fi->keep_cache = 1;
    fuse_reply_create(req, &entry, fi);
  } else {
    fuse_reply_err(req, ENOENT);
  }
  notify_leave(fs->notify, section);
  return TRUE;
}

gboolean replay_mkdir(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name) {
  Fs *fs = replay->fs;
  Change now;
  if (!is_now(replay, req, parent, name, &now) || now.kind != ENGINE_NEWS_FOLDER_NEW)
    return refuse(replay, req);
  guint section = notify_enter(fs->notify);
  g_autoptr(EngineFolder) folder = engine_folder_get(fs->engine, now.folder, NULL);
  if (folder) {
    struct stat st;
    attr_folder(fs, folder, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    fuse_reply_entry(req, &entry);
  } else {
    fuse_reply_err(req, ENOENT);
  }
  notify_leave(fs->notify, section);
  return TRUE;
}

gboolean replay_remove(Replay *replay, fuse_req_t req, fuse_ino_t parent, const char *name) {
  Change now;
  if (!is_now(replay, req, parent, name, &now)
      || (now.kind != ENGINE_NEWS_MESSAGE_GONE && now.kind != ENGINE_NEWS_FOLDER_GONE))
    return refuse(replay, req);
  fuse_reply_err(req, 0);
  return TRUE;
}

gboolean replay_setattr(Replay *replay, fuse_req_t req, fuse_ino_t ino) {
  if (!is_ours(replay, req))
    return FALSE;
  g_mutex_lock(&replay->lock);
  gboolean now = replay->now && replay->now->ino == ino;
  g_mutex_unlock(&replay->lock);
  if (!now)
    return refuse(replay, req);
  reply_attributes(replay->fs, req, ino);
  return TRUE;
}

/* ---- life ---- */

Replay *replay_new(Fs *fs, const char *path, guint32 minor) {
  Replay *replay = g_new0(Replay, 1);
  g_mutex_init(&replay->lock);
  g_cond_init(&replay->wake);
  g_queue_init(&replay->queue);
  replay->by_ino = g_hash_table_new(g_int64_hash, g_int64_equal);
  replay->fs = fs;
  replay->path = g_strdup(path);
  replay->minor = minor;
  replay->thread = g_thread_new("replay", replay_thread, replay);
  return replay;
}

gboolean replay_stop(Replay *replay, guint ms) {
  gint64 until = g_get_monotonic_time() + (gint64) ms * 1000;
  g_mutex_lock(&replay->lock);
  replay->stopping = TRUE;
  g_cond_broadcast(&replay->wake);
  while (!replay->stopped && g_cond_wait_until(&replay->wake, &replay->lock, until))
    ;
  gboolean stopped = replay->stopped;
  g_mutex_unlock(&replay->lock);
  return stopped;
}

void replay_free(Replay **replay_inout) {
  Replay *replay = g_steal_pointer(replay_inout);
  if (!replay)
    return;
  g_thread_join(replay->thread);
  Change *change;
  while ((change = take_locked(replay)))
    change_free(change);
  g_hash_table_unref(replay->by_ino);
  g_cond_clear(&replay->wake);
  g_mutex_clear(&replay->lock);
  g_free(replay->path);
  g_free(replay);
}
