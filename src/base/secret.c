/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "base/secret.h"

#include <string.h>
#include <sys/mman.h>

#include "base/log.h"

struct Secret {
  gint references; /* atomic */
  gsize mapped;
  char text[];
};

/* A secret has pages of its own, so that locking and leaving it out of core dumps touches nothing
 * else. mlock may be refused (RLIMIT_MEMLOCK): the secret still works, it may only be swapped. */
Secret *secret_new(const char *text, gssize length) {
  gsize size = length < 0 ? strlen(text) : (gsize) length;
  gsize mapped = sizeof(Secret) + size + 1;
  Secret *secret = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (secret == MAP_FAILED)
    g_error("out of memory for a secret");
  (void) mlock(secret, mapped);
  (void) madvise(secret, mapped, MADV_DONTDUMP);
  secret->references = 1;
  secret->mapped = mapped;
  memcpy(secret->text, text, size);
  secret->text[size] = '\0';
  log_redact(secret->text);
  return secret;
}

Secret *secret_ref(Secret *secret) {
  g_atomic_int_inc(&secret->references);
  return secret;
}

void secret_unref(Secret *secret) {
  if (!secret || !g_atomic_int_dec_and_test(&secret->references))
    return;
  gsize mapped = secret->mapped;
  secret_wipe(secret, mapped);
  munmap(secret, mapped);
}

const char *secret_text(const Secret *secret) {
  return secret->text;
}

void secret_wipe(void *memory, gsize size) {
  explicit_bzero(memory, size);
}
