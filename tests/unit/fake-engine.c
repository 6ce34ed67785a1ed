/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An engine without store or server, for tests of fs: folders and messages in memory, bodies made
 * up from their identity. A test steers it through the Unix socket $FAKE_ENGINE_SOCKET, a command
 * a line (see fake-control.c), each answered with a line. Bodies are as in fake_fill(): octets
 * that a test can compute, 32 a record: SSSSSSSSUUUUUUUUNNNNNNNNNNNNNN\r\n in hex (uidspace, UID,
 * number of the record).
 *
 * Completions come, by turns of the case: before the call returns (hits), from the "network"
 * thread (large bodies), from the control thread (slow ones), from the canceller.
 */
#include "fake-engine.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define LARGE (1 << 20)

/* ---- made-up mail ---- */

void fake_fill(char *out, EngineMsg msg, guint64 offset, gsize size) {
  char record[40] = "";
  guint64 number = G_MAXUINT64;
  for (gsize i = 0; i < size; i++) {
    guint64 at = offset + i;
    if (at / 32 != number) {
      number = at / 32;
      snprintf(record, sizeof record, "%08x%08x%014" G_GINT64_MODIFIER "x\r\n", msg.space, msg.uid,
               number);
    }
    out[i] = record[at % 32];
  }
}

char *fake_row_name(const Row *row) {
  return row->name ? g_strdup(row->name)
                   : g_strdup_printf("2026-11-20_Anna-Alpha_Subject-of-message.%u.eml", row->uid);
}

Row *fake_find_row(const Folder *folder, guint32 uid) {
  guint low = 0, high = folder->rows->len;
  while (low < high) {
    guint middle = (low + high) / 2;
    Row *row = &g_array_index(folder->rows, Row, middle);
    if (row->uid == uid)
      return row;
    if (row->uid < uid)
      low = middle + 1;
    else
      high = middle;
  }
  return NULL;
}

Folder *fake_add_folder_locked(Engine *engine, guint32 parent, const char *name, Listing listing) {
  Folder *folder = g_new0(Folder, 1);
  *folder = (Folder){.id = ++engine->last_folder, .parent = parent, .name = g_strdup(name),
                     .listing = listing, .mtime = 1700000000, .next_uid = 1};
  folder->rows = g_array_new(FALSE, TRUE, sizeof(Row));
  folder->space = ++engine->last_space + 100;
  g_hash_table_insert(engine->folders, GUINT_TO_POINTER(folder->id), folder);
  g_hash_table_insert(engine->spaces, GUINT_TO_POINTER(folder->space), folder);
  return folder;
}

Row *fake_add_row(Folder *folder, guint64 size) {
  Row row = {.uid = folder->next_uid++, .size = size, .true_size = size, .packed = -1};
  row.mtime = row.ctime = 1600000000 + row.uid;
  g_array_append_val(folder->rows, row);
  return &g_array_index(folder->rows, Row, folder->rows->len - 1);
}

static void folder_free(gpointer data) {
  Folder *folder = data;
  g_free(folder->name);
  g_array_unref(folder->rows);
  g_free(folder);
}

static void populate(Engine *engine) {
  Folder *inbox = fake_add_folder_locked(engine, 0, "INBOX", LISTED);
  for (guint i = 0; i < 20; i++)
    fake_add_row(inbox, 1000 + 997 * i);
  Folder *projects = fake_add_folder_locked(engine, inbox->id, "Projects", LISTED);
  for (guint i = 0; i < 3; i++)
    fake_add_row(projects, 0 + 4096 * i);
  fake_add_row(fake_add_folder_locked(engine, projects->id, "Deep", LISTED), 77);
  Folder *big = fake_add_folder_locked(engine, 0, "Big", LISTED);
  const char *count = g_getenv("FAKE_ENGINE_BIG");
  for (gint64 i = 0, n = count ? g_ascii_strtoll(count, NULL, 10) : 1000; i < n; i++)
    fake_add_row(big, 10240);
  Folder *slow = fake_add_folder_locked(engine, 0, "Slow", LISTED);
  for (guint i = 0; i < 4; i++)
    fake_add_row(slow, 5000)->kind = BODY_SLOW;
  static const EmlError codes[] = {EML_ERROR_OFFLINE, EML_ERROR_CORRUPT, EML_ERROR_TIMEOUT,
                                   EML_ERROR_FAILED};
  Folder *failing = fake_add_folder_locked(engine, 0, "Failing", LISTED);
  for (guint i = 0; i < G_N_ELEMENTS(codes); i++) {
    Row *row = fake_add_row(failing, 5000);
    row->kind = BODY_FAILS;
    row->code = codes[i];
  }
  Folder *unlisted = fake_add_folder_locked(engine, 0, "Unlisted", UNLISTED);
  for (guint i = 0; i < 3; i++)
    fake_add_row(unlisted, 500);
  fake_add_row(fake_add_folder_locked(engine, 0, "Unreachable", UNREACHABLE), 500);
  fake_add_row(fake_add_folder_locked(engine, 0, "Large", LISTED), 200u << 20);
  Folder *liar = fake_add_folder_locked(engine, 0, "Liar", LISTED);
  fake_add_row(liar, 100)->true_size = 50000;
  fake_add_row(liar, 50000)->true_size = 100;
  fake_add_row(fake_add_folder_locked(engine, 0, "Grüße an alle", LISTED), 321);
  Folder *container = fake_add_folder_locked(engine, 0, "Container", LISTED);
  container->space = 0;
  fake_add_row(fake_add_folder_locked(engine, container->id, "Inner", LISTED), 10);
}

/* ---- copies ---- */

EngineFolder *engine_folder_copy(const EngineFolder *folder) {
  EngineFolder *copy = g_memdup2(folder, sizeof *folder);
  copy->name = g_strdup(folder->name);
  return copy;
}

void engine_folder_free(EngineFolder *folder) {
  if (!folder)
    return;
  g_free(folder->name);
  g_free(folder);
}

EngineMessage *engine_message_copy(const EngineMessage *message) {
  EngineMessage *copy = g_memdup2(message, sizeof *message);
  copy->name = g_strdup(message->name);
  copy->keywords = g_strdup(message->keywords);
  return copy;
}

void engine_message_free(EngineMessage *message) {
  if (!message)
    return;
  g_free((char *) message->name);
  g_free((char *) message->keywords);
  g_free(message);
}

EngineFolder *fake_export_folder_locked(Engine *engine, const Folder *folder) {
  EngineFolder *out = g_new0(EngineFolder, 1);
  *out = (EngineFolder){.id = folder->id, .parent = folder->parent, .space = folder->space,
                        .name = g_strdup(folder->name), .mtime = folder->mtime,
                        .count = folder->listing == LISTED ? folder->rows->len : 0};
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->folders);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    out->subfolders += ((Folder *) value)->parent == folder->id;
  return out;
}

EngineMessage *fake_export_row_locked(Engine *engine, const Row *row) {
  g_autofree char *name = fake_row_name(row);
  EngineMessage message = {.uid = row->uid, .size = row->size, .mtime = row->mtime,
                           .ctime = row->ctime, .flags = row->flags, .modseq = 1,
                           .keywords = row->keywords ? row->keywords : "$Forwarded", .name = name};
  Local *edit = g_hash_table_lookup(engine->locals, GUINT_TO_POINTER(row->edit));
  struct stat st;
  if (edit && fstat(edit->fd, &st) == 0) {
    message.size = (guint64) st.st_size;
    message.mtime = edit->mtime / 1000000000;
  }
  return engine_message_copy(&message);
}

static gpointer not_found(GError **error) {
  g_set_error(error, EML_ERROR, EML_ERROR_NOT_FOUND, "not there");
  return NULL;
}

/* ---- the index ---- */

EngineFolder *engine_folder_get(Engine *engine, guint32 id, GError **error) {
  g_mutex_lock(&engine->lock);
  Folder *folder = g_hash_table_lookup(engine->folders, GUINT_TO_POINTER(id));
  EngineFolder *out = folder ? fake_export_folder_locked(engine, folder) : not_found(error);
  g_mutex_unlock(&engine->lock);
  return out;
}

Folder *fake_child_locked(Engine *engine, guint32 parent, const char *name) {
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->folders);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    Folder *folder = value;
    if (folder->parent == parent && g_str_equal(folder->name, name))
      return folder;
  }
  return NULL;
}

EngineFolder *engine_folder_by_name(Engine *engine, guint32 parent, const char *name,
                                    GError **error) {
  g_mutex_lock(&engine->lock);
  Folder *folder = fake_child_locked(engine, parent, name);
  EngineFolder *out = folder ? fake_export_folder_locked(engine, folder) : not_found(error);
  g_mutex_unlock(&engine->lock);
  return out;
}

EngineFolder *engine_folder_by_space(Engine *engine, guint32 space, GError **error) {
  g_mutex_lock(&engine->lock);
  Folder *folder = g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(space));
  EngineFolder *out = folder ? fake_export_folder_locked(engine, folder) : not_found(error);
  g_mutex_unlock(&engine->lock);
  return out;
}

GPtrArray *engine_folders(Engine *engine, guint32 parent, GError **error) {
  GPtrArray *out = g_ptr_array_new_with_free_func((GDestroyNotify) engine_folder_free);
  g_mutex_lock(&engine->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->folders);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (((Folder *) value)->parent == parent)
      g_ptr_array_add(out, fake_export_folder_locked(engine, value));
  g_mutex_unlock(&engine->lock);
  return out;
}

Row *fake_row_locked(Engine *engine, EngineMsg msg, Folder **folder_out) {
  Folder *folder = g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(msg.space));
  if (folder_out)
    *folder_out = folder;
  return folder && folder->space == msg.space ? fake_find_row(folder, msg.uid) : NULL;
}

EngineMessage *engine_message_get(Engine *engine, EngineMsg msg, GError **error) {
  g_mutex_lock(&engine->lock);
  Row *row = fake_row_locked(engine, msg, NULL);
  EngineMessage *out = row ? fake_export_row_locked(engine, row) : NULL;
  g_mutex_unlock(&engine->lock);
  return out ? out : not_found(error);
}

Row *fake_row_by_name_locked(Folder *folder, const char *name) {
  if (!folder || folder->listing != LISTED)
    return NULL;
  const char *dot = g_str_has_suffix(name, ".eml")
                        ? g_strrstr_len(name, (gssize) strlen(name) - 4, ".")
                        : NULL;
  Row *row = dot ? fake_find_row(folder, (guint32) g_ascii_strtoull(dot + 1, NULL, 10)) : NULL;
  g_autofree char *made_up = row ? fake_row_name(row) : NULL;
  if (row && !row->hidden && g_str_equal(made_up, name))
    return row;
  for (guint i = 0; i < folder->rows->len; i++) {
    row = &g_array_index(folder->rows, Row, i);
    if (row->name && !row->hidden && g_str_equal(row->name, name))
      return row;
  }
  return NULL;
}

EngineMessage *engine_message_by_name(Engine *engine, guint32 space, const char *name,
                                      GError **error) {
  g_mutex_lock(&engine->lock);
  Row *row = fake_row_by_name_locked(g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(space)),
                                     name);
  EngineMessage *out = row ? fake_export_row_locked(engine, row) : NULL;
  g_mutex_unlock(&engine->lock);
  return out ? out : not_found(error);
}

void fake_remove_row_locked(Folder *folder, Row *row) {
  g_array_remove_index(folder->rows, (guint) (row - &g_array_index(folder->rows, Row, 0)));
  folder->mtime++;
}

gboolean engine_messages_scan(Engine *engine, guint32 space, guint32 after, guint limit,
                              EngineMessageFn each, gpointer data, GError **error) {
  g_autoptr(GPtrArray) found =
      g_ptr_array_new_with_free_func((GDestroyNotify) engine_message_free);
  g_mutex_lock(&engine->lock);
  Folder *folder = g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(space));
  if (folder && folder->listing == LISTED) {
    guint low = 0, high = folder->rows->len;
    while (low < high) {
      guint middle = (low + high) / 2;
      if (g_array_index(folder->rows, Row, middle).uid <= after)
        low = middle + 1;
      else
        high = middle;
    }
    for (; low < folder->rows->len && found->len < limit; low++) {
      const Row *row = &g_array_index(folder->rows, Row, low);
      if (!row->hidden)
        g_ptr_array_add(found, fake_export_row_locked(engine, row));
    }
  }
  g_mutex_unlock(&engine->lock);
  for (guint i = 0; i < found->len; i++)
    if (!each(found->pdata[i], data))
      break;
  return TRUE;
}

/* ---- parked calls ---- */

EngineWait fake_add_wait_locked(Engine *engine, const Wait *template) {
  Wait *wait = g_memdup2(template, sizeof *template);
  wait->id = ++engine->last_wait;
  g_hash_table_insert(engine->waits, GSIZE_TO_POINTER((gsize) wait->id), wait);
  return wait->id;
}

static void finish_with(Engine *engine, Wait *wait, EmlError code, const char *message) {
  if (wait->change) {
    fake_finish_change(engine, wait->change, (int) code);
    return;
  }
  GError *error = g_error_new_literal(EML_ERROR, code, message);
  if (wait->done)
    wait->done(wait->data, error);
  else if (wait->body_done)
    wait->body_done(NULL, wait->data, error);
  else
    wait->read_done(-1, 0, 0, wait->data, error);
  g_error_free(error);
}

EngineWait engine_folder_ready(Engine *engine, guint32 id, EngineDone done, gpointer data) {
  Wait wait = {.folder = id, .done = done, .data = data};
  g_mutex_lock(&engine->lock);
  Folder *folder = g_hash_table_lookup(engine->folders, GUINT_TO_POINTER(id));
  Listing listing = folder ? folder->listing : LISTED;
  EngineWait number = listing == UNLISTED ? fake_add_wait_locked(engine, &wait) : 0;
  g_mutex_unlock(&engine->lock);
  if (!folder)
    finish_with(engine, &wait, EML_ERROR_NOT_FOUND, "no such folder");
  else if (listing == UNREACHABLE)
    finish_with(engine, &wait, EML_ERROR_OFFLINE, "the server is away");
  else if (listing == LISTED)
    done(data, NULL);
  return number;
}

void engine_cancel(Engine *engine, EngineWait number) {
  g_mutex_lock(&engine->lock);
  gpointer wait = NULL;
  g_hash_table_steal_extended(engine->waits, GSIZE_TO_POINTER((gsize) number), NULL, &wait);
  g_mutex_unlock(&engine->lock);
  if (wait)
    finish_with(engine, wait, EML_ERROR_CANCELLED, "cancelled");
  g_free(wait);
}

void fake_tell(Engine *engine, EngineNews news) {
  if (engine->news)
    engine->news(&news, 1, engine->news_data);
}

/* Puts the body where it can be read, corrects its size first. */
static EngineBody *open_body(Engine *engine, EngineMsg msg) {
  g_mutex_lock(&engine->lock);
  Folder *folder;
  Row *row = fake_row_locked(engine, msg, &folder);
  EngineBody *body = NULL;
  gboolean corrected = FALSE;
  guint32 folder_id = folder ? folder->id : 0;
  if (row) {
    corrected = row->size != row->true_size;
    row->size = row->true_size;
    if (row->packed < 0) {
      row->packed = engine->pack_end;
      engine->pack_end += (gint64) row->size;
      if (row->size <= LARGE) {
        g_autofree char *octets = g_malloc(row->size + 1);
        fake_fill(octets, msg, 0, row->size);
        g_assert(pwrite(engine->pack, octets, row->size, row->packed) == (gssize) row->size);
      }
    }
    body = g_new0(EngineBody, 1);
    *body = (EngineBody){engine, msg, row->size, row->packed, FALSE, row->written};
    engine->opened++;
  }
  g_mutex_unlock(&engine->lock);
  if (corrected)
    fake_tell(engine, (EngineNews){.kind = ENGINE_NEWS_MESSAGE_SIZE, .folder = folder_id,
                                   .msg = msg});
  return body;
}

void fake_finish_open(Engine *engine, Wait *wait) {
  EngineBody *body = open_body(engine, wait->msg);
  if (body)
    wait->body_done(body, wait->data, NULL);
  else
    finish_with(engine, wait, EML_ERROR_STALE, "expunged");
}

EngineWait engine_body_open(Engine *engine, EngineMsg msg, EngineBodyDone done, gpointer data) {
  Wait wait = {.msg = msg, .body_done = done, .data = data};
  g_mutex_lock(&engine->lock);
  Row *row = fake_row_locked(engine, msg, NULL);
  BodyKind kind = row ? row->kind : BODY_NORMAL;
  EmlError code = row ? row->code : EML_ERROR_STALE;
  EngineWait number = kind == BODY_SLOW ? fake_add_wait_locked(engine, &wait) : 0;
  g_mutex_unlock(&engine->lock);
  if (kind == BODY_NORMAL)
    fake_finish_open(engine, &wait);
  else if (kind == BODY_FAILS)
    finish_with(engine, &wait, code, "made to fail");
  return number;
}

EngineBody *engine_body_next(Engine *engine, EngineMsg *msg_inout) {
  g_mutex_lock(&engine->lock);
  Folder *folder = g_hash_table_lookup(engine->spaces, GUINT_TO_POINTER(msg_inout->space));
  Row *row = NULL;
  for (guint i = 0; folder && i < folder->rows->len && !row; i++) {
    Row *one = &g_array_index(folder->rows, Row, i);
    if (one->uid > msg_inout->uid && one->kind == BODY_NORMAL && one->size <= LARGE && !one->hidden)
      row = one;
  }
  guint32 uid = row ? row->uid : 0;
  g_mutex_unlock(&engine->lock);
  EngineBody *body = uid ? open_body(engine, (EngineMsg){msg_inout->space, uid}) : NULL;
  if (body) {
    body->ahead = TRUE;
    msg_inout->uid = uid;
  }
  return body;
}

void engine_body_close(EngineBody **body) {
  if (!*body)
    return;
  g_mutex_lock(&(*body)->engine->lock);
  (*body)->engine->closed++;
  g_mutex_unlock(&(*body)->engine->lock);
  g_clear_pointer(body, g_free);
}

guint64 engine_body_size(const EngineBody *body) {
  return body->size;
}

static gsize body_span(const EngineBody *body, guint64 offset, gsize size) {
  return offset >= body->size ? 0 : (gsize) MIN((guint64) size, body->size - offset);
}

/* The network: brings what was asked for of a large body. */
static void bring(Engine *engine, EngineWait number) {
  g_mutex_lock(&engine->lock);
  gpointer stolen = NULL;
  g_hash_table_steal_extended(engine->waits, GSIZE_TO_POINTER((gsize) number), NULL, &stolen);
  g_mutex_unlock(&engine->lock);
  Wait *wait = stolen;
  if (!wait)
    return;
  EngineBody *body = wait->body;
  gsize span = body_span(body, wait->offset, wait->size);
  gint64 at = body->packed + (gint64) wait->offset;
  g_autofree char *octets = g_malloc(span + 1);
  fake_fill(octets, body->msg, wait->offset, span);
  g_assert(pwrite(engine->pack, octets, span, at) == (gssize) span);
  wait->read_done(engine->pack, at, span, wait->data, NULL);
  g_free(wait);
}

static gpointer network_thread(gpointer data) {
  Engine *engine = data;
  g_mutex_lock(&engine->lock);
  for (;;) {
    while (g_queue_is_empty(&engine->jobs) && !engine->closing)
      g_cond_wait(&engine->more, &engine->lock);
    if (engine->closing)
      break;
    gsize number = GPOINTER_TO_SIZE(g_queue_pop_head(&engine->jobs));
    g_mutex_unlock(&engine->lock);
    bring(engine, number);
    g_mutex_lock(&engine->lock);
  }
  g_mutex_unlock(&engine->lock);
  return NULL;
}

EngineWait engine_body_read(EngineBody *body, guint64 offset, gsize size, EngineReadDone done,
                            gpointer data) {
  Engine *engine = body->engine;
  if (body->size > LARGE && !body->written) {
    Wait wait = {.body = body, .read_done = done, .data = data, .offset = offset, .size = size};
    g_mutex_lock(&engine->lock);
    EngineWait number = fake_add_wait_locked(engine, &wait);
    g_queue_push_tail(&engine->jobs, GSIZE_TO_POINTER((gsize) number));
    g_cond_signal(&engine->more);
    g_mutex_unlock(&engine->lock);
    return number;
  }
  g_mutex_lock(&engine->lock);
  engine->reads += !body->ahead;
  g_mutex_unlock(&engine->lock);
  done(engine->pack, body->packed + (gint64) offset, body_span(body, offset, size), data, NULL);
  return 0;
}

/* ---- the account ---- */

void engine_quota(Engine *engine, EngineQuota *quota_out) {
  g_mutex_lock(&engine->lock);
  *quota_out = engine->quota;
  g_mutex_unlock(&engine->lock);
}

char *engine_status(Engine *engine) {
  static gint asked; /* another text at each look, to see whether readers still agree with stat */
  gint n = g_atomic_int_add(&asked, 1);
  g_mutex_lock(&engine->lock);
  GString *text = g_string_new("state: online\n");
  g_string_append_printf(text, "open: %u\n", engine->opened - engine->closed);
  for (gint i = 0; i <= n % 7; i++)
    g_string_append_printf(text, "asked: %d\n", n);
  g_mutex_unlock(&engine->lock);
  return g_string_free(text, FALSE);
}

gboolean engine_command(Engine *engine, const char *line, char **answer_out, GError **error) {
  if (g_str_has_prefix(line, "fail")) {
    *answer_out = NULL;
    g_set_error(error, EML_ERROR, EML_ERROR_CONFIG, "made to fail: %s", line);
    return FALSE;
  }
  *answer_out = *line ? g_strdup_printf("did %s", line) : g_strdup("");
  return TRUE;
}

const char *engine_commands(Engine *engine) {
  return "anything   is done\nfail       fails\n";
}

const char *engine_name(Engine *engine) {
  return "fake@example.org";
}

/* ---- life ---- */

Engine *engine_open(Account *account, char **notice_out, GError **error) {
  *notice_out = g_strdup(g_getenv("FAKE_ENGINE_NOTICE"));
  Engine *engine = g_new0(Engine, 1);
  g_mutex_init(&engine->lock);
  engine->folders = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, folder_free);
  engine->spaces = g_hash_table_new(g_direct_hash, g_direct_equal);
  engine->waits = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
  engine->locals = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, fake_local_free);
  engine->quota.limit = -1;
  engine->pack = open(g_get_tmp_dir(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  g_assert(engine->pack >= 0);
  populate(engine);
  return engine;
}

gboolean engine_login(Engine *engine, GCancellable *cancellable, GError **error) {
  const char *mode = g_getenv("FAKE_ENGINE_LOGIN");
  if (g_strcmp0(mode, "refused") == 0) {
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "mail.example.org refuses the password");
    return FALSE;
  }
  if (g_strcmp0(mode, "hangs") == 0) {
    GPollFD polled;
    g_cancellable_make_pollfd(cancellable, &polled);
    g_poll(&polled, 1, -1);
    g_cancellable_release_fd(cancellable);
    g_set_error(error, EML_ERROR, EML_ERROR_CANCELLED, "interrupted");
    return FALSE;
  }
  return TRUE;
}

gboolean engine_start(Engine *engine, EngineNewsFn news, gpointer data, GError **error) {
  engine->news = news;
  engine->news_data = data;
  engine->over = eventfd(0, EFD_CLOEXEC);
  for (guint i = 0; i < G_N_ELEMENTS(engine->network); i++)
    engine->network[i] = g_thread_new("network", network_thread, engine);
  if (g_getenv("FAKE_ENGINE_SOCKET"))
    engine->control = g_thread_new("control", fake_control_thread, engine);
  return TRUE;
}

void engine_close(Engine **engine_inout) {
  Engine *engine = g_steal_pointer(engine_inout);
  if (!engine)
    return;
  g_mutex_lock(&engine->lock);
  engine->closing = TRUE;
  g_cond_broadcast(&engine->more);
  g_mutex_unlock(&engine->lock);
  if (engine->network[0]) {
    eventfd_write(engine->over, 1);
    for (guint i = 0; i < G_N_ELEMENTS(engine->network); i++)
      g_thread_join(engine->network[i]);
    if (engine->control)
      g_thread_join(engine->control);
    close(engine->over);
  }
  g_queue_clear(&engine->jobs);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->waits);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    finish_with(engine, value, EML_ERROR_CANCELLED, "closing");
  g_hash_table_unref(engine->waits);
  g_hash_table_unref(engine->locals);
  g_hash_table_unref(engine->spaces);
  g_hash_table_unref(engine->folders);
  close(engine->pack);
  g_free(engine);
}
