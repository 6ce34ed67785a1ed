/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of the engine share. Each part has its own lock. While one is held only the table of
 * waits, the store, the link and the line may be asked, which call nobody back; never another part, a
 * completion or the news function.
 */
#pragma once

#include "engine/changes.h"
#include "engine/download.h"
#include "engine/line.h"
#include "engine/link.h"
#include "engine/pool.h"
#include "engine/wait.h"
#include "store/journal.h"
#include "store/store.h"

typedef struct Changes Changes;
typedef struct Locals Locals;
typedef struct Overlay Overlay;
typedef struct Syncs Syncs;
typedef struct Bodies Bodies;
typedef struct Watch Watch;
typedef struct Offline Offline;
typedef struct Netwatch Netwatch;

struct Engine {
  Account *account;
  Store *store;
  Journal *journal;
  Overlay *overlay;
  Changes *changes;
  Locals *locals;
  ImapConfig imap;
  GCancellable *cancellable; /* ends every connection at close */
  Waits *waits;
  Link *link;
  Line *line;
  Pool *pool;
  Syncs *syncs;
  Bodies *bodies;
  Watch *watch;
  Offline *offline;
  Netwatch *netwatch; /* from engine_start on */
  EngineNewsFn news;
  gpointer news_data;
  ImapSession *first_session; /* of engine_login, until the watch takes it over */

  /* Held from a LIST, or a change of folders on the server, until it is in the index: an older list
   * is never applied over what came after it. Taken before all others, and held while the server is
   * waited for. */
  GRecMutex folders;
  GMutex lock; /* guards what follows; a leaf */
  EngineQuota quota;
  guint64 append_limit; /* octets the server takes in one message, 0: not told */
  gboolean quota_asked;
  char *server; /* the server's name for the status text */
  char *caps;
};

/* For hash tables by EngineMsg. */
guint engine_msg_hash(gconstpointer msg);
gboolean engine_msg_equal(gconstpointer a, gconstpointer b);

/* Passes news on; before engine_start nobody listens. */
void engine_emit(Engine *engine, const EngineNews *news, gsize count);

/* ---- changes.c: what is to be changed on the server; changes-private.h has the rest ---- */

Changes *changes_new(Engine *engine);
/* Takes up what the journal holds, once the folders are known. */
gboolean changes_load(Changes *changes, GError **error);
/* Nothing further is begun. */
void changes_stop(Changes *changes);
/* After pool_stop. */
void changes_free(Changes *changes);

/* Something may have become possible: the link is back, a folder is free. Any thread. */
void changes_wake(Changes *changes);

/* ---- commit.c ---- */

/* The new octets of a message that is edited or being replaced: a descriptor of its own for the
 * caller, and their size; -1: there are none. */
int locals_edited(Locals *locals, EngineMsg msg, guint64 *size_out);

/* ---- syncs.c: which folders are to be brought up to date, and who waits for it ---- */

Syncs *syncs_new(Engine *engine);
void syncs_free(Syncs *syncs);

/* Has @folder brought up to date; many calls become one run. */
void syncs_schedule(Syncs *syncs, guint32 folder, JobPriority priority);

/* Schedules what was refused and is due to be tried again; returns when to call next. */
gint64 syncs_retry(Syncs *syncs);

/* Parks @done until @folder is listed. */
EngineWait syncs_await(Syncs *syncs, guint32 folder, EngineDone done, gpointer data);

/* Keeps runs for @folder away until syncs_release, so that what changes do there is not taken for
 * news. FALSE: one is going on; changes_wake is called when it is through. */
gboolean syncs_hold(Syncs *syncs, guint32 folder);
void syncs_release(Syncs *syncs, guint32 folder);

/* Whether a run for @folder is due or going on. */
gboolean syncs_is_busy(Syncs *syncs, guint32 folder);

/* Whether the server refused the last run for @folder, which is to be tried again. */
gboolean syncs_is_refused(Syncs *syncs, guint32 folder);

/* Lines for the status text: listings that are under way. */
void syncs_describe(Syncs *syncs, GString *text);

/* ---- body.c: bodies in batches: those waited for, probably read next, or wanted some time ---- */

Bodies *bodies_new(Engine *engine);
void bodies_free(Bodies *bodies);

/* A reference to a body on disk, or to one that is coming. */
struct EngineBody {
  Engine *engine;
  StoreBody *whole;   /* either this */
  Download *download; /* or this */
  int edited;         /* or this: the octets that are to replace it, @size of them; else -1 */
  guint64 size;
};

/* Has the bodies in @missing (StoreMissing) fetched when nobody waits for anything else;
 * offline_settled is told of each once. None of them may be asked for already. */
void bodies_fetch_later(Bodies *bodies, guint32 space, guint32 folder, const GArray *missing);

/* Settles with CANCELLED those of them that were not begun. */
void bodies_drop_later(Bodies *bodies);

/* @download is about to be freed. */
void bodies_forget(Bodies *bodies, Download *download);

/* Takes over @whole. */
EngineBody *engine_body_whole(Engine *engine, StoreBody *body);

/* Makes sure that @session has @folder selected and that its UIDs are those of @space. STALE when the
 * server has renumbered them (a sync is scheduled). Sets no handler: the caller has set none. */
gboolean bodies_select(Engine *engine, ImapSession *session, guint32 folder, guint32 space,
                       GError **error);

/* Corrects the size of a message in the index; and tells the kernel of it. */
void engine_set_size(Engine *engine, EngineMsg msg, guint64 size);
void engine_tell_size(Engine *engine, EngineMsg msg);

/* ---- watch.c: the connections that listen ---- */

Watch *watch_new(Engine *engine);
/* The thread begins, on engine->first_session when there is one. */
void watch_start(Watch *watch);
void watch_stop(Watch *watch);
void watch_free(Watch *watch);

/* Somebody looks at @folder: servers that cannot tell of all folders are asked about this one. */
void watch_look(Watch *watch, guint32 folder);

/* Has the main listener look at what is due. */
void watch_wake(Watch *watch);

/* Gives up the second listening connection for good; whether there is or was one. */
gboolean watch_spare(Watch *watch);

/* Another connection found the server gone: reconnecting begins at once. */
void watch_lost(Watch *watch);

/* The list of folders and the quota may be out of date. */
void watch_refresh(Watch *watch);

/* How often the folders were listed so far. */
guint watch_listings(Watch *watch);

/* The network may have changed: connects at once when there is no connection, else waits until the main
 * listener has heard from the server, at most @ms. FALSE when it has not: no connection is to be
 * trusted. */
gboolean watch_probe(Watch *watch, gint64 ms);

/* One line of the status text: how news come in. */
const char *watch_mode(Watch *watch);

/* Lists the folders over @session, tells the news and schedules what differs. */
gboolean watch_list_folders(Engine *engine, ImapSession *session, GError **error);

/* ---- offline.c: having everything here ---- */

Offline *offline_new(Engine *engine);
/* After pool_stop. */
void offline_free(Offline *offline);

/* Begins fetching what is missing of @folder, or with 0 of all folders; what is going on already is
 * extended. */
void offline_begin(Offline *offline, guint32 folder);

/* What was fetched stays. FALSE: none was going on. */
gboolean offline_stop(Offline *offline);
gboolean offline_is_running(Offline *offline);

/* What bodies_fetch_later asked for is here, or @error. Any thread. */
void offline_settled(Offline *offline, EngineMsg msg, guint64 size, const GError *error);

/* The lines "syncing" and "last sync" of the status text. */
void offline_describe(Offline *offline, GString *text);

/* ---- netwatch.c: the network comes and goes, the machine sleeps and wakes ---- */

/* @changed is called from a thread of its own soon after addresses or routes changed or the machine
 * woke (@slept). May block. */
Netwatch *netwatch_new(void (*changed)(gboolean slept, gpointer data), gpointer data);
void netwatch_free(Netwatch *netwatch);
