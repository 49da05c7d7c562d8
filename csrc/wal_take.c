/* Requests become frames of the open block: each is taken as it is, refused alone, or, where no
 * writer of ours wrote it, refused with its lane. Under the compose lock (wal.h).
 *
 * A joint append (layout_log.h) is taken whole or refused whole. So it is judged, and its copies
 * are checked, before the first of its streams moves; what is put into the block until then is
 * taken back by two stores. */
#include "block.h"
#include "digest.h"
#include "owners.h"
#include "points.h"
#include "settings.h"
#include "wal_state.h"

#include <string.h>

/* The lane holds what no writer of ours writes. It is never looked at again; its client finds out
 * from `fault`. */
static void refuse_lane(rw_wal *w, uint32_t k)
{
    w->lanes[k].active = 0;
    rw_tell_refused(w, k, w->lanes[k].generation);
}

/* The request at the cursor, checked. */
static bool read_request(const rw_wal *w, uint32_t k, rw_request *q)
{
    return rw_lane_peek(&w->lanes[k], w->c->max_record_bytes, q) == RW_OK &&
           q->place < w->c->max_streams;
}

/* What its frames take. It may be refused, and then a verdict stands for it. */
static uint64_t frames_of(rw_wal *w, const rw_request *q)
{
    const uint64_t verdict = rw_frame_bytes(sizeof(rw_verdict));
    const rw_wal_stream *p = rw_wal_living(w, q->place, q->stream);
    if (p == NULL)
        return verdict;
    uint64_t need = rw_frame_bytes(q->payload_bytes);
    if (need < verdict)
        need = verdict;
    if (!p->defined)
        need += rw_frame_bytes(rw_stream_of(w->c, q->place)->name_bytes);
    return need;
}

/* The other parts of the joint append whose first one is at the cursor. RW_FAULT: no writer of ours
 * put them there. What is checked here is copied, so a lane that changes later changes nothing. */
static int gather(rw_wal *w, uint32_t k, uint64_t *need)
{
    rw_lane_taker *e = &w->lanes[k];
    const uint64_t begin = e->cursor;
    uint64_t parts = rw_part_bytes(w->parts[0].payload_bytes);
    uint32_t n = 1;
    for (bool right = true; w->parts[n - 1].flags & RW_JOINED; n++) {
        rw_request *q = &w->parts[n];
        e->cursor += rw_request_bytes(q[-1].payload_bytes);
        right = n < RW_PARTS_MAX && rw_lane_ready(e) && read_request(w, k, q) &&
                rw_frame_joins(q->kind) && q->place > q[-1].place &&
                (q->kind == RW_FRAME_COMMIT || q->producer_id == 0);
        if (right) {
            parts += rw_part_bytes(q->payload_bytes);
            *need += frames_of(w, q);
        }
        if (!right || parts > rw_part_bytes(w->c->max_record_bytes)) {
            e->cursor = begin;
            return RW_FAULT;
        }
    }
    e->cursor = begin;
    w->part_count = n;
    return RW_OK;
}

int rw_wal_next_request(rw_wal *w, uint32_t k, uint64_t *need)
{
    rw_lane_taker *e = &w->lanes[k];
    rw_request *q = &w->parts[0];
    if (!e->active || !rw_lane_ready(e))
        return RW_PENDING;
    if (!read_request(w, k, q)) {
        refuse_lane(w, k);
        return RW_FAULT;
    }
    if (w->snapshot && q->kind == RW_FRAME_SETTINGS)
        return RW_PENDING;
    *need = frames_of(w, q);
    w->part_count = 1;
    if (q->flags & RW_JOINED && gather(w, k, need) != RW_OK) {
        refuse_lane(w, k);
        return RW_FAULT;
    }
    return RW_OK;
}

static void put_definition(rw_wal *w, uint32_t place, rw_wal_stream *p)
{
    rw_log_ring *r = &w->ring;
    const rw_stream *s = rw_stream_of(w->c, place);
    r->used += rw_definition_put(r->base + r->used, place, p->number, s->name, s->name_bytes,
                                 p->next_offset, w->last_timestamp_ns, r->seed);
    r->frames++;
}

/* What is in both the request and the frame that answers it. */
static rw_frame frame_for(const rw_wal *w, uint32_t k, const rw_request *q)
{
    return (rw_frame){
        .kind = q->kind,
        .slot = (uint16_t)k,
        .payload_bytes = q->payload_bytes,
        .count = q->count,
        .flags = q->flags & ~RW_EXPECTS,
        .stream = q->stream,
        .place = q->place,
        .timestamp_ns = w->last_timestamp_ns,
        .digest = q->digest,
        .ticket = w->lanes[k].cursor,
        .number = q->number,
        .producer_id = (uint32_t)q->producer_id,
        .producer_sequence = q->producer_id != 0 ? q->producer_sequence : 0,
        .producer_epoch = (uint32_t)(q->producer_id >> 32),
    };
}

/* The lane goes on behind it. */
static void pass_request(rw_wal *w, uint32_t k, const rw_request *q)
{
    rw_lane_taker *e = &w->lanes[k];
    w->ring.requests++;
    e->cursor += rw_request_bytes(q->payload_bytes);
    e->touched = 1;
    e->taken++;
}

/* Why the request is refused alone, and what belongs to that; 0: it is not. `p` NULL: the stream is
 * deleted. */
static uint32_t judge(const rw_wal *w, const rw_request *q, const rw_wal_stream *p, uint64_t *value)
{
    *value = 0;
    if (p == NULL)
        return RW_VERDICT_DEAD;
    if (q->kind == RW_FRAME_COMMIT)
        return rw_wal_commit_judge(w, q, value);
    if (q->producer_id != 0)
        return rw_wal_owner_judge(w, q, value);
    if (!(q->flags & RW_EXPECTS) || q->producer_sequence == p->next_offset)
        return 0;
    *value = p->next_offset;
    return RW_VERDICT_OFFSET;
}

/* That is sealed like everything else, so that no successor changes its mind. The payload is not
 * looked at. */
static void refuse_request(rw_wal *w, uint32_t k, const rw_request *q, const rw_wal_stream *p,
                           uint32_t reason, uint64_t value)
{
    const rw_verdict verdict = {
        .reason = reason, .request_bytes = q->payload_bytes, .value = value};
    rw_frame f = frame_for(w, k, q);
    f.kind = RW_FRAME_VERDICT;
    f.base_offset = p == NULL ? 0 : p->next_offset;
    f.flags = 0;
    f.payload_bytes = sizeof verdict;
    f.count = 0;
    f.digest = rw_xxh3((const uint8_t *)&verdict, sizeof verdict);
    rw_log_ring *r = &w->ring;
    r->used += rw_frame_put(r->base + r->used, &f, (const uint8_t *)&verdict, r->seed);
    r->frames++;
    pass_request(w, k, q);
}

static uint64_t offset_in(const uint8_t *payload)
{
    uint64_t before;
    memcpy(&before, payload, sizeof before);
    return before;
}

/* Is the copy what the header says, and what a request of its kind may ask? */
static bool payload_is_right(const rw_request *q, const uint8_t *copy, const rw_wal_stream *p)
{
    if (rw_xxh3(copy, q->payload_bytes) != q->digest)
        return false;
    if (q->kind == RW_FRAME_BATCH)
        return rw_batch_check(copy, q->payload_bytes, q->count, q->flags) == RW_OK;
    if (q->kind == RW_FRAME_SETTINGS)
        return rw_settings_check(copy, q->payload_bytes) == RW_OK;
    if (q->kind == RW_FRAME_CLAIM)
        return rw_claim_is_right(copy, q->payload_bytes);
    if (q->kind == RW_FRAME_COMMIT)
        return offset_in(copy) <= p->next_offset || offset_in(copy) == RW_FORGET;
    return q->kind != RW_FRAME_TRIM || offset_in(copy) <= p->next_offset;
}

/* What the frame changes of its stream. */
static void change_stream(rw_wal *w, rw_wal_stream *p, const rw_request *q, const rw_frame *f,
                          const uint8_t *copy)
{
    if (!p->defined)
        rw_wal_stream_defined(w, p);
    if (q->kind == RW_FRAME_BATCH) {
        p->next_offset += q->count;
        p->composed_bytes += q->payload_bytes;
        p->composed_ns = w->last_timestamp_ns;
        rw_count64(&w->c->wal_records, q->count);
        rw_count64(&w->c->wal_payload_bytes, q->payload_bytes);
        if (f->producer_id != 0)
            rw_wal_owner_appended(w, f);
    } else if (q->kind == RW_FRAME_TRIM) {
        uint64_t before = offset_in(copy);
        w->cuts += before > p->trimmed_offset;
        p->trimmed_offset = before > p->trimmed_offset ? before : p->trimmed_offset;
    } else if (q->kind == RW_FRAME_SETTINGS) {
        w->settings_in = w->ring.base;
    } else if (q->kind == RW_FRAME_CLAIM) {
        rw_wal_owner_claimed(w, f, copy, false);
    } else if (q->kind == RW_FRAME_COMMIT) {
        rw_wal_owner_committed(w, f, offset_in(copy));
    } else {
        RW_ASSERT(q->kind == RW_FRAME_DELETE);
        rw_wal_owners_of_deleted(w, p->number);
        w->cuts++;
        p->over = true;
    }
    rw_wal_stream_touch(w, p, w->c->sealed + 1);
}

/* Copies the request into the block, where its stream goes on. The copy is private to the engine,
 * so what is checked is what is written: a client that changes its payload under our hands fails
 * the digest here and not at recovery. RW_BAD: it has. */
static int put_request(rw_wal *w, uint32_t k, const rw_request *q, const rw_wal_stream *p,
                       rw_frame *f)
{
    rw_log_ring *r = &w->ring;
    f->base_offset = p->next_offset;
    if (q->kind == RW_FRAME_COMMIT)
        f->producer_sequence = rw_wal_owner_position(w, (uint32_t)q->producer_id);
    uint64_t bytes = rw_frame_put(r->base + r->used, f, rw_lane_payload(&w->lanes[k]), r->seed);
    if (!payload_is_right(q, r->base + r->used + sizeof *f, p))
        return RW_BAD;
    r->used += bytes;
    r->frames++;
    return RW_OK;
}

/* Where the open block stood before a request that turns out to be wrong. */
static int take_back(rw_wal *w, uint32_t k, uint64_t used, uint32_t frames)
{
    w->ring.used = used;
    w->ring.frames = frames;
    refuse_lane(w, k);
    return RW_FAULT;
}

static int take_one(rw_wal *w, uint32_t k, const rw_request *q)
{
    rw_log_ring *r = &w->ring;
    const uint64_t used = r->used;
    const uint32_t frames = r->frames;
    rw_wal_stream *p = rw_wal_living(w, q->place, q->stream);
    rw_frame f = frame_for(w, k, q);
    uint64_t value;
    uint32_t reason = judge(w, q, p, &value);
    if (reason == 0 && q->kind == RW_FRAME_CLAIM &&
        !rw_wal_claim_judge(w, q, rw_lane_payload(&w->lanes[k]), p->next_offset, &f))
        reason = RW_VERDICT_TABLE;
    if (reason != 0) {
        refuse_request(w, k, q, p, reason, value);
        return RW_OK;
    }
    if (!p->defined)
        put_definition(w, q->place, p);
    const uint8_t *copy = r->base + r->used + sizeof f;
    if (put_request(w, k, q, p, &f) != RW_OK)
        return take_back(w, k, used, frames);
    (void)RW_POINT("l.take.post");
    pass_request(w, k, q);
    change_stream(w, p, q, &f, copy);
    return RW_OK;
}

/* Is one part refused, then all are; the others' verdicts say that. */
static bool refuse_parts(rw_wal *w, uint32_t k)
{
    uint32_t reasons[RW_PARTS_MAX], refused = 0;
    uint64_t values[RW_PARTS_MAX];
    for (uint32_t i = 0; i < w->part_count; i++) {
        const rw_request *q = &w->parts[i];
        reasons[i] = judge(w, q, rw_wal_living(w, q->place, q->stream), &values[i]);
        refused += reasons[i] != 0;
    }
    for (uint32_t i = 0; refused != 0 && i < w->part_count; i++) {
        const rw_request *q = &w->parts[i];
        refuse_request(w, k, q, rw_wal_living(w, q->place, q->stream),
                       reasons[i] != 0 ? reasons[i] : RW_VERDICT_JOINED, values[i]);
    }
    return refused != 0;
}

static int take_parts(rw_wal *w, uint32_t k)
{
    rw_lane_taker *e = &w->lanes[k];
    rw_log_ring *r = &w->ring;
    const uint64_t used = r->used, begin = e->cursor;
    const uint32_t frames = r->frames;
    const uint8_t *copies[RW_PARTS_MAX];
    if (refuse_parts(w, k))
        return RW_OK;
    /* The parts stand one behind the other: all definitions first. */
    for (uint32_t i = 0; i < w->part_count; i++) {
        rw_wal_stream *p = rw_wal_living(w, w->parts[i].place, w->parts[i].stream);
        if (!p->defined)
            put_definition(w, w->parts[i].place, p);
    }
    for (uint32_t i = 0; i < w->part_count; i++) {
        const rw_request *q = &w->parts[i];
        rw_frame f = frame_for(w, k, q);
        copies[i] = r->base + r->used + sizeof f;
        if (put_request(w, k, q, rw_wal_living(w, q->place, q->stream), &f) != RW_OK) {
            e->cursor = begin;
            return take_back(w, k, used, frames);
        }
        e->cursor += rw_request_bytes(q->payload_bytes);
        (void)RW_POINT("l.part.put");
    }
    e->cursor = begin;
    for (uint32_t i = 0; i < w->part_count; i++) {
        const rw_request *q = &w->parts[i];
        const rw_frame f = frame_for(w, k, q);
        const uint8_t *copy = copies[i];
        pass_request(w, k, q);
        change_stream(w, rw_wal_living(w, q->place, q->stream), q, &f, copy);
    }
    return RW_OK;
}

int rw_wal_take(rw_wal *w, uint32_t k)
{
    return w->part_count == 1 ? take_one(w, k, &w->parts[0]) : take_parts(w, k);
}
