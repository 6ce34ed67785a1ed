/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The one façade that fs, cli and tests see: an account as folders, messages and bodies.
 *
 * Metadata calls answer from the index and never wait for the network. What may need the network
 * is *parked*: the call returns at once and a completion function is called exactly once, from any
 * thread, perhaps before the call returns. Completions and news are called with no lock held and
 * must not block.
 */
#pragma once

#include <gio/gio.h>

#include "base/flags.h"
#include "engine/account.h"

typedef struct Engine Engine;

/* A message: uidspace and UID. Never names another message, whatever the server does. */
typedef struct {
  guint32 space, uid;
} EngineMsg;

typedef struct {
  guint32 id, parent; /* parent 0: the top */
  guint32 space;      /* 0: has no messages (not selectable, or not yet known) */
  char *name;
  gint64 mtime;       /* seconds */
  guint32 count;      /* messages known */
  guint32 subfolders; /* how many children */
} EngineFolder;
EngineFolder *engine_folder_copy(const EngineFolder *folder);
void engine_folder_free(EngineFolder *folder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineFolder, engine_folder_free)

typedef struct {
  guint32 uid;
  guint64 size;
  gint64 mtime, ctime; /* seconds */
  guint flags;         /* MsgFlag bits */
  guint64 modseq;
  const char *keywords;
  const char *name;
} EngineMessage;
EngineMessage *engine_message_copy(const EngineMessage *message);
void engine_message_free(EngineMessage *message);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineMessage, engine_message_free)

/* ---- life ---- */

typedef enum {
  ENGINE_NEWS_MESSAGE_NEW,    /* a message appeared in a folder that was listed */
  ENGINE_NEWS_MESSAGE_GONE,
  ENGINE_NEWS_MESSAGE_FLAGS,
  ENGINE_NEWS_MESSAGE_SIZE,   /* its true size turned out to be another */
  ENGINE_NEWS_FOLDER_NEW,
  ENGINE_NEWS_FOLDER_GONE,
  ENGINE_NEWS_FOLDER_LISTED,  /* listed for the first time: nobody can have seen it otherwise */
  ENGINE_NEWS_FOLDER_RESET,   /* its listing changed as a whole (UIDVALIDITY) */
  ENGINE_NEWS_NAME,           /* @name in @folder stands for another node now; it is the same to people,
                                 the outcome of what was done through the mount */
  ENGINE_NEWS_LOCAL,          /* size or times of @local changed by themselves */
} EngineNewsKind;

typedef struct {
  EngineNewsKind kind;
  guint32 folder;   /* the folder concerned (for FOLDER_*: itself) */
  guint32 parent;   /* for FOLDER_*: its parent */
  EngineMsg msg;    /* for MESSAGE_* */
  const char *name; /* file name, for MESSAGE_NEW, MESSAGE_GONE, FOLDER_NEW, FOLDER_GONE, NAME */
  guint32 local;    /* for LOCAL */
} EngineNews;

/* @news is valid during the call only. The index already tells the new state. */
typedef void (*EngineNewsFn)(const EngineNews *news, gsize count, gpointer data);

/* Opens the store of @account (not copied; must outlive the engine) and locks it. No network yet.
 * *@notice_out: as store_open. */
Engine *engine_open(Account *account, char **notice_out, GError **error);

/* Logs in and lists the folders once; blocks. With folders already known from an earlier run, a
 * server that cannot be reached (OFFLINE, TIMEOUT) is no error: the engine begins offline. */
gboolean engine_login(Engine *engine, GCancellable *cancellable, GError **error);

/* Starts the threads (connections, watching). @news gets every change from now on. */
gboolean engine_start(Engine *engine, EngineNewsFn news, gpointer data, GError **error);

/* Ends the threads, answers all that is parked with CANCELLED, closes the store. */
void engine_close(Engine **engine);

/* ---- folders and messages, from the index ---- */

EngineFolder *engine_folder_get(Engine *engine, guint32 id, GError **error);
EngineFolder *engine_folder_by_name(Engine *engine, guint32 parent, const char *name, GError **error);
EngineFolder *engine_folder_by_space(Engine *engine, guint32 space, GError **error);
/* GPtrArray of EngineFolder with free function, by name; @parent 0: the top. */
GPtrArray *engine_folders(Engine *engine, guint32 parent, GError **error);

EngineMessage *engine_message_get(Engine *engine, EngineMsg msg, GError **error);
EngineMessage *engine_message_by_name(Engine *engine, guint32 space, const char *name, GError **error);
typedef gboolean (*EngineMessageFn)(const EngineMessage *message, gpointer data);
/* Messages of @space with a UID above @after, ascending; FALSE from @each ends it. */
gboolean engine_messages_scan(Engine *engine, guint32 space, guint32 after, guint limit,
                              EngineMessageFn each, gpointer data, GError **error);

/* ---- parked calls ---- */

/* Names a parked call for engine_cancel; 0: it has been completed already. */
typedef guint64 EngineWait;

typedef void (*EngineDone)(gpointer data, const GError *error);

/* Completes once the messages of @folder have been listed (at once when they were). Errors:
 * OFFLINE, TIMEOUT, NOT_FOUND, CANCELLED, …. */
EngineWait engine_folder_ready(Engine *engine, guint32 folder, EngineDone done, gpointer data);

/* Completes the parked call with CANCELLED unless it is done. Any value is fine. */
void engine_cancel(Engine *engine, EngineWait wait);

/* An opened body; it stays readable when the message is expunged meanwhile. */
typedef struct EngineBody EngineBody;

/* @body is the caller's (engine_body_close), NULL with @error. */
typedef void (*EngineBodyDone)(EngineBody *body, gpointer data, const GError *error);

/* Opens the body of @msg: from disk, else fetched whole first when small, else (over 1 MiB) at once
 * with its octets fetched as they are read. */
EngineWait engine_body_open(Engine *engine, EngineMsg msg, EngineBodyDone done, gpointer data);
void engine_body_close(EngineBody **body);

/* Opens the next body above *@msg_inout in the order of UIDs that is here whole, for reading ahead:
 * does not count as a use, and its reads complete before they return. NULL: there is none, or none
 * that can be had now. */
EngineBody *engine_body_next(Engine *engine, EngineMsg *msg_inout);
/* Its exact size in octets. */
guint64 engine_body_size(const EngineBody *body);

/* The octets asked for (fewer only at the end) are at @offset of @fd, valid during the call. */
typedef void (*EngineReadDone)(int fd, gint64 offset, gsize size, gpointer data, const GError *error);
EngineWait engine_body_read(EngineBody *body, guint64 offset, gsize size, EngineReadDone done,
                            gpointer data);

/* ---- the account ---- */

typedef struct {
  gint64 used, limit; /* bytes; limit -1: unlimited or not told */
  guint64 messages;
} EngineQuota;
/* From what was last learnt; never waits. */
void engine_quota(Engine *engine, EngineQuota *quota_out);

/* The text of .control/status, "key: value" lines. Free with g_free. */
char *engine_status(Engine *engine);

/* Runs one command, a line as .control/ctl takes it; never waits for the network. *@answer_out is one
 * line for a person (g_free), "" for an empty line. CONFIG: it is not understood. A failure is logged. */
gboolean engine_command(Engine *engine, const char *line, char **answer_out, GError **error);

/* The commands there are, a line each. */
const char *engine_commands(Engine *engine);

/* The address of the account, for titles. Owned by the engine. */
const char *engine_name(Engine *engine);
