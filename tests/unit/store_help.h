/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the tests of the store share. Every step that fails ends the test with its message.
 */
#pragma once

#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "store/store-private.h"
#include "store/store.h"

#define IDENTITY "anna@example.org@mail.example.org"

static G_GNUC_UNUSED char *new_dir(void) {
  g_autoptr(GError) error = NULL;
  char *dir = g_dir_make_tmp("emlfs-store-XXXXXX", &error);
  g_assert_no_error(error);
  return dir;
}

static G_GNUC_UNUSED Store *open_store(const char *dir, guint64 cache_size) {
  g_autoptr(GError) error = NULL;
  g_autofree char *notice = NULL;
  StoreConfig config = {.dir = dir, .identity = IDENTITY, .cache_size = cache_size};
  Store *store = store_open(&config, &notice, &error);
  g_assert_no_error(error);
  g_assert_cmpstr(notice, ==, NULL);
  return store;
}

static G_GNUC_UNUSED void close_and_remove(Store **store, char *dir) {
  store_close(store);
  dir_remove_tree(dir);
  g_free(dir);
}

static G_GNUC_UNUSED void settle(Store *store) {
  g_autoptr(GError) error = NULL;
  store_settle(store, &error);
  g_assert_no_error(error);
}

/* A folder INBOX with a new uidspace. */
static G_GNUC_UNUSED guint32 make_inbox(Store *store, guint32 *id_out) {
  g_autoptr(GError) error = NULL;
  const char *levels[] = {"INBOX", NULL};
  StoreMailbox mailbox = {"INBOX", levels, TRUE, STORE_ROLE_INBOX};
  store_folders_apply(store, &mailbox, 1, NULL, NULL, &error);
  g_assert_no_error(error);
  g_autoptr(StoreFolder) folder = store_folder_by_mailbox(store, "inbox", &error);
  g_assert_no_error(error);
  if (id_out)
    *id_out = folder->id;
  if (folder->space != 0)
    return folder->space;
  guint32 space = 0;
  store_folder_renew(store, folder->id, 1, &space, &error);
  g_assert_no_error(error);
  return space;
}

static G_GNUC_UNUSED void put_messages(Store *store, guint32 space, guint32 first, guint32 last,
                                       guint64 size) {
  g_autoptr(GError) error = NULL;
  StoreBatch *batch = store_batch_new(store, space);
  for (guint32 uid = first; uid <= last; uid++) {
    char name[80];
    g_snprintf(name, sizeof name, "2026-11-20_Anna-Alpha_Subject-of-number-%u.%u.eml", uid, uid);
    StoreMessage message = {.uid = uid, .size = size, .internal_date = 1795132800 + uid,
                            .modseq = uid, .keywords = "", .name = name};
    store_batch_put(batch, &message, NULL, &error);
    g_assert_no_error(error);
  }
  store_batch_commit(&batch, last + 1, last, 1, &error);
  g_assert_no_error(error);
}

/* Octets that only @id, @version and their place determine. */
static G_GNUC_UNUSED void fill(guchar *octets, gsize size, MsgId id, guint version) {
  guint64 state = (guint64) id.space << 40 ^ (guint64) id.uid << 8 ^ version;
  state = state * 2862933555777941757u + 1;
  for (gsize i = 0; i < size; i++) {
    if (i % 8 == 0)
      state = state * 6364136223846793005u + 1442695040888963407u;
    octets[i] = (guchar) (state >> (8 * (i % 8)) | 1); /* never zero */
  }
}

static G_GNUC_UNUSED StoreBody *write_body(Store *store, MsgId id, gsize size, guint version,
                                           GError **error) {
  g_autofree guchar *octets = g_malloc(size + 1);
  fill(octets, size, id, version);
  StoreWriter *writer = store_writer_new(store, size, error);
  if (!writer)
    return NULL;
  gsize half = size / 2;
  if (!store_writer_write(writer, octets, half, error) ||
      !store_writer_write(writer, octets + half, size - half, error)) {
    store_writer_abort(&writer);
    return NULL;
  }
  return store_writer_commit(&writer, id, error);
}

static G_GNUC_UNUSED void put_body(Store *store, MsgId id, gsize size, guint version) {
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreBody) body = write_body(store, id, size, version, &error);
  g_assert_no_error(error);
  g_assert_nonnull(body);
}

static G_GNUC_UNUSED gboolean body_matches(const StoreBody *body, MsgId id, guint version) {
  gsize size = (gsize) body->length;
  g_autofree guchar *wanted = g_malloc(size + 1);
  g_autofree guchar *octets = g_malloc(size + 1);
  fill(wanted, size, id, version);
  for (gsize done = 0; done < size;) {
    ssize_t n = pread(body->fd, octets + done, size - done, body->offset + (off_t) done);
    if (n <= 0)
      return FALSE;
    done += (gsize) n;
  }
  return memcmp(octets, wanted, size) == 0;
}

static G_GNUC_UNUSED gboolean has_body(Store *store, MsgId id, gsize size, guint version) {
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreBody) body = store_body_get(store, id, &error);
  g_assert_no_error(error);
  if (!body)
    return FALSE;
  g_assert_cmpuint(body->length, ==, size);
  g_assert_true(body_matches(body, id, version));
  return TRUE;
}
