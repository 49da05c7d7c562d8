/* Before and after: see model.h. */
#include "model.h"

#include "atomics.h"

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
    r->persisted = 0; /* nobody else looks at it until the head has moved on */
}

/* Tells owners, outside the lock, that slots of theirs are free; one wake each. */
static void tell(model *m, model_worker *w, uint32_t stream, uint32_t owners)
{
    for (; owners; owners &= owners - 1) {
        model_worker *owner = &m->workers[__builtin_ctz(owners)];
        uint64_t *word = &owner->fresh[stream / 64], seen = rw_peek64(word);
        while (!rw_cas64(word, &seen, seen | 1ull << (stream % 64)))
            ;
        uint32_t asleep = 1;
        if (owner != w && rw_load32_seq(&owner->parked) && rw_cas32(&owner->parked, &asleep, 0)) {
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
            rw_store64(&s->head, head + 1);
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
    rw_cas8(&slot_of(m, s, sequence)->persisted, 0, 1);
    if (rw_load64_seq(&s->head) != sequence)
        return; /* not the head: whoever completes the head, or is draining now, sees the flag */
    uint64_t got = take(w, lock_of(m, stream));
    uint32_t owners = 0;
    uint64_t run = 0, head = s->head;
    while (rw_load8(&slot_of(m, s, head)->persisted)) {
        do {
            confirm(m, w, stream, head);
            owners |= 1u << model_owner(&m->options, stream, head);
            head++, run++;
        } while (run % m->options.inflight && rw_load8(&slot_of(m, s, head)->persisted));
        rw_store64_seq(&s->head, head);
        rw_fence(); /* before the flag of the new head is read */
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
