# SPDX-License-Identifier: GPL-3.0-or-later
"""A small IMAP server that tells untruths, for tests. IMAP4rev1 and no extension but those asked for,
so it also is the plainest server there can be. One mailbox tree in memory, any password.

    with Liar(certificate, key) as server:
        server.add("INBOX", b"From: …", uid=7, told_size=12)
        mount at server.port
"""
import re
import socket
import ssl
import threading
import time


class Message:
    def __init__(self, uid, octets, flags=(), told_size=None, date=1700000000):
        self.uid, self.octets, self.flags, self.date = uid, octets, list(flags), date
        self.told_size = len(octets) if told_size is None else told_size


class Folder:
    def __init__(self, uidvalidity):
        self.uidvalidity, self.uidnext, self.messages = uidvalidity, 1, []


class Liar:
    def __init__(self, certificate, key, capabilities=(), uid_last=False, most_connections=None,
                 without_uidnext=False, body_nil=()):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.capabilities = " ".join(("IMAP4rev1", "AUTH=PLAIN", "SASL-IR", *capabilities))
        self.uid_last, self.without_uidnext, self.body_nil = uid_last, without_uidnext, set(body_nil)
        self.most_connections = most_connections
        self.folders = {"INBOX": Folder(1)}
        self.lock = threading.Lock()
        self.open = 0
        self.refused = 0
        self.commands = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.listener.close()

    def add(self, folder, octets, **more):
        with self.lock:
            box = self.folders.setdefault(folder, Folder(1))
            uid = more.pop("uid", box.uidnext)
            box.messages.append(Message(uid, octets, **more))
            box.messages.sort(key=lambda message: message.uid)
            box.uidnext = max(box.uidnext, uid + 1)
        return uid

    def remove(self, folder, uid):
        with self.lock:
            box = self.folders[folder]
            box.messages = [message for message in box.messages if message.uid != uid]

    # --- the protocol

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        logged_in = False
        try:
            with self.context.wrap_socket(client, server_side=True) as tls:
                file = tls.makefile("rwb")
                file.write(b"* OK [CAPABILITY %s] ready\r\n" % self.capabilities.encode())
                file.flush()
                selected = None
                while True:
                    line = file.readline()
                    if not line:
                        return
                    tag, command = line.decode().rstrip("\r\n").split(" ", 1)
                    word = command.split()[0].upper()
                    if word == "UID":
                        word = "UID " + command.split()[1].upper()
                    with self.lock:
                        self.commands.append(command)
                        if word in ("AUTHENTICATE", "LOGIN"):
                            if self.most_connections and self.open >= self.most_connections:
                                self.refused += 1
                                file.write(tag.encode() + b" NO [LIMIT] too many connections\r\n")
                                file.flush()
                                continue
                            self.open += 1
                            logged_in = True
                        if word in ("SELECT", "EXAMINE"):
                            name = self._name(command.split(" ", 1)[1])
                            selected = self.folders.get(name)
                            answer = self._select(selected)
                        else:
                            answer = self._answer(word, command, selected)
                    ok = answer is not None
                    for part in answer or ():
                        file.write(part)
                    file.write(tag.encode() + (b" OK done\r\n" if ok else b" NO refused\r\n"))
                    file.flush()
                    if word == "LOGOUT":
                        return
        except (OSError, ValueError):
            pass
        finally:
            if logged_in:
                with self.lock:
                    self.open -= 1

    @staticmethod
    def _name(text):
        return re.match(r'"((?:[^"\\]|\\.)*)"|(\S+)', text).group(1) or text.split()[0]

    def _select(self, box):
        if box is None:
            return None
        lines = [b"* FLAGS (\\Seen \\Deleted)\r\n", b"* %d EXISTS\r\n" % len(box.messages),
                 b"* OK [UIDVALIDITY %d] ok\r\n" % box.uidvalidity]
        if not self.without_uidnext:
            lines.append(b"* OK [UIDNEXT %d] ok\r\n" % box.uidnext)
        return lines

    def _answer(self, word, command, box):
        if word == "CAPABILITY":
            return [b"* CAPABILITY %s\r\n" % self.capabilities.encode()]
        if word in ("AUTHENTICATE", "LOGIN", "NOOP", "CHECK", "LOGOUT"):
            return []
        if word == "LIST":
            return [b'* LIST () "/" "%s"\r\n' % name.encode() for name in self.folders]
        if word == "STATUS":
            name = self._name(command.split(" ", 1)[1])
            one = self.folders.get(name)
            if one is None:
                return None
            return [b'* STATUS "%s" (MESSAGES %d UIDNEXT %d UIDVALIDITY %d)\r\n'
                    % (name.encode(), len(one.messages), one.uidnext, one.uidvalidity)]
        if box is None:
            return None
        if word == "UID SEARCH":
            return [b"* SEARCH " + b" ".join(b"%d" % message.uid for message in box.messages) + b"\r\n"]
        if word == "UID FETCH":
            _, _, uids, items = command.split(" ", 3)
            return [self._fetch(number, message, items) for number, message in enumerate(box.messages, 1)
                    if self._within(message.uid, uids, box)]
        return None

    @staticmethod
    def _within(uid, uids, box):
        last = box.messages[-1].uid if box.messages else 0
        for part in uids.split(","):
            first, _, end = part.partition(":")
            low, high = (last if edge == "*" else int(edge) for edge in (first, end or first))
            if min(low, high) <= uid <= max(low, high):
                return True
        return False

    def _fetch(self, number, message, items):
        parts = []
        if "FLAGS" in items:
            parts.append(b"FLAGS (%s)" % " ".join(message.flags).encode())
        if "RFC822.SIZE" in items:
            parts.append(b"RFC822.SIZE %d" % message.told_size)
        if "INTERNALDATE" in items:
            parts.append(time.strftime('INTERNALDATE "%d-%b-%Y %H:%M:%S +0000"',
                                       time.gmtime(message.date)).encode())
        if "HEADER.FIELDS" in items:
            head = message.octets.split(b"\r\n\r\n")[0] + b"\r\n\r\n"
            parts.append(b"BODY[HEADER.FIELDS (FROM SUBJECT)] {%d}\r\n%s" % (len(head), head))
        piece = re.search(r"BODY\.PEEK\[\](?:<(\d+)\.(\d+)>)?", items)
        if piece and message.uid in self.body_nil:
            parts.append(b"BODY[] NIL")
        elif piece and piece.group(1):
            origin, count = int(piece.group(1)), int(piece.group(2))
            octets = message.octets[origin:origin + count]
            parts.append(b"BODY[]<%d> {%d}\r\n%s" % (origin, len(octets), octets))
        elif piece:
            parts.append(b"BODY[] {%d}\r\n%s" % (len(message.octets), message.octets))
        uid = b"UID %d" % message.uid
        parts = parts + [uid] if self.uid_last else [uid] + parts
        return b"* %d FETCH (%s)\r\n" % (number, b" ".join(parts))
