#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that the mailbed can do what the tests rely on.

    tests/bed/check.py [--others]      --others: Cyrus and Courier as well (downloads)

Uses a MAILBED_DIR of its own, which it removes, and free ports.
"""
import base64
import hashlib
import hmac
import imaplib
import os
import pathlib
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))
import imapcheck  # noqa: E402

MAILBED = HERE.parents[1] / "scripts" / "mailbed"
failures = 0
settings = {}


def run(script, *arguments, check=True):
    done = subprocess.run(["sh", str(script), *arguments], text=True, timeout=60,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode:
        sys.exit("%s %s: %s" % (script.name, " ".join(arguments), done.stderr))
    return done.stdout.strip()


def bed(*arguments, **options):
    return run(MAILBED, *arguments, **options)


def expect(what, truth, seen=""):
    global failures
    failures += not truth
    print("ok  " if truth else "FAIL", what, "" if truth else repr(seen), flush=True)


def where(key):
    host, port = settings[key].rsplit(":", 1)
    return host, int(port)


def refused(action, *arguments):
    """The error that the action raises, None if it succeeds."""
    try:
        action(*arguments)
    except (imaplib.IMAP4.error, OSError) as error:
        return error
    return None


def soon(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    return condition()


# --- IMAP -----------------------------------------------------------------------


def connect(user, password, key="MAILBED_IMAPS"):
    return imapcheck.connect(user, password, *where(key), settings["MAILBED_CA"],
                             starttls=key == "MAILBED_IMAP", timeout=10)


def raw():
    return imaplib.IMAP4_SSL(*where("MAILBED_IMAPS"), timeout=10,
                             ssl_context=ssl.create_default_context(cafile=settings["MAILBED_CA"]))


def login_scram(user, password):
    """RFC 5802 with SHA-256, and the server must prove that it knows the password, too."""
    first = "n=%s,r=%s" % (user, base64.b64encode(os.urandom(12)).decode())
    seen = {}

    def answer(challenge):
        challenge = challenge.decode()
        if not seen:
            seen["empty"] = True
            return ("n,," + first).encode()
        if challenge.startswith("v="):
            seen["proof"] = base64.b64decode(challenge[2:])
            return b""
        field = dict(part.split("=", 1) for part in challenge.split(","))
        key = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(field["s"]), int(field["i"]))
        last = "c=biws,r=" + field["r"]
        signed = ",".join((first, challenge, last)).encode()

        def mac(secret, text):
            return hmac.new(secret, text, "sha256").digest()

        client = mac(key, b"Client Key")
        signature = mac(hashlib.sha256(client).digest(), signed)
        seen["expected"] = mac(mac(key, b"Server Key"), signed)
        proof = bytes(a ^ b for a, b in zip(client, signature))
        return (last + ",p=" + base64.b64encode(proof).decode()).encode()

    imap = raw()
    imap.authenticate("SCRAM-SHA-256", answer)
    imap.logout()
    if seen["proof"] != seen["expected"]:
        raise imaplib.IMAP4.error("the server did not prove itself")


def check_imap(user, password):
    def plain():
        imap = raw()
        imap.authenticate("PLAIN", lambda _: ("\0%s\0%s" % (user, password)).encode())
        imap.logout()

    def login():
        answers = [user.encode(), password.encode()]
        imap = raw()
        imap.authenticate("LOGIN", lambda _: answers.pop(0))
        imap.logout()

    expect("AUTH PLAIN", refused(plain) is None, refused(plain))
    expect("AUTH LOGIN", refused(login) is None)
    expect("AUTH SCRAM-SHA-256", refused(login_scram, user, password) is None, refused(login_scram, user, password))
    expect("SCRAM with a wrong password fails", refused(login_scram, user, "wrong") is not None)
    began = time.monotonic()
    expect("LOGIN with a wrong password fails at once", refused(connect, user, "wrong") is not None
           and time.monotonic() - began < 1, time.monotonic() - began)

    clear = imaplib.IMAP4(*where("MAILBED_IMAP"), timeout=10)
    expect("no LOGIN before STARTTLS", "LOGINDISABLED" in clear.capabilities and
           "AUTH=PLAIN" not in clear.capabilities and refused(clear.login, user, password) is not None)
    expect("STARTTLS", refused(connect, user, password, "MAILBED_IMAP") is None)

    with connect(user, password) as box:
        wanted = set("CONDSTORE QRESYNC NOTIFY METADATA QUOTA MOVE IDLE COMPRESS=DEFLATE SPECIAL-USE UIDPLUS "
                     "LITERAL+ ENABLE ESEARCH NAMESPACE".split())
        expect("capabilities", wanted <= box.capabilities(), wanted - box.capabilities())
        folders = box.folders()
        expect("special-use", "\\sent" in folders["Sent"] and "\\junk" in folders["Spam"], folders)
        expect("unlimited without a quota", not box.quota(), box.quota())
        expect("METADATA", box.imap.xatom("SETMETADATA", "INBOX", '(/private/comment "x")')[0] == "OK")
        expect("NOTIFY", box.imap.xatom("NOTIFY", "SET",
               "(personal (MessageNew MessageExpunge FlagChange MailboxName))")[0] == "OK")


def check_quota(domain):
    user = "small@" + domain
    password = bed("user", user, "secret", "1048576")
    with connect(user, password) as box:
        expect("quota in KiB", box.quota()["STORAGE"][1] == 1024, box.quota())
        message = b"Subject: x\r\n\r\n" + b"y\r\n" * 250000
        box.append("INBOX", message)
        error = refused(box.append, "INBOX", message)
        expect("over quota", "OVERQUOTA" in str(error), error)
    return user


def check_folders(box):
    """What the helper itself must be able to do on every server."""
    name, other = "Projekte/Übersicht & mehr", "下書き"
    box.create(name)
    body = b"Subject: hello\r\n\r\n\xff\xfe 8 bit\r\n"
    uid = box.append(name, body, ["\\Seen"], 1234567890)
    expect("append and fetch", box.fetch_all(name) ==
           {uid: imapcheck.Message(body, len(body), 1234567890, frozenset({"\\Seen"}))}, box.fetch_all(name))
    box.store_flags(name, [uid], ["\\Flagged"], "+FLAGS")
    expect("flags", box.fetch_all(name, bodies=False)[uid].flags == {"\\Seen", "\\Flagged"})
    box.rename(name, other)
    box.create(name)
    box.move(other, [uid], name)
    expect("rename and move", not box.fetch_all(other) and [m.body for m in box.fetch_all(name).values()] == [body])
    box.expunge(name, box.uids(name))
    expect("expunge", box.status(name)["MESSAGES"] == 0)
    for folder in (name, other):
        box.delete(folder)
    expect("delete", name not in box.folders() and other not in box.folders(), box.folders())


# --- submission -------------------------------------------------------------------


def submit(user, password, sender, recipient, key="MAILBED_SUBMISSION", size=0):
    """None, or the server's "CODE TEXT" if it refuses."""
    context = ssl.create_default_context(cafile=settings["MAILBED_CA"])
    if key == "MAILBED_SUBMISSIONS":
        server = smtplib.SMTP_SSL(*where(key), context=context, timeout=10)
    else:
        server = smtplib.SMTP(*where(key), timeout=10)
        server.starttls(context=context)
    with server:
        try:
            server.login(user, password)
            text = "From: %s\r\nTo: %s\r\nSubject: to %s by %s\r\n\r\n%s" % (
                sender, recipient, recipient, key, "x" * 76 + "\r\n")
            server.sendmail(sender, [recipient], text.encode(), ["SIZE=%d" % size] if size else [])
        except smtplib.SMTPRecipientsRefused as error:
            code, reason = error.recipients[recipient]
            return "%d %s" % (code, reason.decode())
        except smtplib.SMTPResponseException as error:
            return "%d %s" % (error.smtp_code, error.smtp_error.decode())
    return None


def check_submission(user, password, full):
    domain = settings["MAILBED_DOMAIN"]
    with smtplib.SMTP(*where("MAILBED_SUBMISSION"), timeout=10) as server:
        server.ehlo()
        expect("no AUTH before STARTTLS", not server.has_extn("auth") and server.has_extn("starttls"))
        expect("and none accepted", server.docmd("AUTH", "PLAIN AGEAYgBj")[0] == 530)
    with connect(user, password) as box:
        for key in ("MAILBED_SUBMISSION", "MAILBED_SUBMISSIONS"):
            error = submit(user, password, user, user, key)
            found = soon(lambda: b"by %s" % key.encode() in b"".join(
                m.body for m in box.fetch_all("INBOX").values()))
            expect("%s: mail to oneself arrives" % key, error is None and found, error)
        # The answers that a sender must be able to tell apart
        for what, recipient, answer in (
                ("unknown user", "nobody-here@" + domain, "550 5.1.1"),
                ("full mailbox", full, "552 5.2.2"),
                ("greylisting", "greylisted@outside.test", "451 4.7.1"),
                ("rate limit", "ratelimited@outside.test", "450 4.7.1"),
                ("spam", "spamblocked@outside.test", "550 5.7.1")):
            seen = submit(user, password, user, recipient, size=500000)
            expect("%s: %s" % (what, answer), (seen or "").startswith(answer), seen)
        seen = submit(user, password, full, user)
        expect("a foreign sender: 553 5.7.1", (seen or "").startswith("553 5.7.1"), seen)
        seen = submit(user, password, user, user, size=210763777)
        expect("too large: 552 5.3.4", (seen or "").startswith("552 5.3.4"), seen)
        seen = submit(user, "wrong", user, user)
        expect("a wrong password: 535", (seen or "").startswith("535 5.7.8"), seen)

        before = len(box.uids("INBOX"))
        for local in ("unknown", "full", "large"):
            submit(user, password, user, local + "@outside.test")
        submit(user, password, user, "friend@outside.test")
        reports = soon(lambda: len(box.uids("INBOX")) == before + 3)
        text = b"".join(m.body for m in box.fetch_all("INBOX").values())
        expect("delivery reports", reports and all(
            b"Status: " + code in text for code in (b"5.1.1", b"5.2.2", b"5.3.4")), text)
        outside = pathlib.Path(settings["MAILBED_DIR"], "outside")
        kept = soon(lambda: [f for f in outside.glob("*.eml") if b"friend@outside.test" in f.read_bytes()])
        expect("other mail to outside is kept in a file", len(kept) == 1, kept)


# --- trouble ------------------------------------------------------------------------


def check_trouble(user, password):
    for kind, reason in (("expired", "expired"), ("future", "not yet valid"), ("wronghost", "mismatch"),
                         ("untrusted", "issuer"), ("good", None)):
        bed("cert", kind)
        for key in ("MAILBED_IMAPS", "MAILBED_SUBMISSIONS"):
            error = refused(connect, user, password) if key == "MAILBED_IMAPS" else \
                refused(submit, user, password, user, "x@outside.test", key)
            expect("certificate %s at %s" % (kind, key),
                   reason in str(error) if reason else error is None, error)
    box = connect(user, password)
    box.imap.sock.settimeout(1)
    bed("freeze", user)
    expect("frozen", isinstance(refused(box.imap.noop), (TimeoutError, imaplib.IMAP4.abort)))
    bed("thaw", user)
    box = connect(user, password)
    bed("die", user)
    expect("dead", refused(box.imap.noop) is not None)

    with connect(user, password) as box:
        before, uids = box.uidvalidity("INBOX"), box.uids("INBOX")
        bed("uidvalidity", user, "INBOX")
    with connect(user, password) as box:
        expect("new UIDVALIDITY, same UIDs", box.uidvalidity("INBOX") > before and box.uids("INBOX") == uids,
               (before, uids, box.uidvalidity("INBOX"), box.uids("INBOX")))
        bed("uidvalidity", user, "INBOX", "renumber")
    with connect(user, password) as box:
        after = box.uids("INBOX")
        expect("new UIDs", len(after) == len(uids) and not set(after) & set(uids), after)

        state = box.uidvalidity("INBOX"), after
    bed("crash")
    expect("crashed", refused(connect, user, password) is not None)
    bed("start")
    with connect(user, password) as box:
        expect("back with the same mail", (box.uidvalidity("INBOX"), box.uids("INBOX")) == state)
    bed("stop")
    expect("stopped", refused(connect, user, password) is not None)
    bed("start")
    with connect(user, password) as box:
        expect("started again with the same mail", (box.uidvalidity("INBOX"), box.uids("INBOX")) == state)


def check_delivery(user, password):
    with tempfile.TemporaryDirectory() as place:
        message = pathlib.Path(place, "a.eml")
        message.write_bytes(b"Subject: delivered\r\n\r\nbody\r\n")
        bed("deliver", user, "Archive", str(message))
        with connect(user, password) as box:
            bodies = [m.body for m in box.fetch_all("Archive").values()]
            expect("deliver into a folder, byte for byte", bodies == [message.read_bytes()], bodies)
        tree = pathlib.Path(place, "tree")
        for folder in ("", ".Projekte.&ANw-bersicht"):
            for part in ("cur", "new", "tmp"):
                (tree / folder / part).mkdir(parents=True)
        (tree / "cur" / "1234567890.M1P1.x:2,S").write_bytes(b"Subject: loaded\n\nbody\n")
        bed("load", user, str(tree))
        with connect(user, password) as box:
            bodies = [m.body for m in box.fetch_all("INBOX").values()]
            expect("load a tree", bodies == [b"Subject: loaded\r\n\r\nbody\r\n"] and
                   "Projekte/Übersicht" in box.folders() and not box.uids("Archive"), (bodies, box.folders()))


def check_other(name):
    script = HERE / name
    run(script, "start")
    try:
        user = "other@" + settings["MAILBED_DOMAIN"]
        password = run(script, "user", user, "secret", "2097152")
        settings.update(line.split("=", 1) for line in run(script, "env").splitlines())
        with connect(user, password, name.upper() + "_IMAPS") as box:
            print("#", name, " ".join(sorted(box.capabilities())))
            check_folders(box)
            expect("quota", box.quota()["STORAGE"][1] in (2048, 2049), box.quota())
            with tempfile.NamedTemporaryFile(suffix=".eml") as message:
                message.write(b"Subject: delivered\r\n\r\nbody\r\n")
                message.flush()
                run(script, "deliver", user, "Neues/Zeug", message.name)
            bodies = [m.body for m in box.fetch_all("Neues/Zeug").values()]
            expect("deliver", bodies == [b"Subject: delivered\r\n\r\nbody\r\n"], bodies)
    finally:
        run(script, "stop")


def main():
    os.environ["MAILBED_PORT"] = "auto"
    os.environ["MAILBED_DIR"] = tempfile.mkdtemp(prefix="mailbed-check-")
    began = time.monotonic()
    bed("start")
    print("# started in %.1f s" % (time.monotonic() - began))
    try:
        settings.update(line.split("=", 1) for line in bed("env").splitlines())
        user = "anna@" + settings["MAILBED_DOMAIN"]
        password = bed("user", user)
        check_imap(user, password)
        with connect(user, password) as box:
            check_folders(box)
        full = check_quota(settings["MAILBED_DOMAIN"])
        check_submission(user, password, full)
        check_trouble(user, password)
        check_delivery(user, password)
        if "--others" in sys.argv:
            check_other("cyrus")
            check_other("courier")
    finally:
        bed("wipe", check=False)
    left = os.listdir(os.environ["MAILBED_DIR"])
    expect("wiped", not left, left)
    shutil.rmtree(os.environ["MAILBED_DIR"])
    print("# %d failed, %.0f s" % (failures, time.monotonic() - began))
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
