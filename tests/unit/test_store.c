/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store_help.h"

#include <fcntl.h>
#include <sys/stat.h>

/* ---- folders ---- */

typedef struct {
  const char *mailbox, *path; /* levels separated by '/' */
  gboolean unselectable;
  StoreRole role;
} Listed;

static void apply(Store *store, const Listed *listed, gsize count, GPtrArray **added_out,
                  GPtrArray **removed_out) {
  g_autoptr(GError) error = NULL;
  g_autofree StoreMailbox *mailboxes = g_new0(StoreMailbox, count);
  g_autoptr(GPtrArray) levels = g_ptr_array_new_with_free_func((GDestroyNotify) g_strfreev);
  for (gsize i = 0; i < count; i++) {
    char **split = g_strsplit(listed[i].path, "/", -1);
    g_ptr_array_add(levels, split);
    mailboxes[i] = (StoreMailbox){listed[i].mailbox, (const char *const *) split,
                                  !listed[i].unselectable, listed[i].role};
  }
  store_folders_apply(store, mailboxes, count, added_out, removed_out, &error);
  g_assert_no_error(error);
}

/* All folders as "path=mailbox" lines, "-" for none. */
static char *paths(Store *store) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) folders = store_folders(store, G_MAXUINT32, &error);
  g_assert_no_error(error);
  g_autoptr(GHashTable) by_id = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  GString *text = g_string_new(NULL);
  for (guint i = 0; i < folders->len; i++) {
    StoreFolder *folder = g_ptr_array_index(folders, i);
    const char *above = g_hash_table_lookup(by_id, GUINT_TO_POINTER(folder->parent));
    g_assert_true(folder->parent == 0 || above); /* parents come first */
    char *path = g_strdup_printf("%s%s%s", above ? above : "", above ? "/" : "", folder->name);
    g_hash_table_insert(by_id, GUINT_TO_POINTER(folder->id), path);
    g_string_append_printf(text, "%s=%s%s\n", path, folder->mailbox ? folder->mailbox : "-",
                           folder->selectable ? "" : " no");
  }
  return g_string_free(text, FALSE);
}

static guint32 id_of(Store *store, const char *mailbox) {
  g_autoptr(StoreFolder) folder = store_folder_by_mailbox(store, mailbox, NULL);
  return folder ? folder->id : 0;
}

#define APPLY(store, ...)                                                                          \
  apply(store, (Listed[]){__VA_ARGS__}, sizeof((Listed[]){__VA_ARGS__}) / sizeof(Listed), NULL,    \
        NULL)

static void assert_paths(Store *store, const char *wanted) {
  g_autofree char *have = paths(store);
  g_assert_cmpstr(have, ==, wanted);
}

static void test_folders(void) {
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  g_autoptr(GPtrArray) added = NULL;
  g_autoptr(GPtrArray) removed = NULL;
  Listed first[] = {{"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX},
                    {"Lists.a.b", "Lists/a/b", FALSE, 0},
                    {"Sent", "Sent", FALSE, STORE_ROLE_SENT},
                    {"Lists.a.c", "Lists/a/c", FALSE, 0}};
  apply(store, first, G_N_ELEMENTS(first), &added, &removed);
  g_assert_cmpuint(added->len, ==, 6);
  g_assert_cmpuint(removed->len, ==, 0);
  /* parents first */
  g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < added->len; i++) {
    StoreFolderChange *change = g_ptr_array_index(added, i);
    g_assert_true(change->parent == 0 ||
                  g_hash_table_contains(seen, GUINT_TO_POINTER(change->parent)));
    g_hash_table_add(seen, GUINT_TO_POINTER(change->folder));
  }
  assert_paths(store, "INBOX=INBOX\nLists=- no\nSent=Sent\nLists/a=- no\n"
                      "Lists/a/b=Lists.a.b\nLists/a/c=Lists.a.c\n");
  guint32 b = id_of(store, "Lists.a.b");
  g_assert_cmpuint(id_of(store, "iNbOx"), ==, id_of(store, "INBOX"));
  g_autoptr(StoreFolder) made_up = store_folder_by_name(store, 0, "Lists", NULL);
  g_assert_null(made_up->mailbox);

  /* A made-up parent becomes a mailbox and stays the same folder; the same list changes nothing. */
  Listed second[] = {{"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX},
                     {"Lists", "Lists", FALSE, 0},
                     {"Lists.a.b", "Lists/a/b", FALSE, 0},
                     {"Sent", "Sent", FALSE, STORE_ROLE_SENT}};
  for (guint i = 0; i < 2; i++) {
    g_clear_pointer(&added, g_ptr_array_unref);
    g_clear_pointer(&removed, g_ptr_array_unref);
    apply(store, second, G_N_ELEMENTS(second), &added, &removed);
    g_assert_cmpuint(added->len, ==, 0);
    g_assert_cmpuint(removed->len, ==, i == 0 ? 1 : 0);
    g_assert_cmpuint(id_of(store, "Lists"), ==, made_up->id);
    g_assert_cmpuint(id_of(store, "Lists.a.b"), ==, b);
  }
  assert_paths(store, "INBOX=INBOX\nLists=Lists\nSent=Sent\nLists/a=- no\nLists/a/b=Lists.a.b\n");

  /* Gone with children left: made up again. Gone wholly: children are told first. */
  APPLY(store, {"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX}, {"Lists.a.b", "Lists/a/b", FALSE, 0});
  assert_paths(store, "INBOX=INBOX\nLists=- no\nLists/a=- no\nLists/a/b=Lists.a.b\n");
  g_clear_pointer(&added, g_ptr_array_unref);
  g_clear_pointer(&removed, g_ptr_array_unref);
  apply(store, first, 1, &added, &removed);
  g_assert_cmpuint(removed->len, ==, 3);
  g_assert_cmpstr(((StoreFolderChange *) g_ptr_array_index(removed, 0))->name, ==, "b");
  g_assert_cmpstr(((StoreFolderChange *) g_ptr_array_index(removed, 2))->name, ==, "Lists");
  assert_paths(store, "INBOX=INBOX\n");

  /* Created again: another folder. */
  APPLY(store, {"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX}, {"Lists.a.b", "Lists/a/b", FALSE, 0});
  g_assert_cmpuint(id_of(store, "Lists.a.b"), >, b);
  /* A replaced child keeps the made-up parents. */
  guint32 lists = made_up->id;
  g_autoptr(StoreFolder) again = store_folder_by_name(store, 0, "Lists", NULL);
  g_assert_cmpuint(again->id, !=, lists);
  APPLY(store, {"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX}, {"Lists.a.z", "Lists/a/z", FALSE, 0});
  g_autoptr(StoreFolder) kept = store_folder_by_name(store, 0, "Lists", NULL);
  g_assert_cmpuint(again->id, ==, kept->id);
  assert_paths(store, "INBOX=INBOX\nLists=- no\nLists/a=- no\nLists/a/z=Lists.a.z\n");
  close_and_remove(&store, dir);
}

static void test_folder_names(void) {
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  /* Collisions keep their suffix, however the server sorts its list. */
  APPLY(store, {"x1", "Same", FALSE, 0}, {"x2", "Same", FALSE, 0}, {"Outbox", "Outbox", FALSE, 0});
  assert_paths(store, "Outbox~2=Outbox\nSame=x1\nSame~2=x2\n");
  APPLY(store, {"x3", "Same", FALSE, 0}, {"x2", "Same", FALSE, 0}, {"x1", "Same", FALSE, 0},
        {"Outbox", "Outbox", FALSE, 0}, {"Outbox.in", "Outbox/Outbox", FALSE, 0});
  assert_paths(store,
               "Outbox~2=Outbox\nSame=x1\nSame~2=x2\nSame~3=x3\nOutbox~2/Outbox=Outbox.in\n");
  APPLY(store, {"x2", "Same", FALSE, 0}, {"x3", "Same", FALSE, 0});
  assert_paths(store, "Same~2=x2\nSame~3=x3\n");
  store_close(&store);
  store = open_store(dir, 1 << 20);
  APPLY(store, {"x3", "Same", FALSE, 0}, {"x2", "Same", FALSE, 0}, {"x4", "Same", FALSE, 0});
  assert_paths(store, "Same=x4\nSame~2=x2\nSame~3=x3\n");
  /* Children of two mailboxes on one path go to the one that begins their name. */
  APPLY(store, {"x3", "Same", FALSE, 0}, {"x2", "Same", FALSE, 0}, {"x4", "Same", FALSE, 0},
        {"x2.k", "Same/k", FALSE, 0}, {"x3.k", "Same/k", FALSE, 0});
  assert_paths(store, "Same=x4\nSame~2=x2\nSame~3=x3\nSame~2/k=x2.k\nSame~3/k=x3.k\n");
  /* A name freed in the same list is taken at once. */
  APPLY(store, {"x5", "Same", FALSE, 0});
  assert_paths(store, "Same=x5\n");
  /* Reserved in any form; long ones are cut at a character. */
  g_autoptr(GString) wide = g_string_new(NULL);
  for (guint i = 0; i < 85; i++)
    g_string_append(wide, "日");
  APPLY(store, {"c", ".control", FALSE, 0}, {"l1", wide->str, FALSE, 0},
        {"l2", wide->str, FALSE, 0});
  g_autoptr(StoreFolder) cut = store_folder_by_mailbox(store, "l2", NULL);
  g_assert_true(g_utf8_validate(cut->name, -1, NULL) && g_str_has_suffix(cut->name, "日~2"));
  g_assert_cmpuint(strlen(cut->name), ==, 254);
  g_assert_cmpuint(id_of(store, "c"), !=, 0);
  g_autoptr(StoreFolder) control = store_folder_by_mailbox(store, "c", NULL);
  g_assert_cmpstr(control->name, ==, ".control~2");
  /* INBOX in any spelling is one folder, and so are the children below it. */
  APPLY(store, {"Inbox", "Inbox", FALSE, 0}, {"INBOX/a", "INBOX/a", FALSE, 0},
        {"Inbox/b", "Inbox/b", FALSE, 0}, {"inbox", "inbox", FALSE, 0});
  assert_paths(store, "INBOX=INBOX\nINBOX/a=INBOX/a\nINBOX/b=Inbox/b\n");
  close_and_remove(&store, dir);
}

static void test_folder_state(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  guint32 id, space = make_inbox(store, &id);
  put_messages(store, space, 1, 10, 100);
  put_body(store, (MsgId){space, 3}, 100, 0);
  g_autoptr(StoreFolder) folder = store_folder_by_space(store, space, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(folder->id, ==, id);
  g_assert_cmpuint(folder->count, ==, 10);
  g_assert_cmpuint(folder->uidnext, ==, 11);
  g_assert_cmpuint(folder->modseq, ==, 10);
  g_assert_cmpuint(folder->uidvalidity, ==, 1);
  g_assert_cmpint(folder->mtime, ==, 1);
  g_assert_true(folder->listed && folder->selectable && folder->role == STORE_ROLE_INBOX);

  guint32 renewed;
  g_assert_true(store_folder_renew(store, id, 2, &renewed, &error));
  g_assert_cmpuint(renewed, >, space);
  g_assert_null(store_folder_by_space(store, space, NULL));
  g_autoptr(StoreFolder) after = store_folder_get(store, id, &error);
  g_assert_true(after->space == renewed && after->count == 0 && !after->listed &&
                after->uidvalidity == 2 && after->modseq == 0);
  g_assert_null(store_message_get(store, (MsgId){space, 3}, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  g_assert_false(has_body(store, (MsgId){space, 3}, 100, 0));

  /* A batch that was under way for the old numbers fails, and says why. */
  StoreBatch *batch = store_batch_new(store, space);
  StoreMessage message = {.uid = 1, .name = "x.1.eml", .keywords = ""};
  g_assert_false(store_batch_put(batch, &message, NULL, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_STALE);
  g_clear_error(&error);
  g_assert_false(store_batch_commit(&batch, 1, 1, 0, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_STALE);
  g_clear_error(&error);
  g_assert_null(batch);

  /* Not selectable: no messages; selectable again: without a uidspace. */
  put_messages(store, renewed, 1, 5, 100);
  APPLY(store, {"INBOX", "INBOX", TRUE, STORE_ROLE_INBOX});
  g_autoptr(StoreFolder) closed = store_folder_get(store, id, &error);
  g_assert_true(closed->space == 0 && closed->count == 0 && !closed->selectable);
  APPLY(store, {"INBOX", "INBOX", FALSE, STORE_ROLE_INBOX});
  g_autoptr(StoreFolder) reopened = store_folder_get(store, id, &error);
  g_assert_true(reopened->space == 0 && reopened->selectable);
  g_assert_false(store_folder_renew(store, 999, 2, &renewed, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_assert_true(store_healthy(store));
  close_and_remove(&store, dir);
}

/* ---- messages ---- */

static gboolean collect_uid(const StoreMessage *message, gpointer data) {
  g_array_append_val((GArray *) data, message->uid);
  return ((GArray *) data)->len < 1000;
}

static void test_messages(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  guint32 space = make_inbox(store, NULL);
  StoreBatch *batch = store_batch_new(store, space);
  gboolean flag;
  StoreMessage message = {.uid = 7, .size = 1234, .internal_date = -5, .ctime = 9, .flags = 3,
                          .modseq = G_MAXINT64, .keywords = "a b", .name = "x.7.eml"};
  g_assert_true(store_batch_put(batch, &message, &flag, &error) && flag);
  g_assert_true(store_batch_put(batch, &message, &flag, &error) && !flag);
  StoreMessage given = {.uid = G_MAXUINT32, .size = 1, .keywords = "", .name = "letter.7.eml"};
  g_assert_true(store_batch_put(batch, &given, NULL, &error));
  StoreMessage plain = {.uid = 8, .size = 1, .keywords = NULL, .name = "letter.eml"};
  g_assert_true(store_batch_put(batch, &plain, NULL, &error));
  g_assert_true(store_batch_flush(batch, &error));

  g_autoptr(StoreMessage) read = store_message_get(store, (MsgId){space, 7}, &error);
  g_assert_true(read->size == 1234 && read->internal_date == -5 && read->ctime == 9 &&
                read->flags == 3 && read->modseq == G_MAXINT64);
  g_assert_cmpstr(read->keywords, ==, "a b");
  g_autoptr(StoreMessage) by_uid = store_message_by_name(store, space, "x.7.eml", &error);
  g_assert_cmpuint(by_uid->uid, ==, 7);
  g_autoptr(StoreMessage) by_given = store_message_by_name(store, space, "letter.7.eml", &error);
  g_assert_cmpuint(by_given->uid, ==, G_MAXUINT32);
  g_autoptr(StoreMessage) by_plain = store_message_by_name(store, space, "letter.eml", &error);
  g_assert_cmpuint(by_plain->uid, ==, 8);
  static const char *const absent[] = {"y.7.eml", "x.9.eml", "", "x", "letter.EML"};
  for (guint i = 0; i < G_N_ELEMENTS(absent); i++) {
    g_assert_null(store_message_by_name(store, space, absent[i], &error));
    g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
    g_clear_error(&error);
  }
  /* A given name that becomes a regular one leaves the index of given names. */
  plain.name = "z.8.eml";
  g_assert_true(store_batch_put(batch, &plain, NULL, &error));
  g_assert_true(store_batch_flush(batch, &error));
  g_assert_null(store_message_by_name(store, space, "letter.eml", NULL));

  g_assert_true(store_batch_flags(batch, 7, 3, "a b", G_MAXINT64, 50, &flag, &error) && !flag);
  g_assert_true(store_batch_flags(batch, 7, 3, "a b", 5, 50, &flag, &error) && !flag);
  g_assert_true(store_batch_flags(batch, 7, 1, "a b", 6, 51, &flag, &error) && flag);
  g_assert_true(store_batch_flags(batch, 7, 1, "c", 7, 52, &flag, &error) && flag);
  g_assert_true(store_batch_flags(batch, 99, 1, "c", 7, 52, &flag, &error) && !flag);
  g_assert_true(store_batch_flush(batch, &error));
  g_autoptr(StoreMessage) flagged = store_message_get(store, (MsgId){space, 7}, &error);
  g_assert_true(flagged->flags == 1 && flagged->modseq == 7 && flagged->ctime == 52);
  g_assert_cmpstr(flagged->keywords, ==, "c");

  /* A writer beside an open batch neither waits for it nor undoes it. */
  plain.uid = 20;
  plain.name = "z.20.eml";
  g_assert_true(store_batch_put(batch, &plain, NULL, &error));
  g_assert_true(store_message_set_size(store, (MsgId){space, 20}, 77, &error));
  g_assert_true(store_fact_set(store, "k", "v", &error));
  store_batch_abort(&batch);
  g_autoptr(StoreMessage) sized = store_message_get(store, (MsgId){space, 20}, &error);
  g_assert_cmpuint(sized->size, ==, 77);
  g_assert_false(store_message_set_size(store, (MsgId){space, 21}, 77, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  g_autoptr(StoreFolder) folder = store_folder_by_space(store, space, &error);
  g_assert_true(folder->count == 4 && !folder->listed && folder->uidnext == 0);

  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_assert_true(store_messages_scan(store, space, 7, 2, collect_uid, uids, &error));
  g_assert_cmpuint(uids->len, ==, 2);
  g_assert_cmpuint(g_array_index(uids, guint32, 0), ==, 8);
  g_assert_cmpuint(g_array_index(uids, guint32, 1), ==, 20);
  g_array_set_size(uids, 0);
  g_assert_true(store_messages_scan(store, space, 0, G_MAXUINT32, collect_uid, uids, &error));
  g_assert_cmpuint(uids->len, ==, 4);
  g_array_set_size(uids, 0);
  g_assert_true(store_messages_scan(store, space, G_MAXUINT32, 5, collect_uid, uids, &error));
  g_assert_cmpuint(uids->len, ==, 0);
  store_batch_abort(&batch);
  close_and_remove(&store, dir);
}

static gboolean gone_reads(const StoreMessage *message, gpointer data) {
  /* The callback may use the store: no lock is held. */
  Store *store = data;
  g_autoptr(GError) error = NULL;
  store_fact_set(store, "last", message->name, &error);
  g_assert_no_error(error);
  return TRUE;
}

static void test_remove(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 64 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 3000, 10);
  for (guint uid = 1; uid <= 300; uid++)
    put_body(store, (MsgId){space, uid}, 8192, 0);
  settle(store);
  put_body(store, (MsgId){space, 2000}, 8192, 0); /* not yet in the index */
  g_autoptr(StoreBody) pinned = store_body_get(store, (MsgId){space, 5}, &error);
  StoreBatch *batch = store_batch_new(store, space);
  g_assert_true(store_batch_remove(batch, 1, 2500, gone_reads, store, &error));
  g_assert_true(store_batch_remove(batch, 4000, 5000, gone_reads, store, &error));
  g_assert_true(store_batch_remove(batch, 5, 4, gone_reads, store, &error));
  g_assert_true(store_batch_commit(&batch, 3001, 1, 0, &error));
  g_autofree char *last = store_fact_get(store, "last");
  g_assert_cmpstr(last, ==, "2026-11-20_Anna-Alpha_Subject-of-number-2500.2500.eml");
  g_autoptr(StoreFolder) folder = store_folder_by_space(store, space, &error);
  g_assert_cmpuint(folder->count, ==, 500);
  settle(store);
  g_assert_false(has_body(store, (MsgId){space, 5}, 8192, 0));
  g_assert_false(has_body(store, (MsgId){space, 2000}, 8192, 0));
  g_assert_true(body_matches(pinned, (MsgId){space, 5}, 0)); /* pinned: still readable */
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, 0);
  g_assert_cmpuint(stats.messages, ==, 500);
  g_assert_cmpuint(stats.body_bytes, <=, 4 * 8192);
  g_clear_pointer(&pinned, store_body_unref);
  settle(store);
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.body_bytes, <=, 2 * 4096);
  close_and_remove(&store, dir);
}

/* ---- bodies ---- */

static void test_bodies(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 64 << 20);
  guint32 space = make_inbox(store, NULL);
  static const gsize sizes[] = {0, 0, 1, 4096, 100000, BODY_SMALL_MAX, BODY_SMALL_MAX + 1, 2000000};
  put_messages(store, space, 1, 100, 10);
  for (guint round = 0; round < 3; round++) {
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
      MsgId id = {space, i + 1};
      if (round == 0)
        put_body(store, id, sizes[i], 0);
      g_assert_true(has_body(store, id, sizes[i], 0));
    }
    g_assert_false(has_body(store, (MsgId){space, 50}, 1, 0));
    if (round == 0)
      settle(store);
    if (round == 1) {
      store_close(&store);
      store = open_store(dir, 64 << 20);
    }
  }
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, G_N_ELEMENTS(sizes));

  /* A body of a message that is not there is not kept. */
  StoreBody *none = write_body(store, (MsgId){space, 101}, 10, 0, &error);
  g_assert_null(none);
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  none = write_body(store, (MsgId){space, 101}, 1000000, 0, &error);
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  g_autofree char *partial = g_build_filename(dir, "partial", NULL);
  g_assert_cmpint(g_rmdir(partial), ==, 0); /* empty */
  g_mkdir(partial, 0700);

  /* A message that is in an open batch only may have a body. */
  StoreBatch *batch = store_batch_new(store, space);
  StoreMessage message = {.uid = 200, .name = "x.200.eml", .keywords = ""};
  g_assert_true(store_batch_put(batch, &message, NULL, &error));
  put_body(store, (MsgId){space, 200}, 5, 0);
  store_batch_abort(&batch);

  /* Replaced while pinned: both can be read. */
  for (guint round = 0; round < 4; round++) {
    MsgId id = {space, 3 + (round & 1) * 4};
    gsize size = sizes[id.uid - 1];
    g_autoptr(StoreBody) old = store_body_get(store, id, &error);
    guint version = round / 2;
    put_body(store, id, size, version + 1);
    put_body(store, id, size + 1, version + 10);
    put_body(store, id, size, version + 1);
    if (round & 2)
      settle(store);
    g_assert_true(has_body(store, id, size, version + 1));
    g_assert_true(body_matches(old, id, version));
    g_autoptr(StoreBody) more = store_body_ref(old);
    g_clear_pointer(&old, store_body_unref);
    settle(store);
    g_assert_true(body_matches(more, id, version));
  }
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, G_N_ELEMENTS(sizes) + 1);

  /* Aborted writers and partials leave nothing. */
  for (guint i = 0; i < 2; i++) {
    StoreWriter *writer = store_writer_new(store, i ? 10 : 1 << 20, &error);
    g_assert_true(store_writer_write(writer, "x", 1, &error));
    store_writer_abort(&writer);
    store_writer_abort(&writer);
  }
  g_assert_cmpint(g_rmdir(partial), ==, 0);
  close_and_remove(&store, dir);
}

static void test_partial(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 64 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 10, 10);
  MsgId id = {space, 1};
  gsize size = 1 << 20;
  g_autofree guchar *octets = g_malloc(size);
  fill(octets, size, id, 0);
  StorePartial *partial = store_partial_new(store, id, size, &error);
  g_assert_no_error(error);
  int fd = store_partial_fd(partial);
  struct stat status;
  g_assert_cmpint(fstat(fd, &status), ==, 0);
  g_assert_true((gsize) status.st_size == size && status.st_blocks == 0);
  g_assert_cmpint(pwrite(fd, octets + size / 2, size / 2, size / 2), ==, size / 2);
  g_assert_false(has_body(store, id, size, 0));
  g_assert_cmpint(pwrite(fd, octets, size / 2, 0), ==, size / 2);
  {
    g_autoptr(StoreBody) body = store_partial_commit(&partial, &error);
    g_assert_no_error(error);
    g_assert_true(body_matches(body, id, 0));
  }
  g_assert_true(has_body(store, id, size, 0));
  partial = store_partial_new(store, (MsgId){space, 2}, size, &error);
  store_partial_abort(&partial);
  partial = store_partial_new(store, (MsgId){space, 11}, size, &error);
  g_assert_null(store_partial_commit(&partial, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_NOT_FOUND);
  g_clear_error(&error);
  /* Left over: as after a kill. */
  g_autofree char *left = g_build_filename(dir, "partial", "99", NULL);
  g_assert_true(g_file_set_contents(left, "x", 1, NULL));
  store_close(&store);
  store = open_store(dir, 64 << 20);
  g_assert_false(g_file_test(left, G_FILE_TEST_EXISTS));
  g_assert_true(has_body(store, id, size, 0));
  close_and_remove(&store, dir);
}

static void test_missing(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 64 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 20, 1000);
  put_body(store, (MsgId){space, 2}, 10, 0);
  settle(store);
  put_body(store, (MsgId){space, 4}, 10, 0);
  static const struct {
    guint32 after;
    guint limit;
    guint64 bytes;
    guint count;
    guint32 first, last;
  } cases[] = {{0, 100, G_MAXUINT64, 18, 1, 20}, {0, 3, G_MAXUINT64, 3, 1, 5},
               {4, 100, 2500, 2, 5, 6},
               {0, 100, 1, 1, 1, 1},             {20, 10, 100, 0, 0, 0},      {0, 0, 100, 0, 0, 0}};
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GArray) out = g_array_new(FALSE, FALSE, sizeof(StoreMissing));
    g_assert_true(store_missing_bodies(store, space, cases[i].after, cases[i].limit, cases[i].bytes,
                                       out, &error));
    g_assert_cmpuint(out->len, ==, cases[i].count);
    if (out->len == 0)
      continue;
    g_assert_cmpuint(g_array_index(out, StoreMissing, 0).uid, ==, cases[i].first);
    g_assert_cmpuint(g_array_index(out, StoreMissing, out->len - 1).uid, ==, cases[i].last);
    g_assert_cmpuint(g_array_index(out, StoreMissing, 0).size, ==, 1000);
  }
  close_and_remove(&store, dir);
}

/* ---- eviction ---- */

static guint64 disk_of(const char *dir) {
  g_autofree char *command =
      g_strdup_printf("du -s --block-size=1 '%s/packs' '%s/bodies'", dir, dir);
  g_autofree char *out = NULL;
  char *argv[] = {(char *) "sh", (char *) "-c", command, NULL};
  g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, NULL, NULL,
                             NULL));
  g_auto(GStrv) lines = g_strsplit(out, "\n", -1);
  return g_ascii_strtoull(lines[0], NULL, 10) + g_ascii_strtoull(lines[1], NULL, 10);
}

static void evict_test(gboolean can_punch) {
  g_autoptr(GError) error = NULL;
  const guint64 limit = 8 << 20;
  char *dir = new_dir();
  Store *store = open_store(dir, limit);
  g_atomic_int_set(&store->can_punch, can_punch);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 2000, 10);
  g_autoptr(StoreBody) pinned = NULL;
  guint64 highest = 0;
  for (guint uid = 1; uid <= 1500; uid++) {
    gsize size = uid % 50 == 0 ? 300000 : 5000 + uid * 7;
    put_body(store, (MsgId){space, uid}, size, 0);
    if (uid == 10)
      pinned = store_body_get(store, (MsgId){space, 10}, &error);
    if (uid > 20) /* in use all the time: must never be evicted */
      g_assert_true(has_body(store, (MsgId){space, 20}, 5140, 0) || !can_punch);
    if (uid % 100 == 0)
      settle(store);
    StoreStats stats;
    g_assert_true(store_stats(store, &stats, &error));
    highest = MAX(highest, stats.body_bytes);
  }
  settle(store);
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.body_bytes, <=, limit);
  g_assert_cmpuint(stats.body_bytes, >, limit / 3);
  g_assert_cmpuint(disk_of(dir), <=, limit + limit / 8);
  g_assert_cmpuint(stats.bodies, >, 100);
  g_assert_true(body_matches(pinned, (MsgId){space, 10}, 0));
  g_assert_true(has_body(store, (MsgId){space, 1499}, 5000 + 1499 * 7, 0));
  if (can_punch)
    g_assert_false(has_body(store, (MsgId){space, 30}, 5210, 0));
  guint here = 0;
  for (guint uid = 1; uid <= 1500; uid++)
    here += has_body(store, (MsgId){space, uid}, uid % 50 == 0 ? 300000 : 5000 + uid * 7, 0);
  g_assert_cmpuint(here, ==, stats.bodies);
  g_clear_pointer(&pinned, store_body_unref);

  store_close(&store);
  store = open_store(dir, limit / 4); /* a smaller limit is kept to from the start */
  settle(store);
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.body_bytes, <=, limit / 4);

  g_assert_true(store_drop_bodies(store, &error));
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_cmpuint(stats.bodies, ==, 0);
  g_assert_cmpuint(stats.body_bytes, ==, 0);
  put_body(store, (MsgId){space, 1}, 10, 0);
  g_assert_true(has_body(store, (MsgId){space, 1}, 10, 0));
  g_autoptr(StoreBody) held = store_body_get(store, (MsgId){space, 1}, &error);
  put_body(store, (MsgId){space, 2}, 10, 0);
  g_assert_true(store_drop_bodies(store, &error));
  g_assert_true(has_body(store, (MsgId){space, 1}, 10, 0));
  g_assert_false(has_body(store, (MsgId){space, 2}, 10, 0));
  g_clear_pointer(&held, store_body_unref);
  close_and_remove(&store, dir);
}

static void test_evict(void) {
  evict_test(TRUE);
}

static void test_evict_no_holes(void) {
  evict_test(FALSE);
}

/* Rows are read many at a time; what was kept of them must not outlive a change. */
static void test_in_order(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 64 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 500, 10);
  for (guint uid = 2; uid <= 400; uid += 2) /* one of them a file of its own */
    put_body(store, (MsgId){space, uid}, uid == 100 ? 300000 : uid, 0);
  settle(store);
  for (guint uid = 1; uid <= 500; uid++)
    g_assert_cmpint(has_body(store, (MsgId){space, uid}, uid == 100 ? 300000 : uid, 0), ==,
                    uid % 2 == 0 && uid <= 400);

  MsgId id = {space, 0};
  for (guint uid = 2; uid <= 400; uid += 2) {
    g_autoptr(StoreBody) body = store_body_next(store, &id);
    g_assert_nonnull(body);
    g_assert_cmpuint(id.uid, ==, uid);
    g_assert_true(body_matches(body, id, 0));
  }
  g_assert_null(store_body_next(store, &id));
  id.uid = G_MAXUINT32;
  g_assert_null(store_body_next(store, &id));

  /* One that came, one that was replaced, one that went: each among rows that are kept. */
  g_assert_true(has_body(store, (MsgId){space, 10}, 10, 0));
  g_assert_true(has_body(store, (MsgId){space, 12}, 12, 0));
  put_body(store, (MsgId){space, 13}, 13, 0);
  put_body(store, (MsgId){space, 14}, 14, 1);
  settle(store);
  g_assert_true(has_body(store, (MsgId){space, 13}, 13, 0));
  g_assert_true(has_body(store, (MsgId){space, 14}, 14, 1));
  StoreBatch *batch = store_batch_new(store, space);
  g_assert_true(store_batch_remove(batch, 16, 16, NULL, NULL, &error));
  g_assert_true(store_batch_commit(&batch, 501, 0, 0, &error));
  g_assert_false(has_body(store, (MsgId){space, 16}, 16, 0));
  id.uid = 14;
  g_autoptr(StoreBody) next = store_body_next(store, &id);
  g_assert_cmpuint(id.uid, ==, 18);
  g_clear_pointer(&next, store_body_unref);
  close_and_remove(&store, dir);
}

/* The keeper does it alone, in the background. */
static void test_keeper(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 2 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 400, 10);
  for (guint uid = 1; uid <= 400; uid++)
    put_body(store, (MsgId){space, uid}, 20000, 0);
  StoreBatch *batch = store_batch_new(store, space);
  StoreMessage message = {.uid = 500, .name = "x.500.eml", .keywords = ""};
  g_assert_true(store_batch_put(batch, &message, NULL, &error));
  gint64 deadline = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;
  StoreStats stats = {0};
  g_autoptr(StoreMessage) seen = NULL;
  do {
    g_usleep(20000);
    g_assert_true(store_stats(store, &stats, &error));
    if (!seen)
      seen = store_message_get(store, (MsgId){space, 500}, NULL);
  } while ((stats.body_bytes > 2 << 20 || !seen) && g_get_monotonic_time() < deadline);
  g_assert_cmpuint(stats.body_bytes, <=, 2 << 20);
  g_assert_nonnull(seen); /* an open batch was committed for the readers */
  store_batch_abort(&batch);
  close_and_remove(&store, dir);
}

static void test_facts(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  g_assert_null(store_fact_get(store, "quota"));
  g_assert_true(store_fact_set(store, "quota", "1", &error));
  g_assert_true(store_fact_set(store, "quota", "2", &error));
  store_close(&store);
  store = open_store(dir, 1 << 20);
  g_autofree char *value = store_fact_get(store, "quota");
  g_assert_cmpstr(value, ==, "2");
  StoreStats stats;
  g_assert_true(store_stats(store, &stats, &error));
  g_assert_true(stats.folders == 0 && stats.messages == 0 && stats.limit == 1 << 20);
  close_and_remove(&store, dir);
}

/* A body that is still held when the store closes stays readable. */
static void test_outlive(void) {
  g_autoptr(GError) error = NULL;
  char *dir = new_dir();
  Store *store = open_store(dir, 1 << 20);
  guint32 space = make_inbox(store, NULL);
  put_messages(store, space, 1, 2, 10);
  put_body(store, (MsgId){space, 1}, 10, 0);
  put_body(store, (MsgId){space, 2}, 1000000, 0);
  StoreBody *small = store_body_get(store, (MsgId){space, 1}, &error);
  StoreBody *large = store_body_get(store, (MsgId){space, 2}, &error);
  store_close(&store);
  g_assert_true(body_matches(small, (MsgId){space, 1}, 0));
  g_assert_true(body_matches(large, (MsgId){space, 2}, 0));
  store_body_unref(small);
  store_body_unref(large);
  dir_remove_tree(dir);
  g_free(dir);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/store/folders", test_folders);
  g_test_add_func("/store/folder-names", test_folder_names);
  g_test_add_func("/store/folder-state", test_folder_state);
  g_test_add_func("/store/messages", test_messages);
  g_test_add_func("/store/remove", test_remove);
  g_test_add_func("/store/bodies", test_bodies);
  g_test_add_func("/store/partial", test_partial);
  g_test_add_func("/store/missing", test_missing);
  g_test_add_func("/store/evict", test_evict);
  g_test_add_func("/store/evict-no-holes", test_evict_no_holes);
  g_test_add_func("/store/in-order", test_in_order);
  g_test_add_func("/store/keeper", test_keeper);
  g_test_add_func("/store/facts", test_facts);
  g_test_add_func("/store/outlive", test_outlive);
  return g_test_run();
}
