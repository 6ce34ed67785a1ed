/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static const CliCommand commands[] = {
    {"umount", "DIR", 1, 1, FALSE, cli_umount},
    {"status", "[ACCOUNT]", 0, 1, FALSE, cli_status},
    {"sync", "ACCOUNT [FOLDER…]", 1, G_MAXUINT, FALSE, cli_sync},
};

static const char help[] =
    "Usage:\n"
    "  emlfs ACCOUNT DIR       mount the mail of ACCOUNT on the directory DIR\n"
    "  emlfs umount DIR        unmount it (also: fusermount3 -u DIR)\n"
    "  emlfs status [ACCOUNT]  show how mounted accounts are doing\n"
    "  emlfs sync ACCOUNT [FOLDER…]\n"
    "                          fetch everything, or these folders, for offline use\n"
    "\n"
    "Options:\n"
    "  --config FILE           instead of ~/.config/emlfs/emlfs.conf\n"
    "  -f                      stay in the foreground and log to the terminal\n"
    "  -o OPTION[,OPTION…]     mount options:\n"
    "       xattr              show flags and more as extended attributes (slower listings)\n"
    "       allow_other        let other users in, as file modes permit\n"
    "       and the options that mount(8) and libfuse know\n"
    "  --help, --version\n"
    "\n"
    "ACCOUNT is a group of the configuration file, for example\n"
    "\n"
    "  [anna]\n"
    "  address = anna@example.org\n"
    "  imap = imaps://mail.example.org\n"
    "  password_command = pass show mail/anna\n"
    "\n"
    "Folders are directories, messages are .eml files; DIR/.control/ tells how the mount is\n"
    "doing. emlfs returns once it is logged in and mounted, and goes on in the background.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. More: man emlfs\n";

int cli_fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  fprintf(stderr, "emlfs: %s\n", message);
  return CLI_FAILED;
}

static int usage(const char *format, ...) G_GNUC_PRINTF(1, 2);
static int usage(const char *format, ...) {
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  fprintf(stderr, "emlfs: %s (try emlfs --help)\n", message);
  return CLI_USAGE;
}

static const CliCommand *find_command(const char *name, const CliCommand *mount) {
  if (g_str_equal(name, mount->name))
    return mount;
  for (gsize i = 0; i < G_N_ELEMENTS(commands); i++)
    if (g_str_equal(commands[i].name, name))
      return &commands[i];
  return NULL;
}

static int run_command(const CliCommand *mount, CliOptions *options, char **words) {
  if (!words || !words[0])
    return usage("an account and a directory are needed");
  const CliCommand *command = find_command(words[0], mount);
  /* mount(8) passes whatever stands in fstab first, so an account may have a command's name
   * there; on a command line `emlfs mount NAME DIR` says it. */
  options->arguments = command ? words + 1 : words;
  if (!command)
    command = mount;
  guint count = g_strv_length(options->arguments);
  if (count < command->least || count > command->most)
    return usage("usage: emlfs %s %s", command == mount ? "[mount]" : command->name,
                 command->usage);
  if (!command->mounts && (options->foreground || options->mount_options))
    return usage("-f and -o are for mounting only");
  return command->run(options);
}

int cli_main(const CliCommand *mount, int argc, char **argv) {
  g_autofree char *program = g_path_get_basename(argc > 0 ? argv[0] : "emlfs");
  gboolean as_helper = g_str_has_prefix(program, "mount."); /* called by mount(8) */
  gboolean show_help = FALSE, show_version = FALSE, sloppy = FALSE, fake = FALSE;
  g_autofree char *type = NULL;
  g_autofree char *config = NULL;
  g_auto(GStrv) mount_options = NULL;
  g_auto(GStrv) words = NULL;
  CliOptions options = {0};
  const GOptionEntry entries[] = {
      {"help", 'h', 0, G_OPTION_ARG_NONE, &show_help, NULL, NULL},
      {"version", 'V', 0, G_OPTION_ARG_NONE, &show_version, NULL, NULL},
      {"config", 0, 0, G_OPTION_ARG_FILENAME, &config, NULL, NULL},
      {"foreground", 'f', 0, G_OPTION_ARG_NONE, as_helper ? &fake : &options.foreground, NULL,
       NULL},
      {"options", 'o', 0, G_OPTION_ARG_STRING_ARRAY, &mount_options, NULL, NULL},
      {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &words, NULL, NULL},
      {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
  };
  const GOptionEntry helper_entries[] = {
      {"sloppy", 's', 0, G_OPTION_ARG_NONE, &sloppy, NULL, NULL},
      {"no-mtab", 'n', 0, G_OPTION_ARG_NONE, &sloppy, NULL, NULL},
      {"verbose", 'v', 0, G_OPTION_ARG_NONE, &sloppy, NULL, NULL},
      {"types", 't', 0, G_OPTION_ARG_STRING, &type, NULL, NULL},
      {NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL},
  };
  g_autoptr(GOptionContext) context = g_option_context_new(NULL);
  g_option_context_set_help_enabled(context, FALSE);
  g_option_context_add_main_entries(context, entries, NULL);
  if (as_helper)
    g_option_context_add_main_entries(context, helper_entries, NULL);

  g_autoptr(GError) error = NULL;
  if (!g_option_context_parse(context, &argc, &argv, &error))
    return usage("%s", error->message);
  if (show_help) {
    fputs(help, stdout);
    return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
  }
  if (show_version) {
    puts("emlfs " EMLFS_VERSION);
    return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
  }
  if (fake)
    return CLI_OK;
  options.config = config;
  options.mount_options = mount_options;
  return run_command(mount, &options, words);
}
