/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is shown of a change while it is on its way, and what is left of it when it is settled.
 *
 * Order at the end: the index first, then the journal, then what is shown and the kernel. A kill in
 * between leaves a change that the next run finds done on the server, and does all this once more.
 */
#include <string.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/changes-private.h"

#define COPY_BYTES (256 * 1024)

/* ---- while it is on its way ---- */

static void set_flags(Engine *engine, EngineMsg msg, guint flags, const char *keywords) {
  StoreBatch *batch = store_batch_new(engine->store, msg.space);
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreMessage) message =
      store_message_get(engine->store, (MsgId){msg.space, msg.uid}, NULL);
  if (message && (!store_batch_flags(batch, msg.uid, flags, keywords, message->modseq,
                                     g_get_real_time() / G_USEC_PER_SEC, NULL, &error) ||
                  !store_batch_flush(batch, &error)))
    log_warning("flags could not be noted: %s", error->message);
  store_batch_abort(&batch);
}

static char *with_keywords(const char *keywords, const char *add, const char *remove) {
  g_auto(GStrv) have = g_strsplit(keywords, " ", -1);
  g_auto(GStrv) added = g_strsplit(add ? add : "", " ", -1);
  g_auto(GStrv) removed = g_strsplit(remove ? remove : "", " ", -1);
  GString *text = g_string_new(NULL);
  for (char **word = have; *word; word++)
    if (**word && !g_strv_contains((const char *const *) removed, *word))
      g_string_append_printf(text, "%s%s", text->len ? " " : "", *word);
  for (char **word = added; *word; word++)
    if (**word && !g_strv_contains((const char *const *) have, *word))
      g_string_append_printf(text, "%s%s", text->len ? " " : "", *word);
  return g_string_free(text, FALSE);
}

void settle_show(Engine *engine, const ChangeItem *item) {
  const Change *change = item->change;
  Overlay *overlay = engine->overlay;
  switch (change->kind) {
  case CHANGE_MOVE: {
    EngineMessage message = {.uid = change->uid,
                             .size = change->size,
                             .mtime = change->date,
                             .ctime = g_get_real_time() / G_USEC_PER_SEC,
                             .flags = change->flags,
                             .keywords = change->keywords,
                             .name = change->name};
    if (!item->msg.uid)
      return; /* it will show where the server has it */
    overlay_hide(overlay, item->msg, change->id);
    overlay_add_guest(overlay, change->id, item->target, change->name, item->msg, &message);
    overlay_touch(overlay, item->folder);
    return;
  }
  case CHANGE_EXPUNGE:
    if (item->msg.uid)
      overlay_hide(overlay, item->msg, change->id);
    overlay_touch(overlay, item->folder);
    return;
  case CHANGE_COPY:
    overlay_set_change(overlay, overlay_local_number(item->shown), change->id);
    return;
  case CHANGE_UPLOAD:
    overlay_set_change(overlay, overlay_local_number(item->shown), change->id);
    if (item->msg.uid)
      overlay_replace(overlay, item->msg, item->shown, change->size, change->date * 1000000000,
                      change->id);
    return;
  case CHANGE_FLAGS: {
    g_autofree char *keywords =
        with_keywords(change->keywords, change->add_keywords, change->remove_keywords);
    if (item->msg.uid)
      set_flags(engine, item->msg, (change->flags | change->add) & ~change->remove, keywords);
    return;
  }
  }
}

/* ---- the index ---- */

/* The octets at @fd become the body of @id. A body is a convenience: failures are only logged. */
static void import_body(Engine *engine, MsgId id, int fd, gint64 offset, guint64 size) {
  g_autoptr(GError) error = NULL;
  g_autofree char *buffer = g_malloc(MIN(size, COPY_BYTES) + 1);
  StoreWriter *writer = store_writer_new(engine->store, size, &error);
  guint64 done = 0;
  while (writer && done < size && !error) {
    gssize got = pread(fd, buffer, (gsize) MIN(size - done, COPY_BYTES), offset + (gint64) done);
    if (got <= 0)
      eml_error_set_errno(&error, EML_ERROR_FAILED, got ? errno : EIO, "a body cannot be read");
    else if (store_writer_write(writer, buffer, (gsize) got, &error))
      done += (guint64) got;
  }
  if (writer && !error)
    store_body_unref(store_writer_commit(&writer, id, &error));
  store_writer_abort(&writer);
  if (error)
    log_info("message %u will be fetched when it is read: %s", id.uid, error->message);
}

static void carry_body(Engine *engine, const ChangeItem *item, MsgId to) {
  const Change *change = item->change;
  if (change->kind == CHANGE_UPLOAD) {
    autofd int fd = journal_local_fd(engine->journal, change->local, FALSE, NULL);
    if (fd >= 0)
      import_body(engine, to, fd, 0, change->size);
    return;
  }
  g_autoptr(StoreBody) body =
      item->msg.uid ? store_body_get(engine->store, (MsgId){item->msg.space, item->msg.uid}, NULL)
                    : NULL;
  if (body)
    import_body(engine, to, body->fd, body->offset, body->length);
}

/* The space of the target when the index can hold the new message. Of one that was guessed only the
 * server knows enough. */
static guint32 target_space(Engine *engine, const Settled *result) {
  g_autoptr(StoreFolder) folder =
      result->uid && !result->guessed ? store_folder_get(engine->store, result->item->target, NULL) : NULL;
  return folder && folder->listed && folder->uidvalidity == result->uidvalidity ? folder->space : 0;
}

static gboolean arrives(const Settled *result) {
  return result->outcome != CHANGE_REFUSED && result->item->change->target && result->uid;
}

static gboolean departs(const Settled *result) {
  const Change *change = result->item->change;
  return result->outcome != CHANGE_REFUSED && result->item->msg.uid &&
         (change->kind == CHANGE_MOVE || change->kind == CHANGE_EXPUNGE ||
          change->kind == CHANGE_UPLOAD);
}

static void put_row(StoreBatch *batch, const Settled *result) {
  const Change *change = result->item->change;
  g_autoptr(GError) error = NULL;
  StoreMessage message = {.uid = result->uid,
                          .size = change->size,
                          .internal_date = change->date,
                          .ctime = g_get_real_time() / G_USEC_PER_SEC,
                          .flags = change->flags & ~(guint) MSG_FLAG_RECENT,
                          .keywords = change->keywords,
                          .name = change->name};
  if (!store_batch_put(batch, &message, NULL, &error))
    log_info("a new message is not in the index yet: %s", error->message);
}

/* What was moved or replaced is no longer in its folder, nor needs a name there. With GONE others may
 * have done it, which the next sync tells as well; a row that is gone already is no error. */
static void drop_row(Engine *engine, StoreBatch *batch, const ChangeItem *item) {
  const Change *change = item->change;
  guint32 uid = item->msg.uid;
  g_autoptr(GError) error = NULL;
  if (!store_batch_remove(batch, uid, uid, NULL, NULL, &error))
    log_info("a gone message is still in the index: %s", error->message);
  if (journal_names_any(engine->journal, change->mailbox, change->uidvalidity))
    journal_names_drop(engine->journal, change->mailbox, change->uidvalidity, uid, uid, NULL);
}

static void flush(StoreBatch *batch) {
  g_autoptr(GError) error = NULL;
  if (!store_batch_flush(batch, &error))
    log_warning("the index could not be written: %s", error->message);
}

/* All results of a group have one folder and one target. */
static void settle_index(Engine *engine, const GArray *settled) {
  const Settled *first = &g_array_index(settled, Settled, 0);
  StoreBatch *into = NULL, *from = NULL;
  for (guint i = 0; i < settled->len; i++) {
    const Settled *result = &g_array_index(settled, Settled, i);
    guint32 space = arrives(result) ? target_space(engine, result) : 0;
    if (!space)
      continue;
    if (!into)
      into = store_batch_new(engine->store, space);
    put_row(into, result);
  }
  if (into)
    flush(into);
  store_batch_abort(&into);
  for (guint i = 0; i < settled->len; i++) {
    const Settled *result = &g_array_index(settled, Settled, i);
    guint32 space = arrives(result) ? target_space(engine, result) : 0;
    if (space)
      carry_body(engine, result->item, (MsgId){space, result->uid});
    if (!departs(result))
      continue;
    if (!from)
      from = store_batch_new(engine->store, first->item->msg.space);
    drop_row(engine, from, result->item);
  }
  if (from)
    flush(from);
  store_batch_abort(&from);
}

/* ---- what is shown ---- */

static void tell(Engine *engine, EngineNewsKind kind, guint32 folder, EngineMsg msg, const char *name) {
  EngineNews news = {.kind = kind, .folder = folder, .msg = msg, .name = name};
  engine_emit(engine, &news, 1);
}

/* The message is where it was. Whoever asked and was told so knows; others saw it go. */
static void tell_back(Engine *engine, const ChangeItem *item) {
  g_autoptr(StoreMessage) message =
      store_message_get(engine->store, (MsgId){item->msg.space, item->msg.uid}, NULL);
  if (!message)
    return;
  if (item->wait)
    tell(engine, ENGINE_NEWS_NAME, item->folder, item->msg, message->name);
  else
    tell(engine, ENGINE_NEWS_MESSAGE_NEW, item->folder, item->msg, message->name);
}

static void leave(Overlay *overlay, const Settled *result) {
  if (departs(result))
    overlay_left(overlay, result->item->msg);
  else if (result->item->msg.uid)
    overlay_unhide(overlay, result->item->msg);
}

static void settle_shown(Engine *engine, const Settled *result) {
  const ChangeItem *item = result->item;
  const Change *change = item->change;
  Overlay *overlay = engine->overlay;
  gboolean refused = result->outcome == CHANGE_REFUSED;
  EngineMsg became = {0, 0};
  if (arrives(result)) {
    became.space = target_space(engine, result);
    became.uid = became.space ? result->uid : 0;
  }
  switch (change->kind) {
  case CHANGE_MOVE:
    if (became.uid && item->msg.uid)
      overlay_became(overlay, item->msg, became);
    overlay_remove(overlay, overlay_guest_number(change->id));
    leave(overlay, result);
    if (refused || result->outcome == CHANGE_GONE) {
      tell(engine, item->wait ? ENGINE_NEWS_NAME : ENGINE_NEWS_MESSAGE_GONE, item->target, item->msg,
           change->name);
      if (refused)
        tell_back(engine, item);
    } else {
      tell(engine, ENGINE_NEWS_NAME, item->target, became, change->name);
    }
    break;
  case CHANGE_EXPUNGE:
    leave(overlay, result);
    if (refused)
      tell_back(engine, item);
    break;
  case CHANGE_COPY:
  case CHANGE_UPLOAD:
    locals_uploaded(engine->locals, item, became, refused ? result->error : NULL);
    break;
  case CHANGE_FLAGS:
    if (refused && item->msg.uid) {
      set_flags(engine, item->msg, change->flags, change->keywords);
      tell(engine, ENGINE_NEWS_MESSAGE_FLAGS, item->folder, item->msg, NULL);
    }
    break;
  }
}

static void log_refusal(Engine *engine, const Settled *result) {
  static const char *const verbs[] = {[CHANGE_UPLOAD] = "stored", [CHANGE_COPY] = "copied",
                                      [CHANGE_MOVE] = "moved",    [CHANGE_EXPUNGE] = "deleted",
                                      [CHANGE_FLAGS] = "flagged"};
  const ChangeItem *item = result->item;
  guint32 folder = item->target ? item->target : item->folder;
  g_autofree char *path = locals_folder_path(engine, folder);
  log_warning("%s/%s was not %s: %s", path ? path : "?", item->change->name ? item->change->name : "",
              verbs[item->change->kind], result->error ? result->error->message : "refused");
}

gboolean settle(Engine *engine, const GArray *settled, GError **error) {
  g_autoptr(GPtrArray) changes = g_ptr_array_new();
  g_autoptr(GArray) validities = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  settle_index(engine, settled);
  guint32 unknown = 0;
  for (guint i = 0; i < settled->len; i++) {
    const Settled *result = &g_array_index(settled, Settled, i);
    guint32 uid = arrives(result) ? result->uid : 0;
    g_ptr_array_add(changes, result->item->change);
    g_array_append_val(validities, result->uidvalidity);
    g_array_append_val(uids, uid);
    if (result->outcome == CHANGE_REFUSED) {
      log_refusal(engine, result);
      locals_keep(engine->locals, result->item, result->error);
    } else if (result->item->change->target && (!uid || result->guessed)) {
      unknown = result->item->target;
    }
  }
  if (!journal_change_end(engine->journal, (const Change *const *) changes->pdata, changes->len,
                          (const guint32 *) validities->data, (const guint32 *) uids->data, error))
    return FALSE;
  for (guint i = 0; i < settled->len; i++)
    settle_shown(engine, &g_array_index(settled, Settled, i));
  if (unknown) /* the server did not say which it is: found by looking */
    syncs_schedule(engine->syncs, unknown, JOB_NEWS);
  return TRUE;
}
