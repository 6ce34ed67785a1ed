/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Names out of headers. Each part (sender, subject) goes: field of the header, made valid UTF-8,
 * decoded by GMime, reduced to letters, digits and a few signs, composed (NFC), cut.
 *
 * Nothing here trusts its input: values are cut before they are parsed, what GMime returns is
 * checked again, and the last step lets only a short list of character classes through.
 */
#include "mime/names.h"

#include <gmime/gmime.h>
#include <string.h>

#define VALUE_MAX 4096  /* octets of a field that are looked at; a name has 200 */
#define SENDER_MAX 80   /* bytes of the sender when there is a subject, so that it shows too */
#define MARKS_MAX 3     /* combining marks kept on one letter */
#define LEVEL_MAX 255   /* NAME_MAX of Linux */

G_DEFINE_AUTOPTR_CLEANUP_FUNC(InternetAddressList, g_object_unref)

void mime_init(void) {
  static gsize once;
  if (g_once_init_enter(&once)) {
    g_mime_init();
    /* GObject makes its classes at first use; do that here, where there is one thread. */
    g_autoptr(InternetAddressList) list = internet_address_list_parse(NULL, "group: a@b;, c@d");
    (void) list;
    g_once_init_leave(&once, 1);
  }
}

/* ---- the header ---- */

/* windows-1252 of 0x80…0x9f; the five that it leaves open are dropped. */
static const guint16 windows_1252[32] = {
    0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160,
    0x2039, 0x0152, 0,      0x017d, 0,      0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022,
    0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178,
};

/* @octets as UTF-8: as they are if they are that, else read as windows-1252. */
static char *to_utf8(const char *octets, gsize size) {
  if (g_utf8_validate_len(octets, size, NULL))
    return g_strndup(octets, size);
  GString *text = g_string_sized_new(size + size / 2);
  for (gsize i = 0; i < size; i++) {
    guchar octet = (guchar) octets[i];
    gunichar character = octet >= 0x80 && octet < 0xa0 ? windows_1252[octet - 0x80] : octet;
    if (character != 0)
      g_string_append_unichar(text, character);
  }
  return g_string_free(text, FALSE);
}

/* The value of the first field @name, unfolded, without NULs, cut, in UTF-8; NULL when there is
 * none. */
static char *field(const char *header, gsize size, const char *name) {
  gsize name_length = strlen(name);
  const char *end = header + size;
  for (const char *line = header; line < end;) {
    const char *newline = memchr(line, '\n', (gsize) (end - line));
    const char *next = newline ? newline + 1 : end;
    if (newline == line || (newline == line + 1 && *line == '\r'))
      return NULL; /* the body begins */
    const char *colon = NULL;
    if ((gsize) (next - line) > name_length &&
        g_ascii_strncasecmp(line, name, name_length) == 0) {
      colon = line + name_length;
      while (colon < next && (*colon == ' ' || *colon == '\t'))
        colon++; /* RFC 5322 4.5: obsolete, but seen */
      if (colon == next || *colon != ':')
        colon = NULL;
    }
    if (!colon) {
      line = next;
      continue;
    }
    g_autoptr(GString) value = g_string_sized_new(256);
    const char *from = colon + 1;
    for (;;) {
      for (; from < next && value->len < VALUE_MAX; from++)
        if (*from != '\0' && *from != '\n' && *from != '\r')
          g_string_append_c(value, *from);
      if (next >= end || (*next != ' ' && *next != '\t') || value->len >= VALUE_MAX)
        break;
      from = next;
      newline = memchr(from, '\n', (gsize) (end - from));
      next = newline ? newline + 1 : end;
    }
    /* A cut in the middle of a character must not make all of it look like windows-1252. */
    if (value->len >= VALUE_MAX) {
      const char *valid;
      g_utf8_validate_len(value->str, value->len, &valid);
      if (value->len - (gsize) (valid - value->str) < 4)
        g_string_truncate(value, (gsize) (valid - value->str));
    }
    return to_utf8(value->str, value->len);
  }
  return NULL;
}

static char *decode_text(const char *text) {
  g_autofree char *decoded = g_mime_utils_header_decode_text(NULL, text);
  return decoded ? to_utf8(decoded, strlen(decoded)) : g_strdup("");
}

/* ---- characters ---- */

typedef enum { CHAR_KEEP, CHAR_MARK, CHAR_SPLIT, CHAR_DROP } CharKind;

/* Letters, marks and unassigned code points that show nothing (Default_Ignorable_Code_Point). */
static gboolean is_invisible(gunichar c) {
  return c == 0x034f || c == 0x115f || c == 0x1160 || c == 0x17b4 || c == 0x17b5 ||
         (c >= 0x180b && c <= 0x180f) || c == 0x3164 || c == 0xffa0 || c == 0x2800 ||
         (c >= 0x2060 && c <= 0x206f) || (c >= 0xfe00 && c <= 0xfe0f) ||
         (c >= 0xfff0 && c <= 0xfff8) || (c >= 0xe0000 && c <= 0xe0fff);
}

static CharKind kind_of(gunichar c) {
  if (c < 0x80) {
    if (g_ascii_isalnum((char) c) || c == '.' || c == '_' || c == '@' || c == '+')
      return CHAR_KEEP;
    if ((c < 0x20 && !(c >= 0x09 && c <= 0x0d)) || c == 0x7f)
      return CHAR_DROP;
    return CHAR_SPLIT; /* '-' too, so that it never stands twice */
  }
  if (is_invisible(c))
    return CHAR_DROP;
  switch (g_unichar_type(c)) {
  case G_UNICODE_LOWERCASE_LETTER:
  case G_UNICODE_MODIFIER_LETTER:
  case G_UNICODE_OTHER_LETTER:
  case G_UNICODE_TITLECASE_LETTER:
  case G_UNICODE_UPPERCASE_LETTER:
  case G_UNICODE_DECIMAL_NUMBER:
  case G_UNICODE_LETTER_NUMBER:
    return CHAR_KEEP;
  case G_UNICODE_SPACING_MARK:
  case G_UNICODE_NON_SPACING_MARK:
    return CHAR_MARK; /* many scripts cannot be read without */
  case G_UNICODE_CONTROL:
    return c == 0x85 ? CHAR_SPLIT : CHAR_DROP;
  case G_UNICODE_FORMAT:
  case G_UNICODE_ENCLOSING_MARK:
  case G_UNICODE_SURROGATE:
    return CHAR_DROP;
  default:
    return CHAR_SPLIT;
  }
}

/* Cuts @text to at most @max bytes between characters (never before a mark), then takes '-' from
 * its end. */
static void cut(GString *text, gsize max) {
  if (text->len > max) {
    const char *at = text->str + max;
    while (at > text->str &&
           (((guchar) *at & 0xc0) == 0x80 || kind_of(g_utf8_get_char(at)) == CHAR_MARK))
      at--;
    g_string_truncate(text, (gsize) (at - text->str));
  }
  while (text->len > 0 && text->str[text->len - 1] == '-')
    g_string_truncate(text, text->len - 1);
}

/* What may stand in a name, of @text (valid UTF-8). */
static GString *reduce(const char *text) {
  GString *kept = g_string_sized_new(NAME_MAX_BYTES);
  gboolean split = FALSE, ascii = TRUE;
  int marks = MARKS_MAX; /* none before the first letter */
  /* Composing may shorten, so take in more than will stay. */
  for (const char *at = text; *at && kept->len < 3 * NAME_MAX_BYTES; at = g_utf8_next_char(at)) {
    gunichar c = g_utf8_get_char(at);
    CharKind kind = kind_of(c);
    if (kind == CHAR_MARK)
      kind = split || marks >= MARKS_MAX ? CHAR_DROP : CHAR_MARK;
    if (kind == CHAR_SPLIT) {
      split = TRUE;
    } else if (kind != CHAR_DROP) {
      if (split && kept->len > 0)
        g_string_append_c(kept, '-');
      split = FALSE;
      marks = kind == CHAR_MARK ? marks + 1 : g_unichar_isalpha(c) ? 0 : MARKS_MAX;
      ascii = ascii && c < 0x80;
      g_string_append_unichar(kept, c);
    }
  }
  if (!ascii) {
    g_autofree char *composed = g_utf8_normalize(kept->str, (gssize) kept->len, G_NORMALIZE_NFC);
    g_string_assign(kept, composed ? composed : "");
  }
  return kept;
}

/* ---- parts ---- */

/* The mailbox that stands for a From: the first one, also the first of a group. */
static InternetAddress *first_address(InternetAddressList *list, guint depth) {
  int count = list ? internet_address_list_length(list) : 0;
  InternetAddress *group = NULL;
  for (int i = 0; i < count; i++) {
    InternetAddress *address = internet_address_list_get_address(list, i);
    if (INTERNET_ADDRESS_IS_MAILBOX(address))
      return address;
    InternetAddress *member =
        depth < 4 ? first_address(
                        internet_address_group_get_members(INTERNET_ADDRESS_GROUP(address)),
                        depth + 1)
                  : NULL;
    if (member && INTERNET_ADDRESS_IS_MAILBOX(member))
      return member;
    if (!group)
      group = address;
  }
  return group;
}

static GString *reduce_octets(const char *octets) {
  g_autofree char *text = to_utf8(octets, strlen(octets));
  return reduce(text);
}

static GString *sender_part(const char *value) {
  g_autoptr(InternetAddressList) list = internet_address_list_parse(NULL, value);
  InternetAddress *address = first_address(list, 0);
  if (!address) {
    /* Not an address at all; better what it says than nothing. */
    g_autofree char *text = decode_text(value);
    return reduce(text);
  }
  const char *name = internet_address_get_name(address);
  GString *part = reduce_octets(name ? name : "");
  if (part->len > 0 || !INTERNET_ADDRESS_IS_MAILBOX(address))
    return part;
  g_string_free(part, TRUE);
  const char *addr = internet_address_mailbox_get_addr(INTERNET_ADDRESS_MAILBOX(address));
  const char *at = addr ? strrchr(addr, '@') : NULL;
  g_autofree char *local = at ? g_strndup(addr, (gsize) (at - addr)) : g_strdup(addr ? addr : "");
  return reduce_octets(local);
}

static GString *subject_part(const char *value) {
  g_autofree char *text = decode_text(value);
  return reduce(text);
}

/* YYYY-MM-DD of @seconds, UTC; dates that no calendar has become the nearest that it has. */
static void append_date(GString *name, gint64 seconds) {
  const gint64 day = 24 * 60 * 60;
  gint64 days = seconds / day - (seconds % day < 0);
  days = CLAMP(days, -719162, 2932896); /* 0001-01-01 … 9999-12-31 */
  GDate date;
  g_date_clear(&date, 1);
  g_date_set_julian(&date, (guint32) (days + 719163));
  g_string_append_printf(name, "%04u-%02u-%02u", g_date_get_year(&date),
                         (guint) g_date_get_month(&date), g_date_get_day(&date));
}

char *name_for_message(const char *header, gsize size, gint64 internal_date, guint32 uid) {
  mime_init();
  g_autofree char *from = field(header, size, "From");
  g_autofree char *about = field(header, size, "Subject");
  g_autoptr(GString) sender = from ? sender_part(from) : g_string_new(NULL);
  g_autoptr(GString) subject = about ? subject_part(about) : g_string_new(NULL);
  g_autofree char *end = g_strdup_printf(".%u.eml", uid);

  GString *name = g_string_sized_new(NAME_MAX_BYTES + 1);
  append_date(name, internal_date);
  gsize room = NAME_MAX_BYTES - name->len - strlen(end);
  cut(sender, subject->len > 0 ? SENDER_MAX : room - 1);
  if (sender->len > 0) {
    g_string_append_c(name, '_');
    g_string_append_len(name, sender->str, (gssize) sender->len);
    room -= sender->len + 1;
  }
  cut(subject, room - 1);
  if (subject->len > 0) {
    g_string_append_c(name, '_');
    g_string_append_len(name, subject->str, (gssize) subject->len);
  }
  g_string_append(name, end);
  return g_string_free(name, FALSE);
}

/* ---- levels of mailbox names ---- */

char *name_for_level(const char *level) {
  if (!*level)
    return g_strdup("%00"); /* no octet of a name can be written so otherwise */
  g_autoptr(GString) name = g_string_sized_new(64);
  gsize whole = 0; /* up to here a cut of the name would split nothing */
  for (const char *at = level; *at;) {
    guchar octet = (guchar) *at;
    gunichar c = g_utf8_get_char_validated(at, -1);
    gboolean invalid = c == (gunichar) -1 || c == (gunichar) -2;
    gsize length = invalid ? 1 : (gsize) (g_utf8_next_char(at) - at);
    gboolean control = octet < 0x20 || octet == 0x7f || (!invalid && c >= 0x80 && c < 0xa0);
    if (invalid || control || octet == '/' || (octet == '.' && at == level) ||
        (octet == '%' && g_ascii_isxdigit(at[1]) && g_ascii_isxdigit(at[2])))
      for (gsize i = 0; i < length; i++)
        g_string_append_printf(name, "%%%02X", (guchar) at[i]);
    else
      g_string_append_len(name, at, (gssize) length);
    at += length;
    if (name->len <= LEVEL_MAX - 17)
      whole = name->len;
  }
  if (name->len > LEVEL_MAX) {
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, level, -1);
    g_string_truncate(name, whole);
    g_string_append_printf(name, "~%.16s", digest);
  }
  return g_string_free(g_steal_pointer(&name), FALSE);
}
