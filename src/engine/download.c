/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The body is a sparse file and a map of the blocks that are here. One job at most runs for it
 * (`running`); it keeps two pieces in flight and asks next_piece for more after each. The rule that
 * keeps readers from being forgotten: whoever adds a read finds, under the same lock, either a job
 * running, which will come to next_piece again, or starts one; and a job ends only in the same
 * locked section in which next_piece found nothing to do and nothing was in flight.
 *
 * Pieces are 128 KiB at first; once a reader has gone on in order for a while they are as long as
 * what it has read, up to 4 MiB, and what follows is fetched ahead of it.
 */
#include "engine/download.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/private.h"

#define BLOCK (64 * 1024)
#define PIECE_FIRST (2 * BLOCK)
#define PIECE_MOST (64 * BLOCK)
#define IN_ORDER_FROM (4 * BLOCK) /* so much read in order makes a sequential reader */
#define OUT_OF_ORDER (16 * BLOCK) /* read-ahead of the kernel may overtake itself by so much */
#define IN_FLIGHT 2
#define END_TOLD_US (50 * 1000)
#define GUESS (4 * 1024 * 1024) /* how much longer a body is taken to be that is longer than told */

typedef struct {
  guint64 offset, size; /* whole blocks, but for the end of the body */
  guint64 arrived;      /* octets of it, in order */
  gboolean answered;    /* its literal has begun, be it an empty one */
  ImapTag tag;
} Piece;

struct Download {
  gint references; /* atomic */
  Engine *engine;
  EngineMsg msg;
  guint32 folder;

  GMutex lock; /* guards what follows; a leaf */
  guint64 size;
  StorePartial *partial; /* until it is whole */
  int fd;                /* never changes */
  gboolean missed;  /* the server did not know the message, perhaps not yet */
  gboolean end_told; /* a read was answered that ends at the end, since the body shrank */
  GCond told;
  gboolean shrunk;  /* the size was too large, and the kernel is to be told at the end */
  GByteArray *have; /* a byte a block: 1 when it is here */
  guint missing;    /* blocks not here */
  GArray *reads;    /* of EngineWait */
  GArray *pieces;   /* of Piece, in flight, in the order they were sent */
  gboolean running; /* a job is queued or at work */
  guint64 next_offset; /* where a reader that goes on in order reads next */
  guint64 in_order;    /* octets read in order up to there */
};

static guint blocks_of(guint64 size) {
  return (guint) ((size + BLOCK - 1) / BLOCK);
}

Download *download_new(Engine *engine, EngineMsg msg, guint32 folder, guint64 size, GError **error) {
  StorePartial *partial = store_partial_new(engine->store, (MsgId){msg.space, msg.uid}, size, error);
  if (!partial)
    return NULL;
  /* A descriptor of our own, so that readers need not care when the body moves into the store. */
  int fd = fcntl(store_partial_fd(partial), F_DUPFD_CLOEXEC, 3);
  if (fd < 0) {
    eml_error_set_errno(error, EML_ERROR_FAILED, errno, "cannot open the cache");
    store_partial_abort(&partial);
    return NULL;
  }
  Download *download = g_new0(Download, 1);
  download->references = 1;
  download->engine = engine;
  download->msg = msg;
  download->folder = folder;
  g_mutex_init(&download->lock);
  g_cond_init(&download->told);
  download->size = size;
  download->partial = partial;
  download->fd = fd;
  download->have = g_byte_array_new();
  g_byte_array_set_size(download->have, blocks_of(size));
  memset(download->have->data, 0, download->have->len);
  download->missing = download->have->len;
  download->reads = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  download->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
  return download;
}

Download *download_ref(Download *download) {
  g_atomic_int_inc(&download->references);
  return download;
}

gboolean download_try_ref(Download *download) {
  gint count = g_atomic_int_get(&download->references);
  while (count > 0) {
    if (g_atomic_int_compare_and_exchange(&download->references, count, count + 1))
      return TRUE;
    count = g_atomic_int_get(&download->references);
  }
  return FALSE;
}

void download_unref(Download *download) {
  if (!g_atomic_int_dec_and_test(&download->references))
    return;
  bodies_forget(download->engine->bodies, download);
  /* Only now: a read that is answered short shows the kernel the end, but only when it has not been
   * told of a change since it sent that read. */
  if (download->shrunk)
    engine_tell_size(download->engine, download->msg);
  store_partial_abort(&download->partial);
  close(download->fd);
  g_byte_array_unref(download->have);
  g_array_unref(download->reads);
  g_array_unref(download->pieces);
  g_cond_clear(&download->told);
  g_mutex_clear(&download->lock);
  g_free(download);
}

EngineMsg download_msg(const Download *download) {
  return download->msg;
}

guint64 download_size(Download *download) {
  g_mutex_lock(&download->lock);
  guint64 size = download->size;
  g_mutex_unlock(&download->lock);
  return size;
}

/* ---- what is here, and what is to come ---- */

/* The first block that a read of [offset, offset + size) waits for, or G_MAXUINT. One that reaches
 * beyond the end waits for the last block too: only then is it sure to be the end, and the kernel
 * believes the first short answer it gets. */
static guint first_missing_locked(const Download *download, guint64 offset, guint64 size) {
  guint64 end = MIN(offset + size, download->size);
  for (guint block = (guint) (offset / BLOCK); (guint64) block * BLOCK < end; block++)
    if (!download->have->data[block])
      return block;
  guint blocks = download->have->len;
  return offset + size > download->size && blocks && !download->have->data[blocks - 1] ? blocks - 1
                                                                                       : G_MAXUINT;
}

static gboolean is_coming_locked(const Download *download, guint block) {
  for (guint i = 0; i < download->pieces->len; i++) {
    const Piece *piece = &g_array_index(download->pieces, Piece, i);
    if ((guint64) block * BLOCK >= piece->offset && (guint64) block * BLOCK < piece->offset + piece->size)
      return TRUE;
  }
  return FALSE;
}

static guint64 piece_size_locked(const Download *download) {
  return download->in_order < IN_ORDER_FROM ? PIECE_FIRST : MIN(download->in_order, PIECE_MOST);
}

/* The piece that begins at @block, as long as wanted and as nothing of it is here or coming. */
static Piece piece_at_locked(const Download *download, guint block) {
  guint count = 0, most = (guint) (piece_size_locked(download) / BLOCK);
  while (count < most && block + count < download->have->len && !download->have->data[block + count] &&
         !is_coming_locked(download, block + count))
    count++;
  guint64 offset = (guint64) block * BLOCK;
  return (Piece){.offset = offset, .size = MIN((guint64) count * BLOCK, download->size - offset)};
}

/* Decides what to ask the server for next: what a read waits for comes first, then what follows the
 * last read when reading goes on in order. */
static gboolean next_piece_locked(Download *download, Piece *piece_out) {
  for (guint i = 0; i < download->reads->len;) {
    WaitCall call;
    if (!waits_peek(download->engine->waits, g_array_index(download->reads, EngineWait, i), &call)) {
      g_array_remove_index(download->reads, i); /* cancelled, or out of patience */
      continue;
    }
    guint64 end = MIN(call.offset + call.size, download->size);
    for (guint block = (guint) (call.offset / BLOCK); (guint64) block * BLOCK < end; block++)
      if (!download->have->data[block] && !is_coming_locked(download, block)) {
        *piece_out = piece_at_locked(download, block);
        return TRUE;
      }
    guint block = first_missing_locked(download, call.offset, call.size);
    if (block != G_MAXUINT && !is_coming_locked(download, block)) {
      *piece_out = piece_at_locked(download, block);
      return TRUE;
    }
    i++;
  }
  if (download->in_order < IN_ORDER_FROM)
    return FALSE;
  guint64 ahead = MIN(download->next_offset + IN_FLIGHT * piece_size_locked(download), download->size);
  for (guint block = (guint) (download->next_offset / BLOCK); (guint64) block * BLOCK < ahead; block++)
    if (!download->have->data[block] && !is_coming_locked(download, block)) {
      *piece_out = piece_at_locked(download, block);
      return TRUE;
    }
  return FALSE;
}

/* Answers a read whose octets are here. When the size was told too large, the kernel takes the first
 * short answer that it gets for the end: one from beyond the end must not overtake the one that ends
 * there, if there is one on its way. */
static void answer(Download *download, guint64 offset, gsize asked, EngineReadDone done,
                   gpointer data) {
  g_mutex_lock(&download->lock);
  guint64 size = download->size;
  gint64 until = g_get_monotonic_time() + END_TOLD_US;
  while (download->shrunk && offset >= size && !download->end_told &&
         g_cond_wait_until(&download->told, &download->lock, until))
    ;
  g_mutex_unlock(&download->lock);
  guint64 left = offset < size ? size - offset : 0;
  done(download->fd, (gint64) offset, (gsize) MIN(asked, left), data, NULL);
  if (left && left < asked) {
    g_mutex_lock(&download->lock);
    download->end_told = download->shrunk;
    g_cond_broadcast(&download->told);
    g_mutex_unlock(&download->lock);
  }
}

static int compare_offset(gconstpointer a, gconstpointer b) {
  guint64 x = ((const WaitCall *) a)->offset, y = ((const WaitCall *) b)->offset;
  return (x > y) - (x < y);
}

/* Completes the reads whose octets are here, in the order of their offsets; the others see that there
 * is progress. */
static void serve(Download *download) {
  g_autoptr(GArray) ready = g_array_new(FALSE, FALSE, sizeof(WaitCall));
  g_mutex_lock(&download->lock);
  for (guint i = 0; i < download->reads->len;) {
    EngineWait wait = g_array_index(download->reads, EngineWait, i);
    WaitCall call;
    if (waits_peek(download->engine->waits, wait, &call)) {
      if (first_missing_locked(download, call.offset, call.size) != G_MAXUINT) {
        waits_touch(download->engine->waits, wait);
        i++;
        continue;
      }
      if (waits_take(download->engine->waits, wait, &call))
        g_array_append_val(ready, call);
    }
    g_array_remove_index(download->reads, i);
  }
  g_mutex_unlock(&download->lock);
  g_array_sort(ready, compare_offset);
  for (guint i = 0; i < ready->len; i++) {
    const WaitCall *call = &g_array_index(ready, WaitCall, i);
    answer(download, call->offset, call->size, call->done.read, call->data);
  }
}

/* ---- the job ---- */

/* What the handler of one job works on. */
typedef struct {
  Download *download;
  guint64 at;      /* where the next octet goes */
  guint64 end;     /* of the piece being received */
  gboolean longer; /* there was more than was told */
  gboolean gone;   /* the server says the message is no more */
  GError *failure; /* of a local write */
  LineMeter meter;
} Receiving;

static gboolean on_body_begin(guint32 uid, guint64 origin, guint64 size, gpointer data) {
  Receiving *receiving = data;
  Download *download = receiving->download;
  if (uid && uid != download->msg.uid)
    return FALSE;
  gboolean ours = FALSE;
  g_mutex_lock(&download->lock);
  for (guint i = 0; i < download->pieces->len && !ours; i++) {
    Piece *piece = &g_array_index(download->pieces, Piece, i);
    ours = piece->offset == origin;
    piece->answered |= ours;
    receiving->end = piece->offset + piece->size;
  }
  receiving->longer = ours && size > receiving->end - origin;
  g_mutex_unlock(&download->lock);
  receiving->at = origin;
  line_meter_count(&receiving->meter, 0);
  return ours && !receiving->failure;
}

/* Blocks that are complete with octets up to @at are here now; the one at the end of the body only
 * when @to_end, once it is known that it is the end. */
static gboolean mark_locked(Download *download, guint64 from, guint64 at, gboolean to_end) {
  gboolean news = FALSE;
  for (guint block = (guint) (from / BLOCK); block < download->have->len; block++) {
    guint64 end = MIN((guint64) (block + 1) * BLOCK, download->size);
    if (end > at || (end == download->size && !to_end))
      break;
    if (!download->have->data[block]) {
      download->have->data[block] = 1;
      download->missing--;
      news = TRUE;
    }
  }
  return news;
}

static gboolean on_body_data(const void *octets, gsize size, gpointer data) {
  Receiving *receiving = data;
  Download *download = receiving->download;
  guint64 from = receiving->at;
  line_meter_count(&receiving->meter, size);
  size = (gsize) MIN(size, receiving->end - MIN(receiving->end, from));
  for (gsize done = 0; done < size;) {
    ssize_t n = pwrite(download->fd, (const char *) octets + done, size - done,
                       (off_t) (receiving->at));
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0) {
      if (!receiving->failure)
        eml_error_set_errno(&receiving->failure, EML_ERROR_FAILED, errno, "cannot write to the cache");
      return FALSE;
    }
    done += (gsize) n;
    receiving->at += (guint64) n;
  }
  g_mutex_lock(&download->lock);
  gboolean news = mark_locked(download, from - from % BLOCK, receiving->at, FALSE);
  for (guint i = 0; i < download->pieces->len; i++) {
    Piece *piece = &g_array_index(download->pieces, Piece, i);
    if (receiving->at > piece->offset && receiving->at <= piece->offset + piece->size)
      piece->arrived = MAX(piece->arrived, receiving->at - piece->offset);
  }
  g_mutex_unlock(&download->lock);
  if (news)
    serve(download);
  return TRUE;
}

static void on_fetch(const ImapFetch *fetch, gpointer data) {
  Receiving *receiving = data;
  if ((!fetch->uid || fetch->uid == receiving->download->msg.uid) &&
      (fetch->have & IMAP_FETCH_BODY_NIL))
    receiving->gone = TRUE;
}

static const ImapHandler handler = {
    .fetch = on_fetch, .body_begin = on_body_begin, .body_data = on_body_data};

/* The server told a wrong size: the body ends at @size, or it goes on beyond what was told and
 * @size is a guess. What was here of blocks that now have another length is fetched again. */
static void resize(Download *download, guint64 size) {
  g_mutex_lock(&download->lock);
  guint64 told = download->size;
  guint same = (guint) (MIN(told, size) / BLOCK), blocks = blocks_of(size);
  guint old = download->have->len;
  download->size = size;
  g_byte_array_set_size(download->have, blocks);
  for (guint block = MIN(old, blocks); block < blocks; block++)
    download->have->data[block] = 0;
  if (size > told && same < old)
    download->have->data[same] = 0;
  download->missing = 0;
  for (guint block = 0; block < blocks; block++)
    download->missing += !download->have->data[block];
  g_mutex_unlock(&download->lock);
  log_warning("message %u: the server said %" G_GUINT64_FORMAT " octets, it is %s%" G_GUINT64_FORMAT,
              download->msg.uid, told, size > told ? "more, perhaps " : "", size);
  engine_set_size(download->engine, download->msg, size);
}

/* Every octet is here: keeps the body. A failure to keep it costs only a later fetch. */
static void keep(Download *download) {
  g_autoptr(GError) error = NULL;
  g_mutex_lock(&download->lock);
  StorePartial *partial = download->missing == 0 ? g_steal_pointer(&download->partial) : NULL;
  g_mutex_unlock(&download->lock);
  if (!partial)
    return;
  g_autoptr(StoreBody) body = store_partial_commit(&partial, &error);
  if (!body)
    log_info("message %u is not kept: %s", download->msg.uid, error->message);
}

/* Sends pieces until two are in flight. FALSE on failure. *@idle_out: nothing to do and nothing in
 * flight, the job has ended (`running` is down already). */
static gboolean fill(Download *download, ImapSession *session, gboolean *idle_out, GError **error) {
  for (;;) {
    Piece piece;
    g_mutex_lock(&download->lock);
    gboolean more = download->pieces->len < IN_FLIGHT && next_piece_locked(download, &piece);
    if (!more) {
      *idle_out = download->pieces->len == 0;
      if (*idle_out)
        download->running = FALSE;
      g_mutex_unlock(&download->lock);
      return TRUE;
    }
    /* Noted before it is sent, so that nobody asks for it twice. */
    g_array_append_val(download->pieces, piece);
    guint at_end = piece.offset + piece.size == download->size;
    g_mutex_unlock(&download->lock);
    g_autofree char *set = g_strdup_printf("%u", download->msg.uid);
    /* One octet more than the piece has: at the end of the body it shows whether there is more. */
    g_autofree char *items =
        g_strdup_printf("(UID BODY.PEEK[]<%" G_GUINT64_FORMAT ".%" G_GUINT64_FORMAT ">)", piece.offset,
                        piece.size + at_end);
    ImapTag tag = imap_fetch_send(session, set, items, NULL, error);
    if (!tag)
      return FALSE;
    g_mutex_lock(&download->lock);
    g_array_index(download->pieces, Piece, download->pieces->len - 1).tag = tag;
    g_mutex_unlock(&download->lock);
  }
}

/* Waits for the oldest piece in flight. */
static gboolean receive(Receiving *receiving, ImapSession *session, GError **error) {
  Download *download = receiving->download;
  g_mutex_lock(&download->lock);
  ImapTag tag = g_array_index(download->pieces, Piece, 0).tag;
  g_mutex_unlock(&download->lock);
  if (!imap_wait(session, tag, error))
    return FALSE;
  if (receiving->failure) {
    g_propagate_error(error, g_steal_pointer(&receiving->failure));
    return FALSE;
  }
  g_mutex_lock(&download->lock);
  Piece piece = g_array_index(download->pieces, Piece, 0);
  g_array_remove_index(download->pieces, 0);
  guint64 size = download->size;
  gboolean more = download->pieces->len > 0;
  g_mutex_unlock(&download->lock);
  if (!more)
    line_meter_pause(&receiving->meter);
  if (!receiving->gone && !piece.answered && !download->missed) {
    /* A session learns of new messages only now and then (RFC 9051 5.2); this makes it look. */
    download->missed = TRUE;
    return imap_noop(session, error);
  }
  if (receiving->gone || !piece.answered) {
    g_set_error(error, EML_ERROR, EML_ERROR_NOT_FOUND, "the message is no longer on the server");
    return FALSE;
  }
  if (piece.offset >= size) {
    /* Asked for before it was known that the body ends earlier. */
    serve(download);
  } else if (piece.arrived < piece.size) {
    size = piece.offset + piece.arrived;
    resize(download, size);
    g_mutex_lock(&download->lock);
    mark_locked(download, piece.offset, size, TRUE);
    download->shrunk = TRUE;
    g_mutex_unlock(&download->lock);
    serve(download);
  } else if (receiving->longer) {
    /* Here they come first: the reader must not take the old end for the end. */
    receiving->longer = FALSE;
    resize(download, piece.offset + piece.size + GUESS);
    engine_tell_size(download->engine, download->msg);
    serve(download);
  } else {
    g_mutex_lock(&download->lock);
    mark_locked(download, piece.offset, piece.offset + piece.size, TRUE);
    g_mutex_unlock(&download->lock);
    serve(download);
  }
  return TRUE;
}

static gboolean job_run(ImapSession *session, gpointer data, GError **error) {
  Download *download = data;
  Receiving receiving = {.download = download,
                         .meter = {.line = download->engine->line, .session = session}};
  gboolean idle = FALSE;
  imap_session_set_handler(session, NULL, NULL);
  gboolean ok = bodies_select(download->engine, session, download->folder, download->msg.space, error);
  imap_session_set_handler(session, &handler, &receiving);
  while (ok && !idle) {
    ok = fill(download, session, &idle, error);
    if (ok && !idle)
      ok = receive(&receiving, session, error);
  }
  if (!ok) {
    /* What was in flight is lost or no longer wanted; with the session alive (the server's NO) its
     * answers must be read off before another job uses it. */
    g_mutex_lock(&download->lock);
    g_autoptr(GArray) pieces = g_steal_pointer(&download->pieces);
    download->pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    g_mutex_unlock(&download->lock);
    imap_session_set_handler(session, NULL, NULL);
    for (guint i = 0; i < pieces->len && imap_session_alive(session); i++)
      if (g_array_index(pieces, Piece, i).tag)
        imap_wait(session, g_array_index(pieces, Piece, i).tag, NULL);
  }
  imap_session_set_handler(session, NULL, NULL);
  g_clear_error(&receiving.failure);
  if (ok)
    keep(download);
  return ok;
}

static void job_failed(gpointer data, const GError *error) {
  Download *download = data;
  g_mutex_lock(&download->lock);
  download->running = FALSE;
  g_autoptr(GArray) reads = g_steal_pointer(&download->reads);
  download->reads = g_array_new(FALSE, FALSE, sizeof(EngineWait));
  g_mutex_unlock(&download->lock);
  for (guint i = 0; i < reads->len; i++)
    waits_fail(download->engine->waits, g_array_index(reads, EngineWait, i), error);
  if (g_error_matches(error, EML_ERROR, EML_ERROR_NOT_FOUND) ||
      g_error_matches(error, EML_ERROR, EML_ERROR_STALE))
    syncs_schedule(download->engine->syncs, download->folder, JOB_NEWS);
}

/* Follows how the body is read. The kernel reads ahead by several requests, which may arrive in any
 * order. */
static void follow_locked(Download *download, guint64 offset, guint64 size) {
  guint64 end = offset + size;
  if (offset > download->next_offset + OUT_OF_ORDER || end + OUT_OF_ORDER < download->next_offset) {
    download->in_order = 0;
    download->next_offset = end;
  } else if (end > download->next_offset) {
    download->in_order += end - download->next_offset;
    download->next_offset = end;
  }
}

EngineWait download_read(Download *reading, guint64 offset, gsize size, EngineReadDone done,
                         gpointer data) {
  /* Once the read is answered its file may be closed: a reference of our own until the end. */
  g_autoptr(Download) download = download_ref(reading);
  Engine *engine = download->engine;
  g_mutex_lock(&download->lock);
  guint64 left = offset < download->size ? download->size - offset : 0;
  follow_locked(download, offset, MIN(size, left));
  gboolean here = first_missing_locked(download, offset, size) == G_MAXUINT;
  g_mutex_unlock(&download->lock);

  g_autoptr(GError) error = NULL;
  EngineWait wait = 0;
  if (here) {
    answer(download, offset, size, done, data);
  } else if (!link_usable(engine->link, &error)) {
    done(-1, 0, 0, data, error);
    return 0;
  } else {
    WaitCall call = {
        .kind = WAIT_READ, .done.read = done, .data = data, .offset = offset, .size = size};
    wait = waits_add(engine->waits, &call);
  }

  Piece piece;
  g_mutex_lock(&download->lock);
  if (wait)
    g_array_append_val(download->reads, wait);
  gboolean start = !download->running && next_piece_locked(download, &piece);
  download->running |= start;
  g_mutex_unlock(&download->lock);
  if (wait)
    serve(download); /* its octets may have come just before it was parked */
  if (start) {
    PoolJob job = {.priority = JOB_INTERACTIVE,
                   .folder = download->folder,
                   .run = job_run,
                   .failed = job_failed,
                   .free = (GDestroyNotify) download_unref,
                   .data = download_ref(download)};
    pool_push(engine->pool, &job);
  }
  return wait;
}
