/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An account as configured: one group of the GKeyFile emlfs.conf.
 *
 *   [anna]
 *   address = anna@example.org
 *   user = anna@example.org                   # default: address
 *   imap = imaps://mail.example.org:993       # imap:// = STARTTLS, required
 *   password_command = pass show mail/anna    # or password_file = PATH (must be 0600)
 *   token_command = …                         # OAuth 2.0 access token instead of a password
 *   ca_file = PATH
 *   cache_size = 2G
 */
#pragma once

#include <gio/gio.h>

#include "base/secret.h"

/* Asks the person for a password; NULL with @error when there is nobody to ask. */
typedef Secret *(*AccountAskFn)(const char *prompt, gpointer data, GError **error);

typedef struct {
  char *name;    /* the group */
  char *address;
  char *user;
  char *imap_host;
  guint16 imap_port;
  gboolean imap_starttls;
  char *smtp_host; /* NULL when not configured */
  guint16 smtp_port;
  gboolean smtp_starttls;
  char *ca_file;
  char *password_command, *password_file, *token_command;
  guint64 cache_size; /* bytes */
  char *cache_dir;    /* $XDG_CACHE_HOME/emlfs/NAME */
  char *state_dir;    /* $XDG_STATE_HOME/emlfs/NAME */
  gboolean expunge;   /* what is deleted goes for good, not to the Trash */
  guint connections;  /* at most this many besides the watching one */
  guint timeout;      /* seconds of silence after which the server counts as gone */
  AccountAskFn ask;   /* set by the program, or NULL */
  gpointer ask_data;
} Account;

/* The configuration file to use: @given, or $XDG_CONFIG_HOME/emlfs/emlfs.conf. g_free. */
char *account_config_path(const char *given);

/* Reads group @name of @config_path. Every error is CONFIG, one line, naming file, group and key
 * and saying what to do; unknown keys are errors. A password file that others can read is one. */
Account *account_load(const char *config_path, const char *name, GError **error);
void account_free(Account *account);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Account, account_free)

/* Names of all accounts of the file, NULL-ended (g_strfreev). */
char **account_list(const char *config_path, GError **error);

/* Gets the password or token, by command (run without a shell variable of ours, bounded by 60 s and
 * 64 KiB), file or ask. Spaces that group a shown device password (xxxx xxxx xxxx) stay; one
 * trailing newline goes. @again: the last one was refused. A password that was asked for is kept
 * in @account until refused. Any thread, one at a time. */
Secret *account_secret(Account *account, gboolean again, gboolean *is_token_out, GError **error);
