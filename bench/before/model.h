/* The two ways to confirm a stream in order, on the same queue, so that only the difference is measured.
 *
 * A stream is a ring of `inflight` requests. Request n may be submitted once n - inflight is confirmed; its I/O ends at a time
 * drawn in advance from (seed, stream, n), the same for both ways. COMPLETERS (threads or processes) own the requests in
 * turn: each keeps its own timers, completes what is due, and submits its next request when the slot is free.
 *
 *   BEFORE  lock; set the flag; if the head's flag is set confirm that one request; unlock; again while there is more.
 *   AFTER   set the flag by CAS, no lock. Whoever completed the head takes the lock and confirms the whole run behind it.
 *
 * Why AFTER misses nothing: a completer stores its flag and then reads the head; a drainer stores the head and then reads the
 * flag of the new head, all sequentially consistent. One of the two sees the other's store. Both may; then one of them finds
 * the head moved on, which is an empty hold.
 *
 * The lock is a pthread mutex shared between processes. `locks` says how many there are: 1 for all streams, or one a stream.
 * A slot's flag is cleared by the confirmation, before the head moves, so what an earlier lap left is never taken for done.
 */
#ifndef BENCH_BEFORE_MODEL_H
#define BENCH_BEFORE_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { MODEL_STREAMS = 128, MODEL_INFLIGHT = 512, MODEL_COMPLETERS = 8, MODEL_BUCKETS = 2048 };
enum model_way { MODEL_BEFORE, MODEL_AFTER };
enum model_times { MODEL_EVEN, MODEL_EXPONENTIAL, MODEL_HEAVY };

typedef struct model_options {
    uint32_t way, times, streams, inflight, completers, locks;
    uint64_t mean_ns, window_ns, seed;
} model_options;

typedef struct model_slot {
    uint64_t submitted_ns; /* by its owner, before the I/O */
    uint64_t due_ns;
    uint8_t persisted;
    uint8_t pad_[47];
} model_slot;

typedef struct model_stream {
    pthread_mutex_t lock;
    uint64_t head;    /* next request to be confirmed; changes under the lock only */
    uint64_t ideal_ns; /* when everything up to head was done: the largest due time so far. Under the lock */
    uint8_t pad_[64];
    model_slot slots[MODEL_INFLIGHT];
} model_stream;

/* One per completer: written by it alone, except `fresh` and `parked`. */
typedef struct model_worker {
    uint64_t fresh[MODEL_STREAMS / 64]; /* streams in which requests of this completer were confirmed; set by confirmers */
    uint32_t parked;                    /* futex */
    uint8_t pad_[44];
    uint64_t confirmed, holds, empty_holds, contended, wait_ns, hold_ns, longest_run, wakes, completed;
    uint64_t latency[MODEL_BUCKETS]; /* submission to confirmation */
    uint64_t delay[MODEL_BUCKETS];   /* from the moment it could have been confirmed to the moment it was */
} model_worker;

typedef struct model {
    model_options options;
    uint64_t start_ns;
    uint32_t ready;
    uint8_t pad_[64];
    model_worker workers[MODEL_COMPLETERS];
    model_stream streams[MODEL_STREAMS];
} model;

uint64_t model_bytes(void);
void model_init(model *m, const model_options *o);

/* The body of one completer: waits until all are there, works for window_ns. 0, or -1 without memory. */
int model_work(model *m, uint32_t completer);

/* A request's I/O has ended: what is compared. confirm.c */
void model_complete(model *m, model_worker *w, uint32_t stream, uint64_t sequence);

uint64_t model_now(void);
uint64_t model_bucket_floor(uint32_t bucket);

/* Who owns request n of stream s. */
static inline uint32_t model_owner(const model_options *o, uint32_t stream, uint64_t n)
{
    return (uint32_t)((n % o->inflight + stream) % o->completers);
}

#endif
