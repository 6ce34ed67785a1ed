/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * memfs - a FUSE file system that answers everything from memory
 *
 *   memfs LIST DIRECTORY        stays in the foreground until it is unmounted
 *
 * What FUSE itself costs at best, to compare a file system with. LIST names the files, ordered by
 * folder, one a line: SIZE, FOLDER and NAME with a tab between. Contents are one buffer of
 * printable noise. Tuned as far as FUSE goes: readdirplus always, listings and pages kept by the
 * kernel, long timeouts, no flush, node numbers that are computed.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TIMEOUT 86400.0
#define WORKERS 4
#define CONTENT (16 << 20) /* what is larger repeats it */
#define FIRST_FILE (1 << 16) /* node numbers: the root, the folders, the files */
#define FIRST_FOLDER (FUSE_ROOT_ID + 1)

struct file {
  char *name;
  size_t size;
};

struct folder {
  char *name;
  size_t first, end; /* of its files */
};

static struct file *files;
static struct folder *folders;
static size_t file_count, folder_count;
static char *content;

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* ---- the tree ---- */

static void *grown(void *array, size_t count, size_t size) {
  if (count & (count - 1)) /* room doubles at the powers of two */
    return array;
  array = realloc(array, (count ? 2 * count : 1) * size);
  if (!array)
    die("memory");
  return array;
}

static void add_file(char *line) {
  char *end;
  size_t size = strtoul(line, &end, 10);
  char *folder = *end == '\t' ? end + 1 : NULL;
  char *name = folder ? strchr(folder, '\t') : NULL;
  if (!name) {
    fprintf(stderr, "memfs: not SIZE, FOLDER, NAME: %s\n", line);
    exit(1);
  }
  *name++ = '\0';
  if (!folder_count || strcmp(folders[folder_count - 1].name, folder) != 0) {
    folders = grown(folders, folder_count, sizeof *folders);
    folders[folder_count++] = (struct folder){strdup(folder), file_count, file_count};
  }
  files = grown(files, file_count, sizeof *files);
  files[file_count++] = (struct file){strdup(name), size};
  folders[folder_count - 1].end = file_count;
}

static void read_list(const char *path) {
  FILE *list = fopen(path, "r");
  char *line = NULL;
  size_t room = 0;
  if (!list)
    die(path);
  for (ssize_t length; (length = getline(&line, &room, list)) > 0;) {
    if (line[length - 1] == '\n')
      line[length - 1] = '\0';
    add_file(line);
  }
  free(line);
  fclose(list);
}

static void make_content(void) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyz     \n";
  unsigned state = 1;
  content = malloc(CONTENT);
  if (!content)
    die("memory");
  for (size_t i = 0; i < CONTENT; i++) {
    state = state * 1664525 + 1013904223;
    content[i] = letters[state >> 27];
  }
}

static bool is_folder(fuse_ino_t ino) {
  return ino >= FIRST_FOLDER && ino < FIRST_FOLDER + folder_count;
}

static bool is_file(fuse_ino_t ino) {
  return ino >= FIRST_FILE && ino < FIRST_FILE + file_count;
}

static bool fill_stat(fuse_ino_t ino, struct stat *st_out) {
  *st_out = (struct stat){.st_ino = ino, .st_uid = getuid(), .st_gid = getgid(), .st_nlink = 1};
  if (is_file(ino)) {
    st_out->st_mode = S_IFREG | 0600;
    st_out->st_size = (off_t) files[ino - FIRST_FILE].size;
    st_out->st_blocks = (st_out->st_size + 511) / 512;
  } else {
    st_out->st_mode = S_IFDIR | 0700;
    st_out->st_nlink = ino == FUSE_ROOT_ID ? 2 + folder_count : 2;
  }
  return ino == FUSE_ROOT_ID || is_folder(ino) || is_file(ino);
}

static struct fuse_entry_param entry_of(fuse_ino_t ino) {
  struct fuse_entry_param entry = {.ino = ino, .attr_timeout = TIMEOUT, .entry_timeout = TIMEOUT};
  fill_stat(ino, &entry.attr);
  return entry;
}

/* The number of the child at @index of a directory and its name; 0 after the last. */
static fuse_ino_t child(fuse_ino_t dir, size_t index, const char **name_out) {
  if (dir == FUSE_ROOT_ID) {
    if (index >= folder_count)
      return 0;
    *name_out = folders[index].name;
    return FIRST_FOLDER + index;
  }
  const struct folder *folder = &folders[dir - FIRST_FOLDER];
  if (index >= folder->end - folder->first)
    return 0;
  *name_out = files[folder->first + index].name;
  return FIRST_FILE + folder->first + index;
}

/* ---- operations ---- */

static void op_init(void *userdata, struct fuse_conn_info *conn) {
  conn->want |= conn->capable & (FUSE_CAP_READDIRPLUS | FUSE_CAP_PARALLEL_DIROPS);
  conn->want &= ~(unsigned) (FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_SPLICE_READ
                             | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

/* Only for what the kernel dropped after the listing, so a search from the front will do. */
static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  const char *found;
  fuse_ino_t ino;
  for (size_t i = 0; !is_file(parent) && (ino = child(parent, i, &found)); i++)
    if (strcmp(found, name) == 0) {
      struct fuse_entry_param entry = entry_of(ino);
      fuse_reply_entry(req, &entry);
      return;
    }
  fuse_reply_err(req, ENOENT);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets) {
  fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  struct stat st;
  if (fill_stat(ino, &st))
    fuse_reply_attr(req, &st, TIMEOUT);
  else
    fuse_reply_err(req, ENOENT);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  fi->keep_cache = 1;
  fi->cache_readdir = 1;
  fuse_reply_open(req, fi);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *fi) {
  char *buffer = malloc(size);
  const char *name;
  size_t used = 0;
  fuse_ino_t number;
  if (!buffer)
    die("memory");
  for (; (number = child(ino, (size_t) offset, &name)); offset++) {
    struct fuse_entry_param entry = entry_of(number);
    size_t needed =
        fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, offset + 1);
    if (needed > size - used)
      break;
    used += needed;
  }
  fuse_reply_buf(req, buffer, used);
  free(buffer);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
  fi->keep_cache = 1;
  fi->noflush = 1;
  fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi) {
  size_t whole = files[ino - FIRST_FILE].size, from = (size_t) offset;
  size_t left = from < whole ? whole - from : 0;
  size_t within = from % (CONTENT / 2); /* a read is far smaller than the other half */
  fuse_reply_buf(req, content + within, size < left ? size : left);
}

static const struct fuse_lowlevel_ops operations = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .opendir = op_opendir,
    .readdirplus = op_readdirplus,
    .open = op_open,
    .read = op_read,
};

int main(int argc, char **argv) {
  if (argc != 3) {
    fputs("usage: memfs LIST DIRECTORY\n", stderr);
    return 2;
  }
  read_list(argv[1]);
  make_content();
  char *options[] = {argv[0], "-o", "fsname=memfs,subtype=memfs,default_permissions,ro", NULL};
  struct fuse_args args = FUSE_ARGS_INIT(3, options);
  struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
  if (!session || fuse_set_signal_handlers(session) != 0
      || fuse_session_mount(session, argv[2]) != 0)
    return 1;
  struct fuse_loop_config *config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(config, WORKERS);
  fuse_loop_cfg_set_idle_threads(config, WORKERS);
  int result = fuse_session_loop_mt(session, config);
  fuse_session_unmount(session);
  return result < 0;
}
