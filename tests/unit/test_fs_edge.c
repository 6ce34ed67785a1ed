/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The small pure parts at the edges: errors to errno, /proc/self/mountinfo, header fields.
 */
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "cli/mounts.h"
#include "fs/header.h"
#include "fs/reply.h"

static void test_every_code_has_its_errno(void) {
  static const struct {
    EmlError code;
    int number;
  } table[] = {
      {EML_ERROR_FAILED, EIO},       {EML_ERROR_OFFLINE, EHOSTUNREACH},
      {EML_ERROR_TIMEOUT, ETIMEDOUT}, {EML_ERROR_CANCELLED, EINTR},
      {EML_ERROR_AUTH, EACCES},      {EML_ERROR_TLS, EPROTO},
      {EML_ERROR_PROTOCOL, EPROTO},  {EML_ERROR_REFUSED, EACCES},
      {EML_ERROR_NOT_FOUND, ENOENT}, {EML_ERROR_STALE, ESTALE},
      {EML_ERROR_NO_SPACE, ENOSPC},  {EML_ERROR_CORRUPT, EIO},
      {EML_ERROR_BUSY, EBUSY},       {EML_ERROR_CONFIG, EINVAL},
      {EML_ERROR_EXISTS, EEXIST},    {EML_ERROR_TOO_BIG, EFBIG},
      {EML_ERROR_INVALID, EINVAL},   {EML_ERROR_QUOTA, EDQUOT},
      {EML_ERROR_NOT_EMPTY, ENOTEMPTY}, {EML_ERROR_CROSSING, EXDEV},
      {EML_ERROR_FIXED, EPERM},
  };
  for (gsize i = 0; i < G_N_ELEMENTS(table); i++) {
    g_autoptr(GError) error = g_error_new_literal(EML_ERROR, (int) table[i].code, "x");
    g_assert_cmpint(reply_errno(error), ==, table[i].number);
  }
  g_autoptr(GError) foreign = g_error_new_literal(G_FILE_ERROR, 3, "foreign");
  g_assert_cmpint(reply_errno(foreign), ==, EIO);
  g_autoptr(GError) odd = g_error_new_literal(EML_ERROR, 4711, "odd");
  g_assert_cmpint(reply_errno(odd), ==, EIO);
}

static void test_unknown_is_logged_once(void) {
  for (guint i = 0; i < 5; i++) {
    g_autoptr(GError) error = g_error_new_literal(EML_ERROR, EML_ERROR_FAILED, "strange thing");
    reply_errno(error);
  }
  g_autofree char *text = log_text();
  const char *first = strstr(text, "strange thing");
  g_assert_nonnull(first);
  g_assert_null(strstr(first + 1, "strange thing"));
}

static void test_mountinfo(void) {
  g_autoptr(GPtrArray) mounts = mounts_parse(
      "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
      "43 27 0:40 / /tmp/a\\040b\\134c rw,nosuid shared:3 master:1 - fuse.emlfs emlfs:anna rw,x=1\n"
      "44 27 0:41 / /x rw - fuse.emlfs emlfs:b\\054c rw\n"
      "short line\n"
      "45 27 0:42 / /y rw -\n"
      "\n");
  g_assert_cmpuint(mounts->len, ==, 3);
  const Mount *mount = mounts->pdata[1];
  g_assert_cmpstr(mount->path, ==, "/tmp/a b\\c");
  g_assert_cmpstr(mount->type, ==, "fuse.emlfs");
  g_assert_cmpstr(mount->source, ==, "emlfs:anna");
  g_assert_cmpuint(mount->major, ==, 0);
  g_assert_cmpuint(mount->minor, ==, 40);
  mount = mounts->pdata[2];
  g_assert_cmpstr(mount->source, ==, "emlfs:b,c");
}

static void check_field(const char *message, const char *name, const char *expected) {
  /* From memory of exactly this size, so that AddressSanitizer sees a read beyond it. */
  gsize size = strlen(message);
  g_autofree char *octets = g_memdup2(message, size);
  g_autofree char *value = header_field(octets, size, name);
  g_assert_cmpstr(value, ==, expected);
}

static void test_header_fields(void) {
  static const char message[] = "Subject-X: no\r\n"
                                "SUBJECT: a folded\r\n\t subject\r\n"
                                "Subject: the second\r\n"
                                "From : Anna <anna@example.org>\r\n"
                                "Cc:\r\n"
                                "X: a\001b\r\n"
                                "\r\n"
                                "To: in the body\r\n";
  check_field(message, "Subject", "a folded  subject");
  check_field(message, "From", "Anna <anna@example.org>");
  check_field(message, "Cc", "");
  check_field(message, "X", "a b");
  check_field(message, "To", NULL);
  check_field("", "To", NULL);
  check_field("To", "To", NULL);
  check_field("To:", "To", "");
  check_field("To: x\n y", "To", "x y");
  check_field(" To: x", "To", NULL);
  check_field("\nTo: x", "To", NULL);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/edge/every-code-has-its-errno", test_every_code_has_its_errno);
  g_test_add_func("/edge/unknown-is-logged-once", test_unknown_is_logged_once);
  g_test_add_func("/edge/mountinfo", test_mountinfo);
  g_test_add_func("/edge/header-fields", test_header_fields);
  return g_test_run();
}
