/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The mounts of this process's namespace, and how to end one. Nothing here touches a mounted file
 * system itself, so nothing hangs when its daemon does.
 */
#pragma once

#include <gio/gio.h>

/* Mounts of ours have this type, and their source is this prefix and the account. */
#define MOUNTS_TYPE "fuse.emlfs"
#define MOUNTS_SOURCE_PREFIX "emlfs:"

typedef struct {
  guint32 major, minor; /* st_dev of what is mounted */
  char *path, *type, *source;
  guint32 owner; /* the user_id option: who mounted; 0 without one */
} Mount;
void mount_free(Mount *mount);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Mount, mount_free)

/* All mounts in the order of mounting: GPtrArray of Mount with free function. NULL with @error. */
GPtrArray *mounts_list(GError **error);
/* As mounts_list, from text in the form of /proc/self/mountinfo. */
GPtrArray *mounts_parse(const char *text);

/* What is mounted on exactly @path (topmost), or NULL. */
Mount *mounts_at(const char *path);

/* @path made absolute with no links, even when it is the root of a mount whose daemon died. */
char *mounts_resolve(const char *path, GError **error);

/* Unmounts @path: umount2 where that is permitted, else fusermount3. @lazy: detaches it at once,
 * also when in use. BUSY, REFUSED, …; the message is for a person. */
gboolean mounts_detach(const char *path, gboolean lazy, GError **error);

/* Ends the FUSE connection of device minor @minor: every request fails, and the daemon is told.
 * Mounts fusectl if that is permitted and missing. */
gboolean mounts_abort(guint32 minor, GError **error);
