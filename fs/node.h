/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inode number ↔ identity, as pure functions: there is no inode table, so a million entries cost
 * nothing and a forget is nothing. An inode number is kind (4 bits) · id (28 bits) · UID (32 bits);
 * the root is 1, as FUSE wants it. A message is keyed by its uidspace, which is never used again,
 * so that a mailbox that was renumbered has new inodes and the generation can stay constant.
 */
#pragma once

#include <glib.h>

/* The numbers are part of inode numbers that programs remember (tar, rsync, backup): never reuse. */
typedef enum {
  NODE_ROOT = 0,
  NODE_FOLDER = 1,       /* id: folder */
  NODE_MESSAGE = 2,      /* id: uidspace; uid */
  NODE_CONTROL_DIR = 3,  /* id 0 */
  NODE_CONTROL_FILE = 4, /* id: index of the file, from 1 */
  NODE_LOCAL = 5,        /* id: local file or folder; uid 0: a file, 1: a folder */
  NODE_MAILDIR = 6,      /* id: folder, 0: the top; uid: MaildirPart of maildir.h. What is in these
                            directories are the nodes that it is in the plain view */
  /* Seen by the thread of replay.h alone, and not parsed: what it removes once more. */
  NODE_GONE_FOLDER = 14,
  NODE_GONE_MESSAGE = 15,
} NodeKind;

typedef struct {
  NodeKind kind;
  guint32 id;
  guint32 uid;
} Node;

#define NODE_ROOT_INO 1
#define NODE_MAX_ID ((1u << 28) - 1)
#define NODE_GENERATION 1

/* The inode number of @node. Any thread. */
guint64 node_ino(Node node);

static inline guint64 node_folder_ino(guint32 folder) {
  return folder == 0 ? NODE_ROOT_INO : node_ino((Node){NODE_FOLDER, folder, 0});
}
static inline guint64 node_message_ino(guint32 space, guint32 uid) {
  return node_ino((Node){NODE_MESSAGE, space, uid});
}

static inline guint64 node_local_ino(guint32 local, gboolean is_folder) {
  return node_ino((Node){NODE_LOCAL, local, is_folder ? 1 : 0});
}

static inline guint64 node_maildir_ino(guint32 folder, guint32 part) {
  return node_ino((Node){NODE_MAILDIR, folder, part});
}

/* FALSE for a number that node_ino cannot have given. Any thread. */
gboolean node_parse(guint64 ino, Node *node_out);

/* Positions in a directory listing: what comes next is what sorts after the cookie, so a listing
 * under change neither repeats nor loses what stayed. Entries sort by class, then by number. */
typedef enum {
  COOKIE_START = 0,
  COOKIE_SPECIAL = 1, /* 1 ".", 2 "..", 3 .control */
  COOKIE_FOLDER = 2,  /* folder id */
  COOKIE_MESSAGE = 3, /* UID */
  COOKIE_GUEST = 4,   /* number of a guest or local file */
  COOKIE_LATER = 5,   /* UID of a message that came since the others were listed; see listed.h */
} CookieClass;

static inline gint64 cookie_make(CookieClass class, guint32 number) {
  return (gint64) class << 40 | number;
}
static inline CookieClass cookie_class(gint64 cookie) {
  return (CookieClass) (cookie >> 40);
}
static inline guint32 cookie_number(gint64 cookie) {
  return (guint32) (cookie & 0xffffffff);
}
