/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/err.h"

#include <errno.h>

GQuark eml_error_quark(void) {
  return g_quark_from_static_string("eml-error-quark");
}

gboolean eml_error_set_errno(GError **error, EmlError code, int saved_errno, const char *format, ...) {
  va_list args;
  va_start(args, format);
  g_autofree char *what = g_strdup_vprintf(format, args);
  va_end(args);
  if (saved_errno == ENOSPC || saved_errno == EDQUOT)
    code = EML_ERROR_NO_SPACE;
  g_set_error(error, EML_ERROR, code, "%s: %s", what, g_strerror(saved_errno));
  return FALSE;
}
