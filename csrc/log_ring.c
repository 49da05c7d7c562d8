#include "log_ring.h"

#include "block.h"
#include "invariant.h"
#include "points.h"

void rw_log_ring_open(rw_log_ring *r, rw_control *c, uint8_t *ring)
{
    *r = (rw_log_ring){.c = c, .ring = ring};
    /* The drain may be at work and move both between the two loads; every block below either is
     * persisted, which is all that a prefix says, and the first advance makes them agree. */
    uint64_t released = rw_first_unreleased(c);
    r->prefix = released;
    r->prefix_end = rw_load64(&c->released_end);
    const rw_block_entry *e = rw_block_entry_of(c, c->sealed - 1);
    /* `sealed` alone decides. A predecessor killed inside seal may have moved sealed_end over a
     * block that never existed; a log that went on behind it would have a hole that no crash can
     * explain. */
    rw_store64(&c->sealed_end,
               c->sealed == c->block_seed ? c->position_seed : e->position + e->span);
    if (c->sealed == released)
        return; /* nothing is pending; the count may start anew */
    r->requests_sealed = e->requests;
    uint64_t at = sizeof(rw_block);
    rw_frame_info f;
    while (rw_block_frames(rw_log_ring_at(r, e->position), &at, &f, 1) == 1)
        r->requests_sealed += rw_frame_answers(f.kind);
}

void rw_log_ring_advance(rw_log_ring *r)
{
    for (; r->prefix < r->c->sealed; r->prefix++) {
        const rw_block_entry *e = rw_block_entry_of(r->c, r->prefix);
        RW_ASSERT(e->number == r->prefix);
        if (rw_load32(&e->state) != RW_BLOCK_PERSISTED) /* PAIR: block state */
            return;
        r->prefix_end = e->position + e->span;
    }
}

static uint64_t segment_left(const rw_log_ring *r)
{
    return r->c->segment_bytes - r->c->sealed_end % r->c->segment_bytes;
}

uint64_t rw_log_ring_segment_room(const rw_log_ring *r) { return segment_left(r) - RW_PAGE; }

/* Ring bytes behind sealed_end that hold nothing anybody still needs. PAIR: release */
static uint64_t ring_room(const rw_log_ring *r)
{
    uint64_t blocks = r->c->sealed - rw_load64_seq(&r->c->released);
    RW_ASSERT(blocks <= RW_BLOCK_ENTRIES);
    if (blocks == RW_BLOCK_ENTRIES)
        return 0;
    uint64_t used = r->c->sealed_end - rw_load64_seq(&r->c->released_end);
    RW_ASSERT(used <= r->c->ring_bytes);
    return r->c->ring_bytes - used;
}

static uint64_t requests_pending(const rw_log_ring *r)
{
    uint64_t released = rw_load64_seq(&r->c->released);
    if (released >= r->c->sealed)
        return 0;
    uint64_t pending = r->requests_sealed - rw_block_entry_of(r->c, released)->requests;
    RW_ASSERT(pending <= RW_PENDING_MAX);
    return pending;
}

static void open_block(rw_log_ring *r, uint64_t capacity)
{
    r->position = r->c->sealed_end;
    r->base = rw_log_ring_at(r, r->position);
    r->used = sizeof(rw_block);
    r->capacity = capacity;
    r->frames = r->requests = 0;
    r->seed = rw_frame_seed(r->c->epoch, r->position);
    if (r->position + capacity > r->c->reserve_end) {
        rw_store64_seq(&r->c->reserve_end, r->position + capacity); /* PAIR: reserve_end */
        rw_fence();
    }
}

int rw_log_ring_begin(rw_log_ring *r, uint64_t need, uint64_t target)
{
    uint64_t pages = rw_page_up(need), room = ring_room(r), segment = rw_log_ring_segment_room(r);
    if (pages > segment)
        return RW_TOO_LARGE;
    /* A block beyond the target size has one big request and less than a page of others; `most`
     * binds a writer that, once the block was opened for its big request, puts many small ones in
     * its place. */
    r->most = (uint32_t)(1 + (target + RW_PAGE) / sizeof(rw_frame));
    if (pages > room || requests_pending(r) + r->most > RW_PENDING_MAX)
        return RW_FULL;
    uint64_t capacity = pages > target ? pages : target;
    if (capacity > room)
        capacity = room;
    if (capacity > segment)
        capacity = segment;
    open_block(r, capacity & ~(uint64_t)(RW_PAGE - 1));
    return RW_OK;
}

int rw_log_ring_begin_end(rw_log_ring *r)
{
    if (segment_left(r) > ring_room(r))
        return RW_FULL;
    open_block(r, RW_PAGE);
    return RW_OK;
}

uint64_t rw_log_ring_seal(rw_log_ring *r, uint32_t kind, uint64_t span, uint64_t timestamp_ns)
{
    rw_control *c = r->c;
    uint64_t number = c->sealed, length = rw_page_up(r->used);
    RW_ASSERT(r->used <= r->capacity && r->position == c->sealed_end);
    span = span ? span : length;
    RW_ASSERT(span <= segment_left(r));
    const rw_block like = {
        .epoch = c->epoch,
        .position = r->position,
        .used = (uint32_t)r->used,
        .frames = r->frames,
        .kind = kind,
        .span = span,
        .watermark = r->prefix_end,
        .number = number,
        .timestamp_ns = timestamp_ns,
    };
    rw_block_seal(r->base, &like, c->uuid);
    RW_ASSERT_SLOW(rw_block_verify(r->base) == RW_OK);

    rw_block_entry *e = rw_block_entry_of(c, number);
    /* a reader of the entry's previous block must not mix the two */
    rw_store64_seq(&e->number, UINT64_MAX);
    rw_fence();
    rw_store64(&e->position, r->position);
    rw_store64(&e->span, span);
    rw_store64(&e->length, length);
    rw_store64(&e->requests, r->requests_sealed);
    rw_store32(&e->frames, r->frames);
    rw_store32(&e->state, RW_BLOCK_SEALED);
    rw_store64(&e->timestamp_ns, timestamp_ns);
    rw_store64(&e->number, number);
    (void)RW_POINT("l.seal.entry");

    r->requests_sealed += r->requests;
    rw_store64(&c->sealed_end, r->position + span);
    (void)RW_POINT("l.seal.end");
    rw_store64_seq(&c->sealed, number + 1); /* PAIR: seal */
    return number;
}
