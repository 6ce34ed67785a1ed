/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dispatch and everything but FETCH, which is in fetch.c.
 */
#include "imap/response.h"

#include <string.h>

#include "base/log.h"
#include "imap/response-internal.h"
#include "imap/utf7.h"

#define MECHANISMS_MAX 64
#define NAMESPACES_MAX 64
#define RANGES_AT_ONCE 512
#define TEXT_MAX 400

static const struct {
  const char *name;
  guint cap;
} capabilities[] = {
    {"IMAP4rev2", IMAP_CAP_IMAP4REV2},
    {"IDLE", IMAP_CAP_IDLE},
    {"NOTIFY", IMAP_CAP_NOTIFY},
    {"CONDSTORE", IMAP_CAP_CONDSTORE},
    {"QRESYNC", IMAP_CAP_QRESYNC | IMAP_CAP_CONDSTORE},
    {"ESEARCH", IMAP_CAP_ESEARCH},
    {"LIST-STATUS", IMAP_CAP_LIST_STATUS},
    {"LIST-EXTENDED", IMAP_CAP_LIST_EXTENDED},
    {"SPECIAL-USE", IMAP_CAP_SPECIAL_USE},
    {"NAMESPACE", IMAP_CAP_NAMESPACE},
    {"QUOTA", IMAP_CAP_QUOTA},
    {"COMPRESS=DEFLATE", IMAP_CAP_COMPRESS_DEFLATE},
    {"MOVE", IMAP_CAP_MOVE},
    {"UIDPLUS", IMAP_CAP_UIDPLUS},
    {"LITERAL+", IMAP_CAP_LITERAL_PLUS},
    {"ID", IMAP_CAP_ID},
    {"ENABLE", IMAP_CAP_ENABLE},
    {"SASL-IR", IMAP_CAP_SASL_IR},
    {"UNSELECT", IMAP_CAP_UNSELECT},
    {"METADATA", IMAP_CAP_METADATA},
    {"CREATE-SPECIAL-USE", IMAP_CAP_CREATE_SPECIAL_USE},
    {"ACL", IMAP_CAP_ACL},
    {"REPLACE", IMAP_CAP_REPLACE},
    {"MULTIAPPEND", IMAP_CAP_MULTIAPPEND},
};

/* What RFC 9051 makes part of the base protocol. */
#define REV2_CAPS                                                                                 \
  (IMAP_CAP_IDLE | IMAP_CAP_ESEARCH | IMAP_CAP_LIST_STATUS | IMAP_CAP_LIST_EXTENDED |             \
   IMAP_CAP_SPECIAL_USE | IMAP_CAP_NAMESPACE | IMAP_CAP_MOVE | IMAP_CAP_UIDPLUS |                 \
   IMAP_CAP_ENABLE | IMAP_CAP_SASL_IR | IMAP_CAP_UNSELECT)

static const struct {
  const char *name;
  guint attribute;
} attributes[] = {
    {"\\Noselect", IMAP_MAILBOX_NOSELECT},
    {"\\NonExistent", IMAP_MAILBOX_NOSELECT},
    {"\\Noinferiors", IMAP_MAILBOX_NOINFERIORS},
    {"\\All", IMAP_MAILBOX_ALL},
    {"\\Archive", IMAP_MAILBOX_ARCHIVE},
    {"\\Drafts", IMAP_MAILBOX_DRAFTS},
    {"\\Flagged", IMAP_MAILBOX_FLAGGED},
    {"\\Junk", IMAP_MAILBOX_JUNK},
    {"\\Spam", IMAP_MAILBOX_JUNK}, /* XLIST's word, still seen */
    {"\\Sent", IMAP_MAILBOX_SENT},
    {"\\Trash", IMAP_MAILBOX_TRASH},
    {"\\Subscribed", IMAP_MAILBOX_SUBSCRIBED},
};

ResponseReader *response_reader_new(Token *token) {
  ResponseReader *reader = g_new0(ResponseReader, 1);
  reader->token = token;
  reader->line = g_string_new(NULL);
  reader->text = g_string_new(NULL);
  reader->scratch = g_string_new(NULL);
  reader->header = g_string_new(NULL);
  reader->flag_text = g_string_new(NULL);
  reader->flag_at = g_array_new(FALSE, FALSE, sizeof(guint));
  reader->keywords = g_ptr_array_new();
  reader->facts.mechanisms = g_ptr_array_new_with_free_func(g_free);
  g_ptr_array_add(reader->facts.mechanisms, NULL);
  reader->facts.foreign = g_ptr_array_new_with_free_func(g_free);
  return reader;
}

void response_reader_free(ResponseReader *reader) {
  if (!reader)
    return;
  g_string_free(reader->line, TRUE);
  g_string_free(reader->text, TRUE);
  g_string_free(reader->scratch, TRUE);
  g_string_free(reader->header, TRUE);
  g_string_free(reader->flag_text, TRUE);
  g_array_unref(reader->flag_at);
  g_ptr_array_unref(reader->keywords);
  g_ptr_array_unref(reader->facts.mechanisms);
  g_ptr_array_unref(reader->facts.foreign);
  g_free(reader->facts.caps_text);
  g_free(reader->facts.server);
  g_free(reader->facts.prefix);
  g_free(reader);
}

ResponseFacts *response_facts(ResponseReader *reader) {
  return &reader->facts;
}

void response_forget_caps(ResponseReader *reader) {
  ResponseFacts *facts = &reader->facts;
  facts->caps_known = facts->rev1 = facts->starttls = FALSE;
  facts->login_disabled = facts->literal_minus = FALSE;
  facts->caps = 0;
  facts->append_limit = 0;
  g_ptr_array_set_size(facts->mechanisms, 0);
  g_ptr_array_add(facts->mechanisms, NULL);
  g_clear_pointer(&facts->caps_text, g_free);
}

void response_forget_selected(ResponseReader *reader) {
  memset(&reader->facts.selected, 0, sizeof reader->facts.selected);
}

void response_set_handler(ResponseReader *reader, const ImapHandler *handler, gpointer data) {
  static const ImapHandler nobody; /* all NULL */
  reader->handler = handler ? handler : &nobody;
  reader->handler_data = data;
}

/* Makes what the server wrote for people safe to show: printable UTF-8, one line, bounded. */
static const char *printable(GString *text, const char *raw) {
  g_string_truncate(text, 0);
  while (*raw == ' ')
    raw++;
  g_autofree char *valid = g_utf8_make_valid(raw, (gssize) strnlen(raw, TEXT_MAX));
  for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
    gunichar c = g_utf8_get_char(p);
    g_string_append_unichar(text, g_unichar_isprint(c) ? c : '?');
  }
  return text->str;
}

static void learn_caps(ResponseReader *reader, const char *list) {
  ResponseFacts *facts = &reader->facts;
  response_forget_caps(reader);
  facts->caps_known = TRUE;
  facts->caps_text = g_strdup(printable(reader->text, list));
  if (strlen(list) > TEXT_MAX) { /* printable() is for short texts */
    g_free(facts->caps_text);
    facts->caps_text = g_utf8_make_valid(list, -1);
    g_strdelimit(facts->caps_text, "\t\r\n\033", '?');
  }
  g_ptr_array_set_size(facts->mechanisms, 0);
  g_auto(GStrv) words = g_strsplit(list, " ", -1);
  for (char **word = words; *word; word++) {
    for (gsize i = 0; i < G_N_ELEMENTS(capabilities); i++)
      if (g_ascii_strcasecmp(*word, capabilities[i].name) == 0)
        facts->caps |= capabilities[i].cap;
    if (g_ascii_strcasecmp(*word, "IMAP4rev1") == 0)
      facts->rev1 = TRUE;
    else if (g_ascii_strcasecmp(*word, "STARTTLS") == 0)
      facts->starttls = TRUE;
    else if (g_ascii_strcasecmp(*word, "LOGINDISABLED") == 0)
      facts->login_disabled = TRUE;
    else if (g_ascii_strcasecmp(*word, "LITERAL-") == 0)
      facts->literal_minus = TRUE;
    else if (g_ascii_strncasecmp(*word, "AUTH=", 5) == 0 && facts->mechanisms->len < MECHANISMS_MAX)
      g_ptr_array_add(facts->mechanisms, g_strdup(*word + 5));
    else if (g_ascii_strncasecmp(*word, "APPENDLIMIT=", 12) == 0)
      g_ascii_string_to_unsigned(*word + 12, 10, 0, G_MAXINT64, &facts->append_limit, NULL);
  }
  if (!facts->rev1 && facts->caps & IMAP_CAP_IMAP4REV2) {
    facts->caps |= REV2_CAPS;
    facts->literal_minus = TRUE;
  }
  g_ptr_array_add(facts->mechanisms, NULL);
}

static void learn_enabled(ResponseReader *reader, const char *list) {
  g_auto(GStrv) words = g_strsplit(list, " ", -1);
  for (char **word = words; *word; word++)
    for (gsize i = 0; i < G_N_ELEMENTS(capabilities); i++)
      if (g_ascii_strcasecmp(*word, capabilities[i].name) == 0)
        reader->facts.enabled |= capabilities[i].cap;
}

static guint64 argument(const char *arguments, guint64 max) {
  guint64 number = 0;
  return g_ascii_string_to_unsigned(arguments, 10, 0, max, &number, NULL) ? number : 0;
}

/* What the code of an untagged or tagged OK tells. */
static void learn_code(ResponseReader *reader, const Response *response) {
  ImapSelected *selected = &reader->facts.selected;
  const char *code = response->code, *arguments = response->arguments;
  if (g_str_equal(code, "CAPABILITY"))
    learn_caps(reader, arguments);
  else if (g_str_equal(code, "UIDVALIDITY"))
    selected->uidvalidity = (guint32) argument(arguments, G_MAXUINT32);
  else if (g_str_equal(code, "UIDNEXT"))
    selected->uidnext = (guint32) argument(arguments, G_MAXUINT32);
  else if (g_str_equal(code, "HIGHESTMODSEQ"))
    selected->highestmodseq = argument(arguments, G_MAXINT64);
  else if (g_str_equal(code, "NOMODSEQ"))
    selected->highestmodseq = 0;
  else if (g_str_equal(code, "READ-ONLY"))
    selected->read_only = TRUE;
  else if (g_str_equal(code, "READ-WRITE"))
    selected->read_only = FALSE;
}

/* Reads the text of a status response. The whole line is taken first, because what is inside
 * brackets has no shape to rely on. */
static gboolean read_status(ResponseReader *reader, Response *response) {
  if (!token_line(reader->token, reader->line, RESPONSE_STATUS_MAX))
    return FALSE;
  char *text = reader->line->str;
  response->code = response->arguments = "";
  while (*text == ' ')
    text++;
  if (*text == '[') {
    char *code = text + 1, *end = code;
    for (gboolean inside = FALSE; *end && (inside || *end != ']'); end++)
      if (*end == '"')
        inside = !inside;
    if (!*end) { /* an odd quote: the first bracket will do */
      char *bracket = strchr(code, ']');
      end = bracket ? bracket : end;
    }
    gboolean closed = *end != '\0';
    text = closed ? end + 1 : end;
    *end = '\0';
    char *space = strchr(code, ' ');
    if (space)
      *space = '\0';
    for (char *p = code; *p; p++)
      *p = g_ascii_toupper(*p);
    response->code = code;
    response->arguments = space && closed ? space + 1 : "";
    if (response->condition == CONDITION_OK || response->condition == CONDITION_PREAUTH)
      learn_code(reader, response);
  }
  response->text = printable(reader->text, text);
  return TRUE;
}

void response_spaces(ResponseReader *reader) {
  while (token_accept(reader->token, ' ')) {
  }
}

/* LIST and LSUB, from after the word. */
static gboolean read_list(ResponseReader *reader) {
  Token *token = reader->token;
  ImapList list = {0};
  response_spaces(reader);
  if (!token_expect(token, '('))
    return FALSE;
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      break;
    char word[256];
    if (!token_word(token, TRUE, word, sizeof word))
      return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(attributes); i++)
      if (g_ascii_strcasecmp(word, attributes[i].name) == 0)
        list.attributes |= attributes[i].attribute;
  }
  response_spaces(reader);
  gboolean nil;
  if (!token_nstring(token, reader->scratch, 8, &nil))
    return FALSE;
  list.delimiter = reader->scratch->len > 0 ? reader->scratch->str[0] : '\0';
  response_spaces(reader);
  if (!token_astring(token, reader->scratch, RESPONSE_STRING_MAX))
    return FALSE;
  list.mailbox = reader->scratch->str;
  for (guint i = 0; i < reader->facts.foreign->len; i++)
    if (g_str_has_prefix(list.mailbox, reader->facts.foreign->pdata[i]))
      return token_skip_line(token);
  if (reader->handler->list && reader->scratch->len > 0) {
    gboolean utf8 = !reader->facts.rev1 && reader->facts.caps & IMAP_CAP_IMAP4REV2;
    g_autofree char *name = utf8 ? NULL : utf7_decode(list.mailbox);
    list.name = g_ascii_strcasecmp(list.mailbox, "INBOX") == 0 ? "INBOX"
                : name                                         ? name
                                                               : list.mailbox;
    reader->handler->list(&list, reader->handler_data);
  }
  return token_skip_line(token); /* extended data items */
}

static gboolean read_status_data(ResponseReader *reader) {
  Token *token = reader->token;
  ImapStatus status = {NULL, -1, -1, -1, -1, -1};
  response_spaces(reader);
  if (!token_astring(token, reader->scratch, RESPONSE_STRING_MAX))
    return FALSE;
  status.mailbox = reader->scratch->str;
  response_spaces(reader);
  if (!token_expect(token, '('))
    return FALSE;
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      break;
    char word[64];
    if (!token_word(token, TRUE, word, sizeof word))
      return FALSE;
    response_spaces(reader);
    gint64 *field = g_ascii_strcasecmp(word, "MESSAGES") == 0        ? &status.messages
                    : g_ascii_strcasecmp(word, "UIDNEXT") == 0       ? &status.uidnext
                    : g_ascii_strcasecmp(word, "UIDVALIDITY") == 0   ? &status.uidvalidity
                    : g_ascii_strcasecmp(word, "UNSEEN") == 0        ? &status.unseen
                    : g_ascii_strcasecmp(word, "HIGHESTMODSEQ") == 0 ? &status.highestmodseq
                                                                     : NULL;
    guint64 number;
    if (!field) {
      if (!token_skip_value(token))
        return FALSE;
      continue;
    }
    guint64 max = field == &status.highestmodseq ? G_MAXINT64 : G_MAXUINT32;
    if (!token_number(token, max, &number))
      return FALSE;
    *field = (gint64) number;
  }
  response_spaces(reader); /* Exchange */
  if (!token_end(token))
    return FALSE;
  if (reader->handler->status)
    reader->handler->status(&status, reader->handler_data);
  return TRUE;
}

/* One number or range of a set, in order. */
static gboolean read_range(Token *token, ImapRange *range) {
  guint64 first, last;
  if (!token_number(token, G_MAXUINT32, &first))
    return FALSE;
  last = first;
  if (token_accept(token, ':') && !token_number(token, G_MAXUINT32, &last))
    return FALSE;
  if (first == 0 || last == 0)
    return token_fail(token, "a message number 0");
  range->first = (guint32) MIN(first, last);
  range->last = (guint32) MAX(first, last);
  return TRUE;
}

static gboolean read_vanished(ResponseReader *reader) {
  Token *token = reader->token;
  gboolean earlier = FALSE;
  response_spaces(reader);
  if (token_accept(token, '(')) {
    char word[16];
    if (!token_word(token, TRUE, word, sizeof word) || !token_expect(token, ')'))
      return FALSE;
    earlier = TRUE;
    response_spaces(reader);
  }
  ImapRange ranges[RANGES_AT_ONCE];
  gsize count = 0;
  for (gboolean more = TRUE; more;) {
    if (!read_range(token, &ranges[count++]))
      return FALSE;
    more = token_accept(token, ',');
    if ((more && count < RANGES_AT_ONCE) || token_error(token))
      continue;
    if (reader->handler->vanished)
      reader->handler->vanished(ranges, count, earlier, reader->handler_data);
    count = 0;
  }
  response_spaces(reader);
  return token_end(token);
}

static gboolean found(ResponseReader *reader, const ImapRange *range) {
  ResponseFacts *facts = &reader->facts;
  if (!facts->found)
    return TRUE;
  guint64 more = (guint64) range->last - range->first + 1;
  if (facts->found->len + more > facts->found_max)
    return token_fail(reader->token, "a search result with more messages than there are");
  for (guint64 uid = range->first; uid <= range->last; uid++) {
    guint32 value = (guint32) uid;
    g_array_append_val(facts->found, value);
  }
  return TRUE;
}

static gboolean read_search(ResponseReader *reader) {
  Token *token = reader->token;
  for (;;) {
    response_spaces(reader);
    int c = token_peek(token);
    if (c == '(') { /* (MODSEQ n) */
      if (!token_skip_value(token))
        return FALSE;
      continue;
    }
    if (c == '\r' || c == '\n')
      return token_end(token);
    ImapRange range = {0};
    guint64 number;
    if (!token_number(token, G_MAXUINT32, &number))
      return FALSE;
    range.first = range.last = (guint32) number;
    if (number == 0)
      return token_fail(token, "a message number 0");
    if (!found(reader, &range))
      return FALSE;
  }
}

static gboolean read_esearch(ResponseReader *reader) {
  Token *token = reader->token;
  response_spaces(reader);
  if (token_peek(token) == '(' && !token_skip_value(token))
    return FALSE;
  for (;;) {
    response_spaces(reader);
    int c = token_peek(token);
    if (c == '\r' || c == '\n')
      return token_end(token);
    char word[64];
    if (!token_word(token, TRUE, word, sizeof word))
      return FALSE;
    if (g_ascii_strcasecmp(word, "UID") == 0)
      continue;
    response_spaces(reader);
    if (g_ascii_strcasecmp(word, "ALL") != 0) {
      if (!token_skip_value(token))
        return FALSE;
      continue;
    }
    do {
      ImapRange range = {0};
      if (!read_range(token, &range) || !found(reader, &range))
        return FALSE;
    } while (token_accept(token, ','));
  }
}

/* One namespace list: NIL or ((prefix delimiter …) …). The first prefix of the personal ones is
 * kept, all prefixes of the others. FALSE when it was not understood. */
static gboolean read_namespaces(ResponseReader *reader, gboolean personal) {
  Token *token = reader->token;
  ResponseFacts *facts = &reader->facts;
  response_spaces(reader);
  if (!token_accept(token, '('))
    return token_peek(token) != '\r' && token_peek(token) != '\n' && token_skip_value(token);
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      return TRUE;
    gboolean nil;
    if (!token_accept(token, '(') || !token_nstring(token, reader->scratch, 1024, &nil))
      return FALSE;
    g_autofree char *prefix = g_strdup(reader->scratch->str);
    response_spaces(reader);
    if (!token_nstring(token, reader->scratch, 1024, &nil))
      return FALSE;
    if (personal && !facts->prefix) {
      facts->delimiter = reader->scratch->str[0];
      facts->prefix = g_steal_pointer(&prefix);
    } else if (!personal && *prefix && facts->foreign->len < NAMESPACES_MAX &&
               !g_str_has_prefix(facts->prefix ? facts->prefix : "", prefix)) {
      g_ptr_array_add(facts->foreign, g_steal_pointer(&prefix));
    }
    while (!token_accept(token, ')')) { /* extensions */
      response_spaces(reader);
      if (token_peek(token) == ')')
        continue;
      if (!token_skip_value(token))
        return FALSE;
    }
  }
}

static gboolean read_namespace(ResponseReader *reader) {
  ResponseFacts *facts = &reader->facts;
  g_clear_pointer(&facts->prefix, g_free);
  g_ptr_array_set_size(facts->foreign, 0);
  facts->namespace_known = read_namespaces(reader, TRUE) && read_namespaces(reader, FALSE) &&
                           read_namespaces(reader, FALSE);
  return token_skip_line(reader->token);
}

static gboolean read_id(ResponseReader *reader) {
  Token *token = reader->token;
  response_spaces(reader);
  if (!token_accept(token, '('))
    return token_skip_line(token);
  g_autofree char *name = NULL, *version = NULL;
  for (guint i = 0; i < 30; i++) { /* RFC 2971 allows 30 pairs */
    response_spaces(reader);
    if (token_peek(token) == ')')
      break;
    gboolean nil;
    if (!token_nstring(token, reader->scratch, 1024, &nil))
      return FALSE;
    char **field = g_ascii_strcasecmp(reader->scratch->str, "name") == 0      ? &name
                   : g_ascii_strcasecmp(reader->scratch->str, "version") == 0 ? &version
                                                                              : NULL;
    response_spaces(reader);
    if (!token_nstring(token, reader->scratch, 1024, &nil))
      return FALSE;
    if (field && !nil) {
      g_free(*field);
      *field = g_strdup(printable(reader->text, reader->scratch->str));
    }
  }
  if (name) {
    g_free(reader->facts.server);
    reader->facts.server = version ? g_strdup_printf("%s %s", name, version) : g_strdup(name);
  }
  return token_skip_line(token);
}

static gboolean at_digit(Token *token) {
  int c = token_peek(token);
  return c >= '0' && c <= '9';
}

static gboolean read_quota(ResponseReader *reader) {
  Token *token = reader->token;
  gint64 figures[4] = {-1, -1, -1, -1}; /* used and limit of STORAGE, then of MESSAGE */
  response_spaces(reader);
  if (!token_astring(token, reader->scratch, RESPONSE_STRING_MAX))
    return FALSE;
  response_spaces(reader);
  if (!token_accept(token, '('))
    return token_skip_line(token);
  for (;;) {
    response_spaces(reader);
    if (token_accept(token, ')'))
      break;
    char word[64];
    guint64 used, limit;
    if (!token_word(token, TRUE, word, sizeof word))
      return FALSE;
    response_spaces(reader);
    if (!at_digit(token))
      return token_skip_line(token);
    if (!token_number(token, G_MAXINT64, &used))
      return FALSE;
    response_spaces(reader);
    if (!at_digit(token))
      return token_skip_line(token);
    if (!token_number(token, G_MAXINT64, &limit))
      return FALSE;
    gsize at = g_ascii_strcasecmp(word, "STORAGE") == 0   ? 0
               : g_ascii_strcasecmp(word, "MESSAGE") == 0 ? 2
                                                          : G_N_ELEMENTS(figures);
    if (at < G_N_ELEMENTS(figures)) {
      figures[at] = (gint64) used;
      figures[at + 1] = (gint64) limit;
    }
  }
  if (reader->handler->quota)
    reader->handler->quota(reader->scratch->str, figures[0], figures[1], figures[2], figures[3],
                           reader->handler_data);
  return token_skip_line(token);
}

static gboolean read_rights(ResponseReader *reader) {
  Token *token = reader->token;
  if (!reader->facts.rights)
    return token_skip_line(token);
  response_spaces(reader);
  if (!token_astring(token, reader->scratch, RESPONSE_STRING_MAX))
    return FALSE;
  response_spaces(reader);
  return token_astring(token, reader->facts.rights, RESPONSE_RIGHTS_MAX) && token_skip_line(token);
}

static gboolean read_capability(ResponseReader *reader) {
  if (!token_line(reader->token, reader->line, RESPONSE_STRING_MAX))
    return FALSE;
  learn_caps(reader, g_strstrip(reader->line->str));
  return TRUE;
}

static gboolean read_enabled(ResponseReader *reader) {
  if (!token_line(reader->token, reader->line, RESPONSE_STRING_MAX))
    return FALSE;
  learn_enabled(reader, g_strstrip(reader->line->str));
  return TRUE;
}

static const struct {
  const char *word;
  gboolean (*read)(ResponseReader *reader);
} readers[] = {
    {"LIST", read_list},         {"STATUS", read_status_data},    {"VANISHED", read_vanished},
    {"SEARCH", read_search},     {"ESEARCH", read_esearch},       {"CAPABILITY", read_capability},
    {"ENABLED", read_enabled},   {"NAMESPACE", read_namespace},   {"QUOTA", read_quota},
    {"ID", read_id},             {"MYRIGHTS", read_rights},
};

static const char *const conditions[] = {"OK", "NO", "BAD", "PREAUTH", "BYE"};

/* The Condition that @word names, or -1. */
static int condition_of(const char *word) {
  for (guint i = 0; i < G_N_ELEMENTS(conditions); i++)
    if (g_ascii_strcasecmp(word, conditions[i]) == 0)
      return (int) i;
  return -1;
}

/* "* 12 EXISTS" and its like, from the number on. */
static gboolean read_numbered(ResponseReader *reader) {
  Token *token = reader->token;
  guint64 number;
  char word[64];
  if (!token_number(token, G_MAXUINT32, &number))
    return FALSE;
  response_spaces(reader);
  if (!token_word(token, TRUE, word, sizeof word))
    return FALSE;
  guint32 n = (guint32) number;
  if (g_ascii_strcasecmp(word, "FETCH") == 0)
    return n > 0 ? fetch_read(reader, n) : token_fail(token, "a message number 0");
  if (g_ascii_strcasecmp(word, "EXISTS") == 0) {
    reader->facts.selected.exists = n;
    if (reader->handler->exists)
      reader->handler->exists(n, reader->handler_data);
  } else if (g_ascii_strcasecmp(word, "EXPUNGE") == 0) {
    if (n == 0)
      return token_fail(token, "a message number 0");
    if (reader->facts.selected.exists > 0)
      reader->facts.selected.exists--;
    if (reader->handler->expunge)
      reader->handler->expunge(n, reader->handler_data);
  }
  return token_skip_line(token);
}

static gboolean read_untagged(ResponseReader *reader, Response *response) {
  Token *token = reader->token;
  response_spaces(reader);
  if (at_digit(token))
    return read_numbered(reader);
  char word[64];
  if (token_peek(token) < 0 || !token_word(token, TRUE, word, sizeof word))
    return FALSE;
  int condition = condition_of(word);
  if (condition >= 0) {
    response->kind = RESPONSE_STATUS;
    response->condition = (Condition) condition;
    return read_status(reader, response);
  }
  for (gsize i = 0; i < G_N_ELEMENTS(readers); i++)
    if (g_ascii_strcasecmp(word, readers[i].word) == 0)
      return readers[i].read(reader);
  log_debug("skipped a response %s", word);
  return token_skip_line(token);
}

static gboolean read_tagged(ResponseReader *reader, Response *response) {
  Token *token = reader->token;
  char word[64];
  guint64 tag = 0;
  if (!token_word(token, TRUE, word, sizeof word))
    return FALSE;
  if (word[0] != 'A' || !g_ascii_string_to_unsigned(word + 1, 10, 1, G_MAXUINT32, &tag, NULL))
    return token_fail(token, "a line that is no response");
  response_spaces(reader);
  if (!token_word(token, TRUE, word, sizeof word))
    return FALSE;
  int condition = condition_of(word);
  if (condition < 0 || condition > CONDITION_BAD)
    return token_fail(token, "a tagged response without OK, NO or BAD");
  response->kind = RESPONSE_TAGGED;
  response->tag = (guint32) tag;
  response->condition = (Condition) condition;
  return read_status(reader, response);
}

gboolean response_read(ResponseReader *reader, Response *response_out) {
  Token *token = reader->token;
  *response_out = (Response){.kind = RESPONSE_DATA, .code = "", .arguments = "", .text = ""};
  if (!reader->handler)
    response_set_handler(reader, NULL, NULL);
  token_begin(token);
  int c = token_peek(token);
  if (c < 0)
    return FALSE;
  if (c == '*') {
    token_accept(token, '*');
    return read_untagged(reader, response_out);
  }
  if (c != '+')
    return read_tagged(reader, response_out);
  token_accept(token, '+');
  token_accept(token, ' ');
  response_out->kind = RESPONSE_CONTINUE;
  if (!token_line(token, reader->line, RESPONSE_STRING_MAX))
    return FALSE;
  response_out->text = reader->line->str;
  return TRUE;
}
