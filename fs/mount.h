/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The command that mounts: from the configuration to the end of the mount.
 */
#pragma once

#include "cli/cli.h"

int mount_run(const CliOptions *options);
