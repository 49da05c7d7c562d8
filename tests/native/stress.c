/* All roles as threads on one mapping, so that the thread sanitizer sees every one of them: writers
 * (several per lane), the WAL pool, the drain, a tailer, and the WAL process's main thread. Two
 * generations of each lane.
 *
 *   stress [SEED [REQUESTS]]     REQUESTS per writer thread and generation
 */
#define _GNU_SOURCE
#include "rig.h"

#include "memory.h"
#include "sequencer.h"
#include "stream.h"
#include "wait.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define GENERATIONS 2u
#define WRITERS_MAX (RIG_LANES * 4u)

typedef struct writer_thread {
    pthread_t thread;
    rw_writer *w;
    uint32_t lane, generation, index, of; /* the index-th of `of` threads on this lane */
    rig_result *results;
} writer_thread;

static rig the_rig;
static uint32_t requests;
static rw_wal *wal;
static uint32_t stop_drain, stop_maintenance;

static uint32_t threads_of(uint32_t lane) { return 1u << lane % 3; }

/* The threads of one lane share its completion cells: number n belongs to thread n % of. */
static uint64_t number_of(const writer_thread *t, uint64_t i)
{
    return (uint64_t)t->generation << 32 | ((i + 1) * t->of + t->index);
}

static void settle(writer_thread *t, uint64_t i, uint64_t *last)
{
    int64_t offset = RW_PENDING;
    while (offset == RW_PENDING) /* woken for another thread's result */
        offset = rw_completion_wait(t->w, number_of(t, i), i % 2 ? 20000 : 0, RIG_FOREVER);
    RIG_REQUIRE(offset >= 0);
    rig_request q =
        rig_request_of(&the_rig, t->lane, number_of(t, i), rw_writer_record_limit(t->w));
    RIG_REQUIRE(last[q.stream] == UINT64_MAX || (uint64_t)offset > last[q.stream]); /* call order */
    RIG_REQUIRE(rw_stream_confirmed(the_rig.c, rw_handle(q.stream, q.stream)) >=
                (uint64_t)offset + q.count);
    last[q.stream] = (uint64_t)offset;
    t->results[i] =
        (rig_result){.lane = t->lane, .number = number_of(t, i), .offset = (uint64_t)offset};
}

static void *write_requests(void *argument)
{
    writer_thread *t = argument;
    uint64_t last[RIG_STREAMS], window = (t->lane + t->index) % 3 ? RIG_COMPLETIONS / t->of : 1,
                                settled = 0;
    memset(last, 0xff, sizeof last);
    uint8_t *scratch = malloc(rw_writer_record_limit(t->w) + 8);
    for (uint64_t i = 0; i < requests; i++) {
        while (i - settled >= window)
            settle(t, settled++, last);
        rig_append(&the_rig, t->w, t->lane, number_of(t, i), scratch);
    }
    while (settled < requests)
        settle(t, settled++, last);
    free(scratch);
    return NULL;
}

static void *pool(void *argument)
{
    RIG_REQUIRE(rw_wal_work(wal, *(uint32_t *)argument) == RW_OK);
    return NULL;
}

static void *drain(void *argument)
{
    rw_sequencer *s = argument;
    while (!rw_load32(&stop_drain)) {
        int rc = rw_sequencer_work(s, 50000, RIG_FOREVER);
        RIG_REQUIRE(rc == RW_MAINTENANCE || rc == RW_PENDING || rc == RW_INTERRUPTED);
        uint32_t slot, generation;
        int wanted = rw_sequencer_wants(s, &slot, &generation);
        if (wanted == 1)
            rw_sequencer_attach_lane(s, slot, the_rig.lanes[slot], generation, -1);
        else if (wanted == 2)
            rw_sequencer_detach_lane(s, slot);
    }
    return NULL;
}

/* The WAL process's main thread: segments, the next one when asked for, or one more ahead. */
static void *maintenance(void *argument)
{
    (void)argument;
    while (!rw_load32(&stop_maintenance)) {
        struct pollfd p = {.fd = the_rig.maintenance, .events = POLLIN};
        poll(&p, 1, -1);
        uint64_t rings;
        RIG_REQUIRE(read(the_rig.maintenance, &rings, sizeof rings) == sizeof rings);
        rig_add_segments(&the_rig, wal, 0, 1 + (the_rig.seed & 1));
    }
    return NULL;
}

/* Follows the hot stream until it has seen `argument` records. */
static void *tail(void *argument)
{
    uint64_t end = *(uint64_t *)argument, seen = 0;
    rw_writer *w = rw_writer_open(the_rig.c, the_rig.lanes[RIG_LANES], the_rig.doorbell);
    while (seen < end) {
        RIG_REQUIRE(rw_tail_wait(w, 0, seen, 0, RIG_FOREVER) >= RW_PENDING);
        uint64_t now = rw_stream_confirmed(the_rig.c, 0);
        RIG_REQUIRE(now >= seen);
        seen = now;
    }
    rw_writer_close(w);
    return NULL;
}

static uint32_t start_writers(writer_thread *threads, uint32_t generation, rig_result *results)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < RIG_LANES; k++) {
        rig_open_lane(&the_rig, k, generation);
        rw_wal_attach_lane(wal, k, the_rig.lanes[k], generation);
        rw_writer *w = rw_writer_open(the_rig.c, the_rig.lanes[k], the_rig.doorbell);
        for (uint32_t i = 0; i < threads_of(k); i++, n++) {
            threads[n] = (writer_thread){.w = w,
                                         .lane = k,
                                         .generation = generation,
                                         .index = i,
                                         .of = threads_of(k),
                                         .results = results + n * requests};
            RIG_REQUIRE(pthread_create(&threads[n].thread, NULL, write_requests, &threads[n]) == 0);
        }
    }
    return n;
}

/* Records of the hot stream that a generation will append. */
static uint64_t hot_records(uint32_t generation)
{
    uint64_t sum = 0;
    for (uint32_t k = 0; k < RIG_LANES; k++)
        for (uint32_t n = threads_of(k); n < threads_of(k) * (requests + 1); n++) {
            rig_request q = rig_request_of(&the_rig, k, (uint64_t)generation << 32 | n,
                                           the_rig.lane_bytes[k] / 2);
            sum += q.stream == 0 ? q.count : 0;
        }
    return sum;
}

static void close_lane(uint32_t k)
{
    rw_slot_set(the_rig.c, k, RW_SLOT_CLOSING);
    RIG_REQUIRE(rw_wal_lane_idle(wal, k));
    rw_wal_detach_lane(wal, k);
    while (!rw_slot_released(the_rig.c, k)) {
        rw_nudge(the_rig.c);
        sched_yield();
    }
    rw_slot_set(the_rig.c, k, RW_SLOT_FREE);
}

static rig_result *run_generations(uint64_t *count)
{
    static writer_thread threads[WRITERS_MAX];
    rig_result *results = calloc(GENERATIONS * WRITERS_MAX * (uint64_t)requests, sizeof *results);
    uint64_t hot = 0;
    *count = 0;
    for (uint32_t generation = 1; generation <= GENERATIONS; generation++) {
        pthread_t tailer;
        hot += hot_records(generation);
        rig_open_lane(&the_rig, RIG_LANES, generation);
        rw_wal_attach_lane(wal, RIG_LANES, the_rig.lanes[RIG_LANES], generation);
        RIG_REQUIRE(pthread_create(&tailer, NULL, tail, &hot) == 0);
        uint32_t n = start_writers(threads, generation, results + *count);
        for (uint32_t i = 0; i < n; i++)
            pthread_join(threads[i].thread, NULL);
        pthread_join(tailer, NULL);
        for (uint32_t i = 0; i < n; i++)
            if (threads[i].index == 0)
                rw_writer_close(threads[i].w);
        for (uint32_t k = 0; k <= RIG_LANES; k++)
            close_lane(k);
        *count += (uint64_t)n * requests;
    }
    return results;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)rw_now_ns();
    requests = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 2000;
    printf("seed %lu, ", seed);
    fflush(stdout);
    rig_open(&the_rig, seed, seed % 5 == 0);
    rig_watch(120);
    const rw_wal_options options = rig_options(&the_rig);
    wal = rw_wal_open(the_rig.c, the_rig.ring, &options, the_rig.doorbell, the_rig.doorbell,
                            the_rig.maintenance);
    rw_sequencer *s = rw_sequencer_open(the_rig.c, the_rig.ring, the_rig.doorbell);
    pthread_t workers[RIG_POOL], drainer, maintainer;
    uint32_t numbers[RIG_POOL];
    for (uint32_t i = 0; i < RIG_POOL; i++) {
        numbers[i] = i;
        RIG_REQUIRE(pthread_create(&workers[i], NULL, pool, &numbers[i]) == 0);
    }
    RIG_REQUIRE(pthread_create(&drainer, NULL, drain, s) == 0);
    RIG_REQUIRE(pthread_create(&maintainer, NULL, maintenance, NULL) == 0);

    uint64_t count;
    rig_result *results = run_generations(&count);

    rw_wal_finish(wal);
    for (uint32_t i = 0; i < RIG_POOL; i++)
        pthread_join(workers[i], NULL);
    RIG_REQUIRE(rw_sequencer_idle(s)); /* every result was seen and every lane let go */
    rw_store32(&stop_maintenance, 1);
    rw_signal_fd(the_rig.maintenance);
    pthread_join(maintainer, NULL);
    rw_store32(&stop_drain, 1);
    /* nobody's, and no lane is looked for */
    rw_store32(&rw_slot_of(the_rig.c, 0)->state, RW_SLOT_ACTIVE);
    rw_slot_set(the_rig.c, 0, RW_SLOT_CLOSING); /* a detach makes the drain come back */
    rw_store32(&rw_slot_of(the_rig.c, 0)->drain_done, 0);
    while (rw_load32(&rw_slot_of(the_rig.c, 0)->drain_done) == 0) {
        rw_nudge(the_rig.c);
        sched_yield();
    }
    pthread_join(drainer, NULL);
    rw_control *c = the_rig.c;
    uint64_t records = rig_check(&the_rig, results, count);
    printf("%s: %lu requests, %lu records, %lu blocks, %lu segments, longest run %lu, waited %lu\n",
           the_rig.direct ? "direct" : "buffered", count, records, c->wal_blocks,
           c->sealed_end / RIG_SEGMENT + 1, c->drain_longest_run, c->drain_waited);
    RIG_REQUIRE(c->drain_confirmed_requests == count && c->wal_requests == count);
    rw_sequencer_close(s);
    rw_wal_close(wal);
    free(results);
    rig_close(&the_rig);
    return 0;
}
