/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/reply.h"

#include "base/err.h"
#include "base/log.h"

/* Bounds the memory of what was logged already; then it begins anew. */
#define REMEMBERED 256

static void log_once(const GError *error) {
  static GMutex lock; /* guards `seen`; a leaf but for the log's */
  static GHashTable *seen;

  g_mutex_lock(&lock);
  if (!seen)
    seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  if (g_hash_table_size(seen) >= REMEMBERED)
    g_hash_table_remove_all(seen);
  gboolean fresh = g_hash_table_add(seen, g_strdup(error->message));
  g_mutex_unlock(&lock);
  if (fresh)
    log_error("input/output error: %s", error->message);
}

int reply_errno(const GError *error) {
  static const int table[] = {
      [EML_ERROR_OFFLINE] = EHOSTUNREACH, [EML_ERROR_TIMEOUT] = ETIMEDOUT,
      [EML_ERROR_CANCELLED] = EINTR,      [EML_ERROR_AUTH] = EACCES,
      [EML_ERROR_TLS] = EPROTO,           [EML_ERROR_PROTOCOL] = EPROTO,
      [EML_ERROR_REFUSED] = EACCES,       [EML_ERROR_NOT_FOUND] = ENOENT,
      [EML_ERROR_STALE] = ESTALE,         [EML_ERROR_NO_SPACE] = ENOSPC,
      [EML_ERROR_BUSY] = EBUSY,           [EML_ERROR_CONFIG] = EINVAL,
      [EML_ERROR_EXISTS] = EEXIST,        [EML_ERROR_TOO_BIG] = EFBIG,
      [EML_ERROR_INVALID] = EINVAL,       [EML_ERROR_QUOTA] = EDQUOT,
      [EML_ERROR_NOT_EMPTY] = ENOTEMPTY,  [EML_ERROR_CROSSING] = EXDEV,
      [EML_ERROR_FIXED] = EPERM,
  };
  if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return EINTR;
  int number = 0;
  if (error->domain == EML_ERROR && error->code >= 0 && error->code < (int) G_N_ELEMENTS(table))
    number = table[error->code];
  if (number)
    return number;
  log_once(error);
  return EIO;
}

void reply_error(fuse_req_t req, const GError *error) {
  fuse_reply_err(req, reply_errno(error));
}

void reply_error_node(fuse_req_t req, const GError *error) {
  int number = reply_errno(error);
  fuse_reply_err(req, number == ENOENT ? ESTALE : number);
}
