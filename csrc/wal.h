/* The WAL process: take -> compose -> write -> persisted, by a small pool of equal threads.
 *
 * Each thread composes a block and then writes that block itself, so that a lone append crosses no
 * thread. Composing is one thread at a time; writing is not, so as many blocks are in flight
 * as there are threads, and they complete in any order. Into a segment that is only reserved no
 * more than two are in flight, and one more is composed ahead, which is written by whoever has
 * written one of the two (ahead.h).
 *
 *   thread:  watch ──► take the compose lock ──► compose, seal ──► give it back ──► write ──► persisted bytes ──► tell drain
 *              ▲                                                                                                  │
 *              └──────────────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * Group commit needs no timer: what gathers in the lanes while a block is being written goes into
 * the next one. A further block is put in flight beside it as soon as enough for a worthwhile write
 * has gathered (pipeline_bytes; beside two, half of block_bytes), so that a backlog is written
 * several blocks at a time and a trickle does not turn into many tiny writes. How threads watch and
 * sleep is doorbell.h.
 *
 * THE COMPOSE LOCK is a try-lock between the threads of this process and guards the lane cursors,
 * the log ring and the offsets. No client and not the drain ever takes it, it is not in shared
 * memory, and it dies with the process.
 *
 * REPLACEMENT. Everything a successor needs is in shared memory:
 *   killed before seal           the block never existed; the requests are still in the lanes
 *   after seal, before publish   lane heads and offsets follow from the tickets and offsets of the
 *                                last sealed block
 *   ahead, before, in the write  the block is not marked persisted: same bytes are written to the
 *                                same place again
 *   between two persisted bytes  the remaining bytes are set; the block is not written again: one
 *                                byte proves its write
 *   before telling the drain     the drain looks on its own before it parks for long, and the
 *                                successor tells it
 */
#ifndef RW_WAL_H
#define RW_WAL_H

#include "layout.h"
#include "occupancy.h"
#include "status.h"

#include <stdbool.h>

typedef struct rw_wal rw_wal;

#define RW_WAL_THREADS_MAX 64u

typedef struct rw_wal_options {
    /* a block is closed when it reaches this size; in a filled segment, half of it */
    uint64_t block_bytes;
    uint64_t quota_bytes; /* what one lane may add before the next lane's turn */
    /* while a block is being written, another one is opened only for this much */
    uint64_t pipeline_bytes;
    uint64_t spin_ns;     /* how long a thread watches after its block before it sleeps */
    /* how long the log has to be at rest before it is covered (wal_state.h: THE IDLE WATERMARK); 0:
     * never */
    uint64_t idle_watermark_ns;
    uint64_t linger_ns; /* how long a small block may wait for more; 0: not at all */
    uint32_t direct; /* see block_io.h */
    uint32_t threads; /* of the pool, at most RW_WAL_THREADS_MAX */
} rw_wal_options;

/* NULL and errno if there is no memory. Clients ring `doorbell_fd`, which is only polled and read
 * here, the engine's own processes `inner_fd` (doorbell.h). `maintenance_fd` is rung when the
 * Python side has something to do: a segment to prepare, a lane to detach, a failed write. */
rw_wal *rw_wal_open(rw_control *c, uint8_t *ring, const rw_wal_options *o, int doorbell_fd,
                    int inner_fd, int maintenance_fd);
void rw_wal_close(rw_wal *w);

/* Before the threads start, in a successor: rebuilds cursors and offsets from the sealed blocks.
 * Lanes must be attached. Returns how many blocks have to be written again, or RW_BAD if the memory
 * is not what it should be. */
int rw_wal_restore(rw_wal *w);
/* Writes them. Segments must be added. RW_OK or RW_IO. */
int rw_wal_rewrite(rw_wal *w);

/* While threads run, from the process's main thread. */
int rw_wal_attach_lane(rw_wal *w, uint32_t slot, rw_lane *lane, uint32_t generation);
/* Instead of attaching: the lane's memory is not what it should be. Only its client hears of it. */
int rw_wal_refuse_lane(rw_wal *w, uint32_t slot, uint32_t generation);
/* Stops looking at the lane and lets its generation go; afterwards the mapping may be removed. */
int rw_wal_detach_lane(rw_wal *w, uint32_t slot);
/* 1: everything that was completely published has been taken, 0: not yet. */
int rw_wal_lane_idle(rw_wal *w, uint32_t slot);
/* `fds`: an open file description for each thread, opened one by one. Threads must not share one:
 * when the kernel fails to write back what one thread has just written, each description hears of
 * it once. On a shared one it would be told to whichever thread syncs first, also about the other's
 * bytes, and the sync of the other would then succeed (fsync(2)). `filled`: its data was written
 * before, not only reserved; says how many blocks are worth writing at once. */
int rw_wal_add_segment(rw_wal *w, uint64_t number, const int *fds, bool filled);
/* Takes back the descriptors of a segment that no block will be written to any more: RW_OK, or
 * RW_PENDING if there is none. The caller closes them. */
int rw_wal_drop_segment(rw_wal *w, int *fds);
/* Number of the segment that the next block goes to. */
uint64_t rw_wal_segment(const rw_wal *w);
/* DROPS. Composes what the engine drops by itself, in the next block: of each row `stream` and
 * `start_offset` count. It is in force when its block is released; what lies beyond a cut never
 * was. Rows of streams that have ended, or are trimmed further, are left out. RW_OK; RW_PENDING:
 * the one before is not composed yet; RW_FULL: no memory. */
int rw_wal_compose_drop(rw_wal *w, const rw_drop_row *rows, uint32_t count);
/* Rows that are not composed yet. */
uint32_t rw_wal_drop_left(rw_wal *w);
/* errno while no segment can be prepared, 0 when one could again. */
void rw_wal_storage_full(rw_wal *w, uint32_t error);
/* Data is put below that log position only, a segment's beginning; UINT64_MAX: there is no limit.
 */
void rw_wal_limit_data(rw_wal *w, uint64_t position);

/* What the last whole segment holds, unless it was fetched before (occupancy.h): its number and its
 * rows, sorted, which stay until the next call. RW_OK, or RW_PENDING. */
int rw_wal_fetch_occupancy(rw_wal *w, uint64_t *segment, const rw_occupant **rows, uint32_t *count);
/* Segments below are freed: readers are told before their files go. `count`: they were there when
 * this memory was made. */
void rw_wal_first_segment(rw_wal *w, uint64_t number, bool count);
/* A checkpoint of that log position is named. */
void rw_wal_checkpoint_named(rw_wal *w, uint64_t position);
void rw_wal_count_used_again(rw_wal *w, uint64_t recycled, uint64_t dropped);

/* CHECKPOINTS. What is composed up to a position that no block crosses, and that no stream's record
 * lies beyond: streams that live, in order of numbers. It may be named when all below has been
 * persisted. */
typedef struct rw_wal_snapshot {
    uint64_t position;
    uint64_t block_number; /* of the next block */
    uint64_t timestamp_ns; /* no block below has a newer one */
    uint32_t count;        /* rows */
    uint32_t next_number;  /* no stream below has it or a larger one */
    uint32_t owners;       /* rows of those */
    uint32_t owners_end;   /* no owner below has that number or a larger one */
} rw_wal_snapshot;
/* `rows`: for as many streams as there may be, already touched: the compose lock is held while they
 * are filled. */
void rw_wal_take_snapshot(rw_wal *w, rw_checkpoint_stream *rows, rw_checkpoint_owner *owners,
                          rw_wal_snapshot *out);
/* How often, in this process's life, a composed frame has made records droppable: a start offset
 * was raised, a stream deleted. maintenance_fd is rung after each such block. */
uint64_t rw_wal_cuts(rw_wal *w);
/* All below this log position is persisted. */
uint64_t rw_wal_persisted_end(rw_wal *w);
/* The last block is the idle watermark, or there is none yet in this memory. */
bool rw_wal_rests(rw_wal *w);

/* The body of the pool's thread with that number, from 0. RW_OK after rw_wal_finish, RW_IO after a
 * failed write. */
int rw_wal_work(rw_wal *w, uint32_t thread);
/* Ends the threads once the lanes are empty and their blocks are written; what there is no room for
 * (rw_wal_storage_full) stays in the lanes. */
void rw_wal_finish(rw_wal *w);

#endif
