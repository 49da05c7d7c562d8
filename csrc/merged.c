#include "merged.h"

#include "stream.h"

uint64_t rw_merged_look(const rw_control *c, rw_merged *m)
{
    uint64_t end = rw_log_disk_end(c); /* first: see merged.h */
    rw_fence_acquire();
    for (uint32_t i = 0; i < m->count; i++) {
        rw_want *want = &m->wants[i];
        rw_stream_bounds now;
        want->deleted = rw_stream_look(c, rw_handle(want->place, want->stream), &now) != RW_OK;
        if (want->deleted)
            continue;
        want->start_offset = now.start_offset;
        want->confirmed_offset = now.confirmed_offset;
    }
    return end;
}

/* The want of that stream, or `count`. */
static uint32_t find(const rw_merged *m, uint32_t stream)
{
    uint32_t low = 0, high = m->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (m->wants[middle].stream < stream)
            low = middle + 1;
        else
            high = middle;
    }
    return low < m->count && m->wants[low].stream == stream ? low : m->count;
}

static bool choose(const rw_frame *r, rw_walk *s, void *into)
{
    rw_merged *m = into;
    uint32_t at = find(m, r->stream);
    if (at == m->count)
        return false;
    m->at = at;
    s->next_offset = m->wants[at].next_offset;
    return true;
}

static int collect(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into)
{
    rw_merged *m = into;
    uint32_t i = m->slices.count;
    int stop = rw_collect_frame(frame, r, s, &m->slices);
    uint64_t offset = m->wants[m->at].next_offset;
    for (; i < m->slices.count; i++) {
        m->offset[i] = offset++;
        m->want[i] = m->at;
    }
    m->wants[m->at].next_offset = offset;
    return stop;
}

int rw_merged_collect(const rw_area *area, rw_walk *s, rw_merged *m)
{
    m->slices.count = m->slices.timed = 0;
    m->slices.base = area->base;
    s->below = UINT64_MAX;
    return rw_walk_chosen(area, s, choose, collect, m);
}
