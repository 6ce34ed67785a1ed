/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * changes.h for tests of fs: all in memory, every change done at once, unless the test holds calls of
 * its name or lets the next one fail (fake-control.c). A message that moves to another folder stays a
 * guest there until "settle". A letter only has to have octets.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake-engine.h"

#define MOVED (4 << 20) /* octets copied at a time */

struct Change {
  const char *call;
  EngineDir dir, to;
  char *name, *to_name, *keywords;
  gboolean flag; /* no_replace, truncate */
  EngineMsg msg;
  gint flags;
  guint32 local;
  guint64 size;
  EngineFile *file;
  EngineDone done;
  EngineFileDone file_done;
  gpointer data;
  GArray *news; /* EngineNews, their names interned */
};

/* ---- what there is ---- */

void engine_local_free(EngineLocal *local) {
  if (!local)
    return;
  g_free(local->name);
  g_free(local);
}

void engine_entry_clear(EngineEntry *entry) {
  g_clear_pointer(&entry->folder, engine_folder_free);
  g_clear_pointer(&entry->message, engine_message_free);
  g_clear_pointer(&entry->local, engine_local_free);
}

void fake_local_free(gpointer data) {
  Local *local = data;
  if (local->fd >= 0)
    close(local->fd);
  g_free(local);
}

static gboolean set(GError **error, EmlError code) {
  g_set_error(error, EML_ERROR, (int) code, "made to be so: %d", (int) code);
  return FALSE;
}

static Local *local_of(Engine *engine, guint32 id) {
  return id ? g_hash_table_lookup(engine->locals, GUINT_TO_POINTER(id)) : NULL;
}

static Local *add_local_locked(Engine *engine, EngineDir dir, const char *name, gboolean is_folder) {
  Local *local = g_new0(Local, 1);
  *local = (Local){.id = ++engine->last_local, .folder = dir.folder, .parent = dir.local,
                   .name = name ? g_intern_string(name) : NULL, .is_folder = is_folder,
                   .mtime = g_get_real_time() * 1000};
  local->fd = is_folder ? -1 : memfd_create("local", MFD_CLOEXEC);
  g_hash_table_insert(engine->locals, GUINT_TO_POINTER(local->id), local);
  return local;
}

/* Those that have it open keep it. */
static void drop_local_locked(Engine *engine, Local *local) {
  local->name = NULL;
  local->msg = (EngineMsg){0, 0};
  if (!local->opens)
    g_hash_table_remove(engine->locals, GUINT_TO_POINTER(local->id));
}

static gboolean is_in(const Local *local, EngineDir dir) {
  return local->name && local->folder == dir.folder && local->parent == dir.local;
}

Local *fake_local_by_name_locked(Engine *engine, EngineDir dir, const char *name) {
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->locals);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (is_in(value, dir) && g_str_equal(((Local *) value)->name, name))
      return value;
  return NULL;
}

static guint64 size_of(const Local *local) {
  struct stat st = {.st_size = 0};
  if (local->fd >= 0)
    fstat(local->fd, &st);
  return (guint64) st.st_size;
}

static EngineLocal *export_local(const Local *local) {
  EngineLocal *out = g_new0(EngineLocal, 1);
  *out = (EngineLocal){.id = local->id, .folder = local->folder, .parent = local->parent,
                       .name = g_strdup(local->name ? local->name : ""),
                       .is_folder = local->is_folder, .size = size_of(local),
                       .mtime = local->mtime, .ctime = local->mtime / 1000000000};
  return out;
}

static void export_guest_locked(Engine *engine, const Local *local, EngineEntry *entry_out) {
  Row *row = local->is_guest ? fake_row_locked(engine, local->msg, NULL) : NULL;
  if (!row) {
    entry_out->local = export_local(local);
    return;
  }
  entry_out->message = fake_export_row_locked(engine, row);
  entry_out->msg = local->msg;
  g_free((char *) entry_out->message->name);
  entry_out->message->name = g_strdup(local->name);
}

static gboolean is_letter(EngineDir dir, const char *name) {
  return dir.folder && g_str_has_suffix(name, ".eml") && name[0] != '.';
}

/* One of the three, or none. */
typedef struct {
  Folder *folder, *home;
  Row *row; /* in `home` */
  Local *local;
} Found;

static gboolean find_locked(Engine *engine, EngineDir dir, const char *name, Found *found_out,
                            GError **error) {
  Folder *home = g_hash_table_lookup(engine->folders, GUINT_TO_POINTER(dir.folder));
  *found_out = (Found){.home = home};
  if ((dir.folder && !home) || (dir.local && !local_of(engine, dir.local)))
    return set(error, EML_ERROR_STALE);
  found_out->local = fake_local_by_name_locked(engine, dir, name);
  if (!found_out->local && !dir.local)
    found_out->folder = fake_child_locked(engine, dir.folder, name);
  if (!found_out->local && !found_out->folder && home)
    found_out->row = fake_row_by_name_locked(home, name);
  return found_out->local || found_out->folder || found_out->row
             ? TRUE : set(error, EML_ERROR_NOT_FOUND);
}

gboolean engine_entry_get(Engine *engine, EngineDir dir, const char *name, EngineEntry *entry_out,
                          GError **error) {
  Found found;
  *entry_out = (EngineEntry){0};
  g_mutex_lock(&engine->lock);
  gboolean ok = find_locked(engine, dir, name, &found, error);
  if (ok && found.local) {
    export_guest_locked(engine, found.local, entry_out);
  } else if (ok && found.folder) {
    entry_out->folder = fake_export_folder_locked(engine, found.folder);
  } else if (ok) {
    entry_out->message = fake_export_row_locked(engine, found.row);
    entry_out->msg = (EngineMsg){found.home->space, found.row->uid};
  }
  g_mutex_unlock(&engine->lock);
  return ok;
}

EngineLocal *engine_local_get(Engine *engine, guint32 id, GError **error) {
  g_mutex_lock(&engine->lock);
  Local *local = local_of(engine, id);
  EngineLocal *out = local && local->name ? export_local(local) : NULL;
  g_mutex_unlock(&engine->lock);
  if (!out)
    set(error, EML_ERROR_NOT_FOUND);
  return out;
}

void engine_guests_scan(Engine *engine, EngineDir dir, guint32 after, EngineGuestFn each,
                        gpointer data) {
  for (guint32 id = after + 1;; id++) {
    g_auto(EngineEntry) entry = {0};
    g_mutex_lock(&engine->lock);
    guint32 last = engine->last_local;
    Local *local = local_of(engine, id);
    gboolean here = local && is_in(local, dir);
    if (here)
      export_guest_locked(engine, local, &entry);
    g_mutex_unlock(&engine->lock);
    if (id > last || (here && !each(id, &entry, data)))
      return;
  }
}

static gboolean count_folder(guint32 number, const EngineEntry *entry, gpointer data) {
  *(guint *) data += entry->local && entry->local->is_folder;
  return TRUE;
}

guint engine_local_folders(Engine *engine, EngineDir dir) {
  guint count = 0;
  engine_guests_scan(engine, dir, 0, count_folder, &count);
  return count;
}

/* ---- octets ---- */

static void copy_body_locked(Engine *engine, const Row *row, EngineMsg msg, int fd) {
  g_autofree char *octets = g_malloc(MOVED);
  for (guint64 at = 0; at < row->true_size; at += MOVED) {
    gsize count = (gsize) MIN(MOVED, row->true_size - at);
    if (row->written)
      g_assert(pread(engine->pack, octets, count, row->packed + (gint64) at) == (gssize) count);
    else
      fake_fill(octets, msg, at, count);
    g_assert(pwrite(fd, octets, count, (off_t) at) == (gssize) count);
  }
}

static EngineFile *open_local_locked(Engine *engine, Local *local, gboolean truncate) {
  EngineFile *file = g_new0(EngineFile, 1);
  *file = (EngineFile){engine, local};
  local->opens++;
  if (truncate && ftruncate(local->fd, 0) == 0)
    local->dirty = TRUE;
  return file;
}

static EngineFile *open_locked(Engine *engine, Change *change, GError **error) {
  Local *local = local_of(engine, change->local);
  Row *row = change->local ? NULL : fake_row_locked(engine, change->msg, NULL);
  if (row && row->kind == BODY_FAILS && !change->flag) {
    set(error, row->code);
    return NULL;
  }
  if (row && !(local = local_of(engine, row->edit))) {
    local = add_local_locked(engine, (EngineDir){0, 0}, NULL, FALSE);
    local->msg = change->msg;
    local->mtime = row->mtime * 1000000000;
    row->edit = local->id;
    if (!change->flag)
      copy_body_locked(engine, row, change->msg, local->fd);
  }
  if (!local) {
    set(error, EML_ERROR_STALE);
    return NULL;
  }
  return open_local_locked(engine, local, change->flag);
}

EngineFile *engine_file_create(Engine *engine, EngineDir dir, const char *name, GError **error) {
  Found found;
  g_autoptr(GError) missing = NULL;
  EngineFile *file = NULL;
  g_mutex_lock(&engine->lock);
  if (find_locked(engine, dir, name, &found, &missing))
    set(error, EML_ERROR_EXISTS);
  else if (!g_error_matches(missing, EML_ERROR, EML_ERROR_NOT_FOUND))
    g_propagate_error(error, g_steal_pointer(&missing));
  else if (g_str_has_suffix(name, ".eml") && name[0] != '.' && !dir.local
           && (!found.home || !found.home->space))
    set(error, EML_ERROR_FIXED);
  else
    file = open_local_locked(engine, add_local_locked(engine, dir, name, FALSE), FALSE);
  g_mutex_unlock(&engine->lock);
  return file;
}

void engine_file_close(EngineFile **file_inout) {
  EngineFile *file = g_steal_pointer(file_inout);
  Engine *engine = file->engine;
  Local *local = file->local;
  g_mutex_lock(&engine->lock);
  if (--local->opens == 0 && !local->name) {
    Row *row = fake_row_locked(engine, local->msg, NULL);
    if (row && row->edit == local->id)
      row->edit = 0;
    drop_local_locked(engine, local);
  }
  g_mutex_unlock(&engine->lock);
  g_free(file);
}

guint32 engine_file_local(const EngineFile *file) {
  return file->local->id;
}

gboolean engine_file_is_dirty(const EngineFile *file) {
  g_mutex_lock(&file->engine->lock);
  gboolean dirty = file->local->dirty;
  g_mutex_unlock(&file->engine->lock);
  return dirty;
}

static gboolean takes_failure(Engine *engine, const char *call, GError **error) {
  g_mutex_lock(&engine->lock);
  gboolean fails = g_strcmp0(engine->fail, call) == 0;
  if (fails)
    engine->fail = NULL;
  EmlError code = engine->fail_code;
  g_mutex_unlock(&engine->lock);
  if (fails)
    set(error, code);
  return fails;
}

static void touch_locked(Local *local) {
  local->mtime = g_get_real_time() * 1000;
  local->dirty = TRUE;
}

gboolean engine_file_write(EngineFile *file, const void *octets, gsize size, guint64 offset,
                           GError **error) {
  if (takes_failure(file->engine, "write", error))
    return FALSE;
  g_mutex_lock(&file->engine->lock);
  gboolean ok = pwrite(file->local->fd, octets, size, (off_t) offset) == (gssize) size;
  touch_locked(file->local);
  g_mutex_unlock(&file->engine->lock);
  return ok ? TRUE : set(error, EML_ERROR_NO_SPACE);
}

int engine_file_fd(EngineFile *file, GError **error) {
  return file->local->fd;
}

gboolean engine_file_truncate(EngineFile *file, guint64 size, GError **error) {
  g_mutex_lock(&file->engine->lock);
  gboolean ok = ftruncate(file->local->fd, (off_t) size) == 0;
  touch_locked(file->local);
  g_mutex_unlock(&file->engine->lock);
  return ok ? TRUE : set(error, EML_ERROR_NO_SPACE);
}

gboolean engine_file_clone(EngineFile *file, EngineMsg from) {
  Engine *engine = file->engine;
  g_mutex_lock(&engine->lock);
  Row *row = fake_row_locked(engine, from, NULL);
  gboolean ok = row && !row->edit && size_of(file->local) == 0;
  if (ok) {
    copy_body_locked(engine, row, from, file->local->fd);
    touch_locked(file->local);
    engine->clones++;
  }
  g_mutex_unlock(&engine->lock);
  return ok;
}

gboolean engine_file_sync(EngineFile *file, GError **error) {
  return !takes_failure(file->engine, "sync", error);
}

gboolean engine_local_set_mtime(Engine *engine, guint32 id, gint64 mtime, GError **error) {
  g_mutex_lock(&engine->lock);
  Local *local = local_of(engine, id);
  if (local)
    local->mtime = mtime;
  g_mutex_unlock(&engine->lock);
  return local ? TRUE : set(error, EML_ERROR_NOT_FOUND);
}

/* ---- changes ---- */

static void tell_name(Change *change, guint32 folder, const char *name) {
  EngineNews news = {.kind = ENGINE_NEWS_NAME, .folder = folder, .name = g_intern_string(name)};
  g_array_append_val(change->news, news);
}

/* The octets of @local become a message called @name, in the place of @before if there is one. */
static void upload_locked(Engine *engine, Change *change, Local *local, Folder *folder,
                          const char *name, Row *before) {
  guint64 size = size_of(local);
  guint flags = before ? before->flags : 0;
  if (before)
    fake_remove_row_locked(folder, before);
  Row *row = fake_add_row(folder, size);
  row->flags = flags;
  row->name = g_intern_string(name);
  row->mtime = local->mtime / 1000000000;
  row->written = TRUE;
  row->packed = engine->pack_end;
  engine->pack_end += (gint64) size;
  g_autofree char *octets = g_malloc(size + 1);
  g_assert(pread(local->fd, octets, size, 0) == (gssize) size);
  g_assert(pwrite(engine->pack, octets, size, row->packed) == (gssize) size);
  folder->mtime++;
  local->dirty = FALSE;
  EngineMsg msg = {folder->space, row->uid};
  if (local->opens) {
    row->edit = local->id;
    local->name = NULL;
    local->msg = msg;
  } else {
    drop_local_locked(engine, local);
  }
  tell_name(change, folder->id, name);
}

/* A letter stays under its name, the new octets of a message beside it. */
static void fail_upload_locked(Engine *engine, Change *change, Local *local) {
  Folder *folder;
  Row *row = fake_row_locked(engine, local->msg, &folder);
  local->dirty = FALSE;
  if (!row || local->name)
    return;
  g_autofree char *name = fake_row_name(row);
  g_autofree char *beside = g_strconcat(name, ".failed", NULL);
  row->edit = 0;
  local->msg = (EngineMsg){0, 0};
  local->folder = folder->id;
  local->name = g_intern_string(beside);
  tell_name(change, folder->id, beside);
}

static gboolean commit_locked(Engine *engine, Change *change, Local *local, GError **error) {
  Folder *folder = NULL;
  Row *row = fake_row_locked(engine, local->msg, &folder);
  engine->commits++;
  if (!local->dirty)
    return TRUE;
  gboolean letter = local->name && is_letter((EngineDir){local->folder, local->parent}, local->name);
  if (!row && !letter) {
    local->dirty = FALSE;
    return TRUE;
  }
  if (size_of(local) == 0)
    return TRUE;
  g_autofree char *name = row ? fake_row_name(row) : g_strdup(local->name);
  if (!row)
    folder = g_hash_table_lookup(engine->folders, GUINT_TO_POINTER(local->folder));
  upload_locked(engine, change, local, folder, name, row);
  return TRUE;
}

static void remove_locked(Engine *engine, const Found *found) {
  if (found->row) {
    Local *edit = local_of(engine, found->row->edit);
    if (edit)
      drop_local_locked(engine, edit);
    fake_remove_row_locked(found->home, found->row);
  } else if (found->local) {
    drop_local_locked(engine, found->local);
  }
}

static gboolean unlink_locked(Engine *engine, Change *change, GError **error) {
  Found found;
  if (!find_locked(engine, change->dir, change->name, &found, error))
    return FALSE;
  if (found.folder || (found.local && found.local->is_folder))
    return set(error, EML_ERROR_INVALID);
  remove_locked(engine, &found);
  return TRUE;
}

static gboolean is_empty_locked(Engine *engine, const Found *found) {
  EngineDir inside = {found->folder ? found->folder->id : 0, found->local ? found->local->id : 0};
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->locals);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (is_in(value, inside))
      return FALSE;
  g_hash_table_iter_init(&iter, engine->folders);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (found->folder && ((Folder *) value)->parent == inside.folder)
      return FALSE;
  return !found->folder || found->folder->rows->len == 0;
}

static gboolean rmdir_locked(Engine *engine, Change *change, GError **error) {
  Found found;
  if (!find_locked(engine, change->dir, change->name, &found, error))
    return FALSE;
  if (!is_empty_locked(engine, &found))
    return set(error, EML_ERROR_NOT_EMPTY);
  if (found.folder) {
    g_hash_table_remove(engine->spaces, GUINT_TO_POINTER(found.folder->space));
    g_hash_table_remove(engine->folders, GUINT_TO_POINTER(found.folder->id));
  } else {
    drop_local_locked(engine, found.local);
  }
  return TRUE;
}

static gboolean mkdir_locked(Engine *engine, Change *change, GError **error) {
  Found found;
  g_autoptr(GError) missing = NULL;
  if (find_locked(engine, change->dir, change->name, &found, &missing))
    return set(error, EML_ERROR_EXISTS);
  if (change->dir.local || change->name[0] == '.')
    add_local_locked(engine, change->dir, change->name, TRUE);
  else
    fake_add_folder_locked(engine, change->dir.folder, change->name, LISTED);
  return TRUE;
}

static gboolean move_local_locked(Engine *engine, Change *change, Local *local, Folder *home,
                                  GError **error) {
  if (!local->is_folder && !local->is_guest && is_letter(change->to, change->to_name)) {
    if (size_of(local) == 0)
      return set(error, EML_ERROR_INVALID);
    upload_locked(engine, change, local, home, change->to_name, NULL);
    Row *row = fake_row_by_name_locked(home, change->to_name);
    row->flags = change->keywords ? (guint) change->flags : row->flags;
    row->keywords = change->keywords ? g_intern_string(change->keywords) : NULL;
    return TRUE;
  }
  local->folder = change->to.folder;
  local->parent = change->to.local;
  local->name = g_intern_string(change->to_name);
  return TRUE;
}

static gboolean rename_locked(Engine *engine, Change *change, GError **error) {
  Found from, to;
  if (!find_locked(engine, change->dir, change->name, &from, error))
    return FALSE;
  gboolean taken = find_locked(engine, change->to, change->to_name, &to, NULL);
  if (taken && from.folder == to.folder && from.row == to.row && from.local == to.local)
    return TRUE;
  if (taken && change->flag)
    return set(error, EML_ERROR_EXISTS);
  if (from.row && !is_letter(change->to, change->to_name))
    return set(error, EML_ERROR_CROSSING);
  if (taken && (to.folder || (to.local && to.local->is_folder)))
    return set(error, EML_ERROR_NOT_EMPTY);
  guint32 uid = from.row ? from.row->uid : 0;
  if (taken)
    remove_locked(engine, &to);
  if (from.folder) {
    from.folder->parent = change->to.folder;
    g_free(from.folder->name);
    from.folder->name = g_strdup(change->to_name);
    return TRUE;
  }
  if (from.local)
    return move_local_locked(engine, change, from.local, to.home, error);
  Row *row = fake_find_row(from.home, uid);
  if (from.home == to.home) {
    row->name = g_intern_string(change->to_name);
    return TRUE;
  }
  row->hidden = TRUE;
  Local *guest = add_local_locked(engine, change->to, change->to_name, FALSE);
  guest->is_guest = TRUE;
  guest->msg = (EngineMsg){from.home->space, uid};
  return TRUE;
}

static gboolean set_flags_locked(Engine *engine, Change *change, GError **error) {
  Row *row = fake_row_locked(engine, change->msg, NULL);
  if (!row)
    return set(error, EML_ERROR_NOT_FOUND);
  if (change->flags >= 0)
    row->flags = (guint) change->flags;
  if (change->keywords)
    row->keywords = g_intern_string(change->keywords);
  row->ctime = g_get_real_time() / G_USEC_PER_SEC;
  return TRUE;
}

static gboolean truncate_locked(Engine *engine, Change *change, GError **error) {
  EngineFile *file = open_locked(engine, change, error);
  if (!file)
    return FALSE;
  Local *local = file->local;
  gboolean ok = ftruncate(local->fd, (off_t) change->size) == 0;
  touch_locked(local);
  ok = ok && commit_locked(engine, change, local, error);
  Row *row = fake_row_locked(engine, local->msg, NULL);
  if (--local->opens == 0 && !local->name) {
    if (row)
      row->edit = 0;
    drop_local_locked(engine, local);
  }
  g_free(file);
  return ok;
}

static gboolean run_locked(Engine *engine, Change *change, GError **error) {
  static const struct {
    const char *call;
    gboolean (*run)(Engine *engine, Change *change, GError **error);
  } calls[] = {
      {"unlink", unlink_locked}, {"rename", rename_locked}, {"mkdir", mkdir_locked},
      {"rmdir", rmdir_locked},   {"flags", set_flags_locked}, {"truncate", truncate_locked},
  };
  if (g_str_equal(change->call, "commit"))
    return commit_locked(engine, change, change->file->local, error);
  if (g_str_equal(change->call, "open")) {
    change->file = open_locked(engine, change, error);
    return change->file != NULL;
  }
  for (guint i = 0; i < G_N_ELEMENTS(calls); i++)
    if (g_str_equal(calls[i].call, change->call))
      return calls[i].run(engine, change, error);
  g_assert_not_reached();
}

void fake_finish_change(Engine *engine, Change *change, int code) {
  g_autoptr(GError) error = NULL;
  g_mutex_lock(&engine->lock);
  if (code < 0)
    run_locked(engine, change, &error);
  else
    set(&error, (EmlError) code);
  if (code >= 0 && g_str_equal(change->call, "commit")) {
    engine->commits++;
    fail_upload_locked(engine, change, change->file->local);
  }
  g_mutex_unlock(&engine->lock);
  if (change->news->len && engine->news)
    engine->news((EngineNews *) (gpointer) change->news->data, change->news->len,
                 engine->news_data);
  if (change->file_done)
    change->file_done(change->file, change->data, error);
  else
    change->done(change->data, error);
  g_array_unref(change->news);
  g_free(change->name);
  g_free(change->to_name);
  g_free(change->keywords);
  g_free(change);
}

static EngineWait submit(Engine *engine, const Change *template) {
  Change *change = g_memdup2(template, sizeof *template);
  change->news = g_array_new(FALSE, FALSE, sizeof(EngineNews));
  g_mutex_lock(&engine->lock);
  gboolean held = g_strcmp0(engine->hold, change->call) == 0;
  gboolean fails = g_strcmp0(engine->fail, change->call) == 0;
  int code = fails ? (int) engine->fail_code : -1;
  if (fails)
    engine->fail = NULL;
  EngineWait wait = held ? fake_add_wait_locked(engine, &(Wait){.change = change}) : 0;
  g_mutex_unlock(&engine->lock);
  if (!held)
    fake_finish_change(engine, change, code);
  return wait;
}

EngineWait engine_unlink(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                         gpointer data) {
  return submit(engine, &(Change){.call = "unlink", .dir = dir, .name = g_strdup(name),
                                  .done = done, .data = data});
}

EngineWait engine_rename(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                         const char *to_name, gboolean no_replace, EngineDone done, gpointer data) {
  return submit(engine, &(Change){.call = "rename", .dir = dir, .name = g_strdup(name), .to = to,
                                  .to_name = g_strdup(to_name), .flag = no_replace, .done = done,
                                  .data = data});
}

EngineWait engine_deliver(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                          const char *to_name, gboolean no_replace, guint flags,
                          const char *keywords, EngineDone done, gpointer data) {
  return submit(engine, &(Change){.call = "rename", .dir = dir, .name = g_strdup(name), .to = to,
                                  .to_name = g_strdup(to_name), .flag = no_replace,
                                  .flags = (gint) flags, .keywords = g_strdup(keywords),
                                  .done = done, .data = data});
}

EngineWait engine_mkdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data) {
  return submit(engine, &(Change){.call = "mkdir", .dir = dir, .name = g_strdup(name),
                                  .done = done, .data = data});
}

EngineWait engine_rmdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data) {
  return submit(engine, &(Change){.call = "rmdir", .dir = dir, .name = g_strdup(name),
                                  .done = done, .data = data});
}

EngineWait engine_set_flags(Engine *engine, EngineMsg msg, guint32 local, gint flags,
                            const char *keywords, EngineDone done, gpointer data) {
  return submit(engine, &(Change){.call = "flags", .msg = msg, .local = local, .flags = flags,
                                  .keywords = g_strdup(keywords), .done = done, .data = data});
}

EngineWait engine_file_open(Engine *engine, EngineMsg msg, guint32 local, gboolean truncate,
                            EngineFileDone done, gpointer data) {
  return submit(engine, &(Change){.call = "open", .msg = msg, .local = local, .flag = truncate,
                                  .file_done = done, .data = data});
}

EngineWait engine_file_commit(EngineFile *file, EngineDone done, gpointer data) {
  return submit(file->engine, &(Change){.call = "commit", .file = file, .done = done, .data = data});
}

EngineWait engine_truncate(Engine *engine, EngineMsg msg, guint32 local, guint64 size,
                           EngineDone done, gpointer data) {
  return submit(engine, &(Change){.call = "truncate", .msg = msg, .local = local, .size = size,
                                  .done = done, .data = data});
}

void fake_settle(Engine *engine) {
  g_autoptr(GArray) news = g_array_new(FALSE, FALSE, sizeof(EngineNews));
  g_mutex_lock(&engine->lock);
  for (guint32 id = 1; id <= engine->last_local; id++) {
    Local *guest = local_of(engine, id);
    Folder *from, *to;
    Row *row = guest && guest->is_guest ? fake_row_locked(engine, guest->msg, &from) : NULL;
    if (!row)
      continue;
    to = g_hash_table_lookup(engine->folders, GUINT_TO_POINTER(guest->folder));
    Row *arrived = fake_add_row(to, row->true_size);
    arrived->name = guest->name;
    arrived->flags = row->flags;
    arrived->keywords = row->keywords;
    arrived->mtime = row->mtime;
    arrived->written = TRUE;
    arrived->packed = engine->pack_end;
    engine->pack_end += (gint64) row->true_size;
    int fd = memfd_create("moved", MFD_CLOEXEC);
    copy_body_locked(engine, row, guest->msg, fd);
    g_autofree char *octets = g_malloc(row->true_size + 1);
    g_assert(pread(fd, octets, row->true_size, 0) == (gssize) row->true_size);
    g_assert(pwrite(engine->pack, octets, row->true_size, arrived->packed)
             == (gssize) row->true_size);
    close(fd);
    EngineNews name = {.kind = ENGINE_NEWS_NAME, .folder = to->id, .name = guest->name};
    g_array_append_val(news, name);
    fake_remove_row_locked(from, row);
    drop_local_locked(engine, guest);
  }
  g_mutex_unlock(&engine->lock);
  if (news->len)
    engine->news((EngineNews *) (gpointer) news->data, news->len, engine->news_data);
}

void engine_changes_describe(Engine *engine, GString *text) {
  g_mutex_lock(&engine->lock);
  g_string_append_printf(text, "local: %u\n", g_hash_table_size(engine->locals));
  g_mutex_unlock(&engine->lock);
}
