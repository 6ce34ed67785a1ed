/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How a test steers the fake engine: a command a line, its words separated by tabs, each answered
 * with a line. The table stands below.
 */
#include "fake-engine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"

static Folder *folder_by_path_locked(Engine *engine, const char *path) {
  g_auto(GStrv) names = g_strsplit(path, "/", -1);
  Folder *folder = NULL;
  for (char **name = names; *name; name++) {
    folder = fake_child_locked(engine, folder ? folder->id : 0, *name);
    if (!folder)
      return NULL;
  }
  return folder;
}

typedef char *(*CommandFn)(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text);

/* new PATH COUNT SIZE */
static char *do_new(Engine *engine, Folder *folder, gint64 count, gint64 size, const char *text) {
  g_autoptr(GArray) news = g_array_new(FALSE, TRUE, sizeof(EngineNews));
  g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
  g_mutex_lock(&engine->lock);
  for (gint64 i = 0; i < count; i++) {
    Row *row = fake_add_row(folder, (guint64) size);
    g_ptr_array_add(names, fake_row_name(row));
    EngineNews item = {.kind = ENGINE_NEWS_MESSAGE_NEW, .folder = folder->id,
                       .msg = {folder->space, row->uid}, .name = names->pdata[i]};
    g_array_append_val(news, item);
  }
  folder->mtime++;
  g_mutex_unlock(&engine->lock);
  engine->news((EngineNews *) (gpointer) news->data, news->len, engine->news_data);
  return g_strdup(names->len ? names->pdata[names->len - 1] : "");
}

/* gone PATH UID */
static char *do_gone(Engine *engine, Folder *folder, gint64 uid, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  Row *row = fake_find_row(folder, (guint32) uid);
  g_autofree char *name = row ? fake_row_name(row) : NULL;
  if (row)
    g_array_remove_index(folder->rows, (guint) (row - &g_array_index(folder->rows, Row, 0)));
  folder->mtime++;
  EngineNews news = {.kind = ENGINE_NEWS_MESSAGE_GONE, .folder = folder->id,
                     .msg = {folder->space, (guint32) uid}, .name = name};
  g_mutex_unlock(&engine->lock);
  if (name)
    fake_tell(engine, news);
  return g_strdup(name ? name : "");
}

/* flags PATH UID BITS: ctime becomes 1800000000 + BITS */
static char *do_flags(Engine *engine, Folder *folder, gint64 uid, gint64 bits, const char *text) {
  g_mutex_lock(&engine->lock);
  Row *row = fake_find_row(folder, (guint32) uid);
  row->flags = (guint) bits;
  row->ctime = 1800000000 + bits;
  EngineNews news = {.kind = ENGINE_NEWS_MESSAGE_FLAGS, .folder = folder->id,
                     .msg = {folder->space, (guint32) uid}};
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  return g_strdup("");
}

/* keywords PATH UID 0 TEXT: of which nobody is told */
static char *do_keywords(Engine *engine, Folder *folder, gint64 uid, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  fake_find_row(folder, (guint32) uid)->keywords = g_intern_string(text);
  g_mutex_unlock(&engine->lock);
  return g_strdup("");
}

/* mkdir PATH 0 0 NAME (PATH "." for the top) */
static char *do_mkdir(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *name) {
  g_mutex_lock(&engine->lock);
  Folder *made = fake_add_folder_locked(engine, folder ? folder->id : 0, name, LISTED);
  EngineNews news = {.kind = ENGINE_NEWS_FOLDER_NEW, .folder = made->id, .parent = made->parent,
                     .name = name};
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  return g_strdup("");
}

/* rmdir PATH */
static char *do_rmdir(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  g_autofree char *name = g_strdup(folder->name);
  EngineNews news = {.kind = ENGINE_NEWS_FOLDER_GONE, .folder = folder->id,
                     .parent = folder->parent, .name = name};
  g_hash_table_remove(engine->spaces, GUINT_TO_POINTER(folder->space));
  g_hash_table_remove(engine->folders, GUINT_TO_POINTER(folder->id));
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  return g_strdup("");
}

/* renumber PATH COUNT: another UIDVALIDITY, then COUNT messages */
static char *do_renumber(Engine *engine, Folder *folder, gint64 count, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  g_hash_table_remove(engine->spaces, GUINT_TO_POINTER(folder->space));
  folder->space = ++engine->last_space + 100;
  g_hash_table_insert(engine->spaces, GUINT_TO_POINTER(folder->space), folder);
  g_array_set_size(folder->rows, 0);
  folder->next_uid = 1;
  folder->mtime++;
  for (gint64 i = 0; i < count; i++)
    fake_add_row(folder, 123);
  EngineNews news = {.kind = ENGINE_NEWS_FOLDER_RESET, .folder = folder->id,
                     .parent = folder->parent};
  guint32 space = folder->space;
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  return g_strdup_printf("%u", space);
}

/* list PATH: what waits for its listing goes on */
static char *do_list(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_autoptr(GPtrArray) ready = g_ptr_array_new_with_free_func(g_free);
  g_mutex_lock(&engine->lock);
  folder->listing = LISTED;
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->waits);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (((Wait *) value)->done && ((Wait *) value)->folder == folder->id) {
      g_hash_table_iter_steal(&iter);
      g_ptr_array_add(ready, value);
    }
  EngineNews news = {.kind = ENGINE_NEWS_FOLDER_RESET, .folder = folder->id,
                     .parent = folder->parent};
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  for (guint i = 0; i < ready->len; i++)
    ((Wait *) ready->pdata[i])->done(((Wait *) ready->pdata[i])->data, NULL);
  return g_strdup("");
}

/* release: slow bodies arrive */
static char *do_release(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_autoptr(GPtrArray) ready = g_ptr_array_new_with_free_func(g_free);
  g_mutex_lock(&engine->lock);
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->waits);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (((Wait *) value)->body_done) {
      g_hash_table_iter_steal(&iter);
      g_ptr_array_add(ready, value);
    }
  g_mutex_unlock(&engine->lock);
  for (guint i = 0; i < ready->len; i++)
    fake_finish_open(engine, ready->pdata[i]);
  return g_strdup_printf("%u", ready->len);
}

static char *do_parked(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  guint count = g_hash_table_size(engine->waits);
  g_mutex_unlock(&engine->lock);
  return g_strdup_printf("%u", count);
}

static char *do_bodies(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  guint count = engine->opened - engine->closed;
  g_mutex_unlock(&engine->lock);
  return g_strdup_printf("%u", count);
}

static char *do_reads(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  guint count = engine->reads;
  g_mutex_unlock(&engine->lock);
  return g_strdup_printf("%u", count);
}

/* quota . USED LIMIT */
static char *do_quota(Engine *engine, Folder *folder, gint64 used, gint64 limit, const char *text) {
  g_mutex_lock(&engine->lock);
  engine->quota.used = used;
  engine->quota.limit = limit;
  g_mutex_unlock(&engine->lock);
  return g_strdup("");
}

static char *do_log(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  log_info("%s", text);
  return g_strdup("");
}

/* hold . 0 0 CALL: calls of this name wait until "go" */
static char *do_hold(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  engine->hold = g_intern_string(text);
  g_mutex_unlock(&engine->lock);
  return g_strdup("");
}

/* fail . CODE 0 CALL: the next call of this name fails */
static char *do_fail(Engine *engine, Folder *folder, gint64 code, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  engine->fail = g_intern_string(text);
  engine->fail_code = (EmlError) code;
  g_mutex_unlock(&engine->lock);
  return g_strdup("");
}

/* go: what is held is done, and nothing is held any more */
static char *do_go(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_autoptr(GPtrArray) ready = g_ptr_array_new_with_free_func(g_free);
  g_mutex_lock(&engine->lock);
  engine->hold = NULL;
  GHashTableIter iter;
  gpointer value;
  g_hash_table_iter_init(&iter, engine->waits);
  while (g_hash_table_iter_next(&iter, NULL, &value))
    if (((Wait *) value)->change) {
      g_hash_table_iter_steal(&iter);
      g_ptr_array_add(ready, value);
    }
  g_mutex_unlock(&engine->lock);
  for (guint i = 0; i < ready->len; i++)
    fake_finish_change(engine, ((Wait *) ready->pdata[i])->change, -1);
  return g_strdup_printf("%u", ready->len);
}

/* settle: what is on its way in has arrived */
static char *do_settle(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  fake_settle(engine);
  return g_strdup("");
}

/* swell PATH SIZE 0 NAME: a local file gets another size by itself */
static char *do_swell(Engine *engine, Folder *folder, gint64 size, gint64 b, const char *name) {
  g_mutex_lock(&engine->lock);
  Local *local = fake_local_by_name_locked(engine, (EngineDir){folder->id, 0}, name);
  EngineNews news = {.kind = ENGINE_NEWS_LOCAL, .local = local->id};
  if (ftruncate(local->fd, size) == 0)
    local->mtime = 1900000000ll * 1000000000;
  g_mutex_unlock(&engine->lock);
  fake_tell(engine, news);
  return g_strdup("");
}

/* counts: commits, clones, local files and folders */
static char *do_counts(Engine *engine, Folder *folder, gint64 a, gint64 b, const char *text) {
  g_mutex_lock(&engine->lock);
  char *out = g_strdup_printf("%u %u %u", engine->commits, engine->clones,
                              g_hash_table_size(engine->locals));
  g_mutex_unlock(&engine->lock);
  return out;
}

static const struct {
  const char *name;
  CommandFn run;
} commands[] = {
    {"new", do_new},       {"gone", do_gone},       {"flags", do_flags}, {"mkdir", do_mkdir},
    {"rmdir", do_rmdir},   {"renumber", do_renumber}, {"list", do_list}, {"release", do_release},
    {"parked", do_parked}, {"bodies", do_bodies},   {"quota", do_quota}, {"log", do_log},
    {"reads", do_reads},   {"hold", do_hold},       {"fail", do_fail},   {"go", do_go},
    {"settle", do_settle}, {"swell", do_swell},     {"counts", do_counts},
    {"keywords", do_keywords},
};

static char *run_line(Engine *engine, const char *line) {
  g_auto(GStrv) words = g_strsplit(line, "\t", -1);
  guint count = g_strv_length(words);
  g_mutex_lock(&engine->lock);
  Folder *folder = count > 1 ? folder_by_path_locked(engine, words[1]) : NULL;
  g_mutex_unlock(&engine->lock);
  for (gsize i = 0; i < G_N_ELEMENTS(commands); i++)
    if (count && g_str_equal(words[0], commands[i].name))
      return commands[i].run(engine, folder, count > 2 ? g_ascii_strtoll(words[2], NULL, 10) : 0,
                             count > 3 ? g_ascii_strtoll(words[3], NULL, 10) : 0,
                             count > 4 ? words[4] : "");
  return g_strdup("unknown command");
}

typedef struct {
  Engine *engine;
  int fd;
  GThread *thread;
} Client;

/* FALSE once the engine closes. */
static gboolean wait_readable(Engine *engine, int fd) {
  struct pollfd polled[] = {{.fd = fd, .events = POLLIN}, {.fd = engine->over, .events = POLLIN}};
  return poll(polled, 2, -1) > 0 && !polled[1].revents;
}

static gpointer client_thread(gpointer data) {
  Client *client = data;
  g_autoptr(GString) line = g_string_new(NULL);
  char octet;
  while (wait_readable(client->engine, client->fd) && read(client->fd, &octet, 1) == 1) {
    if (octet != '\n') {
      g_string_append_c(line, octet);
      continue;
    }
    g_autofree char *answer = run_line(client->engine, line->str);
    g_autofree char *whole = g_strdup_printf("%s\n", answer);
    if (write(client->fd, whole, strlen(whole)) < 0)
      break;
    g_string_truncate(line, 0);
  }
  return NULL;
}

gpointer fake_control_thread(gpointer data) {
  Engine *engine = data;
  g_autoptr(GPtrArray) clients = g_ptr_array_new_with_free_func(g_free);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, g_getenv("FAKE_ENGINE_SOCKET"), sizeof address.sun_path);
  unlink(address.sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(fd, (struct sockaddr *) &address, sizeof address) != 0 || listen(fd, 8) != 0)
    log_error("%s: %s", address.sun_path, g_strerror(errno));
  while (wait_readable(engine, fd)) {
    Client *client = g_new0(Client, 1);
    *client = (Client){engine, accept4(fd, NULL, NULL, SOCK_CLOEXEC), NULL};
    client->thread = g_thread_new("client", client_thread, client);
    g_ptr_array_add(clients, client);
  }
  for (guint i = 0; i < clients->len; i++) {
    Client *client = clients->pdata[i];
    g_thread_join(client->thread);
    close(client->fd);
  }
  close(fd);
  return NULL;
}
