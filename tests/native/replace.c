/* Roles as forked processes on shared memory. The WAL process (a pool of threads) and the drain
 * process are SIGKILLed at random moments and replaced while writer processes append; nothing may
 * be lost, doubled, reordered or stuck.
 *
 *   replace [SEED [REQUESTS]]     REQUESTS per writer process
 */
#define _GNU_SOURCE
#include "rig.h"

#include "memory.h"
#include "sequencer.h"
#include "wait.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILLS 24u /* in all, WAL and drain */

static rig the_rig;
static uint32_t requests;
static rig_result *results; /* shared: by writer, then by request */

/* Set once by the parent: the WAL process ends when the lanes are empty. */
static uint32_t *finish;

static uint64_t number_of(uint64_t i) { return 1ull << 32 | (i + 1); }

typedef struct pool_thread {
    pthread_t thread;
    rw_wal *w;
    uint32_t number;
} pool_thread;

static void *pool(void *argument)
{
    const pool_thread *t = argument;
    RIG_REQUIRE(rw_wal_work(t->w, t->number) == RW_OK);
    return NULL;
}

static int wal_process(int successor)
{
    const rw_wal_options options = rig_options(&the_rig);
    rw_control *c = the_rig.c;
    rw_wal *w = rw_wal_open(c, the_rig.ring, &options, the_rig.doorbell, the_rig.doorbell,
                            the_rig.maintenance);
    for (uint32_t k = 0; k < RIG_LANES; k++)
        rw_wal_attach_lane(w, k, the_rig.lanes[k], 1);
    if (successor)
        RIG_REQUIRE(rw_wal_restore(w) >= 0);
    rig_add_segments(&the_rig, w, rw_load64(&c->released_end) / RIG_SEGMENT, 0);
    if (successor)
        RIG_REQUIRE(rw_wal_rewrite(w) == RW_OK);
    pool_thread threads[RIG_POOL];
    for (uint32_t i = 0; i < RIG_POOL; i++) {
        threads[i] = (pool_thread){.w = w, .number = i};
        RIG_REQUIRE(pthread_create(&threads[i].thread, NULL, pool, &threads[i]) == 0);
    }
    while (!rw_load32(finish)) {
        struct pollfd p = {.fd = the_rig.maintenance, .events = POLLIN};
        poll(&p, 1, -1);
        uint64_t rings;
        if (read(the_rig.maintenance, &rings, sizeof rings) == sizeof rings)
            rig_add_segments(&the_rig, w, rw_wal_segment(w), 1 + (the_rig.seed & 1));
    }
    rw_wal_finish(w);
    for (uint32_t i = 0; i < RIG_POOL; i++)
        pthread_join(threads[i].thread, NULL);
    rw_wal_close(w);
    return 0;
}

static int drain_process(int successor)
{
    (void)successor;
    rw_sequencer *s = rw_sequencer_open(the_rig.c, the_rig.ring, the_rig.doorbell);
    for (;;) {
        int rc = rw_sequencer_work(s, 50000, RIG_FOREVER);
        RIG_REQUIRE(rc == RW_MAINTENANCE);
        uint32_t slot, generation;
        RIG_REQUIRE(rw_sequencer_wants(s, &slot, &generation) == 1);
        rw_sequencer_attach_lane(s, slot, the_rig.lanes[slot], generation, -1);
    }
}

static int writer_process(int k)
{
    rw_writer *w = rw_writer_open(the_rig.c, the_rig.lanes[k], the_rig.doorbell);
    uint8_t *scratch = malloc(rw_writer_record_limit(w) + 8);
    uint64_t last[RIG_STREAMS], window = k % 3 ? RIG_COMPLETIONS : 1;
    memset(last, 0xff, sizeof last);
    for (uint64_t i = 0; i < requests + window; i++) {
        if (i >= window && i - window < requests) {
            uint64_t number = number_of(i - window);
            int64_t offset = RW_PENDING;
            while (offset == RW_PENDING)
                offset = rw_completion_wait(w, number, 0, RIG_FOREVER);
            RIG_REQUIRE(offset >= 0);
            uint32_t stream =
                rig_request_of(&the_rig, (uint32_t)k, number, rw_writer_record_limit(w)).stream;
            RIG_REQUIRE(last[stream] == UINT64_MAX || (uint64_t)offset > last[stream]);
            last[stream] = (uint64_t)offset;
            results[(uint32_t)k * requests + i - window] =
                (rig_result){(uint32_t)k, number, (uint64_t)offset};
        }
        if (i < requests)
            rig_append(&the_rig, w, (uint32_t)k, number_of(i), scratch);
    }
    free(scratch);
    rw_writer_close(w);
    return 0;
}

static pid_t start(int (*role)(int), int argument)
{
    pid_t parent = getpid(), pid = fork();
    RIG_REQUIRE(pid >= 0);
    if (pid == 0) {
        if (rw_die_with_parent(parent) == RW_OK)
            _exit(role(argument));
        _exit(1);
    }
    return pid;
}

static void expect_clean(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        RIG_REQUIRE(errno == EINTR);
    RIG_REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Kills at a random moment, waits for the proof of death, starts a successor. */
static void replace(pid_t *victim, int (*role)(int), uint64_t chance)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(chance % 8000000)}, NULL);
    int status;
    RIG_REQUIRE(kill(*victim, SIGKILL) == 0 && waitpid(*victim, &status, 0) == *victim);
    /* it had not ended by itself */
    RIG_REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    *victim = start(role, 1);
}

/* Kills spread over the whole run: one for every share of the requests that is confirmed. */
static uint32_t campaign(pid_t *wal, pid_t *drain)
{
    uint32_t kills = 0;
    uint64_t all = (uint64_t)RIG_LANES * requests;
    while (kills < KILLS) {
        uint64_t chance = rig_mix(the_rig.seed + kills), released = 0;
        for (uint32_t k = 0; k < RIG_LANES; k++)
            released += rw_load64(&rw_slot_of(the_rig.c, k)->requests);
        if (released >= all)
            break;
        if (released < all * kills / KILLS) {
            sched_yield();
            continue;
        }
        kills++;
        if (chance >> 40 & 1)
            replace(wal, wal_process, chance);
        else
            replace(drain, drain_process, chance);
    }
    return kills;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)rw_now_ns();
    requests = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 2000;
    printf("seed %lu, ", seed);
    fflush(stdout);
    rig_open(&the_rig, seed, seed % 5 == 0);
    rig_watch(120);
    uint64_t count = (uint64_t)RIG_LANES * requests;
    finish = mmap(NULL, RW_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    results = mmap(NULL, count * sizeof *results, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    RIG_REQUIRE(finish != MAP_FAILED && results != MAP_FAILED);
    for (uint32_t k = 0; k < RIG_LANES; k++)
        rig_open_lane(&the_rig, k, 1);

    pid_t writers[RIG_LANES], wal = start(wal_process, 0), drain = start(drain_process, 0);
    for (uint32_t k = 0; k < RIG_LANES; k++)
        writers[k] = start(writer_process, (int)k);
    uint32_t kills = campaign(&wal, &drain);
    for (uint32_t k = 0; k < RIG_LANES; k++)
        expect_clean(writers[k]);
    rw_store32(finish, 1);
    rw_signal_fd(the_rig.maintenance);
    expect_clean(wal);
    RIG_REQUIRE(kill(drain, SIGKILL) == 0 && waitpid(drain, NULL, 0) == drain);

    rw_control *c = the_rig.c;
    uint64_t records = rig_check(&the_rig, results, count);
    printf("%s: %lu requests, %lu records, %u kills, %lu blocks written again\n",
           the_rig.direct ? "direct" : "buffered", count, records, kills, c->wal_rewrites);
    RIG_REQUIRE(kills > KILLS / 2);
    munmap(results, count * sizeof *results);
    munmap(finish, RW_PAGE);
    rig_close(&the_rig);
    return 0;
}
