/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The remote halves of changes: what the journal holds is done on the server, once. Called on the
 * thread that owns the session.
 *
 * Nothing is repeated blindly. A change is journaled as SENT before its command goes out; one that
 * is found SENT was cut off by a dropped connection or a kill, and the server is asked first: a
 * move happened when the message is no longer at its source; an upload or a copy when the target
 * holds, from target_uidnext on, a message with the same octets (of a copy: size and date) that no
 * other change has claimed. Flags and expunges are the same done twice.
 */
#pragma once

#include "imap/change.h"
#include "store/journal.h"

typedef enum {
  CHANGE_DONE,
  CHANGE_REFUSED, /* the server said NO, or it cannot be done: see the error; nothing was changed */
  CHANGE_GONE,    /* the message is no longer where it was, or its mailbox is not; of an UPLOAD that
                     replaces: the new one is there, the old one was gone (counts as done) */
} ChangeOutcome;

/* What became of a change. */
typedef struct {
  ChangeOutcome outcome;
  guint32 uidvalidity, uid; /* UPLOAD, COPY, MOVE: the message at the target; 0: not found out */
  gboolean guessed;         /* COPY, MOVE: nobody told the UID, another message may be as large and old */
  const GError *error;      /* REFUSED; valid during the call */
} ChangeResult;

typedef struct {
  /* @change is settled: the caller updates the index, then ends it in the journal. Called once for
   * each, in any order, on the session's thread; not while a command is in flight that could tell
   * more. @change is of the array given, and is not looked at afterwards. No hook may use the
   * session. */
  void (*settled)(Change *change, const ChangeResult *result, gpointer data);
  /* FLAGS: the server's word on the flags of a message, also of ones not asked for. NULL: none. */
  void (*flags)(guint32 uid, guint flags, const char *const *keywords, guint64 modseq, gpointer data);
  /* Something moves: @done of @total octets of uploads are sent. At least once a second while
   * octets flow. May be NULL. */
  void (*progress)(guint64 done, guint64 total, gpointer data);
  gpointer data;
} ChangeHooks;

/* Carries out @changes (of Change; all of one kind, with the same mailbox, UIDVALIDITY and target;
 * for FLAGS also the same add and remove sets), in order, with as few commands as can be: one UID
 * set, or pipelined APPENDs, of many messages where the server takes that. Moves a mailbox that has
 * no MOVE by COPY, STORE \Deleted and UID EXPUNGE, never expunging others; where UIDPLUS is missing
 * as well it is REFUSED. EXPUNGE sets \Deleted first. An UPLOAD that replaces uses REPLACE where
 * offered and source and target are one mailbox; else it appends, journals ARRIVED, and removes the
 * old one; if that is not to be removed, it is DONE all the same. An abandoned change is only looked
 * up: it is DONE, or REFUSED with CANCELLED; but what has ARRIVED is done to its end, for half of it
 * is neither.
 *
 * A UIDVALIDITY that is no longer that of the mailbox makes its changes GONE. With no UID told by
 * the server (no UIDPLUS) the new message is searched for; such an UPLOAD or COPY is journaled as
 * ARRIVED with no UID before. What was SENT is REFUSED when its target does not let itself be looked
 * at, though it may have been done.
 *
 * FALSE: the session is dead, or the journal cannot be written; changes that were not settled are in
 * the journal as far as they came, and a later run goes on from there. */
gboolean sync_changes(Journal *journal, ImapSession *session, GPtrArray *changes,
                      const ChangeHooks *hooks, GError **error);
