/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is changed through the Maildir view.
 *
 * A rename says up to three things: another place (a move), another name before the colon (which the
 * message keeps), other flags. They are done in this order, each only if it is needed. A file of tmp
 * becomes a letter with its flags at once. Should the server refuse it, it is in tmp again, where the
 * program believes it to be.
 *
 * link(2) from tmp is the other way to deliver. The file is then a message, which the name in tmp stands
 * for too until it is unlinked. It is waited for, so that both names are the same inode at once:
 * programs compare that.
 */
#include <string.h>

#include "base/err.h"
#include "fs/files.h"
#include "fs/maildir-view.h"
#include "fs/park.h"
#include "fs/reply.h"

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  ViewName from, to;    /* `to` is empty for unlink, rmdir and mkdir */
  fuse_ino_t newparent; /* with `newname`: the entry to answer with */
  char *newname;
  gboolean link;
  GError *failure;
} ViewChange;

static ViewChange *change_new(Fs *fs, fuse_req_t req) {
  ViewChange *change = g_new0(ViewChange, 1);
  *change = (ViewChange){.fs = fs, .req = req};
  return change;
}

static void change_free(ViewChange *change) {
  view_name_clear(&change->from);
  view_name_clear(&change->to);
  g_free(change->newname);
  g_clear_error(&change->failure);
  g_free(change);
}

/* Answers, once the kernel is going to be told what it has to know of the plain view. */
static void change_end(ViewChange *change, const GError *error) {
  if (change->park)
    park_end(change->fs->parks, change->park);
  if (change->from.plain)
    view_tell(change->fs, change->from.dir, change->from.plain);
  if (change->to.plain)
    view_tell(change->fs, change->to.dir, change->to.plain);
  if (error)
    reply_error(change->req, error);
  else if (change->newname)
    view_reply_new(change->fs, change->req, change->newparent, change->newname);
  else
    fuse_reply_err(change->req, 0);
  change_free(change);
}

static void change_fail(ViewChange *change, EmlError code, const char *text) {
  g_autoptr(GError) error = g_error_new_literal(EML_ERROR, code, text);
  change_end(change, error);
}

static void on_done(gpointer data, const GError *error) {
  change_end(data, error);
}

static void park(ViewChange *change) {
  if (!change->park)
    change->park = park_begin(change->fs->parks, change->req);
}

/* Makes the engine's call; with its completion @change may be gone. */
#define WAITS(change, call)                        \
  G_STMT_START {                                   \
    park(change);                                  \
    Parks *parks_ = (change)->fs->parks;           \
    guint64 park_ = (change)->park;                \
    park_waits(parks_, park_, call);               \
  }                                                \
  G_STMT_END

/* Those who have it open see it as it was. */
static void keep_open(Fs *fs, const EngineEntry *found) {
  struct stat st;
  if (found->folder)
    return;
  attr_named(fs, found, &st);
  files_keep(fs, &st);
}

static gboolean is_part(const ViewName *name, MaildirPart first, MaildirPart last) {
  return name->node.kind == NODE_MAILDIR && name->node.uid >= first && name->node.uid <= last;
}

static gboolean is_letter_place(const ViewName *name) {
  return is_part(name, MAILDIR_CUR, MAILDIR_NEW);
}

/* ---- unlink, rmdir, mkdir, new files ---- */

gboolean view_unlink(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  if (!view_is(parent))
    return FALSE;
  ViewChange *change = change_new(fs, req);
  ViewName *from = &change->from;
  gboolean known = view_name(fs, parent, name, from, &error);
  if (known && is_part(from, MAILDIR_TMP, MAILDIR_TMP)
      && maildir_link_drop(fs->maildir, from->dir.folder, from->plain))
    change_end(change, NULL);
  else if (!known || !view_entry(fs, from, &found, &error))
    change_end(change, error);
  else {
    keep_open(fs, &found);
    WAITS(change, engine_unlink(fs->engine, from->dir, from->plain, on_done, change));
  }
  return TRUE;
}

/* Ends the listing at the first entry. */
static gboolean is_something(Listing *list) {
  return list->used > 0 || list->full;
}

/* cur, new and tmp come and go with their folder. Programs that remove a Maildir remove them first, which
 * is nothing but the question whether they are empty. */
static gboolean part_is_empty(Fs *fs, fuse_req_t req, Node node) {
  char buffer[1024];
  Listing list = {.fs = fs, .req = req, .buffer = buffer, .size = sizeof buffer,
                  .listed = listed_new()};
  g_autoptr(GError) error = NULL;
  gboolean ok = view_list(&list, node, cookie_make(COOKIE_FOLDER, 0), &error);
  listed_free(list.listed);
  return ok && !is_something(&list);
}

gboolean view_rmdir(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  if (!view_is(parent))
    return FALSE;
  ViewChange *change = change_new(fs, req);
  ViewName *from = &change->from;
  Node node;
  node_parse(parent, &node);
  MaildirPart part = node.id && node.uid == MAILDIR_FOLDER ? maildir_part(name) : MAILDIR_FOLDER;
  if (part && !part_is_empty(fs, req, (Node){NODE_MAILDIR, node.id, part}))
    change_fail(change, EML_ERROR_NOT_EMPTY, "there are messages in it");
  else if (part)
    change_end(change, NULL);
  else if (!view_name(fs, parent, name, from, &error) || !view_entry(fs, from, &found, &error))
    change_end(change, error);
  else
    WAITS(change, engine_rmdir(fs->engine, from->dir, from->plain, on_done, change));
  return TRUE;
}

static void on_made(gpointer data, const GError *error) {
  ViewChange *change = data;
  g_auto(EngineEntry) made = {0};
  if (!error && engine_entry_get(change->fs->engine, change->from.dir, change->from.plain, &made, NULL)
      && made.folder)
    maildir_fresh_set(change->fs->maildir, made.folder->id);
  change_end(change, error);
}

gboolean view_mkdir(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name) {
  g_autoptr(GError) error = NULL;
  if (!view_is(parent))
    return FALSE;
  ViewChange *change = change_new(fs, req);
  ViewName *from = &change->from;
  gboolean known = view_name(fs, parent, name, from, &error);
  gboolean beside = is_part(from, MAILDIR_FOLDER, MAILDIR_FOLDER);
  change->newparent = parent;
  if (known && !beside) {
    change_fail(change, EML_ERROR_FIXED, "there are no folders in it");
  } else if (known) {
    change->newname = g_strdup(name);
    WAITS(change, engine_mkdir(fs->engine, from->dir, from->plain, on_made, change));
  } else if (beside && maildir_fresh_make(fs->maildir, from->dir.folder, maildir_part(name))) {
    change->newname = g_strdup(name);
    g_clear_pointer(&from->plain, g_free);
    change_end(change, NULL);
  } else if (beside && maildir_part(name)) {
    change_fail(change, EML_ERROR_EXISTS, "every folder has it");
  } else {
    change_end(change, error);
  }
  return TRUE;
}

gboolean view_scratch(Fs *fs, fuse_ino_t parent, const char *name, ViewName *name_out,
                      GError **error) {
  if (!view_name(fs, parent, name, name_out, error))
    return FALSE;
  if (is_part(name_out, MAILDIR_TMP, MAILDIR_TMP)
      || (is_part(name_out, MAILDIR_FOLDER, MAILDIR_FOLDER) && name_out->plain[0] == '.'))
    return TRUE;
  g_set_error_literal(error, EML_ERROR, EML_ERROR_FIXED, "files are made in tmp");
  return FALSE;
}

/* ---- flags, the last step of a rename ---- */

static void on_flags(gpointer data, const GError *error) {
  ViewChange *change = data;
  ViewName *to = &change->to;
  if (!error)
    maildir_place_set(change->fs->maildir, to->dir.folder, to->plain, (MaildirPart) to->node.uid,
                      to->letters);
  change_end(change, error);
}

static void set_flags(ViewChange *change) {
  Fs *fs = change->fs;
  const ViewName *to = &change->to;
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  if (!engine_entry_get(fs->engine, to->dir, to->plain, &found, &error)) {
    change_end(change, error);
    return;
  }
  if (!found.message || view_letters(found.message) == to->letters) {
    on_flags(change, NULL);
    return;
  }
  g_autofree char *keywords = maildir_keywords(to->letters, found.message->keywords);
  guint others = found.message->flags & MSG_FLAG_RECENT;
  gint flags = (gint) (maildir_system_flags(to->letters) | others);
  WAITS(change, engine_set_flags(fs->engine, found.msg, 0, flags, keywords, on_flags, change));
}

/* ---- rename ---- */

static void on_renamed(gpointer data, const GError *error) {
  ViewChange *change = data;
  if (error || !is_letter_place(&change->to))
    change_end(change, error);
  else
    set_flags(change);
}

static void on_back_in_tmp(gpointer data, const GError *error) {
  ViewChange *change = data;
  g_autoptr(GError) failure = g_steal_pointer(&change->failure);
  change_end(change, failure);
}

static void on_linked(gpointer data, const GError *error) {
  ViewChange *change = data;
  if (!error)
    maildir_link_set(change->fs->maildir, change->from.dir.folder, change->from.plain,
                     change->to.plain);
  change_end(change, error);
}

static void on_delivered(gpointer data, const GError *error) {
  ViewChange *change = data;
  Fs *fs = change->fs;
  const ViewName *from = &change->from, *to = &change->to;
  if (error && !g_error_matches(error, EML_ERROR, EML_ERROR_CANCELLED)
      && !g_error_matches(error, EML_ERROR, EML_ERROR_EXISTS)) {
    change->failure = g_error_copy(error);
    WAITS(change, engine_rename(fs->engine, to->dir, to->plain, from->dir, from->plain, TRUE,
                                on_back_in_tmp, change));
  } else if (!error && change->link) {
    /* A name that stays what it is changes once nothing is on its way any more. */
    WAITS(change, engine_rename(fs->engine, to->dir, to->plain, to->dir, to->plain, FALSE, on_linked,
                                change));
  } else {
    change_end(change, error);
  }
}

static void deliver(ViewChange *change, gboolean no_replace) {
  Fs *fs = change->fs;
  const ViewName *from = &change->from, *to = &change->to;
  g_autofree char *keywords = maildir_keywords(to->letters, "");
  maildir_place_set(fs->maildir, to->dir.folder, to->plain, (MaildirPart) to->node.uid, to->letters);
  WAITS(change, engine_deliver(fs->engine, from->dir, from->plain, to->dir, to->plain, no_replace,
                               maildir_system_flags(to->letters), keywords, on_delivered, change));
}

/* Why @found, which is @from, cannot be @to; NULL: it can. */
static const char *why_not(const ViewName *from, const ViewName *to, const EngineEntry *found,
                           EmlError *code_out) {
  *code_out = EML_ERROR_FIXED;
  if (to->node.kind != NODE_MAILDIR)
    return NULL;
  if (is_letter_place(to))
    return found->folder || (found->local && found->local->is_folder) ? "it is a folder" : NULL;
  if (found->message || (found->local && is_letter_place(from))) {
    *code_out = EML_ERROR_CROSSING;
    return "a message cannot be scratch";
  }
  gboolean dotted = to->plain[0] == '.';
  return (found->folder != NULL) == dotted ? "it cannot be called so" : NULL;
}

static void rename_found(ViewChange *change, const EngineEntry *found, gboolean no_replace) {
  Fs *fs = change->fs;
  const ViewName *from = &change->from;
  ViewName *to = &change->to;
  g_auto(EngineEntry) there = {0};
  /* Only what stands there under just this name is replaced: what has other flags is another file for
   * the program that asks. */
  if (!no_replace && view_entry(fs, to, &there, NULL))
    keep_open(fs, &there);
  else
    no_replace = TRUE;
  gboolean same = from->dir.folder == to->dir.folder && from->dir.local == to->dir.local
                  && g_str_equal(from->plain, to->plain);
  if (is_letter_place(to) && found->local && !is_letter_place(from))
    deliver(change, no_replace);
  else if (same && found->message && is_letter_place(to))
    set_flags(change);
  else
    WAITS(change, engine_rename(fs->engine, from->dir, from->plain, to->dir, to->plain,
                                no_replace && !same, on_renamed, change));
}

gboolean view_rename(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name,
                     fuse_ino_t newparent, const char *newname, gboolean no_replace) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) found = {0};
  EmlError code;
  if (!view_is(parent) && !view_is(newparent))
    return FALSE;
  ViewChange *change = change_new(fs, req);
  ViewName *from = &change->from, *to = &change->to;
  if (!view_name(fs, parent, name, from, &error) || !view_entry(fs, from, &found, &error)
      || (!view_name(fs, newparent, newname, to, &error)
          && !g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND))) {
    change_end(change, error);
    return TRUE;
  }
  /* A name with a number is that of one message, which takes its own along. */
  if (to->msg.uid) {
    g_free(to->plain);
    to->plain = g_strdup(from->plain);
  }
  const char *reason = why_not(from, to, &found, &code);
  if (reason)
    change_fail(change, code, reason);
  else
    rename_found(change, &found, no_replace);
  return TRUE;
}

/* ---- link ---- */

gboolean view_link(Fs *fs, fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent,
                   const char *newname) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) there = {0};
  Node node;
  if (!view_is(newparent))
    return FALSE;
  ViewChange *change = change_new(fs, req);
  ViewName *from = &change->from, *to = &change->to;
  g_autoptr(EngineLocal) local = node_parse(ino, &node) && node.kind == NODE_LOCAL && !node.uid
                                     ? engine_local_get(fs->engine, node.id, NULL) : NULL;
  if (!view_name(fs, newparent, newname, to, &error)) {
    change_end(change, error);
  } else if (!local || !is_letter_place(to) || local->folder != to->dir.folder
             || !g_str_has_prefix(local->name, MAILDIR_TMP_PREFIX)) {
    change_fail(change, EML_ERROR_FIXED, "mail has no links");
  } else if (view_entry(fs, to, &there, NULL)) {
    change_fail(change, EML_ERROR_EXISTS, "the target exists");
  } else {
    from->dir.folder = local->folder;
    from->plain = g_strdup(local->name);
    change->link = TRUE;
    change->newparent = newparent;
    change->newname = g_strdup(newname);
    deliver(change, TRUE);
  }
  return TRUE;
}
