/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The kernel tells of links, addresses and routes over rtnetlink(7), which needs no privilege, and a
 * timer that is cancelled when the clock jumps (timerfd_create(2)) ends when the machine wakes up. What
 * exactly changed does not matter: that it did is a reason to look whether the server is there.
 */
#include <errno.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/log.h"
#include "engine/private.h"

#define CALM_MS 150      /* changes come in groups; the last one makes it work */
#define GATHER_US 1000000 /* but no longer than this */
#define SLEPT_NS 1000000000
#define NEVER_S ((time_t) 1 << 40)

struct Netwatch {
  void (*changed)(gboolean slept, gpointer data);
  gpointer data;
  int netlink, timer, stop; /* -1: not to be had here */
  gint64 slept_ns;          /* by the clocks, so far */
  GThread *thread;
};

static int open_netlink(void) {
  autofd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
  struct sockaddr_nl address = {.nl_family = AF_NETLINK,
                                .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE |
                                             RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE};
  if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof address) != 0) {
    log_info("changes of the network are not noticed: %s", g_strerror(errno));
    return -1;
  }
  return steal_fd(&fd);
}

/* The timer itself never ends. */
static gboolean arm(int timer) {
  struct itimerspec never = {.it_value.tv_sec = NEVER_S};
  return timerfd_settime(timer, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) == 0;
}

static int open_timer(void) {
  autofd int fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0 || !arm(fd)) {
    log_info("sleep and wake of the machine are not noticed: %s", g_strerror(errno));
    return -1;
  }
  return steal_fd(&fd);
}

/* How long the machine has slept since it was booted: one clock goes on meanwhile, the other does not. */
static gint64 slept_ns(void) {
  struct timespec all, awake;
  clock_gettime(CLOCK_BOOTTIME, &all);
  clock_gettime(CLOCK_MONOTONIC, &awake);
  return (gint64) (all.tv_sec - awake.tv_sec) * 1000000000 + (all.tv_nsec - awake.tv_nsec);
}

/* Takes what the kernel sent; its being there is all that counts. */
static void drain(int netlink) {
  char buffer[8192];
  while (recv(netlink, buffer, sizeof buffer, 0) >= 0 || errno == EINTR || errno == ENOBUFS)
    ;
}

/* The clock jumped: was that a sleep? */
static gboolean has_slept(Netwatch *netwatch) {
  guint64 ticks;
  if (read(netwatch->timer, &ticks, sizeof ticks) < 0 && errno == ECANCELED)
    arm(netwatch->timer);
  gint64 before = netwatch->slept_ns;
  netwatch->slept_ns = slept_ns();
  return netwatch->slept_ns - before > SLEPT_NS;
}

static gpointer netwatch_main(gpointer data) {
  Netwatch *netwatch = data;
  gint64 since = 0; /* of the first change not yet told */
  gboolean slept = FALSE;
  for (;;) {
    struct pollfd polled[] = {{.fd = netwatch->stop, .events = POLLIN},
                              {.fd = netwatch->netlink, .events = POLLIN},
                              {.fd = netwatch->timer, .events = POLLIN}};
    int ready = poll(polled, G_N_ELEMENTS(polled), since ? CALM_MS : -1);
    if (polled[0].revents)
      return NULL;
    gint64 now = g_get_monotonic_time();
    if (ready > 0 && polled[1].revents) {
      drain(netwatch->netlink);
      since = since ? since : now;
    }
    if (ready > 0 && polled[2].revents && has_slept(netwatch)) {
      slept = TRUE;
      since = since ? since : now;
    }
    if (!since || (ready > 0 && now - since < GATHER_US))
      continue;
    log_debug(slept ? "the machine woke up" : "the network changed");
    netwatch->changed(slept, netwatch->data);
    since = 0;
    slept = FALSE;
  }
}

Netwatch *netwatch_new(void (*changed)(gboolean, gpointer), gpointer data) {
  Netwatch *netwatch = g_new0(Netwatch, 1);
  netwatch->changed = changed;
  netwatch->data = data;
  netwatch->netlink = open_netlink();
  netwatch->timer = open_timer();
  netwatch->slept_ns = slept_ns();
  netwatch->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  netwatch->thread = g_thread_new("network", netwatch_main, netwatch);
  return netwatch;
}

void netwatch_free(Netwatch *netwatch) {
  if (!netwatch)
    return;
  eventfd_write(netwatch->stop, 1);
  g_thread_join(netwatch->thread);
  autofd_clear(&netwatch->netlink);
  autofd_clear(&netwatch->timer);
  close(netwatch->stop);
  g_free(netwatch);
}
