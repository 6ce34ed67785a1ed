/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the fake engine: fake-engine.c is the façade, fake-control.c steers it.
 */
#pragma once

#include "base/err.h"
#include "engine/engine.h"

typedef enum { BODY_NORMAL, BODY_SLOW, BODY_FAILS } BodyKind;

typedef struct {
  guint32 uid;
  guint64 size, true_size;
  gint64 mtime, ctime;
  guint flags;
  BodyKind kind;
  EmlError code; /* of BODY_FAILS */
  gint64 packed; /* offset of the body in the pack, -1: not there */
} Row;

typedef enum { LISTED, UNLISTED, UNREACHABLE } Listing;

typedef struct {
  guint32 id, parent, space;
  char *name;
  Listing listing;
  gint64 mtime;
  GArray *rows; /* Row, by UID */
  guint32 next_uid;
} Folder;

typedef struct {
  EngineWait id;
  guint32 folder; /* engine_folder_ready, with `done` */
  EngineDone done;
  EngineMsg msg; /* engine_body_open, with `body_done` */
  EngineBodyDone body_done;
  EngineBody *body; /* engine_body_read, with `read_done` */
  EngineReadDone read_done;
  guint64 offset;
  gsize size;
  gpointer data;
} Wait;

struct Engine {
  GMutex lock; /* guards all; nothing is called back while it is held */
  GHashTable *folders, *spaces;
  GHashTable *waits;
  guint64 last_wait;
  guint32 last_folder, last_space;
  EngineNewsFn news;
  gpointer news_data;
  EngineQuota quota;
  int pack;
  gint64 pack_end;
  GQueue jobs; /* numbers of waits, for the network threads */
  GCond more;
  gboolean closing;
  GThread *network[2];
  GThread *control; /* and one for each of its clients */
  int over;         /* eventfd: readable once `closing` */
  guint opened, closed; /* bodies */
  guint reads;          /* of small bodies, but for those of engine_body_next */
};

struct EngineBody {
  Engine *engine;
  EngineMsg msg;
  guint64 size;
  gint64 packed;
  gboolean ahead; /* by engine_body_next */
};

/* The caller of _locked holds the engine's lock. */
char *fake_row_name(const Row *row);
Row *fake_find_row(const Folder *folder, guint32 uid);
Row *fake_add_row(Folder *folder, guint64 size);
Folder *fake_add_folder_locked(Engine *engine, guint32 parent, const char *name, Listing listing);
Folder *fake_child_locked(Engine *engine, guint32 parent, const char *name);
void fake_tell(Engine *engine, EngineNews news);
/* Completes a parked engine_body_open. */
void fake_finish_open(Engine *engine, Wait *wait);

/* A GThreadFunc of the Engine: serves $FAKE_ENGINE_SOCKET until `closing`. */
gpointer fake_control_thread(gpointer engine);
