/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A large body that is fetched in pieces as it is read: the first page of 200 MB is served before
 * the last one is here, and a reader of 4 KiB moves little more than that over the wire.
 */
#pragma once

#include "engine/engine.h"
#include "store/store.h"

typedef struct Download Download; /* reference counted */

/* Bodies above this size are fetched in pieces. */
#define DOWNLOAD_FROM_BYTES (1024 * 1024)

Download *download_new(Engine *engine, EngineMsg msg, guint32 folder, guint64 size, GError **error);
Download *download_ref(Download *download);
/* FALSE when its last reference is gone already and it is being freed. */
gboolean download_try_ref(Download *download);
/* When the last reference goes what is not whole is forgotten. */
void download_unref(Download *download);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Download, download_unref)

EngineMsg download_msg(const Download *download);
/* Its size as far as known now (a server may have told a wrong one). */
guint64 download_size(Download *download);

/* As engine_body_read. */
EngineWait download_read(Download *download, guint64 offset, gsize size, EngineReadDone done,
                         gpointer data);
