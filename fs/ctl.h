/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * .control/ctl: one command a line is written to it, and the same open file reads the answer back, or
 * why it failed. Until something was written it reads the list of commands.
 *
 * The kernel moves one offset for reading and writing, so an answer begins where the write ended; a
 * read at the beginning of the file has it too.
 */
#pragma once

#include "fs/fs.h"

typedef struct Ctl Ctl; /* one open file */

#define CTL_NAME "ctl"

Ctl *ctl_new(Engine *engine);
void ctl_free(Ctl *ctl);

/* Whether @ino is this file's. */
gboolean ctl_is(guint64 ino);

/* These answer @req. A write runs each of its lines, the last one without a newline too, up to the first
 * that fails: that one's errno is the write's. Any thread. */
void ctl_write(Ctl *ctl, fuse_req_t req, const char *data, gsize size, off_t offset);
void ctl_read(Ctl *ctl, fuse_req_t req, gsize size, off_t offset);

/* What a shell's ">" does: nothing, as there is nothing to truncate. */
void ctl_setattr(const Fs *fs, fuse_req_t req);
