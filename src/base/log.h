/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The log: one line an event, to stderr while in the foreground and to a ring that .control/log
 * shows. A line is made safe before it is kept: control bytes become '?', registered secrets '***'.
 */
#pragma once

#include <glib.h>

typedef enum { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG } LogLevel;

/* Sets what is kept and whether it also goes to stderr. Any thread. */
void log_setup(LogLevel level, gboolean to_stderr);

/* Changes only what is kept. Any thread. */
void log_set_level(LogLevel level);

/* "error" … "debug". FALSE: it is none of them. Any thread. */
gboolean log_level_parse(const char *name, LogLevel *level_out);

/* Adds a line "TIME LEVEL message". Never blocks on anything but a short lock. Any thread. */
void log_line(LogLevel level, const char *format, ...) G_GNUC_PRINTF(2, 3);
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* @secret (at least 4 bytes) will be shown as *** in any line from now on. Any thread. */
void log_redact(const char *secret);

/* All lines that are kept (the last 1,000), oldest first, each ended by \n. Free with g_free.
 * Any thread. */
char *log_text(void);
