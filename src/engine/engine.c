/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The engine puts together: store (what is known), pool (connections that work), watch (connections
 * that listen), syncs and bodies (what the pool is to do), waits (who waits for it), link (whether
 * the server is there). This file is its life and its account; folders.c answers from the index.
 */
#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/changes-private.h"
#include "mime/names.h"
#include "sync/sync.h"

#define LOGIN_MOST_S 15
#define GRACE_MOST_MS 4000 /* a server that restarts is back by then */
#define PROBE_MOST_MS 5000 /* so long it has to give a sign of life after the network changed */

static Secret *get_secret(gboolean again, gboolean *is_token_out, gpointer data, GError **error) {
  Engine *engine = data;
  return account_secret(engine->account, again, is_token_out, error);
}

static void on_link_changed(LinkState state, gpointer data) {
  Engine *engine = data;
  if (state == LINK_OFFLINE) {
    watch_lost(engine->watch);
    pool_wake(engine->pool);
  } else {
    changes_wake(engine->changes);
  }
}

/* A connection over an address or route that is gone would be waited for until its deadline. */
static void on_network_changed(gboolean slept, gpointer data) {
  Engine *engine = data;
  if (link_is_held(engine->link))
    return;
  if (watch_probe(engine->watch, MIN((gint64) engine->account->timeout * 500, PROBE_MOST_MS)))
    return;
  log_info("the server is silent since %s; connecting anew",
           slept ? "the machine woke up" : "the network changed");
  link_renew(engine->link);
  pool_wake(engine->pool);
  watch_wake(engine->watch);
}

static gboolean spare_connection(gpointer data) {
  return watch_spare(((Engine *) data)->watch);
}

Engine *engine_open(Account *account, char **notice_out, GError **error) {
  mime_init();
  g_autofree char *identity = g_strdup_printf("%s@%s", account->user, account->imap_host);
  StoreConfig config = {
      .dir = account->cache_dir, .identity = identity, .cache_size = account->cache_size};
  Store *store = store_open(&config, notice_out, error);
  if (!store)
    return NULL;
  Journal *journal = journal_open(account->state_dir, identity, error);
  if (!journal) {
    store_close(&store);
    return NULL;
  }
  Engine *engine = g_new0(Engine, 1);
  engine->account = account;
  engine->store = store;
  engine->journal = journal;
  engine->overlay = overlay_new();
  engine->locals = locals_new(engine);
  engine->changes = changes_new(engine);
  engine->cancellable = g_cancellable_new();
  g_rec_mutex_init(&engine->folders);
  g_mutex_init(&engine->lock);
  engine->quota = (EngineQuota){.used = -1, .limit = -1};
  engine->imap = (ImapConfig){
      .endpoint = {.host = account->imap_host,
                   .port = account->imap_port,
                   .security = account->imap_starttls ? STREAM_STARTTLS : STREAM_TLS,
                   .ca_file = account->ca_file},
      .user = account->user,
      .secret = get_secret,
      .secret_data = engine,
      .login_ms = MIN(account->timeout, LOGIN_MOST_S) * 1000,
      .response_ms = account->timeout * 1000,
  };
  engine->waits = waits_new(account->timeout * 1000);
  engine->link = link_new(MIN(GRACE_MOST_MS, account->timeout * 1000 / 2));
  engine->line = line_new();
  engine->pool = pool_new(&engine->imap, account->connections, engine->link, engine->line,
                          engine->cancellable);
  engine->syncs = syncs_new(engine);
  engine->bodies = bodies_new(engine);
  engine->watch = watch_new(engine);
  engine->offline = offline_new(engine);
  pool_set_spare(engine->pool, spare_connection, engine);
  link_set_changed(engine->link, on_link_changed, engine);
  return engine;
}

static void pass_cancel(GCancellable *cancellable, gpointer generation) {
  g_cancellable_cancel(generation);
}

/* The first connection: of the link's generation, but @cancellable ends its making. */
static ImapSession *open_first(Engine *engine, GCancellable *cancellable, GError **error) {
  g_autoptr(GCancellable) generation = link_cancellable(engine->link);
  gulong chained =
      cancellable ? g_cancellable_connect(cancellable, G_CALLBACK(pass_cancel), generation, NULL) : 0;
  ImapSession *session = imap_session_open(&engine->imap, generation, error);
  g_cancellable_disconnect(cancellable, chained);
  return session;
}

gboolean engine_login(Engine *engine, GCancellable *cancellable, GError **error) {
  g_autoptr(GError) failure = NULL;
  StoreStats stats;
  if (!store_stats(engine->store, &stats, error))
    return FALSE;
  engine->first_session = open_first(engine, cancellable, &failure);
  if (engine->first_session) {
    g_autoptr(GPtrArray) added = NULL, removed = NULL;
    if (sync_folders(engine->store, engine->first_session, &added, &removed, NULL, NULL, &failure))
      return TRUE;
    imap_session_close(&engine->first_session);
  }
  gboolean passing = g_error_matches(failure, EML_ERROR, EML_ERROR_OFFLINE) ||
                     g_error_matches(failure, EML_ERROR, EML_ERROR_TIMEOUT);
  if (!passing || !stats.folders) {
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
  }
  link_start_offline(engine->link, failure);
  return TRUE;
}

gboolean engine_start(Engine *engine, EngineNewsFn news, gpointer data, GError **error) {
  engine->news_data = data;
  engine->news = news;
  if (!locals_load(engine->locals, error) || !changes_load(engine->changes, error))
    return FALSE;
  watch_start(engine->watch);
  engine->netwatch = netwatch_new(on_network_changed, engine);
  return TRUE;
}

void engine_close(Engine **engine) {
  Engine *closing = g_steal_pointer(engine);
  if (!closing)
    return;
  changes_stop(closing->changes);
  g_cancellable_cancel(closing->cancellable);
  link_stop(closing->link);
  waits_stop(closing->waits);
  watch_stop(closing->watch);
  netwatch_free(closing->netwatch);
  pool_stop(closing->pool);
  imap_session_close(&closing->first_session);
  offline_free(closing->offline);
  changes_free(closing->changes);
  locals_free(closing->locals);
  bodies_free(closing->bodies);
  syncs_free(closing->syncs);
  watch_free(closing->watch);
  pool_free(closing->pool);
  line_free(closing->line);
  link_free(closing->link);
  waits_free(closing->waits);
  overlay_free(closing->overlay);
  journal_close(&closing->journal);
  store_close(&closing->store);
  g_object_unref(closing->cancellable);
  g_free(closing->server);
  g_free(closing->caps);
  g_rec_mutex_clear(&closing->folders);
  g_mutex_clear(&closing->lock);
  g_free(closing);
}

void engine_emit(Engine *engine, const EngineNews *news, gsize count) {
  if (engine->news)
    engine->news(news, count, engine->news_data);
}

EngineWait engine_folder_ready(Engine *engine, guint32 folder, EngineDone done, gpointer data) {
  watch_look(engine->watch, folder);
  return syncs_await(engine->syncs, folder, done, data);
}

void engine_cancel(Engine *engine, EngineWait wait) {
  g_autoptr(GError) cancelled = g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "interrupted");
  waits_fail(engine->waits, wait, cancelled);
}

void engine_quota(Engine *engine, EngineQuota *quota_out) {
  g_mutex_lock(&engine->lock);
  *quota_out = engine->quota;
  g_mutex_unlock(&engine->lock);
  StoreStats stats;
  if (store_stats(engine->store, &stats, NULL))
    quota_out->messages = stats.messages;
}

const char *engine_name(Engine *engine) {
  return engine->account->address;
}

/* ---- status ---- */

/* "12 minutes": the largest unit that there are two of. */
static char *duration(gint64 seconds) {
  static const struct {
    gint64 seconds;
    const char *name;
  } units[] = {{86400, "days"}, {3600, "hours"}, {60, "minutes"}};
  for (gsize i = 0; i < G_N_ELEMENTS(units); i++)
    if (seconds >= 2 * units[i].seconds)
      return g_strdup_printf("%" G_GINT64_FORMAT " %s", seconds / units[i].seconds, units[i].name);
  return g_strdup_printf("%" G_GINT64_FORMAT " seconds", MAX(seconds, 0));
}

/* When that was, by the clock of who reads it, and how long ago. */
static void add_time(GString *text, const char *key, gint64 seconds) {
  g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(seconds);
  g_autofree char *local = g_date_time_format(time, "%Y-%m-%d %H:%M:%S %z");
  g_autofree char *ago = duration(g_get_real_time() / G_USEC_PER_SEC - seconds);
  g_string_append_printf(text, "%s: %s, for %s\n", key, local, ago);
}

char *engine_status(Engine *engine) {
  static const char *const states[] = {
      [LINK_ONLINE] = "online", [LINK_SHAKY] = "reconnecting", [LINK_OFFLINE] = "offline"};
  GString *text = g_string_new(NULL);
  gint64 since;
  g_autofree char *reason = NULL;
  LinkState state = link_describe(engine->link, &since, &reason);
  PoolStats pool;
  pool_stats(engine->pool, &pool);
  StoreStats store = {0};
  store_stats(engine->store, &store, NULL);
  EngineQuota quota;
  engine_quota(engine, &quota);

  g_string_append_printf(text, "account: %s\n", engine->account->address);
  g_string_append_printf(text, "state: %s\n", states[state]);
  add_time(text, "since", since);
  if (reason)
    g_string_append_printf(text, "reason: %s\n", reason);
  g_mutex_lock(&engine->lock);
  g_string_append_printf(text, "server: %s:%u, %s\n", engine->account->imap_host,
                         engine->account->imap_port, engine->server ? engine->server : "not met yet");
  gboolean quota_asked = engine->quota_asked;
  if (engine->caps)
    g_string_append_printf(text, "capabilities: %s\n", engine->caps);
  g_mutex_unlock(&engine->lock);
  g_string_append_printf(text, "news: %s\n",
                         state == LINK_OFFLINE ? "none while offline" : watch_mode(engine->watch));
  g_string_append_printf(text, "connections: %u to work with, %u at work; more that listen for news\n",
                         pool.connections, pool.busy);
  line_describe(engine->line, text);
  g_string_append_printf(text, "queued: %u waited for, %u news, %u prefetch, %u background\n",
                         pool.queued[JOB_INTERACTIVE], pool.queued[JOB_NEWS],
                         pool.queued[JOB_PREFETCH], pool.queued[JOB_BACKGROUND]);
  g_string_append_printf(text, "waiting readers: %u\n", waits_count(engine->waits));
  g_string_append_printf(text, "transferred: %" G_GUINT64_FORMAT " bytes\n", pool.wire_bytes);
  syncs_describe(engine->syncs, text);
  offline_describe(engine->offline, text);
  engine_changes_describe(engine, text);
  g_string_append_printf(text, "folders: %" G_GUINT64_FORMAT "\n", store.folders);
  g_string_append_printf(text, "messages: %" G_GUINT64_FORMAT "\n", store.messages);
  g_string_append_printf(text,
                         "cache: %" G_GUINT64_FORMAT " messages, %" G_GUINT64_FORMAT
                         " of %" G_GUINT64_FORMAT " bytes\n",
                         store.bodies, store.body_bytes, store.limit);
  if (!store_healthy(engine->store))
    g_string_append(text, "index: damaged; unmount and mount again to have it rebuilt\n");
  if (quota.used >= 0 && quota.limit >= 0)
    g_string_append_printf(text, "quota: %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT " bytes\n",
                           quota.used, quota.limit);
  else if (quota.used >= 0)
    g_string_append_printf(text, "quota: %" G_GINT64_FORMAT " bytes, unlimited\n", quota.used);
  else
    g_string_append_printf(text, "quota: %s\n",
                           quota_asked ? "the server does not tell" : "not asked yet");
  return g_string_free(text, FALSE);
}
