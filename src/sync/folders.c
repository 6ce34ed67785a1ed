/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sync/sync.h"

#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "mime/names.h"

#define MAX_MAILBOXES 100000
#define MAX_LEVELS 100

typedef struct {
  char *mailbox;
  char **levels;
  gboolean selectable;
  StoreRole role;
} Listed;

typedef struct {
  GArray *listed; /* of Listed */
  GHashTable *seen; /* mailbox, owned by listed */
  const char *prefix;
  void (*status)(const ImapStatus *, gpointer);
  gpointer status_data;
} Listing;

static void listed_clear(gpointer data) {
  Listed *listed = data;
  g_free(listed->mailbox);
  g_strfreev(listed->levels);
}

static const struct {
  guint attribute;
  StoreRole role;
} roles[] = {
    {IMAP_MAILBOX_ALL, STORE_ROLE_ALL},         {IMAP_MAILBOX_ARCHIVE, STORE_ROLE_ARCHIVE},
    {IMAP_MAILBOX_DRAFTS, STORE_ROLE_DRAFTS},   {IMAP_MAILBOX_FLAGGED, STORE_ROLE_FLAGGED},
    {IMAP_MAILBOX_JUNK, STORE_ROLE_JUNK},       {IMAP_MAILBOX_SENT, STORE_ROLE_SENT},
    {IMAP_MAILBOX_TRASH, STORE_ROLE_TRASH},
};

static StoreRole role_of(const ImapList *list) {
  if (g_ascii_strcasecmp(list->mailbox, "INBOX") == 0)
    return STORE_ROLE_INBOX;
  for (guint i = 0; i < G_N_ELEMENTS(roles); i++)
    if (list->attributes & roles[i].attribute)
      return roles[i].role;
  return STORE_ROLE_NONE;
}

/* The path components of a mailbox. The personal namespace's prefix is left out: with "INBOX." as
 * prefix, "INBOX.Sent" is shown as Sent, as every mail program does. */
static char **levels_of(const ImapList *list, const char *prefix) {
  const char *name = list->name;
  if (*prefix && g_str_has_prefix(name, prefix) && name[strlen(prefix)])
    name += strlen(prefix);
  char delimiter[2] = {list->delimiter, '\0'};
  g_auto(GStrv) raw = list->delimiter ? g_strsplit(name, delimiter, MAX_LEVELS) : NULL;
  g_autoptr(GPtrArray) levels = g_ptr_array_new_with_free_func(g_free);
  if (!raw)
    g_ptr_array_add(levels, name_for_level(name));
  for (guint i = 0; raw && raw[i]; i++) {
    if (!raw[i][0] && !raw[i + 1] && i > 0)
      break; /* "Lists/": a trailing delimiter names the same folder */
    g_ptr_array_add(levels, name_for_level(raw[i]));
  }
  g_ptr_array_add(levels, NULL);
  return (char **) g_ptr_array_free(g_steal_pointer(&levels), FALSE);
}

static void on_list(const ImapList *list, gpointer data) {
  Listing *listing = data;
  if (!*list->mailbox || listing->listed->len >= MAX_MAILBOXES ||
      g_hash_table_contains(listing->seen, list->mailbox))
    return;
  gboolean is_inbox = g_ascii_strcasecmp(list->mailbox, "INBOX") == 0;
  Listed listed = {
      .mailbox = g_strdup(list->mailbox),
      .levels = is_inbox ? g_strsplit("INBOX", "/", 1) : levels_of(list, listing->prefix),
      .selectable = !(list->attributes & IMAP_MAILBOX_NOSELECT),
      .role = role_of(list),
  };
  g_array_append_val(listing->listed, listed);
  g_hash_table_add(listing->seen, listed.mailbox);
}

static void on_status(const ImapStatus *status, gpointer data) {
  Listing *listing = data;
  if (listing->status)
    listing->status(status, listing->status_data);
}

gboolean sync_folders(Store *store, ImapSession *session, GPtrArray **added_out,
                      GPtrArray **removed_out, void (*status)(const ImapStatus *, gpointer),
                      gpointer status_data, GError **error) {
  static const ImapHandler handler = {.list = on_list, .status = on_status};
  char delimiter;
  g_autoptr(GArray) listed = g_array_new(FALSE, FALSE, sizeof(Listed));
  g_array_set_clear_func(listed, listed_clear);
  g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
  Listing listing = {
      .listed = listed,
      .seen = seen,
      .prefix = imap_session_prefix(session, &delimiter),
      .status = status,
      .status_data = status_data,
  };
  imap_session_set_handler(session, &handler, &listing);
  gboolean ok = imap_list(session, error);
  imap_session_set_handler(session, NULL, NULL);
  if (!ok)
    return FALSE;

  /* Every account has an INBOX (RFC 9051 5.1). A list without it is a server in trouble, and
   * applying it would drop the whole index. */
  gboolean has_inbox = FALSE;
  g_autofree StoreMailbox *mailboxes = g_new0(StoreMailbox, MAX(listed->len, 1));
  for (guint i = 0; i < listed->len; i++) {
    const Listed *one = &g_array_index(listed, Listed, i);
    mailboxes[i] = (StoreMailbox){.mailbox = one->mailbox,
                                  .levels = (const char *const *) one->levels,
                                  .selectable = one->selectable,
                                  .role = one->role};
    has_inbox |= one->role == STORE_ROLE_INBOX;
  }
  if (!has_inbox) {
    g_set_error(error, EML_ERROR, EML_ERROR_PROTOCOL,
                "the server listed %u folders but no INBOX; the list is not used", listed->len);
    return FALSE;
  }
  return store_folders_apply(store, mailboxes, listed->len, added_out, removed_out, error);
}

gboolean sync_status_differs(const StoreFolder *folder, const ImapStatus *status) {
  if (!folder->listed || !folder->space)
    return TRUE;
  if (status->uidvalidity > 0 && status->uidvalidity != folder->uidvalidity)
    return TRUE;
  if (status->uidnext > 0 && status->uidnext != folder->uidnext)
    return TRUE;
  if (status->messages >= 0 && status->messages != folder->count)
    return TRUE;
  return status->highestmodseq > 0 && (guint64) status->highestmodseq > folder->modseq;
}
