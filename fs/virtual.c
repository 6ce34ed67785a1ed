/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/virtual.h"

#include <string.h>

#include "base/log.h"
#include "fs/ctl.h"

#define FRESH_US G_USEC_PER_SEC

static char *text_status(Engine *engine) {
  return engine_status(engine);
}

static char *text_log(Engine *engine) {
  return log_text();
}

static char *text_ctl(Engine *engine) {
  return g_strdup(engine_commands(engine));
}

/* Ids are positions here and part of inode numbers: append only. */
static const struct {
  const char *name;
  char *(*text)(Engine *engine);
  gboolean writable;
} files[] = {
    {"status", text_status, FALSE},
    {"log", text_log, FALSE},
    {CTL_NAME, text_ctl, TRUE},
};

struct VirtualText {
  guint references; /* under the lock of Virtual: one of `current`, one each open */
  gint64 taken;     /* monotonic, microseconds */
  gint64 mtime;     /* seconds */
  gsize size;
  char *data;
};

struct Virtual {
  Engine *engine;
  GMutex lock; /* guards `current` and references; the engine is not called while it is held */
  VirtualText *current[G_N_ELEMENTS(files)];
};

Virtual *virtual_new(Engine *engine) {
  Virtual *virtual = g_new0(Virtual, 1);
  virtual->engine = engine;
  g_mutex_init(&virtual->lock);
  return virtual;
}

static void unref_locked(VirtualText *text) {
  if (!text || --text->references)
    return;
  g_free(text->data);
  g_free(text);
}

void virtual_free(Virtual **virtual_inout) {
  Virtual *virtual = g_steal_pointer(virtual_inout);
  if (!virtual)
    return;
  for (guint i = 0; i < G_N_ELEMENTS(files); i++)
    unref_locked(virtual->current[i]);
  g_mutex_clear(&virtual->lock);
  g_free(virtual);
}

const char *virtual_name(guint32 id) {
  return id >= 1 && id <= G_N_ELEMENTS(files) ? files[id - 1].name : NULL;
}

guint32 virtual_id(const char *name) {
  for (guint32 id = 1; id <= G_N_ELEMENTS(files); id++)
    if (g_str_equal(files[id - 1].name, name))
      return id;
  return 0;
}

/* Returns a reference. */
static VirtualText *look(Virtual *virtual, guint32 id, gboolean open) {
  VirtualText **current = &virtual->current[id - 1];
  gint64 now = g_get_monotonic_time();

  g_mutex_lock(&virtual->lock);
  VirtualText *text = *current;
  if (text && !open && (text->references > 1 || now - text->taken < FRESH_US)) {
    text->references++;
    g_mutex_unlock(&virtual->lock);
    return text;
  }
  g_mutex_unlock(&virtual->lock);

  char *data = files[id - 1].text(virtual->engine);
  VirtualText *fresh = g_new0(VirtualText, 1);
  *fresh = (VirtualText){.references = 2, .taken = now, .size = strlen(data), .data = data};
  fresh->mtime = g_get_real_time() / G_USEC_PER_SEC;

  g_mutex_lock(&virtual->lock);
  text = *current;
  if (text && text->size == fresh->size && memcmp(text->data, data, fresh->size) == 0)
    fresh->mtime = text->mtime;
  unref_locked(text);
  *current = fresh;
  g_mutex_unlock(&virtual->lock);
  return fresh;
}

void virtual_close(Virtual *virtual, VirtualText *text) {
  g_mutex_lock(&virtual->lock);
  unref_locked(text);
  g_mutex_unlock(&virtual->lock);
}

void virtual_stat(const Fs *fs, guint32 id, struct stat *st_out) {
  VirtualText *text = look(fs->virtual, id, FALSE);
  attr_control_file(fs, id, text->size, text->mtime, st_out);
  if (files[id - 1].writable)
    st_out->st_mode |= S_IWUSR;
  virtual_close(fs->virtual, text);
}

VirtualText *virtual_open(Virtual *virtual, guint32 id) {
  return look(virtual, id, TRUE);
}

const char *virtual_data(const VirtualText *text, gsize *size_out) {
  *size_out = text->size;
  return text->data;
}
