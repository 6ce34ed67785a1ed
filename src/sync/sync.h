/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bringing the index up to what the server says: the list of folders, and the messages of one
 * folder. Everything is idempotent: a run that breaks off leaves a state from which the next run
 * arrives at the same end. Called on the thread that owns the session; the store may be shared.
 */
#pragma once

#include "imap/session.h"
#include "store/store.h"

typedef enum {
  SYNC_MESSAGE_NEW,
  SYNC_MESSAGE_GONE,
  SYNC_MESSAGE_FLAGS,
  SYNC_LISTED, /* listed for the first time; no news of single messages comes with it */
  SYNC_RESET,  /* a listing that was known changed as a whole; no news of single messages either */
} SyncNewsKind;

typedef struct {
  /* Something changed and is in the index. @name (NEW, GONE only) is valid during the call. */
  void (*news)(SyncNewsKind kind, guint32 folder, MsgId id, const char *name, gpointer data);
  /* @done of @total messages of a long listing have come; called at least once a second while it
   * flows. */
  void (*progress)(guint32 folder, guint32 done, guint32 total, gpointer data);
  /* The file name that the user gave to message @uid of @folder (g_free), or NULL. May be NULL. */
  char *(*name)(const StoreFolder *folder, guint32 uid, gpointer data);
  gpointer data;
} SyncHooks;

/* Makes the index hold what the server's LIST holds. *@added_out and *@removed_out as
 * store_folders_apply. @status (may be NULL) gets every STATUS line that came along. */
gboolean sync_folders(Store *store, ImapSession *session, GPtrArray **added_out,
                      GPtrArray **removed_out, void (*status)(const ImapStatus *, gpointer),
                      gpointer status_data, GError **error);

/* Whether @status tells of something that the index of @folder does not have yet. */
gboolean sync_status_differs(const StoreFolder *folder, const ImapStatus *status);

/* Selects @folder and brings its messages up to date: by QRESYNC (RFC 7162) where offered, else by
 * CONDSTORE, else by comparing flags; a first listing or a new UIDVALIDITY reads everything.
 * Errors: those of the session (then the folder's state is as before or further, never wrong),
 * NOT_FOUND when the folder is no longer in the index. */
gboolean sync_messages(Store *store, ImapSession *session, guint32 folder, const SyncHooks *hooks,
                       GError **error);
