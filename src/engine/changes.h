/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is changed through the mount.
 *
 * A change is journaled, shown at once, and done on the server behind it, in order for each folder,
 * many as one command. The first change of its kind to a folder is waited for, so that whoever
 * changes one thing learns what the server says; those that follow closely are believed to go as
 * well as it did, until one does not. What the server refuses later is shown as it is there again,
 * logged, and counted in the status. Offline every change is refused at once (OFFLINE): nothing is
 * promised that may never come true.
 *
 * A folder then shows three things: its messages as the index has them, less those that are on
 * their way out; *guests*: messages on their way in; and local files. Local files are not (yet)
 * messages: letters that are being written or uploaded, uploads that failed, and *scratch*: any
 * file whose name does not end in ".eml" or begins with a dot, which is never uploaded. A folder
 * whose name begins with a dot is a local one, and all in it is scratch.
 */
#pragma once

#include "engine/engine.h"

/* A local file or folder. */
typedef struct {
  guint32 id;     /* at most 2^28 - 1 */
  guint32 folder; /* 0: the top; of a local folder's content: 0 */
  guint32 parent; /* the local folder it is in, 0: none */
  char *name;
  gboolean is_folder;
  guint64 size;
  gint64 mtime; /* nanoseconds */
  gint64 ctime; /* seconds */
} EngineLocal;
void engine_local_free(EngineLocal *local);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EngineLocal, engine_local_free)

/* A place for names: a folder of the server (0: the top), or a local folder. */
typedef struct {
  guint32 folder;
  guint32 local; /* not 0: this, and @folder is 0 */
} EngineDir;

/* What a name stands for: exactly one is set. */
typedef struct {
  EngineFolder *folder;
  EngineMessage *message;
  EngineMsg msg; /* of @message; it may be in another folder's uidspace */
  EngineLocal *local;
} EngineEntry;
void engine_entry_clear(EngineEntry *entry);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(EngineEntry, engine_entry_clear)

/* ---- looking; from the index and the journal, never waits ---- */

/* NOT_FOUND; STALE when @dir itself is gone. */
gboolean engine_entry_get(Engine *engine, EngineDir dir, const char *name, EngineEntry *entry_out,
                          GError **error);
EngineLocal *engine_local_get(Engine *engine, guint32 id, GError **error);

/* Guests and local files of @dir, in the order of numbers that stay while they are there, from above
 * @after on; FALSE from @each ends it. What is a message of @dir by now is left out. */
typedef gboolean (*EngineGuestFn)(guint32 number, const EngineEntry *entry, gpointer data);
void engine_guests_scan(Engine *engine, EngineDir dir, guint32 after, EngineGuestFn each,
                        gpointer data);

/* How many local folders are in @dir; cheap. */
guint engine_local_folders(Engine *engine, EngineDir dir);

/* ---- names; @done is called with NULL when it is done, or promised ---- */

/* Removes the message or local file @name: a message goes to the Trash, from there (or with delete =
 * expunge) for good. NOT_FOUND, REFUSED, OFFLINE, INVALID for a folder. */
EngineWait engine_unlink(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                         gpointer data);

/* Gives what is called @name the name @to_name in @to. What is there already is replaced, unless
 * @no_replace (EXISTS): of a letter by a letter the message is replaced, flags kept. Folders go with
 * all in them, never onto another folder (NOT_EMPTY). A local file that gets the name of a letter in a
 * folder of the server is uploaded. CROSSING: a message into a local folder. */
EngineWait engine_rename(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                         const char *to_name, gboolean no_replace, EngineDone done, gpointer data);

/* As engine_rename of a local file to the name of a letter in a folder of the server; the message gets
 * just these flags and keywords. INVALID: it is something else. */
EngineWait engine_deliver(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                          const char *to_name, gboolean no_replace, guint flags,
                          const char *keywords, EngineDone done, gpointer data);

/* Makes a folder, on the server and subscribed, or with a dot a local one. EXISTS, INVALID, REFUSED. */
EngineWait engine_mkdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data);

/* Removes an empty folder. NOT_EMPTY, NOT_FOUND, REFUSED. */
EngineWait engine_rmdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data);

/* Sets flags and keywords of a message as a whole (RECENT is left out); @flags -1, @keywords NULL:
 * they stay as they are. With @local not 0: of the message that this letter becomes, which is waited
 * for. NOT_FOUND, INVALID (no keyword, or one that the folder does not take), FIXED (scratch, or a
 * letter that is still being written or has failed). */
EngineWait engine_set_flags(Engine *engine, EngineMsg msg, guint32 local, gint flags,
                            const char *keywords, EngineDone done, gpointer data);

/* ---- files that are written ---- */

/* A local file, or a message that is being edited, opened for writing. Its functions but commit
 * never wait for the network; they are called from any thread, also at once for one file. */
typedef struct EngineFile EngineFile;

/* Creates and opens the local file @name in @dir. EXISTS, NOT_FOUND, FIXED (a letter outside a folder
 * that holds messages), INVALID (a name too long), NO_SPACE. The caller's (engine_file_close). */
EngineFile *engine_file_create(Engine *engine, EngineDir dir, const char *name, GError **error);

typedef void (*EngineFileDone)(EngineFile *file, gpointer data, const GError *error);
/* Opens a message or, with @local not 0, a local file; its octets are fetched first, unless
 * @truncate. All that have one thing open share its octets. */
EngineWait engine_file_open(Engine *engine, EngineMsg msg, guint32 local, gboolean truncate,
                            EngineFileDone done, gpointer data);
void engine_file_close(EngineFile **file);

/* Which local file it is; of a message that is edited, the one that holds the new octets. */
guint32 engine_file_local(const EngineFile *file);
/* Whether there is something to commit. */
gboolean engine_file_is_dirty(const EngineFile *file);

/* NO_SPACE; TOO_BIG beyond what the server takes. @written_out may be less only with an error. */
gboolean engine_file_write(EngineFile *file, const void *octets, gsize size, guint64 offset,
                           GError **error);
/* A descriptor to pread from, good until the next write or close; -1 with @error. */
int engine_file_fd(EngineFile *file, GError **error);
gboolean engine_file_truncate(EngineFile *file, guint64 size, GError **error);
/* Makes the whole file a copy of the message @from, without fetching it. FALSE: it holds something
 * already, or @from is being edited: the caller copies octets. */
gboolean engine_file_clone(EngineFile *file, EngineMsg from);
/* fsync(2). */
gboolean engine_file_sync(EngineFile *file, GError **error);

/* What was written is now the whole: scratch is kept; a letter is checked, journaled and uploaded, or
 * takes the place of the message that was edited. Errors: INVALID (not a message), QUOTA, TOO_BIG,
 * REFUSED, NOT_FOUND, OFFLINE, …: the octets then stay as a failed upload under the same name; those
 * of a message that was edited as the local file NAME.failed. With nothing new, or no octets at all
 * (shells close a descriptor right after they have truncated the file), it completes at once. */
EngineWait engine_file_commit(EngineFile *file, EngineDone done, gpointer data);

/* Sets the modification time, in nanoseconds, of a local file: an upload takes it as INTERNALDATE.
 * FIXED once it is on its way. */
gboolean engine_local_set_mtime(Engine *engine, guint32 id, gint64 mtime, GError **error);

/* truncate(2) of something that is not open: opens it, truncates and commits. */
EngineWait engine_truncate(Engine *engine, EngineMsg msg, guint32 local, guint64 size,
                           EngineDone done, gpointer data);

/* Lines for the status text: changes that are on their way, scratch, failed uploads. */
void engine_changes_describe(Engine *engine, GString *text);
