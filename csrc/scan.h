/* Finding and collecting the records of one stream: in the log ring, and in bytes read from segment
 * files.
 *
 * A walk goes block by block: the block after the one at position P begins at P + span. It stands
 * in an *area*, where log position P lies at `base + ((P - origin) & mask)`: the ring as it is in
 * memory, or a piece of a segment file.
 *
 * Everything here only reads. What is read may be changing (the ring) or damaged (a file), so a
 * header is copied before it is looked at, no length is used before it is bounded by the area, and
 * no word is fetched twice to be the same.
 *
 * READING THE RING WHILE THE WAL PROCESS WRITES IT                                PAIR: reserve_end
 *
 *   WAL process                                     reader
 *     1 reserve_end = end of the new block            1 copy bytes at log positions >= p
 *     2 full fence                                    2 acquire fence
 *     3 write the block                               3 load reserve_end, r: p >= r - ring_bytes ?
 *
 * Only the WAL process stores reserve_end, and it never goes back. If step 1 of the reader saw any
 * byte of step 3 of the writer, the two fences make the reader's step 3 see that reserve_end or a
 * later one; the overwritten byte lay at new position - ring_bytes, so the test fails and the copy
 * is void. Bytes of a block that is being composed are never looked at: the walk stops at the last
 * confirmed record, and the block of that was sealed before (PAIR: seal).
 *
 * WHERE THE DISK TAKES OVER                                                           PAIR: release
 *
 *   Ring space is reserved only below released_end + ring_bytes, so rw_log_low <= rw_log_disk_end
 *   always; and blocks below released_end are confirmed, so all of them are on disk. Load low
 *   first: the store of reserve_end came after the WAL process's load of released_end, so a reader
 *   that sees the one sees at least that value of the other.
 */
#ifndef RW_SCAN_H
#define RW_SCAN_H

#include "frame.h"
#include "layout.h"
#include "status.h"

#include <stdbool.h>
#include <string.h>

#define RW_SLICES 512u
#define RW_FEW    8u
#define RW_NO_TIME UINT64_MAX

enum rw_walk_stop {
    RW_WALK_ON = 0,    /* inside: no stop */
    RW_WALK_DONE = 1,  /* every confirmed record has been collected */
    RW_WALK_FULL = 2,  /* the limits of the request are reached */
    RW_WALK_END = 3,   /* the walk has reached the end of the area */
    /* `need` bytes are needed from position + frame_at on, and the area does not have them */
    RW_WALK_SHORT = 4,
    RW_WALK_BAD = 5,   /* the block at `position` is damaged */
    RW_WALK_AHEAD = 6, /* the walk met the stream at an offset behind the one wanted */
};

typedef struct rw_area {
    const uint8_t *base;
    uint64_t origin;
    uint64_t mask;
    uint64_t end; /* log position behind the last byte that may be looked at */
} rw_area;

/* Where a walk stands, between calls. The caller sets it to zeros, then uuid, epoch, stream,
 * position, next_offset. */
typedef struct rw_walk {
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t position;    /* block the walk stands in */
    uint64_t frame_at;    /* byte in the block of the frame it stands at; 0: the first */
    /* byte in the frame, header included, of the next record; 0: the digest is still to be checked
     */
    uint64_t data_at;
    uint64_t next_offset; /* the record that is wanted next */
    uint64_t below;       /* confirmed offset: records at or beyond it are not looked for */
    uint64_t need;        /* see RW_WALK_SHORT */
    uint64_t used;        /* of the block, behind its first frame: its header was good */
    uint64_t span;
    uint32_t stream;
    uint32_t place; /* for the ring only */
} rw_walk;

/* What one call found, and the limits of the request, which the calls it takes use up together. */
typedef struct rw_slices {
    uint64_t bytes_left;
    uint32_t records_left;
    uint32_t must; /* the next record is taken whatever its size */
    uint32_t count;
    uint32_t timed; /* so many of them have a time of their own */
    const uint8_t *base;       /* of the area of the last call */
    uint64_t begin[RW_SLICES]; /* byte places relative to area.base */
    uint64_t end[RW_SLICES];
    uint64_t timestamp_ns[RW_SLICES];
    uint64_t own_ns[RW_SLICES]; /* RW_NO_TIME: it has none; not stored while `timed` is 0 */
} rw_slices;

/* All frames of one stream in one block. Sorted by stream, then offset. */
typedef struct rw_index_entry {
    uint64_t base_offset; /* of the first record */
    uint64_t position;    /* of the block */
    uint32_t stream;
    uint32_t count;
} rw_index_entry;

/* Lowest log position whose bytes the ring holds. */
uint64_t rw_log_low(const rw_control *c);

/* After a copy out of the ring: was everything at or above `position` still there when the copy was
 * finished? */
int rw_log_holds(const rw_control *c, uint64_t position);

/* All blocks of this epoch below this log position are on disk. */
uint64_t rw_log_disk_end(const rw_control *c);

/* The ring as an area, up to the last sealed block. */
void rw_log_area(const rw_control *c, const uint8_t *ring, rw_area *out);

/* The newest block in the ring whose first record of `stream` is at or before `offset`: *position.
 * RW_OK, or RW_OVERWRITTEN: the ring does not hold it. A confirmed offset that is in the ring is in
 * that block or behind it. */
int rw_log_find(const rw_control *c, const uint8_t *ring, uint32_t stream, uint64_t offset,
                uint64_t *position);

/* What takes records from a walk: of one frame of the stream, whose header is good, whose payload
 * is proven and lies behind it, all that rw_walk_wants. s->data_at and s->next_offset move over
 * what is taken. RW_WALK_ON, RW_WALK_FULL, or RW_WALK_BAD. */
typedef int rw_take(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into);

/* Walks from s->next_offset on and gives every frame with a record that is wanted to `take`, in
 * order. Of a block only what is looked at need lie in the area: from the frame on where the walk
 * stands. Returns an rw_walk_stop. */
int rw_walk_stream(const rw_area *area, rw_walk *s, rw_take *take, void *into);

/* Is a frame of a batch, whose header is good, of a stream that is wanted? Then it says in
 * s->next_offset which record of that is next. */
typedef bool rw_choose(const rw_frame *r, rw_walk *s, void *into);

/* The same of whatever `choose` wants; NULL: s->stream. */
int rw_walk_chosen(const rw_area *area, rw_walk *s, rw_choose *choose, rw_take *take, void *into);

/* An rw_take, into an rw_slices. */
int rw_collect_frame(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into);

/* Walks to the record s->next_offset, of which *timestamp_ns is the time: by the header of its
 * frame, whose payload is not looked at. The walk stands there then: RW_WALK_DONE. */
int rw_walk_time_at(const rw_area *area, rw_walk *s, uint64_t *timestamp_ns);
/* The same, and all of that header. */
int rw_walk_frame_at(const rw_area *area, rw_walk *s, rw_frame *header);

/* The first record of s->stream from s->next_offset on that a walk can take in the block at
 * s->position, of which `available` bytes lie at `block`: behind frames with good headers, in one
 * with a good payload. UINT64_MAX: there is none. */
uint64_t rw_walk_goes_on(const uint8_t *block, uint64_t available, const rw_walk *s);

static inline bool rw_walk_wants(const rw_frame *r, const rw_walk *s)
{
    return s->next_offset < s->below && s->next_offset - r->base_offset < r->count;
}

/* Of a batch of several records. */
static inline uint32_t rw_batch_length(const uint8_t *payload, uint32_t i)
{
    uint32_t length;
    memcpy(&length, payload + 4ull * i, sizeof length);
    return length;
}

/* The length of the record that is wanted, whose bytes lie at frame + s->data_at. RW_OK, or RW_BAD:
 * only if the ring was overwritten since the payload was proven. */
static inline int rw_walk_record(const uint8_t *frame, const rw_frame *r, const rw_walk *s,
                                 uint32_t *length)
{
    uint64_t times = rw_times_bytes(r->count, r->flags);
    if (times > r->payload_bytes)
        return RW_BAD;
    uint64_t end = sizeof *r + r->payload_bytes - times;
    *length = r->count == 1
                  ? r->payload_bytes - (uint32_t)times
                  : rw_batch_length(frame + sizeof *r, (uint32_t)(s->next_offset - r->base_offset));
    return s->data_at <= end && *length <= end - s->data_at ? RW_OK : RW_BAD;
}

/* The record's own time, or RW_NO_TIME; rw_walk_record was RW_OK. */
static inline uint64_t rw_walk_time(const uint8_t *frame, const rw_frame *r, const rw_walk *s)
{
    return r->flags & RW_OWN_TIMES
               ? rw_time_of(frame + sizeof *r, r->payload_bytes, r->count,
                            (uint32_t)(s->next_offset - r->base_offset))
               : RW_NO_TIME;
}

/* Collects records of s->stream from s->next_offset on, dense, each checked against its digest,
 * into `out` from index 0. Returns an rw_walk_stop; `out->count` records are good whatever it is
 * (for the ring: if rw_log_holds says so). */
int rw_walk_collect(const rw_area *area, rw_walk *s, rw_slices *out);

/* The short way of a reader that stands in the ring and is woken for few records: RW_WALK_DONE if
 * all that is confirmed, RW_FEW and `records` at the most, is in `out`, `bytes` of it beyond the
 * first record at the most, to be used only if
 * rw_log_holds confirms before->position, else *before is where the walk stood. Anything else: the
 * walk stands where it stood, and the long way will tell (also of a stream that is deleted). */
int rw_log_ring_next(const rw_control *c, const uint8_t *ring, rw_walk *walk, rw_walk *before,
                 rw_slices *out, uint32_t records, uint64_t bytes);

/* Walks the area from s->position and appends an entry per stream and block at `entries[*count]`.
 * `last` is scratch of `streams` cells; what other calls left in it does no harm. Headers are
 * checked, payloads are not. Returns END, SHORT, BAD, or FULL: fewer than `need` entries were free.
 */
int rw_walk_index(const rw_area *area, rw_walk *s, rw_index_entry *entries, uint32_t capacity,
                  uint32_t *count, uint32_t *last, uint32_t streams);

/* The same of the block at s->position alone, which has a bad frame: those before that. Where the
 * next one begins, only the header of a frame says, so nothing behind a bad one is believed. */
void rw_walk_index_part(const rw_area *area, const rw_walk *s, rw_index_entry *entries,
                        uint32_t capacity, uint32_t *count, uint32_t *last, uint32_t streams);

void rw_index_sort(rw_index_entry *entries, uint32_t count);

/* Number of entries that lie before (stream, offset). */
uint32_t rw_index_before(const rw_index_entry *entries, uint32_t count, uint32_t stream,
                         uint64_t offset);

#endif
