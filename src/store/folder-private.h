/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What folder.c and apply.c share.
 */
#pragma once

#include "store/store-private.h"

/* A folder of the columns that every STMT_FOLDER_* query selects. */
StoreFolder *folder_from_row(sqlite3_stmt *stmt);

/* The one spelling of a mailbox name: INBOX is the same in any case (RFC 9051 5.1). */
const char *folder_mailbox_key(const char *mailbox);
