/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/ctl.h"

#include <string.h>

#include "fs/reply.h"
#include "fs/virtual.h"

#define LINE_MAX_BYTES 4096

struct Ctl {
  Engine *engine;
  GMutex lock;   /* guards what follows; the engine is called while it is held, and calls nobody back */
  GString *text; /* what is read */
  gint64 at;     /* offset of its first octet */
};

Ctl *ctl_new(Engine *engine) {
  Ctl *ctl = g_new0(Ctl, 1);
  ctl->engine = engine;
  g_mutex_init(&ctl->lock);
  ctl->text = g_string_new(engine_commands(engine));
  return ctl;
}

void ctl_free(Ctl *ctl) {
  g_string_free(ctl->text, TRUE);
  g_mutex_clear(&ctl->lock);
  g_free(ctl);
}

gboolean ctl_is(guint64 ino) {
  return ino == node_ino((Node){NODE_CONTROL_FILE, virtual_id(CTL_NAME), 0});
}

/* Runs one line and adds what came of it to the text. Returns 0 or an errno. */
static int run_line_locked(Ctl *ctl, const char *line) {
  g_autofree char *answer = NULL;
  g_autoptr(GError) error = NULL;
  gboolean ok = engine_command(ctl->engine, line, &answer, &error);
  const char *said = ok ? answer : error->message;
  if (*said)
    g_string_append_printf(ctl->text, "%s\n", said);
  return ok ? 0 : reply_errno(error);
}

void ctl_write(Ctl *ctl, fuse_req_t req, const char *data, gsize size, off_t offset) {
  if (size > LINE_MAX_BYTES || memchr(data, 0, size)) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  g_autofree char *text = g_strndup(data, size);
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  int failure = 0;
  g_mutex_lock(&ctl->lock);
  g_string_truncate(ctl->text, 0);
  for (char **line = lines; *line && !failure; line++)
    failure = run_line_locked(ctl, *line);
  /* After a failed write the offset stays where it was. */
  ctl->at = failure ? offset : offset + (off_t) size;
  g_mutex_unlock(&ctl->lock);
  if (failure)
    fuse_reply_err(req, failure);
  else
    fuse_reply_write(req, size);
}

void ctl_read(Ctl *ctl, fuse_req_t req, gsize size, off_t offset) {
  g_mutex_lock(&ctl->lock);
  if (offset < ctl->at)
    ctl->at = 0; /* the reader went back to the beginning */
  gsize from = MIN((gsize) (offset - ctl->at), ctl->text->len);
  gsize count = MIN(size, ctl->text->len - from);
  g_autofree char *part = g_memdup2(ctl->text->str + from, count);
  g_mutex_unlock(&ctl->lock);
  /* Once it is answered the file may be closed. */
  fuse_reply_buf(req, part, count);
}

void ctl_setattr(const Fs *fs, fuse_req_t req) {
  struct stat st;
  virtual_stat(fs, virtual_id(CTL_NAME), &st);
  fuse_reply_attr(req, &st, 0);
}
