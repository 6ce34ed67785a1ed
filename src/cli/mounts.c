/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "cli/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"

#define FUSECTL "/sys/fs/fuse/connections"

void mount_free(Mount *mount) {
  if (!mount)
    return;
  g_free(mount->path);
  g_free(mount->type);
  g_free(mount->source);
  g_free(mount);
}

/* The kernel writes space, tab, newline and backslash as \ooo. */
static char *unescape(const char *text) {
  GString *plain = g_string_new(NULL);
  for (const char *at = text; *at; at++) {
    if (at[0] == '\\' && at[1] && at[2] && at[3]) {
      g_string_append_c(plain, (char) ((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0')));
      at += 3;
    } else
      g_string_append_c(plain, *at);
  }
  return g_string_free(plain, FALSE);
}

/* "36 35 98:0 /root /mount/point options [tags …] - type source superoptions" */
static Mount *parse_line(const char *line) {
  g_auto(GStrv) words = g_strsplit(line, " ", -1);
  guint count = g_strv_length(words);
  guint dash = 6;
  while (dash < count && !g_str_equal(words[dash], "-"))
    dash++;
  if (dash + 2 >= count)
    return NULL;
  Mount *mount = g_new0(Mount, 1);
  char *colon = NULL;
  mount->major = (guint32) g_ascii_strtoull(words[2], &colon, 10);
  mount->minor = colon && *colon ? (guint32) g_ascii_strtoull(colon + 1, NULL, 10) : 0;
  mount->path = unescape(words[4]);
  mount->type = unescape(words[dash + 1]);
  mount->source = unescape(words[dash + 2]);
  g_auto(GStrv) options = g_strsplit(dash + 3 < count ? words[dash + 3] : "", ",", -1);
  for (char **option = options; *option; option++)
    if (g_str_has_prefix(*option, "user_id="))
      mount->owner = (guint32) g_ascii_strtoull(*option + strlen("user_id="), NULL, 10);
  return mount;
}

GPtrArray *mounts_parse(const char *text) {
  GPtrArray *mounts = g_ptr_array_new_with_free_func((GDestroyNotify) mount_free);
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    Mount *mount = parse_line(*line);
    if (mount)
      g_ptr_array_add(mounts, mount);
  }
  return mounts;
}

GPtrArray *mounts_list(GError **error) {
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, error))
    return NULL;
  return mounts_parse(text);
}

Mount *mounts_at(const char *path) {
  g_autoptr(GPtrArray) mounts = mounts_list(NULL);
  for (guint i = mounts ? mounts->len : 0; i > 0; i--) {
    Mount *mount = g_ptr_array_index(mounts, i - 1);
    if (g_str_equal(mount->path, path)) {
      g_ptr_array_index(mounts, i - 1) = NULL;
      return mount;
    }
  }
  return NULL;
}

char *mounts_resolve(const char *path, GError **error) {
  char *plain = realpath(path, NULL);
  if (!plain && errno == ENOTCONN) {
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    g_autofree char *parent = g_path_get_dirname(absolute);
    g_autofree char *name = g_path_get_basename(absolute);
    g_autofree char *above = realpath(parent, NULL);
    if (above)
      return g_build_filename(above, name, NULL);
  }
  if (!plain) {
    eml_error_set_errno(error, EML_ERROR_NOT_FOUND, errno, "%s", path);
    return NULL;
  }
  char *copy = g_strdup(plain);
  free(plain);
  return copy;
}

static gboolean detach_by_helper(const char *path, gboolean lazy, GError **error) {
  const char *plain[] = {"fusermount3", "-u", "--", path, NULL};
  const char *detach[] = {"fusermount3", "-u", "-z", "--", path, NULL};
  g_autofree char *complaint = NULL;
  int status = 0;
  if (!g_spawn_sync("/", (char **) (lazy ? detach : plain), NULL,
                    G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL, &complaint,
                    &status, error))
    return FALSE;
  if (status == 0)
    return TRUE;
  g_strchomp(complaint);
  gboolean busy = strstr(complaint, "busy") != NULL;
  if (busy)
    g_set_error(error, EML_ERROR, EML_ERROR_BUSY,
                "%s is in use: leave it, close what has files open there, and try again", path);
  else
    g_set_error(error, EML_ERROR, EML_ERROR_REFUSED, "%s", complaint);
  return FALSE;
}

gboolean mounts_detach(const char *path, gboolean lazy, GError **error) {
  if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
    return TRUE;
  if (errno == EPERM || errno == EACCES)
    return detach_by_helper(path, lazy, error);
  if (errno == EBUSY) {
    g_set_error(error, EML_ERROR, EML_ERROR_BUSY,
                "%s is in use: leave it, close what has files open there, and try again", path);
    return FALSE;
  }
  return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot unmount %s", path);
}

gboolean mounts_abort(guint32 minor, GError **error) {
  g_autofree char *path = g_strdup_printf(FUSECTL "/%u/abort", minor);
  autofd int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT && geteuid() == 0
      && mount("fusectl", FUSECTL, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0)
    fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "%s", path);
  if (write(fd, "1", 1) != 1)
    return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "%s", path);
  return TRUE;
}
