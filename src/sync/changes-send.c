/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Sending messages: APPENDs one after the other, their answers read behind them, as far behind as
 * MANY and MUCH say.
 *
 * Every APPEND is a transaction of the server, which ends on its disk. So where MULTIAPPEND is
 * offered, small messages go many by one APPEND, and a few of those are on the way at once so that
 * neither side waits for the other. The server takes such a batch as a whole or not at all; of one
 * that was refused each is sent by itself, as is all that comes after it, and so the one that is to
 * blame is found. A quota does not change in between: then one is tried before the others.
 *
 * A connection that ends takes all with it that was not answered; what was answered before is
 * settled still. A server that hangs up on a message because it is too big, or a file that cannot be
 * read to its end, would end every connection to come, so these are refused.
 */
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "sync/changes-private.h"

#define MANY 64                /* APPENDs that are not answered */
#define MUCH (8 * 1024 * 1024) /* their octets */
#define BATCHES 3              /* the same while batches are sent */
#define BATCH_MANY 100         /* messages of a batch */
#define BATCH_MUCH (2 * 1024 * 1024)
#define SMALL (1024 * 1024) /* a larger message goes by itself */
#define PROGRESS_US (G_USEC_PER_SEC / 4)

/* An APPEND that was sent. */
typedef struct {
  GPtrArray *items; /* of ChangeItem */
  ImapTag tag;
  guint64 size;
} Flight;

typedef struct {
  ChangeRun *run;
  GQueue todo;        /* of ChangeItem, in the order they are sent */
  GQueue flights;     /* of Flight, the same */
  guint64 flying;     /* their octets */
  gboolean batches;   /* several may go by one APPEND */
  gboolean by_replace;
  gboolean try_one;   /* the next is to be answered before others are sent */
  GPtrArray *untold;  /* ChangeItem: there, but the UID was not told */
  GPtrArray *arrived; /* ChangeItem: there; the old message is left */
  GError *full;       /* over quota: nothing more is sent */
  GError *failure;    /* the run is over */
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

static guint64 size_of(const GPtrArray *items) {
  guint64 size = 0;
  for (guint i = 0; i < items->len; i++)
    size += ((ChangeItem *) items->pdata[i])->change->size;
  return size;
}

static void free_flight(gpointer data) {
  Flight *flight = data;
  g_ptr_array_unref(flight->items);
  g_free(flight);
}

/* ---- answers ---- */

/* The server has taken @items; @uids of as many, or none were told. */
static void note_arrival(Sending *sending, const GPtrArray *items, guint32 uidvalidity,
                         const GArray *uids) {
  ChangeRun *run = sending->run;
  GError *failure = NULL;
  g_autoptr(GPtrArray) left = g_ptr_array_new();
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    gboolean told = uids->len == items->len &&
                    changes_claim(run, item, uidvalidity, g_array_index(uids, guint32, i));
    if (told && (item->replaced || !run->mailbox))
      changes_settle(run, item, CHANGE_DONE, NULL);
    else
      g_ptr_array_add(left, item);
  }
  if (!changes_journal(run, left, CHANGE_ARRIVED, &failure)) {
    fail(sending, failure);
    return;
  }
  for (guint i = 0; i < left->len; i++) {
    ChangeItem *item = left->pdata[i];
    g_ptr_array_add(item->uid ? sending->arrived : sending->untold, item);
  }
}

/* The server takes none of @items, which are one or were a batch. */
static void refuse(Sending *sending, const GPtrArray *items, const GError *refused) {
  gboolean quota = g_error_matches(refused, EML_ERROR, EML_ERROR_QUOTA);
  if (items->len == 1) {
    if (quota && !sending->full)
      sending->full = g_error_copy(refused);
    changes_settle(sending->run, items->pdata[0], CHANGE_REFUSED, refused);
    return;
  }
  log_info("%s: %u messages go one by one: %s", sending->run->target, items->len,
           refused->message);
  for (guint i = items->len; i > 0; i--)
    g_queue_push_head(&sending->todo, items->pdata[i - 1]);
  sending->total += size_of(items);
  sending->batches = FALSE;
  sending->try_one |= quota;
}

/* After the end of the session: settles what was answered before it, and what it died of. @last were
 * being sent, or NULL; @unread is the one of them whose file could not be read, or NULL. */
static void take_leave(Sending *sending, const GPtrArray *last, ChangeItem *unread) {
  g_autoptr(GPtrArray) lost = g_ptr_array_new();
  if (last)
    g_ptr_array_extend(lost, (GPtrArray *) last, NULL, NULL);
  for (Flight *flight; (flight = g_queue_pop_head(&sending->flights));) {
    guint32 uidvalidity;
    g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
    if (imap_append_many_wait(sending->run->session, flight->tag, flight->items->len, &uidvalidity,
                              uids, NULL))
      note_arrival(sending, flight->items, uidvalidity, uids);
    else
      g_ptr_array_extend(lost, flight->items, NULL, NULL);
    free_flight(flight);
  }
  ChangeItem *cause = g_error_matches(sending->failure, EML_ERROR, EML_ERROR_FAILED) ? unread : NULL;
  if (g_error_matches(sending->failure, EML_ERROR, EML_ERROR_TOO_BIG))
    /* Of those that may have been too big, the biggest was. */
    for (guint i = 0; i < lost->len; i++) {
      ChangeItem *item = lost->pdata[i];
      if (!cause || item->change->size > cause->change->size)
        cause = item;
    }
  if (cause)
    changes_settle(sending->run, cause, CHANGE_REFUSED, sending->failure);
}

/* Waits for the answer to the oldest APPEND. */
static void take_answer(Sending *sending) {
  Flight *flight = g_queue_peek_head(&sending->flights);
  guint32 uidvalidity;
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_autoptr(GError) refused = NULL;
  gboolean ok = imap_append_many_wait(sending->run->session, flight->tag, flight->items->len,
                                      &uidvalidity, uids, &refused);
  if (!ok && !is_alive(sending)) {
    fail(sending, g_steal_pointer(&refused));
    take_leave(sending, NULL, NULL);
    return;
  }
  g_queue_pop_head(&sending->flights);
  sending->flying -= flight->size;
  if (ok)
    note_arrival(sending, flight->items, uidvalidity, uids);
  else
    refuse(sending, flight->items, refused);
  free_flight(flight);
}

/* ---- sending ---- */

/* Closes and frees what prepare made. */
static void clear_message(gpointer data) {
  ImapMessage *message = data;
  autofd_clear(&message->fd);
  g_strfreev((char **) message->keywords);
}

/* Opens the file of @item. FALSE: that cannot be, and it is settled. */
static gboolean prepare(Sending *sending, ChangeItem *item, ImapMessage *message_out) {
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
    return FALSE;
  }
  *message_out = (ImapMessage){
      .flags = change->flags,
      .keywords = (const char *const *) changes_keywords(change->keywords),
      .internal_date = change->date,
      .fd = steal_fd(&fd),
      .size = change->size,
      .sent = on_sent,
      .sent_data = sending,
  };
  return TRUE;
}

/* Sends @one by REPLACE. TRUE: by APPEND, then. */
static gboolean replace(Sending *sending, const GPtrArray *one, const ImapMessage *message) {
  ChangeRun *run = sending->run;
  ChangeItem *item = one->pdata[0];
  g_autoptr(GPtrArray) present = g_ptr_array_new(), absent = g_ptr_array_new();
  g_autoptr(GError) refused = NULL;
  ImapAppended appended;
  if (imap_replace(run->session, item->change->uid, run->target, message, &appended, &refused)) {
    g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
    g_array_append_val(uids, appended.uid);
    item->replaced = TRUE;
    note_arrival(sending, one, appended.uidvalidity, uids);
    return FALSE;
  }
  if (!is_alive(sending)) {
    fail(sending, g_steal_pointer(&refused));
    take_leave(sending, one, item);
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
    refuse(sending, one, refused);
  return item->alone;
}

/* Sends @batch; settles those of it that cannot be sent. */
static void send_batch(Sending *sending, const GPtrArray *batch) {
  ChangeRun *run = sending->run;
  g_autoptr(GPtrArray) items = g_ptr_array_new();
  g_autoptr(GArray) messages = g_array_new(FALSE, FALSE, sizeof(ImapMessage));
  g_array_set_clear_func(messages, clear_message);
  for (guint i = 0; i < batch->len; i++) {
    ImapMessage message;
    if (!prepare(sending, batch->pdata[i], &message))
      continue;
    g_array_append_val(messages, message);
    g_ptr_array_add(items, batch->pdata[i]);
  }
  const ImapMessage *first = (const ImapMessage *) messages->data;
  if (items->len == 0 || (sending->by_replace && !replace(sending, items, first)))
    return;
  g_autoptr(GError) refused = NULL;
  gsize unread = 0;
  ImapTag tag = items->len == 1 ? imap_append_send(run->session, run->target, first, &refused)
                                : imap_append_many_send(run->session, run->target, first,
                                                        items->len, &unread, &refused);
  if (tag) {
    Flight *flight = g_new0(Flight, 1);
    *flight = (Flight){g_ptr_array_ref(items), tag, size_of(items)};
    g_queue_push_tail(&sending->flights, flight);
    sending->flying += flight->size;
  } else if (is_alive(sending)) {
    refuse(sending, items, refused);
  } else {
    fail(sending, g_steal_pointer(&refused));
    take_leave(sending, items, unread < items->len ? items->pdata[unread] : NULL);
  }
}

static gboolean is_small(const ChangeItem *item) {
  /* An empty one would end its batch (RFC 3502). */
  return item->change->size > 0 && item->change->size <= SMALL;
}

/* What of `todo` goes next by one APPEND. */
static GPtrArray *next_batch(Sending *sending) {
  GPtrArray *batch = g_ptr_array_new();
  guint64 size = 0;
  for (const GList *link = sending->todo.head; link; link = link->next) {
    ChangeItem *item = link->data;
    size += item->change->size;
    if (batch->len > 0 && (!is_small(item) || size > BATCH_MUCH))
      break;
    g_ptr_array_add(batch, item);
    if (!sending->batches || !is_small(item) || batch->len == BATCH_MANY)
      break;
  }
  return batch;
}

/* Whether @batch may be sent before older APPENDs are answered. Answers that are here are read
 * first. */
static gboolean has_room(const Sending *sending, const GPtrArray *batch) {
  guint flights = sending->flights.length;
  if (flights == 0)
    return TRUE;
  return flights < (batch->len > 1 ? BATCHES : MANY) &&
         sending->flying + size_of(batch) <= MUCH &&
         flights <= imap_in_flight(sending->run->session);
}

/* Journals @batch as SENT, and with it some that are sent next. */
static void journal_window(Sending *sending, const GPtrArray *batch) {
  g_autoptr(GPtrArray) window = g_ptr_array_new();
  GError *failure = NULL;
  gboolean due = FALSE;
  for (guint i = 0; i < batch->len; i++)
    due |= ((ChangeItem *) batch->pdata[i])->change->stage < CHANGE_SENT;
  for (const GList *link = sending->todo.head; due && link && window->len < MAX(MANY, batch->len);
       link = link->next)
    g_ptr_array_add(window, link->data);
  if (!changes_journal(sending->run, window, CHANGE_SENT, &failure))
    fail(sending, failure);
}

/* Sends @batch, which is the head of `todo`. */
static void send_next(Sending *sending, const GPtrArray *batch) {
  guint64 size = size_of(batch);
  if (!sending->full)
    journal_window(sending, batch);
  if (sending->failure)
    return;
  for (guint i = 0; i < batch->len; i++)
    g_queue_pop_head(&sending->todo);
  for (guint i = 0; i < batch->len && sending->full; i++)
    changes_settle(sending->run, batch->pdata[i], CHANGE_REFUSED, sending->full);
  gboolean alone = sending->try_one;
  sending->try_one = FALSE;
  if (!sending->full)
    send_batch(sending, batch);
  while (alone && sending->flights.length > 0)
    take_answer(sending);
  sending->before += size;
  report_progress(sending, sending->before, sending->todo.length == 0);
}

gboolean changes_send(ChangeRun *run, const GPtrArray *items, gboolean by_replace,
                      GPtrArray *untold, GPtrArray *arrived, GError **error) {
  const guint needed = IMAP_CAP_MULTIAPPEND | IMAP_CAP_LITERAL_PLUS;
  Sending sending = {
      .run = run,
      .by_replace = by_replace,
      .batches = !run->mailbox && (imap_session_caps(run->session) & needed) == needed,
      .untold = untold,
      .arrived = arrived,
      .total = size_of(items),
  };
  for (guint i = 0; i < items->len; i++)
    g_queue_push_tail(&sending.todo, items->pdata[i]);
  if (items->len > 0)
    report_progress(&sending, 0, TRUE);
  while (!sending.failure && (sending.todo.length > 0 || sending.flights.length > 0)) {
    g_autoptr(GPtrArray) batch = next_batch(&sending);
    if (batch->len > 0 && has_room(&sending, batch))
      send_next(&sending, batch);
    else
      take_answer(&sending);
  }
  /* Also when the journal failed: nothing is left unanswered in the session. */
  while (sending.flights.length > 0)
    take_answer(&sending);
  g_queue_clear(&sending.todo);
  g_clear_error(&sending.full);
  if (!sending.failure)
    return TRUE;
  g_propagate_error(error, sending.failure);
  return FALSE;
}
