#define _GNU_SOURCE
#include "sequencer_state.h"

#include "atomics.h"
#include "block.h"
#include "contention.h"
#include "invariant.h"
#include "log_ring.h"
#include "memory.h"
#include "persisted.h"
#include "points.h"
#include "stream.h"
#include "wait.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NONE UINT32_MAX

rw_sequencer *rw_sequencer_open(rw_control *c, uint8_t *ring, int inner_fd)
{
    rw_sequencer *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    *s = (rw_sequencer){.c = c, .ring = ring, .inner_fd = inner_fd};
    s->queues = malloc(c->max_streams * sizeof *s->queues);
    s->advanced = calloc(c->max_streams, sizeof *s->advanced);
    s->behind = calloc(c->max_streams, sizeof *s->behind);
    s->is_behind = calloc(c->max_streams, sizeof *s->is_behind);
    s->entries = malloc(RW_PENDING_MAX * sizeof *s->entries);
    s->blocks = calloc(RW_BLOCK_ENTRIES, sizeof *s->blocks);
    s->clients = calloc(c->max_clients, sizeof *s->clients);
    s->dirty = calloc(c->max_clients, sizeof *s->dirty);
    if (!rw_callers_open(&s->callers, c) || !s->queues || !s->advanced || !s->behind ||
        !s->is_behind || !s->entries || !s->blocks || !s->clients || !s->dirty) {
        rw_sequencer_close(s);
        return NULL;
    }
    for (uint32_t i = 0; i < c->max_streams; i++)
        s->queues[i] = (queue){NONE, NONE};
    rw_prefault(ring, 2 * c->ring_bytes, 0);
    uint64_t first = rw_first_unreleased(c);
    rw_store64_seq(&c->released, first);
    s->registered = s->incomplete = first;
    if (rw_load32_seq(&c->starved) !=
        0) /* a predecessor may have released and not lived to ring. PAIR: release */
        rw_signal_fd(inner_fd);
    s->membership_seen = rw_load32(&c->membership) - 1;
    rw_store32(&c->drain_pid, (uint32_t)getpid());
    rw_store32(&c->drain_parked, 0);
    return s;
}

void rw_sequencer_close(rw_sequencer *s)
{
    if (s == NULL)
        return;
    free(s->queues);
    free(s->advanced);
    free(s->behind);
    free(s->is_behind);
    free(s->entries);
    free(s->blocks);
    free(s->clients);
    free(s->dirty);
    rw_callers_close(&s->callers);
    free(s);
}

static uint8_t *at(const rw_sequencer *s, uint64_t position)
{
    return s->ring + rw_ring_place(s->c, position);
}
static rw_frames frames_of(const rw_sequencer *s, const rw_block_entry *b)
{
    return rw_frames_of(at(s, b->position), b->frames);
}
static uint64_t position_of(const rw_sequencer *s, const rw_block_entry *b, const rw_frame *r)
{
    return b->position + (uint64_t)((const uint8_t *)r - at(s, b->position));
}
static block_state *state_of(rw_sequencer *s, uint64_t block)
{
    return &s->blocks[block & (RW_BLOCK_ENTRIES - 1)];
}

/* -------------------------------------------------------------------------------------- confirm */

/* What its completion cell gets (layout.h). */
static uint64_t result_of(const rw_frame *r)
{
    const rw_verdict *v = (const rw_verdict *)(r + 1);
    if (r->kind != RW_FRAME_VERDICT)
        return r->base_offset;
    if (v->reason == RW_VERDICT_DEAD)
        return RW_DELETED_OFFSET;
    RW_ASSERT(v->reason < RW_ANSWERED - 1 && v->value < RW_ANSWER_VALUES);
    return (uint64_t)(RW_ANSWERED | v->reason) << RW_ANSWER_SHIFT | v->value;
}

/* The result of one request for its writer. PAIR: cell */
static void deliver(rw_sequencer *s, const rw_frame *r)
{
    client *cl = &s->clients[r->slot];
    if (cl->generation != rw_frame_generation(r))
        return; /* the writer is gone; its slot may belong to somebody else */
    rw_completion *cell =
        rw_completions_of(s->c, r->slot) + (r->number & (s->c->completions_per_client - 1));
    /* A predecessor may have delivered this request, or the next one of this cell; a client that
     * reads the cell again and again must not see the two change places. */
    if (rw_peek64(&cell->number) < r->number) {
        rw_store64(&cell->number, 0);
        rw_fence_release();
        rw_store64(&cell->offset, result_of(r));
        rw_store64(&cell->number, r->number);
    }
    if (!cl->dirty) {
        cl->dirty = 1;
        s->dirty[s->dirty_count++] = r->slot;
    }
}

static void raise_start(rw_stream *stream, uint64_t offset)
{
    RW_ASSERT(offset <= stream->confirmed_offset);
    if (offset > stream->start_offset)
        rw_store64(&stream->start_offset, offset);
}

static void apply_trim(rw_stream *stream, const rw_frame *r)
{
    uint64_t before;
    memcpy(&before, r + 1, sizeof before);
    raise_start(stream, before);
    (void)RW_POINT("d.trim.confirmed");
}

/* Its place may be another stream's from the last store on (stream.h, PLACES). */
static void apply_delete(rw_stream *stream, const rw_frame *r)
{
    raise_start(stream, stream->confirmed_offset);
    rw_store32_seq(&stream->deleted, r->stream);
    (void)RW_POINT("d.delete.confirmed");
}

static void apply_settings(rw_stream *stream, const rw_frame *r)
{
    rw_settings settings;
    memcpy(&settings, r + 1, RW_SETTINGS_HEAD);
    rw_store64(&stream->settings_confirmed, settings.version);
    (void)RW_POINT("d.settings.confirmed");
}

static void apply_batch(rw_sequencer *s, rw_stream *stream, const rw_frame *r)
{
    rw_store64(&stream->last_timestamp_ns, r->timestamp_ns);
    rw_store64(&stream->confirmed_bytes, stream->confirmed_bytes + r->payload_bytes);
    rw_store64(&stream->confirmed_offset, r->base_offset + r->count);
    rw_count64(&s->c->drain_confirmed_records, r->count);
}

static void confirm(rw_sequencer *s, const rw_frame *r)
{
    rw_stream *stream = rw_stream_of(s->c, r->place);
    /* offsets are dense, and confirmed in order; nothing comes behind a DELETE */
    RW_ASSERT(r->base_offset == stream->confirmed_offset && !rw_stream_over(stream, r->stream));
    if (r->kind == RW_FRAME_BATCH)
        apply_batch(s, stream, r);
    else if (r->kind == RW_FRAME_TRIM)
        apply_trim(stream, r);
    else if (r->kind == RW_FRAME_SETTINGS)
        apply_settings(stream, r);
    else if (r->kind == RW_FRAME_DELETE)
        apply_delete(stream, r);
    (void)RW_POINT("d.cursor.post");
    deliver(s, r);
    client *cl = &s->clients[r->slot];
    if (cl->generation == rw_frame_generation(r)) {
        RW_ASSERT(cl->outstanding != 0);
        cl->outstanding--;
        rw_count64(&rw_slot_of(s->c, r->slot)->confirmed, 1);
    }
    s->confirmed++;
}

/* The head of the stream's queue, which is persisted. */
static void confirm_head(rw_sequencer *s, uint32_t place)
{
    queue *q = &s->queues[place];
    const entry *e = &s->entries[q->head];
    block_state *b = state_of(s, e->block);
    (void)RW_POINT("d.cursor.pre");
    confirm(s, (const rw_frame *)at(s, e->position));
    RW_ASSERT(b->remaining != 0 && s->waiting != 0);
    b->remaining--;
    s->waiting--;
    q->head = e->next;
    if (q->head == NONE)
        q->tail = NONE;
}

static bool is_head(const rw_sequencer *s, const rw_frame *r, uint64_t position)
{
    uint32_t head = s->queues[r->place].head;
    return head != NONE && s->entries[head].position == position;
}

static const rw_frame *next_part(const rw_frame *r)
{
    return r->flags & RW_JOINED
               ? (const rw_frame *)((const uint8_t *)r + rw_frame_bytes(r->payload_bytes))
               : NULL;
}

/* May all parts be confirmed now? One that is no head either waits for a predecessor, whose pass
 * asks again, or was confirmed by a process before this one: then the others may, too. */
static bool joint_is_due(const rw_sequencer *s, const rw_frame *first, uint64_t position)
{
    for (const rw_frame *r = first; r != NULL; r = next_part(r)) {
        const rw_stream *stream = rw_stream_of(s->c, r->place);
        uint64_t there = position + (uint64_t)((const uint8_t *)r - (const uint8_t *)first);
        if (is_head(s, r, there) ? !rw_is_persisted(r)
                                 : !rw_stream_over(stream, r->stream) &&
                                       r->base_offset >= stream->confirmed_offset)
            return false;
    }
    return true;
}

/* All of its parts; their streams' queues, but that of `place`, are left to go on. */
static uint64_t confirm_joint(rw_sequencer *s, const rw_frame *first, uint64_t position,
                              uint32_t place)
{
    uint64_t run = 0;
    for (const rw_frame *r = first; r != NULL; r = next_part(r)) {
        if (!is_head(s, r, position + (uint64_t)((const uint8_t *)r - (const uint8_t *)first)))
            continue;
        confirm_head(s, r->place);
        (void)RW_POINT("d.part.confirmed");
        run++;
        if (r->place != place && !s->is_behind[r->place]) {
            s->is_behind[r->place] = 1;
            s->behind[s->behind_count++] = r->place;
        }
    }
    return run;
}

/* The run behind the head that is persisted. With confirm_order "log" it ends with the block that
 * is being completed: a block before the next one of this stream may still be out. */
static void advance_one(rw_sequencer *s, uint32_t place, uint64_t number)
{
    const queue *q = &s->queues[place];
    uint64_t run = 0;
    while (q->head != NONE) {
        const entry *e = &s->entries[q->head];
        const rw_frame *r = (const rw_frame *)at(s, e->position);
        if (!rw_is_persisted(r) || (s->c->confirm_order == 1 && e->block != (uint32_t)number))
            break;
        if (e->part == 0) {
            confirm_head(s, place);
            run++;
            continue;
        }
        uint64_t position = e->position - (e->part - 1);
        const rw_frame *first = (const rw_frame *)at(s, position);
        if (!joint_is_due(s, first, position))
            break;
        run += confirm_joint(s, first, position, place);
    }
    s->advanced[place] = s->step;
    rw_count64(&s->c->drain_passes, 1);
    if (run > s->c->drain_longest_run)
        rw_store64(&s->c->drain_longest_run, run);
}

/* One pass, and those of the streams whose heads were parts of what it confirmed: what stands
 * behind those may have been persisted long ago. */
static void advance(rw_sequencer *s, uint32_t place, uint64_t number)
{
    advance_one(s, place, number);
    while (s->behind_count != 0) {
        uint32_t next = s->behind[--s->behind_count];
        s->is_behind[next] = 0;
        advance_one(s, next, number);
    }
}

/* The persisted bytes of the block are set: move on every stream whose head it holds. */
static void complete(rw_sequencer *s, uint64_t number)
{
    const rw_block_entry *b = rw_block_entry_of(s->c, number);
    rw_frames frames = frames_of(s, b);
    RW_ASSERT(b->number == number && !state_of(s, number)->completed);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        if (!rw_frame_waits(r)) {
            if (r->kind == RW_FRAME_VERDICT)
                deliver(s, r);
            continue;
        }
        const queue *q = &s->queues[r->place];
        if (q->head != NONE && s->entries[q->head].position == position_of(s, b, r))
            advance(s, r->place, number);
        else if (r->base_offset >= rw_stream_of(s->c, r->place)->confirmed_offset)
            rw_count64(&s->c->drain_waited, 1);
    }
    state_of(s, number)->completed = 1;
}

/* ------------------------------------------------------------------------------------- register */

static void register_request(rw_sequencer *s, const rw_frame *r, uint64_t position, uint64_t block,
                             uint32_t part)
{
    client *cl = &s->clients[r->slot];
    const rw_stream *stream = rw_stream_of(s->c, r->place);
    if (rw_stream_over(stream, r->stream) || r->base_offset < stream->confirmed_offset) {
        deliver(s, r); /* confirmed by a predecessor of this process */
        return;
    }
    uint32_t i = (uint32_t)(s->requests++ & (RW_PENDING_MAX - 1));
    s->entries[i] =
        (entry){.position = position, .next = NONE, .block = (uint32_t)block, .part = part};
    queue *q = &s->queues[r->place];
    if (q->head == NONE)
        q->head = i;
    else
        s->entries[q->tail].next = i;
    q->tail = i;
    state_of(s, block)->remaining++;
    s->waiting++;
    RW_ASSERT(s->waiting <= RW_PENDING_MAX);
    (void)RW_POINT("d.register.mid");
    if (cl->generation == rw_frame_generation(r))
        cl->outstanding++;
}

/* RW_OK, or RW_MAINTENANCE before anything of the block is registered. */
static int register_block(rw_sequencer *s, uint64_t number)
{
    const rw_block_entry *b = rw_block_entry_of(s->c, number);
    rw_frames frames = frames_of(s, b);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;)
        if (rw_frame_answers(r->kind) && !rw_sequencer_knows(s, r->slot, rw_frame_generation(r)))
            return RW_MAINTENANCE;
    *state_of(s, number) = (block_state){0};
    frames = frames_of(s, b);
    const rw_frame *first = NULL;
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        if (first == NULL && r->flags & RW_JOINED)
            first = r;
        uint32_t part =
            first == NULL ? 0 : 1 + (uint32_t)((const uint8_t *)r - (const uint8_t *)first);
        if (rw_frame_waits(r))
            register_request(s, r, position_of(s, b, r), number, part);
        else if (r->kind == RW_FRAME_DROP)
            state_of(s, number)->drops = 1;
        if (!(r->flags & RW_JOINED))
            first = NULL;
    }
    return RW_OK;
}

/* -------------------------------------------------------------------------------------- release */

/* All before the block is confirmed by now. One that lay beyond a cut was never in force. */
static void apply_drops(rw_sequencer *s, const rw_block_entry *b)
{
    rw_frames frames = frames_of(s, b);
    for (const rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        const rw_drop_row *row = (const rw_drop_row *)(r + 1);
        if (r->kind != RW_FRAME_DROP)
            continue;
        for (uint32_t i = 0; i < r->payload_bytes / sizeof *row; i++) {
            rw_stream *stream = rw_stream_of(s->c, row[i].place);
            if (!rw_stream_over(stream, row[i].stream))
                raise_start(stream, row[i].start_offset);
        }
    }
    (void)RW_POINT("d.drop.released");
}

static int release(rw_sequencer *s)
{
    rw_control *c = s->c;
    uint64_t n = c->released, end = c->released_end;
    for (; n < s->registered && state_of(s, n)->completed && state_of(s, n)->remaining == 0; n++) {
        const rw_block_entry *b = rw_block_entry_of(c, n);
        end = b->position + b->span;
        if (state_of(s, n)->drops)
            apply_drops(s, b);
    }
    if (n == c->released)
        return 0;
    RW_ASSERT(end - c->released_end <= c->ring_bytes); /* and never back */
    (void)RW_POINT("d.release.pre");
    int moved = (int)(n - c->released);
    rw_store64_seq(&c->released_end, end);
    (void)RW_POINT("d.release.mid");
    rw_store64_seq(&c->released, n);
    (void)RW_POINT("d.release.post");
    if (rw_load32_seq(&c->starved) != 0) /* PAIR: release */
        rw_signal_fd(s->inner_fd);
    return moved;
}

/* ----------------------------------------------------------------------------------------- step */

/* Blocks that became persisted since the last look, in whatever order. */
static int complete_blocks(rw_sequencer *s)
{
    int completed = 0;
    for (uint64_t n = s->incomplete; n < s->registered; n++) {
        block_state *b = state_of(s, n);
        /* PAIR: block state */
        if (!b->completed && rw_load32(&rw_block_entry_of(s->c, n)->state) == RW_BLOCK_PERSISTED) {
            complete(s, n);
            completed++;
        }
        if (b->completed && n == s->incomplete)
            s->incomplete = n + 1;
        else if (!b->completed && s->c->confirm_order == 1)
            break;
    }
    return completed;
}

int rw_sequencer_step(rw_sequencer *s)
{
    rw_control *c = s->c;
    if (rw_load32_seq(&c->wal_error) != 0)
        return RW_IO;
    s->step++;
    s->confirmed = 0;
    int moved = 0;
    uint64_t sealed = rw_load64_seq(&c->sealed); /* PAIR: seal */
    for (; s->registered < sealed; s->registered++, moved++)
        if (register_block(s, s->registered) != RW_OK) {
            rw_sequencer_wake_writers(s); /* attaching a lane forgets who of it is dirty */
            return RW_MAINTENANCE;
        }
    moved += complete_blocks(s);
    int released = release(s);
    moved += released;
    if (s->confirmed != 0) {
        rw_count64(&c->drain_confirmed_requests, s->confirmed);
        rw_count64(&c->drain_batches, 1);
        rw_store64(&c->confirmed_ns, rw_now_ns());
    }
    if (s->confirmed != 0 || released != 0) {
        /* confirmed offsets, cells and released_end before the looks at the waiters' words */
        rw_fence();
        rw_sequencer_wake_tails(s);
    }
    rw_sequencer_wake_writers(s);
    return rw_sequencer_check_membership(s) == RW_OK ? moved : RW_MAINTENANCE;
}
