/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Tells ThreadSanitizer what GLib's locks order. They are futexes inside a library that is not
 * instrumented, so without this every use of a GMutex looks like a race. Linked only where
 * b_sanitize has thread.
 */
#include <dlfcn.h>
#include <glib.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!__atomic_load_n(&real, __ATOMIC_ACQUIRE)) \
    __atomic_store_n(&real, (__typeof__(real)) dlsym(RTLD_NEXT, #name), __ATOMIC_RELEASE)

#undef g_mutex_lock
void g_mutex_lock(GMutex *mutex) {
  REAL(g_mutex_lock);
  real(mutex);
  __tsan_acquire(mutex);
}

#undef g_mutex_trylock
gboolean g_mutex_trylock(GMutex *mutex) {
  REAL(g_mutex_trylock);
  gboolean locked = real(mutex);
  if (locked)
    __tsan_acquire(mutex);
  return locked;
}

#undef g_mutex_unlock
void g_mutex_unlock(GMutex *mutex) {
  REAL(g_mutex_unlock);
  __tsan_release(mutex);
  real(mutex);
}

void g_cond_wait(GCond *cond, GMutex *mutex) {
  REAL(g_cond_wait);
  __tsan_release(mutex);
  real(cond, mutex);
  __tsan_acquire(mutex);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time) {
  REAL(g_cond_wait_until);
  __tsan_release(mutex);
  gboolean woken = real(cond, mutex, end_time);
  __tsan_acquire(mutex);
  return woken;
}
