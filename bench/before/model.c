/* The simulated I/O around the two ways: timers, submission, sleep. The same for both. */
#include "model.h"

#include "atomics.h"

#include <errno.h>
#include <linux/futex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct timer {
    uint64_t due_ns, sequence;
    uint32_t stream;
} timer;

/* A completer's private state: its timers as a binary heap, and what it submits next in each stream. */
typedef struct completer {
    model *shared;
    model_worker *worker;
    uint32_t me, count;
    uint64_t next[MODEL_STREAMS];
    timer heap[];
} completer;

uint64_t model_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t model_bytes(void) { return sizeof(model); }

void model_init(model *m, const model_options *o)
{
    memset(m, 0, sizeof *m);
    m->options = *o;
    pthread_mutexattr_t shared;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    for (uint32_t i = 0; i < o->streams; i++)
        pthread_mutex_init(&m->streams[i].lock, &shared);
    pthread_mutexattr_destroy(&shared);
}

/* splitmix64: the same draw for the same request, whoever asks. */
static double uniform(uint64_t seed, uint32_t stream, uint64_t n)
{
    uint64_t z = seed + (n * MODEL_STREAMS + stream + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

/* All three have about the mean that is asked for. Heavy: Pareto with shape 1.5, cut at 100 means. */
static uint64_t io_time(const model_options *o, uint32_t stream, uint64_t n)
{
    double u = uniform(o->seed, stream, n), mean = (double)o->mean_ns, t;
    switch (o->times) {
    case MODEL_EVEN:
        t = mean * (0.95 + 0.1 * u);
        break;
    case MODEL_EXPONENTIAL:
        t = -mean * log(u);
        break;
    default:
        t = mean / 3 * pow(u, -1 / 1.5);
        t = t < 100 * mean ? t : 100 * mean;
    }
    return (uint64_t)t;
}

static void push(completer *c, timer t)
{
    uint32_t i = c->count++;
    for (; i && c->heap[(i - 1) / 2].due_ns > t.due_ns; i = (i - 1) / 2)
        c->heap[i] = c->heap[(i - 1) / 2];
    c->heap[i] = t;
}

static timer pop(completer *c)
{
    timer top = c->heap[0], last = c->heap[--c->count];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < c->count; i = child) {
        if (child + 1 < c->count && c->heap[child + 1].due_ns < c->heap[child].due_ns)
            child++;
        if (c->heap[child].due_ns >= last.due_ns)
            break;
        c->heap[i] = c->heap[child];
    }
    c->heap[i] = last;
    return top;
}

/* Submits everything of this completer for which the stream has room. */
static void submit(completer *c, uint32_t stream)
{
    const model_options *o = &c->shared->options;
    model_stream *s = &c->shared->streams[stream];
    uint64_t limit = rw_load64(&s->head) + o->inflight, n = c->next[stream];
    for (; n < limit; n++) {
        if (model_owner(o, stream, n) != c->me)
            continue;
        model_slot *r = &s->slots[n % o->inflight];
        r->submitted_ns = model_now();
        r->due_ns = r->submitted_ns + io_time(o, stream, n);
        push(c, (timer){r->due_ns, n, stream});
    }
    c->next[stream] = n;
}

static void submit_fresh(completer *c)
{
    for (uint32_t i = 0; i < MODEL_STREAMS / 64; i++) {
        uint64_t bits = rw_load64(&c->worker->fresh[i]);
        while (bits && !rw_cas64(&c->worker->fresh[i], &bits, 0))
            ;
        for (; bits; bits &= bits - 1)
            submit(c, i * 64 + (uint32_t)__builtin_ctzll(bits));
    }
}

/* Sleeps until the first timer, the end, or a slot of ours is free. Announce, look again, sleep. */
static void rest(completer *c, uint64_t until_ns)
{
    model_worker *w = c->worker;
    rw_store32_seq(&w->parked, 1);
    bool fresh = false;
    for (uint32_t i = 0; i < MODEL_STREAMS / 64; i++)
        fresh |= rw_load64_seq(&w->fresh[i]) != 0;
    if (!fresh) {
        struct timespec at = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
        syscall(SYS_futex, &w->parked, FUTEX_WAIT_BITSET, 1, &at, NULL, FUTEX_BITSET_MATCH_ANY);
    }
    rw_store32_seq(&w->parked, 0);
}

/* The last one to come sets the start for all. */
static uint64_t meet(model *m)
{
    if (rw_add32(&m->ready, 1) + 1 == m->options.completers)
        rw_store64_seq(&m->start_ns, model_now());
    while (!rw_load64_seq(&m->start_ns))
        usleep(200);
    return m->start_ns;
}

int model_work(model *m, uint32_t me)
{
    const model_options *o = &m->options;
    completer *c = calloc(1, sizeof *c + (size_t)o->streams * o->inflight * sizeof(timer));
    if (!c)
        return -1;
    c->shared = m, c->worker = &m->workers[me], c->me = me;
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    uint64_t end = meet(m) + o->window_ns, now;
    for (uint32_t s = 0; s < o->streams; s++)
        submit(c, s);
    while ((now = model_now()) < end) {
        while (c->count && c->heap[0].due_ns <= now) {
            timer t = pop(c);
            model_complete(m, c->worker, t.stream, t.sequence);
        }
        submit_fresh(c);
        uint64_t until = c->count && c->heap[0].due_ns < end ? c->heap[0].due_ns : end;
        if (until > model_now())
            rest(c, until);
    }
    free(c);
    return 0;
}
