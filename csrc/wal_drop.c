/* What the engine drops by itself, to make room: a DROP frame of many streams, as the main thread
 * asks for it and the next thread composes it. */
#include "digest.h"
#include "frame.h"
#include "points.h"
#include "wait.h"
#include "wal_state.h"

#include <stdlib.h>
#include <string.h>

static int by_stream(const void *a, const void *b)
{
    const rw_drop_row *x = a, *y = b;
    return x->stream < y->stream ? -1 : x->stream > y->stream;
}

/* Gives each row its place; moves those that have one to the front. Returns how many. A place that
 * is given away meanwhile is noticed when the row is composed. */
static uint32_t find_places(const rw_wal *w, rw_drop_row *rows, uint32_t count)
{
    qsort(rows, count, sizeof *rows, by_stream);
    for (uint32_t i = 0; i < count; i++)
        rows[i].place = UINT32_MAX;
    uint32_t places = rw_load32(&w->c->stream_count);
    for (uint32_t place = 0; place < places; place++) {
        const rw_drop_row key = {.stream = rw_load32(&rw_stream_of(w->c, place)->number)};
        rw_drop_row *row = bsearch(&key, rows, count, sizeof *rows, by_stream);
        if (row != NULL)
            row->place = place;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if (rows[i].place != UINT32_MAX)
            rows[kept++] = rows[i];
    return kept;
}

int rw_wal_compose_drop(rw_wal *w, const rw_drop_row *rows, uint32_t count)
{
    rw_drop_row *copy = malloc((count ? count : 1) * sizeof *copy);
    if (copy == NULL)
        return RW_FULL;
    memcpy(copy, rows, count * sizeof *copy);
    count = find_places(w, copy, count);
    compose_lock(w);
    bool busy = w->drop_left != 0;
    rw_drop_row *before = busy ? copy : w->drop_rows;
    if (!busy) {
        w->drop_rows = w->drop_next = copy;
        w->drop_left = count;
    }
    compose_unlock(w);
    free(before);
    rw_signal_fd(w->inner_fd);
    return busy ? RW_PENDING : RW_OK;
}

uint32_t rw_wal_drop_left(rw_wal *w)
{
    compose_lock(w);
    uint32_t left = w->drop_left;
    compose_unlock(w);
    return left;
}

/* Streams that have ended, or were trimmed further, have nothing to drop any more. */
static bool still_drops(rw_wal *w, rw_drop_row *row)
{
    const rw_wal_stream *p = rw_wal_living(w, row->place, row->stream);
    if (p == NULL || !p->defined)
        return false;
    if (row->start_offset > p->next_offset)
        row->start_offset = p->next_offset;
    return row->start_offset > p->trimmed_offset;
}

uint32_t rw_drop_prepare(rw_wal *w)
{
    while (w->drop_left != 0 && !still_drops(w, w->drop_next)) {
        w->drop_next++;
        w->drop_left--;
    }
    return w->drop_left < RW_DROP_ROWS_MAX ? w->drop_left : RW_DROP_ROWS_MAX;
}

void rw_drop_put(rw_wal *w, uint32_t count)
{
    rw_log_ring *r = &w->ring;
    rw_drop_row *rows = w->drop_next;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
        if (still_drops(w, &rows[i]))
            rows[kept++] = rows[i];
    const uint8_t *payload = (const uint8_t *)rows;
    const rw_frame f = {
        .kind = RW_FRAME_DROP,
        .slot = UINT16_MAX,
        .payload_bytes = (uint32_t)(kept * sizeof *rows),
        .stream = RW_NO_STREAM,
        .place = UINT32_MAX,
        .timestamp_ns = w->last_timestamp_ns,
        .digest = rw_xxh3(payload, kept * sizeof *rows),
    };
    r->used += rw_frame_put(r->base + r->used, &f, payload, r->seed);
    r->frames++;
    for (uint32_t i = 0; i < kept; i++)
        rw_drop_apply(w, &rows[i], w->c->sealed + 1);
    w->drop_next += count;
    w->drop_left -= count;
    w->cuts++;
    (void)RW_POINT("l.drop.composed");
}

void rw_drop_apply(rw_wal *w, const rw_drop_row *row, uint64_t stamp)
{
    rw_wal_stream *p = rw_wal_living(w, row->place, row->stream);
    if (p == NULL || p->trimmed_offset >= row->start_offset)
        return;
    RW_ASSERT(row->start_offset <= p->next_offset);
    p->trimmed_offset = row->start_offset;
    rw_wal_stream_touch(w, p, stamp);
}
