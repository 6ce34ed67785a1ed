/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/maildir.h"

static const EngineMsg MSG = {7, 42};

static void check_name(const char *plain, guint flags, const char *keywords, const char *cur) {
  g_autofree char *name = maildir_name(MSG, plain, MAILDIR_CUR, maildir_flags(flags, keywords));
  g_assert_cmpstr(name, ==, cur);
  g_auto(MaildirParsed) parsed = {0};
  g_assert_true(maildir_parse(name, &parsed));
  if (parsed.msg.uid) {
    g_assert_cmpuint(parsed.msg.uid, ==, MSG.uid);
    g_assert_cmpuint(parsed.msg.space, ==, MSG.space);
  } else {
    g_assert_cmpstr(parsed.plain, ==, plain);
  }
  g_assert_cmpuint(parsed.letters, ==, maildir_flags(flags, keywords));
  g_assert_cmpuint(maildir_system_flags(parsed.letters), ==, flags);
}

static void test_names(void) {
  g_autofree char *long_name = g_strnfill(221, 'x');
  g_autofree char *long_plain = g_strconcat(long_name, ".eml", NULL);
  check_name("2026_A_B.5.eml", 0, "", "2026_A_B.5:2,");
  check_name("x.eml", MSG_FLAG_SEEN | MSG_FLAG_FLAGGED, "", "x:2,FS");
  check_name("x.eml", 31, "$forwarded $JUNK none", "x:2,DFPRSTa");
  check_name("x,U=5.eml", MSG_FLAG_SEEN, "$label1 $Submitted NonJunk", "x,U=5:2,Sfln");
  check_name("a:b.eml", MSG_FLAG_SEEN, "", "42.7.emlfs:2,S");
  check_name("x.txt", 0, "", "42.7.emlfs:2,");
  check_name("1.2.emlfs.eml", 0, "", "42.7.emlfs:2,");
  check_name(long_plain, 0, "", "42.7.emlfs:2,");
}

static void test_in_new(void) {
  g_autofree char *name = maildir_name(MSG, "x.eml", MAILDIR_NEW, 0);
  g_assert_cmpstr(name, ==, "x");
}

static void test_foreign_names(void) {
  static const char *const foreign[] = {"", ".x", ".x:2,", ":2,S", "x:1,S", "x:", "x:2", "x:y:2,S",
                                        "0.7.emlfs", "42.0.emlfs", "42.emlfs", "x.emlfs",
                                        "99999999999.7.emlfs"};
  for (gsize i = 0; i < G_N_ELEMENTS(foreign); i++) {
    g_auto(MaildirParsed) parsed = {0};
    g_assert_false(maildir_parse(foreign[i], &parsed));
  }
  static const char *const chosen[] = {"42.7.emlfs2", "42.7", "1.M2P3.host"};
  for (gsize i = 0; i < G_N_ELEMENTS(chosen); i++) {
    g_auto(MaildirParsed) parsed = {0};
    g_autofree char *plain = g_strconcat(chosen[i], ".eml", NULL);
    g_assert_true(maildir_parse(chosen[i], &parsed));
    g_assert_cmpstr(parsed.plain, ==, plain);
  }
  g_auto(MaildirParsed) parsed = {0};
  g_assert_true(maildir_parse("x:2,SXF?", &parsed)); /* any order, unknown ones ignored */
  g_assert_cmpuint(maildir_system_flags(parsed.letters), ==, MSG_FLAG_SEEN | MSG_FLAG_FLAGGED);
}

static void check_keywords(guint flags, const char *letters_of, const char *keywords,
                           const char *expected) {
  g_autofree char *text = maildir_keywords(maildir_flags(flags, letters_of), keywords);
  g_assert_cmpstr(text, ==, expected);
}

static void test_keywords(void) {
  check_keywords(0, "", "own other", "own other");
  check_keywords(0, "", "own $Junk other", "own other");
  check_keywords(0, "$Junk", "own $junk", "own $junk");
  check_keywords(MSG_FLAG_SEEN, "$Junk $Forwarded", "own", "own $Forwarded $Junk");
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/maildir/names", test_names);
  g_test_add_func("/maildir/in-new", test_in_new);
  g_test_add_func("/maildir/foreign-names", test_foreign_names);
  g_test_add_func("/maildir/keywords", test_keywords);
  return g_test_run();
}
