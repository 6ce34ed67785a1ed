# SPDX-License-Identifier: GPL-3.0-or-later
"""A server without extensions that tells untruths: what is read is what it sent, whatever it said."""
import errno
import pathlib

import pytest

from liar import Liar
from mounting import sample, until


class Anybody:
    """A user of the liar."""

    def __init__(self, server, ca):
        self.server = self
        self.address, self.password, self.ca = "anybody@example.org", "anything", ca
        self.imaps = "localhost:%d" % server.port


@pytest.fixture
def lying(bed, mount):
    servers = []

    def make(messages=(), **lies):
        tls = pathlib.Path(bed.settings["MAILBED_CA"]).parent
        server = Liar(tls / "server.crt", tls / "server.key", **lies)
        servers.append(server)
        for octets, more in messages:
            server.add("INBOX", octets, **more)
        return server, mount(Anybody(server, bed.settings["MAILBED_CA"]))

    yield make
    for server in servers:
        server.__exit__()


SMALL = sample("small", "0123456789" * 3000 + "\r\n")
LARGE = sample("large", "0123456789abcde\r\n" * 200000)


@pytest.mark.parametrize("octets", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("off", [-20000, -1, 1, 30000, 200000])
def test_a_wrong_size(lying, octets, off):
    server, m = lying([(octets, {"told_size": max(len(octets) + off, 1)})])
    path = next(iter(m.messages().values()))
    assert path.read_bytes() == octets
    until(lambda: path.stat().st_size == len(octets), "the true size")
    assert path.read_bytes() == octets


def test_uid_after_the_body(lying):
    server, m = lying([(SMALL, {}), (LARGE, {}), (sample("third"), {})], uid_last=True)
    found = {path.read_bytes() for path in m.messages().values()}
    assert found == {SMALL, LARGE, sample("third")}


def test_body_nil_is_not_an_empty_message(lying):
    server, m = lying([(SMALL, {}), (sample("gone"), {})], body_nil=[2])
    assert m.messages()[1].read_bytes() == SMALL
    with pytest.raises(OSError) as caught:
        m.messages()[2].read_bytes()
    assert caught.value.errno == errno.ENOENT


def test_few_connections(lying):
    server, m = lying([(sample("message %d" % i), {}) for i in range(200)], most_connections=2)
    for path in m.messages().values():
        assert path.read_bytes().startswith(b"From: ")
    assert m.status()["state"] == "online"


def test_empty_message_and_sparse_uids(lying):
    server, m = lying([(b"", {"uid": 5}), (sample("high"), {"uid": 4000000000}), (b"\r\n", {"uid": 9})])
    found = m.messages()
    assert sorted(found) == [5, 9, 4000000000]
    assert found[5].read_bytes() == b""
    assert found[9].read_bytes() == b"\r\n"
    assert found[4000000000].read_bytes() == sample("high")


@pytest.mark.parametrize("lie", [{}, {"without_uidnext": True}], ids=["plain", "without-uidnext"])
def test_catching_up_by_comparing(lying, lie):
    server, m = lying([(sample("message %d" % i), {}) for i in range(50)], **lie)
    assert len(m.messages()) == 50
    assert m.stop() == 0
    server.remove("INBOX", 7)
    server.remove("INBOX", 50)
    uid = server.add("INBOX", sample("new"))
    m.start()
    until(lambda: sorted(m.messages()) == [i for i in range(1, 50) if i != 7] + [uid], "the same messages")
