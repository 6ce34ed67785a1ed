/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reads one IMAP response at a time. Data about messages and mailboxes goes to an ImapHandler, what
 * concerns the connection itself is kept as facts, status responses are returned.
 *
 * What carries data that a caller may act on (FETCH, LIST, STATUS, SEARCH, VANISHED, EXPUNGE) must
 * be well formed, else PROTOCOL: a folder that is missing because its line was odd looks like one
 * that was deleted. What merely informs (CAPABILITY, NAMESPACE, ID, QUOTA, status codes, unknown
 * responses) is taken as far as it is understood.
 */
#pragma once

#include "imap/session.h"
#include "imap/token.h"

#define RESPONSE_HEADER_MAX (64 * 1024)
#define RESPONSE_STRING_MAX (64 * 1024)
#define RESPONSE_STATUS_MAX (256 * 1024) /* a COPYUID is long */
#define RESPONSE_RIGHTS_MAX 256

typedef enum {
  RESPONSE_DATA,     /* untagged, handled */
  RESPONSE_STATUS,   /* untagged OK, NO, BAD, PREAUTH, BYE */
  RESPONSE_TAGGED,   /* the end of a command */
  RESPONSE_CONTINUE, /* "+" */
} ResponseKind;

typedef enum {
  CONDITION_OK,
  CONDITION_NO,
  CONDITION_BAD,
  CONDITION_PREAUTH,
  CONDITION_BYE,
} Condition;

typedef struct {
  ResponseKind kind;
  guint32 tag; /* of RESPONSE_TAGGED */
  Condition condition;
  const char *code;      /* "NONEXISTENT" in upper case; "" without one */
  const char *arguments; /* what follows it inside the brackets; "" without any, or when the line
                            was too long to keep the closing one */
  const char *text;      /* for people: one printable line; the raw text of a continuation */
} Response;

/* What the server told about itself and the connection. */
typedef struct {
  gboolean caps_known;
  guint caps; /* ImapCap bits */
  gboolean rev1, starttls, login_disabled, literal_minus;
  GPtrArray *mechanisms; /* SASL names, NULL-ended */
  char *caps_text;
  guint64 append_limit;
  guint enabled; /* ImapCap bits of ENABLED */
  char *server;  /* from ID, or NULL */
  gboolean namespace_known;
  char *prefix; /* of the first personal namespace, or NULL */
  char delimiter;
  GPtrArray *foreign; /* prefixes of others' and shared namespaces */
  ImapSelected selected; /* since response_forget_selected; exists is kept up to date */
  GArray *found;         /* guint32: where SEARCH and ESEARCH go; NULL: nowhere. Not owned */
  gsize found_max;       /* more is PROTOCOL */
  GString *rights;       /* what MYRIGHTS told; NULL: nobody asks. Not owned */
} ResponseFacts;

typedef struct ResponseReader ResponseReader;

/* @token is not owned and outlives the reader. */
ResponseReader *response_reader_new(Token *token);
void response_reader_free(ResponseReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ResponseReader, response_reader_free)

/* The facts, owned by @reader. */
ResponseFacts *response_facts(ResponseReader *reader);
/* Capabilities are unknown again, after STARTTLS and login. */
void response_forget_caps(ResponseReader *reader);
/* A mailbox is about to be selected. */
void response_forget_selected(ResponseReader *reader);
/* Where data goes; NULL: nowhere. */
void response_set_handler(ResponseReader *reader, const ImapHandler *handler, gpointer data);

/* Reads the next response. Strings in @response_out are valid until the next call. FALSE: the
 * tokenizer has stopped, token_error tells why. */
gboolean response_read(ResponseReader *reader, Response *response_out);

/* "17-Jul-1996 02:44:25 -0700", exactly 26 octets, as seconds since the epoch. Any thread. */
gboolean response_parse_date(const char *text, gsize size, gint64 *seconds_out);
