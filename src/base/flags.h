/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * System flags of a message as bits (RFC 9051 2.3.2). Keywords stay strings.
 */
#pragma once

typedef enum {
  MSG_FLAG_SEEN = 1 << 0,
  MSG_FLAG_ANSWERED = 1 << 1,
  MSG_FLAG_FLAGGED = 1 << 2,
  MSG_FLAG_DELETED = 1 << 3,
  MSG_FLAG_DRAFT = 1 << 4,
  MSG_FLAG_RECENT = 1 << 5,
} MsgFlag;
