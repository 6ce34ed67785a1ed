/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Everything a server can say, through tokenizer and response reader with all handlers set. The
 * first octet of an input chooses how it is cut in pieces and what the handlers answer. What is in
 * the brackets of a status response is read as each of the codes that tell results. Besides what the
 * sanitizers see, what handlers and callers were promised is checked.
 */
#include <string.h>

#include "base/err.h"
#include "imap/code.h"
#include "imap/response.h"

int LLVMFuzzerTestOneInput(const guint8 *data, size_t size);

typedef struct {
  const guint8 *at;
  gsize left, piece;
  gboolean want;
  guint64 body_left; /* of the literal that began last */
  guint64 sum;       /* keeps the compiler from dropping reads */
} Input;

static gsize source(gpointer data, void *buffer, gsize size, GError **error) {
  Input *input = data;
  gsize count = MIN(MIN(size, input->left), input->piece);
  if (count == 0) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_OFFLINE, "end");
    return 0;
  }
  memcpy(buffer, input->at, count);
  input->at += count;
  input->left -= count;
  return count;
}

static void on_number(guint32 number, gpointer data) {
  ((Input *) data)->sum += number;
}

static void on_vanished(const ImapRange *ranges, gsize count, gboolean earlier, gpointer data) {
  g_assert_cmpuint(count, >, 0);
  for (gsize i = 0; i < count; i++) {
    g_assert_cmpuint(ranges[i].first, >, 0);
    g_assert_cmpuint(ranges[i].first, <=, ranges[i].last);
  }
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  Input *input = data;
  g_assert_cmpuint(fetch->seq, >, 0);
  if (fetch->have & IMAP_FETCH_FLAGS)
    for (const char *const *keyword = fetch->keywords; *keyword; keyword++)
      input->sum += strlen(*keyword);
  if (fetch->have & IMAP_FETCH_HEADER) {
    g_assert_cmpuint(fetch->header_size, <=, RESPONSE_HEADER_MAX);
    for (gsize i = 0; i < fetch->header_size; i++)
      input->sum += (guchar) fetch->header[i];
  }
}

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  Input *input = data;
  input->body_left = size;
  return input->want;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  Input *input = data;
  g_assert_cmpuint(size, >, 0);
  g_assert_cmpuint(size, <=, input->body_left);
  input->body_left -= size;
  for (gsize i = 0; i < size; i++)
    input->sum += ((const guchar *) octets)[i];
  return size % 7 != 0;
}

static void on_list(const ImapList *list, gpointer data) {
  g_assert_cmpuint(strlen(list->mailbox), >, 0);
  ((Input *) data)->sum += strlen(list->name);
}

static void on_status(const ImapStatus *status, gpointer data) {
  ((Input *) data)->sum += strlen(status->mailbox);
  g_assert_cmpint(status->uidnext, >=, -1);
  g_assert_cmpint(status->highestmodseq, >=, -1);
}

static void on_quota(const char *root, gint64 used_kib, gint64 limit_kib, gint64 used_messages,
                     gint64 limit_messages, gpointer data) {
  ((Input *) data)->sum += strlen(root);
  g_assert_cmpint(limit_kib, >=, -1);
}

static void read_code(const char *arguments) {
  g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  g_autoptr(GArray) pairs = g_array_new(FALSE, FALSE, sizeof(ImapCopy));
  ImapAppended appended = {0};
  guint32 uidvalidity = 0;
  gboolean ok = code_set(arguments, ranges);
  g_assert_cmpint(ok, ==, ranges->len > 0);
  for (guint i = 0; i < ranges->len; i++) {
    const ImapRange *range = &g_array_index(ranges, ImapRange, i);
    g_assert_true(range->first > 0 && range->first <= range->last);
  }
  ok = code_append_uid(arguments, &appended);
  g_assert_true(ok == (appended.uid > 0) && ok == (appended.uidvalidity > 0));
  g_autoptr(GArray) uids = g_array_new(FALSE, FALSE, sizeof(guint32));
  ok = code_append_uids(arguments, 3, &uidvalidity, uids);
  g_assert_cmpuint(uids->len, ==, ok ? 3 : 0);
  g_assert_cmpint(ok, ==, uidvalidity > 0);
  for (guint i = 0; i < uids->len; i++)
    g_assert_cmpuint(g_array_index(uids, guint32, i), >, i ? g_array_index(uids, guint32, i - 1) : 0);
  uidvalidity = 0;
  ok = code_copy_uid(arguments, "3:9,100:*", &uidvalidity, pairs);
  g_assert_true(ok == (pairs->len > 0) && ok == (uidvalidity > 0));
  g_assert_cmpuint(pairs->len, <=, CODE_PAIRS_MAX);
  for (guint i = 0; i < pairs->len; i++) {
    const ImapCopy *pair = &g_array_index(pairs, ImapCopy, i);
    g_assert_true((pair->from >= 3 && pair->from <= 9) || pair->from >= 100);
    g_assert_cmpuint(pair->to, >, 0);
  }
}

int LLVMFuzzerTestOneInput(const guint8 *data, size_t size) {
  static const ImapHandler handler = {
      .exists = on_number,
      .expunge = on_number,
      .vanished = on_vanished,
      .fetch = on_fetch,
      .body_begin = on_body_begin,
      .body_data = on_body_data,
      .list = on_list,
      .status = on_status,
      .quota = on_quota,
  };
  static const gsize pieces[] = {1, 3, 17, G_MAXSIZE};
  if (size == 0)
    return 0;
  Input input = {data + 1, size - 1, pieces[data[0] & 3], (data[0] & 4) == 0, 0, 0};
  g_autoptr(Token) token = token_new(source, &input);
  g_autoptr(ResponseReader) reader = response_reader_new(token);
  g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_autoptr(GString) rights = g_string_new(NULL);
  response_set_handler(reader, &handler, &input);
  ResponseFacts *facts = response_facts(reader);
  facts->found = found;
  facts->found_max = 1000;
  facts->rights = rights;
  Response response;
  while (response_read(reader, &response)) {
    input.sum += strlen(response.code) + strlen(response.arguments) + strlen(response.text);
    if (response.kind != RESPONSE_CONTINUE)
      g_assert_true(g_utf8_validate(response.text, -1, NULL));
    g_assert_null(token_error(token));
    read_code(response.arguments);
  }
  g_assert_nonnull(token_error(token));
  g_assert_cmpuint(found->len, <=, facts->found_max);
  g_assert_cmpuint(rights->len, <=, RESPONSE_RIGHTS_MAX);
  return input.sum == 1;
}
