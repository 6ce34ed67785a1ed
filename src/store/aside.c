/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The folder of the store: creating, locking, setting aside.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/autofd.h"
#include "base/err.h"
#include "store/store-private.h"

#define ASIDE ".aside-"
#define ASIDES_KEPT 2
#define RESERVE_BYTES (1 << 20)

gboolean dir_open(const char *dir, int *dir_fd_out, int *lock_fd_out, GError **error) {
  if (g_mkdir_with_parents(dir, 0700) != 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot create %s", dir);
  autofd int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir_fd < 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot open %s", dir);
  struct stat status;
  if (fstat(dir_fd, &status) != 0 ||
      ((status.st_mode & 0077) != 0 && fchmod(dir_fd, 0700) != 0))
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot make %s private", dir);
  autofd int lock_fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd < 0)
    return eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "cannot create %s/lock", dir);
  if (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot lock %s", dir);
    char pid[32] = "";
    ssize_t n = pread(lock_fd, pid, sizeof pid - 1, 0);
    pid[MAX(n, 0)] = '\0';
    g_strstrip(pid);
    g_set_error(error, EML_ERROR, EML_ERROR_BUSY, "%s is in use by process %s", dir,
                pid[0] ? pid : "(unknown)");
    return FALSE;
  }
  g_autofree char *pid = g_strdup_printf("%ld\n", (long) getpid());
  /* Only for the message of another process: a full disk is no reason to fail. */
  if (ftruncate(lock_fd, 0) != 0 || pwrite(lock_fd, pid, strlen(pid), 0) < 0)
    errno = 0;
  *dir_fd_out = steal_fd(&dir_fd);
  *lock_fd_out = steal_fd(&lock_fd);
  return TRUE;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk) {
  (void) remove(path);
  return 0;
}

void dir_remove_tree(const char *path) {
  (void) nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Whether @name is BASE.aside-YYYYMMDD-HHMMSS, perhaps with -N. */
static gboolean is_aside(const char *name, const char *base) {
  gsize length = strlen(base);
  if (strncmp(name, base, length) != 0 || !g_str_has_prefix(name + length, ASIDE))
    return FALSE;
  const char *date = name + length + strlen(ASIDE);
  return strlen(date) >= 15 && date[8] == '-' && strspn(date, "0123456789-") == strlen(date);
}

static int compare_names(gconstpointer a, gconstpointer b) {
  return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static void prune_asides(const char *parent, const char *base) {
  g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(GDir) dir = g_dir_open(parent, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name(dir)))
    if (is_aside(name, base))
      g_ptr_array_add(found, g_strdup(name));
  g_ptr_array_sort(found, compare_names);
  for (guint i = 0; i + ASIDES_KEPT < found->len; i++) {
    g_autofree char *path = g_build_filename(parent, g_ptr_array_index(found, i), NULL);
    dir_remove_tree(path);
  }
}

gboolean dir_set_aside(const char *dir, int dir_fd, char **moved_to_out, GError **error) {
  g_autofree char *absolute = g_canonicalize_filename(dir, NULL);
  g_autofree char *parent = g_path_get_dirname(absolute);
  g_autofree char *base = g_path_get_basename(absolute);
  g_autoptr(GDateTime) now = g_date_time_new_now_local();
  g_autofree char *date = g_date_time_format(now, "%Y%m%d-%H%M%S");
  g_autofree char *target = g_strdup_printf("%s/%s" ASIDE "%s", parent, base, date);
  for (guint n = 2; mkdir(target, 0700) != 0; n++) {
    if (errno != EEXIST || n > 99)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot create %s", target);
    g_free(target);
    target = g_strdup_printf("%s/%s" ASIDE "%s-%02u", parent, base, date, n);
  }
  autofd int target_fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  g_autoptr(GDir) entries = g_dir_open(dir, 0, error);
  if (!entries)
    return FALSE;
  /* The lock stays, and so does the lock on it: nobody can come in between. */
  const char *name;
  while ((name = g_dir_read_name(entries)))
    if (strcmp(name, "lock") != 0 && renameat(dir_fd, name, target_fd, name) != 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot set %s/%s aside", dir,
                                 name);
  prune_asides(parent, base);
  *moved_to_out = g_steal_pointer(&target);
  return TRUE;
}

char *boot_id(void) {
  char *id = NULL;
  if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &id, NULL, NULL))
    return g_strdup("");
  return g_strstrip(id);
}

void dir_note_damage(int dir_fd) {
  int fd = openat(dir_fd, "damaged", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0)
    close(fd);
}

gboolean dir_is_damaged(int dir_fd) {
  return faccessat(dir_fd, "damaged", F_OK, 0) == 0;
}

void dir_reserve(int dir_fd) {
  autofd int fd = openat(dir_fd, "reserve", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0 && fallocate(fd, 0, 0, RESERVE_BYTES) != 0)
    unlinkat(dir_fd, "reserve", 0); /* no room, or a file system that cannot */
}

void dir_reserve_drop(int dir_fd) {
  unlinkat(dir_fd, "reserve", 0);
}
