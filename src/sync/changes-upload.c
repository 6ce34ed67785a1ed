/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Uploading: what was cut off is looked for, the rest is sent (changes-send.c). A message that
 * replaces one is sent like any other, by REPLACE where that can be; else the old one is removed when
 * the new one is known to be there.
 */
#include "base/err.h"
#include "base/log.h"
#include "sync/changes-private.h"

/* All of @items are there. Removes the old messages, if there are any, and settles. */
static gboolean finish(ChangeRun *run, GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) old = g_ptr_array_new(), present = g_ptr_array_new(),
                       absent = g_ptr_array_new();
  g_autoptr(GError) refused = NULL;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->replaced || !run->mailbox)
      changes_settle(run, item, CHANGE_DONE, NULL);
    else if (item->alone)
      changes_settle(run, item, CHANGE_GONE, NULL);
    else
      g_ptr_array_add(old, item);
  }
  g_ptr_array_set_size(items, 0);
  if (old->len == 0)
    return TRUE;
  if (!changes_select(run, run->mailbox, run->uidvalidity, TRUE, &refused, error))
    return FALSE;
  if (refused && !g_error_matches(refused, EML_ERROR, EML_ERROR_NOT_FOUND)) {
    log_warning("%s: replaced messages could not be removed: %s", run->mailbox, refused->message);
    changes_settle_all(run, old, CHANGE_DONE, NULL);
    return TRUE;
  }
  if (refused || imap_session_uidvalidity(run->session) != run->uidvalidity) {
    changes_settle_all(run, old, CHANGE_GONE, NULL);
    return TRUE;
  }
  if (!changes_split(run, old, present, absent, error))
    return FALSE;
  changes_settle_all(run, absent, CHANGE_GONE, NULL);
  return changes_remove(run, present, error);
}

/* Sends @items, in the order given. Those that are there and not settled are put in @arrived. */
static gboolean upload(ChangeRun *run, const GPtrArray *items, GPtrArray *arrived, GError **error) {
  g_autoptr(GPtrArray) untold = g_ptr_array_new();
  g_autoptr(GError) ignored = NULL;
  gboolean by_replace = run->mailbox && items->len > 0 &&
                        imap_session_caps(run->session) & IMAP_CAP_REPLACE &&
                        g_str_equal(run->mailbox, run->target);
  if (by_replace) {
    if (!changes_select(run, run->mailbox, run->uidvalidity, FALSE, &ignored, error))
      return FALSE;
    by_replace = !ignored && imap_session_uidvalidity(run->session) == run->uidvalidity;
  }
  g_clear_error(&ignored);
  if (!changes_send(run, items, by_replace, untold, arrived, error) ||
      !changes_look(run, untold, &ignored, error))
    return FALSE;
  g_ptr_array_extend(arrived, untold, NULL, NULL);
  return TRUE;
}

gboolean changes_upload(ChangeRun *run, const GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) sought = g_ptr_array_new(), found = g_ptr_array_new(),
                       todo = g_ptr_array_new(), arrived = g_ptr_array_new();
  g_autoptr(GError) unknown = NULL;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    const Change *change = item->change;
    if (change->stage == CHANGE_SENT ||
        (change->stage == CHANGE_ARRIVED &&
         !changes_claim(run, item, change->target_uidvalidity, change->arrived)))
      g_ptr_array_add(sought, item);
  }
  if (!changes_look(run, sought, &unknown, error))
    return FALSE;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->uid || item->change->stage == CHANGE_ARRIVED)
      g_ptr_array_add(found, item);
    else if (item->change->abandoned)
      changes_cancel(run, item);
    else if (item->change->stage == CHANGE_SENT && unknown)
      changes_settle(run, item, CHANGE_REFUSED, unknown);
    else
      g_ptr_array_add(todo, item);
  }
  return changes_journal(run, found, CHANGE_ARRIVED, error) && finish(run, found, error) &&
         upload(run, todo, arrived, error) && finish(run, arrived, error);
}
