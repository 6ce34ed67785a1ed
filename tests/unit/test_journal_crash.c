/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The journal after kill -9, when it is damaged or not ours, and on a full disk.
 */
#include "journal_help.h"
#include "small_disk.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- kill -9 ---- */

typedef enum { OP_NONE, OP_ADD, OP_UPLOAD, OP_UPDATE, OP_END, OP_PUT, OP_REMOVE, OP_COUNT } Op;

#define CHANGES_MAX 3

/* What the child reports: that it is about to do something, and that it was told it is done. */
typedef struct {
  Op op;
  gboolean done;
  guint count;
  guint32 ids[CHANGES_MAX]; /* changes */
  guint32 locals[CHANGES_MAX];
} Report;

/* What has to be there. */
typedef struct {
  GHashTable *changes;  /* id → stage */
  GHashTable *uploads;  /* id → local file, for changes that have one */
  GHashTable *locals;   /* id */
  GHashTable *names;    /* id of the change, which is the UID too */
  guint32 last_change, last_local; /* the highest ids that were ever there */
  Report last;
} Model;

static void report(int pipe, const Report *report) {
  if (write(pipe, report, sizeof *report) != sizeof *report)
    _exit(2);
}

static guint32 pick(GRand *rand, GArray *ids) {
  guint index = (guint) g_rand_int_range(rand, 0, (gint32) ids->len);
  guint32 id = g_array_index(ids, guint32, index);
  g_array_remove_index_fast(ids, index);
  return id;
}

typedef struct {
  Journal *journal;
  GRand *rand;
  int pipe;
  GPtrArray *changes; /* Change */
  GArray *scratch;    /* numbers */
} Child;

static void child_add(Child *child, Report *now) {
  Change changes[CHANGES_MAX] = {0};
  now->count = now->op == OP_UPLOAD ? 1 : (guint) g_rand_int_range(child->rand, 1, 4);
  Local local = {.folder = (char *) "INBOX", .name = (char *) "a.eml", .state = LOCAL_LETTER};
  if (now->op == OP_UPLOAD) {
    now->locals[0] = local.id = journal_local_number(child->journal);
    local.size = octets_of(local.id);
    make_octets(child->journal, local.id);
  }
  for (guint i = 0; i < now->count; i++)
    changes[i] = (Change){.kind = now->op == OP_UPLOAD ? CHANGE_UPLOAD : CHANGE_MOVE,
                          .mailbox = (char *) "INBOX", .target = (char *) "Archive",
                          .name = (char *) "given.eml", .local = local.id};
  report(child->pipe, now);
  g_autoptr(GError) error = NULL;
  journal_change_add(child->journal, changes, now->count, local.id ? &local : NULL, &error);
  g_assert_no_error(error);
  for (guint i = 0; i < now->count; i++) {
    now->ids[i] = changes[i].id;
    g_ptr_array_add(child->changes, change_copy(&changes[i]));
  }
}

/* Changes, at random; they are taken from the list. */
static GPtrArray *child_pick(Child *child, Report *now) {
  GPtrArray *picked = g_ptr_array_new_with_free_func((GDestroyNotify) change_free);
  guint count = (guint) g_rand_int_range(child->rand, 1, 4);
  now->count = MIN(count, child->changes->len);
  for (guint i = 0; i < now->count; i++) {
    guint index = (guint) g_rand_int_range(child->rand, 0, (gint32) child->changes->len);
    Change *change = g_ptr_array_steal_index_fast(child->changes, index);
    now->ids[i] = change->id;
    now->locals[i] = change->local;
    g_ptr_array_add(picked, change);
  }
  return picked;
}

static void child_update(Child *child, Report *now) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) picked = child_pick(child, now);
  for (guint i = 0; i < picked->len; i++)
    ((Change *) g_ptr_array_index(picked, i))->stage = CHANGE_SENT;
  report(child->pipe, now);
  journal_change_update(child->journal, (const Change *const *) picked->pdata, picked->len, &error);
  g_assert_no_error(error);
  for (guint i = 0; i < picked->len; i++)
    g_ptr_array_add(child->changes, change_copy(g_ptr_array_index(picked, i)));
}

static void child_end(Child *child, Report *now) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) picked = child_pick(child, now);
  const guint32 uidvalidities[CHANGES_MAX] = {7, 7, 7};
  report(child->pipe, now);
  journal_change_end(child->journal, (const Change *const *) picked->pdata, picked->len,
                     uidvalidities, now->ids, &error);
  g_assert_no_error(error);
}

static void child_put(Child *child, Report *now) {
  guint32 id = now->locals[0] = journal_local_number(child->journal);
  make_octets(child->journal, id);
  report(child->pipe, now);
  put_local(child->journal, id, LOCAL_SCRATCH);
  g_array_append_val(child->scratch, id);
}

static void child_remove(Child *child, Report *now) {
  g_autoptr(GError) error = NULL;
  now->locals[0] = pick(child->rand, child->scratch);
  report(child->pipe, now);
  journal_local_remove(child->journal, now->locals[0], &error);
  g_assert_no_error(error);
}

static void work_until_killed(const char *dir, int pipe, guint32 seed) {
  Child child = {.journal = open_journal(dir), .rand = g_rand_new_with_seed(seed), .pipe = pipe,
                 .scratch = g_array_new(FALSE, FALSE, sizeof(guint32))};
  child.changes = all_changes(child.journal);
  g_autoptr(GPtrArray) locals = all_locals(child.journal);
  for (guint i = 0; i < locals->len; i++) {
    const Local *local = g_ptr_array_index(locals, i);
    if (local->state == LOCAL_SCRATCH)
      g_array_append_val(child.scratch, local->id);
  }
  for (;;) {
    Report now = {.op = (Op) g_rand_int_range(child.rand, OP_NONE + 1, OP_COUNT)};
    if (now.op == OP_ADD || now.op == OP_UPLOAD)
      child_add(&child, &now);
    else if (now.op == OP_PUT)
      child_put(&child, &now);
    else if (now.op == OP_UPDATE && child.changes->len > 0)
      child_update(&child, &now);
    else if (now.op == OP_END && child.changes->len > 0)
      child_end(&child, &now);
    else if (now.op == OP_REMOVE && child.scratch->len > 0)
      child_remove(&child, &now);
    else
      continue;
    now.done = TRUE;
    report(pipe, &now);
  }
}

static void model_set(GHashTable *table, guint32 id, guint32 value) {
  g_hash_table_insert(table, GUINT_TO_POINTER(id), GUINT_TO_POINTER(value));
}

static guint32 model_get(GHashTable *table, guint32 id) {
  return GPOINTER_TO_UINT(g_hash_table_lookup(table, GUINT_TO_POINTER(id)));
}

static gboolean model_has(GHashTable *table, guint32 id) {
  return g_hash_table_contains(table, GUINT_TO_POINTER(id));
}

static void model_add_local(Model *model, guint32 id) {
  g_assert_cmpuint(id, >, model->last_local);
  model->last_local = id;
  model_set(model->locals, id, 1);
}

/* @report was done. */
static void model_apply(Model *model, const Report *report) {
  if (report->op == OP_PUT || report->op == OP_UPLOAD)
    model_add_local(model, report->locals[0]);
  if (report->op == OP_REMOVE)
    g_hash_table_remove(model->locals, GUINT_TO_POINTER(report->locals[0]));
  for (guint i = 0; i < report->count; i++) {
    guint32 id = report->ids[i];
    switch (report->op) {
    case OP_ADD:
    case OP_UPLOAD:
      g_assert_cmpuint(id, >, model->last_change);
      model->last_change = id;
      model_set(model->changes, id, CHANGE_QUEUED);
      if (report->op == OP_UPLOAD)
        model_set(model->uploads, id, report->locals[0]);
      break;
    case OP_UPDATE:
      model_set(model->changes, id, CHANGE_SENT);
      break;
    case OP_END:
      g_hash_table_remove(model->changes, GUINT_TO_POINTER(id));
      g_hash_table_remove(model->uploads, GUINT_TO_POINTER(id));
      g_hash_table_remove(model->locals, GUINT_TO_POINTER(report->locals[i]));
      model_set(model->names, id, 1);
      break;
    default:
      g_assert_not_reached();
    }
  }
}

/* What was under way when the child was killed happened as a whole or not at all; which, is seen
 * by one thing, and everything is then held against it. */
static void model_settle(Model *model, GPtrArray *changes, GPtrArray *locals) {
  Report report = model->last;
  gboolean happened = FALSE;
  if (report.op == OP_NONE || report.done)
    return;
  for (guint i = 0; i < changes->len; i++) {
    const Change *change = g_ptr_array_index(changes, i);
    if (report.op == OP_UPDATE && change->stage != model_get(model->changes, change->id))
      happened = TRUE;
    if ((report.op == OP_ADD || report.op == OP_UPLOAD) && !model_has(model->changes, change->id)) {
      happened = TRUE;
      g_assert_cmpuint(changes->len - i, ==, report.count); /* they are the last ones */
      for (guint k = 0; k < report.count; k++)
        report.ids[k] = ((Change *) g_ptr_array_index(changes, i + k))->id;
      break;
    }
  }
  if (report.op == OP_END) {
    happened = TRUE;
    for (guint i = 0; i < changes->len; i++)
      happened &= ((Change *) g_ptr_array_index(changes, i))->id != report.ids[0];
  }
  gboolean has_local = FALSE;
  for (guint i = 0; i < locals->len; i++)
    has_local |= ((Local *) g_ptr_array_index(locals, i))->id == report.locals[0];
  if (report.op == OP_PUT || report.op == OP_REMOVE)
    happened = has_local == (report.op == OP_PUT);
  if (happened)
    model_apply(model, &report);
}

static void model_check(Model *model, const char *dir) {
  Journal *journal = open_journal(dir);
  g_autoptr(GPtrArray) changes = all_changes(journal);
  g_autoptr(GPtrArray) locals = all_locals(journal);
  model_settle(model, changes, locals);
  g_assert_cmpuint(changes->len, ==, g_hash_table_size(model->changes));
  guint32 before = 0;
  for (guint i = 0; i < changes->len; i++) {
    const Change *change = g_ptr_array_index(changes, i);
    g_assert_cmpuint(change->id, >, before);
    before = change->id;
    g_assert_true(model_has(model->changes, change->id));
    g_assert_cmpuint(change->stage, ==, model_get(model->changes, change->id));
    g_assert_cmpuint(change->local, ==, model_get(model->uploads, change->id));
  }
  g_assert_cmpuint(locals->len, ==, g_hash_table_size(model->locals));
  for (guint i = 0; i < locals->len; i++) {
    const Local *local = g_ptr_array_index(locals, i);
    g_assert_true(model_has(model->locals, local->id));
    g_assert_true(has_octets(dir, local->id));
  }
  g_assert_cmpuint(count_files(dir), ==, locals->len);
  GHashTableIter iter;
  gpointer id;
  g_hash_table_iter_init(&iter, model->names);
  while (g_hash_table_iter_next(&iter, &id, NULL)) {
    g_autofree char *name = journal_name_get(journal, "Archive", 7, GPOINTER_TO_UINT(id));
    g_assert_cmpstr(name, ==, "given.eml");
  }
  g_assert_cmpint(journal_names_any(journal, "Archive", 7), ==,
                  g_hash_table_size(model->names) > 0);
  journal_close(&journal);
}

/* Reads reports until @deadline, then kills the child and reads on to the end. */
static void model_follow(Model *model, pid_t child, int pipe, gint64 deadline) {
  model->last = (Report){0};
  Report report;
  for (gboolean killed = FALSE;;) {
    struct pollfd ready = {.fd = pipe, .events = POLLIN};
    gint64 left = (deadline - g_get_monotonic_time()) / 1000;
    if (!killed && left <= 0) {
      kill(child, SIGKILL);
      killed = TRUE;
    }
    if (poll(&ready, 1, killed ? -1 : (int) left) == 0)
      continue;
    ssize_t got = read(pipe, &report, sizeof report);
    if (got == 0)
      break;
    g_assert_cmpint(got, ==, sizeof report);
    model->last = report;
    if (report.done)
      model_apply(model, &report);
  }
  int status;
  g_assert_cmpint(waitpid(child, &status, 0), ==, child);
  g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* it did not fail by itself */
}

static void test_kill(void) {
  char *dir = new_dir();
  Model model = {.changes = g_hash_table_new(NULL, NULL), .uploads = g_hash_table_new(NULL, NULL),
                 .locals = g_hash_table_new(NULL, NULL), .names = g_hash_table_new(NULL, NULL)};
  for (guint round = 0; round < 30; round++) {
    int ends[2];
    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    guint32 seed = g_test_rand_int();
    pid_t child = fork();
    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
      close(ends[0]);
      work_until_killed(dir, ends[1], seed);
    }
    close(ends[1]);
    model_follow(&model, child, ends[0],
                 g_get_monotonic_time() + 1000 * g_test_rand_int_range(1, round % 3 ? 20 : 200));
    close(ends[0]);
    model_check(&model, dir);
  }
  g_test_message("%u changes, %u local files, %u names given", model.last_change, model.last_local,
                 g_hash_table_size(model.names));
  g_assert_cmpuint(g_hash_table_size(model.names), >, 50);
  g_hash_table_unref(model.changes);
  g_hash_table_unref(model.uploads);
  g_hash_table_unref(model.locals);
  g_hash_table_unref(model.names);
  dir_remove_tree(dir);
  g_free(dir);
}

/* ---- damage ---- */

/* A journal with a letter and, unless @clean, its write-ahead log as a killed process leaves it. */
static void make_journal(const char *dir, gboolean clean) {
  pid_t child = fork();
  g_assert_cmpint(child, >=, 0);
  if (child == 0) {
    Journal *journal = open_journal(dir);
    make_octets(journal, 1);
    put_local(journal, 1, LOCAL_LETTER);
    for (guint i = 0; i < 500; i++)
      add_change(journal, 1);
    if (clean)
      journal_close(&journal);
    _exit(0);
  }
  int status;
  g_assert_cmpint(waitpid(child, &status, 0), ==, child);
  g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void sql(const char *path, const char *statement) {
  sqlite3 *db;
  g_assert_cmpint(sqlite3_open(path, &db), ==, SQLITE_OK);
  g_assert_cmpint(sqlite3_exec(db, statement, NULL, NULL, NULL), ==, SQLITE_OK);
  sqlite3_close(db);
}

static void overwrite(const char *path, gsize from, gsize to) {
  g_autoptr(GError) error = NULL;
  g_autofree char *octets = NULL;
  gsize size;
  g_file_get_contents(path, &octets, &size, &error);
  g_assert_no_error(error);
  memset(octets + from, 0xa5, MIN(to, size) - from);
  g_file_set_contents(path, octets, (gssize) size, &error);
  g_assert_no_error(error);
}

/* What is in the file, nothing when there is none. */
static GBytes *read_all(const char *path) {
  char *octets = NULL;
  gsize size = 0;
  g_file_get_contents(path, &octets, &size, NULL);
  return g_bytes_new_take(octets, size);
}

typedef enum {
  HARM_GARBAGE,
  HARM_TRUNCATED,
  HARM_HEADER_ONLY,
  HARM_PAGES,
  HARM_NO_TABLE,
  HARM_NO_IDENTITY,
  HARM_EMPTY_BUT_LOG,
  HARM_GONE_BUT_LOG,
  HARM_FOREIGN,
  HARM_FUTURE,
  HARM_NOT_OURS,
} Harm;

static void harm_test(gconstpointer data) {
  Harm harm = (Harm) GPOINTER_TO_INT(data);
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  make_journal(dir, harm != HARM_EMPTY_BUT_LOG && harm != HARM_GONE_BUT_LOG &&
                        harm != HARM_FOREIGN);
  g_autofree char *path = g_build_filename(dir, "journal.db", NULL);
  const char *identity = IDENTITY;
  switch (harm) {
  case HARM_GARBAGE:
    overwrite(path, 0, 8000);
    break;
  case HARM_TRUNCATED:
    g_assert_cmpint(truncate(path, 12288), ==, 0);
    break;
  case HARM_HEADER_ONLY:
    g_assert_cmpint(truncate(path, 50), ==, 0);
    break;
  case HARM_PAGES:
    overwrite(path, 4096 * 6, G_MAXSIZE);
    break;
  case HARM_NO_TABLE:
    sql(path, "DROP TABLE name");
    break;
  case HARM_NO_IDENTITY:
    sql(path, "DELETE FROM meta");
    break;
  case HARM_EMPTY_BUT_LOG:
    g_assert_cmpint(truncate(path, 0), ==, 0);
    break;
  case HARM_GONE_BUT_LOG:
    g_assert_cmpint(g_unlink(path), ==, 0);
    break;
  case HARM_FOREIGN:
    identity = "bert@example.org@mail.example.org";
    break;
  case HARM_FUTURE:
    sql(path, "PRAGMA user_version = 99");
    break;
  case HARM_NOT_OURS:
    g_assert_cmpint(g_unlink(path), ==, 0);
    sql(path, "CREATE TABLE x(y)");
    break;
  default:
    g_assert_not_reached();
  }
  g_autofree char *log = g_build_filename(dir, "journal.db-wal", NULL);
  g_autoptr(GBytes) before = read_all(path), log_before = read_all(log);
  for (guint round = 0; round < 2; round++) {
    g_assert_null(journal_open(dir, identity, &error));
    int wanted = harm >= HARM_FOREIGN ? EML_ERROR_CONFIG : EML_ERROR_CORRUPT;
    g_assert_error(error, EML_ERROR, wanted);
    g_test_message("%s", error->message);
    g_assert_nonnull(strstr(error->message, path));
    g_assert_nonnull(strstr(error->message, "left as it is"));
    g_assert_null(strchr(error->message, '\n'));
    g_clear_error(&error);
  }
  /* Nothing was touched. */
  g_assert_true(has_octets(dir, 1));
  g_autoptr(GBytes) after = read_all(path), log_after = read_all(log);
  g_assert_true(g_bytes_equal(before, after) && g_bytes_equal(log_before, log_after));
  if (harm == HARM_FOREIGN) {
    Journal *journal = open_journal(dir);
    g_autoptr(GPtrArray) changes = all_changes(journal);
    g_assert_cmpuint(changes->len, ==, 500);
    journal_close(&journal);
  }
  dir_remove_tree(dir);
  g_free(dir);
}

/* Whoever moves only the database away keeps his letters. */
static void test_begun_anew(void) {
  char *dir = new_dir();
  make_journal(dir, TRUE);
  g_autofree char *path = g_build_filename(dir, "journal.db", NULL);
  g_assert_cmpint(g_unlink(path), ==, 0);
  Journal *journal = open_journal(dir);
  g_assert_cmpuint(count_files(dir), ==, 0);
  g_autoptr(GDir) entries = g_dir_open(dir, 0, NULL);
  g_autofree char *aside = NULL;
  const char *name;
  while ((name = g_dir_read_name(entries)))
    if (g_str_has_prefix(name, "local.aside-"))
      aside = g_build_filename(dir, name, "1", NULL);
  g_assert_nonnull(aside);
  g_assert_true(g_file_test(aside, G_FILE_TEST_EXISTS));
  make_octets(journal, 1);
  g_assert_true(has_octets(dir, 1));
  close_journal_and_remove(&journal, dir);
}

/* With nothing left to do it matters to nobody whose it was. */
static void test_taken_over(void) {
  char *dir = new_dir();
  g_autoptr(GError) error = NULL;
  Journal *journal = open_journal(dir);
  g_assert_true(journal_name_set(journal, "INBOX", 1, 7, "mine.eml", &error));
  journal_close(&journal);
  journal = journal_open(dir, "bert@example.org@mail.example.org", &error);
  g_assert_no_error(error);
  g_assert_null(journal_name_get(journal, "INBOX", 1, 7));
  g_assert_false(journal_names_any(journal, "INBOX", 1));
  close_journal_and_remove(&journal, dir);
}

/* A second process that gets past the account's lock is kept out. */
static void test_busy(void) {
  char *dir = new_dir();
  Journal *journal = open_journal(dir);
  pid_t child = fork();
  if (child == 0) {
    g_autoptr(GError) error = NULL;
    gboolean kept_out = !journal_open(dir, IDENTITY, &error) &&
                        g_error_matches(error, EML_ERROR, EML_ERROR_BUSY);
    _exit(kept_out ? 0 : 1);
  }
  int status;
  g_assert_cmpint(waitpid(child, &status, 0), ==, child);
  g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  add_change(journal, 0);
  close_journal_and_remove(&journal, dir);
}

/* ---- a full disk ---- */

static void full_disk_child(const char *dir) {
  in_small_filesystem(dir, "size=1m,mode=0700");
  Journal *journal = open_journal(dir);
  g_autofree char *filler = g_build_filename(dir, "filler", NULL);
  g_autofree char *octets = g_malloc0(512 * 1024);
  g_assert_true(g_file_set_contents(filler, octets, 512 * 1024, NULL));
  guint count = 0;
  for (guint refused = 0; refused < 10;) {
    g_autoptr(GError) error = NULL;
    Change changes[2] = {{.mailbox = (char *) "A"}, {.mailbox = (char *) "B"}};
    if (journal_change_add(journal, changes, 2, NULL, &error)) {
      count += 2;
      continue;
    }
    g_assert_error(error, EML_ERROR, EML_ERROR_NO_SPACE);
    g_assert_cmpuint(changes[0].id, ==, 0);
    g_assert_cmpuint(changes[1].id, ==, 0);
    refused++;
  }
  g_autoptr(GPtrArray) changes = all_changes(journal);
  g_assert_cmpuint(changes->len, ==, count);
  /* Opened while it is full: as it was, or refused as full. */
  journal_close(&journal);
  g_autoptr(GError) error = NULL;
  journal = journal_open(dir, IDENTITY, &error);
  if (!journal)
    g_assert_error(error, EML_ERROR, EML_ERROR_NO_SPACE);
  journal_close(&journal);
  g_assert_cmpint(g_unlink(filler), ==, 0);
  journal = open_journal(dir);
  g_autoptr(GPtrArray) again = all_changes(journal);
  g_assert_cmpuint(again->len, ==, count);
  g_assert_cmpuint(add_change(journal, 0), >, ((Change *) g_ptr_array_index(again, count - 1))->id);
  journal_close(&journal);
  _exit(0);
}

G_GNUC_UNUSED static void test_full_disk(void) {
  on_small_disk(full_disk_child);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/journal/kill", test_kill);
  static const char *const harms[] = {"garbage",       "truncated",    "header-only",
                                      "pages",         "no-table",     "no-identity",
                                      "empty-but-log", "gone-but-log", "foreign",
                                      "future",        "not-ours"};
  for (guint i = 0; i < G_N_ELEMENTS(harms); i++) {
    g_autofree char *path = g_strconcat("/journal/harm/", harms[i], NULL);
    g_test_add_data_func(path, GINT_TO_POINTER(i), harm_test);
  }
  g_test_add_func("/journal/begun-anew", test_begun_anew);
  g_test_add_func("/journal/taken-over", test_taken_over);
  g_test_add_func("/journal/busy", test_busy);
#ifndef __SANITIZE_THREAD__ /* whose own thread keeps an ordinary user from a user namespace */
  g_test_add_func("/journal/full-disk", test_full_disk);
#endif
  return g_test_run();
}
