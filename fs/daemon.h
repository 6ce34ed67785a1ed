/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Going to the background: the command that was typed waits until the daemon says that it is
 * ready, or why not.
 */
#pragma once

#include <glib.h>

/* Forks unless @foreground. Returns in the daemon, still with the terminal, so that it can ask for
 * a password; the parent waits and exits. Before any thread exists. FALSE with @error. */
gboolean daemon_begin(gboolean foreground, GError **error);

/* Leaves the terminal, its session and its files, and lets the parent exit 0. */
void daemon_ready(void);

/* Prints "emlfs: MESSAGE", by the parent if there is one, which then exits 1. */
void daemon_fail(const char *message);
