# SPDX-License-Identifier: GPL-3.0-or-later
"""The FUSE layer, mounted for real."""
import concurrent.futures
import errno
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from conftest import BOUND, content, mounted, processes, state, wait_for

# Spaces of the fake engine: 100 + position of the folder.
INBOX, PROJECTS, BIG, SLOW, LARGE, LIAR = 101, 102, 104, 105, 109, 110


def fails(number, call, *args, **more):
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    assert caught.value.errno == number, caught.value


def read(path):
    with open(path, "rb") as file:
        return file.read()


# ---- reading ----

def test_tree(anna):
    assert sorted(os.listdir(anna.dir)) == sorted(
        [".control", "INBOX", "Big", "Slow", "Failing", "Unlisted", "Unreachable", "Large", "Liar",
         "Grüße an alle", "Container"])
    assert len(os.listdir(anna.dir / "INBOX")) == 21
    assert os.listdir(anna.dir / "Container") == ["Inner"]
    found = subprocess.run(["find", anna.dir / "INBOX", "-type", "f"], capture_output=True,
                           text=True, timeout=BOUND).stdout.split("\n")
    assert len(found) == 20 + 3 + 1 + 1


def test_stat(anna):
    st = os.stat(anna.message("INBOX", 3))
    assert st.st_size == 1000 + 997 * 2
    assert st.st_mtime == st.st_ctime == 1600000003
    assert st.st_mode == stat.S_IFREG | 0o600
    assert (st.st_nlink, st.st_uid, st.st_gid) == (1, os.getuid(), os.getgid())
    assert st.st_blocks == (st.st_size + 511) // 512
    folder = os.stat(anna.dir / "INBOX")
    assert folder.st_mode == stat.S_IFDIR | 0o700 and folder.st_nlink == 3
    assert os.stat(anna.dir).st_nlink == 2 + 11
    fails(errno.ENOENT, os.stat, anna.dir / "nothing")
    fails(errno.ENOENT, os.stat, anna.message("INBOX", 99))
    fails(errno.ENOTDIR, os.stat, anna.message("INBOX", 3) / "x")


def test_inode_numbers_agree(anna):
    for folder in (anna.dir, anna.dir / "INBOX", anna.dir / ".control"):
        for entry in os.scandir(folder):
            assert entry.inode() == os.stat(entry.path).st_ino
    output = subprocess.run(["ls", "-ai", anna.dir / "INBOX"], capture_output=True, text=True,
                            timeout=BOUND).stdout
    numbers = {line.split()[1]: int(line.split()[0]) for line in output.splitlines()}
    assert numbers["."] == os.stat(anna.dir / "INBOX").st_ino
    assert numbers[".."] == os.stat(anna.dir).st_ino


def test_octets_exact(anna):
    for uid in range(1, 21):
        assert read(anna.message("INBOX", uid)) == content(INBOX, uid, 1000 + 997 * (uid - 1))
    assert read(anna.message("INBOX/Projects", 1)) == b""
    assert read(anna.message("INBOX/Projects", 2)) == content(PROJECTS, 2, 4096)
    got = subprocess.run(["cat", anna.message("INBOX", 5)], capture_output=True, timeout=BOUND)
    assert got.stdout == content(INBOX, 5, 1000 + 997 * 4)


def test_mmap(anna):
    with open(anna.message("INBOX", 9), "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == content(INBOX, 9, 1000 + 997 * 8)
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as view:
            assert view[5000:5100] == content(INBOX, 9, 100, 5000)


def test_parallel_readers(anna):
    def one(seed):
        dice = random.Random(seed)
        for _ in range(200):
            uid = dice.randint(1, 20)
            assert read(anna.message("INBOX", uid)) == content(INBOX, uid, 1000 + 997 * (uid - 1))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in pool.map(one, range(8)):
            pass
    wait_for(lambda: anna.tell("bodies") == "0", "all bodies closed")


def test_large_is_streamed(anna):
    path = anna.message("Large", 1)
    size = 200 << 20
    assert os.stat(path).st_size == size
    fd = os.open(path, os.O_RDONLY)
    try:
        for offset in (0, 12345, 100 << 20, size - 50):
            assert os.pread(fd, 100, offset) == content(LARGE, 1, min(100, size - offset), offset)
        assert os.pread(fd, 10, size) == b""
    finally:
        os.close(fd)
    done = subprocess.run(["wc", "-c", path], capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[0] == str(size)
    assert int(subprocess.run(f"tail -c 32 '{path}' | wc -c", shell=True, capture_output=True,
                              timeout=60).stdout) == 32


@pytest.mark.parametrize("uid, size", [(1, 50000), (2, 100)])
def test_wrong_size_is_corrected_before_anybody_reads(anna, uid, size):
    path = anna.message("Liar", uid)
    assert os.stat(path).st_size == 50100 - size
    assert read(path) == content(LIAR, uid, size)
    assert os.stat(path).st_size == size


@pytest.mark.parametrize("uid, number", [(1, errno.EHOSTUNREACH), (2, errno.EIO),
                                         (3, errno.ETIMEDOUT), (4, errno.EIO)])
def test_errors(anna, uid, number):
    fails(number, read, anna.message("Failing", uid))


# ---- waiting ----

def test_slow_body_arrives(anna, spawn):
    reader = spawn("cat", anna.message("Slow", 1))
    anna.parked(1)
    os.listdir(anna.dir / "INBOX")  # nothing else waits
    read(anna.message("INBOX", 1))
    anna.tell("release")
    assert reader.communicate(timeout=BOUND)[0] == content(SLOW, 1, 5000)


EINTR = """
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.open(os.fsencode(sys.argv[1]), os.O_RDONLY | int(sys.argv[2]))
print(fd, ctypes.get_errno())
"""


@pytest.mark.parametrize("folder, flags", [("Slow", 0), ("Unlisted", os.O_DIRECTORY)])
def test_interrupted_open_is_eintr_at_once(anna, spawn, folder, flags):
    path = anna.message("Slow", 1) if folder == "Slow" else anna.dir / folder
    waiter = spawn(sys.executable, "-c", EINTR, path, flags)
    anna.parked(1)
    begun = time.monotonic()
    waiter.send_signal(signal.SIGUSR1)
    assert waiter.communicate(timeout=BOUND)[0].split() == [b"-1", b"%d" % errno.EINTR]
    assert time.monotonic() - begun < 1
    anna.parked(0)
    assert anna.tell("bodies") == "0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_waiting_program_can_be_ended(anna, spawn, number):
    waiters = [spawn("cat", anna.message("Slow", uid)) for uid in (1, 2, 3, 4)]
    waiters += [spawn("ls", anna.dir / "Unlisted"), spawn("stat", anna.message("Unlisted", 1))]
    anna.parked(6)
    begun = time.monotonic()
    for waiter in waiters:
        waiter.send_signal(number)
    for waiter in waiters:
        assert waiter.wait(timeout=BOUND) == -number
    assert time.monotonic() - begun < 1
    anna.parked(0)


def test_many_interrupts_race_completions(anna, spawn):
    for turn in range(20):
        waiters = [spawn("cat", anna.message("Slow", uid)) for uid in (1, 2, 3, 4)]
        anna.parked(4)
        killer = threading.Thread(target=lambda: [w.send_signal(signal.SIGINT) for w in waiters])
        killer.start()
        anna.tell("release")
        killer.join()
        for waiter in waiters:
            out = waiter.communicate(timeout=BOUND)[0]
            assert waiter.returncode in (0, -signal.SIGINT)
            assert waiter.returncode != 0 or len(out) == 5000
    wait_for(lambda: anna.tell("bodies") == "0", "all bodies closed")
    assert state(anna.pid) == "S"


def test_listing_waits_for_first_listing(anna, spawn):
    lister = spawn("ls", anna.dir / "Unlisted")
    looker = spawn("stat", "-c", "%s", anna.message("Unlisted", 2))
    missing = spawn("stat", anna.message("Unlisted", 77))
    anna.parked(3)  # also: lookups in one directory do not wait for each other
    fails(errno.ENOENT, os.stat, anna.dir / "Unlisted" / ".hidden")  # not a message: no waiting
    anna.tell("list", "Unlisted")
    assert len(lister.communicate(timeout=BOUND)[0].split()) == 3
    assert looker.communicate(timeout=BOUND)[0] == b"500\n"
    assert missing.wait(timeout=BOUND) == 1
    assert len(os.listdir(anna.dir / "Unlisted")) == 3


def test_never_listed_and_offline(anna):
    fails(errno.EHOSTUNREACH, os.listdir, anna.dir / "Unreachable")
    fails(errno.EHOSTUNREACH, os.stat, anna.message("Unreachable", 1))
    os.stat(anna.dir / "Unreachable")


# ---- news ----

def test_new_message_appears(anna):
    folder = anna.dir / "INBOX"
    before = set(os.listdir(folder))
    name = anna.tell("new", "INBOX", 3, 1234)
    wait_for(lambda: len(set(os.listdir(folder)) - before) == 3, "the new ones")
    assert read(folder / name) == content(INBOX, 23, 1234)
    name = anna.tell("new", "INBOX", 1, 10)
    assert os.stat(folder / name).st_size == 10  # by name at once: no negative entries are kept


def test_looked_for_before_it_came(anna):
    path = anna.message("INBOX", 21)
    fails(errno.ENOENT, os.stat, path)
    anna.tell("new", "INBOX", 1, 10)
    assert os.stat(path).st_size == 10


def test_gone_message_vanishes(anna):
    path = anna.message("INBOX", 4)
    os.listdir(anna.dir / "INBOX")
    with open(path, "rb") as held:
        anna.tell("gone", "INBOX", 4)
        wait_for(lambda: not os.path.exists(path), "the end of the file")
        wait_for(lambda: path.name not in os.listdir(anna.dir / "INBOX"), "the new listing")
        assert held.read() == content(INBOX, 4, 1000 + 997 * 3)  # opened before: stays readable
    fails(errno.ENOENT, open, path)


def test_flags_change_ctime(anna):
    path = anna.message("INBOX", 4)
    subprocess.run(["ls", "-l", anna.dir / "INBOX"], stdout=subprocess.DEVNULL, timeout=BOUND)
    before = os.stat(path)
    anna.tell("flags", "INBOX", 4, 5)
    wait_for(lambda: os.stat(path).st_ctime == 1800000005, "the new ctime")
    after = os.stat(path)
    assert (after.st_mtime, after.st_ino, after.st_size) == (
        before.st_mtime, before.st_ino, before.st_size)


def test_folders_come_and_go(anna):
    os.listdir(anna.dir)
    anna.tell("mkdir", ".", 0, 0, "New folder")
    wait_for(lambda: "New folder" in os.listdir(anna.dir), "the folder")
    wait_for(lambda: os.stat(anna.dir).st_nlink == 2 + 12, "the link count")
    anna.tell("mkdir", "New folder", 0, 0, "Inner")
    wait_for(lambda: os.listdir(anna.dir / "New folder") == ["Inner"], "the inner one")
    anna.tell("new", "New folder/Inner", 2, 5)
    wait_for(lambda: len(os.listdir(anna.dir / "New folder/Inner")) == 2, "mail")
    anna.tell("rmdir", "New folder/Inner")
    wait_for(lambda: not os.path.exists(anna.dir / "New folder/Inner"), "its end")
    wait_for(lambda: os.listdir(anna.dir / "New folder") == [], "the empty listing")
    fails(errno.ENOENT, os.stat, anna.dir / "New folder/Inner" / anna.name(1))


def test_renumbered_folder(anna):
    """Another UIDVALIDITY: the same names are other files, the rest is gone."""
    first, fifth = anna.message("INBOX", 1), anna.message("INBOX", 5)
    subprocess.run(["ls", "-l", anna.dir / "INBOX"], stdout=subprocess.DEVNULL, timeout=BOUND)
    old = os.stat(first)
    read(first)
    space = int(anna.tell("renumber", "INBOX", 2))
    wait_for(lambda: len(os.listdir(anna.dir / "INBOX")) == 3, "the new listing")
    wait_for(lambda: os.stat(first).st_ino != old.st_ino, "the new node")
    assert os.stat(first).st_size == 123
    assert read(first) == content(space, 1, 123)
    # Whoever lists gets the new names at once, since the mtime moved; the old ones go a moment later.
    wait_for(lambda: not os.path.exists(fifth), "the end of the old name")
    fails(errno.ENOENT, open, fifth)


def test_working_directory_survives_first_listing(anna, spawn):
    shell = spawn("sh", "-c", "ls && pwd -P && ls | wc -l", cwd=anna.dir / "Unlisted")
    anna.parked(1)
    anna.tell("list", "Unlisted")
    out = shell.communicate(timeout=BOUND)[0].decode().split()
    assert out[3:] == [str(anna.dir / "Unlisted"), "3"]


def test_listing_under_change_keeps_what_stayed(mail):
    mail.mount(FAKE_ENGINE_BIG="5000")
    stop = threading.Event()

    def change():
        dice = random.Random(1)
        while not stop.is_set():
            mail.tell("new", "Big", dice.randint(1, 5), 10)
            mail.tell("gone", "Big", dice.choice(range(1, 5001, 2)))
    changer = threading.Thread(target=change)
    changer.start()
    try:
        stayed = {mail.name(uid) for uid in range(2, 5001, 2)}
        for _ in range(15):
            seen = os.listdir(mail.dir / "Big")
            assert len(seen) == len(set(seen))
            assert stayed <= set(seen)
    finally:
        stop.set()
        changer.join()
    # In the end exactly what the index has, however answers and news crossed.
    last = mail.tell("new", "Big", 1, 10)
    seen = wait_for(lambda: (lambda l: l if last in l else None)(os.listdir(mail.dir / "Big")), "end")
    for name in seen:
        os.stat(mail.dir / "Big" / name)


def test_no_stale_answer_stays(anna):
    """Answers and news cross a thousand times; nothing outdated is believed afterwards."""
    folder = anna.dir / "INBOX"
    stop = threading.Event()

    def look():
        while not stop.is_set():
            for name in os.listdir(folder):
                try:
                    os.stat(folder / name)
                except FileNotFoundError:
                    pass
    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for turn in range(300):
            name = anna.tell("new", "INBOX", 1, 10)
            uid = int(name.split(".")[-2])
            wait_for(lambda: name in os.listdir(folder), "new")
            anna.tell("flags", "INBOX", uid, turn)
            wait_for(lambda: os.stat(folder / name).st_ctime == 1800000000 + turn, "flags")
            anna.tell("gone", "INBOX", uid)
            wait_for(lambda: name not in os.listdir(folder), "gone")
            wait_for(lambda: not os.path.exists(folder / name), "gone")
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


# ---- virtual files, statfs, extended attributes ----

def test_control_files(anna, tmp_path):
    control = anna.dir / ".control"
    assert sorted(os.listdir(control)) == ["ctl", "log", "status"]
    anna.tell("log", "", 0, 0, "a line for the log")
    for name in ("status", "log"):
        file = control / name
        for turn in range(20):
            assert subprocess.run(["cat", file], capture_output=True, timeout=BOUND).stdout
            count = subprocess.run(["wc", "-c", file], capture_output=True, timeout=BOUND).stdout
            assert int(count.split()[0]) > 0
            done = subprocess.run(["cp", "-f", file, tmp_path / "copy"], capture_output=True, timeout=BOUND)
            assert done.returncode == 0 and (tmp_path / "copy").stat().st_size > 0
            done = subprocess.run(["tar", "cf", tmp_path / "t.tar", "-C", anna.dir, ".control"],
                                  capture_output=True, timeout=BOUND)
            assert (done.returncode, done.stderr) == (0, b"")
        with open(file, "rb") as held:
            text = held.read()
            assert os.fstat(held.fileno()).st_size == len(text)
    assert b"a line for the log\n" in read(control / "log")
    done = subprocess.run(["grep", "-c", "state: online", control / "status"], capture_output=True,
                          timeout=BOUND)
    assert done.stdout == b"1\n"
    fails(errno.ENOENT, os.stat, control / "nothing")


def test_control_ctl(anna):
    ctl = anna.dir / ".control" / "ctl"
    text = ctl.read_bytes()
    assert text == b"anything   is done\nfail       fails\n"
    assert os.stat(ctl).st_size == len(text) and os.stat(ctl).st_mode & 0o777 == 0o600
    with open(ctl, "r+b", buffering=0) as f:
        assert f.read() == text
        f.seek(0)
        for command in (b"one", b"a longer one"):  # one offset for both, as in a shell
            f.write(command + b"\n")
            assert f.read() == b"did " + command + b"\n"
        f.write(b"two\n\nthree")
        f.seek(0)  # or from the beginning
        assert f.read() == b"did two\ndid three\n"
        fails(errno.EINVAL, f.write, b"four\nfail five\nsix\n")
        assert f.read() == b"did four\nmade to fail: fail five\n"
        fails(errno.EINVAL, f.write, b"nul \0 octet\n")
        fails(errno.EINVAL, f.write, b"x" * 5000)
        f.truncate(0)
    with open(ctl, "wb") as f:  # truncates
        f.write(b"seven\n")
    with open(ctl, "ab") as f:
        f.write(b"eight\n")
    assert ctl.read_bytes() == text  # an answer is for the file that asked
    fails(errno.EROFS, os.chmod, ctl, 0o644)
    fails(errno.EROFS, os.utime, ctl, (1, 1))
    fails(errno.EROFS, os.unlink, ctl)
    files = [open(ctl, "r+b", buffering=0) for _ in range(8)]
    for i, f in enumerate(files):
        f.write(b"%d" % i)
    assert [f.read() for f in files] == [b"did %d\n" % i for i in range(8)]
    for f in files:
        f.close()


def test_statfs(anna):
    st = os.statvfs(anna.dir)
    assert st.f_bavail * st.f_frsize >= 1 << 40 and st.f_blocks > 0
    anna.tell("quota", ".", 3 << 30, 20 << 30)
    st = os.statvfs(anna.dir)
    assert st.f_blocks * st.f_frsize == 20 << 30 and st.f_bfree * st.f_frsize == 17 << 30
    anna.tell("quota", ".", 30 << 30, 20 << 30)
    assert os.statvfs(anna.dir).f_bfree == 0


def test_xattr_only_when_asked(mail, spawn):
    mail.mount()
    fails(errno.ENOTSUP, os.getxattr, mail.message("INBOX", 1), "user.mail.uid")
    mail.end()
    mail.mount("-o", "xattr")
    path = mail.message("INBOX", 7)
    mail.tell("flags", "INBOX", 7, 1 | 4)
    index = {"user.mime_type": b"message/rfc822", "user.mail.uid": b"7",
             "user.mail.flags": b"\\Seen \\Flagged", "user.mail.keywords": b"$Forwarded",
             "user.mail.modseq": b"1", "user.mail.size": b"%d" % (1000 + 997 * 6)}
    assert {name: os.getxattr(path, name) for name in index} == index
    assert {"user.mail.subject", "user.mail.from", *index} <= set(os.listxattr(path))
    fails(errno.ENODATA, os.getxattr, path, "user.mail.subject")  # these bodies have no header
    waiter = spawn(sys.executable, "-c", "import os,sys;os.getxattr(sys.argv[1],'user.mail.to')",
                   mail.message("Slow", 1))
    mail.parked(1)
    waiter.send_signal(signal.SIGINT)
    assert waiter.wait(timeout=BOUND) != 0
    mail.parked(0)
    fails(errno.EHOSTUNREACH, os.getxattr, mail.message("Failing", 1), "user.mail.to")
    fails(errno.ENODATA, os.getxattr, path, "user.other")
    assert os.listxattr(mail.dir) == []


# ---- the life of a mount ----

def test_sigterm_unmounts(anna):
    os.kill(anna.pid, signal.SIGTERM)
    anna.ended()


def test_sigterm_with_everything_busy(anna, spawn):
    held = open(anna.message("INBOX", 1), "rb")
    inside = spawn("sleep", "1000", cwd=anna.dir / "INBOX")
    waiting = [spawn("cat", anna.message("Slow", 1)), spawn("ls", anna.dir / "Unlisted")]
    anna.parked(2)
    begun = time.monotonic()
    os.kill(anna.pid, signal.SIGTERM)
    anna.ended()
    assert time.monotonic() - begun < 3
    for waiter in waiting:
        assert waiter.wait(timeout=BOUND) != 0
    assert inside.poll() is None
    held.close()


def test_guard_leaves_with_a_clean_end(anna):
    guard = anna.guard()
    assert os.readlink(f"/proc/{guard}/cwd") == "/"
    fds = [os.readlink(f"/proc/{guard}/fd/{fd}") for fd in os.listdir(f"/proc/{guard}/fd")]
    assert not [fd for fd in fds if "fuse" in fd or str(anna.folder) in fd], fds
    assert anna.run("umount", anna.dir).returncode == 0
    anna.ended()
    wait_for(lambda: state(guard) in (None, "Z"), "the end of the guard")


def test_kill_9_under_load(anna, spawn):
    """News, listings, lookups and waiting readers, then the daemon is killed."""
    stop = threading.Event()

    def storm():
        while not stop.is_set():
            try:
                name = anna.tell("new", "INBOX", 20, 10)
                if not name:
                    return
                anna.tell("gone", "INBOX", int(name.split(".")[-2]))
            except (OSError, ValueError):
                return
    anna.connect()
    loads = [spawn("sh", "-c", f"while ls -l '{anna.dir}/INBOX' >/dev/null && "
                               f"cat '{anna.dir}'/INBOX/*.eml >/dev/null; do :; done")
             for _ in range(4)]
    waiting = [spawn("cat", anna.message("Slow", uid)) for uid in (1, 2)]
    waiting += [spawn("stat", anna.message("Unlisted", 9)), spawn("ls", anna.dir / "Unlisted")]
    thread = threading.Thread(target=storm)
    thread.start()
    time.sleep(0.3)  # of load
    os.kill(anna.pid, signal.SIGKILL)
    wait_for(lambda: mounted(anna.dir) is None, "the guard's unmount")
    stop.set()
    for process in waiting:
        assert process.wait(timeout=BOUND) != 0
    for process in loads:
        process.kill()
        process.wait(timeout=BOUND)
    thread.join(timeout=BOUND)
    wait_for(lambda: state(anna.pid) is None, "the end of the daemon")
    wait_for(lambda: not anna_guards(anna), "the end of the guard")
    anna.pid = None
    assert os.listdir(anna.dir) == []


def anna_guards(anna):
    return [pid for pid in processes("emlfs-guard")
            if str(anna.folder).encode() in open(f"/proc/{pid}/cmdline", "rb").read()]


def test_kill_9_with_a_notification_in_the_kernel(anna, spawn):
    """The worst case: the notify thread waits for a directory that a lookup holds."""
    waiting = spawn("stat", anna.message("Unlisted", 9))
    anna.parked(1)
    anna.tell("mkdir", "Unlisted", 0, 0, "Inner")  # an entry of that directory: takes its lock
    task = f"/proc/{anna.pid}/task"
    wait_for(lambda: any(state_of(f"{task}/{t}/stat") == "D" for t in os.listdir(task)),
             "a notification that hangs")
    os.kill(anna.pid, signal.SIGKILL)
    assert waiting.wait(timeout=BOUND) != 0
    wait_for(lambda: mounted(anna.dir) is None, "the guard's unmount")
    wait_for(lambda: state(anna.pid) is None, "the end of the daemon")
    anna.pid = None


def state_of(path):
    try:
        return open(path).read().rsplit(") ", 1)[1][0]
    except OSError:
        return None


def test_sigterm_with_a_notification_in_the_kernel(anna, spawn):
    waiting = spawn("stat", anna.message("Unlisted", 9))
    anna.parked(1)
    anna.tell("mkdir", "Unlisted", 0, 0, "Inner")
    os.kill(anna.pid, signal.SIGTERM)
    anna.ended()
    assert waiting.wait(timeout=BOUND) != 0


def test_stale_mount_is_replaced(anna):
    os.kill(anna.guard(), signal.SIGKILL)
    os.kill(anna.pid, signal.SIGKILL)
    wait_for(lambda: state(anna.pid) is None, "the end of the daemon")
    fails(errno.ENOTCONN, os.stat, anna.dir)
    anna.connection = None
    done = anna.mount()
    assert "was left over" in done.stderr
    assert len(os.listdir(anna.dir / "INBOX")) == 21


def test_umount_says_busy(anna):
    with open(anna.message("INBOX", 1)):
        done = anna.run("umount", anna.dir)
        assert done.returncode == 1 and "in use" in done.stderr
    assert anna.run("umount", anna.dir).returncode == 0
    anna.ended()
    done = anna.run("umount", anna.dir)
    assert (done.returncode, done.stderr) == (1, f"emlfs: {anna.dir} is not mounted\n")


def test_plain_umount_ends_it(anna):
    subprocess.run(["fusermount3", "-u", anna.dir], check=True, timeout=BOUND)
    anna.ended()


def test_refused_login_mounts_nothing(mail):
    done = mail.run("anna", mail.dir, FAKE_ENGINE_LOGIN="refused")
    assert done.returncode == 1
    assert done.stderr == "emlfs: mail.example.org refuses the password\n"
    assert mounted(mail.dir) is None
    wait_for(lambda: not anna_guards(mail), "the end of the guard")


def test_daemon_waits_for_login_and_ctrl_c_ends_it(mail, spawn):
    waiting = spawn(mail.program, "--config", mail.config, "anna", mail.dir,
                    env=mail.env(FAKE_ENGINE_LOGIN="hangs"), start_new_session=True)
    wait_for(lambda: anna_guards(mail), "the daemon")
    assert waiting.poll() is None and mounted(mail.dir) is None
    os.killpg(waiting.pid, signal.SIGINT)
    out, err = waiting.communicate(timeout=BOUND)
    assert (waiting.returncode, err) == (1, b"emlfs: interrupted\n")
    wait_for(lambda: not anna_guards(mail), "the end of the guard")


def test_output_is_let_go(mail):
    done = subprocess.run(f"'{mail.program}' --config '{mail.config}' anna '{mail.dir}' 2>&1 | cat",
                          shell=True, env=mail.env(), timeout=BOUND)
    assert done.returncode == 0
    mail.pid = mail.find_daemon()
    fds = [os.readlink(f"/proc/{mail.pid}/fd/{n}") for n in range(3)]
    assert fds == ["/dev/null"] * 3
    assert os.readlink(f"/proc/{mail.pid}/cwd") == "/"


def test_foreground(mail, spawn):
    process = spawn(mail.program, "--config", mail.config, "-f", "anna", mail.dir, env=mail.env())
    wait_for(lambda: mounted(mail.dir) is not None, "the mount")
    assert len(os.listdir(mail.dir / "INBOX")) == 21
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=BOUND) == 0
    assert mounted(mail.dir) is None


def test_second_mount_is_refused(anna):
    done = anna.run("anna", anna.dir)
    assert done.returncode == 1 and "mounted on" in done.stderr


def test_fstab_options(mail):
    mail.mount("-o", "rw,noauto,user,_netdev,nofail,x-systemd.automount,nosuid,nodev,noatime")
    line = [l for l in open("/proc/self/mountinfo") if str(mail.dir) in l][0]
    assert "fuse.emlfs emlfs:anna" in line and "nosuid" in line and "default_permissions" in line


def test_status(anna):
    done = anna.run("status", "anna")
    assert done.returncode == 0
    assert done.stdout.startswith(f"anna on {anna.dir}\n  state: online\n")
    assert anna.run("status", "nobody").returncode == 1


@pytest.mark.parametrize("args, code, text", [
    ([], 2, "needed"), (["anna"], 2, "usage: emlfs [mount] ACCOUNT DIR"),
    (["umount"], 2, "usage: emlfs umount DIR"), (["status", "a", "b"], 2, "usage"),
    (["--nonsense"], 2, "--nonsense"), (["umount", "-f", "/tmp"], 2, "mounting only"),
    (["bert", "/tmp"], 1, "has no account [bert]; it has: anna"),
    (["anna", "/nonexistent"], 1, "/nonexistent: No such file"),
    (["anna", "/etc/passwd"], 1, "/etc/passwd is not a directory"),
    (["anna", "/tmp", "-o", "nonsense"], 1, "nonsense"),
])
def test_wrong_use(mail, args, code, text):
    done = mail.run(*args)
    assert done.returncode == code and text in done.stderr, done.stderr
    assert done.stderr.startswith("emlfs: ") and done.stderr.count("\n") == 1


def test_help_and_version(mail):
    done = mail.run("--help")
    assert done.returncode == 0 and "emlfs ACCOUNT DIR" in done.stdout
    assert mail.run("--version").stdout.startswith("emlfs ")


def test_hundred_thousand(mail):
    mail.mount(FAKE_ENGINE_BIG="100000")
    begun = time.monotonic()
    done = subprocess.run(["ls", "-l", mail.dir / "Big"], stdout=subprocess.PIPE, timeout=60)
    assert done.stdout.count(b"\n") == 100001
    assert time.monotonic() - begun < 10
    with open(f"/proc/{mail.pid}/status") as status:
        rss = [int(l.split()[1]) for l in status if l.startswith("VmRSS")][0]
    assert rss < 60000 or "FAKEFS_SANITIZED" in os.environ


@pytest.mark.root
def test_all_this_as_an_ordinary_user(tmp_path):
    """Runs this folder again without privileges, with the /dev/fuse that users have."""
    signal.alarm(290)  # all of it again, instead of one test's bound
    node = tmp_path / "fuse"
    script = ('set -e; mount --make-rprivate /; mknod "$0" c 10 229; chmod 666 "$0"; '
              'mount --bind "$0" /dev/fuse; '
              '[ -e /sys/fs/fuse/connections/. ] && mount -t fusectl fusectl '
              '/sys/fs/fuse/connections 2>/dev/null || :; '
              # /mnt of this namespace alone: the path of a socket may not be long
              'mount -t tmpfs -o mode=1777 none /mnt; '
              'export TMPDIR=/mnt HOME=/mnt PYTEST_DEBUG_TEMPROOT=/mnt PYTHONDONTWRITEBYTECODE=1; '
              'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"')
    for parent in node.parents:  # what pytest makes is for its user alone
        if parent.name.startswith(("pytest-", "test_all_this")):
            parent.chmod(0o711)
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, node, sys.executable, "-m", "pytest",
                           "-q", "-p", "no:cacheprovider", os.path.dirname(__file__)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
