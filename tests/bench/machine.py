# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured on a machine: programs with their time, CPU and memory; caches; descriptions."""
import contextlib
import os
import pathlib
import platform
import signal
import subprocess
import threading
import time
from typing import NamedTuple

# One locale for all, or sorting names would be most of `ls -l`.
ENVIRONMENT = dict(os.environ, LC_ALL="C.UTF-8", TZ="UTC")
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A step of a row went wrong; says which."""


class Cost(NamedTuple):
    """What one measured run took; None is not known."""
    seconds: float
    cpu: float | None = None  # seconds, user and system
    peak: int | None = None  # bytes resident at most
    wire: int | None = None  # bytes on the wire, both ways
    output: str = ""  # of the program, stripped


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(words, timeout, cwd=None, env=None, quiet=False):
    """Runs a program in a session of its own and returns its Cost; Failed when it fails or takes
    too long, and then whatever it started is killed with it."""
    began = time.monotonic()
    with subprocess.Popen([str(word) for word in words], cwd=cwd, env=env or ENVIRONMENT,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        late = threading.Event()

        def expire():
            late.set()
            kill_group(process)

        timer = threading.Timer(timeout, expire)
        timer.start()
        try:
            output, errors = communicate(process)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            kill_group(process)
            raise
        finally:
            timer.cancel()
    seconds = time.monotonic() - began
    what = " ".join(str(word) for word in words)[:160]
    if late.is_set():
        raise Failed("not done within %g s: %s" % (timeout, what))
    if process.returncode:
        raise Failed("%s: exit status %d: %s" % (what, process.returncode, errors.strip()[-400:]))
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, None, output.strip())


def communicate(process):
    """Both outputs until their ends, without reaping the process: wait4 is to tell its usage."""
    errors = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    output = process.stdout.read() if process.stdout else ""
    reader.join()
    return output, "".join(errors)


def until(condition, what, seconds, every=0.001):
    """Looks until condition() is true and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise Failed("not within %g s: %s" % (seconds, what))
        time.sleep(every)
    return value


def cpu_of(pid):
    """CPU seconds that a living process has used."""
    fields = pathlib.Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid, what="VmHWM"):
    """Bytes a living process has resident: VmHWM at most so far, VmRSS now."""
    for line in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise Failed("no %s of process %d" % (what, pid))


def can_drop_caches():
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def settle(cold=False):
    """Lets nothing of an earlier step go on into the next one; cold: empties the page cache."""
    os.sync()
    if cold and can_drop_caches():
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    time.sleep(0.3)


def abort_mount(path):
    """Whatever waits in the FUSE mount at this path gets an error."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(path):
            connection = pathlib.Path("/sys/fs/fuse/connections/%s/abort" % words[2].split(":")[1])
            with contextlib.suppress(OSError):
                connection.write_text("1")


def is_mounted(path):
    """By the kernel's table: no file system is asked, so nothing can hang."""
    needle = " %s " % path
    return any(needle in line for line in open("/proc/self/mountinfo"))


def file_system_of(path):
    best = ("", "?")
    for line in open("/proc/self/mountinfo"):
        words = line.split()
        if os.path.commonpath([words[4], path]) == words[4] and len(words[4]) > len(best[0]):
            best = (words[4], words[words.index("-") + 1])
    return best[1]


def first_line(*words):
    """What a program says of its version, or nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, env=ENVIRONMENT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).split("\n", 1)[0].strip()


def describe(folder):
    """One line about this machine."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = ["%d × %s" % (os.cpu_count(), model), "%.0f GB" % memory, "Linux " + platform.release(),
             "%s on %s" % (file_system_of(str(folder)), folder),
             "Dovecot " + first_line("dovecot", "--version").split(" ")[0],
             first_line("mbsync", "--version"), first_line("mutt", "-v"),
             "load %.1f at the start" % os.getloadavg()[0]]
    return ", ".join(part for part in parts if part)
