/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/maildir-memory.h"

#define PLACES_MOST 100000 /* about 5 MiB */
#define LINKS_MOST 1000
#define FRESH_US (10 * G_USEC_PER_SEC)

typedef struct {
  gint64 key; /* of folder and name; two with the same share a place, which does no harm */
  MaildirPart part;
  MaildirFlags letters;
} Place;

typedef struct {
  gint64 changed;
  gint64 mtime; /* of the EngineFolder, as last seen */
  guint32 count;
  gboolean seen;
} Times;

typedef struct {
  gint64 until;  /* monotonic, microseconds */
  guint missing; /* bits of MaildirPart */
} Fresh;

struct MaildirMemory {
  GMutex lock; /* guards what follows; a leaf */
  GHashTable *places; /* Place, by its key */
  GHashTable *times;  /* folder → Times */
  GHashTable *links;  /* "folder/tmp" → plain name */
  GHashTable *fresh;  /* folder → Fresh; as many as folders were made */
  gint64 began;
};

MaildirMemory *maildir_memory_new(void) {
  MaildirMemory *memory = g_new0(MaildirMemory, 1);
  g_mutex_init(&memory->lock);
  memory->places = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
  memory->times = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
  memory->links = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  memory->fresh = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
  memory->began = g_get_real_time() * 1000;
  return memory;
}

void maildir_memory_free(MaildirMemory **memory_inout) {
  MaildirMemory *memory = g_steal_pointer(memory_inout);
  if (!memory)
    return;
  g_hash_table_unref(memory->places);
  g_hash_table_unref(memory->times);
  g_hash_table_unref(memory->links);
  g_hash_table_unref(memory->fresh);
  g_mutex_clear(&memory->lock);
  g_free(memory);
}

/* ---- places ---- */

/* FNV-1a. */
static gint64 place_key(guint32 folder, const char *plain) {
  guint64 hash = 14695981039346656037u ^ folder;
  for (const char *at = plain; *at; at++)
    hash = (hash ^ (guint8) *at) * 1099511628211u;
  return (gint64) hash;
}

void maildir_place_set(MaildirMemory *memory, guint32 folder, const char *plain, MaildirPart part,
                       MaildirFlags letters) {
  Place *place = g_new(Place, 1);
  *place = (Place){place_key(folder, plain), part, letters};
  g_mutex_lock(&memory->lock);
  if (g_hash_table_size(memory->places) >= PLACES_MOST)
    g_hash_table_remove_all(memory->places);
  g_hash_table_replace(memory->places, &place->key, place);
  g_mutex_unlock(&memory->lock);
}

gboolean maildir_place_get(MaildirMemory *memory, guint32 folder, const char *plain,
                           MaildirPart *part_out, MaildirFlags *letters_out) {
  g_mutex_lock(&memory->lock);
  const Place *place = NULL;
  if (g_hash_table_size(memory->places)) {
    gint64 key = place_key(folder, plain);
    place = g_hash_table_lookup(memory->places, &key);
  }
  if (place) {
    *part_out = place->part;
    *letters_out = place->letters;
  }
  g_mutex_unlock(&memory->lock);
  return place != NULL;
}

/* ---- times ---- */

static Times *times_locked(MaildirMemory *memory, guint32 folder) {
  Times *times = g_hash_table_lookup(memory->times, GUINT_TO_POINTER(folder));
  if (!times) {
    times = g_new0(Times, 1);
    times->changed = memory->began;
    g_hash_table_insert(memory->times, GUINT_TO_POINTER(folder), times);
  }
  return times;
}

static void touch_locked(Times *times) {
  times->changed = MAX(g_get_real_time() * 1000, times->changed + 1);
}

void maildir_touch(MaildirMemory *memory, guint32 folder) {
  g_mutex_lock(&memory->lock);
  touch_locked(times_locked(memory, folder));
  g_mutex_unlock(&memory->lock);
}

void maildir_news(const EngineNews *news, gsize count, gpointer data) {
  MaildirMemory *memory = data;
  g_mutex_lock(&memory->lock);
  for (gsize i = 0; i < count; i++) {
    touch_locked(times_locked(memory, news[i].folder));
    if (news[i].kind == ENGINE_NEWS_FOLDER_NEW || news[i].kind == ENGINE_NEWS_FOLDER_GONE)
      touch_locked(times_locked(memory, news[i].parent));
  }
  g_mutex_unlock(&memory->lock);
}

gint64 maildir_changed(MaildirMemory *memory, const EngineFolder *folder) {
  g_mutex_lock(&memory->lock);
  Times *times = times_locked(memory, folder->id);
  if (times->seen && (times->mtime != folder->mtime || times->count != folder->count))
    touch_locked(times);
  times->seen = TRUE;
  times->mtime = folder->mtime;
  times->count = folder->count;
  gint64 changed = times->changed;
  g_mutex_unlock(&memory->lock);
  return changed;
}

/* ---- new folders ---- */

void maildir_fresh_set(MaildirMemory *memory, guint32 folder) {
  Fresh *fresh = g_new(Fresh, 1);
  *fresh = (Fresh){g_get_monotonic_time() + FRESH_US,
                   1u << MAILDIR_CUR | 1u << MAILDIR_NEW | 1u << MAILDIR_TMP};
  g_mutex_lock(&memory->lock);
  g_hash_table_replace(memory->fresh, GUINT_TO_POINTER(folder), fresh);
  g_mutex_unlock(&memory->lock);
}

static Fresh *fresh_locked(MaildirMemory *memory, guint32 folder, MaildirPart part) {
  Fresh *fresh = g_hash_table_lookup(memory->fresh, GUINT_TO_POINTER(folder));
  gboolean missing = fresh && fresh->missing & 1u << part && fresh->until > g_get_monotonic_time();
  return missing ? fresh : NULL;
}

gboolean maildir_is_fresh(MaildirMemory *memory, guint32 folder, MaildirPart part) {
  g_mutex_lock(&memory->lock);
  gboolean is = fresh_locked(memory, folder, part) != NULL;
  g_mutex_unlock(&memory->lock);
  return is;
}

gboolean maildir_fresh_make(MaildirMemory *memory, guint32 folder, MaildirPart part) {
  g_mutex_lock(&memory->lock);
  Fresh *fresh = fresh_locked(memory, folder, part);
  if (fresh)
    fresh->missing &= ~(1u << part);
  g_mutex_unlock(&memory->lock);
  return fresh != NULL;
}

/* ---- links ---- */

static char *link_key(guint32 folder, const char *tmp) {
  return g_strdup_printf("%u/%s", folder, tmp);
}

void maildir_link_set(MaildirMemory *memory, guint32 folder, const char *tmp, const char *plain) {
  g_mutex_lock(&memory->lock);
  if (g_hash_table_size(memory->links) >= LINKS_MOST)
    g_hash_table_remove_all(memory->links);
  g_hash_table_replace(memory->links, link_key(folder, tmp), g_strdup(plain));
  g_mutex_unlock(&memory->lock);
}

char *maildir_link_get(MaildirMemory *memory, guint32 folder, const char *tmp) {
  g_autofree char *key = link_key(folder, tmp);
  g_mutex_lock(&memory->lock);
  char *plain = g_strdup(g_hash_table_lookup(memory->links, key));
  g_mutex_unlock(&memory->lock);
  return plain;
}

gboolean maildir_link_drop(MaildirMemory *memory, guint32 folder, const char *tmp) {
  g_autofree char *key = link_key(folder, tmp);
  g_mutex_lock(&memory->lock);
  gboolean was = g_hash_table_remove(memory->links, key);
  g_mutex_unlock(&memory->lock);
  return was;
}
