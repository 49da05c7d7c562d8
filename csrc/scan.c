#include "scan.h"

#include "atomics.h"
#include "block.h"
#include "digest.h"
#include "stream.h"

#include <stdlib.h>
#include <string.h>

#define GO_ON RW_WALK_ON

/* --------------------------------------------------------------------------------- the log ring */

uint64_t rw_log_low(const rw_control *c)
{
    uint64_t reserved = rw_load64(&c->reserve_end); /* PAIR: reserve_end */
    uint64_t low = reserved > c->ring_bytes ? reserved - c->ring_bytes : 0;
    return low > c->position_seed ? low : c->position_seed;
}

int rw_log_holds(const rw_control *c, uint64_t position)
{
    rw_fence_acquire();
    return position >= rw_log_low(c);
}

uint64_t rw_log_disk_end(const rw_control *c)
{
    return rw_load64(&c->released_end); /* PAIR: release */
}

void rw_log_area(const rw_control *c, const uint8_t *ring, rw_area *out)
{
    *out = (rw_area){
        .base = ring,
        .mask = c->ring_bytes - 1,
        .end = rw_load64(&c->sealed_end), /* PAIR: seal */
    };
}

/* The place of a recent block; `number` is taken away first and stored last when the entry is used
 * anew. */
static int entry_position(const rw_control *c, uint64_t number, uint64_t *position)
{
    const rw_block_entry *e = rw_block_entry_of((rw_control *)c, number);
    if (rw_load64(&e->number) != number)
        return RW_OVERWRITTEN;
    *position = rw_load64(&e->position);
    rw_fence_acquire();
    return rw_peek64(&e->number) == number ? RW_OK : RW_OVERWRITTEN;
}

/* Offset of the first record of `stream` in the block, UINT64_MAX if there is none. No checksum is
 * taken: the answer is used only if rw_log_holds confirms that these were the bytes of a sealed
 * block. */
static uint64_t first_offset_in(const uint8_t *block, uint64_t available, uint32_t stream)
{
    rw_block h;
    memcpy(&h, block, sizeof h);
    uint64_t used = h.used < available ? h.used : available;
    uint64_t at = sizeof h;
    while (at + sizeof(rw_frame) <= used) {
        rw_frame r;
        memcpy(&r, block + at, sizeof r);
        if (r.kind == RW_FRAME_BATCH && r.stream == stream)
            return r.base_offset;
        at += rw_frame_bytes(r.payload_bytes);
    }
    return UINT64_MAX;
}

int rw_log_find(const rw_control *c, const uint8_t *ring, uint32_t stream, uint64_t offset,
                uint64_t *position)
{
    uint64_t sealed = rw_load64(&c->sealed); /* PAIR: seal */
    uint64_t oldest = sealed > RW_BLOCK_ENTRIES ? sealed - RW_BLOCK_ENTRIES : 0;
    if (oldest < c->block_seed)
        oldest = c->block_seed;
    for (uint64_t number = sealed; number-- > oldest;) {
        if (entry_position(c, number, position) != RW_OK)
            return RW_OVERWRITTEN;
        const uint8_t *block = ring + rw_ring_place(c, *position);
        uint64_t first = first_offset_in(block, c->ring_bytes, stream);
        if (!rw_log_holds(c, *position))
            return RW_OVERWRITTEN;
        if (first <= offset)
            return RW_OK;
    }
    return RW_OVERWRITTEN;
}

/* ------------------------------------------------------------------------------------- the walk */

/* Where the log byte at `position` lies, if `need` bytes from there on do; else NULL. */
static const uint8_t *at(const rw_area *area, uint64_t position, uint64_t need)
{
    if (position < area->origin || position >= area->end || area->end - position < need)
        return NULL;
    return area->base + ((position - area->origin) & area->mask);
}

/* The header of the block the walk stands in, copied and checked; *block is where it lies. */
static int enter_block(const rw_area *area, rw_walk *s, rw_block *h, const uint8_t **block)
{
    if (s->position >= area->end)
        return RW_WALK_END;
    s->need = RW_PAGE;
    if ((*block = at(area, s->position, s->need)) == NULL)
        return RW_WALK_SHORT;
    memcpy(h, *block, sizeof *h);
    if (rw_block_check((const uint8_t *)h, UINT64_MAX, s->uuid, s->epoch, s->position) != RW_OK)
        return RW_WALK_BAD;
    return GO_ON;
}

static void leave_frame(rw_walk *s, uint32_t payload_bytes)
{
    s->frame_at += rw_frame_bytes(payload_bytes);
    s->data_at = 0;
}

static void leave_block(rw_walk *s, uint64_t span)
{
    s->position += span;
    s->frame_at = s->data_at = s->used = 0;
}

static bool is_whole(const uint8_t *payload, const rw_frame *r)
{
    return r->digest == rw_xxh3(payload, r->payload_bytes) &&
           rw_batch_check(payload, r->payload_bytes, r->count, r->flags) == RW_OK;
}

/* Checks the payload, if that is still to be done, and moves data_at to the record wanted. */
static int prove(const uint8_t *payload, const rw_frame *r, rw_walk *s)
{
    uint32_t index = (uint32_t)(s->next_offset - r->base_offset);
    if (s->data_at != 0)
        return GO_ON;
    if (!is_whole(payload, r))
        return RW_WALK_BAD;
    uint64_t place = sizeof *r;
    if (r->count > 1) {
        place += 4ull * r->count;
        for (uint32_t i = 0; i < index; i++)
            place += rw_batch_length(payload, i);
    }
    s->data_at = place;
    return GO_ON;
}

/* The first own time of a call is stored behind as many as have none. */
static void note_time(rw_slices *out, uint64_t own_ns)
{
    if (out->timed == 0)
        memset(out->own_ns, 0xff, out->count * sizeof *out->own_ns);
    out->own_ns[out->count] = own_ns;
    out->timed += own_ns != RW_NO_TIME;
}

int rw_collect_frame(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into)
{
    rw_slices *out = into;
    uint32_t length;
    while (rw_walk_wants(r, s)) {
        if (rw_walk_record(frame, r, s, &length) != RW_OK)
            return RW_WALK_BAD;
        if (out->count == RW_SLICES || out->records_left == 0 ||
            (!out->must && length > out->bytes_left))
            return RW_WALK_FULL;
        uint64_t begin = (uint64_t)(frame - out->base) + s->data_at;
        out->begin[out->count] = begin;
        out->end[out->count] = begin + length;
        if ((r->flags & RW_OWN_TIMES) || out->timed != 0)
            note_time(out, rw_walk_time(frame, r, s));
        out->timestamp_ns[out->count++] = r->timestamp_ns;
        out->must = 0;
        out->records_left--;
        out->bytes_left -= length < out->bytes_left ? length : out->bytes_left;
        s->data_at += length;
        s->next_offset++;
    }
    return GO_ON;
}

/* All of the frame at s->frame_at that is wanted, if anything is; without `take` only its header.
 */
static int walk_frame(const rw_area *area, rw_walk *s, uint32_t seed, rw_choose *choose,
                      rw_take *take, void *into)
{
    uint64_t position = s->position + s->frame_at;
    s->need = sizeof(rw_frame);
    if (s->frame_at > s->used)
        return RW_WALK_BAD;
    const uint8_t *frame = at(area, position, s->need);
    if (frame == NULL)
        return RW_WALK_SHORT;
    rw_frame r;
    if (rw_frame_check(frame, s->used - s->frame_at, 0, seed, &r) != RW_OK)
        return RW_WALK_BAD;
    if (r.kind == RW_FRAME_BATCH &&
        (choose == NULL ? r.stream == s->stream : choose(&r, s, into)) &&
        r.base_offset + r.count > s->next_offset) {
        if (r.base_offset > s->next_offset)
            return RW_WALK_AHEAD;
        if (take == NULL) {
            memcpy(into, &r, sizeof r);
            return RW_WALK_DONE;
        }
        s->need = rw_frame_bytes(r.payload_bytes);
        if (at(area, position, s->need) == NULL)
            return RW_WALK_SHORT;
        if (prove(frame + sizeof r, &r, s) != GO_ON)
            return RW_WALK_BAD;
        int stop = take(frame, &r, s, into);
        if (stop != GO_ON)
            return stop;
        if (s->next_offset < r.base_offset + r.count)
            return RW_WALK_DONE; /* below lies inside the frame */
    }
    leave_frame(s, r.payload_bytes);
    return GO_ON;
}

/* The rest of the block where the walk stands. */
static int walk_block(const rw_area *area, rw_walk *s, rw_choose *choose, rw_take *take, void *into)
{
    if (s->frame_at == 0 || s->used == 0) {
        rw_block h;
        const uint8_t *block;
        int stop = enter_block(area, s, &h, &block);
        if (stop != GO_ON)
            return stop;
        s->used = h.used;
        s->span = h.span;
        if (s->frame_at == 0)
            s->frame_at = sizeof h;
    }
    uint32_t seed = rw_frame_seed(s->epoch, s->position);
    while (s->frame_at != s->used) {
        if (s->next_offset >= s->below)
            return RW_WALK_DONE;
        int stop = walk_frame(area, s, seed, choose, take, into);
        if (stop != GO_ON)
            return stop;
    }
    return GO_ON;
}

int rw_walk_chosen(const rw_area *area, rw_walk *s, rw_choose *choose, rw_take *take, void *into)
{
    while (s->next_offset < s->below) {
        int stop = walk_block(area, s, choose, take, into);
        if (stop != GO_ON)
            return stop;
        leave_block(s, s->span);
    }
    return RW_WALK_DONE;
}

int rw_walk_stream(const rw_area *area, rw_walk *s, rw_take *take, void *into)
{
    return rw_walk_chosen(area, s, NULL, take, into);
}

uint64_t rw_walk_goes_on(const uint8_t *block, uint64_t available, const rw_walk *s)
{
    rw_block h;
    if (rw_block_check(block, available, s->uuid, s->epoch, s->position) != RW_OK)
        return UINT64_MAX;
    memcpy(&h, block, sizeof h);
    uint32_t seed = rw_frame_seed(h.epoch, h.position);
    rw_frame r;
    for (uint64_t at = sizeof h; at != h.used; at += rw_frame_bytes(r.payload_bytes)) {
        if (rw_frame_check(block, h.used, at, seed, &r) != RW_OK)
            break;
        if (r.kind != RW_FRAME_BATCH || r.stream != s->stream ||
            r.base_offset + r.count <= s->next_offset)
            continue;
        if (is_whole(block + at + sizeof r, &r))
            return r.base_offset > s->next_offset ? r.base_offset : s->next_offset;
    }
    return UINT64_MAX;
}

int rw_walk_time_at(const rw_area *area, rw_walk *s, uint64_t *timestamp_ns)
{
    rw_frame r;
    int stop = rw_walk_frame_at(area, s, &r);
    if (stop == RW_WALK_DONE)
        *timestamp_ns = r.timestamp_ns;
    return stop;
}

int rw_walk_frame_at(const rw_area *area, rw_walk *s, rw_frame *header)
{
    return rw_walk_stream(area, s, NULL, header);
}

int rw_walk_collect(const rw_area *area, rw_walk *s, rw_slices *out)
{
    out->count = out->timed = 0;
    out->base = area->base;
    return rw_walk_stream(area, s, rw_collect_frame, out);
}

int rw_log_ring_next(const rw_control *c, const uint8_t *ring, rw_walk *walk, rw_walk *before,
                 rw_slices *out, uint32_t records, uint64_t bytes)
{
    rw_stream_bounds now;
    if (rw_stream_look(c, rw_handle(walk->place, walk->stream), &now) != RW_OK)
        return RW_WALK_SHORT;
    uint64_t below = now.confirmed_offset, first = walk->next_offset;
    if (first < now.start_offset || first >= below || below - first > RW_FEW ||
        below - first > records || walk->position < rw_log_low(c))
        return RW_WALK_SHORT;
    *before = *walk;
    walk->below = below;
    out->records_left = RW_FEW;
    out->bytes_left = bytes;
    out->must = 1;
    rw_area area;
    rw_log_area(c, ring, &area);
    if (rw_walk_collect(&area, walk, out) == RW_WALK_DONE && out->count != 0)
        return RW_WALK_DONE;
    *walk = *before;
    return RW_WALK_SHORT;
}

/* ------------------------------------------------------------------------------------ the index */

typedef struct index_writer {
    rw_index_entry *entries;
    uint32_t *count;
    /* by stream: 1 + place of its newest entry; may be stale, so the entry itself is asked */
    uint32_t *last;
    uint32_t streams;
} index_writer;

static void index_frame(index_writer *w, uint64_t position, const rw_frame *r)
{
    if (r->stream < w->streams && w->last[r->stream] - 1 < *w->count) { /* 0 wraps: none */
        rw_index_entry *e = &w->entries[w->last[r->stream] - 1];
        if (e->position == position && e->stream == r->stream) {
            e->count = (uint32_t)(r->base_offset + r->count - e->base_offset);
            return;
        }
    }
    w->entries[(*w->count)++] = (rw_index_entry){.base_offset = r->base_offset,
                                                 .position = position,
                                                 .stream = r->stream,
                                                 .count = r->count};
    if (r->stream < w->streams)
        w->last[r->stream] = *w->count;
}

/* Up to the first frame whose header is bad; are all of them good? */
static bool index_block(const uint8_t *block, const rw_block *h, index_writer *w)
{
    uint32_t seed = rw_frame_seed(h->epoch, h->position);
    uint64_t at = sizeof *h;
    for (uint32_t i = 0; i < h->frames; i++) {
        rw_frame r;
        if (rw_frame_check(block, h->used, at, seed, &r) != RW_OK)
            return false;
        if (r.kind == RW_FRAME_BATCH)
            index_frame(w, h->position, &r);
        at += rw_frame_bytes(r.payload_bytes);
    }
    return true;
}

int rw_walk_index(const rw_area *area, rw_walk *s, rw_index_entry *entries, uint32_t capacity,
                  uint32_t *count, uint32_t *last, uint32_t streams)
{
    index_writer w = {.entries = entries, .count = count, .last = last, .streams = streams};
    for (;;) {
        rw_block h;
        const uint8_t *block;
        s->frame_at = 0;
        int stop = enter_block(area, s, &h, &block);
        if (stop != GO_ON)
            return stop;
        s->need = h.length;
        if (at(area, s->position, s->need) == NULL)
            return RW_WALK_SHORT;
        s->need = h.frames;
        if (h.frames > capacity - *count)
            return RW_WALK_FULL;
        uint32_t before = *count;
        if (!index_block(block, &h, &w)) {
            /* all of a block or nothing: the walk may come here again with better bytes */
            *count = before;
            s->need = h.length;
            return RW_WALK_BAD;
        }
        leave_block(s, h.span);
    }
}

void rw_walk_index_part(const rw_area *area, const rw_walk *s, rw_index_entry *entries,
                        uint32_t capacity, uint32_t *count, uint32_t *last, uint32_t streams)
{
    index_writer w = {.entries = entries, .count = count, .last = last, .streams = streams};
    rw_walk there = *s;
    rw_block h;
    const uint8_t *block;
    if (enter_block(area, &there, &h, &block) == GO_ON && h.frames <= capacity - *count &&
        at(area, there.position, h.length) != NULL)
        index_block(block, &h, &w);
}

static int compare(const rw_index_entry *e, uint32_t stream, uint64_t offset)
{
    if (e->stream != stream)
        return e->stream < stream ? -1 : 1;
    return e->base_offset == offset ? 0 : e->base_offset < offset ? -1 : 1;
}

static int compare_entries(const void *a, const void *b)
{
    const rw_index_entry *right = b;
    return compare(a, right->stream, right->base_offset);
}

void rw_index_sort(rw_index_entry *entries, uint32_t count)
{
    qsort(entries, count, sizeof *entries, compare_entries);
}

uint32_t rw_index_before(const rw_index_entry *entries, uint32_t count, uint32_t stream,
                         uint64_t offset)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (compare(&entries[middle], stream, offset) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
