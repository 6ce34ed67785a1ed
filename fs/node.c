/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/node.h"

#include "fs/maildir.h"

guint64 node_ino(Node node) {
  if (node.kind == NODE_ROOT)
    return NODE_ROOT_INO;
  g_assert(node.id <= NODE_MAX_ID);
  return (guint64) node.kind << 60 | (guint64) node.id << 32 | node.uid;
}

gboolean node_parse(guint64 ino, Node *node_out) {
  Node node = {(NodeKind) (ino >> 60), (guint32) (ino >> 32 & NODE_MAX_ID), (guint32) ino};
  *node_out = node;
  switch (node.kind) {
  case NODE_ROOT:
    *node_out = (Node){NODE_ROOT, 0, 0};
    return ino == NODE_ROOT_INO;
  case NODE_FOLDER:
  case NODE_CONTROL_FILE:
    return node.id != 0 && node.uid == 0;
  case NODE_MESSAGE:
    return node.id != 0 && node.uid != 0;
  case NODE_LOCAL:
    return node.id != 0 && node.uid <= 1;
  case NODE_MAILDIR:
    return node.uid <= MAILDIR_KEYWORDS && (node.id != 0 || node.uid == MAILDIR_FOLDER);
  case NODE_CONTROL_DIR:
    return node.id == 0 && node.uid == 0;
  default:
    return FALSE;
  }
}
