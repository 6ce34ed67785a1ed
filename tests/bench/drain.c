/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * drain - reads every message of some folders over one IMAP connection and throws them away
 *
 *   drain HOST PORT CA-FILE USER FOLDER...        password: the variable DRAIN_PASSWORD
 *
 * What a single TLS connection can carry at best, to compare readers with: EXAMINE and one
 * `UID FETCH 1:* (UID BODY.PEEK[])` a folder. Folder names are ASCII without quotes. Prints the
 * octets of the messages, the seconds of everything, and the seconds without connecting:
 *
 *   834512345 4.812 4.790
 */
#include <ctype.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static SSL *tls;
static char buffer[256 << 10];
static size_t filled, at;

static void die(const char *what) {
  fprintf(stderr, "drain: %s\n", what);
  ERR_print_errors_fp(stderr);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void dial(const char *host, const char *port, const char *ca_file) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo(host, port, &hints, &found) != 0)
    die("no such host");
  int fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
  if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0)
    die("cannot connect");
  freeaddrinfo(found);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);

  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  if (!context || !SSL_CTX_load_verify_locations(context, ca_file, NULL))
    die(ca_file);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  tls = SSL_new(context);
  if (!tls || !SSL_set_fd(tls, fd) || SSL_connect(tls) != 1)
    die("no TLS");
}

static void refill(void) {
  int got = SSL_read(tls, buffer, sizeof buffer);
  if (got <= 0)
    die("the connection ended");
  filled = (size_t) got;
  at = 0;
}

/* The next line without its end; what is longer than @size is cut off at the front, because it is
 * the end of a line that counts: "{123}". */
static void read_line(char *line, size_t size) {
  size_t length = 0;
  for (;;) {
    if (at == filled)
      refill();
    char c = buffer[at++];
    if (c == '\n')
      break;
    if (length == size - 1) {
      memmove(line, line + size / 2, length - size / 2);
      length -= size / 2;
    }
    line[length++] = c;
  }
  if (length && line[length - 1] == '\r')
    length--;
  line[length] = '\0';
}

static void skip(unsigned long long octets) {
  while (octets) {
    if (at == filled)
      refill();
    size_t part = filled - at < octets ? filled - at : (size_t) octets;
    at += part;
    octets -= part;
  }
}

/* The number of a literal that @line announces, or -1. */
static long long literal(const char *line) {
  const char *brace = strrchr(line, '{');
  if (!brace || !isdigit((unsigned char) brace[1]))
    return -1;
  char *end;
  long long size = strtoll(brace + 1, &end, 10);
  return strcmp(end, "}") == 0 ? size : -1;
}

/* Sends one command and reads until its answer; returns the octets of all literals. */
static unsigned long long command(const char *text) {
  static unsigned number;
  char line[4096], tag[16];
  unsigned long long octets = 0;
  int length = snprintf(tag, sizeof tag, "d%u ", ++number);
  int size = snprintf(line, sizeof line, "%s%s\r\n", tag, text);
  if (size >= (int) sizeof line || SSL_write(tls, line, size) != size)
    die("cannot write");
  for (;;) {
    read_line(line, sizeof line);
    long long announced = literal(line);
    if (announced >= 0) {
      skip((unsigned long long) announced);
      octets += (unsigned long long) announced;
    } else if (strncmp(line, tag, (size_t) length) == 0) {
      if (strncmp(line + length, "OK", 2) != 0)
        die(line);
      return octets;
    }
  }
}

int main(int argc, char **argv) {
  const char *password = getenv("DRAIN_PASSWORD");
  char text[2048];
  if (argc < 6 || !password) {
    fputs("usage: DRAIN_PASSWORD=... drain HOST PORT CA-FILE USER FOLDER...\n", stderr);
    return 2;
  }
  double began = now();
  dial(argv[1], argv[2], argv[3]);
  read_line(text, sizeof text); /* the greeting */
  snprintf(text, sizeof text, "LOGIN \"%s\" \"%s\"", argv[4], password);
  command(text);

  double connected = now();
  unsigned long long octets = 0;
  for (int i = 5; i < argc; i++) {
    snprintf(text, sizeof text, "EXAMINE \"%s\"", argv[i]);
    command(text);
    octets += command("UID FETCH 1:* (UID BODY.PEEK[])");
  }
  double end = now();
  printf("%llu %.4f %.4f\n", octets, end - began, end - connected);
  return 0;
}
