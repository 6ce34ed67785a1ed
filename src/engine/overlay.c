/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/overlay.h"

#include <string.h>

#define LINGER_US (60 * G_USEC_PER_SEC) /* no listing takes longer, or hardly */
#define BECAME_MOST 1000000 /* remembered; the kernel forgets most of them long before */
#define CHAIN_MOST 64       /* steps from what a message was to what it is */

typedef struct {
  GTree *by_number;    /* number → OverlayEntry, owned by Overlay.entries */
  GHashTable *by_name; /* name → OverlayEntry; the name is the entry's */
  guint folders;       /* how many are local folders */
} Place;

/* A message that is gone, and lingers. */
typedef struct {
  gint64 until; /* monotonic µs */
  EngineMsg msg;
} Past;

struct Overlay {
  GMutex lock;
  GQueue past;          /* Past, by time */
  GHashTable *entries;  /* number → OverlayEntry, owned */
  GHashTable *places;   /* EngineDir → Place */
  GHashTable *guests;   /* EngineMsg → OverlayEntry */
  GHashTable *hidden;   /* EngineMsg → change */
  GHashTable *replaced; /* EngineMsg → OverlayReplaced */
  GHashTable *became;   /* EngineMsg → EngineMsg */
  GHashTable *locals;   /* id of a local file → EngineMsg */
  GHashTable *touched;  /* folder id → gint64 seconds */
  gint hiding;          /* atomic: how many are hidden */
};

/* EngineMsg and EngineDir alike: two 32-bit numbers. */
static guint pair_hash(gconstpointer key) {
  guint32 pair[2];
  memcpy(pair, key, sizeof pair);
  return pair[0] * 2654435761u ^ pair[1];
}

static gboolean pair_equal(gconstpointer a, gconstpointer b) {
  return memcmp(a, b, 2 * sizeof(guint32)) == 0;
}

static int compare_numbers(gconstpointer a, gconstpointer b, gpointer data) {
  guint x = GPOINTER_TO_UINT(a), y = GPOINTER_TO_UINT(b);
  return (x > y) - (x < y);
}

static EngineLocal *local_dup(const EngineLocal *local) {
  EngineLocal *copy = g_memdup2(local, sizeof *local);
  copy->name = g_strdup(local->name);
  return copy;
}

void engine_local_free(EngineLocal *local) {
  if (!local)
    return;
  g_free(local->name);
  g_free(local);
}

void overlay_entry_free(OverlayEntry *entry) {
  if (!entry)
    return;
  g_free(entry->name);
  engine_local_free(entry->local);
  if (entry->message)
    engine_message_free(entry->message);
  g_free(entry);
}

static OverlayEntry *entry_dup(const OverlayEntry *entry) {
  if (!entry)
    return NULL;
  OverlayEntry *copy = g_memdup2(entry, sizeof *entry);
  copy->name = g_strdup(entry->name);
  copy->local = entry->local ? local_dup(entry->local) : NULL;
  copy->message = entry->message ? engine_message_copy(entry->message) : NULL;
  return copy;
}

static void place_free(gpointer data) {
  Place *place = data;
  g_tree_unref(place->by_number);
  g_hash_table_unref(place->by_name);
  g_free(place);
}

Overlay *overlay_new(void) {
  Overlay *overlay = g_new0(Overlay, 1);
  g_mutex_init(&overlay->lock);
  g_queue_init(&overlay->past);
  overlay->entries =
      g_hash_table_new_full(NULL, NULL, NULL, (GDestroyNotify) overlay_entry_free);
  overlay->places = g_hash_table_new_full(pair_hash, pair_equal, g_free, place_free);
  overlay->guests = g_hash_table_new(pair_hash, pair_equal);
  overlay->hidden = g_hash_table_new_full(pair_hash, pair_equal, g_free, NULL);
  overlay->replaced = g_hash_table_new_full(pair_hash, pair_equal, g_free, g_free);
  overlay->became = g_hash_table_new_full(pair_hash, pair_equal, g_free, g_free);
  overlay->locals = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  overlay->touched = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  return overlay;
}

void overlay_free(Overlay *overlay) {
  g_queue_clear_full(&overlay->past, g_free);
  g_hash_table_unref(overlay->places);
  g_hash_table_unref(overlay->guests);
  g_hash_table_unref(overlay->entries);
  g_hash_table_unref(overlay->hidden);
  g_hash_table_unref(overlay->replaced);
  g_hash_table_unref(overlay->became);
  g_hash_table_unref(overlay->locals);
  g_hash_table_unref(overlay->touched);
  g_mutex_clear(&overlay->lock);
  g_free(overlay);
}

/* ---- entries ---- */

static void touch_locked(Overlay *overlay, guint32 folder) {
  gint64 now = g_get_real_time() / G_USEC_PER_SEC;
  g_hash_table_replace(overlay->touched, GUINT_TO_POINTER(folder), g_memdup2(&now, sizeof now));
}

static OverlayEntry *entry_locked(Overlay *overlay, guint32 number) {
  return g_hash_table_lookup(overlay->entries, GUINT_TO_POINTER(number));
}

static void link_locked(Overlay *overlay, OverlayEntry *entry) {
  Place *place = g_hash_table_lookup(overlay->places, &entry->dir);
  if (!place) {
    place = g_new0(Place, 1);
    place->by_number = g_tree_new_full(compare_numbers, NULL, NULL, NULL);
    place->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    g_hash_table_insert(overlay->places, g_memdup2(&entry->dir, sizeof entry->dir), place);
  }
  g_tree_insert(place->by_number, GUINT_TO_POINTER(entry->number), entry);
  g_hash_table_replace(place->by_name, entry->name, entry);
  place->folders += entry->local && entry->local->is_folder;
  touch_locked(overlay, entry->dir.folder);
}

static void unlink_locked(Overlay *overlay, OverlayEntry *entry) {
  Place *place = g_hash_table_lookup(overlay->places, &entry->dir);
  g_tree_remove(place->by_number, GUINT_TO_POINTER(entry->number));
  place->folders -= entry->local && entry->local->is_folder;
  if (g_hash_table_lookup(place->by_name, entry->name) == entry)
    g_hash_table_remove(place->by_name, entry->name);
  touch_locked(overlay, entry->dir.folder);
  if (g_tree_nnodes(place->by_number) == 0)
    g_hash_table_remove(overlay->places, &entry->dir);
}

static void remove_locked(Overlay *overlay, guint32 number) {
  OverlayEntry *entry = entry_locked(overlay, number);
  if (!entry)
    return;
  unlink_locked(overlay, entry);
  if (entry->message && g_hash_table_lookup(overlay->guests, &entry->msg) == entry)
    g_hash_table_remove(overlay->guests, &entry->msg);
  g_hash_table_remove(overlay->entries, GUINT_TO_POINTER(number));
}

static void hidden_changed_locked(Overlay *overlay) {
  g_atomic_int_set(&overlay->hiding, (gint) g_hash_table_size(overlay->hidden));
}

/* Forgets what has lingered long enough. */
static void prune_locked(Overlay *overlay) {
  gint64 now = g_get_monotonic_time();
  const Past *past;
  while ((past = g_queue_peek_head(&overlay->past)) && past->until <= now) {
    g_hash_table_remove(overlay->hidden, &past->msg);
    g_free(g_queue_pop_head(&overlay->past));
  }
  hidden_changed_locked(overlay);
}

/* Takes over @entry. */
static void add(Overlay *overlay, OverlayEntry *entry) {
  g_mutex_lock(&overlay->lock);
  remove_locked(overlay, entry->number);
  g_hash_table_insert(overlay->entries, GUINT_TO_POINTER(entry->number), entry);
  link_locked(overlay, entry);
  if (entry->message)
    g_hash_table_replace(overlay->guests, &entry->msg, entry);
  g_mutex_unlock(&overlay->lock);
}

void overlay_add_local(Overlay *overlay, const EngineLocal *local, guint32 change) {
  OverlayEntry *entry = g_new0(OverlayEntry, 1);
  *entry = (OverlayEntry){.number = overlay_local_number(local->id),
                          .dir = {local->folder, local->parent},
                          .name = g_strdup(local->name),
                          .local = local_dup(local),
                          .change = change};
  add(overlay, entry);
}

void overlay_add_guest(Overlay *overlay, guint32 change, guint32 folder, const char *name,
                       EngineMsg msg, const EngineMessage *message) {
  OverlayEntry *entry = g_new0(OverlayEntry, 1);
  *entry = (OverlayEntry){.number = overlay_guest_number(change),
                          .dir = {folder, 0},
                          .name = g_strdup(name),
                          .msg = msg,
                          .message = engine_message_copy(message),
                          .change = change};
  g_free((char *) entry->message->name);
  entry->message->name = g_strdup(name);
  add(overlay, entry);
}

void overlay_remove(Overlay *overlay, guint32 number) {
  g_mutex_lock(&overlay->lock);
  remove_locked(overlay, number);
  g_mutex_unlock(&overlay->lock);
}

void overlay_move(Overlay *overlay, guint32 number, EngineDir dir, const char *name) {
  g_mutex_lock(&overlay->lock);
  OverlayEntry *entry = entry_locked(overlay, number);
  if (entry) {
    unlink_locked(overlay, entry);
    g_free(entry->name);
    entry->name = g_strdup(name);
    entry->dir = dir;
    if (entry->local) {
      g_free(entry->local->name);
      entry->local->name = g_strdup(name);
      entry->local->folder = dir.folder;
      entry->local->parent = dir.local;
    }
    link_locked(overlay, entry);
  }
  g_mutex_unlock(&overlay->lock);
}

void overlay_set_change(Overlay *overlay, guint32 number, guint32 change) {
  g_mutex_lock(&overlay->lock);
  OverlayEntry *entry = entry_locked(overlay, number);
  if (entry)
    entry->change = change;
  g_mutex_unlock(&overlay->lock);
}

void overlay_set_size(Overlay *overlay, guint32 local, guint64 size, gint64 mtime) {
  g_mutex_lock(&overlay->lock);
  OverlayEntry *entry = entry_locked(overlay, overlay_local_number(local));
  if (entry) {
    entry->local->size = size;
    entry->local->mtime = mtime;
    entry->local->ctime = g_get_real_time() / G_USEC_PER_SEC;
  }
  g_mutex_unlock(&overlay->lock);
}

OverlayEntry *overlay_find(Overlay *overlay, EngineDir dir, const char *name) {
  g_mutex_lock(&overlay->lock);
  Place *place = g_hash_table_lookup(overlay->places, &dir);
  OverlayEntry *copy = place ? entry_dup(g_hash_table_lookup(place->by_name, name)) : NULL;
  g_mutex_unlock(&overlay->lock);
  return copy;
}

OverlayEntry *overlay_get(Overlay *overlay, guint32 number) {
  g_mutex_lock(&overlay->lock);
  OverlayEntry *copy = entry_dup(entry_locked(overlay, number));
  g_mutex_unlock(&overlay->lock);
  return copy;
}

OverlayEntry *overlay_get_guest(Overlay *overlay, EngineMsg msg) {
  g_mutex_lock(&overlay->lock);
  OverlayEntry *copy = entry_dup(g_hash_table_lookup(overlay->guests, &msg));
  g_mutex_unlock(&overlay->lock);
  return copy;
}

GPtrArray *overlay_list(Overlay *overlay, EngineDir dir, guint32 after, guint limit) {
  GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify) overlay_entry_free);
  g_mutex_lock(&overlay->lock);
  Place *place = g_hash_table_lookup(overlay->places, &dir);
  GTreeNode *node =
      place ? g_tree_upper_bound(place->by_number, GUINT_TO_POINTER(after)) : NULL;
  for (; node && list->len < limit; node = g_tree_node_next(node))
    g_ptr_array_add(list, entry_dup(g_tree_node_value(node)));
  g_mutex_unlock(&overlay->lock);
  return list;
}

guint overlay_count(Overlay *overlay, EngineDir dir) {
  g_mutex_lock(&overlay->lock);
  Place *place = g_hash_table_lookup(overlay->places, &dir);
  guint count = place ? g_hash_table_size(place->by_name) : 0;
  g_mutex_unlock(&overlay->lock);
  return count;
}

guint overlay_folders(Overlay *overlay, EngineDir dir) {
  g_mutex_lock(&overlay->lock);
  Place *place = g_hash_table_lookup(overlay->places, &dir);
  guint folders = place ? place->folders : 0;
  g_mutex_unlock(&overlay->lock);
  return folders;
}

/* ---- on the way out ---- */

void overlay_hide(Overlay *overlay, EngineMsg msg, guint32 change) {
  g_mutex_lock(&overlay->lock);
  g_hash_table_replace(overlay->hidden, g_memdup2(&msg, sizeof msg), GUINT_TO_POINTER(change));
  hidden_changed_locked(overlay);
  g_mutex_unlock(&overlay->lock);
}

void overlay_unhide(Overlay *overlay, EngineMsg msg) {
  g_mutex_lock(&overlay->lock);
  g_hash_table_remove(overlay->hidden, &msg);
  hidden_changed_locked(overlay);
  g_mutex_unlock(&overlay->lock);
}

void overlay_left(Overlay *overlay, EngineMsg msg) {
  g_mutex_lock(&overlay->lock);
  g_hash_table_replace(overlay->hidden, g_memdup2(&msg, sizeof msg), GUINT_TO_POINTER(0));
  Past past = {g_get_monotonic_time() + LINGER_US, msg};
  g_queue_push_tail(&overlay->past, g_memdup2(&past, sizeof past));
  prune_locked(overlay);
  g_mutex_unlock(&overlay->lock);
}

gboolean overlay_is_hidden(Overlay *overlay, EngineMsg msg) {
  if (!overlay_hides(overlay))
    return FALSE;
  g_mutex_lock(&overlay->lock);
  gboolean hidden = g_hash_table_contains(overlay->hidden, &msg);
  g_mutex_unlock(&overlay->lock);
  return hidden;
}

gboolean overlay_hides(Overlay *overlay) {
  return g_atomic_int_get(&overlay->hiding) > 0;
}

/* ---- being replaced ---- */

void overlay_replace(Overlay *overlay, EngineMsg msg, guint32 local, guint64 size, gint64 mtime,
                     guint32 change) {
  OverlayReplaced replaced = {local, size, mtime, change};
  g_mutex_lock(&overlay->lock);
  g_hash_table_replace(overlay->replaced, g_memdup2(&msg, sizeof msg),
                       g_memdup2(&replaced, sizeof replaced));
  g_mutex_unlock(&overlay->lock);
}

void overlay_unreplace(Overlay *overlay, EngineMsg msg) {
  g_mutex_lock(&overlay->lock);
  g_hash_table_remove(overlay->replaced, &msg);
  g_mutex_unlock(&overlay->lock);
}

gboolean overlay_get_replaced(Overlay *overlay, EngineMsg msg, OverlayReplaced *out) {
  g_mutex_lock(&overlay->lock);
  const OverlayReplaced *found = g_hash_table_lookup(overlay->replaced, &msg);
  if (found && out)
    *out = *found;
  g_mutex_unlock(&overlay->lock);
  return found != NULL;
}

/* ---- what became of it ---- */

void overlay_became(Overlay *overlay, EngineMsg from, EngineMsg to) {
  g_mutex_lock(&overlay->lock);
  if (g_hash_table_size(overlay->became) >= BECAME_MOST)
    g_hash_table_remove_all(overlay->became);
  g_hash_table_replace(overlay->became, g_memdup2(&from, sizeof from), g_memdup2(&to, sizeof to));
  g_mutex_unlock(&overlay->lock);
}

void overlay_local_became(Overlay *overlay, guint32 local, EngineMsg to) {
  g_mutex_lock(&overlay->lock);
  if (g_hash_table_size(overlay->locals) >= BECAME_MOST)
    g_hash_table_remove_all(overlay->locals);
  g_hash_table_replace(overlay->locals, GUINT_TO_POINTER(local), g_memdup2(&to, sizeof to));
  g_mutex_unlock(&overlay->lock);
}

static EngineMsg resolve_locked(Overlay *overlay, EngineMsg msg) {
  const EngineMsg *next;
  for (guint i = 0; i < CHAIN_MOST && (next = g_hash_table_lookup(overlay->became, &msg)); i++)
    msg = *next;
  return msg;
}

EngineMsg overlay_resolve(Overlay *overlay, EngineMsg msg) {
  g_mutex_lock(&overlay->lock);
  EngineMsg now = resolve_locked(overlay, msg);
  g_mutex_unlock(&overlay->lock);
  return now;
}

gboolean overlay_resolve_local(Overlay *overlay, guint32 local, EngineMsg *msg_out) {
  g_mutex_lock(&overlay->lock);
  const EngineMsg *msg = g_hash_table_lookup(overlay->locals, GUINT_TO_POINTER(local));
  if (msg)
    *msg_out = resolve_locked(overlay, *msg);
  g_mutex_unlock(&overlay->lock);
  return msg != NULL;
}

/* ---- times of folders ---- */

void overlay_touch(Overlay *overlay, guint32 folder) {
  g_mutex_lock(&overlay->lock);
  touch_locked(overlay, folder);
  g_mutex_unlock(&overlay->lock);
}

gint64 overlay_touched(Overlay *overlay, guint32 folder) {
  g_mutex_lock(&overlay->lock);
  const gint64 *when = g_hash_table_lookup(overlay->touched, GUINT_TO_POINTER(folder));
  gint64 seconds = when ? *when : 0;
  g_mutex_unlock(&overlay->lock);
  return seconds;
}
