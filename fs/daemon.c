/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"

#define READY '+'
#define FAILED '-' /* followed by the message */

static int to_parent = -1;

static sigset_t interrupts(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

static _Noreturn void parent_wait(int fd) {
  /* Ctrl-C goes to the daemon too, which ends and says so. */
  signal(SIGINT, SIG_IGN);
  sigset_t interrupt = interrupts();
  sigprocmask(SIG_UNBLOCK, &interrupt, NULL);
  g_autoptr(GString) text = g_string_new(NULL);
  for (;;) {
    char buffer[512];
    gssize got = read(fd, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      break;
    g_string_append_len(text, buffer, got);
    if (text->str[0] == READY)
      _exit(0);
  }
  if (text->len && text->str[0] == FAILED)
    fprintf(stderr, "emlfs: %s\n", text->str + 1);
  else
    fprintf(stderr, "emlfs: ended unexpectedly while starting; try again with -f\n");
  _exit(1);
}

gboolean daemon_begin(gboolean foreground, GError **error) {
  if (foreground)
    return TRUE;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "pipe");
  fflush(NULL);
  /* In the daemon it stays blocked, and pending, until stopper.c asks for it. */
  sigset_t interrupt = interrupts();
  sigprocmask(SIG_BLOCK, &interrupt, NULL);
  pid_t pid = fork();
  if (pid < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "fork");
  if (pid > 0) {
    close(ends[1]);
    parent_wait(ends[0]);
  }
  to_parent = ends[1];
  /* What the caller had open is not ours to keep open. */
  syscall(SYS_close_range, 3u, (unsigned) to_parent - 1, 0u);
  syscall(SYS_close_range, (unsigned) to_parent + 1, ~0u, 0u);
  return TRUE;
}

static void tell_parent(const char *text, gsize length) {
  while (length) {
    gssize put = write(to_parent, text, length);
    if (put < 0 && errno != EINTR)
      break;
    text += MAX(put, 0);
    length -= (gsize) MAX(put, 0);
  }
  close(to_parent);
  to_parent = -1;
}

void daemon_ready(void) {
  if (to_parent < 0)
    return;
  setsid();
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd <= 2 && null >= 0; fd++)
    dup2(null, fd);
  if (null > 2)
    close(null);
  tell_parent((char[]){READY}, 1);
}

void daemon_fail(const char *message) {
  if (to_parent < 0) {
    fprintf(stderr, "emlfs: %s\n", message);
    return;
  }
  g_autofree char *text = g_strdup_printf("%c%s", FAILED, message);
  tell_parent(text, strlen(text));
}
