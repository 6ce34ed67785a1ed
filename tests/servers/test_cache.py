# SPDX-License-Identifier: GPL-3.0-or-later
"""The local cache: its lock, its limit, and what happens when it is damaged or somebody else's."""
import pathlib
import subprocess
import tempfile

import pytest

from mounting import sample, until


@pytest.fixture
def user(dovecot):
    user = dovecot.user()
    with user.connect() as box:
        for i in range(30):
            box.append("INBOX", sample("message %d" % i, "%040d\r\n" % i * 2000))
    return user


def all_right(m):
    paths = m.messages()
    assert len(paths) == 30
    for uid, path in paths.items():
        assert path.read_bytes() == sample("message %d" % (uid - 1), "%040d\r\n" % (uid - 1) * 2000)


def cache_of(m):
    return m.folder / "cache" / "emlfs" / "test"


@pytest.mark.parametrize("harm", ["garbage", "empty", "truncated"])
def test_a_damaged_index_is_set_aside(user, mount, harm):
    m = mount(user)
    all_right(m)
    assert m.stop() == 0
    index = cache_of(m) / "index.db"
    if harm == "garbage":
        index.write_bytes(b"This is no database. " * 5000)
    elif harm == "empty":
        index.write_bytes(b"")
    else:
        index.write_bytes(index.read_bytes()[:5000])
    m.start()
    all_right(m)
    if harm != "empty":  # an empty file is an empty database, nothing to set aside
        assert "was moved to" in m.errors.read_text()
        assert list(cache_of(m).parent.glob("test.aside-*"))


def test_another_account_under_the_same_name(user, dovecot, mount):
    m = mount(user)
    all_right(m)
    assert m.stop() == 0
    m.user = dovecot.user()
    with m.user.connect() as box:
        box.append("INBOX", sample("somebody else's"))
    m.configure()
    m.start()
    assert [path.read_bytes() for path in m.messages().values()] == [sample("somebody else's")]
    assert "another account" in m.errors.read_text()


def test_one_daemon_an_account(user, mount):
    m = mount(user)
    with tempfile.TemporaryDirectory(dir="/tmp") as other:
        command = m.command()
        command[-1] = other
        done = subprocess.run(command, env=m.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("emlfs: ") and str(m.process.pid) in done.stderr
    all_right(m)


def test_the_limit_is_kept(user, mount):
    """30 messages of 84 kB in a cache of 1 MiB: all can be read, again and again."""
    m = mount(user, cache_size="1M")
    for _ in range(3):
        all_right(m)

    def small():
        used = int(m.status()["cache"].split(", ")[1].split()[0])
        return used <= 1 << 20

    until(small, "the cache within its limit")


def test_missing_bodies_are_fetched_again(user, mount):
    m = mount(user)
    all_right(m)
    assert m.stop() == 0
    packs = list((cache_of(m) / "packs").glob("*"))
    assert packs
    for pack in packs:
        pathlib.Path(pack).unlink()
    m.start()
    all_right(m)
