# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that die, networks that go silent, certificates that are wrong: each has its own errno or
one-line error within its deadline, cached mail stays readable, and all recovers by itself."""
import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

from faultproxy import FaultProxy
from mounting import EMLFS, in_d_state, sample, until

DEADLINE = 3  # seconds of silence, in the account
SLACK = 10  # a loaded machine


@pytest.fixture
def proxied(dovecot, mount):
    """A user with ten messages, mounted through a proxy; the first message is cached."""
    user = dovecot.user()
    with user.connect() as box:
        for i in range(10):
            box.append("INBOX", sample("message %d" % i, "%d\r\n" % i * 1000))
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), timeout=str(DEADLINE))
        m.proxy = proxy
        m.uncached = sorted(m.messages().values())
        m.cached = m.uncached.pop(0)
        m.content = m.cached.read_bytes()
        yield m


def fails_with(path, *errnos):
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    took = time.monotonic() - began
    assert caught.value.errno in errnos, errno.errorcode[caught.value.errno]
    assert took < DEADLINE + SLACK
    print("%s after %.2f s" % (errno.errorcode[caught.value.errno], took))
    return took


def still_there(m):
    """What needs no network answers at once."""
    began = time.monotonic()
    assert m.cached.read_bytes() == m.content
    assert len(m.messages()) == 10
    assert m.cached.stat().st_size == len(m.content)
    assert time.monotonic() - began < 2


def recovers(m, seconds=30):
    began = time.monotonic()

    def readable():
        with contextlib.suppress(OSError):
            return m.uncached[-1].read_bytes().startswith(b"From: ")

    until(readable, "the recovery", seconds, every=0.05)
    print("recovered after %.2f s" % (time.monotonic() - began))
    until(lambda: m.status()["state"] == "online", "online in the status")


def test_server_refuses_connections(proxied):
    m = proxied
    m.proxy.refuse(True)
    m.proxy.reset()
    fails_with(m.uncached[0], errno.EHOSTUNREACH)
    until(lambda: m.status()["state"] == "offline", "offline in the status")
    assert "reason" in m.status()
    assert fails_with(m.uncached[1], errno.EHOSTUNREACH) < 1  # at once, now that it is known
    still_there(m)
    m.proxy.refuse(False)
    recovers(m)


def test_network_silently_gone(proxied):
    m = proxied
    m.proxy.hole(True)
    fails_with(m.uncached[0], errno.ETIMEDOUT)
    still_there(m)
    fails_with(m.uncached[1], errno.ETIMEDOUT, errno.EHOSTUNREACH)
    m.proxy.hole(False)
    recovers(m)


def test_a_short_restart_is_waited_out(proxied):
    m = proxied
    m.proxy.refuse(True)
    m.proxy.reset()
    back = threading.Timer(0.7, m.proxy.refuse, [False])
    back.start()
    assert m.uncached[0].read_bytes().startswith(b"From: ")
    back.join()


def test_server_killed_in_mid_read(dovecot, mount):
    user = dovecot.user()
    body = sample("large", "0123456789abcdef" * 4 + "\r\n") * 1 + b"0123456789abcdef\r\n" * 400000
    with user.connect() as box:
        box.append("INBOX", body)
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), timeout=str(DEADLINE))
        path = next(iter(m.messages().values()))
        proxy.cut(1000000)  # once; another connection goes on where this one broke
        assert path.read_bytes() == body


def test_latency_of_200_ms(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        for i in range(40):
            box.append("INBOX", sample("far away %d" % i))
    with FaultProxy(dovecot.imaps, delay=100) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        paths = sorted(m.messages().values())
        began = time.monotonic()
        for path in paths:
            assert path.read_bytes()
        took = time.monotonic() - began
        print("40 messages at 200 ms: %.2f s" % took)
        assert took < 40 * 0.2  # not a round trip a message


def test_interrupt_works_at_once(proxied):
    m = proxied
    m.proxy.hole(True)
    reader = subprocess.Popen(["cat", str(m.uncached[0])], stdout=subprocess.PIPE)
    until(lambda: m.status()["waiting readers"] != "0", "a waiting reader")
    began = time.monotonic()
    reader.send_signal(signal.SIGINT)
    assert reader.wait(10) == -signal.SIGINT
    took = time.monotonic() - began
    print("interrupted after %.3f s" % took)
    assert took < 1
    m.proxy.hole(False)
    recovers(m)


def test_frozen_server(bed, proxied):
    m = proxied
    bed.run("freeze", m.user.address)
    try:
        fails_with(m.uncached[0], errno.ETIMEDOUT)
        still_there(m)
    finally:
        bed.run("thaw", m.user.address)
    recovers(m)


def test_sessions_killed(bed, proxied):
    m = proxied
    for i in range(5):
        bed.run("die", m.user.address)
        assert m.uncached[i].read_bytes().startswith(b"From: ")


def test_unmount_while_the_network_is_gone(proxied):
    m = proxied
    m.proxy.hole(True)
    reader = subprocess.Popen(["cat", str(m.uncached[0])], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: m.status()["waiting readers"] != "0", "a waiting reader")
    m.process.send_signal(signal.SIGTERM)
    assert m.process.wait(15) == 0
    reader.wait(15)
    assert not os.path.ismount(m.dir)


def test_start_without_a_server(proxied):
    m = proxied
    assert m.stop() == 0
    m.proxy.refuse(True)
    m.start()
    assert m.status()["state"] == "offline"
    still_there(m)
    assert fails_with(m.uncached[0], errno.EHOSTUNREACH) < 1
    m.proxy.refuse(False)
    recovers(m, 60)


# --- what never mounts --------------------------------------------------------------------------


def refused(m, *words):
    """emlfs says why in one line, with exit status 1, and leaves no mount."""
    began = time.monotonic()
    done = subprocess.run(m.command(), env=m.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    print(done.stderr)
    assert done.returncode == 1
    assert done.stderr.startswith("emlfs: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word.lower() in done.stderr.lower()
    assert time.monotonic() - began < 30
    assert not os.path.ismount(m.dir)


@pytest.mark.parametrize("certificate,word", [("expired", "expired"), ("wronghost", "name"),
                                              ("untrusted", "trust"), ("future", "not yet")])
def test_bad_certificates(bed, dovecot, mount, certificate, word):
    user = dovecot.user()
    bed.run("cert", certificate)
    try:
        refused(mount(user, start=False), word)
        refused(mount(user, start=False, imap="imap://" + dovecot.imap), word)
    finally:
        bed.run("cert", "good")


def test_wrong_password(dovecot, mount):
    refused(mount(dovecot.user(), start=False, password="not this one"), "device password", "full address")


def test_starttls_stripped(dovecot, mount):
    """A man in the middle answers as a server without STARTTLS."""
    import socket
    user = dovecot.user()
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            client, _ = server.accept()
            with client:
                client.sendall(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] ready\r\n")
                while True:
                    line = client.recv(4096)
                    if not line:
                        return
                    seen.append(line)
                    tag = line.split()[0]
                    client.sendall(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + b" OK done\r\n")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        refused(mount(user, start=False, imap="imap://127.0.0.1:%d" % server.getsockname()[1]), "starttls")
        thread.join(10)
    assert not any(b"LOGIN" in line or b"AUTHENTICATE" in line for line in seen)


def test_nothing_listens(dovecot, mount):
    refused(mount(dovecot.user(), start=False, imap="imaps://127.0.0.1:1"), "127.0.0.1")


# --- the process ----------------------------------------------------------------------------------


def daemon_pid(m):
    """The daemon of a mount made without -f."""
    for cmdline in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = cmdline.read_bytes().split(b"\0")
            if words[0].endswith(b"emlfs") and str(m.dir).encode() in words:
                yield int(cmdline.parent.name)


def test_daemon_returns_once_it_is_usable(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", sample("daemon"))
    m = mount(user, start=False)
    done = subprocess.run(m.command(), env=m.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(m.messages()) == 1
    again = subprocess.run(m.command(), env=m.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                           timeout=60)
    assert again.returncode == 1 and again.stderr.startswith("emlfs: ")
    shown = subprocess.run([EMLFS, "status", "test"], env=m.env, stdout=subprocess.PIPE, text=True, timeout=60)
    assert shown.returncode == 0 and "state: online" in shown.stdout
    assert subprocess.run([EMLFS, "umount", str(m.dir)], env=m.env, timeout=60).returncode == 0
    assert not os.path.ismount(m.dir)
    until(lambda: not list(daemon_pid(m)), "the end of the daemon")


def test_kill_9_amid_reading(bed, proxied):
    """Nothing hangs, the stale mount is cleaned up by the next start, and the cache is whole."""
    m = proxied
    for round in range(3):
        stop = threading.Event()
        readers = [subprocess.Popen(["sh", "-c", "while cat %s/INBOX/*.eml; do :; done" % m.dir],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
        with m.user.connect() as box:
            box.append("INBOX", sample("news %d" % round))
        until(lambda: all(reader.poll() is None for reader in readers), "reading")
        m.process.kill()
        m.process.wait()
        for reader in readers:
            reader.wait(30)
        stop.set()
        assert not [name for name in in_d_state() if name in ("cat", "emlfs", "sh", "ls")]
        m.start()
        until(lambda: len(m.messages()) == 11 + round, "all messages")
        assert m.cached.read_bytes() == m.content
        for path in m.messages().values():
            assert path.read_bytes().startswith(b"From: ")
