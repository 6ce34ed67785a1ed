/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is done to names: removing and renaming, and the flags of messages. What a name stands for is
 * looked up anew whenever a change had to be waited for.
 */
#include <string.h>

#include "base/err.h"
#include "engine/changes-private.h"

typedef enum { VERB_UNLINK, VERB_RENAME, VERB_FLAGS } VerbKind;

typedef struct {
  Engine *engine;
  VerbKind kind;
  EngineDir dir, to;
  char *name, *to_name;
  gboolean no_replace;
  gboolean deliver; /* RENAME: of a local file, to a letter with `flags` and `keywords` */
  EngineMsg msg;    /* FLAGS: of this … */
  guint32 local;    /* … or of what this becomes */
  gint flags;       /* -1: as they are */
  char *keywords;
  EngineWait wait;
} Verb;

static void verb_free(Verb *verb) {
  g_free(verb->name);
  g_free(verb->to_name);
  g_free(verb->keywords);
  g_free(verb);
}

static void verb_answer(Verb *verb, const GError *error) {
  changes_answer(verb->engine, verb->wait, error);
  verb_free(verb);
}

static void verb_fail(Verb *verb, EmlError code, const char *text) {
  g_autoptr(GError) error = g_error_new_literal(EML_ERROR, code, text);
  verb_answer(verb, error);
}

static void verb_run(gpointer data);

/* Runs @verb again once @change is settled. */
static void verb_after(Verb *verb, guint32 change) {
  changes_after(verb->engine->changes, change, verb_run, verb);
}

static EngineWait verb_start(Verb *verb, EngineDone done, gpointer data) {
  WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
  EngineWait wait = verb->wait = waits_add(verb->engine->waits, &call);
  verb_run(verb);
  return wait;
}

/* ---- messages ---- */

/* The change that has to be settled before @msg can be touched, 0: none. */
static guint32 busy_with(Engine *engine, EngineMsg msg) {
  g_autoptr(OverlayEntry) guest = overlay_get_guest(engine->overlay, msg);
  OverlayReplaced replaced = {0};
  overlay_get_replaced(engine->overlay, msg, &replaced);
  return guest ? guest->change : replaced.change;
}

/* A change of @msg as the index has it. NULL with @error. */
static ChangeItem *item_of(Engine *engine, ChangeKind kind, EngineMsg msg, GError **error) {
  g_autoptr(StoreMessage) message =
      store_message_get(engine->store, (MsgId){msg.space, msg.uid}, error);
  g_autoptr(StoreFolder) folder =
      message ? store_folder_by_space(engine->store, msg.space, error) : NULL;
  if (!folder)
    return NULL;
  ChangeItem *item = g_new0(ChangeItem, 1);
  item->change = g_new0(Change, 1);
  *item->change = (Change){.kind = kind,
                           .mailbox = g_strdup(folder->mailbox),
                           .uidvalidity = folder->uidvalidity,
                           .uid = msg.uid,
                           .size = message->size,
                           .date = message->internal_date,
                           .flags = message->flags,
                           .keywords = g_strdup(message->keywords),
                           .name = g_strdup(message->name)};
  item->msg = msg;
  item->folder = folder->id;
  return item;
}

static gboolean name_is_free(Engine *engine, guint32 folder, const char *name) {
  g_auto(EngineEntry) entry = {0};
  return !engine_entry_get(engine, (EngineDir){folder, 0}, name, &entry, NULL);
}

/* @name, or where it is taken "name~2.eml" and so on. */
static char *free_name(Engine *engine, guint32 folder, const char *name) {
  const char *dot = g_str_has_suffix(name, ".eml") ? name + strlen(name) - 4 : name + strlen(name);
  char *result = g_strdup(name);
  for (guint n = 2; !name_is_free(engine, folder, result); n++) {
    g_free(result);
    result = g_strdup_printf("%.*s~%u%s", (int) MIN(dot - name, 240), name, n, dot);
  }
  return result;
}

static void aim(ChangeItem *item, const StoreFolder *target, const char *name) {
  Change *change = item->change;
  change->target = g_strdup(target->mailbox);
  change->target_uidvalidity = target->uidvalidity;
  change->target_uidnext = target->uidnext;
  char *own = g_strdup(name);
  g_free(change->name);
  change->name = own;
  item->target = target->id;
}

/* ---- removing ---- */

/* The folder for deleted messages, or NULL. */
static StoreFolder *trash_folder(Engine *engine) {
  g_autoptr(GPtrArray) folders = store_folders(engine->store, G_MAXUINT32, NULL);
  const StoreFolder *named = NULL;
  for (guint i = 0; folders && i < folders->len; i++) {
    const StoreFolder *folder = g_ptr_array_index(folders, i);
    if (!folder->selectable || !folder->mailbox)
      continue;
    if (folder->role == STORE_ROLE_TRASH)
      return store_folder_copy(folder);
    if (!named && g_ascii_strcasecmp(folder->name, "Trash") == 0)
      named = folder;
  }
  return named ? store_folder_copy(named) : NULL;
}

static gboolean is_within(Engine *engine, guint32 id, guint32 above) {
  while (id && id != above) {
    g_autoptr(StoreFolder) folder = store_folder_get(engine->store, id, NULL);
    id = folder ? folder->parent : 0;
  }
  return id == above;
}

static void on_trash(gpointer data, const GError *error) {
  Verb *verb = data;
  if (error)
    verb_answer(verb, error);
  else
    verb_run(verb);
}

/* The change that removes @msg; NULL with @error, or NULL without: the Trash must be made first. */
static ChangeItem *removal_of(Engine *engine, EngineMsg msg, GError **error) {
  g_autoptr(StoreFolder) trash = engine->account->expunge ? NULL : trash_folder(engine);
  if (!trash && !engine->account->expunge)
    return NULL;
  ChangeItem *item = item_of(engine, CHANGE_MOVE, msg, error);
  if (!item)
    return NULL;
  if (!trash || is_within(engine, item->folder, trash->id)) {
    item->change->kind = CHANGE_EXPUNGE;
    return item;
  }
  g_autofree char *name = free_name(engine, trash->id, item->change->name);
  aim(item, trash, name);
  return item;
}

static void unlink_message(Verb *verb, EngineMsg msg) {
  g_autoptr(GError) error = NULL;
  if (!link_usable(verb->engine->link, &error)) {
    verb_answer(verb, error);
    return;
  }
  ChangeItem *item = removal_of(verb->engine, msg, &error);
  if (item) {
    changes_submit(verb->engine->changes, item, NULL, verb->wait);
    verb_free(verb);
  } else if (error) {
    verb_answer(verb, error);
  } else {
    mailboxes_make_trash(verb->engine, on_trash, verb);
  }
}

static void unlink_run(Verb *verb) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) entry = {0};
  g_autoptr(OverlayEntry) shown = overlay_find(engine->overlay, verb->dir, verb->name);
  if (shown && shown->change) {
    verb_after(verb, shown->change);
  } else if (!engine_entry_get(engine, verb->dir, verb->name, &entry, &error)) {
    verb_answer(verb, error);
  } else if (entry.folder || (entry.local && entry.local->is_folder)) {
    verb_fail(verb, EML_ERROR_INVALID, "it is a folder");
  } else if (shown) {
    locals_unlink(engine->locals, shown, &error);
    verb_answer(verb, error);
  } else {
    guint32 busy = busy_with(engine, entry.msg);
    if (busy)
      verb_after(verb, busy);
    else
      unlink_message(verb, entry.msg);
  }
}

/* ---- renaming ---- */

/* Makes room at the target: what is there goes, unless it is a message that a letter replaces, which
 * is *@replaces_out. FALSE: @verb is answered, or runs again later. */
static gboolean make_room(Verb *verb, gboolean for_letter, EngineMsg *replaces_out) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) there = {0};
  *replaces_out = (EngineMsg){0, 0};
  g_autoptr(OverlayEntry) shown = overlay_find(engine->overlay, verb->to, verb->to_name);
  if (shown && shown->change) {
    verb_after(verb, shown->change);
    return FALSE;
  }
  if (!engine_entry_get(engine, verb->to, verb->to_name, &there, &error)) {
    if (g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND))
      return TRUE;
    verb_answer(verb, error);
    return FALSE;
  }
  if (verb->no_replace || there.folder || (there.local && there.local->is_folder)) {
    verb_fail(verb, EML_ERROR_EXISTS, "the target exists");
    return FALSE;
  }
  if (shown) {
    if (locals_unlink(engine->locals, shown, &error))
      return TRUE;
    verb_answer(verb, error);
    return FALSE;
  }
  guint32 busy = busy_with(engine, there.msg);
  if (busy) {
    verb_after(verb, busy);
    return FALSE;
  }
  if (for_letter) {
    *replaces_out = there.msg;
    return TRUE;
  }
  if (!link_usable(engine->link, &error)) {
    verb_answer(verb, error);
    return FALSE;
  }
  ChangeItem *removal = removal_of(engine, there.msg, &error);
  if (removal) {
    changes_submit(engine->changes, removal, NULL, 0);
    return TRUE;
  }
  if (error)
    verb_answer(verb, error);
  else
    mailboxes_make_trash(engine, on_trash, verb);
  return FALSE;
}

/* Within one folder only the name changes, which the server does not know. */
static void rename_in_place(Verb *verb, EngineMsg msg) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  g_autoptr(StoreFolder) folder = store_folder_by_space(engine->store, msg.space, &error);
  g_autoptr(StoreMessage) message =
      folder ? store_message_get(engine->store, (MsgId){msg.space, msg.uid}, &error) : NULL;
  if (message && journal_name_set(engine->journal, folder->mailbox, folder->uidvalidity, msg.uid,
                                  verb->to_name, &error)) {
    StoreMessage renamed = *message;
    renamed.name = verb->to_name;
    StoreBatch *batch = store_batch_new(engine->store, msg.space);
    if (store_batch_put(batch, &renamed, NULL, &error))
      store_batch_flush(batch, &error);
    store_batch_abort(&batch);
    overlay_touch(engine->overlay, folder->id);
  }
  verb_answer(verb, error);
}

static void rename_message(Verb *verb, EngineMsg msg) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  guint32 busy = busy_with(engine, msg);
  if (busy) {
    verb_after(verb, busy);
    return;
  }
  if (verb->to.local) {
    verb_fail(verb, EML_ERROR_CROSSING, "a message cannot be moved among local files");
    return;
  }
  g_autoptr(StoreFolder) target =
      verb->to.folder ? store_folder_get(engine->store, verb->to.folder, &error) : NULL;
  if (error) {
    verb_answer(verb, error);
    return;
  }
  if (!target || !target->mailbox || !target->selectable) {
    verb_fail(verb, EML_ERROR_FIXED, "the target cannot hold messages");
    return;
  }
  gboolean in_place = target->space == msg.space;
  if (!in_place && !link_usable(engine->link, &error)) {
    verb_answer(verb, error);
    return;
  }
  EngineMsg none;
  if (!make_room(verb, FALSE, &none))
    return;
  if (in_place) {
    rename_in_place(verb, msg);
    return;
  }
  ChangeItem *item = item_of(engine, CHANGE_MOVE, msg, &error);
  if (!item) {
    verb_answer(verb, error);
    return;
  }
  aim(item, target, verb->to_name);
  changes_submit(engine->changes, item, NULL, verb->wait);
  verb_free(verb);
}

static void rename_local(Verb *verb, const OverlayEntry *shown) {
  Engine *engine = verb->engine;
  gboolean letter = !verb->to.local && locals_is_letter(verb->to_name);
  if (shown->local->is_folder && letter) {
    verb_fail(verb, EML_ERROR_CROSSING, "a local folder cannot have the name of a message");
    return;
  }
  if (shown->local->is_folder && !verb->to.local && verb->to_name[0] != '.') {
    verb_fail(verb, EML_ERROR_CROSSING, "the name of a local folder begins with a dot");
    return;
  }
  EngineMsg replaces;
  if (!make_room(verb, letter, &replaces))
    return;
  locals_rename(engine->locals, shown, verb->to, verb->to_name, replaces,
                verb->deliver ? verb->flags : -1, verb->keywords, verb->wait);
  verb_free(verb);
}

static void rename_folder(Verb *verb, guint32 folder) {
  g_auto(EngineEntry) there = {0};
  if (verb->to.local) {
    verb_fail(verb, EML_ERROR_CROSSING, "a folder of the server cannot be moved among local files");
    return;
  }
  if (engine_entry_get(verb->engine, verb->to, verb->to_name, &there, NULL)) {
    /* Onto an empty folder would be right, but takes two steps that others can come between. */
    verb_fail(verb, there.folder && !verb->no_replace ? EML_ERROR_NOT_EMPTY : EML_ERROR_EXISTS,
              "the target exists");
    return;
  }
  mailboxes_rename(verb->engine, folder, verb->to.folder, verb->to_name, verb->wait);
  verb_free(verb);
}

static void rename_run(Verb *verb) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) entry = {0};
  g_autoptr(OverlayEntry) shown = overlay_find(engine->overlay, verb->dir, verb->name);
  gboolean same = verb->dir.folder == verb->to.folder && verb->dir.local == verb->to.local &&
                  g_str_equal(verb->name, verb->to_name);
  if (strlen(verb->to_name) > 255)
    verb_fail(verb, EML_ERROR_INVALID, "the name is too long");
  else if (shown && shown->change)
    verb_after(verb, shown->change);
  else if (!engine_entry_get(engine, verb->dir, verb->name, &entry, &error))
    verb_answer(verb, error);
  else if (verb->deliver && !(entry.local && !entry.local->is_folder && verb->to.folder
                              && locals_is_letter(verb->to_name)))
    verb_fail(verb, EML_ERROR_INVALID, "it cannot be delivered");
  else if (same)
    verb_answer(verb, NULL);
  else if (entry.folder)
    rename_folder(verb, entry.folder->id);
  else if (shown && shown->local)
    rename_local(verb, shown);
  else
    rename_message(verb, entry.msg);
}

/* ---- flags ---- */

/* A keyword is an atom that is no system flag (RFC 9051 9, flag-keyword). */
static gboolean is_keyword(const char *word) {
  for (const char *c = word; *c; c++)
    if (!g_ascii_isgraph(*c) || strchr("(){%*\"\\]", *c))
      return FALSE;
  return *word != 0;
}

/* Words of @text that are not in @other. */
static char *words_beyond(const char *text, const char *other) {
  g_auto(GStrv) words = g_strsplit(text, " ", -1);
  g_auto(GStrv) others = g_strsplit(other, " ", -1);
  GString *beyond = g_string_new(NULL);
  for (char **word = words; *word; word++)
    if (**word && !g_strv_contains((const char *const *) others, *word))
      g_string_append_printf(beyond, "%s%s", beyond->len ? " " : "", *word);
  return g_string_free(beyond, FALSE);
}

static void flags_run(Verb *verb) {
  Engine *engine = verb->engine;
  g_autoptr(GError) error = NULL;
  EngineMsg msg = overlay_resolve(engine->overlay, verb->msg);
  if (verb->local && !overlay_resolve_local(engine->overlay, verb->local, &msg)) {
    g_autoptr(OverlayEntry) letter =
        overlay_get(engine->overlay, overlay_local_number(verb->local));
    if (letter && letter->change)
      verb_after(verb, letter->change);
    else
      verb_fail(verb, EML_ERROR_FIXED, "only what is on the server has flags");
    return;
  }
  guint32 busy = busy_with(engine, msg);
  if (busy) {
    verb_after(verb, busy);
    return;
  }
  ChangeItem *item = overlay_is_hidden(engine->overlay, msg)
                         ? NULL
                         : item_of(engine, CHANGE_FLAGS, msg, &error);
  if (!item) {
    if (!error)
      g_set_error_literal(&error, EML_ERROR, EML_ERROR_NOT_FOUND, "the message is gone");
    verb_answer(verb, error);
    return;
  }
  Change *change = item->change;
  guint have = change->flags & ~(guint) MSG_FLAG_RECENT;
  guint want = verb->flags < 0 ? have : (guint) verb->flags & ~(guint) MSG_FLAG_RECENT;
  const char *words = verb->keywords ? verb->keywords : change->keywords;
  change->add = want & ~have;
  change->remove = have & ~want;
  change->add_keywords = words_beyond(words, change->keywords);
  change->remove_keywords = words_beyond(change->keywords, words);
  if (!change->add && !change->remove && !*change->add_keywords && !*change->remove_keywords) {
    change_item_free(item);
    verb_answer(verb, NULL);
    return;
  }
  changes_submit(engine->changes, item, NULL, verb->wait);
  verb_free(verb);
}

static void verb_run(gpointer data) {
  Verb *verb = data;
  switch (verb->kind) {
  case VERB_UNLINK:
    unlink_run(verb);
    break;
  case VERB_RENAME:
    rename_run(verb);
    break;
  case VERB_FLAGS:
    flags_run(verb);
    break;
  }
}

/* ---- the calls ---- */

EngineWait engine_unlink(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                         gpointer data) {
  Verb *verb = g_new(Verb, 1);
  *verb = (Verb){.engine = engine, .kind = VERB_UNLINK, .dir = dir, .name = g_strdup(name)};
  return verb_start(verb, done, data);
}

EngineWait engine_rename(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                         const char *to_name, gboolean no_replace, EngineDone done, gpointer data) {
  Verb *verb = g_new(Verb, 1);
  *verb = (Verb){.engine = engine,
                 .kind = VERB_RENAME,
                 .dir = dir,
                 .to = to,
                 .name = g_strdup(name),
                 .to_name = g_strdup(to_name),
                 .no_replace = no_replace};
  return verb_start(verb, done, data);
}

EngineWait engine_deliver(Engine *engine, EngineDir dir, const char *name, EngineDir to,
                          const char *to_name, gboolean no_replace, guint flags,
                          const char *keywords, EngineDone done, gpointer data) {
  Verb *verb = g_new(Verb, 1);
  *verb = (Verb){.engine = engine,
                 .kind = VERB_RENAME,
                 .dir = dir,
                 .to = to,
                 .name = g_strdup(name),
                 .to_name = g_strdup(to_name),
                 .no_replace = no_replace,
                 .deliver = TRUE,
                 .flags = (gint) flags,
                 .keywords = g_strdup(keywords)};
  return verb_start(verb, done, data);
}

EngineWait engine_set_flags(Engine *engine, EngineMsg msg, guint32 local, gint flags,
                            const char *keywords, EngineDone done, gpointer data) {
  g_auto(GStrv) words = g_strsplit(keywords ? keywords : "", " ", -1);
  for (char **word = words; *word; word++)
    if (**word && !is_keyword(*word)) {
      g_autoptr(GError) error =
          g_error_new(EML_ERROR, EML_ERROR_INVALID, "%s cannot be a keyword", *word);
      done(data, error);
      return 0;
    }
  Verb *verb = g_new(Verb, 1);
  *verb = (Verb){.engine = engine,
                 .kind = VERB_FLAGS,
                 .msg = msg,
                 .local = local,
                 .flags = flags,
                 .keywords = g_strdup(keywords)};
  return verb_start(verb, done, data);
}

EngineWait engine_mkdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) there = {0};
  if (engine_entry_get(engine, dir, name, &there, &error))
    g_set_error(&error, EML_ERROR, EML_ERROR_EXISTS, "%s exists", name);
  else if (g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND))
    g_clear_error(&error);
  gboolean local = dir.local || name[0] == '.';
  if (!error && local)
    locals_mkdir(engine->locals, dir, name, &error);
  if (error || local) {
    done(data, error);
    return 0;
  }
  WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
  EngineWait wait = waits_add(engine->waits, &call);
  mailboxes_make(engine, dir.folder, name, wait);
  return wait;
}

EngineWait engine_rmdir(Engine *engine, EngineDir dir, const char *name, EngineDone done,
                        gpointer data) {
  g_autoptr(GError) error = NULL;
  g_auto(EngineEntry) there = {0};
  g_autoptr(OverlayEntry) shown = overlay_find(engine->overlay, dir, name);
  if (!engine_entry_get(engine, dir, name, &there, &error)) {
    done(data, error);
    return 0;
  }
  if (there.folder) {
    WaitCall call = {.kind = WAIT_FOLDER, .done.folder = done, .data = data};
    EngineWait wait = waits_add(engine->waits, &call);
    mailboxes_remove(engine, there.folder->id, wait);
    return wait;
  }
  if (!shown || !shown->local || !shown->local->is_folder)
    g_set_error_literal(&error, EML_ERROR, EML_ERROR_INVALID, "it is no folder");
  else if (overlay_count(engine->overlay, (EngineDir){0, shown->local->id}))
    g_set_error_literal(&error, EML_ERROR, EML_ERROR_NOT_EMPTY, "there is something in it");
  else
    locals_unlink(engine->locals, shown, &error);
  done(data, error);
  return 0;
}
