/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Folders and messages as the index has them, in the engine's terms.
 */
#include "engine/private.h"

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
      .mtime = folder->mtime,
      .count = folder->count,
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

/* Takes over @message; NULL stays NULL. */
static EngineMessage *message_from(StoreMessage *message) {
  if (!message)
    return NULL;
  EngineMessage seen = view(message);
  EngineMessage *result = engine_message_copy(&seen);
  store_message_free(message);
  return result;
}

EngineMessage *engine_message_get(Engine *engine, EngineMsg msg, GError **error) {
  return message_from(store_message_get(engine->store, (MsgId){msg.space, msg.uid}, error));
}

EngineMessage *engine_message_by_name(Engine *engine, guint32 space, const char *name,
                                      GError **error) {
  return message_from(store_message_by_name(engine->store, space, name, error));
}

typedef struct {
  EngineMessageFn each;
  gpointer data;
} Scan;

static gboolean scan_row(const StoreMessage *message, gpointer data) {
  Scan *scan = data;
  EngineMessage seen = view(message);
  return scan->each(&seen, scan->data);
}

gboolean engine_messages_scan(Engine *engine, guint32 space, guint32 after, guint limit,
                              EngineMessageFn each, gpointer data, GError **error) {
  Scan scan = {each, data};
  return store_messages_scan(engine->store, space, after, limit, scan_row, &scan, error);
}
