/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * umount and status: what can be done from outside of a running mount.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/mounts.h"

int cli_umount(const CliOptions *options) {
  g_autoptr(GError) error = NULL;
  g_autofree char *path = mounts_resolve(options->arguments[0], &error);
  if (!path)
    return cli_fail("%s", error->message);
  g_autoptr(Mount) mount = mounts_at(path);
  if (!mount)
    return cli_fail("%s is not mounted", path);
  if (!g_str_equal(mount->type, MOUNTS_TYPE))
    return cli_fail("%s is a mount of type %s, not one of emlfs", path, mount->type);
  if (!mounts_detach(path, FALSE, &error))
    return cli_fail("%s", error->message);
  return CLI_OK;
}

static gboolean print_status(const Mount *mount) {
  g_autofree char *path = g_build_filename(mount->path, ".control", "status", NULL);
  g_autofree char *text = NULL;
  g_autoptr(GError) error = NULL;
  printf("%s on %s\n", mount->source + strlen(MOUNTS_SOURCE_PREFIX), mount->path);
  if (!g_file_get_contents(path, &text, NULL, &error)) {
    gboolean dead = strstr(error->message, g_strerror(ENOTCONN)) != NULL;
    fflush(stdout);
    cli_fail(dead ? "%s: its emlfs has died; unmount it (emlfs umount) or mount it anew"
                  : "%s: cannot be read",
             mount->path);
    return FALSE;
  }
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line && **line; line++)
    printf("  %s\n", *line);
  return TRUE;
}

int cli_status(const CliOptions *options) {
  const char *account = options->arguments[0];
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) mounts = mounts_list(&error);
  if (!mounts)
    return cli_fail("%s", error->message);
  guint found = 0;
  gboolean ok = TRUE;
  for (guint i = 0; i < mounts->len; i++) {
    const Mount *mount = g_ptr_array_index(mounts, i);
    if (!g_str_equal(mount->type, MOUNTS_TYPE)
        || !g_str_has_prefix(mount->source, MOUNTS_SOURCE_PREFIX))
      continue;
    if (mount->owner != getuid() && getuid() != 0)
      continue; /* somebody else's, whom it would refuse */
    if (account && !g_str_equal(mount->source + strlen(MOUNTS_SOURCE_PREFIX), account))
      continue;
    found++;
    ok = print_status(mount) && ok;
  }
  if (!found && account)
    return cli_fail("%s is not mounted", account);
  if (!found)
    return cli_fail("no account is mounted");
  return ok ? CLI_OK : CLI_FAILED;
}
