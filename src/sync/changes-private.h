/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What changes.c (sets, flags, removing), changes-look.c (finding out what happened), changes-move.c,
 * changes-send.c (APPENDs) and changes-upload.c share. One thread.
 *
 * Functions return FALSE when the session is dead or the journal cannot be written, and then the
 * run is over. What the server merely refuses is settled for the changes concerned.
 */
#pragma once

#include "sync/changes.h"

/* One change on its way. */
typedef struct {
  Change *change; /* not to be touched once it is settled */
  guint index;    /* in the order given */
  guint32 uidvalidity, uid; /* the message at the target; uid 0: not known */
  gboolean guessed;         /* by its size and date */
  gboolean replaced;        /* UPLOAD: the old message is gone, by REPLACE */
  gboolean alone;           /* UPLOAD: the old message was found to be gone */
} ChangeItem;

typedef struct {
  Journal *journal;
  ImapSession *session;
  const ChangeHooks *hooks;
  ChangeKind kind;
  char *mailbox; /* of the changes, which are of one kind; copies, they outlive these. NULL: uploads
                    that replace nothing */
  guint32 uidvalidity;
  char *target;
  gboolean uidplus;
  GHashTable *claimed; /* set of UIDs at the target that changes of this run have */
} ChangeRun;

/* ---- changes.c ---- */

/* Settles @item; with @error if REFUSED. */
void changes_settle(ChangeRun *run, ChangeItem *item, ChangeOutcome outcome, const GError *error);
/* The same for all of @items, and empties it. */
void changes_settle_all(ChangeRun *run, GPtrArray *items, ChangeOutcome outcome,
                        const GError *error);
/* Settles an abandoned @item of which nothing was done. */
void changes_cancel(ChangeRun *run, ChangeItem *item);

/* Writes @stage of those of @items that are not that far, with their UID; one transaction. */
gboolean changes_journal(ChangeRun *run, const GPtrArray *items, ChangeStage stage,
                         GError **error);
/* Says that @item is @uid at the target. FALSE: another one is, or it is no UID. */
gboolean changes_claim(ChangeRun *run, ChangeItem *item, guint32 uidvalidity, guint32 uid);

/* Sorts @items as changes_take needs them. */
void changes_sort(GPtrArray *items);
/* Moves from @items to @taken (emptied before) as many as one command can name, no UID twice, and
 * returns their set. */
char *changes_take(GPtrArray *items, GPtrArray *taken);

/* Selects @mailbox, unless it is and has @uidvalidity (0: any). With @fresh what others did to it
 * in the meantime is known afterwards. *@refused_out is set when the server does not let us. */
gboolean changes_select(ChangeRun *run, const char *mailbox, guint32 uidvalidity, gboolean fresh,
                        GError **refused_out, GError **error);
/* Selects the mailbox that the changes are of. When it cannot be used or is another one, @items
 * are settled, and emptied. */
gboolean changes_open(ChangeRun *run, GPtrArray *items, gboolean fresh, GError **error);
/* Removes the messages of @items from the selected mailbox, which is theirs; settles @items and
 * empties it. */
gboolean changes_remove(ChangeRun *run, GPtrArray *items, GError **error);

/* ---- changes-look.c ---- */

/* Sorts @items by whether their message is in the selected mailbox. Where the server does not say,
 * it is. */
gboolean changes_split(ChangeRun *run, const GPtrArray *items, GPtrArray *present,
                       GPtrArray *absent, GError **error);
/* Selects the target, and finds there the messages of @items: sets their uid, or leaves it 0.
 * *@refused_out is set when it could not be looked at. */
gboolean changes_look(ChangeRun *run, const GPtrArray *items, GError **refused_out,
                      GError **error);

/* ---- changes-send.c ---- */

/* Sends the messages of @items (UPLOAD) in this order, journaled as SENT before; with @by_replace
 * each takes the place of its old one, which is in the selected mailbox. Settles what is done or
 * refused. What is there but not done is journaled as ARRIVED and appended to @arrived, or to
 * @untold when the server told no UID. */
gboolean changes_send(ChangeRun *run, const GPtrArray *items, gboolean by_replace,
                      GPtrArray *untold, GPtrArray *arrived, GError **error);

/* ---- one kind each: all of @items are settled ---- */

gboolean changes_copy(ChangeRun *run, const GPtrArray *items, GError **error);
gboolean changes_move(ChangeRun *run, const GPtrArray *items, GError **error);
gboolean changes_upload(ChangeRun *run, const GPtrArray *items, GError **error);

/* Keywords as the journal has them, NULL-ended. Free with g_strfreev. */
char **changes_keywords(const char *keywords);
