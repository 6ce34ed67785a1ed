/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The commands that .control/ctl takes: a name, arguments quoted as in a shell, a table row each.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"

typedef struct {
  const char *name, *arguments, *help;
  guint least, most; /* how many arguments */
  /* *@answer_out is text, or NULL for "ok". */
  gboolean (*run)(Engine *engine, char **arguments, char **answer_out, GError **error);
} Command;

static gboolean complain(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
static gboolean complain(GError **error, const char *format, ...) {
  va_list args;
  va_start(args, format);
  g_autofree char *text = g_strdup_vprintf(format, args);
  va_end(args);
  g_set_error_literal(error, EML_ERROR, EML_ERROR_CONFIG, text);
  return FALSE;
}

/* The folder at @path as the mount shows it, "Projects/2026"; slashes around it do not matter. */
static EngineFolder *folder_at(Engine *engine, const char *path, GError **error) {
  g_autoptr(EngineFolder) folder = NULL;
  g_auto(GStrv) names = g_strsplit(path, "/", -1);
  for (char **name = names; *name; name++) {
    if (!**name)
      continue;
    EngineFolder *child = engine_folder_by_name(engine, folder ? folder->id : 0, *name, NULL);
    g_clear_pointer(&folder, engine_folder_free);
    folder = child;
    if (!folder)
      break;
  }
  if (!folder)
    g_set_error(error, EML_ERROR, EML_ERROR_NOT_FOUND, "there is no folder %s", path);
  return g_steal_pointer(&folder);
}

static gboolean run_sync(Engine *engine, char **arguments, char **answer_out, GError **error) {
  const char *path = arguments[0];
  if (path && g_str_equal(path, "stop")) {
    *answer_out = g_strdup(offline_stop(engine->offline) ? "stopping" : "there is none to stop");
    return TRUE;
  }
  g_autoptr(EngineFolder) folder = NULL;
  if (path) {
    folder = folder_at(engine, path, error);
    if (!folder)
      return FALSE;
  }
  offline_begin(engine->offline, folder ? folder->id : 0);
  *answer_out = g_strdup_printf("syncing %s; .control/status shows how far it is",
                                path ? path : "all folders");
  return TRUE;
}

static gboolean run_reconnect(Engine *engine, char **arguments, char **answer_out, GError **error) {
  if (link_is_held(engine->link))
    return complain(error, "it is offline on purpose; online ends that");
  link_renew(engine->link);
  pool_wake(engine->pool);
  watch_wake(engine->watch);
  return TRUE;
}

static gboolean run_offline(Engine *engine, char **arguments, char **answer_out, GError **error) {
  link_hold(engine->link, TRUE);
  return TRUE;
}

static gboolean run_online(Engine *engine, char **arguments, char **answer_out, GError **error) {
  link_hold(engine->link, FALSE);
  watch_wake(engine->watch);
  return TRUE;
}

static gboolean run_drop_cache(Engine *engine, char **arguments, char **answer_out, GError **error) {
  if (offline_is_running(engine->offline)) {
    g_set_error(error, EML_ERROR, EML_ERROR_BUSY, "a sync is filling the cache; sync stop ends it");
    return FALSE;
  }
  return store_drop_bodies(engine->store, error);
}

static gboolean run_log_level(Engine *engine, char **arguments, char **answer_out, GError **error) {
  LogLevel level;
  if (!log_level_parse(arguments[0], &level))
    return complain(error, "%s is not a level: use error, warning, info or debug", arguments[0]);
  log_set_level(level);
  return TRUE;
}

static gboolean run_refresh(Engine *engine, char **arguments, char **answer_out, GError **error) {
  if (!link_usable(engine->link, error))
    return FALSE;
  watch_refresh(engine->watch);
  return TRUE;
}

static const Command commands[] = {
    {"sync", "[FOLDER]", "fetch everything, or all of FOLDER, for offline use", 0, 1, run_sync},
    {"sync stop", "", "stop fetching; what is here stays", 0, 0, NULL},
    {"offline", "", "stay away from the server until online", 0, 0, run_offline},
    {"online", "", "return to it", 0, 0, run_online},
    {"reconnect", "", "close all connections and open new ones", 0, 0, run_reconnect},
    {"refresh", "", "ask for the folders and the quota now", 0, 0, run_refresh},
    {"drop-cache", "", "forget the messages that are here", 0, 0, run_drop_cache},
    {"log-level", "error|warning|info|debug", "how much .control/log tells", 1, 1, run_log_level},
};

const char *engine_commands(Engine *engine) {
  static gsize once;
  if (g_once_init_enter(&once)) {
    GString *text = g_string_new(NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
      g_autofree char *usage = g_strjoin(*commands[i].arguments ? " " : "", commands[i].name,
                                         commands[i].arguments, NULL);
      g_string_append_printf(text, "%-36s%s\n", usage, commands[i].help);
    }
    g_once_init_leave(&once, (gsize) g_string_free(text, FALSE));
  }
  return (const char *) once;
}

static gboolean run_words(Engine *engine, char **words, char **answer_out, GError **error) {
  guint count = g_strv_length(words) - 1;
  for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
    const Command *command = &commands[i];
    if (!command->run || !g_str_equal(command->name, words[0]))
      continue;
    if (count < command->least || count > command->most)
      return complain(error, "usage: %s %s", command->name, command->arguments);
    return command->run(engine, words + 1, answer_out, error);
  }
  return complain(error, "there is no command %s; cat .control/ctl lists them", words[0]);
}

static gboolean run_line(Engine *engine, const char *line, char **answer_out, GError **error) {
  g_auto(GStrv) words = NULL;
  g_autoptr(GError) unreadable = NULL;
  if (g_shell_parse_argv(line, NULL, &words, &unreadable))
    return run_words(engine, words, answer_out, error);
  if (!g_error_matches(unreadable, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING))
    return complain(error, "%s", unreadable->message);
  *answer_out = g_strdup("");
  return TRUE;
}

gboolean engine_command(Engine *engine, const char *line, char **answer_out, GError **error) {
  g_autoptr(GError) failure = NULL;
  *answer_out = NULL;
  if (!run_line(engine, line, answer_out, &failure)) {
    log_warning("the command \"%s\" failed: %s", line, failure->message);
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
  }
  if (*line)
    log_info("command: %s", line);
  if (!*answer_out)
    *answer_out = g_strdup("ok");
  return TRUE;
}
