/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What was promised to the user and is not on the server yet, on disk: changes that are to be made
 * there, files that exist on this machine only, and the file names that the user gave to messages.
 * It knows no network, and nothing of the index: that can be rebuilt from the server, this cannot.
 * So it lives in the state folder, and messages are told by mailbox, UIDVALIDITY and UID.
 *
 *   DIR/journal.db        SQLite, WAL
 *   DIR/local/N           octets of local file N
 *   DIR/local.aside-DATE  what was in DIR/local when journal.db was gone
 *
 * A call that returned TRUE survives kill -9 of the process at any moment; after journal_sync also
 * a crash of the machine. A journal that is damaged or of another account is never set aside by
 * itself: journal_open fails and says what to do.
 *
 * Any function may be called from any thread.
 */
#pragma once

#include <glib.h>

#include "base/flags.h"

typedef struct Journal Journal;

/* Opens or creates the journal in @dir (created 0700) for @identity. Files in DIR/local without a
 * row are deleted, but set aside when there was no journal yet; rows without their file go, unless
 * a change names them. One of another identity is taken over when nothing is left to do in it.
 * CORRUPT, CONFIG (another identity, a newer version), NO_SPACE, BUSY (open
 * already), FAILED. The store's lock keeps a second process out. */
Journal *journal_open(const char *dir, const char *identity, GError **error);
void journal_close(Journal **journal);

/* Waits until all that was written is on the disk, data files too that were handed to
 * journal_local_put. */
gboolean journal_sync(Journal *journal, GError **error);

/* ---- local files ---- */

typedef enum {
  LOCAL_SCRATCH,  /* never uploaded: its name is not that of a letter */
  LOCAL_LETTER,   /* is being uploaded: a change names it */
  LOCAL_FAILED,   /* could not be uploaded, see @reason; kept until the user moves or removes it */
} LocalState;

typedef struct {
  guint32 id;     /* 1 … 2^28 - 1, never used again */
  guint32 parent; /* the local folder it is in, 0: in @folder */
  char *folder;   /* path of the folder as shown, "" for the top; NULL with a @parent */
  char *name;     /* unique within its folder */
  gboolean is_folder;
  LocalState state;
  guint64 size;   /* octets; folders 0 */
  gint64 mtime;   /* nanoseconds */
  gint64 ctime;   /* seconds */
  char *reason;   /* FAILED: one line, else NULL */
  /* A copy of this message, whose octets were not fetched: DIR/local/N does not exist. */
  char *mailbox; /* NULL: no copy */
  guint32 uidvalidity, uid;
} Local;
Local *local_copy(const Local *local);
void local_free(Local *local);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Local, local_free)

/* A number for a new local file; nothing is written. 0 when they are used up. */
guint32 journal_local_number(Journal *journal);
/* Opens DIR/local/@id for reading and writing (@create: makes it, empty, 0600). -1 with @error; the
 * caller's to close. */
int journal_local_fd(Journal *journal, guint32 id, gboolean create, GError **error);
/* Writes the row of @local->id, new or changed. */
gboolean journal_local_put(Journal *journal, const Local *local, GError **error);
/* Deletes the row, then the file. No error when there is none. */
gboolean journal_local_remove(Journal *journal, guint32 id, GError **error);
/* All of them, by id: GPtrArray of Local with free function. */
GPtrArray *journal_locals(Journal *journal, GError **error);

/* ---- changes ---- */

typedef enum {
  CHANGE_UPLOAD,  /* the octets of a local file become a message of @target */
  CHANGE_COPY,
  CHANGE_MOVE,
  CHANGE_EXPUNGE,
  CHANGE_FLAGS,
} ChangeKind;

typedef enum {
  CHANGE_QUEUED,  /* nothing was sent */
  CHANGE_SENT,    /* the server may have done it: look before doing it */
  CHANGE_ARRIVED, /* @arrived is at the target; what is left is removing the old message */
} ChangeStage;

/* One change of one message. */
typedef struct {
  guint32 id; /* ascending in the order of the calls, never used again */
  ChangeKind kind;
  ChangeStage stage;
  gboolean abandoned; /* who asked was told that it failed: find out what happened, do no more */
  /* The message; of an UPLOAD the one that it replaces, NULL for none. */
  char *mailbox;
  guint32 uidvalidity, uid;
  /* UPLOAD, COPY, MOVE */
  char *target; /* mailbox */
  guint32 target_uidvalidity, target_uidnext; /* as known when it was queued; 0: unknown. The new
                                                  message has no lower UID */
  char *name;      /* its file name there */
  guint32 arrived; /* its UID there, from ARRIVED on */
  guint64 size;    /* octets */
  gint64 date;     /* INTERNALDATE, seconds */
  guint flags;     /* what an UPLOAD is to have; of a COPY or MOVE as last known */
  char *keywords;  /* the same; separated by a space, "" for none, never NULL */
  guint32 local;   /* UPLOAD: whose octets; COPY: shown until it is done; else 0 */
  /* FLAGS: what is set and what is cleared, not both */
  guint add, remove;
  char *add_keywords, *remove_keywords; /* as keywords */
} Change;
Change *change_copy(const Change *change);
void change_free(Change *change);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Change, change_free)

/* Adds @count changes in one transaction and gives them ids; with @local (or NULL) written as by
 * journal_local_put in the same one. */
gboolean journal_change_add(Journal *journal, Change *changes, gsize count, const Local *local,
                            GError **error);
/* Sets stage, abandoned and arrived of @count changes as they are in @changes. One transaction. */
gboolean journal_change_update(Journal *journal, const Change *const *changes, gsize count,
                               GError **error);
/* Ends @count changes in one transaction: their rows go; where @uids[i] is not 0, @name of the
 * change is given to that message of its target, as the journal has it by now, under
 * @uidvalidities[i] (both may be NULL: no names); and the local files that they name go, with their
 * octets, but those in state FAILED. */
gboolean journal_change_end(Journal *journal, const Change *const *changes, gsize count,
                            const guint32 *uidvalidities, const guint32 *uids, GError **error);
/* All of them, by id: GPtrArray of Change with free function. */
GPtrArray *journal_changes(Journal *journal, GError **error);

/* ---- names that the user gave ---- */

/* The name of one message, or NULL (g_free). */
char *journal_name_get(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid);
/* Gives a message a name; NULL takes it away. */
gboolean journal_name_set(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid,
                          const char *name, GError **error);
/* Whether any message of @mailbox has one; cheap. */
gboolean journal_names_any(Journal *journal, const char *mailbox, guint32 uidvalidity);
/* Messages @first…@last are gone, and with them their names. */
gboolean journal_names_drop(Journal *journal, const char *mailbox, guint32 uidvalidity,
                            guint32 first, guint32 last, GError **error);

/* ---- folders ---- */

/* @from was renamed to @to, with all below it (@delimiter, 0: nothing can be below): in names,
 * changes and copies. @from_path and @to_path are the same as shown, for local files. One
 * transaction. */
gboolean journal_rename(Journal *journal, const char *from, const char *to, char delimiter,
                        const char *from_path, const char *to_path, GError **error);
