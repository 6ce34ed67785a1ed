/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "model.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/autofd.h"
#include "base/err.h"

#define DATE "24-Nov-2026 13:00:0"
#define DATE_SECONDS 1795525200

/* ---- journal ---- */

static Change *find_row(Model *model, guint32 id) {
  for (guint i = 0; i < model->rows->len; i++)
    if (((Change *) model->rows->pdata[i])->id == id)
      return model->rows->pdata[i];
  return NULL;
}

gboolean journal_change_update(Journal *journal, const Change *const *changes, gsize count,
                               GError **error) {
  g_mutex_lock(&journal->lock);
  gboolean ok = ++journal->written != journal->broken;
  for (gsize i = 0; i < count && ok; i++) {
    Change *row = find_row(journal, changes[i]->id);
    g_assert_nonnull(row);
    g_assert_cmpint(changes[i]->stage, >=, row->stage);
    row->stage = changes[i]->stage;
    row->abandoned = changes[i]->abandoned;
    row->arrived = changes[i]->arrived;
  }
  g_mutex_unlock(&journal->lock);
  if (!ok)
    g_set_error_literal(error, EML_ERROR, EML_ERROR_NO_SPACE, "the disk is full");
  return ok;
}

static char *name_key(const char *mailbox, guint32 uidvalidity, guint32 uid) {
  return g_strdup_printf("%s %u %u", mailbox, uidvalidity, uid);
}

char *journal_name_get(Journal *journal, const char *mailbox, guint32 uidvalidity, guint32 uid) {
  g_autofree char *key = name_key(mailbox, uidvalidity, uid);
  return g_hash_table_contains(journal->names, key) ? g_strdup("name.eml") : NULL;
}

int journal_local_fd(Journal *journal, guint32 id, gboolean create, GError **error) {
  const char *octets = g_hash_table_lookup(journal->locals, GUINT_TO_POINTER(id));
  g_assert_false(create);
  if (!octets) {
    g_set_error_literal(error, EML_ERROR, EML_ERROR_FAILED, "no such file");
    return -1;
  }
  autofd int fd = memfd_create("local", MFD_CLOEXEC);
  g_assert_cmpint(write(fd, octets, strlen(octets)), ==, (gssize) strlen(octets));
  if (id != journal->unreadable)
    return steal_fd(&fd);
  g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
  return open(path, O_WRONLY | O_CLOEXEC);
}

static ModelBox *box_named(Model *model, const char *name) {
  for (gsize i = 0; i < G_N_ELEMENTS(model->boxes); i++)
    if (g_strcmp0(model->boxes[i].name, name) == 0)
      return &model->boxes[i];
  return NULL;
}

static ModelMail *mail_of(const ModelBox *box, guint32 uid) {
  for (guint i = 0; i < box->mails->len; i++)
    if (((ModelMail *) box->mails->pdata[i])->uid == uid)
      return box->mails->pdata[i];
  return NULL;
}

static const char *letter_of(const char *octets) {
  return strstr(octets, "\r\n\r\n") + 4;
}

static void on_settled(Change *change, const ChangeResult *result, gpointer data) {
  static const char *const outcomes[] = {"done", "refused", "gone"};
  Model *model = data;
  g_mutex_lock(&model->lock);
  Change *row = find_row(model, change->id);
  g_assert_nonnull(row); /* once for each */
  g_string_append_printf(model->settled, "%s%u:%s", model->settled->len ? " " : "", change->id,
                         outcomes[result->outcome]);
  g_assert_cmpint(result->error != NULL, ==, result->outcome == CHANGE_REFUSED);
  if (result->error)
    g_string_append_printf(model->settled, "(%d)", result->error->code);
  g_assert_cmpint(result->uid == 0, ==, result->uidvalidity == 0);
  if (result->uid) {
    /* It is that message, and nobody else's. */
    ModelBox *box = box_named(model, row->target);
    ModelMail *mail = mail_of(box, result->uid);
    g_assert_cmpuint(result->uidvalidity, ==, box->uidvalidity);
    g_assert_nonnull(mail);
    g_assert_cmpstr(mail->octets, ==,
                    (char *) g_hash_table_lookup(model->locals, GUINT_TO_POINTER(row->id)));
    g_assert_true(g_hash_table_insert(
        model->names, name_key(row->target, result->uidvalidity, result->uid), NULL));
  }
  g_ptr_array_remove(model->rows, row);
  g_mutex_unlock(&model->lock);
}

static void on_flags(guint32 uid, guint flags, const char *const *keywords, guint64 modseq,
                     gpointer data) {
  Model *model = data;
  g_autofree char *words = g_strjoinv(" ", (char **) keywords);
  g_string_append_printf(model->settled, "%s[%u=%u %s]", model->settled->len ? " " : "", uid, flags,
                         words);
}

/* ---- the server ---- */

static ModelMail *add_mail(ModelBox *box, const char *octets, const char *date,
                           const char *flags) {
  ModelMail *mail = g_new0(ModelMail, 1);
  mail->uid = box->uidnext++;
  mail->octets = g_strdup(octets);
  mail->date = g_strdup(date);
  mail->flags = g_strdup(flags);
  g_ptr_array_add(box->mails, mail);
  return mail;
}

static void free_mail(gpointer data) {
  ModelMail *mail = data;
  g_free(mail->octets);
  g_free(mail->date);
  g_free(mail->flags);
  g_free(mail);
}

char *model_octets(char letter) {
  return g_strdup_printf("A: b\r\n\r\n%c\r\n", letter);
}

Model *model_new(const char *caps) {
  static const struct {
    guint box;
    guint32 uid;
    char letter, second;
  } mails[] = {{0, 3, 'a', '1'}, {0, 4, 'b', '2'},  {0, 5, 'b', '2'},
               {0, 7, 'c', '3'}, {1, 10, 'b', '2'}, {1, 20, 'b', '2'}};
  Model *model = g_new0(Model, 1);
  g_mutex_init(&model->lock);
  model->caps = caps;
  model->commands = g_string_new(NULL);
  model->settled = g_string_new(NULL);
  model->rows = g_ptr_array_new_with_free_func((GDestroyNotify) g_free);
  model->locals = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  model->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  model->boxes[0] = (ModelBox){"INBOX", 100, 8, g_ptr_array_new_with_free_func(free_mail)};
  model->boxes[1] = (ModelBox){"Target", 200, 21, g_ptr_array_new_with_free_func(free_mail)};
  for (gsize i = 0; i < G_N_ELEMENTS(mails); i++) {
    ModelBox *box = &model->boxes[mails[i].box];
    guint32 next = box->uidnext;
    g_autofree char *octets = model_octets(mails[i].letter);
    g_autofree char *date = g_strdup_printf(DATE "%c +0000", mails[i].second);
    box->uidnext = mails[i].uid;
    add_mail(box, octets, date, "");
    box->uidnext = next;
  }
  g_hash_table_insert(model->names, name_key("Target", 200, 20), NULL);
  return model;
}

void model_free(Model *model) {
  g_mutex_clear(&model->lock);
  g_string_free(model->commands, TRUE);
  g_string_free(model->settled, TRUE);
  g_ptr_array_unref(model->rows);
  g_hash_table_unref(model->locals);
  g_hash_table_unref(model->names);
  for (gsize i = 0; i < G_N_ELEMENTS(model->boxes); i++)
    g_ptr_array_unref(model->boxes[i].mails);
  g_free(model);
}

Change *model_change(Model *model, ChangeKind kind, guint32 uid, char letter) {
  Change *change = g_new0(Change, 1);
  change->id = model->rows->len + 1;
  change->kind = kind;
  change->mailbox = uid ? (char *) "INBOX" : NULL;
  change->uidvalidity = uid ? 100 : 0;
  change->uid = uid;
  change->keywords = change->add_keywords = change->remove_keywords = (char *) "";
  if (kind == CHANGE_UPLOAD || kind == CHANGE_COPY || kind == CHANGE_MOVE) {
    change->target = (char *) "Target";
    change->target_uidvalidity = 200;
    change->target_uidnext = 20; /* one came in since */
    change->name = (char *) "name.eml";
  }
  ModelMail *mail = uid ? mail_of(&model->boxes[0], uid) : NULL;
  if (mail) {
    change->size = strlen(mail->octets);
    change->date = DATE_SECONDS + (mail->date[19] - '0');
    g_hash_table_insert(model->locals, GUINT_TO_POINTER(change->id), g_strdup(mail->octets));
  }
  if (kind == CHANGE_UPLOAD) {
    char *octets = model_octets(letter);
    change->size = strlen(octets);
    change->date = DATE_SECONDS + 9;
    change->flags = MSG_FLAG_SEEN;
    change->local = change->id;
    g_hash_table_insert(model->locals, GUINT_TO_POINTER(change->local), octets);
  }
  g_ptr_array_add(model->rows, change);
  return change;
}

static int compare_letters(gconstpointer a, gconstpointer b) {
  return strcmp(*(char *const *) a, *(char *const *) b);
}

static char *mail_text(const ModelMail *mail, gboolean with_uid) {
  g_autofree char *flags = *mail->flags ? g_strdup_printf("(%s)", mail->flags) : g_strdup("");
  g_autofree char *uid = with_uid ? g_strdup_printf("%u", mail->uid) : g_strdup("");
  return g_strdup_printf("%s%c%s", uid, *letter_of(mail->octets), flags);
}

static char *box_text(const ModelBox *box, gboolean with_uid) {
  g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
  for (guint i = 0; i < box->mails->len; i++)
    g_ptr_array_add(words, mail_text(box->mails->pdata[i], with_uid));
  if (!with_uid)
    g_ptr_array_sort(words, compare_letters);
  g_ptr_array_add(words, NULL);
  return g_strjoinv(" ", (char **) words->pdata);
}

char *model_text(const ModelBox *box) {
  return box_text(box, TRUE);
}

char *model_letters(const ModelBox *box) {
  return box_text(box, FALSE);
}

/* Whether @uid is in @set ("3,5:7,20:*"). */
static gboolean set_has(const ModelBox *box, const char *set, guint32 uid) {
  g_auto(GStrv) ranges = g_strsplit(set, ",", -1);
  guint32 largest =
      box->mails->len ? ((ModelMail *) box->mails->pdata[box->mails->len - 1])->uid : 0;
  for (char **range = ranges; *range; range++) {
    const char *colon = strchr(*range, ':');
    guint64 first = g_ascii_strtoull(*range, NULL, 10);
    guint64 last = !colon             ? first
                   : colon[1] == '*' ? largest
                                     : g_ascii_strtoull(colon + 1, NULL, 10);
    if (uid >= MIN(first, last) && uid <= MAX(first, last))
      return TRUE;
  }
  return FALSE;
}

/* The stage of the change of message @uid, or whose octets these are. */
static void check_journaled(Model *model, guint32 uid, const char *octets, ChangeStage stage) {
  for (guint i = 0; i < model->rows->len; i++) {
    const Change *row = model->rows->pdata[i];
    const char *local = g_hash_table_lookup(model->locals, GUINT_TO_POINTER(row->local));
    if (row->stage == stage && (octets ? g_strcmp0(local, octets) == 0 : row->uid == uid))
      return;
  }
  g_error("the journal does not say that %u (%s) is on its way", uid, octets ? octets : "");
}

static char *without_word(const char *words, const char *word) {
  g_auto(GStrv) all = g_strsplit(words, " ", -1);
  g_autoptr(GString) kept = g_string_new(NULL);
  for (char **at = all; *at; at++)
    if (strcmp(*at, word) != 0)
      g_string_append_printf(kept, "%s%s", kept->len ? " " : "", *at);
  return g_strdup(kept->str);
}

/* "+FLAGS.SILENT (\Deleted)" on @mail. */
static void store_mail(ModelMail *mail, gboolean add, const char *list) {
  g_autofree char *inner = g_strndup(list + 1, strlen(list) - 2);
  g_auto(GStrv) words = g_strsplit(inner, " ", -1);
  for (char **word = words; *word; word++) {
    char *without = without_word(mail->flags, *word);
    g_free(mail->flags);
    mail->flags = add ? g_strdup_printf("%s%s%s", without, *without ? " " : "", *word)
                      : g_strdup(without);
    g_free(without);
  }
}

/* One command as it is carried out. */
typedef struct {
  Model *model;
  ModelBox *selected;
  GString *answer; /* untagged */
  char *result;    /* behind the tag */
  guint done;
  guint half; /* stop after so many */
} Turn;

static void turn_fetch(Turn *turn, const char *set, const char *items) {
  for (guint i = 0; i < turn->selected->mails->len; i++) {
    const ModelMail *mail = turn->selected->mails->pdata[i];
    if (!set_has(turn->selected, set, mail->uid))
      continue;
    g_string_append_printf(turn->answer, "* %u FETCH (UID %u", i + 1, mail->uid);
    if (strstr(items, "SIZE"))
      g_string_append_printf(turn->answer, " RFC822.SIZE %u", (guint) strlen(mail->octets));
    if (strstr(items, "DATE"))
      g_string_append_printf(turn->answer, " INTERNALDATE \"%s\"", mail->date);
    if (strstr(items, "FLAGS"))
      g_string_append_printf(turn->answer, " FLAGS (%s)", mail->flags);
    if (strstr(items, "BODY"))
      g_string_append_printf(turn->answer, " BODY[] {%u}\r\n%s", (guint) strlen(mail->octets),
                             mail->octets);
    g_string_append(turn->answer, ")\r\n");
  }
}

static void turn_store(Turn *turn, const char *set, const char *item, const char *list) {
  for (guint i = 0; i < turn->selected->mails->len && turn->done < turn->half; i++) {
    ModelMail *mail = turn->selected->mails->pdata[i];
    if (!set_has(turn->selected, set, mail->uid))
      continue;
    if (mail->uid == turn->model->refused) {
      turn->result = g_strdup("NO not that one");
      continue;
    }
    store_mail(mail, *item == '+', list);
    turn->done++;
    if (!strstr(item, "SILENT"))
      g_string_append_printf(turn->answer, "* %u FETCH (UID %u FLAGS (%s))\r\n", i + 1, mail->uid,
                             mail->flags);
  }
}

static void turn_expunge(Turn *turn, const char *set) {
  for (guint i = 0; i < turn->selected->mails->len && turn->done < turn->half;) {
    ModelMail *mail = turn->selected->mails->pdata[i];
    if (!set_has(turn->selected, set, mail->uid) || !strstr(mail->flags, "\\Deleted")) {
      i++;
      continue;
    }
    const Change *row = turn->model->rows->pdata[0];
    check_journaled(turn->model, mail->uid, NULL,
                    row->kind == CHANGE_EXPUNGE ? CHANGE_SENT : CHANGE_ARRIVED);
    g_ptr_array_remove_index(turn->selected->mails, i);
    g_string_append_printf(turn->answer, "* %u EXPUNGE\r\n", i + 1);
    turn->done++;
  }
}

/* COPY and MOVE; with UIDPLUS it tells. */
static void turn_transfer(Turn *turn, const char *set, const char *name, gboolean move) {
  Model *model = turn->model;
  ModelBox *to = box_named(model, name);
  if (!to) {
    turn->result = g_strdup("NO [TRYCREATE] no such mailbox");
    return;
  }
  g_autoptr(GString) from_set = g_string_new(NULL), to_set = g_string_new(NULL);
  g_autoptr(GString) gone = g_string_new(NULL);
  gboolean refuses = FALSE;
  for (guint i = 0; i < turn->selected->mails->len; i++) {
    const ModelMail *mail = turn->selected->mails->pdata[i];
    if (set_has(turn->selected, set, mail->uid)) {
      check_journaled(model, mail->uid, NULL, CHANGE_SENT);
      refuses |= mail->uid == model->refused;
    }
  }
  if ((refuses || turn->half < G_MAXUINT) && !move) { /* all or nothing */
    turn->result = g_strdup("NO not that one");
    return;
  }
  guint expunged = 0;
  for (guint i = 0; i < turn->selected->mails->len && turn->done < turn->half;) {
    ModelMail *mail = turn->selected->mails->pdata[i];
    if (!set_has(turn->selected, set, mail->uid) || mail->uid == model->refused) {
      i++;
      continue;
    }
    const ModelMail *copy = add_mail(to, mail->octets, model->redates ? DATE "8 +0000" : mail->date,
                                     mail->flags);
    g_string_append_printf(from_set, "%s%u", turn->done ? "," : "", mail->uid);
    g_string_append_printf(to_set, "%s%u", turn->done ? "," : "", copy->uid);
    turn->done++;
    if (move) {
      g_ptr_array_remove_index(turn->selected->mails, i);
      g_string_append_printf(gone, "* %u EXPUNGE\r\n", i + 1);
      expunged++;
    } else {
      i++;
    }
  }
  if (turn->done && strstr(model->caps, "UIDPLUS")) {
    g_autofree char *code =
        g_strdup_printf("OK [COPYUID %u %s %s] x", to->uidvalidity, from_set->str, to_set->str);
    if (move)
      g_string_append_printf(turn->answer, "* %s\r\n", code);
    else
      turn->result = g_strdup(code);
  }
  g_string_append(turn->answer, gone->str);
  if (refuses)
    turn->result = g_strdup("NO not that one");
}

/* "(\Seen) \"date\" {9+}" and the octets behind it. NULL: the client is gone. *@rest_out is what
 * follows them on their line. */
static ModelMail *read_message(Peer *peer, const char *text, char **rest_out) {
  const char *open = strchr(text, '('), *close = strchr(text, ')'), *quote = strchr(text, '"');
  const char *brace = strrchr(text, '{');
  gsize size = (gsize) g_ascii_strtoull(brace + 1, NULL, 10);
  if (!strchr(brace, '+'))
    peer_send(peer, "+ go\r\n");
  g_autoptr(GString) octets = g_string_new(NULL);
  while (octets->len < size) {
    const char *line = peer_line(peer);
    if (!line)
      return NULL;
    g_string_append_printf(octets, "%s\r\n", line);
  }
  g_assert_cmpuint(octets->len, ==, size);
  ModelMail *mail = g_new0(ModelMail, 1);
  mail->octets = g_strdup(octets->str);
  mail->flags = g_strndup(open + 1, (gsize) (close - open) - 1);
  mail->date = g_strndup(quote + 1, (gsize) (strchr(quote + 1, '"') - quote) - 1);
  *rest_out = g_strdup(peer_line(peer));
  if (*rest_out)
    return mail;
  free_mail(mail);
  return NULL;
}

/* The messages of an APPEND that begins with @head. NULL: the client is gone. */
static GPtrArray *read_messages(Turn *turn, Peer *peer, const char *head) {
  Model *model = turn->model;
  g_autoptr(GPtrArray) mails = g_ptr_array_new_with_free_func(free_mail);
  g_autofree char *text = g_strdup(head);
  while (*text) {
    g_autofree char *rest = NULL;
    g_mutex_unlock(&model->lock);
    ModelMail *mail = read_message(peer, text, &rest);
    g_mutex_lock(&model->lock);
    if (!mail)
      return NULL;
    g_ptr_array_add(mails, mail);
    g_string_truncate(model->commands, model->commands->len - 1);
    g_string_append_printf(model->commands, "%s;", rest);
    g_assert_true(!*rest || strstr(model->caps, "MULTIAPPEND"));
    g_free(text);
    text = g_steal_pointer(&rest);
  }
  return g_steal_pointer(&mails);
}

/* APPEND and, with @uid, REPLACE. FALSE: the client is gone. Half of it is the first of several,
 * which no server should do. */
static gboolean turn_append(Turn *turn, Peer *peer, guint32 uid, const char *name,
                            const char *head) {
  Model *model = turn->model;
  g_autoptr(GPtrArray) mails = read_messages(turn, peer, head);
  if (!mails)
    return FALSE;
  ModelBox *box = box_named(model, name);
  for (guint i = 0; i < mails->len && !turn->result; i++) {
    const char *octets = ((ModelMail *) mails->pdata[i])->octets;
    check_journaled(model, 0, octets, CHANGE_SENT);
    if (!box)
      turn->result = g_strdup("NO [TRYCREATE] no such mailbox");
    else if (g_strcmp0(octets, model->too_much) == 0)
      turn->result = g_strdup("NO [OVERQUOTA] full");
    else if (g_strcmp0(octets, model->nasty) == 0)
      turn->result = g_strdup("BAD what is that");
    else if (uid && !mail_of(turn->selected, uid))
      turn->result = g_strdup("NO it is gone");
  }
  guint count = turn->half < G_MAXUINT && mails->len == 1 ? 0 : MIN(mails->len, turn->half);
  if (turn->result || count == 0)
    return TRUE;
  g_autoptr(GString) set = g_string_new(NULL);
  for (guint i = 0; i < count; i++) {
    const ModelMail *mail = mails->pdata[i];
    mail = add_mail(box, mail->octets, mail->date, mail->flags);
    g_string_append_printf(set, "%s%u", i ? "," : "", mail->uid);
  }
  if (uid)
    g_ptr_array_remove(turn->selected->mails, mail_of(turn->selected, uid));
  if (strstr(model->caps, "UIDPLUS"))
    turn->result = g_strdup_printf("OK [APPENDUID %u %s] x", box->uidvalidity, set->str);
  return TRUE;
}

static void turn_select(Turn *turn, const char *name) {
  turn->selected = box_named(turn->model, name);
  if (!turn->selected) {
    turn->result = g_strdup("NO [NONEXISTENT] no such mailbox");
    return;
  }
  g_string_append_printf(turn->answer,
                         "* %u EXISTS\r\n* OK [UIDVALIDITY %u] x\r\n* OK [UIDNEXT %u] x\r\n",
                         turn->selected->mails->len, turn->selected->uidvalidity,
                         turn->selected->uidnext);
}

/* Carries out a command of words; FALSE: the client is gone. */
static gboolean carry_out(Turn *turn, Peer *peer, char **words, const char *line) {
  gboolean uid = g_str_equal(words[1], "UID");
  const char *verb = words[uid ? 2 : 1];
  char **rest = words + (uid ? 3 : 2);
  if (g_str_equal(verb, "SELECT"))
    turn_select(turn, rest[0]);
  else if (g_str_equal(verb, "FETCH"))
    turn_fetch(turn, rest[0], strchr(line, '('));
  else if (g_str_equal(verb, "STORE"))
    turn_store(turn, rest[0], rest[1], strchr(line, '('));
  else if (g_str_equal(verb, "EXPUNGE"))
    turn_expunge(turn, rest[0]);
  else if (g_str_equal(verb, "COPY") || g_str_equal(verb, "MOVE"))
    turn_transfer(turn, rest[0], rest[1], *verb == 'M');
  else if (g_str_equal(verb, "APPEND"))
    return turn_append(turn, peer, 0, rest[0], strchr(line, '('));
  else if (g_str_equal(verb, "REPLACE"))
    return turn_append(turn, peer, (guint32) g_ascii_strtoull(rest[0], NULL, 10), rest[1],
                       strchr(line, '('));
  else
    g_assert_cmpstr(verb, ==, "NOOP");
  return TRUE;
}

static void serve(Peer *peer) {
  Model *model = peer_data(peer);
  Turn turn = {.model = model};
  peer_let_in(peer, model->caps);
  for (gboolean on = TRUE; on;) {
    const char *got = peer_line(peer);
    if (!got || strstr(got, "LOGOUT"))
      return;
    g_autofree char *line = g_strdup(got);
    g_auto(GStrv) words = g_strsplit(line, " ", -1);
    g_mutex_lock(&model->lock);
    model->step++;
    g_string_append_printf(model->commands, "%s;", strchr(line, ' ') + 1);
    gboolean cut = model->step == model->cut;
    on = !cut || model->how != CUT_BEFORE;
    if (on) {
      turn.answer = g_string_new(NULL);
      turn.result = NULL;
      turn.done = 0;
      turn.half = cut && model->how == CUT_HALF ? 1 : G_MAXUINT;
      on = carry_out(&turn, peer, words, line) && !cut;
      if (on) {
        g_string_append_printf(turn.answer, "%s %s\r\n", words[0],
                               turn.result ? turn.result : "OK x");
        peer_send(peer, turn.answer->str);
      }
      g_string_free(turn.answer, TRUE);
      g_free(turn.result);
    }
    g_mutex_unlock(&model->lock);
  }
}

gboolean model_run(Model *model, GError **error) {
  static const ChangeHooks hooks_without_data = {.settled = on_settled, .flags = on_flags};
  ChangeHooks hooks = hooks_without_data;
  hooks.data = model;
  g_autoptr(GPtrArray) changes = g_ptr_array_new_with_free_func(g_free);
  for (guint i = 0; i < model->rows->len; i++)
    g_ptr_array_add(changes, g_memdup2(model->rows->pdata[i], sizeof(Change)));
  Peer *peer = peer_start(serve, 1, TRUE, CERT_GOOD, model);
  ImapSession *session = peer_session_ok(peer);
  gboolean ok = sync_changes(model, session, changes, &hooks, error);
  if (imap_session_alive(session))
    g_assert_cmpuint(imap_in_flight(session), ==, 0);
  imap_session_close(&session);
  peer_stop(peer);
  return ok;
}
