/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * lookup, getattr and listings. All of it is answered from the index; the network is waited for
 * (parked) only where a folder was never listed: by opendir, and by lookup of a message.
 */
#include <string.h>

#include "base/err.h"
#include "fs/fs.h"
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
  guint32 folder;
  struct fuse_file_info fi; /* opendir */
  char *name;               /* lookup */
} DirWait;

static void dir_wait_free(DirWait *wait) {
  g_free(wait->name);
  g_free(wait);
}

/* Only such names are messages, so what file managers probe for never touches the network. */
static gboolean may_be_message(const char *name) {
  return g_str_has_suffix(name, ".eml");
}

static gboolean find_folder(Fs *fs, guint32 parent, const char *name, struct stat *st_out,
                            GError **error) {
  g_autoptr(EngineFolder) folder = engine_folder_by_name(fs->engine, parent, name, error);
  if (!folder)
    return FALSE;
  attr_folder(fs, folder, st_out);
  return TRUE;
}

static gboolean find_message(Fs *fs, guint32 space, const char *name, struct stat *st_out,
                             GError **error) {
  g_autoptr(EngineMessage) message = engine_message_by_name(fs->engine, space, name, error);
  if (!message)
    return FALSE;
  attr_message(fs, space, message, st_out);
  return TRUE;
}

/* *@dead_out: @folder itself does not exist any more. */
static gboolean find_entry(Fs *fs, guint32 folder, const char *name, struct stat *st_out,
                           gboolean *dead_out, GError **error) {
  *dead_out = FALSE;
  if (folder && may_be_message(name)) {
    g_autoptr(EngineFolder) parent = engine_folder_get(fs->engine, folder, error);
    if (!parent) {
      *dead_out = TRUE;
      return FALSE;
    }
    g_autoptr(GError) local = NULL;
    if (parent->space && find_message(fs, parent->space, name, st_out, &local))
      return TRUE;
    if (local && !g_error_matches(local, EML_ERROR, EML_ERROR_NOT_FOUND)) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
  }
  return find_folder(fs, folder, name, st_out, error);
}

static void on_lookup_ready(gpointer data, const GError *error);

static void lookup_in_folder(Fs *fs, fuse_req_t req, guint32 folder, const char *name,
                             gboolean may_wait) {
  g_autoptr(GError) error = NULL;
  struct stat st;
  gboolean dead;
  guint section = notify_enter(fs->notify);
  gboolean found = find_entry(fs, folder, name, &st, &dead, &error);
  gboolean wait = !found && !dead && may_wait && folder && may_be_message(name)
                  && g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  if (found) {
    struct fuse_entry_param entry = attr_entry(&st);
    fuse_reply_entry(req, &entry);
  } else if (dead)
    reply_error_node(req, error);
  else if (!wait)
    reply_error(req, error);
  notify_leave(fs->notify, section);
  if (!wait)
    return;

  DirWait *parked = g_new0(DirWait, 1);
  *parked = (DirWait){.fs = fs, .req = req, .folder = folder, .name = g_strdup(name)};
  guint64 park = parked->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_folder_ready(fs->engine, folder, on_lookup_ready, parked));
}

static void on_lookup_ready(gpointer data, const GError *error) {
  DirWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error(wait->req, error);
  else
    lookup_in_folder(wait->fs, wait->req, wait->folder, wait->name, FALSE);
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
  Node dir;
  if (replay_lookup(fs->replay, req, parent, name))
    return;
  if (!node_parse(parent, &dir)) {
    fuse_reply_err(req, ESTALE);
  } else if (dir.kind == NODE_CONTROL_DIR
             || (dir.kind == NODE_ROOT && g_str_equal(name, CONTROL_NAME))) {
    guint32 id = dir.kind == NODE_ROOT ? 0 : virtual_id(name);
    if (dir.kind == NODE_CONTROL_DIR && !id) {
      fuse_reply_err(req, ENOENT);
      return;
    }
    struct fuse_entry_param entry = control_entry(fs, id);
    fuse_reply_entry(req, &entry);
  } else if (dir.kind == NODE_ROOT || dir.kind == NODE_FOLDER) {
    lookup_in_folder(fs, req, dir.id, name, TRUE);
  } else {
    fuse_reply_err(req, ENOTDIR);
  }
}

/* ---- getattr ---- */

static gboolean stat_node(Fs *fs, Node node, struct stat *st_out, GError **error) {
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
    attr_message(fs, node.id, message, st_out);
    return TRUE;
  }
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
  else if (!stat_node(fs, node, &st, &error))
    reply_error_node(req, error);
  else
    fuse_reply_attr(req, &st, node.kind == NODE_CONTROL_FILE ? 0 : KEEP_SECONDS);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  reply_attributes(fuse_req_userdata(req), req, ino);
}

/* ---- listings ---- */

/* Readers share what the kernel cached of the listing until news drops it. */
static void reply_opendir(fuse_req_t req, struct fuse_file_info *fi, gboolean keep) {
  fi->fh = 0;
  fi->keep_cache = keep ? 1 : 0;
  fi->cache_readdir = keep ? 1 : 0;
  fuse_reply_open(req, fi);
}

static void on_opendir_ready(gpointer data, const GError *error) {
  DirWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error_node(wait->req, error);
  else
    reply_opendir(wait->req, &wait->fi, TRUE);
  dir_wait_free(wait);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  Fs *fs = fuse_req_userdata(req);
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if (node.kind == NODE_FOLDER) {
    DirWait *parked = g_new0(DirWait, 1);
    *parked = (DirWait){.fs = fs, .req = req, .folder = node.id, .fi = *fi};
    guint64 park = parked->park = park_begin(fs->parks, req);
    park_waits(fs->parks, park, engine_folder_ready(fs->engine, node.id, on_opendir_ready, parked));
  } else if (node.kind == NODE_ROOT || node.kind == NODE_CONTROL_DIR) {
    reply_opendir(req, fi, node.kind == NODE_ROOT);
  } else {
    fuse_reply_err(req, ENOTDIR);
  }
}

typedef struct {
  Fs *fs;
  fuse_req_t req;
  gboolean plus, full;
  char *buffer;
  gsize size, used;
  guint32 space; /* of the messages */
} Listing;

/* FALSE, and `full`, when the entry does not fit. */
static gboolean list_add(Listing *list, const char *name, const struct fuse_entry_param *entry,
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

static gboolean list_special(Listing *list, guint32 after, guint64 self, guint64 parent) {
  if (after < 1 && !list_add_dot(list, ".", self, 1))
    return TRUE;
  if (after < 2 && !list_add_dot(list, "..", parent, 2))
    return TRUE;
  if (after < 3 && self == NODE_ROOT_INO) {
    struct fuse_entry_param entry = control_entry(list->fs, 0);
    list_add(list, CONTROL_NAME, &entry, cookie_make(COOKIE_SPECIAL, 3));
  }
  return TRUE;
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
  attr_message(list->fs, list->space, message, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  return list_add(list, message->name, &entry, cookie_make(COOKIE_MESSAGE, message->uid));
}

static gboolean list_messages(Listing *list, guint32 after, GError **error) {
  /* No more rows than could fit with the shortest names. */
  gsize least = list->plus ? 160 : 32;
  guint limit = (guint) ((list->size - list->used) / least + 1);
  return engine_messages_scan(list->fs->engine, list->space, after, limit, list_message, list,
                              error);
}

static gboolean list_folder(Listing *list, guint32 id, gint64 offset, GError **error) {
  CookieClass class = cookie_class(offset);
  guint32 number = cookie_number(offset);
  guint32 parent = 0, space = 0;
  if (id) {
    g_autoptr(EngineFolder) folder = engine_folder_get(list->fs->engine, id, error);
    if (!folder)
      return FALSE;
    parent = folder->parent;
    space = folder->space;
  }
  if (class <= COOKIE_SPECIAL)
    list_special(list, class == COOKIE_SPECIAL ? number : 0, node_folder_ino(id),
                 node_folder_ino(parent));
  if (class <= COOKIE_FOLDER && !list->full
      && !list_folders(list, id, class == COOKIE_FOLDER ? number : 0, error))
    return FALSE;
  if (!space || list->full)
    return TRUE;
  list->space = space;
  return list_messages(list, class == COOKIE_MESSAGE ? number : 0, error);
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
                           gboolean plus) {
  Fs *fs = fuse_req_userdata(req);
  g_autoptr(GError) error = NULL;
  g_autofree char *buffer = g_malloc(size);
  Listing list = {.fs = fs, .req = req, .plus = plus, .buffer = buffer, .size = size};
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
    return;
  }
  guint section = notify_enter(fs->notify);
  gboolean ok = TRUE;
  if (node.kind == NODE_CONTROL_DIR)
    list_control(&list, offset);
  else
    ok = list_folder(&list, node.id, offset, &error);
  if (ok || list.used) /* an error comes back with the next call */
    fuse_reply_buf(req, buffer, list.used);
  else
    reply_error_node(req, error);
  notify_leave(fs->notify, section);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi) {
  answer_listing(req, ino, size, offset, FALSE);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi) {
  answer_listing(req, ino, size, offset, TRUE);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
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
