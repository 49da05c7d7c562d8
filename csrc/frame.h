/* Requests and records: headers, checksums, lengths. Pure bytes: no shared word, no I/O, no state.
 * How records make up a block: block.h.
 */
#ifndef RW_FRAME_H
#define RW_FRAME_H

#include "layout.h"
#include "status.h"

#include <stdbool.h>
#include <string.h>

/* Writes header and payload of one frame at `at`, zero-pads to the frame size, stamps the CRC. The
 * digest is taken from `r`. Returns the frame size. */
uint64_t rw_frame_put(uint8_t *at, const rw_frame *r, const uint8_t *payload, uint32_t seed);

/* A stream's definition: a frame with its name, and the offset of its next record. Returns the
 * frame size. */
uint64_t rw_definition_put(uint8_t *at, uint32_t place, uint32_t stream, const uint8_t *name,
                           uint32_t name_bytes, uint64_t next_offset, uint64_t timestamp_ns,
                           uint32_t seed);

uint32_t rw_frame_seed(uint64_t epoch, uint64_t position);
uint32_t rw_frame_crc(const rw_frame *r, uint32_t seed);
uint32_t rw_request_crc(const rw_request *q);

/* A batch of more than one record holds its lengths first, and its own times last, if it has such:
 * do they add up to the payload, and are those times in range? RW_OK or RW_BAD. */
int rw_batch_check(const uint8_t *payload, uint32_t payload_bytes, uint32_t count, uint32_t flags);

/* Sum of what the parts of a joint append take in a block may not exceed what one batch may, each
 * with a definition: so one fits wherever a batch does. */
static inline uint64_t rw_part_bytes(uint64_t payload_bytes)
{
    return rw_frame_bytes(payload_bytes) + rw_frame_bytes(RW_STREAM_NAME_MAX);
}

#define RW_TIME_MAX INT64_MAX /* the latest time that a record may have of its own */

/* What the own times take, at the end of a payload. */
static inline uint64_t rw_times_bytes(uint32_t count, uint32_t flags)
{
    return flags & RW_OWN_TIMES ? 8ull * count : 0;
}
/* That of record `i` of such a batch. */
static inline uint64_t rw_time_of(const uint8_t *payload, uint32_t payload_bytes, uint32_t count,
                                  uint32_t i)
{
    uint64_t ns;
    memcpy(&ns, payload + payload_bytes - 8ull * (count - i), sizeof ns);
    return ns;
}

/* Is this what a frame of its kind looks like? RW_OK or RW_BAD. */
int rw_frame_sort_check(const rw_frame *r, const uint8_t *payload);

/* It changes its stream, in the stream's order. */
static inline bool rw_frame_queued(uint32_t kind)
{
    return kind == RW_FRAME_BATCH || kind == RW_FRAME_TRIM || kind == RW_FRAME_DELETE ||
           kind == RW_FRAME_SETTINGS || kind == RW_FRAME_CLAIM || kind == RW_FRAME_COMMIT;
}
/* It may be a part of a joint append. */
static inline bool rw_frame_joins(uint32_t kind)
{
    return kind == RW_FRAME_BATCH || kind == RW_FRAME_COMMIT;
}
/* It is confirmed in its stream's order: a verdict, too, that says what the stream has. Nobody is
 * told of an offset before all below is confirmed. */
static inline bool rw_frame_waits(const rw_frame *r)
{
    return rw_frame_queued(r->kind) ||
           (r->kind == RW_FRAME_VERDICT &&
            ((const rw_verdict *)(r + 1))->reason != RW_VERDICT_DEAD);
}
/* A request stands behind it, and its writer waits for a completion. */
static inline bool rw_frame_answers(uint32_t kind)
{
    return rw_frame_queued(kind) || kind == RW_FRAME_VERDICT;
}
/* The generation of the slot of its writer. */
static inline uint32_t rw_frame_generation(const rw_frame *r)
{
    return (uint32_t)(r->number >> 32);
}

uint64_t rw_lengths_sum(const uint32_t *lengths, uint32_t count);
/* The same of lengths below 256, one a byte, which are stored to `lengths`. */
uint64_t rw_lengths_widen(const uint8_t *small, uint32_t count, uint32_t *lengths);

#endif
