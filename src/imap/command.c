/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "imap/command.h"

#include <string.h>

#include "base/err.h"
#include "base/secret.h"

#define QUOTED_MAX 1000 /* longer strings go as literals: servers bound their lines */
#define LITERAL_MINUS_MAX 4096

struct Command {
  CommandLiterals literals;
  char *verb;
  GPtrArray *parts; /* GString, the last one open */
  gboolean ended;
  gboolean wrong;
};

static void free_part(gpointer data) {
  GString *part = data;
  secret_wipe(part->str, part->allocated_len);
  g_string_free(part, TRUE);
}

/* The part that is being written, with room for @size more. A growing GString leaves a copy of a
 * password behind, so it is grown here and the old memory wiped. */
static GString *open_part(Command *command, gsize size) {
  guint last = command->parts->len - 1;
  GString *part = command->parts->pdata[last];
  if (part->len + size + 4 < part->allocated_len)
    return part;
  GString *larger = g_string_sized_new((part->len + size) * 2 + 64);
  g_string_append_len(larger, part->str, (gssize) part->len);
  free_part(part);
  command->parts->pdata[last] = larger;
  return larger;
}

Command *command_new(CommandLiterals literals, const char *verb) {
  Command *command = g_new0(Command, 1);
  command->literals = literals;
  command->verb = g_strdup(verb);
  command->parts = g_ptr_array_new_with_free_func(free_part);
  g_ptr_array_add(command->parts, g_string_sized_new(240));
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
    if (wait) {
      part = g_string_sized_new(length + 64);
      g_ptr_array_add(command->parts, part);
    }
    g_string_append_len(part, text, (gssize) length);
  }
}

void command_file(Command *command, guint64 size, gboolean ask) {
  gboolean wait = ask || command->literals == COMMAND_LITERAL_SYNC ||
                  (command->literals == COMMAND_LITERAL_MINUS && size > LITERAL_MINUS_MAX);
  g_string_append_printf(open_part(command, 40), " {%" G_GUINT64_FORMAT "%s}\r\n", size,
                         wait ? "" : "+");
  if (wait)
    g_ptr_array_add(command->parts, g_string_new(NULL));
  command->ended = TRUE;
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
  const GString *part = command->parts->pdata[index];
  *size_out = part->len;
  return part->str;
}
