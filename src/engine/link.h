/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Whether the server can be reached: one state for all connections, so that a request which would
 * only run into the same wall is answered at once.
 *
 *   online ──a connection breaks──▶ shaky ──the grace passes without one that works──▶ offline
 *     ▲ └────refused login, bad certificate, silence────────────────────────────────▶ │
 *     └──────────────────────a connection works──────────────────────────────────────┘
 *
 * Shaky exists because a server that restarts is back within a second or two: readers wait that
 * out instead of failing. Held is offline because somebody said so, until he says otherwise.
 *
 * Connections come in generations: each is opened under link_cancellable(), so that link_renew()
 * ends those that wait on a dead socket at once. Their owners see CANCELLED and go on with new ones.
 *
 * Any function may be called from any thread.
 */
#pragma once

#include <gio/gio.h>

typedef struct Link Link;

typedef enum { LINK_ONLINE, LINK_SHAKY, LINK_OFFLINE } LinkState;

/* @grace_ms: how long it may stay shaky. */
Link *link_new(gint64 grace_ms);
void link_free(Link *link);

/* @changed is called (no lock held) whenever the state became online or offline. Set once, before
 * other threads use the link. */
void link_set_changed(Link *link, void (*changed)(LinkState state, gpointer data), gpointer data);

/* Begins offline because of @error, before any thread uses the link. */
void link_start_offline(Link *link, const GError *error);

/* A connection was made. */
void link_works(Link *link);

/* A connection broke or could not be made. Returns TRUE when trying again at once makes sense
 * (still within the grace), FALSE when the link is offline now. */
gboolean link_failed(Link *link, const GError *error);

/* FALSE with a copy of the reason when offline. */
gboolean link_usable(Link *link, GError **error);

/* Counts the times it went offline or was renewed: a connection made under an older number is not to
 * be trusted. */
guint link_epoch(Link *link);

/* Under which a connection is to be opened now. A reference. */
GCancellable *link_cancellable(Link *link);

/* Ends every connection made so far; the state stays. */
void link_renew(Link *link);

/* Goes offline on purpose, ending every connection, or allows to be online again. */
void link_hold(Link *link, gboolean hold);
gboolean link_is_held(Link *link);

/* For good: ends every connection, those still to be made too. */
void link_stop(Link *link);

/* For the status text: state, since when (real time, seconds), and the last reason or NULL
 * (g_free). */
LinkState link_describe(Link *link, gint64 *since_out, char **reason_out);
