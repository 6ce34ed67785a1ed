/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Folders and messages as the index has them, in the engine's terms, with what the overlay knows
 * better.
 */
#include "engine/overlay.h"

#include "base/err.h"
#include "engine/private.h"

#define GUESTS_AT_ONCE 256 /* copied out of the overlay */

guint engine_msg_hash(gconstpointer key) {
  const EngineMsg *msg = key;
  return msg->space * 2654435761u ^ msg->uid;
}

gboolean engine_msg_equal(gconstpointer a, gconstpointer b) {
  const EngineMsg *x = a, *y = b;
  return x->space == y->space && x->uid == y->uid;
}

EngineFolder *engine_folder_copy(const EngineFolder *folder) {
  EngineFolder *copy = g_memdup2(folder, sizeof *folder);
  copy->name = g_strdup(folder->name);
  return copy;
}

void engine_folder_free(EngineFolder *folder) {
  g_free(folder->name);
  g_free(folder);
}

/* Takes over @folder; NULL stays NULL. */
static EngineFolder *folder_from(Engine *engine, StoreFolder *folder) {
  if (!folder)
    return NULL;
  g_autoptr(GPtrArray) children = store_folders(engine->store, folder->id, NULL);
  EngineFolder *result = g_new(EngineFolder, 1);
  *result = (EngineFolder){
      .id = folder->id,
      .parent = folder->parent,
      .space = folder->space,
      .name = g_steal_pointer(&folder->name),
      .mtime = MAX(folder->mtime, overlay_touched(engine->overlay, folder->id)),
      .count = folder->count + overlay_count(engine->overlay, (EngineDir){folder->id, 0}),
      .subfolders = children ? children->len : 0,
  };
  store_folder_free(folder);
  return result;
}

EngineFolder *engine_folder_get(Engine *engine, guint32 id, GError **error) {
  return folder_from(engine, store_folder_get(engine->store, id, error));
}

EngineFolder *engine_folder_by_name(Engine *engine, guint32 parent, const char *name,
                                    GError **error) {
  return folder_from(engine, store_folder_by_name(engine->store, parent, name, error));
}

EngineFolder *engine_folder_by_space(Engine *engine, guint32 space, GError **error) {
  return folder_from(engine, store_folder_by_space(engine->store, space, error));
}

GPtrArray *engine_folders(Engine *engine, guint32 parent, GError **error) {
  g_autoptr(GPtrArray) rows = store_folders(engine->store, parent, error);
  if (!rows)
    return NULL;
  GPtrArray *folders = g_ptr_array_new_with_free_func((GDestroyNotify) engine_folder_free);
  for (guint i = 0; i < rows->len; i++)
    g_ptr_array_add(folders,
                    folder_from(engine, store_folder_copy(g_ptr_array_index(rows, i))));
  return folders;
}

EngineMessage *engine_message_copy(const EngineMessage *message) {
  EngineMessage *copy = g_memdup2(message, sizeof *message);
  copy->keywords = g_strdup(message->keywords);
  copy->name = g_strdup(message->name);
  return copy;
}

void engine_message_free(EngineMessage *message) {
  g_free((char *) message->keywords);
  g_free((char *) message->name);
  g_free(message);
}

static EngineMessage view(const StoreMessage *message) {
  return (EngineMessage){
      .uid = message->uid,
      .size = message->size,
      .mtime = message->internal_date,
      .ctime = message->ctime,
      .flags = message->flags,
      .modseq = message->modseq,
      .keywords = message->keywords,
      .name = message->name,
  };
}

/* What is being replaced has the size and the time of what replaces it. */
static void look_replaced(Engine *engine, EngineMsg msg, EngineMessage *message) {
  OverlayReplaced replaced;
  if (!overlay_get_replaced(engine->overlay, msg, &replaced))
    return;
  message->size = replaced.size;
  message->mtime = replaced.mtime / 1000000000;
}

/* Takes over @message; NULL stays NULL. */
static EngineMessage *message_from(Engine *engine, guint32 space, StoreMessage *message) {
  if (!message)
    return NULL;
  EngineMessage seen = view(message);
  look_replaced(engine, (EngineMsg){space, message->uid}, &seen);
  EngineMessage *result = engine_message_copy(&seen);
  store_message_free(message);
  return result;
}

EngineMessage *engine_message_get(Engine *engine, EngineMsg msg, GError **error) {
  msg = overlay_resolve(engine->overlay, msg);
  g_autoptr(OverlayEntry) guest = overlay_get_guest(engine->overlay, msg);
  if (guest)
    return g_steal_pointer(&guest->message);
  return message_from(engine, msg.space,
                      store_message_get(engine->store, (MsgId){msg.space, msg.uid}, error));
}

typedef struct {
  Engine *engine;
  guint32 space;
  EngineMessageFn each;
  gpointer data;
  gboolean hides;
  guint left;
  guint32 last;
  gboolean ended;
} Scan;

static gboolean scan_row(const StoreMessage *message, gpointer data) {
  Scan *scan = data;
  EngineMsg msg = {scan->space, message->uid};
  scan->last = message->uid;
  if (scan->hides && overlay_is_hidden(scan->engine->overlay, msg))
    return TRUE;
  EngineMessage seen = view(message);
  look_replaced(scan->engine, msg, &seen);
  scan->left--;
  scan->ended = !scan->each(&seen, scan->data);
  return !scan->ended;
}

gboolean engine_messages_scan(Engine *engine, guint32 space, guint32 after, guint limit,
                              EngineMessageFn each, gpointer data, GError **error) {
  Scan scan = {.engine = engine,
               .space = space,
               .each = each,
               .data = data,
               .hides = overlay_hides(engine->overlay),
               .left = limit,
               .last = after};
  /* Once more for as many as were hidden. */
  guint32 from;
  do {
    from = scan.last;
    if (!store_messages_scan(engine->store, space, from, scan.left, scan_row, &scan, error))
      return FALSE;
  } while (scan.left && !scan.ended && scan.last != from);
  return TRUE;
}

/* ---- names ---- */

void engine_entry_clear(EngineEntry *entry) {
  g_clear_pointer(&entry->folder, engine_folder_free);
  g_clear_pointer(&entry->message, engine_message_free);
  g_clear_pointer(&entry->local, engine_local_free);
}

/* Takes out of @shown. */
static void entry_from(OverlayEntry *shown, EngineEntry *entry_out) {
  *entry_out = (EngineEntry){.message = g_steal_pointer(&shown->message),
                             .msg = shown->msg,
                             .local = g_steal_pointer(&shown->local)};
}

static gboolean no_such_name(const char *name, GError **error) {
  g_set_error(error, EML_ERROR, EML_ERROR_NOT_FOUND, "there is no %s", name);
  return FALSE;
}

static gboolean is_dead(GError **error) {
  g_set_error_literal(error, EML_ERROR, EML_ERROR_STALE, "the folder is gone");
  return FALSE;
}

gboolean engine_entry_get(Engine *engine, EngineDir dir, const char *name, EngineEntry *entry_out,
                          GError **error) {
  *entry_out = (EngineEntry){0};
  g_autoptr(OverlayEntry) shown = overlay_find(engine->overlay, dir, name);
  if (shown) {
    entry_from(shown, entry_out);
    return TRUE;
  }
  if (dir.local) {
    g_autoptr(OverlayEntry) self = overlay_get(engine->overlay, overlay_local_number(dir.local));
    return self ? no_such_name(name, error) : is_dead(error);
  }
  g_autoptr(GError) local = NULL;
  g_autoptr(StoreFolder) folder =
      dir.folder ? store_folder_get(engine->store, dir.folder, &local) : NULL;
  if (local && g_error_matches(local, EML_ERROR, EML_ERROR_NOT_FOUND))
    return is_dead(error);
  StoreMessage *message =
      folder && folder->space
          ? store_message_by_name(engine->store, folder->space, name, &local)
          : NULL;
  EngineMsg msg = {folder ? folder->space : 0, message ? message->uid : 0};
  if (message && overlay_is_hidden(engine->overlay, msg)) {
    store_message_free(message);
  } else if (message) {
    entry_out->message = message_from(engine, msg.space, message);
    entry_out->msg = msg;
    return TRUE;
  }
  if (local && !g_error_matches(local, EML_ERROR, EML_ERROR_NOT_FOUND)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  entry_out->folder = engine_folder_by_name(engine, dir.folder, name, error);
  return entry_out->folder != NULL;
}

EngineLocal *engine_local_get(Engine *engine, guint32 id, GError **error) {
  g_autoptr(OverlayEntry) shown = overlay_get(engine->overlay, overlay_local_number(id));
  if (shown)
    return g_steal_pointer(&shown->local);
  /* It became a message, and the kernel does not know yet. */
  EngineMsg msg;
  g_autoptr(EngineMessage) message = overlay_resolve_local(engine->overlay, id, &msg)
                                         ? engine_message_get(engine, msg, NULL)
                                         : NULL;
  if (!message) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_STALE, "the file is gone");
    return NULL;
  }
  EngineLocal *local = g_new0(EngineLocal, 1);
  *local = (EngineLocal){.id = id,
                         .name = g_strdup(message->name),
                         .size = message->size,
                         .mtime = message->mtime * 1000000000,
                         .ctime = message->ctime};
  return local;
}

/* Whether what is on its way as @shown is in the index already: its change is just being settled. */
static gboolean is_there(Engine *engine, guint32 space, const OverlayEntry *shown) {
  if (!space || !shown->change)
    return FALSE;
  g_autoptr(StoreMessage) message = store_message_by_name(engine->store, space, shown->name, NULL);
  return message && !overlay_is_hidden(engine->overlay, (EngineMsg){space, message->uid});
}

void engine_guests_scan(Engine *engine, EngineDir dir, guint32 after, EngineGuestFn each,
                        gpointer data) {
  g_autoptr(StoreFolder) folder =
      dir.folder ? store_folder_get(engine->store, dir.folder, NULL) : NULL;
  guint count;
  do {
    g_autoptr(GPtrArray) list = overlay_list(engine->overlay, dir, after, GUESTS_AT_ONCE);
    count = list->len;
    for (guint i = 0; i < count; i++) {
      OverlayEntry *shown = g_ptr_array_index(list, i);
      after = shown->number;
      if (is_there(engine, folder ? folder->space : 0, shown))
        continue;
      g_auto(EngineEntry) entry = {0};
      entry_from(shown, &entry);
      if (!each(after, &entry, data))
        return;
    }
  } while (count == GUESTS_AT_ONCE);
}

guint engine_local_folders(Engine *engine, EngineDir dir) {
  return overlay_folders(engine->overlay, dir);
}
