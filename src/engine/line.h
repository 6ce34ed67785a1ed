/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How fast the line is, and whether compressing pays on it (RFC 4978).
 *
 * Bodies that are transferred are the measure: how many octets came, how many bytes that was on the
 * wire, and how much of the time was spent waiting for them. A line that is waited for most of the
 * time and gives less than a few MB/s is slower than any compressor, so compression is tried. It is
 * kept when more octets come than before, else given up for some minutes: a server that is slow
 * itself, or mail that does not get smaller, is found out that way. Any thread.
 */
#pragma once

#include "imap/session.h"

typedef struct Line Line;

Line *line_new(void);
void line_free(Line *line);

/* One stretch of a transfer on one connection. */
typedef struct {
  gboolean compressed;
  guint64 octets; /* of bodies */
  guint64 wire;   /* bytes on the wire */
  gint64 us;      /* how long it took */
  gint64 waited_us; /* of these, waiting for the socket */
} LineSample;

/* Takes note at @now (monotonic µs). */
void line_note(Line *line, const LineSample *sample, gint64 now);

/* The server offers COMPRESS, or does not. */
void line_offered(Line *line, gboolean offered);

/* Whether connections are to be compressed now. */
gboolean line_compress(Line *line);

/* Octets of bodies a second as last measured, 0: not yet. */
guint64 line_rate(Line *line);

/* Octets of bodies so far. */
guint64 line_octets(Line *line);

/* The line of the status text, such as "compression: on, line 1.2 MB/s". */
void line_describe(Line *line, GString *text);

/* Takes samples from one session while a job receives bodies over it. One thread. */
typedef struct {
  Line *line;
  const ImapSession *session;
  gint64 since; /* monotonic µs, 0: nothing is coming */
  guint64 octets, wire;
  gint64 waited_us;
} LineMeter;

/* Octets of a body came (0: one begins; the time until then is the round trip's, not the line's). */
void line_meter_count(LineMeter *meter, guint64 octets);

/* Nothing more is in flight. */
void line_meter_pause(LineMeter *meter);
