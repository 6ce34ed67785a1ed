/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Modified UTF-7: what decodes encodes to the same; what is UTF-8 encodes to what decodes to it.
 */
#include <string.h>

#include "imap/utf7.h"

int LLVMFuzzerTestOneInput(const guint8 *data, size_t size);

int LLVMFuzzerTestOneInput(const guint8 *data, size_t size) {
  g_autofree char *name = g_strndup((const char *) data, size);
  g_autofree char *decoded = utf7_decode(name);
  if (decoded) {
    g_autofree char *again = utf7_encode(decoded);
    g_assert_cmpstr(again, ==, name);
  }
  if (g_utf8_validate(name, -1, NULL)) {
    g_autofree char *encoded = utf7_encode(name);
    g_autofree char *back = utf7_decode(encoded);
    g_assert_cmpstr(back, ==, name);
  }
  return 0;
}
