/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Extended attributes of messages, only with -o xattr: a getxattr handler, even one that has
 * nothing, costs `ls -l` two calls a file.
 */
#include <string.h>

#include "base/err.h"
#include "fs/fs.h"
#include "fs/reply.h"

static char *value_type(EngineMsg msg, const EngineMessage *message) {
  return g_strdup("message/rfc822");
}

static char *value_uid(EngineMsg msg, const EngineMessage *message) {
  return g_strdup_printf("%" G_GUINT32_FORMAT, msg.uid);
}

static char *value_flags(EngineMsg msg, const EngineMessage *message) {
  static const struct {
    MsgFlag bit;
    const char *name;
  } names[] = {
      {MSG_FLAG_SEEN, "\\Seen"},       {MSG_FLAG_ANSWERED, "\\Answered"},
      {MSG_FLAG_FLAGGED, "\\Flagged"}, {MSG_FLAG_DELETED, "\\Deleted"},
      {MSG_FLAG_DRAFT, "\\Draft"},     {MSG_FLAG_RECENT, "\\Recent"},
  };
  GString *text = g_string_new(NULL);
  for (guint i = 0; i < G_N_ELEMENTS(names); i++)
    if (message->flags & names[i].bit)
      g_string_append_printf(text, "%s%s", text->len ? " " : "", names[i].name);
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

static const struct {
  const char *name;
  char *(*value)(EngineMsg msg, const EngineMessage *message);
} attributes[] = {
    {"user.mime_type", value_type},         {"user.mail.uid", value_uid},
    {"user.mail.flags", value_flags},       {"user.mail.keywords", value_keywords},
    {"user.mail.modseq", value_modseq},     {"user.mail.size", value_size},
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
  g_autoptr(GError) error = NULL;
  EngineMsg msg = {node.id, node.uid};
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

void ops_xattr_add(struct fuse_lowlevel_ops *ops) {
  ops->getxattr = op_getxattr;
  ops->listxattr = op_listxattr;
}
