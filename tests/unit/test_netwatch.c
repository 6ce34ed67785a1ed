/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * In a network of its own, where an ordinary user may change what he likes.
 */
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/private.h"

#define BOUND_US (5 * G_USEC_PER_SEC)

static gint told; /* atomic */

static void on_changed(gboolean slept, gpointer data) {
  g_assert_false(slept);
  g_atomic_int_inc(&told);
}

static void loopback_up(gboolean up) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = up ? IFF_UP : 0};
  g_assert_cmpint(ioctl(fd, SIOCSIFFLAGS, &request), ==, 0);
  close(fd);
}

/* Waits for the news after @before of them. */
static void await(gint before) {
  gint64 until = g_get_monotonic_time() + BOUND_US;
  while (g_atomic_int_get(&told) == before && g_get_monotonic_time() < until)
    g_usleep(1000);
  g_assert_cmpint(g_atomic_int_get(&told), >, before);
}

static void test_changes(void) {
  Netwatch *netwatch = netwatch_new(on_changed, NULL);
  loopback_up(TRUE);
  await(0);
  gint before = g_atomic_int_get(&told);
  loopback_up(FALSE);
  await(before);
  netwatch_free(netwatch);
}

static void test_silence(void) {
  gint before = g_atomic_int_get(&told);
  Netwatch *netwatch = netwatch_new(on_changed, NULL);
  netwatch_free(netwatch);
  g_assert_cmpint(g_atomic_int_get(&told), ==, before);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  /* Before any thread: a user namespace is for a process that has but one. */
  if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
    g_error("no network namespace: %s", g_strerror(errno));
  g_test_add_func("/netwatch/changes", test_changes);
  g_test_add_func("/netwatch/silence", test_silence);
  return g_test_run();
}
