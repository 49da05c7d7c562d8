#define _GNU_SOURCE
/* A small block's wait for more: see wal_policy.h, LINGERING. */
#include "block.h"
#include "wait.h"
#include "wal_state.h"

#include <time.h>

bool rw_wal_lingers(rw_wal *w)
{
    uint64_t backlog = rw_lanes_backlog(w);
    /* What asks for room, and what an orderly stop waits for, does not wait. */
    if (backlog == 0 || w->drop_left != 0 || rw_load32(&w->finishing) || rw_control_ready(w)) {
        w->linger.until_ns = 0;
        return false;
    }
    return rw_policy_lingers(&w->linger, w->o.linger_ns, sizeof(rw_block) + backlog, rw_now_ns());
}

/* The thread stays counted as one that watches: publishers do not ring, and it looks again. */
void rw_wal_linger(const rw_wal *w)
{
    uint64_t ns = w->o.linger_ns / RW_LINGER_LOOKS;
    const struct timespec nap = {
        .tv_nsec = (long)(ns < RW_LINGER_NAP_MOST ? ns : RW_LINGER_NAP_MOST)};
    nanosleep(&nap, NULL);
}
