/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "imap/utf7.h"

static const struct {
  const char *wire, *name;
} pairs[] = {
    {"", ""},
    {"INBOX", "INBOX"},
    {"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"}, /* RFC 3501, 5.1.3 */
    {"Entw&APw-rfe", "Entwürfe"},
    {"a&-b&-", "a&b&"},
    {"&Jjo-!", "☺!"},
    {"&2D3cTQ-", "👍"},
    {"x&AAk-y", "x\ty"},
    {"&AH8-", "\x7f"},
    {"&AOkA6QDp-&-", "ééé&"},
};

static void test_pairs(void) {
  for (gsize i = 0; i < G_N_ELEMENTS(pairs); i++) {
    g_autofree char *name = utf7_decode(pairs[i].wire);
    g_autofree char *wire = utf7_encode(pairs[i].name);
    g_assert_cmpstr(name, ==, pairs[i].name);
    g_assert_cmpstr(wire, ==, pairs[i].wire);
  }
}

static void test_bad_names(void) {
  static const char *const bad[] = {
      "&",          "a&",         "&ZeVnLIqe",   "&AOl-" /* stray bits */, "&AGE-" /* "a" */,
      "&U,BTFw-&ZeVnLIqe-" /* two shifts in a row */, "&2D0-" /* half a pair */,
      "&3E0-",      "&2D0AYQ-",   "&AAA-" /* NUL */, "&A-", "&!!-", "&AOk=-", "&AOk/-",
      "\xc3\xa9",   "a\x01",      "&ACY-" /* "&" shifted */};
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autofree char *name = utf7_decode(bad[i]);
    g_assert_cmpstr(name, ==, NULL);
  }
}

static void test_every_character(void) {
  for (gunichar c = 1; c <= 0x10ffff; c++) {
    if (!g_unichar_validate(c) || (c > 0x3000 && c % 97 != 0))
      continue;
    char text[14] = {'a'};
    int length = g_unichar_to_utf8(c, text + 1);
    length += g_unichar_to_utf8(c, text + 1 + length);
    text[1 + length] = 'z';
    text[2 + length] = '\0';
    g_autofree char *wire = utf7_encode(text);
    g_autofree char *name = utf7_decode(wire);
    g_assert_cmpstr(name, ==, text);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/utf7/pairs", test_pairs);
  g_test_add_func("/utf7/bad_names", test_bad_names);
  g_test_add_func("/utf7/every_character", test_every_character);
  return g_test_run();
}
