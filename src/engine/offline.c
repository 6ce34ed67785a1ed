/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Having every message here, so that all can be read without a server. A thread of its own, for as long
 * as it takes, goes through the folders again and again until nothing is missing; each pass
 *
 *   waits for the server · has the folders brought up to date · counts what is missing · has it fetched
 *
 * What is here is skipped, so nothing needs to be remembered over a break, be it of the connection or
 * of the program. Only a window of messages is asked for at a time; the jobs (fetch.c) run at the
 * lowest priority and leave a connection free for who comes and waits.
 *
 * One connection more is tried as long as that makes it faster.
 */
#include <math.h>

#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"

#define WINDOW_COUNT 1200
#define WINDOW_BYTES (32 * 1024 * 1024)
#define PAGE_COUNT 400
#define PAGE_BYTES (8 * 1024 * 1024)
#define COUNT_PAGE 4096
#define TICK_MS 250
#define FRUITLESS_MOST 3 /* passes in a row that brought nothing although the server was there */
#define JOBS_FIRST 2
#define LADDER_US (2 * G_USEC_PER_SEC)      /* a step of the ladder is looked at for so long */
#define LADDER_REST_US (60 * G_USEC_PER_SEC) /* then the next one is tried */
#define LADDER_GAIN 1.15

typedef struct {
  guint64 messages, bytes;
} Amount;

struct Offline {
  Engine *engine;
  GThread *thread; /* only begin and free touch it, under `lives` */
  GMutex lives;
  GMutex lock; /* guards everything below; a leaf */
  GCond changed;
  gboolean running, stop, closing;
  gboolean all;    /* else the folders in */
  GArray *folders; /* guint32 */
  const char *doing;
  Amount outstanding; /* asked for, not yet settled */
  Amount done, total; /* of this run */
  GHashTable *given_up; /* EngineMsg: not to be asked for again in this run */
  guint64 refused;      /* so many of these are on the server, which does not give them */
  char *trouble;        /* why something is missing */
  gboolean fatal;       /* `trouble` ends the run */
  guint64 octets_before; /* of the line, when the run began */
  double rate;           /* octets a second */
  char *last;            /* how the last run ended */
};

/* How fast it goes, and with how many connections. The thread's own. */
typedef struct {
  gint64 at; /* monotonic µs */
  guint64 octets;
} Mark;

typedef struct {
  Mark tick;
  Mark step;
  guint jobs;
  double before;   /* rate with one connection less; 0: none is being tried */
  gint64 rest_until;
} Ladder;

Offline *offline_new(Engine *engine) {
  Offline *offline = g_new0(Offline, 1);
  offline->engine = engine;
  g_mutex_init(&offline->lives);
  g_mutex_init(&offline->lock);
  g_cond_init(&offline->changed);
  offline->folders = g_array_new(FALSE, FALSE, sizeof(guint32));
  offline->given_up = g_hash_table_new_full(engine_msg_hash, engine_msg_equal, g_free, NULL);
  return offline;
}

static void join(Offline *offline) {
  g_mutex_lock(&offline->lives);
  if (offline->thread)
    g_thread_join(g_steal_pointer(&offline->thread));
  g_mutex_unlock(&offline->lives);
}

void offline_free(Offline *offline) {
  g_mutex_lock(&offline->lock);
  offline->stop = offline->closing = TRUE;
  g_cond_broadcast(&offline->changed);
  g_mutex_unlock(&offline->lock);
  join(offline);
  g_array_unref(offline->folders);
  g_hash_table_unref(offline->given_up);
  g_free(offline->trouble);
  g_free(offline->last);
  g_cond_clear(&offline->changed);
  g_mutex_clear(&offline->lock);
  g_mutex_clear(&offline->lives);
  g_free(offline);
}

static void note_trouble_locked(Offline *offline, const char *text) {
  g_free(offline->trouble);
  offline->trouble = g_strdup(text);
}

void offline_settled(Offline *offline, EngineMsg msg, guint64 size, const GError *error) {
  g_mutex_lock(&offline->lock);
  offline->outstanding.messages--;
  offline->outstanding.bytes -= size;
  EmlError code = error && error->domain == EML_ERROR ? (EmlError) error->code : EML_ERROR_FAILED;
  if (!error) {
    offline->done.messages++;
    offline->done.bytes += size;
  } else if (code == EML_ERROR_NOT_FOUND || code == EML_ERROR_STALE) {
    /* Expunged meanwhile. A server that goes on listing it is not asked again. */
    g_hash_table_add(offline->given_up, g_memdup2(&msg, sizeof msg));
  } else if (code == EML_ERROR_REFUSED || code == EML_ERROR_BUSY) {
    g_hash_table_add(offline->given_up, g_memdup2(&msg, sizeof msg));
    offline->refused++;
    note_trouble_locked(offline, error->message);
  } else if (code == EML_ERROR_FAILED || code == EML_ERROR_NO_SPACE || code == EML_ERROR_CORRUPT) {
    offline->fatal = TRUE;
    note_trouble_locked(offline, error->message);
  } else if (code != EML_ERROR_CANCELLED) {
    note_trouble_locked(offline, error->message); /* the connection's; the next pass tries again */
  }
  g_cond_broadcast(&offline->changed);
  g_mutex_unlock(&offline->lock);
}

/* ---- speed ---- */

static double rate_since(const Mark *mark, guint64 octets, gint64 now) {
  return (double) (octets - mark->octets) * G_USEC_PER_SEC / (double) MAX(now - mark->at, 1);
}

static void set_jobs(Offline *offline, Ladder *ladder, guint jobs) {
  ladder->jobs = jobs;
  pool_set_background(offline->engine->pool, jobs);
}

/* A step has been looked at for long enough. */
static void climb(Offline *offline, Ladder *ladder, double rate, gint64 now) {
  gboolean tried = ladder->before > 0;
  gboolean pays = rate > LADDER_GAIN * ladder->before;
  if (tried && !pays) {
    set_jobs(offline, ladder, ladder->jobs - 1);
    ladder->rest_until = now + LADDER_REST_US;
    ladder->before = 0;
  } else if (ladder->jobs < pool_background_limit(offline->engine->pool) &&
             now >= ladder->rest_until) {
    ladder->before = rate;
    set_jobs(offline, ladder, ladder->jobs + 1);
  } else {
    ladder->before = 0;
  }
}

/* Called every now and then while bodies come. */
static void tick(Offline *offline, Ladder *ladder) {
  gint64 now = g_get_monotonic_time();
  guint64 octets = line_octets(offline->engine->line);
  if (now - ladder->tick.at >= G_USEC_PER_SEC) {
    double rate = rate_since(&ladder->tick, octets, now);
    g_mutex_lock(&offline->lock);
    offline->rate = offline->rate > 0 ? 0.6 * offline->rate + 0.4 * rate : rate;
    g_mutex_unlock(&offline->lock);
    ladder->tick = (Mark){now, octets};
  }
  if (now - ladder->step.at >= LADDER_US) {
    climb(offline, ladder, rate_since(&ladder->step, octets, now), now);
    ladder->step = (Mark){now, octets};
  }
}

static void begin_ladder(Offline *offline, Ladder *ladder) {
  Mark mark = {g_get_monotonic_time(), line_octets(offline->engine->line)};
  ladder->tick = ladder->step = mark;
  ladder->before = 0;
}

/* ---- one pass ---- */

static gboolean ends_locked(const Offline *offline) {
  return offline->stop || offline->fatal;
}

/* A moment of waiting for whatever changes. FALSE: the run is to end. */
static gboolean wait_a_moment(Offline *offline) {
  gint64 until = deadline_in_ms(TICK_MS);
  g_mutex_lock(&offline->lock);
  if (!ends_locked(offline))
    g_cond_wait_until(&offline->changed, &offline->lock, until);
  gboolean on = !ends_locked(offline);
  g_mutex_unlock(&offline->lock);
  return on;
}

static void set_doing(Offline *offline, const char *doing) {
  g_mutex_lock(&offline->lock);
  offline->doing = doing;
  g_mutex_unlock(&offline->lock);
}

static gboolean await_server(Offline *offline) {
  gboolean on = TRUE;
  while (on && !link_usable(offline->engine->link, NULL)) {
    set_doing(offline, "waiting for the server");
    on = wait_a_moment(offline);
  }
  return on;
}

/* The folders of this run: a GPtrArray of StoreFolder, or NULL. */
static GPtrArray *folders_of(Offline *offline) {
  g_autoptr(GPtrArray) found = store_folders(offline->engine->store, G_MAXUINT32, NULL);
  if (!found)
    return NULL;
  g_mutex_lock(&offline->lock);
  for (guint i = found->len; i > 0; i--) {
    const StoreFolder *folder = g_ptr_array_index(found, i - 1);
    gboolean wanted = offline->all;
    for (guint j = 0; j < offline->folders->len && !wanted; j++)
      wanted = g_array_index(offline->folders, guint32, j) == folder->id;
    if (!wanted || !folder->selectable || !folder->mailbox)
      g_ptr_array_remove_index(found, i - 1);
  }
  g_mutex_unlock(&offline->lock);
  return g_steal_pointer(&found);
}

static gboolean any_is_busy(Offline *offline) {
  g_autoptr(GPtrArray) folders = folders_of(offline);
  gboolean busy = FALSE;
  for (guint i = 0; folders && i < folders->len && !busy; i++)
    busy = syncs_is_busy(offline->engine->syncs, ((StoreFolder *) g_ptr_array_index(folders, i))->id);
  return busy;
}

/* Has the watching connection list the folders, which schedules what differs, and waits for that. FALSE:
 * it was not possible, so nothing can be said of what the server has. */
static gboolean update_folders(Offline *offline) {
  Engine *engine = offline->engine;
  gint64 until = deadline_in_ms((gint64) engine->account->timeout * 1000);
  guint before = watch_listings(engine->watch);
  gboolean on = TRUE;
  set_doing(offline, "bringing the folders up to date");
  watch_refresh(engine->watch);
  while (on && watch_listings(engine->watch) == before)
    on = wait_a_moment(offline) && link_usable(engine->link, NULL) && g_get_monotonic_time() < until;
  while (on && any_is_busy(offline))
    on = wait_a_moment(offline) && link_usable(engine->link, NULL);
  return on;
}

/* The next page of what is missing of @space after *@after, without what was given up. FALSE: there is
 * no more. */
static gboolean next_page(Offline *offline, guint32 space, guint32 *after, guint limit,
                          guint64 most_bytes, GArray *page) {
  for (;;) {
    g_array_set_size(page, 0);
    if (!store_missing_bodies(offline->engine->store, space, *after, limit, most_bytes, page, NULL) ||
        !page->len)
      return FALSE;
    *after = g_array_index(page, StoreMissing, page->len - 1).uid;
    guint kept = 0;
    g_mutex_lock(&offline->lock);
    for (guint i = 0; i < page->len; i++) {
      StoreMissing one = g_array_index(page, StoreMissing, i);
      EngineMsg msg = {space, one.uid};
      if (!g_hash_table_contains(offline->given_up, &msg))
        g_array_index(page, StoreMissing, kept++) = one;
    }
    g_mutex_unlock(&offline->lock);
    g_array_set_size(page, kept);
    if (kept)
      return TRUE;
  }
}

static Amount amount_of(const GArray *page) {
  Amount amount = {.messages = page->len};
  for (guint i = 0; i < page->len; i++)
    amount.bytes += g_array_index(page, StoreMissing, i).size;
  return amount;
}

static Amount count_missing(Offline *offline, const GPtrArray *folders) {
  g_autoptr(GArray) page = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
  Amount missing = {0};
  for (guint i = 0; i < folders->len; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    guint32 after = 0;
    while (folder->space && next_page(offline, folder->space, &after, COUNT_PAGE, G_MAXUINT64, page)) {
      Amount more = amount_of(page);
      missing.messages += more.messages;
      missing.bytes += more.bytes;
    }
  }
  return missing;
}

/* "2.1 GB" */
static char *size_text(guint64 bytes) {
  return bytes < 1000000000 ? g_strdup_printf("%.1f MB", (double) bytes / 1e6)
                            : g_strdup_printf("%.1f GB", (double) bytes / 1e9);
}

static void tell_full_locked(Offline *offline, const StoreStats *stats) {
  guint64 left = offline->total.bytes - MIN(offline->total.bytes, offline->done.bytes);
  g_autofree char *all = size_text(stats->body_bytes + left), *limit = size_text(stats->limit);
  g_autofree char *text =
      g_strdup_printf("the cache is full: everything would take %s and cache_size is %s; set it higher, "
                      "or fetch only some folders", all, limit);
  offline->fatal = TRUE;
  note_trouble_locked(offline, text);
}

/* The cache drops what was not used for the longest time when it is full: fetching more would make room
 * by dropping what was just fetched. Cuts @page to what has room; FALSE: nothing has. */
static gboolean fit(Offline *offline, GArray *page) {
  StoreStats stats;
  if (!store_stats(offline->engine->store, &stats, NULL))
    return TRUE;
  g_mutex_lock(&offline->lock);
  guint64 taken = stats.body_bytes + offline->outstanding.bytes;
  guint fits = 0;
  while (fits < page->len &&
         taken + g_array_index(page, StoreMissing, fits).size <= stats.limit)
    taken += g_array_index(page, StoreMissing, fits++).size;
  /* What is under way is let finish first; it may turn out to be less. */
  if (!fits && !offline->outstanding.messages)
    tell_full_locked(offline, &stats);
  g_mutex_unlock(&offline->lock);
  g_array_set_size(page, fits);
  return fits > 0;
}

/* Asks for @page once the window has room for it. */
static gboolean ask_for(Offline *offline, const StoreFolder *folder, GArray *page, Ladder *ladder) {
  Amount more = amount_of(page);
  gboolean on = TRUE, full = TRUE;
  while (on && full) {
    g_mutex_lock(&offline->lock);
    full = offline->outstanding.messages > 0 &&
           (offline->outstanding.messages + more.messages > WINDOW_COUNT ||
            offline->outstanding.bytes + more.bytes > WINDOW_BYTES);
    g_mutex_unlock(&offline->lock);
    if (full) {
      tick(offline, ladder);
      on = wait_a_moment(offline) && link_usable(offline->engine->link, NULL);
    }
  }
  if (!on || !fit(offline, page))
    return FALSE;
  more = amount_of(page);
  g_mutex_lock(&offline->lock);
  offline->outstanding.messages += more.messages;
  offline->outstanding.bytes += more.bytes;
  g_mutex_unlock(&offline->lock);
  bodies_fetch_later(offline->engine->bodies, folder->space, folder->id, page);
  return TRUE;
}

/* Waits until everything asked for is settled, even when the run ends. */
static void await_rest(Offline *offline, Ladder *ladder) {
  g_mutex_lock(&offline->lock);
  while (offline->outstanding.messages > 0) {
    gboolean ends = ends_locked(offline);
    g_mutex_unlock(&offline->lock);
    if (ends)
      bodies_drop_later(offline->engine->bodies);
    tick(offline, ladder);
    gint64 until = deadline_in_ms(TICK_MS);
    g_mutex_lock(&offline->lock);
    if (offline->outstanding.messages > 0)
      g_cond_wait_until(&offline->changed, &offline->lock, until);
  }
  g_mutex_unlock(&offline->lock);
}

static void fetch_missing(Offline *offline, const GPtrArray *folders, Ladder *ladder) {
  g_autoptr(GArray) page = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
  gboolean on = TRUE;
  begin_ladder(offline, ladder);
  for (guint i = 0; i < folders->len && on; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    guint32 after = 0;
    while (on && folder->space &&
           next_page(offline, folder->space, &after, PAGE_COUNT, PAGE_BYTES, page))
      on = ask_for(offline, folder, page, ladder);
  }
  await_rest(offline, ladder);
}

/* Folders of which is not known what is in them. */
static guint count_unknown(Offline *offline, const GPtrArray *folders) {
  guint count = 0;
  for (guint i = 0; i < folders->len; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    count += !folder->listed || syncs_is_refused(offline->engine->syncs, folder->id);
  }
  return count;
}

/* A pass brought nothing. Without a server that is waited for as long as it takes; else it is not tried
 * for ever. */
static void note_fruitless(Offline *offline, guint *fruitless, const char *why) {
  if (!link_usable(offline->engine->link, NULL) || ++*fruitless < FRUITLESS_MOST)
    return;
  g_mutex_lock(&offline->lock);
  offline->fatal = TRUE;
  if (!offline->trouble)
    note_trouble_locked(offline, why);
  g_mutex_unlock(&offline->lock);
}

/* Goes through the folders once. TRUE: nothing is missing that can be had. */
static gboolean pass(Offline *offline, Ladder *ladder, guint *fruitless) {
  if (!await_server(offline))
    return FALSE;
  g_autoptr(GPtrArray) folders = update_folders(offline) ? folders_of(offline) : NULL;
  if (!folders) {
    note_fruitless(offline, fruitless, "the server does not list its folders");
    return FALSE;
  }
  Amount missing = count_missing(offline, folders);
  guint unknown = count_unknown(offline, folders);
  g_mutex_lock(&offline->lock);
  guint64 before = offline->done.messages;
  offline->total.messages = before + missing.messages;
  offline->total.bytes = offline->done.bytes + missing.bytes;
  offline->doing = NULL;
  g_mutex_unlock(&offline->lock);
  if (!missing.messages && !unknown)
    return TRUE;
  if (missing.messages)
    fetch_missing(offline, folders, ladder);
  g_mutex_lock(&offline->lock);
  gboolean some = offline->done.messages > before;
  g_mutex_unlock(&offline->lock);
  if (some)
    *fruitless = 0;
  else
    note_fruitless(offline, fruitless,
                   unknown ? "not every folder could be listed; .control/log says why"
                           : "the server gives nothing more; .control/log says why");
  return FALSE;
}

/* ---- a run ---- */

static void finish_locked(Offline *offline, gboolean complete) {
  GString *text = g_string_new(NULL);
  if (complete && !offline->refused)
    g_string_append(text, "complete");
  else if (complete)
    g_string_append_printf(text, "incomplete, the server does not give %" G_GUINT64_FORMAT " messages: %s",
                           offline->refused, offline->trouble);
  else if (offline->fatal)
    g_string_append_printf(text, "incomplete, %s", offline->trouble);
  else
    g_string_append(text, "stopped");
  g_string_append_printf(text, "; %" G_GUINT64_FORMAT " messages fetched", offline->done.messages);
  log_info("sync: %s", text->str);
  g_free(offline->last);
  offline->last = g_string_free(text, FALSE);
  offline->running = FALSE;
}

static gpointer run(gpointer data) {
  Offline *offline = data;
  Ladder ladder = {0};
  guint fruitless = 0;
  gboolean on = TRUE, complete = FALSE;
  set_jobs(offline, &ladder, MIN(JOBS_FIRST, pool_background_limit(offline->engine->pool)));
  while (on) {
    g_mutex_lock(&offline->lock);
    guint folders = offline->all ? G_MAXUINT : offline->folders->len;
    g_mutex_unlock(&offline->lock);
    complete = pass(offline, &ladder, &fruitless);
    g_mutex_lock(&offline->lock);
    gboolean extended = folders != (offline->all ? G_MAXUINT : offline->folders->len);
    on = !ends_locked(offline) && (!complete || extended);
    if (!on)
      finish_locked(offline, complete && !extended);
    g_mutex_unlock(&offline->lock);
    if (on && fruitless)
      wait_a_moment(offline);
  }
  pool_set_background(offline->engine->pool, 0);
  return NULL;
}

void offline_begin(Offline *offline, guint32 folder) {
  g_mutex_lock(&offline->lives);
  g_mutex_lock(&offline->lock);
  gboolean start = !offline->running && !offline->closing;
  GThread *ended = start ? g_steal_pointer(&offline->thread) : NULL;
  if (start) {
    offline->running = TRUE;
    offline->stop = offline->fatal = offline->all = FALSE;
    g_array_set_size(offline->folders, 0);
    g_hash_table_remove_all(offline->given_up);
    offline->refused = 0;
    offline->done = offline->total = (Amount){0};
    offline->rate = 0;
    offline->octets_before = line_octets(offline->engine->line);
    offline->doing = "beginning";
    g_clear_pointer(&offline->trouble, g_free);
  }
  if (folder)
    g_array_append_val(offline->folders, folder);
  else
    offline->all = TRUE;
  g_mutex_unlock(&offline->lock);
  if (ended)
    g_thread_join(ended);
  if (start)
    offline->thread = g_thread_new("sync", run, offline);
  g_mutex_unlock(&offline->lives);
}

gboolean offline_stop(Offline *offline) {
  g_mutex_lock(&offline->lock);
  gboolean running = offline->running;
  offline->stop = running;
  g_cond_broadcast(&offline->changed);
  g_mutex_unlock(&offline->lock);
  if (running)
    bodies_drop_later(offline->engine->bodies);
  return running;
}

gboolean offline_is_running(Offline *offline) {
  g_mutex_lock(&offline->lock);
  gboolean running = offline->running;
  g_mutex_unlock(&offline->lock);
  return running;
}

void offline_describe(Offline *offline, GString *text) {
  guint64 came = line_octets(offline->engine->line);
  g_mutex_lock(&offline->lock);
  if (offline->running) {
    /* Of what is on its way as much is here as came over the line, at most. */
    guint64 bytes = CLAMP(came - offline->octets_before, offline->done.bytes,
                          offline->done.bytes + offline->outstanding.bytes);
    guint64 left = offline->total.bytes - MIN(offline->total.bytes, bytes);
    g_string_append_printf(text,
                           "syncing: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                           " messages, %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " bytes, ",
                           offline->done.messages, offline->total.messages, bytes, offline->total.bytes);
    if (offline->doing)
      g_string_append_printf(text, "%s\n", offline->doing);
    else if (offline->rate > 0)
      g_string_append_printf(text, "%.1f MB/s, %.0f s left\n", offline->rate / 1e6,
                             ceil((double) left / offline->rate));
    else
      g_string_append(text, "fetching\n");
  } else if (offline->last) {
    g_string_append_printf(text, "last sync: %s\n", offline->last);
  }
  g_mutex_unlock(&offline->lock);
}
