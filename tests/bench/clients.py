# SPDX-License-Identifier: GPL-3.0-or-later
"""emlfs and what it is compared with, each as a thing that one can run and time."""
import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import machine
from machine import Cost, Failed

MOUNT_SECONDS = 60  # until a mount has to be there, or gone


class Mount:
    """A FUSE file system in the foreground, so that the process is ours to watch."""

    def __init__(self, directory, log):
        self.dir, self.log = directory, log
        self.process = None
        self.began = 0.0
        directory.mkdir(parents=True, exist_ok=True)

    def command(self):
        raise NotImplementedError

    def environment(self):
        return machine.ENVIRONMENT

    def __enter__(self):
        self.began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(word) for word in self.command()], env=self.environment(),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        try:
            machine.until(lambda: machine.is_mounted(self.dir) or self.process.poll() is not None,
                          "a mount", MOUNT_SECONDS)
            if self.process.poll() is not None:
                raise Failed("no mount: " + self.log.read_text()[-400:])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *ignored):
        """In the ordinary way, and with force when that takes too long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["fusermount3", "-u", str(self.dir)], stderr=subprocess.DEVNULL, timeout=10)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.poll() is None:
            machine.abort_mount(self.dir)
            machine.kill_group(self.process)
            self.process.wait()
        if machine.is_mounted(self.dir):
            subprocess.run(["fusermount3", "-uz", str(self.dir)], stderr=subprocess.DEVNULL, timeout=10)

    def elapsed(self):
        return time.monotonic() - self.began

    def cost(self, seconds, wire=None):
        """What the daemon took up to now."""
        pid = self.process.pid
        return Cost(seconds, machine.cpu_of(pid), machine.resident(pid), wire)


class Emlfs(Mount):
    def __init__(self, binary, account, folder, cache):
        """folder: for what only this mount needs; cache: what emlfs remembers."""
        super().__init__(folder / "mnt", folder / "log")
        self.binary, self.cache = binary, cache
        self.config = folder / "emlfs.conf"
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(account.password + "\n")
        self.config.write_text("[bench]\naddress = %s\nimap = imaps://%s:%d\npassword_file = %s\nca_file = %s\n"
                               % (account.user, account.host, account.port, password, account.ca))

    def command(self):
        return [self.binary, "--config", self.config, "-f", "bench", self.dir]

    def environment(self):
        return dict(machine.ENVIRONMENT, XDG_CACHE_HOME=str(self.cache / "cache"),
                    XDG_STATE_HOME=str(self.cache / "state"), XDG_CONFIG_HOME=str(self.cache / "config"))

    def status(self):
        text = (self.dir / ".control" / "status").read_text()
        return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)

    def wire(self):
        """Bytes so far; they are counted when a connection has finished what it was at."""
        machine.until(lambda: self.status()["connections"].endswith(" 0 at work"), "an idle emlfs", 10, 0.05)
        return int(self.status()["transferred"].split()[0])

    def cost(self, seconds, wire=None):
        return super().cost(seconds, self.wire() if wire is None else wire)


class Memfs(Mount):
    def __init__(self, binary, folder, of):
        """Shows the folders and files of the mount `of`, with their sizes."""
        super().__init__(folder / "mnt", folder / "log")
        self.binary, self.list = binary, folder / "list"
        with open(self.list, "w") as list_:
            for box in sorted(entry.name for entry in os.scandir(of.dir) if entry.name != ".control"):
                for entry in os.scandir(of.dir / box):
                    if entry.is_file():
                        list_.write("%d\t%s\t%s\n" % (entry.stat().st_size, box, entry.name))

    def command(self):
        return [self.binary, self.list, self.dir]


class Mbsync:
    """A local copy of an account as Maildir."""

    def __init__(self, folder):
        self.folder = folder
        self.mail = folder / "mail"

    def wipe(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def sync(self, account, timeout, to_disk=True):
        """@to_disk: sync every message to the disk, mbsync's own default."""
        self.mail.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mbsyncrc"
        config.write_text(f"""FSync {"yes" if to_disk else "no"}

IMAPAccount bench
Host {account.host}
Port {account.port}
User {account.user}
Pass {account.password}
SSLType IMAPS
CertificateFile {account.certificate}
AuthMechs *

IMAPStore far
Account bench

MaildirStore near
Path {self.mail}/
Inbox {self.mail}/INBOX
SubFolders Verbatim

Channel bench
Far :far:
Near :near:
Patterns *
Create Near
Expunge Both
Sync All
SyncState *
""")
        config.chmod(0o600)
        return machine.run(["mbsync", "-c", config, "-q", "bench"], timeout)

    def count(self):
        return sum(len(names) for folder, _, names in os.walk(self.mail)
                   if os.path.basename(folder) in ("cur", "new"))


def drain(binary, account, folders, timeout):
    """Returns the Cost of everything, the octets, and the seconds without connecting."""
    cost = machine.run([binary, account.host, account.port, account.ca, account.user, *folders], timeout,
                       env=dict(machine.ENVIRONMENT, DRAIN_PASSWORD=account.password))
    octets, everything, reading = cost.output.split()
    return cost._replace(seconds=float(everything)), int(octets), float(reading)


def mutt(account, folder, timeout):
    """Opens INBOX in a terminal with an empty header cache until the index is on the screen."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "muttrc"
    config.write_text(f"""set imap_user="{account.user}" imap_pass="{account.password}"
set ssl_force_tls=no ssl_verify_host=no certificate_file="{account.certificate}"
set header_cache="{folder}/headers" folder="{folder}" spoolfile="{folder}/none"
set imap_qresync=yes imap_condstore=yes imap_check_subscribed=no timeout=60 mail_check=600
set quit=yes mark_old=no move=no sleep_time=0 sort=date
set status_format="READY[%m]READY"
""")
    config.chmod(0o600)
    (folder / "headers").mkdir()
    words = ["mutt", "-n", "-F", str(config), "-f", "imaps://%s:%d/INBOX" % (account.host, account.port)]
    began = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("mutt", words, dict(machine.ENVIRONMENT, TERM="xterm", HOME=str(folder)))
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        seconds, count = await_index(terminal, began, timeout)
        os.write(terminal, b"q")
        usage = await_end(pid, terminal, 60)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), count


def await_index(terminal, began, timeout):
    """Seconds until mutt's status line is there, and the messages it tells of."""
    screen = b""
    while True:
        left = began + timeout - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            raise Failed("no index by mutt within %g s; it said %r" % (timeout, screen[-200:]))
        screen = screen[-100_000:] + read_terminal(terminal)
        ready = re.search(rb"READY\[(\d+)\]READY", screen)
        if ready:
            return time.monotonic() - began, int(ready[1])


def read_terminal(terminal):
    try:
        data = os.read(terminal, 65536)
    except OSError:  # how a terminal says that the other end is closed
        data = b""
    if not data:
        raise Failed("mutt ended by itself")
    return data


def await_end(pid, terminal, timeout):
    """Reads on, or mutt could not write, and returns its usage."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(Failed):
                read_terminal(terminal)
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return usage
    raise Failed("mutt does not end")
