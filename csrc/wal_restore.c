/* A successor of the WAL process: cursors and offsets from the sealed blocks, unfinished blocks
 * written again. */
#include "block.h"
#include "persisted.h"
#include "points.h"
#include "wait.h"
#include "wal_state.h"

#include <string.h>

static void restore_stream(rw_wal *w, const rw_frame *r)
{
    rw_wal_stream *p = rw_wal_living(w, r->place, r->stream);
    if (p == NULL)
        return; /* its DELETE is in this block, too, and all its words are told: stream.h, PLACES */
    const uint8_t *payload = (const uint8_t *)(r + 1);
    rw_wal_stream_defined(w, p);
    if (p->next_offset < r->base_offset + r->count) {
        p->next_offset = r->base_offset + r->count;
        /* once too often after a death between the two stores */
        p->composed_bytes += r->payload_bytes;
        if (p->composed_ns < r->timestamp_ns)
            p->composed_ns = r->timestamp_ns;
    }
    uint64_t before = 0;
    if (r->kind == RW_FRAME_TRIM)
        memcpy(&before, payload, sizeof before);
    if (p->trimmed_offset < before)
        p->trimmed_offset = before;
    p->over = r->kind == RW_FRAME_DELETE;
    rw_wal_stream_touch(w, p, RW_STAMP_RESTORED);
}

static void restore_drop(rw_wal *w, const rw_frame *r)
{
    const rw_drop_row *rows = (const rw_drop_row *)(r + 1);
    for (uint32_t i = 0; i < r->payload_bytes / sizeof *rows; i++)
        rw_drop_apply(w, &rows[i], RW_STAMP_RESTORED);
}

static void restore_cursor(rw_wal *w, const rw_frame *r)
{
    rw_lane_taker *e = &w->lanes[r->slot];
    if (e->lane == NULL || e->generation != rw_frame_generation(r))
        return;
    uint64_t payload = r->payload_bytes;
    if (r->kind == RW_FRAME_VERDICT)
        payload = ((const rw_verdict *)(r + 1))->request_bytes;
    uint64_t end = r->ticket + rw_request_bytes(payload);
    if (e->cursor < end) {
        e->cursor = end;
        e->touched = 1;
        e->taken++;
    }
}

static uint64_t committed_at(const rw_frame *r)
{
    uint64_t offset;
    memcpy(&offset, r + 1, sizeof offset);
    return offset;
}

/* Has it what forgets the owner that it claims there: the DELETE of its stream, or a COMMIT that
 * says so? */
static bool forgets(uint8_t *block, const rw_frame *claim)
{
    rw_frames frames = rw_frames_of(block, ((const rw_block *)block)->frames);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;)
        if ((r->kind == RW_FRAME_DELETE && r->stream == claim->stream) ||
            (r->kind == RW_FRAME_COMMIT && r->producer_id == claim->producer_id &&
             committed_at(r) == RW_FORGET))
            return true;
    return false;
}

/* The last sealed block is the only one whose lane heads and stream offsets may not have been
 * stored. Storing them again from its tickets and offsets does no harm if they were. */
static void restore_last_block(rw_wal *w, uint8_t *block)
{
    rw_frames frames = rw_frames_of(block, ((const rw_block *)block)->frames);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        if (r->kind == RW_FRAME_BATCH && r->producer_id != 0)
            rw_wal_owner_appended(w, r);
        if (r->kind == RW_FRAME_CLAIM)
            rw_wal_owner_claimed(w, r, (const uint8_t *)(r + 1), forgets(block, r));
        if (r->kind == RW_FRAME_COMMIT)
            rw_wal_owner_committed(w, r, committed_at(r));
        if (r->kind == RW_FRAME_DELETE)
            rw_wal_owners_of_deleted(w, r->stream);
        if (rw_frame_queued(r->kind) || r->kind == RW_FRAME_STREAM)
            restore_stream(w, r);
        if (r->kind == RW_FRAME_DROP)
            restore_drop(w, r);
        if (r->kind == RW_FRAME_SETTINGS)
            w->settings_in = block;
        if (rw_frame_answers(r->kind))
            restore_cursor(w, r);
    }
    rw_publish_block(w);
}

static int sound(const rw_wal *w, const rw_block_entry *e, uint64_t number)
{
    const rw_control *c = w->c;
    const uint8_t *block = rw_log_ring_at(&w->ring, e->position);
    if (e->number != number || e->length > c->ring_bytes ||
        rw_block_check(block, e->length, c->uuid, c->epoch, e->position) != RW_OK)
        return RW_BAD;
    return rw_block_verify(block);
}

int rw_wal_restore(rw_wal *w)
{
    rw_control *c = w->c;
    int unfinished = 0;
    uint64_t released = rw_first_unreleased(c); /* the drain may be moving it */
    for (uint64_t n = released; n < c->sealed; n++) {
        const rw_block_entry *e = rw_block_entry_of(c, n);
        if (e->state == RW_BLOCK_BAD || sound(w, e, n) != RW_OK)
            return RW_BAD;
        unfinished += e->state == RW_BLOCK_SEALED;
    }
    /* A released block was published, and its bytes may be under what the predecessor was
     * composing. */
    if (c->sealed > released) {
        const rw_block_entry *last = rw_block_entry_of(c, c->sealed - 1);
        if (sound(w, last, c->sealed - 1) != RW_OK)
            return RW_BAD;
        restore_last_block(w, rw_log_ring_at(&w->ring, last->position));
    }
    (void)RW_POINT("l.restore.post");
    return unfinished;
}

/* A persisted byte that is 1 says that the write of its block has completed, and records of it may
 * have been confirmed on the strength of that. To write such a block again would put them at risk:
 * the second write may fail or tear. */
static bool write_completed(uint8_t *block)
{
    rw_frames frames = rw_frames_of(block, ((const rw_block *)block)->frames);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;)
        if (rw_is_persisted(r))
            return true;
    return false;
}

int rw_wal_rewrite(rw_wal *w)
{
    rw_control *c = w->c;
    for (uint64_t n = rw_first_unreleased(c); n < c->sealed; n++) {
        const rw_block_entry *e = rw_block_entry_of(c, n);
        if (e->state != RW_BLOCK_SEALED)
            continue;
        uint8_t *block = rw_log_ring_at(&w->ring, e->position);
        if (write_completed(block)) {
            rw_mark_persisted(w, n, block);
            continue;
        }
        rw_block_job job = {
            .block = block,
            .number = n,
            .length = e->length,
            .file_offset = RW_PAGE + e->position % c->segment_bytes,
            .fd = rw_wal_segment_fd(w, e->position / c->segment_bytes, 0), /* no threads yet */
        };
        rw_count64(&c->wal_rewrites, 1);
        int rc = rw_write_job(w, &job);
        if (rc != RW_OK)
            return rc;
        (void)RW_POINT("l.rewrite.mid");
    }
    /* it may sleep on blocks that the predecessor persisted and did not live to tell it about */
    rw_tell_drain(w);
    return RW_OK;
}
