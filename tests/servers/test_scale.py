# SPDX-License-Identifier: GPL-3.0-or-later
"""Large messages and large folders. Sizes shrink on a quick run; EMLFS_TEST_FIGURES=1 is full size."""
import hashlib
import os
import random
import subprocess
import sys
import time

import pytest

from mounting import ROOT, until

FULL = os.environ.get("EMLFS_TEST_FIGURES") == "1"
pytestmark = pytest.mark.scale
MiB = 1 << 20


def generate(kind, folder, count):
    subprocess.run([sys.executable, str(ROOT / "tests/tools/genmail.py"), kind, str(folder), "--count", str(count)],
                   check=True, stdout=subprocess.DEVNULL)


def large_message(path, size):
    """Writes a message of exactly that size, base64-like lines, and returns its hash."""
    rng = random.Random(size)
    digest = hashlib.sha256()
    head = b"From: a@example.org\r\nSubject: large\r\n\r\n"
    line = lambda: ("%056x" % rng.getrandbits(224)).encode() + b"\r\n"
    left = size - len(head)
    with open(path, "wb") as f:
        f.write(head)
        digest.update(head)
        while left > 0:
            block = b"".join(line() for _ in range(5000))[:left]
            if len(block) == left and left > 2:
                block = block[:-2] + b"\r\n"
            block = block.replace(b"\r\r\n", b"x\r\n")
            f.write(block)
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def test_a_large_message_streams(dovecot, mount, tmp_path):
    size = 200 * MiB if FULL else 48 * MiB
    digest = large_message(tmp_path / "large.eml", size)
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", (tmp_path / "large.eml").read_bytes())
    m = mount(user)
    path = next(iter(m.messages().values()))
    assert path.stat().st_size == size

    moved = int(m.status()["transferred"].split()[0])
    began = time.monotonic()
    head = subprocess.run(["head", "-c", "4096", str(path)], stdout=subprocess.PIPE, check=True).stdout
    print("head: %.3f s" % (time.monotonic() - began))
    assert head == (tmp_path / "large.eml").read_bytes()[:4096]
    until(lambda: m.status()["waiting readers"] == "0", "nobody waiting")
    moved = int(m.status()["transferred"].split()[0]) - moved
    print("head moved %d bytes" % moved)
    assert moved < MiB

    resident = m.resident_kib()
    began = time.monotonic()
    got = subprocess.run(["sha256sum", str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
    print("cat of %d MiB: %.2f s, resident %+d KiB" % (size // MiB, time.monotonic() - began,
                                                     m.resident_kib() - resident))
    assert got == digest
    assert m.resident_kib("VmHWM") - resident < 32 * 1024
    again = subprocess.run(["sha256sum", str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
    assert again == digest


def test_reading_a_large_message_at_random(dovecot, mount, tmp_path):
    size = 16 * MiB
    large_message(tmp_path / "large.eml", size)
    octets = (tmp_path / "large.eml").read_bytes()
    user = dovecot.user()
    with user.connect() as box:
        box.append("INBOX", octets)
    m = mount(user)
    path = next(iter(m.messages().values()))
    rng = random.Random(7)
    with open(path, "rb", buffering=0) as f:
        for _ in range(60):
            offset = rng.randrange(size)
            count = rng.choice([1, 4096, 70000, 300000])
            assert os.pread(f.fileno(), count, offset) == octets[offset:offset + count]


def test_a_folder_of_100000(dovecot, mount, tmp_path):
    count = 100000 if FULL else 20000
    generate("big", tmp_path / "maildir", count)
    user = dovecot.user()
    user.server.bed.run("load", user.address, tmp_path / "maildir")
    with user.connect() as box:
        box.select("INBOX")  # the server reads its files in for the first time
    m = mount(user)
    began = time.monotonic()
    listing = subprocess.Popen(["ls", "-f", str(m.dir / "INBOX")], stdout=subprocess.PIPE, text=True)
    steps = set()
    while listing.poll() is None and not steps:
        steps.update(line for line in (m.dir / ".control/status").read_text().splitlines()
                     if line.startswith("listing: INBOX"))
        if m.status()["messages"] == str(count):
            break
    names = listing.communicate()[0].split("\n")
    print("first ls of %d: %.2f s, progress seen: %s" % (count, time.monotonic() - began, steps))
    assert sum(name.endswith(".eml") for name in names) == count
    assert steps, "no progress in .control/status"
    print("resident: %d KiB, most %d KiB" % (m.resident_kib(), m.resident_kib("VmHWM")))
    assert m.resident_kib("VmHWM") < 64 * 1024

    assert m.stop() == 0
    times = []
    for _ in range(3):
        m.start()
        began = time.monotonic()
        lines = subprocess.run("ls -f '%s' | wc -l" % (m.dir / "INBOX"), shell=True, stdout=subprocess.PIPE,
                               text=True, check=True).stdout
        times.append(time.monotonic() - began)
        assert int(lines) == count + 2
        assert m.stop() == 0
    print("ls -f after a remount: %s" % " ".join("%.2f" % t for t in times))
    assert min(times) < 1


def test_mixed_mail_is_byte_identical(dovecot, mount, tmp_path):
    count = 20000 if FULL else 2000
    generate("mixed", tmp_path / "maildir", count)
    user = dovecot.user()
    user.server.bed.run("load", user.address, tmp_path / "maildir")
    m = mount(user)
    with user.connect() as box:
        began = time.monotonic()
        total = 0
        for folder in box.folders():
            if not box.uids(folder):
                continue
            theirs = box.fetch_all(folder)
            ours = m.messages(folder)
            assert sorted(ours) == sorted(theirs)
            for uid, message in theirs.items():
                assert ours[uid].stat().st_size == len(message.body)
                assert ours[uid].stat().st_mtime == message.date
                assert ours[uid].read_bytes() == message.body
            total += len(theirs)
        print("%d messages compared in %.1f s" % (total, time.monotonic() - began))
    assert total == count
