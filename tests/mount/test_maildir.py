# SPDX-License-Identifier: GPL-3.0-or-later
"""The Maildir view, with the engine of tests/unit/fake-changes.c. What real programs make of it:
tests/servers/test_maildir.py."""
import errno
import mailbox
import os
import pathlib
import subprocess
import threading
import time

import pytest

from conftest import BOUND, content, wait_for
from test_write import INBOX, LETTER, OFFLINE, REFUSED, commits, fails, is_message, locals_left

SEEN, ANSWERED, FLAGGED, DELETED, DRAFT = 1, 2, 4, 8, 16


def stem(uid):
    return f"2026-11-20_Anna-Alpha_Subject-of-message.{uid}"


@pytest.fixture
def box(anna):
    """INBOX; its first three messages have neither flags nor keywords, all others are forwarded."""
    for uid in (1, 2, 3):
        anna.tell("keywords", "INBOX", uid, 0, "")
    return anna.dir / ".maildir" / "INBOX"


def deliver(box, name, to, data=LETTER):
    path = box / "tmp" / name
    path.write_bytes(data)
    os.rename(path, box / to)


def row(anna, box, uid):
    """Name of a message in the view, wherever it is."""
    return [f"{part}/{name}" for part in ("cur", "new") for name in os.listdir(box / part)
            if name.split(":")[0] == stem(uid)]


def test_layout(anna, box):
    top = anna.dir / ".maildir"
    assert ".maildir" not in os.listdir(anna.dir)
    assert set(os.listdir(top)) == set(os.listdir(anna.dir)) - {".control"}
    assert set(os.listdir(box)) == {"cur", "new", "tmp", "Projects"}
    assert set(os.listdir(box / "Projects" / "Deep")) == {"cur", "new", "tmp"}
    assert os.listdir(top / "Container") == ["Inner"]
    fails(errno.ENOENT, os.stat, top / "Container" / "cur")
    fails(errno.ENOENT, os.stat, top / ".control")
    fails(errno.ENOENT, os.stat, box / "nothing")
    assert (box / "cur" / "..").stat().st_ino == box.stat().st_ino
    assert (top / "..").stat().st_ino == anna.dir.stat().st_ino
    assert len({(box / part).stat().st_ino for part in (".", "cur", "new", "tmp")}) == 4
    assert (box / "dovecot-keywords").read_text().startswith("0 $Junk\n1 $NotJunk\n")
    fails(errno.EROFS if os.getuid() == 0 else errno.EACCES, os.open, box / "dovecot-keywords",
          os.O_WRONLY)
    for path in (top,):
        fails(errno.EPERM, os.rename, path, anna.dir / "x")
        fails(errno.EPERM, os.rmdir, path)


def test_names(anna, box):
    assert sorted(os.listdir(box / "new")) == [stem(uid) for uid in (1, 2, 3)]
    assert set(os.listdir(box / "cur")) == {stem(uid) + ":2,P" for uid in range(4, 21)}
    assert os.listdir(box / "tmp") == []
    for bits, letters in ((SEEN, "S"), (FLAGGED, "F"), (ANSWERED, "R"), (DELETED, "T"), (DRAFT, "D"),
                          (31, "DFRST")):
        anna.tell("flags", "INBOX", 1, bits)
        assert row(anna, box, 1) == [f"cur/{stem(1)}:2,{letters}"]
    anna.tell("keywords", "INBOX", 1, 0, "$junk other $label2 $FORWARDED")
    anna.tell("flags", "INBOX", 1, SEEN)
    assert row(anna, box, 1) == [f"cur/{stem(1)}:2,PSag"]
    path = box / "cur" / f"{stem(1)}:2,PSag"
    assert path.read_bytes() == content(INBOX, 1, 1000)
    st, plain = path.stat(), anna.message("INBOX", 1).stat()
    assert (st.st_ino, st.st_size, st.st_nlink, st.st_mtime) == (plain.st_ino, 1000, 1, plain.st_mtime)
    wait_for(lambda: not (box / "new" / stem(1)).exists(), "the end of a name of before")
    wait_for(lambda: not (box / "cur" / f"{stem(1)}:2,S").exists(), "the end of a name of before")
    fails(errno.ENOENT, os.stat, box / "cur" / f"{stem(99)}:2,S")


def test_a_name_of_before_is_gone_but_what_is_open_stays(anna, box):
    path = box / "new" / stem(1)
    with open(path, "rb") as file:
        anna.tell("flags", "INBOX", 1, SEEN)
        wait_for(lambda: not path.exists(), "the end of the old name")
        assert file.read() == content(INBOX, 1, 1000)
        assert (box / "cur" / f"{stem(1)}:2,S").stat().st_ino == os.fstat(file.fileno()).st_ino


@pytest.mark.parametrize("name", ["a:b.eml", "x" * 240 + ".eml"])
def test_names_that_would_not_do(anna, box, name):
    os.rename(anna.message("INBOX", 1), anna.dir / "INBOX" / name)
    assert f"1.{INBOX}.emlfs" in os.listdir(box / "new")
    os.rename(box / "new" / f"1.{INBOX}.emlfs", box / "cur" / f"1.{INBOX}.emlfs:2,S")
    assert (box / "cur" / f"1.{INBOX}.emlfs:2,S").read_bytes() == content(INBOX, 1, 1000)
    assert (anna.dir / "INBOX" / name).exists()
    fails(errno.ENOENT, os.stat, box / "cur" / f"2.{INBOX}.emlfs:2,")
    other = anna.dir / ".maildir" / "Big" / "cur"
    os.rename(box / "cur" / f"1.{INBOX}.emlfs:2,S", other / f"1.{INBOX}.emlfs:2,S")
    assert (anna.dir / "Big" / name).exists()


# ---- renaming ----

def test_renaming_changes_flags(mail):
    mail.mount("-o", "xattr")
    mail.tell("keywords", "INBOX", 1, 0, "own")
    box, plain = mail.dir / ".maildir" / "INBOX", mail.message("INBOX", 1)

    def change(old, new):
        os.rename(box / old, box / new)
        assert row(mail, box, 1) == [new]
        fails(errno.ENOENT, os.stat, box / old)
        return (os.getxattr(plain, "user.mail.flags").decode(),
                os.getxattr(plain, "user.mail.keywords").decode())
    new, cur = f"new/{stem(1)}", f"cur/{stem(1)}:2,"
    assert change(new, cur + "S") == ("\\Seen", "own")
    assert change(cur + "S", cur + "FS") == ("\\Seen \\Flagged", "own")
    assert change(cur + "FS", cur + "PSa") == ("\\Seen", "own $Forwarded $Junk")
    assert change(cur + "PSa", cur + "T") == ("\\Deleted", "own")
    assert change(cur + "T", cur) == ("", "own")
    assert change(cur, new) == ("", "own")
    assert change(new, cur) == ("", "own")  # it was seen to be there
    assert plain.exists()
    mail.tell("fail", ".", REFUSED, 0, "flags")
    fails(errno.EACCES, os.rename, box / cur, box / (cur + "S"))
    assert row(mail, box, 1) == [cur]
    fails(errno.ENOENT, os.rename, box / (cur + "F"), box / (cur + "S"))


def test_renaming_moves(anna, box):
    other = anna.dir / ".maildir" / "Big"
    os.rename(box / "new" / stem(1), other / "cur" / "mine:2,S")
    assert (other / "cur" / "mine:2,S").read_bytes() == content(INBOX, 1, 1000)
    assert (anna.dir / "Big" / "mine.eml").exists()
    assert row(anna, box, 1) == [] and "mine:2,S" in os.listdir(other / "cur")
    wait_for(lambda: not anna.message("INBOX", 1).exists(), "the end of the plain name")
    os.rename(box / "new" / stem(2), other / "cur" / "quiet:2,")
    for _ in range(2):  # on its way, and arrived
        assert {"mine:2,S", "quiet:2,"} <= set(os.listdir(other / "cur"))
        assert os.listdir(other / "new") == []
        assert (other / "cur" / "quiet:2,").stat().st_size == 1997
        anna.tell("settle")


def test_a_name_before_the_colon_can_be_changed(anna, box):
    """As mbsync does it."""
    os.rename(box / "new" / stem(1), box / "new" / f"{stem(1)},U=7")
    assert f"{stem(1)},U=7" in os.listdir(box / "new")
    assert (anna.dir / "INBOX" / f"{stem(1)},U=7.eml").exists()
    os.rename(box / "new" / f"{stem(1)},U=7", box / "cur" / f"{stem(1)},U=8:2,FS")
    assert f"{stem(1)},U=8:2,FS" in os.listdir(box / "cur")


def test_nothing_is_replaced_that_the_program_does_not_see(anna, box):
    first = box / "new" / stem(1)
    os.rename(first, box / "cur" / f"{stem(1)}:2,S")
    fails(errno.EEXIST, os.rename, box / "new" / stem(2), box / "cur" / f"{stem(1)}:2,F")
    fails(errno.EEXIST, deliver, box, "x", f"cur/{stem(1)}:2,F")
    assert os.listdir(box / "tmp") == ["x"]
    os.rename(box / "new" / stem(2), box / "cur" / f"{stem(1)}:2,S")
    os.unlink(box / "tmp" / "x")
    wait_for(lambda: len(os.listdir(anna.dir / "INBOX")) == 1 + 19, "the end of the one")


def test_between_the_views(anna, box):
    os.rename(anna.message("INBOX", 1), box / "cur" / "x:2,F")
    assert "x:2,F" in os.listdir(box / "cur")
    os.rename(box / "cur" / "x:2,F", anna.dir / "INBOX" / "y.eml")
    assert "y:2,F" in os.listdir(box / "cur")
    fails(errno.EXDEV, os.rename, box / "cur" / "y:2,F", box / "tmp" / "y")
    fails(errno.EXDEV, os.rename, box / "cur" / "y:2,F", box / ".y")
    fails(errno.EPERM, os.rename, box / "cur", box / "other")


def test_unlink(anna, box):
    path = box / "cur" / f"{stem(4)}:2,P"
    with open(path, "rb") as file:
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert len(file.read()) == 1000 + 997 * 3
    assert row(anna, box, 4) == []
    wait_for(lambda: anna.name(4) not in os.listdir(anna.dir / "INBOX"), "the other view")
    wait_for(lambda: not anna.message("INBOX", 4).exists(), "the end of the plain name")
    fails(errno.ENOENT, os.unlink, path)
    fails(errno.ENOENT, os.unlink, box / "cur" / f"{stem(5)}:2,PS")
    anna.message("INBOX", 5).unlink()
    wait_for(lambda: row(anna, box, 5) == [], "the end of the name in the view")
    wait_for(lambda: not (box / "cur" / f"{stem(5)}:2,P").exists(), "the end of the name")


# ---- delivery ----

@pytest.mark.parametrize("to,shown", [("new/1.M2P3.host", "new/1.M2P3.host"),
                                      ("cur/1.M2P3.host:2,FS", "cur/1.M2P3.host:2,FS"),
                                      ("cur/1.M2P3.host:2,", "cur/1.M2P3.host:2,"),
                                      ("new/1.M2P3.host:2,S", "cur/1.M2P3.host:2,S")])
def test_delivery(anna, box, to, shown):
    (box / "tmp" / "1.M2P3.host").write_bytes(LETTER)
    assert os.listdir(box / "tmp") == ["1.M2P3.host"]
    assert commits(anna) == 1  # as scratch
    os.rename(box / "tmp" / "1.M2P3.host", box / to)
    assert os.listdir(box / "tmp") == []
    assert shown.split("/")[1] in os.listdir(box / shown.split("/")[0])
    wait_for(lambda: is_message(box / shown), "the message")
    assert (box / shown).read_bytes() == LETTER
    assert (anna.dir / "INBOX" / "1.M2P3.host.eml").read_bytes() == LETTER
    wait_for(lambda: locals_left(anna) == 0, "nothing local is left")
    os.utime(box / shown, (5, 6))  # as mutt does, for which it would be lost otherwise
    assert (box / shown).stat().st_mtime != 6
    fails(errno.EPERM, os.utime, box / "cur" / f"{stem(4)}:2,P", (5, 6))


def test_delivery_by_link(anna, box):
    (box / "tmp" / "x").write_bytes(LETTER)
    os.link(box / "tmp" / "x", box / "new" / "x")
    assert (box / "tmp" / "x").stat().st_ino == (box / "new" / "x").stat().st_ino
    fails(errno.EEXIST, os.link, box / "tmp" / "x", box / "new" / "x")
    time.sleep(1.2)  # the kernel has forgotten the names
    os.unlink(box / "tmp" / "x")
    fails(errno.ENOENT, os.stat, box / "tmp" / "x")
    assert (box / "new" / "x").read_bytes() == LETTER and is_message(box / "new" / "x")
    fails(errno.EPERM, os.link, box / "new" / "x", box / "cur" / "y:2,")


def test_delivery_by_python(anna, box):
    maildir = mailbox.Maildir(box, create=False)
    message = mailbox.MaildirMessage(LETTER)
    message.set_flags("FS")
    message.set_subdir("cur")
    key = maildir.add(message)
    assert f"{key}:2,FS" in os.listdir(box / "cur")
    assert maildir[key].get_flags() == "FS" and len(maildir) == 21
    message = maildir[key]
    message.remove_flag("F")
    maildir[key] = message
    assert len(maildir) == 21
    maildir.remove(key)
    assert len(maildir) == 20


def test_a_delivery_that_fails_stays_in_tmp(anna, box):
    (box / "tmp" / "x").write_bytes(LETTER)
    anna.tell("fail", ".", OFFLINE, 0, "rename")
    fails(errno.EHOSTUNREACH, os.rename, box / "tmp" / "x", box / "new" / "x")
    assert (box / "tmp" / "x").read_bytes() == LETTER
    (box / "tmp" / "y").touch()
    fails(errno.EINVAL, os.rename, box / "tmp" / "y", box / "new" / "y")
    assert set(os.listdir(box / "tmp")) == {"x", "y"} and "x" not in os.listdir(box / "new")
    os.rename(box / "tmp" / "x", box / "new" / "x")
    assert "x" in os.listdir(box / "new")


def test_files_are_made_in_tmp(anna, box):
    for path in (box / "cur" / "x:2,S", box / "new" / "x", box / "x", anna.dir / ".maildir" / "x"):
        fails(errno.EPERM, os.open, path, os.O_WRONLY | os.O_CREAT)
        fails(errno.EPERM, os.mknod, path)
    (box / "tmp" / "x").write_bytes(b"one")
    os.rename(box / "tmp" / "x", box / "tmp" / "y")
    os.mknod(box / "tmp" / "z")
    assert set(os.listdir(box / "tmp")) == {"y", "z"}
    (box / "tmp" / "y").write_bytes(b"three")
    assert (box / "tmp" / "y").read_bytes() == b"three"
    os.unlink(box / "tmp" / "y")
    fails(errno.ENOENT, os.stat, box / "tmp" / "y")
    (box / ".uidvalidity").write_text("1\n2\n")
    assert ".uidvalidity" in os.listdir(box) and ".uidvalidity" in os.listdir(anna.dir / "INBOX")
    os.rename(box / ".uidvalidity", box / ".other")
    assert (box / ".other").read_text() == "1\n2\n"


# ---- folders ----

def test_folders(anna, box):
    made = anna.dir / ".maildir" / "Made"
    os.mkdir(made)
    for part in ("cur", "new", "tmp"):  # as programs make a Maildir, which give up when one is there
        assert not (made / part).exists() and part not in os.listdir(made)
        os.mkdir(made / part)
        fails(errno.EEXIST, os.mkdir, made / part)
        assert (made / part).is_dir()
    fails(errno.EPERM, os.mkdir, made / "cur" / "x")
    assert (anna.dir / "Made").is_dir()
    os.rename(made, anna.dir / ".maildir" / "Renamed")
    assert (anna.dir / "Renamed").is_dir()
    deliver(anna.dir / ".maildir" / "Renamed", "x", "new/x")
    fails(errno.ENOTEMPTY, os.rmdir, anna.dir / ".maildir" / "Renamed" / "new")
    subprocess.run(["rm", "-r", anna.dir / ".maildir" / "Renamed"], check=True, timeout=BOUND)
    wait_for(lambda: not (anna.dir / "Renamed").exists(), "the end of the folder")
    assert mailbox.Maildir(anna.dir / ".maildir" / "Python").list_folders() == []
    assert (anna.dir / "Python").is_dir()


def test_a_folder_is_listed_first(anna, spawn):
    lister = spawn("ls", anna.dir / ".maildir" / "Unlisted" / "cur")
    anna.parked(1)
    anna.tell("list", "Unlisted")
    out, _ = lister.communicate(timeout=BOUND)
    assert len(out.split()) == 3 and lister.returncode == 0


# ---- times ----

def test_times_of_directories_move_with_what_is_in_them(anna, box):
    last = 0

    def moved(what):
        nonlocal last
        wait_for(lambda: (box / "cur").stat().st_mtime_ns > last, what)
        st = (box / "cur").stat()
        assert st.st_mtime_ns == st.st_ctime_ns
        assert abs(st.st_mtime - time.time()) < 60
        last = st.st_mtime_ns
    moved("any time")
    time.sleep(0.05)
    assert (box / "cur").stat().st_mtime_ns == last
    os.listdir(box / "cur")
    assert (box / "cur").stat().st_mtime_ns == last
    anna.tell("flags", "INBOX", 1, SEEN)
    moved("flags by others")
    anna.tell("new", "INBOX", 1, 100)
    moved("a new message")
    anna.tell("gone", "INBOX", 21)
    moved("a gone one")
    os.rename(box / "cur" / f"{stem(1)}:2,S", box / "cur" / f"{stem(1)}:2,FS")
    moved("flags by the view")
    deliver(box, "x", "new/x")
    moved("a delivery")
    anna.message("INBOX", 2).unlink()
    moved("unlink in the plain view")
    os.rename(anna.message("INBOX", 3), anna.dir / "INBOX" / "y.eml")
    moved("a rename in the plain view")
    (anna.dir / "INBOX" / "z.eml").write_bytes(LETTER)
    moved("a letter in the plain view")


# ---- listings under change ----

def test_listing_while_messages_come_and_go(anna, box):
    stayed = {f"{stem(uid)}:2,P" for uid in range(4, 21)}
    stop = threading.Event()
    problems = []

    def change(number):
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                name = f"goes-{number}-{turn}"
                deliver(box, name, f"cur/{name}:2,S")
                os.rename(box / "cur" / f"{name}:2,S", box / "cur" / f"{name}:2,RS")
                assert (box / "cur" / f"{name}:2,RS").read_bytes() == LETTER
                os.unlink(box / "cur" / f"{name}:2,RS")
        except Exception as problem:  # noqa: BLE001 - told by the test
            problems.append(problem)
    changers = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for changer in changers:
        changer.start()
    try:
        for _ in range(100):
            seen = os.listdir(box / "cur")
            kept = [name for name in seen if name in stayed]
            assert set(kept) == stayed and len(kept) == len(stayed)
            stems = [name.split(":")[0] for name in seen]
            assert len(stems) == len(set(stems))
    finally:
        stop.set()
        for changer in changers:
            changer.join()
    assert not problems
    wait_for(lambda: set(os.listdir(box / "cur")) == stayed, "the listing as it is")
    assert os.listdir(box / "tmp") == []


def test_a_large_listing_takes_as_long_as_the_plain_one(mail):
    mail.mount(FAKE_ENGINE_BIG="100000")

    def listing(path):
        begun = time.monotonic()
        out = subprocess.run(["ls", "-f", path], stdout=subprocess.PIPE, check=True, timeout=60).stdout
        return time.monotonic() - begun, out.count(b"\n")
    plain, count = listing(mail.dir / "Big")
    view, same = listing(mail.dir / ".maildir" / "Big" / "cur")
    empty, none = listing(mail.dir / ".maildir" / "Big" / "new")
    assert count == same == 100002 and none == 2
    print(plain, view, empty)
    assert view < 2 * plain + 1 and empty < 2 * plain + 1
    again, _ = listing(mail.dir / ".maildir" / "Big" / "cur")
    assert again < 1
    assert pathlib.Path(mail.dir / ".maildir" / "Big" / "cur" / f"{stem(99999)}:2,P").stat().st_size == 10240
