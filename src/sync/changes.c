/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A run over changes of one kind, in this order:
 *
 *   what is not QUEUED was cut off: look what happened (changes-look.c)
 *   ├ it was done: settle it, or do what is left of it
 *   └ it was not, or is QUEUED: abandoned ones end here, the others
 *       journal them as SENT, as many as one command (or pipeline) takes
 *       send, and settle each by what the server tells
 *       what it did not tell is looked for at the target
 *
 * Whatever the server says about messages is believed only where it was asked about them.
 */
#include "sync/changes-private.h"

#include <string.h>

#include "base/err.h"
#include "base/log.h"

#define SET_MAX 8000     /* octets of a set */
#define SET_ITEM 22      /* octets that one more range may need */
#define TAKEN_MAX 20000  /* messages of one command, so that its answer comes in time */

/* ---- settling and journaling ---- */

void changes_settle(ChangeRun *run, ChangeItem *item, ChangeOutcome outcome, const GError *error) {
  ChangeResult result = {outcome, item->uid ? item->uidvalidity : 0, item->uid, item->guessed, error};
  run->hooks->settled(g_steal_pointer(&item->change), &result, run->hooks->data);
}

void changes_settle_all(ChangeRun *run, GPtrArray *items, ChangeOutcome outcome,
                        const GError *error) {
  for (guint i = 0; i < items->len; i++)
    changes_settle(run, items->pdata[i], outcome, error);
  g_ptr_array_set_size(items, 0);
}

void changes_cancel(ChangeRun *run, ChangeItem *item) {
  g_autoptr(GError) cancelled =
      g_error_new_literal(EML_ERROR, EML_ERROR_CANCELLED, "given up before it was done");
  changes_settle(run, item, CHANGE_REFUSED, cancelled);
}

gboolean changes_journal(ChangeRun *run, const GPtrArray *items, ChangeStage stage,
                         GError **error) {
  g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(GPtrArray) behind = g_ptr_array_new();
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    /* The journal has no UIDVALIDITY for a UID but the one that was known before. */
    guint32 arrived = item->uidvalidity == item->change->target_uidvalidity ? item->uid : 0;
    if (item->change->stage > stage ||
        (item->change->stage == stage &&
         (stage != CHANGE_ARRIVED || item->change->arrived == arrived)))
      continue;
    Change *row = g_memdup2(item->change, sizeof *row);
    row->stage = stage;
    if (stage == CHANGE_ARRIVED)
      row->arrived = arrived;
    g_ptr_array_add(rows, row);
    g_ptr_array_add(behind, item->change);
  }
  if (rows->len > 0 && !journal_change_update(run->journal, (const Change *const *) rows->pdata,
                                              rows->len, error))
    return FALSE;
  for (guint i = 0; i < rows->len; i++) {
    ((Change *) behind->pdata[i])->stage = stage;
    ((Change *) behind->pdata[i])->arrived = ((Change *) rows->pdata[i])->arrived;
  }
  return TRUE;
}

gboolean changes_claim(ChangeRun *run, ChangeItem *item, guint32 uidvalidity, guint32 uid) {
  if (uid == 0 || uidvalidity == 0 || !g_hash_table_add(run->claimed, GUINT_TO_POINTER(uid)))
    return FALSE;
  item->uidvalidity = uidvalidity;
  item->uid = uid;
  return TRUE;
}

/* ---- sets ---- */

static int compare_items(gconstpointer a, gconstpointer b) {
  const ChangeItem *left = *(ChangeItem *const *) a, *right = *(ChangeItem *const *) b;
  if (left->change->uid != right->change->uid)
    return left->change->uid < right->change->uid ? -1 : 1;
  return left->index < right->index ? -1 : left->index > right->index;
}

void changes_sort(GPtrArray *items) {
  g_ptr_array_sort(items, compare_items);
}

char *changes_take(GPtrArray *items, GPtrArray *taken) {
  g_autoptr(GString) set = g_string_new(NULL);
  guint32 first = 0, last = 0;
  guint left = 0;
  g_ptr_array_set_size(taken, 0);
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    guint32 uid = item->change->uid;
    gboolean full = set->len > SET_MAX - 2 * SET_ITEM || taken->len >= TAKEN_MAX;
    if (full || (taken->len > 0 && uid == last)) {
      items->pdata[left++] = item;
      continue;
    }
    if (taken->len == 0 || uid != last + 1) {
      if (last > first)
        g_string_append_printf(set, ":%u", last);
      g_string_append_printf(set, taken->len ? ",%u" : "%u", uid);
      first = uid;
    }
    last = uid;
    g_ptr_array_add(taken, item);
  }
  if (last > first)
    g_string_append_printf(set, ":%u", last);
  g_ptr_array_set_size(items, (int) left);
  return g_string_free(g_steal_pointer(&set), FALSE);
}

/* ---- mailboxes ---- */

gboolean changes_select(ChangeRun *run, const char *mailbox, guint32 uidvalidity, gboolean fresh,
                        GError **refused_out, GError **error) {
  ImapSession *session = run->session;
  guint32 now = imap_session_uidvalidity(session);
  GError *failure = NULL;
  ImapSelected selected;
  gboolean there = now != 0 && g_strcmp0(imap_session_selected(session), mailbox) == 0 &&
                   (uidvalidity == 0 || uidvalidity == now);
  if (there ? !fresh || imap_noop(session, &failure)
            : imap_select(session, mailbox, FALSE, 0, 0, &selected, &failure))
    return TRUE;
  gboolean alive = imap_session_alive(session);
  g_propagate_error(alive ? refused_out : error, failure);
  return alive;
}

gboolean changes_open(ChangeRun *run, GPtrArray *items, gboolean fresh, GError **error) {
  g_autoptr(GError) refused = NULL;
  if (items->len == 0)
    return TRUE;
  if (!changes_select(run, run->mailbox, run->uidvalidity, fresh, &refused, error))
    return FALSE;
  if (refused && !g_error_matches(refused, EML_ERROR, EML_ERROR_NOT_FOUND))
    changes_settle_all(run, items, CHANGE_REFUSED, refused);
  else if (refused || imap_session_uidvalidity(run->session) != run->uidvalidity)
    changes_settle_all(run, items, CHANGE_GONE, NULL);
  return TRUE;
}

/* ---- flags ---- */

/* One STORE to the end. FALSE with *@refused_out or, when the session is dead, with @error. */
static gboolean store_flags(ChangeRun *run, const char *set, const ImapStore *store,
                            GError **refused_out, GError **error) {
  GError *failure = NULL;
  ImapTag tag = imap_store_send(run->session, set, store, &failure);
  if (tag && imap_store_wait(run->session, tag, NULL, &failure))
    return TRUE;
  g_propagate_error(imap_session_alive(run->session) ? refused_out : error, failure);
  return FALSE;
}

gboolean changes_remove(ChangeRun *run, GPtrArray *items, GError **error) {
  static const ImapStore mark = {IMAP_STORE_ADD, MSG_FLAG_DELETED, NULL, TRUE, 0};
  static const ImapStore unmark = {IMAP_STORE_REMOVE, MSG_FLAG_DELETED, NULL, TRUE, 0};
  g_autoptr(GPtrArray) taken = g_ptr_array_new();
  changes_sort(items);
  while (items->len > 0) {
    g_autofree char *set = changes_take(items, taken);
    g_autoptr(GError) refused = NULL;
    if (!changes_journal(run, taken, CHANGE_SENT, error))
      return FALSE;
    gboolean marked = store_flags(run, set, &mark, &refused, error);
    if (!marked && !imap_session_alive(run->session))
      return FALSE;
    /* Without UIDPLUS an EXPUNGE would take others along, which somebody marked and may want back.
     * Only an UPLOAD comes here then: its old message stays, marked, which is as near as it gets. */
    if (marked && run->uidplus && !imap_expunge(run->session, set, &refused)) {
      if (!imap_session_alive(run->session)) {
        g_propagate_error(error, g_steal_pointer(&refused));
        return FALSE;
      }
      g_autoptr(GError) ignored = NULL;
      if (run->kind != CHANGE_UPLOAD && !store_flags(run, set, &unmark, &ignored, error) &&
          !imap_session_alive(run->session))
        return FALSE;
    }
    /* An UPLOAD has its new message, whatever becomes of the old one. */
    if (refused && run->kind == CHANGE_UPLOAD)
      log_warning("%s: replaced messages could not be removed: %s", run->mailbox,
                  refused->message);
    gboolean done = !refused || run->kind == CHANGE_UPLOAD;
    changes_settle_all(run, taken, done ? CHANGE_DONE : CHANGE_REFUSED, refused);
  }
  return TRUE;
}

static gboolean expunge(ChangeRun *run, const GPtrArray *items, GError **error) {
  g_autoptr(GPtrArray) todo = g_ptr_array_new(), sent = g_ptr_array_new(),
                       present = g_ptr_array_new(), absent = g_ptr_array_new();
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (!item->change->abandoned)
      g_ptr_array_add(todo, item);
    else if (item->change->stage == CHANGE_QUEUED)
      changes_cancel(run, item);
    else
      g_ptr_array_add(sent, item);
  }
  if (!changes_open(run, sent, TRUE, error) ||
      !changes_split(run, sent, present, absent, error))
    return FALSE;
  changes_settle_all(run, absent, CHANGE_DONE, NULL);
  for (guint i = 0; i < present->len; i++)
    changes_cancel(run, present->pdata[i]);

  if (!run->uidplus) {
    g_autoptr(GError) refused = g_error_new_literal(
        EML_ERROR, EML_ERROR_REFUSED, "this server cannot remove single messages (no UIDPLUS)");
    changes_settle_all(run, todo, CHANGE_REFUSED, refused);
  }
  return changes_open(run, todo, TRUE, error) && changes_remove(run, todo, error);
}

char **changes_keywords(const char *keywords) {
  char **words = g_strsplit(keywords, " ", -1);
  guint kept = 0;
  for (guint i = 0; words[i]; i++) {
    if (*words[i])
      words[kept++] = words[i];
    else
      g_free(words[i]);
  }
  words[kept] = NULL;
  return words;
}

/* What FLAGS changes set and clear, and where the server's word goes. */
typedef struct {
  const ChangeHooks *hooks;
  guint add, remove;
  char **add_keywords, **remove_keywords;
  GHashTable *met; /* of abandoned changes: UID → 1: gone, 2: there, 3: as it was to become */
} Flagging;

static gboolean has_keyword(const char *const *keywords, const char *keyword) {
  for (; *keywords; keywords++)
    if (g_ascii_strcasecmp(*keywords, keyword) == 0)
      return TRUE;
  return FALSE;
}

static gboolean is_as_wanted(const Flagging *flagging, const ImapFetch *fetch) {
  for (char **keyword = flagging->add_keywords; *keyword; keyword++)
    if (!has_keyword(fetch->keywords, *keyword))
      return FALSE;
  for (char **keyword = flagging->remove_keywords; *keyword; keyword++)
    if (has_keyword(fetch->keywords, *keyword))
      return FALSE;
  return (fetch->flags & flagging->add) == flagging->add && !(fetch->flags & flagging->remove);
}

static void on_flags(const ImapFetch *fetch, gpointer data) {
  Flagging *flagging = data;
  if (!fetch->uid || !(fetch->have & IMAP_FETCH_FLAGS))
    return;
  if (flagging->hooks->flags)
    flagging->hooks->flags(fetch->uid, fetch->flags & ~(guint) MSG_FLAG_RECENT, fetch->keywords,
                           fetch->have & IMAP_FETCH_MODSEQ ? fetch->modseq : 0,
                           flagging->hooks->data);
  if (g_hash_table_contains(flagging->met, GUINT_TO_POINTER(fetch->uid)))
    g_hash_table_insert(flagging->met, GUINT_TO_POINTER(fetch->uid),
                        GUINT_TO_POINTER(is_as_wanted(flagging, fetch) ? 3 : 2));
}

/* Finds out about abandoned changes that were sent. */
static gboolean look_at_flags(ChangeRun *run, Flagging *flagging, GPtrArray *items,
                              GError **error) {
  g_autoptr(GPtrArray) taken = g_ptr_array_new();
  changes_sort(items);
  while (items->len > 0) {
    g_autofree char *set = changes_take(items, taken);
    for (guint i = 0; i < taken->len; i++)
      g_hash_table_insert(flagging->met,
                          GUINT_TO_POINTER(((ChangeItem *) taken->pdata[i])->change->uid),
                          GUINT_TO_POINTER(1));
    GError *failure = NULL;
    ImapTag tag = imap_fetch_send(run->session, set, "(UID FLAGS)", NULL, &failure);
    if (!tag || !imap_wait(run->session, tag, &failure)) {
      if (!imap_session_alive(run->session)) {
        g_propagate_error(error, failure);
        return FALSE;
      }
      changes_settle_all(run, taken, CHANGE_REFUSED, failure);
      g_error_free(failure);
      continue;
    }
    for (guint i = 0; i < taken->len; i++) {
      ChangeItem *item = taken->pdata[i];
      guint met = GPOINTER_TO_UINT(
          g_hash_table_lookup(flagging->met, GUINT_TO_POINTER(item->change->uid)));
      if (met == 2)
        changes_cancel(run, item);
      else
        changes_settle(run, item, met == 3 ? CHANGE_DONE : CHANGE_GONE, NULL);
    }
  }
  return TRUE;
}

/* One STORE that adds, one that removes, both on their way at once. */
static gboolean change_flags(ChangeRun *run, const Flagging *flagging, GPtrArray *items,
                             GError **error) {
  const ImapStore stores[] = {
      {IMAP_STORE_ADD, flagging->add, (const char *const *) flagging->add_keywords, FALSE, 0},
      {IMAP_STORE_REMOVE, flagging->remove, (const char *const *) flagging->remove_keywords, FALSE,
       0}};
  g_autoptr(GPtrArray) taken = g_ptr_array_new();
  changes_sort(items);
  while (items->len > 0) {
    g_autofree char *set = changes_take(items, taken);
    g_autoptr(GError) refused = NULL;
    ImapTag tags[G_N_ELEMENTS(stores)] = {0};
    if (!changes_journal(run, taken, CHANGE_SENT, error))
      return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(stores) && !refused; i++)
      if (stores[i].flags || *stores[i].keywords)
        tags[i] = imap_store_send(run->session, set, &stores[i], &refused);
    for (gsize i = 0; i < G_N_ELEMENTS(stores); i++) {
      GError *failure = NULL;
      if (!tags[i] || imap_store_wait(run->session, tags[i], NULL, &failure))
        continue;
      if (refused)
        g_error_free(refused);
      refused = failure; /* the last one: if the session is dead, it says why */
    }
    if (!imap_session_alive(run->session)) {
      g_propagate_error(error, g_steal_pointer(&refused));
      return FALSE;
    }
    changes_settle_all(run, taken, refused ? CHANGE_REFUSED : CHANGE_DONE, refused);
  }
  return TRUE;
}

static gboolean run_flags(ChangeRun *run, const GPtrArray *items, GError **error) {
  static const ImapHandler handler = {.fetch = on_flags};
  g_autoptr(GPtrArray) todo = g_ptr_array_new(), sent = g_ptr_array_new();
  g_autoptr(GHashTable) met = g_hash_table_new(NULL, NULL);
  const Change *first = ((ChangeItem *) items->pdata[0])->change;
  const guint settable = ~(guint) MSG_FLAG_RECENT;
  g_auto(GStrv) add_keywords = changes_keywords(first->add_keywords);
  g_auto(GStrv) remove_keywords = changes_keywords(first->remove_keywords);
  Flagging flagging = {run->hooks, first->add & settable, first->remove & settable,
                       add_keywords, remove_keywords, met};
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (!item->change->abandoned)
      g_ptr_array_add(todo, item);
    else if (item->change->stage == CHANGE_QUEUED)
      changes_cancel(run, item);
    else
      g_ptr_array_add(sent, item);
  }
  if (!changes_open(run, sent, TRUE, error) || !changes_open(run, todo, TRUE, error))
    return FALSE;
  imap_session_set_handler(run->session, &handler, &flagging);
  gboolean ok = look_at_flags(run, &flagging, sent, error) &&
                change_flags(run, &flagging, todo, error);
  imap_session_set_handler(run->session, NULL, NULL);
  return ok;
}

/* ---- a run ---- */

gboolean sync_changes(Journal *journal, ImapSession *session, GPtrArray *changes,
                      const ChangeHooks *hooks, GError **error) {
  static gboolean (*const kinds[])(ChangeRun *, const GPtrArray *, GError **) = {
      [CHANGE_UPLOAD] = changes_upload, [CHANGE_COPY] = changes_copy,
      [CHANGE_MOVE] = changes_move,     [CHANGE_EXPUNGE] = expunge,
      [CHANGE_FLAGS] = run_flags,
  };
  if (changes->len == 0)
    return TRUE;
  if (!imap_session_alive(session))
    return imap_noop(session, error); /* tells why; no change is to blame */
  const Change *first = changes->pdata[0];
  g_autofree ChangeItem *all = g_new0(ChangeItem, changes->len);
  g_autoptr(GPtrArray) items = g_ptr_array_new();
  for (guint i = 0; i < changes->len; i++) {
    all[i].change = changes->pdata[i];
    all[i].index = i;
    g_ptr_array_add(items, &all[i]);
  }
  ChangeRun run = {
      .journal = journal,
      .session = session,
      .hooks = hooks,
      .kind = first->kind,
      .mailbox = g_strdup(first->mailbox),
      .uidvalidity = first->uidvalidity,
      .target = g_strdup(first->target),
      .uidplus = (imap_session_caps(session) & IMAP_CAP_UIDPLUS) != 0,
      .claimed = g_hash_table_new(NULL, NULL),
  };
  /* A message that is on its way out is never taken for the one that comes. */
  gboolean same = g_strcmp0(run.mailbox, run.target) == 0 &&
                  (!first->target_uidvalidity || first->target_uidvalidity == run.uidvalidity);
  for (guint i = 0; i < items->len && same; i++)
    g_hash_table_add(run.claimed, GUINT_TO_POINTER(all[i].change->uid));
  imap_session_set_handler(session, NULL, NULL);
  gboolean ok = kinds[run.kind](&run, items, error);
  g_free(run.mailbox);
  g_free(run.target);
  g_hash_table_unref(run.claimed);
  return ok;
}
