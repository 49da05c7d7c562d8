#define _GNU_SOURCE
#include "lane_world.h"

#include "fuzz.h"
#include "memory.h"
#include "stream.h"

#include <sys/mman.h>
#include <unistd.h>

enum { GUARD = 1 << 20 };

/* As rw_map does it: `data` bytes twice in a row. But whoever reads beside them dies of it. */
static void *map_guarded(uint64_t header, uint64_t data)
{
    const int flags = MAP_SHARED | MAP_FIXED, access = PROT_READ | PROT_WRITE;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_REQUIRE(fd >= 0 && ftruncate(fd, (off_t)(header + data)) == 0);
    uint8_t *base = mmap(NULL, header + 2 * data + 2 * GUARD, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FUZZ_REQUIRE(base != MAP_FAILED);
    base += GUARD;
    FUZZ_REQUIRE(mmap(base, header + data, access, flags, fd, 0) != MAP_FAILED);
    FUZZ_REQUIRE(data == 0 ||
                 mmap(base + header + data, data, access, flags, fd, (off_t)header) != MAP_FAILED);
    close(fd);
    return base;
}

void world_open(world *w)
{
    static const rw_geometry g = {
        .max_clients = LANES,
        .completions_per_client = WORLD_COMPLETIONS,
        .max_streams = WORLD_STREAMS,
        .ring_bytes = WORLD_RING,
        .segment_bytes = WORLD_SEGMENT,
    };
    static const uint8_t uuid[16] = "a world of lanes";
    if (w->c == NULL) {
        w->c = map_guarded(rw_control_bytes(&g), 0);
        w->ring = map_guarded(0, WORLD_RING);
        w->lane_bytes[HOSTILE] = 128 << 10;
        w->lane_bytes[HONEST] = 8 << 10;
        for (uint32_t k = 0; k < LANES; k++)
            w->lanes[k] = map_guarded(sizeof(rw_lane), w->lane_bytes[k]);
    }
    memset(w->c, 0, rw_control_bytes(&g));
    memset(w->ring, 0, WORLD_RING);
    rw_control_create(w->c, &g, uuid, WORLD_EPOCH, 0, RW_PAGE, 1);
    for (uint32_t id = 0; id < WORLD_STREAMS - 1; id++) {
        char name[16];
        int n = snprintf(name, sizeof name, "s%u", id);
        rw_stream_open(w->c, id, id, (const uint8_t *)name, (uint32_t)n);
    }
    rw_set_state(w->c, RW_RUNNING, 0);
}

void world_open_lane(world *w, uint32_t k, uint32_t generation)
{
    memset(w->lanes[k], 0, rw_lane_object_bytes(w->lane_bytes[k]));
    rw_lane_create(w->lanes[k], w->c, k, generation, w->lane_bytes[k]);
    /* the same in every run of an input */
    w->lanes[k]->salt = 1ull << 63 | generation * 0x123456789ull;
    rw_slot_open(w->c, k, generation, 1, w->lane_bytes[k]);
}
