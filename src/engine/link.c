/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/link.h"

#include "base/err.h"
#include "base/log.h"

struct Link {
  gint64 grace_us;
  GMutex lock; /* guards everything below; a leaf */
  LinkState state;
  gboolean held, stopped;
  guint epoch;
  GCancellable *generation;
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
  link->generation = g_cancellable_new();
  link->since = g_get_real_time() / G_USEC_PER_SEC;
  return link;
}

void link_free(Link *link) {
  g_object_unref(link->generation);
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
  /* One that was made just before it was held has been ended. */
  gboolean tell = !link->held && enter_locked(link, LINK_ONLINE);
  if (!link->held)
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
  if (!link->held) {
    g_clear_error(&link->reason);
    link->reason = g_error_copy(error);
  }
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

GCancellable *link_cancellable(Link *link) {
  g_mutex_lock(&link->lock);
  GCancellable *generation = g_object_ref(link->generation);
  g_mutex_unlock(&link->lock);
  return generation;
}

/* Begins a new generation and returns the old one, to be cancelled without the lock. */
static GCancellable *renew_locked(Link *link) {
  GCancellable *old = link->generation;
  link->generation = link->stopped ? g_object_ref(old) : g_cancellable_new();
  link->epoch++;
  return old;
}

static void end_generation(GCancellable *old) {
  g_cancellable_cancel(old);
  g_object_unref(old);
}

void link_renew(Link *link) {
  g_mutex_lock(&link->lock);
  GCancellable *old = renew_locked(link);
  g_mutex_unlock(&link->lock);
  end_generation(old);
}

void link_stop(Link *link) {
  g_mutex_lock(&link->lock);
  link->stopped = TRUE;
  g_mutex_unlock(&link->lock);
  link_renew(link);
}

void link_hold(Link *link, gboolean hold) {
  g_mutex_lock(&link->lock);
  gboolean changes = link->held != hold;
  GCancellable *old = NULL;
  if (changes && hold) {
    enter_locked(link, LINK_OFFLINE);
    link->since = g_get_real_time() / G_USEC_PER_SEC;
    g_clear_error(&link->reason);
    link->reason = g_error_new_literal(EML_ERROR, EML_ERROR_OFFLINE,
                                       "told to stay offline (echo online > .control/ctl ends it)");
    old = renew_locked(link);
  } else if (changes) {
    /* It stays offline until a connection works. */
    g_clear_error(&link->reason);
    link->reason =
        g_error_new_literal(EML_ERROR, EML_ERROR_OFFLINE, "not yet connected again");
  }
  link->held = hold;
  g_mutex_unlock(&link->lock);
  if (!old)
    return;
  log_info("offline on purpose");
  end_generation(old);
  if (link->changed)
    link->changed(LINK_OFFLINE, link->changed_data);
}

gboolean link_is_held(Link *link) {
  g_mutex_lock(&link->lock);
  gboolean held = link->held;
  g_mutex_unlock(&link->lock);
  return held;
}

LinkState link_describe(Link *link, gint64 *since_out, char **reason_out) {
  g_mutex_lock(&link->lock);
  LinkState state = link->state;
  *since_out = link->since;
  *reason_out = link->reason ? g_strdup(link->reason->message) : NULL;
  g_mutex_unlock(&link->lock);
  return state;
}
