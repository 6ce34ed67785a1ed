/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The Maildir view: what a name in it stands for, and its handlers.
 *
 *   .maildir/FOLDER/            folders; names with a dot: what has that name in the folder itself
 *   .maildir/FOLDER/cur, new    the messages of the folder
 *   .maildir/FOLDER/tmp         scratch: NAME is the local file .maildir-tmp-NAME of the folder
 *
 * Messages and local files are the same nodes in both views, so that the kernel has one inode with two
 * names, and one page cache. What keeps that right: what is changed in one view is told to the kernel
 * for the names in the other, as news (view_tell); and as flags are part of a name here, which nobody
 * can tell of afterwards, names of the view are kept for VIEW_SECONDS only, those of tmp not at all.
 * One that is out of date then means the same message for a moment, never another one.
 *
 * cur and new: a message is in new as long as it has no flags, unless it was moved to cur through the
 * view (maildir-memory.h). A letter that was put there is shown at once; other local files are not.
 */
#pragma once

#include "fs/list.h"
#include "fs/maildir-memory.h"

#define VIEW_SECONDS 1.0

/* ---- names; maildir-view.c ---- */

/* A name in a directory of either view. */
typedef struct {
  Node node;            /* the directory */
  EngineDir dir;        /* where it is in the plain view */
  char *plain;          /* its name there */
  MaildirFlags letters; /* cur and new: as the name says */
  EngineMsg msg;        /* of a name UID.UIDSPACE.emlfs, else 0 */
} ViewName;
void view_name_clear(ViewName *name);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ViewName, view_name_clear)

/* Where @name in @dir belongs, whether or not it is there. FIXED: such a name cannot be there;
 * NOT_FOUND, STALE. */
gboolean view_name(Fs *fs, fuse_ino_t dir, const char *name, ViewName *name_out, GError **error);

/* What it stands for. NOT_FOUND: there is none, or its flags or its place are others by now. */
gboolean view_entry(Fs *fs, const ViewName *name, EngineEntry *entry_out, GError **error);

/* Whether @dir is a directory of the view. */
gboolean view_is(fuse_ino_t dir);
/* Whether the messages of a folder are behind it. */
gboolean view_has_messages(Node node);

/* Flags and place of a message called @plain in @folder. */
MaildirFlags view_letters(const EngineMessage *message);
MaildirPart view_part(Fs *fs, guint32 folder, const char *plain, MaildirFlags letters);

/* Whether the message or local file @node was put where it is through the view, in this mount. */
gboolean view_was_put(Fs *fs, Node node);

/* What is called @plain is another by now, or is not there any more. */
void view_tell(Fs *fs, EngineDir dir, const char *plain);
/* Something has changed in @dir. */
void view_touch(Fs *fs, EngineDir dir);
/* Flags of @msg have changed. */
void view_touch_message(Fs *fs, EngineMsg msg);

/* ---- looking; ops-maildir.c. TRUE: it is answered ---- */

gboolean view_lookup(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name);
/* Answers with the entry that @name has just become. */
void view_reply_new(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean view_stat(Fs *fs, Node node, struct stat *st_out, GError **error);
gboolean view_list(Listing *list, Node node, gint64 offset, GError **error);
/* The file "dovecot-keywords". */
gboolean view_open(Fs *fs, fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
gboolean view_read(fuse_req_t req, fuse_ino_t ino, gsize size, off_t offset);

/* ---- changing; ops-maildir-change.c. TRUE: it is answered ---- */

gboolean view_unlink(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean view_rmdir(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean view_mkdir(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name);
gboolean view_rename(Fs *fs, fuse_req_t req, fuse_ino_t parent, const char *name,
                     fuse_ino_t newparent, const char *newname, gboolean no_replace);
gboolean view_link(Fs *fs, fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent,
                   const char *newname);

/* Where a new file @name in the directory @parent of the view is made. FIXED: not there. */
gboolean view_scratch(Fs *fs, fuse_ino_t parent, const char *name, ViewName *name_out,
                      GError **error);
