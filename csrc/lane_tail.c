/* Following: who sleeps until a stream, or the log, is confirmed beyond some place. */
#include "lane_state.h"
#include "memory.h"
#include "stream.h"
#include "wait.h"

#include <sched.h>

int rw_writer_waitable(const rw_writer *w)
{
    uint32_t state = rw_load32(&w->c->state);
    if ((state != RW_RUNNING && state != RW_STOPPING) || rw_supervisor_died(w->c))
        return RW_GONE;
    return rw_load32(&w->slot->fault) == w->generation ? RW_FAULT : RW_OK;
}

/* A place in the lane's table of streams that threads tail, or RW_TAIL_INTERESTS if all are taken.
 */
static uint32_t interest_take(rw_lane *lane, uint32_t place)
{
    uint32_t i = 0;
    for (; i < RW_TAIL_INTERESTS; i++) {
        uint32_t empty = 0;
        if (rw_cas32(&lane->tail_streams[i], &empty, place + 1))
            return i;
    }
    rw_add32(&lane->tail_any, 1);
    return i;
}

static void interest_drop(rw_lane *lane, uint32_t i)
{
    if (i < RW_TAIL_INTERESTS)
        rw_store32_seq(&lane->tail_streams[i], 0);
    else
        rw_sub32(&lane->tail_any, 1);
}

/* RW_OK: confirmed beyond `seen`; RW_PENDING: not yet; RW_DELETED. */
static int tail_look(const rw_writer *w, uint64_t stream, uint64_t seen)
{
    rw_stream_bounds now;
    if (rw_stream_look(w->c, stream, &now) != RW_OK)
        return RW_DELETED;
    return now.confirmed_offset > seen ? RW_OK : RW_PENDING;
}

int rw_tail_wait(rw_writer *w, uint64_t stream, uint64_t seen, uint64_t spin_ns,
                 uint64_t timeout_ns)
{
    const rw_stream *s = rw_stream_of(w->c, rw_handle_place(stream));
    int found = tail_look(w, stream, seen);
    for (uint64_t end = rw_now_ns() + spin_ns;
         found == RW_PENDING && spin_ns != 0 && rw_now_ns() < end;) {
        sched_yield();
        found = tail_look(w, stream, seen);
    }
    if (found != RW_PENDING)
        return found;
    int rc = RW_OK;
    uint32_t place = interest_take(w->lane, rw_handle_place(stream));
    /* PAIR: tail. The drain stores confirmed_offset (and bumps `wake` for those in tail_any), then
     * looks at the tables. A DELETE changes no word that is slept on: one that comes between the
     * look and the sleep is noticed with the next look only. */
    const uint32_t *word =
        place < RW_TAIL_INTERESTS ? rw_low_half(&s->confirmed_offset) : &w->slot->wake;
    uint32_t value = rw_load32_seq(word);
    if (tail_look(w, stream, seen) == RW_PENDING && rw_writer_waitable(w) == RW_OK)
        rc = rw_park(word, value, timeout_ns);
    interest_drop(w->lane, place);
    found = tail_look(w, stream, seen);
    if (found != RW_PENDING)
        return found;
    if (rw_writer_waitable(w) != RW_OK)
        return rw_writer_waitable(w);
    return rc == RW_OK ? RW_PENDING : rc;
}

/* PAIR: bell. The fence keeps the caller's next look, of whatever order, behind the store. */
void rw_bell_want(rw_writer *w, uint32_t wanted)
{
    rw_store32_seq(&w->lane->bell_wanted, wanted);
    rw_fence();
}

int rw_tail_watch(rw_writer *w, uint64_t stream)
{
    uint32_t place = RW_TAIL_INTERESTS;
    if (stream == RW_ANY_STREAM)
        rw_add32(&w->lane->tail_any, 1);
    else
        place = interest_take(w->lane, rw_handle_place(stream));
    rw_fence(); /* as in rw_bell_want. PAIR: bell */
    return (int)place;
}

void rw_tail_unwatch(rw_writer *w, int place) { interest_drop(w->lane, (uint32_t)place); }

static bool log_beyond(const rw_writer *w, uint64_t position)
{
    return rw_load64_seq(&w->c->released_end) > position;
}

int rw_log_wait(rw_writer *w, uint64_t position, uint64_t timeout_ns)
{
    if (log_beyond(w, position))
        return RW_OK;
    int rc = RW_OK;
    rw_add32(&w->lane->tail_any, 1);
    /* PAIR: tail. The drain stores released_end, then looks at tail_any, and bumps `wake`. */
    uint32_t seen = rw_load32_seq(&w->slot->wake);
    if (!log_beyond(w, position) && rw_writer_waitable(w) == RW_OK)
        rc = rw_park(&w->slot->wake, seen, timeout_ns);
    rw_sub32(&w->lane->tail_any, 1);
    if (log_beyond(w, position))
        return RW_OK;
    if (rw_writer_waitable(w) != RW_OK)
        return rw_writer_waitable(w);
    return rc == RW_OK ? RW_PENDING : rc;
}
