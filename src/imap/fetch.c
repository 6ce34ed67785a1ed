/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * FETCH data. A body literal passes straight from the tokenizer's buffer to the handler.
 */
#include <string.h>

#include "imap/response-internal.h"

#define KEYWORDS_MAX 4096
#define SECTION_MAX (16 * 1024)
#define QUOTED_BODY_MAX (1024 * 1024)

/* Days from 1970-01-01 to @day of @month (1 to 12) of @year, proleptic Gregorian. */
static gint64 days_from_civil(gint64 year, gint64 month, gint64 day) {
  year -= month <= 2;
  gint64 era = year / 400; /* years here are not negative */
  gint64 of_era = year - era * 400;
  gint64 of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* The number in @count digits at @text; -1 when there are others. */
static gint64 digits(const char *text, gsize count) {
  gint64 number = 0;
  for (gsize i = 0; i < count; i++) {
    if (!g_ascii_isdigit(text[i]))
      return -1;
    number = number * 10 + (text[i] - '0');
  }
  return number;
}

gboolean response_parse_date(const char *text, gsize size, gint64 *seconds_out) {
  static const char months[] = "janfebmaraprmayjunjulaugsepoctnovdec";
  static const guint8 lengths[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (size != 26 || text[2] != '-' || text[6] != '-' || text[11] != ' ' || text[14] != ':' ||
      text[17] != ':' || text[20] != ' ' || (text[21] != '+' && text[21] != '-'))
    return FALSE;
  gint64 month = 0;
  for (gint64 i = 0; i < 12 && month == 0; i++)
    if (g_ascii_strncasecmp(months + 3 * i, text + 3, 3) == 0)
      month = i + 1;
  gint64 day = text[0] == ' ' ? digits(text + 1, 1) : digits(text, 2);
  gint64 year = digits(text + 7, 4), hour = digits(text + 12, 2), minute = digits(text + 15, 2),
         second = digits(text + 18, 2), zone_hour = digits(text + 22, 2),
         zone_minute = digits(text + 24, 2);
  if (month == 0 || day < 1 || day > lengths[month - 1] || year < 1 || hour < 0 || hour > 23 ||
      minute < 0 || minute > 59 || second < 0 || second > 60 || zone_hour < 0 ||
      zone_minute < 0 || zone_minute > 59)
    return FALSE;
  if (month == 2 && day == 29 && !(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)))
    return FALSE;
  gint64 zone = (zone_hour * 60 + zone_minute) * 60;
  *seconds_out = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second -
                 (text[21] == '-' ? -zone : zone);
  return TRUE;
}

static const struct {
  const char *name;
  guint flag;
} flags[] = {
    {"Seen", MSG_FLAG_SEEN},       {"Answered", MSG_FLAG_ANSWERED}, {"Flagged", MSG_FLAG_FLAGGED},
    {"Deleted", MSG_FLAG_DELETED}, {"Draft", MSG_FLAG_DRAFT},       {"Recent", MSG_FLAG_RECENT},
};

static gboolean read_flags(ResponseReader *reader, ImapFetch *fetch) {
  Token *token = reader->token;
  g_string_truncate(reader->flag_text, 0);
  g_array_set_size(reader->flag_at, 0);
  fetch->flags = 0;
  if (!token_expect(token, '('))
    return FALSE;
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      break;
    char word[1024];
    if (!token_word(token, TRUE, word, sizeof word))
      return FALSE;
    if (word[0] == '\\') {
      for (gsize i = 0; i < G_N_ELEMENTS(flags); i++)
        if (g_ascii_strcasecmp(word + 1, flags[i].name) == 0)
          fetch->flags |= flags[i].flag;
      continue; /* other system flags mean nothing to us */
    }
    if (reader->flag_at->len >= KEYWORDS_MAX)
      return token_fail(token, "too many keywords");
    guint at = (guint) reader->flag_text->len;
    g_array_append_val(reader->flag_at, at);
    g_string_append_len(reader->flag_text, word, (gssize) strlen(word) + 1);
  }
  g_ptr_array_set_size(reader->keywords, 0);
  for (guint i = 0; i < reader->flag_at->len; i++)
    g_ptr_array_add(reader->keywords, reader->flag_text->str + g_array_index(reader->flag_at, guint, i));
  g_ptr_array_add(reader->keywords, NULL);
  fetch->keywords = (const char *const *) reader->keywords->pdata;
  fetch->have |= IMAP_FETCH_FLAGS;
  return TRUE;
}

/* "[HEADER.FIELDS (FROM)]<0>" from the bracket on; @section keeps its beginning. */
static gboolean read_section(ResponseReader *reader, char *section, gsize size,
                             guint64 *origin_out) {
  Token *token = reader->token;
  gsize length = 0, kept = 0;
  gboolean inside = FALSE;
  if (!token_expect(token, '['))
    return FALSE;
  for (int c; (c = token_peek(token)) >= 0; length++) {
    if (c == '\r' || c == '\n' || length > SECTION_MAX)
      return token_fail(token, "a section that does not end");
    token_accept(token, (char) c);
    if (c == ']' && !inside)
      break;
    if (c == '"')
      inside = !inside;
    if (kept < size - 1)
      section[kept++] = (char) c;
  }
  section[kept] = '\0';
  *origin_out = 0;
  if (token_accept(token, '<'))
    return token_number(token, G_MAXINT64, origin_out) && token_expect(token, '>');
  return token_error(token) == NULL;
}

static gboolean pass_body(const void *octets, gsize size, gpointer data) {
  ResponseReader *reader = data;
  return reader->handler->body_data(octets, size, reader->handler_data);
}

static gboolean begin_body(ResponseReader *reader, guint32 uid, guint64 origin, guint64 size) {
  const ImapHandler *handler = reader->handler;
  return handler->body_begin && handler->body_data &&
         handler->body_begin(uid, origin, size, reader->handler_data);
}

static gboolean read_body(ResponseReader *reader, ImapFetch *fetch, guint64 origin) {
  Token *token = reader->token;
  if (token_at_literal(token)) {
    guint64 size;
    if (!token_literal_size(token, &size))
      return FALSE;
    gboolean wanted = begin_body(reader, fetch->uid, origin, size);
    if (!token_literal(token, size, wanted ? pass_body : NULL, reader))
      return FALSE;
    fetch->have |= IMAP_FETCH_BODY;
    return TRUE;
  }
  gboolean nil;
  if (!token_nstring(token, reader->scratch, QUOTED_BODY_MAX, &nil))
    return FALSE;
  if (nil) {
    fetch->have |= IMAP_FETCH_BODY_NIL;
    return TRUE;
  }
  if (begin_body(reader, fetch->uid, origin, reader->scratch->len) && reader->scratch->len > 0)
    pass_body(reader->scratch->str, reader->scratch->len, reader);
  fetch->have |= IMAP_FETCH_BODY;
  return TRUE;
}

static gboolean keep_header(const void *octets, gsize size, gpointer data) {
  GString *header = data;
  g_string_append_len(header, octets, (gssize) MIN(size, RESPONSE_HEADER_MAX - header->len));
  return header->len < RESPONSE_HEADER_MAX;
}

static gboolean read_header(ResponseReader *reader, ImapFetch *fetch) {
  Token *token = reader->token;
  g_string_truncate(reader->header, 0);
  if (token_at_literal(token)) {
    guint64 size;
    if (!token_literal_size(token, &size) ||
        !token_literal(token, size, keep_header, reader->header))
      return FALSE;
  } else {
    gboolean nil;
    if (!token_nstring(token, reader->header, RESPONSE_HEADER_MAX, &nil))
      return FALSE;
    if (nil)
      return TRUE;
  }
  fetch->header = reader->header->str;
  fetch->header_size = reader->header->len;
  fetch->have |= IMAP_FETCH_HEADER;
  return TRUE;
}

static gboolean read_sectioned(ResponseReader *reader, ImapFetch *fetch) {
  char section[32];
  guint64 origin;
  if (!read_section(reader, section, sizeof section, &origin) ||
      !token_expect(reader->token, ' '))
    return FALSE;
  if (section[0] == '\0')
    return read_body(reader, fetch, origin);
  if (g_ascii_strncasecmp(section, "HEADER", 6) == 0)
    return read_header(reader, fetch);
  return token_skip_value(reader->token);
}

static gboolean read_date(ResponseReader *reader, ImapFetch *fetch) {
  gboolean nil;
  if (!token_nstring(reader->token, reader->scratch, 64, &nil))
    return FALSE;
  if (response_parse_date(reader->scratch->str, reader->scratch->len, &fetch->internal_date))
    fetch->have |= IMAP_FETCH_DATE;
  return TRUE;
}

static gboolean read_item(ResponseReader *reader, ImapFetch *fetch) {
  Token *token = reader->token;
  guint64 number;
  char name[64];
  if (!token_word(token, FALSE, name, sizeof name))
    return FALSE;
  if (token_peek(token) == '[') {
    if (g_ascii_strcasecmp(name, "BODY") == 0)
      return read_sectioned(reader, fetch);
    char section[4];
    return read_section(reader, section, sizeof section, &number) && token_expect(token, ' ') &&
           token_skip_value(token);
  }
  if (!token_expect(token, ' '))
    return FALSE;
  if (g_ascii_strcasecmp(name, "UID") == 0) {
    if (!token_number(token, G_MAXUINT32, &number))
      return FALSE;
    fetch->uid = (guint32) number;
    return number > 0 || token_fail(token, "a UID 0");
  }
  if (g_ascii_strcasecmp(name, "FLAGS") == 0)
    return read_flags(reader, fetch);
  if (g_ascii_strcasecmp(name, "RFC822.SIZE") == 0) {
    fetch->have |= IMAP_FETCH_SIZE;
    return token_number(token, G_MAXINT64, &fetch->size);
  }
  if (g_ascii_strcasecmp(name, "INTERNALDATE") == 0)
    return read_date(reader, fetch);
  if (g_ascii_strcasecmp(name, "MODSEQ") == 0) {
    fetch->have |= IMAP_FETCH_MODSEQ;
    return token_expect(token, '(') && token_number(token, G_MAXINT64, &fetch->modseq) &&
           token_expect(token, ')');
  }
  if (g_ascii_strcasecmp(name, "RFC822") == 0)
    return read_body(reader, fetch, 0);
  if (g_ascii_strcasecmp(name, "RFC822.HEADER") == 0)
    return read_header(reader, fetch);
  return token_skip_value(token);
}

gboolean fetch_read(ResponseReader *reader, guint32 seq) {
  Token *token = reader->token;
  ImapFetch fetch = {.seq = seq};
  response_spaces(reader);
  if (!token_expect(token, '('))
    return FALSE;
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      break;
    if (!read_item(reader, &fetch))
      return FALSE;
  }
  response_spaces(reader);
  if (!token_end(token))
    return FALSE;
  if (reader->handler->fetch)
    reader->handler->fetch(&fetch, reader->handler_data);
  return TRUE;
}
