/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine/line.h"

#include "base/log.h"

#define WINDOW_US G_USEC_PER_SEC
#define GAP_US (3 * G_USEC_PER_SEC) /* nothing came for so long: a window begins anew */
#define SAMPLE_US (200 * 1000)
#define ENOUGH (256 * 1024)         /* octets; a window with less tells nothing */
#define SLOW 4e6                    /* bytes a second on the wire: below it compression is tried */
#define FAST 8e6                    /* and above it given up */
#define WAITED_MOST 0.6             /* so much of the time the line was waited for */
#define GAIN 1.1                    /* octets a second that compression has to bring */
#define SETTLE_WINDOWS 2            /* the first ones after a change are still of the old kind */
#define TRIAL_WINDOWS 4             /* so long it may take until it shows that it pays */
#define NOT_AGAIN_US (10 * 60 * G_USEC_PER_SEC)

struct Line {
  GMutex lock; /* guards everything below; a leaf */
  gboolean offered, known; /* whether the server compresses; whether that was asked */
  gboolean compress;
  gint64 not_before; /* when it may be tried again */
  guint64 total;
  /* the window */
  gint64 from, last;
  guint64 octets, wire;
  gint64 us, waited_us;
  /* what windows told */
  guint windows;     /* since the last change */
  double rate, wire_rate; /* of the last one, a second */
  double plain_rate; /* the last one without compression */
  double best;       /* while it is tried */
};

Line *line_new(void) {
  Line *line = g_new0(Line, 1);
  g_mutex_init(&line->lock);
  return line;
}

void line_free(Line *line) {
  g_mutex_clear(&line->lock);
  g_free(line);
}

static void turn_locked(Line *line, gboolean compress, const char *why) {
  line->compress = compress;
  line->windows = 0;
  line->best = 0;
  log_info("compression %s: %s (%.2f MB/s on the line, %.2f MB/s of mail)", compress ? "on" : "off", why,
           line->wire_rate / 1e6, line->rate / 1e6);
}

/* A window is full. */
static void judge_locked(Line *line, gint64 now) {
  /* Of several connections the times add up; the window cannot have lasted longer than it did. */
  double seconds = (double) MIN(line->us, now - line->from) / G_USEC_PER_SEC;
  double waited = (double) line->waited_us / (double) MAX(line->us, 1);
  line->rate = (double) line->octets / seconds;
  line->wire_rate = (double) line->wire / seconds;
  line->windows++;
  if (!line->compress) {
    if (line->windows > SETTLE_WINDOWS || line->plain_rate == 0)
      line->plain_rate = line->rate;
    if (line->offered && line->wire_rate < SLOW && waited > WAITED_MOST && now >= line->not_before)
      turn_locked(line, TRUE, "the line is slow");
    return;
  }
  if (line->windows <= SETTLE_WINDOWS)
    return;
  line->best = MAX(line->best, line->rate);
  if (line->wire_rate > FAST) {
    turn_locked(line, FALSE, "the line is fast");
  } else if (line->windows == SETTLE_WINDOWS + TRIAL_WINDOWS && line->best < GAIN * line->plain_rate) {
    turn_locked(line, FALSE, "it does not pay");
    line->not_before = now + NOT_AGAIN_US;
  }
}

void line_note(Line *line, const LineSample *sample, gint64 now) {
  g_mutex_lock(&line->lock);
  line->total += sample->octets;
  if (now - line->last > GAP_US) {
    line->from = now - sample->us;
    line->octets = line->wire = 0;
    line->us = line->waited_us = 0;
  }
  line->last = now;
  /* Connections that are still of the other kind say nothing about this one. */
  if (sample->compressed == line->compress) {
    line->octets += sample->octets;
    line->wire += sample->wire;
    line->us += sample->us;
    line->waited_us += sample->waited_us;
  }
  if (now - line->from >= WINDOW_US && line->octets >= ENOUGH && line->us > 0) {
    judge_locked(line, now);
    line->from = now;
    line->octets = line->wire = 0;
    line->us = line->waited_us = 0;
  }
  g_mutex_unlock(&line->lock);
}

void line_offered(Line *line, gboolean offered) {
  g_mutex_lock(&line->lock);
  line->offered = offered;
  line->known = TRUE;
  g_mutex_unlock(&line->lock);
}

gboolean line_compress(Line *line) {
  g_mutex_lock(&line->lock);
  gboolean compress = line->compress;
  g_mutex_unlock(&line->lock);
  return compress;
}

guint64 line_rate(Line *line) {
  g_mutex_lock(&line->lock);
  guint64 rate = (guint64) line->rate;
  g_mutex_unlock(&line->lock);
  return rate;
}

guint64 line_octets(Line *line) {
  g_mutex_lock(&line->lock);
  guint64 octets = line->total;
  g_mutex_unlock(&line->lock);
  return octets;
}

void line_describe(Line *line, GString *text) {
  g_mutex_lock(&line->lock);
  g_string_append_printf(text, "compression: %s", line->compress               ? "on"
                                                  : line->known && !line->offered ? "not offered by the server"
                                                                                  : "off");
  if (line->rate > 0)
    g_string_append_printf(text, ", line %.1f MB/s", line->wire_rate / 1e6);
  if (line->compress && line->rate > 0)
    g_string_append_printf(text, ", mail %.1f MB/s", line->rate / 1e6);
  g_string_append_c(text, '\n');
  g_mutex_unlock(&line->lock);
}

static void take_sample(LineMeter *meter, gint64 now) {
  LineSample sample = {.compressed = imap_session_compressed(meter->session),
                       .octets = meter->octets,
                       .wire = imap_session_wire_bytes(meter->session) - meter->wire,
                       .us = now - meter->since,
                       .waited_us = imap_session_waited_us(meter->session) - meter->waited_us};
  line_note(meter->line, &sample, now);
}

static void begin_sample(LineMeter *meter, gint64 now) {
  meter->since = now;
  meter->octets = 0;
  meter->wire = imap_session_wire_bytes(meter->session);
  meter->waited_us = imap_session_waited_us(meter->session);
}

void line_meter_count(LineMeter *meter, guint64 octets) {
  gint64 now = g_get_monotonic_time();
  if (!meter->since)
    begin_sample(meter, now);
  meter->octets += octets;
  if (now - meter->since < SAMPLE_US)
    return;
  take_sample(meter, now);
  begin_sample(meter, now);
}

void line_meter_pause(LineMeter *meter) {
  if (meter->since)
    take_sample(meter, g_get_monotonic_time());
  meter->since = 0;
}
