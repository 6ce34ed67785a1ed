# SPDX-License-Identifier: GPL-3.0-or-later
"""Many messages written, moved and copied. EMLFS_TEST_FIGURES=1 is full size."""
import os
import pathlib
import subprocess
import threading
import time

import pytest

from mounting import PATIENCE, sample, until
from test_scale import FULL, generate

pytestmark = pytest.mark.scale


def put(box, folder, count):
    for i in range(count):
        box.append(folder, sample("message %d" % i, "text %d\r\n" % i))


def test_rsync_while_the_server_is_restarted(dovecot, mount, tmp_path):
    count = 5000 if FULL else 2000
    generate("mixed", tmp_path / "maildir", count)
    source = tmp_path / "letters"
    source.mkdir()
    octets = 0
    for number, path in enumerate(sorted((tmp_path / "maildir").rglob("cur/*"))):
        letter = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        target = source / ("%d" % (number % 3)) / ("letter %d.eml" % number)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(letter)
        os.utime(target, (1600000000 + number, 1600000000 + number))
        octets += len(letter)
    user = dovecot.user()
    m = mount(user)
    target = m.dir / "Ziel"
    target.mkdir()
    # slow enough for the server to go and come three times
    command = ["rsync", "-a", "--bwlimit=10m", "--itemize-changes", str(source) + "/", str(target) + "/"]
    stop, restarts = threading.Event(), []

    def restart():
        for part in (1, 2, 3):
            until(lambda: stop.is_set() or sum(1 for _ in target.rglob("*.eml")) >= part * count // 4,
                  "a part of the messages", 10 * PATIENCE, every=0.1)
            if not stop.is_set():
                dovecot.bed.run("stop")
                dovecot.bed.run("start")
                restarts.append(part)

    thread = threading.Thread(target=restart)
    thread.start()
    began = time.monotonic()
    runs = 0
    while True:  # what the server was away for fails, as it should, and is done by the next run
        runs += 1
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            break
        assert runs < 20, done.stdout[-2000:]
        until(lambda: m.status()["state"] == "online", "online in the status", 2 * PATIENCE)
    m.drained(10 * PATIENCE)
    took = time.monotonic() - began
    stop.set()
    thread.join()
    until(lambda: m.status()["state"] == "online", "online in the status", 2 * PATIENCE)
    print("%d messages, %.0f MB in %.1f s, %d runs of rsync, %d restarts"
          % (count, octets / 1e6, took, runs, len(restarts)))
    assert len(restarts) == 3
    subprocess.run(["diff", "-r", str(source), str(target)], check=True)
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert ">f" not in again, again[:2000]
    with user.connect() as box:
        for part in "012":
            theirs = sorted(message.body for message in box.fetch_all("Ziel/" + part).values())
            assert theirs == sorted(path.read_bytes() for path in (source / part).iterdir())


def test_mv_of_a_folder_of_messages(dovecot, mount, tmp_path):
    count = 10000 if FULL else 2000
    generate("big", tmp_path / "maildir", count)
    user = dovecot.user()
    user.server.bed.run("load", user.address, tmp_path / "maildir")
    with user.connect() as box:
        box.create("Ziel")
        box.create("Zurück")
        box.select("INBOX")  # the server reads its files in for the first time
        m = mount(user)
        assert len(os.listdir(m.dir / "INBOX")) == count
        began = time.monotonic()
        subprocess.run("mv '%s'/* '%s'" % (m.dir / "INBOX", m.dir / "Ziel"), shell=True, check=True)
        acknowledged = time.monotonic() - began
        m.drained(10 * PATIENCE)
        ours = time.monotonic() - began
        assert box.uids("INBOX") == [] and len(box.uids("Ziel")) == count
        assert len(os.listdir(m.dir / "Ziel")) == count
        began = time.monotonic()
        box.move("Ziel", box.uids("Ziel"), "Zurück")
        theirs = time.monotonic() - began
        print("mv of %d: %.2f s (%.2f s until the last was acknowledged), by one UID MOVE %.2f s: %.1f times"
              % (count, ours, acknowledged, theirs, ours / theirs))
        assert ours < 6 * theirs


def test_cp_of_small_messages(dovecot, mount, tmp_path):
    count = 2000
    for i in range(count):
        (tmp_path / ("%d.eml" % i)).write_bytes(sample("message %d" % i, "text %d\r\n" % i))
    user = dovecot.user()
    m = mount(user)
    began = time.monotonic()
    subprocess.run("cp '%s'/* '%s'" % (tmp_path, m.dir / "Archive"), shell=True, check=True)
    acknowledged = time.monotonic() - began
    m.drained(10 * PATIENCE)
    took = time.monotonic() - began
    with user.connect() as box:
        assert len(box.uids("Archive")) == count
        began = time.monotonic()
        put(box, "INBOX", 500)
        theirs = (time.monotonic() - began) * count / 500
    print("cp of %d: %.2f s (%.2f s until the last was acknowledged), %.0f a second; APPEND one by one %.0f a second"
          % (count, took, acknowledged, count / took, count / theirs))
    assert sorted(os.listdir(m.dir / "Archive")) == sorted(path.name for path in pathlib.Path(tmp_path).iterdir())
