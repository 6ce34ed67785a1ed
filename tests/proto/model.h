/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A mail server and a journal in memory that outlive connections, for changes that are cut off: at
 * every command the connection can end, before it was done, half done, or done but not answered. The
 * server watches that nothing is sent which is not journaled. It stands in for the real journal.
 */
#pragma once

#include "peer.h"
#include "sync/changes.h"

typedef struct {
  guint32 uid;
  char *octets;
  char *date; /* as in INTERNALDATE */
  char *flags; /* "\Seen $x" */
} ModelMail;

typedef struct {
  const char *name; /* NULL: there is none */
  guint32 uidvalidity, uidnext;
  GPtrArray *mails; /* of ModelMail, by UID */
} ModelBox;

typedef enum { CUT_BEFORE, CUT_HALF, CUT_AFTER } ModelCut;

typedef struct Journal {
  GMutex lock;
  /* the server */
  const char *caps;
  ModelBox boxes[2];
  guint refused; /* UID that may not be copied, moved or marked; 0: none */
  const char *too_much; /* octets that are over quota */
  const char *nasty;    /* octets that are refused as such */
  gboolean redates;     /* copies get a date of their own */
  guint step;    /* commands so far, but for login */
  guint cut;     /* at this one the connection ends; 0: never */
  ModelCut how;
  GString *commands; /* what came, each with ";" behind */
  /* the journal */
  GPtrArray *rows;     /* of Change */
  GHashTable *locals;  /* id of the file, which is that of the change → octets, also of copies */
  GHashTable *names;   /* "mailbox uidvalidity uid" → id of the change, or 0 */
  GString *settled;    /* "ID:outcome@UID " */
  guint written;       /* updates so far */
  guint broken;        /* this one fails; 0: none */
  guint32 unreadable;  /* file that can be opened but not read */
} Model;

/* A model with INBOX (UIDs 3, 4, 5, 7) and Target (10 and 20, of which 20 has a name; UIDNEXT 21).
 * 4, 5, 10 and 20 are alike. */
Model *model_new(const char *caps);
void model_free(Model *model);
/* A message of one line, @letter; all have the same size. */
char *model_octets(char letter);
/* Adds a row. For an upload, of a message of @letter. */
Change *model_change(Model *model, ChangeKind kind, guint32 uid, char letter);
/* Runs all that the journal has on a new connection. */
gboolean model_run(Model *model, GError **error);
/* "3a 4b" of a box, with flags if there are any: "3a(\Seen)". Free. */
char *model_text(const ModelBox *box);
/* The same without UIDs, in the order of letters. Free. */
char *model_letters(const ModelBox *box);
