/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Printable ASCII stands for itself, "&" is "&-", all else is a shift: "&", UTF-16BE in base64 with
 * "," for "/" and no padding, "-". Decoding re-encodes and compares: only the canonical spelling
 * passes, so that two names on disk are never one on the server.
 */
#include "imap/utf7.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/* Bits that wait to become base64 digits. */
typedef struct {
  GString *out;
  guint32 bits;
  guint count;
} Shift;

static void shift_unit(Shift *shift, guint16 unit) {
  shift->bits = shift->bits << 16 | unit; /* at most 5 + 16 bits are in use */
  shift->count += 16;
  while (shift->count >= 6) {
    shift->count -= 6;
    g_string_append_c(shift->out, alphabet[shift->bits >> shift->count & 63]);
  }
  shift->bits &= (1u << shift->count) - 1;
}

static void shift_end(Shift *shift) {
  if (shift->count > 0)
    g_string_append_c(shift->out, alphabet[shift->bits << (6 - shift->count) & 63]);
  g_string_append_c(shift->out, '-');
  shift->bits = shift->count = 0;
}

char *utf7_encode(const char *name) {
  Shift shift = {.out = g_string_new(NULL)};
  gboolean shifted = FALSE;
  for (const char *p = name; *p; p = g_utf8_next_char(p)) {
    gunichar c = g_utf8_get_char(p);
    gboolean direct = c >= 0x20 && c <= 0x7e;
    if (shifted && direct) {
      shift_end(&shift);
      shifted = FALSE;
    }
    if (direct) {
      g_string_append_c(shift.out, (char) c);
      if (c == '&')
        g_string_append_c(shift.out, '-');
      continue;
    }
    if (!shifted)
      g_string_append_c(shift.out, '&');
    shifted = TRUE;
    if (c > 0xffff) {
      shift_unit(&shift, (guint16) (0xd800 + ((c - 0x10000) >> 10)));
      shift_unit(&shift, (guint16) (0xdc00 + ((c - 0x10000) & 0x3ff)));
    } else {
      shift_unit(&shift, (guint16) c);
    }
  }
  if (shifted)
    shift_end(&shift);
  return g_string_free(shift.out, FALSE);
}

/* Decodes from after the "&" at @from to the "-"; returns that place, NULL when it is wrong. */
static const char *decode_shift(const char *from, GString *out) {
  guint32 bits = 0;
  guint count = 0;
  gunichar high = 0;
  for (; *from && *from != '-'; from++) {
    const char *digit = strchr(alphabet, *from);
    if (!digit)
      return NULL;
    bits = (bits << 6 | (guint32) (digit - alphabet)) & 0x3fffff;
    count += 6;
    if (count < 16)
      continue;
    count -= 16;
    gunichar unit = bits >> count & 0xffff;
    gboolean low = unit >= 0xdc00 && unit <= 0xdfff;
    if (low != (high != 0) || unit == 0)
      return NULL;
    if (low)
      g_string_append_unichar(out, 0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00));
    high = unit >= 0xd800 && unit <= 0xdbff ? unit : 0;
    if (!low && !high)
      g_string_append_unichar(out, unit);
  }
  return *from == '-' && !high ? from : NULL;
}

char *utf7_decode(const char *name) {
  g_autoptr(GString) out = g_string_new(NULL);
  for (const char *p = name; *p; p++) {
    if (*p < 0x20 || *p > 0x7e)
      return NULL;
    if (*p != '&') {
      g_string_append_c(out, *p);
    } else if (p[1] == '-') {
      g_string_append_c(out, '&');
      p++;
    } else {
      p = decode_shift(p + 1, out);
      if (!p)
        return NULL;
    }
  }
  if (!g_utf8_validate(out->str, (gssize) out->len, NULL))
    return NULL;
  g_autofree char *again = utf7_encode(out->str);
  return g_str_equal(again, name) ? g_strdup(out->str) : NULL;
}
