/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files of store/ share. The DESIGN comment is in store.c.
 */
#pragma once

#include <sqlite3.h>

#include "store/store.h"

#define BODY_SMALL_MAX (256 * 1024)  /* larger bodies get a file each */
#define TXN_ROWS 5000                /* a transaction is committed after so many rows … */
#define TXN_US (200 * 1000)          /* … or so long, whichever comes first */
#define FLUSH_BODIES 256             /* rows of bodies written in one transaction */
#define PENDING_MAX 4096             /* a writer flushes by itself rather than let more wait */
#define STORE_BLOCK 4096             /* what a hole in a pack is made of */
#define ID_MAX ((1u << 28) - 1)

/* ---- connections: schema.c ---- */

typedef enum {
  STMT_BEGIN,
  STMT_COMMIT,
  STMT_META_GET,
  STMT_META_SET,
  STMT_FACT_GET,
  STMT_FACT_SET,
  STMT_STATS,
  STMT_FOLDER_GET,
  STMT_FOLDER_BY_NAME,
  STMT_FOLDER_BY_MAILBOX,
  STMT_FOLDER_BY_SPACE,
  STMT_FOLDER_CHILDREN,
  STMT_FOLDER_ALL,
  STMT_FOLDER_ALIVE,
  STMT_FOLDER_INSERT,
  STMT_FOLDER_UPDATE,
  STMT_FOLDER_DELETE,
  STMT_FOLDER_RENAME,
  STMT_FOLDER_RENEW,
  STMT_FOLDER_EMPTY,
  STMT_FOLDER_COUNT,
  STMT_FOLDER_SYNCED,
  STMT_MESSAGE_GET,
  STMT_MESSAGE_BY_GIVEN,
  STMT_MESSAGE_SCAN,
  STMT_MESSAGE_RANGE,
  STMT_MESSAGE_EXISTS,
  STMT_MESSAGE_INSERT,
  STMT_MESSAGE_REPLACE,
  STMT_MESSAGE_FLAGS,
  STMT_MESSAGE_SIZE,
  STMT_MESSAGE_DELETE,
  STMT_MESSAGE_MISSING,
  STMT_BODY_GET,
  STMT_BODY_NEXT,
  STMT_BODY_PUT,
  STMT_BODY_DELETE,
  STMT_BODY_FORGET,
  STMT_BODY_RANGE,
  STMT_BODY_DELETE_RANGE,
  STMT_BODY_OLDEST,
  STMT_BODY_PAGE,
  STMT_BODY_OF_PACK,
  STMT_BODY_TOUCH,
  STMT_COUNT
} StmtId;

typedef struct {
  sqlite3 *db;
  sqlite3_stmt *stmts[STMT_COUNT]; /* prepared when first wanted */
} Conn;

/* Opens @path; NULL with *@rc_out an SQLite code. The journal mode is set by the writer alone. */
Conn *conn_open(const char *path, gboolean writer, int *rc_out);
void conn_close(Conn *conn);
/* The statement, reset; NULL (which every sqlite3 call refuses) when it cannot be prepared. */
sqlite3_stmt *conn_stmt(Conn *conn, StmtId id);

/* `autostmt` ends the statement, and with it its view of the data, at the end of the scope. */
static inline void autostmt_clear(sqlite3_stmt **stmt) {
  if (*stmt)
    sqlite3_reset(*stmt);
}
#define autostmt __attribute__((cleanup(autostmt_clear))) sqlite3_stmt

/* Creates the tables of an empty database; checks those of another. SQLITE_OK; SQLITE_MISMATCH
 * when version or identity differ, *@why_out then says it (static). */
int schema_check(Conn *conn, const char *identity, const char **why_out);
/* Binds @values in order, G_TYPE-less: all integers. */
void stmt_bind(sqlite3_stmt *stmt, guint count, const gint64 *values);
#define STMT_BIND(stmt, ...)                                                                       \
  stmt_bind(stmt, sizeof((gint64[]){__VA_ARGS__}) / sizeof(gint64), (gint64[]){__VA_ARGS__})
gint64 conn_meta_get(Conn *conn, const char *key, gint64 otherwise);
int conn_meta_set(Conn *conn, const char *key, gint64 value);

/* A reader's connection for the length of a scope. */
typedef struct {
  Store *store;
  Conn *conn; /* NULL: could not be opened, the error is set */
} Reader;
Reader reader_take(Store *store, GError **error);
void reader_give(Reader *reader);
#define autoreader __attribute__((cleanup(reader_give))) Reader

/* Turns the last failure of @conn into @error, noting damage. Always FALSE. */
gboolean store_sql_error(Store *store, Conn *conn, const char *what, GError **error);
/* The same for a bare SQLite code. */
gboolean store_code_error(Store *store, int rc, const char *text, const char *what, GError **error);

/* ---- transactions: txn.c ---- */

/* Where a body lies. Pack 0: a file of its own, whose number is `offset`. */
typedef struct {
  guint32 pack;
  guint64 offset, length;
} Extent;

/* What a body takes in a pack: one of no octets still has a place that is its own. */
static inline guint64 extent_room(guint64 length) {
  return MAX(length, 1);
}

void writer_lock(Store *store);
void writer_unlock(Store *store);
/* Joins the open transaction or begins one. The keeper commits it after TXN_US if nobody does. */
gboolean txn_begin_locked(Store *store, GError **error);
/* Commits the open transaction, if any. When that fails everything of it is lost, and every batch
 * that took part in it learns so. */
gboolean txn_commit_locked(Store *store, GError **error);
/* For a statement of the writer that failed: sets @error, rolls back. Always FALSE. */
gboolean txn_fail_locked(Store *store, const char *what, GError **error);
/* Rolls back a transaction that holds nothing of others. */
void txn_undo_locked(Store *store);
/* One more row; commits when the transaction is large or old. */
gboolean txn_row_locked(Store *store, GError **error);
/* Takes @batch into the open transaction (beginning one). STALE when its uidspace is gone. */
gboolean txn_join_locked(Store *store, StoreBatch *batch, GError **error);
/* @extent is free once the transaction is committed; @bodies of the count of bodies go. */
void txn_victim_locked(Store *store, Extent extent, gint bodies);
/* Deletes the rows of bodies @first…@last and forgets those not yet written. */
gboolean txn_drop_bodies_locked(Store *store, guint32 space, guint32 first, guint32 last,
                                GError **error);
/* Deletes all messages and bodies of @space. */
gboolean txn_drop_space_locked(Store *store, guint32 space, GError **error);

struct StoreBatch {
  Store *store;
  guint32 space;
  gint64 delta;      /* messages that came less those that went, not yet in folder.count */
  gboolean in_txn;   /* has rows in the open transaction */
  GError *failure;   /* a transaction with rows of this batch was lost */
};

/* ---- bodies: body.c, pack.c, evict.c ---- */

typedef struct {
  MsgId id;
  Extent at;
  gint64 born;
  gboolean flushing; /* its row is being written right now */
} Pending;

typedef struct {
  guint32 number;
  int fd;       /* for readers; -1: not open */
  guint pins;   /* bodies handed out */
  guint64 end;  /* where the next body goes */
  guint64 live; /* bytes of bodies, also of those not yet freed */
  guint64 disk; /* bytes that it takes on disk */
  gboolean dirty; /* written since the last mark */
} Pack;

/* A StoreBody as kept in Store.pins; the public part comes first. */
typedef struct {
  StoreBody body;
  guint refs;
  Store *store; /* NULL: the store was closed first */
  Extent at;
  Pack *pack; /* NULL: a file, `body.fd` is its own */
  gboolean doomed; /* to be freed when it is unpinned */
} Pin;

typedef struct {
  MsgId id;
  gint64 clock;
} Touch;

typedef struct {
  guint32 uid;
  Extent at;
  gint64 used;
} BodyRow;

/* Rows that were read together, since whoever opens a message mostly goes on with the next one. */
typedef struct {
  guint32 space;
  GArray *rows; /* BodyRow, by UID, none left out between the first and the last */
} BodyRows;

typedef enum { JOB_COMMIT, JOB_FLUSH, JOB_TOUCH, JOB_EVICT, JOB_BURY, JOB_MARK, JOB_COUNT } Job;

struct Store {
  char *dir, *index_path;
  int dir_fd, lock_fd;
  guint64 limit;      /* cache_size */
  guint64 pack_limit; /* bytes of one pack */
  gint unhealthy;     /* atomic */

  GMutex keeping; /* one thread at a time runs the keeper's jobs; guards: */
  gboolean mark_lost; /* bytes could not be made durable */

  GMutex writer; /* guards the writer's connection and the transaction: */
  Conn *conn;
  gboolean txn_open;
  gint64 txn_since;
  guint txn_rows;
  gint64 txn_bodies;
  GPtrArray *txn_batches; /* StoreBatch, not owned */
  GArray *txn_victims;    /* Extent */

  GMutex lock; /* guards all below but `idle`: */
  GCond wake;
  GThread *keeper;
  gboolean stopping;
  gint64 due[JOB_COUNT]; /* monotonic; G_MAXINT64: nothing to do */
  gint64 clock;          /* counts bodies written and used: the order of use */
  GHashTable *packs;     /* number → Pack */
  Pack *current;         /* where small bodies are appended; NULL: a new one is begun */
  int current_fd;
  guint32 last_pack;
  GHashTable *pins;     /* Extent → Pin */
  GHashTable *pending;  /* MsgId → Pending */
  GArray *graveyard;    /* Extent: rows are gone (committed), bytes not yet */
  GArray *touches;      /* Touch */
  GArray *forgotten;    /* Pending: rows whose bytes turned out to be missing */
  GArray *dirty_files;  /* guint64: numbers of files written since the last mark */
  guint64 dirty_bytes;
  guint bury_generation; /* grows whenever rows of bodies went or bytes are about to be freed */
  BodyRows known[2];     /* of known_generation; the latter is the older one */
  guint known_generation;
  MsgId looked_for;      /* by store_body_get */
  guint64 disk_packs, disk_files;
  guint64 bodies;
  guint64 evict_want; /* bytes to free beyond the limit, after ENOSPC */
  gint can_punch;     /* atomic */
  gint full;          /* atomic: the disk was found full, nothing was freed yet */

  GMutex pool; /* guards: */
  GPtrArray *idle; /* Conn of readers */
};

/* Runs the job @delay_us from now, if not sooner. The caller holds Store.lock. */
void keeper_due_locked(Store *store, Job job, gint64 delay_us);
void keeper_due(Store *store, Job job, gint64 delay_us);
void keeper_start(Store *store);
void keeper_stop(Store *store);
/* Runs every job now, in this thread. For store_close and tests. */
gboolean store_settle(Store *store, GError **error);

guint extent_hash(gconstpointer extent);
gboolean extent_equal(gconstpointer a, gconstpointer b);
guint msgid_hash(gconstpointer id);
gboolean msgid_equal(gconstpointer a, gconstpointer b);

/* Reads the rows of bodies, compares them with the files there, and makes both agree: rows without
 * bytes are deleted, bytes without rows freed. @clean: the last close was orderly. */
gboolean packs_load(Store *store, gboolean clean, GError **error);
void packs_free(Store *store);
/* Appends @size octets to the current pack. The extent counts as live from here on. */
gboolean pack_append(Store *store, const void *octets, gsize size, Extent *at_out, GError **error);
/* A file of its own for a large body, relative to Store.dir_fd. g_free. */
char *body_file_path(guint64 number);
char *pack_path(guint32 number);
/* Deletes the pack when nothing lives in it. */
void pack_maybe_drop_locked(Store *store, Pack *pack);
void pack_unpin_locked(Store *store, Pack *pack);
/* The reader's descriptor of @pack; -1 when it cannot be opened. */
int pack_fd_locked(Store *store, Pack *pack);
/* Frees the blocks of [from, to) of the pack open at @fd. */
void pack_punch(Store *store, int fd, guint64 from, guint64 to);

/* @at becomes the body of @id, pinned. The caller has checked that the message exists. */
StoreBody *body_publish(Store *store, MsgId id, Extent at, GError **error);
gboolean body_flush(Store *store, GError **error);
gboolean body_flush_touches(Store *store, GError **error);
gboolean message_exists(Store *store, MsgId id, GError **error);

/* Frees what is in the graveyard. */
gboolean bury_run(Store *store, GError **error);
gboolean evict_run(Store *store, GError **error);
/* Makes the bytes of all bodies durable and notes so in the index. */
gboolean mark_run(Store *store, GError **error);
/* The disk is full: frees some room in the background. */
void evict_some(Store *store, guint64 bytes);
/* Whether the disk was found full and nothing was freed yet; sets @error then. */
gboolean evict_is_full(Store *store, GError **error);

/* ---- the folder on disk: aside.c ---- */

/* Creates and locks @dir. Descriptors of folder and lock file. */
gboolean dir_open(const char *dir, int *dir_fd_out, int *lock_fd_out, GError **error);
/* Moves all but the lock into a folder beside @dir; *@moved_to_out is its path (g_free). */
gboolean dir_set_aside(const char *dir, int dir_fd, char **moved_to_out, GError **error);
/* Deletes @path and all below; errors are ignored. */
void dir_remove_tree(const char *path);
/* The kernel's boot id, "" when it has none. g_free. */
char *boot_id(void);
/* Leaves a note that the index is damaged, for the next open. */
void dir_note_damage(int dir_fd);
gboolean dir_is_damaged(int dir_fd);
/* A file that is given up when the disk is full, so that the index can still be written. */
void dir_reserve(int dir_fd);
void dir_reserve_drop(int dir_fd);
/* Fills @message_out from the columns that every STMT_MESSAGE_* query selects. */
void message_from_row(sqlite3_stmt *stmt, StoreMessage *message_out);
