/* What lane.c acts in: an engine's memory in one process, with nothing readable beside it. */
#ifndef LANE_WORLD_H
#define LANE_WORLD_H

#include "lane.h"
#include "layout.h"

#define WORLD_RING        (256u << 10)
#define WORLD_SEGMENT     (1u << 20)
#define WORLD_BLOCK       4096u
#define WORLD_STREAMS     256u
#define WORLD_COMPLETIONS 64u
#define WORLD_EPOCH       7u

enum { HOSTILE = 0, HONEST = 1, LANES = 2 };

typedef struct world {
    rw_control *c;
    uint8_t *ring;
    rw_lane *lanes[LANES];
    uint64_t lane_bytes[LANES];
} world;

/* Fresh: streams are open, no slot is. The memory itself is mapped once and used again. */
void world_open(world *w);
/* A writer's lane of this generation, seen by nobody yet. */
void world_open_lane(world *w, uint32_t k, uint32_t generation);

#endif
