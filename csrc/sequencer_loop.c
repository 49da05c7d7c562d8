/* When the drain process looks again, and when it sleeps. */
#include "atomics.h"
#include "sequencer_state.h"
#include "tuning.h"
#include "wait.h"

#include <sched.h>

int rw_sequencer_idle(const rw_sequencer *s)
{
    return rw_load64_seq(&s->c->sealed) == rw_load64(&s->c->released);
}

/* PAIR: completions */
static int park(rw_sequencer *s, uint64_t timeout_ns)
{
    rw_control *c = s->c;
    rw_store32_seq(&c->drain_parked, 1);
    uint32_t seen = rw_load32_seq(&c->completions);
    int rc = rw_sequencer_step(s);
    if (rc == 0) {
        rw_count64(&c->drain_parks, 1);
        rc = rw_park(&c->completions, seen, timeout_ns);
    }
    rw_store32_seq(&c->drain_parked, 0);
    return rc;
}

/* Is somebody likely to wait for each of the few things that are under way? With more than that,
 * throughput is what counts: on a machine with few processors a spinning drain takes what writers
 * and WAL threads need, and it is woken once per block, which is then a large one. */
static bool few_under_way(const rw_sequencer *s)
{
    return !rw_contended(s->c) && s->waiting <= RW_FEW_REQUESTS &&
           rw_peek64(&s->c->sealed_end) - s->c->released_end <= RW_FEW_BYTES;
}

int rw_sequencer_work(rw_sequencer *s, uint64_t spin_ns, uint64_t timeout_ns)
{
    uint64_t now = rw_now_ns(), end = now + timeout_ns, spin_until = now + spin_ns,
             lull_until = now, loops_until = now;
    while (now < end) {
        int rc = rw_sequencer_step(s);
        now = rw_now_ns();
        if (rc < 0)
            return rc;
        if (rc > 0) {
            rw_callers_publish(&s->callers, s->c, now);
            spin_until = now + spin_ns;
            lull_until = now + RW_LULL_NS;
            if (s->rang)
                loops_until = now + RW_LOOPS_NS;
            s->rang = false;
        } else if (now >= loops_until && few_under_way(s) &&
                   now < (s->incomplete < s->registered ? spin_until : lull_until)) {
            sched_yield();
        } else {
            rc = park(s, end - now);
            if (rc == RW_MAINTENANCE || rc == RW_IO || rc == RW_INTERRUPTED)
                return rc;
            now = rw_now_ns();
            spin_until = now + spin_ns;
        }
    }
    return RW_PENDING;
}
