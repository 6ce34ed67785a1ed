/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What emlfs knows of an account, on disk: an SQLite index (folders, messages, names, flags) and
 * the bodies of messages. It knows no network. It survives kill -9 at any moment, and a crash of
 * the machine costs at most bodies, which are fetched again.
 *
 * Identities. A folder has an id that stays when its UIDVALIDITY changes or it is renamed. UIDs
 * mean something only together with a mailbox and its UIDVALIDITY; that pair is a *uidspace* here,
 * a number that is never used again. So MsgId never names another message, not even after the
 * server has renumbered everything.
 *
 * Threads: any function may be called from any thread. Reads use a connection of the calling
 * thread (WAL) and never wait for writers; writes are serialized inside.
 */
#pragma once

#include <glib.h>

#include "base/flags.h"

typedef struct Store Store;

typedef struct {
  guint32 space; /* uidspace, at most 2^28 - 1, never 0 */
  guint32 uid;
} MsgId;

typedef struct {
  const char *dir;      /* created 0700 */
  const char *identity; /* whose cache it is, e.g. "anna@example.org@mail.example.org" */
  guint64 cache_size;   /* bytes that bodies may take on disk */
} StoreConfig;

/* Opens or creates the store and locks it for this process. A store that is damaged, of another
 * schema version or of another @identity is set aside (renamed in the same parent folder, with a
 * date) and begun anew; *@notice_out then says so in one line, else NULL (g_free). BUSY when
 * another process holds it: the message names its pid. An open store does not survive fork(2): open
 * it in the process that uses it. */
Store *store_open(const StoreConfig *config, char **notice_out, GError **error);

/* Writes what is still pending and closes. No other call may be under way. */
void store_close(Store **store);

/* Whether a fault of the index was met (disk error, malformed); for the status text. */
gboolean store_healthy(Store *store);

/* ---- folders ---- */

typedef enum {
  STORE_ROLE_NONE,
  STORE_ROLE_INBOX,
  STORE_ROLE_ALL,
  STORE_ROLE_ARCHIVE,
  STORE_ROLE_DRAFTS,
  STORE_ROLE_FLAGGED,
  STORE_ROLE_JUNK,
  STORE_ROLE_SENT,
  STORE_ROLE_TRASH,
} StoreRole;

typedef struct {
  guint32 id;     /* at most 2^28 - 1, never 0 */
  guint32 parent; /* 0: at the top */
  guint32 space;  /* 0 until the UIDVALIDITY is known; always 0 when not selectable */
  char *name;     /* one path component as shown; unique within the parent */
  char *mailbox;  /* as on the wire; NULL for a parent that exists only by its children */
  gboolean selectable;
  StoreRole role;
  guint32 uidvalidity, uidnext; /* as of the last sync; 0: unknown */
  guint64 modseq;               /* HIGHESTMODSEQ of the last complete sync; 0: none */
  guint32 count;                /* messages in the index */
  gint64 mtime;                 /* seconds: last time a message came, went or was renamed here */
  gboolean listed;              /* its messages were listed completely at least once */
} StoreFolder;

StoreFolder *store_folder_copy(const StoreFolder *folder);
void store_folder_free(StoreFolder *folder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreFolder, store_folder_free)

/* NULL with NOT_FOUND, or another error. The result is the caller's. */
StoreFolder *store_folder_get(Store *store, guint32 id, GError **error);
StoreFolder *store_folder_by_name(Store *store, guint32 parent, const char *name, GError **error);
StoreFolder *store_folder_by_mailbox(Store *store, const char *mailbox, GError **error);
StoreFolder *store_folder_by_space(Store *store, guint32 space, GError **error);

/* The children of @parent (0: the top) by name, or with G_MAXUINT32 all folders, parents first:
 * a GPtrArray of StoreFolder with a free function. */
GPtrArray *store_folders(Store *store, guint32 parent, GError **error);

/* One mailbox of the server's list: its levels are path components already made safe (not yet
 * unique), NULL-ended. */
typedef struct {
  const char *mailbox;
  const char *const *levels;
  gboolean selectable;
  StoreRole role;
} StoreMailbox;

typedef struct {
  guint32 folder, parent;
  char *name;
} StoreFolderChange;
void store_folder_change_free(StoreFolderChange *change);

/* Makes the folders what the server lists: new ones get ids, gone ones are dropped with their
 * messages, parents that the server does not list are made up. Two mailboxes that map to one path
 * get distinct names (a suffix ~2, ~3, …) that stay. One transaction. *@added_out and
 * *@removed_out are GPtrArrays of StoreFolderChange (with free function), in parent-first and
 * child-first order. */
gboolean store_folders_apply(Store *store, const StoreMailbox *mailboxes, gsize count,
                             GPtrArray **added_out, GPtrArray **removed_out, GError **error);

/* The server has renamed @from to @to, and with it what is below (@delimiter; 0: nothing). Their messages
 * stay; where they are shown changes with the next store_folders_apply. */
gboolean store_folder_rename(Store *store, const char *from, const char *to, char delimiter,
                             GError **error);

/* Begins a new uidspace for @folder under @uidvalidity: its messages are dropped, it is no longer
 * listed. *@space_out is the new uidspace. */
gboolean store_folder_renew(Store *store, guint32 folder, guint32 uidvalidity, guint32 *space_out,
                            GError **error);

/* ---- messages ---- */

typedef struct {
  guint32 uid;
  guint64 size;         /* RFC822.SIZE, or the true one once the body was seen */
  gint64 internal_date; /* seconds since the epoch */
  gint64 ctime;         /* seconds: when flags last changed, as far as seen */
  guint flags;          /* MsgFlag bits */
  guint64 modseq;
  const char *keywords; /* separated by a space; "" for none */
  const char *name;     /* file name, unique within the folder */
} StoreMessage;

StoreMessage *store_message_copy(const StoreMessage *message);
void store_message_free(StoreMessage *message);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreMessage, store_message_free)

/* NULL with NOT_FOUND, or another error. The result is the caller's. */
StoreMessage *store_message_get(Store *store, MsgId id, GError **error);
/* By file name. Names end in ".UID.eml"; that finds the row without an index over names. */
StoreMessage *store_message_by_name(Store *store, guint32 space, const char *name, GError **error);

/* FALSE from the callback ends the scan. @message is valid during the call only. */
typedef gboolean (*StoreMessageFn)(const StoreMessage *message, gpointer data);

/* Messages with a UID above @after, ascending, at most @limit. */
gboolean store_messages_scan(Store *store, guint32 space, guint32 after, guint limit,
                             StoreMessageFn each, gpointer data, GError **error);

/* ---- changes of one folder, as one or several transactions ----
 *
 * Rows become visible to readers when their transaction ends: at flush or commit, else by itself
 * after some 5,000 rows or 200 ms. A batch holds no lock between two calls: it may stay open while
 * the network is waited for, and its thread may write to the store beside it. STALE from any call:
 * the uidspace is gone. */

typedef struct StoreBatch StoreBatch;

/* Begins changes to @space. Other threads' writes go on in between the transactions. */
StoreBatch *store_batch_new(Store *store, guint32 space);
/* Adds or replaces a message. *@added_out (may be NULL) tells whether it was unknown. */
gboolean store_batch_put(StoreBatch *batch, const StoreMessage *message, gboolean *added_out, GError **error);
/* Sets flags, keywords and modseq of a known message; *@changed_out (may be NULL) tells whether
 * flags or keywords differ from before (then ctime is set to @now); an unknown uid is no error. */
gboolean store_batch_flags(StoreBatch *batch, guint32 uid, guint flags, const char *keywords,
                           guint64 modseq, gint64 now, gboolean *changed_out, GError **error);
/* Removes messages @first…@last with their bodies; @gone (may be NULL) is called for each before,
 * with no lock held; what it returns does not matter. */
gboolean store_batch_remove(StoreBatch *batch, guint32 first, guint32 last, StoreMessageFn gone,
                            gpointer data, GError **error);
/* Makes what was done so far durable and lets others write. The batch can go on. */
gboolean store_batch_flush(StoreBatch *batch, GError **error);
/* Ends the batch: with the sync state it brings the folder to (uidnext, modseq, listed = TRUE) and,
 * when @mtime is not 0, its mtime. */
gboolean store_batch_commit(StoreBatch **batch, guint32 uidnext, guint64 modseq, gint64 mtime,
                            GError **error);
/* Ends the batch; what was flushed stays (and so may the rest), the sync state does not move.
 * NULL is fine. */
void store_batch_abort(StoreBatch **batch);

/* Corrects the size of a message after its body was seen. */
gboolean store_message_set_size(Store *store, MsgId id, guint64 size, GError **error);

/* UIDs of @space above @after that have no body here, ascending, at most @limit and at most
 * @max_bytes by their sizes (at least one), appended to @out as StoreMissing. */
typedef struct {
  guint32 uid;
  guint64 size;
} StoreMissing;
gboolean store_missing_bodies(Store *store, guint32 space, guint32 after, guint limit,
                              guint64 max_bytes, GArray *out, GError **error);

/* ---- bodies ---- */

/* Octets of a body: [offset, offset + length) of @fd. Pinned: it stays readable, even when evicted
 * or removed meanwhile, until it is unreferenced. */
typedef struct {
  int fd;         /* owned by the store */
  gint64 offset;
  guint64 length;
} StoreBody;

/* The body of @id, or NULL without error when it is not here, or NULL with error. */
StoreBody *store_body_get(Store *store, MsgId id, GError **error);
/* The body with the next UID above *@id_inout that is here, or NULL: there is none, or it cannot be
 * had now. Does not count as a use. */
StoreBody *store_body_next(Store *store, MsgId *id_inout);
StoreBody *store_body_ref(StoreBody *body);
void store_body_unref(StoreBody *body);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreBody, store_body_unref)

/* Writes one body. Small ones (up to 256 KiB) are gathered and appended to a pack file, larger ones
 * get a file each. One writer, one thread; several writers may run at once. */
typedef struct StoreWriter StoreWriter;
StoreWriter *store_writer_new(Store *store, guint64 expected_size, GError **error);
gboolean store_writer_write(StoreWriter *writer, const void *octets, gsize size, GError **error);
/* Keeps it as the body of @id and returns it pinned. A body that is here already is replaced.
 * NOT_FOUND when the message is no longer in the index (nothing is kept). Durable against kill -9
 * of the process shortly after (grouped), not necessarily at return. */
StoreBody *store_writer_commit(StoreWriter **writer, MsgId id, GError **error);
/* Forgets it. NULL is fine. */
void store_writer_abort(StoreWriter **writer);

/* A large body that arrives in pieces: a sparse file that is kept only once it is whole. */
typedef struct StorePartial StorePartial;
StorePartial *store_partial_new(Store *store, MsgId id, guint64 size, GError **error);
/* The descriptor to pread from and pwrite to; owned by the partial. */
int store_partial_fd(const StorePartial *partial);
/* All its octets are written: it becomes the body of the message. */
StoreBody *store_partial_commit(StorePartial **partial, GError **error);
void store_partial_abort(StorePartial **partial);

typedef struct {
  guint64 bodies;     /* how many messages have a body here */
  guint64 body_bytes; /* on disk */
  guint64 limit;      /* StoreConfig.cache_size */
  guint64 messages;   /* in the index */
  guint64 folders;
} StoreStats;
gboolean store_stats(Store *store, StoreStats *stats_out, GError **error);

/* Drops every body that is not pinned. */
gboolean store_drop_bodies(Store *store, GError **error);

/* ---- small facts ---- */

/* A string kept under @key, or NULL (g_free). */
char *store_fact_get(Store *store, const char *key);
gboolean store_fact_set(Store *store, const char *key, const char *value, GError **error);
