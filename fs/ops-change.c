/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * unlink, rename, mkdir, rmdir, mknod; link and symlink, which mail does not have.
 *
 * The kernel holds the directory meanwhile, so that what else happens to names in it waits, too. The
 * engine makes it short: it waits for the server only where nobody knows yet what it will say.
 */
#include <stdio.h>

#include "fs/files.h"
#include "fs/maildir-view.h"
#include "fs/park.h"
#include "fs/replay.h"
#include "fs/reply.h"

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  EngineDir dir, to; /* where something changes */
  char *name;        /* in `dir`: the entry to answer with */
} ChangeWait;

static ChangeWait *change_begin(Fs *fs, fuse_req_t req, EngineDir dir, EngineDir to) {
  ChangeWait *wait = g_new0(ChangeWait, 1);
  *wait = (ChangeWait){.fs = fs, .req = req, .dir = dir, .to = to};
  wait->park = park_begin(fs->parks, req);
  return wait;
}

static void on_change(gpointer data, const GError *error) {
  ChangeWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  view_touch(wait->fs, wait->dir);
  view_touch(wait->fs, wait->to);
  if (error)
    reply_error(wait->req, error);
  else if (wait->name)
    reply_new_entry(wait->fs, wait->req, wait->dir, wait->name);
  else
    fuse_reply_err(wait->req, 0);
  g_free(wait->name);
  g_free(wait);
}

/* Those who have it open see it as it was. */
static void keep_open(Fs *fs, EngineDir dir, const char *name) {
  g_auto(EngineEntry) found = {0};
  struct stat st;
  if (!engine_entry_get(fs->engine, dir, name, &found, NULL) || found.folder)
    return;
  attr_named(fs, &found, &st);
  files_keep(fs, &st);
}

/* The directories that are no mail. TRUE: it is answered. */
static gboolean is_fixed(fuse_req_t req, fuse_ino_t parent, const char *name) {
  if (parent != NODE_ROOT_INO)
    return FALSE;
  gboolean control = g_str_equal(name, CONTROL_NAME), view = g_str_equal(name, MAILDIR_NAME);
  if (control || view)
    fuse_reply_err(req, control ? EROFS : EPERM);
  return control || view;
}

/* FALSE: @name in @parent is nothing that can be changed, which is answered. */
static gboolean find_dir(fuse_req_t req, fuse_ino_t parent, const char *name, EngineDir *dir_out) {
  if (is_fixed(req, parent, name))
    return FALSE;
  int failure = dir_of_node(parent, dir_out);
  if (failure)
    fuse_reply_err(req, failure);
  return failure == 0;
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Fs *fs = fuse_req_userdata(req);
  EngineDir dir;
  if (replay_remove(fs->replay, req, parent, name) || view_unlink(fs, req, parent, name)
      || !find_dir(req, parent, name, &dir))
    return;
  keep_open(fs, dir, name);
  ChangeWait *wait = change_begin(fs, req, dir, dir);
  guint64 park = wait->park;
  park_waits(fs->parks, park, engine_unlink(fs->engine, dir, name, on_change, wait));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name) {
  Fs *fs = fuse_req_userdata(req);
  EngineDir dir;
  if (replay_remove(fs->replay, req, parent, name) || view_rmdir(fs, req, parent, name)
      || !find_dir(req, parent, name, &dir))
    return;
  ChangeWait *wait = change_begin(fs, req, dir, dir);
  guint64 park = wait->park;
  park_waits(fs->parks, park, engine_rmdir(fs->engine, dir, name, on_change, wait));
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  Fs *fs = fuse_req_userdata(req);
  EngineDir dir;
  if (replay_mkdir(fs->replay, req, parent, name) || view_mkdir(fs, req, parent, name)
      || !find_dir(req, parent, name, &dir))
    return;
  ChangeWait *wait = change_begin(fs, req, dir, dir);
  guint64 park = wait->park;
  wait->name = g_strdup(name);
  park_waits(fs->parks, park, engine_mkdir(fs->engine, dir, name, on_change, wait));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                      const char *newname, unsigned flags) {
  Fs *fs = fuse_req_userdata(req);
  EngineDir dir, to;
  if (flags & ~(unsigned) RENAME_NOREPLACE) { /* exchange, whiteout: servers have no such thing */
    fuse_reply_err(req, EINVAL);
    return;
  }
  if (is_fixed(req, parent, name) || is_fixed(req, newparent, newname)
      || view_rename(fs, req, parent, name, newparent, newname, (flags & RENAME_NOREPLACE) != 0)
      || !find_dir(req, parent, name, &dir) || !find_dir(req, newparent, newname, &to))
    return;
  keep_open(fs, to, newname);
  ChangeWait *wait = change_begin(fs, req, dir, to);
  guint64 park = wait->park;
  park_waits(fs->parks, park,
             engine_rename(fs->engine, dir, name, to, newname, (flags & RENAME_NOREPLACE) != 0,
                           on_change, wait));
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev) {
  Fs *fs = fuse_req_userdata(req);
  g_autoptr(GError) error = NULL;
  EngineDir dir;
  g_auto(ViewName) view = {0};
  if (!S_ISREG(mode)) {
    fuse_reply_err(req, EPERM);
    return;
  }
  gboolean in_view = view_is(parent);
  if (in_view ? !view_scratch(fs, parent, name, &view, &error) : !find_dir(req, parent, name, &dir)) {
    if (error)
      reply_error(req, error);
    return;
  }
  if (in_view)
    dir = view.dir;
  EngineFile *file = engine_file_create(fs->engine, dir, in_view ? view.plain : name, &error);
  if (file) {
    engine_file_close(&file);
    if (in_view)
      view_tell(fs, dir, view.plain);
    if (in_view)
      view_reply_new(fs, req, parent, name);
    else
      reply_new_entry(fs, req, dir, name);
  } else {
    reply_error(req, error);
  }
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname) {
  EngineDir dir;
  if (!view_link(fuse_req_userdata(req), req, ino, newparent, newname)
      && find_dir(req, newparent, newname, &dir))
    fuse_reply_err(req, EPERM);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
  EngineDir dir;
  if (find_dir(req, parent, name, &dir))
    fuse_reply_err(req, EPERM);
}

void ops_change_add(struct fuse_lowlevel_ops *ops) {
  ops->unlink = op_unlink;
  ops->rmdir = op_rmdir;
  ops->mkdir = op_mkdir;
  ops->rename = op_rename;
  ops->mknod = op_mknod;
  ops->link = op_link;
  ops->symlink = op_symlink;
}
