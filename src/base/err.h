/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The one error domain. A code says what the caller can do about it, whichever layer it comes
 * from; the message is one line for a person. fs/reply.c alone turns codes into errno.
 */
#pragma once

#include <glib.h>

#define EML_ERROR (eml_error_quark())

typedef enum {
  EML_ERROR_FAILED,    /* unexpected: EIO, logged */
  EML_ERROR_OFFLINE,   /* no connection, or it was lost: EHOSTUNREACH, retry later */
  EML_ERROR_TIMEOUT,   /* a deadline passed: ETIMEDOUT */
  EML_ERROR_CANCELLED, /* the asker gave up: EINTR */
  EML_ERROR_AUTH,      /* name or password refused: EACCES */
  EML_ERROR_TLS,       /* certificate or handshake not acceptable: EPROTO */
  EML_ERROR_PROTOCOL,  /* the server broke the protocol: EPROTO */
  EML_ERROR_REFUSED,   /* the server said NO: EACCES */
  EML_ERROR_NOT_FOUND, /* no such folder or message: ENOENT */
  EML_ERROR_STALE,     /* it was there under another UIDVALIDITY or was expunged: ESTALE */
  EML_ERROR_NO_SPACE,  /* local disk full: ENOSPC */
  EML_ERROR_CORRUPT,   /* local data is damaged: EIO, heals itself by fetching again */
  EML_ERROR_BUSY,      /* somebody else holds the account: EBUSY */
  EML_ERROR_CONFIG,    /* the configuration must be mended: EINVAL */
  EML_ERROR_EXISTS,    /* there is one already, or something inside: EEXIST */
  EML_ERROR_TOO_BIG,   /* over a limit of the server: EFBIG */
  EML_ERROR_INVALID,   /* it can never be done as asked: EINVAL */
  EML_ERROR_QUOTA,     /* the account is full: EDQUOT */
  EML_ERROR_NOT_EMPTY, /* the folder still has something in it: ENOTEMPTY */
  EML_ERROR_CROSSING,  /* from the server to this machine or back, it has to be copied: EXDEV */
  EML_ERROR_FIXED,     /* mail has no way to change that: EPERM */
} EmlError;

/* The quark of EML_ERROR. Any thread. */
GQuark eml_error_quark(void);

/* Sets @error to @code with "WHAT: strerror(saved_errno)". Always returns FALSE, so that a caller
 * can return it. ENOSPC and EDQUOT become EML_ERROR_NO_SPACE, whatever @code is. Any thread. */
gboolean eml_error_set_errno(GError **error, EmlError code, int saved_errno, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
