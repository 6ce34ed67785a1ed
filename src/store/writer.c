/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Writing bodies: a StoreWriter takes octets in order, a StorePartial in any order. Neither is seen
 * by anybody before it is committed; what lies in partial/ when the store opens is deleted.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "store/store-private.h"

struct StoreWriter {
  Store *store;
  GByteArray *small; /* the octets while they are few, else NULL … */
  int fd;            /* … and this is partial/NUMBER */
  guint64 number;
  guint64 size;
};

struct StorePartial {
  Store *store;
  MsgId id;
  int fd;
  guint64 number;
  guint64 size;
};

static char *partial_path(guint64 number) {
  return g_strdup_printf("partial/%" G_GUINT64_FORMAT, number);
}

/* A new file under partial/. Its number is its own in bodies/ too. */
static int create_file(Store *store, guint64 *number_out, GError **error) {
  if (evict_is_full(store, error))
    return -1;
  for (;;) {
    g_mutex_lock(&store->lock);
    guint64 number = (guint64) store->clock++;
    g_mutex_unlock(&store->lock);
    g_autofree char *path = partial_path(number);
    g_autofree char *target = body_file_path(number);
    if (faccessat(store->dir_fd, target, F_OK, 0) == 0)
      continue;
    int fd = openat(store->dir_fd, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) {
      *number_out = number;
      return fd;
    }
    if (errno == EEXIST)
      continue;
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot create %s/%s", store->dir, path);
    return -1;
  }
}

static void drop_file(Store *store, int fd, guint64 number) {
  g_autofree char *path = partial_path(number);
  close(fd);
  unlinkat(store->dir_fd, path, 0);
}

/* Moves partial/@number to where it stays and publishes it. Takes @fd. */
static StoreBody *keep_file(Store *store, MsgId id, int fd, guint64 number, guint64 size,
                            GError **error) {
  if (!message_exists(store, id, error)) {
    drop_file(store, fd, number);
    return NULL;
  }
  close(fd);
  g_autofree char *from = partial_path(number);
  g_autofree char *to = body_file_path(number);
  int rc = renameat(store->dir_fd, from, store->dir_fd, to);
  if (rc != 0 && errno == ENOENT) {
    g_autofree char *folder = g_path_get_dirname(to);
    mkdirat(store->dir_fd, folder, 0700);
    rc = renameat(store->dir_fd, from, store->dir_fd, to);
  }
  if (rc != 0) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot keep %s/%s", store->dir, to);
    unlinkat(store->dir_fd, from, 0);
    return NULL;
  }
  g_mutex_lock(&store->lock);
  store->disk_files += size;
  store->dirty_bytes += size;
  g_array_append_val(store->dirty_files, number);
  g_mutex_unlock(&store->lock);
  return body_publish(store, id, (Extent){.offset = number, .length = size}, error);
}

static gboolean write_error(Store *store, gsize size, GError **error) {
  int problem = errno;
  if (problem == ENOSPC || problem == EDQUOT)
    evict_some(store, size);
  return eml_error_set_errno(error, EML_ERROR_FAILED, problem, "cannot write a body in %s",
                             store->dir);
}

static gboolean write_all(StoreWriter *writer, const void *octets, gsize size, GError **error) {
  const char *from = octets;
  while (size > 0) {
    ssize_t n = write(writer->fd, from, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return write_error(writer->store, size, error);
    from += n;
    size -= (gsize) n;
  }
  return TRUE;
}

static gboolean begin_file(StoreWriter *writer, GError **error) {
  writer->fd = create_file(writer->store, &writer->number, error);
  if (writer->fd < 0)
    return FALSE;
  g_autoptr(GByteArray) gathered = g_steal_pointer(&writer->small);
  return !gathered || write_all(writer, gathered->data, gathered->len, error);
}

StoreWriter *store_writer_new(Store *store, guint64 expected_size, GError **error) {
  StoreWriter *writer = g_new0(StoreWriter, 1);
  writer->store = store;
  writer->fd = -1;
  if (expected_size <= BODY_SMALL_MAX)
    writer->small = g_byte_array_sized_new((guint) expected_size);
  else if (!begin_file(writer, error))
    store_writer_abort(&writer);
  return writer;
}

gboolean store_writer_write(StoreWriter *writer, const void *octets, gsize size, GError **error) {
  if (writer->small && writer->size + size > BODY_SMALL_MAX && !begin_file(writer, error))
    return FALSE;
  if (writer->small)
    g_byte_array_append(writer->small, octets, (guint) size);
  else if (!write_all(writer, octets, size, error))
    return FALSE;
  writer->size += size;
  return TRUE;
}

StoreBody *store_writer_commit(StoreWriter **writer, MsgId id, GError **error) {
  StoreWriter *taken = *writer;
  Store *store = taken->store;
  StoreBody *body = NULL;
  Extent at;
  if (!taken->small) {
    body = keep_file(store, id, taken->fd, taken->number, taken->size, error);
    taken->fd = -1;
  } else if (message_exists(store, id, error) &&
             pack_append(store, taken->small->data, taken->small->len, &at, error)) {
    body = body_publish(store, id, at, error);
  }
  store_writer_abort(writer);
  return body;
}

void store_writer_abort(StoreWriter **writer) {
  StoreWriter *taken = g_steal_pointer(writer);
  if (!taken)
    return;
  if (taken->fd >= 0)
    drop_file(taken->store, taken->fd, taken->number);
  if (taken->small)
    g_byte_array_unref(taken->small);
  g_free(taken);
}

StorePartial *store_partial_new(Store *store, MsgId id, guint64 size, GError **error) {
  guint64 number;
  int fd = create_file(store, &number, error);
  if (fd < 0)
    return NULL;
  if (ftruncate(fd, (off_t) size) != 0) {
    write_error(store, size, error);
    drop_file(store, fd, number);
    return NULL;
  }
  StorePartial *partial = g_new0(StorePartial, 1);
  partial->store = store;
  partial->id = id;
  partial->fd = fd;
  partial->number = number;
  partial->size = size;
  return partial;
}

int store_partial_fd(const StorePartial *partial) {
  return partial->fd;
}

StoreBody *store_partial_commit(StorePartial **partial, GError **error) {
  StorePartial *taken = g_steal_pointer(partial);
  StoreBody *body =
      keep_file(taken->store, taken->id, taken->fd, taken->number, taken->size, error);
  g_free(taken);
  return body;
}

void store_partial_abort(StorePartial **partial) {
  StorePartial *taken = g_steal_pointer(partial);
  if (!taken)
    return;
  drop_file(taken->store, taken->fd, taken->number);
  g_free(taken);
}
