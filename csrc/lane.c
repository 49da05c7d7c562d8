#define _GNU_SOURCE
#include "lane_state.h"

#include "doorbell.h"
#include "contention.h"
#include "digest.h"
#include "memory.h"
#include "points.h"
#include "frame.h"
#include "stream.h"
#include "tuning.h"
#include "wait.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

rw_writer *rw_writer_open(rw_control *c, rw_lane *lane, int doorbell_fd)
{
    rw_writer *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    uint64_t half = lane->lane_bytes / 2;
    *w = (rw_writer){
        .c = c,
        .lane = lane,
        .data = (uint8_t *)lane + sizeof *lane,
        .slot = rw_slot_of(c, lane->slot),
        .cells = rw_completions_of(c, lane->slot),
        .bytes = lane->lane_bytes,
        .limit = half < c->max_record_bytes ? half : c->max_record_bytes,
        .salt = lane->salt,
        .mask = c->completions_per_client - 1,
        .generation = lane->generation,
        .next = (uint64_t)lane->generation << 32,
        .taken = (uint64_t)lane->generation << 32,
        .granted = (uint64_t)lane->generation << 32,
        .doorbell_fd = doorbell_fd,
    };
    w->streams = calloc(c->completions_per_client, sizeof *w->streams);
    if (w->streams == NULL) {
        free(w);
        return NULL;
    }
    rw_prefault(w->data, 2 * w->bytes, 1);
    return w;
}

void rw_writer_close(rw_writer *w)
{
    if (w != NULL)
        free(w->streams);
    free(w);
}

void rw_writer_shut(rw_writer *w) { rw_store32(&w->shut, 1); }

uint64_t rw_writer_record_limit(const rw_writer *w) { return w->limit; }

static int usable(const rw_writer *w)
{
    if (rw_load32(&w->c->state) != RW_RUNNING || rw_peek32(&w->shut) || rw_supervisor_died(w->c))
        return RW_GONE;
    return rw_load32(&w->slot->fault) == w->generation ? RW_FAULT : RW_OK;
}

/* Signed: `claim` may be old and head beyond it by now. That is room; the CAS on `claim` finds out
 * that it was old. */
static bool has_room(const rw_writer *w, uint64_t claim, uint64_t frame)
{
    return (int64_t)(claim + frame - rw_load64(&w->slot->head)) <= (int64_t)w->bytes;
}

static int claim_bytes(rw_writer *w, uint64_t frame, uint64_t *at)
{
    int rc = usable(w);
    if (rc != RW_OK)
        return rc;
    uint64_t p = rw_peek64(&w->lane->claim);
    do {
        if (!has_room(w, p, frame))
            return RW_FULL;
    } while (!rw_cas64(&w->lane->claim, &p, p + frame));
    *at = p;
    (void)RW_POINT("w.claim.post");
    return RW_OK;
}

static int claim(rw_writer *w, uint64_t payload, uint64_t *at)
{
    return payload > w->limit ? RW_TOO_LARGE : claim_bytes(w, rw_request_bytes(payload), at);
}

/* Steps 2 (the header) and 3 of the protocol; the payload is in place. */
static const rw_terms no_terms;

static void publish(rw_writer *w, uint64_t at, uint8_t kind, uint16_t flags, uint64_t stream,
                    uint64_t payload, uint32_t count, const rw_terms *terms, uint64_t number)
{
    rw_request *q = (rw_request *)(w->data + (at & (w->bytes - 1)));
    rw_request h = {
        .valid = rw_lane_valid(w->salt, at),
        .stream = rw_handle_number(stream),
        .place = rw_handle_place(stream),
        .kind = kind,
        .flags = flags,
        .payload_bytes = (uint32_t)payload,
        .count = count,
        .digest = rw_xxh3((const uint8_t *)(q + 1), payload),
        .number = number,
        .producer_id = terms->producer,
        .producer_sequence = terms->sequence,
    };
    h.crc = rw_request_crc(&h);
    memcpy((uint8_t *)q + sizeof q->valid, (const uint8_t *)&h + sizeof h.valid,
           sizeof h - sizeof h.valid);
    (void)RW_POINT("w.publish.pre");
    rw_store64(&q->valid, h.valid); /* PAIR: publish/take */
    (void)RW_POINT("w.publish.post");

    /* PAIR: publish/doorbell. The fence keeps the look at the doorbell behind the store of `valid`;
     * the WAL thread changes the doorbell first and looks at the lanes second. One of the two sees
     * the other.
     */
    rw_fence();
    uint64_t doorbell = rw_peek64(&w->c->doorbell);
    if (rw_doorbell_wanted(doorbell) && rw_peek64(&w->lane->last_rung) != doorbell) {
        rw_store64(&w->lane->last_rung, doorbell);
        rw_signal_fd(w->doorbell_fd);
    }
}

static void put_one(rw_writer *w, uint64_t at, uint64_t stream, const uint8_t *data, uint64_t bytes,
                    uint64_t number)
{
    uint8_t *to = w->data + (at & (w->bytes - 1)) + sizeof(rw_request);
    memcpy(to, data, bytes / 2);
    (void)RW_POINT("w.copy.mid");
    memcpy(to + bytes / 2, data + bytes / 2, bytes - bytes / 2);
    publish(w, at, RW_FRAME_BATCH, 0, stream, bytes, 1, &no_terms, number);
}

static void put_batch(rw_writer *w, uint64_t at, uint64_t stream, const uint32_t *lengths,
                      uint32_t count, const uint8_t *data, uint64_t bytes, const rw_terms *terms,
                      uint64_t number)
{
    const uint64_t *times = terms->times;
    uint64_t table = count > 1 ? 4ull * count : 0, payload = table + bytes;
    uint8_t *to = w->data + (at & (w->bytes - 1)) + sizeof(rw_request);
    memcpy(to, lengths, table);
    (void)RW_POINT(count > 1 ? "w.copy.batch" : "w.copy.mid");
    memcpy(to + table, data, bytes);
    uint16_t flags = (uint16_t)(terms->flags | (times != NULL ? RW_OWN_TIMES : 0));
    if (times != NULL)
        memcpy(to + payload, times, rw_times_bytes(count, flags));
    publish(w, at, RW_FRAME_BATCH, flags, stream, payload + rw_times_bytes(count, flags), count,
            terms, number);
}

static void put_commit(rw_writer *w, uint64_t at, uint64_t stream, const rw_terms *terms,
                       uint64_t number)
{
    memcpy(w->data + (at & (w->bytes - 1)) + sizeof(rw_request), &terms->sequence,
           sizeof terms->sequence);
    publish(w, at, RW_FRAME_COMMIT, (uint16_t)terms->flags, stream, sizeof terms->sequence, 0,
            &(rw_terms){.producer = terms->producer}, number);
}

static uint64_t batch_bytes(uint32_t count, uint64_t data, const uint64_t *times)
{
    return data + (count > 1 ? 4ull * count : 0) + (times != NULL ? 8ull * count : 0);
}

int rw_append(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes, uint64_t number)
{
    uint64_t at;
    int rc = claim(w, bytes, &at);
    if (rc == RW_OK)
        put_one(w, at, stream, data, bytes, number);
    return rc;
}

int rw_append_many(rw_writer *w, uint64_t stream, const uint32_t *lengths, uint32_t count,
                   const uint8_t *data, uint64_t bytes, const uint64_t *times, uint64_t number)
{
    uint64_t at;
    if (count == 0 || rw_lengths_sum(lengths, count) != bytes)
        return RW_BAD;
    int rc = claim(w, batch_bytes(count, bytes, times), &at);
    if (rc == RW_OK)
        put_batch(w, at, stream, lengths, count, data, bytes, &(rw_terms){.times = times}, number);
    return rc;
}

int rw_append_control(rw_writer *w, uint32_t kind, uint64_t stream, const uint8_t *data,
                      uint64_t bytes, uint64_t number)
{
    uint64_t at;
    int rc = claim(w, bytes, &at);
    if (rc == RW_OK) {
        memcpy(w->data + (at & (w->bytes - 1)) + sizeof(rw_request), data, bytes);
        publish(w, at, (uint8_t)kind, 0, stream, bytes, 0, &no_terms, number);
    }
    return rc;
}

/* ---------------------------------------------------------------------- numbers, given out here */

static bool over(const rw_writer *w, uint64_t stream)
{
    return rw_stream_over(rw_stream_of(w->c, rw_handle_place(stream)), rw_handle_number(stream));
}

/* Permit, claim, number: in this order a refusal gives everything back, and the numbers have no
 * holes. A number that was taken first and could not be used would be waited for in vain. So next
 * <= taken <= granted, and once next is granted (but for what is burnt), every permit has become a
 * number and none can come back: whoever takes a lane out of use waits for that.
 *
 * This is the first of `count` numbers in a row, for requests of so many bytes. */
static int64_t start_bytes(rw_writer *w, uint64_t bytes, uint32_t count, uint64_t *at)
{
    uint64_t taken = rw_load64(&w->taken);
    do {
        if (taken + count > rw_load64(&w->granted))
            return usable(w) == RW_OK ? RW_MAINTENANCE : usable(w);
    } while (!rw_cas64(&w->taken, &taken, taken + count));
    int rc = claim_bytes(w, bytes, at);
    if (rc != RW_OK) {
        rw_add64(&w->taken, -(uint64_t)count);
        return rc;
    }
    return (int64_t)rw_add64(&w->next, count);
}

static int64_t start(rw_writer *w, uint64_t stream, uint64_t payload, uint64_t *at)
{
    if (over(w, stream))
        return usable(w) == RW_OK ? RW_DELETED : usable(w);
    if (payload > w->limit)
        return RW_TOO_LARGE;
    int64_t number = start_bytes(w, rw_request_bytes(payload), 1, at);
    if (number >= 0)
        rw_store32(&w->streams[(uint64_t)number & w->mask], rw_handle_number(stream));
    return number;
}

int64_t rw_submit(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes)
{
    uint64_t at;
    int64_t number = start(w, stream, bytes, &at);
    if (number >= 0)
        put_one(w, at, stream, data, bytes, (uint64_t)number);
    return number;
}

int64_t rw_submit_many(rw_writer *w, uint64_t stream, const uint32_t *lengths, uint32_t count,
                       const uint8_t *data, uint64_t bytes, const rw_terms *terms)
{
    uint64_t at;
    if (count == 0 || rw_lengths_sum(lengths, count) != bytes)
        return RW_BAD;
    if (terms == NULL)
        terms = &no_terms;
    int64_t number = start(w, stream, batch_bytes(count, bytes, terms->times), &at);
    if (number >= 0)
        put_batch(w, at, stream, lengths, count, data, bytes, terms, (uint64_t)number);
    return number;
}

int64_t rw_submit_on(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes,
                     const rw_terms *terms)
{
    if (bytes > w->limit)
        return RW_TOO_LARGE;
    uint32_t length = (uint32_t)bytes;
    return rw_submit_many(w, stream, &length, 1, data, bytes, terms);
}

int64_t rw_submit_commit(rw_writer *w, uint64_t stream, uint64_t consumer, uint64_t offset)
{
    uint64_t at;
    int64_t number = start(w, stream, sizeof offset, &at);
    if (number >= 0)
        put_commit(w, at, stream, &(rw_terms){.producer = consumer, .sequence = offset},
                   (uint64_t)number);
    return number;
}

/* What a part takes as a payload. */
static uint64_t part_payload(const rw_part *p)
{
    return p->count == 0 ? sizeof p->terms.sequence : batch_bytes(p->count, p->bytes, p->terms.times);
}

/* RW_OK, and what its requests take in the lane. */
static int check_parts(const rw_writer *w, const rw_part *parts, uint32_t count, uint64_t *bytes)
{
    uint64_t frames = 0;
    *bytes = 0;
    if (count == 0 || count > RW_PARTS_MAX)
        return RW_BAD;
    for (uint32_t i = 0; i < count; i++) {
        const rw_part *p = &parts[i];
        if ((p->count == 0 ? p->terms.producer == 0
                           : rw_lengths_sum(p->lengths, p->count) != p->bytes) ||
            (i > 0 && rw_handle_place(p->stream) <= rw_handle_place(parts[i - 1].stream)))
            return RW_BAD;
        if (part_payload(p) > w->limit)
            return RW_TOO_LARGE;
        frames += rw_part_bytes(part_payload(p));
        *bytes += rw_request_bytes(part_payload(p));
    }
    return frames <= rw_part_bytes(w->limit) ? RW_OK : RW_TOO_LARGE;
}

int64_t rw_submit_joint(rw_writer *w, const rw_part *parts, uint32_t count)
{
    uint64_t at, bytes;
    /* First: the place of a deleted stream may be that of another part's by now. */
    for (uint32_t i = 0; i < count; i++)
        if (over(w, parts[i].stream))
            return usable(w) == RW_OK ? RW_DELETED : usable(w);
    int rc = check_parts(w, parts, count, &bytes);
    if (rc != RW_OK)
        return rc;
    int64_t number = start_bytes(w, bytes, count, &at);
    if (number < 0)
        return number;
    for (uint32_t i = 0; i < count; i++)
        rw_store32(&w->streams[((uint64_t)number + i) & w->mask],
                   rw_handle_number(parts[i].stream));
    /* The first part is published last: whoever finds it finds all. PAIR: publish/take */
    for (uint64_t end = at + bytes, i = count; i-- > 0;) {
        rw_terms terms = parts[i].terms;
        if (i + 1 < count)
            terms.flags |= RW_JOINED;
        end -= rw_request_bytes(part_payload(&parts[i]));
        if (parts[i].count == 0)
            put_commit(w, end, parts[i].stream, &terms, (uint64_t)number + i);
        else
            put_batch(w, end, parts[i].stream, parts[i].lengths, parts[i].count, parts[i].data,
                      parts[i].bytes, &terms, (uint64_t)number + i);
        (void)RW_POINT("w.part.put");
    }
    return number;
}

void rw_writer_skip(rw_writer *w, uint32_t count)
{
    w->next = w->taken = w->granted = w->next + count;
}

void rw_writer_grant(rw_writer *w, uint64_t end)
{
    uint64_t granted = rw_load64(&w->granted);
    while (granted < end && !rw_cas64(&w->granted, &granted, end))
        ;
}

uint64_t rw_writer_granted(const rw_writer *w) { return rw_load64(&w->granted); }

uint64_t rw_writer_permits(const rw_writer *w)
{
    uint64_t taken = rw_load64(&w->taken); /* first: never above what is granted by then */
    return rw_load64(&w->granted) - taken;
}

void rw_writer_burn(rw_writer *w, uint32_t count)
{
    uint64_t taken = rw_load64(&w->taken), granted = rw_load64(&w->granted);
    while (taken < granted && granted - taken < count)
        if (rw_cas64(&w->taken, &taken, granted)) {
            rw_add64(&w->burnt, granted - taken);
            return;
        }
}

bool rw_writer_unfinished(const rw_writer *w)
{
    return rw_load64(&w->next) + rw_load64(&w->burnt) < rw_load64(&w->granted);
}

uint64_t rw_writer_next(const rw_writer *w) { return rw_load64(&w->next); }

void rw_completions_collect(const rw_writer *w, uint64_t first, uint32_t count, int64_t *out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = rw_completion_poll(w, first + i);
}

uint64_t rw_submitted_next(const rw_writer *w, uint64_t stream, uint64_t from, uint64_t to)
{
    while (from < to && stream != RW_ANY_STREAM &&
           rw_load32(&w->streams[from & w->mask]) != rw_handle_number(stream))
        from++;
    return from;
}

uint32_t rw_submitted_stream(const rw_writer *w, uint64_t number)
{
    return rw_load32(&w->streams[number & w->mask]);
}

static int wait_room(rw_writer *w, uint64_t payload_bytes, uint64_t timeout_ns)
{
    uint64_t frame = rw_request_bytes(payload_bytes);
    rw_add32(&w->lane->room_waiters, 1);
    /* PAIR: room. The WAL process stores head and then looks at room_waiters. */
    uint32_t seen = rw_load32_seq(rw_low_half(&w->slot->head));
    int rc = usable(w);
    if (rc == RW_OK && !has_room(w, rw_load64(&w->lane->claim), frame)) {
        rc = rw_park(rw_low_half(&w->slot->head), seen, timeout_ns);
        if (rc == RW_OK)
            rc = usable(w);
    }
    rw_sub32(&w->lane->room_waiters, 1);
    return rc;
}

int rw_wait_room(rw_writer *w, uint64_t payload_bytes, uint64_t timeout_ns)
{
    uint64_t now = rw_now_ns(), end = now + timeout_ns;
    int rc;
    do {
        rc = wait_room(w, payload_bytes, end - now);
        now = rw_now_ns();
    } while (rc == RW_INTERRUPTED && now < end);
    return rc;
}

int64_t rw_completion_poll(const rw_writer *w, uint64_t number)
{
    const rw_completion *cell = w->cells + (number & w->mask);
    if (rw_load64(&cell->number) != number) /* PAIR: cell */
        return RW_PENDING;
    uint64_t found = rw_peek64(&cell->offset);
    rw_fence_acquire();
    if (rw_peek64(&cell->number) != number)
        return RW_PENDING;
    if (found == RW_DELETED_OFFSET)
        return RW_DELETED;
    /* what else is refused alone is a negative number as it stands */
    return found == RW_FAILED_OFFSET ? RW_FAILED_REQUEST : (int64_t)found;
}

/* Are so many requests under way, of few callers or of many, that the next confirmation is not
 * worth staying awake for? A hint: the words move while they are read. */
static bool more_under_way(const rw_writer *w, int64_t requests)
{
    uint64_t sealed = rw_load64(&w->c->sealed), released = rw_load64(&w->c->released);
    if (sealed <= released)
        return false;
    const rw_block_entry *last = rw_block_entry_of(w->c, sealed - 1);
    uint64_t end = rw_peek64(&last->requests) + rw_peek32(&last->frames);
    return (int64_t)(end - rw_peek64(&rw_block_entry_of(w->c, released)->requests)) > requests;
}

int64_t rw_completion_wait(rw_writer *w, uint64_t number, uint64_t spin_ns, uint64_t timeout_ns)
{
    int64_t rc = rw_completion_poll(w, number);
    if (rc != RW_PENDING)
        return rc;
    uint32_t missed = rw_peek32(&w->spins_missed);
    bool contended = rw_contended(w->c), long_writes = rw_writes_are_long(w->c);
    if ((missed >= RW_SPINS_MISSED_MAX && missed % RW_SPIN_RETRY != 0) ||
        (contended && !long_writes) ||
        more_under_way(w, long_writes ? RW_MANY_UNDER_LONG_WRITES : RW_MANY_UNDER_WAY))
        spin_ns = 0;
    else if (contended)
        spin_ns *= RW_CONTENTION_SPINS;
    if (spin_ns > timeout_ns)
        spin_ns = timeout_ns;
    rw_store32(&w->spins_missed, missed + 1);
    for (uint64_t end = rw_now_ns() + spin_ns; spin_ns != 0 && rw_now_ns() < end;) {
        sched_yield();
        rc = rw_completion_poll(w, number);
        if (rc != RW_PENDING) {
            rw_store32(&w->spins_missed, 0);
            return rc;
        }
    }
    rw_add32(&w->lane->completion_waiters, 1);
    /* PAIR: wake. The drain fills the cell, bumps `wake`, then looks at completion_waiters. */
    uint32_t seen = rw_load32_seq(&w->slot->wake);
    int parked = RW_OK;
    rc = rw_completion_poll(w, number);
    if (rc == RW_PENDING && rw_writer_waitable(w) == RW_OK) {
        parked = rw_park(&w->slot->wake, seen, timeout_ns - spin_ns);
        rc = rw_completion_poll(w, number);
    }
    rw_sub32(&w->lane->completion_waiters, 1);
    if (rc != RW_PENDING)
        return rc;
    int state = rw_writer_waitable(w);
    if (state == RW_OK)
        return parked == RW_INTERRUPTED ? RW_INTERRUPTED : RW_PENDING;
    /* The last confirmations may have come between the poll and the look at the state. */
    rc = rw_completion_poll(w, number);
    return rc == RW_PENDING ? state : rc;
}

int64_t rw_completion_settle(rw_writer *w, uint64_t number, uint64_t timeout_ns)
{
    uint64_t now = rw_now_ns(), end = now + timeout_ns;
    int64_t rc;
    do {
        rc = rw_completion_wait(w, number, 0, end - now);
        now = rw_now_ns();
    } while (rc == RW_INTERRUPTED && now < end);
    return rc;
}
