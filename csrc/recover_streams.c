/* The table of streams of a recovery: by number, in open addressing over entries that stand in the
 * order in which they were met. */
#include "recover.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_PLACES 64u /* a power of two; at most half of the places are taken */

static uint32_t home_of(const rw_recovery *s, uint32_t number)
{
    return number * 2654435769u & (s->places - 1); /* numbers are given out one after the other */
}

/* The place of that number, or the free one where it goes. */
static uint32_t place_of(const rw_recovery *s, uint32_t number)
{
    uint32_t i = home_of(s, number);
    while (s->index[i] != 0 && s->streams[s->index[i] - 1].number != number)
        i = (i + 1) & (s->places - 1);
    return i;
}

static bool grow(rw_recovery *s)
{
    uint32_t places = s->places ? 2 * s->places : FIRST_PLACES;
    rw_recovery_stream *streams = realloc(s->streams, places / 2 * sizeof *streams);
    if (streams != NULL)
        s->streams = streams;
    uint32_t *index = calloc(places, sizeof *index);
    if (streams == NULL || index == NULL) {
        free(index);
        return false;
    }
    free(s->index);
    s->index = index;
    s->places = places;
    for (uint32_t i = 0; i < s->stream_end; i++)
        s->index[place_of(s, s->streams[i].number)] = i + 1;
    return true;
}

rw_recovery_stream *rw_recovery_find(const rw_recovery *s, uint32_t number)
{
    uint32_t at = s->places ? s->index[place_of(s, number)] : 0;
    return at ? &s->streams[at - 1] : NULL;
}

rw_recovery_stream *rw_recovery_add(rw_recovery *s, uint32_t number)
{
    if (2 * s->stream_end >= s->places && !grow(s))
        return NULL;
    rw_recovery_stream *t = &s->streams[s->stream_end];
    *t = (rw_recovery_stream){.number = number};
    s->index[place_of(s, number)] = ++s->stream_end;
    return t;
}

static bool lives(const rw_recovery_stream *t)
{
    return t->state == RW_RECOVERY_STREAM_DEFINED || t->state == RW_RECOVERY_STREAM_BROKEN;
}

uint32_t rw_recovery_living(const rw_recovery *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->stream_end; i++)
        count += lives(&s->streams[i]);
    return count;
}

int rw_recovery_seed(rw_recovery *s, const rw_checkpoint_stream *rows, uint32_t count,
                     uint32_t next_number)
{
    s->next_number = next_number;
    for (uint32_t i = 0; i < count; i++) {
        rw_checkpoint_stream r;
        memcpy(&r, rows + i, sizeof r); /* the caller's bytes need not be aligned */
        rw_recovery_stream *t = rw_recovery_find(s, r.number);
        if (t == NULL && (t = rw_recovery_add(s, r.number)) == NULL)
            return RW_FULL;
        t->state = t->cut_state = RW_RECOVERY_STREAM_DEFINED;
        t->next_offset = t->cut_offset = r.next_offset;
        t->start_offset = r.start_offset;
        t->payload_bytes = r.payload_bytes;
        t->timestamp_ns = r.timestamp_ns;
        t->name_bytes = r.name_bytes <= RW_STREAM_NAME_MAX ? r.name_bytes : RW_STREAM_NAME_MAX;
        memcpy(t->name, r.name, t->name_bytes);
        memcpy(t->settings, r.settings, sizeof t->settings);
    }
    return RW_OK;
}

static int by_number(const void *a, const void *b)
{
    const rw_checkpoint_stream *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

uint32_t rw_recovery_rows(const rw_recovery *s, rw_checkpoint_stream *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->stream_end; i++) {
        const rw_recovery_stream *t = &s->streams[i];
        if (!lives(t))
            continue;
        rw_checkpoint_stream *r = &rows[count++];
        *r = (rw_checkpoint_stream){
            .number = t->number,
            .state = RW_STREAM_OPEN,
            .name_bytes = (uint16_t)t->name_bytes,
            .next_offset = t->next_offset,
            .start_offset = t->start_offset,
            .payload_bytes = t->payload_bytes,
            .timestamp_ns = t->timestamp_ns,
        };
        memcpy(r->name, t->name, t->name_bytes);
        memcpy(r->settings, t->settings, sizeof r->settings);
    }
    qsort(rows, count, sizeof *rows, by_number);
    return count;
}

const rw_recovery_stream *rw_recovery_stream_of(const rw_recovery *s, uint32_t i)
{
    return &s->streams[i];
}
