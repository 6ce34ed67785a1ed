/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The resolver is asked in a main context of its own, because only its asynchronous form can be
 * left at a deadline; a proxy is never asked for. Connecting is a race of non-blocking sockets
 * under one poll(2).
 */
#include "net/dial.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/autofd.h"
#include "base/deadline.h"
#include "base/err.h"

#define ADDRESSES_MAX 16
#define HEAD_START_MS 250

typedef struct {
  GList *addresses;
  GError *error;
  gboolean done;
} Lookup;

static void lookup_done(GObject *source, GAsyncResult *result, gpointer data) {
  Lookup *lookup = data;
  lookup->addresses =
      g_resolver_lookup_by_name_finish(G_RESOLVER(source), result, &lookup->error);
  lookup->done = TRUE;
}

static gboolean lookup_expired(gpointer data) {
  g_cancellable_cancel(data);
  return G_SOURCE_REMOVE;
}

static void pass_cancel(GCancellable *cancellable, gpointer data) {
  g_cancellable_cancel(data);
}

/* The addresses of @host, to be freed with g_resolver_free_addresses; NULL with @error. */
static GList *resolve(const char *host, gint64 deadline, GCancellable *cancellable,
                      GError **error) {
  GInetAddress *literal = g_inet_address_new_from_string(host);
  if (literal)
    return g_list_append(NULL, literal);

  g_autoptr(GMainContext) context = g_main_context_new();
  g_main_context_push_thread_default(context);
  g_autoptr(GCancellable) stop = g_cancellable_new();
  gulong chained = cancellable
                       ? g_cancellable_connect(cancellable, G_CALLBACK(pass_cancel), stop, NULL)
                       : 0;
  g_autoptr(GSource) timer = NULL;
  if (deadline != DEADLINE_NEVER) {
    timer = g_timeout_source_new((guint) deadline_poll_ms(deadline));
    g_source_set_callback(timer, lookup_expired, stop, NULL);
    g_source_attach(timer, context);
  }
  g_autoptr(GResolver) resolver = g_resolver_get_default();
  Lookup lookup = {0};
  g_resolver_lookup_by_name_async(resolver, host, stop, lookup_done, &lookup);
  while (!lookup.done)
    g_main_context_iteration(context, TRUE);
  if (timer)
    g_source_destroy(timer);
  g_cancellable_disconnect(cancellable, chained);
  g_main_context_pop_thread_default(context);

  if (lookup.addresses)
    return lookup.addresses;
  if (cancellable && g_cancellable_is_cancelled(cancellable))
    g_set_error(error, EML_ERROR, EML_ERROR_CANCELLED, "cancelled while looking up %s", host);
  else if (g_cancellable_is_cancelled(stop))
    g_set_error(error, EML_ERROR, EML_ERROR_TIMEOUT, "no answer from DNS about %s in time", host);
  else
    g_set_error(error, EML_ERROR, EML_ERROR_OFFLINE, "cannot find %s: %s", host,
                lookup.error ? lookup.error->message : "no address");
  g_clear_error(&lookup.error);
  return NULL;
}

/* Orders @list so that families alternate, the first one's first (RFC 8305, 4). */
static guint interleave(GList *list, GInetAddress **order) {
  guint count = 0;
  GSocketFamily first = g_inet_address_get_family(list->data);
  GList *same = list, *other = list;
  while ((same || other) && count < ADDRESSES_MAX) {
    while (same && g_inet_address_get_family(same->data) != first)
      same = same->next;
    if (same) {
      order[count++] = same->data;
      same = same->next;
    }
    while (other && g_inet_address_get_family(other->data) == first)
      other = other->next;
    if (other && count < ADDRESSES_MAX) {
      order[count++] = other->data;
      other = other->next;
    }
  }
  return count;
}

/* Starts connecting; returns the descriptor, or -1 with errno. */
static int start(GInetAddress *address, guint16 port) {
  g_autoptr(GSocketAddress) target = g_inet_socket_address_new(address, port);
  struct sockaddr_storage native;
  gssize size = g_socket_address_get_native_size(target);
  if (size < 0 || !g_socket_address_to_native(target, &native, sizeof native, NULL)) {
    errno = EAFNOSUPPORT;
    return -1;
  }
  autofd int fd = socket(native.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  int on = 1, idle = 120, interval = 30, probes = 4;
  (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  (void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  (void) setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  if (connect(fd, (struct sockaddr *) &native, (socklen_t) size) != 0 && errno != EINPROGRESS)
    return -1;
  return steal_fd(&fd);
}

/* The race. Slot 0 of @polls is the cancellable, slot i + 1 the attempt at order[i]. */
static int race(GInetAddress **order, guint count, const char *host, guint16 port,
                gint64 deadline, GCancellable *cancellable, struct pollfd *polls,
                GError **error) {
  guint started = 0, pending = 0;
  gint64 next_start = 0;
  int last_errno = ECONNREFUSED;
  for (;;) {
    gint64 now = g_get_monotonic_time();
    if (cancellable && g_cancellable_is_cancelled(cancellable)) {
      g_set_error(error, EML_ERROR, EML_ERROR_CANCELLED, "cancelled while connecting to %s", host);
      return -1;
    }
    if (now >= deadline) {
      g_set_error(error, EML_ERROR, EML_ERROR_TIMEOUT, "%s:%u does not answer", host, port);
      return -1;
    }
    if (started < count && (pending == 0 || now >= next_start)) {
      int fd = start(order[started], port);
      if (fd < 0)
        last_errno = errno;
      else
        pending++;
      polls[++started] = (struct pollfd){.fd = fd, .events = POLLOUT};
      next_start = now + HEAD_START_MS * 1000;
      continue;
    }
    if (pending == 0) {
      eml_error_set_errno(error, EML_ERROR_OFFLINE, last_errno, "cannot connect to %s:%u", host,
                          port);
      return -1;
    }
    gint64 until = started < count ? MIN(deadline, next_start) : deadline;
    if (poll(polls, started + 1, deadline_poll_ms(until)) < 0 && errno != EINTR) {
      eml_error_set_errno(error, EML_ERROR_OFFLINE, errno, "poll");
      return -1;
    }
    for (guint i = 1; i <= started; i++) {
      if (polls[i].fd < 0 || polls[i].revents == 0)
        continue;
      int failure = 0;
      socklen_t size = sizeof failure;
      if (getsockopt(polls[i].fd, SOL_SOCKET, SO_ERROR, &failure, &size) != 0)
        failure = errno;
      if (failure == 0)
        return steal_fd(&polls[i].fd);
      last_errno = failure;
      close(steal_fd(&polls[i].fd));
      pending--;
    }
  }
}

int dial(const char *host, guint16 port, gint64 deadline, GCancellable *cancellable, int cancel_fd,
         GError **error) {
  GList *addresses = resolve(host, deadline, cancellable, error);
  if (!addresses)
    return -1;
  GInetAddress *order[ADDRESSES_MAX];
  guint count = interleave(addresses, order);
  struct pollfd polls[ADDRESSES_MAX + 1] = {{.fd = cancel_fd, .events = POLLIN}};
  for (guint i = 1; i <= ADDRESSES_MAX; i++)
    polls[i].fd = -1;
  int fd = race(order, count, host, port, deadline, cancellable, polls, error);
  for (guint i = 1; i <= ADDRESSES_MAX; i++)
    autofd_clear(&polls[i].fd);
  g_resolver_free_addresses(addresses);
  return fd;
}
