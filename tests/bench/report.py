# SPDX-License-Identifier: GPL-3.0-or-later
"""The results as Markdown."""
import datetime
import re
import statistics
from typing import NamedTuple

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


class Line(NamedTuple):
    """One line of the table; texts, ready to print."""
    work: str
    emlfs: str
    peer: str
    ratio: str
    target: str
    verdict: str


class Spent(NamedTuple):
    """What one side of a row took besides time."""
    work: str
    who: str
    cpu: str
    peak: str
    wire: str


def seconds(value):
    if value < 0.01:
        return "%.2f ms" % (value * 1e3)
    return "%.0f ms" % (value * 1e3) if value < 1 else "%.2f s" % value if value < 10 else "%.1f s" % value


def megabytes(value):
    return "%.1f MB" % (value / 1e6)


def median(values):
    return statistics.median(values)


class Report:
    def __init__(self, machine, runs, notes):
        self.machine, self.runs, self.notes = machine, runs, notes
        self.lines, self.spent = [], []

    def add(self, *line):
        self.lines.append(Line(*line))
        print("  | " + " | ".join(line), flush=True)

    def ratio(self, work, ours, peer, theirs, target=None, show=seconds):
        """Lists of values, less is better; target: the largest good ratio, or None."""
        mine, other = median(ours), median(theirs)
        ratio = mine / other
        verdict = "–" if target is None else "met" if ratio <= target else "missed"
        self.add(work, show(mine), "%s: %s" % (peer, show(other)), "%.2f" % ratio,
                 "–" if target is None else "≤ %g" % target, verdict)

    def limit(self, work, values, target, show, note=""):
        """Values that may not pass `target`."""
        value = median(values)
        self.add(work, show(value), note or "–", "–", "≤ " + show(target), "met" if value <= target else "missed")

    def failed(self, row, reason):
        self.add(row, "–", "–", "–", "–", "failed: " + " ".join(str(reason).split()).replace("|", "¦")[:300])

    def costs(self, work, who, costs):
        """The median of each, of runs of one kind."""
        def middle(field, show):
            values = [getattr(cost, field) for cost in costs if getattr(cost, field) is not None]
            return show(median(values)) if values else "–"
        self.spent.append(Spent(work, who, middle("cpu", lambda value: "%.2f s" % value),
                                middle("peak", megabytes), middle("wire", megabytes)))

    # --- text

    def head(self):
        today = datetime.date.today().isoformat()
        notes = "".join(" " + note for note in self.notes)
        return ("`tests/bench/run` on %s: %s. Client and server on the same machine; medians of %d; "
                "ratio: emlfs / peer.%s\n" % (today, self.machine, self.runs, notes))

    def table(self):
        return markdown(("work", "emlfs", "peer", "ratio", "target", "result"), self.lines)

    def whole(self):
        text = "# Benchmark\n\n%s\n%s" % (self.head(), self.table())
        if self.spent:
            text += ("\nWhat it took. Wire: bytes both ways, at 40 ms as the proxy counts them, else as emlfs "
                     "does.\n\n" + markdown(("work", "who", "CPU", "peak memory", "wire"), self.spent))
        return text

    def put_into(self, path):
        """Replaces what is between the two marks."""
        text = path.read_text()
        part = re.compile("%s\n.*?%s" % (re.escape(BEGIN), re.escape(END)), re.S)
        if not part.search(text):
            raise ValueError("%s has no %s … %s" % (path, BEGIN, END))
        inner = "%s\n%s\n%s%s" % (BEGIN, self.head(), self.table(), END)
        path.write_text(part.sub(lambda _: inner, text, count=1))


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| %s |\n" % " | ".join(line) for line in lines)
