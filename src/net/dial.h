/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TCP to a named host: every address in turn, families mixed, each given a head start of 250 ms
 * over the next (RFC 8305).
 */
#pragma once

#include <gio/gio.h>

/* Connects to @host (a name or an address literal). Returns a non-blocking descriptor with
 * TCP_NODELAY and keepalive, owned by the caller; -1 with @error: OFFLINE, TIMEOUT, CANCELLED.
 * @cancel_fd is @cancellable's descriptor, -1 without one. Any thread. */
int dial(const char *host, guint16 port, gint64 deadline, GCancellable *cancellable, int cancel_fd,
         GError **error);
