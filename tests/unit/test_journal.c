/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The journal: each call, what it costs, and several threads at once.
 */
#include "journal_help.h"

#include <fcntl.h>
#include <sys/stat.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static char *const none = (char *) "";

/* ---- local files ---- */

static void assert_local(const Local *local, const Local *wanted) {
  g_assert_cmpuint(local->id, ==, wanted->id);
  g_assert_cmpuint(local->parent, ==, wanted->parent);
  g_assert_cmpstr(local->folder, ==, wanted->folder);
  g_assert_cmpstr(local->name, ==, wanted->name);
  g_assert_cmpint(local->is_folder, ==, wanted->is_folder);
  g_assert_cmpint(local->state, ==, wanted->state);
  g_assert_cmpuint(local->size, ==, wanted->size);
  g_assert_cmpint(local->mtime, ==, wanted->mtime);
  g_assert_cmpint(local->ctime, ==, wanted->ctime);
  g_assert_cmpstr(local->reason, ==, wanted->reason);
  g_assert_cmpstr(local->mailbox, ==, wanted->mailbox);
  g_assert_cmpuint(local->uidvalidity, ==, wanted->uidvalidity);
  g_assert_cmpuint(local->uid, ==, wanted->uid);
}

static void test_locals(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  Local wanted[] = {
      {.folder = none, .name = (char *) ".draft", .is_folder = TRUE, .mtime = 5, .ctime = 6},
      {.parent = 1, .name = (char *) "Grüße.txt", .size = octets_of(2), .mtime = G_MAXINT64,
       .ctime = G_MININT64},
      {.folder = (char *) "Archive/2026", .name = (char *) "a.eml", .state = LOCAL_FAILED,
       .size = octets_of(3), .reason = (char *) "the server said NO", .mtime = -1},
      {.folder = (char *) "INBOX", .name = (char *) "copy.eml", .state = LOCAL_LETTER,
       .size = G_GUINT64_CONSTANT(5) << 32, .mailbox = (char *) "Sent", .uidvalidity = G_MAXUINT32,
       .uid = G_MAXUINT32},
  };
  for (guint i = 0; i < G_N_ELEMENTS(wanted); i++) {
    wanted[i].id = journal_local_number(journal);
    g_assert_cmpuint(wanted[i].id, ==, i + 1);
    if (i == 1 || i == 2)
      make_octets(journal, i + 1);
  }
  for (guint i = G_N_ELEMENTS(wanted); i-- > 0;)
    g_assert_true(journal_local_put(journal, &wanted[i], &error));
  for (guint round = 0; round < 2; round++) {
    g_autoptr(GPtrArray) locals = all_locals(journal);
    g_assert_cmpuint(locals->len, ==, G_N_ELEMENTS(wanted));
    for (guint i = 0; i < locals->len; i++) {
      g_autoptr(Local) copy = local_copy(g_ptr_array_index(locals, i));
      assert_local(copy, &wanted[i]);
    }
    g_assert_true(has_octets(dir, 2) && has_octets(dir, 3));
    g_assert_true(journal_sync(journal, &error));
    journal_close(&journal);
    journal = open_journal(dir);
  }
  /* Changed, removed, removed again. */
  wanted[1].name = (char *) "renamed.txt";
  g_assert_true(journal_local_put(journal, &wanted[1], &error));
  g_assert_true(journal_local_remove(journal, 3, &error));
  g_assert_true(journal_local_remove(journal, 3, &error));
  g_assert_true(journal_local_remove(journal, 4, &error));
  g_assert_false(has_octets(dir, 3));
  g_autoptr(GPtrArray) locals = all_locals(journal);
  g_assert_cmpuint(locals->len, ==, 2);
  assert_local(g_ptr_array_index(locals, 1), &wanted[1]);
  /* A file is what was written to it, and empty when it is made again. */
  autofd int fd = journal_local_fd(journal, 2, FALSE, &error);
  g_assert_no_error(error);
  g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, !=, 0);
  g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, octets_of(2));
  autofd int again = journal_local_fd(journal, 2, TRUE, &error);
  g_assert_cmpint(lseek(again, 0, SEEK_END), ==, 0);
  g_assert_cmpint(journal_local_fd(journal, 3, FALSE, &error), ==, -1);
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  g_autofree char *link = g_build_filename(dir, "local", "9", NULL);
  g_assert_cmpint(symlink("2", link), ==, 0);
  g_assert_cmpint(journal_local_fd(journal, 9, FALSE, &error), ==, -1);
  g_assert_error(error, EML_ERROR, EML_ERROR_FAILED);
  close_journal_and_remove(&journal, dir);
}

/* What has no row goes, what has no octets goes too unless a change wants it; numbers go on. */
static void test_leftovers(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  for (guint32 id = 1; id <= 6; id++)
    g_assert_cmpuint(journal_local_number(journal), ==, id);
  make_octets(journal, 1); /* no row */
  make_octets(journal, 2);
  put_local(journal, 2, LOCAL_SCRATCH);
  put_local(journal, 3, LOCAL_SCRATCH); /* no octets */
  put_local(journal, 4, LOCAL_LETTER);  /* no octets, but a change */
  add_change(journal, 4);
  make_octets(journal, 6); /* no row, and nothing above it */
  g_autofree char *other = g_build_filename(dir, "local", "of-the-user", NULL);
  g_assert_true(g_file_set_contents(other, "x", 1, NULL));
  journal_close(&journal);
  journal = open_journal(dir);
  g_autoptr(GPtrArray) locals = all_locals(journal);
  g_assert_cmpuint(locals->len, ==, 2);
  g_assert_cmpuint(((Local *) g_ptr_array_index(locals, 0))->id, ==, 2);
  g_assert_cmpuint(((Local *) g_ptr_array_index(locals, 1))->id, ==, 4);
  g_assert_true(has_octets(dir, 2));
  g_assert_cmpuint(count_files(dir), ==, 2);
  g_assert_cmpuint(journal_local_number(journal), ==, 7);
  /* All rows are gone, and still none is used again. */
  make_octets(journal, 7);
  put_local(journal, 7, LOCAL_SCRATCH);
  for (guint32 id = 1; id <= 7; id++)
    g_assert_true(journal_local_remove(journal, id, &error));
  journal_close(&journal);
  journal = open_journal(dir);
  g_assert_cmpuint(journal_local_number(journal), ==, 8);
  /* Up to the last. */
  put_local(journal, ID_MAX - 1, LOCAL_SCRATCH);
  g_assert_true(journal_local_remove(journal, ID_MAX - 1, &error));
  journal_close(&journal);
  journal = open_journal(dir);
  g_assert_cmpuint(journal_local_number(journal), ==, ID_MAX);
  g_assert_cmpuint(journal_local_number(journal), ==, 0);
  close_journal_and_remove(&journal, dir);
}

static void test_private(void) {
  char *dir = new_dir();
  g_assert_cmpint(chmod(dir, 0755), ==, 0);
  Journal *journal = open_journal(dir);
  make_octets(journal, 1);
  put_local(journal, 1, LOCAL_SCRATCH);
  static const char *const files[] = {"", "local", "journal.db", "journal.db-wal", "local/1"};
  for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
    struct stat status;
    g_autofree char *path = g_build_filename(dir, files[i], NULL);
    g_assert_cmpint(stat(path, &status), ==, 0);
    g_assert_cmpuint(status.st_mode & 0777, ==, i < 2 ? 0700 : 0600);
  }
  close_journal_and_remove(&journal, dir);
}

/* ---- changes ---- */

static void assert_change(const Change *change, const Change *wanted) {
  g_assert_cmpuint(change->id, ==, wanted->id);
  g_assert_cmpint(change->kind, ==, wanted->kind);
  g_assert_cmpint(change->stage, ==, wanted->stage);
  g_assert_cmpint(change->abandoned, ==, wanted->abandoned);
  g_assert_cmpstr(change->mailbox, ==, wanted->mailbox);
  g_assert_cmpuint(change->uidvalidity, ==, wanted->uidvalidity);
  g_assert_cmpuint(change->uid, ==, wanted->uid);
  g_assert_cmpstr(change->target, ==, wanted->target);
  g_assert_cmpuint(change->target_uidvalidity, ==, wanted->target_uidvalidity);
  g_assert_cmpuint(change->target_uidnext, ==, wanted->target_uidnext);
  g_assert_cmpstr(change->name, ==, wanted->name);
  g_assert_cmpuint(change->arrived, ==, wanted->arrived);
  g_assert_cmpuint(change->size, ==, wanted->size);
  g_assert_cmpint(change->date, ==, wanted->date);
  g_assert_cmpuint(change->flags, ==, wanted->flags);
  g_assert_cmpstr(change->keywords, ==, wanted->keywords ? wanted->keywords : "");
  g_assert_cmpuint(change->local, ==, wanted->local);
  g_assert_cmpuint(change->add, ==, wanted->add);
  g_assert_cmpuint(change->remove, ==, wanted->remove);
  g_assert_cmpstr(change->add_keywords, ==, wanted->add_keywords ? wanted->add_keywords : "");
  g_assert_cmpstr(change->remove_keywords, ==,
                  wanted->remove_keywords ? wanted->remove_keywords : "");
}

static void assert_changes(Journal *journal, const Change *wanted, guint count) {
  g_autoptr(GPtrArray) changes = all_changes(journal);
  g_assert_cmpuint(changes->len, ==, count);
  for (guint i = 0; i < count; i++) {
    g_autoptr(Change) copy = change_copy(g_ptr_array_index(changes, i));
    assert_change(copy, &wanted[i]);
  }
}

static void test_changes(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  Change wanted[] = {
      {.kind = CHANGE_UPLOAD, .mailbox = (char *) "INBOX", .uidvalidity = 7, .uid = 8,
       .target = (char *) "Entw&APw-rfe", .target_uidvalidity = G_MAXUINT32,
       .target_uidnext = G_MAXUINT32, .name = (char *) "x.eml", .size = G_GUINT64_CONSTANT(1) << 40,
       .date = -5, .flags = MSG_FLAG_SEEN | MSG_FLAG_DRAFT, .keywords = (char *) "$Junk x",
       .local = 1},
      {.kind = CHANGE_FLAGS, .stage = CHANGE_SENT, .mailbox = (char *) "A", .uidvalidity = 1,
       .uid = G_MAXUINT32, .keywords = none, .add = MSG_FLAG_SEEN, .remove = MSG_FLAG_FLAGGED,
       .add_keywords = (char *) "a b", .remove_keywords = (char *) "c"},
      {.kind = CHANGE_MOVE, .stage = CHANGE_ARRIVED, .abandoned = TRUE, .mailbox = (char *) "A",
       .uidvalidity = 1, .uid = 2, .target = (char *) "B", .arrived = 9},
  };
  Local local = {.id = journal_local_number(journal), .folder = (char *) "Drafts",
                 .name = (char *) "x.eml", .state = LOCAL_LETTER, .size = octets_of(1)};
  make_octets(journal, local.id);
  g_assert_true(journal_change_add(journal, wanted, 3, &local, &error));
  for (guint i = 0; i < 3; i++)
    g_assert_cmpuint(wanted[i].id, ==, i + 1);
  assert_changes(journal, wanted, 3);
  /* Stage, abandoned and arrived; nothing else. */
  Change changed = wanted[1];
  changed.stage = wanted[1].stage = CHANGE_ARRIVED;
  changed.abandoned = wanted[1].abandoned = TRUE;
  changed.arrived = wanted[1].arrived = 77;
  changed.mailbox = (char *) "not written";
  wanted[0].stage = CHANGE_SENT;
  const Change *both[] = {&changed, &wanted[0]};
  g_assert_true(journal_change_update(journal, both, 2, &error));
  assert_changes(journal, wanted, 3);
  journal_close(&journal);
  journal = open_journal(dir);
  assert_changes(journal, wanted, 3);
  g_autoptr(GPtrArray) locals = all_locals(journal);
  g_assert_cmpuint(locals->len, ==, 1);
  assert_local(g_ptr_array_index(locals, 0), &local);
  /* None at all. */
  g_assert_true(journal_change_add(journal, NULL, 0, NULL, &error));
  g_assert_true(journal_change_update(journal, NULL, 0, &error));
  g_assert_true(journal_change_end(journal, NULL, 0, NULL, NULL, &error));
  /* Ended, also twice; and ids go on, also over a close. */
  const Change *all[] = {&wanted[0], &wanted[1], &wanted[2]};
  g_assert_true(journal_change_end(journal, all, 3, NULL, NULL, &error));
  g_assert_true(journal_change_end(journal, all, 3, NULL, NULL, &error));
  assert_changes(journal, NULL, 0);
  g_assert_cmpuint(count_files(dir), ==, 0);
  journal_close(&journal);
  journal = open_journal(dir);
  g_assert_cmpuint(add_change(journal, 0), ==, 4);
  close_journal_and_remove(&journal, dir);
}

static void assert_name(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid,
                        const char *wanted) {
  g_autofree char *name = journal_name_get(journal, mailbox, uidvalidity, uid);
  g_assert_cmpstr(name, ==, wanted);
}

static void test_end(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  Change changes[4];
  const Change *ended[4];
  for (guint32 i = 0; i < 4; i++) {
    g_assert_cmpuint(journal_local_number(journal), ==, i + 1);
    make_octets(journal, i + 1);
    put_local(journal, i + 1, i == 1 ? LOCAL_FAILED : LOCAL_LETTER);
    changes[i] = (Change){.kind = CHANGE_UPLOAD, .target = (char *) "Sent", .local = i + 1,
                          .name = (char *) (i == 3 ? NULL : "given.eml")};
    ended[i] = &changes[i];
  }
  g_assert_true(journal_change_add(journal, changes, 4, NULL, &error));
  /* One whose UID is not known, a failed one, one that has no name. */
  const guint32 uidvalidities[] = {5, 5, 5, 5}, uids[] = {0, 12, 13, 14};
  g_assert_true(journal_change_end(journal, ended, 4, uidvalidities, uids, &error));
  for (guint round = 0; round < 2; round++) {
    assert_name(journal, "Sent", 5, 12, "given.eml");
    assert_name(journal, "Sent", 5, 13, "given.eml");
    assert_name(journal, "Sent", 5, 14, NULL);
    g_assert_true(journal_names_any(journal, "Sent", 5));
    g_autoptr(GPtrArray) locals = all_locals(journal);
    g_assert_cmpuint(locals->len, ==, 1);
    g_assert_cmpuint(((Local *) g_ptr_array_index(locals, 0))->id, ==, 2);
    g_assert_true(has_octets(dir, 2));
    g_assert_cmpuint(count_files(dir), ==, 1);
    assert_changes(journal, NULL, 0);
    journal_close(&journal);
    journal = open_journal(dir);
  }
  close_journal_and_remove(&journal, dir);
}

/* ---- names ---- */

static void test_names(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  g_assert_false(journal_names_any(journal, "INBOX", 1));
  assert_name(journal, "INBOX", 1, 1, NULL);
  for (guint32 uid = 1; uid <= 9; uid++) {
    g_autofree char *name = g_strdup_printf("letter-%u.eml", uid);
    g_assert_true(journal_name_set(journal, "INBOX", 1, uid, name, &error));
  }
  g_assert_true(journal_name_set(journal, "INBOX", 1, 9, "again.eml", &error)); /* counts once */
  g_assert_true(journal_name_set(journal, "INBOX", 1, 1, NULL, &error));
  g_assert_true(journal_name_set(journal, "INBOX", 1, 1, NULL, &error));
  g_assert_true(journal_name_set(journal, "INBOX", 2, 9, "other.eml", &error));
  journal_close(&journal);
  journal = open_journal(dir);
  assert_name(journal, "INBOX", 1, 1, NULL);
  assert_name(journal, "INBOX", 1, 2, "letter-2.eml");
  assert_name(journal, "INBOX", 1, 9, "again.eml");
  assert_name(journal, "INBOX", 2, 9, "other.eml");
  assert_name(journal, "inbox", 2, 9, NULL);
  assert_name(journal, "INBOX", 3, 9, NULL);
  g_assert_true(journal_names_drop(journal, "INBOX", 1, 3, 8, &error));
  assert_name(journal, "INBOX", 1, 2, "letter-2.eml");
  assert_name(journal, "INBOX", 1, 3, NULL);
  assert_name(journal, "INBOX", 1, 9, "again.eml");
  g_assert_true(journal_names_any(journal, "INBOX", 1));
  g_assert_true(journal_name_set(journal, "INBOX", 1, 2, NULL, &error));
  g_assert_true(journal_names_any(journal, "INBOX", 1));
  g_assert_true(journal_names_drop(journal, "INBOX", 1, 1, G_MAXUINT32, &error));
  g_assert_false(journal_names_any(journal, "INBOX", 1));
  g_assert_true(journal_names_any(journal, "INBOX", 2));
  close_journal_and_remove(&journal, dir);
}

/* ---- folders ---- */

/* A change, a copy, a local file and a name in @mailbox. */
static void put_into(Journal *journal, const char *mailbox, const char *path) {
  g_autoptr(GError) error = NULL;
  Change change = {.kind = CHANGE_MOVE, .mailbox = (char *) mailbox, .target = (char *) mailbox};
  Local local = {.id = journal_local_number(journal), .folder = (char *) path,
                 .name = (char *) "copy", .mailbox = (char *) mailbox, .uidvalidity = 1, .uid = 1};
  g_assert_true(journal_change_add(journal, &change, 1, &local, &error));
  g_assert_true(journal_name_set(journal, mailbox, 1, 1, mailbox, &error));
}

static void assert_in(Journal *journal, guint index, const char *mailbox, const char *path,
                      const char *name) {
  g_autoptr(GPtrArray) changes = all_changes(journal);
  g_autoptr(GPtrArray) locals = all_locals(journal);
  const Change *change = g_ptr_array_index(changes, index);
  const Local *local = g_ptr_array_index(locals, index);
  g_assert_cmpstr(change->mailbox, ==, mailbox);
  g_assert_cmpstr(change->target, ==, mailbox);
  g_assert_cmpstr(local->mailbox, ==, mailbox);
  g_assert_cmpstr(local->folder, ==, path);
  assert_name(journal, mailbox, 1, 1, name);
  g_assert_true(journal_names_any(journal, mailbox, 1));
}

static void test_rename(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  put_into(journal, "Ä%_", "Ä%_");
  put_into(journal, "Ä%_.b.c", "Ä%_/b/c");
  put_into(journal, "Ä%_b", "Ä%_b");     /* the same text, but not below */
  put_into(journal, "Ä%_/b", "Ä%_-b");   /* another delimiter */
  put_into(journal, "Äxx.b", "Äxx/b");   /* what LIKE would take */
  put_into(journal, "x.Ä%_.b", "x/Ä%_/b");
  put_into(journal, "ä%_.b", "ä%_/b");
  g_assert_true(journal_rename(journal, "Ä%_", "Z.long name", '.', "Ä%_", "Z/long name", &error));
  for (guint round = 0; round < 2; round++) {
    assert_in(journal, 0, "Z.long name", "Z/long name", "Ä%_");
    assert_in(journal, 1, "Z.long name.b.c", "Z/long name/b/c", "Ä%_.b.c");
    assert_in(journal, 2, "Ä%_b", "Ä%_b", "Ä%_b");
    assert_in(journal, 3, "Ä%_/b", "Ä%_-b", "Ä%_/b");
    assert_in(journal, 4, "Äxx.b", "Äxx/b", "Äxx.b");
    assert_in(journal, 5, "x.Ä%_.b", "x/Ä%_/b", "x.Ä%_.b");
    assert_in(journal, 6, "ä%_.b", "ä%_/b", "ä%_.b");
    g_assert_false(journal_names_any(journal, "Ä%_", 1));
    g_assert_false(journal_names_any(journal, "Ä%_.b.c", 1));
    journal_close(&journal);
    journal = open_journal(dir);
  }
  /* Where nothing can be below, nothing is. */
  g_assert_true(journal_rename(journal, "Z", "Y", '\0', "Z", "Y", &error));
  assert_in(journal, 0, "Z.long name", "Y/long name", "Ä%_");
  /* Onto names that are there: there is one of each. */
  g_assert_true(journal_rename(journal, "ä%_.b", "Äxx.b", '.', "ä%_/b", "Äxx/b", &error));
  assert_in(journal, 4, "Äxx.b", "Äxx/b", "ä%_.b");
  assert_in(journal, 6, "Äxx.b", "Äxx/b", "ä%_.b");
  g_assert_true(journal_name_set(journal, "Äxx.b", 1, 1, NULL, &error));
  g_assert_false(journal_names_any(journal, "Äxx.b", 1));
  close_journal_and_remove(&journal, dir);
}

/* A change that is under way while its target is renamed gives its name to the message there. */
static void test_rename_under_way(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  add_change(journal, 1);
  g_autoptr(GPtrArray) changes = all_changes(journal);
  g_assert_true(journal_rename(journal, "Archive", "Old", '/', "Archive", "Old", &error));
  const guint32 uidvalidity = 3, uid = 4;
  g_assert_true(journal_change_end(journal, (const Change *const *) changes->pdata, 1,
                                   &uidvalidity, &uid, &error));
  assert_name(journal, "Old", 3, 4, "letter.eml");
  assert_name(journal, "Archive", 3, 4, NULL);
  close_journal_and_remove(&journal, dir);
}

/* ---- helpers ---- */

static void test_copies(void) {
  const Local local = {.id = 1};
  const Change change = {.id = 2};
  g_autoptr(Local) local_twin = local_copy(&local);
  g_autoptr(Change) change_twin = change_copy(&change);
  assert_local(local_twin, &local);
  g_assert_cmpuint(change_twin->id, ==, 2);
  g_assert_null(change_twin->keywords);
  g_assert_null(local_copy(NULL));
  g_assert_null(change_copy(NULL));
  local_free(NULL);
  change_free(NULL);
}

/* ---- threads ---- */

#define TURNS 300

typedef struct {
  Journal *journal;
  const char *mailbox;
} Worker;

static gpointer work(gpointer data) {
  const Worker *worker = data;
  Journal *journal = worker->journal;
  g_autoptr(GError) error = NULL;
  guint32 last = 0;
  for (guint32 turn = 1; turn <= TURNS; turn++) {
    guint32 id = journal_local_number(journal);
    make_octets(journal, id);
    Local local = {.id = id, .folder = none, .name = (char *) "a", .state = LOCAL_LETTER,
                   .size = octets_of(id)};
    Change changes[] = {
        {.kind = CHANGE_UPLOAD, .target = (char *) worker->mailbox, .name = (char *) "a.eml",
         .local = id},
        {.kind = CHANGE_EXPUNGE, .mailbox = (char *) worker->mailbox},
    };
    const Change *const both[] = {&changes[0], &changes[1]};
    const guint32 uidvalidities[] = {1, 1}, uids[] = {turn, 0};
    g_assert_true(journal_change_add(journal, changes, 2, &local, &error));
    g_assert_cmpuint(changes[0].id, >, last);
    g_assert_cmpuint(changes[1].id, ==, changes[0].id + 1);
    last = changes[1].id;
    changes[0].stage = CHANGE_SENT;
    g_assert_true(journal_change_update(journal, both, 1, &error));
    if (turn % 50 == 0)
      g_assert_true(journal_sync(journal, &error));
    g_autoptr(GPtrArray) locals = all_locals(journal);
    g_assert_cmpuint(locals->len, >=, 1);
    g_assert_true(journal_change_end(journal, both, 2, uidvalidities, uids, &error));
    assert_name(journal, worker->mailbox, 1, turn, "a.eml");
    if (turn % 2 == 0)
      g_assert_true(journal_name_set(journal, worker->mailbox, 1, turn, NULL, &error));
    g_assert_true(journal_names_any(journal, worker->mailbox, 1));
  }
  return NULL;
}

static void test_threads(void) {
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  Worker workers[] = {{journal, "A"}, {journal, "B"}, {journal, "C"}};
  GThread *threads[G_N_ELEMENTS(workers)];
  for (guint i = 0; i < G_N_ELEMENTS(workers); i++)
    threads[i] = g_thread_new("worker", work, &workers[i]);
  for (guint i = 0; i < G_N_ELEMENTS(workers); i++)
    g_thread_join(threads[i]);
  assert_changes(journal, NULL, 0);
  g_assert_cmpuint(count_files(dir), ==, 0);
  g_assert_cmpuint(add_change(journal, 0), ==, G_N_ELEMENTS(workers) * TURNS * 2 + 1);
  close_journal_and_remove(&journal, dir);
}

/* ---- speed ---- */

static void test_speed(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  const guint count = SANITIZED ? 1000 : 10000;
  gint64 begun = g_get_monotonic_time();
  for (guint32 i = 1; i <= count; i++) {
    Change change = {.kind = CHANGE_MOVE, .mailbox = (char *) "INBOX", .uidvalidity = 1, .uid = i,
                     .target = (char *) "Archive/2026", .keywords = none,
                     .name = (char *) "2026-11-20_Anna-Alpha_Subject.eml"};
    const Change *ended = &change;
    const guint32 uidvalidity = 5;
    g_assert_true(journal_change_add(journal, &change, 1, NULL, &error));
    g_assert_true(journal_change_end(journal, &ended, 1, &uidvalidity, &i, &error));
  }
  gint64 took = g_get_monotonic_time() - begun;
  g_test_message("%u changes added and ended, each with a name: %.1f us a call", count,
                 (double) took / (2 * count));
  if (!SANITIZED)
    g_assert_cmpint(took, <, 5 * G_USEC_PER_SEC);
  begun = g_get_monotonic_time();
  for (guint32 i = 1; i <= count; i++)
    put_local(journal, 1, LOCAL_SCRATCH);
  g_test_message("local file put: %.1f us a call",
                 (double) (g_get_monotonic_time() - begun) / count);
  begun = g_get_monotonic_time();
  for (guint32 i = 1; i <= count; i++)
    g_free(journal_name_get(journal, "Archive/2026", 5, i));
  g_test_message("name looked up: %.2f us a call",
                 (double) (g_get_monotonic_time() - begun) / count);
  begun = g_get_monotonic_time();
  for (guint32 i = 1; i <= count; i++)
    g_assert_false(journal_names_any(journal, "INBOX", 1));
  g_test_message("asked whether there are names: %.2f us a call",
                 (double) (g_get_monotonic_time() - begun) / count);
  close_journal_and_remove(&journal, dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/journal/locals", test_locals);
  g_test_add_func("/journal/leftovers", test_leftovers);
  g_test_add_func("/journal/private", test_private);
  g_test_add_func("/journal/changes", test_changes);
  g_test_add_func("/journal/end", test_end);
  g_test_add_func("/journal/names", test_names);
  g_test_add_func("/journal/rename", test_rename);
  g_test_add_func("/journal/rename-under-way", test_rename_under_way);
  g_test_add_func("/journal/copies", test_copies);
  g_test_add_func("/journal/threads", test_threads);
  g_test_add_func("/journal/speed", test_speed);
  return g_test_run();
}
