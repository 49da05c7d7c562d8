#define _GNU_SOURCE
/* The drain's end of the lanes: who is attached, who is woken, who has nothing left. */
#include "invariant.h"
#include "points.h"
#include "sequencer_state.h"
#include "stream.h"
#include "wait.h"

#include <limits.h>

enum { WANT_ATTACH = 1, WANT_DETACH = 2 };

static void want(rw_sequencer *s, int what, uint32_t slot, uint32_t generation)
{
    s->want = what;
    s->want_slot = slot;
    s->want_generation = generation;
}

/* Is the lane of this writer attached? If its slot has moved on, nobody waits for it and that is
 * all right. */
bool rw_sequencer_knows(rw_sequencer *s, uint32_t slot, uint32_t generation)
{
    client *cl = &s->clients[slot];
    if (cl->generation == generation)
        return true;
    const rw_slot *shared = rw_slot_of(s->c, slot);
    if (rw_load32(&shared->state) == RW_SLOT_FREE || rw_load32(&shared->generation) != generation)
        return true;
    want(s, WANT_ATTACH, slot, generation);
    return false;
}

static void wake_all(rw_slot *slot)
{
    rw_add32(&slot->wake, 1);
    rw_unpark(&slot->wake, INT_MAX);
}

/* Everything of this step that its owner may look at is stored before. Loaded before the table of
 * tails (wait.h, THE BELL). PAIR: bell */
static bool bell_wanted(const client *cl)
{
    return cl->bell_fd >= 0 && rw_load32_seq(&cl->lane->bell_wanted) != 0;
}

/* Once per batch: all cells of a step are filled before anybody is woken in it. */
static void ring(rw_sequencer *s, client *cl)
{
    if (cl->rung == s->step)
        return;
    cl->rung = s->step;
    rw_signal_fd(cl->bell_fd);
    s->rang = true;
    rw_count64(&s->c->drain_rings, 1);
}

/* Threads that tail a stream which advanced in this step, or several, which wait for released_end;
 * and loops. PAIR: tail, PAIR: bell */
void rw_sequencer_wake_tails(rw_sequencer *s)
{
    for (uint32_t k = 0; k < s->c->max_clients; k++) {
        client *cl = &s->clients[k];
        const rw_lane *lane = cl->lane;
        if (lane == NULL)
            continue;
        bool wanted = bell_wanted(cl), moved = rw_load32_seq(&lane->tail_any) != 0;
        if (moved)
            wake_all(rw_slot_of(s->c, k));
        for (uint32_t i = 0; i < RW_TAIL_INTERESTS; i++) {
            uint32_t place = rw_load32_seq(&lane->tail_streams[i]) - 1;
            if (place < s->c->max_streams && s->advanced[place] == s->step) {
                rw_unpark(rw_low_half(&rw_stream_of(s->c, place)->confirmed_offset), INT_MAX);
                moved = true;
            }
        }
        if (wanted && moved)
            ring(s, cl);
    }
}

/* Once per writer and batch. PAIR: wake, PAIR: bell */
void rw_sequencer_wake_writers(rw_sequencer *s)
{
    (void)RW_POINT("d.wake.pre");
    for (uint32_t i = 0; i < s->dirty_count; i++) {
        uint32_t k = s->dirty[i];
        client *cl = &s->clients[k];
        rw_slot *slot = rw_slot_of(s->c, k);
        cl->dirty = 0;
        rw_callers_add(&s->callers, k);
        rw_add32(&slot->wake, 1);
        if (cl->lane == NULL)
            continue;
        if (rw_load32_seq(&cl->lane->completion_waiters) != 0) {
            rw_unpark(&slot->wake, INT_MAX);
            rw_count64(&s->c->drain_wakes, 1);
        }
        if (bell_wanted(cl))
            ring(s, cl);
    }
    s->dirty_count = 0;
}

/* New writers and tailers are attached, so that they can be woken; slots that are closing and have
 * nothing left, let go of. */
int rw_sequencer_check_membership(rw_sequencer *s)
{
    uint32_t membership = rw_load32(&s->c->membership);
    if (membership == s->membership_seen && s->closing == 0)
        return RW_OK;
    s->closing = 0;
    for (uint32_t k = 0; k < s->c->max_clients; k++) {
        const rw_slot *slot = rw_slot_of(s->c, k);
        uint32_t state = rw_load32(&slot->state), generation = rw_load32(&slot->generation);
        if (state == RW_SLOT_ACTIVE && s->clients[k].generation != generation) {
            want(s, WANT_ATTACH, k, generation);
            return RW_MAINTENANCE;
        }
        if (state != RW_SLOT_CLOSING || rw_load32(&slot->drain_done) == generation)
            continue;
        s->closing++;
        /* Nothing of it comes any more once the WAL process has let go and every block sealed by
         * then is registered. */
        if (rw_load32_seq(&slot->wal_done) == generation &&
            rw_load64_seq(&s->c->sealed) == s->registered &&
            (s->clients[k].generation != generation || s->clients[k].outstanding == 0)) {
            want(s, WANT_DETACH, k, generation);
            return RW_MAINTENANCE;
        }
    }
    s->membership_seen = membership;
    return RW_OK;
}

int rw_sequencer_wants(rw_sequencer *s, uint32_t *slot, uint32_t *generation)
{
    int want = s->want;
    *slot = s->want_slot;
    *generation = s->want_generation;
    s->want = 0;
    return want;
}

int rw_sequencer_attach_lane(rw_sequencer *s, uint32_t slot, rw_lane *lane, uint32_t generation,
                             int bell_fd)
{
    client *cl = &s->clients[slot];
    *cl = (client){
        .lane = lane, .generation = generation, .bell_fd = bell_fd, .rung = UINT64_MAX};
    if (lane == NULL)
        return RW_OK;
    /* Whoever sleeps there may sleep on something that was confirmed before anyone looked at this
     * lane. */
    wake_all(rw_slot_of(s->c, slot));
    for (uint32_t i = 0; i < RW_TAIL_INTERESTS; i++) {
        uint32_t place = rw_load32_seq(&lane->tail_streams[i]) - 1;
        if (place < s->c->max_streams)
            rw_unpark(rw_low_half(&rw_stream_of(s->c, place)->confirmed_offset), INT_MAX);
    }
    if (bell_wanted(cl))
        ring(s, cl);
    return RW_OK;
}

int rw_sequencer_detach_lane(rw_sequencer *s, uint32_t slot)
{
    rw_slot *shared = rw_slot_of(s->c, slot);
    uint32_t generation = rw_load32(&shared->generation);
    s->clients[slot] = (client){0};
    (void)RW_POINT("d.detach.mid");
    rw_store64(&shared->confirmed, 0);
    rw_store32_seq(&shared->drain_done, generation);
    return RW_OK;
}

