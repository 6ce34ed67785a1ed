/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "imap/token.h"

#include <string.h>

#include "base/err.h"

struct Token {
  TokenSource source;
  gpointer source_data;
  GError *error;
  gsize at, end;     /* in `buffer` */
  guint64 base;      /* octets of the connection before the buffer's first */
  guint64 limit;     /* where this response must have ended, as an offset of the connection */
  guint64 skipped;   /* literal octets skipped in this response */
  guint8 buffer[TOKEN_BUFFER];
};

enum { ATOM = 1, BRACKET = 2 };

/* What an octet may be part of. Octets above 127 are let through: servers send raw UTF-8. */
static const guint8 classes[256] = {
    ['!'] = ATOM,           ['#' ... '\''] = ATOM,  ['*' ... 'Z'] = ATOM, ['['] = BRACKET,
    ['\\'] = ATOM,         [']'] = BRACKET,        ['^' ... 'z'] = ATOM, ['|' ... '~'] = ATOM,
    [0x80 ... 0xff] = ATOM,
};

Token *token_new(TokenSource source, gpointer data) {
  Token *token = g_malloc(sizeof *token); /* the buffer need not be cleared */
  memset(token, 0, offsetof(Token, buffer));
  token->source = source;
  token->source_data = data;
  token_begin(token);
  return token;
}

void token_free(Token *token) {
  if (!token)
    return;
  g_clear_error(&token->error);
  g_free(token);
}

const GError *token_error(const Token *token) {
  return token->error;
}

gboolean token_fail(Token *token, const char *text) {
  if (!token->error)
    token->error = g_error_new(EML_ERROR, EML_ERROR_PROTOCOL,
                               "the server broke the protocol: %s", text);
  token->at = token->end = 0;
  return FALSE;
}

gsize token_buffered(const Token *token) {
  return token->end - token->at;
}

const void *token_take_buffered(Token *token, gsize *size_out) {
  const void *octets = token->buffer + token->at;
  *size_out = token->end - token->at;
  token->at = token->end;
  return octets;
}

void token_begin(Token *token) {
  token->limit = token->base + token->at + TOKEN_LINE_MAX;
  token->skipped = 0;
}

/* Refills the empty buffer. */
static gboolean fill(Token *token) {
  if (token->error)
    return FALSE;
  token->base += token->end;
  token->at = token->end = 0;
  if (token->base >= token->limit)
    return token_fail(token, "a response without end");
  gsize got = token->source(token->source_data, token->buffer, TOKEN_BUFFER, &token->error);
  if (got == 0 && !token->error)
    return token_fail(token, "no more data");
  token->end = got;
  return got > 0;
}

int token_peek(Token *token) {
  if (G_UNLIKELY(token->at == token->end) && !fill(token))
    return -1;
  return token->buffer[token->at];
}

gboolean token_accept(Token *token, char c) {
  if (token_peek(token) != (guchar) c)
    return FALSE;
  token->at++;
  return TRUE;
}

gboolean token_expect(Token *token, char c) {
  if (G_LIKELY(token_accept(token, c)))
    return TRUE;
  char text[40];
  g_snprintf(text, sizeof text, "something else than '%c'", c);
  return token_fail(token, text);
}

gboolean token_end(Token *token) {
  token_accept(token, '\r');
  return token_accept(token, '\n') || token_fail(token, "more than expected in a line");
}

gboolean token_number(Token *token, guint64 max, guint64 *number_out) {
  guint64 number = 0;
  int digits = 0;
  for (int c; (c = token_peek(token)) >= '0' && c <= '9'; digits++) {
    guint64 digit = (guint64) (c - '0');
    if (number > (max - digit) / 10 || digit > max)
      return token_fail(token, "a number out of range");
    number = number * 10 + digit;
    token->at++;
  }
  if (digits == 0)
    return token_fail(token, "no number where one belongs");
  *number_out = number;
  return TRUE;
}

gboolean token_word(Token *token, gboolean brackets, char *word, gsize size) {
  const guint8 wanted = brackets ? ATOM | BRACKET : ATOM;
  gsize length = 0;
  while (token_peek(token) >= 0) {
    const guint8 *from = token->buffer + token->at, *stop = token->buffer + token->end, *p = from;
    while (p < stop && (classes[*p] & wanted))
      p++;
    gsize run = (gsize) (p - from);
    if (length + run >= size)
      return token_fail(token, "a word that is too long");
    memcpy(word + length, from, run);
    length += run;
    token->at += run;
    if (p < stop)
      break;
  }
  word[length] = '\0';
  return length > 0 || token_fail(token, "no word where one belongs");
}

/* After the opening quote. */
static gboolean quoted(Token *token, GString *text, gsize max) {
  for (;;) {
    int c = token_peek(token);
    if (c < 0)
      return FALSE;
    /* All up to something special at once. */
    const guint8 *from = token->buffer + token->at, *stop = token->buffer + token->end, *p = from;
    while (p < stop && *p != '"' && *p != '\\' && *p != '\r' && *p != '\n' && *p != '\0')
      p++;
    gsize run = (gsize) (p - from);
    if (text->len + run > max)
      return token_fail(token, "a string that is too long");
    g_string_append_len(text, (const char *) from, (gssize) run);
    token->at += run;
    if (p == stop)
      continue;
    if (*p == '"') {
      token->at++;
      return TRUE;
    }
    if (*p != '\\')
      return token_fail(token, "a string that does not end");
    token->at++;
    c = token_peek(token);
    if (c < 0)
      return FALSE;
    if (c == '\r' || c == '\n' || c == '\0')
      return token_fail(token, "a string that does not end");
    g_string_append_c(text, (char) c);
    token->at++;
  }
}

static gboolean append_octets(const void *octets, gsize size, gpointer data) {
  g_string_append_len(data, octets, (gssize) size);
  return TRUE;
}

gboolean token_astring(Token *token, GString *text, gsize max) {
  g_string_truncate(text, 0);
  if (token_accept(token, '"'))
    return quoted(token, text, max);
  if (token_at_literal(token)) {
    guint64 size;
    if (!token_literal_size(token, &size))
      return FALSE;
    if (size > max)
      return token_fail(token, "a string that is too long");
    if (!token_literal(token, size, append_octets, text))
      return FALSE;
    return !memchr(text->str, '\0', text->len) || token_fail(token, "a string with a NUL");
  }
  for (int c; (c = token_peek(token)) >= 0 && classes[c] != 0; token->at++) {
    if (text->len >= max)
      return token_fail(token, "a string that is too long");
    g_string_append_c(text, (char) c);
  }
  return text->len > 0 || token_fail(token, "no string where one belongs");
}

gboolean token_nstring(Token *token, GString *text, gsize max, gboolean *nil_out) {
  int c = token_peek(token);
  gboolean bare = c != '"' && !token_at_literal(token);
  if (!token_astring(token, text, max))
    return FALSE;
  *nil_out = bare && g_ascii_strcasecmp(text->str, "NIL") == 0;
  if (*nil_out)
    g_string_truncate(text, 0);
  return TRUE;
}

gboolean token_line(Token *token, GString *text, gsize max) {
  g_string_truncate(text, 0);
  for (;;) {
    if (token_peek(token) < 0)
      return FALSE;
    const guint8 *from = token->buffer + token->at;
    const guint8 *end = memchr(from, '\n', token->end - token->at);
    gsize run = end ? (gsize) (end - from) : token->end - token->at;
    gsize kept = MIN(run, max - MIN(max, text->len));
    g_string_append_len(text, (const char *) from, (gssize) kept);
    token->at += run;
    if (end) {
      token->at++;
      if (text->len > 0 && text->str[text->len - 1] == '\r')
        g_string_truncate(text, text->len - 1);
      return TRUE;
    }
  }
}

gboolean token_at_literal(Token *token) {
  int c = token_peek(token);
  return c == '{' || c == '~';
}

gboolean token_literal_size(Token *token, guint64 *size_out) {
  token_accept(token, '~');
  if (!token_expect(token, '{') || !token_number(token, G_MAXINT64, size_out))
    return FALSE;
  token_accept(token, '+');
  return token_expect(token, '}') && token_end(token);
}

gboolean token_literal(Token *token, guint64 size, TokenSink sink, gpointer data) {
  /* A literal's octets are not counted as the response's; the sum cannot overflow in practice, but
   * a server may claim what it likes. */
  token->limit = size > G_MAXUINT64 - token->limit ? G_MAXUINT64 : token->limit + size;
  while (size > 0) {
    if (token_peek(token) < 0)
      return FALSE;
    gsize piece = (gsize) MIN(size, token->end - token->at);
    if (sink && !sink(token->buffer + token->at, piece, data))
      sink = NULL;
    token->at += piece;
    size -= piece;
  }
  return TRUE;
}

static gboolean skip_literal(Token *token) {
  guint64 size;
  if (!token_literal_size(token, &size))
    return FALSE;
  token->skipped = size > TOKEN_SKIPPED_MAX ? size : token->skipped + size;
  if (token->skipped > TOKEN_SKIPPED_MAX)
    return token_fail(token, "too much data that nobody asked for");
  return token_literal(token, size, NULL, NULL);
}

static gboolean skip_quoted(Token *token) {
  for (;;) {
    int c = token_peek(token);
    if (c < 0)
      return FALSE;
    if (c == '\r' || c == '\n')
      return token_fail(token, "a string that does not end");
    token->at++;
    if (c == '"')
      return TRUE;
    if (c == '\\') {
      c = token_peek(token);
      if (c < 0)
        return FALSE;
      if (c != '\r' && c != '\n')
        token->at++;
    }
  }
}

gboolean token_skip_value(Token *token) {
  guint depth = 0;
  do {
    int c = token_peek(token);
    if (c < 0)
      return FALSE;
    if (c == '(') {
      token->at++;
      if (++depth > TOKEN_DEPTH_MAX)
        return token_fail(token, "lists that are nested too deep");
    } else if (c == ')' && depth > 0) {
      token->at++;
      depth--;
    } else if (c == '"') {
      token->at++;
      if (!skip_quoted(token))
        return FALSE;
    } else if (c == '{' || c == '~') {
      if (!skip_literal(token))
        return FALSE;
    } else if (c == ' ' && depth > 0) {
      token->at++;
    } else if (classes[c] != 0) {
      while ((c = token_peek(token)) >= 0 && classes[c] != 0)
        token->at++;
    } else {
      return token_fail(token, "a value that cannot be read");
    }
  } while (depth > 0);
  return TRUE;
}

/* A literal is told by its shape at the line's end alone: "{digits}" or "{digits+}" before CRLF. */
gboolean token_skip_line(Token *token) {
  enum { OUTSIDE, DIGITS, PLUS, CLOSED } state = OUTSIDE;
  guint64 size = 0;
  for (int c; (c = token_peek(token)) >= 0;) {
    token->at++;
    if (c == '\n') {
      if (state != CLOSED)
        return TRUE;
      token->skipped = size > TOKEN_SKIPPED_MAX ? size : token->skipped + size;
      if (token->skipped > TOKEN_SKIPPED_MAX)
        return token_fail(token, "too much data that nobody asked for");
      if (!token_literal(token, size, NULL, NULL))
        return FALSE;
      state = OUTSIDE;
    } else if (c == '{') {
      state = DIGITS;
      size = G_MAXUINT64; /* no digit yet */
    } else if (state == DIGITS && g_ascii_isdigit(c)) {
      size = size == G_MAXUINT64 ? 0 : size;
      size = MIN(size * 10 + (guint64) (c - '0'), TOKEN_SKIPPED_MAX + 1); /* large is large */
    } else if (state == DIGITS && size != G_MAXUINT64 && (c == '+' || c == '}')) {
      state = c == '+' ? PLUS : CLOSED;
    } else if (state == PLUS && c == '}') {
      state = CLOSED;
    } else if (!(state == CLOSED && c == '\r')) {
      state = OUTSIDE;
    }
  }
  return FALSE;
}
