# SPDX-License-Identifier: GPL-3.0-or-later
"""What is changed through the mount. The engine (tests/unit/fake-changes.c) does it in memory."""
import errno
import mmap
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from conftest import BOUND, content, mounted, state, wait_for

INBOX, PROJECTS = 101, 102
LETTER = b"Subject: one\r\n\r\nA letter.\r\n"
# The codes of base/err.h, and what they are for programs.
OFFLINE, CANCELLED, REFUSED, NO_SPACE, TOO_BIG, QUOTA = 1, 3, 7, 10, 15, 17


def fails(number, call, *args, **more):
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    assert caught.value.errno == number, caught.value


def sh(command, code=0, **more):
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=BOUND, **more)
    assert done.returncode == code, done
    return done.stdout + done.stderr


def commits(mail):
    return int(mail.tell("counts").split()[0])


def clones(mail):
    return int(mail.tell("counts").split()[1])


def locals_left(mail):
    return int(mail.tell("counts").split()[2])


def is_message(path):
    return os.stat(path).st_ino >> 60 == 2


def becomes_message(path):
    """The kernel is told a moment later that the name is another node's."""
    wait_for(lambda: is_message(path), "the message")


# ---- letters ----

@pytest.mark.parametrize("way", ["echo", "printf", "cp", "cp -p", "cat", "dd", "tee", "python"])
def test_a_letter_is_committed_once(anna, tmp_path, way):
    source, target = tmp_path / "source", anna.dir / "INBOX" / "a letter.eml"
    source.write_bytes(LETTER)
    os.utime(source, (1234567890, 1234567890))
    commands = {"echo": f"echo -n \"$(cat '{source}'; echo x)\" | head -c -1 > '{target}'",
                "printf": f"printf 'Subject: one\\r\\n\\r\\nA letter.\\r\\n' > '{target}'",
                "cp": f"cp '{source}' '{target}'", "cp -p": f"cp -p '{source}' '{target}'",
                "cat": f"cat '{source}' > '{target}'", "tee": f"tee '{target}' < '{source}'",
                "dd": f"dd if='{source}' of='{target}' bs=7"}
    if way == "python":
        target.write_bytes(LETTER)
    else:
        sh(commands[way])
    assert target.read_bytes() == LETTER
    assert commits(anna) == 1
    becomes_message(target)
    st = target.stat()
    assert (st.st_size, st.st_mode) == (len(LETTER), stat.S_IFREG | 0o600)
    if way == "cp -p":
        assert st.st_mtime == 1234567890
    assert target.name in os.listdir(anna.dir / "INBOX")
    assert len(os.listdir(anna.dir / "INBOX")) == 22
    wait_for(lambda: locals_left(anna) == 0, "nothing local is left")


def test_a_letter_of_several_programs_is_committed_once(anna):
    first, second = anna.message("INBOX", 1), anna.message("INBOX", 2)
    target = anna.dir / "INBOX" / "x.eml"
    sh(f"(cat '{first}'; cat '{second}'; true) > '{target}'")
    assert commits(anna) == 1
    assert target.read_bytes() == content(INBOX, 1, 1000) + content(INBOX, 2, 1997)
    sh(f"{{ cat '{first}'; echo more; /bin/echo more; }} > '{target}'")
    assert commits(anna) == 2
    assert target.read_bytes() == content(INBOX, 1, 1000) + b"more\nmore\n"


def test_a_child_that_closes_what_it_inherited_commits_nothing(anna):
    target = anna.dir / "INBOX" / "x.eml"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.write(fd, LETTER[:5])
    subprocess.run(["true"], pass_fds=[fd], check=True, timeout=BOUND)
    assert commits(anna) == 0
    os.write(fd, LETTER[5:])
    os.close(fd)
    assert commits(anna) == 1 and target.read_bytes() == LETTER


def test_what_a_child_wrote_last_is_committed_by_the_last_close(anna, spawn):
    target = anna.dir / "INBOX" / "x.eml"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT)
    child = spawn("sh", "-c", "read x; cat /dev/stdin >&3; exec 3>&-; read x", stdin=subprocess.PIPE,
                  preexec_fn=lambda: os.dup2(fd, 3), pass_fds=[3])
    os.close(fd)
    assert commits(anna) == 0  # nothing was written yet
    child.communicate(b"\n" + LETTER, timeout=BOUND)
    wait_for(lambda: commits(anna) == 1, "the commit")
    becomes_message(target)
    assert target.read_bytes() == LETTER


def test_another_thread_closes(anna):
    target = anna.dir / "INBOX" / "x.eml"
    fds = []
    opener = threading.Thread(target=lambda: fds.append(os.open(target, os.O_WRONLY | os.O_CREAT)))
    opener.start()
    opener.join()
    os.write(fds[0], LETTER)
    anna.tell("fail", ".", QUOTA, 0, "commit")
    fails(errno.EDQUOT, os.close, fds[0])


def test_dup_and_close(anna):
    target = anna.dir / "INBOX" / "x.eml"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT)
    copy = os.dup(fd)
    os.close(fd)
    assert commits(anna) == 0  # as a shell does with the target of ">"
    os.write(copy, LETTER)
    os.close(copy)
    assert commits(anna) == 1
    assert target.read_bytes() == LETTER


def test_two_descriptors(anna):
    target = anna.dir / "INBOX" / "x.eml"
    one = os.open(target, os.O_WRONLY | os.O_CREAT)
    two = os.open(target, os.O_RDWR)
    os.write(one, LETTER)
    assert os.pread(two, 100, 0) == LETTER and os.fstat(two).st_size == len(LETTER)
    os.close(two)  # wrote nothing
    assert commits(anna) == 0
    os.close(one)
    assert commits(anna) == 1
    assert target.read_bytes() == LETTER


def test_touch_uploads_nothing(anna):
    target = anna.dir / "INBOX" / "x.eml"
    sh(f"touch '{target}'; : > '{target}'")
    os.mknod(anna.dir / "INBOX" / "y.eml")
    assert target.stat().st_size == 0 and not is_message(target)
    assert sorted(os.listdir(anna.dir / "INBOX"))[-2:] == ["x.eml", "y.eml"]
    sh(f"cat > '{target}'", input=LETTER)
    becomes_message(target)
    assert target.read_bytes() == LETTER


@pytest.mark.parametrize("code, number", [(QUOTA, errno.EDQUOT), (OFFLINE, errno.EHOSTUNREACH),
                                          (REFUSED, errno.EACCES), (TOO_BIG, errno.EFBIG)])
def test_close_tells_what_the_server_says(anna, code, number):
    target = anna.dir / "INBOX" / "x.eml"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.write(fd, LETTER)
    anna.tell("fail", ".", code, 0, "commit")
    fails(number, os.close, fd)
    assert target.read_bytes() == LETTER and not is_message(target)
    assert commits(anna) == 1  # and not once more by itself
    with open(target, "r+b") as file:
        file.write(LETTER)
    becomes_message(target)


def test_write_errors(anna):
    fd = os.open(anna.dir / "INBOX" / "x.eml", os.O_WRONLY | os.O_CREAT)
    for code, number in ((NO_SPACE, errno.ENOSPC), (TOO_BIG, errno.EFBIG)):
        anna.tell("fail", ".", code, 0, "write")
        fails(number, os.write, fd, b"x")
    os.write(fd, b"x")
    anna.tell("fail", ".", NO_SPACE, 0, "sync")
    fails(errno.ENOSPC, os.fsync, fd)
    os.fsync(fd)
    os.fdatasync(fd)
    assert commits(anna) == 0
    os.close(fd)


def test_nothing_is_no_letter(anna):
    """A message that was only truncated is left as it was."""
    path = anna.message("INBOX", 1)
    for truncate in (lambda: sh(f": > '{path}'"), lambda: os.truncate(path, 0),
                     lambda: open(path, "r+b").truncate(0)):
        truncate()
        wait_for(lambda: path.stat().st_size == 1000, "the old size")
        assert path.read_bytes() == content(INBOX, 1, 1000)
        assert is_message(path)
    assert locals_left(anna) == 0


def test_ctrl_c_in_a_waiting_close(anna, spawn):
    target = anna.dir / "INBOX" / "x.eml"
    anna.tell("hold", ".", 0, 0, "commit")
    script = ("import os, signal, sys\nsignal.signal(signal.SIGINT, lambda *_: None)\n"
              "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\nos.write(fd, b'Subject: x')\n"
              "try: os.close(fd)\nexcept OSError as e: print(e.errno)")
    writer = spawn(sys.executable, "-c", script, target)
    anna.parked(1)
    os.listdir(anna.dir / "INBOX")  # nothing else waits
    target.read_bytes()
    begun = time.monotonic()
    writer.send_signal(signal.SIGINT)
    assert writer.communicate(timeout=BOUND)[0].split() == [b"%d" % errno.EINTR]
    assert time.monotonic() - begun < 2
    anna.parked(0)
    assert target.read_bytes() == b"Subject: x"


HALF = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(fd, b"Subject: half")
print(flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("new", [True, False])
def test_half_a_letter_of_who_is_killed_is_not_committed(anna, spawn, number, new):
    path = anna.dir / "INBOX" / "x.eml" if new else anna.message("INBOX", 3)
    old = None if new else path.read_bytes()
    writer = spawn(sys.executable, "-c", HALF, path)
    writer.stdout.readline()
    writer.send_signal(number)
    assert writer.wait(timeout=BOUND) == -number
    if new:
        assert path.read_bytes() == b"Subject: half"
        wait_for(lambda: b"when it was killed" in (anna.dir / ".control/log").read_bytes(), "the log")
    else:
        wait_for(lambda: locals_left(anna) == 0, "the end of the file")
        wait_for(lambda: path.stat().st_size == len(old), "the old size")
        assert path.read_bytes() == old
    assert commits(anna) == 0


def test_who_ends_without_closing_commits(anna):
    target = anna.dir / "INBOX" / "x.eml"
    script = HALF.replace("time.sleep(100)", "os._exit(3)")
    assert subprocess.run([sys.executable, "-c", script, target], stdout=subprocess.DEVNULL,
                          timeout=BOUND).returncode == 3
    wait_for(lambda: commits(anna) == 1, "the commit")
    becomes_message(target)


# ---- messages that are edited ----

def test_redirection_replaces(anna):
    path = anna.message("INBOX", 3)
    before = path.stat()
    sh(f"echo hi > '{path}'")
    assert path.read_bytes() == b"hi\n"
    wait_for(lambda: path.stat().st_ino != before.st_ino, "the new message")
    assert path.stat().st_size == 3 and commits(anna) == 1
    assert os.listdir(anna.dir / "INBOX").count(path.name) == 1


def test_append(anna):
    path = anna.message("INBOX", 3)
    sh(f"echo hi >> '{path}'")
    assert path.read_bytes() == content(INBOX, 3, 1000 + 2 * 997) + b"hi\n"
    assert commits(anna) == 1
    sh(f"echo ho >> '{path}'; echo hu >> '{path}'")
    assert path.read_bytes().endswith(b"hi\nho\nhu\n") and commits(anna) == 3


def test_edit_in_place_as_vim_does(anna):
    path = anna.message("INBOX", 3)
    swap = path.parent / f".{path.name}.swp"
    swap.write_bytes(b"swap")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.ftruncate(fd, 0)
    os.write(fd, LETTER)
    os.fsync(fd)
    assert os.fstat(fd).st_size == os.stat(path).st_size == len(LETTER)
    os.close(fd)
    os.chmod(path, 0o600)
    swap.unlink()
    assert path.read_bytes() == LETTER and commits(anna) == 2  # with that of the swap file


def test_edit_as_nano_does(anna):
    path = anna.message("INBOX", 3)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    assert os.fstat(fd).st_size == os.stat(path).st_size == 0
    os.write(fd, LETTER)
    os.fsync(fd)
    os.close(fd)
    assert path.read_bytes() == LETTER and commits(anna) == 1


@pytest.mark.parametrize("new", [True, False])
def test_write_beside_and_rename_over(anna, new):
    """sed -i, rsync and most editors."""
    path = anna.dir / "INBOX" / "new.eml" if new else anna.message("INBOX", 3)
    beside = path.parent / ".beside.XXXXXX"
    fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, LETTER)
    os.fchmod(fd, 0o600)
    os.close(fd)
    os.utime(beside, (1234567890, 1234567890))
    assert locals_left(anna) == 1
    os.rename(beside, path)
    assert path.read_bytes() == LETTER
    becomes_message(path)
    assert path.stat().st_mtime == 1234567890
    assert beside.name not in os.listdir(path.parent)
    assert os.listdir(path.parent).count(path.name) == 1
    assert locals_left(anna) == 0


def test_editors_and_tools(anna, tmp_path):
    path = anna.dir / "INBOX" / "x.eml"
    sh(f"printf 'Subject: one\\n' > '{path}' && sed -i s/one/two/ '{path}'")
    assert path.read_bytes() == b"Subject: two\n"
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "letter.eml").write_bytes(LETTER)
    (source / "top.eml").write_bytes(LETTER)
    for path in (source / "top.eml", source / "sub" / "letter.eml", source / "sub"):
        os.utime(path, (1234567890, 1234567890))
    for command in (f"cp -a '{source}' '{anna.dir}/copied'",
                    f"mkdir '{anna.dir}/tarred' && tar c -C '{source}' . | tar x -C '{anna.dir}/tarred'"):
        assert sh(command) == b""
    for name in ("copied", "tarred"):
        assert (anna.dir / name / "sub" / "letter.eml").read_bytes() == LETTER
        assert (anna.dir / name / "top.eml").stat().st_mtime == 1234567890
    assert sh(f"diff -r '{anna.dir}/copied' '{source}'") == b""


def test_reader_and_writer_of_one_message(anna):
    path = anna.message("INBOX", 3)
    old = path.read_bytes()
    with open(path, "rb") as reader:
        fd = os.open(path, os.O_RDWR)
        os.ftruncate(fd, 0)
        os.write(fd, LETTER)
        assert os.fstat(fd).st_size == len(LETTER)
        assert os.pread(fd, 1000, 0) == LETTER
        assert os.fstat(reader.fileno()).st_size == len(LETTER)
        reader.read()  # old or new
        os.close(fd)
    assert path.read_bytes() == LETTER != old


def test_a_failed_edit_does_not_change_the_message(anna):
    """What the kernel had of the new octets is not taken for those of the message."""
    path = anna.message("INBOX", 3)
    old = path.read_bytes()
    anna.tell("fail", ".", QUOTA, 0, "commit")
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"X" * 5000)
    fails(errno.EDQUOT, os.close, fd)
    wait_for(lambda: path.stat().st_size == len(old), "the old size")
    assert path.read_bytes() == old
    failed = path.parent / (path.name + ".failed")
    assert failed.read_bytes() == b"X" * 5000 and failed.name in os.listdir(path.parent)


def test_mmap_write(anna):
    path = anna.message("INBOX", 9)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as view:
            view[5000:5006] = b"mapped"
    expected = bytearray(content(INBOX, 9, size))
    expected[5000:5006] = b"mapped"
    assert path.read_bytes() == expected
    wait_for(lambda: commits(anna) >= 1, "the commit")


def test_mmap_write_after_close(anna):
    path = anna.message("INBOX", 9)
    size = path.stat().st_size
    file = open(path, "r+b")
    view = mmap.mmap(file.fileno(), 0)  # holds a copy of the descriptor
    file.close()
    view[:7] = b"written"
    view.close()
    wait_for(lambda: commits(anna) == 1, "the commit")
    wait_for(lambda: path.read_bytes() == b"written" + content(INBOX, 9, size)[7:], "the new octets")


def test_truncate(anna):
    path = anna.message("INBOX", 9)
    os.truncate(path, 100)
    assert path.read_bytes() == content(INBOX, 9, 100) and path.stat().st_size == 100
    assert commits(anna) == 1
    scratch = anna.dir / ".scratch"
    scratch.write_bytes(b"0123456789")
    os.truncate(scratch, 4)
    assert scratch.read_bytes() == b"0123"
    os.truncate(scratch, 6)
    assert scratch.read_bytes() == b"0123\0\0" and scratch.stat().st_size == 6
    fd = os.open(scratch, os.O_WRONLY)
    os.truncate(scratch, 2)  # while it is open
    os.close(fd)
    assert scratch.read_bytes() == b"01"


def test_sparse_writes(anna):
    path = anna.dir / ".scratch"
    with open(path, "wb") as file:
        file.seek(100000)
        file.write(b"end")
    assert path.read_bytes() == bytes(100000) + b"end"


def test_large(anna):
    data = os.urandom(1 << 20) * 5
    for path in (anna.dir / ".scratch", anna.dir / "INBOX" / "large.eml"):
        path.write_bytes(data)
        assert path.read_bytes() == data
        assert path.stat().st_size == len(data)


# ---- copies ----

def test_copy_in_the_mount_moves_no_octets(anna):
    source, target = anna.message("INBOX", 5), anna.dir / "INBOX" / "Projects" / "copy.eml"
    sh(f"cp '{source}' '{target}'")
    assert (clones(anna), commits(anna)) == (1, 1)
    assert target.read_bytes() == content(INBOX, 5, 1000 + 4 * 997)
    sh(f"cp -p '{source}' '{target.parent}/other.eml'")
    assert clones(anna) == 2
    assert (target.parent / "other.eml").stat().st_mtime == source.stat().st_mtime
    sh(f"cp -r '{anna.dir}/INBOX/Projects' '{anna.dir}/again'")
    assert len(os.listdir(anna.dir / "again")) == 3 + 1 + 2
    assert (anna.dir / "again" / "copy.eml").read_bytes() == target.read_bytes()


def test_what_is_no_clone_is_copied(anna):
    source, size = anna.message("INBOX", 5), 1000 + 4 * 997
    scratch = anna.dir / ".scratch"
    with open(source, "rb") as a, open(scratch, "w+b") as b:
        assert os.copy_file_range(a.fileno(), b.fileno(), 100) == 100  # a part
        assert clones(anna) == 0
        assert os.copy_file_range(a.fileno(), b.fileno(), size, 0, 0) == size  # not empty any more
        assert clones(anna) == 0
        assert os.pread(b.fileno(), size, 0) == content(INBOX, 5, size)
    other = anna.dir / ".other"
    sh(f"cp '{scratch}' '{other}'")
    assert other.read_bytes() == scratch.read_bytes() and clones(anna) == 0


# ---- names ----

def test_scratch(anna):
    for folder in (anna.dir, anna.dir / "INBOX"):
        path = folder / ".name.swp"
        path.write_bytes(b"one")
        assert path.read_bytes() == b"one" and path.name in os.listdir(folder)
        os.utime(path, ns=(1, 1234567890123456789))
        assert path.stat().st_mtime_ns == 1234567890123456789
        other = folder / "other~"
        os.rename(path, other)
        assert other.read_bytes() == b"one" and other.stat().st_mtime_ns == 1234567890123456789
        fails(errno.ENOENT, os.stat, path)
        other.unlink()
        fails(errno.ENOENT, os.stat, other)
    assert locals_left(anna) == 0
    fails(errno.EPERM, (anna.dir / "letter.eml").write_bytes, b"no folder for it")


def test_local_folders(anna):
    trash = anna.dir / ".Trash-0"
    links = anna.dir.stat().st_nlink
    os.makedirs(trash / "files" / "deep")
    assert anna.dir.stat().st_nlink == links + 1
    assert trash.stat().st_mode == stat.S_IFDIR | 0o700
    (trash / "files" / "a.eml").write_bytes(b"kept here")
    assert commits(anna) <= 1
    assert sorted(os.listdir(trash / "files")) == ["a.eml", "deep"]
    seen = {e.name: e.inode() for e in os.scandir(trash / "files")}
    assert seen["a.eml"] == (trash / "files" / "a.eml").stat().st_ino
    output = sh(f"ls -ai '{trash}/files'").split()
    assert int(output[2]) == trash.stat().st_ino  # ".."
    fails(errno.ENOTEMPTY, os.rmdir, trash)
    fails(errno.EXDEV, os.rename, anna.message("INBOX", 1), trash / "files" / "b.eml")
    sh(f"mv '{anna.message('INBOX', 1)}' '{trash}/files/b.eml'")  # mv then copies
    assert (trash / "files" / "b.eml").read_bytes() == content(INBOX, 1, 1000)
    fails(errno.ENOENT, os.stat, anna.message("INBOX", 1))
    sh(f"find '{trash}' -type f | xargs -d '\\n' stat; rm -r '{trash}'")
    assert trash.name not in os.listdir(anna.dir) and locals_left(anna) == 0
    assert anna.dir.stat().st_nlink == links


def test_unlink(anna):
    path = anna.message("INBOX", 4)
    path.unlink()
    fails(errno.ENOENT, os.stat, path)
    fails(errno.ENOENT, os.unlink, path)
    assert path.name not in os.listdir(anna.dir / "INBOX")
    fails(errno.EISDIR, os.unlink, anna.dir / "INBOX")
    anna.tell("fail", ".", REFUSED, 0, "unlink")
    fails(errno.EACCES, os.unlink, anna.message("INBOX", 5))
    assert anna.message("INBOX", 5).read_bytes() == content(INBOX, 5, 1000 + 4 * 997)


@pytest.mark.parametrize("kind", ["message", "letter", "scratch", "edited"])
@pytest.mark.parametrize("way", ["unlink", "replace"])
def test_an_open_file_outlives_its_name(anna, kind, way):
    data = content(INBOX, 4, 1000 + 3 * 997) if kind == "message" else LETTER
    path = anna.message("INBOX", 4) if kind in ("message", "edited") else \
        anna.dir / "INBOX" / {"letter": "x.eml", "scratch": "x.tmp"}[kind]
    flags = os.O_RDONLY if kind == "message" else os.O_RDWR | os.O_CREAT | os.O_TRUNC
    fd = os.open(path, flags)
    if kind != "message":
        os.write(fd, data)
    if way == "unlink":
        path.unlink()
        fails(errno.ENOENT, os.stat, path)
    else:
        (path.parent / ".new").write_bytes(b"new")
        os.rename(path.parent / ".new", path)
        assert path.read_bytes() == b"new"
    st = os.fstat(fd)
    assert st.st_size == len(data) and stat.S_ISREG(st.st_mode)
    assert os.pread(fd, len(data) + 1, 0) == data
    if kind != "message":
        os.pwrite(fd, b"more", len(data))
        assert os.fstat(fd).st_size == len(data) + 4
        assert os.pread(fd, 100, 0) == data + b"more"
    os.close(fd)
    if way == "replace":
        assert path.read_bytes() == b"new"
    else:
        fails(errno.ENOENT, os.stat, path)


def test_rename(anna):
    old, new = anna.message("INBOX", 4), anna.dir / "INBOX" / "a better name.eml"
    data, st = old.read_bytes(), old.stat()
    os.rename(old, new)
    fails(errno.ENOENT, os.stat, old)
    assert new.read_bytes() == data and new.stat().st_ino == st.st_ino
    fails(errno.ENOENT, os.rename, old, new)
    assert sh(f"mv -n '{new}' '{anna.message('INBOX', 5)}'") == b"" and new.exists()
    os.rename(new, anna.message("INBOX", 5))
    assert anna.message("INBOX", 5).read_bytes() == data
    fails(errno.ENOENT, os.stat, new)
    assert len(os.listdir(anna.dir / "INBOX")) == 20
    anna.tell("fail", ".", REFUSED, 0, "rename")
    fails(errno.EACCES, os.rename, anna.message("INBOX", 6), new)
    assert anna.message("INBOX", 6).exists() and not new.exists()


RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
RENAME = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
done = libc.renameat2(-100, os.fsencode(sys.argv[1]), -100, os.fsencode(sys.argv[2]), int(sys.argv[3]))
print(ctypes.get_errno() if done else 0)
"""


def test_rename_flags(anna):
    def rename(flags):
        done = subprocess.run([sys.executable, "-c", RENAME, one, two, str(flags)],
                              capture_output=True, check=True, timeout=BOUND)
        return int(done.stdout)
    one, two = anna.message("INBOX", 4), anna.message("INBOX", 5)
    assert rename(RENAME_NOREPLACE) == errno.EEXIST
    assert rename(RENAME_EXCHANGE) == errno.EINVAL
    if os.getuid() == 0:
        assert rename(RENAME_WHITEOUT) == errno.EINVAL
    two = anna.dir / "INBOX" / "two.eml"
    assert rename(RENAME_NOREPLACE) == 0 and two.exists()


def test_move_to_another_folder(anna):
    """Until the server has done it the message is the same, under another name; then it is another."""
    old, folder = anna.message("INBOX", 4), anna.dir / "INBOX" / "Projects"
    new, data, number = folder / "moved.eml", old.read_bytes(), old.stat().st_ino
    os.listdir(folder)
    os.rename(old, new)
    fails(errno.ENOENT, os.stat, old)
    assert old.name not in os.listdir(old.parent)
    assert os.listdir(folder).count("moved.eml") == 1 and len(os.listdir(folder)) == 5
    entry = [e for e in os.scandir(folder) if e.name == "moved.eml"][0]
    assert entry.inode() == new.stat().st_ino == number and new.read_bytes() == data
    with open(new, "rb") as held:
        anna.tell("settle")
        wait_for(lambda: new.stat().st_ino != number, "the message that arrived")
        assert held.read() == data
    assert new.read_bytes() == data
    assert os.listdir(folder).count("moved.eml") == 1 and len(os.listdir(folder)) == 5
    assert [e.inode() for e in os.scandir(folder) if e.name == "moved.eml"] == [new.stat().st_ino]


def test_folders(anna):
    os.makedirs(anna.dir / "New" / "Inner" / "Deep")
    assert os.listdir(anna.dir / "New") == ["Inner"]
    st = (anna.dir / "New").stat()
    assert st.st_mode == stat.S_IFDIR | 0o700 and st.st_nlink == 3
    assert st.st_ino >> 60 == 1
    sh(f"mkdir -p '{anna.dir}/New/Inner/Deep/Deeper'")
    fails(errno.EEXIST, os.mkdir, anna.dir / "New")
    fails(errno.ENOTEMPTY, os.rmdir, anna.dir / "New")
    fails(errno.ENOTEMPTY, os.rmdir, anna.dir / "INBOX")
    fails(errno.ENOTDIR, os.rmdir, anna.message("INBOX", 1))
    (anna.dir / "New" / "Inner" / "a.eml").write_bytes(LETTER)
    os.rename(anna.dir / "New" / "Inner", anna.dir / "Moved")
    assert (anna.dir / "Moved" / "a.eml").read_bytes() == LETTER
    assert os.listdir(anna.dir / "New") == []
    os.rmdir(anna.dir / "New")
    fails(errno.ENOENT, os.stat, anna.dir / "New")
    sh(f"rm -r '{anna.dir}/Moved'")
    assert "Moved" not in os.listdir(anna.dir)
    for call in ("mkdir", "rmdir"):
        anna.tell("fail", ".", REFUSED, 0, call)
        os.mkdir(anna.dir / "Other") if call == "rmdir" else None
        fails(errno.EACCES, getattr(os, call), anna.dir / "Other")


@pytest.mark.parametrize("call", ["unlink", "rename", "mkdir", "rmdir", "open", "truncate", "flags"])
def test_ctrl_c_while_a_change_waits(mail, spawn, call):
    mail.mount("-o", "xattr")
    path, new = mail.message("INBOX", 4), mail.dir / "INBOX" / "new.eml"
    os.mkdir(mail.dir / "Empty")
    calls = {"unlink": f"os.unlink({str(path)!r})", "rename": f"os.rename({str(path)!r}, {str(new)!r})",
             "mkdir": f"os.mkdir({str(mail.dir / 'Other')!r})",
             "rmdir": f"os.rmdir({str(mail.dir / 'Empty')!r})",
             "open": f"os.open({str(path)!r}, os.O_WRONLY)",
             "truncate": f"os.truncate({str(path)!r}, 5)",
             "flags": f"os.setxattr({str(path)!r}, 'user.mail.flags', b'')"}
    mail.tell("hold", ".", 0, 0, call)
    for answered in (False, True):
        waiter = spawn(sys.executable, "-c", f"import os; {calls[call]}")
        mail.parked(1)
        if answered:
            mail.tell("go")
            assert waiter.wait(timeout=BOUND) == 0, waiter.communicate()
        else:
            begun = time.monotonic()
            waiter.send_signal(signal.SIGINT)
            assert waiter.wait(timeout=BOUND) == -signal.SIGINT
            assert time.monotonic() - begun < 2
            mail.parked(0)
            assert path.exists() and (mail.dir / "Empty").exists()
            assert not new.exists() and not (mail.dir / "Other").exists()


def test_what_mail_does_not_have(anna):
    path, folder = anna.message("INBOX", 1), anna.dir / "INBOX"
    fails(errno.EPERM, os.symlink, "x", folder / "link")
    fails(errno.EPERM, os.link, path, folder / "link.eml")
    fails(errno.EPERM, os.mkfifo, folder / "fifo")
    fails(errno.EISDIR, os.open, folder, os.O_WRONLY)
    fails(errno.EISDIR, os.open, folder, os.O_RDONLY | os.O_CREAT)
    fails(errno.EISDIR, os.truncate, folder, 0)
    fails(errno.EEXIST, os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    fails(errno.ENOTDIR, os.open, path / "x", os.O_WRONLY | os.O_CREAT)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    with open(anna.dir / ".scratch", "wb") as file:
        done = subprocess.run(["fallocate", "-l", "100", anna.dir / ".scratch"], capture_output=True,
                              timeout=BOUND)
        assert done.returncode == 1 and b"not supported" in done.stderr
        os.posix_fallocate(file.fileno(), 0, 100)  # the C library then writes
        assert os.fstat(file.fileno()).st_size == 100


def test_control_stays_as_it_is(anna):
    control = anna.dir / ".control"
    fails(errno.EACCES if os.getuid() else errno.EROFS, os.open, control / "status", os.O_WRONLY)
    fails(errno.EROFS, os.open, control / "x", os.O_WRONLY | os.O_CREAT)
    fails(errno.EROFS, os.mkdir, control / "x")
    fails(errno.EROFS, os.mknod, control / "x")
    fails(errno.EROFS, os.symlink, "x", control / "y")
    fails(errno.EROFS, os.unlink, control / "status")
    fails(errno.EROFS, os.rename, control / "status", control / "x")
    fails(errno.EROFS, os.rename, control / "status", anna.dir / "INBOX" / "x.eml")
    fails(errno.EROFS, os.rename, anna.message("INBOX", 1), control / "x")
    fails(errno.EROFS, os.rename, control, anna.dir / "x")
    fails(errno.EROFS, os.rmdir, control)
    fails(errno.EROFS, os.chmod, control, 0o755)
    fails(errno.EROFS, os.chmod, control / "status", 0o644)
    fails(errno.EEXIST, os.mkdir, control)
    assert anna.message("INBOX", 1).exists()


# ---- attributes ----

def test_modes_and_owners(anna):
    path, scratch = anna.message("INBOX", 1), anna.dir / ".scratch"
    scratch.touch()
    for file in (path, scratch):
        os.chmod(file, 0o644)
        os.chown(file, os.getuid(), os.getgid())
        assert file.stat().st_mode == stat.S_IFREG | 0o600
        if os.getuid() == 0:
            fails(errno.EPERM, os.chown, file, 1, -1)
        assert file.stat().st_uid == os.getuid()
    for folder in (anna.dir, anna.dir / "INBOX"):
        before = folder.stat()
        os.chmod(folder, 0o755)
        os.utime(folder, (1, 1))
        os.utime(folder)
        assert folder.stat() == before


def test_times(anna):
    path, scratch = anna.message("INBOX", 1), anna.dir / ".scratch"
    mtime = path.stat().st_mtime
    os.utime(path, (5, mtime))
    sh(f"touch -a '{path}'")
    fails(errno.EPERM, os.utime, path, (5, 6))
    fails(errno.EPERM, os.utime, path)
    assert path.stat().st_mtime == mtime
    scratch.touch()
    os.utime(scratch, (1, 1))
    os.utime(scratch)
    assert abs(scratch.stat().st_mtime - time.time()) < 10
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, LETTER)
    os.utime(fd, (1234567890, 1234567890))  # as cp -p does it
    os.close(fd)
    becomes_message(path)
    wait_for(lambda: path.stat().st_mtime == 1234567890, "the time of the new message")


def test_a_local_file_changes_by_itself(anna):
    path = anna.dir / "INBOX" / ".scratch"
    path.write_bytes(b"0123456789")
    assert path.read_bytes() == b"0123456789"
    anna.tell("swell", "INBOX", 4, 0, ".scratch")
    wait_for(lambda: path.stat().st_size == 4, "the new size")
    assert path.read_bytes() == b"0123" and path.stat().st_mtime == 1900000000


def test_flags_can_be_set(mail):
    mail.mount("-o", "xattr")
    path, scratch = mail.message("INBOX", 7), mail.dir / ".scratch"
    os.setxattr(path, "user.mail.flags", b"\\seen \\FLAGGED\n")
    assert os.getxattr(path, "user.mail.flags") == b"\\Seen \\Flagged"
    os.setxattr(path, "user.mail.keywords", b"$Junk later")
    assert os.getxattr(path, "user.mail.keywords") == b"$Junk later"
    assert os.getxattr(path, "user.mail.flags") == b"\\Seen \\Flagged"
    assert abs(path.stat().st_ctime - time.time()) < 10
    os.removexattr(path, "user.mail.flags")
    assert os.getxattr(path, "user.mail.flags") == b""
    os.setxattr(path, "user.mail.flags", b"")
    for value in (b"\\Nonsense", b"Seen", b"\\Seen\0", b"\xff"):
        fails(errno.EINVAL, os.setxattr, path, "user.mail.flags", value)
    fails(errno.EPERM, os.setxattr, path, "user.mail.uid", b"5")
    fails(errno.EPERM, os.removexattr, path, "user.mail.subject")
    fails(errno.ENOTSUP, os.setxattr, path, "user.other", b"\xff")
    fails(errno.ENOTSUP, os.setxattr, path, "user.mime_type", b"x")
    scratch.touch()
    fails(errno.ENOTSUP, os.setxattr, scratch, "user.mail.flags", b"")
    fails(errno.ENOTSUP, os.setxattr, mail.dir / "INBOX", "user.mail.flags", b"")
    mail.tell("fail", ".", REFUSED, 0, "flags")
    fails(errno.EACCES, os.setxattr, path, "user.mail.flags", b"\\Seen")


# ---- together ----

def test_listing_while_files_come_and_go(anna):
    folder = anna.dir / "INBOX"
    stayed = {anna.name(uid) for uid in range(1, 21)}
    for number in range(200):
        (folder / f"stays-{number}.tmp").write_bytes(b"x")
        stayed.add(f"stays-{number}.tmp")
    stop = threading.Event()

    def change(number):
        turn = 0
        while not stop.is_set():
            turn += 1
            scratch = folder / f"goes-{number}-{turn}"
            letter = folder / f"goes-{number}-{turn}.eml"
            scratch.write_bytes(LETTER)
            os.rename(scratch, letter)
            assert letter.read_bytes() == LETTER
            letter.unlink()
    changers = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for changer in changers:
        changer.start()
    try:
        for _ in range(50):
            seen = os.listdir(folder)
            assert stayed <= set(seen)
            kept = [name for name in seen if name in stayed]
            assert len(kept) == len(set(kept))
    finally:
        stop.set()
        for changer in changers:
            changer.join()
    wait_for(lambda: set(os.listdir(folder)) == stayed | {"Projects"}, "the listing as it is")
    sh(f"rm -r '{folder}'/*.tmp")
    assert len(os.listdir(folder)) == 21


def test_an_upload_that_arrives_during_a_listing_is_listed_once(mail):
    """It was not yet a message when those were listed, and is no local file any more after that."""
    mail.mount(FAKE_ENGINE_BIG="2000")
    folder = mail.dir / "Big"
    waiting = [folder / f"waiting-{number}.eml" for number in range(300)]
    for path in waiting:
        os.mknod(path)
    listing = os.scandir(folder)  # 32 KiB at a time
    names = [next(listing).name for _ in range(2001)]
    assert len(set(names)) == 2001
    shown = [name for name in names if name.startswith("waiting")]
    for path in waiting:
        path.write_bytes(LETTER)
        becomes_message(path)
    rest = [entry.name for entry in listing]
    for path in waiting:
        assert (names + rest).count(path.name) == 1, (path.name, shown)


def test_a_letter_is_finished_after_the_unmount(mail, spawn):
    """The last one to write was not the one that opened it, so nobody's close waits."""
    mail.mount()
    fd = os.open(mail.dir / "INBOX" / "x.eml", os.O_WRONLY | os.O_CREAT)
    child = spawn("sh", "-c", "echo Subject: x >&3; read x", preexec_fn=lambda: os.dup2(fd, 3),
                  pass_fds=[3], stdin=subprocess.PIPE)
    os.close(fd)
    mail.tell("hold", ".", 0, 0, "commit")
    child.communicate(b"\n", timeout=BOUND)
    mail.parked(1)
    subprocess.run(["fusermount3", "-u", mail.dir], check=True, timeout=BOUND)
    time.sleep(0.3)  # it goes on waiting
    assert state(mail.pid) == "S"
    assert mail.tell("go") == "1"
    mail.connection = None
    mail.ended()


def test_many_writers(anna):
    def write(number):
        for turn in range(20):
            path = anna.dir / "INBOX" / f"{number}-{turn}.eml"
            data = b"Subject: %d %d\r\n" % (number, turn) * (turn * 100 + 1)
            path.write_bytes(data)
            assert path.read_bytes() == data
            if turn % 2:
                path.unlink()
    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(os.listdir(anna.dir / "INBOX")) == 21 + 60
    assert commits(anna) == 120
    wait_for(lambda: locals_left(anna) == 0, "nothing local is left")


def test_many_in_one_file(anna):
    """Readers, writers and a truncating one: nobody fails, and the file is what was written last."""
    path = anna.dir / ".scratch"
    path.write_bytes(b"")
    stop = threading.Event()
    problems = []

    def use(number):
        try:
            with open(path, "r+b", buffering=0) as file:
                while not stop.is_set():
                    os.pwrite(file.fileno(), b"%d" % number * 5000, number * 1000)
                    os.pread(file.fileno(), 10000, 0)
                    if number == 0:
                        os.ftruncate(file.fileno(), 3000)
        except OSError as problem:
            problems.append(problem)
    users = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for user in users:
        user.start()
    time.sleep(0.5)
    stop.set()
    for user in users:
        user.join()
    assert not problems
    path.write_bytes(b"the end")
    assert path.read_bytes() == b"the end"


def test_unmount_with_dirty_files(mail, spawn):
    mail.mount()
    held = [os.open(mail.dir / "INBOX" / name, os.O_RDWR | os.O_CREAT) for name in ("a.eml", "b.tmp")]
    held.append(os.open(mail.message("INBOX", 1), os.O_RDWR | os.O_TRUNC))
    for fd in held:
        os.write(fd, LETTER)
    mail.tell("hold", ".", 0, 0, "commit")
    writer = spawn("sh", "-c", "exec cat > \"$0\"", mail.dir / "INBOX" / "c.eml",
                   stdin=subprocess.PIPE)
    writer.stdin.write(LETTER)
    writer.stdin.close()
    writer.stdin = None
    mail.parked(1)
    begun = time.monotonic()
    os.kill(mail.pid, signal.SIGTERM)
    mail.ended()
    assert time.monotonic() - begun < 5
    writer.wait(timeout=BOUND)
    for fd in held:
        try:
            os.close(fd)
        except OSError:
            pass


def test_a_lazy_unmount_lets_writers_finish(mail):
    mail.mount()
    fd = os.open(mail.dir / "INBOX" / "a.eml", os.O_RDWR | os.O_CREAT)
    os.write(fd, LETTER)
    subprocess.run(["fusermount3", "-uz", mail.dir], check=True, timeout=BOUND)
    os.write(fd, LETTER)
    assert os.pread(fd, 100, 0) == LETTER * 2
    assert commits(mail) == 0
    os.close(fd)
    mail.connection = None
    mail.ended()


def test_kill_9_with_writers(anna, spawn):
    writers = [spawn("sh", "-c", f"cd '{anna.dir}/INBOX'; while echo x > {n}.eml && rm {n}.eml; do :; done; "
                                 "exit 1") for n in range(4)]
    wait_for(lambda: commits(anna) > 20, "some work")
    os.kill(anna.pid, signal.SIGKILL)
    wait_for(lambda: mounted(anna.dir) is None, "the guard's unmount")
    for writer in writers:
        assert writer.wait(timeout=BOUND) != 0
    wait_for(lambda: state(anna.pid) is None, "the end of the daemon")
    anna.pid = None


def test_close_by_exec(anna):
    """execve closes what is close-on-exec: whoever asks the kernel about the program then would wait."""
    path = anna.dir / "INBOX" / "exec.eml"
    script = ("import os,sys\n"
              "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)\n"
              "os.write(fd, b'From: a@example.org\\r\\n\\r\\nx\\r\\n')\n"
              "assert not os.get_inheritable(fd)\n"
              "if os.fork() == 0:\n"
              "    os.execv('/bin/true', ['true'])\n"
              "os.wait()\n"
              "os.execv('/bin/true', ['true'])\n")
    subprocess.run([sys.executable, "-c", script, path], check=True, timeout=BOUND)
    wait_for(lambda: path.stat().st_size == 26, "the letter")
