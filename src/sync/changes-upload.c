/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Uploading: APPENDs one after the other, their answers read behind them, as far behind as MANY and
 * MUCH say. A message that replaces one is sent like any other, by REPLACE where that can be; else
 * the old one is removed when the new one is known to be there.
 *
 * A connection that ends takes all with it that was not answered; what was answered before is
 * settled still. A server that hangs up on a message because it is too big, or a file that cannot be
 * read to its end, would end every connection to come, so these are refused.
 */
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "sync/changes-private.h"

#define MANY 64                /* APPENDs that are not answered */
#define MUCH (8 * 1024 * 1024) /* their octets */
#define PROGRESS_US (G_USEC_PER_SEC / 4)

/* An APPEND that was sent. */
typedef struct {
  ChangeItem *item;
  ImapTag tag;
  guint64 size;
} Flight;

typedef struct {
  ChangeRun *run;
  GQueue flights;     /* of Flight, in the order they were sent */
  guint64 flying;     /* their octets */
  GPtrArray *untold;  /* ChangeItem: there, but the UID was not told */
  GPtrArray *arrived; /* ChangeItem: there; the old message is left */
  GError *full;       /* over quota: nothing more is sent */
  GError *failure;    /* the run is over */
  gboolean replaces;  /* there are old messages */
  guint64 before, total; /* octets of messages that were sent, and of all */
  gint64 progressed;
} Sending;

static void report_progress(Sending *sending, guint64 done, gboolean last) {
  const ChangeHooks *hooks = sending->run->hooks;
  gint64 now = g_get_monotonic_time();
  if (!hooks->progress || (!last && now - sending->progressed < PROGRESS_US))
    return;
  sending->progressed = now;
  hooks->progress(done, sending->total, hooks->data);
}

static void on_sent(guint64 octets, gpointer data) {
  Sending *sending = data;
  report_progress(sending, sending->before + octets, FALSE);
}

static void fail(Sending *sending, GError *failure) {
  if (sending->failure)
    g_error_free(failure);
  else
    sending->failure = failure;
}

static gboolean is_alive(const Sending *sending) {
  return imap_session_alive(sending->run->session);
}

/* The server has taken @item. */
static void note_arrival(Sending *sending, ChangeItem *item, const ImapAppended *appended) {
  ChangeRun *run = sending->run;
  GError *failure = NULL;
  g_autoptr(GPtrArray) one = g_ptr_array_new();
  g_ptr_array_add(one, item);
  gboolean told = changes_claim(run, item, appended->uidvalidity, appended->uid);
  gboolean done = item->replaced || !sending->replaces;
  if (told && done)
    changes_settle_all(run, one, CHANGE_DONE, NULL);
  else if (!changes_journal(run, one, CHANGE_ARRIVED, &failure))
    fail(sending, failure);
  else
    g_ptr_array_add(told ? sending->arrived : sending->untold, item);
}

static void refuse(Sending *sending, ChangeItem *item, const GError *refused) {
  if (g_error_matches(refused, EML_ERROR, EML_ERROR_QUOTA) && !sending->full)
    sending->full = g_error_copy(refused);
  changes_settle(sending->run, item, CHANGE_REFUSED, refused);
}

/* Waits for the answer to the oldest APPEND. One that is not answered before the session dies stays
 * in the queue. */
static gboolean take_answer(Sending *sending) {
  Flight *flight = g_queue_peek_head(&sending->flights);
  ImapAppended appended;
  g_autoptr(GError) refused = NULL;
  gboolean ok = imap_append_wait(sending->run->session, flight->tag, &appended, &refused);
  if (!ok && !is_alive(sending)) {
    fail(sending, g_steal_pointer(&refused));
    return FALSE;
  }
  if (ok)
    note_arrival(sending, flight->item, &appended);
  else
    refuse(sending, flight->item, refused);
  sending->flying -= flight->size;
  g_free(g_queue_pop_head(&sending->flights));
  return TRUE;
}

/* After the end of the session: settles what was answered before it, and what it died of. @last was
 * being sent, or is NULL. */
static void take_leave(Sending *sending, ChangeItem *last) {
  g_autofree Flight *biggest = NULL;
  for (Flight *flight; (flight = g_queue_pop_head(&sending->flights));) {
    ImapAppended appended;
    if (imap_append_wait(sending->run->session, flight->tag, &appended, NULL)) {
      note_arrival(sending, flight->item, &appended);
      g_free(flight);
    } else if (!biggest || flight->size > biggest->size) {
      g_free(biggest);
      biggest = flight;
    } else {
      g_free(flight);
    }
  }
  /* Of those that may have been too big, the biggest was. */
  ChangeItem *cause = last;
  if (g_error_matches(sending->failure, EML_ERROR, EML_ERROR_TOO_BIG) && biggest &&
      (!last || biggest->size > last->change->size))
    cause = biggest->item;
  if (cause && (g_error_matches(sending->failure, EML_ERROR, EML_ERROR_TOO_BIG) ||
                (last && g_error_matches(sending->failure, EML_ERROR, EML_ERROR_FAILED))))
    changes_settle(sending->run, cause, CHANGE_REFUSED, sending->failure);
}

/* Sends @item by REPLACE. TRUE: by APPEND, then. */
static gboolean replace(Sending *sending, ChangeItem *item, const ImapMessage *message) {
  ChangeRun *run = sending->run;
  g_autoptr(GPtrArray) one = g_ptr_array_new(), present = g_ptr_array_new(),
                       absent = g_ptr_array_new();
  g_autoptr(GError) refused = NULL;
  ImapAppended appended;
  if (imap_replace(run->session, item->change->uid, run->target, message, &appended, &refused)) {
    item->replaced = TRUE;
    note_arrival(sending, item, &appended);
    return FALSE;
  }
  g_ptr_array_add(one, item);
  if (!is_alive(sending)) {
    fail(sending, g_steal_pointer(&refused));
    take_leave(sending, item);
    return FALSE;
  }
  GError *failure = NULL;
  if (!g_error_matches(refused, EML_ERROR, EML_ERROR_QUOTA) &&
      !g_error_matches(refused, EML_ERROR, EML_ERROR_TOO_BIG) &&
      !changes_split(run, one, present, absent, &failure)) {
    fail(sending, failure);
    return FALSE;
  }
  item->alone = absent->len > 0; /* nothing left to replace */
  if (!item->alone)
    refuse(sending, item, refused);
  return item->alone;
}

/* Sends @item; settles it if that cannot be. */
static void send_one(Sending *sending, ChangeItem *item, gboolean by_replace) {
  ChangeRun *run = sending->run;
  const Change *change = item->change;
  g_autoptr(GError) refused = NULL;
  autofd int fd = journal_local_fd(run->journal, change->local, FALSE, &refused);
  struct stat stat;
  if (fd >= 0 && (fstat(fd, &stat) < 0 || (guint64) stat.st_size < change->size))
    g_set_error_literal(&refused, EML_ERROR, EML_ERROR_FAILED,
                        "the file that was to be uploaded is shorter than it was");
  if (refused) {
    changes_settle(run, item, CHANGE_REFUSED, refused);
    return;
  }
  g_auto(GStrv) keywords = changes_keywords(change->keywords);
  guint64 size = change->size;
  ImapMessage message = {
      .flags = change->flags,
      .keywords = (const char *const *) keywords,
      .internal_date = change->date,
      .fd = fd,
      .size = size,
      .sent = on_sent,
      .sent_data = sending,
  };
  if (by_replace && !replace(sending, item, &message))
    return;
  Flight flight = {item, 0, size};
  flight.tag = imap_append_send(run->session, run->target, &message, &refused);
  if (flight.tag) {
    g_queue_push_tail(&sending->flights, g_memdup2(&flight, sizeof flight));
    sending->flying += size;
  } else if (is_alive(sending)) {
    refuse(sending, item, refused);
  } else {
    fail(sending, g_steal_pointer(&refused));
    take_leave(sending, item);
  }
}

/* Journals as SENT those of @items that are sent next, from @at on. */
static void journal_window(Sending *sending, const GPtrArray *items, guint at) {
  g_autoptr(GPtrArray) window = g_ptr_array_new();
  GError *failure = NULL;
  for (guint i = at; i < items->len && i < at + MANY; i++)
    g_ptr_array_add(window, items->pdata[i]);
  if (!changes_journal(sending->run, window, CHANGE_SENT, &failure))
    fail(sending, failure);
}

/* Waits for the answers to the oldest APPENDs until @size more octets may be sent. */
static void make_room(Sending *sending, guint64 size) {
  GQueue *flights = &sending->flights;
  while (flights->length > 0 && !sending->failure &&
         (flights->length >= MANY || sending->flying + size > MUCH ||
          flights->length > imap_in_flight(sending->run->session)))
    if (!take_answer(sending))
      take_leave(sending, NULL);
}

static void send_all(Sending *sending, const GPtrArray *items, gboolean by_replace) {
  for (guint i = 0; i < items->len; i++)
    sending->total += ((ChangeItem *) items->pdata[i])->change->size;
  if (items->len > 0)
    report_progress(sending, 0, TRUE);
  for (guint i = 0; i < items->len && !sending->failure; i++) {
    ChangeItem *item = items->pdata[i];
    guint64 size = item->change->size;
    make_room(sending, size);
    if (!sending->failure && !sending->full && i % MANY == 0)
      journal_window(sending, items, i);
    if (sending->failure)
      break;
    if (sending->full)
      changes_settle(sending->run, item, CHANGE_REFUSED, sending->full);
    else
      send_one(sending, item, by_replace);
    sending->before += size;
    report_progress(sending, sending->before, i + 1 == items->len);
  }
  /* Also when the journal failed: nothing is left unanswered in the session. */
  while (sending->flights.length > 0)
    if (!take_answer(sending))
      take_leave(sending, NULL);
}

/* All of @items are there. Removes the old messages, if there are any, and settles. */
static gboolean finish(Sending *sending, GPtrArray *items, GError **error) {
  ChangeRun *run = sending->run;
  g_autoptr(GPtrArray) old = g_ptr_array_new(), present = g_ptr_array_new(),
                       absent = g_ptr_array_new();
  g_autoptr(GError) refused = NULL;
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (item->replaced || !sending->replaces)
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

/* Sends @items, in the order given. Those that are there and not settled are in sending->arrived. */
static gboolean upload(Sending *sending, const GPtrArray *items, GError **error) {
  ChangeRun *run = sending->run;
  g_autoptr(GError) ignored = NULL;
  gboolean by_replace = sending->replaces && items->len > 0 &&
                        imap_session_caps(run->session) & IMAP_CAP_REPLACE &&
                        g_str_equal(run->mailbox, run->target);
  if (by_replace) {
    if (!changes_select(run, run->mailbox, run->uidvalidity, FALSE, &ignored, error))
      return FALSE;
    by_replace = !ignored && imap_session_uidvalidity(run->session) == run->uidvalidity;
  }
  send_all(sending, items, by_replace);
  if (sending->failure) {
    g_propagate_error(error, g_steal_pointer(&sending->failure));
    return FALSE;
  }
  g_clear_error(&ignored);
  if (!changes_look(run, sending->untold, &ignored, error))
    return FALSE;
  g_ptr_array_extend(sending->arrived, sending->untold, NULL, NULL);
  return TRUE;
}

gboolean changes_upload(ChangeRun *run, const GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) sought = g_ptr_array_new(), found = g_ptr_array_new(),
                       todo = g_ptr_array_new(), untold = g_ptr_array_new(),
                       arrived = g_ptr_array_new();
  g_autoptr(GError) unknown = NULL;
  Sending sending = {.run = run, .untold = untold, .arrived = arrived};
  sending.replaces = run->mailbox != NULL;
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
  gboolean ok = changes_journal(run, found, CHANGE_ARRIVED, error) &&
                finish(&sending, found, error) && upload(&sending, todo, error) &&
                finish(&sending, arrived, error);
  g_clear_error(&sending.full);
  return ok;
}
