/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "cli/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/autofd.h"
#include "base/err.h"

#define MAX_PASSWORD 1024

static gboolean say(int fd, const char *text) {
  return write(fd, text, strlen(text)) == (gssize) strlen(text);
}

/* One line into @line, without its newline. */
static gboolean read_line(int fd, GCancellable *cancellable, char *line, gsize size,
                          gsize *length_out, GError **error) {
  GPollFD cancelled = {.fd = -1};
  if (cancellable)
    g_cancellable_make_pollfd(cancellable, &cancelled);
  gsize length = 0;
  gboolean ok = FALSE;
  while (!ok && length + 1 < size) {
    struct pollfd polled[2] = {{.fd = fd, .events = POLLIN},
                               {.fd = cancelled.fd, .events = POLLIN}};
    if (poll(polled, 2, -1) < 0 && errno != EINTR) {
      eml_error_set_errno(error, EML_ERROR_FAILED, errno, "terminal");
      break;
    }
    if (polled[1].revents) {
      g_set_error(error, EML_ERROR, EML_ERROR_CANCELLED, "interrupted");
      break;
    }
    if (!polled[0].revents)
      continue;
    gssize got = read(fd, line + length, size - 1 - length);
    if (got <= 0) {
      g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "no password was entered");
      break;
    }
    length += (gsize) got;
    ok = line[length - 1] == '\n';
  }
  if (cancellable)
    g_cancellable_release_fd(cancellable);
  if (!ok && error && !*error)
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "the password is too long");
  *length_out = ok ? length - 1 : length;
  return ok;
}

Secret *ask_terminal(const char *prompt, gpointer data, GError **error) {
  autofd int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
  struct termios shown;
  if (fd < 0 || tcgetattr(fd, &shown) != 0) {
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH,
                "a password is needed and there is no terminal to ask for it: set "
                "password_command or password_file");
    return NULL;
  }
  struct termios hidden = shown;
  hidden.c_lflag &= ~(tcflag_t) ECHO;
  tcsetattr(fd, TCSAFLUSH, &hidden);
  char line[MAX_PASSWORD];
  gsize length = 0;
  g_autoptr(GError) local = NULL;
  gboolean ok = say(fd, prompt) && read_line(fd, data, line, sizeof line, &length, &local);
  tcsetattr(fd, TCSAFLUSH, &shown);
  say(fd, "\n");
  Secret *secret = ok && length ? secret_new(line, (gssize) length) : NULL;
  secret_wipe(line, sizeof line);
  if (!secret && local)
    g_propagate_error(error, g_steal_pointer(&local));
  else if (!secret)
    g_set_error(error, EML_ERROR, EML_ERROR_AUTH, "no password was entered");
  return secret;
}
