/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The command line: `emlfs [COMMAND] ARGUMENT…`, options anywhere.
 */
#pragma once

#include <glib.h>

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

typedef struct {
  char *config;        /* --config, or NULL */
  gboolean foreground; /* -f */
  char **mount_options; /* each -o as given; may be NULL */
  char **arguments;    /* what is left after the command; never NULL */
} CliOptions;

typedef struct {
  const char *name;
  const char *usage; /* the arguments, for people */
  guint least, most; /* how many there may be */
  gboolean mounts;   /* takes -f and -o */
  int (*run)(const CliOptions *options); /* has printed what went wrong; returns the exit code */
} CliCommand;

/* @mount is the command that is meant when none is named. Returns the exit code. */
int cli_main(const CliCommand *mount, int argc, char **argv);

/* Prints "emlfs: …" to stderr and returns CLI_FAILED. */
int cli_fail(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* The commands that live in this layer. */
int cli_umount(const CliOptions *options);
int cli_status(const CliOptions *options);
int cli_sync(const CliOptions *options);
