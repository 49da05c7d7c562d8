#define _GNU_SOURCE
/* What the WAL process's main thread, in Python, does beside the threads that write: lanes and
 * segments come and go. */
#include "memory.h"
#include "points.h"
#include "wait.h"
#include "wal_state.h"

#include <limits.h>
#include <string.h>

int rw_wal_attach_lane(rw_wal *w, uint32_t slot, rw_lane *lane, uint32_t generation)
{
    compose_lock(w);
    w->lanes[slot] = (rw_lane_taker){
        .lane = lane,
        .data = (const uint8_t *)lane + sizeof *lane,
        /* not the lane's word: its writer can change that one */
        .bytes = rw_slot_of(w->c, slot)->lane_bytes,
        .salt = lane->salt,
        .cursor = rw_slot_of(w->c, slot)->head,
        .generation = generation,
        .active = rw_slot_of(w->c, slot)->fault != generation,
        .trusted = slot >= w->c->client_slots,
        .taken = rw_slot_of(w->c, slot)->requests,
    };
    if (slot >= w->lanes_end)
        w->lanes_end = slot + 1;
    compose_unlock(w);
    rw_signal_fd(w->inner_fd);
    return RW_OK;
}

int rw_wal_refuse_lane(rw_wal *w, uint32_t slot, uint32_t generation)
{
    compose_lock(w);
    w->lanes[slot] = (rw_lane_taker){.generation = generation};
    compose_unlock(w);
    rw_tell_refused(w, slot, generation);
    return RW_OK;
}

int rw_wal_detach_lane(rw_wal *w, uint32_t slot)
{
    compose_lock(w);
    uint32_t generation = w->lanes[slot].generation;
    w->lanes[slot] = (rw_lane_taker){.active = 0};
    while (w->lanes_end > 0 && w->lanes[w->lanes_end - 1].lane == NULL)
        w->lanes_end--;
    compose_unlock(w);
    rw_slot *s = rw_slot_of(w->c, slot);
    /* First, so that a successor that finds head at 0 and the generation not let go does not take
     * its requests again. */
    rw_store32_seq(&s->fault, generation);
    (void)RW_POINT("l.detach.mid");
    rw_store64_seq(&s->head, 0); /* the next generation's lane begins at 0 */
    rw_store64(&s->requests, 0);
    rw_store32_seq(&s->wal_done, generation);
    return RW_OK;
}

int rw_wal_lane_idle(rw_wal *w, uint32_t slot)
{
    compose_lock(w);
    const rw_lane_taker *e = &w->lanes[slot];
    int idle = e->lane == NULL || !e->active || !rw_lane_ready(e);
    compose_unlock(w);
    return idle;
}

int rw_wal_add_segment(rw_wal *w, uint64_t number, const int *fds, bool filled)
{
    compose_lock(w);
    rw_wal_segment_slot *s = &w->segments[number % RW_WAL_SEGMENTS];
    int rc = s->fds[0] < 0 ? RW_OK : RW_FULL;
    if (rc == RW_OK) {
        s->number = number;
        s->filled = filled;
        memcpy(s->fds, fds, w->o.threads * sizeof *fds);
        if (number >= w->c->segments_end)
            rw_store64(&w->c->segments_end, number + 1);
    }
    rw_store32_seq(&w->c->starved, 0);
    compose_unlock(w);
    rw_signal_fd(w->inner_fd);
    return rc;
}

int rw_wal_drop_segment(rw_wal *w, int *fds)
{
    compose_lock(w);
    rw_log_ring_advance(&w->ring);
    uint64_t oldest = w->ring.prefix_end / w->c->segment_bytes;
    int rc = RW_PENDING;
    for (uint32_t i = 0; i < RW_WAL_SEGMENTS && rc != RW_OK; i++) {
        rw_wal_segment_slot *s = &w->segments[i];
        if (s->fds[0] >= 0 && s->number < oldest) {
            memcpy(fds, s->fds, w->o.threads * sizeof *fds);
            s->fds[0] = -1;
            rc = RW_OK;
        }
    }
    compose_unlock(w);
    return rc;
}

uint64_t rw_wal_segment(const rw_wal *w)
{
    return rw_load64(&w->c->sealed_end) / w->c->segment_bytes;
}

void rw_wal_limit_data(rw_wal *w, uint64_t position)
{
    compose_lock(w);
    w->data_end = position;
    rw_store32_seq(&w->c->starved, 0);
    compose_unlock(w);
    rw_signal_fd(w->inner_fd);
}

void rw_wal_storage_full(rw_wal *w, uint32_t error) { rw_store32_seq(&w->c->storage_full, error); }

int rw_wal_fetch_occupancy(rw_wal *w, uint64_t *segment, const rw_occupant **rows, uint32_t *count)
{
    compose_lock(w);
    /* The segment may be full and the next one have no record yet. */
    if (w->occupancy.now.segment < rw_wal_segment(w))
        rw_occupancy_reach(&w->occupancy, rw_wal_segment(w));
    int rc = rw_occupancy_fetch(&w->occupancy);
    compose_unlock(w);
    if (rc != RW_OK)
        return rc;
    rw_occupancy_rows *found = &w->occupancy.fetched; /* nobody else's until the next fetch */
    rw_occupancy_sort(found->rows, found->count);
    *segment = found->segment;
    *rows = found->rows;
    *count = found->count;
    return RW_OK;
}

void rw_wal_first_segment(rw_wal *w, uint64_t number, bool count)
{
    RW_ASSERT(number >= w->c->first_segment);
    if (count)
        rw_count64(&w->c->segments_freed, number - w->c->first_segment);
    rw_store64_seq(&w->c->first_segment, number);
}

void rw_wal_checkpoint_named(rw_wal *w, uint64_t position)
{
    rw_store64(&w->c->checkpointed, position);
}

void rw_wal_count_used_again(rw_wal *w, uint64_t recycled, uint64_t dropped)
{
    rw_count64(&w->c->segments_recycled, recycled);
    rw_count64(&w->c->segments_dropped, dropped);
}

uint64_t rw_wal_cuts(rw_wal *w)
{
    compose_lock(w);
    uint64_t cuts = w->cuts;
    compose_unlock(w);
    return cuts;
}

uint64_t rw_wal_persisted_end(rw_wal *w)
{
    compose_lock(w);
    rw_log_ring_advance(&w->ring);
    uint64_t end = w->ring.prefix_end;
    compose_unlock(w);
    return end;
}

bool rw_wal_rests(rw_wal *w)
{
    compose_lock(w);
    bool rests = w->idle_watermark_end == w->c->sealed_end;
    compose_unlock(w);
    return rests;
}
