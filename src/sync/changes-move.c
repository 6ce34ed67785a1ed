/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Copying and moving. Where a server has no MOVE it is COPY, then STORE \Deleted and UID EXPUNGE of
 * what was copied; nothing is removed before its copy is known to be there, by UID, and that is
 * journaled (ARRIVED).
 */
#include "base/err.h"
#include "sync/changes-private.h"

/* What became of messages that were sent on their way, in arrays of ChangeItem. */
typedef struct {
  GPtrArray *copied;  /* of a MOVE by COPY: what is to be removed */
  GPtrArray *untold;  /* done, if they were there; where they went was not told */
} Sent;

/* Notes what COPYUID told. */
static void note_copies(ChangeRun *run, const GPtrArray *taken, guint32 uidvalidity,
                        const GArray *copies) {
  g_autoptr(GHashTable) to = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < copies->len; i++) {
    const ImapCopy *copy = &g_array_index(copies, ImapCopy, i);
    g_hash_table_insert(to, GUINT_TO_POINTER(copy->from), GUINT_TO_POINTER(copy->to));
  }
  for (guint i = 0; i < taken->len; i++) {
    ChangeItem *item = taken->pdata[i];
    gpointer uid = g_hash_table_lookup(to, GUINT_TO_POINTER(item->change->uid));
    changes_claim(run, item, uidvalidity, GPOINTER_TO_UINT(uid));
  }
}

/* After a refusal of @items: what is still there was not moved; the rest is untold. */
static gboolean sort_refused(ChangeRun *run, GPtrArray *items, const GError *refused, Sent *sent,
                             GError **error) {
  g_autoptr(GPtrArray) present = g_ptr_array_new();
  if (!changes_split(run, items, present, sent->untold, error))
    return FALSE;
  changes_settle_all(run, present, CHANGE_REFUSED, refused);
  return TRUE;
}

/* COPY or, with @by_move, MOVE of @items, which are of the selected mailbox. Empties @items; those
 * that are not settled are in @sent. */
static gboolean send_all(ChangeRun *run, GPtrArray *items, gboolean by_move, Sent *sent,
                         GError **error) {
  g_autoptr(GPtrArray) taken = g_ptr_array_new();
  changes_sort(items);
  while (items->len > 0) {
    g_autofree char *set = changes_take(items, taken);
    g_autoptr(GArray) copies = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
    g_autoptr(GPtrArray) told = g_ptr_array_new(), rest = g_ptr_array_new();
    g_autoptr(GError) refused = NULL;
    guint32 uidvalidity;
    if (!changes_journal(run, taken, CHANGE_SENT, error))
      return FALSE;
    if (!(by_move ? imap_move : imap_copy)(run->session, set, run->target, &uidvalidity, copies,
                                           &refused) &&
        !imap_session_alive(run->session)) {
      g_propagate_error(error, g_steal_pointer(&refused));
      return FALSE;
    }
    /* A COPY is all or nothing. */
    if (!refused || by_move)
      note_copies(run, taken, uidvalidity, copies);
    for (guint i = 0; i < taken->len; i++) {
      ChangeItem *item = taken->pdata[i];
      g_ptr_array_add(item->uid ? told : rest, item);
    }
    if (run->kind == CHANGE_MOVE && !by_move) {
      if (!changes_journal(run, told, CHANGE_ARRIVED, error))
        return FALSE;
      g_ptr_array_extend(sent->copied, told, NULL, NULL);
    } else {
      changes_settle_all(run, told, CHANGE_DONE, NULL);
    }
    if (refused && by_move) {
      if (!sort_refused(run, rest, refused, sent, error))
        return FALSE;
    } else if (refused) {
      changes_settle_all(run, rest, CHANGE_REFUSED, refused);
    } else if (copies->len > 0) {
      changes_settle_all(run, rest, CHANGE_GONE, NULL); /* it told of all that it found */
    } else {
      /* If this is cut off, they are not to be copied again. */
      if (run->kind == CHANGE_COPY && !changes_journal(run, rest, CHANGE_ARRIVED, error))
        return FALSE;
      g_ptr_array_extend(sent->untold, rest, NULL, NULL);
    }
  }
  return TRUE;
}

/* Settles what the server did not tell of. One with UIDPLUS tells of all that it did: the rest was not
 * there. With others it is looked for. */
static gboolean settle_untold(ChangeRun *run, GPtrArray *untold, GError **error) {
  g_autoptr(GError) ignored = NULL;
  if (!run->uidplus && !changes_look(run, untold, &ignored, error))
    return FALSE;
  changes_settle_all(run, untold, run->uidplus ? CHANGE_GONE : CHANGE_DONE, NULL);
  return TRUE;
}

/* Where the journal says that @item is, if it says all of it. */
static gboolean recall(ChangeRun *run, ChangeItem *item) {
  const Change *change = item->change;
  return change->stage == CHANGE_ARRIVED &&
         changes_claim(run, item, change->target_uidvalidity, change->arrived);
}

/* ---- copying ---- */

gboolean changes_copy(ChangeRun *run, const GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) sought = g_ptr_array_new(), todo = g_ptr_array_new(),
                       untold = g_ptr_array_new();
  g_autoptr(GError) unknown = NULL;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->change->stage != CHANGE_QUEUED && !recall(run, item))
      g_ptr_array_add(sought, item);
  }
  if (!changes_look(run, sought, &unknown, error))
    return FALSE;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->uid || item->change->stage == CHANGE_ARRIVED)
      changes_settle(run, item, CHANGE_DONE, NULL);
    else if (item->change->abandoned)
      changes_cancel(run, item);
    else if (item->change->stage == CHANGE_SENT && unknown)
      changes_settle(run, item, CHANGE_REFUSED, unknown);
    else
      g_ptr_array_add(todo, item);
  }
  Sent sent = {NULL, untold};
  return changes_open(run, todo, TRUE, error) && send_all(run, todo, FALSE, &sent, error) &&
         settle_untold(run, untold, error);
}

/* ---- moving ---- */

/* Finds out what happened to @cut, which were sent: settles them, or adds them to @copied or
 * @todo. The source is selected. */
static gboolean look_back(ChangeRun *run, const GPtrArray *cut, gboolean can_move,
                          GPtrArray *copied, GPtrArray *todo, GError **error) {
  g_autoptr(GPtrArray) present = g_ptr_array_new(), absent = g_ptr_array_new(),
                       sought = g_ptr_array_new(), arrived = g_ptr_array_new();
  g_autoptr(GError) unknown = NULL;
  if (!changes_split(run, cut, present, absent, error))
    return FALSE;
  /* What is still there was not moved, but its COPY may have been the last that was done. */
  g_ptr_array_extend(sought, absent, NULL, NULL);
  if (!can_move)
    g_ptr_array_extend(sought, present, NULL, NULL);
  if (!changes_look(run, sought, &unknown, error))
    return FALSE;
  for (guint i = 0; i < absent->len; i++) {
    /* Without MOVE it is removed only once its copy has been journaled, so it was somebody else. */
    ChangeItem *item = absent->pdata[i];
    changes_settle(run, item, item->uid || can_move ? CHANGE_DONE : CHANGE_GONE, NULL);
  }
  for (guint i = 0; i < present->len; i++) {
    ChangeItem *item = present->pdata[i];
    if (item->uid)
      g_ptr_array_add(arrived, item);
    else if (item->change->abandoned)
      changes_cancel(run, item);
    else if (unknown)
      changes_settle(run, item, CHANGE_REFUSED, unknown);
    else
      g_ptr_array_add(todo, item);
  }
  g_ptr_array_extend(copied, arrived, NULL, NULL);
  return changes_journal(run, arrived, CHANGE_ARRIVED, error);
}

/* COPY, and what was copied to @copied. */
static gboolean copy_to_move(ChangeRun *run, GPtrArray *todo, GPtrArray *copied, GError **error) {
  g_autoptr(GPtrArray) untold = g_ptr_array_new(), found = g_ptr_array_new(),
                       present = g_ptr_array_new(), absent = g_ptr_array_new(),
                       lost = g_ptr_array_new();
  g_autoptr(GError) ignored = NULL;
  Sent sent = {copied, untold};
  if (!changes_open(run, todo, FALSE, error) || !send_all(run, todo, FALSE, &sent, error) ||
      !changes_look(run, untold, &ignored, error))
    return FALSE;
  for (guint i = 0; i < untold->len; i++) {
    ChangeItem *item = untold->pdata[i];
    g_ptr_array_add(item->uid ? found : lost, item);
  }
  if (!changes_journal(run, found, CHANGE_ARRIVED, error))
    return FALSE;
  g_ptr_array_extend(copied, found, NULL, NULL);
  if (!changes_open(run, lost, FALSE, error) ||
      !changes_split(run, lost, present, absent, error))
    return FALSE;
  changes_settle_all(run, absent, CHANGE_GONE, NULL);
  /* It should be there, but that is not enough to remove the only one that is seen. */
  g_autoptr(GError) refused =
      g_error_new(EML_ERROR, EML_ERROR_REFUSED,
                  "the copy is not to be found in %s, so the message stays where it is",
                  run->target);
  changes_settle_all(run, present, CHANGE_REFUSED, refused);
  return TRUE;
}

gboolean changes_move(ChangeRun *run, const GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) all = g_ptr_array_new(), cut = g_ptr_array_new(),
                       copied = g_ptr_array_new(), todo = g_ptr_array_new(),
                       untold = g_ptr_array_new();
  gboolean can_move = (imap_session_caps(run->session) & IMAP_CAP_MOVE) != 0;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->change->stage == CHANGE_QUEUED && item->change->abandoned)
      changes_cancel(run, item);
    else
      g_ptr_array_add(all, item);
  }
  for (guint i = 0; i < all->len; i++) {
    ChangeItem *item = all->pdata[i];
    recall(run, item);
  }
  if (!changes_open(run, all, TRUE, error))
    return FALSE;
  for (guint i = 0; i < all->len; i++) {
    ChangeItem *item = all->pdata[i];
    g_ptr_array_add(item->change->stage == CHANGE_ARRIVED ? copied
                    : item->change->stage == CHANGE_SENT  ? cut
                                                          : todo,
                    item);
  }
  if (cut->len > 0 && !look_back(run, cut, can_move, copied, todo, error))
    return FALSE;
  if (!run->uidplus) {
    g_autoptr(GError) refused =
        g_error_new_literal(EML_ERROR, EML_ERROR_REFUSED,
                            "this server cannot move messages (neither MOVE nor UIDPLUS)");
    if (!can_move)
      changes_settle_all(run, todo, CHANGE_REFUSED, refused);
    changes_settle_all(run, copied, CHANGE_REFUSED, refused);
  }
  Sent sent = {NULL, untold};
  if (can_move && (!changes_open(run, todo, FALSE, error) ||
                   !send_all(run, todo, TRUE, &sent, error) ||
                   !settle_untold(run, untold, error)))
    return FALSE;
  if (!can_move && !copy_to_move(run, todo, copied, error))
    return FALSE;
  return changes_open(run, copied, FALSE, error) && changes_remove(run, copied, error);
}
