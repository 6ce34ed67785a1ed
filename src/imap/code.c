/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "imap/code.h"

/* A number from 1 to 2^32 - 1 at *@text; moves behind it. 0: there is none. */
static guint32 number(const char **text, gboolean star) {
  guint64 value = 0;
  if (star && **text == '*') {
    ++*text;
    return G_MAXUINT32;
  }
  for (; g_ascii_isdigit(**text) && value <= G_MAXUINT32; ++*text)
    value = value * 10 + (guint64) (**text - '0');
  return value <= G_MAXUINT32 ? (guint32) value : 0;
}

/* A set at *@text, appended to @ranges; moves behind it. */
static gboolean ranges_at(const char **text, gboolean star, GArray *ranges) {
  guint before = ranges->len;
  for (;;) {
    guint32 first = number(text, star), last = first;
    if (first > 0 && **text == ':') {
      ++*text;
      last = number(text, star);
    }
    if (first == 0 || last == 0 || ranges->len - before >= CODE_RANGES_MAX) {
      g_array_set_size(ranges, before);
      return FALSE;
    }
    ImapRange range = {MIN(first, last), MAX(first, last)};
    g_array_append_val(ranges, range);
    if (**text != ',')
      return TRUE;
    ++*text;
  }
}

static gboolean space_at(const char **text) {
  if (**text != ' ')
    return FALSE;
  while (**text == ' ')
    ++*text;
  return TRUE;
}

static gboolean end_at(const char *text) {
  while (*text == ' ')
    text++;
  return *text == '\0';
}

gboolean code_set(const char *text, GArray *ranges) {
  guint before = ranges->len;
  if (ranges_at(&text, FALSE, ranges) && end_at(text))
    return TRUE;
  g_array_set_size(ranges, before);
  return FALSE;
}

gboolean code_append_uid(const char *arguments, ImapAppended *appended_out) {
  ImapAppended appended = {0};
  appended.uidvalidity = number(&arguments, FALSE);
  if (appended.uidvalidity == 0 || !space_at(&arguments))
    return FALSE;
  appended.uid = number(&arguments, FALSE);
  if (appended.uid == 0 || !end_at(arguments))
    return FALSE;
  *appended_out = appended;
  return TRUE;
}

static guint64 count_of(const GArray *ranges) {
  guint64 count = 0;
  for (guint i = 0; i < ranges->len; i++) {
    const ImapRange *range = &g_array_index(ranges, ImapRange, i);
    count += (guint64) range->last - range->first + 1;
  }
  return count;
}

gboolean code_append_uids(const char *arguments, gsize count, guint32 *uidvalidity_out,
                          GArray *uids) {
  g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  guint32 uidvalidity = number(&arguments, FALSE), last = 0;
  if (uidvalidity == 0 || !space_at(&arguments) || !ranges_at(&arguments, FALSE, ranges) ||
      !end_at(arguments) || count_of(ranges) != count)
    return FALSE;
  for (guint i = 0; i < ranges->len; i++) {
    const ImapRange *range = &g_array_index(ranges, ImapRange, i);
    if (range->first <= last)
      return FALSE;
    last = range->last;
  }
  for (guint i = 0; i < ranges->len; i++) {
    const ImapRange *range = &g_array_index(ranges, ImapRange, i);
    for (guint32 at = 0; at <= range->last - range->first; at++) {
      guint32 uid = range->first + at;
      g_array_append_val(uids, uid);
    }
  }
  *uidvalidity_out = uidvalidity;
  return TRUE;
}

static int compare_ranges(gconstpointer a, gconstpointer b) {
  guint32 left = ((const ImapRange *) a)->first, right = ((const ImapRange *) b)->first;
  return (left > right) - (left < right);
}

/* Sorts @ranges and joins those that touch. */
static void normalize(GArray *ranges) {
  g_array_sort(ranges, compare_ranges);
  guint kept = 0;
  for (guint i = 1; i < ranges->len; i++) {
    ImapRange *last = &g_array_index(ranges, ImapRange, kept);
    const ImapRange *next = &g_array_index(ranges, ImapRange, i);
    if (next->first <= last->last || next->first - last->last == 1)
      last->last = MAX(last->last, next->last);
    else
      g_array_index(ranges, ImapRange, ++kept) = *next;
  }
  g_array_set_size(ranges, MIN(ranges->len, kept + 1));
}

/* Whether @range is inside one of @ranges, which are normalized. */
static gboolean is_inside(const GArray *ranges, const ImapRange *range) {
  guint from = 0, to = ranges->len;
  while (from < to) {
    guint middle = from + (to - from) / 2;
    const ImapRange *there = &g_array_index(ranges, ImapRange, middle);
    if (range->first >= there->first && range->first <= there->last)
      return range->last <= there->last;
    if (range->first < there->first)
      to = middle;
    else
      from = middle + 1;
  }
  return FALSE;
}

gboolean code_copy_uid(const char *arguments, const char *set, guint32 *uidvalidity_out,
                       GArray *pairs) {
  g_autoptr(GArray) asked = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  g_autoptr(GArray) sources = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  g_autoptr(GArray) targets = g_array_new(FALSE, FALSE, sizeof(ImapRange));
  guint32 uidvalidity = number(&arguments, FALSE);
  if (uidvalidity == 0 || !space_at(&arguments) || !ranges_at(&arguments, FALSE, sources) ||
      !space_at(&arguments) || !ranges_at(&arguments, FALSE, targets) || !end_at(arguments) ||
      !ranges_at(&set, TRUE, asked))
    return FALSE;
  guint64 count = count_of(sources);
  if (count != count_of(targets) || count > CODE_PAIRS_MAX)
    return FALSE;
  normalize(asked);
  for (guint i = 0; i < sources->len; i++)
    if (!is_inside(asked, &g_array_index(sources, ImapRange, i)))
      return FALSE;
  guint at = 0; /* in `targets` */
  guint32 to = g_array_index(targets, ImapRange, 0).first;
  for (guint i = 0; i < sources->len; i++) {
    const ImapRange *source = &g_array_index(sources, ImapRange, i);
    for (guint64 from = source->first; from <= source->last; from++) {
      ImapCopy pair = {(guint32) from, to};
      g_array_append_val(pairs, pair);
      if (to < g_array_index(targets, ImapRange, at).last)
        to++;
      else if (++at < targets->len)
        to = g_array_index(targets, ImapRange, at).first;
    }
  }
  *uidvalidity_out = uidvalidity;
  return TRUE;
}
