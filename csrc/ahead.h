/* THE BLOCK AHEAD. No more than two blocks are in flight into a segment that is only reserved
 * (wal_threads.c), and a device that has too little to do while the next one is composed loses a
 * tenth of its bandwidth. So one more is composed while two are being written, and is put here; who
 * has written one of the two takes it and writes on. It crosses threads, but none has to wake up.
 *
 *   put, under the compose lock   NONE -> the job -> THERE;           then the look at `writing`
 *   take, by anybody      THERE -> TAKEN -> a copy -> NONE;   `writing` went down before the look
 *                         at the state
 *
 * PAIR: ahead. Both sides store first and look second, so a block that is put while the last of the
 * two leaves is seen by one of them, and the compare-and-set gives it to one. There is one at a
 * time: whoever puts holds the compose lock and has seen NONE. Model:
 * tests/model/test_block_ahead.py. */
#ifndef RW_AHEAD_H
#define RW_AHEAD_H

#include "atomics.h"

#include <stdbool.h>

/* A sealed block on its way to disk. */
typedef struct rw_block_job {
    uint8_t *block;
    uint64_t number;
    uint64_t length;
    uint64_t file_offset;
    uint32_t requests;
    int fd; /* of the thread that writes it */
} rw_block_job;

enum { RW_AHEAD_NONE, RW_AHEAD_THERE, RW_AHEAD_TAKEN };

typedef struct rw_ahead {
    uint32_t state;
    /* TAKEN: its taker's; THERE: nobody's; NONE: that of the compose lock's holder */
    rw_block_job job;
} rw_ahead;

static inline bool rw_ahead_none(const rw_ahead *a)
{
    return rw_load32_seq(&a->state) == RW_AHEAD_NONE;
}
static inline bool rw_ahead_there(const rw_ahead *a)
{
    return rw_load32_seq(&a->state) == RW_AHEAD_THERE;
}

static inline void rw_ahead_put(rw_ahead *a, const rw_block_job *job)
{
    a->job = *job;
    rw_store32_seq(&a->state, RW_AHEAD_THERE); /* PAIR: ahead */
}

/* The taker has to set `fd` to its own. */
static inline bool rw_ahead_take(rw_ahead *a, rw_block_job *job)
{
    uint32_t there = RW_AHEAD_THERE;
    if (!rw_ahead_there(a) || !rw_cas32(&a->state, &there, RW_AHEAD_TAKEN)) /* PAIR: ahead */
        return false;
    *job = a->job;
    rw_store32_seq(&a->state, RW_AHEAD_NONE);
    return true;
}

#endif
