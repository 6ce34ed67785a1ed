# SPDX-License-Identifier: GPL-3.0-or-later
"""Having everything here: by the mount or without one, beside readers, over breaks, within the cache."""
import contextlib
import os
import pathlib
import pty
import random
import re
import signal
import statistics
import subprocess
import time

import pytest

from faultproxy import FaultProxy
from mounting import EMLFS, PATIENCE, sample, until
from test_ctl import command

MiB = 1 << 20


def text_of(size, seed):
    """Lines that compress as mail does, somewhat."""
    rng = random.Random(seed)
    words = ["%x" % rng.getrandbits(28) for _ in range(200)]
    out, length = [], 0
    while length < size:
        line = " ".join(rng.choice(words) for _ in range(9)) + "\r\n"
        out.append(line)
        length += len(line)
    return "".join(out)


def fill(user, folders=("INBOX", "Work", "Work/2026"), count=40, size=20000):
    """Returns {(folder, uid): octets}."""
    held = {}
    with user.connect() as box:
        for folder in folders:
            if folder != "INBOX":
                box.create(folder)
            for i in range(count):
                octets = sample("%s %d" % (folder, i), text_of(size, i))
                held[folder, box.append(folder, octets)] = octets
    return held


def syncing(m):
    status = m.status()
    return status.get("syncing"), status.get("last sync")


def synced(m, seconds=PATIENCE):
    return until(lambda: syncing(m)[1] if not syncing(m)[0] else None, "the end of the sync", seconds, every=0.05)


def readable_offline(m, held):
    command(m, "offline")
    for (folder, uid), octets in held.items():
        assert m.messages(folder)[uid].read_bytes() == octets
    command(m, "online")


def sync_command(m, *folders, **options):
    return subprocess.run([EMLFS, "--config", str(m.config), "sync", "test", *folders], env=m.env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120, **options)


def test_everything_is_here_afterwards(server, mount):
    user = server.user()
    held = fill(user)
    large = sample("large", text_of(3 * MiB, 7))
    with user.connect() as box:
        held["INBOX", box.append("INBOX", large)] = large
    m = mount(user)
    command(m, "sync")
    assert syncing(m)[0] or syncing(m)[1]
    assert synced(m) == "complete; %d messages fetched" % len(held)
    readable_offline(m, held)
    command(m, "sync")
    assert synced(m) == "complete; 0 messages fetched"


def test_one_folder(dovecot, mount):
    user = dovecot.user()
    held = fill(user, count=10)
    m = mount(user)
    command(m, "sync 'Work/2026'")
    assert synced(m) == "complete; 10 messages fetched"
    readable_offline(m, {key: octets for key, octets in held.items() if key[0] == "Work/2026"})


def test_stop_and_go_on(dovecot, mount):
    user = dovecot.user()
    held = fill(user, folders=("INBOX",), count=300, size=30000)
    with FaultProxy(dovecot.imaps, rate=1500000) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        command(m, "sync")
        until(lambda: int((syncing(m)[0] or "0").split()[0]) > 20, "some messages")
        line = syncing(m)[0]
        print(line)
        assert re.match(r"\d+ of 300 messages, \d+ of \d+ bytes, ", line)
        assert command(m, "sync stop") == "stopping\n"
        last = synced(m)
        assert last.startswith("stopped; ")
        fetched = int(re.search(r"(\d+) messages fetched", last)[1])
        assert 20 < fetched < 300
        proxy.rate(0)
        command(m, "sync")
        assert synced(m) == "complete; %d messages fetched" % (300 - fetched)
    readable_offline(m, dict(list(held.items())[::20]))


def test_connections_that_break(dovecot, mount):
    user = dovecot.user()
    held = fill(user, folders=("INBOX",), count=200, size=40000)
    with FaultProxy(dovecot.imaps, rate=4000000) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        command(m, "sync")
        for share in (20, 60, 100):
            until(lambda: int((syncing(m)[0] or "200").split()[0]) >= share, "%d messages" % share)
            proxy.reset()
        proxy.refuse(True)
        proxy.reset()
        until(lambda: m.status()["state"] == "offline", "offline")
        until(lambda: "waiting for the server" in (syncing(m)[0] or ""), "waiting in the status")
        proxy.refuse(False)
        proxy.rate(0)
        assert synced(m, 90).startswith("complete; ")
        command(m, "offline")
        for (folder, uid), octets in list(held.items())[::10]:
            assert m.messages(folder)[uid].read_bytes() == octets


def test_a_cache_that_is_too_small(dovecot, mount):
    user = dovecot.user()
    fill(user, folders=("INBOX",), count=60, size=100000)
    m = mount(user, cache_size="3M")
    command(m, "sync")
    last = synced(m)
    print(last)
    assert last.startswith("incomplete, the cache is full: everything would take 6.")
    assert "cache_size is 3.1 MB" in last
    # nothing that was fetched was dropped for it
    fetched = int(re.search(r"(\d+) messages fetched", last)[1])
    assert int(m.status()["cache"].split()[0]) == fetched > 20


def test_a_message_that_is_not_given(bed, mount):
    from liar import Liar
    from test_liar import Anybody
    tls = pathlib.Path(bed.settings["MAILBED_CA"]).parent
    with Liar(tls / "server.crt", tls / "server.key", body_nil=[3]) as server:
        for i in range(6):
            server.add("INBOX", sample("message %d" % i))
        m = mount(Anybody(server, bed.settings["MAILBED_CA"]))
        command(m, "sync")
        assert synced(m) == "complete; 5 messages fetched"


def test_a_reader_beside_it_hardly_waits(dovecot, mount):
    """At 40 ms round trip, a small message that is not here comes within two of them and 50 ms."""
    user = dovecot.user()
    fill(user, folders=("INBOX",), count=600, size=60000)
    others = ("One", "Two")
    with user.connect() as box:
        for name in others:
            box.create(name)
            for i in range(5):
                box.append(name, sample("wanted %d" % i))
    with FaultProxy(dovecot.imaps, delay=20, rate=6000000) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        # Each in another folder than the one before, and backwards: nothing is selected or prefetched.
        found = [sorted(m.messages(name).values(), reverse=True) for name in others]
        paths = [path for pair in zip(*found) for path in pair]
        list(m.messages().values())
        command(m, "sync INBOX")
        until(lambda: int((syncing(m)[0] or "0").split()[0]) > 30, "the sync at full speed")
        times = []
        for path in paths:
            began = time.monotonic()
            assert path.read_bytes().startswith(b"From: ")
            times.append(time.monotonic() - began)
            assert syncing(m)[0], "the sync ended too early to tell"
        print("beside a sync at 40 ms: %s ms" % " ".join("%.0f" % (t * 1000) for t in times))
        assert statistics.median(times) < 2 * 0.04 + 0.05
        synced(m, 60)


@pytest.mark.scale
def test_memory_stays_flat(dovecot, mount):
    user = dovecot.user()
    fill(user, folders=("INBOX",), count=150, size=200000)
    with user.connect() as box:
        box.append("INBOX", sample("large", text_of(24 * MiB, 3)))
    m = mount(user)
    m.messages()
    before = m.resident_kib()
    command(m, "sync")
    assert synced(m, 90) == "complete; 151 messages fetched"
    print("resident before %d KiB, most %d KiB" % (before, m.resident_kib("VmHWM")))
    assert m.resident_kib("VmHWM") < 64 * 1024


# --- emlfs sync -----------------------------------------------------------------------------------


def test_the_command_with_a_mount(dovecot, mount):
    user = dovecot.user()
    held = fill(user, count=10)
    m = mount(user)
    done = sync_command(m, "Work")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "complete; 10 messages fetched"
    done = sync_command(m)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "complete; 20 messages fetched"
    readable_offline(m, held)
    done = sync_command(m, "NoSuchFolder")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "emlfs: there is no folder /NoSuchFolder\n"


def test_the_command_without_a_mount(dovecot, mount):
    user = dovecot.user()
    held = fill(user, count=10)
    m = mount(user, start=False)
    done = sync_command(m)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "complete; 30 messages fetched"
    assert sync_command(m).stdout.splitlines()[-1] == "complete; 0 messages fetched"
    m.start()
    readable_offline(m, held)


def test_the_command_says_why_not(dovecot, mount):
    m = mount(dovecot.user(), start=False, password="not this one")
    done = sync_command(m)
    assert done.returncode == 1 and "device password" in done.stderr and done.stderr.count("\n") == 1
    m = mount(dovecot.user(), start=False, imap="imaps://127.0.0.1:1")
    done = sync_command(m)
    assert done.returncode == 1 and "127.0.0.1" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.root
def test_the_cache_is_held_by_another(dovecot, mount):
    m = mount(dovecot.user())
    inside = subprocess.run(["unshare", "-m", "sh", "-c", 'umount "$0" && exec "$@"', str(m.dir),
                             EMLFS, "--config", str(m.config), "sync", "test"], env=m.env,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert inside.returncode == 1 and str(m.process.pid) in inside.stderr, inside.stderr


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "alone"])
def test_ctrl_c_stops_it(dovecot, mount, mounted):
    user = dovecot.user()
    fill(user, folders=("INBOX",), count=300, size=30000)
    with FaultProxy(dovecot.imaps, rate=1500000) as proxy:
        m = mount(user, start=mounted, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        master, slave = pty.openpty()
        process = subprocess.Popen([EMLFS, "--config", str(m.config), "sync", "test"], env=m.env, stdin=slave,
                                   stdout=slave, stderr=subprocess.PIPE, text=True)
        os.close(slave)
        shown = b""
        while not re.search(rb"\[#+\.*\] +\d+ %  [1-9]\d* of 300 messages  ", shown):
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while os.read(master, 4096):
                pass
        assert process.wait(30) == 130
        assert process.stderr.read().startswith("emlfs: stopped; ")
        os.close(master)
        proxy.rate(0)
        done = sync_command(m)
        assert done.returncode == 0
        assert 0 < int(re.search(r"(\d+) messages fetched", done.stdout.splitlines()[-1])[1]) < 300


# --- the line -------------------------------------------------------------------------------------


def test_a_slow_line_is_compressed(dovecot, mount):
    user = dovecot.user()
    held = fill(user, folders=("INBOX",), count=300, size=30000)
    with FaultProxy(dovecot.imaps, rate=400000) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        command(m, "sync")
        until(lambda: m.status()["compression"].startswith("on, line 0."), "compression", 60)
        assert synced(m, 90).startswith("complete")
        print(m.status()["compression"], proxy.stat())
        assert proxy.stat()["down"] < sum(map(len, held.values())) * 0.8
    readable_offline(m, dict(list(held.items())[::30]))


def test_a_fast_line_is_not(dovecot, mount):
    user = dovecot.user()
    fill(user, folders=("INBOX",), count=300, size=60000)
    m = mount(user)
    command(m, "sync")
    assert synced(m).startswith("complete")
    print(m.status()["compression"])
    assert m.status()["compression"].startswith("off")
