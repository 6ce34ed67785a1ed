/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * openread - how long it takes to open, read and close one small file, when all is warm
 *
 *   openread DIRECTORY COUNT PASSES
 *
 * Reads the first COUNT regular files of DIRECTORY once to warm them up, then PASSES times, and
 * prints the microseconds of the median pass, a file, and the files it found:
 *
 *   7.412 2000
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void read_file(int dir, const char *name) {
  static char buffer[64 << 10];
  int fd = openat(dir, name, O_RDONLY);
  ssize_t got;
  if (fd < 0)
    die(name);
  while ((got = read(fd, buffer, sizeof buffer)) > 0)
    ;
  if (got < 0)
    die(name);
  close(fd);
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *) a, y = *(const double *) b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  int wanted = argc == 4 ? atoi(argv[2]) : 0, passes = argc == 4 ? atoi(argv[3]) : 0, count = 0;
  if (wanted < 1 || passes < 1) {
    fputs("usage: openread DIRECTORY COUNT PASSES\n", stderr);
    return 2;
  }
  DIR *stream = opendir(argv[1]);
  char **names = calloc((size_t) wanted, sizeof *names);
  double *times = calloc((size_t) passes, sizeof *times);
  if (!stream || !names || !times)
    die(argv[1]);
  for (struct dirent *entry; count < wanted && (entry = readdir(stream));)
    if (entry->d_type == DT_REG)
      names[count++] = strdup(entry->d_name);
  if (!count) {
    fputs("openread: no files\n", stderr);
    return 1;
  }

  int dir = dirfd(stream);
  for (int pass = -1; pass < passes; pass++) {
    double began = now();
    for (int i = 0; i < count; i++)
      read_file(dir, names[i]);
    if (pass >= 0)
      times[pass] = now() - began;
  }
  qsort(times, (size_t) passes, sizeof *times, by_value);
  printf("%.3f %d\n", times[passes / 2] / count * 1e6, count);
  return 0;
}
