/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Finding out what happened. A message that was uploaded is known by its octets, which are compared
 * with those of the local file as they come; a copy by size and date, for its octets may never have
 * been here. Of several that fit, each belongs to one change, the first to the first; what
 * has a name in the journal already belongs to a change that was ended.
 */
#include <string.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "sync/changes-private.h"

#define CANDIDATES_MAX 100000
#define PIECE (64 * 1024)

/* ---- at the source ---- */

static void on_seen(const ImapFetch *fetch, gpointer data) {
  GHashTable *seen = data; /* of those asked for: UID → 1: not seen, 2: seen */
  if (g_hash_table_contains(seen, GUINT_TO_POINTER(fetch->uid)))
    g_hash_table_insert(seen, GUINT_TO_POINTER(fetch->uid), GUINT_TO_POINTER(2));
}

gboolean changes_split(ChangeRun *run, const GPtrArray *items, GPtrArray *present,
                       GPtrArray *absent, GError **error) {
  static const ImapHandler handler = {.fetch = on_seen};
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  g_autoptr(GPtrArray) asked = g_ptr_array_new(), taken = g_ptr_array_new();
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (g_hash_table_insert(seen, GUINT_TO_POINTER(item->change->uid), GUINT_TO_POINTER(1)))
      g_ptr_array_add(asked, item);
  }
  changes_sort(asked);
  while (asked->len > 0) {
    g_autofree char *set = changes_take(asked, taken);
    GError *failure = NULL;
    imap_session_set_handler(run->session, &handler, seen);
    ImapTag tag = imap_fetch_send(run->session, set, "(UID)", NULL, &failure);
    gboolean ok = tag && imap_wait(run->session, tag, &failure);
    imap_session_set_handler(run->session, NULL, NULL);
    if (!ok && !imap_session_alive(run->session)) {
      g_propagate_error(error, failure);
      return FALSE;
    }
    g_clear_error(&failure);
    for (guint i = 0; i < taken->len && !ok; i++)
      g_hash_table_insert(seen, GUINT_TO_POINTER(((ChangeItem *) taken->pdata[i])->change->uid),
                          GUINT_TO_POINTER(2));
  }
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    gpointer uid = GUINT_TO_POINTER(item->change->uid);
    gboolean there = GPOINTER_TO_UINT(g_hash_table_lookup(seen, uid)) == 2;
    g_ptr_array_add(there ? present : absent, item);
  }
  return TRUE;
}

/* ---- octets ---- */

/* A message of the server that is compared with a file. */
typedef struct {
  guint32 uid;
  int fd;
  guint64 size, at;
  gboolean begun, same;
  gboolean equal; /* all of it came and was the same */
  guint8 piece[PIECE];
} Comparison;

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  Comparison *comparison = data;
  if (comparison->begun || origin != 0 || size != comparison->size ||
      (uid != 0 && uid != comparison->uid))
    return FALSE;
  comparison->begun = TRUE;
  comparison->same = TRUE;
  comparison->at = 0;
  return TRUE;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  Comparison *comparison = data;
  for (const guint8 *at = octets; size > 0 && comparison->same;) {
    gssize got =
        pread(comparison->fd, comparison->piece, MIN(size, PIECE), (goffset) comparison->at);
    if (got < 0 && errno == EINTR)
      continue;
    comparison->same = got > 0 && memcmp(comparison->piece, at, (gsize) got) == 0;
    if (!comparison->same)
      break;
    at += got;
    size -= (gsize) got;
    comparison->at += (guint64) got;
  }
  return comparison->same;
}

static void on_body_end(const ImapFetch *fetch, gpointer data) {
  Comparison *comparison = data;
  if (comparison->begun && comparison->same && fetch->uid == comparison->uid &&
      fetch->have & IMAP_FETCH_BODY && comparison->at == comparison->size)
    comparison->equal = TRUE;
  comparison->begun = FALSE;
}

/* Whether the message @uid has the octets of @fd. One at a time: which message a body is of may come
 * after it. */
static gboolean compare_body(ChangeRun *run, guint32 uid, int fd, guint64 size, gboolean *equal_out,
                             GError **error) {
  static const ImapHandler handler = {
      .fetch = on_body_end, .body_begin = on_body_begin, .body_data = on_body_data};
  g_autofree Comparison *comparison = g_new0(Comparison, 1);
  comparison->uid = uid;
  comparison->fd = fd;
  comparison->size = size;
  char set[16];
  g_snprintf(set, sizeof set, "%u", uid);
  GError *failure = NULL;
  imap_session_set_handler(run->session, &handler, comparison);
  ImapTag tag = imap_fetch_send(run->session, set, "(UID BODY.PEEK[])", NULL, &failure);
  gboolean ok = tag && imap_wait(run->session, tag, &failure);
  imap_session_set_handler(run->session, NULL, NULL);
  *equal_out = comparison->equal;
  if (ok || imap_session_alive(run->session)) {
    g_clear_error(&failure); /* it was there a moment ago, and is no longer */
    return TRUE;
  }
  g_propagate_error(error, failure);
  return FALSE;
}

/* ---- at the target ---- */

/* A message that may be one. */
typedef struct {
  guint32 uid;
  gint64 date;
} Candidate;

typedef struct {
  GHashTable *by_size; /* guint64 that is wanted → GArray of Candidate */
  guint count;
  guint needed; /* ImapFetchItem bits */
} Look;

static void on_candidate(const ImapFetch *fetch, gpointer data) {
  Look *look = data;
  if (!fetch->uid || (fetch->have & look->needed) != look->needed)
    return;
  GArray *candidates = g_hash_table_lookup(look->by_size, &fetch->size);
  if (!candidates || look->count >= CANDIDATES_MAX)
    return;
  Candidate candidate = {fetch->uid, fetch->internal_date};
  g_array_append_val(candidates, candidate);
  look->count++;
}

static int compare_candidates(gconstpointer a, gconstpointer b) {
  guint32 left = ((const Candidate *) a)->uid, right = ((const Candidate *) b)->uid;
  return (left > right) - (left < right);
}

/* From which UID on the message of @change can be, if the target has @uidvalidity. */
static guint32 floor_of(const Change *change, guint32 uidvalidity) {
  gboolean same = change->target_uidvalidity == 0 || change->target_uidvalidity == uidvalidity;
  return same ? MAX(change->target_uidnext, 1) : 1;
}

static gboolean is_free(ChangeRun *run, guint32 uidvalidity, guint32 uid) {
  if (g_hash_table_contains(run->claimed, GUINT_TO_POINTER(uid)))
    return FALSE;
  g_autofree char *name = journal_name_get(run->journal, run->target, uidvalidity, uid);
  return name == NULL;
}

/* Which of @candidates @item is. */
static gboolean choose(ChangeRun *run, ChangeItem *item, const GArray *candidates,
                       guint32 uidvalidity, GError **error) {
  const Change *change = item->change;
  guint32 from = floor_of(change, uidvalidity);
  autofd int fd = -1;
  for (guint i = 0; i < candidates->len && item->uid == 0; i++) {
    const Candidate *candidate = &g_array_index(candidates, Candidate, i);
    gboolean fits = candidate->uid >= from && is_free(run, uidvalidity, candidate->uid);
    if (fits && run->kind != CHANGE_UPLOAD)
      fits = candidate->date == change->date;
    if (fits && run->kind == CHANGE_UPLOAD) {
      if (fd < 0)
        fd = journal_local_fd(run->journal, change->local, FALSE, NULL);
      if (fd < 0)
        return TRUE; /* whoever sends it finds the same, and says why */
      if (!compare_body(run, candidate->uid, fd, change->size, &fits, error))
        return FALSE;
    }
    if (fits && changes_claim(run, item, uidvalidity, candidate->uid))
      item->guessed = run->kind != CHANGE_UPLOAD;
  }
  return TRUE;
}

gboolean changes_look(ChangeRun *run, const GPtrArray *items, GError **refused_out,
                      GError **error) {
  static const ImapHandler handler = {.fetch = on_candidate};
  if (items->len == 0)
    return TRUE;
  GError *failure = NULL;
  if (!changes_select(run, run->target, 0, TRUE, &failure, error))
    return FALSE;
  if (g_error_matches(failure, EML_ERROR, EML_ERROR_NOT_FOUND)) {
    g_error_free(failure);
    return TRUE; /* nothing is there */
  }
  guint32 uidvalidity = imap_session_uidvalidity(run->session);
  if (!failure && uidvalidity == 0)
    g_set_error(&failure, EML_ERROR, EML_ERROR_PROTOCOL,
                "the server gave no UIDVALIDITY for %s, its messages cannot be told apart",
                run->target);
  if (failure) {
    g_propagate_error(refused_out, failure);
    return TRUE;
  }

  g_autoptr(GHashTable) by_size = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL,
                                                        (GDestroyNotify) g_array_unref);
  guint32 from = G_MAXUINT32;
  for (guint i = 0; i < items->len; i++) {
    Change *change = ((ChangeItem *) items->pdata[i])->change;
    from = MIN(from, floor_of(change, uidvalidity));
    if (!g_hash_table_contains(by_size, &change->size))
      g_hash_table_insert(by_size, &change->size, g_array_new(FALSE, FALSE, sizeof(Candidate)));
  }
  gboolean dated = run->kind != CHANGE_UPLOAD;
  Look look = {by_size, 0, IMAP_FETCH_SIZE | (dated ? IMAP_FETCH_DATE : 0)};
  g_autofree char *set = g_strdup_printf("%u:*", from);
  imap_session_set_handler(run->session, &handler, &look);
  ImapTag tag = imap_fetch_send(run->session, set,
                                dated ? "(UID RFC822.SIZE INTERNALDATE)" : "(UID RFC822.SIZE)",
                                NULL, &failure);
  gboolean ok = tag && imap_wait(run->session, tag, &failure);
  imap_session_set_handler(run->session, NULL, NULL);
  if (!ok) {
    gboolean alive = imap_session_alive(run->session);
    g_propagate_error(alive ? refused_out : error, failure);
    return alive;
  }

  GHashTableIter iter;
  gpointer candidates;
  g_hash_table_iter_init(&iter, by_size);
  while (g_hash_table_iter_next(&iter, NULL, &candidates))
    g_array_sort(candidates, compare_candidates);
  for (guint i = 0; i < items->len; i++) {
    ChangeItem *item = items->pdata[i];
    if (!choose(run, item, g_hash_table_lookup(by_size, &item->change->size), uidvalidity, error))
      return FALSE;
  }
  return TRUE;
}
