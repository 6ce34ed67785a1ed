# SPDX-License-Identifier: GPL-3.0-or-later
"""An IMAP server that invents its INBOX: as many messages as wanted, none of them anywhere.

    with Million(certificate, key, 1_000_000) as server:
        mount at 127.0.0.1, server.port
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))

from liar import Folder, Liar, Message  # noqa: E402

WORDS = ("invoice", "minutes", "holiday", "release", "question", "lunch", "contract", "photos")


class Invented:
    """The messages of a folder, as a list has them, made when asked for."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError(index)
        head = (b"From: Person %d <p%d@example.org>\r\nSubject: About the %s number %d\r\n\r\n"
                % (index % 997, index % 997, WORDS[index % 8].encode(), index))
        return Message(index + 1, head, ("\\Seen",), date=1500000000 + index * 180)


class Million(Liar):
    def __init__(self, certificate, key, count):
        super().__init__(certificate, key)
        box = self.folders["INBOX"] = Folder(1)
        box.messages, box.uidnext = Invented(count), count + 1

    def _answer(self, word, command, box):
        """A FETCH is answered message by message: all of it at once would take a gigabyte."""
        if word == "UID FETCH" and box is not None:
            _, _, uids, items = command.split(" ", 3)
            return (self._fetch(number, box.messages[number - 1], items)
                    for first, last in self._spans(uids, len(box.messages))
                    for number in range(first, last + 1))
        return super()._answer(word, command, box)

    @staticmethod
    def _spans(uids, highest):
        for low, high in re.findall(r"(\d+|\*)(?::(\d+|\*))?", uids):
            edges = sorted(highest if edge == "*" else int(edge) for edge in (low, high or low))
            yield max(edges[0], 1), min(edges[1], highest)
