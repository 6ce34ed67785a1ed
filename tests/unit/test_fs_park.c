/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Parks against a kernel and an engine of the test, which do the worst the real ones may: complete
 * before the call returns, interrupt inside park_begin, during and after the completion.
 */
#include "fs/park.h"

typedef struct {
  GMutex lock;
  fuse_interrupt_func_t func; /* registered by park_begin */
  void *data;
  gboolean interrupt_at_once;
} FakeRequest;

typedef struct {
  Parks *parks;
  guint64 park;
  gint completions; /* atomic */
} Call;

static GMutex engine_lock; /* guards what follows */
static GHashTable *waiting; /* wait → Call */
static guint64 last_wait;

static void hook(fuse_req_t req, fuse_interrupt_func_t func, void *data) {
  FakeRequest *request = (FakeRequest *) (gpointer) req;
  g_mutex_lock(&request->lock);
  request->func = func;
  request->data = data;
  if (request->interrupt_at_once)
    func(req, data);
  g_mutex_unlock(&request->lock);
}

static void interrupt(FakeRequest *request) {
  g_mutex_lock(&request->lock);
  if (request->func)
    request->func((fuse_req_t) (gpointer) request, request->data);
  g_mutex_unlock(&request->lock);
}

static void complete(Call *call) {
  park_end(call->parks, call->park);
  g_assert_cmpint(g_atomic_int_add(&call->completions, 1), ==, 0);
}

static EngineWait engine_begin(Call *call) {
  g_mutex_lock(&engine_lock);
  EngineWait wait = ++last_wait;
  g_hash_table_insert(waiting, GSIZE_TO_POINTER((gsize) wait), call);
  g_mutex_unlock(&engine_lock);
  return wait;
}

/* Both the canceller and the completer; whoever comes first completes. */
static gboolean engine_finish(EngineWait wait) {
  g_mutex_lock(&engine_lock);
  gpointer call = NULL;
  gboolean mine =
      g_hash_table_steal_extended(waiting, GSIZE_TO_POINTER((gsize) wait), NULL, &call);
  g_mutex_unlock(&engine_lock);
  if (mine)
    complete(call);
  return mine;
}

static void cancel(guint64 wait, gpointer data) {
  g_atomic_int_inc((gint *) data);
  engine_finish(wait);
}

typedef struct {
  gint cancels;
  Parks *parks;
  FakeRequest request;
} Bed;

static void setup(Bed *bed, gconstpointer data) {
  waiting = g_hash_table_new(g_direct_hash, g_direct_equal);
  bed->parks = parks_new(cancel, &bed->cancels);
  parks_set_hook(bed->parks, hook);
  g_mutex_init(&bed->request.lock);
}

static void teardown(Bed *bed, gconstpointer data) {
  g_assert_cmpuint(parks_count(bed->parks), ==, 0);
  parks_free(&bed->parks);
  g_assert_null(bed->parks);
  g_mutex_clear(&bed->request.lock);
  g_hash_table_unref(waiting);
}

static guint64 begin(Bed *bed, Call *call) {
  *call = (Call){.parks = bed->parks};
  call->park = park_begin(bed->parks, (fuse_req_t) (gpointer) &bed->request);
  return call->park;
}

static void test_completes_before_the_call_returns(Bed *bed, gconstpointer data) {
  Call call;
  guint64 park = begin(bed, &call);
  complete(&call);
  park_waits(bed->parks, park, 0);
  park_waits(bed->parks, park, 77); /* an engine that names what is over */
  interrupt(&bed->request);
  g_assert_cmpint(bed->cancels, ==, 0);
}

static void test_interrupt_cancels(Bed *bed, gconstpointer data) {
  Call call;
  guint64 park = begin(bed, &call);
  park_waits(bed->parks, park, engine_begin(&call));
  g_assert_cmpuint(parks_count(bed->parks), ==, 1);
  interrupt(&bed->request);
  g_assert_cmpint(call.completions, ==, 1);
  interrupt(&bed->request);
  g_assert_cmpint(bed->cancels, ==, 1);
}

static void test_interrupt_before_the_wait_is_known(Bed *bed, gconstpointer data) {
  Call call;
  guint64 park = begin(bed, &call);
  interrupt(&bed->request);
  g_assert_cmpint(bed->cancels, ==, 0);
  park_waits(bed->parks, park, engine_begin(&call));
  g_assert_cmpint(call.completions, ==, 1);
}

static void test_interrupt_inside_begin(Bed *bed, gconstpointer data) {
  Call call;
  bed->request.interrupt_at_once = TRUE;
  guint64 park = begin(bed, &call);
  g_assert_cmpint(call.completions, ==, 0); /* libfuse would not survive it there */
  park_waits(bed->parks, park, engine_begin(&call));
  g_assert_cmpint(call.completions, ==, 1);
}

static void test_cancel_all(Bed *bed, gconstpointer data) {
  Call known, unknown, later;
  park_waits(bed->parks, begin(bed, &known), engine_begin(&known));
  guint64 park = begin(bed, &unknown);
  parks_cancel_all(bed->parks);
  g_assert_cmpint(known.completions, ==, 1);
  park_waits(bed->parks, park, engine_begin(&unknown));
  g_assert_cmpint(unknown.completions, ==, 1);
  park = begin(bed, &later);
  park_waits(bed->parks, park, engine_begin(&later));
  g_assert_cmpint(later.completions, ==, 1);
}

/* Completer, interrupter and starter at once, many times; for ThreadSanitizer above all. */
typedef struct {
  FakeRequest *request;
  EngineWait wait;
  GMutex lock; /* hands `wait` over */
  GCond ready;
} Race;

static gpointer race_complete(gpointer data) {
  Race *race = data;
  g_mutex_lock(&race->lock);
  while (!race->wait)
    g_cond_wait(&race->ready, &race->lock);
  EngineWait wait = race->wait;
  g_mutex_unlock(&race->lock);
  engine_finish(wait);
  return NULL;
}

static gpointer race_interrupt(gpointer data) {
  interrupt(((Race *) data)->request);
  return NULL;
}

static void test_races(Bed *bed, gconstpointer data) {
  for (guint turn = 0; turn < 2000; turn++) {
    Call *call = g_new(Call, 1);
    Race race = {.request = &bed->request};
    g_mutex_init(&race.lock);
    g_cond_init(&race.ready);
    bed->request.func = NULL;
    guint64 park = begin(bed, call);
    GThread *completer = g_thread_new("complete", race_complete, &race);
    GThread *interrupter = g_thread_new("interrupt", race_interrupt, &race);
    EngineWait wait = engine_begin(call);
    g_mutex_lock(&race.lock);
    race.wait = wait;
    g_cond_signal(&race.ready);
    g_mutex_unlock(&race.lock);
    park_waits(bed->parks, park, wait);
    g_thread_join(completer);
    g_thread_join(interrupter);
    interrupt(&bed->request); /* after the end */
    g_assert_cmpint(call->completions, ==, 1);
    g_free(call);
    g_mutex_clear(&race.lock);
    g_cond_clear(&race.ready);
  }
}

#define ADD(path, function) g_test_add(path, Bed, NULL, setup, function, teardown)

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  ADD("/park/completes-before-the-call-returns", test_completes_before_the_call_returns);
  ADD("/park/interrupt-cancels", test_interrupt_cancels);
  ADD("/park/interrupt-before-the-wait-is-known", test_interrupt_before_the_wait_is_known);
  ADD("/park/interrupt-inside-begin", test_interrupt_inside_begin);
  ADD("/park/cancel-all", test_cancel_all);
  ADD("/park/races", test_races);
  return g_test_run();
}
