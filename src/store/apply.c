/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * store_folders_apply: the folders become what the server lists.
 *
 * A folder is known by its mailbox; one that exists only by its children, by its place. All folders
 * are read into a tree of nodes, the tree is changed, and each change is written, in one
 * transaction. Order: mark what stays, remove the rest (so that its names are free), then place
 * the mailboxes, parents first. A folder whose mailbox is gone but which still has children stays
 * as a made-up parent, with its id.
 */
#include <string.h>

#include "base/err.h"
#include "store/folder-private.h"
#include "store/store-private.h"

#define COMPONENT_MAX 255

/* Names at the top that are not the server's. */
static const char *const reserved[] = {"Outbox",   ".control", ".backups", ".maildir",
                                       ".search", ".parts",   NULL};

typedef struct Node Node;
struct Node {
  StoreFolder *folder;
  char *level; /* the name as wished */
  Node *parent; /* NULL: the top */
  GPtrArray *children;
  gboolean listed; /* its mailbox is in the server's list */
  gboolean stays;
};

typedef struct {
  Store *store;
  GHashTable *by_mailbox; /* mailbox key → Node */
  GPtrArray *top;         /* Node */
  GPtrArray *all;         /* Node, owned */
  GPtrArray *added, *removed;
  gint64 now;
} Apply;

void store_folder_change_free(StoreFolderChange *change) {
  if (!change)
    return;
  g_free(change->name);
  g_free(change);
}

static void node_free(gpointer data) {
  Node *node = data;
  store_folder_free(node->folder);
  g_free(node->level);
  g_ptr_array_unref(node->children);
  g_free(node);
}

static GPtrArray *children_of(Apply *apply, Node *parent) {
  return parent ? parent->children : apply->top;
}

static Node *node_add(Apply *apply, Node *parent, StoreFolder *folder, const char *level) {
  Node *node = g_new0(Node, 1);
  node->folder = folder;
  node->level = g_strdup(level);
  node->parent = parent;
  node->children = g_ptr_array_new();
  g_ptr_array_add(apply->all, node);
  g_ptr_array_add(children_of(apply, parent), node);
  if (folder->mailbox)
    g_hash_table_insert(apply->by_mailbox, folder->mailbox, node);
  return node;
}

static void note_change(GPtrArray *changes, const StoreFolder *folder) {
  StoreFolderChange *change = g_new0(StoreFolderChange, 1);
  change->folder = folder->id;
  change->parent = folder->parent;
  change->name = g_strdup(folder->name);
  g_ptr_array_add(changes, change);
}

static gboolean load(Apply *apply, GError **error) {
  Store *store = apply->store;
  g_autoptr(GHashTable) by_id = g_hash_table_new(NULL, NULL);
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_ALL);
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    StoreFolder *folder = folder_from_row(stmt);
    Node *parent = g_hash_table_lookup(by_id, GUINT_TO_POINTER(folder->parent));
    Node *node =
        node_add(apply, parent, folder, (const char *) sqlite3_column_text(stmt, 13));
    g_hash_table_insert(by_id, GUINT_TO_POINTER(folder->id), node);
  }
  return rc == SQLITE_DONE || txn_fail_locked(store, "cannot list folders", error);
}

/* A level as compared: the one at the top that is called inbox, in any case, is INBOX. */
static const char *level_key(const StoreMailbox *mailbox, guint index) {
  const char *level = mailbox->levels[index];
  return index == 0 && g_ascii_strcasecmp(level, "INBOX") == 0 ? "INBOX" : level;
}

static guint depth_of(const StoreMailbox *mailbox) {
  return g_strv_length((char **) mailbox->levels);
}

/* Of the children of @parent at @level (two mailboxes may map to one path) the one that @mailbox
 * lies below: the one whose name on the wire begins its name, else a listed one, else any. */
static Node *find_level(Apply *apply, Node *parent, const char *level, const char *mailbox) {
  GPtrArray *children = children_of(apply, parent);
  Node *best = NULL;
  guint best_rank = 0;
  for (guint i = 0; i < children->len; i++) {
    Node *node = g_ptr_array_index(children, i);
    if (strcmp(node->level, level) != 0)
      continue;
    const char *wire = node->folder->mailbox;
    guint rank = 1 + (node->stays ? 1 : 0) + (node->listed ? 2 : 0) +
                 (wire && strcmp(wire, mailbox) != 0 && g_str_has_prefix(mailbox, wire) ? 4 : 0);
    if (rank > best_rank) {
      best = node;
      best_rank = rank;
    }
  }
  return best;
}

static gboolean name_taken(Apply *apply, Node *parent, const Node *self, const char *name) {
  for (guint i = 0; !parent && reserved[i]; i++)
    if (strcmp(name, reserved[i]) == 0)
      return TRUE;
  GPtrArray *children = children_of(apply, parent);
  for (guint i = 0; i < children->len; i++) {
    Node *node = g_ptr_array_index(children, i);
    if (node != self && strcmp(node->folder->name, name) == 0)
      return TRUE;
  }
  return FALSE;
}

static char *unique_name(Apply *apply, Node *parent, const Node *self, const char *level) {
  char *name = g_strdup(level);
  for (guint n = 2; name_taken(apply, parent, self, name); n++) {
    g_autofree char *suffix = g_strdup_printf("~%u", n);
    gsize keep = MIN(strlen(level), COMPONENT_MAX - strlen(suffix));
    while (keep > 0 && ((guchar) level[keep] & 0xc0) == 0x80) /* never inside a character */
      keep--;
    g_free(name);
    name = g_strdup_printf("%.*s%s", (int) keep, level, suffix);
  }
  return name;
}

static gboolean write_new(Apply *apply, Node *node, GError **error) {
  Store *store = apply->store;
  StoreFolder *folder = node->folder;
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_INSERT);
  STMT_BIND(stmt, folder->parent);
  sqlite3_bind_text(stmt, 2, node->level, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 3, folder->name, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 4, folder->mailbox, -1, SQLITE_STATIC);
  sqlite3_bind_int(stmt, 5, folder->selectable);
  sqlite3_bind_int(stmt, 6, (int) folder->role);
  sqlite3_bind_int64(stmt, 7, folder->mtime);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot add a folder", error);
  gint64 id = sqlite3_last_insert_rowid(store->conn->db);
  if (id > ID_MAX) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "folder numbers are used up");
    return FALSE;
  }
  folder->id = (guint32) id;
  note_change(apply->added, folder);
  return TRUE;
}

static gboolean write_changed(Apply *apply, Node *node, GError **error) {
  Store *store = apply->store;
  const StoreFolder *folder = node->folder;
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_UPDATE);
  STMT_BIND(stmt, folder->id, folder->parent);
  sqlite3_bind_text(stmt, 3, node->level, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 4, folder->name, -1, SQLITE_STATIC);
  sqlite3_bind_text(stmt, 5, folder->mailbox, -1, SQLITE_STATIC);
  sqlite3_bind_int(stmt, 6, folder->selectable);
  sqlite3_bind_int(stmt, 7, (int) folder->role);
  return sqlite3_step(stmt) == SQLITE_DONE ||
         txn_fail_locked(store, "cannot change a folder", error);
}

/* Its messages go, as it can no longer be selected. */
static gboolean empty(Apply *apply, Node *node, GError **error) {
  Store *store = apply->store;
  StoreFolder *folder = node->folder;
  if (folder->space == 0)
    return TRUE;
  if (!txn_drop_space_locked(store, folder->space, error))
    return FALSE;
  autostmt *stmt = conn_stmt(store->conn, STMT_FOLDER_EMPTY);
  STMT_BIND(stmt, folder->id, apply->now);
  folder->space = 0;
  return sqlite3_step(stmt) == SQLITE_DONE ||
         txn_fail_locked(store, "cannot empty a folder", error);
}

/* @mailbox may be NULL: a parent made up for its children. */
static Node *create(Apply *apply, Node *parent, const char *level, const StoreMailbox *mailbox,
                    GError **error) {
  StoreFolder *folder = g_new0(StoreFolder, 1);
  folder->parent = parent ? parent->folder->id : 0;
  folder->name = unique_name(apply, parent, NULL, level);
  folder->mtime = apply->now;
  if (mailbox) {
    folder->mailbox = g_strdup(folder_mailbox_key(mailbox->mailbox));
    folder->selectable = mailbox->selectable;
    folder->role = mailbox->role;
  }
  Node *node = node_add(apply, parent, folder, level);
  node->stays = TRUE;
  node->listed = mailbox != NULL;
  return write_new(apply, node, error) ? node : NULL;
}

/* What stays: listed folders, and every folder that lies above one or above a mailbox to come. */
static void mark(Apply *apply, const StoreMailbox *const *mailboxes, guint count) {
  for (guint i = 0; i < count; i++) {
    Node *node = g_hash_table_lookup(apply->by_mailbox, folder_mailbox_key(mailboxes[i]->mailbox));
    if (node)
      node->listed = TRUE;
    for (; node; node = node->parent)
      node->stays = TRUE;
  }
  for (guint i = 0; i < count; i++) {
    const char *wire = folder_mailbox_key(mailboxes[i]->mailbox);
    if (g_hash_table_contains(apply->by_mailbox, wire))
      continue;
    Node *node = NULL;
    guint depth = depth_of(mailboxes[i]);
    for (guint level = 0; level < depth; level++) {
      node = find_level(apply, node, level_key(mailboxes[i], level), wire);
      /* The last one is taken over when it was made up; a gone mailbox is another folder. */
      if (!node || (level + 1 == depth && node->folder->mailbox))
        break;
      node->stays = TRUE;
    }
  }
}

static gboolean remove_gone(Apply *apply, GPtrArray *nodes, GError **error) {
  for (guint i = nodes->len; i-- > 0;) {
    Node *node = g_ptr_array_index(nodes, i);
    if (!remove_gone(apply, node->children, error))
      return FALSE;
    StoreFolder *folder = node->folder;
    if (node->stays) {
      if (node->listed || !folder->mailbox)
        continue;
      /* Its mailbox is gone; it stays for its children. */
      if (!empty(apply, node, error))
        return FALSE;
      g_hash_table_remove(apply->by_mailbox, folder->mailbox);
      g_clear_pointer(&folder->mailbox, g_free);
      folder->selectable = FALSE;
      folder->role = STORE_ROLE_NONE;
      if (!write_changed(apply, node, error))
        return FALSE;
      continue;
    }
    if (!empty(apply, node, error))
      return FALSE;
    autostmt *stmt = conn_stmt(apply->store->conn, STMT_FOLDER_DELETE);
    STMT_BIND(stmt, folder->id);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(apply->store, "cannot remove a folder", error);
    note_change(apply->removed, folder);
    if (folder->mailbox)
      g_hash_table_remove(apply->by_mailbox, folder->mailbox);
    g_ptr_array_remove_index(nodes, i);
  }
  return TRUE;
}

/* Brings an existing folder to @parent, @level and what the server says of it. */
static gboolean update(Apply *apply, Node *node, Node *parent, const char *level,
                       const StoreMailbox *mailbox, GError **error) {
  StoreFolder *folder = node->folder;
  gboolean moved = node->parent != parent || strcmp(node->level, level) != 0;
  gboolean changed = moved || folder->selectable != mailbox->selectable ||
                     folder->role != mailbox->role || !folder->mailbox;
  if (!changed)
    return TRUE;
  if (moved) {
    note_change(apply->removed, folder);
    g_ptr_array_remove(children_of(apply, node->parent), node);
    g_ptr_array_add(children_of(apply, parent), node);
    node->parent = parent;
    g_free(node->level);
    node->level = g_strdup(level);
    folder->parent = parent ? parent->folder->id : 0;
    g_free(folder->name);
    folder->name = unique_name(apply, parent, node, level);
    note_change(apply->added, folder);
  }
  if (!mailbox->selectable && !empty(apply, node, error))
    return FALSE;
  if (!folder->mailbox) {
    folder->mailbox = g_strdup(folder_mailbox_key(mailbox->mailbox));
    g_hash_table_insert(apply->by_mailbox, folder->mailbox, node);
  }
  folder->selectable = mailbox->selectable;
  folder->role = mailbox->role;
  return write_changed(apply, node, error);
}

static gboolean place(Apply *apply, const StoreMailbox *mailbox, GError **error) {
  const char *wire = folder_mailbox_key(mailbox->mailbox);
  guint depth = depth_of(mailbox);
  Node *parent = NULL;
  for (guint level = 0; level + 1 < depth; level++) {
    const char *key = level_key(mailbox, level);
    Node *next = find_level(apply, parent, key, wire);
    if (!next)
      next = create(apply, parent, key, NULL, error);
    if (!next)
      return FALSE;
    parent = next;
  }
  const char *level = level_key(mailbox, depth - 1);
  Node *node = g_hash_table_lookup(apply->by_mailbox, wire);
  for (Node *above = parent; node && above; above = above->parent)
    if (above == node)
      parent = NULL; /* a list that puts a mailbox below itself */
  if (!node) {
    /* A made-up parent turns out to be a mailbox: the folder stays the same one. */
    GPtrArray *children = children_of(apply, parent);
    for (guint i = 0; i < children->len && !node; i++) {
      Node *child = g_ptr_array_index(children, i);
      if (!child->folder->mailbox && strcmp(child->level, level) == 0)
        node = child;
    }
  }
  if (!node)
    return create(apply, parent, level, mailbox, error) != NULL;
  node->listed = TRUE;
  return update(apply, node, parent, level, mailbox, error);
}

/* Parents first; among equals the folders that are known already, so that they keep their names. */
static int compare_mailboxes(gconstpointer a, gconstpointer b, gpointer data) {
  const StoreMailbox *first = *(const StoreMailbox *const *) a;
  const StoreMailbox *second = *(const StoreMailbox *const *) b;
  GHashTable *known = data;
  guint depth_first = depth_of(first), depth_second = depth_of(second);
  if (depth_first != depth_second)
    return depth_first < depth_second ? -1 : 1;
  gboolean known_first = g_hash_table_contains(known, folder_mailbox_key(first->mailbox));
  gboolean known_second = g_hash_table_contains(known, folder_mailbox_key(second->mailbox));
  return known_second - known_first;
}

static gboolean apply_locked(Apply *apply, const StoreMailbox *mailboxes, gsize count,
                             GError **error) {
  /* What others have in the open transaction must not be lost if this fails. */
  if (!txn_commit_locked(apply->store, error) || !txn_begin_locked(apply->store, error) ||
      !load(apply, error))
    return FALSE;
  g_autoptr(GPtrArray) order = g_ptr_array_new();
  g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
  for (gsize i = 0; i < count; i++) {
    /* A server that lists a mailbox twice means one. */
    if (mailboxes[i].levels[0] &&
        g_hash_table_add(seen, (gpointer) folder_mailbox_key(mailboxes[i].mailbox)))
      g_ptr_array_add(order, (gpointer) &mailboxes[i]);
  }
  g_ptr_array_sort_with_data(order, compare_mailboxes, apply->by_mailbox);
  mark(apply, (const StoreMailbox *const *) order->pdata, order->len);
  if (!remove_gone(apply, apply->top, error))
    return FALSE;
  for (guint i = 0; i < order->len; i++)
    if (!place(apply, g_ptr_array_index(order, i), error))
      return FALSE;
  return txn_commit_locked(apply->store, error);
}

gboolean store_folders_apply(Store *store, const StoreMailbox *mailboxes, gsize count,
                             GPtrArray **added_out, GPtrArray **removed_out, GError **error) {
  g_autoptr(GHashTable) by_mailbox = g_hash_table_new(g_str_hash, g_str_equal);
  g_autoptr(GPtrArray) top = g_ptr_array_new();
  g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(node_free);
  g_autoptr(GPtrArray) added =
      g_ptr_array_new_with_free_func((GDestroyNotify) store_folder_change_free);
  g_autoptr(GPtrArray) removed =
      g_ptr_array_new_with_free_func((GDestroyNotify) store_folder_change_free);
  Apply apply = {.store = store,
                 .by_mailbox = by_mailbox,
                 .top = top,
                 .all = all,
                 .added = added,
                 .removed = removed,
                 .now = g_get_real_time() / G_USEC_PER_SEC};
  writer_lock(store);
  gboolean ok = apply_locked(&apply, mailboxes, count, error);
  if (!ok && store->txn_open)
    txn_undo_locked(store);
  writer_unlock(store);
  if (!ok)
    return FALSE;
  if (added_out)
    *added_out = g_steal_pointer(&added);
  if (removed_out)
    *removed_out = g_steal_pointer(&removed);
  return TRUE;
}
