/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/name-uid.h"

#include <string.h>

guint32 name_uid(const char *name) {
  gsize length = strlen(name);
  if (length < 7 || memcmp(name + length - 4, ".eml", 4) != 0)
    return 0;
  const char *end = name + length - 4, *digit = end;
  guint64 uid = 0, unit = 1;
  while (digit > name && g_ascii_isdigit(digit[-1]) && end - digit < 10) {
    digit--;
    uid += unit * (guint64) (*digit - '0');
    unit *= 10;
  }
  if (digit == end || *digit == '0' || digit - name < 2 || digit[-1] != '.' || uid > G_MAXUINT32)
    return 0;
  return (guint32) uid;
}
