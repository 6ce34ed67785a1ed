#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes mail for tests and demos; every byte depends only on kind, count and seed.

    genmail.py mixed DEST [--count 20000] [--seed 1]   six folders, log-normal sizes, MIME,
                                                       attachments; 20,000 are about 820 MiB
    genmail.py big   DEST [--count 100000] [--seed 2]  small plain messages, all in INBOX
    genmail.py demo  DEST [--count 265] [--seed 3]     a believable mailbox in many languages
    genmail.py nasty DEST                              NNN-what.eml, each hard on a parser,
                                                       a name or a server

mixed, big and demo write a Maildir++ tree that Dovecot takes as it is: sizes (S=,
W=) and flags in the file names, file time = INTERNALDATE.  nasty writes files with
the exact octets to APPEND.  In mixed and big, one message in 800 has NEEDLE in its text.
"""
import argparse
import base64
import bisect
import email.utils
import io
import itertools
import os
import quopri
import random
import re
import struct
import sys
import time
import zipfile
import zlib

NEEDLE = "xyzzy-needle-7731"


# --- Maildir++ ------------------------------------------------------------------


def utf7(name):
    """Modified UTF-7, as in IMAP."""

    def shifted(match):
        code = base64.b64encode(match[0].encode("utf-16-be")).decode()
        return "&" + code.rstrip("=").replace("/", ",") + "-"

    return re.sub(r"[^ -~]+", shifted, name.replace("&", "&-"))


class Maildir:
    def __init__(self, root, folders):
        self.root = root
        self.number = self.bytes = 0
        for folder in folders:
            for part in ("cur", "new", "tmp"):
                os.makedirs(os.path.join(self.path(folder), part), exist_ok=True)
            if folder != "INBOX":
                open(os.path.join(self.path(folder), "maildirfolder"), "w").close()
        with open(os.path.join(root, "subscriptions"), "w") as file:
            file.writelines(utf7(folder) + "\n" for folder in folders)

    def path(self, folder):
        if folder == "INBOX":
            return self.root
        return os.path.join(self.root, "." + utf7(folder).replace("/", "."))

    def add(self, folder, message, date, flags=""):
        """message: bytes with bare line feeds"""
        name = "%d.M%dP1.genmail,S=%d,W=%d:2,%s" % (
            date, self.number, len(message), len(message) + message.count(b"\n"), "".join(sorted(flags)))
        path = os.path.join(self.path(folder), "cur", name)
        with open(path, "wb") as file:
            file.write(message)
        os.utime(path, (date, date))
        self.number += 1
        self.bytes += len(message)


# --- parts of messages ------------------------------------------------------------


def date_header(date):
    return email.utils.formatdate(date, localtime=False).replace("-0000", "+0000")


def encoded(text, charset="utf-8"):
    """Text for a header, in encoded words if it needs them."""
    if text.isascii():
        return text
    words, word = [], ""
    for character in text:  # no word over 75 characters, none that splits a character
        if len(word_of(word + character, charset)) > 72:
            words.append(word)
            word = ""
        word += character
    return "\n ".join(word_of(w, charset) for w in words + [word])


def word_of(text, charset):
    return "=?%s?B?%s?=" % (charset, base64.b64encode(text.encode(charset)).decode())


def mailbox(name, address, charset="utf-8"):
    if not name.isascii():
        return "%s <%s>" % (encoded(name, charset), address)
    return "%s <%s>" % ('"%s"' % name if re.search(r"[^\w .'-]", name) else name, address)


def base64_lines(data):
    text = base64.b64encode(data).decode()
    return "\n".join(text[i:i + 76] for i in range(0, len(text), 76)) + "\n"


def text_part(text, kind="plain", charset="utf-8", coding=None):
    """Header and content of a text part, as bytes."""
    raw = text.encode(charset)
    if coding is None:
        coding = "7bit" if text.isascii() and charset != "utf-16" else "quoted-printable"
    head = "Content-Type: text/%s; charset=%s\nContent-Transfer-Encoding: %s\n\n" % (kind, charset, coding)
    if coding == "quoted-printable":
        raw = quopri.encodestring(raw)
    elif coding == "base64":
        raw = base64_lines(raw).encode()
    return head.encode() + raw


def attachment(name, kind, data, inline=False):
    if name.isascii():
        parameter = 'filename="%s"' % name
    else:  # RFC 2231
        parameter = "filename*=utf-8''" + "".join(
            chr(c) if chr(c).isalnum() and c < 128 or chr(c) in ".-_" else "%%%02X" % c for c in name.encode())
    head = "Content-Type: %s; %s\nContent-Disposition: %s; %s\nContent-Transfer-Encoding: base64\n\n" % (
        kind, parameter.replace("filename", "name"), "inline" if inline else "attachment", parameter)
    return (head + base64_lines(data)).encode()


def multipart(kind, boundary, *parts, parameters=""):
    head = 'Content-Type: multipart/%s; boundary="%s"%s\n\n' % (kind, boundary, parameters)
    body = b"".join(b"--%s\n%s\n" % (boundary.encode(), part) for part in parts)
    return head.encode() + body + b"--%s--\n" % boundary.encode()


def pdf(title, lines):
    """A one-page document that viewers open."""
    def escaped(text):
        return re.sub(r"([()\\])", r"\\\1", text).encode("cp1252", "replace")

    content = b"BT /F1 18 Tf 60 770 Td (" + escaped(title) + b") Tj /F1 11 Tf 0 -30 Td 16 TL"
    content += b"".join(b" (" + escaped(line) + b") Tj T*" for line in lines) + b" ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + table + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)


def png(width, height, random_):
    """A sunset of some kind."""
    r, g, b = (random_.randrange(80, 235) for _ in range(3))
    rows = bytearray()
    for y in range(height):
        shade = y / height
        pixel = bytes((int(r * (1 - shade) + 20), int(g * (1 - shade) ** 2), int(b * shade)))
        rows += b"\0" + pixel * width

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(bytes(rows), 6)) + chunk(b"IEND", b""))


def archive(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_:
        for name, data in files:
            zip_.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 12, 0, 0)), data)
    return buffer.getvalue()


# --- mixed and big: for measurements ------------------------------------------------

NEWEST = 1735689600  # 2025-01-01T00:00:00Z
SPAN = 6 * 365 * 86400
MIXED_FOLDERS = (("INBOX", .40), ("Archive", .25), ("Lists", .15), ("Work", .10), ("Sent", .07), ("Projects", .03))
TEXT = (8192, 1.15, 1 << 20)  # median, sigma, limit of the log-normal sizes
SMALL_TEXT = (1800, .35, 16384)
ATTACHMENT = (160 << 10, 1.3, 5_000_000)
ATTACHMENT_SHARE = .04
SYLLABLES = ("ba be bi bo bu da de di do du fa fe fi ga ge gi ka ke ki ko la le li lo lu ma me mi mo na ne ni no "
             "pa pe po ra re ri ro sa se si so ta te ti to va ve vi za ze st tr ch sh an en in on er ar or al el")


def log_normal(random_, median, sigma, limit):
    return int(min(limit, median * random_.lognormvariate(0, sigma)))


class Words:
    """Word soup with the word frequencies of a language, cut out of one pool."""

    def __init__(self):
        random_ = random.Random("words")
        syllables = SYLLABLES.split()
        words = set()
        while len(words) < 8000:
            words.add("".join(random_.choice(syllables) for _ in range(random_.randint(1, 4))))
        self.words = sorted(words)
        random_.shuffle(self.words)
        self.weights = list(itertools.accumulate(1 / (i + 2.7) for i in range(len(self.words))))
        lines, size = [], 0
        while size < 4 << 20:
            line, target = "", random_.randint(45, 74)
            while len(line) < target:
                line += self.some(random_, 1) + " "
            lines.append(line.rstrip())
            if random_.random() < .12:
                lines.append("")
            size += len(line)
        self.pool = "\n".join(lines) + "\n"

    def some(self, random_, count):
        return " ".join(self.words[bisect.bisect(self.weights, random_.random() * self.weights[-1])]
                        for _ in range(count))

    def text(self, random_, length):
        out = []
        while length > 0:
            piece = min(length, 60000)
            start = self.pool.index("\n", random_.randrange(len(self.pool) - piece - 200)) + 1
            out.append(self.pool[start:start + piece])
            length -= piece
        text = "".join(out)
        return text if text.endswith("\n") else text + "\n"


class Bulk:
    """The messages of mixed and big."""

    def __init__(self, kind, seed):
        self.kind, self.small = kind, kind == "big"
        self.random = random.Random("%s/%d" % (kind, seed))
        self.words = Words()
        self.noise = random.Random("noise").randbytes(8 << 20)
        self.recent = []  # (message id, subject), to answer
        random_ = random.Random("people")
        names = [word.capitalize() for word in self.words.words if 4 <= len(word) <= 8][:400]
        self.people = []
        for i in range(300):
            first, last = random_.choice(names), random_.choice(names)
            if i % 17 == 0:
                last += "üß"
            domain = random_.choice(("corp", "mail", "uni", "shop", "lists"))
            self.people.append((first + " " + last, "%s.%d@%s.example" % (first.lower(), i, domain)))

    def headers(self, i, date):
        r = self.random
        name, address = r.choice(self.people)
        domain = address.split("@")[1]
        message_id = "<%s.%d.%x@genmail.example>" % (self.kind, i, r.getrandbits(40))
        answer = r.choice(self.recent) if self.recent and r.random() < .45 else None
        if answer:
            subject = answer[1] if answer[1].startswith("Re: ") else "Re: " + answer[1]
        else:
            subject = self.words.some(r, r.randint(2, 9)).capitalize()
            if r.random() < .08:
                subject += " – Übersicht"
        self.recent = self.recent[-399:] + [(message_id, subject)]
        lines = ["Return-Path: <%s>" % address,
                 "Received: from mx%d.relay.example (mx%d.relay.example [192.0.2.%d])\n\tby mail.bench.example "
                 "with ESMTPS id %x\n\tfor <user@bench.example>; %s" % (
                     i % 9, i % 9, i % 250, r.getrandbits(48), date_header(date))]
        if not self.small:
            lines.append("Received: from out.%s (unknown [198.51.100.%d])\n\tby mx%d.relay.example with ESMTP "
                         "id %x; %s" % (domain, i % 250, i % 9, r.getrandbits(48), date_header(date - 4)))
            hashes = [base64.b64encode(r.randbytes(n)).decode() for n in (32, 66, 66)]
            lines.append("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=%s; s=sel1;\n\t"
                         "h=from:to:subject:date:message-id; bh=%s;\n\tb=%s\n\t %s" % (domain, *hashes))
        lines += ["From: " + mailbox(name, address), "To: User Bench <user@bench.example>"]
        if r.random() < .25:
            lines.append("Cc: " + ",\n\t".join(mailbox(*r.choice(self.people)) for _ in range(r.randint(1, 4))))
        lines += ["Subject: " + encoded(subject), "Date: " + date_header(date), "Message-ID: " + message_id]
        if answer:
            lines += ["In-Reply-To: " + answer[0], "References: " + answer[0]]
        if not self.small and r.random() < .2:
            lines += ["List-Id: <dev.lists.example>", "List-Unsubscribe: <mailto:leave@lists.example>",
                      "Precedence: list"]
        return ("\n".join(lines + ["MIME-Version: 1.0"]) + "\n").encode()

    def message(self, i, date):
        r = self.random
        head = self.headers(i, date)
        size = log_normal(r, *(SMALL_TEXT if self.small else TEXT))
        length = max(40, size - len(head) - 100)
        needle = NEEDLE + "\n" if i % 800 == 399 else ""
        if self.small:
            return head + text_part(needle + self.words.text(r, length), charset="us-ascii")
        if r.random() < .45:
            if r.random() < .33:
                text = needle + self.words.text(r, int(length * .93)).replace("ue", "ü", 200)
                part = text_part(text, coding="quoted-printable")
            else:
                part = text_part(needle + self.words.text(r, length), charset="us-ascii")
        else:
            plain = needle + self.words.text(r, int(length * .35))
            lines = self.words.text(r, max(40, int((length * .65 - 400) * .78))).split("\n")
            html = ("<html><head><style>p{font:13px sans-serif;margin:4px}</style></head><body>\n" +
                    "".join('<p class="x">%s</p>\n' % line for line in lines) + "</body></html>\n")
            part = multipart("alternative", "=_a%016x" % r.getrandbits(64), text_part(plain), text_part(html, "html"))
        if r.random() < ATTACHMENT_SHARE:
            part = multipart("mixed", "=_m%016x" % r.getrandbits(64), part, *(
                self.attachment(i, k) for k in range(1 if r.random() < .8 else r.randint(2, 3))))
        return head + part

    def attachment(self, i, k):
        r = self.random
        length = log_normal(r, *ATTACHMENT)
        start = r.randrange(len(self.noise) - length)
        ending, kind = r.choice((("pdf", "application/pdf"), ("jpg", "image/jpeg"), ("zip", "application/zip"),
                                 ("odt", "application/vnd.oasis.opendocument.text")))
        return attachment("file%d-%d.%s" % (i, k, ending), kind, self.noise[start:start + length])


def bulk(kind, dest, count, seed):
    folders = MIXED_FOLDERS if kind == "mixed" else (("INBOX", 1.0),)
    names, weights = zip(*folders)
    maildir, messages = Maildir(dest, names), Bulk(kind, seed)
    random_ = random.Random("flags/%s/%d" % (kind, seed))
    for i in range(count):
        date = NEWEST - SPAN + (i + 1) * SPAN // count
        flags = "".join(flag for flag, share in (("F", .03), ("R", .15), ("S", .93)) if random_.random() < share)
        maildir.add(random_.choices(names, weights)[0], messages.message(i, date), date, flags)
    return maildir


# --- demo: a mailbox to look at ---------------------------------------------------------

OWNER = ("Anna Alpha", "anna@emlfs.test")
DEMO_NEWEST = 1795165200  # 2026-11-20T09:00:00Z
DEMO_FOLDERS = ("INBOX", "Drafts", "Sent", "Trash", "Spam", "Archive", "Archive/2025", "Projekte",
                "Projekte/Übersicht", "Projekte/Hausbau", "Rechnungen", "Rechnungen/2025", "Rechnungen/2026",
                "Famiglia", "Famiglia/Foto estate", "Lists/fuse-devel", "Newsletter", "Voyages & séjours", "下書き")

COLLEAGUES = (("Jürgen Groß", "j.gross@hausbau-gross.example"), ("Mette Sørensen", "mette@fjordlab.example"),
              ("Paweł Wiśniewski", "pawel.w@drukarnia.example"), ("Sophie Lefèvre", "sophie.lefevre@atelier.example"),
              ("Tom O'Neill", "tom@oneill-design.example"), ("Nguyễn Thị Hà", "ha.nguyen@fjordlab.example"),
              ("Li, Chen (Procurement)", "chen.li@fjordlab.example"))
FAMILY = (("Mamma", "rosa.alpha@posta.example"), ("Marco Alpha", "marco.alpha@posta.example"),
          ("Zia Concetta", "concetta@posta.example"))
HACKERS = (("Miklós Székely", "miklos@kernel.example"), ("Grace Okafor", "grace@storage.example"),
           ("Dmitri V.", "dv@fs.example"), ("J. R. Hartley", "jrh@flyfishing.example"))

# (charset, transfer encoding, name, address, subject, text)
LANGUAGES = (
    ("iso-2022-jp", "7bit", "山田 太郎", "yamada@nihon.example", "来週の会議について",
     "アンナ様\n\nお世話になっております。来週の会議は水曜日の午後三時からでお願いいたします。\n資料は前日までにお送りします。\n\n山田"),
    ("koi8-r", "base64", "Ольга Иванова", "olga@kontora.example", "Документы готовы",
     "Здравствуйте, Анна!\n\nДоговор подписан, оригинал отправлен почтой.\nПожалуйста, подтвердите получение.\n\nС уважением,\nОльга"),
    ("windows-1252", "quoted-printable", "Sophie Lefèvre", "sophie.lefevre@atelier.example",
     "Le devis pour l’été – 1 200 €", "Bonjour Anna,\n\nvoici le devis « été » : 1 200 € pour l’ensemble. "
     "N’hésitez pas à m’appeler.\n\nÀ bientôt,\nSophie"),
    ("gb18030", "base64", "王芳", "wang.fang@maoyi.example", "关于十二月的订单",
     "安娜，您好：\n\n十二月的订单已经确认，货物将于下周发出。\n如有问题，请随时联系。\n\n王芳"),
    ("utf-8", "quoted-printable", "Γιώργος Παπαδόπουλος", "giorgos@nisi.example", "Φωτογραφίες από το νησί",
     "Γεια σου Άννα,\n\nσου στέλνω τα χαιρετίσματά μου από τη Νάξο. Ο καιρός είναι υπέροχος!\n\nΓιώργος"),
    ("utf-8", "base64", "יעל כהן", "yael@sefer.example", "ההזמנה לערב הספר",
     "שלום אנה,\n\nאנחנו שמחים להזמין אותך לערב הספר ביום חמישי בשעה שבע.\n\nיעל"),
    ("utf-8", "base64", "김민준", "minjun@seoul.example", "다음 주 일정 안내",
     "안나 님, 안녕하세요.\n\n다음 주 목요일 오전 10시에 회의가 있습니다.\n\n김민준 드림"),
    ("iso-8859-2", "quoted-printable", "Paweł Wiśniewski", "pawel.w@drukarnia.example", "Próbny wydruk gotowy",
     "Dzień dobry,\n\npróbny wydruk jest gotowy. Proszę o akceptację do piątku.\n\nPozdrawiam, Paweł"),
    ("utf-8", "8bit", "Ayşe Yılmaz", "ayse@kitap.example", "Kitaplarınız yola çıktı",
     "Merhaba Anna,\n\nsiparişiniz bugün kargoya verildi. İyi okumalar!\n\nAyşe"),
    ("utf-8", "base64", "Tom O'Neill", "tom@oneill-design.example", "🎉 We won the pitch! 🥂",
     "Anna!!\n\nThey said yes. 🎉🎉\nDrinks on me on Friday 🍻\n\nTom"),
)

SHOPS = (("Stadtwerke Lindau", "rechnung@stadtwerke-lindau.example", "Rechnung", "EUR", "Strom"),
         ("Fjordlab Hosting", "billing@fjordlab.example", "Invoice", "EUR", "Hosting, monthly"),
         ("Libreria Antiquaria Orsini", "ordini@orsini.example", "Fattura", "EUR", "Dizionario etimologico"),
         ("Zürcher Papeterie AG", "buchhaltung@zp.example", "Rechnung", "CHF", "Büromaterial"),
         ("Télécom du Lac", "factures@telecom-lac.example", "Facture", "CHF", "Abonnement fibre"))

LETTERS = (("The Slow Web", "hello@slowweb.example", ("Why plain text outlives us all", "Files are the interface",
                                                      "An ode to the mail directory", "Issue #{n}: small tools")),
           ("Il Gusto della Domenica", "redazione@gusto.example", ("Ricette d'autunno", "Il pane fatto in casa",
                                                                   "Zucca, funghi e castagne: n° {n}")),
           ("Bahnhof & Garten", "info@bahnhofgarten.example", ("Modellbahn-Neuheiten im Herbst",
                                                               "Rosen schneiden – aber richtig", "Heft {n} ist da")))

TOPICS = (
    ("Projekte/Hausbau", COLLEAGUES, "Dachstuhl: Termin mit dem Zimmermann",
     ("der Zimmermann kann am 12. oder am 14. Passt dir eines davon?", "der 14. ist gut, ab acht Uhr.",
      "dann trage ich das so ein. Bringst du die Pläne mit?", "ja, und die Statik habe ich auch gedruckt.")),
    ("Projekte/Übersicht", COLLEAGUES, "Q4 roadmap – comments please",
     ("I put the draft into the shared folder. Two weeks for the importer seem optimistic to me.",
      "They are. I would move the importer behind the search and keep the date.",
      "Agreed. Could we then drop the second prototype?", "Fine with me, if Mette agrees.", "She does.")),
    ("Lists/fuse-devel", HACKERS, "[fuse-devel] readdirplus and negative entries",
     ("When the kernel asks with readdirplus, is a timeout of zero for the entry the same as no lookup at all?",
      "Not quite: the inode is still counted, so you owe a forget for it.",
      "Ah. That explains the leak that I saw with a million files.",
      "There was a patch for the documentation last year, I will look it up.")),
    ("Famiglia", FAMILY, "Natale: chi porta cosa?",
     ("quest'anno facciamo da noi? Io penso al pesce.", "Noi portiamo il panettone e il vino.",
      "E i ragazzi dormono tutti in mansarda!", "Perfetto. Portate anche le sedie pieghevoli, per favore.")),
)


class Demo:
    def __init__(self, dest, count, seed):
        self.random = random.Random("demo/%d" % seed)
        self.maildir = Maildir(dest, DEMO_FOLDERS)
        self.count = count
        self.languages = itertools.cycle(LANGUAGES)
        self.threads = {}  # folder: (ids so far, what was said last and by whom)

    def date(self):
        """The further in the past, the rarer."""
        age = 1 - self.maildir.number / max(1, self.count)
        return DEMO_NEWEST - int(500 * 86400 * age ** 1.8) - self.random.randrange(3600)

    def boundary(self):
        return "=_%024x" % self.random.getrandbits(96)

    def put(self, folder, sender, subject, part, to=OWNER, flags="S", charset="utf-8", extra=()):
        date = self.date()
        message_id = "<%x.%d@%s>" % (self.random.getrandbits(64), self.maildir.number, sender[1].split("@")[1])
        lines = []
        if folder not in ("Sent", "Drafts", "下書き"):
            lines = ["Return-Path: <%s>" % sender[1],
                     "Received: from mx.%s (mx.%s [192.0.2.%d])\n\tby mail.emlfs.test with ESMTPS id %x;\n\t%s" % (
                         sender[1].split("@")[1], sender[1].split("@")[1], self.random.randrange(1, 255),
                         self.random.getrandbits(40), date_header(date))]
        lines += ["From: " + mailbox(*sender, charset), "To: " + mailbox(*to),
                  "Subject: " + encoded(subject, charset), "Date: " + date_header(date),
                  "Message-ID: " + message_id, *extra, "MIME-Version: 1.0"]
        self.maildir.add(folder, ("\n".join(lines) + "\n").encode() + part, date, flags)
        return message_id

    def seen(self):
        """The newest are unread now and then."""
        recent = self.maildir.number > self.count * .9
        return "" if recent and self.random.random() < .5 else "S" + self.random.choice(("", "", "", "R", "F"))

    # -- one method for each kind of message

    def invoice(self):
        r = self.random
        name, address, word, currency, item = r.choice(SHOPS)
        year = time.gmtime(self.date()).tm_year
        number, cents = "%d-%04d" % (year, r.randrange(1, 9999)), r.randrange(900, 99900)
        amount = "%d,%02d %s" % (cents // 100, cents % 100, currency)
        document = pdf("%s %s" % (word, number), (name, "", item, "Total: " + amount, "", "IBAN CH93 0076 2011 6238 5295 7"))
        text = "%s %s\n\n%-40s %s\n\n%s\n" % (word, number, item, amount, name)
        folder = r.choice(("INBOX", "Rechnungen", "Rechnungen/%d" % max(2025, year)))
        self.put(folder, (name, address), "%s %s" % (word, number), multipart(
            "mixed", self.boundary(), text_part(text),
            attachment("%s_%s.pdf" % (word, number), "application/pdf", document)), flags=self.seen())

    def newsletter(self):
        r = self.random
        name, address, subjects = r.choice(LETTERS)
        subject = r.choice(subjects).format(n=r.randrange(20, 200))
        text = "%s\n%s\n\nRead it in your browser: https://%s/%d\n" % (
            subject, "=" * len(subject), address.split("@")[1], r.randrange(10000))
        html = ('<!DOCTYPE html>\n<html><body style="font-family:Georgia,serif;max-width:36em">\n<h1>%s</h1>\n'
                '<p><img src="cid:title" alt="" width="480"></p>\n<p>Dear Anna, this month: <em>%s</em>.</p>\n'
                "</body></html>\n" % (name, subject))
        picture = attachment("title.png", "image/png", png(480, 120, r), inline=True).replace(
            b"\n\n", b"\nContent-ID: <title>\n\n", 1)
        part = multipart("alternative", self.boundary(), text_part(text),
                         multipart("related", self.boundary(), text_part(html, "html"), picture))
        domain = address.split("@")[1]
        self.put(r.choice(("INBOX", "Newsletter", "Newsletter", "Trash")), (name, address), subject, part,
                 flags=self.seen(), extra=("List-Id: <news.%s>" % domain, "List-Unsubscribe: <https://%s/bye>" % domain,
                                           "Precedence: bulk"))

    def thread(self):
        r = self.random
        folder, people, subject, lines = r.choice(TOPICS)
        ids, said, who = self.threads.get(folder, ([], None, None))
        sender = r.choice([person for person in people if person != who])
        text = lines[len(ids) % len(lines)]
        body = text[0].upper() + text[1:] + "\n"
        if said:
            body = "%s wrote:\n> %s\n\n%s" % (who[0], said, body)
        extra = ("In-Reply-To: " + ids[-1], "References: " + "\n ".join(ids[-8:])) if ids else ()
        if folder.startswith("Lists/"):
            extra += ("List-Id: <fuse-devel.lists.example>", "List-Post: <mailto:fuse-devel@lists.example>")
        message_id = self.put(folder, sender, ("Re: " if ids else "") + subject,
                              text_part(body + "\n-- \n" + sender[0] + "\n"), flags=self.seen(), extra=extra)
        ids = ids + [message_id] if len(ids) < 12 else []
        self.threads[folder] = (ids, text if ids else None, sender)

    def foreign(self):
        charset, coding, name, address, subject, text = next(self.languages)
        folder = self.random.choice(("INBOX", "INBOX", "Archive", "Archive/2025"))
        if charset in ("iso-2022-jp", "gb18030"):
            folder = self.random.choice(("INBOX", "下書き", "下書き"))
        self.put(folder, (name, address), subject, text_part(text + "\n", "plain", charset, coding),
                 flags=self.seen(), charset=charset)

    def photos(self):
        r = self.random
        names = r.sample(("spiaggia.png", "tramonto.png", "nonna e i nipoti.png", "gelato più grande.png",
                          "IMG_2041.png", "IMG_2042.png"), r.randint(1, 3))
        pictures = [attachment(name, "image/png", png(640, 480, r)) for name in names]
        self.put(r.choice(("Famiglia/Foto estate", "Famiglia/Foto estate", "INBOX")), r.choice(FAMILY),
                 r.choice(("Foto del mare", "Altre foto!", "Guarda che bello 🌅")),
                 multipart("mixed", self.boundary(), text_part("Eccole! Un abbraccio\n"), *pictures), flags=self.seen())

    def files(self):
        r = self.random
        data = archive((("plans/ground-floor.txt", b"kitchen 14 m2\nhall 6 m2\n" * 40),
                        ("plans/README", b"Scale 1:50\n"), ("übersicht.csv", "Raum,m²\nKüche,14\n".encode())))
        self.put(r.choice(("Projekte", "Projekte/Hausbau", "Archive")), r.choice(COLLEAGUES),
                 r.choice(("Grundriss, dritte Fassung", "Plans as discussed", "Unterlagen für den Notar")),
                 multipart("mixed", self.boundary(), text_part("Anbei die Unterlagen.\n\nGruß\n"),
                           attachment("Pläne.zip", "application/zip", data)), flags=self.seen())

    def invitation(self):
        start = self.date() + 7 * 86400
        when = time.strftime("%Y%m%dT%H0000Z", time.gmtime(start))
        calendar = ("BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//genmail//EN\nMETHOD:REQUEST\nBEGIN:VEVENT\n"
                    "UID:%x@fjordlab.example\nDTSTAMP:%s\nDTSTART:%s\nDURATION:PT1H\nSUMMARY:Weekly sync\n"
                    "LOCATION:Fjordlab, room Tromsø\nEND:VEVENT\nEND:VCALENDAR\n" % (self.random.getrandbits(64), when, when))
        part = text_part(calendar, "calendar").replace(b"text/calendar;", b"text/calendar; method=REQUEST;", 1)
        self.put("INBOX", COLLEAGUES[1], "Invitation: Weekly sync", multipart(
            "alternative", self.boundary(), text_part("Weekly sync, one hour, room Tromsø\n"), part), flags=self.seen())

    def notification(self):
        r = self.random
        number = r.randrange(100, 2000)
        sender, subject, text = r.choice((
            (("Paketdienst", "noreply@paket.example"), "Ihr Paket %d kommt heute zwischen 14 und 16 Uhr" % number,
             "Der Fahrer ist unterwegs.\n"),
            (("builds", "ci@forge.example"), "[emlfs] build #%d passed" % number, "412 tests in 38 s.\n"),
            (("Biblioteca comunale", "prestiti@biblioteca.example"), "Promemoria: prestito n. %d in scadenza" % number,
             "La preghiamo di restituire il volume entro sette giorni.\n"),
            (("SBB CFF FFS", "tickets@bahn.example"), "Billet Zürich HB – Genève, %d" % number,
             "Bon voyage! Departure 09:32, platform 15.\n")))
        folder = "Voyages & séjours" if "bahn" in sender[1] else r.choice(("INBOX", "INBOX", "Archive/2025", "Trash"))
        self.put(folder, sender, subject, text_part(text), flags=self.seen())

    def bounce(self):
        r = self.random
        address = r.choice(("info@gibts-nicht.example", "m.rossi@pieno.example"))
        status, reason = r.choice((("5.1.1", "user unknown"), ("5.2.2", "mailbox full")))
        report = ("Content-Type: message/delivery-status\n\nReporting-MTA: dns; mail.emlfs.test\n\n"
                  "Final-Recipient: rfc822; %s\nAction: failed\nStatus: %s\nDiagnostic-Code: smtp; 550 %s %s\n" % (
                      address, status, status, reason))
        original = "Content-Type: text/rfc822-headers\n\nFrom: %s\nTo: %s\nSubject: Anfrage\n" % (OWNER[1], address)
        self.put("INBOX", ("Mail Delivery System", "MAILER-DAEMON@emlfs.test"), "Undelivered Mail Returned to Sender",
                 multipart("report", self.boundary(), text_part("<%s>: %s\n" % (address, reason)), report.encode(),
                           original.encode(), parameters="; report-type=delivery-status"), flags=self.seen())

    def forwarded(self):
        inner = ("Content-Type: message/rfc822\nContent-Disposition: attachment\n\nFrom: %s\nTo: %s\n"
                 "Subject: Angebot Fenster\nDate: %s\nMIME-Version: 1.0\n" % (
                     mailbox(*COLLEAGUES[0]), mailbox(*COLLEAGUES[4]), date_header(self.date() - 86400))).encode()
        self.put("Projekte/Hausbau", COLLEAGUES[4], "Fwd: Angebot Fenster", multipart(
            "mixed", self.boundary(), text_part("FYI\n"), inner + text_part("Dreifach verglast, 4.380 €.\n")),
            flags=self.seen())

    def sent(self):
        r = self.random
        to = r.choice(COLLEAGUES + FAMILY)
        subject = r.choice(("Re: Dachstuhl: Termin mit dem Zimmermann", "Anfrage Liefertermin", "Auguri!",
                            "Re: Q4 roadmap – comments please", "Merci beaucoup"))
        self.put("Sent", OWNER, subject, text_part("%s,\n\nthank you, that suits me well.\n\nAnna\n" % to[0].split()[0]),
                 to=to)

    def draft(self):
        self.put("Drafts", OWNER, self.random.choice(("", "Kündigung", "Idee: Maildir im Dateimanager", "Cara zia")),
                 text_part("…\n"), to=self.random.choice(FAMILY), flags="DS")

    def spam(self):
        sender, subject = self.random.choice((
            (("Prince A. Okonkwo", "prince@lottery.example"), "URGENT: your inheritance of $10,500,000"),
            (("Сервис Безопасности", "security@bank-secure.example"), "Ваш аккаунт заблокирован!!!"),
            (("Dr. Slim", "offers@slim.example"), "L0se w3ight wh1le you sl33p"),
            (("発送センター", "noreply@parcel.example"), "お荷物をお届けできません")))
        self.put("Spam", sender, subject, text_part("<p><b>Click here now!</b></p>\n", "html"), flags="")

    RECIPES = ((invoice, 12), (newsletter, 10), (thread, 26), (foreign, 16), (photos, 3), (files, 4), (invitation, 2),
               (notification, 12), (bounce, 1), (forwarded, 2), (sent, 8), (draft, 2), (spam, 3))

    def make(self):
        recipes, weights = zip(*self.RECIPES)
        for i in range(self.count):
            # each kind at least once, then by weight
            recipe = recipes[i] if i < len(recipes) else self.random.choices(recipes, weights)[0]
            recipe(self)
        return self.maildir


def demo(dest, count, seed):
    return Demo(dest, count, seed).make()


# --- nasty: hard on parsers, names and servers -----------------------------------------

PLAIN = b"From: Eve <eve@nasty.example>\r\nTo: anna@emlfs.test\r\nDate: Fri, 20 Nov 2026 09:00:00 +0000\r\n"
HELLO = b"\r\nhello\r\n"


def crlf(message):
    return re.sub(rb"(?<!\r)\n", b"\r\n", message)


def with_subject(value):
    """value: text, encoded as a mail program would; or raw bytes"""
    if isinstance(value, str):
        value = encoded(value).encode() if not value.isascii() or any(c < " " or c == "\x7f" for c in value) else value.encode()
    return crlf(PLAIN + b"Subject: " + value + b"\r\n" + HELLO)


def with_word(text, charset="utf-8"):
    """The subject as one encoded word, whatever it contains."""
    return with_subject(word_of(text, charset).encode())


def with_from(value):
    return b"From: " + value + b"\r\nSubject: from\r\n" + HELLO


def with_header(line, body=HELLO):
    return PLAIN + b"Subject: header\r\n" + line + b"\r\n" + body


def with_type(content_type, body, coding=None):
    head = PLAIN + b"Subject: body\r\nMIME-Version: 1.0\r\nContent-Type: " + content_type + b"\r\n"
    if coding:
        head += b"Content-Transfer-Encoding: " + coding + b"\r\n"
    return head + b"\r\n" + body


def nested_multiparts(depth, closed):
    """Short boundaries keep it small; the innermost part is text."""
    out = b""
    for level in range(depth):
        name = b"%x" % level
        out += b"Content-Type: multipart/mixed; boundary=%s\r\n\r\n--%s\r\n" % (name, name)
    out += b"\r\ncore\r\n"
    if closed:
        out += b"".join(b"--%x--\r\n" % level for level in reversed(range(depth)))
    return PLAIN + b"Subject: nested\r\nMIME-Version: 1.0\r\n" + out


def nested_messages(depth):
    one = b"Subject: level %d\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n"
    return PLAIN + b"".join(one % level for level in range(depth)) + b"Subject: core\r\n" + HELLO


def nasty_messages():
    """(what, octets) of each"""
    # -- the outline of a message
    yield "no-headers", b"\r\njust a body\r\n"
    yield "no-headers-no-blank-line", b"just a line without a colon\r\n"
    yield "headers-only", PLAIN + b"Subject: no blank line\r\n"
    yield "headers-and-blank-line", PLAIN + b"Subject: empty body\r\n\r\n"
    yield "one-blank-line", b"\r\n"
    yield "one-byte", b"x"
    yield "only-spaces", b"   \r\n   \r\n"
    yield "no-final-newline", PLAIN + b"Subject: open end\r\n\r\nlast line without an end"
    yield "body-of-newlines", PLAIN + b"Subject: newlines\r\n\r\n" + b"\r\n" * 5000
    yield "blank-line-first", b"\r\n" + PLAIN + b"Subject: too late\r\n" + HELLO
    yield "mbox-from-line", b"From eve@nasty.example Fri Nov 20 09:00:00 2026\r\n" + PLAIN + b"Subject: mbox\r\n" + HELLO
    yield "mbox-quoted-from-line", b">From eve@nasty.example Fri Nov 20 2026\r\n" + PLAIN + b"Subject: mbox\r\n" + HELLO
    yield "body-from-lines", PLAIN + b"Subject: from\r\n\r\nFrom here on\r\n>From there\r\n"
    yield "body-dots", PLAIN + b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\n.\r\nQUIT\r\n"
    yield "body-imap", PLAIN + b"Subject: imap\r\n\r\n)\r\nA001 OK FETCH completed\r\n* BYE\r\n{10}\r\n"
    yield "body-literal", PLAIN + b"Subject: {99999}\r\nX-Literal: {4}\r\n\r\n{5}\r\nabcde\r\n"
    # -- line ends and control characters
    yield "bare-lf", PLAIN + b"Subject: bare lf\r\n\r\none\ntwo\nthree\r\n"
    yield "bare-lf-all", (PLAIN + b"Subject: all bare lf\r\n" + HELLO).replace(b"\r\n", b"\n")
    yield "bare-cr", PLAIN + b"Subject: bare cr\r\n\r\none\rtwo\rthree\r\n"
    yield "bare-cr-in-header", PLAIN + b"Subject: bare\rcr\r\n" + HELLO
    yield "cr-cr-lf", PLAIN + b"Subject: cr cr lf\r\r\n\r\nbody\r\r\n"
    yield "lf-cr", PLAIN + b"Subject: lf cr\r\n\r\none\n\rtwo\n\r"
    yield "mixed-line-ends", PLAIN + b"Subject: mixed\nX-A: b\r\nX-C: d\n\r\nbody\nbody\r\n"
    yield "ends-with-cr", PLAIN + b"Subject: end\r\n\r\nbody\r"
    yield "nul-in-body", PLAIN + b"Subject: nul\r\n\r\nbefore\0after\r\n"
    yield "nul-in-header", PLAIN + b"Subject: nul\0nul\r\n" + HELLO
    yield "nul-many", PLAIN + b"Subject: nuls\r\n\r\n" + b"\0" * 1000 + b"\r\n"
    yield "control-characters-in-body", PLAIN + b"Subject: control\r\n\r\n" + bytes(c for c in range(1, 32) if c not in (10, 13)) + b"\x7f\r\n"
    yield "control-characters-in-header", PLAIN + b"Subject: a\x01b\x07c\x08d\x1b[31mred\x7f\r\n" + HELLO
    yield "all-bytes-in-body", PLAIN + b"Subject: bytes\r\n\r\n" + bytes(c for c in range(1, 256) if c not in (10, 13)) + b"\r\n"
    yield "form-feed-line", PLAIN + b"Subject: ff\r\n\x0c\r\n\r\nbody\r\n"
    yield "utf8-bom", b"\xef\xbb\xbf" + PLAIN + b"Subject: bom\r\n" + HELLO
    yield "utf16-text", "From: eve@nasty.example\r\nSubject: wide\r\n\r\nhello\r\n".encode("utf-16").replace(b"\0", b"\x01")
    # -- long things
    yield "line-998", PLAIN + b"Subject: 998\r\n\r\n" + b"x" * 998 + b"\r\n"
    yield "line-999", PLAIN + b"Subject: 999\r\n\r\n" + b"x" * 999 + b"\r\n"
    yield "line-64k", PLAIN + b"Subject: 64k\r\n\r\n" + b"y" * 65536 + b"\r\n"
    yield "line-1m", PLAIN + b"Subject: 1m\r\n\r\n" + b"z" * (1 << 20) + b"\r\n"
    yield "header-64k-one-line", PLAIN + b"Subject: long header\r\nX-Long: " + b"h" * 65536 + b"\r\n" + HELLO
    yield "header-64k-folded", PLAIN + b"Subject: long header\r\nX-Long:" + b"\r\n folded away" * 5000 + b"\r\n" + HELLO
    yield "header-name-64k", PLAIN + b"N" * 65536 + b": value\r\n" + HELLO
    yield "headers-1000", PLAIN + b"Subject: many\r\n" + b"".join(b"X-Header-%d: %d\r\n" % (i, i) for i in range(1000)) + HELLO
    yield "received-500", b"Received: from a by b; Fri, 20 Nov 2026 09:00:00 +0000\r\n" * 500 + PLAIN + b"Subject: loop\r\n" + HELLO
    yield "references-5000", with_header(b"References:" + b"".join(b"\r\n <%d@nasty.example>" % i for i in range(5000)))
    yield "subject-1000", with_subject("word " * 200)
    yield "subject-1000-no-space", with_subject("W" * 1000)
    yield "subject-1000-umlauts", with_subject("ü" * 1000)
    yield "subject-1000-emoji", with_subject("🦊" * 1000)
    yield "subject-64k", with_subject(b"s" * 65000)
    yield "subject-255-bytes-of-two", with_subject("é" * 127 + "x")
    yield "recipients-1000", with_header(b"Cc: " + b",\r\n ".join(b"Person %d <p%d@nasty.example>" % (i, i) for i in range(1000)))
    yield "from-1000", with_from(b'"' + b"Long Name " * 100 + b'" <a@nasty.example>')
    yield "address-10k", with_from(b"<" + b"a" * 10000 + b"@nasty.example>")
    yield "message-id-10k", with_header(b"Message-ID: <" + b"i" * 10000 + b"@nasty.example>")
    # -- subjects against file names and shells
    for what, subject in (
            ("path", "../../etc/passwd"), ("absolute-path", "/etc/passwd"), ("backslashes", "..\\..\\windows\\system32"),
            ("dot", "."), ("dot-dot", ".."), ("dots", "......"), ("hidden", ".bashrc"), ("slash", "/"), ("slashes", "a/b//c///d"),
            ("option", "-rf"), ("long-option", "--help"), ("dashes", "-----"), ("shell-substitution", "$(reboot)"),
            ("backticks", "`reboot`"), ("semicolon", "; rm -rf ~ ;"), ("pipe", "x | sh"), ("ampersand", "x & sh &"),
            ("redirect", "> ~/.profile"), ("glob", "* ? [a-z] {a,b}"), ("tilde", "~root"), ("quotes", "a'b\"c"),
            ("variable", "$HOME ${PATH} %PATH%"), ("history", "!! !reboot"), ("hash", "# comment"), ("percent", "%s%n%x %00 %2e%2e%2f"),
            ("windows-device", "CON"), ("windows-nul", "NUL.txt"), ("colon", "a:b:c"), ("trailing-dot", "name."), ("trailing-space", "name  "),
            ("extension-exe", "invoice.pdf.exe"), ("extension-eml", "name.eml"), ("uid-like", "message.4711.eml"),
            ("maildir-like", "name:2,S"), ("editor-backup", "name~"), ("editor-swap", ".name.swp"), ("fuse-hidden", ".fuse_hidden0000000100000001"),
            ("sql", "'); DROP TABLE messages;--"), ("html", "<script>alert(1)</script>"), ("markup", "<b>&amp;&lt;"),
            ("equals", "===="), ("underscores", "____"), ("commas", ",,,,"), ("spaces", "a     b"), ("empty-words", "=?utf-8?q??="),
            ("date-like", "2026-11-20_Eve_subject.1.eml"), ("number", "12345678901234567890"), ("control-dir", ".control"), ("one-letter", "x")):
        yield "subject-" + what, with_subject(subject)
    for what, text in (
            ("newline", "first\nsecond"), ("crlf-header", "innocent\r\nBcc: victim@nasty.example"), ("nul", "before\0after"),
            ("only-control", "\x01\x02\x03\x1b\x7f"), ("tab", "a\tb\tc"), ("escape-sequence", "\x1b[2J\x1b]0;title\x07"),
            ("slash", "a/b"), ("bidi-override", "invoice\u202efdp.exe"), ("bidi-isolates", "\u2066\u2067a\u2069\u2068b\u2069"),
            ("bidi-marks", "\u200e\u200f\u061cabc"), ("zero-width", "a\u200bb\u200cc\u200dd\ufeffe\u2060f"),
            ("only-zero-width", "\u200b\u200b\u200b"), ("soft-hyphen", "in\u00advisi\u00adble"), ("no-break-space", "a\u00a0b\u202fc"),
            ("line-separator", "a\u2028b\u2029c\u0085d"), ("only-emoji", "🦊🐙🎉"), ("emoji-family", "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈"),
            ("flags", "🇮🇹🇨🇭🇩🇪"), ("zalgo", "Z" + "\u0300\u0301\u0302\u0303\u0304" * 60 + "algo"), ("decomposed", "u\u0308bersicht cafe\u0301"),
            ("composed", "übersicht café"), ("hangul-jamo", "\u1112\u1161\u11ab"), ("singletons", "\u212b \u2126 \uf900"),
            ("compatibility", "ﬁle ① ㎏ Ⅷ"), ("fullwidth-slash", "a／b＼c"), ("fraction-slash", "1⁄2 a∕b"), ("look-alike", "раураl"),
            ("rtl", "שלום עולם مرحبا"), ("cjk", "請求書をお送りします"), ("tags", "x\U000e0041\U000e0042\U000e007f"),
            ("variation-selectors", "a\ufe0f\ufe0e\U000e0100"), ("private-use", "\ue000\uf8ff\U000f0000"), ("noncharacters", "\ufdd0\ufffe\uffff"),
            ("replacement", "\ufffd\ufffd"), ("unassigned", "\u0378\U0001ffff"), ("interlinear", "\ufff9a\ufffab\ufffb"), ("combining-only", "\u0301\u0302")):
        yield "word-" + what, with_word(text)
    # -- headers in wrong encodings
    yield "raw-utf8-subject", with_subject("Rechnung für Übersicht 請求書".encode())
    yield "raw-latin1-subject", with_subject("Größe für Müller".encode("latin-1"))
    yield "raw-shift-jis-subject", with_subject("請求書".encode("shift-jis"))
    yield "raw-invalid-utf8-subject", with_subject(b"\xff\xfe\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80 end")
    yield "raw-overlong-slash", with_subject(b"a\xc0\xafb\xe0\x80\xafc")
    yield "raw-truncated-utf8", with_subject(b"cut \xe2\x82")
    yield "raw-utf8-from", with_from("Jürgen Müller <j@nasty.example>".encode())
    yield "raw-latin1-from", with_from("Jürgen Müller <j@nasty.example>".encode("latin-1"))
    yield "raw-header-name", with_header("X-Größe: 1".encode())
    for what, word in (
            ("unknown-charset", b"=?x-klingon?B?aGVsbG8=?="), ("no-charset", b"=??B?aGVsbG8=?="), ("unknown-encoding", b"=?utf-8?X?hello?="),
            ("broken-base64", b"=?utf-8?B?aGVs!!bG8?="), ("short-base64", b"=?utf-8?B?aGVsbG8?="), ("broken-q", b"=?utf-8?Q?a=ZZb=4?="),
            ("open-word", b"=?utf-8?Q?open"), ("words-with-language", b"=?utf-8*de?Q?gr=C3=BC=C3=9Fe?="), ("spaces-inside", b"=?utf-8?Q?a b c?="),
            ("split-character", b"=?utf-8?B?4g==?= =?utf-8?B?gqw=?="), ("nested-word", b"=?utf-8?Q?=3D=3Futf-8=3FQ=3Finner=3F=3D?="),
            ("wrong-charset", b"=?us-ascii?Q?=FC=DF?="), ("utf-7", b"=?utf-7?Q?+AGEALwAuAC4ALw-?="), ("utf-16", b"=?utf-16?B?/v8AaABpAC8=?="),
            ("iso-2022-jp-unfinished", b"=?iso-2022-jp?B?GyRCJDM=?="), ("long-word", b"=?utf-8?B?" + base64.b64encode(b"long " * 400) + b"?="),
            ("many-words", b"\r\n ".join([b"=?utf-8?Q?w?="] * 2000)), ("gb18030", b"=?gb18030?B?" + base64.b64encode("订单 /".encode("gb18030")) + b"?=")):
        yield "encoded-" + what, with_subject(word)
    # -- From
    for what, value in (
            ("empty", b""), ("spaces", b"   "), ("no-address", b"Eve"), ("empty-brackets", b"<>"), ("empty-name", b'"" <eve@nasty.example>'),
            ("quotes", b'"Eve \\"the\\" Evil" <eve@nasty.example>'), ("open-quote", b'"Eve <eve@nasty.example>'), ("semicolon", b"Eve; Mallory <eve@nasty.example>"),
            ("comma", b"Evil, Eve <eve@nasty.example>"), ("group", b"Team: a@nasty.example, B <b@nasty.example>;"), ("empty-group", b"undisclosed-recipients:;"),
            ("open-group", b"Team: a@nasty.example"), ("comment", b"eve@nasty.example (Eve (nested (deep)))"), ("open-comment", b"eve@nasty.example (Eve ((("),
            ("comments-1000", b"(" * 1000 + b")" * 1000 + b" eve@nasty.example"), ("route", b"<@a.example,@b.example:eve@nasty.example>"), ("two", b"a@nasty.example, b@nasty.example"),
            ("two-at", b"a@b@nasty.example"), ("no-domain", b"eve@"), ("no-local", b"@nasty.example"), ("ip-domain", b"eve@[IPv6:2001:db8::1]"),
            ("quoted-local", b'"../../x y"@nasty.example'), ("path-name", b'"../../../etc" <eve@nasty.example>'), ("address-as-name", b'"boss@bank.example" <eve@nasty.example>'),
            ("brackets", b"Eve <<eve@nasty.example>>"), ("open-bracket", b"Eve <eve@nasty.example"), ("utf8-address", "Ева <ева@почта.example>".encode()),
            ("folded", b"Eve\r\n <eve@nasty.example>"), ("encoded-address", b"=?utf-8?Q?eve=40nasty.example?="), ("null-bytes-encoded", b"=?utf-8?Q?a=00b?= <eve@nasty.example>")):
        yield "from-" + what, with_from(value)
    # -- other headers
    yield "subject-missing", PLAIN + HELLO
    yield "subject-empty", PLAIN + b"Subject:\r\n" + HELLO
    yield "subject-twice", PLAIN + b"Subject: one\r\nSubject: two\r\n" + HELLO
    yield "from-twice", PLAIN + b"From: other@nasty.example\r\nSubject: from twice\r\n" + HELLO
    yield "from-missing", b"Subject: nobody\r\n" + HELLO
    yield "space-before-colon", PLAIN + b"Subject : spaced\r\n" + HELLO
    yield "colon-first", PLAIN + b": no name\r\nSubject: x\r\n" + HELLO
    yield "fold-first", b" folded into nothing\r\n" + PLAIN + b"Subject: x\r\n" + HELLO
    yield "fold-blank", PLAIN + b"Subject: a\r\n \r\n b\r\n" + HELLO
    yield "fold-tabs", PLAIN + b"Subject:\r\n\ttabs\r\n\t\tand tabs\r\n" + HELLO
    yield "header-without-colon", PLAIN + b"Subject: x\r\nthis is not a header\r\nX-After: y\r\n" + HELLO
    yield "upper-case-headers", (PLAIN + b"Subject: shout\r\n").upper() + HELLO
    for what, date in (("missing", None), ("empty", b""), ("garbage", b"yesterday at noon"), ("year-0", b"Sat, 01 Jan 0000 00:00:00 +0000"),
                       ("year-1969", b"Wed, 31 Dec 1969 23:59:59 +0000"), ("year-2038", b"Tue, 19 Jan 2038 03:14:08 +0000"),
                       ("year-9999", b"Fri, 31 Dec 9999 23:59:59 +0000"), ("day-99", b"Fri, 99 Foo 2026 99:99:99 +9999"), ("zone-name", b"Fri, 20 Nov 26 09:00 EST")):
        yield "date-" + what, b"From: eve@nasty.example\r\nSubject: date\r\n" + (b"Date: " + date + b"\r\n" if date is not None else b"") + HELLO
    for what, value in (("missing-brackets", b"x@y"), ("empty", b""), ("spaces", b"<a b@c d>"), ("folded", b"<a\r\n @b>"), ("two", b"<a@b> <c@d>")):
        yield "message-id-" + what, with_header(b"Message-ID: " + value)
    # -- MIME
    text = b"text/plain; charset=utf-8"
    yield "base64-broken", with_type(text, b"aGVsbG8*****\r\n=aGVs=\r\n", b"base64")
    yield "base64-one-line", with_type(text, base64.b64encode(b"x" * 30000) + b"\r\n", b"base64")
    yield "base64-no-padding", with_type(text, b"aGVsbG8\r\n", b"base64")
    yield "base64-empty", with_type(text, b"", b"base64")
    yield "base64-nul-inside", with_type(text, base64_lines(b"a\0b\r\n\0").encode().replace(b"\n", b"\r\n"), b"base64")
    yield "quoted-printable-broken", with_type(text, b"a=ZZ b= c=\r\n=\r\n==3D=0\r\n", b"quoted-printable")
    yield "encoding-unknown", with_type(text, b"hello\r\n", b"x-rot13")
    yield "encoding-binary", with_type(b"application/octet-stream", bytes(range(1, 10)) + b"\xff\xfe\r\n", b"binary")
    yield "charset-unknown", with_type(b"text/plain; charset=x-klingon", b"\xc3\xbc\xdf\r\n", b"8bit")
    yield "charset-wrong", with_type(b"text/plain; charset=utf-8", "Größe\r\n".encode("latin-1"), b"8bit")
    yield "charset-missing-8bit", with_type(b"text/plain", "Größe\r\n".encode(), b"8bit")
    yield "charset-utf-7", with_type(b"text/plain; charset=utf-7", b"+ADw-script+AD4-\r\n")
    yield "type-garbage", with_type(b";;;===", b"hello\r\n")
    yield "type-no-slash", with_type(b"text", b"hello\r\n")
    yield "type-long-parameter", with_type(b"text/plain; x=" + b"p" * 20000, b"hello\r\n")
    yield "type-parameters-1000", with_type(b"text/plain" + b"".join(b";\r\n p%d=%d" % (i, i) for i in range(1000)), b"hello\r\n")
    yield "boundary-missing", with_type(b"multipart/mixed", b"--x\r\n\r\nhello\r\n--x--\r\n")
    yield "boundary-empty", with_type(b'multipart/mixed; boundary=""', b"--\r\n\r\nhello\r\n----\r\n")
    yield "boundary-never-used", with_type(b"multipart/mixed; boundary=never", b"hello\r\n")
    yield "boundary-unterminated", with_type(b"multipart/mixed; boundary=b", b"--b\r\n\r\none\r\n--b\r\n\r\ntwo")
    yield "boundary-long", with_type(b'multipart/mixed; boundary="' + b"b" * 2000 + b'"', b"--" + b"b" * 2000 + b"\r\n\r\nx\r\n")
    yield "boundary-prefix", with_type(b"multipart/mixed; boundary=a", b"--ab\r\n\r\nx\r\n--a\r\n\r\ny\r\n--a--b\r\n--a--\r\n")
    yield "boundary-spaces", with_type(b'multipart/mixed; boundary="a b "', b"--a b \r\n\r\nx\r\n--a b --\r\n")
    yield "boundary-same-nested", with_type(b"multipart/mixed; boundary=s", b"--s\r\nContent-Type: multipart/mixed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s--\r\n--s--\r\n")
    yield "multipart-empty", with_type(b"multipart/mixed; boundary=e", b"--e--\r\n")
    yield "multipart-parts-5000", with_type(b"multipart/mixed; boundary=p", b"--p\r\n\r\nx\r\n" * 5000 + b"--p--\r\n")
    yield "multipart-base64", with_type(b"multipart/mixed; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", b"base64")
    yield "nested-multiparts-100", nested_multiparts(100, True)
    yield "nested-multiparts-2500", nested_multiparts(2500, True)
    yield "nested-multiparts-3000-open", nested_multiparts(3000, False)
    yield "nested-messages-50", nested_messages(50)
    yield "nested-messages-2000", nested_messages(2000)
    yield "message-in-base64", with_type(b"message/rfc822", base64_lines(b"Subject: in\n\nside\n").encode().replace(b"\n", b"\r\n"), b"base64")
    yield "message-empty", with_type(b"message/rfc822", b"")
    yield "message-partial", with_type(b"message/partial; id=x; number=2; total=3", b"middle\r\n")
    yield "message-external-body", with_type(b"message/external-body; access-type=local-file; name=\"/etc/passwd\"", b"Content-Type: text/plain\r\n\r\n")
    for what, name in (("path", b'"../../.ssh/authorized_keys"'), ("absolute", b'"/etc/cron.d/x"'), ("nul", b'"a\\0b.txt"'), ("empty", b'""'), ("dot-dot", b'".."'),
                       ("utf8-raw", '"Übersicht.pdf"'.encode()), ("encoded-word", b'"=?utf-8?B?w5xiZXJzaWNodC5wZGY=?="'), ("long", b'"' + b"n" * 5000 + b'.pdf"'), ("bidi", '"gpj\u202eexe.scr"'.encode())):
        yield "filename-" + what, with_header(b"MIME-Version: 1.0\r\nContent-Disposition: attachment; filename=" + name)
    yield "filename-rfc2231-pieces", with_header(b"MIME-Version: 1.0\r\nContent-Disposition: attachment; filename*0*=utf-8''%2e%2e%2f; filename*1=etc; filename*9=late")
    yield "filename-rfc2231-charset", with_header(b"MIME-Version: 1.0\r\nContent-Disposition: attachment; filename*=x-klingon'tlh'%41%2F%42")
    yield "uuencode", PLAIN + b"Subject: uu\r\n\r\nbegin 644 ../../x\r\n#86)C\r\n`\r\nend\r\n"
    yield "html-only", with_type(b"text/html; charset=utf-8", b"<html><body onload=alert(1)><img src=http://nasty.example/x.png></body></html>\r\n")
    yield "winmail", with_type(b"application/ms-tnef; name=winmail.dat", base64_lines(b"\x78\x9f\x3e\x22" + b"\1" * 50).encode().replace(b"\n", b"\r\n"), b"base64")


def nasty(dest):
    os.makedirs(dest, exist_ok=True)
    count = total = 0
    for count, (what, message) in enumerate(nasty_messages(), 1):
        with open(os.path.join(dest, "%03d-%s.eml" % (count, what)), "wb") as file:
            file.write(message)
        total += len(message)
    return count, total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("mixed", "big", "demo", "nasty"))
    parser.add_argument("dest")
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    default_count, default_seed = {"mixed": (20000, 1), "big": (100000, 2), "demo": (265, 3), "nasty": (0, 0)}[arguments.kind]
    count = default_count if arguments.count is None else arguments.count
    seed = default_seed if arguments.seed is None else arguments.seed
    if arguments.kind == "nasty":
        number, total = nasty(arguments.dest)
    else:
        maildir = (demo(arguments.dest, count, seed) if arguments.kind == "demo"
                   else bulk(arguments.kind, arguments.dest, count, seed))
        number, total = maildir.number, maildir.bytes
    print("%d messages, %d bytes" % (number, total))


if __name__ == "__main__":
    sys.exit(main())
