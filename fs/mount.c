/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * In this order, and undone in the reverse one:
 *   read the configuration · fork to the background · guard · signals · engine: open, log in ·
 *   kernel mount · threads that talk to the kernel · engine: start · tell the parent · serve.
 * Nothing is mounted before the login worked, and nobody waits for a server with a mount that
 * nobody serves.
 */
#include "fs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"
#include "base/log.h"
#include "cli/ask.h"
#include "cli/mounts.h"
#include "fs/ahead.h"
#include "fs/daemon.h"
#include "fs/files.h"
#include "fs/guard.h"
#include "fs/init-reply.h"
#include "fs/maildir-memory.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/replay.h"
#include "fs/stopper.h"
#include "fs/virtual.h"

#define DESCRIPTORS 65536
#define WORKERS 4
#define PREDECESSOR_MS 20000 /* longest wait for the daemon of the last mount to end */
#define READ_AHEAD_KB "1024"
#define STOP_MS 5000
#define COMMIT_MS 10000 /* after an unmount, for letters whose close nobody waited for */

/* ---- options ---- */

typedef struct {
  int xattr;
} MountOptions;

static const struct fuse_opt option_table[] = {
    {"xattr", offsetof(MountOptions, xattr), 1},
    {"noxattr", offsetof(MountOptions, xattr), 0},
    /* For mount(8) and systemd, not for the kernel. */
    FUSE_OPT_KEY("auto", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("noauto", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("user", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("nouser", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("users", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("owner", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("group", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("nofail", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("_netdev", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_KEY("defaults", FUSE_OPT_KEY_DISCARD),
    FUSE_OPT_END,
};

static int take_option(void *data, const char *argument, int key, struct fuse_args *args) {
  gboolean ignored = g_str_has_prefix(argument, "x-") || g_str_has_prefix(argument, "X-")
                     || g_str_has_prefix(argument, "comment=")
                     || g_str_has_prefix(argument, "user=");
  return ignored ? 0 : 1;
}

static void add_option(struct fuse_args *args, const char *option) {
  fuse_opt_add_arg(args, "-o");
  fuse_opt_add_arg(args, option);
}

static gboolean parse_options(const CliOptions *cli, MountOptions *options_out,
                              struct fuse_args *args, GError **error) {
  fuse_opt_add_arg(args, "emlfs");
  for (char **option = cli->mount_options; option && *option; option++)
    add_option(args, *option);
  if (fuse_opt_parse(args, options_out, option_table, take_option) != 0) {
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "the options after -o cannot be understood");
    return FALSE;
  }
  g_autofree char *source = g_strdup_printf("fsname=" MOUNTS_SOURCE_PREFIX "%s", cli->arguments[0]);
  add_option(args, source);
  /* The kernel checks modes, so allow_other opens nothing that the modes do not. */
  add_option(args, "subtype=emlfs,default_permissions,nosuid,nodev");
  return TRUE;
}

/* libfuse says on stderr what it has to say, in pieces; the first line becomes our error. */
static GString *fuse_complaint;
static char *first_complaint;
static GMutex fuse_complaint_lock; /* guards both; a leaf but for the log's */

static void on_fuse_log(enum fuse_log_level level, const char *format, va_list args)
    G_GNUC_PRINTF(2, 0);
static void on_fuse_log(enum fuse_log_level level, const char *format, va_list args) {
  g_autofree char *piece = g_strdup_vprintf(format, args);
  g_autofree char *line = NULL;
  g_mutex_lock(&fuse_complaint_lock);
  if (!fuse_complaint)
    fuse_complaint = g_string_new(NULL);
  g_string_append(fuse_complaint, piece);
  char *newline = strchr(fuse_complaint->str, '\n');
  if (newline) {
    line = g_strndup(fuse_complaint->str, (gsize) (newline - fuse_complaint->str));
    g_string_truncate(fuse_complaint, 0);
  }
  if (line && level <= FUSE_LOG_ERR) {
    log_warning("%s", line);
    if (!first_complaint)
      first_complaint = g_steal_pointer(&line);
  }
  g_mutex_unlock(&fuse_complaint_lock);
}

static gboolean fuse_failed(GError **error, const char *what) {
  g_mutex_lock(&fuse_complaint_lock);
  g_set_error(error, EML_ERROR, EML_ERROR_FAILED, "%s: %s", what,
              first_complaint ? first_complaint : "libfuse gives no reason");
  g_mutex_unlock(&fuse_complaint_lock);
  return FALSE;
}

/* ---- the mountpoint ---- */

static char *prepare_mountpoint(const char *given, GError **error) {
  g_autofree char *path = mounts_resolve(given, error);
  if (!path)
    return NULL;
  /* statfs and not stat: the kernel answers that one from its cache long after the daemon died. */
  struct statfs sf;
  for (guint tries = 0; statfs(path, &sf) != 0; tries++) {
    if (errno != ENOTCONN || tries == 8) {
      eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "%s", path);
      return NULL;
    }
    fprintf(stderr, "emlfs: %s was left over from a file system that died; unmounting it\n", path);
    g_autoptr(GError) failure = NULL;
    g_autoptr(Mount) left = mounts_at(path); /* its guard may be quicker than we are */
    if (left && !mounts_detach(path, TRUE, &failure) && tries == 7) {
      g_propagate_error(error, g_steal_pointer(&failure));
      return NULL;
    }
  }
  struct stat st;
  if (stat(path, &st) != 0) {
    eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "%s", path);
    return NULL;
  }
  if (!S_ISDIR(st.st_mode)) {
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "%s is not a directory", path);
    return NULL;
  }
  g_autoptr(Mount) mount = mounts_at(path);
  if (mount && g_str_equal(mount->type, MOUNTS_TYPE)) {
    g_set_error(error, EML_ERROR, EML_ERROR_BUSY, "%s is mounted on %s already",
                mount->source + strlen(MOUNTS_SOURCE_PREFIX), path);
    return NULL;
  }
  return g_steal_pointer(&path);
}

/* Doubles the speed of large files; only root may, and nothing depends on it. */
static void widen_read_ahead(guint32 minor) {
  g_autofree char *path = g_strdup_printf("/sys/class/bdi/0:%u/read_ahead_kb", minor);
  autofd int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, READ_AHEAD_KB, strlen(READ_AHEAD_KB)) < 0)
    log_debug("%s: %s", path, g_strerror(errno));
}

/* ---- one mount ---- */

typedef struct {
  Fs fs;
  char *path;
  struct fuse_args args;
  MountOptions options;
  Account *account;
  Guard *guard;
  GCancellable *cancellable;
  Stopper *stopper;
  struct fuse_session *session;
  gboolean mounted;
} Running;

static void cancel_wait(guint64 wait, gpointer data) {
  engine_cancel(((Running *) data)->fs.engine, wait);
}

static gboolean is_mounted_somewhere(const char *account) {
  g_autofree char *source = g_strconcat(MOUNTS_SOURCE_PREFIX, account, NULL);
  g_autoptr(GPtrArray) mounts = mounts_list(NULL);
  for (guint i = 0; mounts && i < mounts->len; i++)
    if (g_str_equal(((Mount *) g_ptr_array_index(mounts, i))->source, source))
      return TRUE;
  return FALSE;
}

static gboolean open_account(Running *run, GError **error) {
  run->account->ask = ask_terminal;
  run->account->ask_data = run->cancellable;
  g_autofree char *notice = NULL;
  gint64 until = deadline_in_ms(PREDECESSOR_MS);
  for (;;) {
    g_autoptr(GError) failure = NULL;
    run->fs.engine = engine_open(run->account, &notice, &failure);
    if (!failure)
      break;
    /* Unmounted a moment ago, its daemon may still be writing down what it knows. */
    if (!g_error_matches(failure, EML_ERROR, EML_ERROR_BUSY) ||
        is_mounted_somewhere(run->account->name) || g_get_monotonic_time() > until) {
      g_propagate_error(error, g_steal_pointer(&failure));
      return FALSE;
    }
    g_usleep(20000);
  }
  if (notice)
    fprintf(stderr, "emlfs: %s\n", notice);
  return engine_login(run->fs.engine, run->cancellable, error);
}

static gboolean mount_session(Running *run, GError **error) {
  struct fuse_lowlevel_ops ops = {0};
  ops_change_add(&ops);
  ops_dir_add(&ops);
  ops_file_add(&ops);
  ops_fs_add(&ops);
  ops_write_add(&ops);
  if (run->options.xattr)
    ops_xattr_add(&ops);
  run->session = fuse_session_new(&run->args, &ops, sizeof ops, &run->fs);
  if (!run->session)
    return fuse_failed(error, "cannot begin a FUSE session");
  if (fuse_session_mount(run->session, run->path) != 0)
    return fuse_failed(error, "cannot mount");
  run->mounted = TRUE;
  init_reply_fix(run->session, &run->fs);
  return TRUE;
}

/* An EngineNewsFn. */
static void on_news(const EngineNews *news, gsize count, gpointer data) {
  Running *run = data;
  maildir_news(news, count, run->fs.maildir);
  notify_news(news, count, run->fs.notify);
}

static gboolean start(Running *run, GError **error) {
  run->fs.uid = getuid();
  run->fs.gid = getgid();
  run->fs.began = g_get_real_time() / G_USEC_PER_SEC;
  run->fs.parks = parks_new(cancel_wait, run);
  if (!mount_session(run, error))
    return FALSE;
  g_autoptr(Mount) mount = mounts_at(run->path);
  if (!mount) {
    g_set_error(error, EML_ERROR, EML_ERROR_FAILED, "%s is not in /proc/self/mountinfo", run->path);
    return FALSE;
  }
  guard_watch(run->guard, mount->minor, run->path);
  widen_read_ahead(mount->minor);
  run->fs.virtual = virtual_new(run->fs.engine);
  run->fs.files = files_new(&run->fs);
  run->fs.maildir = maildir_memory_new();
  run->fs.replay = replay_new(&run->fs, run->path, mount->minor);
  run->fs.notify = notify_new(run->session, run->fs.engine, replay_news, run->fs.replay);
  run->fs.ahead = ahead_new(run->session, &run->fs);
  if (!engine_start(run->fs.engine, on_news, run, error))
    return FALSE;
  stopper_mounted(run->stopper, &run->fs, run->session, run->path, mount->minor);
  return TRUE;
}

static gboolean serve(Running *run) {
  struct fuse_loop_config *config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_clone_fd(config, 0);
  fuse_loop_cfg_set_max_threads(config, WORKERS);
  fuse_loop_cfg_set_idle_threads(config, WORKERS);
  int result = fuse_session_loop_mt(run->session, config);
  fuse_loop_cfg_destroy(config);
  return result >= 0;
}

/* Undoes whatever was done so far. Where a thread hangs in the kernel for good, the process ends
 * as if it had been killed, and the guard does the rest. */
static void finish(Running *run) {
  if (run->fs.parks) {
    parks_wait_unasked(run->fs.parks, COMMIT_MS);
    parks_cancel_all(run->fs.parks);
  }
  stopper_free(&run->stopper);
  if (run->fs.notify && !notify_stop(run->fs.notify, STOP_MS))
    _exit(CLI_FAILED);
  if (run->fs.ahead && !ahead_stop(run->fs.ahead, STOP_MS))
    _exit(CLI_FAILED);
  if (run->fs.replay && !replay_stop(run->fs.replay, STOP_MS))
    _exit(CLI_FAILED);
  /* Nothing is closed under a read or a commit; all were cancelled, so this is short. */
  if (run->fs.parks && !parks_wait_empty(run->fs.parks, STOP_MS))
    log_warning("%u requests were not answered", parks_count(run->fs.parks));
  else
    files_free(&run->fs.files);
  if (run->fs.engine)
    engine_close(&run->fs.engine);
  ahead_free(&run->fs.ahead);
  notify_free(&run->fs.notify);
  replay_free(&run->fs.replay);
  if (run->mounted)
    fuse_session_unmount(run->session);
  if (run->session)
    fuse_session_destroy(run->session);
  virtual_free(&run->fs.virtual);
  maildir_memory_free(&run->fs.maildir);
  parks_free(&run->fs.parks);
  guard_dismiss(&run->guard);
}

/* Each open file and each message of a batch that is being uploaded takes one. */
static void raise_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < MIN(limit.rlim_max, DESCRIPTORS)) {
    limit.rlim_cur = MIN(limit.rlim_max, DESCRIPTORS);
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

static int run_daemon(Running *run) {
  g_autoptr(GError) error = NULL;
  umask(077);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  raise_descriptors();
  if (chdir("/") != 0)
    log_debug("chdir /: %s", g_strerror(errno));
  run->cancellable = g_cancellable_new();
  run->guard = guard_start(&error);
  gboolean ok = run->guard != NULL;
  if (ok) {
    run->stopper = stopper_new(run->cancellable);
    ok = open_account(run, &error) && start(run, &error);
  }
  if (ok) {
    daemon_ready();
    ok = serve(run);
  }
  finish(run);
  if (error)
    daemon_fail(error->message);
  g_object_unref(run->cancellable);
  return ok ? CLI_OK : CLI_FAILED;
}

int mount_run(const CliOptions *options) {
  g_autoptr(GError) error = NULL;
  Running run = {.args = FUSE_ARGS_INIT(0, NULL)};
  int code = CLI_FAILED;

  log_setup(LOG_INFO, options->foreground);
  fuse_set_log_func(on_fuse_log);
  g_autofree char *config = account_config_path(options->config);
  run.account = account_load(config, options->arguments[0], &error);
  if (run.account && parse_options(options, &run.options, &run.args, &error))
    run.path = prepare_mountpoint(options->arguments[1], &error);
  if (run.path && daemon_begin(options->foreground, &error))
    code = run_daemon(&run);
  else
    cli_fail("%s", error->message);
  fuse_opt_free_args(&run.args);
  account_free(run.account);
  g_free(run.path);
  return code;
}
