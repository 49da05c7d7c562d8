/* What waits in the lanes, and who is told that his is refused. Under the compose lock. */
#include "wait.h"
#include "wal_state.h"

#include <limits.h>

uint32_t rw_lanes_ready(const rw_wal *w, uint32_t enough)
{
    uint32_t ready = 0;
    for (uint32_t k = 0; k < w->lanes_end && ready < enough; k++)
        ready += w->lanes[k].active && rw_lane_ready(&w->lanes[k]);
    return ready;
}

uint64_t rw_lanes_backlog(const rw_wal *w)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < w->lanes_end; k++) {
        const rw_lane_taker *e = &w->lanes[k];
        /* A writer that stopped between claim and publish must not make everybody's blocks small.
         */
        uint64_t claimed =
            e->active && rw_lane_ready(e) ? rw_peek64(&e->lane->claim) - e->cursor : 0;
        /* the word is the client's; nothing else depends on it */
        sum += claimed <= e->bytes ? claimed : 0;
    }
    return sum;
}

void rw_tell_refused(rw_wal *w, uint32_t k, uint32_t generation)
{
    rw_slot *slot = rw_slot_of(w->c, k);
    rw_store32_seq(&slot->fault, generation);
    rw_unpark(rw_low_half(&slot->head), INT_MAX);
    rw_unpark(&slot->wake, INT_MAX);
}

bool rw_control_ready(const rw_wal *w)
{
    bool ready = w->drop_left != 0;
    for (uint32_t k = w->c->client_slots; k < w->lanes_end; k++)
        ready |= w->lanes[k].active && rw_lane_ready(&w->lanes[k]);
    return ready;
}
