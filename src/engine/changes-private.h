/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the files that change things share: changes.c (what is journaled is done on the server, in
 * order), settle.c (what became of it, in the index and for the kernel), verbs.c (names), folders.c
 * (folders), locals.c (octets).
 */
#pragma once

#include "engine/overlay.h"
#include "engine/private.h"
#include "sync/changes.h"

/* A change that is on its way. */
typedef struct {
  Change *change;
  EngineMsg msg;          /* the message of change->mailbox; uid 0: not in the index (yet) */
  guint32 folder, target; /* ids; 0: none, or not known */
  guint32 shown;          /* UPLOAD, COPY: the local file that stands for it, 0: none */
  EngineWait wait;        /* who waits for it; 0: it was acknowledged */
  gboolean settled;
  guint attempts;
} ChangeItem;
void change_item_free(ChangeItem *item);

/* Journals @item->change, with @local (or NULL), shows it and has it done. @item is taken over.
 * Completes @wait (a parked WAIT_FOLDER call, or 0: nobody waits): at once when it is believed to go
 * well, when it could not be journaled, or when the link is down; else when it is settled. */
void changes_submit(Changes *changes, ChangeItem *item, const Local *local, EngineWait wait);

/* Completes @wait, with success when @error is NULL. */
void changes_answer(Engine *engine, EngineWait wait, const GError *error);

/* Calls @fn once the change is settled, in whichever way: at once when it is already. */
typedef void (*ChangesFn)(gpointer data);
void changes_after(Changes *changes, guint32 change, ChangesFn fn, gpointer data);

/* Calls @fn when no change of @folder is on its way any more. */
void changes_after_folder(Changes *changes, guint32 folder, ChangesFn fn, gpointer data);

/* ---- mailboxes.c: folders, made and removed while somebody waits ---- */

/* Completes @wait. */
void mailboxes_make(Engine *engine, guint32 parent, const char *name, EngineWait wait);
void mailboxes_remove(Engine *engine, guint32 folder, EngineWait wait);
void mailboxes_rename(Engine *engine, guint32 folder, guint32 to, const char *name, EngineWait wait);
/* Makes the folder for deleted messages, then calls @fn; with an error when it could not be made. */
void mailboxes_make_trash(Engine *engine, EngineDone fn, gpointer data);

/* ---- settle.c ---- */

/* What became of an item, as sync_changes told. */
typedef struct {
  ChangeItem *item;
  ChangeOutcome outcome;
  guint32 uidvalidity, uid;
  gboolean guessed;
  GError *error;
} Settled;

/* Brings @settled (of Settled) into index, journal and overlay and tells the news. Nobody is
 * answered. FALSE: the journal could not be written. */
gboolean settle(Engine *engine, const GArray *settled, GError **error);

/* What is shown of @item from now on, until it is settled. */
void settle_show(Engine *engine, const ChangeItem *item);

/* ---- locals.c ---- */

Locals *locals_new(Engine *engine);
void locals_free(Locals *locals);

/* Shows the local files of the journal, once the folders are known. */
gboolean locals_load(Locals *locals, GError **error);

/* The upload of @item is about to end as refused: its octets stay, as a failed upload, in the
 * journal. */
void locals_keep(Locals *locals, const ChangeItem *item, const GError *error);

/* The upload or copy of @item is settled: what is shown of it now. @became: the message; uid 0 when
 * it is not known, or when it failed because of @error. */
void locals_uploaded(Locals *locals, const ChangeItem *item, EngineMsg became, const GError *error);

/* Lines of the status text: scratch, and uploads that failed. */
void locals_describe(Locals *locals, GString *text);

/* Gives the local file that @entry shows another place and name. One that is a letter there is
 * uploaded, in place of @replaces (uid 0: of nothing), with @flags (-1: what it says itself) and
 * @keywords (NULL: none). Completes @wait. */
void locals_rename(Locals *locals, const OverlayEntry *entry, EngineDir to, const char *name,
                  EngineMsg replaces, gint flags, const char *keywords, EngineWait wait);

/* Removes the local file or empty folder that @entry shows, with its octets. */
gboolean locals_unlink(Locals *locals, const OverlayEntry *entry, GError **error);

/* Makes a local folder. */
gboolean locals_mkdir(Locals *locals, EngineDir dir, const char *name, GError **error);

/* Path of a folder as shown, "" for the top; NULL when it is gone. g_free. */
char *locals_folder_path(Engine *engine, guint32 folder);
/* The folder at @path, or G_MAXUINT32. */
guint32 locals_folder_at(Engine *engine, const char *path);

/* Whether files of this name are letters: ends in ".eml" and does not begin with a dot. */
gboolean locals_is_letter(const char *name);
