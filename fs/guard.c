/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "cli/mounts.h"

/* Messages on the pipe: "MINOR PATH\0" once mounted, and "\0" to leave. */

struct Guard {
  pid_t pid;
  int pipe;
};

/* Everything but @keep; from a single-threaded process. */
static void close_all_but(int keep) {
  if (keep > 0)
    syscall(SYS_close_range, 0u, (unsigned) keep - 1, 0u);
  syscall(SYS_close_range, (unsigned) keep + 1, ~0u, 0u);
}

static void end_mount(const char *message) {
  char *space = NULL;
  guint32 minor = (guint32) g_ascii_strtoull(message, &space, 10);
  if (!space || *space != ' ')
    return;
  const char *path = space + 1;
  g_autoptr(Mount) mount = mounts_at(path);
  gboolean ours = mount && mount->major == 0 && mount->minor == minor
                  && g_str_equal(mount->type, MOUNTS_TYPE);
  /* Also when it is no longer mounted there: it may have been detached while readers hang. */
  if (ours || !mount)
    mounts_abort(minor, NULL);
  if (ours)
    mounts_detach(path, TRUE, NULL);
}

static _Noreturn void guard_run(int pipe, pid_t daemon) {
  prctl(PR_SET_NAME, "emlfs-guard");
  setsid();
  close_all_but(pipe);
  /* fusermount3 and the like want the three to be open. */
  int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  dup2(null, 2);
  if (null > 2)
    close(null);
  if (chdir("/") != 0)
    _exit(1);

  /* The signals that end a daemon are the daemon's to handle. */
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  sigset_t death;
  sigemptyset(&death);
  sigaddset(&death, SIGUSR1);
  int signals = signalfd(-1, &death, SFD_CLOEXEC);
  prctl(PR_SET_PDEATHSIG, SIGUSR1);
  gboolean dead = getppid() != daemon; /* died before the prctl */

  g_autoptr(GString) text = g_string_new(NULL);
  while (!dead) {
    struct pollfd polled[] = {{.fd = signals, .events = POLLIN}, {.fd = pipe, .events = POLLIN}};
    if (poll(polled, 2, -1) < 0)
      continue;
    if (polled[0].revents)
      dead = TRUE;
    if (polled[1].revents) {
      char buffer[512];
      gssize got = read(pipe, buffer, sizeof buffer);
      if (got > 0)
        g_string_append_len(text, buffer, got);
      else
        dead = TRUE;
    }
    gsize first = strlen(text->str); /* up to the NUL of the first message, if it is complete */
    if (text->len > first && text->str[text->len - 1] == '\0'
        && (first == 0 || text->len > first + 1))
      _exit(0);
  }
  end_mount(text->str); /* fusermount3 inherits the mask, which does it no harm */
  _exit(0);
}

Guard *guard_start(GError **error) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "pipe");
    return NULL;
  }
  pid_t daemon = getpid();
  pid_t pid = fork();
  if (pid < 0) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "fork");
    close(ends[0]);
    close(ends[1]);
    return NULL;
  }
  if (pid == 0)
    guard_run(ends[0], daemon);
  close(ends[0]);
  Guard *guard = g_new0(Guard, 1);
  *guard = (Guard){pid, ends[1]};
  return guard;
}

static void guard_send(Guard *guard, const char *message) {
  const char *at = message;
  gsize left = strlen(message) + 1;
  while (left) {
    gssize put = write(guard->pipe, at, left);
    if (put < 0 && errno != EINTR)
      return;
    at += MAX(put, 0);
    left -= (gsize) MAX(put, 0);
  }
}

void guard_watch(Guard *guard, guint32 minor, const char *path) {
  g_autofree char *message = g_strdup_printf("%u %s", minor, path);
  guard_send(guard, message);
}

void guard_dismiss(Guard **guard_inout) {
  Guard *guard = g_steal_pointer(guard_inout);
  if (!guard)
    return;
  guard_send(guard, "");
  close(guard->pipe);
  while (waitpid(guard->pid, NULL, 0) < 0 && errno == EINTR)
    ;
  g_free(guard);
}
