/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/log.h"

#include <stdio.h>
#include <string.h>

#define KEPT_LINES 1000
#define LINE_MAX_BYTES 1000

/* `lock` guards everything here; it is a leaf: nothing else is locked while it is held. */
static GMutex lock;
static GQueue lines = G_QUEUE_INIT;
static GPtrArray *secrets;
static LogLevel kept_level = LOG_INFO;
static gboolean echo_to_stderr;

static const char *const level_names[] = {"error", "warning", "info", "debug"};

void log_setup(LogLevel level, gboolean to_stderr) {
  g_mutex_lock(&lock);
  kept_level = level;
  echo_to_stderr = to_stderr;
  g_mutex_unlock(&lock);
}

void log_set_level(LogLevel level) {
  g_mutex_lock(&lock);
  kept_level = level;
  g_mutex_unlock(&lock);
}

gboolean log_level_parse(const char *name, LogLevel *level_out) {
  for (guint i = 0; i < G_N_ELEMENTS(level_names); i++)
    if (g_str_equal(level_names[i], name)) {
      *level_out = (LogLevel) i;
      return TRUE;
    }
  return FALSE;
}

void log_redact(const char *secret) {
  if (strlen(secret) < 4)
    return;
  g_mutex_lock(&lock);
  if (!secrets)
    secrets = g_ptr_array_new_with_free_func(g_free);
  gboolean known = FALSE;
  for (guint i = 0; i < secrets->len && !known; i++)
    known = g_str_equal(g_ptr_array_index(secrets, i), secret);
  if (!known)
    g_ptr_array_add(secrets, g_strdup(secret));
  g_mutex_unlock(&lock);
}

/* The caller holds `lock`. */
static void redact_locked(GString *line) {
  for (guint i = 0; secrets && i < secrets->len; i++)
    g_string_replace(line, g_ptr_array_index(secrets, i), "***", 0);
  for (gsize i = 0; i < line->len; i++)
    if ((guchar) line->str[i] < 0x20 || line->str[i] == 0x7f)
      line->str[i] = '?';
}

void log_line(LogLevel level, const char *format, ...) {
  g_mutex_lock(&lock);
  gboolean wanted = level <= kept_level;
  g_mutex_unlock(&lock);
  if (!wanted)
    return;

  g_autoptr(GDateTime) now = g_date_time_new_now_utc();
  g_autofree char *time = g_date_time_format(now, "%Y-%m-%dT%H:%M:%SZ");
  g_autoptr(GString) message = g_string_new(NULL);
  va_list args;
  va_start(args, format);
  g_string_vprintf(message, format, args);
  va_end(args);

  g_mutex_lock(&lock);
  redact_locked(message); /* before the cut, so that no half of a secret stays */
  if (message->len > LINE_MAX_BYTES)
    g_string_truncate(message, LINE_MAX_BYTES);
  char *line = g_strdup_printf("%s %s %s", time, level_names[level], message->str);
  g_queue_push_tail(&lines, line);
  if (lines.length > KEPT_LINES)
    g_free(g_queue_pop_head(&lines));
  if (echo_to_stderr)
    fprintf(stderr, "emlfs: %s\n", message->str);
  g_mutex_unlock(&lock);
}

char *log_text(void) {
  GString *text = g_string_new(NULL);
  g_mutex_lock(&lock);
  for (GList *link = lines.head; link; link = link->next) {
    g_string_append(text, link->data);
    g_string_append_c(text, '\n');
  }
  g_mutex_unlock(&lock);
  return g_string_free(text, FALSE);
}
