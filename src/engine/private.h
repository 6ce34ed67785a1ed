/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of the engine share. Each part has its own lock. While one is held only the table of
 * waits and the store may be called, which call nobody back; never another part, a completion or the
 * news function.
 */
#pragma once

#include "engine/download.h"
#include "engine/engine.h"
#include "engine/link.h"
#include "engine/pool.h"
#include "engine/wait.h"
#include "store/store.h"

typedef struct Syncs Syncs;
typedef struct Bodies Bodies;
typedef struct Watch Watch;

struct Engine {
  Account *account;
  Store *store;
  ImapConfig imap;
  GCancellable *cancellable; /* ends every connection at close */
  Waits *waits;
  Link *link;
  Pool *pool;
  Syncs *syncs;
  Bodies *bodies;
  Watch *watch;
  EngineNewsFn news;
  gpointer news_data;
  ImapSession *first_session; /* of engine_login, until the watch takes it over */

  GMutex lock; /* guards what follows; a leaf */
  EngineQuota quota;
  char *server; /* the server's name for the status text */
  char *caps;
};

/* Passes news on; before engine_start nobody listens. */
void engine_emit(Engine *engine, const EngineNews *news, gsize count);

/* ---- syncs.c: which folders are to be brought up to date, and who waits for it ---- */

Syncs *syncs_new(Engine *engine);
void syncs_free(Syncs *syncs);

/* Has @folder brought up to date; many calls become one run. */
void syncs_schedule(Syncs *syncs, guint32 folder, JobPriority priority);

/* Parks @done until @folder is listed. */
EngineWait syncs_await(Syncs *syncs, guint32 folder, EngineDone done, gpointer data);

/* Lines for the status text: listings that are under way. */
void syncs_describe(Syncs *syncs, GString *text);

/* ---- body.c: small bodies, in batches, and what will probably be read next ---- */

Bodies *bodies_new(Engine *engine);
void bodies_free(Bodies *bodies);

/* A reference to a body on disk, or to one that is coming. */
struct EngineBody {
  Engine *engine;
  StoreBody *whole;   /* either this */
  Download *download; /* or this */
};

/* @download is about to be freed. */
void bodies_forget(Bodies *bodies, Download *download);

/* Takes over @whole. */
EngineBody *engine_body_whole(Engine *engine, StoreBody *body);

/* Makes sure that @session has @folder selected and that its UIDs are those of @space. STALE when the
 * server has renumbered them (a sync is scheduled). Sets no handler: the caller has set none. */
gboolean bodies_select(Engine *engine, ImapSession *session, guint32 folder, guint32 space,
                       GError **error);

/* Corrects the size of a message in index and kernel. */
void engine_set_size(Engine *engine, EngineMsg msg, guint64 size);

/* ---- watch.c: the connections that listen ---- */

Watch *watch_new(Engine *engine);
/* The thread begins, on engine->first_session when there is one. */
void watch_start(Watch *watch);
void watch_stop(Watch *watch);
void watch_free(Watch *watch);

/* Somebody looks at @folder: servers that cannot tell of all folders are asked about this one. */
void watch_look(Watch *watch, guint32 folder);

/* Gives up the second listening connection for good; whether there is or was one. */
gboolean watch_spare(Watch *watch);

/* Another connection found the server gone: reconnecting begins at once. */
void watch_lost(Watch *watch);

/* The list of folders may be out of date. */
void watch_refresh(Watch *watch);

/* One line of the status text: how news come in. */
const char *watch_mode(Watch *watch);

/* Lists the folders over @session, tells the news and schedules what differs. */
gboolean watch_list_folders(Engine *engine, ImapSession *session, GError **error);
