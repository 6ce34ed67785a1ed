/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <string.h>

#include "base/err.h"
#include "imap/command.h"

/* All parts of @command, joined by "|". */
static char *written(Command *command) {
  GString *text = g_string_new(NULL);
  gsize size;
  const char *part;
  for (guint i = 0; (part = command_part(command, i, &size)); i++) {
    if (i > 0)
      g_string_append_c(text, '|');
    g_string_append_len(text, part, (gssize) size);
  }
  return g_string_free(text, FALSE);
}

static void expect(CommandLiterals literals, const char *argument, const char *wanted) {
  g_autoptr(GError) error = NULL;
  g_autoptr(Command) command = command_new(literals, "STATUS");
  command_string(command, argument);
  command_raw(command, "(MESSAGES)");
  g_assert_true(command_check(command, &error));
  g_autofree char *text = written(command);
  g_assert_cmpstr(text, ==, wanted);
}

static void test_strings(void) {
  expect(COMMAND_LITERAL_SYNC, "INBOX", "STATUS INBOX (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "", "STATUS \"\" (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "nil", "STATUS \"nil\" (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "a b", "STATUS \"a b\" (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "a\"b\\c", "STATUS \"a\\\"b\\\\c\" (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "100%*(){}[]", "STATUS \"100%*(){}[]\" (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_SYNC, "é", "STATUS {2}\r\n|é (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_MINUS, "é", "STATUS {2+}\r\né (MESSAGES)\r\n");
  expect(COMMAND_LITERAL_PLUS, "\t", "STATUS {1+}\r\n\t (MESSAGES)\r\n");
}

static void test_long_strings(void) {
  g_autofree char *text = g_strnfill(5000, 'x');
  g_autofree char *sync = g_strdup_printf("STATUS {5000}\r\n|%s (MESSAGES)\r\n", text);
  g_autofree char *plus = g_strdup_printf("STATUS {5000+}\r\n%s (MESSAGES)\r\n", text);
  expect(COMMAND_LITERAL_SYNC, text, sync);
  expect(COMMAND_LITERAL_MINUS, text, sync); /* LITERAL- ends at 4,096 */
  expect(COMMAND_LITERAL_PLUS, text, plus);
}

static void test_line_breaks_are_refused(void) {
  static const char *const bad[] = {"a\rb", "a\nb", "x\r\nA1 DELETE INBOX"};
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL, raw_error = NULL;
    g_autoptr(Command) command = command_new(COMMAND_LITERAL_PLUS, "STATUS");
    command_string(command, bad[i]);
    g_assert_false(command_check(command, &error));
    g_assert_error(error, EML_ERROR, EML_ERROR_FAILED);
    g_autoptr(Command) raw = command_new(COMMAND_LITERAL_PLUS, "UID FETCH");
    command_raw(raw, bad[i]);
    g_assert_false(command_check(raw, &raw_error));
  }
  g_autoptr(Command) brace = command_new(COMMAND_LITERAL_PLUS, "UID FETCH");
  command_raw(brace, "{3}");
  g_assert_false(command_check(brace, NULL));
}

/* Several files in one command. */
static void test_files(void) {
  static const struct {
    CommandLiterals literals;
    const char *wanted;
    guint gaps[2];
  } cases[] = {
      {COMMAND_LITERAL_PLUS, "APPEND x {1+}\r\n| () {4097}\r\n|\r\n",
       {COMMAND_FILE, COMMAND_FILE | COMMAND_GO}},
      {COMMAND_LITERAL_MINUS, "APPEND x {1+}\r\n| () {4097}\r\n|\r\n",
       {COMMAND_FILE, COMMAND_FILE | COMMAND_GO}},
      {COMMAND_LITERAL_SYNC, "APPEND x {1}\r\n| () {4097}\r\n|\r\n",
       {COMMAND_FILE | COMMAND_GO, COMMAND_FILE | COMMAND_GO}},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(Command) command = command_new(cases[i].literals, "APPEND");
    command_string(command, "x");
    command_file(command, 1, FALSE);
    command_raw(command, "()");
    command_file(command, 4097, cases[i].literals == COMMAND_LITERAL_PLUS);
    g_autofree char *text = written(command);
    g_assert_cmpstr(text, ==, cases[i].wanted);
    for (guint part = 0; part < 2; part++)
      g_assert_cmpuint(command_gap(command, part), ==, cases[i].gaps[part]);
    g_assert_cmpuint(command_gap(command, 2), ==, 0);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/command/strings", test_strings);
  g_test_add_func("/command/long_strings", test_long_strings);
  g_test_add_func("/command/line_breaks_are_refused", test_line_breaks_are_refused);
  g_test_add_func("/command/files", test_files);
  return g_test_run();
}
