/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A pull tokenizer for IMAP responses (RFC 9051, 9) over a 64 KiB buffer of its own. Its memory
 * does not depend on what the server sends: lengths, depths, counts and the octets of a response
 * outside of literals are bounded, literals pass through in pieces. A reader that meets an octet it
 * does not expect leaves it unread, so that token_skip_line still finds the end of the response.
 *
 * The first error sticks: from then on token_peek returns -1 and every reader FALSE.
 */
#pragma once

#include <glib.h>

typedef struct Token Token;

#define TOKEN_BUFFER (64 * 1024)
#define TOKEN_LINE_MAX (32 * 1024 * 1024)   /* octets of a response outside of literals */
#define TOKEN_SKIPPED_MAX (64 * 1024 * 1024) /* literal octets a response may make us skip */
#define TOKEN_DEPTH_MAX 64

/* Gives 1 to @size octets; 0 with @error. */
typedef gsize (*TokenSource)(gpointer data, void *buffer, gsize size, GError **error);
/* Takes the next octets of a literal or string. FALSE: no more, the rest is skipped. */
typedef gboolean (*TokenSink)(const void *octets, gsize size, gpointer data);

/* A tokenizer that reads from @source. One thread. */
Token *token_new(TokenSource source, gpointer data);
void token_free(Token *token);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Token, token_free)

/* The error that stopped it, owned by @token, or NULL. */
const GError *token_error(const Token *token);
/* Stops with PROTOCOL and @text, unless stopped already. Always returns FALSE. */
gboolean token_fail(Token *token, const char *text);

/* Octets in the buffer that were not read yet. */
gsize token_buffered(const Token *token);
/* Takes them out; valid until the next call. */
const void *token_take_buffered(Token *token, gsize *size_out);

/* A new response begins here: its bounds start to count. */
void token_begin(Token *token);

/* The next octet, or -1 after an error. */
int token_peek(Token *token);
/* Reads @c if it is next. */
gboolean token_accept(Token *token, char c);
/* Reads @c, else PROTOCOL. */
gboolean token_expect(Token *token, char c);
/* Reads the end of the line: CRLF or LF. Else PROTOCOL. */
gboolean token_end(Token *token);

/* Reads a decimal number of at most @max; none there or a larger one is PROTOCOL. */
gboolean token_number(Token *token, guint64 max, guint64 *number_out);
/* Reads octets that are not space, control, parenthesis, double quote or brace into
 * @word (@size with the NUL); brackets end it too unless @brackets. An empty or longer one is
 * PROTOCOL. */
gboolean token_word(Token *token, gboolean brackets, char *word, gsize size);
/* Replaces @text by an astring (atom, quoted, literal) of at most @max octets. No NUL inside. */
gboolean token_astring(Token *token, GString *text, gsize max);
/* The same for nstring; *@nil_out tells NIL, @text is empty then. */
gboolean token_nstring(Token *token, GString *text, gsize max, gboolean *nil_out);
/* Reads the rest of the line and its end; @text keeps the first @max octets. */
gboolean token_line(Token *token, GString *text, gsize max);

/* Whether a literal or literal8 starts here. */
gboolean token_at_literal(Token *token);
/* Reads "{n}", "{n+}", "~{n}" and the line end; the octets are next. */
gboolean token_literal_size(Token *token, guint64 *size_out);
/* Reads @size octets of a literal into @sink (NULL: skip). */
gboolean token_literal(Token *token, guint64 size, TokenSink sink, gpointer data);

/* Skips one value of any kind: atom, number, string, literal, list in bounded depth. */
gboolean token_skip_value(Token *token);
/* Skips to after the end of the response, literals included. */
gboolean token_skip_line(Token *token);
