/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/account.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gunixinputstream.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"

#define COMMAND_MS 60000
#define MAX_SECRET (64 * 1024)

/* ---- the file ---- */

typedef struct {
  const char *path, *group;
  GKeyFile *file;
  Account *account;
} Loader;

/* One key: where its text goes, and how. */
typedef struct Key {
  const char *name;
  gsize offset; /* of the field in Account */
  gboolean (*take)(const Loader *loader, const struct Key *key, const char *value, GError **error);
  gint64 least, most; /* of a number */
} Key;

static gboolean complain(const Loader *loader, const char *key, GError **error, const char *format,
                         ...) G_GNUC_PRINTF(4, 5);
static gboolean complain(const Loader *loader, const char *key, GError **error, const char *format,
                         ...) {
  va_list args;
  va_start(args, format);
  g_autofree char *what = g_strdup_vprintf(format, args);
  va_end(args);
  g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "%s: [%s] %s: %s", loader->path, loader->group,
              key, what);
  return FALSE;
}

#define FIELD(loader, key, type) ((type *) (gpointer) ((char *) (loader)->account + (key)->offset))

static gboolean take_text(const Loader *loader, const Key *key, const char *value, GError **error) {
  if (!*value)
    return complain(loader, key->name, error, "is empty; give a value or remove the line");
  *FIELD(loader, key, char *) = g_strdup(value);
  return TRUE;
}

/* A leading ~/ is the home directory; a relative path is relative to the configuration file. */
static gboolean take_path(const Loader *loader, const Key *key, const char *value, GError **error) {
  if (!*value)
    return complain(loader, key->name, error, "is empty; give a path or remove the line");
  g_autofree char *folder = g_path_get_dirname(loader->path);
  g_autofree char *base = g_canonicalize_filename(folder, NULL);
  *FIELD(loader, key, char *) = g_str_has_prefix(value, "~/")
                                    ? g_build_filename(g_get_home_dir(), value + 2, NULL)
                                    : g_canonicalize_filename(value, base);
  return TRUE;
}

static gboolean take_number(const Loader *loader, const Key *key, const char *value,
                            GError **error) {
  guint64 number;
  if (!g_ascii_string_to_unsigned(value, 10, (guint64) key->least, (guint64) key->most, &number,
                                  NULL))
    return complain(loader, key->name, error,
                    "\"%s\" is not a number from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT, value,
                    key->least, key->most);
  *FIELD(loader, key, guint) = (guint) number;
  return TRUE;
}

static gboolean take_size(const Loader *loader, const Key *key, const char *value, GError **error) {
  static const char units[] = "KMGT";
  char *end = NULL;
  errno = 0;
  guint64 number = g_ascii_isdigit(*value) ? g_ascii_strtoull(value, &end, 10) : 0;
  const char *unit = end && *end ? strchr(units, g_ascii_toupper(*end)) : NULL;
  guint shift = unit ? 10 * (guint) (unit - units + 1) : 0;
  gboolean ok = end && errno == 0 && (*end == '\0' || (unit && end[1] == '\0'))
                && number <= ((guint64) G_MAXINT64 >> shift);
  if (!ok)
    return complain(loader, key->name, error, "\"%s\" is not a size such as 500M or 2G", value);
  *FIELD(loader, key, guint64) = number << shift;
  return TRUE;
}

typedef struct {
  const char *scheme;
  guint16 port;
  gboolean starttls;
} Scheme;

static const Scheme imap_schemes[] = {{"imaps", 993, FALSE}, {"imap", 143, TRUE}};
static const Scheme smtp_schemes[] = {{"submission", 587, TRUE}, {"submissions", 465, FALSE}};

static gboolean take_uri(const Loader *loader, const Key *key, const char *value,
                         const Scheme *schemes, const char *example, char **host_out,
                         guint16 *port_out, gboolean *starttls_out, GError **error) {
  g_autoptr(GError) local = NULL;
  g_autoptr(GUri) uri = g_uri_parse(value, G_URI_FLAGS_NONE, &local);
  if (!uri)
    return complain(loader, key->name, error, "\"%s\" is not an address like %s", value, example);
  const Scheme *scheme = NULL;
  for (guint i = 0; i < 2 && !scheme; i++)
    if (g_str_equal(schemes[i].scheme, g_uri_get_scheme(uri)))
      scheme = &schemes[i];
  if (!scheme)
    return complain(loader, key->name, error, "\"%s:\" is neither %s: nor %s:",
                    g_uri_get_scheme(uri), schemes[0].scheme, schemes[1].scheme);
  const char *host = g_uri_get_host(uri);
  if (!host || !*host)
    return complain(loader, key->name, error, "\"%s\" names no host; write %s", value, example);
  if (g_uri_get_userinfo(uri))
    return complain(loader, key->name, error, "no user belongs into the address; use the key user");
  if (*g_uri_get_path(uri) || g_uri_get_query(uri) || g_uri_get_fragment(uri))
    return complain(loader, key->name, error, "nothing may follow host and port; write %s", example);
  int port = g_uri_get_port(uri);
  if (port == 0 || port > 65535)
    return complain(loader, key->name, error, "%d is not a port", port);
  *host_out = g_strdup(host);
  *port_out = port < 0 ? scheme->port : (guint16) port;
  *starttls_out = scheme->starttls;
  return TRUE;
}

static gboolean take_imap(const Loader *loader, const Key *key, const char *value, GError **error) {
  Account *account = loader->account;
  return take_uri(loader, key, value, imap_schemes, "imaps://mail.example.org:993",
                  &account->imap_host, &account->imap_port, &account->imap_starttls, error);
}

static gboolean take_smtp(const Loader *loader, const Key *key, const char *value, GError **error) {
  Account *account = loader->account;
  return take_uri(loader, key, value, smtp_schemes, "submission://mail.example.org:587",
                  &account->smtp_host, &account->smtp_port, &account->smtp_starttls, error);
}

static gboolean take_delete(const Loader *loader, const Key *key, const char *value,
                            GError **error) {
  loader->account->expunge = g_str_equal(value, "expunge");
  return loader->account->expunge || g_str_equal(value, "trash") ||
         complain(loader, key->name, error, "\"%s\" is neither trash nor expunge", value);
}

static const Key keys[] = {
    {"address", G_STRUCT_OFFSET(Account, address), take_text, 0, 0},
    {"user", G_STRUCT_OFFSET(Account, user), take_text, 0, 0},
    {"imap", 0, take_imap, 0, 0},
    {"smtp", 0, take_smtp, 0, 0},
    {"password_command", G_STRUCT_OFFSET(Account, password_command), take_text, 0, 0},
    {"password_file", G_STRUCT_OFFSET(Account, password_file), take_path, 0, 0},
    {"token_command", G_STRUCT_OFFSET(Account, token_command), take_text, 0, 0},
    {"ca_file", G_STRUCT_OFFSET(Account, ca_file), take_path, 0, 0},
    {"cache_size", G_STRUCT_OFFSET(Account, cache_size), take_size, 0, 0},
    {"delete", 0, take_delete, 0, 0},
    {"connections", G_STRUCT_OFFSET(Account, connections), take_number, 1, 8},
    {"timeout", G_STRUCT_OFFSET(Account, timeout), take_number, 1, 3600},
};

/* Levenshtein distance; keys are short. */
static guint distance(const char *a, const char *b) {
  gsize columns = strlen(b) + 1;
  g_autofree guint *row = g_new(guint, columns);
  for (gsize j = 0; j < columns; j++)
    row[j] = (guint) j;
  for (gsize i = 1; a[i - 1]; i++) {
    guint diagonal = row[0];
    row[0] = (guint) i;
    for (gsize j = 1; j < columns; j++) {
      guint change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
    }
  }
  return row[columns - 1];
}

static const Key *find_key(const char *name, const Key **nearest_out) {
  guint best = G_MAXUINT;
  for (gsize i = 0; i < G_N_ELEMENTS(keys); i++) {
    guint far = distance(name, keys[i].name);
    if (far == 0)
      return &keys[i];
    if (far < best) {
      best = far;
      *nearest_out = &keys[i];
    }
  }
  return NULL;
}

static gboolean load_keys(const Loader *loader, GError **error) {
  g_auto(GStrv) names = g_key_file_get_keys(loader->file, loader->group, NULL, error);
  if (!names)
    return FALSE;
  for (char **name = names; *name; name++) {
    const Key *nearest = NULL;
    const Key *key = find_key(*name, &nearest);
    if (!key)
      return complain(loader, *name, error, "unknown key; did you mean %s?", nearest->name);
    g_autofree char *value = g_key_file_get_string(loader->file, loader->group, *name, NULL);
    if (!value)
      return complain(loader, *name, error, "is not valid text (a backslash is written \\\\)");
    g_strstrip(value);
    if (!key->take(loader, key, value, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean check_private(const Loader *loader, const char *key, const char *path,
                              GError **error) {
  struct stat st;
  if (stat(path, &st) != 0)
    return complain(loader, key, error, "%s: %s", path, g_strerror(errno));
  if (!S_ISREG(st.st_mode))
    return complain(loader, key, error, "%s is not a regular file", path);
  if (st.st_mode & 077)
    return complain(loader, key, error, "others can read %s; run: chmod 600 %s", path, path);
  return TRUE;
}

static gboolean check_account(const Loader *loader, GError **error) {
  Account *account = loader->account;
  if (!account->address)
    return complain(loader, "address", error, "is missing; add the e-mail address");
  if (!account->imap_host)
    return complain(loader, "imap", error, "is missing; add imap = imaps://HOST");
  guint sources = (account->password_command != NULL) + (account->password_file != NULL)
                  + (account->token_command != NULL);
  if (sources > 1)
    return complain(loader, "password_command", error,
                    "give only one of password_command, password_file and token_command");
  if (account->password_file
      && !check_private(loader, "password_file", account->password_file, error))
    return FALSE;
  if (account->ca_file && access(account->ca_file, R_OK) != 0)
    return complain(loader, "ca_file", error, "%s: %s", account->ca_file, g_strerror(errno));
  return TRUE;
}

char *account_config_path(const char *given) {
  return given ? g_strdup(given)
               : g_build_filename(g_get_user_config_dir(), "emlfs", "emlfs.conf", NULL);
}

static GKeyFile *open_config(const char *path, GError **error) {
  g_autoptr(GError) local = NULL;
  g_autoptr(GKeyFile) file = g_key_file_new();
  if (g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, &local))
    return g_steal_pointer(&file);
  if (g_error_matches(local, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG,
                "%s does not exist; create it with a group for the account (emlfs --help shows one)",
                path);
  else
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "%s: %s", path, local->message);
  return NULL;
}

/* The name becomes a directory of cache and state, and part of the mount's source. */
static gboolean name_is_safe(const char *name) {
  if (!*name || *name == '.' || *name == '-' || strlen(name) > 64)
    return FALSE;
  for (const guchar *at = (const guchar *) name; *at; at++)
    if (*at < 0x21 || *at == 0x7f || strchr("/\\,:", *at))
      return FALSE;
  return TRUE;
}

Account *account_load(const char *config_path, const char *name, GError **error) {
  g_autoptr(GKeyFile) file = open_config(config_path, error);
  if (!file)
    return NULL;
  if (!g_key_file_has_group(file, name)) {
    g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
    g_autofree char *all = g_strjoinv(", ", groups);
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "%s has no account [%s]; it has: %s",
                config_path, name, *all ? all : "none");
    return NULL;
  }
  if (!name_is_safe(name)) {
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG,
                "%s: [%s] cannot be an account name: use letters, digits, @ . _ + and -",
                config_path, name);
    return NULL;
  }
  g_autoptr(Account) account = g_new0(Account, 1);
  account->name = g_strdup(name);
  account->cache_size = (guint64) 2 << 30;
  account->connections = 4;
  account->timeout = 30;
  account->cache_dir = g_build_filename(g_get_user_cache_dir(), "emlfs", name, NULL);
  account->state_dir = g_build_filename(g_get_user_state_dir(), "emlfs", name, NULL);
  Loader loader = {config_path, name, file, account};
  if (!load_keys(&loader, error) || !check_account(&loader, error))
    return NULL;
  if (!account->user)
    account->user = g_strdup(account->address);
  return g_steal_pointer(&account);
}

char **account_list(const char *config_path, GError **error) {
  g_autoptr(GKeyFile) file = open_config(config_path, error);
  return file ? g_key_file_get_groups(file, NULL) : NULL;
}

/* ---- the secret ---- */

/* Passwords that were asked for, by account. account.h has no field for them. `lock` guards it. */
static GMutex asked_lock;
static GHashTable *asked;

static Secret *asked_get(const Account *account) {
  g_mutex_lock(&asked_lock);
  Secret *secret = asked ? g_hash_table_lookup(asked, account) : NULL;
  if (secret)
    secret_ref(secret);
  g_mutex_unlock(&asked_lock);
  return secret;
}

/* NULL forgets. */
static void asked_set(const Account *account, Secret *secret) {
  g_mutex_lock(&asked_lock);
  if (!asked)
    asked = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL,
                                  (GDestroyNotify) secret_unref);
  if (secret)
    g_hash_table_insert(asked, (gpointer) account, secret_ref(secret));
  else
    g_hash_table_remove(asked, account);
  g_mutex_unlock(&asked_lock);
}

void account_free(Account *account) {
  if (!account)
    return;
  asked_set(account, NULL);
  g_free(account->name);
  g_free(account->address);
  g_free(account->user);
  g_free(account->imap_host);
  g_free(account->smtp_host);
  g_free(account->ca_file);
  g_free(account->password_command);
  g_free(account->password_file);
  g_free(account->token_command);
  g_free(account->cache_dir);
  g_free(account->state_dir);
  g_free(account);
}

/* Reads @fd to its end into @buffer (MAX_SECRET + 1 bytes). */
static gboolean read_all(int fd, gint64 deadline, char *buffer, gsize *length_out, const char *what,
                         GError **error) {
  gsize length = 0;
  for (;;) {
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    int ready = poll(&polled, 1, deadline_poll_ms(deadline));
    if (ready < 0 && errno == EINTR)
      continue;
    if (ready == 0) {
      g_set_error(error, EML_ERROR, EML_ERROR_TIMEOUT, "%s: no answer for %d seconds", what,
                  COMMAND_MS / 1000);
      return FALSE;
    }
    gssize got = read(fd, buffer + length, MAX_SECRET + 1 - length);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return eml_error_set_errno(error, EML_ERROR_AUTH, errno, "%s", what);
    if (got == 0)
      break;
    length += (gsize) got;
    if (length > MAX_SECRET) {
      g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "%s: gives more than 64 KiB", what);
      return FALSE;
    }
  }
  *length_out = length;
  return TRUE;
}

/* The secret in @buffer, which is wiped; one newline at the end goes. */
static Secret *take_secret(char *buffer, gsize length, const char *what, GError **error) {
  if (length && buffer[length - 1] == '\n')
    length--;
  if (length && buffer[length - 1] == '\r')
    length--;
  Secret *secret = NULL;
  if (!length)
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "%s: gives nothing", what);
  else if (memchr(buffer, '\0', length) || memchr(buffer, '\n', length))
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "%s: gives more than one line", what);
  else
    secret = secret_new(buffer, (gssize) length);
  return secret;
}

/* In the child: the mount blocks signals for itself only. */
static void child_setup(gpointer data) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static Secret *secret_from_command(const char *command, const char *key, GError **error) {
  g_autoptr(GSubprocessLauncher) launcher =
      g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_PIPE);
  g_subprocess_launcher_set_child_setup(launcher, child_setup, NULL, NULL);
  g_subprocess_launcher_set_stdin_file_path(launcher, "/dev/null");
  g_autoptr(GError) local = NULL;
  g_autoptr(GSubprocess) process =
      g_subprocess_launcher_spawn(launcher, &local, "/bin/sh", "-c", command, NULL);
  if (!process) {
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "%s: %s", key, local->message);
    return NULL;
  }
  /* Read by hand, so that the octets are in one place that can be wiped. */
  GInputStream *out = g_subprocess_get_stdout_pipe(process);
  int fd = g_unix_input_stream_get_fd(G_UNIX_INPUT_STREAM(out));
  g_autofree char *buffer = g_malloc(MAX_SECRET + 1);
  gsize length = 0;
  Secret *secret = NULL;
  if (!read_all(fd, deadline_in_ms(COMMAND_MS), buffer, &length, key, error)) {
    g_subprocess_force_exit(process);
  } else if (!g_subprocess_wait(process, NULL, NULL) || !g_subprocess_get_successful(process)) {
    int code = g_subprocess_get_if_exited(process) ? g_subprocess_get_exit_status(process) : -1;
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "%s: the command failed (exit status %d)", key,
                code);
  } else {
    secret = take_secret(buffer, length, key, error);
  }
  secret_wipe(buffer, MAX_SECRET + 1);
  return secret;
}

static Secret *secret_from_file(const char *path, GError **error) {
  autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) {
    eml_error_set_errno(error, EML_ERROR_CONFIG, errno, "password_file: %s", path);
    return NULL;
  }
  if (!S_ISREG(st.st_mode) || (st.st_mode & 077)) {
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG,
                "password_file: %s must be a regular file that only you can read (chmod 600)", path);
    return NULL;
  }
  g_autofree char *buffer = g_malloc(MAX_SECRET + 1);
  gsize length = 0;
  Secret *secret = NULL;
  if (read_all(fd, deadline_in_ms(COMMAND_MS), buffer, &length, "password_file", error))
    secret = take_secret(buffer, length, "password_file", error);
  secret_wipe(buffer, MAX_SECRET + 1);
  return secret;
}

Secret *account_secret(Account *account, gboolean again, gboolean *is_token_out, GError **error) {
  *is_token_out = account->token_command != NULL;
  if (account->token_command)
    return secret_from_command(account->token_command, "token_command", error);
  if (account->password_command)
    return secret_from_command(account->password_command, "password_command", error);
  if (account->password_file)
    return secret_from_file(account->password_file, error);
  if (again)
    asked_set(account, NULL);
  Secret *secret = asked_get(account);
  if (secret)
    return secret;
  if (!account->ask) {
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH,
                "a password is needed: set password_command or password_file");
    return NULL;
  }
  g_autofree char *prompt = g_strdup_printf("%sPassword for %s: ", again ? "Refused. " : "",
                                            account->user);
  secret = account->ask(prompt, account->ask_data, error);
  if (secret)
    asked_set(account, secret);
  return secret;
}
