# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read through the mount is what the server holds."""
import errno
import hashlib
import imaplib
import mmap
import os
import pathlib
import subprocess
import sys

import pytest

from mounting import ROOT, sample, until

NASTY = None


def nasty_messages(tmp_path_factory):
    """The set of hostile messages, made once."""
    global NASTY
    if NASTY is None:
        NASTY = tmp_path_factory.mktemp("nasty")
        subprocess.run([sys.executable, str(ROOT / "tests/tools/genmail.py"), "nasty", str(NASTY)],
                       check=True, stdout=subprocess.DEVNULL)
    return sorted(NASTY.glob("*.eml"))


def compare(mount, box, folder):
    """Every message of the folder: octets, size, date."""
    theirs = box.fetch_all(folder)
    ours = mount.messages(folder)
    assert sorted(ours) == sorted(theirs)
    for uid, message in theirs.items():
        stat = os.stat(ours[uid])
        octets = ours[uid].read_bytes()
        assert octets == message.body, "%s: other octets" % ours[uid]
        assert os.stat(ours[uid]).st_size == len(message.body)
        assert stat.st_mtime == message.date
        assert stat.st_mode & 0o7777 == 0o600 and stat.st_nlink == 1
    return len(theirs)


def test_nasty_messages_are_byte_identical(server, mount, tmp_path_factory):
    user = server.user()
    kept = 0
    with user.connect() as box:
        for path in nasty_messages(tmp_path_factory):
            try:
                box.append("INBOX", path.read_bytes(), date=1700000000 + kept)
                kept += 1
            except Exception:  # this server takes no such message
                box.logout()
                box = user.connect()
        assert kept > 50
        m = mount(user)
        assert compare(m, box, "INBOX") == kept


def test_starttls_reads_the_same(server, mount):
    user = server.user()
    with user.connect() as box:
        box.append("INBOX", sample("over STARTTLS"), date=1700000000)
        m = mount(user, imap="imap://" + server.imap)
        assert compare(m, box, "INBOX") == 1


def test_folders_with_awkward_names(server, mount):
    user = server.user()
    names = ["Projekte/Übersicht", "日本語", "a b", "100%", "x'y", "Ünïcödé/tief/tiefer"]
    with user.connect() as box:
        made = []
        for name in names:
            try:
                box.create(name)
            except imaplib.IMAP4.error:
                continue  # Cyrus and Courier have no % in a name
            box.append(name, sample("in " + name))
            made.append(name)
        assert len(made) >= 5
        m = mount(user)
        for name in made:
            assert compare(m, box, name) == 1


def test_folder_names_that_cannot_be_file_names(dovecot, mount):
    user = dovecot.user()
    hostile = ["%2E%2E", "%2Fetc", "-rf", "~root", "Outbox", "a\\b", "a&b", "control"]
    with user.connect() as box:
        for name in list(hostile):
            try:
                box.create(name)
                box.append(name, sample("hostile"))
            except imaplib.IMAP4.error:
                hostile.remove(name)  # not with this server's kind of storage
        assert len(hostile) >= 5
        m = mount(user)
        shown = set(os.listdir(m.dir))
        assert not any("/" in name or name in (".", "..") for name in shown - {".", ".."})
        assert "Outbox~2" in shown and "Outbox" not in shown
        found = sum(1 for path in m.dir.rglob("*.eml"))
        assert found == len(hostile)
        # nothing is reached outside the mount
        for path in m.dir.rglob("*"):
            assert str(path.resolve()).startswith(str(m.dir))


def test_names_are_safe(dovecot, mount):
    user = dovecot.user()
    subjects = ["../../etc/passwd", "-rf *", "$(reboot)", "a\tb", "=?utf-8?q?=E2=80=AEgnp.exe?=", "`id`",
                "=?utf-8?b?" + "8J+YgA==" + "?=", "x" * 900]
    with user.connect() as box:
        for subject in subjects:
            box.append("INBOX", sample(subject, sender="-x <y@example.org>"))
        m = mount(user)
        names = os.listdir(m.dir / "INBOX")
        assert len(names) == len(subjects)
        for name in names:
            assert len(name.encode()) <= 200
            assert not set(name) & set("/ *$`\t\n;|&<>'\"")
            assert name[0] not in ".-"


def test_every_way_to_read(dovecot, mount):
    user = dovecot.user()
    body = sample("ways", "".join("line %d\r\n" % i for i in range(20000)))
    with user.connect() as box:
        box.append("INBOX", body)
    m = mount(user)
    path = next(iter(m.messages().values()))
    with open(path, "rb") as f:
        assert f.read(10) == body[:10]
        f.seek(100000)
        assert f.read(5000) == body[100000:105000]
        f.seek(0, os.SEEK_END)
        assert f.tell() == len(body)
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == body
    assert subprocess.run(["tar", "cf", "-", "-C", str(m.dir), "INBOX"], stdout=subprocess.PIPE,
                          check=True).stdout.count(b"Subject: ways") == 1
    assert subprocess.run(["grep", "-rl", "line 19999", str(m.dir / "INBOX")], stdout=subprocess.PIPE,
                          text=True, check=True).stdout.strip() == str(path)


def test_many_readers_of_one_message(dovecot, mount):
    user = dovecot.user()
    body = sample("shared", "x" * 200000 + "\r\n")
    with user.connect() as box:
        box.append("INBOX", body)
    m = mount(user)
    path = next(iter(m.messages().values()))
    readers = [subprocess.Popen(["sha256sum", str(path)], stdout=subprocess.PIPE) for _ in range(12)]
    sums = {reader.communicate()[0].split()[0].decode() for reader in readers}
    assert sums == {hashlib.sha256(body).hexdigest()}


def test_reading_does_not_set_seen(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", sample("unread"))
        m = mount(user)
        for path in m.messages().values():
            path.read_bytes()
        assert all("\\Seen" not in message.flags for message in box.fetch_all("INBOX").values())


def test_lookups_of_what_is_not_there(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", sample("one"))
    m = mount(user)
    real = next(iter(m.messages().values())).name
    for name in ("nothing", "x.1.eml", "x." + real, real[:-4], real.replace(".eml", ".EML"), "99999999999.eml"):
        assert not (m.dir / "INBOX" / name).exists(), name
    assert not (m.dir / "NoSuchFolder").exists()


def test_df_and_xattr(dovecot, mount):
    user = dovecot.user("1073741824")
    with user.connect() as box:
        box.append("INBOX", sample("attributes"), flags=["\\Flagged", "$Work"])
    m = mount(user, options=["xattr"])
    until(lambda: os.statvfs(m.dir).f_blocks * os.statvfs(m.dir).f_frsize == 1073741824, "the quota in df")
    path = next(iter(m.messages().values()))
    assert set(os.getxattr(path, "user.mail.flags").decode().split()) == {"\\Flagged"}
    assert os.getxattr(path, "user.mail.keywords") == b"$Work"
    assert os.getxattr(path, "user.mail.uid") == path.name[:-4].rsplit(".", 1)[1].encode()
    assert os.getxattr(path, "user.mime_type") == b"message/rfc822"
    assert "user.mail.flags" in os.listxattr(path)
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.nothing")
    assert caught.value.errno == errno.ENODATA


def test_status_is_true(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        for i in range(7):
            box.append("INBOX", sample("message %d" % i))
    m = mount(user)
    list(m.dir.rglob("*"))
    status = until(lambda: m.status() if m.status()["messages"] == "7" else None, "seven messages in the status")
    assert status["state"] == "online"
    assert status["account"] == user.address
    control = m.dir / ".control" / "status"
    assert control.stat().st_size > 0
    assert pathlib.Path(control).read_text().startswith("account: ")
    assert subprocess.run(["cat", str(control)], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_an_expunged_message_stays_readable_for_who_has_it_open(dovecot, mount):
    user = dovecot.user()
    body = sample("to be expunged", "y" * 50000 + "\r\n")
    with user.connect() as box:
        uid = box.append("INBOX", body)
        m = mount(user)
        path = m.messages()[uid]
        with open(path, "rb") as f:
            box.expunge("INBOX", [uid])
            until(lambda: uid not in m.messages(), "the expunge")
            assert not path.exists()
            assert f.read() == body
