/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The small text files in .control/.
 *
 * A text that is made anew at each look would make tar and cp complain: its size changes between
 * stat and read. So each open takes a snapshot, and stat tells of the last one as long as somebody
 * has it open, else of one at most a second old. Its mtime is when the text was last seen to
 * change. An open file goes on showing its snapshot.
 */
#pragma once

#include "fs/fs.h"

typedef struct VirtualText VirtualText; /* a snapshot; reference counted */

/* @engine is not owned. */
Virtual *virtual_new(Engine *engine);
void virtual_free(Virtual **virtual);

/* Names by id, from 1; NULL after the last. */
const char *virtual_name(guint32 id);
/* 0 when there is none. */
guint32 virtual_id(const char *name);

/* Any thread. */
void virtual_stat(const Fs *fs, guint32 id, struct stat *st_out);

/* The snapshot to read from; virtual_close gives it back. */
VirtualText *virtual_open(Virtual *virtual, guint32 id);
void virtual_close(Virtual *virtual, VirtualText *text);
const char *virtual_data(const VirtualText *text, gsize *size_out);
