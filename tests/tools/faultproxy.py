# SPDX-License-Identifier: GPL-3.0-or-later
"""The faultproxy (see faultproxy.c) as a Python class.

    with FaultProxy("127.0.0.2:23993", delay=20) as proxy:
        connect_to(proxy.host, proxy.port)
        proxy.cut(100_000)
        proxy.stat()["down"]

The program is looked for in FAULTPROXY, then in the path given, then it is
compiled with cc into a temporary directory.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).with_name("faultproxy.c")
_compiled = None


def program():
    global _compiled
    given = os.environ.get("FAULTPROXY")
    if given:
        return given
    if not _compiled:
        _compiled = tempfile.TemporaryDirectory(prefix="faultproxy-")
        subprocess.run([shutil.which("cc") or "gcc", "-O2", "-o", _compiled.name + "/faultproxy", SOURCE],
                       check=True)
    return _compiled.name + "/faultproxy"


class FaultProxy:
    def __init__(self, target, listen="127.0.0.1:0", delay=0, rate=0):
        self.process = subprocess.Popen([program(), listen, target], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise OSError("faultproxy did not start")
        self.host, port = self.address.rsplit(":", 1)
        self.port = int(port)
        if delay:
            self.delay(delay)
        if rate:
            self.rate(rate)

    def command(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise ValueError(answer or "faultproxy has ended")
        return answer

    def delay(self, milliseconds):
        """One way; the round trip is twice that."""
        self.command("delay", milliseconds)

    def rate(self, bytes_a_second):
        self.command("rate", bytes_a_second)

    def hole(self, on=True):
        self.command("hole", "on" if on else "off")

    def cut(self, bytes_down):
        self.command("cut", bytes_down)

    def cut_up(self, bytes_up):
        self.command("cutup", bytes_up)

    def reset(self):
        self.command("reset")

    def close_all(self):
        self.command("close")

    def refuse(self, on=True):
        self.command("refuse", "on" if on else "off")

    def stat(self):
        """{"open", "accepted", "up", "down"}"""
        words = self.command("stat").split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def stop(self):
        self.process.stdin.close()
        self.process.wait(5)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.stop()
