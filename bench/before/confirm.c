/* Before and after: see model.h. */
#include "model.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static model_slot *slot_of(const model *m, model_stream *s, uint64_t n) { return &s->slots[n % m->options.inflight]; }

static uint32_t bucket_of(uint64_t v)
{
    if (v < 32)
        return (uint32_t)v;
    uint32_t top = 63 - (uint32_t)__builtin_clzll(v);
    return ((top - 4) << 5) | (uint32_t)((v >> (top - 5)) & 31);
}

uint64_t model_bucket_floor(uint32_t bucket)
{
    if (bucket < 32)
        return bucket;
    return (uint64_t)(32 + (bucket & 31)) << ((bucket >> 5) - 1);
}

/* A contended lock is timed; a free one costs both ways the same single compare-and-set. Returns when it was got, for the
 * length of the hold, which is the same single clock read both ways. */
static uint64_t take(model_worker *w, pthread_mutex_t *lock)
{
    if (pthread_mutex_trylock(lock) != 0) {
        uint64_t from = model_now();
        pthread_mutex_lock(lock);
        w->contended++;
        w->wait_ns += model_now() - from;
    }
    w->holds++;
    return model_now();
}

static pthread_mutex_t *lock_of(model *m, uint32_t stream) { return &m->streams[stream % m->options.locks].lock; }

/* Confirms request n, the head. Under the lock. */
static void confirm(model *m, model_worker *w, uint32_t stream, uint64_t n)
{
    model_stream *s = &m->streams[stream];
    model_slot *r = slot_of(m, s, n);
    uint64_t now = model_now();
    if (r->due_ns > s->ideal_ns)
        s->ideal_ns = r->due_ns;
    w->latency[bucket_of(now - r->submitted_ns)]++;
    w->delay[bucket_of(now > s->ideal_ns ? now - s->ideal_ns : 0)]++;
    w->confirmed++;
    __atomic_store_n(&r->persisted, 0, __ATOMIC_RELAXED); /* the head's store publishes it */
}

/* Tells owners, outside the lock, that slots of theirs are free; one wake each. */
static void tell(model *m, model_worker *w, uint32_t stream, uint32_t owners)
{
    for (; owners; owners &= owners - 1) {
        model_worker *owner = &m->workers[__builtin_ctz(owners)];
        __atomic_fetch_or(&owner->fresh[stream / 64], 1ull << (stream % 64), __ATOMIC_SEQ_CST);
        if (owner != w && __atomic_load_n(&owner->parked, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&owner->parked, 0, __ATOMIC_SEQ_CST)) {
            syscall(SYS_futex, &owner->parked, FUTEX_WAKE, 1, NULL, NULL, 0);
            w->wakes++;
        }
    }
}

static void complete_before(model *m, model_worker *w, uint32_t stream, uint64_t sequence)
{
    model_stream *s = &m->streams[stream];
    bool first = true, more = true;
    while (more) {
        uint64_t got = take(w, lock_of(m, stream));
        if (first)
            slot_of(m, s, sequence)->persisted = 1;
        first = false;
        uint32_t owners = 0;
        uint64_t head = s->head;
        if (slot_of(m, s, head)->persisted) {
            confirm(m, w, stream, head);
            owners = 1u << model_owner(&m->options, stream, head);
            __atomic_store_n(&s->head, head + 1, __ATOMIC_RELEASE);
        }
        more = owners && slot_of(m, s, head + 1)->persisted;
        w->empty_holds += !owners;
        w->longest_run = w->longest_run ? w->longest_run : !!owners;
        w->hold_ns += model_now() - got;
        pthread_mutex_unlock(lock_of(m, stream));
        tell(m, w, stream, owners);
    }
}

static void complete_after(model *m, model_worker *w, uint32_t stream, uint64_t sequence)
{
    model_stream *s = &m->streams[stream];
    uint8_t unset = 0;
    __atomic_compare_exchange_n(&slot_of(m, s, sequence)->persisted, &unset, 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    if (__atomic_load_n(&s->head, __ATOMIC_SEQ_CST) != sequence)
        return; /* not the head: whoever completes the head, or is draining now, sees the flag */
    uint64_t got = take(w, lock_of(m, stream));
    uint32_t owners = 0;
    uint64_t run = 0, head = s->head;
    while (__atomic_load_n(&slot_of(m, s, head)->persisted, __ATOMIC_SEQ_CST)) {
        do {
            confirm(m, w, stream, head);
            owners |= 1u << model_owner(&m->options, stream, head);
            head++, run++;
        } while (run % m->options.inflight && __atomic_load_n(&slot_of(m, s, head)->persisted, __ATOMIC_ACQUIRE));
        __atomic_store_n(&s->head, head, __ATOMIC_SEQ_CST);
    }
    w->empty_holds += !run;
    w->longest_run = w->longest_run > run ? w->longest_run : run;
    w->hold_ns += model_now() - got;
    pthread_mutex_unlock(lock_of(m, stream));
    tell(m, w, stream, owners);
}

void model_complete(model *m, model_worker *w, uint32_t stream, uint64_t sequence)
{
    w->completed++;
    if (m->options.way == MODEL_BEFORE)
        complete_before(m, w, stream, sequence);
    else
        complete_after(m, w, stream, sequence);
}
