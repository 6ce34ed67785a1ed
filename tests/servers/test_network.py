# SPDX-License-Identifier: GPL-3.0-or-later
"""The network comes back, or changes under connections that are still there: noticed at once."""
import contextlib
import errno
import subprocess
import time

import pytest

from faultproxy import FaultProxy
from mounting import sample, until

pytestmark = pytest.mark.root  # for the address
ADDRESS = "127.91.7.3/32"


@contextlib.contextmanager
def another_address():
    """An address comes, as when a network is joined."""
    subprocess.run(["ip", "address", "replace", ADDRESS, "dev", "lo"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "address", "delete", ADDRESS, "dev", "lo"], check=True)


@pytest.fixture
def proxied(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        for i in range(5):
            box.append("INBOX", sample("message %d" % i))
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), timeout="20")
        m.proxy = proxy
        m.paths = sorted(m.messages().values())
        m.paths[0].read_bytes()
        yield m


def test_back_at_once(proxied):
    m = proxied
    m.proxy.refuse(True)
    m.proxy.reset()
    until(lambda: m.status()["state"] == "offline", "offline")
    time.sleep(6)  # until the pauses between two tries are long
    m.proxy.refuse(False)
    began = time.monotonic()
    with another_address():
        until(lambda: m.status()["state"] == "online", "online", 3)
        print("online %.2f s after the address came" % (time.monotonic() - began))
    assert m.paths[1].read_bytes()


def test_a_silent_connection_is_replaced(proxied):
    """Connections over a route that is gone say nothing any more: a reader gets through over new ones long
    before their deadline."""
    m = proxied
    m.proxy.hole(True)
    reader = subprocess.Popen(["cat", str(m.paths[1])], stdout=subprocess.PIPE)
    until(lambda: m.status()["waiting readers"] != "0", "a waiting reader")
    began = time.monotonic()
    with another_address():
        until(lambda: "connecting anew" in (m.dir / ".control/log").read_text(), "a probe without an answer", 10)
        m.proxy.reset()
        m.proxy.hole(False)
        assert reader.communicate(timeout=10)[0] == sample("message 1")
    print("read %.2f s after the address came" % (time.monotonic() - began))
    assert m.status()["state"] == "online"


def test_a_connection_that_answers_stays(proxied):
    m = proxied
    before = m.proxy.stat()["accepted"]
    for _ in range(3):
        with another_address():
            time.sleep(0.5)  # the probe
    assert m.proxy.stat()["accepted"] == before
    assert m.paths[1].read_bytes()


def test_offline_on_purpose_stays(proxied):
    m = proxied
    (m.dir / ".control/ctl").write_text("offline\n")
    with another_address():
        time.sleep(0.5)  # that would be noticed
    assert m.status()["state"] == "offline"
    with pytest.raises(OSError) as caught:
        m.paths[1].read_bytes()
    assert caught.value.errno == errno.EHOSTUNREACH
