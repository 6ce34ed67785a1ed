/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fs/stopper.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/mounts.h"
#include "fs/ahead.h"
#include "fs/notify.h"
#include "fs/park.h"
#include "fs/replay.h"

#define NOTIFY_MS 2000
#define KICK_MS 50

struct Stopper {
  GThread *thread;
  pthread_t main;
  int signals, over; /* signalfd; eventfd that says the loop has ended */
  GCancellable *cancellable;

  GMutex lock; /* guards what follows, up to `session` becoming set; a leaf */
  struct fuse_session *session; /* NULL: not mounted yet */
  Fs *fs;
  char *path;
  guint32 minor;
};

static void on_kick(int number) {
}

static void stop_mount(Stopper *stopper) {
  g_autoptr(GError) error = NULL;
  parks_cancel_all(stopper->fs->parks);
  if (!notify_stop(stopper->fs->notify, NOTIFY_MS))
    log_warning("a notification hangs in the kernel");
  if (!ahead_stop(stopper->fs->ahead, NOTIFY_MS))
    log_warning("a push into the page cache hangs in the kernel");
  if (!replay_stop(stopper->fs->replay, NOTIFY_MS))
    log_warning("a call into the mount hangs in the kernel");
  g_autoptr(Mount) mount = mounts_at(stopper->path);
  if (mount && mount->minor == stopper->minor && !mounts_detach(stopper->path, TRUE, &error)) {
    log_warning("%s", error->message);
    g_clear_error(&error);
  }
  if (!mounts_abort(stopper->minor, &error))
    log_debug("%s", error->message);
  /* Should the kernel not have told the loop, this does. The loop looks at the flag and then
   * sleeps, so one kick can be too early. */
  fuse_session_exit(stopper->session);
  do
    pthread_kill(stopper->main, SIGUSR1);
  while (poll(&(struct pollfd){.fd = stopper->over, .events = POLLIN}, 1, KICK_MS) == 0);
}

static gpointer stopper_thread(gpointer data) {
  Stopper *stopper = data;
  for (;;) {
    struct pollfd polled[] = {{.fd = stopper->signals, .events = POLLIN},
                              {.fd = stopper->over, .events = POLLIN}};
    if (poll(polled, 2, -1) < 0)
      continue;
    if (polled[1].revents)
      return NULL;
    struct signalfd_siginfo info;
    if (read(stopper->signals, &info, sizeof info) != (gssize) sizeof info)
      continue;
    g_mutex_lock(&stopper->lock);
    gboolean mounted = stopper->session != NULL;
    g_mutex_unlock(&stopper->lock);
    if (mounted) {
      log_info("ended by signal %u", info.ssi_signo);
      stop_mount(stopper);
      return NULL;
    }
    if (g_cancellable_is_cancelled(stopper->cancellable))
      _exit(1);
    g_cancellable_cancel(stopper->cancellable);
  }
}

Stopper *stopper_new(GCancellable *cancellable) {
  Stopper *stopper = g_new0(Stopper, 1);
  g_mutex_init(&stopper->lock);
  stopper->main = pthread_self();
  stopper->cancellable = cancellable;
  struct sigaction kick = {.sa_handler = on_kick}; /* no SA_RESTART: it is to wake */
  sigaction(SIGUSR1, &kick, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  sigaddset(&ending, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &ending, NULL);
  stopper->signals = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
  stopper->over = eventfd(0, EFD_CLOEXEC);
  stopper->thread = g_thread_new("signals", stopper_thread, stopper);
  return stopper;
}

void stopper_mounted(Stopper *stopper, Fs *fs, struct fuse_session *session, const char *path,
                     guint32 minor) {
  g_mutex_lock(&stopper->lock);
  stopper->fs = fs;
  stopper->path = g_strdup(path);
  stopper->minor = minor;
  stopper->session = session;
  g_mutex_unlock(&stopper->lock);
}

void stopper_free(Stopper **stopper_inout) {
  Stopper *stopper = g_steal_pointer(stopper_inout);
  if (!stopper)
    return;
  eventfd_write(stopper->over, 1);
  g_thread_join(stopper->thread);
  close(stopper->signals);
  close(stopper->over);
  g_mutex_clear(&stopper->lock);
  g_free(stopper->path);
  g_free(stopper);
}
