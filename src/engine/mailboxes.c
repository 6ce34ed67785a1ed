/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Folders of the server: made, removed, renamed. Not journaled, since whoever asks waits for it. A
 * job that a dropped connection cut off is run again and finds what it has done: what it was to make
 * exists, what it was to remove is gone.
 */
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "engine/changes-private.h"
#include "imap/utf7.h"

typedef enum { JOB_MAKE, JOB_REMOVE, JOB_RENAME } JobKind;

typedef struct {
  Engine *engine;
  JobKind kind;
  guint32 folder;  /* REMOVE, RENAME */
  guint32 parent;  /* MAKE, RENAME: where it is to be */
  char *name;      /* MAKE, RENAME: what it is to be called */
  gboolean trash;  /* MAKE: for deleted messages */
  guint attempts;
  EngineWait wait; /* either this */
  EngineDone fn;   /* or this */
  gpointer data;
} Job;

static void job_free(gpointer data) {
  Job *job = data;
  g_free(job->name);
  g_free(job);
}

static void job_answer(Job *job, const GError *error) {
  if (job->fn)
    job->fn(job->data, error);
  else
    changes_answer(job->engine, job->wait, error);
}

/* The mailbox that is called @name in @parent. NULL with INVALID. */
static char *mailbox_name(Engine *engine, ImapSession *session, guint32 parent, const char *name,
                          GError **error) {
  char delimiter;
  const char *prefix = imap_session_prefix(session, &delimiter);
  g_autofree char *level = g_uri_unescape_string(name, NULL); /* see name_for_level */
  if (!level || !g_utf8_validate(level, -1, NULL)) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_INVALID, "the name of a folder is UTF-8 text");
    return NULL;
  }
  if (delimiter && strchr(level, delimiter)) {
    g_set_error(error, EML_ERROR, EML_ERROR_INVALID,
                "the server keeps %c for itself: no folder can have it in its name", delimiter);
    return NULL;
  }
  g_autofree char *encoded = utf7_encode(level);
  if (!parent)
    return g_strconcat(prefix, encoded, NULL);
  g_autoptr(StoreFolder) above = store_folder_get(engine->store, parent, error);
  if (!above)
    return NULL;
  if (!above->mailbox || !delimiter) {
    g_set_error(error, EML_ERROR, EML_ERROR_FIXED, "the server puts no folders into %s", above->name);
    return NULL;
  }
  return g_strdup_printf("%s%c%s", above->mailbox, delimiter, encoded);
}

/* Whether it can be subscribed to is of no consequence here. */
static void subscribe(ImapSession *session, const char *mailbox, gboolean subscribed) {
  g_autoptr(GError) error = NULL;
  if (!imap_subscribe(session, mailbox, subscribed, &error))
    log_debug("%s: %s", mailbox, error->message);
}

static gboolean make(Job *job, ImapSession *session, GError **error) {
  g_autofree char *mailbox = mailbox_name(job->engine, session, job->parent, job->name, error);
  if (!mailbox)
    return FALSE;
  g_autoptr(GError) failure = NULL;
  if (!imap_create(session, mailbox, job->trash ? IMAP_MAILBOX_TRASH : 0, &failure)) {
    gboolean exists = g_error_matches(failure, EML_ERROR, EML_ERROR_EXISTS);
    gboolean again = exists && job->attempts > 1;
    if (!again) {
      /* It was not known of: whoever is told that it exists shall find it. */
      g_autoptr(GError) ignored = NULL;
      if (exists && imap_session_alive(session) &&
          !watch_list_folders(job->engine, session, &ignored))
        log_debug("folders could not be listed: %s", ignored->message);
      g_propagate_error(error, g_steal_pointer(&failure));
      return FALSE;
    }
  }
  if (imap_session_alive(session))
    subscribe(session, mailbox, TRUE);
  return imap_session_alive(session) ? watch_list_folders(job->engine, session, error) : TRUE;
}

static void on_status(const ImapStatus *status, gpointer data) {
  *(gint64 *) data = status->messages;
}

static gboolean remove_folder(Job *job, ImapSession *session, GError **error) {
  g_autoptr(StoreFolder) folder = store_folder_get(job->engine->store, job->folder, NULL);
  if (!folder)
    return TRUE; /* by the run before, or by somebody else */
  /* DELETE takes the messages along, so it is made sure that there are none. */
  gint64 messages = -1;
  static const ImapHandler handler = {.status = on_status};
  g_autoptr(GError) failure = NULL;
  gboolean gone = FALSE;
  /* Of a mailbox that is selected, STATUS tells what the session has heard of so far. */
  if (g_strcmp0(imap_session_selected(session), folder->mailbox) == 0 &&
      !imap_noop(session, &failure) && !imap_session_alive(session)) {
    g_propagate_error(error, g_steal_pointer(&failure));
    return FALSE;
  }
  g_clear_error(&failure);
  if (folder->selectable) {
    imap_session_set_handler(session, &handler, &messages);
    ImapTag tag = imap_status_send(session, folder->mailbox, error);
    gboolean ok = tag && imap_wait(session, tag, &failure);
    imap_session_set_handler(session, NULL, NULL);
    gone = job->attempts > 1 && g_error_matches(failure, EML_ERROR, EML_ERROR_NOT_FOUND);
    if (!ok && !gone) {
      if (failure)
        g_propagate_error(error, g_steal_pointer(&failure));
      return FALSE;
    }
  }
  if (messages > 0) {
    g_set_error(error, EML_ERROR, EML_ERROR_NOT_EMPTY, "there are messages in %s", folder->name);
    syncs_schedule(job->engine->syncs, folder->id, JOB_NEWS);
    return FALSE;
  }
  if (!gone && !imap_delete(session, folder->mailbox, error)) {
    if (error && g_error_matches(*error, EML_ERROR, EML_ERROR_EXISTS))
      (*error)->code = EML_ERROR_NOT_EMPTY; /* [HASCHILDREN] */
    return FALSE;
  }
  subscribe(session, folder->mailbox, FALSE);
  return imap_session_alive(session) ? watch_list_folders(job->engine, session, error) : TRUE;
}

static gboolean rename_folder(Job *job, ImapSession *session, GError **error) {
  Engine *engine = job->engine;
  g_autoptr(StoreFolder) folder = store_folder_get(engine->store, job->folder, error);
  if (!folder)
    return FALSE;
  char delimiter;
  imap_session_prefix(session, &delimiter);
  g_autofree char *mailbox = mailbox_name(engine, session, job->parent, job->name, error);
  if (!mailbox)
    return FALSE;
  g_autoptr(GError) failure = NULL;
  if (!imap_rename(session, folder->mailbox, mailbox, &failure)) {
    gboolean again = job->attempts > 1 && (g_error_matches(failure, EML_ERROR, EML_ERROR_NOT_FOUND) ||
                                           g_error_matches(failure, EML_ERROR, EML_ERROR_EXISTS));
    if (!again) {
      g_propagate_error(error, g_steal_pointer(&failure));
      return FALSE;
    }
  }
  subscribe(session, folder->mailbox, FALSE);
  subscribe(session, mailbox, TRUE);
  g_autofree char *from_path = locals_folder_path(engine, folder->id);
  g_autofree char *above = locals_folder_path(engine, job->parent);
  g_autofree char *to_path =
      above && *above ? g_strdup_printf("%s/%s", above, job->name) : g_strdup(job->name);
  if (!journal_rename(engine->journal, folder->mailbox, mailbox, delimiter, from_path, to_path, error) ||
      !store_folder_rename(engine->store, folder->mailbox, mailbox, delimiter, error))
    return FALSE;
  return imap_session_alive(session) ? watch_list_folders(engine, session, error) : TRUE;
}

static gboolean job_run(ImapSession *session, gpointer data, GError **error) {
  static gboolean (*const runs[])(Job *, ImapSession *, GError **) = {
      [JOB_MAKE] = make, [JOB_REMOVE] = remove_folder, [JOB_RENAME] = rename_folder};
  Job *job = data;
  job->attempts++;
  g_rec_mutex_lock(&job->engine->folders);
  gboolean done = runs[job->kind](job, session, error);
  g_rec_mutex_unlock(&job->engine->folders);
  if (!done)
    return FALSE;
  job_answer(job, NULL);
  return TRUE;
}

static void job_failed(gpointer data, const GError *error) {
  job_answer(data, error);
}

static void push(gpointer data) {
  Job *job = data;
  PoolJob pool_job = {.priority = JOB_INTERACTIVE,
                      .folder = job->folder,
                      .run = job_run,
                      .failed = job_failed,
                      .free = job_free,
                      .data = job};
  pool_push(job->engine->pool, &pool_job);
}

/* FALSE and answered when the server cannot be reached. */
static gboolean may_begin(Engine *engine, EngineWait wait) {
  g_autoptr(GError) error = NULL;
  gboolean usable = link_usable(engine->link, &error);
  if (!usable)
    changes_answer(engine, wait, error);
  return usable;
}

void mailboxes_make(Engine *engine, guint32 parent, const char *name, EngineWait wait) {
  if (!may_begin(engine, wait))
    return;
  Job *job = g_new(Job, 1);
  *job = (Job){.engine = engine,
               .kind = JOB_MAKE,
               .parent = parent,
               .name = g_strdup(name),
               .wait = wait};
  push(job);
}

void mailboxes_make_trash(Engine *engine, EngineDone fn, gpointer data) {
  Job *job = g_new(Job, 1);
  *job = (Job){.engine = engine,
               .kind = JOB_MAKE,
               .name = g_strdup("Trash"),
               .trash = TRUE,
               .fn = fn,
               .data = data};
  push(job);
}

static gboolean stop_at_first(const EngineMessage *message, gpointer data) {
  *(gboolean *) data = TRUE;
  return FALSE;
}

void mailboxes_remove(Engine *engine, guint32 folder, EngineWait wait) {
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreFolder) row = store_folder_get(engine->store, folder, &error);
  g_autoptr(GPtrArray) children = row ? store_folders(engine->store, folder, &error) : NULL;
  gboolean any = overlay_count(engine->overlay, (EngineDir){folder, 0}) > 0;
  if (row && row->space && !any)
    engine_messages_scan(engine, row->space, 0, 1, stop_at_first, &any, NULL);
  if (row && !error && (any || children->len))
    g_set_error(&error, EML_ERROR, EML_ERROR_NOT_EMPTY, "%s is not empty", row->name);
  else if (row && !error && (!row->mailbox || row->role == STORE_ROLE_INBOX))
    g_set_error(&error, EML_ERROR, EML_ERROR_FIXED, "%s cannot be removed", row->name);
  if (error) {
    changes_answer(engine, wait, error);
    return;
  }
  if (!may_begin(engine, wait))
    return;
  Job *job = g_new(Job, 1);
  *job = (Job){.engine = engine, .kind = JOB_REMOVE, .folder = folder, .wait = wait};
  changes_after_folder(engine->changes, folder, push, job);
}

void mailboxes_rename(Engine *engine, guint32 folder, guint32 to, const char *name, EngineWait wait) {
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreFolder) row = store_folder_get(engine->store, folder, &error);
  if (row && (!row->mailbox || row->role == STORE_ROLE_INBOX ||
              g_ascii_strcasecmp(row->mailbox, "INBOX") == 0))
    g_set_error(&error, EML_ERROR, EML_ERROR_FIXED, "%s cannot be renamed", row->name);
  else if (row && !to && name[0] == '.')
    g_set_error_literal(&error, EML_ERROR, EML_ERROR_CROSSING, "a folder with a dot is a local one");
  if (error) {
    changes_answer(engine, wait, error);
    return;
  }
  if (!may_begin(engine, wait))
    return;
  Job *job = g_new(Job, 1);
  *job = (Job){.engine = engine,
               .kind = JOB_RENAME,
               .folder = folder,
               .parent = to,
               .name = g_strdup(name),
               .wait = wait};
  changes_after_folder(engine->changes, folder, push, job);
}
