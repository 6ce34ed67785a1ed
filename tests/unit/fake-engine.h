/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The inside of the fake engine: fake-engine.c is the façade, fake-changes.c what is changed through
 * the mount, fake-control.c steers it.
 */
#pragma once

#include "base/err.h"
#include "engine/changes.h"

typedef enum { BODY_NORMAL, BODY_SLOW, BODY_FAILS } BodyKind;

typedef struct {
  guint32 uid;
  guint64 size, true_size;
  gint64 mtime, ctime;
  guint flags;
  BodyKind kind;
  EmlError code; /* of BODY_FAILS */
  gint64 packed; /* offset of the body in the pack, -1: not there */
  gboolean written;     /* its octets are in the pack, not made up */
  gboolean hidden;      /* on its way out */
  guint32 edit;         /* the local file that holds its new octets, 0: none */
  const char *name;     /* interned; NULL: made up */
  const char *keywords; /* interned; NULL: made up */
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

/* A local file or folder, a message on its way in, or the new octets of a message. */
typedef struct {
  guint32 id, folder, parent;
  const char *name; /* interned; NULL: has lost it, or never had one */
  gboolean is_folder, is_guest, dirty;
  EngineMsg msg;
  int fd;
  gint64 mtime; /* nanoseconds */
  guint opens;
} Local;

/* A call of changes.h that can fail or wait. */
typedef struct Change Change;

typedef struct {
  EngineWait id;
  guint32 folder; /* engine_folder_ready, with `done` */
  EngineDone done;
  EngineMsg msg; /* engine_body_open, with `body_done` */
  EngineBodyDone body_done;
  EngineBody *body; /* engine_body_read, with `read_done` */
  EngineReadDone read_done;
  Change *change;
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

  GHashTable *locals; /* id → Local */
  guint32 last_local;
  const char *hold;   /* interned: calls of this name wait */
  const char *fail;   /* interned: the next call of this name fails … */
  EmlError fail_code; /* … with this */
  guint commits, clones;
};

struct EngineBody {
  Engine *engine;
  EngineMsg msg;
  guint64 size;
  gint64 packed;
  gboolean ahead;   /* by engine_body_next */
  gboolean written; /* see Row */
};

struct EngineFile {
  Engine *engine;
  Local *local;
};

/* The caller of _locked holds the engine's lock. */
EngineWait fake_add_wait_locked(Engine *engine, const Wait *wait);
EngineFolder *fake_export_folder_locked(Engine *engine, const Folder *folder);
/* Free with engine_message_free. */
EngineMessage *fake_export_row_locked(Engine *engine, const Row *row);
Row *fake_row_locked(Engine *engine, EngineMsg msg, Folder **folder_out);
Row *fake_row_by_name_locked(Folder *folder, const char *name);
void fake_remove_row_locked(Folder *folder, Row *row);
void fake_fill(char *out, EngineMsg msg, guint64 offset, gsize size);

/* Does the call or, with @code not negative, lets it fail; completes and frees it. */
void fake_finish_change(Engine *engine, Change *change, int code);
/* Guests become messages of the folder they are in. */
void fake_settle(Engine *engine);
Local *fake_local_by_name_locked(Engine *engine, EngineDir dir, const char *name);
void fake_local_free(gpointer local);

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
