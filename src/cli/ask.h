/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Asks the person at the terminal.
 */
#pragma once

#include <gio/gio.h>

#include "base/secret.h"

/* An AccountAskFn; @data is a GCancellable or NULL. Reads a line from the controlling terminal
 * without echo. AUTH when there is no terminal, CANCELLED. */
Secret *ask_terminal(const char *prompt, gpointer data, GError **error);
