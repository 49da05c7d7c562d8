/* CONTENTION: more callers than the processors can serve if everybody stays awake.
 *
 * A caller, the drain and a WAL thread that spin for the next event save a wake-up, which is what a
 * few callers wait for most. With many callers the processors are what is short, and whoever spins
 * takes them from those who have something to do. Worse, it takes them from the callers that sleep:
 * with 64 callers a few that never slept kept engine and processors to themselves, in blocks of two
 * records, and the slowest caller got a tenth of what the fastest got. So under contention
 *
 *   callers        sleep at once, unless writes are long (lane.c)
 *   the drain      sleeps while blocks are written (sequencer_loop.c); so it does where callers are
 *                  event loops, which have other work until then (RW_LOOPS_NS)
 *   a WAL thread   gathers: it sleeps for moments until most callers have appended again, or no
 *                  more do (wal_threads.c)
 *
 * Where a write takes long, processors are not what is short: the callers' own work is done before
 * it ends, and what counts is that the next event finds somebody awake. There callers stay awake,
 * all of them, so that nobody is in a clique. What is long goes by the quickest of the latest small
 * writes: the others may have waited for a processor as well.
 *
 * It has to be known from who was confirmed, not from what is under way: of a clique that spins
 * little is under way. The drain counts its callers in windows of time and is the only writer of
 * `callers` and `contention`; everybody else takes them for a hint.
 */
#ifndef RW_CONTENTION_H
#define RW_CONTENTION_H

#include "atomics.h"
#include "layout.h"
#include "tuning.h"

static inline bool rw_contended(const rw_control *c)
{
    return rw_load32(&c->callers) > rw_load32(&c->contention);
}

static inline bool rw_writes_are_long(const rw_control *c)
{
    return rw_load64(&c->write_ns) >= RW_LONG_WRITE_NS;
}

/* A WAL thread has written a small block. Threads may tread on each other: a hint. */
static inline void rw_write_took(rw_control *c, uint64_t ns)
{
    uint64_t quickest = rw_peek64(&c->write_ns);
    rw_store64(&c->write_ns, quickest == 0 || ns < quickest ? ns : quickest + quickest / 64);
}

/* The drain's count. Publishes what is contention on this machine; false if there is no memory. */
typedef struct rw_callers {
    uint64_t window; /* starts at 1: who was never counted is in 0 */
    uint64_t end_ns; /* of the window */
    uint32_t now, before; /* counted in this window and in the one before */
    uint64_t *last; /* by slot: window in which it was last counted */
} rw_callers;

bool rw_callers_open(rw_callers *k, rw_control *c);
void rw_callers_close(rw_callers *k);

/* Requests of `slot` have been confirmed. */
static inline void rw_callers_add(rw_callers *k, uint32_t slot)
{
    k->now += k->last[slot] != k->window;
    k->last[slot] = k->window;
}

/* After steps that moved something. */
void rw_callers_publish(rw_callers *k, rw_control *c, uint64_t now_ns);

#endif
