/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * lookup, attributes, listings and the one file of the Maildir view; see maildir-view.h.
 */
#include <fcntl.h>
#include <string.h>

#include "base/err.h"
#include "fs/files.h"
#include "fs/maildir-view.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/reply.h"

/* ---- entries ---- */

static struct fuse_entry_param dir_entry(Fs *fs, const EngineFolder *folder, MaildirPart part) {
  struct stat st;
  attr_maildir(fs, folder, part, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  entry.attr_timeout = entry.entry_timeout = VIEW_SECONDS;
  return entry;
}

/* Of what is in the directory @node. */
static struct fuse_entry_param node_entry(Fs *fs, Node node, const EngineEntry *found) {
  struct stat st;
  if (found->folder)
    return dir_entry(fs, found->folder, MAILDIR_FOLDER);
  attr_named(fs, found, &st);
  struct fuse_entry_param entry = attr_entry(&st);
  gboolean message = node.uid == MAILDIR_CUR || node.uid == MAILDIR_NEW;
  entry.entry_timeout = message ? VIEW_SECONDS : 0;
  return entry;
}

/* ---- lookup ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  fuse_ino_t parent;
  char *name;
} LookupWait;

/* cur, new, tmp, dovecot-keywords; only in a folder that can hold messages. */
static gboolean find_part(Fs *fs, Node node, MaildirPart part, struct fuse_entry_param *entry_out,
                          GError **error) {
  g_autoptr(EngineFolder) folder = engine_folder_get(fs->engine, node.id, error);
  if (!folder)
    return FALSE;
  if (!folder->space || maildir_is_fresh(fs->maildir, node.id, part)) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_NOT_FOUND, "it has no messages");
    return FALSE;
  }
  *entry_out = dir_entry(fs, folder, part);
  return TRUE;
}

static gboolean find(Fs *fs, Node node, fuse_ino_t parent, const char *name,
                     struct fuse_entry_param *entry_out, GError **error) {
  g_auto(ViewName) parsed = {0};
  g_auto(EngineEntry) found = {0};
  MaildirPart part = node.uid == MAILDIR_FOLDER && node.id ? maildir_part(name) : MAILDIR_FOLDER;
  if (part)
    return find_part(fs, node, part, entry_out, error);
  if (!view_name(fs, parent, name, &parsed, error) || !view_entry(fs, &parsed, &found, error))
    return FALSE;
  *entry_out = node_entry(fs, node, &found);
  return TRUE;
}

static void on_ready(gpointer data, const GError *error);

static void lookup(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name, gboolean may_wait) {
  g_autoptr(GError) error = NULL;
  struct fuse_entry_param entry;
  Node node;
  node_parse(parent, &node);
  guint section = notify_enter(fs->notify);
  gboolean ok = find(fs, node, parent, name, &entry, &error);
  gboolean absent = !ok && (g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND)
                            || g_error_matches(error, EML_ERROR, EML_ERROR_FIXED));
  /* A folder that was never listed may have it. */
  gboolean wait = absent && may_wait && view_has_messages(node)
                  && (node.uid != MAILDIR_FOLDER || maildir_part(name));
  if (ok)
    fuse_reply_entry(req, &entry);
  else if (absent && !wait)
    fuse_reply_err(req, ENOENT);
  else if (!wait)
    reply_error(req, error);
  notify_leave(fs->notify, section);
  if (!wait)
    return;
  LookupWait *parked = g_new0(LookupWait, 1);
  *parked = (LookupWait){.fs = fs, .req = req, .parent = parent, .name = g_strdup(name)};
  guint64 park = parked->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_folder_ready(fs->engine, node.id, on_ready, parked));
}

static void on_ready(gpointer data, const GError *error) {
  LookupWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error(wait->req, error);
  else
    lookup(wait->fs, wait->req, wait->parent, wait->name, FALSE);
  g_free(wait->name);
  g_free(wait);
}

gboolean view_lookup(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name) {
  if (parent == NODE_ROOT_INO && g_str_equal(name, MAILDIR_NAME)) {
    struct fuse_entry_param entry = dir_entry(fs, NULL, MAILDIR_FOLDER);
    entry.entry_timeout = KEEP_SECONDS;
    fuse_reply_entry(req, &entry);
    return TRUE;
  }
  if (!view_is(parent))
    return FALSE;
  lookup(fs, req, parent, name, TRUE);
  return TRUE;
}

void view_reply_new(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name) {
  lookup(fs, req, parent, name, TRUE);
}

/* ---- attributes ---- */

gboolean view_stat(Fs *fs, Node node, struct stat *st_out, GError **error) {
  g_autoptr(EngineFolder) folder = node.id ? engine_folder_get(fs->engine, node.id, error) : NULL;
  if (node.id && !folder)
    return FALSE;
  attr_maildir(fs, folder, (MaildirPart) node.uid, st_out);
  return TRUE;
}

/* ---- listings ---- */

static gboolean add_named(Listing *list, const EngineEntry *found, const char *plain,
                          MaildirFlags letters, gint64 cookie) {
  Node node = {NODE_MAILDIR, 0, list->part};
  g_autofree char *name = maildir_name(found->msg, plain, list->part, letters);
  struct fuse_entry_param entry = node_entry(list->fs, node, found);
  return list_add(list, name, &entry, cookie);
}

static gboolean list_message(const EngineMessage *message, gpointer data) {
  Listing *list = data;
  MaildirFlags letters = view_letters(message);
  list->last = message->uid;
  if (view_part(list->fs, list->folder, message->name, letters) != list->part
      || (list->class == COOKIE_LATER && listed_has_guest(list->listed, message->name)))
    return TRUE;
  EngineEntry found = {.message = (EngineMessage *) message, .msg = {list->space, message->uid}};
  return add_named(list, &found, message->name, letters, cookie_make(list->class, message->uid));
}

/* Messages on their way in, and letters that were put here; in tmp and beside it, scratch. */
static gboolean list_guest(guint32 number, const EngineEntry *guest, gpointer data) {
  Listing *list = data;
  gint64 cookie = cookie_make(COOKIE_GUEST, number);
  const char *plain = guest->message ? guest->message->name : guest->local->name;
  MaildirFlags letters = 0;
  MaildirPart put;
  gboolean temporary = g_str_has_prefix(plain, MAILDIR_TMP_PREFIX);
  if (list->part == MAILDIR_TMP || list->part == MAILDIR_FOLDER) {
    if (!guest->local || plain[0] != '.' || temporary != (list->part == MAILDIR_TMP))
      return TRUE;
    struct fuse_entry_param entry = node_entry(list->fs, (Node){NODE_MAILDIR, 0, list->part}, guest);
    return list_add(list, temporary ? plain + strlen(MAILDIR_TMP_PREFIX) : plain, &entry, cookie);
  }
  if (guest->message)
    letters = view_letters(guest->message);
  else if (guest->local->is_folder
           || !maildir_place_get(list->fs->maildir, list->folder, plain, &put, &letters))
    return TRUE;
  if (view_part(list->fs, list->folder, plain, letters) != list->part)
    return TRUE;
  if (!add_named(list, guest, plain, letters, cookie))
    return FALSE;
  listed_guest(list->listed, plain);
  return TRUE;
}

static int by_id(gconstpointer a, gconstpointer b) {
  const EngineFolder *x = *(EngineFolder *const *) a, *y = *(EngineFolder *const *) b;
  return x->id < y->id ? -1 : x->id > y->id;
}

/* cur, new, tmp, and the folders. */
static gboolean list_folders(Listing *list, const EngineFolder *above, guint32 part, guint32 after,
                             GError **error) {
  for (part++; above && above->space && part <= MAILDIR_TMP && !list->full; part++) {
    if (maildir_is_fresh(list->fs->maildir, above->id, (MaildirPart) part))
      continue;
    struct fuse_entry_param entry = dir_entry(list->fs, above, (MaildirPart) part);
    list_add(list, maildir_part_name((MaildirPart) part), &entry,
             cookie_make(COOKIE_SPECIAL, 2 + part));
  }
  g_autoptr(GPtrArray) folders = engine_folders(list->fs->engine, list->folder, error);
  if (!folders)
    return FALSE;
  g_ptr_array_sort(folders, by_id);
  for (guint i = 0; i < folders->len && !list->full; i++) {
    const EngineFolder *folder = g_ptr_array_index(folders, i);
    if (folder->id <= after || (above && maildir_part(folder->name)))
      continue;
    struct fuse_entry_param entry = dir_entry(list->fs, folder, MAILDIR_FOLDER);
    list_add(list, folder->name, &entry, cookie_make(COOKIE_FOLDER, folder->id));
  }
  return TRUE;
}

gboolean view_list(Listing *list, Node node, gint64 offset, GError **error) {
  CookieClass class = cookie_class(offset);
  guint32 number = cookie_number(offset);
  EngineDir dir = {node.id, 0};
  g_autoptr(EngineFolder) folder =
      node.id ? engine_folder_get(list->fs->engine, node.id, error) : NULL;
  if (node.id && !folder)
    return FALSE;
  list->folder = node.id;
  list->part = (MaildirPart) node.uid;
  gboolean messages = list->part == MAILDIR_CUR || list->part == MAILDIR_NEW;
  guint64 above = list->part ? node_maildir_ino(node.id, MAILDIR_FOLDER)
                  : folder   ? node_maildir_ino(folder->parent, MAILDIR_FOLDER) : NODE_ROOT_INO;
  list->space = folder && messages ? folder->space : 0;
  guint32 special = class < COOKIE_SPECIAL ? 0 : class == COOKIE_SPECIAL ? number : G_MAXUINT8;
  list_dots(list, special, node_ino(node), above);
  if (class <= COOKIE_FOLDER && !list->full && list->part == MAILDIR_FOLDER
      && !list_folders(list, folder, special > 2 ? special - 2 : 0,
                       class == COOKIE_FOLDER ? number : 0, error))
    return FALSE;
  return list_mail(list, dir, offset, list_message, list_guest, error);
}

/* ---- dovecot-keywords ---- */

static gboolean is_keywords(fuse_ino_t ino) {
  Node node;
  return node_parse(ino, &node) && node.kind == NODE_MAILDIR && node.uid == MAILDIR_KEYWORDS;
}

gboolean view_open(Fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  if (!is_keywords(ino))
    return FALSE;
  if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
    fuse_reply_err(req, EROFS);
    return TRUE;
  }
  fi->keep_cache = 1;
  files_reply(fs, req, fi, (OpenFile){.ino = ino}, NULL);
  return TRUE;
}

gboolean view_read(fuse_req_t req, fuse_ino_t ino, gsize size, off_t offset) {
  if (!is_keywords(ino))
    return FALSE;
  const char *text = maildir_keywords_text();
  gsize from = MIN((gsize) offset, strlen(text));
  fuse_reply_buf(req, text + from, MIN(size, strlen(text + from)));
  return TRUE;
}
