/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/header.h"

#include <string.h>

/* The octets of the line at @at without its end; *@next_out is where the next one begins. */
static gsize line_length(const char *at, const char *end, const char **next_out) {
  const char *newline = memchr(at, '\n', (gsize) (end - at));
  const char *stop = newline ? newline : end;
  *next_out = newline ? newline + 1 : end;
  if (stop > at && stop[-1] == '\r')
    stop--;
  return (gsize) (stop - at);
}

static gboolean is_space(char octet) {
  return octet == ' ' || octet == '\t';
}

char *header_field(const char *octets, gsize size, const char *name) {
  gsize name_length = strlen(name);
  const char *end = octets + size, *next;
  GString *value = NULL;
  for (const char *at = octets; at < end; at = next) {
    gsize length = line_length(at, end, &next);
    if (length == 0)
      break;
    if (is_space(*at)) {
      if (value)
        g_string_append_len(value, at, (gssize) length);
      continue;
    }
    if (value)
      break;
    gsize colon = name_length;
    if (length <= name_length || g_ascii_strncasecmp(at, name, name_length) != 0)
      continue;
    while (colon < length && is_space(at[colon])) /* obsolete, but seen */
      colon++;
    if (colon < length && at[colon] == ':')
      value = g_string_new_len(at + colon + 1, (gssize) (length - colon - 1));
  }
  if (!value)
    return NULL;
  for (gsize i = 0; i < value->len; i++)
    if ((guchar) value->str[i] < 0x20 || value->str[i] == 0x7f)
      value->str[i] = ' ';
  return g_strstrip(g_string_free(value, FALSE));
}
