/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A deadline is a g_get_monotonic_time() value in microseconds; DEADLINE_NEVER is none.
 */
#pragma once

#include <glib.h>

#define DEADLINE_NEVER G_MAXINT64

/* The deadline @ms milliseconds from now. Any thread. */
static inline gint64 deadline_in_ms(gint64 ms) {
  return g_get_monotonic_time() + ms * 1000;
}

/* Milliseconds left, rounded up, for poll(2): -1 for never, 0 when it has passed. Any thread. */
static inline int deadline_poll_ms(gint64 deadline) {
  if (deadline == DEADLINE_NEVER)
    return -1;
  gint64 left = deadline - g_get_monotonic_time();
  return left <= 0 ? 0 : (int) MIN((left + 999) / 1000, G_MAXINT);
}
