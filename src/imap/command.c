/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "imap/command.h"

#include <string.h>

#include "base/err.h"
#include "base/secret.h"

#define QUOTED_MAX 1000 /* longer strings go as literals: servers bound their lines */
#define LITERAL_MINUS_MAX 4096

typedef struct {
  GString *text;
  guint gap; /* CommandGap bits */
} Part;

struct Command {
  CommandLiterals literals;
  char *verb;
  GPtrArray *parts; /* Part, the last one open */
  gboolean ended;
  gboolean wrong;
};

static void free_text(GString *text) {
  secret_wipe(text->str, text->allocated_len);
  g_string_free(text, TRUE);
}

static void free_part(gpointer data) {
  Part *part = data;
  free_text(part->text);
  g_free(part);
}

/* Begins a part with room for @size octets, which comes after @gap. */
static GString *next_part(Command *command, guint gap, gsize size) {
  if (command->parts->len > 0)
    ((Part *) command->parts->pdata[command->parts->len - 1])->gap = gap;
  Part *part = g_new0(Part, 1);
  part->text = g_string_sized_new(size);
  g_ptr_array_add(command->parts, part);
  return part->text;
}

/* The part that is being written, with room for @size more. A growing GString leaves a copy of a
 * password behind, so it is grown here and the old memory wiped. */
static GString *open_part(Command *command, gsize size) {
  Part *part = command->parts->pdata[command->parts->len - 1];
  GString *text = part->text;
  if (text->len + size + 4 < text->allocated_len)
    return text;
  part->text = g_string_sized_new((text->len + size) * 2 + 64);
  g_string_append_len(part->text, text->str, (gssize) text->len);
  free_text(text);
  return part->text;
}

Command *command_new(CommandLiterals literals, const char *verb) {
  Command *command = g_new0(Command, 1);
  command->literals = literals;
  command->verb = g_strdup(verb);
  command->parts = g_ptr_array_new_with_free_func(free_part);
  next_part(command, 0, 240);
  command_glue(command, verb);
  return command;
}

void command_free(Command *command) {
  if (!command)
    return;
  g_ptr_array_unref(command->parts);
  g_free(command->verb);
  g_free(command);
}

void command_glue(Command *command, const char *text) {
  for (const char *p = text; *p; p++)
    if (*p < 0x20 || *p > 0x7e || *p == '{' || *p == '}')
      command->wrong = TRUE;
  g_string_append(open_part(command, strlen(text)), text);
}

void command_raw(Command *command, const char *text) {
  command_glue(command, " ");
  command_glue(command, text);
}

void command_string(Command *command, const char *text) {
  gsize length = strlen(text);
  gboolean quoted = length <= QUOTED_MAX, atom = quoted && length > 0;
  for (const char *p = text; *p; p++) {
    guchar c = (guchar) *p;
    if (c == '\r' || c == '\n')
      command->wrong = TRUE;
    if (c < 0x20 || c > 0x7e)
      quoted = atom = FALSE;
    if (strchr("(){ %*\"\\[]", *p))
      atom = FALSE;
  }
  if (g_ascii_strcasecmp(text, "NIL") == 0)
    atom = FALSE;
  GString *part = open_part(command, length * 2 + 32);
  g_string_append_c(part, ' ');
  if (atom) {
    g_string_append(part, text);
  } else if (quoted) {
    g_string_append_c(part, '"');
    for (const char *p = text; *p; p++) {
      if (*p == '"' || *p == '\\')
        g_string_append_c(part, '\\');
      g_string_append_c(part, *p);
    }
    g_string_append_c(part, '"');
  } else {
    gboolean wait = command->literals == COMMAND_LITERAL_SYNC ||
                    (command->literals == COMMAND_LITERAL_MINUS && length > LITERAL_MINUS_MAX);
    g_string_append_printf(part, "{%" G_GSIZE_FORMAT "%s}\r\n", length, wait ? "" : "+");
    if (wait)
      part = next_part(command, COMMAND_GO, length + 64);
    g_string_append_len(part, text, (gssize) length);
  }
}

void command_file(Command *command, guint64 size, gboolean ask) {
  gboolean wait = ask || command->literals == COMMAND_LITERAL_SYNC ||
                  (command->literals == COMMAND_LITERAL_MINUS && size > LITERAL_MINUS_MAX);
  g_string_append_printf(open_part(command, 40), " {%" G_GUINT64_FORMAT "%s}\r\n", size,
                         wait ? "" : "+");
  next_part(command, COMMAND_FILE | (wait ? COMMAND_GO : 0u), 64);
}

const char *command_verb(const Command *command) {
  return command->verb;
}

gboolean command_check(const Command *command, GError **error) {
  if (command->wrong)
    g_set_error(error, EML_ERROR, EML_ERROR_FAILED,
                "%s: an argument has a line break or another octet that cannot be sent",
                command->verb);
  return !command->wrong;
}

const char *command_part(Command *command, guint index, gsize *size_out) {
  if (!command->ended)
    g_string_append(open_part(command, 2), "\r\n");
  command->ended = TRUE;
  if (index >= command->parts->len)
    return NULL;
  const GString *text = ((Part *) command->parts->pdata[index])->text;
  *size_out = text->len;
  return text->str;
}

guint command_gap(const Command *command, guint index) {
  return ((Part *) command->parts->pdata[index])->gap;
}
