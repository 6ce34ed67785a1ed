# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mail servers and real mounts for the tests of this folder.

Readiness is always a condition that is looked at until it holds; `until` is the one place that
does so, with a bound.
"""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import imapcheck  # noqa: E402

EMLFS = os.environ.get("EMLFS", str(ROOT / "build" / "fs" / "emlfs"))
# What runs under a sanitizer or on a loaded machine may take its time: bounds are not figures.
PATIENCE = float(os.environ.get("EMLFS_TEST_PATIENCE", "30"))


def until(condition, what, seconds=PATIENCE, every=0.005):
    """Returns the first true value of condition(), and how long that took is the caller's to time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("not within %g s: %s" % (seconds, what))
        time.sleep(every)  # between two looks, not for readiness


def free_base_port():
    """A base port whose +143 … +993 are free now."""
    for base in range(20000 + os.getpid() % 7000, 60000, 1009):
        try:
            for offset in (143, 993, 587, 465, 243, 293, 343, 393):
                with socket.socket() as s:
                    s.bind(("127.0.0.2", base + offset))
            return base
        except OSError:
            continue
    raise AssertionError("no free ports")


class Bed:
    """One mailbed with its servers."""

    def __init__(self, folder):
        self.env = dict(os.environ, MAILBED_DIR=str(folder), MAILBED_PORT=str(free_base_port()),
                        MAILBED_MTA="none")
        self.settings = {}
        self.started = []
        self.count = 0

    def run(self, *arguments, program="scripts/mailbed", check=True):
        done = subprocess.run([str(ROOT / program), *map(str, arguments)], env=self.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=120)
        if check and done.returncode:
            raise AssertionError("%s %s: %s" % (program, arguments, done.stderr))
        return done.stdout

    def _learn(self, text):
        self.settings.update(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def start(self):
        self.run("start")
        self._learn(self.run("env"))

    def server(self, kind):
        """Starts the server of that kind once; Dovecot is there anyway."""
        program = "scripts/mailbed" if kind == "dovecot" else "tests/bed/" + kind
        if kind not in self.started:
            if kind != "dovecot":
                self.run("start", program=program)
                self._learn(self.run("env", program=program))
            self.started.append(kind)
        return Server(self, kind, program)

    def stop(self):
        for kind in self.started:
            if kind != "dovecot":
                self.run("stop", program="tests/bed/" + kind, check=False)
        self.run("stop", check=False)


class Server:
    def __init__(self, bed, kind, program):
        self.bed, self.kind, self.program = bed, kind, program
        prefix = {"dovecot": "MAILBED"}.get(kind, kind.upper())
        self.imaps = bed.settings[prefix + "_IMAPS"]
        self.imap = bed.settings[prefix + "_IMAP"]
        self.ca = bed.settings["MAILBED_CA"]
        self.domain = bed.settings["MAILBED_DOMAIN"]

    def user(self, *options):
        """A new mailbox of its own."""
        self.bed.count += 1
        address = "user%d@%s" % (self.bed.count, self.domain)
        arguments = ["secret-%d" % self.bed.count, *options]
        password = self.bed.run("user", address, *arguments, program=self.program).strip()
        return User(self, address, password)


class User:
    def __init__(self, server, address, password):
        self.server, self.address, self.password = server, address, password

    def connect(self):
        host, port = self.server.imaps.rsplit(":", 1)
        return imapcheck.connect(self.address, self.password, host, int(port), self.server.ca)


class Mount:
    """An emlfs process and its mountpoint; options of the account by keyword."""

    def __init__(self, user, folder, options=(), **account):
        self.user = user
        self.folder = pathlib.Path(folder)
        self.dir = self.folder / "mnt"
        self.options = list(options)
        self.process = None
        self.errors = self.folder / "stderr"
        for part in ("config", "cache", "state", "mnt"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.env = dict(os.environ, XDG_CONFIG_HOME=str(self.folder / "config"),
                        XDG_CACHE_HOME=str(self.folder / "cache"),
                        XDG_STATE_HOME=str(self.folder / "state"))
        self.config = self.folder / "emlfs.conf"
        self.configure(**account)

    def configure(self, **account):
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(account.pop("password", self.user.password) + "\n")
        keys = dict(address=self.user.address, imap="imaps://" + self.user.server.imaps,
                    password_file=str(password), ca_file=self.user.server.ca, timeout="5")
        keys.update(account)
        self.config.write_text("[test]\n" + "".join("%s = %s\n" % item for item in keys.items() if item[1]))

    def command(self, *options):
        extra = [word for option in self.options for word in ("-o", option)]
        return [EMLFS, "--config", str(self.config), *options, *extra, "test", str(self.dir)]

    def start(self):
        """Mounts; in the foreground, so that the process is ours to watch."""
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(self.command("-f"), env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=errors)
        until(lambda: self.serves() or self.process.poll() is not None, "the mount")
        if self.process.poll() is not None:
            raise AssertionError("emlfs ended with %d: %s" % (self.process.returncode, self.errors.read_text()))
        return self

    def serves(self):
        """Not only mounted: one that died answers some calls out of the kernel's cache."""
        with contextlib.suppress(OSError):
            return bool((self.dir / ".control" / "status").read_text())

    def status(self):
        text = (self.dir / ".control" / "status").read_text()
        return dict(line.split(": ", 1) for line in text.splitlines())

    def drained(self, seconds=PATIENCE):
        """All that was changed is on the server, or was refused."""
        until(lambda: not re.search(r"[1-9]\d* to ", self.status()["changes"]), "the end of all changes", seconds)

    def resident_kib(self, what="VmRSS"):
        for line in open("/proc/%d/status" % self.process.pid):
            if line.startswith(what + ":"):
                return int(line.split()[1])
        raise AssertionError("no " + what)

    def stop(self):
        """Unmounts the ordinary way; the daemon has to end by itself."""
        if self.process and self.process.poll() is None:
            # The daemon itself may be in the mount for a moment, telling inotify of a change.
            until(lambda: subprocess.run(["fusermount3", "-u", str(self.dir)], stderr=subprocess.PIPE,
                                         check=False).returncode == 0 or self.process.poll() is not None,
                  "the unmount")
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("emlfs did not end after the unmount") from None
        code = self.process.returncode if self.process else 0
        if os.path.ismount(self.dir):
            subprocess.run(["fusermount3", "-uz", str(self.dir)], check=False)
        return code

    def discard(self):
        """After a test, whatever state it left."""
        with contextlib.suppress(OSError):
            if self.process and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(10)
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        subprocess.run(["fusermount3", "-uz", str(self.dir)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- looking at it

    def messages(self, folder="INBOX"):
        """{uid: path} of a folder."""
        found = {}
        for entry in os.scandir(self.dir / folder):
            if entry.name.endswith(".eml"):
                found[int(entry.name[:-4].rsplit(".", 1)[1])] = pathlib.Path(entry.path)
        return found


def sample(subject, body="Hello\r\n", sender="Anna Alpha <anna@example.org>"):
    return ("From: %s\r\nTo: me@example.org\r\nSubject: %s\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\n%s"
            % (sender, subject, body)).encode()


def in_d_state():
    """Processes in uninterruptible sleep, by name."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            if text.rsplit(")", 1)[1].split()[0] == "D":
                found.append(text.split("(", 1)[1].rsplit(")", 1)[0])
    return found


def me():
    return pwd.getpwuid(os.getuid()).pw_name
