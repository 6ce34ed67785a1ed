/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <glib/gstdio.h>
#include <string.h>

#include "base/err.h"
#include "engine/account.h"

static char *folder, *config;

#define MINIMAL "[anna]\naddress = anna@example.org\nimap = imaps://mail.example.org\n"

static void write_config(const char *text) {
  g_assert_true(g_file_set_contents(config, text, -1, NULL));
}

static Account *load(const char *text) {
  g_autoptr(GError) error = NULL;
  write_config(text);
  Account *account = account_load(config, "anna", &error);
  g_assert_no_error(error);
  return account;
}

/* The one line, without the path that begins it. */
static void refuse(const char *text, const char *message) {
  g_autoptr(GError) error = NULL;
  write_config(text);
  g_assert_null(account_load(config, "anna", &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_CONFIG);
  g_assert_null(strchr(error->message, '\n'));
  g_assert_true(g_str_has_prefix(error->message, config));
  g_assert_cmpstr(error->message + strlen(config), ==, message);
}

static void test_defaults(void) {
  g_autoptr(Account) account = load(MINIMAL);
  g_assert_cmpstr(account->name, ==, "anna");
  g_assert_cmpstr(account->user, ==, "anna@example.org");
  g_assert_cmpstr(account->imap_host, ==, "mail.example.org");
  g_assert_cmpuint(account->imap_port, ==, 993);
  g_assert_false(account->imap_starttls);
  g_assert_null(account->smtp_host);
  g_assert_cmpuint(account->cache_size, ==, (guint64) 2 << 30);
  g_assert_cmpuint(account->timeout, ==, 30);
  g_assert_cmpuint(account->connections, ==, 4);
  g_assert_true(g_str_has_suffix(account->cache_dir, "/emlfs/anna"));
  g_assert_true(g_str_has_suffix(account->state_dir, "/emlfs/anna"));
}

static void test_everything(void) {
  g_autoptr(Account) account =
      load(MINIMAL "user = someone else\nsmtp = submission://smtp.example.org\n"
                   "password_command = pass show mail/anna\ncache_size = 500m\ntimeout=5\n"
                   "connections = 8\n");
  g_assert_cmpstr(account->user, ==, "someone else");
  g_assert_cmpuint(account->smtp_port, ==, 587);
  g_assert_true(account->smtp_starttls);
  g_assert_cmpuint(account->cache_size, ==, (guint64) 500 << 20);
  g_assert_cmpuint(account->timeout, ==, 5);
  g_assert_cmpuint(account->connections, ==, 8);
}

static void test_addresses(void) {
  static const struct {
    const char *imap, *host;
    guint16 port;
    gboolean starttls;
  } good[] = {
      {"imap://h", "h", 143, TRUE},
      {"imap://h:1143", "h", 1143, TRUE},
      {"imaps://[::1]:9993", "::1", 9993, FALSE},
      {"IMAPS://mail.example.org", "mail.example.org", 993, FALSE},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
    g_autofree char *text =
        g_strdup_printf("[anna]\naddress = a@b\nimap = %s\n", good[i].imap);
    g_autoptr(Account) account = load(text);
    g_assert_cmpstr(account->imap_host, ==, good[i].host);
    g_assert_cmpuint(account->imap_port, ==, good[i].port);
    g_assert_cmpint(account->imap_starttls, ==, good[i].starttls);
  }
  static const struct {
    const char *imap, *complaint;
  } bad[] = {
      {"mail.example.org", "\"mail.example.org\" is not an address like imaps://mail.example.org:993"},
      {"https://h", "\"https:\" is neither imaps: nor imap:"},
      {"imaps:///", "\"imaps:///\" names no host; write imaps://mail.example.org:993"},
      {"imaps://anna@h", "no user belongs into the address; use the key user"},
      {"imaps://h/", "nothing may follow host and port; write imaps://mail.example.org:993"},
      {"imaps://h?x", "nothing may follow host and port; write imaps://mail.example.org:993"},
      {"imaps://h:0", "0 is not a port"},
      {"imaps://h:65536", "\"imaps://h:65536\" is not an address like imaps://mail.example.org:993"},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autofree char *text = g_strdup_printf("[anna]\naddress = a@b\nimap = %s\n", bad[i].imap);
    g_autofree char *message = g_strdup_printf(": [anna] imap: %s", bad[i].complaint);
    refuse(text, message);
  }
}

static void test_sizes(void) {
  static const struct {
    const char *text;
    guint64 size; /* G_MAXUINT64: refused */
  } sizes[] = {
      {"0", 0}, {"1024", 1024}, {"3K", 3072}, {"2G", (guint64) 2 << 30}, {"1T", (guint64) 1 << 40},
      {"2GB", G_MAXUINT64}, {"-1", G_MAXUINT64}, {"lots", G_MAXUINT64}, {"1.5G", G_MAXUINT64},
      {"99999999T", G_MAXUINT64}, {"99999999999999999999", G_MAXUINT64}, {"2 G", G_MAXUINT64},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
    g_autofree char *text = g_strdup_printf(MINIMAL "cache_size = %s\n", sizes[i].text);
    g_autofree char *message = g_strdup_printf(
        ": [anna] cache_size: \"%s\" is not a size such as 500M or 2G", sizes[i].text);
    if (sizes[i].size == G_MAXUINT64) {
      refuse(text, message);
    } else {
      g_autoptr(Account) account = load(text);
      g_assert_cmpuint(account->cache_size, ==, sizes[i].size);
    }
  }
}

static void test_mistakes(void) {
  refuse("[bert]\n", " has no account [anna]; it has: bert");
  refuse("", " has no account [anna]; it has: none");
  refuse(MINIMAL "pasword_command = x\n",
         ": [anna] pasword_command: unknown key; did you mean password_command?");
  refuse(MINIMAL "Timeout = 3\n", ": [anna] Timeout: unknown key; did you mean timeout?");
  refuse("[anna]\nimap = imaps://h\n", ": [anna] address: is missing; add the e-mail address");
  refuse("[anna]\naddress = a@b\n", ": [anna] imap: is missing; add imap = imaps://HOST");
  refuse(MINIMAL "user =\n", ": [anna] user: is empty; give a value or remove the line");
  refuse(MINIMAL "connections = 9\n", ": [anna] connections: \"9\" is not a number from 1 to 8");
  refuse(MINIMAL "timeout = -3\n", ": [anna] timeout: \"-3\" is not a number from 1 to 3600");
  refuse(MINIMAL "password_command = a\ntoken_command = b\n",
         ": [anna] password_command: give only one of password_command, password_file and "
         "token_command");
  refuse(MINIMAL "ca_file = /nonexistent\n",
         ": [anna] ca_file: /nonexistent: No such file or directory");
  g_autoptr(GError) error = NULL;
  g_assert_null(account_load("/nonexistent", "anna", &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_CONFIG);
}

static void test_unsafe_names(void) {
  static const char *const names[] = {"a/b", "..", ".x", "-x", "a,b", "a b", "a:b"};
  for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *text = g_strdup_printf("[%s]\naddress = a@b\nimap = imaps://h\n", names[i]);
    g_autoptr(GError) error = NULL;
    write_config(text);
    g_assert_null(account_load(config, names[i], &error));
    g_assert_error(error, EML_ERROR, EML_ERROR_CONFIG);
  }
}

static void test_list(void) {
  write_config("[anna]\n[bert]\n");
  g_auto(GStrv) names = account_list(config, NULL);
  g_assert_cmpuint(g_strv_length(names), ==, 2);
}

/* ---- secrets ---- */

static void expect_secret(Account *account, const char *text) {
  g_autoptr(GError) error = NULL;
  gboolean token = TRUE;
  g_autoptr(Secret) secret = account_secret(account, FALSE, &token, &error);
  g_assert_no_error(error);
  g_assert_cmpstr(secret_text(secret), ==, text);
  g_assert_cmpint(token, ==, account->token_command != NULL);
}

static void expect_failure(Account *account, EmlError code) {
  g_autoptr(GError) error = NULL;
  gboolean token;
  g_assert_null(account_secret(account, FALSE, &token, &error));
  g_assert_error(error, EML_ERROR, (int) code);
}

static void test_command(void) {
  static const struct {
    const char *command, *secret; /* NULL: fails */
  } commands[] = {
      {"echo secret", "secret"},
      {"printf 'xxxx yyyy zzzz'", "xxxx yyyy zzzz"},
      {"printf 'a\\\\r\\\\n'", "a"},
      {"cat; echo after", "after"}, /* nothing to read */
      {"echo secret; exit 3", NULL},
      {"true", NULL},
      {"echo one; echo two", NULL},
      {"/nonexistent", NULL},
      {"head -c 70000 /dev/zero | tr '\\\\0' x", NULL},
      {"head -c 65536 /dev/zero | tr '\\\\0' x | head -c 3", "xxx"},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(commands); i++) {
    g_autofree char *text = g_strdup_printf(MINIMAL "password_command = %s\n", commands[i].command);
    g_autoptr(Account) account = load(text);
    if (commands[i].secret)
      expect_secret(account, commands[i].secret);
    else
      expect_failure(account, EML_ERROR_AUTH);
  }
  g_autoptr(Account) account = load(MINIMAL "token_command = echo token\n");
  expect_secret(account, "token");
}

static void test_file(void) {
  g_autofree char *path = g_build_filename(folder, "password", NULL);
  g_assert_true(g_file_set_contents(path, "from file\n", -1, NULL));
  g_assert_cmpint(g_chmod(path, 0600), ==, 0);
  g_autoptr(Account) account = load(MINIMAL "password_file = password\n"); /* beside the file */
  g_assert_cmpstr(account->password_file, ==, path);
  expect_secret(account, "from file");
  g_assert_cmpint(g_chmod(path, 0640), ==, 0);
  expect_failure(account, EML_ERROR_CONFIG);
  g_autofree char *message =
      g_strdup_printf(": [anna] password_file: others can read %s; run: chmod 600 %s", path, path);
  refuse(MINIMAL "password_file = password\n", message);
  g_unlink(path);
  expect_failure(account, EML_ERROR_CONFIG);
  g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
  expect_failure(account, EML_ERROR_CONFIG);
  g_rmdir(path);
}

static Secret *ask(const char *prompt, gpointer data, GError **error) {
  guint *count = data;
  g_autofree char *answer = g_strdup_printf("%s%u", prompt, ++*count);
  return secret_new(answer, -1);
}

static void test_asked_once_until_refused(void) {
  g_autoptr(Account) account = load(MINIMAL);
  expect_failure(account, EML_ERROR_AUTH);
  guint count = 0;
  account->ask = ask;
  account->ask_data = &count;
  expect_secret(account, "Password for anna@example.org: 1");
  expect_secret(account, "Password for anna@example.org: 1");
  gboolean token;
  g_autoptr(Secret) again = account_secret(account, TRUE, &token, NULL);
  g_assert_cmpstr(secret_text(again), ==, "Refused. Password for anna@example.org: 2");
  expect_secret(account, "Refused. Password for anna@example.org: 2");
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  folder = g_dir_make_tmp("emlfs-account-XXXXXX", NULL);
  config = g_build_filename(folder, "emlfs.conf", NULL);
  g_test_add_func("/account/defaults", test_defaults);
  g_test_add_func("/account/everything", test_everything);
  g_test_add_func("/account/addresses", test_addresses);
  g_test_add_func("/account/sizes", test_sizes);
  g_test_add_func("/account/mistakes", test_mistakes);
  g_test_add_func("/account/unsafe-names", test_unsafe_names);
  g_test_add_func("/account/list", test_list);
  g_test_add_func("/account/command", test_command);
  g_test_add_func("/account/file", test_file);
  g_test_add_func("/account/asked-once-until-refused", test_asked_once_until_refused);
  int result = g_test_run();
  g_unlink(config);
  g_rmdir(folder);
  g_free(config);
  g_free(folder);
  return result;
}
