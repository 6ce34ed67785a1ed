# SPDX-License-Identifier: GPL-3.0-or-later
"""What other clients do shows without a remount."""
import contextlib
import imaplib
import os
import time

import pytest

from mounting import sample, until
from watching import ATTRIB, CLOSE_WRITE, CREATE, DELETE, Watcher

# The promise is a second; the bound is for a loaded machine. Courier looks at a folder only once a
# minute while it idles, so it is left out here.
SECONDS = 15


@pytest.fixture(params=["dovecot", "cyrus"])
def server(bed, request):
    return bed.server(request.param)


def ready(m, folder="INBOX"):
    m.messages(folder)
    until(lambda: not m.status()["news"].startswith("not yet"), "listening")


def timed(condition, what):
    began = time.monotonic()
    until(condition, what, SECONDS)
    print("%s: %.2f s" % (what, time.monotonic() - began))


def test_new_gone_and_flags_in_inbox(server, mount):
    user = server.user()
    with user.connect() as box:
        first = box.append("INBOX", sample("first"))
        m = mount(user, options=["xattr"])
        ready(m)
        second = box.append("INBOX", sample("second"))
        timed(lambda: second in m.messages(), "new")
        path = m.messages()[second]
        assert path.read_bytes() == sample("second")
        ctime = os.stat(path).st_ctime
        assert os.getxattr(path, "user.mail.flags") == b""
        box.store_flags("INBOX", [second], ["\\Seen", "\\Flagged"], "+FLAGS")
        timed(lambda: os.getxattr(path, "user.mail.flags") == b"\\Seen \\Flagged", "flags")
        assert os.stat(path).st_ctime >= ctime
        box.expunge("INBOX", [first])
        timed(lambda: first not in m.messages(), "gone")
        assert list(m.messages()) == [second]


def test_moved_between_folders(server, mount):
    user = server.user()
    with user.connect() as box:
        box.create("Work")
        uid = box.append("INBOX", sample("moving"))
        m = mount(user)
        ready(m)
        assert not m.messages("Work")
        box.move("INBOX", [uid], "Work")
        timed(lambda: uid not in m.messages("INBOX"), "moved away")
        timed(lambda: len(m.messages("Work")) == 1, "moved here")


def test_every_folder_on_dovecot(bed, mount):
    user = bed.server("dovecot").user()
    with user.connect() as box:
        names = ["Folder %d" % i for i in range(8)]
        for name in names:
            box.create(name)
        m = mount(user)
        for name in names:
            ready(m, name)
        for name in names:
            box.append(name, sample("news for " + name))
        for name in names:
            timed(lambda: len(m.messages(name)) == 1, "new in " + name)


def test_folders_come_and_go(bed, mount):
    user = bed.server("dovecot").user()
    with user.connect() as box:
        m = mount(user)
        ready(m)
        box.create("Lists/Debian")
        timed(lambda: (m.dir / "Lists" / "Debian").is_dir(), "a folder made")
        box.append("Lists/Debian", sample("there"))
        timed(lambda: len(m.messages("Lists/Debian")) == 1, "its message")
        box.rename("Lists/Debian", "Lists/Ubuntu")
        timed(lambda: os.listdir(m.dir / "Lists") == ["Ubuntu"], "renamed")
        timed(lambda: len(m.messages("Lists/Ubuntu")) == 1, "its message there")
        box.delete("Lists/Ubuntu")
        timed(lambda: not (m.dir / "Lists" / "Ubuntu").exists(), "deleted")


def test_a_new_uidvalidity(bed, mount):
    user = bed.server("dovecot").user()
    with user.connect() as box:
        for i in range(20):
            box.append("INBOX", sample("number %d" % i))
    m = mount(user)
    ready(m)
    before = m.messages()
    before[1].read_bytes()
    bed.run("uidvalidity", user.address, "INBOX", "renumber")
    with user.connect() as box:
        theirs = box.fetch_all("INBOX")
    assert not set(theirs) & set(before)
    # Sessions that are open over it go on with the old index; they end, as they would when an
    # administrator rebuilds a mailbox.
    bed.run("die", user.address)
    until(lambda: sorted(m.messages()) == sorted(theirs), "the new UIDs")
    for uid, path in m.messages().items():
        assert path.read_bytes() == theirs[uid].body
    assert not before[1].exists()


def test_the_same_uids_under_another_uidvalidity(bed, mount):
    """The names stay, but nothing of the old messages may be taken for the new ones."""
    user = bed.server("dovecot").user()
    with user.connect() as box:
        uid = box.append("INBOX", sample("one"))
    m = mount(user)
    ready(m)
    path = m.messages()[uid]
    assert path.read_bytes() == sample("one")
    inode = path.stat().st_ino
    bed.run("uidvalidity", user.address, "INBOX")
    bed.run("die", user.address)
    until(lambda: m.messages().get(uid) and m.messages()[uid].stat().st_ino != inode, "another inode")
    assert m.messages()[uid].read_bytes() == sample("one")


def test_a_burst(bed, mount):
    user = bed.server("dovecot").user()
    with user.connect() as box:
        m = mount(user)
        ready(m)
        uids = [box.append("INBOX", sample("burst %d" % i)) for i in range(300)]
        until(lambda: sorted(m.messages()) == uids, "all of them")
        box.expunge("INBOX", uids[::2])
        until(lambda: sorted(m.messages()) == uids[1::2], "half of them")


def test_changes_while_not_mounted(server, mount):
    user = server.user()
    with user.connect() as box:
        uids = [box.append("INBOX", sample("kept %d" % i)) for i in range(30)]
        m = mount(user, options=["xattr"])
        ready(m)
        for path in m.messages().values():
            path.read_bytes()
        assert m.stop() == 0
        box.expunge("INBOX", uids[:5])
        box.store_flags("INBOX", uids[10:15], ["\\Answered"], "+FLAGS")
        new = [box.append("INBOX", sample("new %d" % i)) for i in range(5)]
        m.start()
        until(lambda: sorted(m.messages()) == uids[5:] + new, "the same messages")
        until(lambda: all(os.getxattr(m.messages()[uid], "user.mail.flags") == b"\\Answered"
                          for uid in uids[10:15]), "the flags")
        theirs = box.fetch_all("INBOX")
        for uid, path in m.messages().items():
            assert path.read_bytes() == theirs[uid].body


def test_inotify_tells(server, mount):
    user = server.user()
    with user.connect() as box:
        first = box.append("INBOX", sample("first"))
        m = mount(user)
        ready(m)
        gone = m.messages()[first]
        seen = Watcher(m.dir, m.dir / "INBOX")
        second = box.append("INBOX", sample("second"))
        seen.wait(lambda told: any(mask == CLOSE_WRITE and name.endswith(".%d.eml" % second)
                                   for mask, name in told), "new", SECONDS)
        path = m.messages()[second]
        assert path.read_bytes() == sample("second")
        box.store_flags("INBOX", [second], ["\\Seen"], "+FLAGS")
        seen.told(ATTRIB, path.name, SECONDS)
        box.expunge("INBOX", [first])
        seen.told(DELETE, gone.name, SECONDS)
        if server.kind == "dovecot":  # the other is asked for its folders once a minute
            box.create("Work")
            seen.told(CREATE, "Work", SECONDS)
        seen.close()
