# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts $FAKEFS (emlfs with the engine of tests/unit/fake-engine.c) for each test."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

BOUND = 20  # seconds after which what should be immediate counts as hung


def wait_for(condition, what, bound=BOUND):
    end = time.monotonic() + bound
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.005)


def content(space, uid, size, offset=0):
    first, last = offset // 32, (offset + size + 31) // 32
    whole = b"".join(b"%08x%08x%014x\r\n" % (space, uid, n) for n in range(first, last))
    return whole[offset - first * 32:][:size]


def mounted(path):
    """The minor device number of the emlfs on path, or None."""
    found = None
    for line in open("/proc/self/mountinfo"):
        words = line.split()
        if words[4] == str(path) and words[words.index("-") + 1] == "fuse.emlfs":
            found = int(words[2].split(":")[1])
    return found


def processes(name):
    """pid -> parent of the processes of this name."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue
            comm, rest = stat[stat.index("(") + 1:].rsplit(") ", 1)
            if comm == name and rest[0] != "Z":
                found[int(entry)] = int(rest.split()[1])
    return found


def state(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0]
    except OSError:
        return None


class Mail:
    def __init__(self, folder):
        self.folder = folder
        self.dir = folder / "mail"
        self.dir.mkdir()
        self.config = folder / "emlfs.conf"
        self.config.write_text("[anna]\naddress = anna@example.org\nimap = imaps://mail.example.org\n")
        self.socket = folder / "s"
        self.program = os.environ["FAKEFS"]
        self.pid = None
        self.connection = None

    def env(self, **more):
        return {**os.environ, "FAKE_ENGINE_SOCKET": str(self.socket), **more}

    def run(self, *args, **env):
        return subprocess.run([self.program, "--config", self.config, *args], env=self.env(**env),
                              capture_output=True, text=True, timeout=BOUND)

    def mount(self, *args, **env):
        done = self.run("anna", self.dir, *args, **env)
        assert done.returncode == 0, done.stderr
        self.minor = mounted(self.dir)
        assert self.minor is not None
        self.pid = self.find_daemon()
        return done

    def find_daemon(self):
        # The guard is the daemon's child, and this mount's daemon serves our socket.
        for pid in processes("emlfs-guard").values():
            try:
                if str(self.folder).encode() in open(f"/proc/{pid}/cmdline", "rb").read():
                    return pid
            except OSError:
                pass
        raise AssertionError("no daemon")

    def guard(self):
        return [pid for pid, parent in processes("emlfs-guard").items() if parent == self.pid][0]

    def connect(self):
        def attempt():
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.socket))
                return connection
            except OSError:
                connection.close()
        self.connection = wait_for(attempt, "the control socket").makefile("rw")

    def tell(self, *words):
        if not self.connection:
            self.connect()
        self.connection.write("\t".join(str(word) for word in words) + "\n")
        self.connection.flush()
        return self.connection.readline().rstrip("\n")

    def parked(self, count):
        wait_for(lambda: self.tell("parked") == str(count), f"{count} parked")

    def name(self, uid):
        return f"2026-11-20_Anna-Alpha_Subject-of-message.{uid}.eml"

    def message(self, folder, uid):
        return self.dir / folder / self.name(uid)

    def ended(self):
        wait_for(lambda: state(self.pid) in (None, "Z"), "the end of the daemon")
        wait_for(lambda: mounted(self.dir) is None, "the unmount")
        self.pid = None

    def end(self):
        if self.pid and state(self.pid) not in (None, "Z"):
            os.kill(self.pid, signal.SIGTERM)
            self.ended()
        if mounted(self.dir) is not None:  # only when a test failed
            subprocess.run(["umount", "-lf", self.dir], timeout=BOUND)


@pytest.fixture(autouse=True)
def bounded():
    """A test that hangs in the mount gets EINTR."""
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture
def mail(tmp_path_factory):
    folder = pathlib.Path(os.path.realpath(tmp_path_factory.mktemp("m")))
    made = Mail(folder)
    yield made
    made.end()


@pytest.fixture
def anna(mail):
    mail.mount()
    return mail


@pytest.fixture
def spawn():
    """Starts a program that the test expects to wait."""
    started = []

    def start(*args, **more):
        process = subprocess.Popen([str(a) for a in args], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **more)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=BOUND)
