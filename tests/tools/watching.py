# SPDX-License-Identifier: GPL-3.0-or-later
"""inotify without a library."""
import ctypes
import os
import select
import struct
import time

ATTRIB, CLOSE_WRITE, CREATE, DELETE, OPEN = 0x4, 0x8, 0x100, 0x200, 0x20
OVERFLOW, IGNORED, ISDIR = 0x4000, 0x8000, 0x40000000
NEWS = ATTRIB | CLOSE_WRITE | CREATE | DELETE
libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """Watches directories; what was seen so far is in .seen: a list of (directory, mask, name)."""

    def __init__(self, *folders, mask=NEWS):
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.folders = {}
        self.seen = []
        for folder in folders:
            number = libc.inotify_add_watch(self.fd, os.fsencode(folder), mask)
            assert number >= 0, os.strerror(ctypes.get_errno())
            self.folders[number] = str(folder)

    def close(self):
        os.close(self.fd)

    def pull(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return
        data, at = os.read(self.fd, 1 << 20), 0
        while at < len(data):
            number, mask, _, length = struct.unpack_from("iIII", data, at)
            name = data[at + 16:at + 16 + length].rstrip(b"\0").decode()
            at += 16 + length
            assert not mask & OVERFLOW, "too many events"
            self.seen.append((self.folders.get(number), mask & ~ISDIR, name))

    def wait(self, condition, what, bound=20):
        """Until condition(set of (mask, name) seen)."""
        end = time.monotonic() + bound
        while not condition({(mask, name) for _, mask, name in self.seen}):
            assert time.monotonic() < end, f"inotify never told: {what}; it told {self.seen[-10:]}"
            self.pull(0.1)

    def told(self, mask, name, bound=20):
        self.wait(lambda seen: (mask, name) in seen, f"{mask:x} of {name}", bound)

    def quiet(self, seconds=0.3):
        """Forgets what was seen and what comes within that time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.pull(left)
        self.seen.clear()
