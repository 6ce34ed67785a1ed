/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Making messages of files: checking a letter, handing it to the journal, and what becomes of the
 * file when the upload is settled.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/locals-private.h"
#include "mime/letter.h"

/* A commit that has to wait for an earlier one of the same file. */
typedef struct {
  File *file; /* referenced */
  EngineWait wait;
} Commit;

static void commit_file(File *file, EngineWait wait);

static File *file_ref(File *file) {
  g_mutex_lock(&file->locals->lock);
  file->refs++;
  g_mutex_unlock(&file->locals->lock);
  return file;
}

static void file_unref(File *file) {
  EngineFile *handle = g_new(EngineFile, 1);
  handle->file = file;
  engine_file_close(&handle);
}

/* The open file of the local file @shown, or else of @msg; NULL: there is none. */
static File *find_ref(Locals *locals, guint32 shown, EngineMsg msg) {
  g_mutex_lock(&locals->lock);
  File *file = locals_find_locked(locals, (EngineMsg){0, 0}, shown);
  if (!file && msg.uid)
    file = locals_find_locked(locals, msg, 0);
  if (file)
    file->refs++;
  g_mutex_unlock(&locals->lock);
  return file;
}

static void commit_again(gpointer data) {
  Commit *commit = data;
  commit_file(commit->file, commit->wait);
  file_unref(commit->file);
  g_free(commit);
}

static void tell(Engine *engine, EngineNewsKind kind, guint32 folder, EngineMsg msg, guint32 local,
                 const char *name) {
  EngineNews news = {.kind = kind, .folder = folder, .msg = msg, .local = local, .name = name};
  engine_emit(engine, &news, 1);
}

/* ---- what could not be uploaded ---- */

/* A name for the octets of an edit that failed: NAME.failed, NAME.failed~2, … */
static char *failed_name(Engine *engine, EngineDir dir, const char *name) {
  char *failed = g_strdup_printf("%.*s.failed", 240, name);
  for (guint n = 2;; n++) {
    g_autoptr(OverlayEntry) there = overlay_find(engine->overlay, dir, failed);
    if (!there)
      return failed;
    g_free(failed);
    failed = g_strdup_printf("%.*s.failed~%u", 240, name, n);
  }
}

/* Keeps the octets of data file @data under @name in @folder; @edit: beside the message of that name. */
static void keep(Engine *engine, guint32 folder, const char *name, gboolean edit, guint32 data,
                 guint64 size, gint64 mtime, const GError *why) {
  EngineDir dir = {folder, 0};
  g_autofree char *beside = edit ? failed_name(engine, dir, name) : NULL;
  g_autofree char *path = locals_folder_path(engine, folder);
  Local row = {.id = data,
               .folder = path ? path : (char *) "",
               .name = beside ? beside : (char *) name,
               .state = LOCAL_FAILED,
               .size = size,
               .mtime = mtime,
               .ctime = g_get_real_time() / G_USEC_PER_SEC,
               .reason = why->message};
  g_autoptr(GError) error = NULL;
  if (!journal_local_put(engine->journal, &row, &error))
    log_error("%s/%s could not be kept: %s", path, name, error->message);
  log_warning("%s/%s was not stored: %s", path ? path : "?", name, why->message);
  if (!edit)
    return;
  EngineLocal local = {.id = data,
                       .folder = folder,
                       .name = beside,
                       .size = size,
                       .mtime = mtime,
                       .ctime = row.ctime};
  overlay_add_local(engine->overlay, &local, 0);
  tell(engine, ENGINE_NEWS_NAME, folder, (EngineMsg){0, 0}, 0, beside);
}

void locals_keep(Locals *locals, const ChangeItem *item, const GError *error) {
  const Change *change = item->change;
  if (change->kind != CHANGE_UPLOAD)
    return;
  g_autoptr(OverlayEntry) shown = overlay_get(locals->engine->overlay, overlay_local_number(item->shown));
  keep(locals->engine, item->target, change->name, !shown, change->local, change->size,
       change->date * 1000000000, error);
}

#define FAILED_SHOWN 10 /* in the status text */
#define OLD_S (7 * 86400)  /* scratch that nobody touched for so long was probably left behind */

void locals_describe(Locals *locals, GString *text) {
  g_autoptr(GPtrArray) rows = journal_locals(locals->engine->journal, NULL);
  guint scratch = 0, old = 0, failed = 0;
  guint64 bytes = 0;
  gint64 now = g_get_real_time() / G_USEC_PER_SEC;
  for (guint i = 0; rows && i < rows->len; i++) {
    const Local *row = g_ptr_array_index(rows, i);
    if (row->state == LOCAL_FAILED && failed++ < FAILED_SHOWN)
      g_string_append_printf(text, "not stored: %s/%s: %s\n", row->folder ? row->folder : "",
                             row->name, row->reason ? row->reason : "");
    if (row->state != LOCAL_SCRATCH || row->is_folder)
      continue;
    scratch++;
    bytes += row->size;
    old += now - row->ctime > OLD_S;
  }
  if (failed > FAILED_SHOWN)
    g_string_append_printf(text, "not stored: and %u more\n", failed - FAILED_SHOWN);
  if (scratch)
    g_string_append_printf(text, "scratch: %u files, %" G_GUINT64_FORMAT " bytes, on this machine only",
                           scratch, bytes);
  if (old)
    g_string_append_printf(text, "; %u not changed for a week", old);
  if (scratch)
    g_string_append_c(text, '\n');
}

/* ---- settled ---- */

/* From the table under what it was to the one under what it is. */
static void become_locked(File *file, EngineMsg became, const char *name) {
  Locals *locals = file->locals;
  if (file->base.uid)
    g_hash_table_remove(locals->by_msg, &file->base);
  file->base = became;
  file->replaces = (EngineMsg){0, 0};
  g_free(file->name);
  file->name = g_strdup(name);
  g_hash_table_replace(locals->by_msg, g_memdup2(&became, sizeof became), file);
}

void locals_uploaded(Locals *locals, const ChangeItem *item, EngineMsg became, const GError *error) {
  Engine *engine = locals->engine;
  Overlay *overlay = engine->overlay;
  guint32 number = overlay_local_number(item->shown);
  g_autoptr(OverlayEntry) shown = overlay_get(overlay, number);
  if (item->msg.uid && item->change->kind == CHANGE_UPLOAD) {
    overlay_unreplace(overlay, item->msg);
    if (error)
      overlay_unhide(overlay, item->msg);
    else
      overlay_left(overlay, item->msg);
  }
  gboolean stays = error && item->change->kind == CHANGE_UPLOAD;
  if (shown && stays)
    overlay_set_change(overlay, number, 0);
  else if (shown)
    overlay_remove(overlay, number);
  if (became.uid) {
    overlay_local_became(overlay, item->shown, became);
    if (item->msg.uid && !shown)
      overlay_became(overlay, item->msg, became);
  }
  gboolean edit = item->change->kind == CHANGE_UPLOAD && !shown;
  File *file = find_ref(locals, item->shown, edit ? item->msg : (EngineMsg){0, 0});
  if (file)
    g_mutex_lock(&file->lock);
  g_mutex_lock(&locals->lock);
  if (file)
    file->pending = FALSE;
  if (file && became.uid) {
    become_locked(file, became, item->change->name);
    if (file->dirty)
      overlay_replace(overlay, became, file->shown, file->size, file->mtime, 0);
  }
  if (!stays)
    g_hash_table_remove(locals->data, GUINT_TO_POINTER(item->shown));
  g_mutex_unlock(&locals->lock);
  if (file) {
    g_mutex_unlock(&file->lock);
    file_unref(file);
  }
  if (!error)
    tell(engine, ENGINE_NEWS_NAME, item->target, became, 0, item->change->name);
  else if (item->msg.uid && !shown)
    engine_tell_size(engine, item->msg);
  else if (shown && !stays)
    tell(engine, ENGINE_NEWS_NAME, item->target, item->msg, 0, shown->name);
}

/* ---- committing ---- */

/* Where a file is to be stored, and as what. */
typedef struct {
  guint32 folder;
  EngineDir dir;
  char *name;
  EngineMsg replaces;
  guint32 change; /* to be waited for */
  OverlayEntry *shown; /* NULL: an edit */
} Aim;

static void aim_clear(Aim *aim) {
  g_free(aim->name);
  overlay_entry_free(aim->shown);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Aim, aim_clear)

/* FALSE: it is shown nowhere any more. */
static gboolean aim_locked(File *file, Aim *aim_out) {
  Engine *engine = file->locals->engine;
  if (!file->base.uid) {
    OverlayEntry *entry = overlay_get(engine->overlay, overlay_local_number(file->shown));
    if (!entry)
      return FALSE;
    *aim_out = (Aim){.folder = entry->dir.folder,
                     .dir = entry->dir,
                     .name = g_strdup(entry->name),
                     .replaces = file->replaces,
                     .change = entry->change,
                     .shown = entry};
    return TRUE;
  }
  EngineMsg now = overlay_resolve(engine->overlay, file->base);
  OverlayReplaced replaced = {0};
  overlay_get_replaced(engine->overlay, now, &replaced);
  g_autoptr(OverlayEntry) guest = overlay_get_guest(engine->overlay, now);
  g_autoptr(StoreFolder) folder = store_folder_by_space(engine->store, now.space, NULL);
  g_autoptr(StoreMessage) message = store_message_get(engine->store, (MsgId){now.space, now.uid}, NULL);
  if (!folder)
    return FALSE;
  *aim_out = (Aim){.folder = folder->id,
                   .dir = {folder->id, 0},
                   .name = g_strdup(message ? message->name : file->name),
                   .replaces = message ? now : (EngineMsg){0, 0},
                   .change = replaced.change ? replaced.change : guest ? guest->change : 0};
  return TRUE;
}

static gboolean check_locked(File *file, const StoreFolder *folder, Letter *letter, GError **error) {
  Engine *engine = file->locals->engine;
  if (!folder->mailbox || !folder->selectable) {
    g_set_error(error, EML_ERROR, EML_ERROR_FIXED, "%s cannot hold messages", folder->name);
    return FALSE;
  }
  if (file->clone.uid)
    return link_usable(engine->link, error);
  if (!letter_check(file->fd, file->size, letter, error))
    return FALSE;
  g_mutex_lock(&engine->lock);
  guint64 limit = engine->append_limit;
  g_mutex_unlock(&engine->lock);
  if (limit && letter->size > limit) {
    g_set_error(error, EML_ERROR, EML_ERROR_TOO_BIG,
                "it has %" G_GUINT64_FORMAT " octets, the server takes %" G_GUINT64_FORMAT,
                letter->size, limit);
    return FALSE;
  }
  return link_usable(engine->link, error);
}

/* Makes the data file one that can be sent as it is, with a number that nobody writes to. */
static gboolean seal_locked(File *file, const Letter *letter, GError **error) {
  Engine *engine = file->locals->engine;
  if (letter->bare) {
    guint32 number = journal_local_number(engine->journal);
    autofd int fd = journal_local_fd(engine->journal, number, TRUE, error);
    if (fd < 0)
      return FALSE;
    if (!letter_normalize(file->fd, file->size, fd, error)) {
      journal_local_remove(engine->journal, number, NULL);
      return FALSE;
    }
    guint32 before = file->data;
    gboolean own = !file->sealed;
    file_set_data_locked(file, number, fd);
    fd = -1;
    if (own)
      journal_local_remove(engine->journal, before, NULL);
    file->size = letter->size;
  }
  file->sealed = TRUE;
  return TRUE;
}

/* The change that stores @file. */
static ChangeItem *item_for(File *file, const Aim *aim, const StoreFolder *folder,
                            const Letter *letter) {
  Engine *engine = file->locals->engine;
  ChangeItem *item = g_new0(ChangeItem, 1);
  Change *change = item->change = g_new0(Change, 1);
  gboolean copy = file->clone.uid != 0;
  EngineMsg source = copy ? file->clone : aim->replaces;
  g_autoptr(StoreMessage) message =
      source.uid ? store_message_get(engine->store, (MsgId){source.space, source.uid}, NULL) : NULL;
  g_autoptr(StoreFolder) home =
      message ? store_folder_by_space(engine->store, source.space, NULL) : NULL;
  *change = (Change){.kind = copy ? CHANGE_COPY : CHANGE_UPLOAD,
                     .mailbox = home ? g_strdup(home->mailbox) : NULL,
                     .uidvalidity = home ? home->uidvalidity : 0,
                     .uid = home ? source.uid : 0,
                     .target = g_strdup(folder->mailbox),
                     .target_uidvalidity = folder->uidvalidity,
                     .target_uidnext = folder->uidnext,
                     .name = g_strdup(aim->name),
                     .size = file->size,
                     .date = copy && message ? message->internal_date : file->mtime / 1000000000,
                     .flags = file->keywords ? (guint) file->flags
                                             : letter->flags | (message ? message->flags : 0),
                     .keywords = g_strdup(file->keywords ? file->keywords
                                          : message      ? message->keywords : ""),
                     .local = file->data};
  item->folder = home ? home->id : 0;
  item->target = folder->id;
  item->msg = home ? source : (EngineMsg){0, 0};
  item->shown = file->shown;
  return item;
}

static Local *row_for(File *file, const Aim *aim, const ChangeItem *item) {
  const Change *change = item->change;
  Local *row = g_new0(Local, 1);
  gboolean copy = change->kind == CHANGE_COPY;
  *row = (Local){.id = file->data,
                 .folder = locals_folder_path(file->locals->engine, aim->folder),
                 .name = g_strdup(aim->name),
                 .state = LOCAL_LETTER,
                 .size = file->size,
                 .mtime = file->mtime,
                 .ctime = g_get_real_time() / G_USEC_PER_SEC,
                 .mailbox = copy ? g_strdup(change->mailbox) : NULL,
                 .uidvalidity = copy ? change->uidvalidity : 0,
                 .uid = copy ? change->uid : 0};
  return row;
}

/* Keeps scratch as it is. */
static gboolean commit_scratch_locked(File *file, const Aim *aim, GError **error) {
  g_autoptr(Local) row = locals_row(file->locals, aim->shown, LOCAL_SCRATCH, NULL);
  file->dirty = FALSE;
  return journal_local_put(file->locals->engine->journal, row, error);
}

gboolean commit_unfinished_locked(File *file, GError **error) {
  Engine *engine = file->locals->engine;
  g_auto(Aim) aim = {0};
  if (!file->dirty || file->sealed || file->unlinked || !file->size || !aim_locked(file, &aim))
    return TRUE;
  gboolean letter = !aim.dir.local && locals_is_letter(aim.name);
  g_autofree char *beside = aim.shown ? NULL : failed_name(engine, aim.dir, aim.name);
  g_autofree char *path = aim.dir.local ? NULL : locals_folder_path(engine, aim.folder);
  Local row = {.id = file->data,
               .parent = aim.dir.local,
               .folder = path,
               .name = beside ? beside : aim.name,
               .state = letter ? LOCAL_FAILED : LOCAL_SCRATCH,
               .size = file->size,
               .mtime = file->mtime,
               .ctime = g_get_real_time() / G_USEC_PER_SEC,
               .reason = letter ? (char *) "it was still being written" : NULL};
  return journal_local_put(engine->journal, &row, error);
}

static void fail_locked(File *file, const Aim *aim, const GError *why) {
  Engine *engine = file->locals->engine;
  file->dirty = FALSE;
  if (file->clone.uid) {
    overlay_remove(engine->overlay, overlay_local_number(file->shown));
    return;
  }
  file->sealed = TRUE; /* it is the failed upload's now */
  keep(engine, aim->folder, aim->name, !aim->shown, file->data, file->size, file->mtime, why);
  if (file->base.uid)
    overlay_unreplace(engine->overlay, file->base);
}

static void commit_file(File *file, EngineWait wait) {
  Locals *locals = file->locals;
  Engine *engine = locals->engine;
  g_autoptr(GError) error = NULL;
  g_auto(Aim) aim = {0};
  Letter letter = {0};
  g_mutex_lock(&file->lock);
  gboolean due = file->dirty && !file->unlinked && file->size > 0 && aim_locked(file, &aim);
  if (!due) {
    g_mutex_unlock(&file->lock);
    changes_answer(engine, wait, NULL);
    return;
  }
  if (aim.change) {
    g_mutex_unlock(&file->lock);
    Commit *commit = g_new(Commit, 1);
    *commit = (Commit){file_ref(file), wait};
    changes_after(engine->changes, aim.change, commit_again, commit);
    return;
  }
  if (aim.dir.local || !locals_is_letter(aim.name)) {
    commit_scratch_locked(file, &aim, &error);
    g_mutex_unlock(&file->lock);
    changes_answer(engine, wait, error);
    return;
  }
  g_autoptr(StoreFolder) folder = store_folder_get(engine->store, aim.folder, &error);
  guint64 before = file->size;
  gboolean ok = folder && check_locked(file, folder, &letter, &error) &&
                (file->clone.uid || seal_locked(file, &letter, &error));
  if (!ok) {
    fail_locked(file, &aim, error);
    EngineMsg edited = file->base;
    g_mutex_unlock(&file->lock);
    letter_clear(&letter);
    if (edited.uid)
      engine_tell_size(engine, edited);
    changes_answer(engine, wait, error);
    return;
  }
  ChangeItem *item = item_for(file, &aim, folder, &letter);
  g_clear_pointer(&file->keywords, g_free);
  g_autoptr(Local) row = row_for(file, &aim, item);
  file->dirty = FALSE;
  file->sealed = TRUE;
  file_show_locked(file);
  g_mutex_lock(&locals->lock);
  file->pending = file->clone.uid != 0;
  g_mutex_unlock(&locals->lock);
  gboolean resized = file->size != before;
  EngineMsg base = file->base;
  guint32 shown = file->shown;
  g_mutex_unlock(&file->lock);
  letter_clear(&letter);
  changes_submit(engine->changes, item, row, wait);
  if (resized && base.uid)
    engine_tell_size(engine, base);
  else if (resized)
    tell(engine, ENGINE_NEWS_LOCAL, aim.folder, (EngineMsg){0, 0}, shown, NULL);
}

EngineWait engine_file_commit(EngineFile *handle, EngineDone done, gpointer data) {
  File *file = handle->file;
  WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
  EngineWait wait = waits_add(file->locals->engine->waits, &call);
  commit_file(file, wait);
  return wait;
}

typedef struct {
  guint64 size;
  EngineWait wait;
  Engine *engine;
} Truncation;

static void on_truncation_open(EngineFile *handle, gpointer data, const GError *failure) {
  Truncation *truncation = data;
  g_autoptr(GError) error = NULL;
  if (failure || !engine_file_truncate(handle, truncation->size, &error))
    changes_answer(truncation->engine, truncation->wait, failure ? failure : error);
  else
    commit_file(handle->file, truncation->wait);
  engine_file_close(&handle);
  g_free(truncation);
}

EngineWait engine_truncate(Engine *engine, EngineMsg msg, guint32 local, guint64 size,
                           EngineDone done, gpointer data) {
  WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
  Truncation *truncation = g_new(Truncation, 1);
  EngineWait wait = waits_add(engine->waits, &call);
  *truncation = (Truncation){size, wait, engine};
  engine_file_open(engine, msg, local, size == 0, on_truncation_open, truncation);
  return wait;
}

/* ---- names of local files ---- */

static void on_renamed_open(EngineFile *handle, gpointer data, const GError *error) {
  *(EngineFile **) data = handle;
}

void locals_rename(Locals *locals, const OverlayEntry *entry, EngineDir to, const char *name,
                  EngineMsg replaces, gint flags, const char *keywords, EngineWait wait) {
  Engine *engine = locals->engine;
  g_autoptr(GError) error = NULL;
  gboolean letter = !entry->local->is_folder && !to.local && locals_is_letter(name);
  overlay_move(engine->overlay, entry->number, to, name);
  if (!letter) {
    g_autoptr(OverlayEntry) moved = overlay_get(engine->overlay, entry->number);
    g_autoptr(Local) row = locals_row(locals, moved, LOCAL_SCRATCH, NULL);
    journal_local_put(engine->journal, row, &error);
    changes_answer(engine, wait, error);
    return;
  }
  /* A local file is here, so it is opened at once; only a copy under way would have to be fetched, and
   * that has a change to wait for. */
  EngineFile *handle = NULL;
  engine_file_open(engine, (EngineMsg){0, 0}, entry->local->id, FALSE, on_renamed_open, &handle);
  if (!handle) {
    g_set_error_literal(&error, EML_ERROR, EML_ERROR_STALE, "the file is gone");
    changes_answer(engine, wait, error);
    return;
  }
  File *file = handle->file;
  g_mutex_lock(&file->lock);
  gboolean open_elsewhere = file->dirty; /* its writer's close stores it */
  file->replaces = replaces;
  file->flags = flags;
  g_free(file->keywords);
  file->keywords = flags < 0 ? NULL : g_strdup(keywords ? keywords : "");
  file->dirty = TRUE;
  g_mutex_unlock(&file->lock);
  if (open_elsewhere)
    changes_answer(engine, wait, NULL);
  else
    commit_file(file, wait);
  engine_file_close(&handle);
}

gboolean locals_unlink(Locals *locals, const OverlayEntry *entry, GError **error) {
  Engine *engine = locals->engine;
  guint32 shown = entry->local->id, data = locals_data_number(locals, shown);
  if (!journal_local_remove(engine->journal, data, error))
    return FALSE;
  overlay_remove(engine->overlay, entry->number);
  File *file = find_ref(locals, shown, (EngineMsg){0, 0});
  if (file) {
    g_mutex_lock(&file->lock);
    file->unlinked = TRUE;
    g_mutex_unlock(&file->lock);
    file_unref(file);
  }
  g_mutex_lock(&locals->lock);
  g_hash_table_remove(locals->data, GUINT_TO_POINTER(shown));
  g_mutex_unlock(&locals->lock);
  return TRUE;
}

gboolean locals_mkdir(Locals *locals, EngineDir dir, const char *name, GError **error) {
  Engine *engine = locals->engine;
  guint32 number = journal_local_number(engine->journal);
  if (!number) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "numbers of local files are used up");
    return FALSE;
  }
  gint64 now = g_get_real_time();
  EngineLocal local = {.id = number,
                       .folder = dir.local ? 0 : dir.folder,
                       .parent = dir.local,
                       .name = (char *) name,
                       .is_folder = TRUE,
                       .mtime = now * 1000,
                       .ctime = now / G_USEC_PER_SEC};
  overlay_add_local(engine->overlay, &local, 0);
  g_autoptr(OverlayEntry) entry = overlay_get(engine->overlay, overlay_local_number(number));
  g_autoptr(Local) row = locals_row(locals, entry, LOCAL_SCRATCH, NULL);
  if (journal_local_put(engine->journal, row, error))
    return TRUE;
  overlay_remove(engine->overlay, overlay_local_number(number));
  return FALSE;
}

int locals_edited(Locals *locals, EngineMsg msg, guint64 *size_out) {
  OverlayReplaced replaced;
  if (!overlay_get_replaced(locals->engine->overlay, msg, &replaced))
    return -1;
  *size_out = replaced.size;
  g_mutex_lock(&locals->lock);
  File *file = locals_find_locked(locals, msg, 0);
  int fd = file && file->fd >= 0 ? fcntl(file->fd, F_DUPFD_CLOEXEC, 3) : -1;
  g_mutex_unlock(&locals->lock);
  guint32 data = locals_data_number(locals, replaced.local);
  return fd >= 0 || file ? fd : journal_local_fd(locals->engine->journal, data, FALSE, NULL);
}
