# SPDX-License-Identifier: GPL-3.0-or-later
"""What will be read next is in the page cache before it is asked for."""
import os
import random
import subprocess
import threading

import pytest

from conftest import BOUND, content, wait_for

BIG, INBOX = 104, 101


def reads(mail):
    return int(mail.tell("reads"))


def list_long(mail, folder="Big"):
    subprocess.run(["ls", "-l", mail.dir / folder], stdout=subprocess.DEVNULL, timeout=BOUND)


def read_all(mail, uids):
    for uid in uids:
        assert mail.message("Big", uid).read_bytes() == content(BIG, uid, 10240), uid


def test_in_order(anna):
    list_long(anna)
    read_all(anna, range(1, 1001))
    print("%d reads for 1000 messages" % reads(anna))
    assert reads(anna) < 700  # it depends on who is quicker; without any it is 1000
    before = reads(anna)
    read_all(anna, range(1, 1001))
    assert reads(anna) < before + 100  # the kernel may have had other uses for a page or two
    assert anna.tell("bodies") == "0"


def test_a_few_at_a_time(anna):
    """A reader who is slower than the thread sends a READ a step."""
    list_long(anna)
    for uid in range(1, 200):
        read_all(anna, [uid])
        wait_for(lambda: anna.tell("bodies") == "0", "the thread at rest")
    assert reads(anna) < 50


def test_out_of_order(anna):
    list_long(anna)
    uids = list(range(1, 201))
    random.Random(1).shuffle(uids)
    read_all(anna, uids)


def test_without_a_listing(anna):
    """The kernel knows none of the nodes: nothing is pushed, nothing is harmed."""
    read_all(anna, range(1, 301))


def test_sizes_that_turn_out_wrong(anna):
    list_long(anna, "Liar")
    for uid, size in ((1, 50000), (2, 100)):
        assert anna.message("Liar", uid).read_bytes() == content(110, uid, size)


def test_beside_news(anna):
    """Messages come and go, flags change, while several read."""
    list_long(anna)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            anna.tell("new", "Big", 1, 10240)
            anna.tell("flags", "Big", random.randint(1, 1000), 1)
    changer = threading.Thread(target=change)
    readers = [threading.Thread(target=read_all, args=(anna, range(1, 1001))) for _ in range(3)]
    changer.start()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    stop.set()
    changer.join()


@pytest.mark.parametrize("lazily", [False, True])
def test_unmount_under_a_reader(mail, spawn, lazily):
    for _ in range(5):
        mail.mount()
        list_long(mail)
        reader = spawn("sh", "-c", "cat ./*.eml >/dev/null 2>&1", cwd=mail.dir / "Big")
        wait_for(lambda: reads(mail) > 5, "reading")
        mail.connection.close()
        mail.connection = None
        if lazily:
            reader.kill()
            reader.wait(BOUND)
            subprocess.run(["fusermount3", "-uz", mail.dir], check=True, timeout=BOUND)
            mail.ended()
        else:
            mail.end()
            reader.wait(BOUND)
