/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The grammar of .control/ctl, on an engine that never meets a server.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "engine/engine.h"

static Engine *engine;

static void answers(const char *line, const char *expected) {
  g_autoptr(GError) error = NULL;
  g_autofree char *answer = NULL;
  g_assert_true(engine_command(engine, line, &answer, &error));
  g_assert_no_error(error);
  g_assert_cmpstr(answer, ==, expected);
}

static void refuses(const char *line, EmlError code, const char *message) {
  g_autoptr(GError) error = NULL;
  g_autofree char *answer = NULL;
  g_assert_false(engine_command(engine, line, &answer, &error));
  g_assert_error(error, EML_ERROR, (int) code);
  g_assert_null(answer);
  g_assert_cmpstr(error->message, ==, message);
  g_autofree char *log = log_text();
  g_assert_nonnull(strstr(log, message));
}

static void status_has(const char *line) {
  g_autofree char *status = engine_status(engine);
  g_autofree char *bounded = g_strconcat("\n", status, NULL), *sought = g_strconcat("\n", line, NULL);
  if (!strstr(bounded, sought))
    g_test_message("%s", status);
  g_assert_nonnull(strstr(bounded, sought));
}

static void test_list(void) {
  g_auto(GStrv) lines = g_strsplit(engine_commands(engine), "\n", -1);
  guint count = g_strv_length(lines);
  g_assert_cmpuint(count, ==, 9); /* the last one ends in a newline too */
  g_assert_cmpstr(lines[count - 1], ==, "");
  for (guint i = 0; i + 1 < count; i++)
    g_assert_cmpuint(strlen(lines[i]), >, 40);
}

static void test_words(void) {
  answers("", "");
  answers("   ", "");
  answers("# a remark", "");
}

static void test_mistakes(void) {
  refuses("nonsense", EML_ERROR_CONFIG, "there is no command nonsense; cat .control/ctl lists them");
  refuses("SYNC", EML_ERROR_CONFIG, "there is no command SYNC; cat .control/ctl lists them");
  refuses("sync a b", EML_ERROR_CONFIG, "usage: sync [FOLDER]");
  refuses("offline now", EML_ERROR_CONFIG, "usage: offline ");
  refuses("log-level", EML_ERROR_CONFIG, "usage: log-level error|warning|info|debug");
  refuses("log-level 'very loud'", EML_ERROR_CONFIG,
          "very loud is not a level: use error, warning, info or debug");
  refuses("sync 'two words'", EML_ERROR_NOT_FOUND, "there is no folder two words");
  refuses("sync two\\ words", EML_ERROR_NOT_FOUND, "there is no folder two words");
  refuses("sync /", EML_ERROR_NOT_FOUND, "there is no folder /");
  g_autofree char *answer = NULL;
  g_autoptr(GError) error = NULL;
  g_assert_false(engine_command(engine, "sync 'open", &answer, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_CONFIG);
}

static void test_offline(void) {
  answers("offline", "ok");
  status_has("state: offline\n");
  status_has("reason: told to stay offline");
  refuses("reconnect", EML_ERROR_CONFIG, "it is offline on purpose; online ends that");
  refuses("refresh", EML_ERROR_OFFLINE, "told to stay offline (echo online > .control/ctl ends it)");
  answers("offline", "ok");
  answers("online", "ok");
  status_has("state: offline\n"); /* nothing has connected yet */
  status_has("reason: not yet connected again\n");
}

static void test_sync(void) {
  answers("sync stop", "there is none to stop");
  answers("offline", "ok");
  answers("sync", "syncing all folders; .control/status shows how far it is");
  status_has("syncing: 0 of 0 messages, 0 of 0 bytes, ");
  refuses("drop-cache", EML_ERROR_BUSY, "a sync is filling the cache; sync stop ends it");
  answers("sync stop", "stopping");
  for (;;) {
    g_autofree char *status = engine_status(engine);
    if (strstr(status, "\nlast sync: stopped; 0 messages fetched\n"))
      break;
    g_usleep(1000);
  }
  answers("drop-cache", "ok");
}

static void test_log_level(void) {
  answers("log-level error", "ok");
  log_warning("not kept");
  answers("log-level debug", "ok");
  log_debug("kept");
  g_autofree char *log = log_text();
  g_assert_null(strstr(log, "not kept"));
  g_assert_nonnull(strstr(log, "debug kept"));
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_autofree char *folder = g_dir_make_tmp("emlfs-command-XXXXXX", NULL);
  g_autofree char *state = g_build_filename(folder, "state", NULL);
  Account account = {.name = (char *) "test", .address = (char *) "anna@example.org",
                     .user = (char *) "anna", .imap_host = (char *) "127.0.0.1", .imap_port = 1,
                     .cache_size = 1 << 20, .cache_dir = folder, .state_dir = state, .connections = 2, .timeout = 5};
  g_autofree char *notice = NULL;
  g_autoptr(GError) error = NULL;
  engine = engine_open(&account, &notice, &error);
  g_assert_no_error(error);
  g_test_add_func("/command/list", test_list);
  g_test_add_func("/command/words", test_words);
  g_test_add_func("/command/mistakes", test_mistakes);
  g_test_add_func("/command/offline", test_offline);
  g_test_add_func("/command/sync", test_sync);
  g_test_add_func("/command/log-level", test_log_level);
  int code = g_test_run();
  engine_close(&engine);
  const char *remove[] = {"rm", "-r", folder, NULL};
  g_spawn_sync(NULL, (char **) remove, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL, NULL);
  return code;
}
