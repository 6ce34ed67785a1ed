/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "cli/cli.h"
#include "fs/mount.h"

int main(int argc, char **argv) {
  static const CliCommand mount = {"mount", "ACCOUNT DIR", 2, 2, TRUE, mount_run};
  return cli_main(&mount, argc, argv);
}
