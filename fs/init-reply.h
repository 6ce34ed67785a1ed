/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libfuse before 3.17 forgets to tell the kernel of FUSE_PARALLEL_DIROPS, without which it sends
 * one LOOKUP or READDIR of a directory at a time: a parked one would hold up all others, where
 * they cannot be interrupted. The bit is set in the INIT reply on its way out.
 */
#pragma once

#include "fs/fs.h"

/* After fuse_session_mount, before the first request. Where libfuse does not offer it, nothing. */
void init_reply_fix(struct fuse_session *session, Fs *fs);
