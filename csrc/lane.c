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

static int claim_bytes(rw_writer *w, uint64_t frame, uint64_t *at)
{
    int rc = rw_writer_usable(w);
    if (rc != RW_OK)
        return rc;
    uint64_t p = rw_peek64(&w->lane->claim);
    do {
        if (!rw_writer_has_room(w, p, frame))
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
            return rw_writer_usable(w) == RW_OK ? RW_MAINTENANCE : rw_writer_usable(w);
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
        return rw_writer_usable(w) == RW_OK ? RW_DELETED : rw_writer_usable(w);
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
    if (p->count == 0)
        return sizeof p->terms.sequence;
    return batch_bytes(p->count, p->bytes, p->terms.times);
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
            return rw_writer_usable(w) == RW_OK ? RW_DELETED : rw_writer_usable(w);
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
