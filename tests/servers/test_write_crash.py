# SPDX-License-Identifier: GPL-3.0-or-later
"""What was acknowledged is never lost and never done twice: the daemon is killed, the server is killed, or
connections break while many messages are changed. Where it happens is chosen at random; the seed is printed,
and EMLFS_TEST_SEED repeats it."""
import os
import random
import re
import subprocess
import threading

import pytest

from faultproxy import FaultProxy
from mounting import PATIENCE, sample, until

COUNT = 200
FROM, TO = "Quelle", "Ziel"
SEED = int(os.environ.get("EMLFS_TEST_SEED", random.randrange(1000000)))


def letter(i, word="first"):
    return sample("letter %d" % i, "%s %d\r\n" % (word, i) + "text %d\r\n" % i * (i * i % 400 + 1))


class Kill:
    """kill -9 of the daemon, once."""

    def __init__(self, m, rng):
        self.m = m

    def strike(self):
        self.m.process.kill()

    def over(self):
        self.m.process.kill()
        self.m.process.wait()
        self.m.start()


class Crash:
    """kill -9 of the server, which is started again at once."""

    def __init__(self, m, rng):
        self.m, self.thread = m, None

    def strike(self):
        def restart():
            self.m.user.server.bed.run("crash")
            self.m.user.server.bed.run("start")
        self.thread = threading.Thread(target=restart)
        self.thread.start()

    def over(self):
        if self.thread:
            self.thread.join()
        until(lambda: self.m.status()["state"] == "online", "online in the status", 2 * PATIENCE)


class Break:
    """Each connection is reset after some octets, up or down, for a while."""

    def __init__(self, m, rng):
        self.m, self.rng, self.left = m, rng, 6

    def strike(self):
        if self.left:
            self.left -= 1
            if self.rng.random() < 0.5:
                self.m.proxy.cut(self.rng.randrange(20000))
            else:
                self.m.proxy.cut_up(self.rng.randrange(100000))

    def over(self):
        until(lambda: self.m.status()["state"] == "online", "online in the status", 4 * PATIENCE)  # it may be pausing


@pytest.fixture(params=[Kill, Crash, Break])
def trouble(request, dovecot, mount):
    """A mounted account, and one kind of trouble for it."""
    print("seed", SEED)
    rng = random.Random("%d %s" % (SEED, request.node.name))
    user = dovecot.user()
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), start=False)
        m.proxy = proxy
        with user.connect() as box:
            box.create(FROM)
            box.create(TO)
        yield request.param(m, rng), m, rng


def filled(m, count=COUNT):
    """Mounts with letters in the first folder, called by their numbers."""
    with m.user.connect() as box:
        for i in range(count):
            box.append(FROM, letter(i), flags=["\\Flagged"] if i % 2 else [])
    m.start()
    for path in m.messages(FROM).values():
        number = int(re.search(rb"Subject: letter (\d+)", path.read_bytes())[1])
        path.rename(m.dir / FROM / ("%d.eml" % number))


def carry_on(trouble, rng, count, act):
    """Does act(i) for each i; the trouble comes somewhere in between. Which were acknowledged."""
    blow = rng.randrange(1, count)
    done, timer = set(), None
    for i in range(count):
        if i == blow or (isinstance(trouble, Break) and i % 30 == 5):
            # now, or a moment later, while one of the next is on its way
            if timer:
                timer.join()
            timer = threading.Timer(rng.choice([0, 0, 0.001, 0.004, 0.02]), trouble.strike)
            timer.start()
        try:
            act(i)
            done.add(i)
        except OSError as error:
            print("%d: %s" % (i, error))
            if isinstance(trouble, Kill):
                break
    timer.join()
    trouble.over()
    print("%d of %d acknowledged, trouble at %d" % (len(done), count, blow))
    return done


def census(m, *folders):
    """What the server has of each letter once all changes are done: {number: [(folder, octets), …]}."""
    m.drained(2 * PATIENCE)
    found = {}
    with m.user.connect() as box:
        for folder in folders:
            if folder in box.folders():
                for message in box.fetch_all(folder).values():
                    number = int(re.search(rb"Subject: letter (\d+)", message.body)[1])
                    found.setdefault(number, []).append((folder, message.body))
    return found


def moved(trouble, number, there):
    """Where a letter is that was to be moved. A server that is killed in the middle of a MOVE can have made
    the copy and kept the original, which is moved again then: that is the one way to have a letter twice."""
    most = 2 if isinstance(trouble, Crash) else 1
    assert 1 <= len(there) <= most, "letter %d is there %d times" % (number, len(there))
    assert {octets for _, octets in there} == {letter(number)}
    return {folder for folder, _ in there}


def shown(m, folder):
    return {path.name: path.read_bytes() for path in (m.dir / folder).glob("*.eml")}


@pytest.mark.parametrize("round", range(2))
def test_copying(trouble, round, tmp_path):
    trouble, m, rng = trouble
    m.start()

    def act(i):
        (m.dir / TO / ("%d.eml" % i)).write_bytes(letter(i))

    done = carry_on(trouble, rng, COUNT, act)
    found = census(m, TO)
    for i in range(COUNT):
        assert len(found.get(i, [])) <= 1, "letter %d is there %d times" % (i, len(found[i]))
    assert not done - set(found), "acknowledged and lost"
    assert all(found[i] == [(TO, letter(i))] for i in found)
    names = shown(m, TO)
    for i in done:
        assert names["%d.eml" % i] == letter(i)


@pytest.mark.parametrize("round", range(2))
def test_moving(trouble, round):
    trouble, m, rng = trouble
    filled(m)

    def act(i):
        os.rename(m.dir / FROM / ("%d.eml" % i), m.dir / TO / ("%d.eml" % i))

    done = carry_on(trouble, rng, COUNT, act)
    found = census(m, FROM, TO)
    for i in range(COUNT):
        assert moved(trouble, i, found.get(i, [])) == {TO} or i not in done, "letter %d was not moved" % i
    total = sum(len(there) for there in found.values())
    until(lambda: len(shown(m, FROM)) + len(shown(m, TO)) == total, "the listing")
    names = shown(m, TO)
    for i in done:
        assert names["%d.eml" % i] == letter(i)


def test_editing(trouble):
    trouble, m, rng = trouble
    count = 60
    filled(m, count)

    def act(i):
        with open(m.dir / FROM / ("%d.eml" % i), "r+b") as f:
            f.write(letter(i, "other"))

    done = carry_on(trouble, rng, count, act)
    found = census(m, FROM)
    for i in range(count):
        assert len(found.get(i, [])) == 1, "letter %d is there %d times" % (i, len(found.get(i, [])))
        octets = found[i][0][1]
        assert octets == letter(i, "other") or (octets == letter(i) and i not in done)
        assert (m.dir / FROM / ("%d.eml" % i)).read_bytes() == octets


def test_removing(trouble):
    trouble, m, rng = trouble
    filled(m)

    def act(i):
        os.unlink(m.dir / FROM / ("%d.eml" % i))

    done = carry_on(trouble, rng, COUNT, act)
    found = census(m, FROM, "Trash")
    for i in range(COUNT):
        assert moved(trouble, i, found.get(i, [])) == {"Trash"} or i not in done, "letter %d was not removed" % i
    total = sum(len(there) for there in found.values())
    until(lambda: len(shown(m, FROM)) + len(shown(m, "Trash")) == total, "the listing")


def test_rm_r(trouble):
    trouble, m, rng = trouble
    filled(m)
    timer = threading.Timer(rng.random() * 0.15, trouble.strike)
    timer.start()
    for _ in range(5):
        done = subprocess.run(["rm", "-r", str(m.dir / FROM)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=4 * PATIENCE)
        print(done.returncode, done.stdout[:300])
        timer.join()
        trouble.over()
        found = census(m, FROM, "Trash")
        for i in range(COUNT):
            moved(trouble, i, found.get(i, []))
        if not done.returncode:
            break
    assert FROM not in os.listdir(m.dir)
    assert {folder for there in found.values() for folder, octets in there} == {"Trash"}
