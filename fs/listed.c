/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/listed.h"

struct Listed {
  GMutex lock; /* guards what follows; a leaf */
  gboolean complete; /* `last` is known */
  guint32 last;
  GHashTable *guests; /* names; NULL: none */
};

Listed *listed_new(void) {
  Listed *listed = g_new0(Listed, 1);
  g_mutex_init(&listed->lock);
  return listed;
}

void listed_free(Listed *listed) {
  g_clear_pointer(&listed->guests, g_hash_table_unref);
  g_mutex_clear(&listed->lock);
  g_free(listed);
}

void listed_restart(Listed *listed) {
  g_mutex_lock(&listed->lock);
  listed->complete = FALSE;
  g_clear_pointer(&listed->guests, g_hash_table_unref);
  g_mutex_unlock(&listed->lock);
}

void listed_messages(Listed *listed, guint32 uid) {
  g_mutex_lock(&listed->lock);
  listed->complete = TRUE;
  listed->last = uid;
  g_mutex_unlock(&listed->lock);
}

void listed_guest(Listed *listed, const char *name) {
  g_mutex_lock(&listed->lock);
  if (!listed->guests)
    listed->guests = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_hash_table_add(listed->guests, g_strdup(name));
  g_mutex_unlock(&listed->lock);
}

gboolean listed_later(Listed *listed, guint32 *uid_out) {
  g_mutex_lock(&listed->lock);
  gboolean complete = listed->complete;
  *uid_out = listed->last;
  g_mutex_unlock(&listed->lock);
  return complete;
}

gboolean listed_has_guest(Listed *listed, const char *name) {
  g_mutex_lock(&listed->lock);
  gboolean has = listed->guests && g_hash_table_contains(listed->guests, name);
  g_mutex_unlock(&listed->lock);
  return has;
}
