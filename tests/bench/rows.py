# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the benchmark. Each is a function that measures and reports one or several lines.

Where two are compared, their runs alternate, so that both see the same machine. Network rows find
the server warm (its page cache and its index), as they would find one far away.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import threading
import time

import bed as beds
import clients
import machine
from genmail import NEEDLE
from machine import Failed
from million import Million
from report import megabytes, seconds

ROUND_TRIPS = (0, 40)  # milliseconds
PULL = 900  # seconds that a first pull may take
ROWS = []


def row(name, minutes):
    """Registers a row, and within how many minutes it has to be done."""
    def register(function):
        ROWS.append((name, minutes, function))
        return function
    return register


class Bench:
    """What all rows share; things are made at first use."""

    def __init__(self, folder, cache, sizes, runs, report, stack):
        self.folder, self.sizes, self.runs, self.report = folder, sizes, runs, report
        self.binary = beds.emlfs_binary()
        self.tools = beds.compile_tools(folder)
        self.bed = beds.Bed(folder / "bed", beds.Mail(cache, sizes), stack)
        self.trash = folder / "trash"
        self.number = 0
        self.mounts = []  # entered and not left
        self.warmed = set()
        self.round = 0

    def fresh(self, what):
        self.number += 1
        path = self.folder / ("%s-%d" % (what, self.number))
        path.mkdir()
        return path

    def discard(self, path):
        """Out of the way now; deleted when nothing is measured."""
        self.trash.mkdir(exist_ok=True)
        self.number += 1
        path.rename(self.trash / str(self.number))

    def empty_trash(self):
        shutil.rmtree(self.trash, ignore_errors=True)

    @contextlib.contextmanager
    def watched(self, mount):
        """Mounts; the row's watchdog knows of it."""
        self.mounts.append(mount)
        try:
            with mount:
                yield mount
        finally:
            self.mounts.remove(mount)

    @contextlib.contextmanager
    def emlfs(self, account, cache=None):
        """A mount; without a cache of its own one that knows nothing, gone afterwards."""
        folder = self.fresh("mount")
        with self.watched(clients.Emlfs(self.binary, account, folder, cache or folder)) as mount:
            yield mount
        self.discard(folder)

    def drain(self, account, kind):
        return clients.drain(self.tools["drain"], account, self.bed.mail.folders(kind), PULL)

    def warm_server(self, kind):
        """All bodies in the server's page cache, and in its index what the clients list by."""
        account = self.bed.account(kind)
        self.drain(account, kind)
        if kind in self.warmed:
            return
        self.warmed.add(kind)
        with self.emlfs(account) as mount:
            list_all(mount)
        if kind == "big" and shutil.which("mutt"):
            clients.mutt(account, self.fresh("mutt"), PULL)

    def filled_cache(self, kind):
        """A cache of emlfs with all mail of this kind, up to date."""
        cache = self.folder / ("cache-" + kind)
        cache.mkdir(exist_ok=True)
        with self.emlfs(self.bed.account(kind), cache) as mount:
            list_all(mount)
            time.sleep(1)  # what came since the last time is being listed
            read_all(mount)
        return cache

    def maildir(self, kind):
        """mbsync's copy of all mail of this kind, up to date."""
        local = clients.Mbsync(self.folder / ("maildir-" + kind))
        local.sync(self.bed.account(kind), PULL)
        return local


def list_all(mount):
    machine.run(["sh", "-c", 'for d in */; do ls -f "$d"; done'], PULL, cwd=mount.dir, quiet=True)


def read_all(mount):
    """Everything as tar reads it; returns its Cost and the bytes of the archive."""
    cost = machine.run(["sh", "-c", "tar cf - --exclude=./.control . | wc -c"], PULL, cwd=mount.dir)
    return cost, int(cost.output)


def at(milliseconds):
    return ", %d ms" % milliseconds


def thousands(number):
    return "{:,}".format(number)


# --- reading everything ---------------------------------------------------------------


@row("read-mixed", 30)
def read_mixed(bench):
    for milliseconds in ROUND_TRIPS:
        read_against(bench, "mixed", milliseconds, 0.45, drain_target=1.2)


@row("read-big", 30)
def read_big(bench):
    read_against(bench, "big", 0, 0.12)


def read_against(bench, kind, milliseconds, mbsync_target, drain_target=None):
    bench.warm_server(kind)
    account = bench.bed.account(kind, milliseconds)
    ours, drained, pulled = [], [], []
    for _ in range(bench.runs):
        machine.settle()
        cost, octets, _ = bench.drain(account, kind)
        drained.append(cost)
        machine.settle()
        ours.append(cold_read(bench, account, milliseconds, octets))
        machine.settle()
        pulled.append(first_pull(bench, kind, account, milliseconds))
    unsynced = [first_pull(bench, kind, account, milliseconds, to_disk=False)]
    work = "cold, all of %s messages read (`tar`)%s" % (thousands(getattr(bench.sizes, kind)), at(milliseconds))
    times = [[cost.seconds for cost in costs] for costs in (ours, drained, pulled)]
    bench.report.ratio(work, times[0], "one raw TLS connection", times[1], drain_target)
    bench.report.ratio(work, times[0], "mbsync, first pull", times[2], mbsync_target)
    bench.report.ratio(work, times[0], "mbsync without fsync, one run", [cost.seconds for cost in unsynced])
    bench.report.costs(work, "emlfs", ours)
    bench.report.costs(work, "mbsync", pulled)


def cold_read(bench, account, milliseconds, octets):
    """From the start of the mount to the end of tar."""
    before = bench.bed.wire(milliseconds)
    with bench.emlfs(account) as mount:
        _, archived = read_all(mount)
        cost = mount.cost(mount.elapsed(), difference(bench.bed.wire(milliseconds), before))
    if archived < octets:
        raise Failed("tar read %d bytes of messages that have %d" % (archived, octets))
    return cost


def first_pull(bench, kind, account, milliseconds, to_disk=True):
    before = bench.bed.wire(milliseconds)
    local = clients.Mbsync(bench.fresh("pull"))
    cost = local.sync(account, PULL, to_disk)
    if local.count() < getattr(bench.sizes, kind):
        raise Failed("mbsync pulled only %d messages" % local.count())
    bench.discard(local.folder)
    return cost._replace(wire=difference(bench.bed.wire(milliseconds), before))


def difference(after, before):
    return None if before is None else after - before


@row("large", 10)
def large(bench):
    bench.warm_server("large")
    account = bench.bed.account("large")
    ours, drained = [], []
    for _ in range(bench.runs):
        machine.settle()
        _, octets, reading = bench.drain(account, "large")
        drained.append(reading)
        machine.settle()
        with bench.emlfs(account) as mount:
            path = only_message(mount)
            if path.stat().st_size != octets:
                raise Failed("%s has %d bytes, the server %d" % (path.name, path.stat().st_size, octets))
            ours.append(mount.cost(machine.run(["cat", path], PULL, quiet=True).seconds))
    work = "cold, a message of %d MB read (`cat`)" % bench.sizes.large
    bench.report.ratio(work, [cost.seconds for cost in ours], "one raw TLS connection", drained, 1.3)
    bench.report.costs(work, "emlfs", ours)

    heads, account = [], bench.bed.account("large", 40)
    for _ in range(bench.runs):
        with bench.emlfs(account) as mount:
            path = only_message(mount)
            heads.append(machine.run(["head", "-c", "4096", path], 60, quiet=True).seconds)
    bench.report.limit("cold, its first 4096 bytes (`head -c`), 40 ms", heads, 0.120, seconds, "3 round trips")


def only_message(mount):
    (path,) = (mount.dir / "INBOX").glob("*.eml")
    return path


# --- opening, keeping up ----------------------------------------------------------------


@row("first-listing", 15)
def first_listing(bench):
    if not shutil.which("mutt"):
        raise Failed("mutt is not installed")
    bench.warm_server("big")
    account = bench.bed.account("big")
    ours, theirs = [], []
    for _ in range(bench.runs):
        machine.settle()
        with bench.emlfs(account) as mount:
            count = int(machine.run(["sh", "-c", "ls INBOX | wc -l"], PULL, cwd=mount.dir).output)
            ours.append(mount.cost(mount.elapsed()))
        machine.settle()
        folder = bench.fresh("mutt")
        cost, shown = clients.mutt(account, folder, PULL)
        theirs.append(cost)
        bench.discard(folder)
        if count != shown:
            raise Failed("emlfs lists %d messages, mutt %d" % (count, shown))
    work = "nothing known, mount and `ls` a folder of %s" % thousands(bench.sizes.big)
    bench.report.ratio(work, [cost.seconds for cost in ours], "mutt, first opening",
                       [cost.seconds for cost in theirs], 0.5)
    bench.report.costs(work, "emlfs", ours)
    bench.report.costs(work, "mutt", theirs)


@row("remount", 15)
def remount(bench):
    cache, local = bench.filled_cache("mixed"), bench.maildir("mixed")
    for milliseconds in ROUND_TRIPS:
        account = bench.bed.account("mixed", milliseconds)
        ours, theirs = [], []
        for _ in range(bench.runs):
            machine.settle()
            with bench.emlfs(account, cache) as mount:
                list_all(mount)
                ours.append(mount.cost(mount.elapsed()))
            machine.settle()
            theirs.append(local.sync(account, PULL))
        work = "nothing changed, mount and `ls -f` all folders of %s%s" % (
            thousands(bench.sizes.mixed), at(milliseconds))
        bench.report.ratio(work, [cost.seconds for cost in ours], "mbsync", [cost.seconds for cost in theirs], 0.3)
        bench.report.costs(work, "emlfs", ours)
        bench.report.costs(work, "mbsync", theirs)


@row("catch-up", 20)
def catch_up(bench):
    cache, local = bench.filled_cache("mixed"), bench.maildir("mixed")
    for milliseconds in ROUND_TRIPS:
        account = bench.bed.account("mixed", milliseconds)
        ours, theirs = [], []
        for _ in range(bench.runs):
            with bench.emlfs(account, cache) as mount:
                known = {folder: inventory(mount, folder) for folder, _ in beds.CHANGED_FOLDERS}
            time.sleep(1.1)  # the time of a change has a resolution of one second
            bench.round += 1
            new, changed = beds.change(bench.bed.account("mixed"), bench.sizes.changes, bench.round)
            machine.settle()
            with bench.emlfs(account, cache) as mount:
                await_changes(mount, known, new, changed)
                ours.append(mount.cost(mount.elapsed()))
            machine.settle()
            theirs.append(local.sync(account, PULL))
        work = "mount until %d new messages and %d changes of flags are visible%s" % (
            bench.sizes.changes, bench.sizes.changes, at(milliseconds))
        bench.report.ratio(work, [cost.seconds for cost in ours], "mbsync", [cost.seconds for cost in theirs], 0.3)
        bench.report.costs(work, "emlfs", ours)
        bench.report.costs(work, "mbsync", theirs)


def inventory(mount, folder):
    """{uid: (name, ctime)}"""
    found = {}
    for entry in os.scandir(mount.dir / folder):
        if entry.name.endswith(".eml"):
            found[int(entry.name[:-4].rsplit(".", 1)[1])] = (entry.name, entry.stat().st_ctime)
    return found


def await_changes(mount, known, new, changed):
    """Until the new names are listed, and the changed ones of INBOX say so by their ctime."""
    for folder, number in new.items():
        wanted = len(known[folder]) + number
        machine.until(lambda: len(os.listdir(mount.dir / folder)) >= wanted,  # noqa: B023
                      "%d messages in %s" % (wanted, folder), 60, every=0.005)
    for uid in changed:
        name, before = known["INBOX"][uid]
        machine.until(lambda: os.stat(mount.dir / "INBOX" / name).st_ctime > before,  # noqa: B023
                      "the change of flags of UID %d" % uid, 60, every=0.005)


@row("idle", 15)
def idle(bench):
    account = bench.bed.account("idle", 0, counted=True)
    with bench.emlfs(account) as mount:
        list_all(mount)
        time.sleep(5)
        pid, before = mount.process.pid, bench.bed.proxy(0).stat()
        cpu = machine.cpu_of(pid)
        time.sleep(bench.sizes.idle * 60)
        after, cpu = bench.bed.proxy(0).stat(), machine.cpu_of(pid) - cpu
        news = mount.status().get("news", "?")
    work = "a minute of nothing, %d folders (of %g; news by %s): " % (bench.sizes.folders, bench.sizes.idle, news)
    up = (after["up"] - before["up"]) / bench.sizes.idle
    bench.report.limit(work + "bytes sent", [up], 1000, "{:.0f}".format,
                       "%.0f received" % ((after["down"] - before["down"]) / bench.sizes.idle))
    bench.report.limit(work + "CPU", [cpu / bench.sizes.idle], 0.050, seconds)


# --- files --------------------------------------------------------------------------------


@row("grep", 20)
def grep(bench):
    cache, local = bench.filled_cache("mixed"), bench.maildir("mixed")
    account = bench.bed.account("mixed")
    times = {"cold": ([], []), "warm": ([], [])}
    for _ in range(bench.runs):
        machine.settle(cold=True)
        with bench.emlfs(account, cache) as mount:
            for state in ("cold", "warm"):
                cost, found = matches(mount.dir)
                times[state][0].append(cost.seconds)
        machine.settle(cold=True)
        for state in ("cold", "warm"):
            cost, there = matches(local.mail)
            times[state][1].append(cost.seconds)
        if found != there:
            raise Failed("grep found %d messages on the mount and %d in the Maildir" % (found, there))
    work = "`grep -r` of %s messages, bodies in emlfs's cache, " % thousands(bench.sizes.mixed)
    for state, target, what in (("cold", 0.8, "page caches dropped"), ("warm", 1.5, "again")):
        bench.report.ratio(work + what, times[state][0], "Maildir on the same disk", times[state][1], target)


def matches(directory):
    cost = machine.run(["sh", "-c", "grep -rl '%s' . | wc -l" % NEEDLE], PULL, cwd=directory)
    return cost, int(cost.output)


@row("metadata", 20)
def metadata(bench):
    local = bench.maildir("big")
    cache = bench.folder / "cache-listed"
    cache.mkdir(exist_ok=True)
    account = bench.bed.account("big")
    with bench.emlfs(account, cache) as mount:
        list_all(mount)
    reference = bench.folder / "reference"  # newer than half of the messages
    reference.touch()
    middle = beds.genmail.NEWEST - beds.genmail.SPAN / 2
    os.utime(reference, (middle, middle))
    for what, words in (("ls -l", ["ls", "-l"]), ("find -newer", ["find", ".", "-newer", reference]),
                        ("find -size", ["find", ".", "-size", "+4k"])):
        compare_listings(bench, account, cache, local.mail / "INBOX" / "cur", what, words)


def compare_listings(bench, account, cache, directory, what, words):
    cold, warm, again = ([], []), ([], []), ([], [])  # of the mount, of the Maildir
    for _ in range(bench.runs):
        for first in (cold, warm):  # the Maildir is warm in the second round because of the first one
            machine.settle(cold=first is cold)
            with bench.emlfs(account, cache) as mount:
                first[0].append(timed(words, mount.dir / "INBOX"))
                once_more = timed(words, mount.dir / "INBOX")
            machine.settle(cold=first is cold)
            first[1].append(timed(words, directory))
        again[0].append(once_more)
        again[1].append(first[1][-1])
    work = "`%s` in a folder of %s, " % (what, thousands(bench.sizes.big))
    for (ours, theirs), when, peer, target in (
            (cold, "first after a mount, page caches dropped", "", 1.2), (warm, "first after a mount", ", warm", None),
            (again, "again", ", warm", 0.8)):
        bench.report.ratio(work + when, ours, "Maildir on the same disk" + peer, theirs, target)


def timed(words, directory):
    return machine.run(words, PULL, cwd=directory, quiet=True).seconds


@row("open-warm", 15)
def open_warm(bench):
    local = bench.maildir("big")
    count = min(2000, bench.sizes.big)
    ours, disk, ceiling_ = [], [], []

    def measure(directory, times):
        machine.settle()
        output = machine.run([bench.tools["openread"], directory, count, 9], PULL).output
        times.append(float(output.split()[0]) / 1e6)

    for _ in range(bench.runs):
        with bench.emlfs(bench.bed.account("big")) as mount:
            list_all(mount)
            memfs = clients.Memfs(bench.tools["memfs"], bench.fresh("memfs"), mount)
            measure(mount.dir / "INBOX", ours)
        measure(local.mail / "INBOX" / "cur", disk)
        with bench.watched(memfs):
            list_all(memfs)
            measure(memfs.dir / "INBOX", ceiling_)
    for peer, theirs, target in (("file on the same disk", disk, 2), ("FUSE from memory", ceiling_, None)):
        bench.report.ratio("warm, one small message opened, read, closed", ours, peer, theirs, target,
                           lambda value: "%.1f µs" % (value * 1e6))


@row("ceiling", 20)
def ceiling(bench):
    """Against a FUSE file system that has everything in memory: what is left to gain."""
    cache, account = bench.filled_cache("mixed"), bench.bed.account("mixed")
    ours, theirs = [], []
    for _ in range(bench.runs):
        with bench.emlfs(account, cache) as mount:
            memfs = clients.Memfs(bench.tools["memfs"], bench.fresh("memfs"), mount)
            machine.settle()
        with bench.emlfs(account, cache) as mount:
            ours.append([read_all(mount)[0].seconds for _ in range(2)])
        with bench.watched(memfs):
            theirs.append([read_all(memfs)[0].seconds for _ in range(2)])
    work = "`tar` of %s messages in emlfs's cache, " % thousands(bench.sizes.mixed)
    for index, what in enumerate(("first after a mount", "again")):
        bench.report.ratio(work + what, [times[index] for times in ours], "FUSE from memory",
                           [times[index] for times in theirs])


# --- memory and patience ------------------------------------------------------------------


@row("memory", 30)
def memory(bench):
    real = bench.bed.account("big")
    memory_listed(bench, real, bench.sizes.big, 40)
    with Million(bench.bed.certificate, bench.bed.key, bench.sizes.million) as server:
        account = real._replace(user="million@example.org", host="127.0.0.1", port=server.port)
        memory_listed(bench, account, bench.sizes.million, 64)


def memory_listed(bench, account, count, target):
    with bench.emlfs(account) as mount:
        listed = int(machine.run(["sh", "-c", "ls -lf INBOX | grep -c 'eml$'"], PULL, cwd=mount.dir).output)
        if listed != count:
            raise Failed("%d of %d messages are listed" % (listed, count))
        took, pid = mount.elapsed(), mount.process.pid
        bench.report.limit("peak memory with %s messages listed" % thousands(count), [machine.resident(pid)],
                           target * 1e6, megabytes,
                           "%s afterwards; %s from mount to the end of `ls`" % (
                               megabytes(machine.resident(pid, "VmRSS")), seconds(took)))


@row("busy-reader", 15)
def busy_reader(bench):
    """At 40 ms, while tar reads INBOX: single messages from another folder, far from each other and
    from the last to the first, so that nothing was fetched ahead."""
    bench.warm_server("mixed")
    account = bench.bed.account("mixed", 40)
    waits = []
    for _ in range(bench.runs):
        with bench.emlfs(account) as mount:
            list_all(mount)
            small = [entry.path for entry in os.scandir(mount.dir / "Archive") if entry.stat().st_size < 20_000]
            waits += read_beside(mount, small[::-max(1, len(small) // 8)][:8])
    bench.report.limit("cold, one small message while `tar` reads another folder, 40 ms", waits, 0.130, seconds,
                       "2 round trips + 50 ms; worst of %d: %s" % (len(waits), seconds(max(waits))))


def read_beside(mount, paths):
    """Seconds that each of the paths takes while tar runs; of those read before it ended."""
    tar = subprocess.Popen(["sh", "-c", "tar cf - INBOX | cat >/dev/null"], cwd=mount.dir, start_new_session=True,
                           stdin=subprocess.DEVNULL, env=machine.ENVIRONMENT)
    waits = []
    try:
        time.sleep(0.5)
        for path in paths:
            began = time.monotonic()
            pathlib.Path(path).read_bytes()
            if tar.poll() is not None:
                break
            waits.append(time.monotonic() - began)
            time.sleep(0.1)
    finally:
        machine.kill_group(tar)
        tar.wait()
    if not waits:
        raise Failed("tar was done before the first message was read")
    return waits


# --- running them -------------------------------------------------------------------------


def run_rows(bench, names):
    """Runs the rows of these names; a row that fails or hangs is reported and the next one runs."""
    for name, minutes, function in ROWS:
        if name not in names:
            continue
        print("== " + name, flush=True)
        began = time.monotonic()
        late = threading.Event()

        def expire():
            late.set()
            for mount in list(bench.mounts):
                machine.abort_mount(mount.dir)

        watchdog = threading.Timer(minutes * 60, expire)
        watchdog.daemon = True
        watchdog.start()
        try:
            function(bench)
        except Exception as error:  # whatever it is, the other rows are to run
            reason = "not done within %d minutes" % minutes if late.is_set() else error
            bench.report.failed(name, reason)
        finally:
            watchdog.cancel()
        bench.empty_trash()
        print("   %.0f s" % (time.monotonic() - began), flush=True)
