# SPDX-License-Identifier: GPL-3.0-or-later
"""The mail to measure with, and the server that has it at two round trips."""
import imaplib
import os
import pathlib
import random
import shutil
import ssl
import subprocess
import sys
import time
from typing import NamedTuple

import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tests" / "tools"
sys.path.insert(0, str(TOOLS))

import faultproxy  # noqa: E402
import genmail  # noqa: E402

LISTEN = "127.0.0.2"  # for emlfs an account is another one when its host is
MIXED_FOLDERS = tuple(name for name, _ in genmail.MIXED_FOLDERS)


class Sizes(NamedTuple):
    """How much of everything."""
    mixed: int = 20_000  # messages
    big: int = 100_000
    million: int = 1_000_000
    large: int = 200  # megabytes
    folders: int = 50  # of the idle account
    changes: int = 100  # new messages, and as many changes of flags
    idle: float = 3  # minutes



def scaled(factor):
    """Sizes for a look; what has to be there at all stays."""
    full = Sizes()
    return full._replace(mixed=int(full.mixed * factor), big=int(full.big * factor),
                         million=int(full.million * factor), large=max(20, int(full.large * factor)),
                         idle=max(0.5, full.idle * factor))


# --- mail ---------------------------------------------------------------------------


def generate_large(path, megabytes):
    maildir = genmail.Maildir(str(path), ["INBOX"])
    line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/=-.,;:_!\n"
    head = b"From: Anna <anna@example.org>\nSubject: The film of the holidays\nMessage-ID: <1@example.org>\n\n"
    maildir.add("INBOX", head + line * (megabytes * 10**6 // (len(line) + 1)), genmail.NEWEST, "S")


def generate_folders(path, count):
    names = ["INBOX"] + ["Folder %02d" % number for number in range(1, count)]
    maildir = genmail.Maildir(str(path), names)
    for number, name in enumerate(names):
        text = "From: Anna <anna@example.org>\nSubject: In %s\n\nHello\n" % name
        maildir.add(name, text.encode(), genmail.NEWEST + number, "S")


class Mail:
    """Generated mailboxes, kept in a cache directory between runs."""

    def __init__(self, cache, sizes):
        self.cache, self.sizes = cache, sizes

    def maildir(self, kind):
        amount = {"mixed": self.sizes.mixed, "big": self.sizes.big, "large": self.sizes.large,
                  "idle": self.sizes.folders}[kind]
        path = self.cache / ("%s-%d" % (kind, amount))
        if not path.is_dir():
            draft = path.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            if kind == "large":
                generate_large(draft, amount)
            elif kind == "idle":
                generate_folders(draft, amount)
            else:
                machine.run([sys.executable, TOOLS / "genmail.py", kind, draft, "--count", amount], 1800)
            draft.rename(path)
        return path

    @staticmethod
    def folders(kind):
        return MIXED_FOLDERS if kind == "mixed" else ("INBOX",)


# --- server -------------------------------------------------------------------------


class Account(NamedTuple):
    """A mailbox on the server, and where a client meets it."""
    user: str
    password: str
    host: str
    port: int
    ca: str
    certificate: str  # of the server itself


class Bed:
    """scripts/mailbed, and proxies before it that make a round trip take longer or count bytes."""

    def __init__(self, folder, mail, stack):
        self.mail, self.stack = mail, stack
        self.environment = dict(machine.ENVIRONMENT, MAILBED_DIR=str(folder), MAILBED_PORT="auto",
                                MAILBED_MTA="none")
        stack.callback(self.mailbed, "stop")
        self.mailbed("start")
        settings = dict(line.split("=", 1) for line in self.mailbed("env").splitlines())
        self.target = settings["MAILBED_IMAPS"]
        self.ca = settings["MAILBED_CA"]
        self.certificate = str(folder / "tls" / "server.crt")
        self.key = str(folder / "tls" / "server.key")
        self.domain = settings["MAILBED_DOMAIN"]
        self.proxies = {}
        self.passwords = {}

    def mailbed(self, *words, timeout=120):
        return machine.run([ROOT / "scripts" / "mailbed", *words], timeout, env=self.environment).output

    def proxy(self, milliseconds):
        """The proxy whose round trip takes this long."""
        if milliseconds not in self.proxies:
            proxy = faultproxy.FaultProxy(self.target, LISTEN + ":0", delay=milliseconds / 2)
            self.stack.callback(proxy.stop)
            self.proxies[milliseconds] = proxy
        return self.proxies[milliseconds]

    def account(self, kind, milliseconds=0, counted=False):
        """The account with mail of this kind, loaded at first use. Where no round trip is wanted there
        is no proxy between, unless its bytes are to be counted."""
        user = "%s@%s" % (kind, self.domain)
        if kind not in self.passwords:
            self.passwords[kind] = self.mailbed("user", user)
            self.mailbed("load", user, self.mail.maildir(kind), timeout=900)
            self.mailbed("doveadm", "index", "-u", user, "*", timeout=900)
        if milliseconds or counted:
            host, port = LISTEN, self.proxy(milliseconds).port
        else:
            host, port = self.target.rsplit(":", 1)
        return Account(user, self.passwords[kind], host, int(port), self.ca, self.certificate)

    def wire(self, milliseconds):
        """Bytes that have passed the proxy, both ways; None where there is none."""
        if not milliseconds:
            return None
        counters = self.proxy(milliseconds).stat()
        return counters["up"] + counters["down"]


# --- another client -------------------------------------------------------------------

CHANGED_FOLDERS = (("INBOX", .6), ("Lists", .2), ("Work", .1), ("Archive", .1))


def change(account, count, round_):
    """What another client does: appends `count` messages to four folders of mixed and toggles
    \\Flagged on as many in INBOX. Returns {folder: how many are new}, and the UIDs changed."""
    context = ssl.create_default_context(cafile=account.ca)
    choice = random.Random("change/%d" % round_)
    with imaplib.IMAP4_SSL(account.host, account.port, ssl_context=context, timeout=60) as client:
        client.login(account.user, account.password)
        new = {folder: int(count * share) for folder, share in CHANGED_FOLDERS}
        for folder, number in new.items():
            for index in range(number):
                text = ("From: Bruno Beta <bruno@example.org>\r\nSubject: News %d in round %d\r\n"
                        "Message-ID: <%d.%d.%s@bench.example>\r\n\r\n%s"
                        % (index, round_, index, round_, folder, "A line of news.\r\n" * 100))
                expect_ok(client.append(folder, None, imaplib.Time2Internaldate(time.time()), text.encode()))
        expect_ok(client.select("INBOX"))
        uids = [int(uid) for uid in expect_ok(client.uid("SEARCH", "ALL"))[0].split()]
        changed = choice.sample(uids[:-new["INBOX"]], count)
        flagged = set(expect_ok(client.uid("SEARCH", "FLAGGED"))[0].split())
        for sign in "+-":
            some = [b"%d" % uid for uid in changed if (b"%d" % uid in flagged) == (sign == "-")]
            if some:
                expect_ok(client.uid("STORE", b",".join(some).decode(), sign + "FLAGS.SILENT", "(\\Flagged)"))
    return new, changed


def expect_ok(answer):
    if answer[0] != "OK":
        raise machine.Failed("the server refused a change: %r" % (answer,))
    return answer[1]


def compile_tools(folder):
    """The C programs of this directory, by name."""
    flags = machine.run(["pkg-config", "--cflags", "--libs", "fuse3", "openssl"], 10).output.split()
    made = {}
    for source in pathlib.Path(__file__).parent.glob("*.c"):
        made[source.stem] = folder / source.stem
        machine.run(["cc", "-O2", "-Wall", "-o", made[source.stem], source, *flags], 60)
    return made


def emlfs_binary():
    """$EMLFS, or a release build of this tree."""
    given = os.environ.get("EMLFS")
    if given:
        return pathlib.Path(given).resolve()
    build = ROOT / "build-bench"
    if not (build / "build.ninja").exists():
        machine.run(["meson", "setup", build, "--buildtype=release"], 120, cwd=ROOT)
    machine.run(["meson", "compile", "-C", build], 600)
    return build / "fs" / "emlfs"
