# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens on the server raises inotify events, and nothing hangs because of it."""
import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import BOUND, content, mounted, state, wait_for
from watching import ATTRIB, CLOSE_WRITE, CREATE, DELETE, Watcher

INBOX = 101


@pytest.fixture
def watch():
    made = []

    def start(*folders):
        made.append(Watcher(*folders))
        return made[-1]
    yield start
    for one in made:
        one.close()


def fails(number, call, *args):
    with pytest.raises(OSError) as caught:
        call(*args)
    assert caught.value.errno == number


def test_new_message(anna, watch):
    seen = watch(anna.dir / "INBOX")
    name = anna.tell("new", "INBOX", 1, 1234)
    seen.told(CLOSE_WRITE, name)
    assert [mask for _, mask, n in seen.seen if n == name] == [CREATE, CLOSE_WRITE]
    path = anna.dir / "INBOX" / name
    assert path.stat().st_size == 1234 and path.read_bytes() == content(INBOX, 21, 1234)
    assert name in os.listdir(anna.dir / "INBOX")


def test_new_message_that_was_seen_before(anna, watch):
    """Whoever lists at once is quicker than the thread that tells: it is told all the same."""
    seen = watch(anna.dir / "INBOX")
    stop = threading.Event()

    def look():
        while not stop.is_set():
            for entry in os.scandir(anna.dir / "INBOX"):
                try:
                    entry.stat()
                except FileNotFoundError:
                    pass
    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(100):
            name = anna.tell("new", "INBOX", 1, 10)
            os.stat(anna.dir / "INBOX" / name)
            seen.told(CREATE, name)
    finally:
        stop.set()
        looker.join()
    names = [name for _, mask, name in seen.seen if mask == CREATE]
    assert len(names) == len(set(names)) == 100


def test_gone_message(anna, watch):
    path = anna.message("INBOX", 4)
    size = path.stat().st_size
    seen = watch(anna.dir / "INBOX")
    with open(path, "rb") as held:
        anna.tell("gone", "INBOX", 4)
        seen.told(DELETE, path.name)
        fails(errno.ENOENT, os.stat, path)
        assert path.name not in os.listdir(anna.dir / "INBOX")
        assert os.fstat(held.fileno()).st_size == size
        assert held.read() == content(INBOX, 4, size)
    assert [mask for _, mask, _ in seen.seen] == [DELETE]


def test_flags(anna, watch):
    path = anna.message("INBOX", 4)
    before = path.stat()
    seen = watch(anna.dir / "INBOX")
    anna.tell("flags", "INBOX", 4, 5)
    seen.told(ATTRIB, path.name)
    after = path.stat()
    assert after.st_ctime == 1800000005 and after.st_mtime == before.st_mtime
    assert [mask for _, mask, _ in seen.seen] == [ATTRIB]


def test_folders(anna, watch):
    seen = watch(anna.dir)
    anna.tell("mkdir", ".", 0, 0, "Neu hier")
    seen.told(CREATE, "Neu hier")
    inner = watch(anna.dir / "Neu hier")
    anna.tell("mkdir", "Neu hier", 0, 0, "Inner")
    inner.told(CREATE, "Inner")
    name = anna.tell("new", "Neu hier", 1, 5)
    inner.told(CREATE, name)
    anna.tell("rmdir", "Neu hier/Inner")
    inner.told(DELETE, "Inner")
    anna.tell("rmdir", "Neu hier")
    seen.told(DELETE, "Neu hier")
    assert not (anna.dir / "Neu hier").exists()


def test_a_folder_that_is_busy_goes(anna, watch, spawn):
    seen = watch(anna.dir)
    anna.tell("mkdir", ".", 0, 0, "Busy")
    name = anna.tell("new", "Busy", 1, 5)
    wait_for(lambda: (anna.dir / "Busy" / name).exists(), "the message")
    seen.told(CREATE, "Busy")  # else it would have come and gone unseen
    inside = spawn("sleep", "100", cwd=anna.dir / "Busy")
    anna.tell("rmdir", "Busy")
    seen.told(DELETE, "Busy")
    assert inside.poll() is None


def test_a_folder_listed_anew_is_told_of_as_a_whole(anna, watch):
    seen = watch(anna.dir, anna.dir / "INBOX")
    anna.tell("renumber", "INBOX", 500)
    seen.told(ATTRIB, "INBOX")
    seen.pull(0.3)
    assert not [name for _, _, name in seen.seen if name.endswith(".eml")]


def test_a_burst(anna, watch):
    """Everything is told once; what came and went meanwhile need not be."""
    seen = watch(anna.dir / "INBOX")
    last = anna.tell("new", "INBOX", 1000, 10)
    began = time.monotonic()
    expected = {(CREATE, anna.name(uid)) for uid in range(21, 1021)}
    seen.wait(lambda told: expected <= told, "all that is new")
    print("burst of 1000: %.3f s" % (time.monotonic() - began))
    assert anna.name(1020) == last
    for uid in range(21, 1021):
        anna.tell("gone", "INBOX", uid)
    expected = {(DELETE, anna.name(uid)) for uid in range(21, 1021)}
    seen.wait(lambda told: expected <= told, "all that is gone")
    for mask in (CREATE, DELETE):
        names = [name for _, m, name in seen.seen if m == mask]
        assert len(names) == len(set(names))


def test_more_than_anybody_wants_to_know(anna, watch):
    seen = watch(anna.dir)
    anna.tell("new", "Big", 30000, 10)
    seen.told(ATTRIB, "Big")
    wait_for(lambda: len(os.listdir(anna.dir / "Big")) == 31000, "the listing")


def test_tail_follows_a_message_to_come(anna, spawn):
    tail = spawn("tail", "-c", "+1", "-F", anna.message("INBOX", 21), bufsize=0)
    wait_for(lambda: state(tail.pid) == "S", "waiting")
    anna.tell("new", "INBOX", 1, 1234)
    got = b""
    while len(got) < 1234:
        got += os.read(tail.stdout.fileno(), 4096)
    assert got == content(INBOX, 21, 1234)


def test_everybody_else_changes_in_earnest(anna):
    """The daemon's own calls pass as what it announces; all others are done, also meanwhile."""
    stop = threading.Event()
    folder = anna.dir / "INBOX"

    def write(number):
        turn = 0
        while not stop.is_set() or turn < 20:
            turn += 1
            path = folder / f".scratch-{number}-{turn}"
            path.write_bytes(b"x")
            os.utime(path, (1, 1))
            assert path.stat().st_mtime == 1
            path.unlink()
            fails(errno.ENOENT, os.stat, path)
            os.mkdir(path)
            os.rmdir(path)
            fails(errno.ENOENT, os.stat, path)
            fails(errno.EPERM, os.utime, anna.message("INBOX", 1))
            fails(errno.ENOTEMPTY, os.rmdir, folder / "Projects")
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    for turn in range(200):
        anna.tell("new", "INBOX", 1, 10)
        anna.tell("flags", "INBOX", 1, turn)
    stop.set()
    for writer in writers:
        writer.join()
    wait_for(lambda: len(os.listdir(folder)) == 1 + 20 + 200, "the listing as it is")
    assert anna.tell("counts").split()[2] == "0"


# ---- it is in nobody's way ----

def test_unmount_is_not_refused_because_of_it(mail, watch):
    for _ in range(10):
        mail.mount()
        seen = watch(mail.dir / "INBOX")
        seen.told(CREATE, mail.tell("new", "INBOX", 1, 10))
        mail.connection = None
        wait_for(lambda: subprocess.run(["fusermount3", "-u", mail.dir], timeout=BOUND,
                                        capture_output=True).returncode == 0, "unmounting", 1)
        mail.ended()


def test_unmount_amid_a_storm(mail):
    for turn in range(10):
        mail.mount()
        mail.tell("new", "INBOX", 3000, 10)
        lazily = turn % 2
        mail.connection = None
        if lazily:
            subprocess.run(["fusermount3", "-uz", mail.dir], check=True, timeout=BOUND)
            mail.ended()
        else:
            mail.end()


@pytest.mark.root
def test_a_covered_mountpoint_is_left_alone(anna, watch):
    seen = watch(anna.dir / "INBOX")
    subprocess.run(["mount", "-t", "tmpfs", "none", anna.dir], check=True, timeout=BOUND)
    try:
        (anna.dir / "INBOX").mkdir()
        kept = anna.dir / "INBOX" / anna.name(1)
        kept.touch()
        anna.tell("gone", "INBOX", 1)
        anna.tell("new", "INBOX", 5, 10)
        anna.tell("mkdir", ".", 0, 0, "Neu")
        seen.pull(0.5)
        assert os.listdir(anna.dir / "INBOX") == [kept.name]
        assert os.listdir(anna.dir) == ["INBOX"]
        assert not seen.seen
    finally:
        subprocess.run(["umount", anna.dir], check=True, timeout=BOUND)
    seen.told(CREATE, anna.tell("new", "INBOX", 1, 10))  # and it goes on


@pytest.mark.root
def test_something_mounted_on_a_folder_is_left_alone(anna):
    folder = anna.dir / "INBOX"
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True, timeout=BOUND)
    try:
        (folder / anna.name(1)).touch()
        anna.tell("gone", "INBOX", 1)
        name = anna.tell("new", "Big", 1, 10)
        wait_for(lambda: name in os.listdir(anna.dir / "Big"), "news elsewhere")
        time.sleep(0.2)
        assert os.listdir(folder) == [anna.name(1)]
    finally:
        subprocess.run(["umount", folder], check=True, timeout=BOUND)


def test_readers_that_wait_do_not_stop_it(anna, watch, spawn):
    waiters = [spawn("cat", anna.message("Slow", uid)) for uid in (1, 2, 3, 4)]
    waiters += [spawn("ls", anna.dir / "Unlisted"), spawn("stat", anna.message("Unlisted", 1))]
    anna.parked(6)
    seen = watch(anna.dir / "Slow", anna.dir / "INBOX")
    for folder in ("Slow", "INBOX"):
        seen.told(CREATE, anna.tell("new", folder, 1, 10))
    anna.tell("release")
    anna.tell("list", "Unlisted")
    for waiter in waiters:
        assert waiter.wait(timeout=BOUND) == 0


STORM = """
import os, sys
while True:
    for name in os.listdir(sys.argv[1]):
        try:
            os.stat(os.path.join(sys.argv[1], name))
        except FileNotFoundError:
            pass
"""


def test_kill_amid_a_storm_leaves_nobody_hanging(mail, spawn):
    """The thread is inside the kernel when its process is killed; the guard ends the mount."""
    for turn in range(20):
        mail.mount()
        guard = mail.guard()
        readers = [spawn(sys.executable, "-c", STORM, mail.dir / "INBOX") for _ in range(3)]
        mail.tell("new", "INBOX", 2000, 10)
        for uid in range(21, 121 + turn * 7):
            mail.tell("gone", "INBOX", uid)
        os.kill(mail.pid, signal.SIGKILL)
        mail.connection = None
        mail.ended()
        wait_for(lambda: state(guard) in (None, "Z"), "the end of the guard")
        for reader in readers:
            assert reader.wait(timeout=BOUND) != 0
        assert mounted(mail.dir) is None
