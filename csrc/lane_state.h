/* A writer's private state: for lane.c and lane_tail.c only. */
#ifndef RW_LANE_STATE_H
#define RW_LANE_STATE_H

#include "lane.h"

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

/* What else may end a wait for a completion: a stopping engine still completes what it has taken.
 */
int rw_writer_waitable(const rw_writer *w);

#endif
