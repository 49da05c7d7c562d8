/* THE DOORBELL: how a publisher knows whether the WAL process has to be woken.
 *
 * One word in control, changed only by WAL threads, by CAS:
 *
 *   bits 0-7    how many WAL threads watch the lanes (they will look again without being asked)
 *   bit  8      a sentinel: one WAL thread sleeps on the doorbell's eventfd, or is about to
 *   bits 9-63   sequence, bumped by every change; it never comes round
 *
 * A publisher rings if nobody watches and there is a sentinel. It remembers the value for which it
 * rang, so that one lane rings at most once for one state of the doorbell; the eventfd keeps the
 * ring until the sentinel takes it.
 *
 * WAL threads (wal_threads.c):
 *   watch           look at the lanes; take the compose lock; compose; seal
 *   leave to write  watchers - 1; rouse a helper if enough for another block is left
 *   sleep           if no block is being written and there is no sentinel: become it (watchers
 *                   - 1, sentinel set, look once more, poll the eventfd). Else leave (watchers -
 *                     1),
 *                   look once more unless a block is being written, and sleep on a private futex
 *                   until a helper is wanted
 *   come back       a thread whose block is written always watches again, and looks at the lanes;
 *                   under contention after a few naps (contention.h), in which it counts as
 *                   watching
 *
 * A write that takes long (RW_SLOW_NS) no longer counts as one whose thread looks soon: beside it,
 * small blocks are opened at once and a sentinel is kept. One idle thread, the guard, wakes up
 * after that time to find it out; there is a guard only while something is being written.
 *
 * Nothing is missed: a publisher stores `valid`, fences, loads the doorbell; a WAL thread changes
 * the doorbell (a sequentially consistent CAS) and then loads `valid`. If the publisher saw a
 * watcher, that watcher's change of the doorbell comes later in the total order: either it became
 * the sentinel or went to sleep beside one, and its last look finds the request; or it writes a
 * block, or sleeps while another thread does, and the writing thread looks when that is done. If
 * the publisher saw neither watcher nor sentinel, some thread writes a block, and looks when that
 * is done: the last thread never sleeps anywhere but in the sentinel's place.
 *                                                                            PAIR: publish/doorbell
 *
 * TWO EVENTFDS. The sentinel polls two: the doorbell, which clients ring, and the engine's inner
 * one, which its own processes ring, whatever for. Whether a write to an eventfd may block is a
 * flag of the open file, which all share that have it. So a client may make the doorbell blocking
 * and fill it, and of the engine nobody writes to it; the sentinel reads it without waiting.
 */
#ifndef RW_DOORBELL_H
#define RW_DOORBELL_H

#include "atomics.h"
#include "invariant.h"

#define RW_DOORBELL_WATCHERS 0xffull
#define RW_DOORBELL_SENTINEL 0x100ull
#define RW_DOORBELL_STEP     0x200ull

static inline bool rw_doorbell_wanted(uint64_t doorbell)
{
    return (doorbell & (RW_DOORBELL_WATCHERS | RW_DOORBELL_SENTINEL)) == RW_DOORBELL_SENTINEL;
}

/* Adds `watchers` (-1, 0, 1) and sets (1) or clears (-1) the sentinel. False, and no change, if the
 * sentinel's place is wanted and taken. */
static inline bool rw_doorbell_change(uint64_t *doorbell, int64_t watchers, int64_t sentinel)
{
    uint64_t old = rw_peek64(doorbell), next;
    do {
        if (sentinel > 0 && (old & RW_DOORBELL_SENTINEL))
            return false;
        RW_ASSERT(watchers >= 0 || (old & RW_DOORBELL_WATCHERS) != 0);
        RW_ASSERT(watchers <= 0 || (old & RW_DOORBELL_WATCHERS) != RW_DOORBELL_WATCHERS);
        next =
            old + (uint64_t)watchers + (uint64_t)sentinel * RW_DOORBELL_SENTINEL + RW_DOORBELL_STEP;
    } while (!rw_cas64(doorbell, &old, next));
    return true;
}

#endif
