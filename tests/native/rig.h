/* What stress.c and replace.c share: an engine's memory and segment files without Python, requests
 * made from a seed, and the final check of the log against them. */
#ifndef RIG_H
#define RIG_H

#include "atomics.h"
#include "layout.h"
#include "lane.h"
#include "wal.h"

#include <stdio.h>
#include <stdlib.h>

#define RIG_LANES       8u
#define RIG_STREAMS     24u
#define RIG_COMPLETIONS 256u
#define RIG_RING        (1u << 20)
#define RIG_SEGMENT     (2u << 20)
#define RIG_SEGMENTS    512u
#define RIG_POOL        4u /* threads of the WAL process */
#define RIG_NOT_YET     -1
#define RIG_DONE        -2
#define RIG_EPOCH       3u
#define RIG_BEGIN       RW_PAGE /* position of the first block */
#define RIG_FOREVER \
    3600000000000ull /* waits: a lost wake-up must hang, so that the watchdog shows it */

extern const uint8_t rig_uuid[16];

typedef struct rig {
    uint64_t seed;
    rw_control *c;
    uint8_t *ring;
    rw_lane *lanes[RIG_LANES + 1]; /* the last one is a tailer's: wait flags only */
    uint64_t lane_bytes[RIG_LANES + 1];
    int doorbell, maintenance;
    int direct; /* the file system takes O_DIRECT */
    char directory[64];
    /* descriptors of this process, by WAL thread; the first: RIG_NOT_YET, RIG_DONE */
    int writing[RIG_SEGMENTS][RIG_POOL];
} rig;

/* One request: who sends it decides everything about it. */
typedef struct rig_request {
    uint32_t stream, count, bytes; /* bytes: of the payload with its table of lengths */
    uint32_t lengths[4];
} rig_request;

/* Shows the engine's words, removes the segment files and aborts. */
_Noreturn void rig_die(const char *file, int line, const char *what);
#define RIG_REQUIRE(condition) \
    ((condition) ? (void)0 : rig_die(__FILE__, __LINE__, "not so: " #condition))

uint64_t rig_mix(uint64_t x);

void rig_open(rig *r, uint64_t seed, uint32_t confirm_order);
void rig_close(rig *r);
/* A lane of a new generation in slot k, seen by nobody yet; the former one is unmapped. */
void rig_open_lane(rig *r, uint32_t k, uint32_t generation);
rw_wal_options rig_options(const rig *r);
void rig_add_segments(rig *r, rw_wal *w, uint64_t from, uint64_t ahead);

/* Request `number` of lane k. `limit` is the lane's record limit. */
rig_request rig_request_of(const rig *r, uint32_t k, uint64_t number, uint64_t limit);
/* Its payload without the table of lengths: q->bytes - (count > 1 ? 4 * count : 0) bytes. */
void rig_payload(const rig *r, uint32_t k, uint64_t number, const rig_request *q, uint8_t *out);
/* Publishes it, waiting for room as often as it takes. */
void rig_append(rig *r, rw_writer *w, uint32_t k, uint64_t number, uint8_t *scratch);

/* Decodes all segment files: every block valid, offsets dense per stream, every payload as its
 * sender made it, every result's request there once, at its offset, and no other. Returns how many
 * records there are. */
typedef struct rig_result {
    uint32_t lane;
    uint64_t number, offset;
} rig_result;
uint64_t rig_check(rig *r, const rig_result *results, uint64_t count);

/* rig_die if `seconds` pass. */
void rig_watch(unsigned seconds);

#endif
