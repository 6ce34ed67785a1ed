/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The one place that turns an error into an errno; the table stands at the codes in base/err.h.
 */
#pragma once

#include "fs/fs.h"

/* Never 0. What has no errno of its own is EIO, and logged once for each distinct message. Any
 * thread. */
int reply_errno(const GError *error);

/* Answers a request that named something by path component. */
void reply_error(fuse_req_t req, const GError *error);

/* Answers a request that named a node: what is gone is ESTALE, upon which the kernel looks the
 * path up once more before it tells the program. */
void reply_error_node(fuse_req_t req, const GError *error);
