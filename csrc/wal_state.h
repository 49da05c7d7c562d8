/* What the threads of the WAL process share; private to the files wal_*.c. */
#ifndef RW_WAL_STATE_H
#define RW_WAL_STATE_H

#include "ahead.h"
#include "atomics.h"
#include "invariant.h"
#include "lane.h"
#include "layout.h"
#include "log_ring.h"
#include "occupancy.h"
#include "status.h"
#include "wal.h"
#include "wal_policy.h"

#include <sched.h>

#define RW_WAL_SEGMENTS 128u
/* Of a DROP frame: a fraction of what a segment keeps for control frames (wal_compose.c). */
#define RW_DROP_ROWS_MAX 1024u
#define RW_RESERVE_PART  16u

typedef struct rw_wal_segment_slot {
    uint64_t number;
    int fds[RW_WAL_THREADS_MAX]; /* by thread; the first is -1: no segment */
    bool filled;
} rw_wal_segment_slot;

/* A stream as it is composed. `number` is RW_NO_STREAM where this process has not met one; who asks
 * for that number finds it over. */
typedef struct rw_wal_stream {
    uint64_t next_offset;
    uint64_t composed_bytes;
    uint64_t composed_ns;
    uint64_t trimmed_offset;
    uint64_t touched_in; /* block number + 1 that listed it */
    uint32_t number;
    bool defined;
    bool over; /* its DELETE is composed */
} rw_wal_stream;

/* An owner as it is composed (owners.h). */
typedef struct rw_wal_owner {
    rw_checkpoint_owner row; /* number 0: the place is free */
    bool touched;            /* it is stored when the block is sealed */
} rw_wal_owner;

struct rw_wal {
    rw_control *c;
    rw_wal_options o;
    int doorbell_fd, inner_fd, maintenance_fd;

    /* under the compose lock */
    rw_log_ring ring;
    rw_lane_taker *lanes; /* by slot */
    uint32_t lanes_end; /* slots below may be active */
    uint32_t next_lane; /* whose turn it is */
    rw_request parts[RW_PARTS_MAX]; /* the request that was looked at last; a joint append's all */
    uint32_t part_count;
    rw_wal_stream *streams; /* by place */
    rw_wal_stream *taken; /* by place, as of a snapshot */
    uint32_t *row_places; /* of its rows */
    uint32_t *touched; /* places of streams with frames in the block being composed */
    uint32_t touched_count;
    uint32_t numbers_end; /* as rw_control has it */
    rw_wal_owner *owners; /* by place */
    uint32_t *owner_index; /* by hash of the number: 1 + place; 0: free */
    uint32_t owner_index_places;
    uint32_t *owners_touched; /* places of rows that the block being composed changes */
    uint32_t owners_touched_count;
    uint32_t owners_end; /* as rw_control has it */
    /* what rw_wal_compose_drop was given, and what of it is not composed yet */
    rw_drop_row *drop_rows, *drop_next;
    uint32_t drop_left;
    uint8_t *settings_in; /* the block to be told of, if it has settings; else NULL */
    bool snapshot; /* rows are being filled: no settings are taken meanwhile */
    bool held_back; /* data waits for the next segment; the rest of this one is not for it */
    uint64_t held_segment; /* 1 + the last segment in which any did; 0: none yet */
    uint64_t data_end; /* log position; what lies behind is for control frames only */
    uint64_t cuts; /* composed frames by which records have become droppable */
    uint64_t cuts_told;
    rw_occupancy occupancy;
    uint64_t last_timestamp_ns;
    rw_linger linger;
    uint64_t released_seen; /* `released` before the latest attempt to compose */
    /* sealed_end when the last block was an empty one, or there was none yet: nothing to cover */
    uint64_t idle_watermark_end;
    /* highest segment number whose use was announced as a request for maintenance */
    uint64_t segment_announced;
    rw_wal_segment_slot segments[RW_WAL_SEGMENTS];

    uint32_t compose_lock __attribute__((aligned(64)));
    /* futex of threads that wait for the sentinel's place */
    uint32_t idle_seq __attribute__((aligned(64)));
    uint32_t idle_count;
    uint32_t finishing;
    uint32_t idle; /* nobody has had anything to write for a while */
    uint32_t failed; /* errno of the first failed write */
    /* an idle thread sleeps for a short time only, in case a write turns out to be slow */
    uint32_t guard;
    /* by thread: when its write began; 0: it writes nothing */
    uint64_t started[RW_WAL_THREADS_MAX];
    /* threads between seal and persisted: each looks at the lanes again when it is done */
    uint32_t writing;
    rw_ahead ahead;
};

/* The compose lock, wal.h: taken by trying, and only ever by threads of this process. */
static inline bool compose_trylock(rw_wal *w)
{
    uint32_t mine = 0;
    return rw_peek32(&w->compose_lock) == 0 && rw_cas32(&w->compose_lock, &mine, 1);
}

static inline void compose_lock(rw_wal *w)
{
    while (!compose_trylock(w))
        sched_yield();
}

static inline void compose_unlock(rw_wal *w)
{
    RW_ASSERT(rw_peek32(&w->compose_lock) == 1);
    rw_store32(&w->compose_lock, 0);
}

/* wal_compose.c, under the compose lock */
/* For the thread of that number. RW_OK: *job is sealed; RW_PENDING: no request; RW_FULL: requests
 * wait for ring space; RW_MAINTENANCE: for a segment. */
int rw_compose(rw_wal *w, uint32_t thread, rw_block_job *job);
/* THE IDLE WATERMARK. A block whose bytes are bad is a torn write, which nobody was told about, or
 * one that rotted after it was confirmed. A watermark behind it tells them apart; the last block
 * has none. So when the log comes to rest, and at an orderly stop, an empty block is written whose
 * watermark covers all others. RW_OK: *job is to be written; RW_PENDING: no need. */
int rw_compose_idle_watermark(rw_wal *w, uint32_t thread, rw_block_job *job);
bool rw_idle_watermark_due(const rw_wal *w);
/* The client of that generation finds its lane refused. */
void rw_tell_refused(rw_wal *w, uint32_t k, uint32_t generation);
/* Is there something that may go where data may not? */
bool rw_control_ready(const rw_wal *w);
/* Lanes with a request to be taken, counted up to `enough`. */
uint32_t rw_lanes_ready(const rw_wal *w, uint32_t enough);
/* Bytes that writers have claimed and nobody has taken: a hint, as a claim may not be published
 * yet. */
uint64_t rw_lanes_backlog(const rw_wal *w);
/* Of the segment that the next block goes to: its data was written before, not only reserved. */
bool rw_wal_segment_filled(const rw_wal *w);
/* -1: the segment has not been added. */
int rw_wal_segment_fd(const rw_wal *w, uint64_t number, uint32_t thread);
/* After seal, and again by a successor for the last sealed block: gives lane space back, stores
 * stream offsets. */
void rw_publish_block(rw_wal *w);

/* wal_take.c, under the compose lock */
/* The next request of lane k, checked, with all parts of its joint append, to w->parts, and the
 * bytes its frames take. RW_OK, RW_PENDING, or RW_FAULT (lane refused). */
int rw_wal_next_request(rw_wal *w, uint32_t k, uint64_t *need);
/* Takes it into the open block, which has room for it. RW_OK, also if it is refused alone;
 * RW_FAULT. */
int rw_wal_take(rw_wal *w, uint32_t k);

/* wal_streams.c, under the compose lock */
bool rw_wal_streams_open(rw_wal *w);
void rw_wal_streams_close(rw_wal *w);
/* Of a place whose words this process does not know as that stream's. NULL as below. */
rw_wal_stream *rw_wal_adopt(rw_wal *w, uint32_t place, uint32_t number);
/* NULL: that stream is deleted, or never was. */
static inline rw_wal_stream *rw_wal_living(rw_wal *w, uint32_t place, uint32_t number)
{
    rw_wal_stream *p = &w->streams[place];
    if (p->number != number)
        return rw_wal_adopt(w, place, number);
    return p->over ? NULL : p;
}
/* Its definition is in the block being composed. */
void rw_wal_stream_defined(rw_wal *w, rw_wal_stream *p);
/* It has a frame in the block that has this stamp: it is told of when the block is sealed. */
static inline void rw_wal_stream_touch(rw_wal *w, rw_wal_stream *p, uint64_t stamp)
{
    if (p->touched_in != stamp) {
        p->touched_in = stamp;
        w->touched[w->touched_count++] = (uint32_t)(p - w->streams);
    }
}
void rw_wal_streams_publish(rw_wal *w);

/* wal_owners.c, under the compose lock */
bool rw_wal_owners_open(rw_wal *w);
void rw_wal_owners_close(rw_wal *w);
/* Of a batch with an owner: 0: it is to be appended, else the reason why not (enum
 * rw_verdict_reason), and the value that belongs to it. */
uint32_t rw_wal_owner_judge(const rw_wal *w, const rw_request *q, uint64_t *value);
/* Of a claim, whose stream goes on at next_offset: the frame's owner, epoch and sequence. False:
 * there is no place for it. */
bool rw_wal_claim_judge(const rw_wal *w, const rw_request *q, const uint8_t *payload,
                        uint64_t next_offset, rw_frame *f);
/* What a frame changes; by a successor again. */
void rw_wal_owner_appended(rw_wal *w, const rw_frame *r);
/* Of a COMMIT: 0, or RW_VERDICT_FENCED and the epoch in force. */
uint32_t rw_wal_commit_judge(const rw_wal *w, const rw_request *q, uint64_t *value);
/* Where the consumer of that number goes on. */
uint64_t rw_wal_owner_position(const rw_wal *w, uint32_t number);
void rw_wal_owner_committed(rw_wal *w, const rw_frame *r, uint64_t offset);
/* `over`: the DELETE of its stream is in the same block. */
void rw_wal_owner_claimed(rw_wal *w, const rw_frame *r, const uint8_t *payload, bool over);
void rw_wal_owners_of_deleted(rw_wal *w, uint32_t stream);
void rw_wal_owners_publish(rw_wal *w);
/* All rows, and how many; in the order of places. */
uint32_t rw_wal_owners_copy(const rw_wal *w, rw_checkpoint_owner *rows);

/* wal_drop.c, under the compose lock */
/* How many rows the next DROP frame has, at the most; the first of them is good. 0: none waits. */
uint32_t rw_drop_prepare(rw_wal *w);
/* Puts it into the open block, which has room for so many. */
void rw_drop_put(rw_wal *w, uint32_t count);
/* What a row changes of its stream; `stamp` as in rw_wal_stream_touch. */
void rw_drop_apply(rw_wal *w, const rw_drop_row *row, uint64_t stamp);
/* No block that is composed has it. */
#define RW_STAMP_RESTORED UINT64_MAX

/* wal_linger.c; only where o.linger_ns is not 0 */
/* Under the compose lock: does what is in the lanes wait for more? */
bool rw_wal_lingers(rw_wal *w);
/* Not under it: a part of that wait. */
void rw_wal_linger(const rw_wal *w);

/* wal_threads.c */
int rw_write_job(rw_wal *w, const rw_block_job *job);
/* The write of this sealed block has completed, by this process or by the one before: its bytes,
 * its state, the drain. */
void rw_mark_persisted(rw_wal *w, uint64_t number, uint8_t *block);
void rw_tell_drain(rw_wal *w);

#endif
