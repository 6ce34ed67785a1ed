/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/files.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "fs/ctl.h"
#include "fs/listed.h"
#include "fs/park.h"
#include "fs/reply.h"
#include "fs/virtual.h"

#define STRIPES 16

struct OpenFiles {
  Fs *fs;
  GMutex lock; /* guards what follows but `octets`; a leaf */
  GHashTable *files;  /* OpenFile */
  GHashTable *edited; /* ino (gint64 *) of messages that were open for writing */
  GMutex octets[STRIPES]; /* by local file, see files_octets */
};

OpenFiles *files_new(Fs *fs) {
  OpenFiles *files = g_new0(OpenFiles, 1);
  files->fs = fs;
  g_mutex_init(&files->lock);
  for (guint i = 0; i < STRIPES; i++)
    g_mutex_init(&files->octets[i]);
  files->files = g_hash_table_new(g_direct_hash, g_direct_equal);
  files->edited = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
  return files;
}

static void close_file(Fs *fs, OpenFile *file) {
  if (file->listed)
    listed_free(file->listed);
  if (file->body)
    engine_body_close(&file->body);
  if (file->text)
    virtual_close(fs->virtual, file->text);
  if (file->ctl)
    ctl_free(file->ctl);
  if (file->file)
    engine_file_close(&file->file);
  g_free(file);
}

void files_free(OpenFiles **files_inout) {
  OpenFiles *files = g_steal_pointer(files_inout);
  if (!files)
    return;
  GHashTableIter iter;
  gpointer file;
  g_hash_table_iter_init(&iter, files->files);
  while (g_hash_table_iter_next(&iter, &file, NULL))
    close_file(files->fs, file);
  g_hash_table_unref(files->files);
  g_hash_table_unref(files->edited);
  for (guint i = 0; i < STRIPES; i++)
    g_mutex_clear(&files->octets[i]);
  g_mutex_clear(&files->lock);
  g_free(files);
}

/* ---- references ---- */

OpenFile *files_ref(Fs *fs, OpenFile *file) {
  g_mutex_lock(&fs->files->lock);
  file->references++;
  g_mutex_unlock(&fs->files->lock);
  return file;
}

void files_unref(Fs *fs, OpenFile *file) {
  g_mutex_lock(&fs->files->lock);
  gboolean last = --file->references == 0;
  if (last)
    g_hash_table_remove(fs->files->files, file);
  g_mutex_unlock(&fs->files->lock);
  if (last)
    close_file(fs, file);
}

static OpenFile *find_locked(OpenFiles *files, fuse_ino_t ino, gboolean writable) {
  GHashTableIter iter;
  gpointer key;
  g_hash_table_iter_init(&iter, files->files);
  while (g_hash_table_iter_next(&iter, &key, NULL)) {
    OpenFile *file = key;
    if (file->ino == ino && (file->writable || !writable))
      return file;
  }
  return NULL;
}

OpenFile *files_find(Fs *fs, fuse_ino_t ino) {
  g_mutex_lock(&fs->files->lock);
  OpenFile *file = find_locked(fs->files, ino, TRUE);
  if (file)
    file->references++;
  g_mutex_unlock(&fs->files->lock);
  return file;
}

void files_written(Fs *fs, OpenFile *file, gboolean by_page) {
  g_atomic_int_set(&file->changes, CHANGES_WRITTEN);
  if (!by_page)
    return;
  GHashTableIter iter;
  gpointer key;
  g_mutex_lock(&fs->files->lock);
  g_hash_table_iter_init(&iter, fs->files->files);
  while (g_hash_table_iter_next(&iter, &key, NULL)) {
    OpenFile *other = key;
    if (other->ino == file->ino && other->writable)
      g_atomic_int_set(&other->changes, CHANGES_WRITTEN);
  }
  g_mutex_unlock(&fs->files->lock);
}

gboolean files_was_edited(Fs *fs, fuse_ino_t ino) {
  gint64 key = (gint64) ino;
  g_mutex_lock(&fs->files->lock);
  gboolean edited = g_hash_table_contains(fs->files->edited, &key);
  g_mutex_unlock(&fs->files->lock);
  return edited;
}

GMutex *files_octets(Fs *fs, const OpenFile *file) {
  return &fs->files->octets[engine_file_local(file->file) % STRIPES];
}

/* ---- without a name ---- */

void files_keep(Fs *fs, const struct stat *st) {
  GHashTableIter iter;
  gpointer key;
  g_mutex_lock(&fs->files->lock);
  g_hash_table_iter_init(&iter, fs->files->files);
  while (g_hash_table_iter_next(&iter, &key, NULL)) {
    OpenFile *file = key;
    if (file->ino == st->st_ino) {
      file->nameless = TRUE;
      file->last = *st;
      file->last.st_nlink = 0;
    }
  }
  g_mutex_unlock(&fs->files->lock);
}

/* Size and times as they are now. */
static void stat_octets(Fs *fs, OpenFile *file, struct stat *st) {
  struct stat now;
  g_mutex_lock(files_octets(fs, file));
  int fd = engine_file_fd(file->file, NULL);
  gboolean ok = fd >= 0 && fstat(fd, &now) == 0;
  g_mutex_unlock(files_octets(fs, file));
  if (!ok)
    return;
  st->st_size = now.st_size;
  st->st_blocks = now.st_blocks;
  st->st_mtim = now.st_mtim;
  st->st_ctim = now.st_ctim;
}

gboolean files_stat(Fs *fs, fuse_ino_t ino, struct stat *st_out) {
  g_mutex_lock(&fs->files->lock);
  OpenFile *file = find_locked(fs->files, ino, TRUE);
  if (!file)
    file = find_locked(fs->files, ino, FALSE);
  gboolean known = file && (file->file || file->nameless);
  if (known) {
    file->references++;
    *st_out = file->last;
    if (!file->nameless) /* its name is another node's by now */
      *st_out = (struct stat){.st_ino = ino, .st_mode = S_IFREG | 0600, .st_nlink = 1,
                              .st_uid = fs->uid, .st_gid = fs->gid, .st_blksize = 4096};
  }
  g_mutex_unlock(&fs->files->lock);
  if (!known)
    return FALSE;
  if (file->file)
    stat_octets(fs, file, st_out);
  files_unref(fs, file);
  return TRUE;
}

/* ---- opening ---- */

pid_t files_process(pid_t thread) {
  char path[32], line[256];
  snprintf(path, sizeof path, "/proc/%d/status", (int) thread);
  FILE *status = fopen(path, "re");
  int process = 0;
  while (status && !process && fgets(line, sizeof line, status))
    if (sscanf(line, "Tgid: %d", &process) != 1)
      process = 0;
  if (status)
    fclose(status);
  return process > 0 ? process : thread;
}

#define STAT_FLAGS 6      /* words after the name in /proc/N/stat, see proc(5) */
#define STAT_EXIT_CODE 49
#define FLAG_EXITING 4u

/* Whether it has given up its memory already, which a program that ends does before its files are
 * closed. */
static gboolean is_exiting(pid_t thread) {
  g_autofree char *path = g_strdup_printf("/proc/%d/status", (int) thread);
  g_autofree char *text = NULL;
  return g_file_get_contents(path, &text, NULL, NULL) && !strstr(text, "\nVmSize:");
}

gboolean files_is_killed(pid_t thread) {
  /* In the middle of execve(2), which closes files too, the kernel would keep us waiting for `stat`
   * until we have answered: only `status` can be read then. */
  if (!is_exiting(thread))
    return FALSE;
  g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int) thread);
  g_autofree char *text = NULL;
  if (!g_file_get_contents(path, &text, NULL, NULL))
    return FALSE;
  const char *name_end = strrchr(text, ')');
  g_auto(GStrv) words = g_strsplit(name_end ? name_end + 2 : "", " ", -1);
  if (g_strv_length(words) <= STAT_EXIT_CODE)
    return FALSE;
  guint64 flags = g_ascii_strtoull(words[STAT_FLAGS], NULL, 10);
  guint64 code = g_ascii_strtoull(words[STAT_EXIT_CODE], NULL, 10);
  return (flags & FLAG_EXITING) && WIFSIGNALED((int) code);
}

void files_reply(Fs *fs, fuse_req_t req, struct fuse_file_info *fi, OpenFile opened,
                 const struct fuse_entry_param *entry) {
  OpenFile *file = g_memdup2(&opened, sizeof opened);
  file->references = 1;
  Node node;
  gboolean edits = file->writable && node_parse(file->ino, &node) && node.kind == NODE_MESSAGE;
  gint64 ino = (gint64) file->ino;
  g_mutex_lock(&fs->files->lock);
  g_hash_table_add(fs->files->files, file);
  if (edits && !g_hash_table_contains(fs->files->edited, &ino))
    g_hash_table_add(fs->files->edited, g_memdup2(&ino, sizeof ino));
  g_mutex_unlock(&fs->files->lock);
  fi->fh = (uintptr_t) file;
  fi->noflush = !file->writable;
  if ((entry ? fuse_reply_create(req, entry, fi) : fuse_reply_open(req, fi)) != 0)
    files_unref(fs, file); /* nobody took it, so no RELEASE will come */
}

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  struct fuse_file_info fi;
  struct fuse_entry_param entry; /* ino 0: there is none */
  OpenFile opened;
} FileWait;

static void on_file(EngineFile *file, gpointer data, const GError *error) {
  FileWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error) {
    reply_error_node(wait->req, error);
  } else {
    wait->opened.file = file;
    files_reply(wait->fs, wait->req, &wait->fi, wait->opened,
                wait->entry.ino ? &wait->entry : NULL);
  }
  g_free(wait);
}

void files_open(Fs *fs, fuse_req_t req, Node node, struct fuse_file_info *fi,
                const struct fuse_entry_param *entry) {
  gboolean truncate = (fi->flags & O_TRUNC) != 0;
  FileWait *wait = g_new0(FileWait, 1);
  *wait = (FileWait){.fs = fs, .req = req, .fi = *fi};
  if (entry)
    wait->entry = *entry;
  wait->opened = (OpenFile){.ino = node_ino(node),
                            .writable = truncate || (fi->flags & O_ACCMODE) != O_RDONLY,
                            .changes = truncate ? CHANGES_BY_OPEN : CHANGES_NONE};
  if (wait->opened.writable)
    wait->opened.owner = files_process(fuse_req_ctx(req)->pid);
  EngineMsg msg;
  guint32 local;
  files_engine_id(node, &msg, &local);
  guint64 park = wait->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_file_open(fs->engine, msg, local, truncate, on_file, wait));
}
