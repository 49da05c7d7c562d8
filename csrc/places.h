/* Where things are: in the control area, by its sizes, and in the rings, by their positions. */
#ifndef RW_PLACES_H
#define RW_PLACES_H

#include "layout.h"

typedef struct rw_geometry {
    uint32_t max_clients; /* slots, those of the engine's own lanes among them */
    uint32_t engine_slots; /* the last ones, so many */
    uint32_t completions_per_client;
    uint32_t max_streams;
    uint32_t confirm_order;
    uint64_t ring_bytes;
    uint64_t segment_bytes;
    uint32_t max_owners;
} rw_geometry;

static inline uint64_t rw_page_up(uint64_t n)
{
    return (n + RW_PAGE - 1) & ~(uint64_t)(RW_PAGE - 1);
}
static inline uint64_t rw_slots_at(void) { return sizeof(rw_control); }
static inline uint64_t rw_completions_at(uint32_t clients)
{
    return rw_page_up(rw_slots_at() + (uint64_t)clients * sizeof(rw_slot));
}
static inline uint64_t rw_blocks_at(uint32_t clients, uint32_t per_client)
{
    return rw_page_up(rw_completions_at(clients) +
                      (uint64_t)clients * per_client * sizeof(rw_completion));
}
static inline uint64_t rw_streams_at(uint32_t clients, uint32_t per_client)
{
    return rw_blocks_at(clients, per_client) + RW_BLOCK_ENTRIES * sizeof(rw_block_entry);
}

static inline rw_slot *rw_slot_of(rw_control *c, uint32_t k)
{
    return (rw_slot *)((uint8_t *)c + rw_slots_at()) + k;
}
static inline rw_completion *rw_completions_of(rw_control *c, uint32_t k)
{
    return (rw_completion *)((uint8_t *)c + rw_completions_at(c->max_clients)) +
           (uint64_t)k * c->completions_per_client;
}
static inline rw_block_entry *rw_block_entry_of(rw_control *c, uint64_t number)
{
    return (rw_block_entry *)((uint8_t *)c +
                              rw_blocks_at(c->max_clients, c->completions_per_client)) +
           (number & (RW_BLOCK_ENTRIES - 1));
}
static inline rw_stream *rw_stream_of(rw_control *c, uint32_t place)
{
    return (rw_stream *)((uint8_t *)c + rw_streams_at(c->max_clients, c->completions_per_client)) +
           place;
}

static inline rw_owner *rw_owner_of(rw_control *c, uint32_t place)
{
    return (rw_owner *)rw_stream_of(c, c->max_streams) + place;
}

/* The place of a log position in the ring. */
static inline uint64_t rw_ring_place(const rw_control *c, uint64_t position)
{
    return position & (c->ring_bytes - 1);
}

static inline uint64_t rw_align8(uint64_t n) { return (n + 7) & ~7ull; }
static inline uint64_t rw_request_bytes(uint64_t payload)
{
    return sizeof(rw_request) + ((payload + 63) & ~63ull);
}
static inline uint64_t rw_frame_bytes(uint64_t payload)
{
    return sizeof(rw_frame) + rw_align8(payload);
}

#endif
