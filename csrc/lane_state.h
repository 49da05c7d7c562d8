/* A writer's private state: for lane.c, lane_wait.c and lane_tail.c only. */
#ifndef RW_LANE_STATE_H
#define RW_LANE_STATE_H

#include "lane.h"

#include "memory.h"

struct rw_writer {
    rw_control *c;
    rw_lane *lane;
    uint8_t *data;
    const rw_slot *slot;
    const rw_completion *cells;
    uint64_t bytes;
    uint64_t limit;
    uint64_t salt;
    uint32_t *streams; /* of the number with these low bits: whose results `flush` asks for */
    uint64_t next;     /* number of the next request that is submitted */
    /* requests below this number are submitted, or about to be: next, once nobody is under way */
    uint64_t taken;
    uint64_t granted;  /* only numbers below this one may be given out */
    uint64_t burnt;    /* so many that were taken never will be: rw_writer_burn */
    uint32_t shut;     /* no more requests: the client has given this lane up */
    uint32_t mask;
    uint32_t generation;
    /* waits in a row that outlasted their spin; a hint that threads may tread on */
    uint32_t spins_missed;
    int doorbell_fd;
};

static inline int rw_writer_usable(const rw_writer *w)
{
    if (rw_load32(&w->c->state) != RW_RUNNING || rw_peek32(&w->shut) || rw_supervisor_died(w->c))
        return RW_GONE;
    return rw_load32(&w->slot->fault) == w->generation ? RW_FAULT : RW_OK;
}

/* Signed: `claim` may be old and head beyond it by now. That is room; the CAS on `claim` finds out
 * that it was old. */
static inline bool rw_writer_has_room(const rw_writer *w, uint64_t claim, uint64_t frame)
{
    return (int64_t)(claim + frame - rw_load64(&w->slot->head)) <= (int64_t)w->bytes;
}

/* What else may end a wait for a completion: a stopping engine still completes what it has taken.
 */
int rw_writer_waitable(const rw_writer *w);

#endif
