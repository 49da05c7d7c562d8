#include "occupancy.h"

#include <stdlib.h>
#include <string.h>

static bool get_rows(rw_occupancy_rows *r, uint32_t capacity)
{
    *r = (rw_occupancy_rows){.rows = calloc(capacity, sizeof *r->rows), .segment = UINT64_MAX};
    return r->rows != NULL;
}

int rw_occupancy_open(rw_occupancy *o, uint32_t places)
{
    /* A place that is used again within a segment takes a second row; with more of those than this
     * the segment is read. */
    uint32_t capacity = places + places / 4 + 64;
    *o = (rw_occupancy){.places = places, .capacity = capacity};
    o->row_of = calloc(places, sizeof *o->row_of);
    bool good = get_rows(&o->now, capacity);
    good = get_rows(&o->done, capacity) && good;
    good = get_rows(&o->fetched, capacity) && good && o->row_of != NULL;
    if (!good)
        rw_occupancy_close(o);
    return good ? RW_OK : RW_FULL;
}

void rw_occupancy_close(rw_occupancy *o)
{
    free(o->now.rows);
    free(o->done.rows);
    free(o->fetched.rows);
    free(o->row_of);
    *o = (rw_occupancy){.places = 0};
}

static void exchange(rw_occupancy_rows *a, rw_occupancy_rows *b)
{
    rw_occupancy_rows c = *a;
    *a = *b;
    *b = c;
}

void rw_occupancy_reach(rw_occupancy *o, uint64_t segment)
{
    if (segment == o->now.segment)
        return;
    bool first = o->now.segment == UINT64_MAX;
    exchange(&o->now, &o->done);
    o->now.segment = segment;
    o->now.count = 0;
    o->now.whole = !first;
}

void rw_occupancy_note(rw_occupancy *o, uint64_t segment, uint32_t place, uint32_t stream,
                       uint64_t end)
{
    rw_occupancy_reach(o, segment);
    uint32_t row = o->row_of[place];
    if (row >= o->now.count || o->now.rows[row].stream != stream) {
        if (o->now.count == o->capacity) {
            o->now.whole = false;
            return;
        }
        row = o->row_of[place] = o->now.count++;
        o->now.rows[row].stream = stream;
    }
    o->now.rows[row].end = end;
}

int rw_occupancy_fetch(rw_occupancy *o)
{
    if (!o->done.whole)
        return RW_PENDING;
    exchange(&o->done, &o->fetched);
    o->done.whole = false;
    return RW_OK;
}

/* --------------------------------------------------------------------------------- sorted rows */

static int compare(const void *a, const void *b)
{
    const rw_occupant *left = a, *right = b;
    return left->stream < right->stream ? -1 : left->stream > right->stream;
}

void rw_occupancy_sort(rw_occupant *rows, uint32_t count)
{
    qsort(rows, count, sizeof *rows, compare);
}

uint32_t rw_occupancy_fold(const rw_occupant *rows, uint32_t count, rw_index_entry *entries,
                           uint32_t entry_count, rw_occupant *out)
{
    uint32_t made = 0, i = 0, k = 0;
    rw_index_sort(entries, entry_count);
    while (i < count || k < entry_count) {
        if (k == entry_count || (i < count && rows[i].stream < entries[k].stream)) {
            out[made++] = rows[i++];
            continue;
        }
        rw_occupant row = {.stream = entries[k].stream};
        if (i < count && rows[i].stream == row.stream)
            row.end = rows[i++].end;
        for (; k < entry_count && entries[k].stream == row.stream; k++) {
            uint64_t end = entries[k].base_offset + entries[k].count;
            row.end = end > row.end ? end : row.end;
        }
        out[made++] = row;
    }
    return made;
}

uint32_t rw_occupancy_live(const rw_occupant *rows, uint32_t count,
                           const rw_checkpoint_stream *streams, uint32_t stream_count,
                           rw_occupant *out, uint32_t *reserved)
{
    uint32_t live = 0, k = 0;
    *reserved = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        while (k < stream_count && streams[k].number < rows[i].stream)
            k++;
        if (k == stream_count)
            break;
        if (streams[k].number != rows[i].stream || streams[k].start_offset >= rows[i].end)
            continue;
        if (streams[k].name[0] == '_')
            *reserved = rows[i].stream;
        out[live++] = rows[i];
    }
    return live;
}

bool rw_occupancy_trimmed(const rw_checkpoint_stream *streams, uint32_t count,
                          uint32_t next_number)
{
    bool trimmed = count < next_number;
    for (uint32_t i = 0; i < count && !trimmed; i++)
        trimmed = streams[i].start_offset != 0;
    return trimmed;
}
