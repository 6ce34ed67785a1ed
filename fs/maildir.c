/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/maildir.h"

#include <string.h>

#define SUFFIX ".eml"
#define NUMBERED ".emlfs"
#define STEM_MOST 220 /* octets; leaves room for all letters in 255 */

static const char *const parts[] = {
    [MAILDIR_CUR] = "cur",
    [MAILDIR_NEW] = "new",
    [MAILDIR_TMP] = "tmp",
    [MAILDIR_KEYWORDS] = "dovecot-keywords",
};

/* In the order of the letters in a name. Append only: programs remember names. */
static const struct {
  char letter;
  guint flag;          /* either */
  const char *keyword; /* or */
} letters_table[] = {
    {'D', MSG_FLAG_DRAFT, NULL},    {'F', MSG_FLAG_FLAGGED, NULL}, {'P', 0, "$Forwarded"},
    {'R', MSG_FLAG_ANSWERED, NULL}, {'S', MSG_FLAG_SEEN, NULL},    {'T', MSG_FLAG_DELETED, NULL},
    {'a', 0, "$Junk"},              {'b', 0, "$NotJunk"},          {'c', 0, "$Phishing"},
    {'d', 0, "$MDNSent"},           {'e', 0, "$Important"},        {'f', 0, "$label1"},
    {'g', 0, "$label2"},            {'h', 0, "$label3"},           {'i', 0, "$label4"},
    {'j', 0, "$label5"},            {'k', 0, "$SubmitPending"},    {'l', 0, "$Submitted"},
    {'m', 0, "Junk"},               {'n', 0, "NonJunk"},
};
#define LETTERS G_N_ELEMENTS(letters_table)

const char *maildir_part_name(MaildirPart part) {
  return parts[part];
}

MaildirPart maildir_part(const char *name) {
  for (guint part = MAILDIR_CUR; part < G_N_ELEMENTS(parts); part++)
    if (g_str_equal(parts[part], name))
      return (MaildirPart) part;
  return MAILDIR_FOLDER;
}

/* ---- flags ---- */

/* Index of the letter of a keyword of @length octets, LETTERS: it has none. */
static guint keyword_letter(const char *word, gsize length) {
  guint i = 0;
  while (i < LETTERS
         && !(letters_table[i].keyword && strlen(letters_table[i].keyword) == length
              && g_ascii_strncasecmp(letters_table[i].keyword, word, length) == 0))
    i++;
  return i;
}

MaildirFlags maildir_flags(guint flags, const char *keywords) {
  MaildirFlags letters = 0;
  for (guint i = 0; i < LETTERS; i++)
    if (letters_table[i].flag & flags)
      letters |= 1u << i;
  for (const char *at = keywords; *at;) {
    gsize length = strcspn(at, " ");
    guint i = keyword_letter(at, length);
    if (i < LETTERS)
      letters |= 1u << i;
    at += length + (at[length] == ' ');
  }
  return letters;
}

guint maildir_system_flags(MaildirFlags letters) {
  guint flags = 0;
  for (guint i = 0; i < LETTERS; i++)
    if (letters & 1u << i)
      flags |= letters_table[i].flag;
  return flags;
}

static void add_word(GString *text, const char *word) {
  g_string_append_printf(text, "%s%s", text->len ? " " : "", word);
}

char *maildir_keywords(MaildirFlags letters, const char *keywords) {
  GString *text = g_string_new(NULL);
  g_auto(GStrv) words = g_strsplit(keywords, " ", -1);
  for (char **word = words; *word; word++) {
    guint i = keyword_letter(*word, strlen(*word));
    /* One that stays is written as it was, whatever its case. */
    if (**word && (i == LETTERS || letters & 1u << i))
      add_word(text, *word);
    if (i < LETTERS)
      letters &= ~(1u << i);
  }
  for (guint i = 0; i < LETTERS; i++)
    if (letters & 1u << i && letters_table[i].keyword)
      add_word(text, letters_table[i].keyword);
  return g_string_free(text, FALSE);
}

const char *maildir_keywords_text(void) {
  static gsize made;
  static char *text;
  if (g_once_init_enter(&made)) {
    GString *lines = g_string_new(NULL);
    for (guint i = 0; i < LETTERS; i++)
      if (g_ascii_islower(letters_table[i].letter))
        g_string_append_printf(lines, "%d %s\n", letters_table[i].letter - 'a',
                               letters_table[i].keyword);
    text = g_string_free(lines, FALSE);
    g_once_init_leave(&made, 1);
  }
  return text;
}

/* ---- names ---- */

/* Octets of @plain that can be the name here, 0: it cannot be. */
static gsize stem_length(const char *plain) {
  gsize length = strlen(plain);
  if (length <= strlen(SUFFIX) || !g_str_has_suffix(plain, SUFFIX) || plain[0] == '.')
    return 0;
  if (g_str_has_suffix(plain, NUMBERED SUFFIX)) /* as we name others */
    return 0;
  length -= strlen(SUFFIX);
  return length > STEM_MOST || memchr(plain, ':', length) ? 0 : length;
}

char *maildir_name(EngineMsg msg, const char *plain, MaildirPart part, MaildirFlags letters) {
  char info[4 + LETTERS] = "";
  if (part == MAILDIR_CUR) {
    gsize used = g_strlcpy(info, ":2,", sizeof info);
    for (guint i = 0; i < LETTERS; i++)
      if (letters & 1u << i)
        info[used++] = letters_table[i].letter;
  }
  gsize length = stem_length(plain);
  return length ? g_strdup_printf("%.*s%s", (int) length, plain, info)
                : g_strdup_printf("%u.%u" NUMBERED "%s", msg.uid, msg.space, info);
}

void maildir_parsed_clear(MaildirParsed *parsed) {
  g_clear_pointer(&parsed->plain, g_free);
}

/* UID.UIDSPACE.emlfs */
static gboolean parse_number(const char *stem, EngineMsg *msg_out) {
  char *end;
  if (!g_ascii_isdigit(stem[0]) || !g_str_has_suffix(stem, NUMBERED))
    return FALSE;
  guint64 uid = g_ascii_strtoull(stem, &end, 10);
  if (*end != '.' || !g_ascii_isdigit(end[1]))
    return FALSE;
  guint64 space = g_ascii_strtoull(end + 1, &end, 10);
  *msg_out = (EngineMsg){(guint32) space, (guint32) uid};
  return g_str_equal(end, NUMBERED) && uid && uid <= G_MAXUINT32 && space && space <= G_MAXUINT32;
}

gboolean maildir_parse(const char *name, MaildirParsed *parsed_out) {
  *parsed_out = (MaildirParsed){0};
  const char *colon = strchr(name, ':');
  if (name[0] == '.' || colon == name || (colon && !g_str_has_prefix(colon, ":2,")))
    return FALSE;
  for (const char *at = colon ? colon + 3 : ""; *at; at++)
    for (guint i = 0; i < LETTERS; i++)
      if (letters_table[i].letter == *at)
        parsed_out->letters |= 1u << i;
  g_autofree char *stem = colon ? g_strndup(name, (gsize) (colon - name)) : g_strdup(name);
  if (parse_number(stem, &parsed_out->msg))
    return TRUE;
  parsed_out->msg = (EngineMsg){0, 0};
  g_autofree char *plain = g_strconcat(stem, SUFFIX, NULL);
  if (!stem_length(plain))
    return FALSE;
  parsed_out->plain = g_steal_pointer(&plain);
  return TRUE;
}
