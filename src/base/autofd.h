/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A descriptor that owns itself: `autofd int fd = -1;` closes itself at the end of its scope; steal_fd() takes it out.
 */
#pragma once

#include <errno.h>
#include <unistd.h>

static inline void autofd_clear(int *fd) {
  if (*fd >= 0) {
    int saved = errno;
    close(*fd);
    errno = saved;
  }
}

#define autofd __attribute__((cleanup(autofd_clear)))

/* Returns *@fd and leaves -1, so that the scope no longer owns it. */
static inline int steal_fd(int *fd) {
  int taken = *fd;
  *fd = -1;
  return taken;
}
