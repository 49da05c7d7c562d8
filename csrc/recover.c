#include "recover.h"

#include "block.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

rw_recovery *rw_recovery_open(const uint8_t uuid[16], uint64_t epoch, uint64_t begin,
                              uint64_t segment_bytes)
{
    rw_recovery *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    memcpy(s->uuid, uuid, sizeof s->uuid);
    s->epoch = epoch;
    s->segment_bytes = segment_bytes;
    s->position = s->valid_end = s->taken_end = begin;
    s->wanted = RW_PAGE;
    return s;
}

void rw_recovery_close(rw_recovery *s)
{
    if (s != NULL) {
        free(s->streams);
        free(s->index);
        free(s->owners);
    }
    free(s);
}

void rw_recovery_cut(rw_recovery *s)
{
    s->pass = RW_RECOVERY_TAIL;
    s->finding = RW_RECOVERY_NOTHING;
    s->wanted = RW_PAGE;
    for (uint32_t i = 0; i < s->stream_end; i++) {
        s->streams[i].cut_offset = s->streams[i].next_offset;
        s->streams[i].cut_state = s->streams[i].state;
    }
    rw_recovery_owners_cut(s);
}

void rw_recovery_carry(rw_recovery *s, uint64_t cut)
{
    s->pass = RW_RECOVERY_CARRY;
    s->position = cut;
    s->wanted = RW_PAGE;
    s->resume = 0;
    for (uint32_t i = 0; i < s->stream_end; i++) {
        s->streams[i].next_offset = s->streams[i].cut_offset;
        s->streams[i].state = s->streams[i].cut_state;
    }
    rw_recovery_owners_carry(s);
}

static uint64_t segment_end(const rw_recovery *s, uint64_t position)
{
    return (position / s->segment_bytes + 1) * s->segment_bytes;
}

/* ------------------------------------------------------------------------------------ one frame */

enum verdict { KEEP, DROP, STOP };

static enum verdict stop(rw_recovery *s, uint32_t finding, uint32_t stream)
{
    s->finding = finding;
    s->finding_stream = stream;
    return STOP;
}

static uint64_t read_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static int trim_to(rw_recovery_stream *t, uint64_t offset)
{
    if (offset > t->next_offset)
        return RW_BAD;
    if (offset > t->start_offset)
        t->start_offset = offset;
    return RW_OK;
}

/* A stream begins with the block that defines it, at offset 0. A definition is carried over with
 * the first frames. */
static enum verdict take_definition(rw_recovery *s, const rw_frame *r, const uint8_t *name)
{
    bool prefix = s->pass == RW_RECOVERY_PREFIX;
    rw_recovery_stream *t = rw_recovery_find(s, r->stream);
    if ((t == NULL || t->state == RW_RECOVERY_STREAM_UNKNOWN) && r->base_offset != 0)
        return prefix ? stop(s, RW_RECOVERY_GAP, r->stream) : DROP;
    if (t == NULL) {
        if ((t = rw_recovery_add(s, r->stream)) == NULL)
            return stop(s, RW_RECOVERY_NO_MEMORY, r->stream);
        t->name_bytes = r->payload_bytes;
        memcpy(t->name, name, r->payload_bytes);
    }
    if (t->state == RW_RECOVERY_STREAM_DELETED)
        return stop(s, RW_RECOVERY_DELETED, r->stream);
    if (t->name_bytes != r->payload_bytes || memcmp(t->name, name, r->payload_bytes) != 0)
        return stop(s, RW_RECOVERY_RENAMED, r->stream);
    if (prefix && r->base_offset != t->next_offset)
        return stop(s, r->base_offset > t->next_offset ? RW_RECOVERY_GAP : RW_RECOVERY_REPEAT,
                    r->stream);
    if (t->state != RW_RECOVERY_STREAM_UNKNOWN)
        return DROP;
    t->state = RW_RECOVERY_STREAM_DEFINED;
    if (r->stream >= s->next_number)
        s->next_number = r->stream + 1;
    return KEEP;
}

/* Will this frame be carried over? */
static bool is_next(const rw_recovery *s, const rw_frame *r)
{
    const rw_recovery_stream *t = rw_recovery_find(s, r->stream);
    if (r->kind == RW_FRAME_STREAM)
        return t != NULL && t->state == RW_RECOVERY_STREAM_UNKNOWN && r->base_offset == 0;
    return rw_frame_queued(r->kind) && t != NULL && t->state == RW_RECOVERY_STREAM_DEFINED &&
           r->base_offset == t->next_offset;
}

/* True also of what has no owner. */
static bool follows_owner(rw_recovery *s, const rw_frame *r)
{
    if (r->kind == RW_FRAME_COMMIT)
        return rw_recovery_commit_follows(s, r);
    return r->kind != RW_FRAME_BATCH || r->producer_id == 0 || rw_recovery_owner_follows(s, r);
}

/* A frame of a stream's queue: a batch, or a trim, a delete, settings. */
static enum verdict take_queued(rw_recovery *s, const rw_frame *r, const uint8_t *payload)
{
    bool prefix = s->pass == RW_RECOVERY_PREFIX;
    rw_recovery_stream *t = rw_recovery_find(s, r->stream);
    if (t == NULL || t->state == RW_RECOVERY_STREAM_UNKNOWN)
        return prefix ? stop(s, RW_RECOVERY_UNKNOWN, r->stream) : DROP;
    if (t->state == RW_RECOVERY_STREAM_DELETED)
        return stop(s, RW_RECOVERY_DELETED, r->stream);
    if (r->base_offset < t->next_offset)
        return stop(s, RW_RECOVERY_REPEAT, r->stream);
    if (r->base_offset > t->next_offset) {
        if (prefix)
            return stop(s, RW_RECOVERY_GAP, r->stream);
        t->state = RW_RECOVERY_STREAM_BROKEN;
    }
    /* The claim or commit that it follows is lost: none of them was confirmed, all are in the
     * stream's queue. */
    if (t->state != RW_RECOVERY_STREAM_BROKEN && !follows_owner(s, r)) {
        if (prefix)
            return stop(s, RW_RECOVERY_OWNER, r->stream);
        t->state = RW_RECOVERY_STREAM_BROKEN;
    }
    if (t->state == RW_RECOVERY_STREAM_BROKEN)
        return DROP;
    if (r->kind == RW_FRAME_TRIM && trim_to(t, read_u64(payload)) != RW_OK)
        return stop(s, RW_RECOVERY_TRIM, r->stream);
    if (r->kind == RW_FRAME_SETTINGS) { /* checked with its block: never longer */
        memset(t->settings, 0, sizeof t->settings);
        memcpy(t->settings, payload, r->payload_bytes);
    }
    if (r->kind == RW_FRAME_COMMIT) {
        uint64_t offset = read_u64(payload);
        if (offset != RW_FORGET && offset > t->next_offset)
            return stop(s, RW_RECOVERY_OWNER, r->stream);
        rw_recovery_commit(s, r, offset);
    }
    if (r->kind == RW_FRAME_CLAIM && rw_recovery_claim(s, r, payload) != RW_OK)
        return stop(s, RW_RECOVERY_NO_MEMORY, r->stream);
    if (r->kind == RW_FRAME_DELETE) {
        rw_recovery_owners_of_deleted(s, r->stream);
        t->state = RW_RECOVERY_STREAM_DELETED;
    }
    t->next_offset += r->count;
    return KEEP;
}

/* What the engine itself drops counts once everything before it is confirmed: not beyond a cut. */
static enum verdict take_drop(rw_recovery *s, const rw_frame *r, const uint8_t *payload)
{
    if (s->pass != RW_RECOVERY_PREFIX)
        return DROP;
    for (uint32_t at = 0; at < r->payload_bytes; at += sizeof(rw_drop_row)) {
        rw_drop_row row;
        memcpy(&row, payload + at, sizeof row);
        rw_recovery_stream *t = rw_recovery_find(s, row.stream);
        if (t == NULL || t->state != RW_RECOVERY_STREAM_DEFINED)
            return stop(s, RW_RECOVERY_UNKNOWN, row.stream);
        if (trim_to(t, row.start_offset) != RW_OK)
            return stop(s, RW_RECOVERY_TRIM, row.stream);
    }
    return DROP;
}

static enum verdict take_frame(rw_recovery *s, const rw_frame *r, const uint8_t *payload)
{
    if (r->kind == RW_FRAME_STREAM)
        return take_definition(s, r, payload);
    if (r->kind == RW_FRAME_DROP)
        return take_drop(s, r, payload);
    /* a VERDICT has nobody to go to */
    return rw_frame_queued(r->kind) ? take_queued(s, r, payload) : DROP;
}

static void count_frame(rw_recovery *s, const rw_frame *r, enum verdict v)
{
    if (v == KEEP && s->pass != RW_RECOVERY_CARRY && r->kind == RW_FRAME_BATCH) {
        rw_recovery_stream *t = rw_recovery_find(s, r->stream);
        t->payload_bytes += r->payload_bytes;
        t->timestamp_ns = r->timestamp_ns > t->timestamp_ns ? r->timestamp_ns : t->timestamp_ns;
    }
    if (s->pass == RW_RECOVERY_PREFIX) {
        s->records += r->count;
    } else if (s->pass == RW_RECOVERY_TAIL && v == KEEP) {
        uint64_t frame = rw_frame_bytes(r->payload_bytes);
        s->kept += r->count;
        if (frame > s->largest_frame)
            s->largest_frame = frame;
    } else if (s->pass == RW_RECOVERY_TAIL) {
        s->dropped += r->count;
    }
}

/* The request that brought the frame is gone with its lane, and places are dealt out anew: ticket,
 * number, slot, place name nothing any more. */
static void draft_frame(rw_draft *d, const rw_frame *r, const uint8_t *payload)
{
    rw_frame copy = {
        .kind = r->kind,
        .payload_bytes = r->payload_bytes,
        .count = r->count,
        .flags = r->flags,
        .stream = r->stream,
        .base_offset = r->base_offset,
        .timestamp_ns = r->timestamp_ns,
        .digest = r->digest,
        .producer_id = r->producer_id,
        .producer_sequence = r->producer_sequence,
        .producer_epoch = r->producer_epoch,
    };
    d->used += rw_frame_put(d->base + d->used, &copy, payload, d->seed);
    d->frames++;
}

/* ------------------------------------------------------------------------------------ one block */

/* Is this a block that the log has at this place? */
static bool placed(const rw_recovery *s, const rw_block *h)
{
    uint64_t end = segment_end(s, h->position);
    if (h->kind == RW_BLOCK_END) {
        if (h->length != RW_PAGE || h->frames != 0 || h->position + h->span != end)
            return false;
    } else if (h->span != h->length || h->position + h->length > end - RW_PAGE) {
        return false;
    }
    /* The EPOCH block lies before every checkpoint. */
    return h->kind == RW_BLOCK_DATA || h->kind == RW_BLOCK_END;
}

/* A joint append is of the log with all of its parts, or with none. What its frames take; 0: one of
 * the parts, of which the first is at `at`, does not go on where its stream is. */
static uint64_t joint_bytes(rw_recovery *s, const uint8_t *block, uint64_t at)
{
    uint64_t bytes = 0;
    rw_frame r;
    do {
        memcpy(&r, block + at + bytes, sizeof r);
        if (!is_next(s, &r) ||
            (r.kind == RW_FRAME_COMMIT && !rw_recovery_commit_follows(s, &r)))
            return 0;
        bytes += rw_frame_bytes(r.payload_bytes);
    } while (r.flags & RW_JOINED);
    return bytes;
}

/* Beyond the cut, a joint append that lost a part breaks the streams of all of them there. A part
 * that contradicts what was before it is found by its own frame. */
static void break_joint(rw_recovery *s, const uint8_t *block, uint64_t at)
{
    rw_frame r;
    do {
        memcpy(&r, block + at, sizeof r);
        at += rw_frame_bytes(r.payload_bytes);
        rw_recovery_stream *t = rw_recovery_find(s, r.stream);
        if (t != NULL && t->state == RW_RECOVERY_STREAM_DEFINED && r.base_offset >= t->next_offset)
            t->state = RW_RECOVERY_STREAM_BROKEN;
    } while (r.flags & RW_JOINED);
}

static int take_frames(rw_recovery *s, const rw_block *h, const uint8_t *block, rw_draft *draft)
{
    uint64_t at = s->resume ? s->resume : sizeof *h, joint_end = at;
    while (at < h->used) {
        rw_frame r;
        memcpy(&r, block + at, sizeof r);
        const uint8_t *payload = block + at + sizeof r;
        uint64_t frame = rw_frame_bytes(r.payload_bytes), whole = frame;
        if (at >= joint_end && r.flags & RW_JOINED && s->pass != RW_RECOVERY_PREFIX) {
            whole = joint_bytes(s, block, at);
            if (whole == 0)
                break_joint(s, block, at);
            else if (whole > s->largest_frame && s->pass == RW_RECOVERY_TAIL)
                s->largest_frame = whole;
            joint_end = at + whole;
        }
        s->resume = at; /* before the stream moves: RW_FULL repeats this frame, or all parts */
        if (s->pass == RW_RECOVERY_CARRY && draft->capacity - draft->used < whole && is_next(s, &r))
            return RW_FULL;
        enum verdict v = take_frame(s, &r, payload);
        if (v == STOP)
            return RW_BAD;
        if (rw_frame_queued(r.kind))
            count_frame(s, &r, v);
        if (s->pass == RW_RECOVERY_CARRY && v == KEEP)
            draft_frame(draft, &r, payload);
        at += frame;
    }
    s->resume = 0;
    return RW_OK;
}

static void count_block(rw_recovery *s, const rw_block *h)
{
    s->valid_end = s->taken_end = h->position + h->span;
    s->blocks++;
    s->bytes += h->length;
    if (h->timestamp_ns > s->timestamp_ns)
        s->timestamp_ns = h->timestamp_ns;
    if (s->in_hole)
        s->holes++;
    s->in_hole = 0;
}

static int take_block(rw_recovery *s, const rw_block *h, const uint8_t *block, rw_draft *draft)
{
    if (!placed(s, h)) {
        s->finding = RW_RECOVERY_MISPLACED;
        return RW_BAD;
    }
    int rc = take_frames(s, h, block, draft);
    if (rc != RW_OK)
        return rc;
    if (s->pass != RW_RECOVERY_CARRY)
        count_block(s, h);
    s->position += h->span;
    return RW_OK;
}

/* No valid block here. In the tail the walk goes on behind it: an intact header says where the next
 * block was put, otherwise the next page may hold one. */
static int pass_over(rw_recovery *s, uint64_t span, bool intact)
{
    if (s->pass == RW_RECOVERY_PREFIX) {
        s->finding = RW_RECOVERY_TORN;
        return RW_BAD;
    }
    if (s->pass == RW_RECOVERY_TAIL) {
        s->in_hole = 1;
        if (intact)
            s->taken_end = s->position + span;
    }
    s->position += span;
    return RW_OK;
}

/* A watermark counts even when the body is torn: the header is whole, and what it says was true
 * when written. */
static void note_watermark(rw_recovery *s, const rw_block *h)
{
    if (h->watermark > s->watermark) {
        s->watermark = h->watermark;
        s->watermark_at = h->position;
    }
}

int rw_recovery_step(rw_recovery *s, const uint8_t *window, uint64_t available, rw_draft *draft)
{
    const uint64_t begin = s->position, end = segment_end(s, begin);
    int rc = RW_OK;
    while (rc == RW_OK && s->position < end) {
        uint64_t left = begin + available - s->position;
        if (s->position - begin > available || left < RW_PAGE) {
            s->wanted = RW_PAGE;
            return RW_PENDING;
        }
        const uint8_t *place = window + (s->position - begin);
        if (rw_block_check(place, UINT64_MAX, s->uuid, s->epoch, s->position) != RW_OK) {
            rc = pass_over(s, RW_PAGE, false);
            continue;
        }
        rw_block h;
        memcpy(&h, place, sizeof h);
        bool crosses = h.length > end - s->position || h.span > end - s->position;
        if (!crosses && h.length > left) {
            s->wanted = h.length;
            return RW_PENDING;
        }
        note_watermark(s, &h);
        if (!crosses && s->resume == 0 && rw_block_verify(place) != RW_OK)
            rc = pass_over(s, h.span, true);
        else
            rc = take_block(s, &h, place, draft);
    }
    return rc;
}

/* ------------------------------------------------------------------------- blocks to be written */

void rw_draft_begin(rw_draft *d, uint8_t *base, uint64_t capacity, uint64_t epoch,
                    uint64_t position)
{
    *d = (rw_draft){
        .base = base,
        .capacity = capacity,
        .position = position,
        .epoch = epoch,
        .used = sizeof(rw_block),
        .seed = rw_frame_seed(epoch, position),
    };
}

uint64_t rw_draft_seal(rw_draft *d, const uint8_t uuid[16], const rw_block *like)
{
    rw_block h = *like;
    h.epoch = d->epoch;
    h.position = d->position;
    h.used = (uint32_t)d->used;
    h.frames = d->frames;
    return rw_block_seal(d->base, &h, uuid);
}
