/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is promised is done on the server: in few commands, once, and never twice or not at all when
 * connections end. Against a model of a server and of the journal (model.h), and scripts for what
 * that does not do. One long file, for it is mostly tables, and all run over the same few functions.
 */
#include <string.h>

#include "base/err.h"
#include "model.h"

#define UIDPLUS "UIDPLUS LITERAL+"
#define MULTIAPPEND "LITERAL+ MULTIAPPEND"

/* ---- what is sent, and what comes of it ---- */

static void add_moves(Model *model) {
  model_change(model, CHANGE_MOVE, 7, 0);
  model_change(model, CHANGE_MOVE, 4, 0);
  model_change(model, CHANGE_MOVE, 5, 0);
}

static void add_copies(Model *model) {
  model_change(model, CHANGE_COPY, 5, 0);
  model_change(model, CHANGE_COPY, 3, 0);
  model_change(model, CHANGE_COPY, 5, 0); /* two copies of one */
}

static void add_uploads(Model *model) {
  model_change(model, CHANGE_UPLOAD, 0, 'x');
  model_change(model, CHANGE_UPLOAD, 0, 'b'); /* others are like it */
  model_change(model, CHANGE_UPLOAD, 0, 'x');
}

static void add_upload(Model *model) {
  model_change(model, CHANGE_UPLOAD, 0, 'x');
}

static void add_edits(Model *model) {
  model_change(model, CHANGE_UPLOAD, 4, 'x');
  model_change(model, CHANGE_UPLOAD, 5, 'b'); /* as it was */
  for (guint i = 0; i < model->rows->len; i++) {
    Change *row = model->rows->pdata[i];
    row->target = row->mailbox;
    row->target_uidvalidity = 100;
    row->target_uidnext = 8;
  }
}

/* The same, with nothing known about the target. */
static void add_blind_edits(Model *model) {
  add_edits(model);
  for (guint i = 0; i < model->rows->len; i++) {
    Change *row = model->rows->pdata[i];
    row->target_uidvalidity = row->target_uidnext = 0;
  }
}

static void add_edit_elsewhere(Model *model) {
  model_change(model, CHANGE_UPLOAD, 4, 'x');
}

static void add_expunges(Model *model) {
  model_change(model, CHANGE_EXPUNGE, 3, 0);
  model_change(model, CHANGE_EXPUNGE, 4, 0);
  model_change(model, CHANGE_EXPUNGE, 7, 0);
}

static void add_flags(Model *model) {
  static const guint32 uids[] = {3, 5, 9}; /* there is no 9 */
  for (gsize i = 0; i < G_N_ELEMENTS(uids); i++) {
    Change *row = model_change(model, CHANGE_FLAGS, uids[i], 0);
    row->add = MSG_FLAG_SEEN;
    row->remove = MSG_FLAG_FLAGGED;
    row->add_keywords = (char *) "$x  y";
  }
}

#define ONE " (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+}"
#define APPEND_X "APPEND Target" ONE

/* What is done without an accident; which of these must come to the same with any. */
static const struct {
  const char *name, *caps;
  void (*add)(Model *model);
  const char *commands, *settled;
  const char *inbox, *target; /* in the end */
} cases[] = {
    {"move", "UIDPLUS MOVE", add_moves, "SELECT INBOX;UID MOVE 4:5,7 Target;",
     "2:done 3:done 1:done", "a", "b b b b c"},
    {"move-untold", "MOVE", add_moves,
     "SELECT INBOX;UID MOVE 4:5,7 Target;SELECT Target;"
     "UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);",
     "2:done 3:done 1:done", "a", "b b b b c"},
    {"move-by-copy", "UIDPLUS", add_moves,
     "SELECT INBOX;UID COPY 4:5,7 Target;UID STORE 4:5,7 +FLAGS.SILENT (\\Deleted);"
     "UID EXPUNGE 4:5,7;",
     "2:done 3:done 1:done", "a", "b b b b c"},
    {"copy", "UIDPLUS", add_copies, "SELECT INBOX;UID COPY 3,5 Target;UID COPY 5 Target;",
     "2:done 1:done 3:done", "a b b c", "a b b b b"},
    {"copy-untold", "", add_copies,
     "SELECT INBOX;UID COPY 3,5 Target;UID COPY 5 Target;SELECT Target;"
     "UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);",
     "2:done 1:done 3:done", "a b b c", "a b b b b"},
    {"upload", UIDPLUS, add_uploads, APPEND_X ";" APPEND_X ";" APPEND_X ";",
     "1:done 2:done 3:done", "a b b c", "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-untold", "LITERAL+", add_uploads,
     APPEND_X ";" APPEND_X ";" APPEND_X ";SELECT Target;UID FETCH 20:* (UID RFC822.SIZE);"
     "UID FETCH 21 (UID BODY.PEEK[]);UID FETCH 22 (UID BODY.PEEK[]);"
     "UID FETCH 23 (UID BODY.PEEK[]);",
     "1:done 2:done 3:done", "a b b c", "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-asked", "UIDPLUS", add_uploads, NULL, "1:done 2:done 3:done", "a b b c",
     "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-many", "UIDPLUS " MULTIAPPEND, add_uploads, APPEND_X ONE ONE ";",
     "1:done 2:done 3:done", "a b b c", "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-many-untold", MULTIAPPEND, add_uploads,
     APPEND_X ONE ONE ";SELECT Target;UID FETCH 20:* (UID RFC822.SIZE);"
     "UID FETCH 21 (UID BODY.PEEK[]);UID FETCH 22 (UID BODY.PEEK[]);"
     "UID FETCH 23 (UID BODY.PEEK[]);",
     "1:done 2:done 3:done", "a b b c", "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-many-asked", "UIDPLUS MULTIAPPEND LITERAL-", add_uploads,
     APPEND_X ";" APPEND_X ";" APPEND_X ";", "1:done 2:done 3:done", "a b b c",
     "b b b(\\Seen) x(\\Seen) x(\\Seen)"},
    {"upload-one", "UIDPLUS " MULTIAPPEND, add_upload, APPEND_X ";", "1:done", "a b b c",
     "b b x(\\Seen)"},
    {"edit-many", "UIDPLUS " MULTIAPPEND, add_edits,
     "APPEND INBOX" ONE ";APPEND INBOX" ONE ";"
     "SELECT INBOX;UID FETCH 4:5 (UID);UID STORE 4:5 +FLAGS.SILENT (\\Deleted);"
     "UID EXPUNGE 4:5;",
     "1:done 2:done", "a b(\\Seen) c x(\\Seen)", "b b"},
    {"replace", UIDPLUS " REPLACE", add_edits,
     "SELECT INBOX;"
     "UID REPLACE 4 INBOX (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+};"
     "UID REPLACE 5 INBOX (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+};",
     "1:done 2:done", "a b(\\Seen) c x(\\Seen)", "b b"},
    {"replace-untold", "REPLACE LITERAL+", add_edits, NULL, "1:done 2:done",
     "a b(\\Seen) c x(\\Seen)", "b b"},
    {"replace-blind", UIDPLUS " REPLACE", add_blind_edits, NULL, "1:done 2:done",
     "a b(\\Seen) c x(\\Seen)", "b b"},
    {"edit", UIDPLUS, add_edits,
     "APPEND INBOX (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+};"
     "APPEND INBOX (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+};"
     "SELECT INBOX;UID FETCH 4:5 (UID);UID STORE 4:5 +FLAGS.SILENT (\\Deleted);"
     "UID EXPUNGE 4:5;",
     "1:done 2:done", "a b(\\Seen) c x(\\Seen)", "b b"},
    {"edit-blind", UIDPLUS, add_blind_edits, NULL, "1:done 2:done", "a b(\\Seen) c x(\\Seen)",
     "b b"},
    {"edit-untold", "LITERAL+", add_edits, NULL, "1:done 2:done",
     "a b(\\Deleted) b(\\Deleted) b(\\Seen) c x(\\Seen)", "b b"},
    {"edit-elsewhere", UIDPLUS " REPLACE", add_edit_elsewhere,
     APPEND_X ";SELECT INBOX;UID FETCH 4 (UID);UID STORE 4 +FLAGS.SILENT (\\Deleted);"
     "UID EXPUNGE 4;",
     "1:done", "a b c", "b b x(\\Seen)"},
    {"expunge", "UIDPLUS", add_expunges,
     "SELECT INBOX;UID STORE 3:4,7 +FLAGS.SILENT (\\Deleted);UID EXPUNGE 3:4,7;",
     "1:done 2:done 3:done", "b", "b b"},
    {"flags", "", add_flags,
     "SELECT INBOX;UID STORE 3,5,9 +FLAGS (\\Seen $x y);UID STORE 3,5,9 -FLAGS (\\Flagged);",
     "[3=1 $x y] [5=1 $x y] [3=1 $x y] [5=1 $x y] 1:done 2:done 3:done",
     "a(\\Seen $x y) b b(\\Seen $x y) c", "b b"},
};

static void check_end(Model *model, gsize i) {
  g_autofree char *inbox = model_letters(&model->boxes[0]);
  g_autofree char *target = model_letters(&model->boxes[1]);
  g_assert_cmpuint(model->rows->len, ==, 0);
  g_assert_null(strstr(model->settled->str, "refused"));
  g_assert_cmpstr(inbox, ==, cases[i].inbox);
  g_assert_cmpstr(target, ==, cases[i].target);
}

static void test_done(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    Model *model = model_new(cases[i].caps);
    g_test_message("%s", cases[i].name);
    cases[i].add(model);
    model_run(model, &error);
    g_assert_no_error(error);
    if (cases[i].commands)
      g_assert_cmpstr(model->commands->str, ==, cases[i].commands);
    g_assert_cmpstr(model->settled->str, ==, cases[i].settled);
    check_end(model, i);
    model_free(model);
  }
}

/* Runs case @i, which is cut off at command @first and then again @second commands later. FALSE:
 * it has no command @first. */
static gboolean run_cut(gsize i, guint first, ModelCut how, guint second, ModelCut how_then) {
  g_autoptr(GError) error = NULL;
  Model *model = model_new(cases[i].caps);
  cases[i].add(model);
  model->cut = first;
  model->how = how;
  gboolean ok = model_run(model, &error);
  if (!ok) {
    g_assert_error(error, EML_ERROR, EML_ERROR_OFFLINE);
    g_clear_error(&error);
    model->cut = second ? model->step + second : 0;
    model->how = how_then;
    for (guint runs = 0; runs < 2 && !model_run(model, &error); runs++)
      g_clear_error(&error);
    g_assert_no_error(error);
  }
  g_test_message("%s, cut at %u (%d) and %u (%d): %s settled %s", cases[i].name, first, how, second,
                 how_then, model->commands->str, model->settled->str);
  check_end(model, i);
  model_free(model);
  return !ok;
}

static void test_cut_off(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
    for (ModelCut how = CUT_BEFORE; how <= CUT_AFTER; how++)
      for (guint first = 1; run_cut(i, first, how, 0, CUT_BEFORE); first++)
        g_assert_cmpuint(first, <, 50);
}

static void test_cut_off_twice(void) {
  static const ModelCut pairs[][2] = {{CUT_AFTER, CUT_AFTER}, {CUT_HALF, CUT_AFTER},
                                      {CUT_AFTER, CUT_BEFORE}};
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
    for (gsize pair = 0; pair < G_N_ELEMENTS(pairs); pair++)
      for (guint first = 1; first <= 6; first++)
        for (guint second = 1; second <= 6; second++)
          if (!run_cut(i, first, pairs[pair][0], second, pairs[pair][1]))
            break;
}

/* ---- the journal fails ---- */

static void test_journal_fails(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++)
    for (guint broken = 1;; broken++) {
      g_autoptr(GError) error = NULL;
      Model *model = model_new(cases[i].caps);
      cases[i].add(model);
      model->broken = broken;
      gboolean ok = model_run(model, &error);
      if (!ok) {
        g_assert_error(error, EML_ERROR, EML_ERROR_NO_SPACE);
        g_clear_error(&error);
        model_run(model, &error);
        g_assert_no_error(error);
      }
      g_test_message("%s, journal fails at %u: %s", cases[i].name, broken, model->commands->str);
      check_end(model, i);
      model_free(model);
      if (ok)
        break;
    }
}

/* ---- what is refused, gone, given up ---- */

static void refuse_five(Model *model) {
  model->refused = 5;
}

static void lose_four(Model *model) {
  g_ptr_array_remove_index(model->boxes[0].mails, 1);
}

static void renew_inbox(Model *model) {
  model->boxes[0].uidvalidity = 101;
}

static void delete_inbox(Model *model) {
  model->boxes[0].name = "Other";
}

static void delete_target(Model *model) {
  model->boxes[1].name = "Other";
}

static void abandon(Model *model) {
  for (guint i = 0; i < model->rows->len; i++)
    ((Change *) model->rows->pdata[i])->abandoned = TRUE;
}

/* Sent, but never carried out. */
static void abandon_sent(Model *model) {
  abandon(model);
  for (guint i = 0; i < model->rows->len; i++)
    ((Change *) model->rows->pdata[i])->stage = CHANGE_SENT;
}

/* Sent, and the second was carried out. */
static void abandon_half(Model *model) {
  abandon_sent(model);
  lose_four(model);
}

/* Sent, and the first was carried out: flags of 3. */
static void abandon_flags(Model *model) {
  abandon_sent(model);
  char **flags = &((ModelMail *) model->boxes[0].mails->pdata[0])->flags;
  g_free(*flags);
  *flags = g_strdup("\\Seen Y $X");
}

/* Copied, but not removed, when it was given up. */
static void abandon_arrived(Model *model) {
  abandon_sent(model);
  Change *row = model->rows->pdata[1];
  row->stage = CHANGE_ARRIVED;
  row->arrived = model->boxes[1].uidnext++;
  ModelMail *copy = g_memdup2(model->boxes[0].mails->pdata[1], sizeof *copy);
  copy->uid = row->arrived;
  copy->octets = g_strdup(copy->octets);
  copy->date = g_strdup(copy->date);
  copy->flags = g_strdup(copy->flags);
  g_ptr_array_add(model->boxes[1].mails, copy);
}

static void redate(Model *model) {
  model->redates = TRUE;
}

static void overfill(Model *model) {
  model->too_much = g_hash_table_lookup(model->locals, GUINT_TO_POINTER(2));
  model_change(model, CHANGE_UPLOAD, 0, 'z');
}

/* All of them, but the server finds out at the first. */
static void overfill_all(Model *model) {
  overfill(model);
  model->too_much = g_hash_table_lookup(model->locals, GUINT_TO_POINTER(1));
}

static void spoil(Model *model) {
  model->nasty = g_hash_table_lookup(model->locals, GUINT_TO_POINTER(2));
}

static void lose_local(Model *model) {
  g_hash_table_remove(model->locals, GUINT_TO_POINTER(1));
  g_hash_table_insert(model->locals, GUINT_TO_POINTER(2), g_strdup("A: b\r\n"));
}

static const struct {
  const char *name, *caps;
  void (*add)(Model *model);
  void (*befall)(Model *model);
  const char *commands, *settled, *inbox, *target;
} accidents[] = {
    {"one is refused to move", "UIDPLUS MOVE", add_moves, refuse_five,
     "SELECT INBOX;UID MOVE 4:5,7 Target;UID FETCH 5 (UID);", "2:done 1:done 3:refused(7)", "3a 5b",
     "10b 20b 21b 22c"},
    {"the same, untold", "MOVE", add_moves, refuse_five,
     "SELECT INBOX;UID MOVE 4:5,7 Target;UID FETCH 4:5,7 (UID);SELECT Target;"
     "UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);",
     "3:refused(7) 2:done 1:done", "3a 5b", "10b 20b 21b 22c"},
    {"one is refused to move by copy", "UIDPLUS", add_moves, refuse_five,
     "SELECT INBOX;UID COPY 4:5,7 Target;", "2:refused(7) 3:refused(7) 1:refused(7)", "3a 4b 5b 7c",
     "10b 20b"},
    {"no MOVE, no UIDPLUS", "", add_moves, NULL, "SELECT INBOX;",
     "1:refused(7) 2:refused(7) 3:refused(7)", "3a 4b 5b 7c", "10b 20b"},
    {"one is gone", "UIDPLUS MOVE", add_moves, lose_four, NULL, "3:done 1:done 2:gone", "3a",
     "10b 20b 21b 22c"},
    {"one is gone, by copy", "UIDPLUS", add_moves, lose_four, NULL, "2:gone 3:done 1:done", "3a",
     "10b 20b 21b 22c"},
    {"moved to nowhere", "UIDPLUS MOVE", add_moves, delete_target, NULL,
     "2:refused(8) 3:refused(8) 1:refused(8)", "3a 4b 5b 7c", "10b 20b"},
    {"moved from nowhere", "UIDPLUS MOVE", add_moves, delete_inbox, "SELECT INBOX;",
     "1:gone 2:gone 3:gone", "3a 4b 5b 7c", "10b 20b"},
    {"moved from another INBOX", "UIDPLUS MOVE", add_moves, renew_inbox, "SELECT INBOX;",
     "1:gone 2:gone 3:gone", "3a 4b 5b 7c", "10b 20b"},
    {"moves are given up", "UIDPLUS MOVE", add_moves, abandon, "",
     "1:refused(3) 2:refused(3) 3:refused(3)", "3a 4b 5b 7c", "10b 20b"},
    {"sent moves are given up", "UIDPLUS MOVE", add_moves, abandon_half,
     "SELECT INBOX;UID FETCH 4:5,7 (UID);SELECT Target;"
     "UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);",
     "2:done 1:refused(3) 3:refused(3)", "3a 5b 7c", "10b 20b"},
    {"a half done move is given up", "UIDPLUS", add_moves, abandon_arrived,
     "SELECT INBOX;UID FETCH 5,7 (UID);SELECT Target;"
     "UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);SELECT INBOX;"
     "UID STORE 4 +FLAGS.SILENT (\\Deleted);UID EXPUNGE 4;",
     "1:refused(3) 3:refused(3) 2:done", "3a 5b 7c", "10b 20b 21b"},
    {"copies are not to be found", "", add_copies, redate, NULL, "2:done 1:done 3:done",
     "3a 4b 5b 7c", "10b 20b 21a 22b 23b"},
    {"moved ones are not to be found", "MOVE", add_moves, redate, NULL, "2:done 3:done 1:done", "3a",
     "10b 20b 21b 22b 23c"},
    {"one is refused to copy", "UIDPLUS", add_copies, refuse_five,
     "SELECT INBOX;UID COPY 3,5 Target;UID COPY 5 Target;",
     "2:refused(7) 1:refused(7) 3:refused(7)", "3a 4b 5b 7c", "10b 20b"},
    {"sent copies are given up", "UIDPLUS", add_copies, abandon_sent,
     "SELECT Target;UID FETCH 20:* (UID RFC822.SIZE INTERNALDATE);",
     "1:refused(3) 2:refused(3) 3:refused(3)", "3a 4b 5b 7c", "10b 20b"},
    {"copied from another INBOX", "UIDPLUS", add_copies, renew_inbox, "SELECT INBOX;",
     "1:gone 2:gone 3:gone", "3a 4b 5b 7c", "10b 20b"},
    {"expunging without UIDPLUS", "", add_expunges, NULL, "",
     "1:refused(7) 2:refused(7) 3:refused(7)", "3a 4b 5b 7c", "10b 20b"},
    {"sent expunges are given up", "UIDPLUS", add_expunges, abandon_half,
     "SELECT INBOX;UID FETCH 3:4,7 (UID);", "2:done 1:refused(3) 3:refused(3)", "3a 5b 7c",
     "10b 20b"},
    {"sent flags are given up", "", add_flags, abandon_flags,
     "SELECT INBOX;UID FETCH 3,5,9 (UID FLAGS);",
     "[3=1 Y $X] [5=0 ] 1:done 2:refused(3) 3:gone", "3a(\\Seen Y $X) 4b 5b 7c", "10b 20b"},
    {"flags are refused", "", add_flags, refuse_five, NULL,
     "[3=1 $x y] [3=1 $x y] 1:refused(7) 2:refused(7) 3:refused(7)", "3a(\\Seen $x y) 4b 5b 7c",
     "10b 20b"},
    {"uploads are given up", UIDPLUS, add_uploads, abandon, "",
     "1:refused(3) 2:refused(3) 3:refused(3)", "3a 4b 5b 7c", "10b 20b"},
    {"sent uploads are given up", UIDPLUS, add_uploads, abandon_sent,
     "SELECT Target;UID FETCH 20:* (UID RFC822.SIZE);", "1:refused(3) 2:refused(3) 3:refused(3)",
     "3a 4b 5b 7c", "10b 20b"},
    {"uploads to nowhere", UIDPLUS, add_uploads, delete_target, NULL,
     "1:refused(8) 2:refused(8) 3:refused(8)", "3a 4b 5b 7c", "10b 20b"},
    {"one upload is over quota", "UIDPLUS", add_uploads, overfill, NULL,
     "1:done 2:refused(17) 4:refused(17) 3:done", "3a 4b 5b 7c",
     "10b 20b 21x(\\Seen) 22x(\\Seen)"},
    {"files are gone or short", UIDPLUS, add_uploads, lose_local, NULL,
     "1:refused(0) 2:refused(0) 3:done", "3a 4b 5b 7c", "10b 20b 21x(\\Seen)"},
    {"many are over quota", "UIDPLUS " MULTIAPPEND, add_uploads, overfill_all,
     APPEND_X ONE ONE ONE ";" APPEND_X ";",
     "1:refused(17) 2:refused(17) 3:refused(17) 4:refused(17)", "3a 4b 5b 7c", "10b 20b"},
    {"one of many is refused", "UIDPLUS " MULTIAPPEND, add_uploads, spoil,
     APPEND_X ONE ONE ";" APPEND_X ";" APPEND_X ";" APPEND_X ";", "1:done 2:refused(7) 3:done",
     "3a 4b 5b 7c", "10b 20b 21x(\\Seen) 22x(\\Seen)"},
    {"many to nowhere", "UIDPLUS " MULTIAPPEND, add_uploads, delete_target, NULL,
     "1:refused(8) 2:refused(8) 3:refused(8)", "3a 4b 5b 7c", "10b 20b"},
    {"files of many are gone or short", "UIDPLUS " MULTIAPPEND, add_uploads, lose_local,
     APPEND_X ";", "1:refused(0) 2:refused(0) 3:done", "3a 4b 5b 7c", "10b 20b 21x(\\Seen)"},
    {"sent ones of many are given up", "UIDPLUS " MULTIAPPEND, add_uploads, abandon_sent,
     "SELECT Target;UID FETCH 20:* (UID RFC822.SIZE);", "1:refused(3) 2:refused(3) 3:refused(3)",
     "3a 4b 5b 7c", "10b 20b"},
    {"the replaced one is gone", UIDPLUS, add_edits, lose_four, NULL, "1:gone 2:done",
     "3a 7c 8x(\\Seen) 9b(\\Seen)", "10b 20b"},
    {"it is gone, by REPLACE", UIDPLUS " REPLACE", add_edits, lose_four, NULL, "2:done 1:gone",
     "3a 7c 8x(\\Seen) 9b(\\Seen)", "10b 20b"},
    {"it was of another INBOX", UIDPLUS " REPLACE", add_edit_elsewhere, renew_inbox, NULL, "1:gone",
     "3a 4b 5b 7c", "10b 20b 21x(\\Seen)"},
    {"INBOX is gone", UIDPLUS " REPLACE", add_edit_elsewhere, delete_inbox, NULL, "1:gone",
     "3a 4b 5b 7c", "10b 20b 21x(\\Seen)"},
};

static void test_accidents(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(accidents); i++) {
    g_autoptr(GError) error = NULL;
    Model *model = model_new(accidents[i].caps);
    g_test_message("%s", accidents[i].name);
    accidents[i].add(model);
    if (accidents[i].befall)
      accidents[i].befall(model);
    model_run(model, &error);
    g_assert_no_error(error);
    g_autofree char *inbox = model_text(&model->boxes[0]);
    g_autofree char *target = model_text(&model->boxes[1]);
    if (accidents[i].commands)
      g_assert_cmpstr(model->commands->str, ==, accidents[i].commands);
    g_assert_cmpstr(model->settled->str, ==, accidents[i].settled);
    g_assert_cmpstr(inbox, ==, accidents[i].inbox);
    g_assert_cmpstr(target, ==, accidents[i].target);
    g_assert_cmpuint(model->rows->len, ==, 0);
    model_free(model);
  }
}

/* A copy that was made and cannot be found is not made again. */
static void test_lost_copies(void) {
  g_autoptr(GError) error = NULL;
  Model *model = model_new("");
  add_copies(model);
  model->redates = TRUE;
  model->cut = 4; /* where they are looked for */
  g_assert_false(model_run(model, &error));
  g_clear_error(&error);
  g_assert_true(model_run(model, &error));
  g_autofree char *target = model_text(&model->boxes[1]);
  g_assert_cmpstr(target, ==, "10b 20b 21a 22b 23b");
  g_assert_cmpstr(model->settled->str, ==, "1:done 2:done 3:done");
  model_free(model);
}

/* ---- many ---- */

/* A set that one command cannot name. */
static void test_many_flags(void) {
  g_autoptr(GError) error = NULL;
  Model *model = model_new("");
  for (guint32 i = 0; i < 3000; i++)
    model_change(model, CHANGE_FLAGS, 100001 + 2 * i, 0)->add = MSG_FLAG_SEEN;
  model_run(model, &error);
  g_assert_no_error(error);
  g_auto(GStrv) commands = g_strsplit(model->commands->str, ";", -1);
  g_assert_cmpuint(g_strv_length(commands), ==, 5); /* SELECT, three STOREs, and nothing */
  for (guint i = 1; i <= 3; i++)
    g_assert_cmpuint(strlen(commands[i]), <, 8100);
  g_assert_true(g_str_has_prefix(commands[2] + strlen("UID STORE "), "10"));
  g_assert_cmpuint(model->rows->len, ==, 0);
  model_free(model);
}

static guint count_sent(Model *model) {
  guint count = 0;
  g_mutex_lock(&model->lock);
  for (guint i = 0; i < model->rows->len; i++)
    count += ((Change *) model->rows->pdata[i])->stage == CHANGE_SENT;
  g_mutex_unlock(&model->lock);
  return count;
}

/* Answers nothing before it has so many. */
static void answers_late(Peer *peer) {
  Model *model = peer_data(peer);
  peer_let_in(peer, UIDPLUS);
  g_autoptr(GString) answers = g_string_new(NULL);
  for (guint i = 0; i < 64; i++) {
    peer_expect(peer, "A* " APPEND_X);
    g_assert_true(peer_skip(peer, 13));
    g_assert_cmpuint(count_sent(model), ==, 64);
    g_string_append_printf(answers, i == 3 ? "A%u NO [LIMIT] too big\r\n"
                                           : "A%u OK [APPENDUID 200 %u] x\r\n",
                           i + 2, i + 100);
  }
  peer_send(peer, answers->str);
  for (guint i = 64; i < 70; i++) {
    peer_expect(peer, "A* " APPEND_X);
    g_assert_true(peer_skip(peer, 13));
  }
  g_string_truncate(answers, 0);
  for (guint i = 64; i < 70; i++)
    g_string_append_printf(answers, "A%u OK [APPENDUID 200 %u] x\r\n", i + 2, i + 100);
  peer_send(peer, answers->str);
  peer_hang(peer);
}

/* Runs what @model has against @script, which does not know the model's mailboxes. */
static gboolean run_script(Model *model, PeerScript script, const ChangeHooks *hooks,
                           GError **error) {
  g_autoptr(GPtrArray) changes = g_ptr_array_new_with_free_func(g_free);
  for (guint i = 0; i < model->rows->len; i++)
    g_ptr_array_add(changes, g_memdup2(model->rows->pdata[i], sizeof(Change)));
  Peer *peer = peer_start(script, 1, TRUE, CERT_GOOD, model);
  ImapSession *session = peer_session_ok(peer);
  gboolean ok = sync_changes(model, session, changes, hooks, error);
  imap_session_close(&session);
  peer_stop(peer);
  return ok;
}

/* What became of them, and how far it went. */
typedef struct {
  GString *settled;
  guint64 done, total;
} Seen;

static void see_settled(Change *change, const ChangeResult *result, gpointer data) {
  g_string_append_printf(((Seen *) data)->settled, "%u:%d@%u ", change->id, result->outcome,
                         result->uid);
}

static void see_progress(guint64 done, guint64 total, gpointer data) {
  Seen *seen = data;
  g_assert_cmpuint(done, >=, seen->done);
  g_assert_cmpuint(done, <=, total);
  seen->done = done;
  seen->total = total;
}

static void test_pipelined(void) {
  g_autoptr(GError) error = NULL;
  Seen seen = {.settled = g_string_new(NULL)};
  ChangeHooks hooks = {see_settled, NULL, see_progress, &seen};
  Model *model = model_new("");
  for (guint i = 0; i < 70; i++)
    model_change(model, CHANGE_UPLOAD, 0, 'x');
  g_assert_true(run_script(model, answers_late, &hooks, &error));
  g_assert_no_error(error);
  g_autoptr(GString) wanted = g_string_new(NULL);
  for (guint i = 0; i < 70; i++)
    g_string_append_printf(wanted, "%u:%d@%u ", i + 1, i == 3, i == 3 ? 0 : i + 100);
  g_assert_cmpstr(seen.settled->str, ==, wanted->str);
  g_assert_cmpuint(seen.done, ==, 70 * 11);
  g_assert_cmpuint(seen.total, ==, 70 * 11);
  g_string_free(seen.settled, TRUE);
  model_free(model);
}

/* Reads an APPEND of @count messages and returns its number. */
static guint expect_batch(Peer *peer, guint count) {
  const char *line = peer_expect(peer, "A* " APPEND_X);
  guint tag = (guint) g_ascii_strtoull(line + 1, NULL, 10);
  for (guint i = 1; i < count; i++) {
    g_assert_true(peer_skip(peer, 11));
    peer_expect(peer, ONE);
  }
  g_assert_true(peer_skip(peer, 11));
  peer_expect(peer, "");
  return tag;
}

/* Answers nothing before three batches are there; takes the last one in pieces only. */
static void takes_batches(Peer *peer) {
  Model *model = peer_data(peer);
  peer_let_in(peer, "UIDPLUS " MULTIAPPEND);
  guint first = expect_batch(peer, 100);
  expect_batch(peer, 100);
  expect_batch(peer, 100);
  g_assert_cmpuint(count_sent(model), ==, 300);
  g_autofree char *answers = g_strdup_printf(
      "A%u OK [APPENDUID 200 100:199] x\r\nA%u OK [APPENDUID 200 200,201:250,300:348] x\r\n"
      "A%u OK [APPENDUID 200 400:499] x\r\n", first, first + 1, first + 2);
  peer_send(peer, answers);
  guint last = expect_batch(peer, 5);
  g_autofree char *refusal = g_strdup_printf("A%u NO I have seen enough\r\n", last);
  peer_send(peer, refusal);
  for (guint i = 0; i < 5; i++) {
    guint tag = expect_batch(peer, 1);
    g_autofree char *answer = g_strdup_printf("A%u OK [APPENDUID 200 %u] x\r\n", tag, 500 + i);
    peer_send(peer, answer);
  }
  peer_hang(peer);
}

static void test_batches(void) {
  g_autoptr(GError) error = NULL;
  Seen seen = {.settled = g_string_new(NULL)};
  ChangeHooks hooks = {see_settled, NULL, see_progress, &seen};
  Model *model = model_new("");
  for (guint i = 0; i < 305; i++)
    model_change(model, CHANGE_UPLOAD, 0, 'x');
  g_assert_true(run_script(model, takes_batches, &hooks, &error));
  g_assert_no_error(error);
  g_autoptr(GString) wanted = g_string_new(NULL);
  for (guint i = 0; i < 305; i++)
    g_string_append_printf(wanted, "%u:0@%u ", i + 1,
                           i < 151 ? i + 100 : i < 200 ? i + 149 : i + 200);
  g_assert_cmpstr(seen.settled->str, ==, wanted->str);
  g_assert_cmpuint(seen.done, ==, 310 * 11); /* five went twice */
  g_assert_cmpuint(seen.total, ==, 310 * 11);
  g_string_free(seen.settled, TRUE);
  model_free(model);
}

#define LARGE (1024 * 1024)

/* Sizes that do not go together: 1 | 2 3 | 4 too large | 5 | 6 empty | 7 8 */
static const gsize sizes[] = {LARGE, LARGE, LARGE - 1, LARGE + 1, 3, 0, 1, 2};

static void takes_sizes(Peer *peer) {
  static const guint batches[] = {2, 1, 1, 1, 1, 2};
  peer_let_in(peer, "UIDPLUS " MULTIAPPEND);
  gsize at = 0;
  for (gsize i = 0; i < G_N_ELEMENTS(batches); i++) {
    for (guint j = 0; j < batches[i]; j++, at++) {
      g_autofree char *wanted = g_strdup_printf("%s * {%" G_GSIZE_FORMAT "%s}",
                                                j ? "" : "A* APPEND Target", sizes[at],
                                                batches[i] == 1 && sizes[at] >= LARGE ? "" : "+");
      peer_expect(peer, wanted);
      if (!strchr(wanted, '+'))
        peer_send(peer, "+ go\r\n");
      g_assert_true(peer_skip(peer, sizes[at]));
    }
    peer_expect(peer, "");
    g_autofree char *answer = g_strdup_printf(
        "A%" G_GSIZE_FORMAT "%s\r\n", i + 2,
        batches[i] == 1 ? " NO [LIMIT] x" : i ? " OK [APPENDUID 200 32,40] x"
                                              : " OK [APPENDUID 200 30:31] x");
    peer_send(peer, answer);
  }
  peer_hang(peer);
}

static void test_batch_sizes(void) {
  g_autoptr(GError) error = NULL;
  Seen seen = {.settled = g_string_new(NULL)};
  ChangeHooks hooks = {see_settled, NULL, NULL, &seen};
  Model *model = model_new("");
  for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
    Change *change = model_change(model, CHANGE_UPLOAD, 0, 'x');
    change->size = sizes[i];
    g_hash_table_insert(model->locals, GUINT_TO_POINTER(change->id), g_strnfill(sizes[i], 'x'));
  }
  g_assert_true(run_script(model, takes_sizes, &hooks, &error));
  g_assert_no_error(error);
  g_assert_cmpstr(seen.settled->str, ==,
                  "1:0@30 2:0@31 3:1@0 4:1@0 5:1@0 6:1@0 7:0@32 8:0@40 ");
  g_string_free(seen.settled, TRUE);
  model_free(model);
}

/* A file among others that turns out not to be readable is the one that is refused. */
static void test_unreadable(void) {
  g_autoptr(GError) error = NULL;
  Model *model = model_new("UIDPLUS " MULTIAPPEND);
  add_uploads(model);
  model->unreadable = 2;
  g_assert_false(model_run(model, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_FAILED);
  g_clear_error(&error);
  g_assert_cmpstr(model->settled->str, ==, "2:refused(0)");
  g_assert_true(model_run(model, &error));
  g_assert_cmpstr(model->settled->str, ==, "2:refused(0) 1:done 3:done");
  g_autofree char *target = model_text(&model->boxes[1]);
  g_assert_cmpstr(target, ==, "10b 20b 21x(\\Seen) 22x(\\Seen)");
  model_free(model);
}

/* ---- servers that the model is not ---- */

/* Answers the first of three, and hangs up on the rest. */
static void hangs_up(Peer *peer) {
  peer_let_in(peer, UIDPLUS);
  for (guint i = 0; i < 3; i++)
    g_assert_true(peer_skip(peer, strlen("A2 " APPEND_X "\r\n") + 13));
  peer_send(peer, "A2 OK [APPENDUID 200 30] x\r\n* BYE enough\r\n");
}

/* The second, which is bigger, is too big. */
static void says_too_big(Peer *peer) {
  peer_let_in(peer, UIDPLUS);
  g_assert_true(peer_skip(peer, 20));
  peer_send(peer, "* BYE [TOOBIG] that much?\r\n");
}

static void says_too_big_of_many(Peer *peer) {
  peer_let_in(peer, MULTIAPPEND);
  g_assert_true(peer_skip(peer, 20));
  peer_send(peer, "* BYE [TOOBIG] that much?\r\n");
}

static void tells_nonsense(Peer *peer) {
  peer_let_in(peer, UIDPLUS);
  for (guint i = 0; i < 3; i++)
    g_assert_true(peer_skip(peer, strlen("A2 " APPEND_X "\r\n") + 13));
  peer_send(peer, "A2 OK [APPENDUID 200 30] x\r\nA3 OK [APPENDUID 200 30] x\r\n"
                  "A4 OK [APPENDUID 0 31] x\r\n");
  peer_expect(peer, "A5 SELECT Target");
  peer_send(peer, "* 3 EXISTS\r\n* OK [UIDVALIDITY 200] x\r\nA5 OK x\r\n");
  peer_expect(peer, "A6 UID FETCH 20:? (UID RFC822.SIZE)");
  /* 19 is too low, 30 is taken, 32 is not whole, 33 is told twice and last */
  peer_send(peer, "* 1 FETCH (UID 19 RFC822.SIZE 11)\r\n* 2 FETCH (UID 33 RFC822.SIZE 11)\r\n"
                  "* 3 FETCH (UID 30 RFC822.SIZE 11)\r\n* 4 FETCH (UID 32 RFC822.SIZE 11)\r\n"
                  "* 5 FETCH (RFC822.SIZE 11)\r\n* 5 FETCH (UID 34)\r\n"
                  "* 6 FETCH (UID 35 RFC822.SIZE 12)\r\n* 2 FETCH (UID 33 RFC822.SIZE 11)\r\n"
                  "A6 OK x\r\n");
  peer_expect(peer, "A7 UID FETCH 32 (UID BODY.PEEK[])");
  peer_send(peer, "* 4 FETCH (BODY[] {10}\r\nA: b\r\n\r\nx\r UID 32)\r\n"
                  "* 4 FETCH (BODY[]<1> {11}\r\nA: b\r\n\r\nx\r\n UID 32)\r\n"
                  "* 4 FETCH (UID 33 BODY[] {11}\r\nA: b\r\n\r\nx\r\n)\r\n"
                  "* 4 FETCH (BODY[] NIL UID 32)\r\nA7 OK x\r\n");
  peer_expect(peer, "A8 UID FETCH 33 (UID BODY.PEEK[])");
  peer_send(peer, "* 9 FETCH (BODY[] {11}\r\nA: b\r\n\r\nx\r\n UID 99)\r\n"
                  "* 2 FETCH (BODY[] \"no\" UID 33)\r\n"
                  "* 2 FETCH (BODY[] {11}\r\nA: b\r\n\r\nx\r\n UID 33)\r\nA8 OK x\r\n");
  peer_expect(peer, "A9 UID FETCH 32 (UID BODY.PEEK[])");
  peer_send(peer, "A9 NO it is gone\r\n");
  peer_hang(peer);
}

static void test_odd_servers(void) {
  static const struct {
    PeerScript script;
    int code;
    const char *settled;
  } steps[] = {
      {hangs_up, EML_ERROR_OFFLINE, "1:0@30 "},
      {says_too_big, EML_ERROR_TOO_BIG, "2:1@0 "},
      {says_too_big_of_many, EML_ERROR_TOO_BIG, "2:1@0 "},
      {tells_nonsense, -1, "1:0@30 2:0@33 3:0@0 "},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(steps); i++) {
    g_autoptr(GError) error = NULL;
    Seen seen = {.settled = g_string_new(NULL)};
    ChangeHooks hooks = {see_settled, NULL, NULL, &seen};
    Model *model = model_new("");
    for (guint j = 0; j < 3; j++)
      model_change(model, CHANGE_UPLOAD, 0, 'x');
    if (steps[i].code == EML_ERROR_TOO_BIG) {
      ((Change *) model->rows->pdata[1])->size = 13;
      g_hash_table_insert(model->locals, GUINT_TO_POINTER(2), g_strdup("A: b\r\n\r\nabc\r\n"));
    }
    gboolean ok = run_script(model, steps[i].script, &hooks, &error);
    g_assert_cmpint(ok, ==, steps[i].code < 0);
    if (!ok)
      g_assert_error(error, EML_ERROR, steps[i].code);
    g_assert_cmpstr(seen.settled->str, ==, steps[i].settled);
    g_string_free(seen.settled, TRUE);
    model_free(model);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/sync-changes/done", test_done);
  g_test_add_func("/sync-changes/accidents", test_accidents);
  g_test_add_func("/sync-changes/lost-copies", test_lost_copies);
  g_test_add_func("/sync-changes/many-flags", test_many_flags);
  g_test_add_func("/sync-changes/pipelined", test_pipelined);
  g_test_add_func("/sync-changes/batches", test_batches);
  g_test_add_func("/sync-changes/batch-sizes", test_batch_sizes);
  g_test_add_func("/sync-changes/unreadable", test_unreadable);
  g_test_add_func("/sync-changes/odd-servers", test_odd_servers);
  g_test_add_func("/sync-changes/journal-fails", test_journal_fails);
  g_test_add_func("/sync-changes/cut-off", test_cut_off);
  g_test_add_func("/sync-changes/cut-off-twice", test_cut_off_twice);
  int result = g_test_run();
  peer_cleanup();
  return result;
}
