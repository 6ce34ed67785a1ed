/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One IMAP connection (RFC 9051, RFC 3501), used by one thread. Commands are sent and waited for
 * separately, so that several can be in flight; whatever the server says in between goes to the
 * handler that the owner has set. Anything the server sends is bounded and checked before a
 * handler sees it; what is not understood is skipped.
 *
 * After an error of code OFFLINE, TIMEOUT, CANCELLED, TLS or PROTOCOL the session is dead and can
 * only be closed; REFUSED, NOT_FOUND, QUOTA, BUSY, EXISTS and INVALID (the server's NO) leave it
 * usable. After TOO_BIG and FAILED imap_session_alive tells. Verbs that change something are in
 * imap/change.h.
 */
#pragma once

#include "base/secret.h"
#include "base/flags.h"
#include "net/stream.h"

typedef struct ImapSession ImapSession;

/* What the server can do, as far as we use it. */
typedef enum {
  IMAP_CAP_IMAP4REV2 = 1 << 0,
  IMAP_CAP_IDLE = 1 << 1,
  IMAP_CAP_NOTIFY = 1 << 2,
  IMAP_CAP_CONDSTORE = 1 << 3,
  IMAP_CAP_QRESYNC = 1 << 4,
  IMAP_CAP_ESEARCH = 1 << 5,
  IMAP_CAP_LIST_STATUS = 1 << 6,
  IMAP_CAP_LIST_EXTENDED = 1 << 7,
  IMAP_CAP_SPECIAL_USE = 1 << 8,
  IMAP_CAP_NAMESPACE = 1 << 9,
  IMAP_CAP_QUOTA = 1 << 10,
  IMAP_CAP_COMPRESS_DEFLATE = 1 << 11,
  IMAP_CAP_MOVE = 1 << 12,
  IMAP_CAP_UIDPLUS = 1 << 13,
  IMAP_CAP_LITERAL_PLUS = 1 << 14,
  IMAP_CAP_ID = 1 << 15,
  IMAP_CAP_ENABLE = 1 << 16,
  IMAP_CAP_SASL_IR = 1 << 17,
  IMAP_CAP_UNSELECT = 1 << 18,
  IMAP_CAP_METADATA = 1 << 19,
  IMAP_CAP_CREATE_SPECIAL_USE = 1 << 20,
  IMAP_CAP_ACL = 1 << 21,
  IMAP_CAP_REPLACE = 1 << 22,
  IMAP_CAP_MULTIAPPEND = 1 << 23,
} ImapCap;

/* Gives the secret to log in with. @again: the last one was refused, fetch anew (an expired token).
 * Returns a reference, or NULL with @error. Called on the session's thread; may block. */
typedef Secret *(*ImapSecretFn)(gboolean again, gboolean *is_token_out, gpointer data, GError **error);

typedef struct {
  StreamEndpoint endpoint;
  const char *user;
  ImapSecretFn secret;
  gpointer secret_data;
  gboolean compress;      /* ask for COMPRESS=DEFLATE where offered */
  gint64 login_ms;        /* connect, handshake and login together, e.g. 30,000 */
  gint64 response_ms;     /* longest silence while a command is under way, e.g. 30,000 */
} ImapConfig;

/* A LIST line. */
typedef struct {
  const char *mailbox; /* as the server wrote it (modified UTF-7), for use in commands */
  const char *name;    /* the same in UTF-8; invalid UTF-7 stays as it was */
  char delimiter;      /* 0: flat */
  guint attributes;    /* ImapMailboxAttribute bits */
} ImapList;

typedef enum {
  IMAP_MAILBOX_NOSELECT = 1 << 0, /* also \NonExistent */
  IMAP_MAILBOX_NOINFERIORS = 1 << 1,
  IMAP_MAILBOX_ALL = 1 << 2, /* RFC 6154 special uses from here on */
  IMAP_MAILBOX_ARCHIVE = 1 << 3,
  IMAP_MAILBOX_DRAFTS = 1 << 4,
  IMAP_MAILBOX_FLAGGED = 1 << 5,
  IMAP_MAILBOX_JUNK = 1 << 6,
  IMAP_MAILBOX_SENT = 1 << 7,
  IMAP_MAILBOX_TRASH = 1 << 8,
  IMAP_MAILBOX_SUBSCRIBED = 1 << 9,
} ImapMailboxAttribute;

/* A STATUS line; a field the server left out is -1. */
typedef struct {
  const char *mailbox; /* as the server wrote it */
  gint64 messages, uidnext, uidvalidity, unseen, highestmodseq;
} ImapStatus;

/* An inclusive range of UIDs. */
typedef struct {
  guint32 first, last;
} ImapRange;

/* A FETCH response. Pointers are valid during the callback only. */
typedef struct {
  guint32 seq;
  guint32 uid; /* 0 when the server did not say */
  guint have;  /* ImapFetchItem bits: which of the fields below were there */
  guint flags; /* MsgFlag bits */
  const char *const *keywords; /* NULL-ended, never NULL when IMAP_FETCH_FLAGS is in @have */
  guint64 size;          /* RFC822.SIZE */
  gint64 internal_date;  /* seconds since the epoch, UTC */
  guint64 modseq;
  const char *header;    /* BODY[HEADER.FIELDS …] octets, cut at 64 KiB */
  gsize header_size;
} ImapFetch;

typedef enum {
  IMAP_FETCH_FLAGS = 1 << 0,
  IMAP_FETCH_SIZE = 1 << 1,
  IMAP_FETCH_DATE = 1 << 2,
  IMAP_FETCH_MODSEQ = 1 << 3,
  IMAP_FETCH_HEADER = 1 << 4,
  IMAP_FETCH_BODY = 1 << 5,     /* a BODY[] or BODY[]<n> went to the body_* functions */
  IMAP_FETCH_BODY_NIL = 1 << 6, /* BODY[] NIL: the message is gone, this is not an empty one */
} ImapFetchItem;

/* Where untagged responses go. Any member may be NULL. Called on the session's thread from within
 * imap_wait and friends, also while a message is being sent; must not use the session. */
typedef struct {
  void (*exists)(guint32 count, gpointer data);
  void (*expunge)(guint32 seq, gpointer data);
  void (*vanished)(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data);
  /* Comes after the body_* calls of the same response. */
  void (*fetch)(const ImapFetch *fetch, gpointer data);
  /* A body literal begins: @uid is 0 when the server has not told it yet (then @fetch tells),
   * @origin is the n of BODY[]<n>, else 0; @size its octets. FALSE: skip the octets. */
  gboolean (*body_begin)(guint32 uid, guint64 origin, guint64 size, gpointer data);
  /* The next octets of it, in order. FALSE: skip the rest. */
  gboolean (*body_data)(const void *octets, gsize size, gpointer data);
  void (*list)(const ImapList *list, gpointer data);
  void (*status)(const ImapStatus *status, gpointer data);
  /* GETQUOTA answers: STORAGE in KiB, MESSAGE in messages; -1 where not told. */
  void (*quota)(const char *root, gint64 used_kib, gint64 limit_kib, gint64 used_messages,
                gint64 limit_messages, gpointer data);
} ImapHandler;

/* What SELECT or EXAMINE told. */
typedef struct {
  guint32 exists;
  guint32 uidvalidity;
  guint32 uidnext; /* 0 when not told */
  guint64 highestmodseq; /* 0: NOMODSEQ */
  gboolean read_only;
  gboolean resynced; /* QRESYNC took effect: VANISHED (EARLIER) and FETCH came to the handler */
} ImapSelected;

/* Connects, secures, logs in, asks capabilities, ID, NAMESPACE, ENABLEs QRESYNC or CONDSTORE, and
 * compresses if configured. A refused login is retried once with @again = TRUE when the secret was
 * a token. The AUTH error is one line: the server's words and what to check. */
ImapSession *imap_session_open(const ImapConfig *config, GCancellable *cancellable, GError **error);

/* Says LOGOUT without waiting and closes. *@session becomes NULL. NULL is fine. */
void imap_session_close(ImapSession **session);

/* Capabilities after login, ImapCap bits. */
guint imap_session_caps(const ImapSession *session);
/* The server's capabilities as it listed them after login, for people. Owned by the session. */
const char *imap_session_caps_text(const ImapSession *session);
/* The server's name from ID or its greeting, for people; never NULL. Owned by the session. */
const char *imap_session_server(const ImapSession *session);
/* Prefix of the personal namespace as written on the wire ("" or "INBOX.") and its delimiter. */
const char *imap_session_prefix(const ImapSession *session, char *delimiter_out);
/* APPENDLIMIT (RFC 7889) in bytes, 0 when not told. */
guint64 imap_session_append_limit(const ImapSession *session);
/* Bytes on the wire so far. */
guint64 imap_session_wire_bytes(const ImapSession *session);
/* Microseconds spent waiting for the server so far. */
gint64 imap_session_waited_us(const ImapSession *session);
/* Whether what travels is compressed. */
gboolean imap_session_compressed(const ImapSession *session);
/* FALSE once the session is dead. */
gboolean imap_session_alive(const ImapSession *session);
/* The mailbox that is selected now, as on the wire, or NULL. Owned by the session. */
const char *imap_session_selected(const ImapSession *session);
/* UIDVALIDITY of the mailbox that is selected now, 0 without one. */
guint32 imap_session_uidvalidity(const ImapSession *session);

/* Directs untagged responses to @handler (not copied, must outlive its use) with @data; NULL: drop
 * them. Set it before the command whose answers it is to see. */
void imap_session_set_handler(ImapSession *session, const ImapHandler *handler, gpointer data);

/* A command that was sent: its tag number; 0 = failed. */
typedef guint32 ImapTag;

/* Reads until the command @tag is done. Commands may be waited for in any order; one already done
 * returns at once. REFUSED carries the server's text; [NONEXISTENT] and [TRYCREATE] are
 * NOT_FOUND; [OVERQUOTA] QUOTA; [INUSE] and [UNAVAILABLE] BUSY; [ALREADYEXISTS] and
 * [HASCHILDREN] EXISTS; [CANNOT] INVALID; [TOOBIG] and [LIMIT] TOO_BIG; [EXPUNGEISSUED] with OK is
 * success. Some texts without a code count as well. */
gboolean imap_wait(ImapSession *session, ImapTag tag, GError **error);

/* Commands sent and not yet done. */
guint imap_in_flight(const ImapSession *session);

/* LIST (RFC 5258/6154 forms where offered) of all personal folders, subscribed or not, with STATUS
 * of each where LIST-STATUS is offered; answers go to the handler's list and status. Waits. */
gboolean imap_list(ImapSession *session, GError **error);

/* STATUS of one mailbox; the answer goes to the handler. */
ImapTag imap_status_send(ImapSession *session, const char *mailbox, GError **error);

/* SELECT or, with @read_only, EXAMINE. With CONDSTORE enabled; with QRESYNC and @uidvalidity and
 * @modseq not 0 as a resync (RFC 7162 3.2.5). Waits. On failure nothing is selected. A refusal
 * without a code is NOT_FOUND when LIST does not know the mailbox either. What the server says
 * about the mailbox selected before does not reach the handler from here on (with UNSELECT). */
gboolean imap_select(ImapSession *session, const char *mailbox, gboolean read_only,
                     guint32 uidvalidity, guint64 modseq, ImapSelected *selected_out, GError **error);

/* UID FETCH @set @items, both sent as they are, e.g. "1:*", "(UID FLAGS)". @modifiers, or NULL, is
 * what follows, e.g. "(CHANGEDSINCE 17 VANISHED)". */
ImapTag imap_fetch_send(ImapSession *session, const char *set, const char *items,
                        const char *modifiers, GError **error);

/* UIDs of all messages of the selected mailbox, ascending, appended to @uids_out (guint32). By
 * ESEARCH where offered. Waits. */
gboolean imap_search_all(ImapSession *session, GArray *uids_out, GError **error);

/* NOOP. Waits. */
gboolean imap_noop(ImapSession *session, GError **error);

/* GETQUOTAROOT of @mailbox; answers go to the handler's quota. Waits. */
gboolean imap_quota(ImapSession *session, const char *mailbox, GError **error);

/* NOTIFY SET for all personal mailboxes and, when one is selected, its messages (RFC 5465): changes
 * then arrive as STATUS, LIST, EXISTS, FETCH, VANISHED during imap_idle. Waits. */
gboolean imap_notify(ImapSession *session, GError **error);

/* Listens until the server said something (handlers were called), @wake_fd is readable or
 * @deadline passed, whichever is first; none of these is an error. Uses IDLE (RFC 2177) where
 * offered and @idle, else just reads (NOTIFY needs no IDLE). The server must show life: a
 * NOOP round trip is made at @deadline, and its silence is TIMEOUT. */
gboolean imap_idle(ImapSession *session, gboolean idle, int wake_fd, gint64 deadline, GError **error);
