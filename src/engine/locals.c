/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Locals that are written: letters on their way to the server, edited messages, scratch. Here: their
 * octets and handles. locals-private.h tells how it is organized.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/locals-private.h"

#define COPY_BYTES (1024 * 1024)
#define NAME_BYTES 255

Locals *locals_new(Engine *engine) {
  Locals *locals = g_new0(Locals, 1);
  locals->engine = engine;
  g_mutex_init(&locals->lock);
  locals->by_local = g_hash_table_new(NULL, NULL);
  locals->by_msg = g_hash_table_new_full(engine_msg_hash, engine_msg_equal, g_free, NULL);
  locals->data = g_hash_table_new(NULL, NULL);
  return locals;
}

static void file_free(File *file) {
  autofd_clear(&file->fd);
  g_mutex_clear(&file->lock);
  g_free(file->name);
  g_free(file->keywords);
  g_free(file);
}

void locals_free(Locals *locals) {
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, locals->by_local);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    file_free(value);
  g_hash_table_unref(locals->by_local);
  g_hash_table_unref(locals->by_msg);
  g_hash_table_unref(locals->data);
  g_mutex_clear(&locals->lock);
  g_free(locals);
}

/* ---- names and places ---- */

gboolean locals_is_letter(const char *name) {
  return name[0] != '.' && g_str_has_suffix(name, ".eml");
}

char *locals_folder_path(Engine *engine, guint32 id) {
  char *path = g_strdup("");
  while (id) {
    g_autoptr(StoreFolder) folder = store_folder_get(engine->store, id, NULL);
    if (!folder) {
      g_free(path);
      return NULL;
    }
    char *longer = *path ? g_strdup_printf("%s/%s", folder->name, path) : g_strdup(folder->name);
    g_free(path);
    path = longer;
    id = folder->parent;
  }
  return path;
}

guint32 locals_folder_at(Engine *engine, const char *path) {
  guint32 id = 0;
  g_auto(GStrv) names = g_strsplit(path, "/", -1);
  for (char **name = names; *name; name++) {
    if (!**name)
      continue;
    g_autoptr(StoreFolder) folder = store_folder_by_name(engine->store, id, *name, NULL);
    if (!folder)
      return G_MAXUINT32;
    id = folder->id;
  }
  return id;
}

guint32 locals_data_number(Locals *locals, guint32 shown) {
  g_mutex_lock(&locals->lock);
  guint32 number = GPOINTER_TO_UINT(g_hash_table_lookup(locals->data, GUINT_TO_POINTER(shown)));
  g_mutex_unlock(&locals->lock);
  return number ? number : shown;
}

/* The row of the local file that @entry shows. */
Local *locals_row(Locals *locals, const OverlayEntry *entry, LocalState state, const char *reason) {
  Local *row = g_new0(Local, 1);
  *row = (Local){.id = locals_data_number(locals, entry->local->id),
                 .parent = entry->dir.local,
                 .folder = entry->dir.local ? NULL
                                            : locals_folder_path(locals->engine, entry->dir.folder),
                 .name = g_strdup(entry->name),
                 .is_folder = entry->local->is_folder,
                 .state = state,
                 .size = entry->local->size,
                 .mtime = entry->local->mtime,
                 .ctime = entry->local->ctime,
                 .reason = g_strdup(reason)};
  return row;
}

/* ---- at start ---- */

gboolean locals_load(Locals *locals, GError **error) {
  Engine *engine = locals->engine;
  g_autoptr(GPtrArray) rows = journal_locals(engine->journal, error);
  if (!rows)
    return FALSE;
  for (guint i = 0; i < rows->len; i++) {
    const Local *row = g_ptr_array_index(rows, i);
    guint32 folder = row->parent ? 0 : locals_folder_at(engine, row->folder ? row->folder : "");
    if (folder == G_MAXUINT32) {
      log_warning("%s/%s has lost its folder: it is shown at the top", row->folder, row->name);
      folder = 0;
    }
    EngineLocal local = {.id = row->id,
                         .folder = folder,
                         .parent = row->parent,
                         .name = row->name,
                         .is_folder = row->is_folder,
                         .size = row->size,
                         .mtime = row->mtime,
                         .ctime = row->ctime};
    overlay_add_local(engine->overlay, &local, 0);
  }
  return TRUE;
}

/* ---- the table ---- */

/* Takes over @fd. */
File *locals_add_locked(Locals *locals, guint32 shown, guint32 data, EngineMsg base, int fd) {
  File *file = g_new0(File, 1);
  file->locals = locals;
  g_mutex_init(&file->lock);
  file->shown = shown;
  file->data = data;
  file->base = base;
  file->fd = fd;
  g_hash_table_insert(locals->by_local, GUINT_TO_POINTER(shown), file);
  if (base.uid) {
    g_autoptr(StoreMessage) message =
        store_message_get(locals->engine->store, (MsgId){base.space, base.uid}, NULL);
    file->name = g_strdup(message ? message->name : "message.eml");
    g_hash_table_replace(locals->by_msg, g_memdup2(&base, sizeof base), file);
  }
  return file;
}

File *locals_find_locked(Locals *locals, EngineMsg msg, guint32 shown) {
  return shown ? g_hash_table_lookup(locals->by_local, GUINT_TO_POINTER(shown))
               : g_hash_table_lookup(locals->by_msg, &msg);
}

static EngineFile *handle_locked(File *file) {
  EngineFile *handle = g_new(EngineFile, 1);
  handle->file = file;
  file->refs++;
  return handle;
}

/* Nobody needs it any more: out of the tables, its data file too unless somebody else has that. */
void locals_retire_locked(File *file) {
  Locals *locals = file->locals;
  if (file->refs || file->pending)
    return;
  g_hash_table_remove(locals->by_local, GUINT_TO_POINTER(file->shown));
  if (file->base.uid && g_hash_table_lookup(locals->by_msg, &file->base) == file)
    g_hash_table_remove(locals->by_msg, &file->base);
  gboolean edit = file->base.uid != 0;
  if (edit && file->dirty)
    overlay_unreplace(locals->engine->overlay, file->base);
  if (!file->sealed && (edit || file->unlinked))
    journal_local_remove(locals->engine->journal, file->data, NULL);
  file_free(file);
}

void file_set_data_locked(File *file, guint32 data, int fd) {
  autofd_clear(&file->fd);
  file->fd = fd;
  file->data = data;
  g_mutex_lock(&file->locals->lock);
  g_hash_table_replace(file->locals->data, GUINT_TO_POINTER(file->shown), GUINT_TO_POINTER(data));
  g_mutex_unlock(&file->locals->lock);
}

/* ---- opening ---- */

EngineFile *engine_file_create(Engine *engine, EngineDir dir, const char *name, GError **error) {
  Locals *locals = engine->locals;
  gboolean letter = locals_is_letter(name) && !dir.local;
  if (strlen(name) > NAME_BYTES) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_INVALID, "the name is too long");
    return NULL;
  }
  g_auto(EngineEntry) there = {0};
  g_autoptr(GError) absent = NULL;
  if (engine_entry_get(engine, dir, name, &there, &absent)) {
    g_set_error(error, EML_ERROR, EML_ERROR_EXISTS, "%s exists", name);
    return NULL;
  }
  if (!g_error_matches(absent, EML_ERROR, EML_ERROR_NOT_FOUND)) {
    g_propagate_error(error, g_steal_pointer(&absent));
    return NULL;
  }
  if (letter) {
    g_autoptr(StoreFolder) folder =
        dir.folder ? store_folder_get(engine->store, dir.folder, error) : NULL;
    if (dir.folder && !folder)
      return NULL;
    if (!folder || !folder->mailbox || !folder->selectable) {
      g_set_error(error, EML_ERROR, EML_ERROR_FIXED, "%s cannot hold messages",
                  folder ? folder->name : "the top");
      return NULL;
    }
  }
  guint32 number = journal_local_number(engine->journal);
  autofd int fd = number ? journal_local_fd(engine->journal, number, TRUE, error) : -1;
  if (!number)
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "numbers of local files are used up");
  if (fd < 0)
    return NULL;
  EngineLocal local = {.id = number,
                       .folder = dir.local ? 0 : dir.folder,
                       .parent = dir.local,
                       .name = (char *) name,
                       .mtime = (g_get_real_time() * 1000),
                       .ctime = g_get_real_time() / G_USEC_PER_SEC};
  overlay_add_local(engine->overlay, &local, 0);
  if (!letter) {
    g_autoptr(OverlayEntry) entry = overlay_get(engine->overlay, overlay_local_number(number));
    g_autoptr(Local) row = locals_row(locals, entry, LOCAL_SCRATCH, NULL);
    if (!journal_local_put(engine->journal, row, error)) {
      overlay_remove(engine->overlay, overlay_local_number(number));
      journal_local_remove(engine->journal, number, NULL);
      return NULL;
    }
  }
  g_mutex_lock(&locals->lock);
  File *file = locals_add_locked(locals, number, number, (EngineMsg){0, 0}, fd);
  fd = -1;
  file->mtime = local.mtime;
  EngineFile *handle = handle_locked(file);
  g_mutex_unlock(&locals->lock);
  return handle;
}

/* Fetches the octets of a message into a File, piece by piece. */
typedef struct {
  Engine *engine;
  EngineMsg msg;      /* whose octets */
  guint32 shown;      /* a pending copy, 0: @msg itself is opened */
  EngineWait wait;    /* WAIT_FILE */
  EngineBody *body;
  guint32 number;
  int fd;
  guint64 done;
} Fetch;

static void fetch_end(Fetch *fetch, const GError *error) {
  Engine *engine = fetch->engine;
  Locals *locals = engine->locals;
  EngineFile *handle = NULL;
  WaitCall call;
  gboolean wanted = waits_take(engine->waits, fetch->wait, &call);
  if (wanted && !error) {
    EngineMsg base = fetch->shown ? (EngineMsg){0, 0} : fetch->msg;
    g_mutex_lock(&locals->lock);
    File *file = locals_find_locked(locals, fetch->msg, fetch->shown); /* somebody was quicker */
    if (!file) {
      guint32 shown = fetch->shown ? fetch->shown : fetch->number;
      file = locals_add_locked(locals, shown, fetch->number, base, fetch->fd);
      file->size = fetch->done;
      file->mtime = (g_get_real_time() * 1000);
      if (fetch->shown)
        g_hash_table_replace(locals->data, GUINT_TO_POINTER(shown), GUINT_TO_POINTER(fetch->number));
      fetch->fd = -1;
      fetch->number = 0;
    }
    handle = handle_locked(file);
    g_mutex_unlock(&locals->lock);
  }
  if (fetch->number) {
    autofd_clear(&fetch->fd);
    journal_local_remove(engine->journal, fetch->number, NULL);
  }
  engine_body_close(&fetch->body);
  if (wanted)
    call.done.file(handle, call.data, error);
  g_free(fetch);
}

static void fetch_more(Fetch *fetch);

static void on_piece(int fd, gint64 offset, gsize size, gpointer data, const GError *failure) {
  Fetch *fetch = data;
  if (failure) {
    fetch_end(fetch, failure);
    return;
  }
  g_autoptr(GError) error = NULL;
  g_autofree char *buffer = g_malloc(size + 1);
  for (gsize copied = 0; copied < size && !error;) {
    gssize got = pread(fd, buffer, size - copied, offset + (gint64) copied);
    gssize put = got > 0 ? pwrite(fetch->fd, buffer, (gsize) got, (off_t) fetch->done) : got;
    if (put <= 0) {
      eml_error_set_errno(&error, EML_ERROR_FAILED, put ? errno : EIO, "a message cannot be copied");
    } else {
      copied += (gsize) put;
      fetch->done += (guint64) put;
    }
  }
  if (error || !size)
    fetch_end(fetch, error);
  else
    fetch_more(fetch);
}

static void fetch_more(Fetch *fetch) {
  waits_touch(fetch->engine->waits, fetch->wait);
  if (fetch->done >= engine_body_size(fetch->body))
    fetch_end(fetch, NULL);
  else
    engine_body_read(fetch->body, fetch->done, COPY_BYTES, on_piece, fetch);
}

static void on_body(EngineBody *body, gpointer data, const GError *failure) {
  Fetch *fetch = data;
  g_autoptr(GError) error = failure ? g_error_copy(failure) : NULL;
  fetch->body = body;
  if (!error) {
    fetch->number = journal_local_number(fetch->engine->journal);
    fetch->fd = journal_local_fd(fetch->engine->journal, fetch->number, TRUE, &error);
  }
  if (error)
    fetch_end(fetch, error);
  else
    fetch_more(fetch);
}

static EngineWait fetch_begin(Engine *engine, EngineMsg msg, guint32 shown, EngineFileDone done,
                              gpointer data) {
  WaitCall call = {.kind = WAIT_FILE, .done.file = done, .data = data};
  Fetch *fetch = g_new(Fetch, 1);
  *fetch = (Fetch){.engine = engine, .msg = msg, .shown = shown, .fd = -1};
  EngineWait wait = fetch->wait = waits_add(engine->waits, &call);
  engine_body_open(engine, msg, on_body, fetch);
  return wait;
}

/* Opens the data file of something that is not open. NULL without error: its octets have to be
 * fetched, from *@from_out. */
static File *open_locked(Locals *locals, EngineMsg msg, guint32 shown, gboolean truncate,
                         EngineMsg *from_out, GError **error) {
  Engine *engine = locals->engine;
  *from_out = msg;
  gboolean sealed = FALSE;
  OverlayReplaced replaced;
  g_autoptr(OverlayEntry) entry = NULL;
  if (shown) {
    entry = overlay_get(engine->overlay, overlay_local_number(shown));
    if (!entry || entry->local->is_folder) {
      g_set_error_literal(error, EML_ERROR, entry ? EML_ERROR_INVALID : EML_ERROR_STALE,
                          entry ? "it is a folder" : "the file is gone");
      return NULL;
    }
    sealed = entry->change != 0;
  } else if (overlay_get_replaced(engine->overlay, msg, &replaced)) {
    sealed = TRUE; /* its upload is on its way */
  } else if (!truncate) {
    return NULL;
  }
  guint32 known = shown ? shown : sealed ? replaced.local : 0;
  guint32 other = GPOINTER_TO_UINT(g_hash_table_lookup(locals->data, GUINT_TO_POINTER(known)));
  guint32 data = other ? other : known;
  gboolean fresh = truncate || !data;
  guint32 number = fresh && (sealed || !data) ? journal_local_number(engine->journal) : data;
  autofd int fd = journal_local_fd(engine->journal, number, number != data, error);
  struct stat status;
  if (fd < 0)
    return NULL;
  if ((truncate && ftruncate(fd, 0) != 0) || fstat(fd, &status) != 0) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be opened");
    return NULL;
  }
  File *file = locals_add_locked(locals, known ? known : number, number, msg, fd);
  fd = -1;
  file->size = (guint64) status.st_size;
  file->mtime = entry && !truncate ? entry->local->mtime : (g_get_real_time() * 1000);
  file->sealed = sealed && !fresh;
  if (known && number != known)
    g_hash_table_replace(locals->data, GUINT_TO_POINTER(known), GUINT_TO_POINTER(number));
  return file;
}

/* What the kernel and others see of its size and time. */
void file_show_locked(File *file) {
  Overlay *overlay = file->locals->engine->overlay;
  OverlayReplaced before = {0};
  if (!file->base.uid)
    overlay_set_size(overlay, file->shown, file->size, file->mtime);
  else if (file->dirty) {
    overlay_get_replaced(overlay, file->base, &before);
    overlay_replace(overlay, file->base, file->shown, file->size, file->mtime, before.change);
  }
}

EngineWait engine_file_open(Engine *engine, EngineMsg msg, guint32 local, gboolean truncate,
                            EngineFileDone done, gpointer data) {
  Locals *locals = engine->locals;
  g_autoptr(GError) error = NULL;
  if (local && overlay_resolve_local(engine->overlay, local, &msg))
    local = 0;
  if (!local)
    msg = overlay_resolve(engine->overlay, msg);
  else
    msg = (EngineMsg){0, 0};
  EngineMsg from = {0, 0};
  EngineFile *handle = NULL;
  g_mutex_lock(&locals->lock);
  File *file = locals_find_locked(locals, msg, local);
  gboolean found = file != NULL;
  if (!file)
    file = open_locked(locals, msg, local, truncate, &from, &error);
  if (file)
    handle = handle_locked(file);
  g_mutex_unlock(&locals->lock);
  if (!file && !error)
    return fetch_begin(engine, from, 0, done, data);
  if (file && found && file->fd < 0 && !truncate) {
    from = file->clone;
    engine_file_close(&handle);
    return fetch_begin(engine, from, local, done, data);
  }
  if (file && truncate && (!found || engine_file_truncate(handle, 0, &error))) {
    g_mutex_lock(&file->lock);
    file->dirty = TRUE;
    file_show_locked(file);
    g_mutex_unlock(&file->lock);
  }
  if (error)
    engine_file_close(&handle);
  done(handle, data, error);
  return 0;
}

void engine_file_close(EngineFile **handle) {
  EngineFile *closing = g_steal_pointer(handle);
  if (!closing)
    return;
  File *file = closing->file;
  Locals *locals = file->locals;
  EngineMsg given_up = {0, 0};
  g_mutex_lock(&locals->lock);
  file->refs--;
  if (!file->refs && !file->pending && file->dirty)
    given_up = file->base; /* truncated, and then nothing was written */
  locals_retire_locked(file);
  g_mutex_unlock(&locals->lock);
  if (given_up.uid)
    engine_tell_size(locals->engine, given_up);
  g_free(closing);
}

guint32 engine_file_local(const EngineFile *file) {
  return file->file->shown;
}

gboolean engine_file_is_dirty(const EngineFile *handle) {
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  gboolean dirty = file->dirty && !file->unlinked;
  g_mutex_unlock(&file->lock);
  return dirty;
}

/* ---- octets ---- */

static gboolean copy_octets(int from, int to, guint64 size, GError **error) {
  g_autofree char *buffer = g_malloc(COPY_BYTES);
  for (guint64 done = 0; done < size;) {
    gssize got = pread(from, buffer, (gsize) MIN(size - done, COPY_BYTES), (off_t) done);
    if (got == 0)
      return TRUE; /* a hole at the end */
    gssize put = got > 0 ? pwrite(to, buffer, (gsize) got, (off_t) done) : -1;
    if (put <= 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be copied");
    done += (guint64) put;
  }
  return TRUE;
}

/* Gives it a data file of its own again; with the octets when @keep. */
static gboolean unseal_locked(File *file, gboolean keep, GError **error) {
  Engine *engine = file->locals->engine;
  if (!file->sealed && file->fd >= 0)
    return TRUE;
  autofd int source = -1;
  gint64 offset = 0;
  g_autoptr(StoreBody) body = NULL;
  if (keep && file->fd < 0) {
    body = store_body_get(engine->store, (MsgId){file->clone.space, file->clone.uid}, error);
    if (!body) {
      g_set_error_literal(error, EML_ERROR, EML_ERROR_CROSSING, "a copy cannot be written to yet");
      return FALSE;
    }
    offset = body->offset;
  }
  guint32 number = journal_local_number(engine->journal);
  autofd int fd = journal_local_fd(engine->journal, number, TRUE, error);
  if (fd < 0)
    return FALSE;
  gboolean ok = TRUE;
  if (body) {
    g_autofree char *octets = g_malloc(body->length + 1);
    gssize got = pread(body->fd, octets, body->length, offset);
    ok = got == (gssize) body->length && pwrite(fd, octets, (gsize) got, 0) == got;
    if (!ok)
      eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be copied");
  } else if (keep) {
    ok = copy_octets(file->fd, fd, file->size, error);
  }
  if (!ok) {
    journal_local_remove(engine->journal, number, NULL);
    return FALSE;
  }
  file_set_data_locked(file, number, fd);
  fd = -1;
  file->sealed = FALSE;
  file->clone = (EngineMsg){0, 0};
  return TRUE;
}

gboolean engine_file_write(EngineFile *handle, const void *octets, gsize size, guint64 offset,
                           GError **error) {
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  gboolean ok = unseal_locked(file, TRUE, error);
  for (gsize done = 0; ok && done < size;) {
    gssize put = pwrite(file->fd, (const char *) octets + done, size - done, (off_t) (offset + done));
    if (put > 0)
      done += (gsize) put;
    else if (errno != EINTR)
      ok = eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be written");
  }
  if (ok) {
    file->size = MAX(file->size, offset + size);
    file->mtime = (g_get_real_time() * 1000);
    file->dirty = TRUE;
    file_show_locked(file);
  }
  g_mutex_unlock(&file->lock);
  return ok;
}

int engine_file_fd(EngineFile *handle, GError **error) {
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  int fd = file->fd >= 0 || unseal_locked(file, TRUE, error) ? file->fd : -1;
  g_mutex_unlock(&file->lock);
  return fd;
}

gboolean engine_file_truncate(EngineFile *handle, guint64 size, GError **error) {
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  gboolean ok = unseal_locked(file, size > 0, error);
  if (ok && ftruncate(file->fd, (off_t) size) != 0)
    ok = eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be truncated");
  if (ok) {
    file->dirty |= file->size != size || file->base.uid != 0;
    file->size = size;
    file->mtime = (g_get_real_time() * 1000);
    file_show_locked(file);
  }
  g_mutex_unlock(&file->lock);
  return ok;
}

gboolean engine_file_clone(EngineFile *handle, EngineMsg from) {
  File *file = handle->file;
  Engine *engine = file->locals->engine;
  from = overlay_resolve(engine->overlay, from);
  g_autoptr(StoreMessage) message =
      store_message_get(engine->store, (MsgId){from.space, from.uid}, NULL);
  g_autoptr(OverlayEntry) entry = overlay_get(engine->overlay, overlay_local_number(file->shown));
  gboolean able = message && entry && !entry->dir.local && locals_is_letter(entry->name) &&
                  !overlay_get_replaced(engine->overlay, from, NULL) &&
                  !overlay_is_hidden(engine->overlay, from);
  g_mutex_lock(&file->lock);
  able = able && !file->size && !file->dirty && !file->sealed && !file->base.uid;
  if (able) {
    autofd_clear(&file->fd);
    file->fd = -1;
    file->clone = from;
    file->size = message->size;
    file->mtime = message->internal_date * 1000000000;
    file->dirty = TRUE;
    file_show_locked(file);
  }
  g_mutex_unlock(&file->lock);
  return able;
}

gboolean engine_file_sync(EngineFile *handle, GError **error) {
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  int fd = file->fd;
  gboolean ok = fd < 0 || fdatasync(fd) == 0 ||
                eml_error_set_errno(error, EML_ERROR_FAILED, errno, "a local file cannot be synced");
  ok = ok && (fd < 0 || commit_unfinished_locked(file, error));
  g_mutex_unlock(&file->lock);
  return ok && journal_sync(file->locals->engine->journal, error);
}

/* ---- times ---- */

gboolean engine_local_set_mtime(Engine *engine, guint32 id, gint64 mtime, GError **error) {
  Locals *locals = engine->locals;
  g_autoptr(OverlayEntry) entry = overlay_get(engine->overlay, overlay_local_number(id));
  EngineMsg became;
  if (overlay_resolve_local(engine->overlay, id, &became)) {
    g_autoptr(StoreMessage) message =
        store_message_get(engine->store, (MsgId){became.space, became.uid}, error);
    if (message && message->internal_date == mtime / 1000000000)
      return TRUE;
    if (message)
      g_set_error_literal(error, EML_ERROR, EML_ERROR_FIXED,
                          "the date of a message cannot be changed any more");
    return FALSE;
  }
  g_mutex_lock(&locals->lock);
  File *file = locals_find_locked(locals, (EngineMsg){0, 0}, id);
  if (file)
    file->refs++;
  g_mutex_unlock(&locals->lock);
  gboolean ok = TRUE;
  if (file) {
    g_mutex_lock(&file->lock);
    ok = !file->sealed || file->mtime / 1000000000 == mtime / 1000000000;
    if (ok) {
      file->mtime = mtime;
      file_show_locked(file);
    }
    g_mutex_unlock(&file->lock);
    EngineFile *handle = g_new(EngineFile, 1);
    handle->file = file;
    engine_file_close(&handle);
  } else if (entry && !entry->change) {
    overlay_set_size(engine->overlay, id, entry->local->size, mtime);
  } else {
    ok = entry && entry->local->mtime / 1000000000 == mtime / 1000000000;
  }
  if (!ok) {
    g_set_error_literal(error, EML_ERROR, entry ? EML_ERROR_FIXED : EML_ERROR_STALE,
                        entry ? "the message is on its way already" : "the file is gone");
    return FALSE;
  }
  if (!entry || entry->change || (!entry->dir.local && locals_is_letter(entry->name) && file))
    return TRUE; /* committing writes it */
  entry->local->mtime = mtime;
  gboolean letter = !entry->dir.local && locals_is_letter(entry->name);
  g_autoptr(Local) row = locals_row(locals, entry, letter ? LOCAL_FAILED : LOCAL_SCRATCH, NULL);
  return journal_local_put(engine->journal, row, error);
}
