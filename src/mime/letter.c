/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * No MIME parsing: whether something is a message is a matter of its lines alone. The header, which
 * is short, is taken into memory whole; then all of the file goes by in blocks. A line ends with
 * CRLF, LF or CR: what letter_normalize will make of it counts, in the header as well.
 */
#include "mime/letter.h"

#include <string.h>
#include <unistd.h>

#include "base/err.h"

#define HEADER_MAX (1024 * 1024)
#define LINE_MAX_OCTETS (1024 * 1024)
#define BLOCK (256 * 1024)
#define VALUE_MAX (64 * 1024) /* octets of a field that are looked at */
#define ID_MAX 998            /* what fits on a line (RFC 5322 2.1.1) */

void letter_clear(Letter *letter) {
  g_clear_pointer(&letter->message_id, g_free);
}

/* Reads exactly @size octets. */
static gboolean read_octets(int fd, void *buffer, gsize size, guint64 offset, GError **error) {
  for (gsize done = 0; done < size;) {
    gssize got = pread(fd, (char *) buffer + done, size - done, (goffset) (offset + done));
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "reading a message");
    if (got == 0) {
      g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED,
                          "the message became shorter while it was read");
      return FALSE;
    }
    done += (gsize) got;
  }
  return TRUE;
}

static gboolean refuse(GError **error, const char *reason) {
  g_set_error(error, EML_ERROR, EML_ERROR_INVALID, "not a message: %s", reason);
  return FALSE;
}

/* ---- the header ---- */

static void take_message_id(Letter *letter, const char *value) {
  const char *from = strchr(value, '<');
  const char *to = from ? strchr(from, '>') : NULL;
  if (letter->message_id || !to || to == from + 1 || to - from >= ID_MAX)
    return;
  for (const char *at = from; at <= to; at++)
    if ((guchar) *at <= ' ' || *at == 0x7f)
      return; /* nothing that a server would find again */
  letter->message_id = g_strndup(from, (gsize) (to - from) + 1);
}

static void take_status(Letter *letter, const char *value) {
  if (strchr(value, 'R'))
    letter->flags |= MSG_FLAG_SEEN; /* O says "no longer recent", which is the server's to know */
}

static void take_x_status(Letter *letter, const char *value) {
  static const struct {
    char letter;
    guint flag;
  } marks[] = {{'A', MSG_FLAG_ANSWERED},
               {'F', MSG_FLAG_FLAGGED},
               {'D', MSG_FLAG_DELETED},
               {'T', MSG_FLAG_DRAFT}};
  for (gsize i = 0; i < G_N_ELEMENTS(marks); i++)
    if (strchr(value, marks[i].letter))
      letter->flags |= marks[i].flag;
}

/* The fields that tell something. */
static const struct {
  const char *name;
  void (*take)(Letter *letter, const char *value);
} fields[] = {
    {"Message-ID", take_message_id}, {"Status", take_status}, {"X-Status", take_x_status}};

/* How long the name is at the beginning of a line of @size octets; 0: that is no field. *@value_out
 * is where its value begins. */
static gsize name_length(const char *line, gsize size, gsize *value_out) {
  gsize length = 0;
  while (length < size && line[length] > ' ' && line[length] < 0x7f && line[length] != ':')
    length++;
  gsize colon = length;
  while (colon < size && (line[colon] == ' ' || line[colon] == '\t'))
    colon++; /* RFC 5322 4.5: obsolete, but seen */
  *value_out = colon + 1;
  return colon < size && line[colon] == ':' ? length : 0;
}

/* Which of the fields a name is; their number for none. */
static gsize find_field(const char *name, gsize length) {
  gsize i = 0;
  while (i < G_N_ELEMENTS(fields) && (length != strlen(fields[i].name) ||
                                      g_ascii_strncasecmp(name, fields[i].name, length) != 0))
    i++;
  return i;
}

/* Reads the fields in the first @size octets of a file, up to the empty line; @whole: it has no more
 * than these. */
static gboolean read_header(const char *header, gsize size, gboolean whole, Letter *letter,
                            GError **error) {
  g_autoptr(GString) value = g_string_new(NULL);
  gsize field = G_N_ELEMENTS(fields); /* the one that `value` is of */
  gboolean complete = whole;
  guint number = 1;
  for (gsize at = 0; at < size; number++) {
    const char *line = header + at;
    gsize length = 0, from = 0;
    while (at + length < size && line[length] != '\n' && line[length] != '\r')
      length++;
    if (at + length == size && !whole)
      break; /* who knows what comes */
    if (length == 0 && number > 1) {
      complete = TRUE;
      break;
    }
    if (number == 1 || (*line != ' ' && *line != '\t')) {
      if (field < G_N_ELEMENTS(fields))
        fields[field].take(letter, value->str);
      g_string_truncate(value, 0);
      gsize name = name_length(line, length, &from);
      if (name == 0 && number == 1)
        return refuse(error, g_str_has_prefix(line, "From ")
                                 ? "it begins with \"From \" as an mbox file does, which holds many"
                                 : "its first line is no header field");
      if (name == 0) {
        g_autofree char *reason = g_strdup_printf("line %u of its header is no field", number);
        return refuse(error, reason);
      }
      field = find_field(line, name);
    }
    if (field < G_N_ELEMENTS(fields) && value->len < VALUE_MAX)
      g_string_append_len(value, line + from, (gssize) MIN(length - from, VALUE_MAX - value->len));
    at += length + 1;
    if (at < size && line[length] == '\r' && header[at] == '\n')
      at++;
  }
  if (field < G_N_ELEMENTS(fields))
    fields[field].take(letter, value->str);
  return complete || refuse(error, "its header does not end within 1 MiB");
}

/* ---- all of it ---- */

/* Where the next octet is that is NUL, CR or LF, or @end. */
static const guint8 *next_special(const guint8 *at, const guint8 *end) {
  while (at < end && (*at > '\r' || (*at != '\0' && *at != '\n' && *at != '\r')))
    at++;
  return at;
}

gboolean letter_check(int fd, guint64 size, Letter *letter_out, GError **error) {
  memset(letter_out, 0, sizeof *letter_out);
  if (size == 0)
    return refuse(error, "it is empty");
  g_autofree guint8 *block = g_malloc(MAX(HEADER_MAX, BLOCK) + 1);
  gsize head = (gsize) MIN(size, HEADER_MAX);
  if (!read_octets(fd, block, head, 0, error))
    return FALSE;
  block[head] = '\0';
  if (!read_header((const char *) block, head, head == size, letter_out, error))
    return FALSE;

  guint64 added = 0; /* octets that CRLF line ends need more */
  guint64 line = 0;  /* where the current line begins */
  gboolean after_cr = FALSE;
  for (guint64 offset = 0; offset < size; offset += BLOCK) {
    gsize length = (gsize) MIN(size - offset, BLOCK);
    if (!read_octets(fd, block, length, offset, error))
      return FALSE;
    const guint8 *end = block + length;
    for (const guint8 *at = block; (at = next_special(at, end)) < end; at++) {
      guint64 here = offset + (guint64) (at - block);
      if (*at == '\0')
        return refuse(error, "it holds NUL octets");
      if (here - line > LINE_MAX_OCTETS)
        return refuse(error, "it has a line of over 1 MiB");
      if (*at == '\n' && after_cr && here == line)
        added--; /* the LF of a CRLF, whose CR was counted */
      else
        added++;
      after_cr = *at == '\r';
      line = here + 1;
    }
    if (offset + length - line > LINE_MAX_OCTETS)
      return refuse(error, "it has a line of over 1 MiB");
  }
  letter_out->bare = added > 0;
  letter_out->size = size + added;
  return TRUE;
}

static gboolean write_octets(int fd, const guint8 *octets, gsize size, guint64 *offset,
                             GError **error) {
  while (size > 0) {
    gssize put = pwrite(fd, octets, size, (goffset) *offset);
    if (put < 0 && errno == EINTR)
      continue;
    if (put < 0)
      return eml_error_set_errno(error, EML_ERROR_FAILED, errno, "writing a message");
    octets += put;
    size -= (gsize) put;
    *offset += (guint64) put;
  }
  return TRUE;
}

gboolean letter_normalize(int from, guint64 size, int to, GError **error) {
  g_autofree guint8 *block = g_malloc(BLOCK);
  g_autofree guint8 *out = g_malloc(2 * BLOCK);
  guint64 written = 0;
  gboolean after_cr = FALSE;
  for (guint64 offset = 0; offset < size; offset += BLOCK) {
    gsize length = (gsize) MIN(size - offset, BLOCK), filled = 0;
    if (!read_octets(from, block, length, offset, error))
      return FALSE;
    const guint8 *end = block + length;
    for (const guint8 *at = block; at < end; at++) {
      const guint8 *special = next_special(at, end);
      memcpy(out + filled, at, (gsize) (special - at));
      filled += (gsize) (special - at);
      after_cr = after_cr && special == at;
      at = special;
      if (at == end)
        break;
      if (*at == '\0') {
        out[filled++] = '\0';
      } else if (*at == '\r' || !after_cr) {
        out[filled++] = '\r';
        out[filled++] = '\n';
      }
      after_cr = *at == '\r';
    }
    if (!write_octets(to, out, filled, &written, error))
      return FALSE;
  }
  return TRUE;
}
