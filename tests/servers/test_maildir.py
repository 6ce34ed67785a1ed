# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs for Maildirs work on .maildir as they are; the server is asked what came of it.

Mail programs are steered by what they do at their start (-e) and by keys (push), and end by themselves.
"""
import mailbox
import os
import pathlib
import pty
import re
import select
import subprocess
import time

import pytest

from mounting import PATIENCE, sample, until

MESSAGES = {"one": "", "two": "\\Seen", "three": "\\Seen \\Flagged"}


class Account:
    """A mounted account and what is on its server."""

    def __init__(self, user, mount, tmp_path):
        self.user, self.home, self.box = user, tmp_path, user.connect()
        for subject, flags in MESSAGES.items():
            self.box.append("INBOX", sample(subject, "The body of %s.\r\n" % subject),
                            flags=flags.split(), date=1700000000)
        self.box.create("Archive")
        self.mount = mount(user)
        self.view = self.mount.dir / ".maildir"
        self.inbox = self.view / "INBOX"
        os.listdir(self.inbox / "cur")

    def server(self, folder="INBOX"):
        """{subject: sorted flags} as the server has them."""
        found = {}
        if folder not in self.box.folders():
            return found
        for message in self.box.fetch_all(folder).values():
            subject = re.search(rb"^Subject: *(.*?)\r$", message.body, re.M).group(1).decode()
            assert subject not in found, "twice on the server"
            found[subject] = sorted(flag for flag in message.flags if flag != "\\Recent")
        return found

    def becomes(self, expected, folder="INBOX"):
        try:
            until(lambda: self.server(folder) == expected, "the server's state", 10, 0.1)
        except AssertionError:
            raise AssertionError("%s: %r, not %r" % (folder, self.server(folder), expected)) from None

    def run(self, *words, check=True, **more):
        env = dict(os.environ, HOME=str(self.home), TERM="vt100", LC_ALL="C.UTF-8")
        done = subprocess.run([str(word) for word in words], env=env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE * 2, **more)
        assert not check or done.returncode == 0, done
        return done.stdout + done.stderr

    def screen(self, *words):
        """Runs a program in a terminal until it ends."""
        pid, fd = pty.fork()
        if pid == 0:
            env = dict(os.environ, HOME=str(self.home), TERM="vt100", LC_ALL="C.UTF-8", EDITOR="true")
            os.execvpe(str(words[0]), [str(word) for word in words], env)
        shown, end = b"", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    shown += os.read(fd, 65536)
                except OSError:
                    break
        else:
            os.kill(pid, 9)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        assert status == 0, shown[-3000:].decode(errors="replace")
        return shown.decode(errors="replace")


@pytest.fixture
def account(dovecot, mount, tmp_path):
    made = Account(dovecot.user(), mount, tmp_path)
    yield made
    made.box.logout()


def mutt(account, program, keys, folder="INBOX"):
    settings = account.home / "muttrc"
    settings.write_text("\n".join((
        "set mbox_type=Maildir", "set folder='%s'" % account.view, "set spoolfile='+INBOX'",
        "set move=no", "set confirmappend=no", "set confirmcreate=no", "set delete=yes", "set quit=yes",
        "set sort=subject", "set wait_key=no", "set record=''", "set mail_check=0", "set timeout=1",
        "set resolve=no", "set mark_old=no", "set menu_move_off=no",
        "push '%s'" % keys)) + "\n")
    return account.screen(program, "-n", "-F", settings, "-f", account.view / folder)


# Sorted by subject: one, three, two.
@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt_reads_flags_and_deletes(account, program):
    text = account.home / "text"
    mutt(account, program, "<first-entry><display-message><exit><flag-message>"
                           "<pipe-message><kill-line>cat >%s<enter>"
                           "<last-entry><delete-message><quit>" % text)
    assert "The body of one" in text.read_text()
    account.becomes({"one": ["\\Flagged", "\\Seen"], "three": ["\\Flagged", "\\Seen"]})
    account.becomes({"two": ["\\Deleted", "\\Seen"]} if "two" in account.server("Trash")
                    and "\\Deleted" in account.server("Trash")["two"] else {"two": ["\\Seen"]}, "Trash")


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt_moves_and_saves(account, program):
    mutt(account, program, "<first-entry><next-entry><save-message><kill-line>+Archive<enter>"
                           "<last-entry><copy-message><kill-line>+Fresh<enter><quit>")
    account.becomes({"one": [], "two": ["\\Seen"]})
    account.becomes({"three": ["\\Flagged", "\\Seen"]}, "Archive")
    account.becomes({"two": ["\\Seen"]}, "Fresh")


def test_notmuch(account):
    (account.home / ".notmuch-config").write_text(
        "[database]\npath=%s\nmail_root=%s\n[user]\nname=A\nprimary_email=a@example.org\n"
        "[new]\ntags=unread;inbox\n[maildir]\nsynchronize_flags=true\n"
        % (account.home / "database", account.view))
    (account.home / "database").mkdir()
    out = account.run("notmuch", "new")
    assert "Added 3 new messages" in out, out
    assert account.run("notmuch", "count", "tag:flagged").strip() == "1"
    assert account.run("notmuch", "count", "tag:unread").strip() == "1"
    assert "one" in account.run("notmuch", "search", "body:one")
    account.run("notmuch", "tag", "-unread", "+flagged", "--", "subject:one")
    account.run("notmuch", "tag", "-flagged", "+replied", "--", "subject:three")
    account.becomes({"one": ["\\Flagged", "\\Seen"], "two": ["\\Seen"], "three": ["\\Answered", "\\Seen"]})
    assert "No new mail" in account.run("notmuch", "new")
    # What others do is found by the times of the directories.
    account.box.append("INBOX", sample("four"))
    account.box.select("INBOX")
    account.box.imap.uid("STORE", "2", "+FLAGS", "(\\Flagged)")
    until(lambda: "1 new message" in account.run("notmuch", "new"), "the new message", every=0.5)
    until(lambda: account.run("notmuch", "new") is not None
          and account.run("notmuch", "count", "tag:flagged").strip() == "2", "the flag", every=0.5)
    assert account.run("notmuch", "count", "*").strip() == "4"


def test_mu(account):
    account.run("mu", "init", "--maildir=%s" % account.view, "--muhome=%s" % (account.home / "mu"))
    account.run("mu", "index", "--muhome=%s" % (account.home / "mu"))

    def find(*words):
        out = account.run("mu", "find", "--muhome=%s" % (account.home / "mu"), "--fields=s", *words,
                          check=False)
        return sorted(line for line in out.splitlines() if line in ("one", "two", "three", "four"))
    assert find("maildir:/INBOX") == ["one", "three", "two"]
    assert find("flag:flagged") == ["three"] and find("body:one") == ["one"]
    account.box.append("INBOX", sample("four"), flags=["\\Flagged"])

    def found():
        account.run("mu", "index", "--muhome=%s" % (account.home / "mu"))
        return find("flag:flagged") == ["four", "three"]
    until(found, "the new message", every=0.5)


def test_mbsync_to_a_local_maildir(account):
    local = account.home / "local"
    local.mkdir()
    settings = account.home / "mbsyncrc"
    settings.write_text(
        "MaildirStore near\nPath {0}/\nInbox {0}/INBOX\nSubFolders Verbatim\n\n"
        "MaildirStore far\nPath {1}/\nInbox {1}/INBOX\nSubFolders Verbatim\n\n"
        "Channel mail\nFar :far:\nNear :near:\nPatterns INBOX Archive\nCreate Both\nExpunge Both\n"
        "SyncState {2}/state-\n".format(local, account.view, account.home))

    def sync():
        return account.run("mbsync", "-c", settings, "mail")
    sync()
    here = mailbox.Maildir(local / "INBOX", create=False)
    assert {m["subject"]: m.get_flags() for m in here} == {"one": "", "two": "S", "three": "FS"}
    account.becomes({subject: sorted(flags.split()) for subject, flags in MESSAGES.items()})
    for key, message in here.items():
        if message["subject"] == "two":
            message.add_flag("R")
            message.set_subdir("cur")
            here[key] = message
        if message["subject"] == "three":
            here.discard(key)
    message = mailbox.MaildirMessage(sample("four").replace(b"\r\n", b"\n"))
    message.set_flags("FS")
    message.set_subdir("cur")
    here.add(message)
    os.makedirs(local / "Archive" / "cur", exist_ok=True)
    time.sleep(1.1)  # mbsync looks at times to the second
    sync()
    account.becomes({"one": [], "two": ["\\Answered", "\\Seen"], "four": ["\\Flagged", "\\Seen"]})
    before = sorted(os.listdir(account.inbox / "cur"))
    sync()
    assert sorted(os.listdir(account.inbox / "cur")) == before
    account.becomes({"one": [], "two": ["\\Answered", "\\Seen"], "four": ["\\Flagged", "\\Seen"]})


def test_by_hand_and_by_python(account):
    """Flags by mv, a move of a folder's message, delivery; names and sizes are those of the server."""
    cur, archive = account.inbox / "cur", account.view / "Archive"
    [two] = [name for name in os.listdir(cur) if name.endswith(":2,S")]
    account.run("mv", cur / two, cur / (two + "T"))
    account.becomes({"one": [], "two": ["\\Deleted", "\\Seen"], "three": ["\\Flagged", "\\Seen"]})
    account.run("mv", cur / (two + "T"), archive / "cur" / (two + "T"))
    account.becomes({"two": ["\\Deleted", "\\Seen"]}, "Archive")
    account.becomes({"one": [], "three": ["\\Flagged", "\\Seen"]})
    key = mailbox.Maildir(account.inbox, create=False).add(sample("five"))
    assert (account.inbox / "new" / key).exists()
    account.becomes({"one": [], "three": ["\\Flagged", "\\Seen"], "five": []})
    assert os.listdir(account.inbox / "tmp") == []
    assert len(os.listdir(account.inbox / "new")) == 2
    sizes = sorted(m.size for m in account.box.fetch_all("INBOX").values())
    assert sorted(os.stat(path).st_size for part in ("cur", "new")
                  for path in pathlib.Path(account.inbox / part).iterdir()) == sizes
    account.run("rm", account.inbox / "new" / key)
    account.becomes({"one": [], "three": ["\\Flagged", "\\Seen"]})
    account.becomes({"five": []}, "Trash")
