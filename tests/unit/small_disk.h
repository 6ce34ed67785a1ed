/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A disk that is soon full, for tests.
 */
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "store_help.h"

#define NO_NAMESPACE 77

static G_GNUC_UNUSED void write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY);
  if (fd < 0 || write(fd, text, strlen(text)) < 0)
    _exit(3);
  close(fd);
}

/* Mounts a tmpfs with @options on @dir, in a namespace of this process alone. */
static G_GNUC_UNUSED void in_small_filesystem(const char *dir, const char *options) {
  g_autofree char *uid_map = g_strdup_printf("0 %u 1", (guint) getuid());
  g_autofree char *gid_map = g_strdup_printf("0 %u 1", (guint) getgid());
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
    write_text("/proc/self/setgroups", "deny");
    write_text("/proc/self/uid_map", uid_map);
    write_text("/proc/self/gid_map", gid_map);
  } else if (unshare(CLONE_NEWNS) != 0) {
    _exit(NO_NAMESPACE);
  }
  if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("tmpfs", dir, "tmpfs", 0, options) != 0)
    _exit(NO_NAMESPACE);
}

/* Runs @run, which ends by _exit, in a process of its own with a folder of its own. */
static G_GNUC_UNUSED void on_small_disk(void (*run)(const char *dir)) {
  char *dir = new_dir();
  pid_t pid = fork();
  g_assert_cmpint(pid, >=, 0);
  if (pid == 0)
    run(dir);
  int status;
  g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
  dir_remove_tree(dir);
  g_free(dir);
  g_assert_true(WIFEXITED(status));
  if (WEXITSTATUS(status) == NO_NAMESPACE)
    g_error("no user namespaces here: the full disk cannot be staged");
  g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}
