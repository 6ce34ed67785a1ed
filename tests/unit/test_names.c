/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <glib.h>
#include <string.h>

#include "base/name-uid.h"
#include "mime/names.h"

#define NOVEMBER 1795132800 /* 2026-11-20T00:00:00Z */
#define DAY "2026-11-20"

typedef struct {
  const char *header, *name;
} Vector;

/* The name between date and ".7.eml". */
static const Vector vectors[] = {
    {"From: Anna Alpha <anna@example.org>\r\nSubject: Fattura novembre\r\n\r\n",
     "_Anna-Alpha_Fattura-novembre"},
    {"Subject: hi\nFrom: Anna <a@b>\n\n", "_Anna_hi"},
    {"From: anna.alpha@example.org\r\nSubject: Hello\r\n", "_anna.alpha_Hello"},
    {"From: <anna@example.org>\r\nSubject: Hello\r\n", "_anna_Hello"},
    {"From: \"Alpha, Anna\" <a@b.c>\r\nSubject: x\r\n", "_Alpha-Anna_x"},
    {"From: a@b.c (Anna Alpha)\r\nSubject: x\r\n", "_Anna-Alpha_x"},
    {"From: \"\" <a@b.c>\r\nSubject: x\r\n", "_a_x"},
    {"From: \"anna@b.c\" <a@b.c>\r\nSubject: x\r\n", "_anna@b.c_x"},
    {"From: a+tag@b.c\r\nSubject: 1+1\r\n", "_a+tag_1+1"},
    {"FROM: A <a@b>\r\nSUBJECT: Loud\r\n", "_A_Loud"},
    {"from : A <a@b>\r\nsubject\t: Obsolete\r\n", "_A_Obsolete"},
    {"From: A <a@b>\r\n\r\nSubject: in the body\r\n", "_A"},
    {"Subject: only\r\n", "_only"},
    {"", ""},
    {"\r\nFrom: A <a@b>\r\n", ""},
    {"From:\r\nSubject:\r\n", ""},
    {"From: A <a@b>\r\nSubject: ???\r\n", "_A"},
    {"From: A <a@b>\r\nSubject: one\r\nSubject: two\r\n", "_A_one"},
    {"From: A <a@b>\r\nSubjects: no\r\nXSubject: no\r\nSubject: yes\r\n", "_A_yes"},
    {"From: A\r\n <a@b>\r\nSubject: a long\r\n subject\r\n\tfolded\r\n",
     "_A_a-long-subject-folded"},
    {"From: A <a@b>\r\nSubject: Re: [list] what?\r\n", "_A_Re-list-what"},
    {"From: A <a@b>\r\nSubject: a - b -- c\r\n", "_A_a-b-c"},
    {"From: A <a@b>\r\nSubject: --force -rf *\r\n", "_A_force-rf"},
    {"From: -rf <a@b>\r\nSubject: x\r\n", "_rf_x"},
    {"From: A <a@b>\r\nSubject: ../../etc/passwd\r\n", "_A_..-..-etc-passwd"},
    {"From: A <a@b>\r\nSubject: $(rm -rf ~)`id`;'\"\\|&<>\r\n", "_A_rm-rf-id"},
    {"From: A <a@b>\r\nSubject: snake_case v1.2\r\n", "_A_snake_case-v1.2"},
    {"From: A <a@b>\r\nSubject: bell\a and \x1b[31mred\r\n", "_A_bell-and-31mred"},
    {"From: A <a@b>\r\nSubject: tab\there\r\n", "_A_tab-here"},
    {"From: =?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <j@b>\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n",
     "_Jürgen-Müller_Grüße"},
    {"From: A <a@b>\r\nSubject: =?iso-8859-1?q?caf=E9?=\r\n", "_A_café"},
    {"From: A <a@b>\r\nSubject: =?iso-8859-1?q?a?= =?iso-8859-1?q?b?=\r\n", "_A_ab"},
    {"From: A <a@b>\r\nSubject: =?koi8-r?b?8NLJ18XU?=\r\n", "_A_Привет"},
    {"From: A <a@b>\r\nSubject: =?iso-2022-jp?b?GyRCRnxLXBsoQg==?=\r\n", "_A_日本"},
    {"From: A <a@b>\r\nSubject: =?gb2312?b?xOO6ww==?=\r\n", "_A_你好"},
    {"From: \"=?utf-8?q?Zo=C3=AB?=\" <z@b>\r\nSubject: x\r\n", "_Zoë_x"},
    {"From: A <a@b>\r\nSubject: =?utf-8?q?broken\r\n", "_A_utf-8-q-broken"},
    {"From: A <a@b>\r\nSubject: =?nonesuch?q?abc?= end\r\n", NULL},
    {"From: A <a@b>\r\nSubject: =?utf-8?q?nul=00and=0D=0Anewline?=\r\n", NULL},
    {"From: A <a@b>\r\nSubject: =?utf-8?q?=2E=2E=2Fx=2Fy?=\r\n", "_A_..-x-y"},
    {"From: A <a@b>\r\nSubject: Gr\xfc\xdf" "e\r\n", "_A_Grüße"},
    {"From: J\xfcrgen <j@b>\r\nSubject: x\r\n", "_Jürgen_x"},
    {"From: A <a@b>\r\nSubject: \x93quoted\x94 \x80" "5 \x8aok\r\n", "_A_quoted-5-Šok"},
    {"From: Jürgen <j@b>\r\nSubject: Grüße\r\n", "_Jürgen_Grüße"},
    {"From: A <a@b>\r\nSubject: e\xcc\x81t\xc3\xa9\r\n", "_A_été"},
    {"From: A <a@b>\r\nSubject: हिन्दी में\r\n", "_A_हिन्दी-में"},
    {"From: A <a@b>\r\nSubject: ภาษาไทย\r\n", "_A_ภาษาไทย"},
    {"From: A <a@b>\r\nSubject: العربية ١٢٣\r\n", "_A_العربية-١٢٣"},
    {"From: A <a@b>\r\nSubject: 東京タワー 〇\r\n", "_A_東京タワー-〇"},
    {"From: A <a@b>\r\nSubject: party 🎉🎉 time\r\n", "_A_party-time"},
    {"From: 🎉 <fun@b>\r\nSubject: 🎉\r\n", "_fun"},
    {"From: A <a@b>\r\nSubject: gpj.\u202eexe\r\n", "_A_gpj.exe"},
    {"From: A <a@b>\r\nSubject: a\u200bb\u200dc\ufeffd\u00ade\r\n", "_A_abcde"},
    {"From: A <a@b>\r\nSubject: \u3164\u115f\uffa0\r\n", "_A"},
    {"From: A <a@b>\r\nSubject: x\ufe0f\u034fy\r\n", "_A_xy"},
    {"From: A <a@b>\r\nSubject: Z\u0335\u0336\u0337\u0338\u0321\u0322y\r\n",
     "_A_Z\u0335\u0336\u0337y"},
    {"From: A <a@b>\r\nSubject: \u0301\u0301abc\r\n", "_A_abc"},
    {"From: A <a@b>\r\nSubject: 5\u20e3 \u2460 x\u00b2\r\n", "_A_5-x"},
    {"From: Team: a@b.c, d@e.f;\r\nSubject: x\r\n", "_a_x"},
    {"From: undisclosed-recipients:;\r\nSubject: x\r\n", "_undisclosed-recipients_x"},
    {"From: A (one (two (three))) <a@b>\r\nSubject: x\r\n", "_A_x"},
    {"From: One <a@b>, Two <c@d>\r\nSubject: x\r\n", "_One_x"},
    {"From: \"john doe\"@b.c\r\nSubject: x\r\n", "_john-doe_x"},
    {"From: MAILER-DAEMON (Mail Delivery System)\r\nSubject: x\r\n", NULL},
    {"From: A <a@b>\r\nSubject: \xef\xbf\xbd\xef\xbf\xbe x\r\n", "_A_x"},
    {"From: A <a@b>\r\nSubject: a\u2028b\u2029c\xc2\x85" "d\r\n", "_A_a-b-c-d"},
    {"From: A <a@b>\r\nSubject: 2 \u00d7 3 = 6\u00a0\u20ac\r\n", "_A_2-3-6"},
};

static void assert_sound(const char *name, guint32 uid) {
  g_autofree char *end = g_strdup_printf(".%u.eml", uid);
  g_assert_true(g_utf8_validate(name, -1, NULL));
  g_assert_cmpuint(strlen(name), <=, NAME_MAX_BYTES);
  g_assert_true(g_str_has_suffix(name, end));
  g_assert_cmpint(name[0], !=, '.');
  g_assert_cmpint(name[0], !=, '-');
  for (const char *at = name; *at; at = g_utf8_next_char(at)) {
    gunichar c = g_utf8_get_char(at);
    g_assert_false(g_unichar_iscntrl(c) || g_unichar_isspace(c));
    g_assert_true(c >= 0x80 || g_ascii_isalnum((char) c) || strchr("._-@+", (char) c));
    g_assert_cmpint(g_unichar_type(c), !=, G_UNICODE_FORMAT);
  }
  g_assert_null(strstr(name, "--"));
  g_autofree char *composed = g_utf8_normalize(name, -1, G_NORMALIZE_NFC);
  g_assert_cmpstr(composed, ==, name);
  g_assert_cmpuint(name_uid(name), ==, uid);
}

static void test_vectors(void) {
  for (guint i = 0; i < G_N_ELEMENTS(vectors); i++) {
    g_autofree char *name =
        name_for_message(vectors[i].header, strlen(vectors[i].header), NOVEMBER + 3600, 7);
    assert_sound(name, 7);
    g_test_message("%u: %s", i, name);
    if (!vectors[i].name)
      continue;
    g_autofree char *wanted = g_strdup_printf(DAY "%s.7.eml", vectors[i].name);
    g_assert_cmpstr(name, ==, wanted);
  }
}

static void test_dates(void) {
  static const struct {
    gint64 seconds;
    const char *name;
  } dates[] = {
      {0, "1970-01-01.1.eml"},
      {-1, "1969-12-31.1.eml"},
      {-86400, "1969-12-31.1.eml"},
      {-86401, "1969-12-30.1.eml"},
      {951782400, "2000-02-29.1.eml"},
      {NOVEMBER, DAY ".1.eml"},
      {NOVEMBER - 1, "2026-11-19.1.eml"},
      {253402300799, "9999-12-31.1.eml"},
      {253402300800, "9999-12-31.1.eml"},
      {G_MAXINT64, "9999-12-31.1.eml"},
      {G_MININT64, "0001-01-01.1.eml"},
      {-62135596800, "0001-01-01.1.eml"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(dates); i++) {
    g_autofree char *name = name_for_message("", 0, dates[i].seconds, 1);
    g_assert_cmpstr(name, ==, dates[i].name);
  }
}

static void test_long(void) {
  g_autoptr(GString) header = g_string_new("From: ");
  for (guint i = 0; i < 300; i++)
    g_string_append(header, "é");
  g_string_append(header, " <a@b>\r\nSubject: ");
  for (guint i = 0; i < 300; i++)
    g_string_append(header, "日");
  g_autofree char *name = name_for_message(header->str, header->len, NOVEMBER, G_MAXUINT32);
  assert_sound(name, G_MAXUINT32);
  g_assert_cmpuint(strlen(name), >, 195);
  g_assert_nonnull(strstr(name, "é_日"));
  /* No subject: the sender may have all the room. */
  g_autofree char *alone = name_for_message(header->str, 600, NOVEMBER, 1);
  assert_sound(alone, 1);
  g_assert_cmpuint(strlen(alone), >, 195);

  /* A flood of marks, 64 KB of one word, of encoded words, of comments. */
  static const char *const floods[] = {"\xcc\x81", "a", "=?utf-8?q?=C3=A9?= ", "(", "\"", "<", ",",
                                       "=?", "a:", "\\", "é", "\xff", "\r\n ", "@", ";"};
  for (guint i = 0; i < G_N_ELEMENTS(floods); i++) {
    g_autoptr(GString) hostile = g_string_new("From: x");
    while (hostile->len < 65536)
      g_string_append(hostile, floods[i]);
    g_string_append(hostile, "\r\nSubject: y");
    while (hostile->len < 2 * 65536)
      g_string_append(hostile, floods[i]);
    gint64 begun = g_get_monotonic_time();
    g_autofree char *flooded = name_for_message(hostile->str, hostile->len, NOVEMBER, 12);
    g_assert_cmpint(g_get_monotonic_time() - begun, <, G_USEC_PER_SEC);
    assert_sound(flooded, 12);
  }
}

static void test_nul(void) {
  static const char header[] = "From: A\0nna <a@b>\r\nX: \0\r\nSubject: o\0ne\r\n\r\n";
  g_autofree char *name = name_for_message(header, sizeof header - 1, NOVEMBER, 3);
  g_assert_cmpstr(name, ==, DAY "_Anna_one.3.eml");
}

/* Bytes and pieces of headers, thrown together. */
static void test_random(void) {
  static const char *const pieces[] = {
      "From: ", "Subject: ", "\r\n", "\n", "\r\n ", "=?utf-8?q?", "=?utf-8?b?", "?=",
      "=?iso-2022-jp?b?",
      "=?gb18030?b?", "=?utf-7?q?", "=E2=80=AE", "\"", "<", ">", "(", ")", "@", ":", ";", ",", "\\",
      "\u202e", "\u0301", "\u200d", "é", "日", "🎉", "\xff", "\xc3", "%", "/", "..", "-", "_", "a"};
  g_autoptr(GRand) rand = g_rand_new_with_seed(g_test_rand_int() & 0x7fffffff);
  guint rounds = g_test_slow() ? 200000 : 20000;
  for (guint i = 0; i < rounds; i++) {
    g_autoptr(GString) header = g_string_new(i % 2 ? "From: " : "Subject: ");
    guint count = (guint) g_rand_int_range(rand, 0, 60);
    for (guint n = 0; n < count; n++) {
      if (g_rand_boolean(rand))
        g_string_append(header,
                        pieces[g_rand_int_range(rand, 0, (gint32) G_N_ELEMENTS(pieces))]);
      else
        g_string_append_c(header, (char) g_rand_int_range(rand, 0, 256));
    }
    /* Exactly sized, so that a sanitizer sees a read beyond the end. */
    g_autofree char *exact = g_memdup2(header->str, header->len);
    guint32 uid = MAX(g_rand_int(rand), 1);
    g_autofree char *name = name_for_message(exact, header->len, (gint32) g_rand_int(rand), uid);
    assert_sound(name, uid);
    g_autofree char *level = g_strndup(header->str, header->len);
    g_autofree char *component = name_for_level(level);
    g_assert_true(g_utf8_validate(component, -1, NULL));
    g_assert_cmpuint(strlen(component), <=, 255);
    g_assert_cmpuint(strlen(component), >, 0);
    g_assert_true(component[0] != '.' && !strchr(component, '/'));
  }
}

static void test_uid(void) {
  static const struct {
    const char *name;
    guint32 uid;
  } names[] = {
      {"2026-11-20_A_x.4711.eml", 4711}, {"x.1.eml", 1},       {"x.4294967295.eml", G_MAXUINT32},
      {"x.4294967296.eml", 0},           {"x.0.eml", 0},       {"x.01.eml", 0},
      {"x.12345678901.eml", 0},          {".1.eml", 0},        {"1.eml", 0},
      {"x1.eml", 0},                     {"x.1.em", 0},        {"x.1.eml.eml", 0},
      {"x..eml", 0},                     {"", 0},              {".eml", 0},
      {"x.-1.eml", 0},                   {"x.1.EML", 0},       {"a.b.2.3.eml", 3},
      {"x. 1.eml", 0},                   {"x.+1.eml", 0},
  };
  for (guint i = 0; i < G_N_ELEMENTS(names); i++)
    g_assert_cmpuint(name_uid(names[i].name), ==, names[i].uid);
}

static void test_level(void) {
  static const Vector levels[] = {
      {"INBOX", "INBOX"},       {"Été 2026", "Été 2026"},   {"a/b", "a%2Fb"},
      {".", "%2E"},             {"..", "%2E."},             {".hidden", "%2Ehidden"},
      {"a.b", "a.b"},           {"", "%00"},                {"%00", "%2500"},
      {"100%", "100%"},         {"%2F", "%252F"},           {"%zz", "%zz"},
      {"a\tb\x7f", "a%09b%7F"}, {"\xff", "%FF"},            {"a\xc3", "a%C3"},
      {"\xc0\xaf", "%C0%AF"},   {"\xed\xa0\x80", "%ED%A0%80"}, {"-rf", "-rf"},
      {"\xc2\x9b", "%C2%9B"},     {"a b", "a b"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(levels); i++) {
    g_autofree char *name = name_for_level(levels[i].header);
    g_assert_cmpstr(name, ==, levels[i].name);
  }
  g_autofree char *fits = g_strnfill(255, 'x');
  g_autofree char *fitting = name_for_level(fits);
  g_assert_cmpstr(fitting, ==, fits);
  g_autofree char *slashes = g_strnfill(200, '/');
  g_autofree char *cut = name_for_level(slashes);
  g_assert_cmpuint(strlen(cut), <=, 255);
  g_assert_cmpuint(strlen(cut), >, 250);
  g_assert_true(cut[strlen(cut) - 17] == '~' && cut[strlen(cut) - 18] == 'F');
  g_autofree char *other = g_strdup_printf("%s!", slashes);
  g_autofree char *other_cut = name_for_level(other);
  g_assert_cmpstr(cut, !=, other_cut);
  g_autoptr(GString) wide = g_string_new(NULL);
  for (guint i = 0; i < 100; i++)
    g_string_append(wide, "日");
  g_autofree char *wide_cut = name_for_level(wide->str);
  g_assert_true(g_utf8_validate(wide_cut, -1, NULL));
  g_assert_cmpuint(strlen(wide_cut), <=, 255);
}

static gpointer name_many(gpointer data) {
  for (guint n = 0; n < 20; n++)
    for (guint i = 0; i < G_N_ELEMENTS(vectors); i++) {
      g_autofree char *name =
          name_for_message(vectors[i].header, strlen(vectors[i].header), NOVEMBER, 7);
      g_assert_nonnull(name);
    }
  return NULL;
}

static void test_threads(void) {
  GThread *threads[4];
  for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
    threads[i] = g_thread_new("names", name_many, NULL);
  for (guint i = 0; i < G_N_ELEMENTS(threads); i++)
    g_thread_join(threads[i]);
}

static void test_speed(void) {
  static const char *const typical[] = {
      "From: Anna Alpha <anna.alpha@example.org>\r\nSubject: Fattura novembre da pagare\r\n\r\n",
      "From: \"Shop\" <no-reply@shop.example>\r\nSubject: =?utf-8?Q?Ihre_=E2=80=93_Nr?=\r\n\r\n",
      "From: =?utf-8?B?SsO8cmdlbiBNw7xsbGVy?= <jm@example.de>\r\nSubject: Re: Sitzung\r\n\r\n",
  };
  guint rounds = 100000;
  gint64 begun = g_get_monotonic_time();
  for (guint i = 0; i < rounds; i++) {
    const char *header = typical[i % G_N_ELEMENTS(typical)];
    g_free(name_for_message(header, strlen(header), NOVEMBER, i + 1));
  }
  gint64 took = g_get_monotonic_time() - begun;
  g_test_message("%.2f us a header", (double) took / rounds);
  g_test_minimized_result((double) took / rounds, "us a header");
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  mime_init();
  g_test_add_func("/names/vectors", test_vectors);
  g_test_add_func("/names/dates", test_dates);
  g_test_add_func("/names/long", test_long);
  g_test_add_func("/names/nul", test_nul);
  g_test_add_func("/names/random", test_random);
  g_test_add_func("/names/uid", test_uid);
  g_test_add_func("/names/level", test_level);
  g_test_add_func("/names/threads", test_threads);
  if (g_test_perf())
    g_test_add_func("/names/speed", test_speed);
  return g_test_run();
}
