#define _GNU_SOURCE
#include "wal.h"

#include "doorbell.h"
#include "block_io.h"
#include "contention.h"
#include "memory.h"
#include "persisted.h"
#include "points.h"
#include "tuning.h"
#include "wait.h"
#include "wal_policy.h"
#include "wal_state.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

rw_wal *rw_wal_open(rw_control *c, uint8_t *ring, const rw_wal_options *o, int doorbell_fd,
                    int inner_fd, int maintenance_fd)
{
    if (o->threads == 0 || o->threads > RW_WAL_THREADS_MAX) {
        errno = EINVAL;
        return NULL;
    }
    rw_wal *w = aligned_alloc(64, (sizeof *w + 63) & ~(size_t)63);
    if (w == NULL)
        return NULL;
    *w = (rw_wal){.c = c,
                  .o = *o,
                  .doorbell_fd = doorbell_fd,
                  .inner_fd = inner_fd,
                  .maintenance_fd = maintenance_fd,
                  .data_end = UINT64_MAX};
    w->lanes = calloc(c->max_clients, sizeof *w->lanes);
    w->touched = calloc(o->block_bytes / sizeof(rw_frame) + RW_PAGE / sizeof(rw_frame) + 2 +
                            RW_DROP_ROWS_MAX,
                        sizeof *w->touched);
    if (!w->lanes || !w->touched || rw_occupancy_open(&w->occupancy, c->max_streams) != RW_OK) {
        rw_wal_close(w);
        return NULL;
    }
    for (uint32_t i = 0; i < RW_WAL_SEGMENTS; i++)
        w->segments[i].fds[0] = -1;
    rw_log_ring_open(&w->ring, c, ring);
    rw_prefault(ring, 2 * c->ring_bytes, 1);
    if (!rw_wal_streams_open(w) || !rw_wal_owners_open(w)) {
        rw_wal_close(w);
        return NULL;
    }
    /* Also a clock that was put back while nobody was there does not make times go back. */
    w->last_timestamp_ns = c->sealed == c->block_seed
                               ? c->started_ns
                               : rw_block_entry_of(c, c->sealed - 1)->timestamp_ns;
    if (c->sealed == c->block_seed)
        w->idle_watermark_end = c->sealed_end; /* the checkpoint covers what was before */
    w->segment_announced = c->sealed_end / c->segment_bytes;
    rw_store32(&c->io_direct, o->direct);
    rw_store32(&c->wal_pid, (uint32_t)getpid());
    /* no threads yet */
    rw_store64_seq(&c->doorbell,
                   (rw_peek64(&c->doorbell) & ~(RW_DOORBELL_STEP - 1)) + RW_DOORBELL_STEP);
    return w;
}

void rw_wal_close(rw_wal *w)
{
    if (w == NULL)
        return;
    free(w->lanes);
    rw_wal_streams_close(w);
    rw_wal_owners_close(w);
    free(w->touched);
    free(w->drop_rows);
    rw_occupancy_close(&w->occupancy);
    free(w);
}

/* ---------------------------------------------------------------- blocks, and who hears of them */

/* PAIR: completions. The persisted bytes, or the sealed block, come before the bump; the drain
 * announces itself in drain_parked before it looks again. */
void rw_tell_drain(rw_wal *w)
{
    rw_add32(&w->c->completions, 1);
    if (rw_load32_seq(&w->c->drain_parked) != 0)
        rw_unpark(&w->c->completions, 1);
}

/* I6: the first failed write ends the epoch. Nothing is written again, no thread starts another
 * block. */
static int fail(rw_wal *w, const rw_block_job *job, int error)
{
    uint32_t none = 0;
    rw_cas32(&w->failed, &none, (uint32_t)error);
    rw_store32_seq(&w->c->wal_error, (uint32_t)error);
    rw_fail_block(job->block);
    rw_store32(&rw_block_entry_of(w->c, job->number)->state, RW_BLOCK_BAD);
    rw_add32(&w->idle_seq, 1);
    rw_unpark(&w->idle_seq, INT_MAX);
    rw_signal_fd(w->inner_fd);
    rw_signal_fd(w->maintenance_fd);
    /* it ends at once, and so tells the supervisor, whatever this process's main thread is busy
     * with */
    rw_tell_drain(w);
    return RW_IO;
}

int rw_write_job(rw_wal *w, const rw_block_job *job)
{
    uint64_t began = rw_now_ns();
    int error =
        rw_block_write(job->fd, w->o.direct != 0, job->block, job->length, job->file_offset);
    if (error != 0)
        return fail(w, job, error);
    if (job->length <= RW_SMALL_WRITE)
        rw_write_took(w->c, rw_now_ns() - began);
    (void)RW_POINT("l.sync.done_unpublished");
    rw_add64(&w->c->wal_writes, 1);
    rw_mark_persisted(w, job->number, job->block);
    return RW_OK;
}

void rw_mark_persisted(rw_wal *w, uint64_t number, uint8_t *block)
{
    rw_block_entry *e = rw_block_entry_of(w->c, number);
    RW_ASSERT(e->number == number && e->state == RW_BLOCK_SEALED);
    rw_persist_block(block);
    (void)RW_POINT("l.publish.post");
    rw_store32(&e->state, RW_BLOCK_PERSISTED); /* PAIR: block state */
    rw_tell_drain(w);
}

/* Before the write: a parked drain gets up while the disk works. */
static void rouse_drain(rw_wal *w)
{
    if (rw_load32_seq(&w->c->drain_parked) != 0)
        rw_tell_drain(w);
}

/* ------------------------------------------------------------------------ watching and sleeping */

/* The caller is about to write and leaves enough for another block: get a sleeping thread to
 * compose it meanwhile. */
static void rouse_helper(rw_wal *w)
{
    if (rw_load64_seq(&w->c->doorbell) & RW_DOORBELL_SENTINEL) {
        rw_signal_fd(w->inner_fd);
    } else if (rw_load32_seq(&w->idle_count) != 0) {
        rw_add32(&w->idle_seq, 1);
        rw_unpark(&w->idle_seq, 1);
    }
}

static bool ended(const rw_wal *w)
{
    return rw_load32(&w->failed) != 0 || rw_load32(&w->finishing) != 0;
}

/* False if nobody rang for that long. */
static bool poll_doorbell(rw_wal *w, uint64_t ns)
{
    struct pollfd p[] = {{.fd = w->doorbell_fd, .events = POLLIN},
                         {.fd = w->inner_fd, .events = POLLIN}};
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    if (ppoll(p, 2, &t, NULL) == 0)
        return false;
    for (int i = 0; i < 2; i++)
        if (p[i].revents & POLLIN)
            rw_take_fd(p[i].fd);
    return true;
}

/* Under the compose lock: requests that could go into a block now. While starved, only a release
 * since the latest attempt makes a difference; the ring for it may have been taken by a thread that
 * then found the compose lock taken.                                                  PAIR: release
 */
static bool work_left(const rw_wal *w)
{
    if (rw_peek32(&w->c->starved) && rw_load64_seq(&w->c->released) == w->released_seen)
        return w->held_back && rw_control_ready(w);
    return rw_lanes_ready(w, 1) != 0 || w->drop_left != 0; /* PAIR: publish/doorbell */
}

/* A block has been on its way for so long that nobody should wait for it: one stuck write must not
 * hold up the rest. */
static bool slow(const rw_wal *w)
{
    uint64_t now = rw_now_ns();
    for (uint32_t i = 0; i < w->o.threads; i++) {
        uint64_t started = rw_load64(&w->started[i]);
        if (started != 0 && started + RW_SLOW_NS <= now)
            return true;
    }
    return false;
}

/* A thread whose block is on its way will look at the lanes soon. */
static bool written_soon(const rw_wal *w) { return rw_load32_seq(&w->writing) != 0 && !slow(w); }

/* Somebody else is sure to look at the lanes: a sentinel, or a thread whose block is on its way. */
static bool watched(const rw_wal *w)
{
    return (rw_load64_seq(&w->c->doorbell) & RW_DOORBELL_SENTINEL) || written_soon(w);
}

/* The caller has just left watching. A publisher that saw it watch did not ring, so unless a thread
 * that writes is going to look anyway, the caller must.                      PAIR: publish/doorbell
 */
static bool left_behind(rw_wal *w)
{
    if (written_soon(w))
        return false;
    compose_lock(w);
    bool work = work_left(w);
    compose_unlock(w);
    return work;
}

/* A block is put aside only while others are written, and waits for nobody who is stuck. */
static bool ahead_due(const rw_wal *w)
{
    return rw_ahead_there(&w->ahead) &&
           (rw_load32_seq(&w->writing) < RW_RESERVED_AT_ONCE || slow(w));
}

/* Gives up watching until somebody rings or wakes this thread; watches again on return. */
static void sleep_until_roused(rw_wal *w)
{
    if (!watched(w)) {
        compose_lock(w);
        bool sentinel = rw_doorbell_change(&w->c->doorbell, -1, 1);
        bool work = sentinel && (work_left(w) || ahead_due(w)),
             due = sentinel && w->o.idle_watermark_ns && rw_idle_watermark_due(w);
        compose_unlock(w);
        if (sentinel) {
            if (!work && !ended(w)) {
                rw_add64(&w->c->wal_parks, 1);
                if (!poll_doorbell(w, due ? w->o.idle_watermark_ns : RW_NAP_NS))
                    rw_store32(&w->idle, 1);
            }
            rw_doorbell_change(&w->c->doorbell, 1, -1);
        }
        return;
    }
    /* One idle thread, the guard, sleeps for a short time only while blocks are being written: if
     * one of them turns out to be slow, the guard is there to compose, or to become the sentinel.
     */
    uint32_t none = 0;
    bool guard = rw_load32_seq(&w->writing) != 0 && rw_cas32(&w->guard, &none, 1);
    rw_add32(&w->idle_count, 1);
    uint32_t seen = rw_load32_seq(&w->idle_seq);
    rw_doorbell_change(&w->c->doorbell, -1, 0);
    if (watched(w) && !ended(w) && !left_behind(w))
        rw_park(&w->idle_seq, seen, guard ? RW_SLOW_NS : RW_NAP_NS);
    rw_doorbell_change(&w->c->doorbell, 1, 0);
    rw_sub32(&w->idle_count, 1);
    if (guard)
        rw_store32_seq(&w->guard, 0);
}

static uint32_t blocks_at_once(const rw_wal *w)
{
    return rw_policy_blocks_at_once(w->o.threads, rw_wal_segment_filled(w));
}

/* Under the compose lock. */
static bool worth_a_block(const rw_wal *w)
{
    uint32_t writing = rw_load32_seq(&w->writing);
    bool room = writing < blocks_at_once(w) || rw_ahead_none(&w->ahead);
    return rw_policy_worth_a_block(writing, room, rw_lanes_backlog(w), w->o.pipeline_bytes,
                                   w->o.block_bytes);
}

/* For a thread that is counted in `writing`. */
static bool take_ahead(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    if (!rw_ahead_take(&w->ahead, job))
        return false;
    /* The segment stays while it has a block that is not persisted. */
    job->fd = rw_wal_segment_fd(
        w, rw_block_entry_of(w->c, job->number)->position / w->c->segment_bytes, thread);
    return true;
}

/* The change from watching to writing. */
static void start_writing(rw_wal *w)
{
    rw_add32(&w->writing, 1);
    rw_doorbell_change(&w->c->doorbell, -1, 0);
}

/* And back, `writing` last: watched() holds throughout. */
static void stop_writing(rw_wal *w)
{
    rw_doorbell_change(&w->c->doorbell, 1, 0);
    uint32_t before = rw_sub32(&w->writing, 1);
    RW_ASSERT(before != 0);
}

/* The block ahead instead of composing one. */
static bool start_ahead(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    while (ahead_due(w)) {
        start_writing(w);
        if (take_ahead(w, thread, job))
            return true;
        stop_writing(w); /* whoever was faster may have made room for the next one; so look again */
    }
    return false;
}

#define LINGERS INT_MAX /* besides enum rw_status: what there is waits for more */

/* One attempt to compose, then the change from watching to writing. RW_OK: *job is to be written.
 */
static int try_compose(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    if (!compose_trylock(w))
        return RW_PENDING;
    if (written_soon(w) && !worth_a_block(w)) {
        compose_unlock(w);
        return RW_PENDING;
    }
    if (w->o.linger_ns != 0 && rw_wal_lingers(w)) {
        compose_unlock(w);
        return LINGERS;
    }
    w->released_seen = rw_load64_seq(&w->c->released);
    int rc = rw_compose(w, thread, job);
    if (rc == RW_FULL && rw_peek32(&w->c->starved) == 0) {
        /* PAIR: release. Announce first, then look once more; the drain releases first, then looks
         * at `starved`. */
        rw_store32_seq(&w->c->starved, 1);
        rc = rw_compose(w, thread, job);
    }
    if (rc == RW_MAINTENANCE)
        rw_store32_seq(&w->c->starved, 1);
    if (rc == RW_PENDING && w->o.idle_watermark_ns &&
        (rw_load32(&w->idle) || rw_load32(&w->finishing)))
        rc = rw_compose_idle_watermark(w, thread, job);
    rw_store32(&w->idle, 0);
    if (rc == RW_OK || rc == RW_PENDING)
        rw_store32(&w->c->starved, 0);
    bool more = false, aside = false;
    if (rc == RW_OK) {
        aside =
            rw_load32_seq(&w->writing) >= blocks_at_once(w) && rw_ahead_none(&w->ahead) && !slow(w);
        if (aside) {
            rw_ahead_put(&w->ahead, job);
        } else {
            start_writing(w);
            more = worth_a_block(w);
        }
    }
    compose_unlock(w);
    if (aside)
        return start_ahead(w, thread, job) ? RW_OK : RW_PENDING;
    if (more || (rc == RW_OK && rw_load32_seq(&w->guard) == 0 &&
                 !(rw_load64_seq(&w->c->doorbell) & RW_DOORBELL_SENTINEL)))
        rouse_helper(w);
    if (rc == RW_OK)
        rouse_drain(w);
    return rc;
}

/* The thread has written a block and goes on with the one ahead; who composed that one may compose
 * the next. */
static bool write_on(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    if (!take_ahead(w, thread, job))
        return false;
    if (compose_trylock(w)) {
        bool more = worth_a_block(w);
        compose_unlock(w);
        if (more)
            rouse_helper(w);
    }
    return true;
}

/* The callers of a block that has just been written are about to append again. Composing at once
 * would find the first of them only, and with more callers than processors keep the others from
 * running. A caller who was alone has nobody to wait for, and a backlog is there already. Yielding
 * is enough for a few callers in the same scheduling group. Under contention the thread sleeps, as
 * the kernel schedules groups (sessions, services, containers) against each other and yielding
 * stays inside one: until three quarters of the callers have appended, or no more came during one
 * nap. */
static void gather(rw_wal *w, const rw_block_job *job)
{
    if (job->requests <= 1 || job->length >= w->o.pipeline_bytes)
        return;
    if (!rw_contended(w->c)) {
        for (int i = 0; i < RW_GATHER_YIELDS; i++)
            sched_yield();
        return;
    }
    const struct timespec nap = {.tv_nsec = RW_GATHER_NAP_NS};
    uint32_t before = 0;
    for (int i = 0; i < RW_GATHER_NAPS && compose_trylock(w); i++) {
        uint32_t most = rw_policy_gathered(rw_load32(&w->c->callers)),
                 ready = rw_lanes_ready(w, most);
        compose_unlock(w);
        if (ready >= most || (i > 0 && ready == before))
            return;
        before = ready;
        nanosleep(&nap, NULL);
    }
}

int rw_wal_work(rw_wal *w, uint32_t thread)
{
    uint64_t watch_until = 0, *started = &w->started[thread];
    int rc = RW_OK;
    prctl(PR_SET_TIMERSLACK, 1); /* a nap is 20 us, not 70 */
    rw_doorbell_change(&w->c->doorbell, 1, 0);
    while (rc == RW_OK && rw_load32(&w->failed) == 0) {
        rw_block_job job;
        int got = start_ahead(w, thread, &job) ? RW_OK : try_compose(w, thread, &job);
        if (got == RW_OK) {
            do {
                rw_store64(started, rw_now_ns());
                rc = rw_write_job(w, &job);
                rw_store64(started, 0);
            } while (rc == RW_OK && rw_load32(&w->failed) == 0 && write_on(w, thread, &job));
            stop_writing(w);
            gather(w, &job);
            watch_until = rw_now_ns() + w->o.spin_ns;
            continue;
        }
        if (rw_load32(&w->finishing)) {
            /* There is no room for what waits in the lanes: it stays out of the log. */
            if (got == RW_MAINTENANCE && rw_load32_seq(&w->c->storage_full) != 0)
                break;
            if (got == RW_PENDING && compose_trylock(w)) {
                bool ready = rw_lanes_ready(w, 1) != 0 || w->drop_left != 0;
                compose_unlock(w);
                if (!ready)
                    break;
            }
            sched_yield();
            continue;
        }
        if (got == LINGERS) {
            rw_wal_linger(w);
            continue;
        }
        bool hot = got == RW_PENDING && rw_now_ns() < watch_until;
        if (hot && (rw_load64(&w->c->doorbell) & RW_DOORBELL_WATCHERS) == 1)
            sched_yield();
        else
            sleep_until_roused(w);
    }
    rw_doorbell_change(&w->c->doorbell, -1, 0);
    return rw_load32(&w->failed) ? RW_IO : rc;
}

void rw_wal_finish(rw_wal *w)
{
    rw_store32_seq(&w->finishing, 1);
    rw_add32(&w->idle_seq, 1);
    rw_unpark(&w->idle_seq, INT_MAX);
    rw_signal_fd(w->inner_fd);
}
