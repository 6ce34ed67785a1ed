# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written through the mount is what the server then holds, as another client sees it."""
import errno
import os
import pathlib
import subprocess
import time

import pytest

import imapcheck
from faultproxy import FaultProxy
from mounting import PATIENCE, sample, until
from test_trouble import DEADLINE, SLACK

WHEN = 1700000000
PLACE = "Ziel"


def fails(number, call, *args, **more):
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    assert caught.value.errno == number, caught.value


def sh(command, code=0, **more):
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=4 * PATIENCE, **more)
    assert done.returncode == code, done.stdout
    return done.stdout


def stored(m, folder=PLACE):
    """What the server has in a folder, once all is done that was promised."""
    m.drained()
    return m.box.fetch_all(folder)


def bodies(m, folder=PLACE):
    """The octets of all messages of a folder, sorted; a message that is there twice is twice in it."""
    return sorted(message.body for message in stored(m, folder).values())


def the_one(m, folder=PLACE):
    found = stored(m, folder)
    assert len(found) == 1, found
    return next(iter(found.values()))


def letters(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".eml"))


def begin(m, messages, **more):
    """Puts messages into the folder, {name: octets}, mounts, and calls them so; the paths."""
    uids = {name: m.box.append(PLACE, octets, **more) for name, octets in messages.items()}
    m.start()
    found = m.messages(PLACE)
    for name, uid in uids.items():
        found[uid].rename(m.place / name)
    return [m.place / name for name in messages]


@pytest.fixture
def place(server, mount):
    """An account with an empty folder besides the INBOX, to be mounted when all is there that has to be at
    first: some servers tell of what other clients do within a minute only."""
    user = server.user()
    with user.connect() as box:
        box.create(PLACE)
        m = mount(user, options=["xattr"], start=False)
        m.box, m.place = box, m.dir / PLACE
        yield m


# --- in ---------------------------------------------------------------------------------------------


def test_cp_in(place, tmp_path):
    m = place.start()
    sources = {"ein Brief.eml": sample("plain"), "bare.eml": sample("bare", "a\r\nb\r\n").replace(b"\r\n", b"\n"),
               "Größe €.eml": sample("8 bit", "Grüße\r\n"), "long.eml": sample("long", "x" * 300000 + "\r\n"),
               "nobody.eml": b"Subject: no body\r\n\r\n"}
    if m.user.server.kind != "courier":  # which adds a line end
        sources["noend.eml"] = sample("no line end", "no line end")
    for count, (name, octets) in enumerate(sources.items()):
        (tmp_path / name).write_bytes(octets)
        os.utime(tmp_path / name, (WHEN + count, WHEN + count))
    sh("cp -p '%s'/*.eml '%s'" % (tmp_path, m.place))
    there = stored(m)
    assert sorted(one.body for one in there.values()) == sorted(map(imapcheck.wire, sources.values()))
    dates = {one.body: one.date for one in there.values()}

    def looks_right():
        assert letters(m.place) == sorted(sources)
        for count, (name, octets) in enumerate(sources.items()):
            octets = imapcheck.wire(octets)
            assert (m.place / name).read_bytes() == octets
            assert (m.place / name).stat().st_size == len(octets)
            assert (m.place / name).stat().st_mtime == dates[octets] == WHEN + count

    looks_right()
    assert m.stop() == 0
    m.start()
    looks_right()
    assert len(stored(m)) == len(sources)


def test_rsync_twice(place, tmp_path):
    m = place.start()
    for i in range(12):
        path = tmp_path / ("message %d.eml" % i)
        path.write_bytes(sample("rsync %d" % i, "%d\r\n" % i * (i * 700 + 1)))
        os.utime(path, (WHEN + i, WHEN + i))
    command = "rsync -a --itemize-changes '%s/' '%s/'" % (tmp_path, m.place)
    assert sh(command).count(">f") == 12
    m.drained()
    assert bodies(m) == sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert ">f" not in sh(command)
    sh("diff -r '%s' '%s'" % (tmp_path, m.place))
    assert m.stop() == 0
    m.start()
    assert ">f" not in sh(command)
    assert len(m.box.uids(PLACE)) == 12


def test_flags_of_a_letter(place):
    m = place.start()
    octets = b"Status: RO\r\nX-Status: AF\r\n" + sample("seen")
    (m.place / "seen.eml").write_bytes(octets)
    message = the_one(m)
    assert message.flags == {"\\Seen", "\\Answered", "\\Flagged"} and message.body == octets
    assert set(os.getxattr(m.place / "seen.eml", "user.mail.flags").split()) == \
        {b"\\Seen", b"\\Answered", b"\\Flagged"}


def test_no_message(place, tmp_path):
    m = place.start()
    for name, octets in (("text.eml", b"no message at all\n"), ("mbox.eml", b"From anna Mon Nov  2\n" + sample("x")),
                         ("nul.eml", sample("nul", "a\0b\r\n"))):
        fails(errno.EINVAL, (m.place / name).write_bytes, octets)
        assert (m.place / name).read_bytes() == octets  # nothing is lost
        (tmp_path / name).write_bytes(octets)
        sh("cp '%s' '%s/again-%s'" % (tmp_path / name, m.place, name), code=1)
    assert m.box.uids(PLACE) == []
    (m.place / "text.eml").write_bytes(sample("now it is one"))
    assert the_one(m).body == sample("now it is one")
    assert m.stop() == 0
    m.start()
    assert (m.place / "mbox.eml").read_bytes().startswith(b"From anna")
    assert len(m.box.uids(PLACE)) == 1
    text = (m.dir / ".control" / "status").read_text()
    assert "\nnot stored: %s/mbox.eml: " % PLACE in text and "/text.eml" not in text
    (m.place / "mbox.eml").unlink()
    assert "mbox.eml" not in os.listdir(m.place)


def at_rest(m):
    status = m.status()
    return ", 0 at work" in status["connections"] and status["folders to check"] == "0" and \
        status["queued"].startswith("0 waited for, 0 news, 0 prefetch, 0 b")


def test_cp_within_the_mount_moves_no_octets(dovecot, mount):
    octets = sample("large", "0123456789abcdef" * 4 + "\r\n") + (b"0123456789abcdef" * 4 + b"\r\n") * 790000
    assert len(octets) > 50e6
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", octets, date=WHEN, flags=["\\Flagged"])
        m = mount(user)
        m.box = box
        (path,) = m.messages().values()
        (m.dir / "Archive" / "first.eml").write_bytes(sample("first"))  # all is set up
        until(lambda: at_rest(m), "rest")
        before = int(m.status()["transferred"].split()[0])
        sh("cp '%s' '%s'" % (path, m.dir / "Archive" / "copy.eml"))
        moved = int(m.status()["transferred"].split()[0]) - before
        print("a copy of %d octets: %d octets on the wire" % (len(octets), moved))
        assert moved < 2048
        copy = [one for one in box.fetch_all("Archive").values() if one.size == len(octets)]
        assert len(copy) == 1 and copy[0].body == octets
        assert copy[0].date == WHEN and copy[0].flags == {"\\Flagged"}
        assert len(box.uids("INBOX")) == 1
        assert letters(m.dir / "Archive") == ["copy.eml", "first.eml"]


# --- about ------------------------------------------------------------------------------------------


def test_mv(place):
    m, box = place, place.box
    box.append("INBOX", sample("one"), flags=["\\Flagged", "$Work"], date=WHEN)
    m.start()
    (path,) = m.messages().values()
    sh("mv '%s' '%s'" % (path, m.place))
    assert bodies(m, "INBOX") == [] and letters(m.dir / "INBOX") == []
    message = the_one(m)
    assert message.body == sample("one") and message.date == WHEN and message.flags == {"\\Flagged", "$Work"}
    assert letters(m.place) == [path.name]
    assert (m.place / path.name).read_bytes() == sample("one")
    # only a name: nothing happens on the server
    uids = box.uids(PLACE)
    sh("mv '%s' '%s/Ümbenannt.eml'" % (m.place / path.name, m.place))
    assert letters(m.place) == ["Ümbenannt.eml"] and box.uids(PLACE) == uids
    assert m.stop() == 0
    m.start()
    assert letters(m.place) == ["Ümbenannt.eml"]
    assert (m.place / "Ümbenannt.eml").read_bytes() == sample("one")


def test_mv_many_into_a_nested_folder(place):
    m, box = place, place.box
    sent = [sample("message %d" % i, "%d\r\n" % i) for i in range(40)]
    for octets in sent:
        box.append("INBOX", octets)
    m.start()
    sh("mkdir -p '%s'" % (m.place / "tief" / "tiefer"))
    names = letters(m.dir / "INBOX")
    sh("mv '%s'/*.eml '%s'" % (m.dir / "INBOX", m.place / "tief" / "tiefer"))
    assert letters(m.dir / "INBOX") == [] and letters(m.place / "tief" / "tiefer") == names
    m.drained()
    assert box.uids("INBOX") == []
    assert bodies(m, PLACE + "/tief/tiefer") == sorted(sent)
    assert letters(m.place / "tief" / "tiefer") == names
    # and the folder, with all in it
    sh("mv '%s' '%s'" % (m.place / "tief", m.dir / "anders"))
    assert bodies(m, "anders/tiefer") == sorted(sent)
    assert {path.read_bytes() for path in (m.dir / "anders" / "tiefer").iterdir()} == set(sent)
    if m.user.server.kind != "courier":  # which gives the messages of a folder that is renamed new UIDs
        assert letters(m.dir / "anders" / "tiefer") == names


def test_mv_onto_a_message_replaces_it(place, tmp_path):
    m = place
    old, new = begin(m, {"a.eml": sample("old"), "b.eml": sample("new")})
    fails(errno.ENOENT, os.rename, m.place / "none.eml", old)
    os.rename(new, old)
    m.drained()
    assert letters(m.place) == ["a.eml"] and old.read_bytes() == sample("new")
    assert bodies(m) == [sample("new")]


# --- out --------------------------------------------------------------------------------------------


def test_rm(place):
    m, box = place, place.box
    path, other = begin(m, {"rubbish.eml": sample("rubbish"), "kept.eml": sample("kept")})
    path.unlink()
    assert bodies(m) == [sample("kept")] and letters(m.place) == ["kept.eml"]
    assert bodies(m, "Trash") == [sample("rubbish")]
    assert letters(m.dir / "Trash") == ["rubbish.eml"]
    # there, somebody else has marked a message
    box.append("Trash", sample("marked"), flags=["\\Deleted"])
    (m.dir / "Trash" / "rubbish.eml").unlink()
    assert bodies(m, "Trash") == [sample("marked")]
    assert other.exists()
    fails(errno.ENOENT, path.unlink)


def test_rm_with_delete_expunge(place):
    m, box = place, place.box
    m.configure(delete="expunge")
    box.append(PLACE, sample("marked by another"), flags=["\\Deleted"])
    (path,) = begin(m, {"rubbish.eml": sample("rubbish")})
    path.unlink()
    message = the_one(m)
    assert message.body == sample("marked by another") and "\\Deleted" in message.flags
    assert "Trash" not in box.folders() or bodies(m, "Trash") == []


def test_rm_r(place):
    m, box = place, place.box
    box.create(PLACE + "/darin")
    sent = [sample("%d" % i) for i in range(24)]
    for i, octets in enumerate(sent):
        box.append(PLACE + "/darin" if i % 2 else PLACE, octets)
    m.start()
    assert len(list(m.place.rglob("*.eml"))) == len(sent)
    (m.place / "scratch").write_bytes(b"not for the server")
    sh("rm -r '%s'" % m.place)
    assert PLACE not in os.listdir(m.dir)
    assert not [name for name in box.folders() if name.startswith(PLACE)]
    assert bodies(m, "Trash") == sorted(sent)
    assert len(letters(m.dir / "Trash")) == len(sent)


# --- folders ----------------------------------------------------------------------------------------


def test_folders(place):
    m, box = place.start(), place.box
    sh("mkdir -p '%s/Übersicht/日本 & so/tief'" % m.place)
    assert {PLACE + "/Übersicht", PLACE + "/Übersicht/日本 & so", PLACE + "/Übersicht/日本 & so/tief"} <= \
        set(box.folders())
    assert os.listdir(m.place) == ["Übersicht"]
    (m.place / "Übersicht" / "日本 & so" / "x.eml").write_bytes(sample("in there"))
    assert bodies(m, PLACE + "/Übersicht/日本 & so") == [sample("in there")]
    fails(errno.EEXIST, os.mkdir, m.place / "Übersicht")
    fails(errno.ENOTEMPTY, os.rmdir, m.place / "Übersicht")
    fails(errno.ENOTEMPTY, os.rmdir, m.place / "Übersicht" / "日本 & so")
    os.rename(m.place / "Übersicht" / "日本 & so", m.dir / "oben")
    assert "oben/tief" in box.folders() and bodies(m, "oben") == [sample("in there")]
    (path,) = (m.dir / "oben").glob("*.eml")
    assert path.read_bytes() == sample("in there")
    if m.user.server.kind != "courier":
        assert path.name == "x.eml"
    os.rmdir(m.place / "Übersicht")
    os.rmdir(m.dir / "oben" / "tief")
    assert not {PLACE + "/Übersicht", "oben/tief"} & set(box.folders())
    fails(errno.ENOTEMPTY, os.rmdir, m.dir / "oben")
    fails(errno.ENOTEMPTY, os.rename, m.place, m.dir / "oben")
    assert m.stop() == 0
    m.start()
    assert os.listdir(m.dir / "oben") == [path.name]


def test_folders_that_cannot_be(place):
    m, box = place.start(), place.box
    before = set(box.folders())
    fails(errno.EINVAL, os.mkdir, m.dir / ("a%2Fb" if box.separator == "/" else "a%sb" % box.separator))
    fails(errno.EINVAL, os.rename, m.place, m.dir / ("a%2Fb" if box.separator == "/" else "a%sb" % box.separator))
    fails(errno.EPERM, os.rmdir, m.dir / "INBOX")
    fails(errno.EPERM, os.rename, m.dir / "INBOX", m.dir / "Anderes")
    fails(errno.EEXIST, os.mkdir, m.dir / "INBOX")
    fails(errno.EROFS, os.mkdir, m.dir / ".control" / "x")
    fails(errno.ENOTDIR, os.rmdir, m.dir / ".control" / "status")
    fails(errno.ENOENT, os.rmdir, m.dir / "none")
    assert set(box.folders()) == before


# --- editing ----------------------------------------------------------------------------------------

EDITS = {
    "append": "echo 'one more line' >> {0}",
    "vim": "vim -es -c '%s/word/other/' -c wq {0}",
    "sed": "sed -i s/word/other/ {0}",
    "nano": """python3 -c '
import os, sys
with open(sys.argv[1], "rb") as f: octets = f.read()
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
os.write(fd, octets.replace(b"word", b"other")); os.fsync(fd); os.close(fd)' {0}""",
    "mmap": """python3 -c '
import mmap, sys
with open(sys.argv[1], "r+b") as f, mmap.mmap(f.fileno(), 0) as octets:
    at = octets.find(b"word"); octets[at:at + 4] = b"WORD"; octets.flush()' {0}""",
}


@pytest.mark.parametrize("way", EDITS)
def test_editing(place, way):
    m, box = place, place.box
    octets = sample("edited", "a word\r\n" + "line\r\n" * 2000)
    (path,) = begin(m, {"mein Brief.eml": octets}, flags=["\\Flagged", "$Work"], date=WHEN)
    wanted = {"append": octets + b"one more line\r\n", "mmap": octets.replace(b"word", b"WORD")}.get(
        way, octets.replace(b"word", b"other"))
    uids = box.uids(PLACE)
    sh(EDITS[way].format("'%s'" % path), env=dict(os.environ, HOME=str(m.folder)))
    m.drained()
    assert not set(stored(m)) & set(uids)
    message = the_one(m)
    assert message.body == wanted
    assert message.flags == {"\\Flagged", "$Work"}
    assert path.read_bytes() == wanted
    assert os.listdir(m.place) == [path.name]
    until(lambda: set(os.getxattr(path, "user.mail.flags").split()) == {b"\\Flagged"}, "the flags")
    assert m.stop() == 0
    m.start()
    assert os.listdir(m.place) == [path.name] and path.read_bytes() == wanted


def test_editing_what_becomes_no_message(place):
    m = place
    (path,) = begin(m, {"a.eml": sample("good")})
    fails(errno.EINVAL, path.write_bytes, b"rubbish")
    assert bodies(m) == [sample("good")]
    assert path.read_bytes() == sample("good")
    assert (m.place / "a.eml.failed").read_bytes() == b"rubbish"


def test_flags(place):
    m = place
    (path,) = begin(m, {"a.eml": sample("flags")}, flags=["\\Seen"])
    os.setxattr(path, "user.mail.flags", b"\\flagged \\Answered")
    os.setxattr(path, "user.mail.keywords", b"$Work later")
    m.drained()
    assert {flag.lower() for flag in the_one(m).flags} == {"\\flagged", "\\answered", "$work", "later"}
    assert set(os.getxattr(path, "user.mail.keywords").lower().split()) == {b"$work", b"later"}
    os.removexattr(path, "user.mail.flags")
    os.setxattr(path, "user.mail.keywords", b"later")
    m.drained()
    assert {flag.lower() for flag in the_one(m).flags} == {"later"}
    fails(errno.EINVAL, os.setxattr, path, "user.mail.flags", b"nonsense")
    fails(errno.EINVAL, os.setxattr, path, "user.mail.keywords", b"a(b")
    fails(errno.EPERM, os.setxattr, path, "user.mail.subject", b"x")
    fails(errno.ENOTSUP, os.setxattr, path, "user.other", b"x")
    assert path.read_bytes() == sample("flags")


# --- scratch ----------------------------------------------------------------------------------------


def test_scratch(place):
    m, box = place.start(), place.box
    (m.place / "notes.txt").write_bytes(b"for me")
    (m.place / ".hidden.eml").write_bytes(sample("hidden"))
    (m.dir / ".local").mkdir()
    (m.dir / ".local" / "inside.eml").write_bytes(sample("inside"))
    before = set(box.folders())
    size = 6 + len(sample("hidden")) + len(sample("inside"))
    assert m.status()["scratch"] == "3 files, %d bytes, on this machine only" % size
    assert m.stop() == 0
    m.start()
    assert sorted(os.listdir(m.place)) == [".hidden.eml", "notes.txt"]
    assert (m.place / "notes.txt").read_bytes() == b"for me"
    assert (m.dir / ".local" / "inside.eml").read_bytes() == sample("inside")
    assert bodies(m) == [] and set(box.folders()) == before and ".local" not in before
    # what gets the name of a letter is one
    (m.place / ".hidden.eml").rename(m.place / "shown.eml")
    assert bodies(m) == [sample("hidden")]
    sh("mv '%s' '%s'" % (m.dir / ".local" / "inside.eml", m.place))
    assert bodies(m) == sorted([sample("hidden"), sample("inside")])
    fails(errno.EINVAL, (m.place / "notes.txt").rename, m.place / "notes.eml")
    assert sorted(os.listdir(m.place))[0] == "inside.eml" and len(os.listdir(m.place)) == 3
    fails(errno.EXDEV, os.rename, m.place / "shown.eml", m.dir / ".local" / "shown.eml")
    sh("mv '%s' '%s'" % (m.place / "shown.eml", m.dir / ".local"))
    m.drained()
    assert bodies(m) == [sample("inside")]
    assert (m.dir / ".local" / "shown.eml").read_bytes() == sample("hidden")
    sh("rm -r '%s'" % (m.dir / ".local"))


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dovecot", "cyrus"])
def test_over_quota(bed, mount, kind):
    user = bed.server(kind).user("1048576")
    large = sample("too much", "x" * 70 + "\r\n") + b"y" * 70 * 1000 + b"\r\n" + b"z\r\n" * 200000
    with user.connect() as box:
        m = mount(user)
        m.box = box
        (m.dir / "INBOX" / "first.eml").write_bytes(large)
        fails(errno.EDQUOT, (m.dir / "INBOX" / "second.eml").write_bytes, large)
        (m.dir / "INBOX" / "third.eml").write_bytes(sample("small"))
        assert bodies(m, "INBOX") == sorted([large, sample("small")])
        assert (m.dir / "INBOX" / "second.eml").read_bytes() == large
        fails(errno.EDQUOT, (m.dir / "INBOX" / "first.eml").write_bytes, large + large)
        assert bodies(m, "INBOX") == sorted([large, sample("small")])
        assert (m.dir / "INBOX" / "first.eml").read_bytes() == large
        assert (m.dir / "INBOX" / "first.eml.failed").read_bytes() == large + large
        # it goes when there is room and it is written again
        box.expunge("INBOX", box.uids("INBOX"))
        (m.dir / "INBOX" / "second.eml").write_bytes(large)
        assert bodies(m, "INBOX") == [large]


def as_administrator(server):
    password = pathlib.Path(server.bed.env["MAILBED_DIR"], "cyrus", "passwords", "admin").read_text()
    host, port = server.imaps.rsplit(":", 1)
    return imapcheck.connect("admin@" + server.domain, password, host, int(port), server.ca)


def test_what_the_rights_do_not_allow(bed, mount):
    user = bed.server("cyrus").user()
    with user.connect() as box, as_administrator(user.server) as admin:
        box.create(PLACE)
        box.append(PLACE, sample("there"))
        box.append("INBOX", sample("elsewhere"))
        name = user.address.split("@")[0]
        admin._ok(admin.imap.setacl("user/%s/%s" % (name, PLACE), name, "lrs"))
        m = mount(user)
        m.box = box
        (path,) = m.messages(PLACE).values()
        (other,) = m.messages().values()
        fails(errno.EACCES, (m.dir / PLACE / "new.eml").write_bytes, sample("new"))
        assert (m.dir / PLACE / "new.eml").read_bytes() == sample("new")
        fails(errno.EACCES, os.rename, other, m.dir / PLACE / "other.eml")
        fails(errno.EACCES, path.unlink)
        fails(errno.EACCES, os.rename, path, m.dir / "INBOX" / "mine.eml")
        assert path.read_bytes() == sample("there") and other.read_bytes() == sample("elsewhere")
        assert bodies(m) == [sample("there")] and bodies(m, "INBOX") == [sample("elsewhere")]
        assert bodies(m, "Trash") == []


@pytest.fixture
def proxied(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box, FaultProxy(dovecot.imaps) as proxy:
        box.create(PLACE)
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), timeout=str(DEADLINE), start=False)
        m.box, m.place, m.proxy = box, m.dir / PLACE, proxy
        (m.message,) = begin(m, {"there.eml": sample("there")})
        m.message.read_bytes()
        yield m


def in_time(numbers, call, *args):
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        call(*args)
    took = time.monotonic() - began
    assert caught.value.errno in numbers, caught.value
    assert took < DEADLINE + SLACK
    print("%s after %.2f s" % (errno.errorcode[caught.value.errno], took))


def is_back(m):
    until(lambda: m.status()["state"] == "online", "online in the status", 60)
    m.drained()


def test_nothing_is_promised_offline(proxied):
    m = proxied
    m.proxy.refuse(True)
    m.proxy.reset()
    in_time([errno.EHOSTUNREACH, errno.ETIMEDOUT], (m.place / "a.eml").write_bytes, sample("a"))
    until(lambda: m.status()["state"] == "offline", "offline in the status")
    for call, args in ((m.message.unlink, ()), (m.message.rename, (m.dir / "INBOX" / "there.eml",)),
                       ((m.place / "b.eml").write_bytes, (sample("b"),)), (os.mkdir, (m.dir / "neu",)),
                       (os.rmdir, (m.dir / "Archive",)), (m.message.write_bytes, (sample("edited"),))):
        began = time.monotonic()
        fails(errno.EHOSTUNREACH, call, *args)
        assert time.monotonic() - began < 2
    (m.place / "scratch").write_bytes(b"works")
    assert (m.place / "a.eml").read_bytes() == sample("a") and (m.place / "b.eml").read_bytes() == sample("b")
    assert m.message.read_bytes() == sample("there")
    m.proxy.refuse(False)
    is_back(m)
    assert bodies(m) == [sample("there")] and "neu" not in m.box.folders()
    for name in "ab":  # they are tried again when they are written again
        (m.place / (name + ".eml")).write_bytes(sample(name + " again"))
    assert bodies(m) == sorted([sample("there"), sample("a again"), sample("b again")])


def test_a_silent_network(proxied):
    m = proxied
    m.proxy.hole(True)
    in_time([errno.ETIMEDOUT, errno.EHOSTUNREACH], (m.place / "a.eml").write_bytes, sample("a"))
    in_time([errno.ETIMEDOUT, errno.EHOSTUNREACH], m.message.rename, m.dir / "INBOX" / "there.eml")
    assert (m.place / "a.eml").read_bytes() == sample("a")
    # whether it was moved is not known: it may be shown where it was to go until that is found out
    in_time([errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOENT], m.message.unlink)
    m.proxy.hole(False)
    is_back(m)
    # what failed may have been done all the same, but not twice, and the mount shows what is so
    there = bodies(m) + bodies(m, "INBOX") + bodies(m, "Trash")
    assert there.count(sample("there")) == 1 and there.count(sample("a")) <= 1
    until(lambda: {path.read_bytes() for path in m.place.glob("*.eml")} == set(bodies(m)) | {sample("a")},
          "the listing")


def test_sessions_that_end_are_no_error(bed, proxied):
    m = proxied
    bed.run("die", m.user.address)
    for i in range(10):
        (m.place / ("%d.eml" % i)).write_bytes(sample("letter %d" % i))
    m.proxy.reset()  # not killed: the server would leave its lock in the folder for minutes
    m.message.rename(m.dir / "INBOX" / "there.eml")
    m.box = m.user.connect()  # its session was killed as well
    assert bodies(m) == sorted(sample("letter %d" % i) for i in range(10))
    assert bodies(m, "INBOX") == [sample("there")]


def test_expunged_by_another_meanwhile(place):
    m, box = place, place.box
    one, two, three = begin(m, {"%d.eml" % i: sample("%d" % i) for i in range(3)})
    m.messages("INBOX")
    with open(three, "r+b") as f:
        box.expunge(PLACE, box.uids(PLACE))
        for call, args in ((one.unlink, ()), (two.rename, (m.dir / "INBOX" / "two.eml",))):
            fails(errno.ENOENT, call, *args)
        f.write(sample("edited"))
    until(lambda: letters(m.place) == ["2.eml"], "the listing")
    assert bodies(m) == [sample("edited")] and bodies(m, "INBOX") == []
    assert three.read_bytes() == sample("edited")
