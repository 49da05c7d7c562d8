/* The way of a request from its writer through a WAL thread and the drain back to its writer, with every sleep on it.
 *
 * Roles
 *   writer k     publishes REQUESTS requests, rings if the doorbell wants it, then sleeps until all of them are confirmed
 *   wal t        watches the lanes; takes one request into a block under the compose lock; persists it; tells the drain; sleeps as
 *                the sentinel on the eventfd, or idle on a private futex
 *   drain        confirms what is persisted, wakes the writers that wait, sleeps on `completions`
 *   monitor      when nothing can run any more: everything is taken, confirmed, and every writer is done
 *
 * The same protocols as test_doorbell.py, test_drain_park.py and test_completion.py, composed: a lost wake-up anywhere on the
 * way ends in the monitor's assertion. Memory is sequentially consistent; a missing fence between a store and a load is
 * written as the load before the store, which is all that a store buffer can do to one pair.
 *
 * Sequence numbers and futex values are compared only for equality with a remembered value, so a flag takes their place:
 * "the word is still as I read it", cleared by every change. last_rung == doorbell becomes rung[k].
 *
 * Mutants: spin -D and one of NO_PUBLISH_FENCE, NO_LOOK_BEFORE_IDLE, NO_LOOK_AS_SENTINEL, NO_SEQUENCE, NO_DRAIN_LOOK,
 * BUMP_BEFORE_PERSISTED, NO_WRITER_LOOK, WAITERS_BEFORE_WAKE. test_spin.py runs them all.
 *
 * Leaves out: a full ring, kills, what is in a record.
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef REQUESTS
#define REQUESTS 1
#endif
#ifndef THREADS
#define THREADS 2
#endif

byte lane[WRITERS];      /* published, by writer */
byte taken[WRITERS];     /* under the compose lock */
byte persisted[WRITERS];
byte confirmed[WRITERS];

byte watchers;           /* these two are one word, the doorbell */
bool sentinel;
bool rung[WRITERS];
bool eventfd;
bool compose_lock;
byte writing;
byte idle_count;
bool idle_seen[THREADS];
bool idle_asleep[THREADS];

bool drain_parked;
bool completions_seen;
bool drain_asleep;

bool waiting[WRITERS];
bool wake_seen[WRITERS];
bool writer_asleep[WRITERS];
bool done[WRITERS];

inline changed_doorbell()
{
#ifndef NO_SEQUENCE
    k = 0;
    do
    :: k < WRITERS -> rung[k] = false; k++
    :: else -> break
    od;
#endif
    k = 0
}

/* Sets `found` to whether a lane holds a request that is not taken; `k` says which. One step for each lane. */
inline look()
{
    found = false;
    k = 0;
    do
    :: atomic { k < WRITERS && lane[k] > taken[k] -> found = true; break }
    :: atomic { k < WRITERS && lane[k] == taken[k] -> k++ }
    :: atomic { k == WRITERS -> k = 0; break }
    od
}

#ifdef DOORBELL_ONLY
#define tell_drain() skip
#else
inline tell_drain()
{
    completions_seen = false;
    if
    :: atomic { drain_parked -> drain_asleep = false }
    :: else
    fi
}
#endif

active [THREADS] proctype wal()
{
    byte k, mine, t = _pid;
    bool found, became;
    atomic { watchers++; changed_doorbell() }
watch:
    if
    :: atomic { !compose_lock -> compose_lock = true }
    :: atomic { compose_lock -> goto sleep }
    fi;
    if
    :: atomic { writing > 0 -> compose_lock = false; goto sleep } /* not worth a further block */
    :: true
    fi;
    look();
    if
    :: atomic { !found -> compose_lock = false; goto sleep }
    :: atomic { found -> taken[k]++; mine = k; k = 0; found = false; writing++ }
    fi;
    atomic { watchers--; changed_doorbell() }
    compose_lock = false;
    if
    :: sentinel -> eventfd = true /* more is left behind: rouse a helper */
    :: atomic { !sentinel && idle_count > 0 ->
        k = 0;
        do
        :: k < THREADS -> idle_seen[k] = false; k++
        :: else -> break
        od;
        k = 0;
        if
        :: idle_asleep[0] -> idle_asleep[0] = false
#if THREADS > 1
        :: idle_asleep[1] -> idle_asleep[1] = false
#endif
#if THREADS > 2
        :: idle_asleep[2] -> idle_asleep[2] = false
#endif
        :: else
        fi }
    :: true
    fi;
#ifdef BUMP_BEFORE_PERSISTED
    tell_drain();
    persisted[mine]++;
#else
    persisted[mine]++;
    tell_drain();
#endif
    atomic { mine = 0; watchers++; changed_doorbell() }
    writing--;
    goto watch;

sleep:
    if
    :: sentinel -> goto idle
    :: else
    fi;
    if
    :: writing > 0 -> goto idle
    :: else
    fi;
    atomic { !compose_lock -> compose_lock = true }
    atomic {
        became = !sentinel;
        if
        :: became -> sentinel = true; watchers--; changed_doorbell()
        :: else
        fi
    }
    found = false;
#ifndef NO_LOOK_AS_SENTINEL
    if
    :: became -> look()
    :: else
    fi;
#endif
    compose_lock = false;
    if
    :: atomic { !became -> goto watch }
    :: atomic { became && found -> found = false; k = 0 }
    :: became && !found -> eventfd; eventfd = false
    fi;
    atomic { became = false; sentinel = false; watchers++; changed_doorbell() }
    goto watch;

idle:
    idle_count++;
    idle_seen[t] = true;
    atomic { watchers--; changed_doorbell() }
    if
    :: sentinel -> skip
    :: else ->
        if
        :: writing > 0 -> skip
        :: else -> goto up
        fi
    fi;
#ifndef NO_LOOK_BEFORE_IDLE
    if
    :: writing > 0 -> skip
    :: else ->
        atomic { !compose_lock -> compose_lock = true }
        look();
        compose_lock = false;
        if
        :: atomic { found -> found = false; k = 0; goto up }
        :: else
        fi
    fi;
#endif
    atomic {
        if
        :: idle_seen[t] -> idle_asleep[t] = true; idle_seen[t] = false
        :: else
        fi
    }
    !idle_asleep[t];
up:
    atomic { watchers++; idle_seen[t] = false; changed_doorbell() }
    idle_count--;
    goto watch
}

inline ring_if_wanted()
{
    if
    :: atomic { watchers == 0 && sentinel && !rung[w] -> rung[w] = true }; eventfd = true
    :: else
    fi
}

#ifndef DOORBELL_ONLY
/* The drain's look: every writer's requests that are persisted. */
inline confirm()
{
    moved = false;
    w = 0;
    do
    :: atomic { w < WRITERS && persisted[w] > confirmed[w] -> confirmed[w] = persisted[w]; moved = true }
#ifdef WAITERS_BEFORE_WAKE
        if
        :: atomic { waiting[w] -> writer_asleep[w] = false }
        :: else
        fi;
        wake_seen[w] = false;
#else
        wake_seen[w] = false;
        if
        :: atomic { waiting[w] -> writer_asleep[w] = false }
        :: else
        fi;
#endif
        w++
    :: atomic { w < WRITERS && persisted[w] == confirmed[w] -> w++ }
    :: atomic { w == WRITERS -> w = 0; break }
    od
}

active proctype drain()
{
    byte w;
    bool moved;
    do
    :: confirm();
       if
       :: moved -> moved = false
       :: else ->
           drain_parked = true;
           completions_seen = true;
#ifndef NO_DRAIN_LOOK
           confirm();
#endif
           if
           :: atomic { moved || !completions_seen -> moved = false; completions_seen = false }
           :: atomic { !moved && completions_seen -> drain_asleep = true; completions_seen = false }; !drain_asleep
           fi;
           drain_parked = false
       fi
    od
}

#endif

active [WRITERS] proctype writer()
{
#ifdef DOORBELL_ONLY
    byte w = _pid - THREADS, n;
#else
    byte w = _pid - THREADS - 1, n;
#endif
    do
    :: n < REQUESTS ->
#ifdef NO_PUBLISH_FENCE
        bool wanted = false;
        if
        :: atomic { watchers == 0 && sentinel && !rung[w] -> rung[w] = true; wanted = true }
        :: else
        fi;
        lane[w]++;
        if
        :: wanted -> eventfd = true
        :: else
        fi;
#else
        lane[w]++;
        ring_if_wanted();
#endif
        n++
    :: else -> break
    od;
#ifdef DOORBELL_ONLY
    done[w] = true
#else
    do
    :: confirmed[w] == REQUESTS -> break
    :: else ->
        waiting[w] = true;
        wake_seen[w] = true;
#ifndef NO_WRITER_LOOK
        if
        :: confirmed[w] == REQUESTS -> break
        :: else
        fi;
#endif
        atomic {
            if
            :: wake_seen[w] -> writer_asleep[w] = true; wake_seen[w] = false
            :: else
            fi
        }
        !writer_asleep[w];
        waiting[w] = false
    od;
    atomic { waiting[w] = false; wake_seen[w] = false; done[w] = true }
#endif
}

active proctype monitor()
{
    byte w;
    timeout;
    do
    :: atomic { w < WRITERS -> assert(taken[w] == REQUESTS && done[w]); w++ }
    :: else -> break
    od
}
