/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the tests of the journal share. Every step that fails ends the test with its message.
 */
#pragma once

#include "base/autofd.h"
#include "store/journal.h"
#include "store_help.h"

static G_GNUC_UNUSED Journal *open_journal(const char *dir) {
  g_autoptr(GError) error = NULL;
  Journal *journal = journal_open(dir, IDENTITY, &error);
  g_assert_no_error(error);
  g_assert_nonnull(journal);
  return journal;
}

static G_GNUC_UNUSED void close_journal_and_remove(Journal **journal, char *dir) {
  journal_close(journal);
  g_assert_null(*journal);
  dir_remove_tree(dir);
  g_free(dir);
}

static G_GNUC_UNUSED gsize octets_of(guint32 id) {
  return id * 37 % 5000;
}

/* Makes the octets of local file @id: octets_of() times its number. */
static G_GNUC_UNUSED void make_octets(Journal *journal, guint32 id) {
  g_autoptr(GError) error = NULL;
  guchar octets[5000];
  memset(octets, (int) (id & 0xff), sizeof octets);
  autofd int fd = journal_local_fd(journal, id, TRUE, &error);
  g_assert_no_error(error);
  g_assert_cmpint(write(fd, octets, octets_of(id)), ==, octets_of(id));
}

static G_GNUC_UNUSED gboolean has_octets(const char *dir, guint32 id) {
  g_autofree char *path = g_strdup_printf("%s/local/%u", dir, id);
  g_autofree char *octets = NULL;
  gsize size;
  if (!g_file_get_contents(path, &octets, &size, NULL))
    return FALSE;
  g_assert_cmpuint(size, ==, octets_of(id));
  for (gsize i = 0; i < size; i++)
    g_assert_cmpint((guchar) octets[i], ==, id & 0xff);
  return TRUE;
}

static G_GNUC_UNUSED void put_local(Journal *journal, guint32 id, LocalState state) {
  g_autoptr(GError) error = NULL;
  Local local = {.id = id, .folder = (char *) "", .name = (char *) "notes.txt", .state = state,
                 .size = octets_of(id)};
  journal_local_put(journal, &local, &error);
  g_assert_no_error(error);
}

/* An expunge, or with @local the upload of that letter. Its number. */
static G_GNUC_UNUSED guint32 add_change(Journal *journal, guint32 local) {
  g_autoptr(GError) error = NULL;
  Change change = {.kind = local ? CHANGE_UPLOAD : CHANGE_EXPUNGE,
                   .mailbox = (char *) (local ? NULL : "INBOX"),
                   .target = (char *) (local ? "Archive" : NULL),
                   .name = (char *) (local ? "letter.eml" : NULL),
                   .keywords = (char *) "", .local = local};
  journal_change_add(journal, &change, 1, NULL, &error);
  g_assert_no_error(error);
  return change.id;
}

static G_GNUC_UNUSED GPtrArray *all_changes(Journal *journal) {
  g_autoptr(GError) error = NULL;
  GPtrArray *changes = journal_changes(journal, &error);
  g_assert_no_error(error);
  return changes;
}

static G_GNUC_UNUSED GPtrArray *all_locals(Journal *journal) {
  g_autoptr(GError) error = NULL;
  GPtrArray *locals = journal_locals(journal, &error);
  g_assert_no_error(error);
  return locals;
}

/* How many files of octets there are. */
static G_GNUC_UNUSED guint count_files(const char *dir) {
  g_autofree char *path = g_build_filename(dir, "local", NULL);
  g_autoptr(GDir) entries = g_dir_open(path, 0, NULL);
  guint count = 0;
  while (g_dir_read_name(entries))
    count++;
  return count;
}
