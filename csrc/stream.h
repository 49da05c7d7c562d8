/* The table of streams: places, whose they are, and how a place becomes another stream's.
 *
 * PLACES. A stream's words lie at a place of the table. The supervisor gives the place away again
 * when the stream is deleted, to a stream with another number; numbers are never used again. So
 * whoever has a place from somewhere (a request, a frame, a handle) has the number beside it, and
 * believes the place's words only while the number is there.
 *
 *   requests ... DELETE of n | compose: `ended` = n  | drain, in order: `deleted` = n |
 *   supervisor: state FREE, number = NO_STREAM, words of all three anew, number = m, state OPEN
 *
 * The supervisor stores WAL's and drain's words here, as it does before either exists; nobody else
 * may be storing them. One handshake is enough for that, `deleted`:
 *   - DELETE is the stream's last frame in log order: once it is composed, the WAL process answers
 *     every further request to n with a verdict. So the drain has nothing of n to confirm behind
 *     it, and stores no word of the place until it meets a frame of m.
 *   - The WAL process stores the place's words when it publishes a block, before the block's write
 *     begins. `deleted` follows the confirmation, which follows the write. So nothing of n is left
 *     to be published; and what it publishes later is m's, of which it hears in a request that
 *     was made after `number` = m.
 *   - A successor of the WAL process publishes the last sealed block again, but nothing of a
 *     stream that has `ended`. That is the last word of a stream to be stored, and like all others
 *     before the block's write. So beside a drain that may confirm the DELETE it stores nothing.
 *   - A successor of the drain meets frames of n again. It believes its own word first: where
 *     `deleted` is n, or `number` is not n, they are confirmed, and it stores nothing. Only the
 *     drain stores `deleted`, so that does not change while it looks.
 * `ended` and `deleted` are never made anew: what they name never comes back.
 *
 * READING. A client loads number, words, fence, number: the same number on both sides means that
 * the words in between were its stream's (the supervisor takes the number away first and stores the
 * new one last).                                                                        PAIR: place
 */
#ifndef RW_STREAM_H
#define RW_STREAM_H

#include "atomics.h"
#include "layout.h"
#include "status.h"

#include <stdbool.h>

/* -------------------------------------------------------------------------- supervisor only */

/* Makes the place that of a stream without records. It is free: it was nobody's, or its stream's
 * DELETE is confirmed. */
void rw_stream_open(rw_control *c, uint32_t place, uint32_t number, const uint8_t *name,
                    uint32_t name_bytes);
/* Of a stream as recovery found it, before WAL and drain exist. */
void rw_stream_restore(rw_control *c, uint32_t place, const rw_checkpoint_stream *row);
/* 1: the place's stream is deleted, for certain, and nobody will store words there. */
int rw_stream_gone(rw_control *c, uint32_t place);
/* Before the first one is made: no number below was ever free to be given out again. */
void rw_set_next_number(rw_control *c, uint32_t number);

/* ------------------------------------------------------------------------------------ clients */

/* A handle: what a client has of a stream, its number and above it the place of its words. */
static inline uint64_t rw_handle(uint32_t place, uint32_t number)
{
    return (uint64_t)place << 32 | number;
}
static inline uint32_t rw_handle_place(uint64_t handle) { return (uint32_t)(handle >> 32); }
static inline uint32_t rw_handle_number(uint64_t handle) { return (uint32_t)handle; }

typedef struct rw_stream_bounds {
    uint64_t start_offset;
    uint64_t confirmed_offset;
} rw_stream_bounds;

/* Both offsets, of one moment. RW_OK, or RW_DELETED: there is no such stream any more. */
int rw_stream_look(const rw_control *c, uint64_t handle, rw_stream_bounds *out);

/* How many there are. */
uint32_t rw_streams_living(const rw_control *c);

/* 0 for one that is deleted: nothing of it can be read any more. */
uint64_t rw_stream_confirmed(const rw_control *c, uint64_t handle);

/* ---------------------------------------------------------------- WAL, drain and publishers */

/* Is this stream's DELETE confirmed? */
static inline bool rw_stream_over(const rw_stream *s, uint32_t number)
{
    /* in this order: see PLACES */
    return rw_load32(&s->deleted) == number || rw_load32(&s->number) != number;
}

#endif
