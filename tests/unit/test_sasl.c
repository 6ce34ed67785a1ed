/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <string.h>

#include "base/err.h"
#include "net/sasl.h"

static Sasl *make(const char *mechanism, const char *user, const char *host, guint16 port,
                  const char *password, const char *token) {
  g_autoptr(GError) error = NULL;
  g_autoptr(Secret) secret = secret_new(password ? password : token, -1);
  const char *offered[] = {"GSSAPI", mechanism, NULL};
  SaslLogin login = {user, host, port, password ? secret : NULL, token ? secret : NULL};
  Sasl *sasl = sasl_new(offered, &login, &error);
  g_assert_no_error(error);
  return sasl;
}

/* One step that must answer @wanted. */
static void expect(Sasl *sasl, const char *challenge, const char *wanted, gsize wanted_size) {
  g_autoptr(GError) error = NULL;
  gsize size;
  g_autofree char *response =
      sasl_step(sasl, challenge, challenge ? strlen(challenge) : 0, &size, &error);
  g_assert_no_error(error);
  g_assert_cmpuint(size, ==, wanted_size);
  g_assert_true(memcmp(response, wanted, size) == 0);
}

static void refuse(Sasl *sasl, const char *challenge, int code) {
  g_autoptr(GError) error = NULL;
  gsize size;
  g_assert_null(sasl_step(sasl, challenge, strlen(challenge), &size, &error));
  g_assert_error(error, EML_ERROR, code);
  g_assert_false(sasl_complete(sasl));
}

#define TEXT(text) text, sizeof text - 1

/* RFC 4616, 4 */
static void test_plain(void) {
  g_autoptr(Sasl) sasl = make("plain", "tim", NULL, 0, "tanstaaftanstaaf", NULL);
  g_assert_cmpstr(sasl_mechanism(sasl), ==, "PLAIN");
  g_assert_true(sasl_client_first(sasl));
  g_assert_false(sasl_complete(sasl));
  expect(sasl, NULL, TEXT("\0tim\0tanstaaftanstaaf"));
  g_assert_true(sasl_complete(sasl));
}

static void test_login(void) {
  g_autoptr(Sasl) sasl = make("LOGIN", "tim", NULL, 0, "tanstaaf", NULL);
  g_assert_false(sasl_client_first(sasl));
  expect(sasl, "Username:", TEXT("tim"));
  g_assert_false(sasl_complete(sasl));
  expect(sasl, "Password:", TEXT("tanstaaf"));
  g_assert_true(sasl_complete(sasl));
}

#define NONCE "rOprNGfwEbeRWgbNEkqO"
#define BOTH "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define FIRST "r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"

static Sasl *scram(void) {
  Sasl *sasl = make("SCRAM-SHA-256", "user", NULL, 0, "pencil", NULL);
  sasl_set_nonce(sasl, NONCE);
  expect(sasl, NULL, TEXT("n,,n=user,r=" NONCE));
  return sasl;
}

/* RFC 7677, 3 */
static void test_scram(void) {
  g_autoptr(Sasl) sasl = scram();
  expect(sasl, FIRST, TEXT("c=biws,r=" BOTH ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
  g_assert_false(sasl_complete(sasl));
  expect(sasl, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", TEXT(""));
  g_assert_true(sasl_complete(sasl));
}

static void test_scram_wrong_signature(void) {
  static const char *const finals[] = {
      "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=", "v=AAAA", "e=other-error", "", "x"};
  for (gsize i = 0; i < G_N_ELEMENTS(finals); i++) {
    g_autoptr(Sasl) sasl = scram();
    expect(sasl, FIRST, TEXT("c=biws,r=" BOTH ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
    refuse(sasl, finals[i], EML_ERROR_AUTH);
  }
}

static void test_scram_wrong_challenge(void) {
  static const char *const firsts[] = {
      "", ",", "r=" NONCE ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", /* no nonce of the server's */
      "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "r=" BOTH ",s=,i=4096", "r=" BOTH ",i=4096",
      "r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==", "r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
      "r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967295",
      "r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-4096",
      "m=ext,r=" BOTH ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"};
  for (gsize i = 0; i < G_N_ELEMENTS(firsts); i++) {
    g_autoptr(Sasl) sasl = scram();
    refuse(sasl, firsts[i], EML_ERROR_PROTOCOL);
  }
}

static void test_scram_names_are_escaped(void) {
  g_autoptr(Sasl) sasl = make("SCRAM-SHA-256", "a=b,c\xc2\xad", NULL, 0, "x", NULL);
  sasl_set_nonce(sasl, NONCE);
  expect(sasl, NULL, TEXT("n,,n=a=3Db=2Cc,r=" NONCE));
}

static void test_scram_control_characters(void) {
  g_autoptr(Sasl) sasl = make("SCRAM-SHA-256", "user", NULL, 0, "pen\x01" "cil", NULL);
  sasl_set_nonce(sasl, NONCE);
  expect(sasl, NULL, TEXT("n,,n=user,r=" NONCE));
  refuse(sasl, FIRST, EML_ERROR_AUTH);
}

#define TOKEN "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="

/* RFC 7628, 4.1 and 4.3 */
static void test_oauthbearer(void) {
  g_autoptr(Sasl) sasl =
      make("OAUTHBEARER", "user@example.com", "server.example.com", 143, NULL, TOKEN);
  expect(sasl, NULL,
         TEXT("n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer " TOKEN
              "\1\1"));
  g_assert_true(sasl_complete(sasl));
  expect(sasl, "{\"status\":\"invalid_token\"}", TEXT("\1"));
  g_assert_false(sasl_complete(sasl));
}

static void test_xoauth2(void) {
  g_autoptr(Sasl) sasl = make("XOAUTH2", "someuser@example.com", NULL, 0, NULL, TOKEN);
  expect(sasl, NULL, TEXT("user=someuser@example.com\1auth=Bearer " TOKEN "\1\1"));
  expect(sasl, "{}", TEXT(""));
}

static void test_choice(void) {
  static const char *const all[] = {"LOGIN", "PLAIN", "scram-sha-256", "XOAUTH2", "OAUTHBEARER",
                                    NULL};
  static const char *const none[] = {"GSSAPI", NULL};
  g_autoptr(GError) error = NULL;
  g_autoptr(Secret) secret = secret_new("secret-word", -1);
  SaslLogin by_password = {"u", "h", 1, secret, NULL}, by_token = {"u", "h", 1, NULL, secret};
  g_autoptr(Sasl) password = sasl_new(all, &by_password, &error);
  g_assert_cmpstr(sasl_mechanism(password), ==, "SCRAM-SHA-256");
  g_autoptr(Sasl) token = sasl_new(all, &by_token, &error);
  g_assert_cmpstr(sasl_mechanism(token), ==, "OAUTHBEARER");
  g_assert_null(sasl_new(none, &by_password, &error));
  g_assert_error(error, EML_ERROR, EML_ERROR_AUTH);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/sasl/" #name, test_##name)
  TEST(plain);
  TEST(login);
  TEST(scram);
  TEST(scram_wrong_signature);
  TEST(scram_wrong_challenge);
  TEST(scram_names_are_escaped);
  TEST(scram_control_characters);
  TEST(oauthbearer);
  TEST(xoauth2);
  TEST(choice);
#undef TEST
  return g_test_run();
}
