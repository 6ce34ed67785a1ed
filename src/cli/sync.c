/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * emlfs sync: has everything fetched, by the mount when there is one, else by an engine of its own, and
 * shows how far it is. Both are steered by the same commands and read by the same status text.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "cli/ask.h"
#include "cli/cli.h"
#include "cli/mounts.h"
#include "engine/engine.h"

#define LOOK_MS 200
#define LINE_US (3 * G_USEC_PER_SEC) /* between two lines where there is no terminal */
#define BAR_LEAST 10

/* Who syncs: the one or the other. */
typedef struct {
  char *control; /* DIR/.control of a mount */
  Engine *engine;
} Syncer;

/* ---- signals ---- */

static gint interrupted; /* atomic */

/* The first one asks for an end, the second one takes it. */
static gpointer take_signals(gpointer data) {
  sigset_t set;
  int number;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigwait(&set, &number);
  g_atomic_int_set(&interrupted, TRUE);
  g_cancellable_cancel(data);
  sigwait(&set, &number);
  _exit(CLI_INTERRUPTED);
}

/* Before any other thread exists: those inherit that the signals are not theirs. */
static void watch_signals(GCancellable *cancellable) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  g_thread_unref(g_thread_new("signals", take_signals, cancellable));
}

/* ---- who syncs ---- */

static gboolean command_mount(const Syncer *syncer, const char *line, GError **error) {
  g_autofree char *path = g_build_filename(syncer->control, "ctl", NULL);
  autofd int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "%s", path);
  if (write(fd, line, strlen(line)) >= 0)
    return TRUE;
  int problem = errno;
  char said[512];
  gssize size = pread(fd, said, sizeof said - 1, 0);
  if (size <= 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, problem, "%s", path);
  said[size] = '\0';
  g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, g_strchomp(said));
  return FALSE;
}

static gboolean command(const Syncer *syncer, const char *line, GError **error) {
  g_autofree char *answer = NULL;
  return syncer->engine ? engine_command(syncer->engine, line, &answer, error)
                        : command_mount(syncer, line, error);
}

/* The value of @key in the status text, or NULL; NULL with @error when there is no text. */
static char *status(const Syncer *syncer, const char *key, GError **error) {
  g_autofree char *text = NULL;
  if (syncer->engine) {
    text = engine_status(syncer->engine);
  } else {
    g_autofree char *path = g_build_filename(syncer->control, "status", NULL);
    if (!g_file_get_contents(path, &text, NULL, error))
      return NULL;
  }
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  gsize size = strlen(key);
  for (char **line = lines; *line; line++)
    if (strncmp(*line, key, size) == 0 && g_str_has_prefix(*line + size, ": "))
      return g_strdup(*line + size + 2);
  return NULL;
}

/* Whether that is a mount of just this account: another configuration may use the same name. */
static gboolean is_mount_of(const Mount *mount, const Account *account) {
  if (!g_str_equal(mount->type, MOUNTS_TYPE) || !g_str_has_prefix(mount->source, MOUNTS_SOURCE_PREFIX) ||
      !g_str_equal(mount->source + strlen(MOUNTS_SOURCE_PREFIX), account->name))
    return FALSE;
  g_autofree char *control = g_build_filename(mount->path, ".control", NULL);
  Syncer syncer = {.control = control};
  g_autofree char *address = status(&syncer, "account", NULL);
  g_autofree char *server = status(&syncer, "server", NULL);
  g_autofree char *begin = g_strdup_printf("%s:%u,", account->imap_host, account->imap_port);
  return g_strcmp0(address, account->address) == 0 && server && g_str_has_prefix(server, begin);
}

/* The .control of the mount of @account, or NULL. */
static char *find_control(const Account *account) {
  g_autoptr(GPtrArray) mounts = mounts_list(NULL);
  for (guint i = 0; mounts && i < mounts->len; i++) {
    const Mount *mount = g_ptr_array_index(mounts, i);
    if (is_mount_of(mount, account))
      return g_build_filename(mount->path, ".control", NULL);
  }
  return NULL;
}

static gboolean open_engine(Syncer *syncer, Account *account, GCancellable *cancellable,
                            GError **error) {
  g_autofree char *notice = NULL;
  account->ask = ask_terminal;
  account->ask_data = cancellable;
  syncer->engine = engine_open(account, &notice, error);
  if (notice)
    fprintf(stderr, "emlfs: %s\n", notice);
  if (!syncer->engine || !engine_login(syncer->engine, cancellable, error))
    return FALSE;
  g_autofree char *state = status(syncer, "state", NULL);
  if (g_strcmp0(state, "offline") == 0) {
    g_autofree char *reason = status(syncer, "reason", NULL);
    g_set_error_literal(error, EML_ERROR, EML_ERROR_OFFLINE, reason ? reason : "offline");
    return FALSE;
  }
  return engine_start(syncer->engine, NULL, NULL, error);
}

/* ---- showing it ---- */

typedef struct {
  gboolean terminal;
  gint64 line_at; /* monotonic µs of the last line */
  gboolean shown;
} Show;

static guint columns(void) {
  struct winsize size = {0};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

/* "123 of 4567 messages, 1234 of 56789 bytes, NOTE" */
static void show(Show *show, const char *text) {
  guint64 messages, of_messages, bytes, of_bytes;
  int note = 0;
  if (sscanf(text,
             "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " messages, %" G_GUINT64_FORMAT
             " of %" G_GUINT64_FORMAT " bytes, %n",
             &messages, &of_messages, &bytes, &of_bytes, &note) < 4 || !note)
    return;
  gint64 now = g_get_monotonic_time();
  if (!show->terminal && show->line_at && now - show->line_at < LINE_US)
    return;
  show->line_at = now;
  double part = of_bytes ? (double) bytes / (double) of_bytes : 0;
  g_autofree char *line = g_strdup_printf(
      "%3.0f %%  %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " messages  %.1f of %.1f MB  %s",
      100 * part, messages, of_messages, (double) bytes / 1e6, (double) of_bytes / 1e6, text + note);
  if (!show->terminal) {
    puts(line);
    fflush(stdout);
    return;
  }
  guint width = columns(), used = (guint) strlen(line) + 4;
  printf("\r\033[K");
  if (width >= used + BAR_LEAST) {
    guint room = MIN(width - used, 40), full = (guint) (part * room);
    g_autofree char *done = g_strnfill(full, '#'), *left = g_strnfill(room - full, '.');
    printf("[%s%s] ", done, left);
  }
  printf("%.*s", (int) width - 1, line);
  fflush(stdout);
  show->shown = TRUE;
}

static void show_end(const Show *show) {
  if (show->shown)
    fputs("\r\033[K", stdout);
}

/* ---- the command ---- */

static gboolean begin(const Syncer *syncer, char **folders, GError **error) {
  if (!*folders)
    return command(syncer, "sync", error);
  for (char **folder = folders; *folder; folder++) {
    /* A leading slash keeps a folder from being taken for a word of the command. */
    g_autofree char *path = g_strconcat("/", *folder, NULL);
    g_autofree char *quoted = g_shell_quote(path);
    g_autofree char *line = g_strconcat("sync ", quoted, NULL);
    if (!command(syncer, line, error))
      return FALSE;
  }
  return TRUE;
}

/* Until it has ended. Returns the exit code. */
static int follow(const Syncer *syncer) {
  Show showing = {.terminal = isatty(STDOUT_FILENO)};
  g_autoptr(GError) error = NULL;
  gboolean stopping = FALSE;
  for (;;) {
    g_autofree char *text = status(syncer, "syncing", &error);
    if (error)
      return cli_fail("%s", error->message);
    if (!text)
      break;
    show(&showing, text);
    if (g_atomic_int_get(&interrupted) && !stopping) {
      stopping = TRUE;
      if (!command(syncer, "sync stop", &error))
        return cli_fail("%s", error->message);
    }
    g_usleep(LOOK_MS * 1000);
  }
  show_end(&showing);
  g_autofree char *last = status(syncer, "last sync", &error);
  if (!last)
    return cli_fail("%s", error ? error->message : "the sync left no result");
  if (stopping) {
    fprintf(stderr, "emlfs: %s\n", last);
    return CLI_INTERRUPTED;
  }
  if (!g_str_has_prefix(last, "complete"))
    return cli_fail("%s", last);
  puts(last);
  return CLI_OK;
}

static int sync_by(const Syncer *syncer, char **folders) {
  g_autoptr(GError) error = NULL;
  if (!begin(syncer, folders, &error))
    return cli_fail("%s", error->message);
  return follow(syncer);
}

/* Without a mount. */
static int sync_alone(Account *account, char **folders, GCancellable *cancellable) {
  Syncer syncer = {0};
  g_autoptr(GError) error = NULL;
  int code = CLI_FAILED;
  log_setup(LOG_INFO, FALSE);
  if (open_engine(&syncer, account, cancellable, &error))
    code = sync_by(&syncer, folders);
  else if (g_atomic_int_get(&interrupted))
    code = CLI_INTERRUPTED;
  else
    cli_fail("%s", error->message);
  engine_close(&syncer.engine);
  return code;
}

int cli_sync(const CliOptions *options) {
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autofree char *config = account_config_path(options->config);
  g_autoptr(Account) account = account_load(config, options->arguments[0], &error);
  if (!account)
    return cli_fail("%s", error->message);
  watch_signals(g_object_ref(cancellable));
  char **folders = options->arguments + 1;
  g_autofree char *control = find_control(account);
  Syncer syncer = {.control = control};
  return control ? sync_by(&syncer, folders) : sync_alone(account, folders, cancellable);
}
