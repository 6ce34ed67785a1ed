/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Names in the Maildir view, as pure functions.
 *
 * A message is called there as in the plain view, less ".eml", with the flags behind: "NAME:2,FS" in
 * cur, "NAME" in new. So there is one rule for made-up names and for those that a program chose when it
 * delivered, no name needs a table, and one that a program remembers stays. What would not do as such
 * a name (a colon in it, too long, without ".eml", of this very form) is UID.UIDSPACE.emlfs instead.
 *
 * Flags are D F P R S T as everywhere, and lower-case letters for some keywords. Which is which is the
 * same in every folder and for good, so that a message that is moved keeps them. Keywords beyond
 * those have no letter and stay as they are.
 */
#pragma once

#include "engine/engine.h"

/* The name of the directory that holds the view. */
#define MAILDIR_NAME ".maildir"

/* What files in tmp are called in the plain view, where they are scratch, before their own name. */
#define MAILDIR_TMP_PREFIX ".maildir-tmp-"

/* Part of inode numbers: never reuse. */
typedef enum {
  MAILDIR_FOLDER = 0,
  MAILDIR_CUR = 1,
  MAILDIR_NEW = 2,
  MAILDIR_TMP = 3,
  MAILDIR_KEYWORDS = 4, /* the file "dovecot-keywords" */
} MaildirPart;

/* "cur", … of a part from CUR on, and back (MAILDIR_FOLDER: it is none of these). */
const char *maildir_part_name(MaildirPart part);
MaildirPart maildir_part(const char *name);

/* A set of flag letters: those of flags and keywords of a message, and back. */
typedef guint32 MaildirFlags;
MaildirFlags maildir_flags(guint flags, const char *keywords);
guint maildir_system_flags(MaildirFlags letters);
/* @keywords, less those that have a letter, with those of @letters. g_free. */
char *maildir_keywords(MaildirFlags letters, const char *keywords);

/* Which letter is which keyword, as Dovecot writes it. Static. */
const char *maildir_keywords_text(void);

/* The name of the message @msg, called @plain in the plain view, in @part (CUR or NEW). g_free. */
char *maildir_name(EngineMsg msg, const char *plain, MaildirPart part, MaildirFlags letters);

typedef struct {
  char *plain;          /* its name in the plain view, unless `msg` is set */
  EngineMsg msg;        /* of a name UID.UIDSPACE.emlfs */
  MaildirFlags letters; /* those that are known */
} MaildirParsed;
void maildir_parsed_clear(MaildirParsed *parsed);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(MaildirParsed, maildir_parsed_clear)

/* FALSE: it cannot be the name of a message. Flags may be in any order, or left out with the colon. */
gboolean maildir_parse(const char *name, MaildirParsed *parsed_out);
