/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * lookup, getattr and listings. All of it is answered from the index; the network is waited for
 * (parked) only where a folder was never listed: by opendir, and by lookup of a message.
 *
 * A listing has folders, then messages by UID, then guests and local files by their numbers, then what
 * turned from one of these into a message meanwhile (listed.h).
 */
#include <string.h>

#include "base/err.h"
#include "fs/files.h"
#include "fs/list.h"
#include "fs/maildir-view.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/replay.h"
#include "fs/reply.h"
#include "fs/virtual.h"

/* ---- lookup ---- */

/* What a parked lookup or opendir keeps; freed by its completion. */
typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  EngineDir dir;
  fuse_ino_t ino;           /* opendir */
  struct fuse_file_info fi; /* opendir */
  char *name;               /* lookup */
} DirWait;

static void dir_wait_free(DirWait *wait) {
  g_free(wait->name);
  g_free(wait);
}

int dir_of_node(fuse_ino_t ino, EngineDir *dir_out) {
  Node node;
  *dir_out = (EngineDir){0, 0};
  if (!node_parse(ino, &node))
    return ESTALE;
  switch (node.kind) {
  case NODE_ROOT:
    return 0;
  case NODE_FOLDER:
    dir_out->folder = node.id;
    return 0;
  case NODE_LOCAL:
    dir_out->local = node.id;
    return node.uid ? 0 : ENOTDIR;
  case NODE_CONTROL_DIR:
    return EROFS;
  default:
    return ENOTDIR;
  }
}

/* Only such names are messages, so what file managers probe for never touches the network. */
static gboolean may_be_message(const char *name) {
  return g_str_has_suffix(name, ".eml");
}

static void on_lookup_ready(gpointer data, const GError *error);

static void lookup_name(Fs *fs, fuse_req_t req, EngineDir dir, const char *name, gboolean may_wait) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  guint section = notify_enter(fs->notify);
  gboolean ok = engine_entry_get(fs->engine, dir, name, &found, &error);
  gboolean wait = !ok && may_wait && dir.folder && may_be_message(name)
                  && g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  if (ok) {
    struct stat st;
    attr_named(fs, &found, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    fuse_reply_entry(req, &entry);
  } else if (!wait)
    reply_error(req, error);
  notify_leave(fs->notify, section);
  if (!wait)
    return;

  DirWait *parked = g_new0(DirWait, 1);
  *parked = (DirWait){.fs = fs, .req = req, .dir = dir, .name = g_strdup(name)};
  guint64 park = parked->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_folder_ready(fs->engine, dir.folder, on_lookup_ready, parked));
}

void reply_new_entry(Fs *fs, fuse_req_t req, EngineDir dir, const char *name) {
  lookup_name(fs, req, dir, name, FALSE);
}

static void on_lookup_ready(gpointer data, const GError *error) {
  DirWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error(wait->req, error);
  else
    lookup_name(wait->fs, wait->req, wait->dir, wait->name, FALSE);
  dir_wait_free(wait);
}

static struct fuse_entry_param control_entry(const Fs *fs, guint32 id) {
  struct stat st;
  if (id == 0)
    attr_control_dir(fs, &st);
  else
    virtual_stat(fs, id, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  if (id)
    entry.attr_timeout = 0;
  return entry;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Fs *fs = fuse_req_userdata(req);
  if (replay_lookup(fs->replay, req, parent, name) || view_lookup(fs, req, parent, name))
    return;
  EngineDir dir;
  int failure = dir_of_node(parent, &dir);
  guint32 id = failure == EROFS ? virtual_id(name) : 0;
  if (id || (parent == NODE_ROOT_INO && g_str_equal(name, CONTROL_NAME))) {
    struct fuse_entry_param entry = control_entry(fs, id);
    fuse_reply_entry(req, &entry);
  } else if (failure) {
    fuse_reply_err(req, failure == EROFS ? ENOENT : failure);
  } else {
    lookup_name(fs, req, dir, name, TRUE);
  }
}

/* ---- getattr ---- */

gboolean stat_node(Fs *fs, Node node, struct stat *st_out, GError **error) {
  switch (node.kind) {
  case NODE_ROOT: {
    g_autoptr(GPtrArray) folders = engine_folders(fs->engine, 0, error);
    if (!folders)
      return FALSE;
    attr_root(fs, folders->len, st_out);
    return TRUE;
  }
  case NODE_FOLDER: {
    g_autoptr(EngineFolder) folder = engine_folder_get(fs->engine, node.id, error);
    if (!folder)
      return FALSE;
    attr_folder(fs, folder, st_out);
    return TRUE;
  }
  case NODE_MESSAGE: {
    EngineMsg msg = {node.id, node.uid};
    g_autoptr(EngineMessage) message = engine_message_get(fs->engine, msg, error);
    if (!message)
      return FALSE;
    attr_message(fs, msg, message, st_out);
    return TRUE;
  }
  case NODE_LOCAL: {
    g_autoptr(EngineLocal) local = engine_local_get(fs->engine, node.id, error);
    if (!local)
      return FALSE;
    attr_local(fs, local, st_out);
    return TRUE;
  }
  case NODE_MAILDIR:
    return view_stat(fs, node, st_out, error);
  case NODE_CONTROL_DIR:
    attr_control_dir(fs, st_out);
    return TRUE;
  case NODE_CONTROL_FILE:
    if (virtual_name(node.id)) {
      virtual_stat(fs, node.id, st_out);
      return TRUE;
    }
    break;
  case NODE_GONE_FOLDER:
  case NODE_GONE_MESSAGE:
    break;
  }
  g_set_error(error, EML_ERROR, EML_ERROR_STALE, "no such file");
  return FALSE;
}

/* No section: the kernel itself drops attributes that were asked for before an invalidation. */
void reply_attributes(Fs *fs, fuse_req_t req, fuse_ino_t ino) {
  g_autoptr(GError) error = NULL;
  Node node;
  struct stat st;
  if (!node_parse(ino, &node))
    fuse_reply_err(req, ESTALE);
  else if (!stat_node(fs, node, &st, &error) && !files_stat(fs, ino, &st))
    reply_error_node(req, error);
  else
    fuse_reply_attr(req, &st, node.kind == NODE_CONTROL_FILE ? 0
                              : node.kind == NODE_MAILDIR ? VIEW_SECONDS : KEEP_SECONDS);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  reply_attributes(fuse_req_userdata(req), req, ino);
}

/* ---- listings ---- */

/* Readers share what the kernel cached of the listing until news drops it. */
static void reply_opendir(Fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
                          gboolean keep) {
  fi->keep_cache = keep ? 1 : 0;
  fi->cache_readdir = keep ? 1 : 0;
  files_reply(fs, req, fi, (OpenFile){.listed = listed_new(), .ino = ino}, NULL);
}

static void on_opendir_ready(gpointer data, const GError *error) {
  DirWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error_node(wait->req, error);
  else
    reply_opendir(wait->fs, wait->req, wait->ino, &wait->fi, TRUE);
  dir_wait_free(wait);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if (node.kind == NODE_FOLDER || view_has_messages(node)) {
    DirWait *parked = g_new0(DirWait, 1);
    *parked = (DirWait){.fs = fs, .req = req, .dir = {node.id, 0}, .ino = ino, .fi = *fi};
    guint64 park = parked->park = park_begin(fs->parks, req);
    park_waits(fs->parks, park, engine_folder_ready(fs->engine, node.id, on_opendir_ready, parked));
  } else if (node.kind == NODE_CONTROL_DIR) {
    reply_opendir(fs, req, ino, fi, FALSE);
  } else if (node.kind == NODE_ROOT || (node.kind == NODE_LOCAL && node.uid)
             || (node.kind == NODE_MAILDIR && node.uid != MAILDIR_KEYWORDS)) {
    reply_opendir(fs, req, ino, fi, TRUE);
  } else {
    fuse_reply_err(req, ENOTDIR);
  }
}

gboolean list_add(Listing *list, const char *name, const struct fuse_entry_param *entry,
                  gint64 cookie) {
  gsize left = list->size - list->used;
  char *at = list->buffer + list->used;
  gsize needed = list->plus ? fuse_add_direntry_plus(list->req, at, left, name, entry, cookie)
                            : fuse_add_direntry(list->req, at, left, name, &entry->attr, cookie);
  if (needed > left) {
    list->full = TRUE;
    return FALSE;
  }
  list->used += needed;
  return TRUE;
}

/* "." and "..": an entry without a node, from which the kernel takes only the number shown. */
static gboolean list_add_dot(Listing *list, const char *name, guint64 ino, guint32 number) {
  struct fuse_entry_param entry = {.attr = {.st_ino = ino, .st_mode = S_IFDIR}};
  return list_add(list, name, &entry, cookie_make(COOKIE_SPECIAL, number));
}

void list_dots(Listing *list, guint32 after, guint64 self, guint64 parent) {
  if (after < 1 && !list_add_dot(list, ".", self, 1))
    return;
  if (after < 2)
    list_add_dot(list, "..", parent, 2);
}

/* The Maildir view is not listed, as everybody who goes through all there is would do so twice. */
static void list_special(Listing *list, guint32 after, guint64 self, guint64 parent) {
  list_dots(list, after, self, parent);
  if (after < 3 && !list->full && self == NODE_ROOT_INO) {
    struct fuse_entry_param entry = control_entry(list->fs, 0);
    list_add(list, CONTROL_NAME, &entry, cookie_make(COOKIE_SPECIAL, 3));
  }
}

static int by_id(gconstpointer a, gconstpointer b) {
  const EngineFolder *x = *(EngineFolder *const *) a, *y = *(EngineFolder *const *) b;
  return x->id < y->id ? -1 : x->id > y->id;
}

static gboolean list_folders(Listing *list, guint32 parent, guint32 after, GError **error) {
  g_autoptr(GPtrArray) folders = engine_folders(list->fs->engine, parent, error);
  if (!folders)
    return FALSE;
  g_ptr_array_sort(folders, by_id);
  for (guint i = 0; i < folders->len && !list->full; i++) {
    const EngineFolder *folder = g_ptr_array_index(folders, i);
    if (folder->id <= after)
      continue;
    struct stat st;
    attr_folder(list->fs, folder, &st);
    struct fuse_entry_param entry = attr_entry(&st);
    list_add(list, folder->name, &entry, cookie_make(COOKIE_FOLDER, folder->id));
  }
  return TRUE;
}

static gboolean list_message(const EngineMessage *message, gpointer data) {
  Listing *list = data;
  struct stat st;
  list->last = message->uid;
  if (list->class == COOKIE_LATER && listed_has_guest(list->listed, message->name))
    return TRUE;
  attr_message(list->fs, (EngineMsg){list->space, message->uid}, message, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  return list_add(list, message->name, &entry, cookie_make(list->class, message->uid));
}

/* As many messages as fit above UID @after; without `full` they are at their end. */
static gboolean list_messages(Listing *list, CookieClass class, guint32 after, EngineMessageFn each,
                              GError **error) {
  gsize least = list->plus ? 160 : 32; /* with the shortest name */
  gboolean ok, more;
  list->class = class;
  list->last = after;
  do {
    guint32 from = list->last;
    guint limit = (guint) ((list->size - list->used) / least + 1);
    ok = engine_messages_scan(list->fs->engine, list->space, from, limit, each, list, error);
    more = ok && !list->full && list->last != from;
  } while (more); /* what is skipped takes no room */
  return ok;
}

gboolean list_mail(Listing *list, EngineDir dir, gint64 offset, EngineMessageFn message,
                   EngineGuestFn guest, GError **error) {
  CookieClass class = cookie_class(offset);
  guint32 number = cookie_number(offset), later;
  if (class <= COOKIE_MESSAGE && !list->full && list->space) {
    if (!list_messages(list, COOKIE_MESSAGE, class == COOKIE_MESSAGE ? number : 0, message, error))
      return FALSE;
    if (!list->full)
      listed_messages(list->listed, list->last);
  }
  if (class <= COOKIE_GUEST && !list->full)
    engine_guests_scan(list->fs->engine, dir, class == COOKIE_GUEST ? number : 0, guest, list);
  return list->full || !list->space || !listed_later(list->listed, &later)
         || list_messages(list, COOKIE_LATER, class == COOKIE_LATER ? number : later, message, error);
}

static gboolean list_guest(guint32 number, const EngineEntry *guest, gpointer data) {
  Listing *list = data;
  struct stat st;
  attr_named(list->fs, guest, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  const char *name = guest->folder ? guest->folder->name
                     : guest->message ? guest->message->name : guest->local->name;
  if (!list_add(list, name, &entry, cookie_make(COOKIE_GUEST, number)))
    return FALSE;
  listed_guest(list->listed, name);
  return TRUE;
}

static gboolean list_folder(Listing *list, EngineDir dir, gint64 offset, GError **error) {
  CookieClass class = cookie_class(offset);
  guint32 number = cookie_number(offset);
  guint64 self = node_folder_ino(dir.folder), above = NODE_ROOT_INO;
  if (dir.folder) {
    g_autoptr(EngineFolder) folder = engine_folder_get(list->fs->engine, dir.folder, error);
    if (!folder)
      return FALSE;
    above = node_folder_ino(folder->parent);
    list->space = folder->space;
  } else if (dir.local) {
    g_autoptr(EngineLocal) local = engine_local_get(list->fs->engine, dir.local, error);
    if (!local)
      return FALSE;
    self = node_local_ino(local->id, TRUE);
    above = local->parent ? node_local_ino(local->parent, TRUE) : node_folder_ino(local->folder);
  }
  if (class <= COOKIE_SPECIAL)
    list_special(list, class == COOKIE_SPECIAL ? number : 0, self, above);
  if (class <= COOKIE_FOLDER && !list->full && !dir.local
      && !list_folders(list, dir.folder, class == COOKIE_FOLDER ? number : 0, error))
    return FALSE;
  return list_mail(list, dir, offset, list_message, list_guest, error);
}

static void list_control(Listing *list, gint64 offset) {
  guint32 after = cookie_number(offset);
  guint64 self = node_ino((Node){NODE_CONTROL_DIR, 0, 0});
  if (cookie_class(offset) <= COOKIE_SPECIAL) {
    list_special(list, after, self, NODE_ROOT_INO);
    after = 0;
  }
  for (guint32 id = after + 1; virtual_name(id) && !list->full; id++) {
    struct fuse_entry_param entry = control_entry(list->fs, id);
    list_add(list, virtual_name(id), &entry, cookie_make(COOKIE_FOLDER, id));
  }
}

static void answer_listing(fuse_req_t req, fuse_ino_t ino, gsize size, gint64 offset,
                           const struct fuse_file_info *fi, gboolean plus) {
  Fs *fs = fuse_req_userdata(req);
  g_autoptr(GError) error = NULL;
  g_autofree char *buffer = g_malloc(size);
  Listing list = {.fs = fs, .req = req, .plus = plus, .buffer = buffer, .size = size,
                  .listed = files_of(fi)->listed};
  EngineDir dir;
  Node node;
  gboolean view = node_parse(ino, &node) && node.kind == NODE_MAILDIR;
  int failure = view ? 0 : dir_of_node(ino, &dir);
  if (failure && failure != EROFS) {
    fuse_reply_err(req, failure);
    return;
  }
  if (offset == 0)
    listed_restart(list.listed);
  guint section = notify_enter(fs->notify);
  gboolean ok = TRUE;
  if (view)
    ok = view_list(&list, node, offset, &error);
  else if (failure == EROFS)
    list_control(&list, offset);
  else
    ok = list_folder(&list, dir, offset, &error);
  if (ok || list.used) /* an error comes back with the next call */
    fuse_reply_buf(req, buffer, list.used);
  else
    reply_error_node(req, error);
  notify_leave(fs->notify, section);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi) {
  answer_listing(req, ino, size, offset, fi, FALSE);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi) {
  answer_listing(req, ino, size, offset, fi, TRUE);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  files_unref(fuse_req_userdata(req), files_of(fi));
  fuse_reply_err(req, 0);
}

/* There is nothing to forget: see node.h. */
static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets) {
  fuse_reply_none(req);
}

void ops_dir_add(struct fuse_lowlevel_ops *ops) {
  ops->lookup = op_lookup;
  ops->forget = op_forget;
  ops->forget_multi = op_forget_multi;
  ops->getattr = op_getattr;
  ops->opendir = op_opendir;
  ops->readdir = op_readdir;
  ops->readdirplus = op_readdirplus;
  ops->releasedir = op_releasedir;
}
