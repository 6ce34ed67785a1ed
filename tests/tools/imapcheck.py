#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""An IMAP client for tests that shares no code with emlfs: what it says is on
the server is what a test compares the mount with.  Standard library only;
works with Dovecot, Cyrus and Courier.

    box = imapcheck.connect(user, password, host, port, cafile)
    for uid, message in box.fetch_all("Projekte/Übersicht").items():
        message.body, message.size, message.date, message.flags

Folder names are ordinary strings with "/" between levels, whatever separator
and prefix the server has.  Everything that is refused raises imaplib.IMAP4.error.

From a shell:  imapcheck.py HOST:PORT CAFILE USER PASSWORD COMMAND...
    list | fetch FOLDER | append FOLDER FILE... | create FOLDER |
    delete FOLDER | append-stdin FOLDER | setquota ROOT KIB (as administrator)
"""
import base64
import calendar
import imaplib
import re
import ssl
import sys
import time
from typing import NamedTuple

imaplib._MAXLINE = 100_000_000  # one literal-free FETCH line may be long

CRLF = b"\r\n"
DATE = re.compile(rb'"( ?\d{1,2})-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"')
MONTHS = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"]


class Message(NamedTuple):
    body: bytes  # the exact octets; None if they were not asked for
    size: int  # RFC822.SIZE as the server says, right or wrong
    date: int  # INTERNALDATE, seconds since 1970
    flags: frozenset


# --- names and dates ----------------------------------------------------------


def utf7_encode(name):
    """A folder name in modified UTF-7 (RFC 3501, 5.1.3)."""
    out = []

    def shifted(text):
        return "&" + base64.b64encode(text.encode("utf-16-be")).decode().rstrip("=").replace("/", ",") + "-"

    for run in re.findall(r"[ -~]+|[^ -~]+", name):
        out.append(run.replace("&", "&-") if " " <= run[0] <= "~" else shifted(run))
    return "".join(out)


def utf7_decode(name):
    def plain(match):
        text = match.group(1).replace(",", "/")
        return base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-16-be") if text else "&"

    return re.sub(r"&([^-]*)-", plain, name)


def quote(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def epoch(match):
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
    seconds = calendar.timegm((int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second)))
    zone = int(zone_hours) * 3600 + int(zone_minutes) * 60
    return seconds - zone if sign == b"+" else seconds + zone


def uid_set(uids):
    """A compact set: 1:3,7"""
    ranges = []
    for uid in sorted(uids):
        if ranges and ranges[-1][1] == uid - 1:
            ranges[-1][1] = uid
        else:
            ranges.append([uid, uid])
    return ",".join(str(a) if a == b else "%d:%d" % (a, b) for a, b in ranges)


def wire(message):
    """Bytes with bare line feeds as CRLF; everything else as it is."""
    return re.sub(rb"(?<!\r)\n", CRLF, message)


# --- a connection ---------------------------------------------------------------


class Mailbox:
    def __init__(self, imap):
        self.imap = imap
        self.prefix, self.separator = self._namespace()

    def _namespace(self):
        reply = self._ok(self.imap.namespace())[0] or b""
        match = re.match(rb'\(\("((?:[^"\\]|\\.)*)" (?:"((?:[^"\\]|\\.)*)"|NIL)', reply)
        if not match:
            return "", "/"
        separator = (match[2] or b"/").decode().replace("\\\\", "\\")
        return match[1].decode(), separator

    def _ok(self, answer):
        kind, data = answer
        if kind != "OK":
            raise imaplib.IMAP4.error("%s %r" % (kind, data))
        return data

    def server_name(self, folder):
        """The quoted name on the wire of a folder, and back."""
        if folder.upper() == "INBOX":
            return '"INBOX"'
        if folder.startswith("INBOX/") and self.prefix.startswith("INBOX"):
            folder = folder[6:]  # the personal namespace is below INBOX anyway
        return quote(self.prefix + utf7_encode(folder.replace("/", self.separator)))

    def folder_name(self, name):
        name = utf7_decode(name)
        if self.prefix and name.startswith(self.prefix):
            name = name[len(self.prefix):]
        return name.replace(self.separator, "/")

    # -- reading

    def capabilities(self):
        return set(self._ok(self.imap.capability())[-1].decode().upper().split())

    def folders(self):
        """{name: set of attributes}, the attributes in lower case"""
        found = {}
        for line in self._ok(self.imap.list('""', '"*"')):
            if line is None:
                continue
            if isinstance(line, tuple):  # the name came as a literal
                attributes, name = line[0], line[1].decode()
            else:
                attributes = line
                name = re.match(rb'\([^)]*\) (?:"(?:[^"\\]|\\.)*"|NIL) (.*)$', line)[1].decode()
                if name.startswith('"'):
                    name = re.sub(r"\\(.)", r"\1", name[1:-1])
            attributes = re.match(rb"\(([^)]*)\)", attributes)[1].decode().lower().split()
            found[self.folder_name(name)] = set(attributes)
        return found

    def status(self, folder, what="MESSAGES UIDNEXT UIDVALIDITY UNSEEN"):
        line = self._ok(self.imap.status(self.server_name(folder), "(%s)" % what))[-1]
        line = line[-1] if isinstance(line, tuple) else line
        return {key.decode(): int(value) for key, value in re.findall(rb"([A-Z]+) (\d+)", line)}

    def uidvalidity(self, folder):
        return self.status(folder, "UIDVALIDITY")["UIDVALIDITY"]

    def select(self, folder, readonly=False):
        """The number of messages."""
        return int(self._ok(self.imap.select(self.server_name(folder), readonly))[0])

    def uids(self, folder):
        self.select(folder, readonly=True)
        return [int(uid) for uid in self._ok(self.imap.uid("SEARCH", "ALL"))[0].split()]

    def fetch_all(self, folder, uids=None, bodies=True, batch=500):
        """{uid: Message} of a folder, by few large commands; flags stay as they are."""
        uids = self.uids(folder) if uids is None else sorted(uids)
        items = "(UID FLAGS INTERNALDATE RFC822.SIZE%s)" % (" BODY.PEEK[]" if bodies else "")
        found = {}
        for start in range(0, len(uids), batch):
            data = self._ok(self.imap.uid("FETCH", uid_set(uids[start:start + batch]), items))
            for text, body in self._responses(data):
                uid = re.search(rb"\bUID (\d+)", text)
                size = re.search(rb"\bRFC822\.SIZE (\d+)", text)
                date = re.search(rb"\bINTERNALDATE " + DATE.pattern, text)
                flags = re.search(rb"\bFLAGS \(([^)]*)\)", text)
                if uid and size and date and flags:  # else news about flags, unasked
                    found[int(uid[1])] = Message(
                        body, int(size[1]), epoch(date), frozenset(flags[1].decode().split()) - {"\\Recent"})
        return found

    @staticmethod
    def _responses(data):
        """imaplib splits a response at each literal: put its text together again."""
        text, body = b"", None
        for part in data:
            if part is None:
                continue
            if isinstance(part, tuple):
                text += part[0]
                body = part[1]
                continue
            text += part
            empty = re.search(rb'BODY\[\] ""', text)
            yield text, b"" if empty else body
            text, body = b"", None

    # -- writing

    def append(self, folder, message, flags=(), date=None):
        """Store exactly these bytes; the UID, if the server tells it."""
        when = imaplib.Time2Internaldate(date) if date is not None else None
        if self.imap.state == "SELECTED" and self.imap.is_readonly:
            self.imap.close()  # Courier refuses to append to a folder opened read-only
        # not imaplib's append(), which would rewrite the line ends
        name = self.server_name(folder)
        arguments = [name] + (["(%s)" % " ".join(flags)] if flags else []) + ([when] if when else [])
        self.imap.literal = message
        kind, data = self.imap._simple_command("APPEND", *arguments)
        self._ok((kind, data))
        uid = re.search(rb"APPENDUID \d+ (\d+)", data[-1] or b"")
        return int(uid[1]) if uid else None

    def store_flags(self, folder, uids, flags, how="FLAGS"):
        """how: FLAGS sets, +FLAGS adds, -FLAGS removes"""
        self.select(folder)
        self._ok(self.imap.uid("STORE", uid_set(uids), how + ".SILENT", "(%s)" % " ".join(flags)))

    def expunge(self, folder, uids):
        """Remove these messages and no other that may be marked as deleted."""
        self.select(folder)
        self._ok(self.imap.uid("STORE", uid_set(uids), "+FLAGS.SILENT", r"(\Deleted)"))
        self._ok(self.imap.uid("EXPUNGE", uid_set(uids)))

    def copy(self, folder, uids, target):
        self.select(folder)
        self._ok(self.imap.uid("COPY", uid_set(uids), self.server_name(target)))

    def move(self, folder, uids, target):
        self.select(folder)
        if "MOVE" in self.capabilities():
            self._ok(self.imap.uid("MOVE", uid_set(uids), self.server_name(target)))
        else:
            self.copy(folder, uids, target)
            self.expunge(folder, uids)

    def create(self, folder, subscribe=True):
        self._ok(self.imap.create(self.server_name(folder)))
        if subscribe:
            self._ok(self.imap.subscribe(self.server_name(folder)))

    def leave(self):
        """Servers end a session whose own folder goes away: be in another."""
        self._ok(self.imap.select("INBOX", readonly=True))

    def rename(self, folder, name):
        self.leave()
        self._ok(self.imap.rename(self.server_name(folder), self.server_name(name)))

    def delete(self, folder):
        self.leave()
        self._ok(self.imap.delete(self.server_name(folder)))

    def quota(self):
        """{resource: (used, limit)} of the inbox; STORAGE counts in KiB"""
        text = b" ".join(line for part in self._ok(self.imap.getquotaroot("INBOX")) for line in part if line)
        return {name.decode(): (int(used), int(limit))
                for name, used, limit in re.findall(rb"(STORAGE|MESSAGE) (\d+) (\d+)", text)}

    def logout(self):
        try:
            self.imap.logout()
        except (imaplib.IMAP4.error, OSError):
            pass

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.logout()


def connect(user, password, host, port, cafile, starttls=False, timeout=60):
    context = ssl.create_default_context(cafile=cafile)
    if starttls:
        imap = imaplib.IMAP4(host, port, timeout=timeout)
        imap.starttls(context)
    else:
        imap = imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=timeout)
    imap.login(user, password)
    return Mailbox(imap)


def main(arguments):
    if len(arguments) < 5:
        sys.exit(__doc__)
    where, cafile, user, password, command, *rest = arguments
    host, port = where.rsplit(":", 1)
    with connect(user, password, host, int(port), cafile) as box:
        if command == "list":
            for name, attributes in sorted(box.folders().items()):
                print(name, *sorted(attributes))
        elif command == "fetch":
            for uid, m in sorted(box.fetch_all(rest[0]).items()):
                when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(m.date))
                print(uid, m.size, len(m.body), when, *sorted(m.flags))
        elif command == "append":
            folder, *files = rest
            if folder.upper() != "INBOX" and folder not in box.folders():
                box.create(folder)
            for name in files:
                with open(name, "rb") as file:
                    box.append(folder, wire(file.read()))
        elif command == "append-stdin":
            box.append(rest[0], wire(sys.stdin.buffer.read()))
        elif command == "setquota":
            box._ok(box.imap.setquota(quote(rest[0]), "(STORAGE %d)" % int(rest[1])))
        elif command in ("create", "delete"):
            getattr(box, command)(rest[0])
        else:
            sys.exit("no such command: " + command)


if __name__ == "__main__":
    main(sys.argv[1:])
