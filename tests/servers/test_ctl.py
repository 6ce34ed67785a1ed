# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands through .control/ctl: what they answer, what they do, and how they fail."""
import errno
import os
import pathlib
import subprocess

import pytest

from faultproxy import FaultProxy
from liar import Liar
from mounting import sample, until
from test_liar import Anybody


@pytest.fixture
def mail(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        box.create("Two words")
        for i in range(5):
            box.append("INBOX", sample("message %d" % i))
        box.append("Two words", sample("other"))
    return mount(user)


def ctl(m):
    return m.dir / ".control" / "ctl"


def command(m, line):
    """The answer of one command."""
    with open(ctl(m), "r+b", buffering=0) as f:
        f.write(line.encode() + b"\n")
        return f.read().decode()


def fails(m, line, number, *words):
    with open(ctl(m), "r+b", buffering=0) as f:
        with pytest.raises(OSError) as caught:
            f.write(line.encode() + b"\n")
        assert caught.value.errno == number
        said = f.read().decode()
    for word in words:
        assert word in said
    log = (m.dir / ".control" / "log").read_text()
    assert said.strip() in log


def shell(m, script):
    return subprocess.run(["bash", "-c", script], cwd=m.dir, text=True, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_it_lists_its_commands_with_its_exact_size(mail):
    text = ctl(mail).read_bytes()
    assert os.stat(ctl(mail)).st_size == len(text)
    assert os.stat(ctl(mail)).st_mode & 0o777 == 0o600
    names = [line.split()[0] for line in text.decode().splitlines()]
    assert names == ["sync", "sync", "offline", "online", "reconnect", "refresh", "drop-cache", "log-level"]


def test_the_same_open_file_reads_the_answer(mail):
    done = shell(mail, "exec 3<>.control/ctl; echo 'sync INBOX' >&3; cat <&3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "syncing INBOX; .control/status shows how far it is\n"
    done = shell(mail, "exec 3<>.control/ctl; for i in 1 2 3; do echo refresh >&3; cat <&3; done")
    assert done.stdout == "ok\nok\nok\n"


def test_shell_redirections(mail):
    for how in (">", ">>", "1<>"):
        done = shell(mail, "echo refresh %s .control/ctl" % how)
        assert (done.returncode, done.stderr) == (0, ""), how
    done = shell(mail, "echo nonsense > .control/ctl")
    assert done.returncode != 0 and "Invalid argument" in done.stderr
    assert "there is no command nonsense" in (mail.dir / ".control/log").read_text()
    done = shell(mail, "printf 'refresh\\nrefresh\\n' > .control/ctl; printf refresh > .control/ctl")
    assert (done.returncode, done.stderr) == (0, "")
    os.truncate(ctl(mail), 0)


def test_what_is_wrong_is_said(mail):
    fails(mail, "nonsense", errno.EINVAL, "there is no command nonsense")
    fails(mail, "sync NoSuchFolder", errno.ENOENT, "there is no folder NoSuchFolder")
    fails(mail, "sync a b", errno.EINVAL, "usage: sync [FOLDER]")
    fails(mail, "log-level loud", errno.EINVAL, "loud is not a level")
    fails(mail, "sync 'INBOX", errno.EINVAL)
    assert command(mail, "sync 'Two words'").startswith("syncing Two words")
    assert command(mail, "sync stop") in ("stopping\n", "there is none to stop\n")
    assert command(mail, "") == ""


def test_the_rest_of_control_is_read_only(mail):
    for name in ("status", "log"):
        with pytest.raises(OSError) as caught:
            os.open(mail.dir / ".control" / name, os.O_WRONLY)
        assert caught.value.errno in (errno.EROFS, errno.EACCES)
    for call in (lambda: os.unlink(ctl(mail)), lambda: os.chmod(ctl(mail), 0o644),
                 lambda: os.rename(ctl(mail), mail.dir / ".control" / "other")):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EROFS


def test_offline_and_online(mail):
    paths = sorted(mail.messages().values())
    paths[0].read_bytes()
    assert command(mail, "offline") == "ok\n"
    status = mail.status()
    assert status["state"] == "offline"
    assert status["reason"].startswith("told to stay offline")
    assert " for " in status["since"]
    assert status["news"] == "none while offline"
    assert paths[0].read_bytes()
    with pytest.raises(OSError) as caught:
        paths[1].read_bytes()
    assert caught.value.errno == errno.EHOSTUNREACH
    fails(mail, "reconnect", errno.EINVAL, "on purpose")
    fails(mail, "refresh", errno.EHOSTUNREACH, "told to stay offline")
    assert command(mail, "online") == "ok\n"
    until(lambda: mail.status()["state"] == "online", "online")
    assert paths[1].read_bytes()


def test_offline_closes_all_connections(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        uid = box.append("INBOX", sample("message"))
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port))
        m.messages()[uid].read_bytes()
        assert proxy.stat()["open"] > 0
        command(m, "offline")
        until(lambda: proxy.stat()["open"] == 0, "no connection")
        command(m, "online")
        until(lambda: m.status()["state"] == "online", "online")


def test_reconnect_resumes_tls(bed, mount):
    """Not on Dovecot as it comes: there each connection has a login process with ticket keys of its own."""
    tls = pathlib.Path(bed.settings["MAILBED_CA"]).parent
    with Liar(tls / "server.crt", tls / "server.key") as server:
        uid = server.add("INBOX", sample("message"))
        m = mount(Anybody(server, bed.settings["MAILBED_CA"]))
        m.messages()[uid].read_bytes()
        command(m, "log-level debug")
        command(m, "reconnect")
        log = m.dir / ".control" / "log"
        until(lambda: ", resumed; so far " in log.read_text(), "a resumed TLS session")
        assert m.status()["state"] == "online"


def test_reconnect_frees_a_reader_of_a_dead_connection(dovecot, mount):
    user = dovecot.user()
    with user.connect() as box:
        for i in range(3):
            box.append("INBOX", sample("message %d" % i))
    with FaultProxy(dovecot.imaps) as proxy:
        m = mount(user, imap="imaps://%s:%d" % (proxy.host, proxy.port), timeout="30")
        paths = sorted(m.messages().values())
        paths[0].read_bytes()
        proxy.hole(True)
        reader = subprocess.Popen(["cat", str(paths[1])], stdout=subprocess.PIPE)
        until(lambda: m.status()["waiting readers"] != "0", "a waiting reader")
        proxy.hole(False)
        proxy.reset()
        command(m, "reconnect")
        assert reader.communicate(timeout=10)[0] == sample("message 1")


def test_drop_cache(mail):
    for path in mail.messages().values():
        path.read_bytes()
    until(lambda: mail.status()["cache"].startswith("5 "), "five cached")
    assert command(mail, "drop-cache") == "ok\n"
    until(lambda: mail.status()["cache"].startswith("0 "), "an empty cache")


def test_log_level(mail):
    assert command(mail, "log-level error") == "ok\n"
    before = (mail.dir / ".control/log").read_text()
    command(mail, "refresh")
    assert (mail.dir / ".control/log").read_text() == before
    command(mail, "log-level info")
    command(mail, "refresh")
    assert "command: refresh" in (mail.dir / ".control/log").read_text()
