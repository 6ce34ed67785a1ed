# SPDX-License-Identifier: GPL-3.0-or-later
"""Two mounts and a third client work at random on the same folders: nothing is lost, nothing is there
twice, and all end with the same view.

Each letter carries a token and a version. A token may be missing in the end only if somebody removed it,
and no version of it may be there twice. Two versions of one token are no fault: whoever edits what
somebody else moves meanwhile has two letters then, and lost none.

EMLFS_TEST_SEED repeats a run; EMLFS_TEST_FIGURES=1 lasts ten minutes.
"""
import collections
import errno
import imaplib
import os
import random
import re
import threading
import time

from mounting import PATIENCE, until

FOLDERS = ["Eins", "Zwei", "Drei"]
SECONDS = 600 if os.environ.get("EMLFS_TEST_FIGURES") else 20
CONFLICTS = {errno.ENOENT, errno.ESTALE, errno.EEXIST}
MARK = re.compile(rb"X-Token: (\S+)\r\nX-Version: (\S+)\r\n")


def letter(token, version):
    return (b"From: a@example.org\r\nTo: b@example.org\r\nSubject: %s\r\nX-Token: %s\r\nX-Version: %s\r\n\r\n%s\r\n"
            % (token, token, version, b"text " * 50))


def mark(octets):
    found = MARK.search(octets)
    assert found, octets[:200]
    return found.group(1), found.group(2)


class Worker(threading.Thread):
    """One of those that work; what it did for good is in `made` and `removed`."""

    def __init__(self, name, seed, end):
        super().__init__(name=name)
        self.random = random.Random(seed)
        self.end = end
        self.count = 0
        self.made, self.removed = set(), set()
        self.done = collections.Counter()
        self.failure = None

    def token(self):
        self.count += 1
        return b"%s-%d" % (self.name.encode(), self.count)

    def run(self):
        try:
            while time.monotonic() < self.end:
                self.act()
        except BaseException as error:  # shown by the test
            self.failure = error


class MountWorker(Worker):
    def __init__(self, name, seed, end, mounted):
        super().__init__(name, seed, end)
        self.mounted = mounted

    def pick(self):
        folder = self.mounted.dir / self.random.choice(FOLDERS)
        names = [name for name in os.listdir(folder) if name.endswith(".eml")]
        return folder / self.random.choice(names) if names else None

    def act(self):
        verb = self.random.choice(["make", "move", "move", "rename", "edit", "remove", "flag"])
        path = None if verb == "make" else self.pick()
        try:
            if path or verb == "make":
                getattr(self, verb)(path)
                self.done[verb] += 1
        except OSError as error:
            if error.errno not in CONFLICTS:
                raise
            self.done[errno.errorcode[error.errno]] += 1

    def make(self, _):
        token = self.token()
        path = self.mounted.dir / self.random.choice(FOLDERS) / (token.decode() + ".eml")
        path.write_bytes(letter(token, b"0"))
        self.made.add(token)

    def move(self, path):
        os.rename(path, self.mounted.dir / self.random.choice(FOLDERS) / path.name)

    def rename(self, path):
        os.rename(path, path.with_name("%s-%d.eml" % (self.name, self.random.randrange(1 << 30))))

    def edit(self, path):
        token, _ = mark(path.read_bytes())
        path.write_bytes(letter(token, b"%s-%d" % (self.name.encode(), self.random.randrange(1 << 30))))

    def remove(self, path):
        token, _ = mark(path.read_bytes())
        self.removed.add(token)  # before: it counts as removed even when it is unclear
        path.unlink()

    def flag(self, path):
        os.setxattr(path, "user.mail.flags", self.random.choice([b"\\Seen", b"\\Flagged", b"\\Seen \\Answered"]))


class ClientWorker(Worker):
    def __init__(self, name, seed, end, user):
        super().__init__(name, seed, end)
        self.box = user.connect()

    def act(self):
        time.sleep(self.random.uniform(0, 0.05))  # it is not to outrun the others
        try:
            self.act_on_some()
        except imaplib.IMAP4.error as error:
            if "EXPUNGEISSUED" not in str(error):  # others are quicker
                raise

    def act_on_some(self):
        folder = self.random.choice(FOLDERS)
        verb = self.random.choice(["make", "move", "remove", "flag"])
        if verb == "make":
            token = self.token()
            self.box.append(folder, letter(token, b"0"))
            self.made.add(token)
            return
        messages = {uid: message for uid, message in self.box.fetch_all(folder).items() if message.body}
        if not messages:
            return
        uid = self.random.choice(sorted(messages))
        if verb == "flag":
            self.box.store_flags(folder, [uid], ["\\Flagged"], "+FLAGS")
        elif verb == "move":
            self.box.move(folder, [uid], self.random.choice(FOLDERS))
        else:
            self.removed.add(mark(messages[uid].body)[0])
            self.box.expunge(folder, [uid])


def seen(mounted):
    """What a mount shows: marks by folder."""
    shown = collections.Counter()
    for folder in FOLDERS:
        for name in os.listdir(mounted.dir / folder):
            if name.endswith(".eml"):
                shown[folder, *mark((mounted.dir / folder / name).read_bytes())] += 1
    return shown


def held(box):
    return collections.Counter((folder, *mark(message.body)) for folder in FOLDERS
                               for message in box.fetch_all(folder).values())


def converged(mounted, box):
    try:
        return seen(mounted) == held(box)
    except OSError as error:  # a name that is just going
        assert error.errno in CONFLICTS, error
        return False


def test_two_mounts_and_a_client(dovecot, mount):
    seed = int(os.environ.get("EMLFS_TEST_SEED", time.time()))
    print("EMLFS_TEST_SEED=%d" % seed)
    user = dovecot.user()
    box = user.connect()
    for folder in FOLDERS:
        box.create(folder)
    mounts = [mount(user, options=["xattr"], delete="expunge") for _ in range(2)]
    end = time.monotonic() + SECONDS
    workers = [MountWorker("m%d" % i, seed + i, end, mounted) for i, mounted in enumerate(mounts)]
    workers.append(ClientWorker("c", seed + 2, end, user))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(SECONDS + 4 * PATIENCE)
        assert not worker.is_alive(), "%s hangs" % worker.name
        print(worker.name, dict(worker.done))
        if worker.failure:
            raise worker.failure
    for mounted in mounts:
        mounted.drained()
    for mounted in mounts:
        try:
            until(lambda: converged(mounted, box), "what the server holds")
        except AssertionError:
            shown, there = seen(mounted), held(box)
            print("only shown:", shown - there, "not shown:", there - shown, sep="\n")
            raise

    left = held(box)
    versions = collections.Counter()
    for (_, token, version), count in left.items():
        versions[token, version] += count
    assert [key for key, count in versions.items() if count > 1] == []
    made = set().union(*(worker.made for worker in workers))
    removed = set().union(*(worker.removed for worker in workers))
    assert made - removed - {token for token, _ in versions} == set()
    assert {token for token, _ in versions} <= made
    print("%d letters made, %d removed, %d left" % (len(made), len(removed), sum(left.values())))
