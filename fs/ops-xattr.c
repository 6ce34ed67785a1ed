/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Extended attributes of messages, only with -o xattr: a getxattr handler, even one that has
 * nothing, costs `ls -l` two calls a file. Some come from the index; header fields come from the
 * body, which is waited for like in open: they are unfolded, but not decoded. Flags and keywords can be
 * set.
 */
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "fs/fs.h"
#include "fs/header.h"
#include "fs/maildir-view.h"
#include "fs/park.h"
#include "fs/reply.h"

/* Fields are looked for in this much of a message. */
#define HEADER_BYTES (64 * 1024)

static char *value_type(EngineMsg msg, const EngineMessage *message) {
  return g_strdup("message/rfc822");
}

static char *value_uid(EngineMsg msg, const EngineMessage *message) {
  return g_strdup_printf("%" G_GUINT32_FORMAT, msg.uid);
}

static const struct {
  MsgFlag bit;
  const char *name;
} flag_names[] = {
    {MSG_FLAG_SEEN, "\\Seen"},       {MSG_FLAG_ANSWERED, "\\Answered"},
    {MSG_FLAG_FLAGGED, "\\Flagged"}, {MSG_FLAG_DELETED, "\\Deleted"},
    {MSG_FLAG_DRAFT, "\\Draft"},     {MSG_FLAG_RECENT, "\\Recent"},
};

static char *value_flags(EngineMsg msg, const EngineMessage *message) {
  GString *text = g_string_new(NULL);
  for (guint i = 0; i < G_N_ELEMENTS(flag_names); i++)
    if (message->flags & flag_names[i].bit)
      g_string_append_printf(text, "%s%s", text->len ? " " : "", flag_names[i].name);
  return g_string_free(text, FALSE);
}

static char *value_keywords(EngineMsg msg, const EngineMessage *message) {
  return g_strdup(message->keywords ? message->keywords : "");
}

static char *value_modseq(EngineMsg msg, const EngineMessage *message) {
  return g_strdup_printf("%" G_GUINT64_FORMAT, message->modseq);
}

static char *value_size(EngineMsg msg, const EngineMessage *message) {
  return g_strdup_printf("%" G_GUINT64_FORMAT, message->size);
}

/* Either the index knows the value, or it is a header field. */
static const struct {
  const char *name;
  char *(*value)(EngineMsg msg, const EngineMessage *message);
  const char *field;
} attributes[] = {
    {"user.mime_type", value_type, NULL},
    {"user.mail.uid", value_uid, NULL},
    {"user.mail.flags", value_flags, NULL},
    {"user.mail.keywords", value_keywords, NULL},
    {"user.mail.modseq", value_modseq, NULL},
    {"user.mail.size", value_size, NULL},
    {"user.mail.from", NULL, "From"},
    {"user.mail.to", NULL, "To"},
    {"user.mail.cc", NULL, "Cc"},
    {"user.mail.subject", NULL, "Subject"},
    {"user.mail.date", NULL, "Date"},
    {"user.mail.message-id", NULL, "Message-ID"},
    {"user.mail.in-reply-to", NULL, "In-Reply-To"},
};

/* Size 0 asks for the size. */
static void reply_value(fuse_req_t req, const char *data, gsize length, gsize size) {
  if (size == 0)
    fuse_reply_xattr(req, length);
  else if (length > size)
    fuse_reply_err(req, ERANGE);
  else
    fuse_reply_buf(req, data, length);
}

/* ---- header fields: open, read, answer ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  const char *field;
  gsize size; /* of the asker's buffer */
  EngineBody *body;
} FieldWait;

static void answer_field(FieldWait *wait, int fd, gint64 offset, gsize size) {
  g_autofree char *octets = g_malloc(size + 1);
  gssize got = pread(fd, octets, size, offset);
  g_autofree char *value = got < 0 ? NULL : header_field(octets, (gsize) got, wait->field);
  if (got < 0)
    fuse_reply_err(wait->req, EIO);
  else if (!value)
    fuse_reply_err(wait->req, ENODATA);
  else
    reply_value(wait->req, value, strlen(value), wait->size);
}

static void on_field_read(int fd, gint64 offset, gsize size, gpointer data, const GError *error) {
  FieldWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  if (error)
    reply_error_node(wait->req, error);
  else
    answer_field(wait, fd, offset, size);
  engine_body_close(&wait->body);
  g_free(wait);
}

static void on_field_body(EngineBody *body, gpointer data, const GError *error) {
  FieldWait *wait = data;
  Parks *parks = wait->fs->parks;
  park_end(parks, wait->park);
  if (error) {
    reply_error_node(wait->req, error);
    g_free(wait);
    return;
  }
  wait->body = body;
  guint64 park = wait->park = park_begin(parks, wait->req);
  park_waits(parks, park, engine_body_read(body, 0, HEADER_BYTES, on_field_read, wait));
}

static void get_field(Fs *fs, fuse_req_t req, EngineMsg msg, const char *field, gsize size) {
  FieldWait *wait = g_new0(FieldWait, 1);
  *wait = (FieldWait){.fs = fs, .req = req, .field = field, .size = size};
  guint64 park = wait->park = park_begin(fs->parks, req);
  park_waits(fs->parks, park, engine_body_open(fs->engine, msg, on_field_body, wait));
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size) {
  Fs *fs = fuse_req_userdata(req);
  guint i = 0;
  while (i < G_N_ELEMENTS(attributes) && !g_str_equal(attributes[i].name, name))
    i++;
  Node node;
  if (i == G_N_ELEMENTS(attributes) || !node_parse(ino, &node) || node.kind != NODE_MESSAGE) {
    fuse_reply_err(req, ENODATA);
    return;
  }
  EngineMsg msg = {node.id, node.uid};
  if (attributes[i].field) {
    get_field(fs, req, msg, attributes[i].field, size);
    return;
  }
  g_autoptr(GError) error = NULL;
  g_autoptr(EngineMessage) message = engine_message_get(fs->engine, msg, &error);
  if (!message) {
    reply_error_node(req, error);
    return;
  }
  g_autofree char *value = attributes[i].value(msg, message);
  reply_value(req, value, strlen(value), size);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size) {
  g_autoptr(GString) names = g_string_new(NULL);
  Node node;
  if (node_parse(ino, &node) && node.kind == NODE_MESSAGE)
    for (guint i = 0; i < G_N_ELEMENTS(attributes); i++)
      g_string_append_len(names, attributes[i].name, (gssize) strlen(attributes[i].name) + 1);
  reply_value(req, names->str, names->len, size);
}

/* ---- setting ---- */

typedef struct {
  Fs *fs;
  fuse_req_t req;
  guint64 park;
  EngineMsg msg;
} SetWait;

static void on_set(gpointer data, const GError *error) {
  SetWait *wait = data;
  park_end(wait->fs->parks, wait->park);
  view_touch_message(wait->fs, wait->msg);
  if (error)
    reply_error_node(wait->req, error);
  else
    fuse_reply_err(wait->req, 0);
  g_free(wait);
}

/* The bits of "\Seen \Flagged", in any case; -1: one of them is none. */
static gint parse_flags(const char *text) {
  g_auto(GStrv) words = g_strsplit_set(text, " \t\r\n", -1);
  gint flags = 0;
  for (char **word = words; *word; word++) {
    guint i = 0;
    while (i < G_N_ELEMENTS(flag_names) && g_ascii_strcasecmp(*word, flag_names[i].name) != 0)
      i++;
    if (i < G_N_ELEMENTS(flag_names))
      flags |= (gint) flag_names[i].bit;
    else if (**word)
      return -1;
  }
  return flags & ~MSG_FLAG_RECENT; /* that one is the server's */
}

/* A letter on its way to the server will have flags; scratch never has. */
static gboolean is_letter(Fs *fs, Node node) {
  g_autoptr(EngineLocal) local =
      node.kind == NODE_LOCAL ? engine_local_get(fs->engine, node.id, NULL) : NULL;
  return local && !local->is_folder && !local->parent && local->name[0] != '.'
         && g_str_has_suffix(local->name, ".eml");
}

static void set_attribute(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                          gsize size) {
  Fs *fs = fuse_req_userdata(req);
  gboolean flags = g_str_equal(name, "user.mail.flags");
  gboolean keywords = g_str_equal(name, "user.mail.keywords");
  g_autofree char *text = g_strndup(value, size);
  gboolean ok = !memchr(value, 0, size) && g_utf8_validate(value, (gssize) size, NULL);
  gint bits = flags && ok ? parse_flags(text) : -1;
  Node node;
  if (!node_parse(ino, &node)) {
    fuse_reply_err(req, ESTALE);
  } else if ((node.kind != NODE_MESSAGE && !is_letter(fs, node))
             || !g_str_has_prefix(name, "user.mail.")) {
    fuse_reply_err(req, ENOTSUP);
  } else if (!flags && !keywords) {
    fuse_reply_err(req, EPERM);
  } else if (!ok || (flags && bits < 0)) {
    fuse_reply_err(req, EINVAL);
  } else {
    SetWait *wait = g_new0(SetWait, 1);
    EngineMsg msg = {node.id, node.uid};
    guint32 local = node.kind == NODE_LOCAL ? node.id : 0;
    *wait = (SetWait){.fs = fs, .req = req, .msg = msg};
    guint64 park = wait->park = park_begin(fs->parks, req);
    park_waits(fs->parks, park,
               engine_set_flags(fs->engine, msg, local, bits, flags ? NULL : text, on_set, wait));
  }
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags) {
  set_attribute(req, ino, name, value, size);
}

/* Is to set it to nothing. */
static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name) {
  set_attribute(req, ino, name, "", 0);
}

void ops_xattr_add(struct fuse_lowlevel_ops *ops) {
  ops->getxattr = op_getxattr;
  ops->setxattr = op_setxattr;
  ops->removexattr = op_removexattr;
  ops->listxattr = op_listxattr;
}
