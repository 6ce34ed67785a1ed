# SPDX-License-Identifier: GPL-3.0-or-later
import os
import signal

# Whoever was started in the background of a shell has SIGINT ignored, and would hand that on to what
# the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """An ordinary user runs all but what only root can stage; pytest says how many it left out."""
    if os.getuid() != 0:
        out = [item for item in items if item.get_closest_marker("root")]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)
