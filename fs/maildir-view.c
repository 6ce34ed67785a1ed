/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/maildir-view.h"

#include <string.h>

#include "base/err.h"
#include "fs/notify.h"

void view_name_clear(ViewName *name) {
  g_clear_pointer(&name->plain, g_free);
}

gboolean view_is(fuse_ino_t dir) {
  Node node;
  return node_parse(dir, &node) && node.kind == NODE_MAILDIR && node.uid != MAILDIR_KEYWORDS;
}

gboolean view_has_messages(Node node) {
  return node.kind == NODE_MAILDIR && node.id && node.uid <= MAILDIR_NEW;
}

static gboolean fail(GError **error, EmlError code, const char *text) {
  g_set_error_literal(error, EML_ERROR, (int) code, text);
  return FALSE;
}

MaildirFlags view_letters(const EngineMessage *message) {
  return maildir_flags(message->flags, message->keywords);
}

MaildirPart view_part(Fs *fs, guint32 folder, const char *plain, MaildirFlags letters) {
  MaildirPart part;
  MaildirFlags put;
  if (letters)
    return MAILDIR_CUR;
  return maildir_place_get(fs->maildir, folder, plain, &part, &put) ? part : MAILDIR_NEW;
}

/* ---- names ---- */

/* A name of a message. */
static gboolean message_name(Fs *fs, const char *name, ViewName *name_out, GError **error) {
  g_auto(MaildirParsed) parsed = {0};
  if (!maildir_parse(name, &parsed))
    return fail(error, EML_ERROR_FIXED, "messages are not called so");
  name_out->letters = parsed.letters;
  name_out->plain = g_steal_pointer(&parsed.plain);
  if (name_out->plain)
    return TRUE;
  name_out->msg = parsed.msg;
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, parsed.msg, error);
  g_autoptr(EngineFolder) folder =
      message ? engine_folder_get(fs->engine, name_out->dir.folder, error) : NULL;
  if (!folder)
    return FALSE;
  g_autofree char *own = maildir_name(parsed.msg, message->name, MAILDIR_NEW, 0);
  if (folder->space != parsed.msg.space || strncmp(own, name, strlen(own)) != 0)
    return fail(error, EML_ERROR_NOT_FOUND, "no such message");
  name_out->plain = g_strdup(message->name);
  return TRUE;
}

/* A name beside cur, new and tmp. */
static gboolean folder_name(const char *name, ViewName *name_out, GError **error) {
  gboolean reserved = name_out->dir.folder
                          ? maildir_part(name) || g_str_has_prefix(name, MAILDIR_TMP_PREFIX)
                          : g_str_equal(name, CONTROL_NAME) || g_str_equal(name, MAILDIR_NAME);
  name_out->plain = g_strdup(name);
  return reserved ? fail(error, EML_ERROR_FIXED, "the name is taken") : TRUE;
}

gboolean view_name(Fs *fs, fuse_ino_t dir, const char *name, ViewName *name_out, GError **error) {
  *name_out = (ViewName){0};
  if (!node_parse(dir, &name_out->node))
    return fail(error, EML_ERROR_STALE, "no such directory");
  if (name_out->node.kind != NODE_MAILDIR) {
    name_out->plain = g_strdup(name);
    int failure = dir_of_node(dir, &name_out->dir);
    return failure ? fail(error, failure == ESTALE ? EML_ERROR_STALE : EML_ERROR_FIXED,
                          "it is not to be changed")
                   : TRUE;
  }
  name_out->dir.folder = name_out->node.id;
  switch ((MaildirPart) name_out->node.uid) {
  case MAILDIR_FOLDER:
    return folder_name(name, name_out, error);
  case MAILDIR_CUR:
  case MAILDIR_NEW:
    return message_name(fs, name, name_out, error);
  case MAILDIR_TMP:
    name_out->plain = g_strconcat(MAILDIR_TMP_PREFIX, name, NULL);
    return TRUE;
  case MAILDIR_KEYWORDS:
    break;
  }
  return fail(error, EML_ERROR_STALE, "no such directory");
}

/* ---- entries ---- */

/* Whether @entry is what @name says. */
static gboolean is_named(Fs *fs, const ViewName *name, const EngineEntry *entry) {
  MaildirPart part = (MaildirPart) name->node.uid, put;
  MaildirFlags letters = 0;
  if (name->node.kind != NODE_MAILDIR)
    return TRUE;
  if (part == MAILDIR_TMP)
    return entry->local && !entry->local->is_folder;
  if (part == MAILDIR_FOLDER)
    return name->plain[0] == '.' ? entry->local != NULL : entry->folder != NULL;
  if (entry->message)
    letters = view_letters(entry->message);
  else if (!entry->local
           || !maildir_place_get(fs->maildir, name->dir.folder, name->plain, &put, &letters))
    return FALSE;
  return letters == name->letters
         && view_part(fs, name->dir.folder, name->plain, letters) == part;
}

gboolean view_entry(Fs *fs, const ViewName *name, EngineEntry *entry_out, GError **error) {
  g_autofree char *linked = name->node.kind == NODE_MAILDIR && name->node.uid == MAILDIR_TMP
                                ? maildir_link_get(fs->maildir, name->dir.folder, name->plain)
                                : NULL;
  if (linked)
    return engine_entry_get(fs->engine, name->dir, linked, entry_out, error);
  if (!engine_entry_get(fs->engine, name->dir, name->plain, entry_out, error))
    return FALSE;
  if (is_named(fs, name, entry_out))
    return TRUE;
  engine_entry_clear(entry_out);
  return fail(error, EML_ERROR_NOT_FOUND, "there is no such name any more");
}

gboolean view_was_put(Fs *fs, Node node) {
  MaildirPart part;
  MaildirFlags letters;
  if (node.kind == NODE_LOCAL) {
    g_autoptr(EngineLocal) local = engine_local_get(fs->engine, node.id, NULL);
    return local && maildir_place_get(fs->maildir, local->folder, local->name, &part, &letters);
  }
  EngineMsg msg = {node.id, node.uid};
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, msg, NULL);
  g_autoptr(EngineFolder) folder =
      message ? engine_folder_by_space(fs->engine, msg.space, NULL) : NULL;
  return folder && maildir_place_get(fs->maildir, folder->id, message->name, &part, &letters);
}

/* ---- news ---- */

void view_tell(Fs *fs, EngineDir dir, const char *plain) {
  EngineNews news = {.kind = ENGINE_NEWS_NAME, .folder = dir.folder, .name = plain};
  if (dir.local)
    return;
  maildir_touch(fs->maildir, dir.folder);
  notify_news(&news, 1, fs->notify);
}

void view_touch(Fs *fs, EngineDir dir) {
  if (dir.local)
    return;
  maildir_touch(fs->maildir, dir.folder);
  notify_view(fs->notify, dir.folder);
}

void view_touch_message(Fs *fs, EngineMsg msg) {
  g_autoptr(EngineFolder) folder = engine_folder_by_space(fs->engine, msg.space, NULL);
  if (folder)
    view_touch(fs, (EngineDir){folder->id, 0});
}
