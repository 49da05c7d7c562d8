/* Which streams have more than they are to keep, as far as memory says: for the keeper, who asks
 * for trims.
 *
 * A row has what one moment of a stream's words says, believed while the number is there
 * (stream.h, PLACES), and how far it may be trimmed. That grows only by what is proven: confirmed
 * offsets, and ends out of side files.
 *
 * A consumer that is named holds what it has not committed; one that there is not, everything. Its
 * row may be of a commit that is sealed and not confirmed: a trim that is asked for on its strength
 * stands behind that in the stream's queue (PAIR: owner). */
#ifndef RW_RETENTION_H
#define RW_RETENTION_H

#include "layout.h"
#include "occupancy.h"

#include <stdbool.h>

/* 0: no such limit. */
typedef struct rw_limits {
    uint64_t age_ns;
    uint64_t payload_bytes;
    uint64_t records;
} rw_limits;

typedef struct rw_keeping {
    uint32_t place;
    uint32_t number;
    rw_limits limits;
    uint64_t start_offset;
    uint64_t confirmed_offset;
    uint64_t confirmed_bytes;
    uint64_t before; /* may be trimmed up to there, by what was looked at so far */
    uint64_t until;  /* and no further than this, which consumers hold */
    uint8_t held;    /* consumers are named who hold it */
} rw_keeping;

/* The next streams, from *place on, that have records and a limit, or, if `held` is asked for, are
 * held below their end: up to `capacity` rows, sorted by number, their `before` as the limit of
 * records has it. Returns how many; *place is where to go on, or stream_count. */
uint32_t rw_retention_rows(const rw_control *c, const rw_limits *defaults, bool held,
                           uint32_t *place, rw_keeping *rows, uint32_t capacity);

/* All records before these ends, sorted by number, are older than `age_ns`: rows with that limit,
 * or a lower one, may be trimmed up to there. */
void rw_retention_expire(rw_keeping *rows, uint32_t count, uint64_t age_ns, const rw_occupant *ends,
                         uint32_t end_count);

/* The limits of age that these rows have, each once, as far as there is room: where there is none,
 * the last one is the largest of the others. Returns how many. */
uint32_t rw_retention_ages(const rw_keeping *rows, uint32_t count, uint64_t *ages,
                           uint32_t capacity);

/* Moves the rows to the front that have a limit of bytes, or may be trimmed further than they are.
 * Returns how many. */
uint32_t rw_retention_due(rw_keeping *rows, uint32_t count);

#endif
