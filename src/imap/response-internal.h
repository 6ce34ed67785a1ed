/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The reader's inside, shared by response.c and fetch.c.
 */
#pragma once

#include "imap/response.h"

struct ResponseReader {
  Token *token;
  ResponseFacts facts;
  const ImapHandler *handler;
  gpointer handler_data;
  /* Buffers that are used anew for every response. */
  GString *line, *text, *scratch, *header, *flag_text;
  GArray *flag_at;     /* guint: where each keyword starts in flag_text */
  GPtrArray *keywords; /* pointers into flag_text, NULL-ended */
};

/* Skips spaces: some servers put more than one, or one at the end. */
void response_spaces(ResponseReader *reader);

/* FETCH data of message @seq, from after the word on. */
gboolean fetch_read(ResponseReader *reader, guint32 seq);
