/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/link.h"

#include "base/err.h"
#include "base/log.h"

struct Link {
  gint64 grace_us;
  GMutex lock; /* guards everything below; a leaf */
  LinkState state;
  guint epoch;
  gint64 shaky_since; /* monotonic µs */
  gint64 since;       /* real time, seconds */
  GError *reason;
  void (*changed)(LinkState, gpointer);
  gpointer changed_data;
};

Link *link_new(gint64 grace_ms) {
  Link *link = g_new0(Link, 1);
  link->grace_us = grace_ms * 1000;
  g_mutex_init(&link->lock);
  link->since = g_get_real_time() / G_USEC_PER_SEC;
  return link;
}

void link_free(Link *link) {
  g_clear_error(&link->reason);
  g_mutex_clear(&link->lock);
  g_free(link);
}

void link_set_changed(Link *link, void (*changed)(LinkState, gpointer), gpointer data) {
  link->changed = changed;
  link->changed_data = data;
}

/* Enters @state; returns whether it is to be told. */
static gboolean enter_locked(Link *link, LinkState state) {
  if (link->state == state)
    return FALSE;
  gboolean tell = state == LINK_OFFLINE || link->state == LINK_OFFLINE;
  link->state = state;
  if (state == LINK_SHAKY)
    link->shaky_since = g_get_monotonic_time();
  if (state == LINK_OFFLINE)
    link->epoch++;
  if (tell)
    link->since = g_get_real_time() / G_USEC_PER_SEC;
  return tell;
}

void link_start_offline(Link *link, const GError *error) {
  link->state = LINK_OFFLINE;
  link->epoch++;
  link->reason = g_error_copy(error);
}

void link_works(Link *link) {
  g_mutex_lock(&link->lock);
  gboolean tell = enter_locked(link, LINK_ONLINE);
  g_clear_error(&link->reason);
  g_mutex_unlock(&link->lock);
  if (!tell)
    return;
  log_info("online again");
  if (link->changed)
    link->changed(LINK_ONLINE, link->changed_data);
}

gboolean link_failed(Link *link, const GError *error) {
  /* A broken connection may be a restart; everything else stays as it is when tried again. */
  gboolean passing = g_error_matches(error, EML_ERROR, EML_ERROR_OFFLINE);
  g_mutex_lock(&link->lock);
  gboolean again = FALSE, tell = FALSE;
  if (link->state != LINK_OFFLINE) {
    if (passing && link->state == LINK_ONLINE)
      enter_locked(link, LINK_SHAKY);
    again = passing && g_get_monotonic_time() - link->shaky_since < link->grace_us;
    if (!again)
      tell = enter_locked(link, LINK_OFFLINE);
  }
  g_clear_error(&link->reason);
  link->reason = g_error_copy(error);
  g_mutex_unlock(&link->lock);
  if (tell) {
    log_warning("offline: %s", error->message);
    if (link->changed)
      link->changed(LINK_OFFLINE, link->changed_data);
  }
  return again;
}

gboolean link_usable(Link *link, GError **error) {
  g_mutex_lock(&link->lock);
  gboolean usable = link->state != LINK_OFFLINE;
  if (!usable && error)
    *error = g_error_copy(link->reason);
  g_mutex_unlock(&link->lock);
  return usable;
}

guint link_epoch(Link *link) {
  g_mutex_lock(&link->lock);
  guint epoch = link->epoch;
  g_mutex_unlock(&link->lock);
  return epoch;
}

LinkState link_describe(Link *link, gint64 *since_out, char **reason_out) {
  g_mutex_lock(&link->lock);
  LinkState state = link->state;
  *since_out = link->since;
  *reason_out = link->reason ? g_strdup(link->reason->message) : NULL;
  g_mutex_unlock(&link->lock);
  return state;
}
