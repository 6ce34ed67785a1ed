/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Writes one command line (RFC 9051, 9). A literal that the server wants to be asked for splits
 * the command in parts; the session sends each after the server's "+". A file does the same; its
 * octets go between two parts. No argument can carry a line break or NUL out of its place: such a
 * command is refused as a whole.
 */
#pragma once

#include <glib.h>

/* How literals may be sent. */
typedef enum {
  COMMAND_LITERAL_SYNC,  /* wait for "+" (RFC 3501) */
  COMMAND_LITERAL_MINUS, /* {n+} up to 4,096 octets (RFC 7888) */
  COMMAND_LITERAL_PLUS,  /* {n+} always */
} CommandLiterals;

typedef struct Command Command;

/* A command that begins with @verb, sent as it is ("UID FETCH"). */
Command *command_new(CommandLiterals literals, const char *verb);
/* Wipes what it held. */
void command_free(Command *command);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Command, command_free)

/* Appends a space and @text as it is; it must be printable ASCII without braces. */
void command_raw(Command *command, const char *text);
/* Appends a space and @text as atom, quoted string or literal, whichever is needed. */
void command_string(Command *command, const char *text);
/* Appends the announcement of a literal of @size octets, which the caller sends after this part.
 * @ask: wait for "+" in any case. */
void command_file(Command *command, guint64 size, gboolean ask);
/* Appends @text directly after what is there, as command_raw checks it. */
void command_glue(Command *command, const char *text);

/* The verb, for error messages. */
const char *command_verb(const Command *command);
/* FALSE with @error (FAILED) when an argument was not acceptable. */
gboolean command_check(const Command *command, GError **error);
/* Part @index: the octets up to where a "+" or a file is due, or to the final CRLF; NULL after the
 * last. The first lacks the tag. */
const char *command_part(Command *command, guint index, gsize *size_out);

/* What is due after a part. */
typedef enum {
  COMMAND_GO = 1 << 0,   /* the server's "+" … */
  COMMAND_FILE = 1 << 1, /* … then the octets of the next file */
} CommandGap;

/* The CommandGap bits after part @index; 0 after the last. */
guint command_gap(const Command *command, guint index);
