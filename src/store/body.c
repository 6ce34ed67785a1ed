/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bodies: finding, pinning, publishing, and writing their rows.
 *
 * A body that was committed is in `pending` until its row is written, a few hundred rows in one
 * transaction. A body that is handed out is a Pin, one per extent, shared by all who have it.
 *
 * Why a pinned body is never freed: the row is deleted and committed first, then, under the lock,
 * bury_generation grows and the pins are looked at, then bytes go (evict.c). Whoever pins reads
 * the generation, then the row, then pins; when the generation moved meanwhile he looks again,
 * and no longer finds the row. Rows that were kept from an earlier scan are of no use once the
 * generation moved, which it does with every commit that deleted rows.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "store/store-private.h"

guint extent_hash(gconstpointer extent) {
  const Extent *at = extent;
  return (guint) (at->offset >> 3) * 2654435761u ^ (guint) at->offset ^ at->pack * 40503u;
}

gboolean extent_equal(gconstpointer a, gconstpointer b) {
  const Extent *first = a, *second = b;
  return first->pack == second->pack && first->offset == second->offset;
}

guint msgid_hash(gconstpointer id) {
  const MsgId *msg = id;
  return msg->uid * 2654435761u ^ msg->space;
}

gboolean msgid_equal(gconstpointer a, gconstpointer b) {
  const MsgId *first = a, *second = b;
  return first->space == second->space && first->uid == second->uid;
}

/* ---- pins ---- */

static gboolean long_enough(int fd, guint64 size) {
  struct stat status;
  if (fstat(fd, &status) != 0)
    return FALSE;
  errno = ENODATA;
  return (guint64) status.st_size >= size;
}

/* NULL with errno: ENOENT when the bytes are not there, ENODATA when not all of them are. */
static Pin *pin_locked(Store *store, Extent at) {
  Pin *pin = g_hash_table_lookup(store->pins, &at);
  if (pin) {
    pin->refs++;
    return pin;
  }
  Pack *pack = NULL;
  int fd;
  if (at.pack != 0) {
    pack = g_hash_table_lookup(store->packs, GUINT_TO_POINTER(at.pack));
    errno = ENOENT;
    fd = pack ? pack_fd_locked(store, pack) : -1;
    if (fd < 0 || !long_enough(fd, at.offset + at.length))
      return NULL;
    pack->pins++;
  } else {
    g_autofree char *path = body_file_path(at.offset);
    fd = openat(store->dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !long_enough(fd, at.length)) {
      autofd_clear(&fd);
      fd = -1;
    }
    if (fd < 0)
      return NULL;
  }
  pin = g_new0(Pin, 1);
  pin->body.fd = fd;
  pin->body.offset = pack ? (gint64) at.offset : 0;
  pin->body.length = at.length;
  pin->refs = 1;
  pin->store = store;
  pin->at = at;
  pin->pack = pack;
  g_hash_table_insert(store->pins, &pin->at, pin);
  return pin;
}

static void unpin_locked(Store *store, Pin *pin) {
  if (--pin->refs > 0)
    return;
  g_hash_table_remove(store->pins, &pin->at);
  if (pin->doomed) {
    g_array_append_val(store->graveyard, pin->at);
    keeper_due_locked(store, JOB_BURY, 0);
  }
  if (pin->pack)
    pack_unpin_locked(store, pin->pack);
  else
    close(pin->body.fd);
  g_free(pin);
}

StoreBody *store_body_ref(StoreBody *body) {
  Pin *pin = (Pin *) body;
  g_mutex_lock(&pin->store->lock);
  pin->refs++;
  g_mutex_unlock(&pin->store->lock);
  return body;
}

void store_body_unref(StoreBody *body) {
  if (!body)
    return;
  Pin *pin = (Pin *) body;
  Store *store = pin->store;
  if (!store) { /* it outlived the store */
    if (--pin->refs == 0) {
      close(pin->body.fd);
      g_free(pin);
    }
    return;
  }
  g_mutex_lock(&store->lock);
  unpin_locked(store, pin);
  g_mutex_unlock(&store->lock);
}

/* ---- finding ---- */

/* Rows of bodies are read ROWS at a time when they are looked for in the order of their UIDs, and
 * kept as long as no row was deleted. */
#define ROWS 128

static void touch_locked(Store *store, MsgId id, gint64 *used) {
  /* What is in the younger half of all uses does not come up for eviction soon. */
  if (store->clock - *used <= (gint64) store->bodies / 2 || store->touches->len >= PENDING_MAX)
    return;
  Touch touch = {.id = id, .clock = store->clock++};
  *used = touch.clock;
  g_array_append_val(store->touches, touch);
  keeper_due_locked(store, JOB_TOUCH,
                    store->touches->len < PENDING_MAX / 4 ? 10 * G_USEC_PER_SEC : 0);
}

/* The first row of @rows from @uid on, if it is known which that is. */
static BodyRow *rows_find(const BodyRows *rows, guint32 space, guint32 uid) {
  guint low = 0, high = rows->rows->len;
  if (rows->space != space || high == 0 || g_array_index(rows->rows, BodyRow, 0).uid > uid)
    return NULL;
  while (low < high) {
    guint middle = (low + high) / 2;
    if (g_array_index(rows->rows, BodyRow, middle).uid < uid)
      low = middle + 1;
    else
      high = middle;
  }
  return low < rows->rows->len ? &g_array_index(rows->rows, BodyRow, low) : NULL;
}

static BodyRow *known_row_locked(Store *store, guint32 space, guint32 uid) {
  if (store->known_generation != store->bury_generation)
    return NULL;
  BodyRow *row = rows_find(&store->known[0], space, uid);
  return row ? row : rows_find(&store->known[1], space, uid);
}

/* Keeps @rows, read under @generation, in the place of the older ones; takes them. */
static void know_locked(Store *store, guint generation, BodyRows *rows) {
  if (generation != store->bury_generation)
    return;
  if (store->known_generation != generation)
    g_array_set_size(store->known[0].rows, 0);
  store->known_generation = generation;
  BodyRows older = store->known[1];
  store->known[1] = store->known[0];
  store->known[0] = *rows;
  *rows = older;
}

/* The row with the lowest UID from @uid on; FALSE without error: there is none. */
static gboolean read_row(Store *store, guint generation, guint32 space, guint32 uid, guint count,
                         BodyRow *row_out, GError **error) {
  autoreader reader = reader_take(store, error);
  if (!reader.conn)
    return FALSE;
  autostmt *stmt = conn_stmt(reader.conn, STMT_BODY_NEXT);
  STMT_BIND(stmt, space, uid, count);
  BodyRows rows = {.space = space};
  if (count > 1)
    rows.rows = g_array_sized_new(FALSE, FALSE, sizeof(BodyRow), count);
  gboolean any = FALSE;
  int rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    BodyRow row = {.uid = (guint32) sqlite3_column_int64(stmt, 4),
                   .at = {.pack = (guint32) sqlite3_column_int64(stmt, 0),
                          .offset = (guint64) sqlite3_column_int64(stmt, 1),
                          .length = (guint64) sqlite3_column_int64(stmt, 2)},
                   .used = sqlite3_column_int64(stmt, 3)};
    if (!any)
      *row_out = row;
    any = TRUE;
    if (rows.rows)
      g_array_append_val(rows.rows, row);
  }
  if (rc == SQLITE_DONE && rows.rows) {
    g_mutex_lock(&store->lock);
    know_locked(store, generation, &rows);
    g_mutex_unlock(&store->lock);
  }
  if (rows.rows)
    g_array_unref(rows.rows);
  return rc == SQLITE_DONE ? any
                           : store_sql_error(store, reader.conn, "cannot find a body", error);
}

/* Has the kernel look up a file that will be opened under the lock: that may take the disk a while,
 * and others want the lock meanwhile. */
static void look_up_file(Store *store, Extent at) {
  if (at.pack != 0)
    return;
  struct stat status;
  g_autofree char *path = body_file_path(at.offset);
  if (fstatat(store->dir_fd, path, &status, 0) != 0)
    log_debug("%s: %s", path, g_strerror(errno));
}

StoreBody *store_body_get(Store *store, MsgId id, GError **error) {
  for (;;) {
    g_mutex_lock(&store->lock);
    guint generation = store->bury_generation;
    Pending *pending = g_hash_table_lookup(store->pending, &id);
    BodyRow *known = pending ? NULL : known_row_locked(store, id.space, id.uid);
    if (known && known->uid != id.uid)
      known = NULL;
    BodyRow row = known ? *known : (BodyRow){0};
    Pin *pin = pending ? pin_locked(store, pending->at) : NULL;
    if (known && row.at.pack != 0) {
      pin = pin_locked(store, row.at);
      if (pin)
        touch_locked(store, id, &known->used);
    }
    gboolean in_order = store->looked_for.space == id.space && id.uid > store->looked_for.uid &&
                        id.uid - store->looked_for.uid <= ROWS;
    store->looked_for = id;
    g_mutex_unlock(&store->lock);
    if (pin)
      return &pin->body;

    guint count = in_order ? ROWS : 1;
    if (!known && (!read_row(store, generation, id.space, id.uid, count, &row, error) ||
                   row.uid != id.uid))
      return NULL;
    look_up_file(store, row.at);
    g_mutex_lock(&store->lock);
    gboolean settled = generation == store->bury_generation;
    pin = pin_locked(store, row.at);
    int problem = pin ? 0 : errno;
    gboolean missing = problem == ENOENT || problem == ENODATA;
    if (settled && pin) {
      touch_locked(store, id, &row.used);
    } else if (pin) {
      unpin_locked(store, pin);
    } else if (settled && missing) {
      Pending lost = {.id = id, .at = row.at};
      g_array_append_val(store->forgotten, lost);
      keeper_due_locked(store, JOB_FLUSH, 0);
    }
    g_mutex_unlock(&store->lock);
    if (!settled)
      continue;
    if (missing)
      log_warning("the body of message %u is missing on disk: it will be fetched again", id.uid);
    else if (!pin)
      eml_error_set_errno(error, EML_ERROR_FAILED, problem, "cannot open a body in %s", store->dir);
    return pin ? &pin->body : NULL;
  }
}

StoreBody *store_body_next(Store *store, MsgId *id_inout) {
  for (guint32 from = id_inout->uid; from < G_MAXUINT32;) {
    g_mutex_lock(&store->lock);
    guint generation = store->bury_generation;
    const BodyRow *known = known_row_locked(store, id_inout->space, from + 1);
    BodyRow row = known ? *known : (BodyRow){0};
    Pin *pin = known && row.at.pack != 0 ? pin_locked(store, row.at) : NULL;
    g_mutex_unlock(&store->lock);
    if (!pin) {
      if (!known && !read_row(store, generation, id_inout->space, from + 1, ROWS, &row, NULL))
        return NULL;
      look_up_file(store, row.at);
      g_mutex_lock(&store->lock);
      gboolean settled = generation == store->bury_generation;
      pin = pin_locked(store, row.at);
      if (pin && !settled)
        unpin_locked(store, pin);
      g_mutex_unlock(&store->lock);
      if (!settled)
        continue;
    }
    id_inout->uid = row.uid;
    return pin ? &pin->body : NULL;
  }
  return NULL;
}

/* ---- publishing ---- */

StoreBody *body_publish(Store *store, MsgId id, Extent at, GError **error) {
  g_mutex_lock(&store->lock);
  Pin *pin = pin_locked(store, at);
  if (!pin) {
    g_mutex_unlock(&store->lock);
    g_set_error(error, EML_ERROR, EML_ERROR_FAILED, "a body vanished from %s", store->dir);
    return NULL;
  }
  Pending *before = g_hash_table_lookup(store->pending, &id);
  /* One whose row is being written is freed when the next row takes the place of that. */
  if (before && !before->flushing) {
    g_array_append_val(store->graveyard, before->at);
    keeper_due_locked(store, JOB_BURY, G_USEC_PER_SEC);
  }
  Pending *pending = g_new0(Pending, 1);
  pending->id = id;
  pending->at = at;
  pending->born = store->clock++;
  g_hash_table_replace(store->pending, &pending->id, pending);
  guint waiting = g_hash_table_size(store->pending);
  keeper_due_locked(store, JOB_FLUSH, waiting >= FLUSH_BODIES ? 0 : TXN_US);
  keeper_due_locked(store, JOB_MARK, store->dirty_bytes > 64 << 20 ? 0 : 10 * G_USEC_PER_SEC);
  if (store->disk_packs + store->disk_files > store->limit)
    keeper_due_locked(store, JOB_EVICT, 0);
  g_mutex_unlock(&store->lock);
  if (waiting >= PENDING_MAX && !body_flush(store, error)) {
    store_body_unref(&pin->body);
    return NULL;
  }
  return &pin->body;
}

static gboolean flush_row_locked(Store *store, const Pending *pending, GError **error) {
  gint bodies = 1;
  Extent before = {0};
  {
    autostmt *stmt = conn_stmt(store->conn, STMT_BODY_GET);
    STMT_BIND(stmt, pending->id.space, pending->id.uid);
    int rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW) {
      before = (Extent){.pack = (guint32) sqlite3_column_int64(stmt, 0),
                        .offset = (guint64) sqlite3_column_int64(stmt, 1),
                        .length = (guint64) sqlite3_column_int64(stmt, 2)};
      bodies = 0;
    } else if (rc != SQLITE_DONE) {
      return txn_fail_locked(store, "cannot read bodies", error);
    }
  }
  autostmt *stmt = conn_stmt(store->conn, STMT_BODY_PUT);
  STMT_BIND(stmt, pending->id.space, pending->id.uid, pending->at.pack,
            (gint64) pending->at.offset, (gint64) pending->at.length, pending->born);
  if (sqlite3_step(stmt) != SQLITE_DONE)
    return txn_fail_locked(store, "cannot write bodies", error);
  if (sqlite3_changes(store->conn->db) == 0) {
    txn_victim_locked(store, pending->at, 0); /* its message went meanwhile */
    return TRUE;
  }
  if (bodies == 0)
    txn_victim_locked(store, before, 0);
  store->txn_bodies += bodies;
  return TRUE;
}

static gboolean flush_locked(Store *store, const GArray *rows, GError **error) {
  if (!txn_begin_locked(store, error))
    return FALSE;
  for (guint i = 0; i < rows->len; i++)
    if (!flush_row_locked(store, &g_array_index(rows, Pending, i), error))
      return FALSE;
  return txn_commit_locked(store, error);
}

static int compare_pending(gconstpointer a, gconstpointer b) {
  const Pending *first = a, *second = b;
  if (first->id.space != second->id.space)
    return first->id.space < second->id.space ? -1 : 1;
  return (first->id.uid > second->id.uid) - (first->id.uid < second->id.uid);
}

/* Rows whose bytes are missing go, so that the bodies count as missing. */
static gboolean forget_locked(Store *store, const GArray *rows, GError **error) {
  if (rows->len == 0)
    return TRUE;
  if (!txn_begin_locked(store, error))
    return FALSE;
  for (guint i = 0; i < rows->len; i++) {
    const Pending *row = &g_array_index(rows, Pending, i);
    autostmt *stmt = conn_stmt(store->conn, STMT_BODY_FORGET);
    STMT_BIND(stmt, row->id.space, row->id.uid, row->at.pack, (gint64) row->at.offset);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      return txn_fail_locked(store, "cannot forget a body", error);
    if (sqlite3_changes(store->conn->db) > 0)
      txn_victim_locked(store, row->at, 1);
  }
  return txn_commit_locked(store, error);
}

gboolean body_flush(Store *store, GError **error) {
  g_autoptr(GArray) rows = g_array_new(FALSE, FALSE, sizeof(Pending));
  g_autoptr(GArray) forgotten = g_array_new(FALSE, FALSE, sizeof(Pending));
  writer_lock(store);
  g_mutex_lock(&store->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, store->pending);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Pending *pending = value;
    pending->flushing = TRUE;
    g_array_append_val(rows, *pending);
  }
  g_array_append_vals(forgotten, store->forgotten->data, store->forgotten->len);
  g_array_set_size(store->forgotten, 0);
  g_mutex_unlock(&store->lock);

  g_array_sort(rows, compare_pending);
  gboolean ok = forget_locked(store, forgotten, error) &&
                (rows->len == 0 || flush_locked(store, rows, error));

  g_mutex_lock(&store->lock);
  for (guint i = 0; i < rows->len; i++) {
    const Pending *row = &g_array_index(rows, Pending, i);
    Pending *pending = g_hash_table_lookup(store->pending, &row->id);
    if (!pending || pending->born != row->born)
      continue;
    if (ok)
      g_hash_table_remove(store->pending, &row->id);
    else
      pending->flushing = FALSE;
  }
  g_mutex_unlock(&store->lock);
  writer_unlock(store);
  return ok;
}

gboolean body_flush_touches(Store *store, GError **error) {
  g_mutex_lock(&store->lock);
  g_autoptr(GArray) touches = g_steal_pointer(&store->touches);
  store->touches = g_array_new(FALSE, FALSE, sizeof(Touch));
  g_mutex_unlock(&store->lock);
  if (touches->len == 0)
    return TRUE;
  writer_lock(store);
  gboolean ok = txn_begin_locked(store, error);
  for (guint i = 0; ok && i < touches->len; i++) {
    const Touch *touch = &g_array_index(touches, Touch, i);
    autostmt *stmt = conn_stmt(store->conn, STMT_BODY_TOUCH);
    STMT_BIND(stmt, touch->id.space, touch->id.uid, touch->clock);
    if (sqlite3_step(stmt) != SQLITE_DONE)
      ok = txn_fail_locked(store, "cannot note the use of bodies", error);
  }
  ok = ok && txn_commit_locked(store, error);
  writer_unlock(store);
  return ok;
}
