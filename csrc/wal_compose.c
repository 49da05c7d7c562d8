#define _GNU_SOURCE
/* Which lanes are served, into which block. One thread at a time (the compose lock, wal.h). */
#include "block.h"
#include "points.h"
#include "wait.h"
#include "wal_policy.h"
#include "wal_state.h"

#include <limits.h>
#include <string.h>

/* Takes from lane k until its quota is used up, it is empty or the block is full (RW_FULL). */
static int take_quota(rw_wal *w, uint32_t k)
{
    uint64_t end = w->ring.used + w->o.quota_bytes;
    uint64_t need;
    while (w->ring.used < end && rw_wal_next_request(w, k, &need) == RW_OK) {
        if (!rw_log_ring_fits(&w->ring, need, w->part_count))
            return RW_FULL;
        if (rw_wal_take(w, k) != RW_OK)
            break;
    }
    return RW_OK;
}

static void fill_block(rw_wal *w)
{
    uint32_t requests;
    do {
        requests = w->ring.requests;
        for (uint32_t i = 0; i < w->lanes_end; i++) {
            uint32_t k = w->next_lane < w->lanes_end ? w->next_lane : 0;
            if (take_quota(w, k) == RW_FULL)
                return; /* this lane is the first of the next block */
            w->next_lane = k + 1;
        }
    } while (w->ring.requests != requests);
}

/* The first lane, in turn, with a good request for which there is `room`. Where there is none for
 * data, w->held_back says so. */
static int first_request(rw_wal *w, uint64_t room, uint64_t *need)
{
    w->held_back = false;
    for (uint32_t i = 0; i < w->lanes_end; i++) {
        uint32_t k = (w->next_lane + i) % w->lanes_end;
        if (rw_wal_next_request(w, k, need) != RW_OK)
            continue;
        if (!w->lanes[k].trusted && rw_page_up(sizeof(rw_block) + *need) > room) {
            w->held_back = true;
            w->held_segment = rw_wal_segment(w) + 1;
            continue;
        }
        w->next_lane = k;
        return RW_OK;
    }
    return RW_PENDING;
}

bool rw_wal_segment_filled(const rw_wal *w)
{
    return w->segments[rw_wal_segment(w) % RW_WAL_SEGMENTS].filled;
}

static uint64_t full_block(const rw_wal *w)
{
    return rw_policy_block_bytes(w->o.block_bytes, rw_wal_segment_filled(w));
}

int rw_wal_segment_fd(const rw_wal *w, uint64_t number, uint32_t thread)
{
    const rw_wal_segment_slot *s = &w->segments[number % RW_WAL_SEGMENTS];
    return s->fds[0] >= 0 && s->number == number ? s->fds[thread] : -1;
}

/* Lane heads and stream offsets, after seal. A successor repeats this for the last sealed block
 * (wal_restore.c), which is the only one that can lack it: the compose lock is held from compose to
 * here. */
void rw_publish_block(rw_wal *w)
{
    rw_control *c = w->c;
    rw_wal_owners_publish(w); /* first: where a stream has `ended`, its owners are forgotten */
    rw_wal_streams_publish(w);
    (void)RW_POINT("l.heads.pre");
    for (uint32_t k = 0; k < w->lanes_end; k++) {
        rw_lane_taker *e = &w->lanes[k];
        if (!e->touched)
            continue;
        e->touched = 0;
        rw_slot *slot = rw_slot_of(c, k);
        /* head never goes back, and never beyond what was claimed */
        RW_ASSERT(e->cursor - slot->head <= e->bytes);
        rw_store64_seq(&slot->head, e->cursor);
        (void)RW_POINT("l.heads.mid");
        rw_store64(&slot->requests, e->taken);
        if (rw_load32_seq(&e->lane->room_waiters) != 0) /* PAIR: room */
            rw_unpark(rw_low_half(&slot->head), INT_MAX);
    }
}

static void hand_out(rw_wal *w, rw_block_job *job, int fd)
{
    const rw_block *h = (const rw_block *)w->ring.base;
    uint64_t place = h->position % w->c->segment_bytes;
    RW_ASSERT(place + h->length <= w->c->segment_bytes);
    *job = (rw_block_job){
        .block = w->ring.base,
        .number = h->number,
        .length = h->length,
        .file_offset = RW_PAGE + place,
        .requests = w->ring.requests,
        .fd = fd,
    };
    rw_count64(&w->c->wal_blocks, 1);
    rw_count64(&w->c->wal_requests, job->requests);
    rw_count64(&w->c->wal_block_bytes, job->length);
}

/* Tells the Python side when a segment is used for the first time, so that it prepares another one.
 */
static void announce_segment(rw_wal *w, uint64_t number)
{
    if (number > w->segment_announced) {
        w->segment_announced = number;
        rw_signal_fd(w->maintenance_fd);
    }
}

/* Tells it that records have become droppable. */
static void announce_cuts(rw_wal *w)
{
    if (w->cuts == w->cuts_told)
        return;
    w->cuts_told = w->cuts;
    rw_signal_fd(w->maintenance_fd);
    (void)RW_POINT("l.cut.composed");
}

/* What blocks with a drop of so many rows take, each of them in a block of its own. */
static uint64_t drop_bytes(uint32_t rows)
{
    uint64_t block = sizeof(rw_block) + rw_frame_bytes(RW_DROP_ROWS_MAX * sizeof(rw_drop_row));
    uint64_t pages = (block + RW_PAGE - 1) & ~(uint64_t)(RW_PAGE - 1);
    return (rows + RW_DROP_ROWS_MAX - 1) / RW_DROP_ROWS_MAX * pages;
}

/* THE RESERVE. Bytes of the segment that data may use. While the next segment is not there, which
 * may be for want of space, the last sixteenth of this one is kept for control frames, and as
 * much as it takes to drop records of every stream: a log that is full can still be trimmed, and
 * make room for itself. It is full for everybody as soon as it is for one. Behind data_end there is
 * no room for data at all: a segment beyond the log's limit, made when the reserve was used up. */
static uint64_t data_room(const rw_wal *w)
{
    uint64_t segment = rw_wal_segment(w);
    if (w->c->sealed_end >= w->data_end)
        return 0;
    if (rw_wal_segment_fd(w, segment + 1, 0) >= 0)
        return UINT64_MAX;
    if (w->held_segment == segment + 1)
        return 0;
    uint64_t room = rw_log_ring_segment_room(&w->ring),
             kept = w->c->segment_bytes / RW_RESERVE_PART + drop_bytes(w->c->max_streams);
    return room > kept ? room - kept : 0;
}

/* Opens the block: RW_OK, or as rw_log_ring_begin. A bound for data only, as what a trusted lane
 * asked for fits anyway. */
static int begin_block(rw_wal *w, uint64_t need, uint64_t room)
{
    uint64_t target = full_block(w);
    if (target > room)
        target = room & ~(uint64_t)(RW_PAGE - 1);
    return rw_log_ring_begin(&w->ring, sizeof(rw_block) + need, target);
}

/* RW_OK: `need` bytes of frames are to be composed, a DROP of `rows` first if that is not 0.
 * RW_PENDING, or RW_MAINTENANCE: for a segment. */
static int find_work(rw_wal *w, uint64_t room, uint32_t *rows, uint64_t *need)
{
    *rows = rw_drop_prepare(w);
    if (*rows != 0) {
        *need = rw_frame_bytes(*rows * sizeof(rw_drop_row));
        return RW_OK;
    }
    if (first_request(w, room, need) == RW_OK)
        return RW_OK;
    if (!w->held_back)
        return RW_PENDING;
    rw_signal_fd(w->maintenance_fd);
    return RW_MAINTENANCE;
}

int rw_compose(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    rw_log_ring *r = &w->ring;
    uint64_t need, room = data_room(w);
    uint32_t rows;
    rw_log_ring_advance(r);
    int rc = find_work(w, room, &rows, &need);
    if (rc != RW_OK)
        return rc;
    uint64_t segment = rw_wal_segment(w);
    int fd = rw_wal_segment_fd(w, segment, thread);
    if (fd < 0) {
        w->held_back = false;
        rw_signal_fd(w->maintenance_fd);
        return RW_MAINTENANCE;
    }
    announce_segment(w, segment);
    uint64_t now = rw_wall_ns();
    if (now > w->last_timestamp_ns)
        w->last_timestamp_ns = now; /* timestamps never go back, whatever the clock does */
    rc = begin_block(w, need, room);
    if (rc == RW_TOO_LARGE) {
        if (rw_log_ring_begin_end(r) != RW_OK)
            return RW_FULL;
        rw_log_ring_seal(r, RW_BLOCK_END, rw_log_ring_segment_room(r) + RW_PAGE,
                         w->last_timestamp_ns);
    } else if (rc != RW_OK) {
        return rc;
    } else {
        if (rows != 0)
            rw_drop_put(w, rows);
        fill_block(w);
        if (r->frames == 0) {
            w->touched_count = 0;
            return RW_PENDING; /* the only request was a bad one */
        }
        (void)RW_POINT("l.block.built");
        rw_log_ring_seal(r, RW_BLOCK_DATA, 0, w->last_timestamp_ns);
        (void)RW_POINT("l.block.sealed");
        rw_publish_block(w);
        announce_cuts(w);
    }
    hand_out(w, job, fd);
    return RW_OK;
}

bool rw_idle_watermark_due(const rw_wal *w)
{
    return w->ring.prefix_end == w->c->sealed_end && w->c->sealed_end != w->idle_watermark_end;
}

int rw_compose_idle_watermark(rw_wal *w, uint32_t thread, rw_block_job *job)
{
    rw_log_ring *r = &w->ring;
    rw_log_ring_advance(r);
    int fd = rw_wal_segment_fd(w, rw_wal_segment(w), thread);
    if (!rw_idle_watermark_due(w) || fd < 0 || data_room(w) < RW_PAGE)
        return RW_PENDING;
    int rc = rw_log_ring_begin(r, sizeof(rw_block), RW_PAGE);
    if (rc == RW_OK)
        rw_log_ring_seal(r, RW_BLOCK_DATA, 0, w->last_timestamp_ns);
    else if (rc == RW_TOO_LARGE && rw_log_ring_begin_end(r) == RW_OK)
        /* a full segment: its END block covers, too */
        rw_log_ring_seal(r, RW_BLOCK_END, rw_log_ring_segment_room(r) + RW_PAGE,
                         w->last_timestamp_ns);
    else
        return RW_PENDING; /* no room in the ring yet */
    w->idle_watermark_end = w->c->sealed_end;
    hand_out(w, job, fd);
    rw_signal_fd(w->maintenance_fd); /* a log at rest gets a checkpoint */
    return RW_OK;
}
