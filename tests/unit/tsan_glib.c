/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Linked into tests when they are built for ThreadSanitizer. GLib's mutexes are futexes inside an
 * uninstrumented library, so the sanitizer cannot see that they order anything and reports every
 * guarded access as a race. Here they are pthread mutexes, which it knows.
 */
#include <glib.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

const char *__tsan_default_suppressions(void);

/* SQLite, OpenSSL and GLib are not instrumented; what they copy under locks of their own looks unguarded.
 * iconv loads and unloads modules under a lock of the dynamic linker. */
const char *__tsan_default_suppressions(void) {
  return "called_from_lib:libsqlite3.so\n"
         "called_from_lib:libgmime-3.0.so\n"
         "race:libcrypto.so\n"
         "race:libssl.so\n"
         "race:libgio-2.0.so\n"
         "race:g_private_get\n"
         "race:g_rw_lock_\n"
         "race:_dl_close_worker\n";
}

static void *slot(void **at, size_t size) {
  void *object = __atomic_load_n(at, __ATOMIC_ACQUIRE);
  if (object)
    return object;
  void *fresh = calloc(1, size), *expected = NULL;
  if (size == sizeof(pthread_mutex_t)) {
    pthread_mutex_init(fresh, NULL);
  } else {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(fresh, &monotonic);
  }
  if (__atomic_compare_exchange_n(at, &expected, fresh, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
    return fresh;
  free(fresh);
  return expected;
}

static pthread_mutex_t *mutex_of(GMutex *mutex) {
  return slot((void **) &mutex->p, sizeof(pthread_mutex_t));
}

static pthread_cond_t *cond_of(GCond *cond) {
  return slot((void **) &cond->p, sizeof(pthread_cond_t));
}

void g_mutex_init(GMutex *mutex) {
  mutex->p = NULL;
}

void g_mutex_clear(GMutex *mutex) {
  if (mutex->p)
    pthread_mutex_destroy(mutex->p);
  free(mutex->p);
  mutex->p = NULL;
}

void g_mutex_lock(GMutex *mutex) {
  pthread_mutex_lock(mutex_of(mutex));
}

gboolean g_mutex_trylock(GMutex *mutex) {
  return pthread_mutex_trylock(mutex_of(mutex)) == 0;
}

void g_mutex_unlock(GMutex *mutex) {
  pthread_mutex_unlock(mutex_of(mutex));
}

void g_cond_init(GCond *cond) {
  cond->p = NULL;
}

void g_cond_clear(GCond *cond) {
  if (cond->p)
    pthread_cond_destroy(cond->p);
  free(cond->p);
  cond->p = NULL;
}

void g_cond_wait(GCond *cond, GMutex *mutex) {
  pthread_cond_wait(cond_of(cond), mutex_of(mutex));
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end) {
  struct timespec at = {.tv_sec = end / G_USEC_PER_SEC, .tv_nsec = end % G_USEC_PER_SEC * 1000};
  return pthread_cond_timedwait(cond_of(cond), mutex_of(mutex), &at) == 0;
}

void g_cond_signal(GCond *cond) {
  pthread_cond_signal(cond_of(cond));
}

void g_cond_broadcast(GCond *cond) {
  pthread_cond_broadcast(cond_of(cond));
}
