/* The WAL process's own table of streams: what is composed of each, and what is told of that. Under
 * the compose lock. */
#include "block.h"
#include "frame.h"
#include "owners.h"
#include "points.h"
#include "settings.h"
#include "stream.h"
#include "wait.h"
#include "wal_state.h"

#include <stdlib.h>
#include <string.h>

/* The place's words are believed while the number is there and its DELETE is not composed: until
 * then the supervisor does not touch them (stream.h, PLACES). */
rw_wal_stream *rw_wal_adopt(rw_wal *w, uint32_t place, uint32_t number)
{
    const rw_stream *s = rw_stream_of(w->c, place);
    if (number == RW_NO_STREAM || rw_load32(&s->number) != number || s->ended == number)
        return NULL;
    RW_ASSERT(s->name_bytes != 0 && s->name_bytes <= RW_STREAM_NAME_MAX);
    w->streams[place] = (rw_wal_stream){
        .next_offset = s->next_offset,
        .composed_bytes = s->composed_bytes,
        .composed_ns = s->composed_ns,
        .trimmed_offset = s->trimmed_offset,
        .number = number,
        .defined = s->defined_end != 0 && s->defined_end <= w->c->sealed_end,
    };
    return &w->streams[place];
}

bool rw_wal_streams_open(rw_wal *w)
{
    rw_control *c = w->c;
    w->streams = malloc(c->max_streams * sizeof *w->streams);
    w->taken = malloc(c->max_streams * sizeof *w->taken);
    w->row_places = calloc(c->max_streams, sizeof *w->row_places);
    if (w->streams == NULL || w->taken == NULL || w->row_places == NULL)
        return false;
    /* now, and not in the first snapshot, as appends wait for that */
    memset(w->taken, 0, c->max_streams * sizeof *w->taken);
    for (uint32_t place = 0; place < c->max_streams; place++) {
        w->streams[place] = (rw_wal_stream){.number = RW_NO_STREAM, .over = true};
        rw_wal_adopt(w, place, rw_load32(&rw_stream_of(c, place)->number));
    }
    w->numbers_end = c->numbers_end;
    return true;
}

void rw_wal_streams_close(rw_wal *w)
{
    free(w->streams);
    free(w->taken);
    free(w->row_places);
}

void rw_wal_stream_defined(rw_wal *w, rw_wal_stream *p)
{
    p->defined = true;
    if (p->number >= w->numbers_end)
        w->numbers_end = p->number + 1;
}

/* Before `ended` of any stream: a successor passes over that stream then. In the block's order, so
 * that the last of several holds. */
static void publish_settings(rw_wal *w)
{
    if (w->settings_in == NULL)
        return;
    rw_frames frames = rw_frames_of(w->settings_in, ((const rw_block *)w->settings_in)->frames);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        rw_stream *s = rw_stream_of(w->c, r->place);
        if (r->kind == RW_FRAME_SETTINGS && rw_load32(&s->number) == r->stream &&
            s->ended != r->stream) {
            rw_settings_store(s, (const uint8_t *)(r + 1), r->payload_bytes);
            (void)RW_POINT("l.settings.published");
        }
    }
    w->settings_in = NULL;
}

void rw_wal_streams_publish(rw_wal *w)
{
    rw_control *c = w->c;
    publish_settings(w);
    uint64_t segment = (c->sealed_end - 1) / c->segment_bytes; /* of the block */
    if (c->numbers_end < w->numbers_end)
        rw_store32(&c->numbers_end, w->numbers_end);
    for (uint32_t i = 0; i < w->touched_count; i++) {
        const rw_wal_stream *p = &w->streams[w->touched[i]];
        rw_stream *s = rw_stream_of(c, w->touched[i]);
        /* its place is not given away before this block is written */
        RW_ASSERT(rw_load32(&s->number) == p->number && s->ended != p->number);
        RW_ASSERT(p->next_offset >= s->next_offset && p->trimmed_offset <= p->next_offset);
        if (p->next_offset > s->next_offset)
            rw_occupancy_note(&w->occupancy, segment, w->touched[i], p->number, p->next_offset);
        rw_store64(&s->composed_ns, p->composed_ns);
        rw_store64(&s->composed_bytes, p->composed_bytes);
        rw_store64(&s->next_offset, p->next_offset);
        if (s->trimmed_offset != p->trimmed_offset)
            rw_store64(&s->trimmed_offset, p->trimmed_offset);
        if (s->defined_end == 0 || s->defined_end > c->sealed_end)
            rw_store64(&s->defined_end, c->sealed_end);
        if (p->over)
            rw_store32(&s->ended, p->number); /* last: a successor passes over the stream then */
    }
    w->touched_count = 0;
}

/* ------------------------------------------------------------------------------------- snapshot */

static void fill_row(const rw_wal_stream *p, rw_checkpoint_stream *row)
{
    row->number = p->number;
    row->state = RW_STREAM_OPEN;
    row->next_offset = p->next_offset;
    row->start_offset = p->trimmed_offset;
    row->payload_bytes = p->composed_bytes;
    row->timestamp_ns = p->composed_ns;
}

/* Name and settings. False if a stream has gone since, and its place to another. PAIR: place */
static bool fill_words(const rw_wal *w, rw_checkpoint_stream *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const rw_stream *s = rw_stream_of(w->c, w->row_places[i]);
        rows[i].name_bytes = (uint16_t)rw_load32(&s->name_bytes);
        memcpy(rows[i].name, s->name, RW_STREAM_NAME_MAX);
        rw_settings_copy(s, rows[i].settings);
        rw_fence_acquire();
        if (rw_peek32(&s->number) != rows[i].number)
            return false;
    }
    return true;
}

static int by_number(const void *a, const void *b)
{
    const rw_checkpoint_stream *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void sort_rows(rw_checkpoint_stream *rows, uint32_t count)
{
    uint32_t i = 1;
    while (i < count && rows[i - 1].number < rows[i].number)
        i++;
    if (i < count) /* places were used again */
        qsort(rows, count, sizeof *rows, by_number);
}

void rw_wal_take_snapshot(rw_wal *w, rw_checkpoint_stream *rows, rw_checkpoint_owner *owners,
                          rw_wal_snapshot *out)
{
    do {
        compose_lock(w);
        *out = (rw_wal_snapshot){
            .position = w->c->sealed_end,
            .block_number = w->c->sealed,
            .timestamp_ns = w->last_timestamp_ns,
            .next_number = w->numbers_end,
            .owners = rw_wal_owners_copy(w, owners),
            .owners_end = w->owners_end,
        };
        w->snapshot = true;
        /* Appends wait for this copy and no longer: rows are three times as large, and each is a
         * miss of the processor's caches. */
        uint32_t places = rw_load32(&w->c->stream_count);
        memcpy(w->taken, w->streams, places * sizeof *w->taken);
        compose_unlock(w);
        for (uint32_t place = 0; place < places; place++) {
            const rw_wal_stream *p = &w->taken[place];
            if (!p->defined || p->over)
                continue;
            w->row_places[out->count] = place;
            fill_row(p, &rows[out->count++]);
        }
        /* Names do not change, and settings wait for the end of this. Each try again takes
         * somebody who deletes one stream and makes another one meanwhile. */
    } while (!fill_words(w, rows, out->count));
    compose_lock(w);
    w->snapshot = false;
    compose_unlock(w);
    rw_signal_fd(w->inner_fd); /* settings may have come in between */
    sort_rows(rows, out->count);
    rw_owners_sort(owners, out->owners);
}
