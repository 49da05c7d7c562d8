#define _GNU_SOURCE
/* A lane, the writer's end: what its threads wait for, room and completions. */
#include "lane_state.h"

#include "contention.h"
#include "tuning.h"
#include "wait.h"

#include <sched.h>

static int wait_room(rw_writer *w, uint64_t payload_bytes, uint64_t timeout_ns)
{
    uint64_t frame = rw_request_bytes(payload_bytes);
    rw_add32(&w->lane->room_waiters, 1);
    /* PAIR: room. The WAL process stores head and then looks at room_waiters. */
    uint32_t seen = rw_load32_seq(rw_low_half(&w->slot->head));
    int rc = rw_writer_usable(w);
    if (rc == RW_OK && !rw_writer_has_room(w, rw_load64(&w->lane->claim), frame)) {
        rc = rw_park(rw_low_half(&w->slot->head), seen, timeout_ns);
        if (rc == RW_OK)
            rc = rw_writer_usable(w);
    }
    rw_sub32(&w->lane->room_waiters, 1);
    return rc;
}

int rw_wait_room(rw_writer *w, uint64_t payload_bytes, uint64_t timeout_ns)
{
    uint64_t now = rw_now_ns(), end = now + timeout_ns;
    int rc;
    do {
        rc = wait_room(w, payload_bytes, end - now);
        now = rw_now_ns();
    } while (rc == RW_INTERRUPTED && now < end);
    return rc;
}

int64_t rw_completion_poll(const rw_writer *w, uint64_t number)
{
    const rw_completion *cell = w->cells + (number & w->mask);
    if (rw_load64(&cell->number) != number) /* PAIR: cell */
        return RW_PENDING;
    uint64_t found = rw_peek64(&cell->offset);
    rw_fence_acquire();
    if (rw_peek64(&cell->number) != number)
        return RW_PENDING;
    if (found == RW_DELETED_OFFSET)
        return RW_DELETED;
    /* what else is refused alone is a negative number as it stands */
    return found == RW_FAILED_OFFSET ? RW_FAILED_REQUEST : (int64_t)found;
}

/* Are so many requests under way, of few callers or of many, that the next confirmation is not
 * worth staying awake for? A hint: the words move while they are read. */
static bool more_under_way(const rw_writer *w, int64_t requests)
{
    uint64_t sealed = rw_load64(&w->c->sealed), released = rw_load64(&w->c->released);
    if (sealed <= released)
        return false;
    const rw_block_entry *last = rw_block_entry_of(w->c, sealed - 1);
    uint64_t end = rw_peek64(&last->requests) + rw_peek32(&last->frames);
    return (int64_t)(end - rw_peek64(&rw_block_entry_of(w->c, released)->requests)) > requests;
}

int64_t rw_completion_wait(rw_writer *w, uint64_t number, uint64_t spin_ns, uint64_t timeout_ns)
{
    int64_t rc = rw_completion_poll(w, number);
    if (rc != RW_PENDING)
        return rc;
    uint32_t missed = rw_peek32(&w->spins_missed);
    bool contended = rw_contended(w->c), long_writes = rw_writes_are_long(w->c);
    if ((missed >= RW_SPINS_MISSED_MAX && missed % RW_SPIN_RETRY != 0) ||
        (contended && !long_writes) ||
        more_under_way(w, long_writes ? RW_MANY_UNDER_LONG_WRITES : RW_MANY_UNDER_WAY))
        spin_ns = 0;
    else if (contended)
        spin_ns *= RW_CONTENTION_SPINS;
    if (spin_ns > timeout_ns)
        spin_ns = timeout_ns;
    rw_store32(&w->spins_missed, missed + 1);
    for (uint64_t end = rw_now_ns() + spin_ns; spin_ns != 0 && rw_now_ns() < end;) {
        sched_yield();
        rc = rw_completion_poll(w, number);
        if (rc != RW_PENDING) {
            rw_store32(&w->spins_missed, 0);
            return rc;
        }
    }
    rw_add32(&w->lane->completion_waiters, 1);
    /* PAIR: wake. The drain fills the cell, bumps `wake`, then looks at completion_waiters. */
    uint32_t seen = rw_load32_seq(&w->slot->wake);
    int parked = RW_OK;
    rc = rw_completion_poll(w, number);
    if (rc == RW_PENDING && rw_writer_waitable(w) == RW_OK) {
        parked = rw_park(&w->slot->wake, seen, timeout_ns - spin_ns);
        rc = rw_completion_poll(w, number);
    }
    rw_sub32(&w->lane->completion_waiters, 1);
    if (rc != RW_PENDING)
        return rc;
    int state = rw_writer_waitable(w);
    if (state == RW_OK)
        return parked == RW_INTERRUPTED ? RW_INTERRUPTED : RW_PENDING;
    /* The last confirmations may have come between the poll and the look at the state. */
    rc = rw_completion_poll(w, number);
    return rc == RW_PENDING ? state : rc;
}

int64_t rw_completion_settle(rw_writer *w, uint64_t number, uint64_t timeout_ns)
{
    uint64_t now = rw_now_ns(), end = now + timeout_ns;
    int64_t rc;
    do {
        rc = rw_completion_wait(w, number, 0, end - now);
        now = rw_now_ns();
    } while (rc == RW_INTERRUPTED && now < end);
    return rc;
}
