/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The verbs of a session that change something on the server. What session.h says about errors,
 * threads and dead sessions holds here too. Mailboxes are named as on the wire. An argument with a
 * line break, or one that cannot be sent otherwise, is FAILED and nothing is sent. Sets are UIDs of
 * the selected mailbox, e.g. "4,7:9", at most some 8,000 octets long, which servers may limit.
 *
 * An error that ends the session leaves open whether the server has done it; the caller must look
 * before it tries again. (For a message: imap_search_message_id.)
 */
#pragma once

#include "imap/session.h"

#define IMAP_NO_DATE G_MININT64

/* A message in a file. */
typedef struct {
  guint flags;                 /* MsgFlag bits; RECENT is the server's and is left out */
  const char *const *keywords; /* NULL-ended, or NULL */
  gint64 internal_date;        /* seconds since the epoch, which is the first that servers take;
                                  IMAP_NO_DATE: the server's now */
  int fd;                      /* read by pread, not closed */
  guint64 offset, size;        /* these octets, sent as they are: the caller has seen to CRLF */
  /* @octets of @size are on their way; called often, must not use the session. NULL: none. Of
   * several messages in one command only that of the first is called, for all of them together. */
  void (*sent)(guint64 octets, gpointer data);
  gpointer sent_data;
} ImapMessage;

/* Where a message went; both 0 when the server did not tell. */
typedef struct {
  guint32 uidvalidity, uid;
} ImapAppended;

/* APPEND to @mailbox (RFC 9051 6.3.12), streamed. Returns when all is sent; several can be in
 * flight, also in the middle of other commands. The octets follow at once where the server takes a
 * literal unasked (LITERAL+, or LITERAL- up to 4,096); from 1 MiB on, and elsewhere, it is asked
 * first, so that a refusal comes before the upload. Handlers may be called meanwhile.
 *
 * The transfer may take any time, but no silence of response_ms in which nothing moves. A file that
 * cannot be read or is shorter than announced is FAILED and ends the session, so that the server
 * never stores a part. More than APPENDLIMIT is TOO_BIG, and nothing is sent. */
ImapTag imap_append_send(ImapSession *session, const char *mailbox, const ImapMessage *message,
                         GError **error);

/* imap_wait for an APPEND; *@appended_out (or NULL) is what APPENDUID told. NOT_FOUND: there is no
 * such mailbox ([TRYCREATE]); QUOTA: over quota; TOO_BIG: the message is. */
gboolean imap_append_wait(ImapSession *session, ImapTag tag, ImapAppended *appended_out,
                          GError **error);

/* MULTIAPPEND (RFC 3502): all of @messages, @count of them, by one APPEND: the server takes all or
 * none. REFUSED when IMAP_CAP_MULTIAPPEND or IMAP_CAP_LITERAL_PLUS is not offered; an empty message
 * is FAILED. Nothing is asked for, so they should be small. Else as imap_append_send. *@unread_out
 * (or NULL) is the index of the message whose file could not be read, which ended the session; else
 * @count. */
ImapTag imap_append_many_send(ImapSession *session, const char *mailbox,
                              const ImapMessage *messages, gsize count, gsize *unread_out,
                              GError **error);

/* imap_wait for an APPEND of @count messages (also 1). Their UIDs are appended to @uids_out
 * (guint32), in the order of the messages, and *@uidvalidity_out is the UIDVALIDITY of the mailbox;
 * 0 and nothing when the server did not tell, or not in a way that can be believed. Errors as for
 * imap_append_wait. */
gboolean imap_append_many_wait(ImapSession *session, ImapTag tag, gsize count,
                               guint32 *uidvalidity_out, GArray *uids_out, GError **error);

/* UID REPLACE (RFC 8508): @message takes the place of @uid of the selected mailbox, in @mailbox,
 * in one step. REFUSED when IMAP_CAP_REPLACE is not offered; else as APPEND. Waits. */
gboolean imap_replace(ImapSession *session, guint32 uid, const char *mailbox,
                      const ImapMessage *message, ImapAppended *appended_out, GError **error);

typedef enum { IMAP_STORE_ADD, IMAP_STORE_REMOVE, IMAP_STORE_SET } ImapStoreMode;

typedef struct {
  ImapStoreMode mode;
  guint flags;                 /* MsgFlag bits but RECENT */
  const char *const *keywords; /* NULL-ended, or NULL */
  gboolean silent;             /* no FETCH with the new flags; MODSEQ comes all the same */
  guint64 unchanged_since;     /* not 0: only what was not changed after this modseq (CONDSTORE) */
} ImapStore;

/* UID STORE of @set. With unchanged_since and no CONDSTORE: REFUSED. */
ImapTag imap_store_send(ImapSession *session, const char *set, const ImapStore *store,
                        GError **error);

/* imap_wait for a STORE. What unchanged_since left alone is appended to @modified_out (ImapRange;
 * or NULL), of a refusal as well; with success it is all that was left alone. */
gboolean imap_store_wait(ImapSession *session, ImapTag tag, GArray *modified_out, GError **error);

/* A message that was copied or moved. */
typedef struct {
  guint32 from, to;
} ImapCopy;

/* UID COPY of @set to @mailbox. Which UIDs they got is appended to @copies_out (ImapCopy; or NULL)
 * and *@uidvalidity_out (or NULL) is the UIDVALIDITY of @mailbox; 0 and nothing when the server
 * did not tell, or not in a way that can be believed. Errors as for APPEND. Waits. */
gboolean imap_copy(ImapSession *session, const char *set, const char *mailbox,
                   guint32 *uidvalidity_out, GArray *copies_out, GError **error);

/* UID MOVE (RFC 6851), the same. REFUSED when IMAP_CAP_MOVE is not offered: then COPY, STORE
 * \Deleted and EXPUNGE do. After a refusal some messages may have moved; they are in @copies_out as
 * far as told. The handler sees them go (EXPUNGE or VANISHED). Waits. */
gboolean imap_move(ImapSession *session, const char *set, const char *mailbox,
                   guint32 *uidvalidity_out, GArray *copies_out, GError **error);

/* UID EXPUNGE: removes those of @set that are \Deleted, and no others. REFUSED when
 * IMAP_CAP_UIDPLUS is not offered: then nothing can remove only these. Waits. */
gboolean imap_expunge(ImapSession *session, const char *set, GError **error);

/* Of mailboxes: what a server refuses without a code is NOT_FOUND or EXISTS when LIST says so. A
 * mailbox that is selected, or one above it, is left before it is deleted or renamed, where UNSELECT
 * is offered; elsewhere the server may refuse. */

/* CREATE. @use: 0 or an ImapMailboxAttribute from ALL on, given where CREATE-SPECIAL-USE is offered
 * (RFC 6154), else left out. EXISTS, INVALID, REFUSED ([NOPERM], [USEATTR] and others). Waits. */
gboolean imap_create(ImapSession *session, const char *mailbox, guint use, GError **error);
/* DELETE; with what it contains, but not its inferiors. NOT_FOUND, EXISTS ([HASCHILDREN]),
 * INVALID. Waits. */
gboolean imap_delete(ImapSession *session, const char *mailbox, GError **error);
/* RENAME, inferiors with it. NOT_FOUND, EXISTS, INVALID. Waits. */
gboolean imap_rename(ImapSession *session, const char *mailbox, const char *to, GError **error);
/* SUBSCRIBE or UNSUBSCRIBE. NOT_FOUND. Waits. */
gboolean imap_subscribe(ImapSession *session, const char *mailbox, gboolean subscribed,
                        GError **error);

/* UIDs of the messages in the selected mailbox whose Message-ID contains @message_id (with its angle
 * brackets; servers compare parts, in any case), ascending, appended to @uids_out (guint32). More
 * than some thousand is PROTOCOL. Waits. */
gboolean imap_search_message_id(ImapSession *session, const char *message_id, GArray *uids_out,
                                GError **error);

/* MYRIGHTS (RFC 4314): *@rights_out is e.g. "lrswipkxtea"; NULL when ACL is not offered or the
 * server did not tell. Free with g_free. Waits. */
gboolean imap_my_rights(ImapSession *session, const char *mailbox, char **rights_out,
                        GError **error);
