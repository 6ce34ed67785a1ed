/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is promised is done on the server: in few commands, once, and never twice or not at all when
 * connections end. Against a model of a server and of the journal (model.h), and scripts for what
 * that does not do.
 */
#include <string.h>

#include "base/err.h"
#include "model.h"

#define UIDPLUS "UIDPLUS LITERAL+"

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

#define APPEND_X "APPEND Target (\\Seen) \"24-Nov-2026 13:00:09 +0000\" {11+}"

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

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/sync-changes/done", test_done);
  g_test_add_func("/sync-changes/cut-off", test_cut_off);
  g_test_add_func("/sync-changes/cut-off-twice", test_cut_off_twice);
  int result = g_test_run();
  peer_cleanup();
  return result;
}
