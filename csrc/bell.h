/* THE BELL: how a publisher knows whether the WAL process has to be woken.
 *
 * One word in control, changed only by WAL threads, by CAS:
 *
 *   bits 0-7    how many WAL threads watch the lanes (they will look again without being asked)
 *   bit  8      a sentinel: one WAL thread sleeps on the bell's eventfd, or is about to
 *   bits 9-31   sequence, bumped by every change
 *
 * A publisher rings if nobody watches and there is a sentinel. It remembers the value for which it rang, so that one
 * lane rings at most once for one state of the bell; the eventfd keeps the ring until the sentinel takes it.
 *
 * WAL threads (wal.c):
 *   watch           look at the lanes; take the compose turn; compose; seal
 *   leave to write  watchers - 1, then look at the lanes once more, and rouse a helper if something is there
 *   sleep           the first one becomes the sentinel (watchers - 1, sentinel set, look once more, poll the eventfd);
 *                   the others sleep on a private futex until the sentinel's place is free
 *   a thread whose block is written always goes back to watching
 *
 * Nothing is missed: a publisher stores `valid`, fences, loads the bell; a WAL thread changes the bell (a sequentially
 * consistent CAS) and then loads `valid`. If the publisher saw a watcher, that watcher's change of the bell comes later in
 * the total order, and so does its last look, which finds the request. If there was no sentinel and no watcher, every thread
 * is busy with a block, and looks when it is done.                                         PAIR: publish/bell
 */
#ifndef RW_BELL_H
#define RW_BELL_H

#include "atomics.h"

#define RW_BELL_WATCHERS 0xffu
#define RW_BELL_SENTINEL 0x100u
#define RW_BELL_STEP     0x200u

static inline bool rw_bell_wanted(uint32_t bell) { return (bell & (RW_BELL_WATCHERS | RW_BELL_SENTINEL)) == RW_BELL_SENTINEL; }

/* Adds `watchers` (-1, 0, 1) and sets (1) or clears (-1) the sentinel. False, and no change, if the sentinel's place is
 * wanted and taken. */
static inline bool rw_bell_change(uint32_t *bell, int watchers, int sentinel)
{
    uint32_t old = rw_peek32(bell), next;
    do {
        if (sentinel > 0 && (old & RW_BELL_SENTINEL))
            return false;
        next = old + (uint32_t)watchers + (uint32_t)sentinel * RW_BELL_SENTINEL + RW_BELL_STEP;
    } while (!rw_cas32(bell, &old, next));
    return true;
}

#endif
