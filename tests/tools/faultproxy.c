/* SPDX-License-Identifier: GPL-3.0-or-later */
/*
 * faultproxy - a TCP proxy that misbehaves on command, for tests and benchmarks
 *
 *   faultproxy LISTEN-IP:PORT TARGET-IP:PORT
 *
 * Port 0 picks a free one.  The first line on standard output is the address it
 * listens on.  Then commands are read from standard input, one a line, and each is
 * answered by one line, "ok", "error ..." or what was asked for.  They act on all
 * connections, present and future.  At the end of input the proxy ends.
 *
 *   delay MS       one-way delay, both ways; a new connection also waits for the
 *                  round trip of the handshake
 *   rate BYTES     bytes a second, each way and connection; 0 is no limit
 *   hole on|off    forward nothing, accept nothing, keep the connections
 *   cut BYTES      after so many more bytes down to the clients, reset that connection
 *   cutup BYTES    the same for bytes up to the server
 *   reset          reset all connections now
 *   close          close all connections now, in an orderly way
 *   refuse on|off  stop listening, listen again
 *   stat           "open N accepted N up BYTES down BYTES": counters since the start
 *
 * tests/tools/faultproxy.py is a Python class around it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  MAX_CONNECTIONS = 512,
  QUEUE_LIMIT = 16 << 20, /* in flight, each way: 40 ms at 400 MB/s */
  READ_SIZE = 256 << 10
};

/* Direction of travel, and index of the socket from which the bytes are read. */
enum { UP, DOWN };

struct chunk {
  struct chunk *next;
  double due;   /* when it may leave */
  size_t length; /* 0: the sender closed its side */
  size_t sent;
  char bytes[];
};

struct queue {
  struct chunk *first, **last;
  size_t queued;
  double line_free; /* when the last byte has passed the rate limit */
  bool eof, eof_sent;
};

struct connection {
  int fd[2]; /* client, server */
  struct queue queue[2];
  double born;
};

static struct connection connections[MAX_CONNECTIONS];
static int count;
static int listener = -1;
static struct sockaddr_in listen_address, target_address;

static bool hole;
static double delay, rate;
static long long cut[2] = {-1, -1};
static unsigned long long total[2], accepted;

static double
now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
die(const char *what) {
  fprintf(stderr, "faultproxy: %s: %s\n", what, strerror(errno));
  exit(1);
}

static bool
parse_address(struct sockaddr_in *address, char *text) {
  char *colon = strrchr(text, ':');
  if(!colon)
    return false;
  *colon = 0;
  address->sin_family = AF_INET;
  address->sin_port = htons((in_port_t)atoi(colon + 1));
  return inet_aton(text, &address->sin_addr) != 0;
}

static void
open_listener(void) {
  int on = 1;
  socklen_t length = sizeof listen_address;
  if(listener >= 0)
    return;
  listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if(bind(listener, (struct sockaddr *)&listen_address, sizeof listen_address) < 0 ||
     listen(listener, 128) < 0)
    die("listen");
  /* keep the port that the kernel picked, for the next time */
  getsockname(listener, (struct sockaddr *)&listen_address, &length);
}

static void
close_with_reset(int fd) {
  struct linger now_or_never = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now_or_never, sizeof now_or_never);
  close(fd);
}

static void
end_connection(int i, bool reset) {
  for(int way = UP; way <= DOWN; way++) {
    struct chunk *chunk;
    if(reset)
      close_with_reset(connections[i].fd[way]);
    else
      close(connections[i].fd[way]);
    while((chunk = connections[i].queue[way].first)) {
      connections[i].queue[way].first = chunk->next;
      free(chunk);
    }
  }
  /* the last one takes its place; an empty queue points into itself */
  connections[i] = connections[--count];
  for(int way = UP; way <= DOWN; way++)
    if(!connections[i].queue[way].first)
      connections[i].queue[way].last = &connections[i].queue[way].first;
}

static void
end_all(bool reset) {
  while(count)
    end_connection(0, reset);
}

static void
command(char *line) {
  char word[16] = "", argument[32] = "";
  double value;
  bool on;
  sscanf(line, "%15s %31s", word, argument);
  value = atof(argument);
  on = strcmp(argument, "on") == 0;
  if(strcmp(word, "stat") == 0) {
    printf("open %d accepted %llu up %llu down %llu\n", count, accepted, total[UP], total[DOWN]);
    return;
  }
  if(strcmp(word, "delay") == 0)
    delay = value / 1000;
  else if(strcmp(word, "rate") == 0)
    rate = value;
  else if(strcmp(word, "hole") == 0)
    hole = on;
  else if(strcmp(word, "cut") == 0)
    cut[DOWN] = atoll(argument);
  else if(strcmp(word, "cutup") == 0)
    cut[UP] = atoll(argument);
  else if(strcmp(word, "reset") == 0)
    end_all(true);
  else if(strcmp(word, "close") == 0)
    end_all(false);
  else if(strcmp(word, "refuse") == 0 && !on)
    open_listener();
  else if(strcmp(word, "refuse") == 0) {
    if(listener >= 0)
      close(listener);
    listener = -1;
  } else {
    printf("error no such command: %s\n", word);
    return;
  }
  puts("ok");
}

static void
read_commands(void) {
  static char buffer[1024];
  static size_t length;
  char *end;
  ssize_t got = read(STDIN_FILENO, buffer + length, sizeof buffer - 1 - length);
  if(got <= 0)
    exit(0);
  length += (size_t)got;
  buffer[length] = 0;
  while((end = strchr(buffer, '\n'))) {
    *end = 0;
    command(buffer);
    length -= (size_t)(end + 1 - buffer);
    memmove(buffer, end + 1, length + 1);
  }
  if(length == sizeof buffer - 1)
    length = 0;
}

static void
accept_one(void) {
  int on = 1;
  int server, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  struct connection *c = &connections[count];
  if(client < 0)
    return;
  /* The target is on this machine: connecting does not take long. */
  server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if(connect(server, (struct sockaddr *)&target_address, sizeof target_address) < 0) {
    close_with_reset(client);
    close(server);
    return;
  }
  fcntl(server, F_SETFL, O_NONBLOCK);
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  memset(c, 0, sizeof *c);
  c->fd[UP] = client;
  c->fd[DOWN] = server;
  c->born = now();
  for(int way = UP; way <= DOWN; way++)
    c->queue[way].last = &c->queue[way].first;
  count++;
  accepted++;
}

static bool
has_room(const struct queue *queue) {
  double limit = QUEUE_LIMIT;
  /* with a slow line a full buffer would hide the slowness from the sender */
  if(rate > 0 && rate * (delay + 0.25) < limit)
    limit = rate * (delay + 0.25);
  if(limit < 8192)
    limit = 8192;
  return !queue->eof && (double)queue->queued < limit;
}

/* False if the connection is broken. */
static bool
receive(struct connection *c, int way) {
  static char buffer[READ_SIZE];
  struct queue *queue = &c->queue[way];
  struct chunk *chunk;
  size_t want = sizeof buffer;
  double start = now();
  ssize_t got;
  if(rate > 0 && rate / 50 < (double)want)
    want = rate / 50 < 256 ? 256 : (size_t)(rate / 50); /* smooth, fifty times a second */
  got = read(c->fd[way], buffer, want);
  if(got < 0)
    return errno == EAGAIN || errno == EINTR;
  if(!(chunk = malloc(sizeof *chunk + (size_t)got)))
    die("memory");
  memcpy(chunk->bytes, buffer, (size_t)got);
  chunk->next = NULL;
  chunk->length = (size_t)got;
  chunk->sent = 0;
  if(start < queue->line_free)
    start = queue->line_free;
  if(rate > 0)
    start += (double)got / rate;
  queue->line_free = start;
  chunk->due = start + delay;
  /* SYN, SYN-ACK, then the data: one and a half round trips */
  if(chunk->due < c->born + 3 * delay)
    chunk->due = c->born + 3 * delay;
  *queue->last = chunk;
  queue->last = &chunk->next;
  queue->queued += (size_t)got;
  queue->eof = got == 0;
  return true;
}

/* Sends what is due; false if the connection is broken or to be cut. */
static bool
transmit(struct connection *c, int way, double at) {
  struct queue *queue = &c->queue[way];
  int fd = c->fd[!way];
  struct chunk *chunk;
  while((chunk = queue->first) && chunk->due <= at) {
    if(chunk->length == 0) {
      shutdown(fd, SHUT_WR);
      queue->eof_sent = true;
    } else {
      size_t rest = chunk->length - chunk->sent;
      ssize_t sent;
      if(cut[way] >= 0 && (long long)rest > cut[way])
        rest = (size_t)cut[way];
      sent = rest ? send(fd, chunk->bytes + chunk->sent, rest, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
      if(sent < 0)
        return errno == EAGAIN || errno == EINTR;
      chunk->sent += (size_t)sent;
      queue->queued -= (size_t)sent;
      total[way] += (unsigned long long)sent;
      if(cut[way] >= 0 && (cut[way] -= sent) <= 0) {
        cut[way] = -1;
        usleep(20000); /* a reset would overtake the bytes before it */
        return false;
      }
      if(chunk->sent < chunk->length)
        return true;
    }
    if(!(queue->first = chunk->next))
      queue->last = &queue->first;
    free(chunk);
  }
  return true;
}

int
main(int argc, char **argv) {
  static struct pollfd polled[2 + 2 * MAX_CONNECTIONS];
  char name[INET_ADDRSTRLEN];
  if(argc != 3 || !parse_address(&listen_address, argv[1]) ||
     !parse_address(&target_address, argv[2])) {
    fprintf(stderr, "usage: faultproxy LISTEN-IP:PORT TARGET-IP:PORT\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  setvbuf(stdout, NULL, _IOLBF, 0);
  open_listener();
  printf("%s:%d\n", inet_ntop(AF_INET, &listen_address.sin_addr, name, sizeof name),
         ntohs(listen_address.sin_port));

  for(;;) {
    double at = now(), wake = at + 3600;
    struct timespec timeout;
    int before = count;

    polled[0] = (struct pollfd){STDIN_FILENO, POLLIN, 0};
    polled[1] = (struct pollfd){count < MAX_CONNECTIONS && !hole ? listener : -1, POLLIN, 0};
    for(int i = 0; i < count; i++)
      for(int side = 0; side < 2; side++) {
        const struct queue *in = &connections[i].queue[side], *out = &connections[i].queue[!side];
        short events = 0;
        if(!hole && has_room(in))
          events |= POLLIN;
        if(!hole && out->first) {
          if(out->first->due <= at)
            events |= POLLOUT;
          else if(out->first->due < wake)
            wake = out->first->due;
        }
        polled[2 + 2 * i + side] =
          (struct pollfd){events ? connections[i].fd[side] : -1, events, 0};
      }

    timeout.tv_sec = (time_t)(wake - at);
    timeout.tv_nsec = (long)((wake - at - (double)timeout.tv_sec) * 1e9);
    if(ppoll(polled, (nfds_t)(2 + 2 * before), &timeout, NULL) < 0 && errno != EINTR)
      die("poll");
    at = now();

    /* from the last to the first, because the last one fills the gap of one that ends */
    for(int i = before - 1; i >= 0; i--) {
      struct connection *c = &connections[i];
      bool alive = true;
      for(int side = 0; side < 2 && alive; side++) {
        short events = polled[2 + 2 * i + side].revents;
        if(events & (POLLERR | POLLNVAL))
          alive = false;
        else if(events & (POLLIN | POLLHUP) && has_room(&c->queue[side]))
          alive = receive(c, side);
      }
      for(int way = UP; way <= DOWN && alive && !hole; way++)
        alive = transmit(c, way, at);
      if(!alive)
        end_connection(i, true);
      else if(c->queue[UP].eof_sent && c->queue[DOWN].eof_sent)
        end_connection(i, false);
    }
    if(polled[1].revents & POLLIN)
      accept_one();
    if(polled[0].revents & (POLLIN | POLLHUP))
      read_commands();
  }
}
