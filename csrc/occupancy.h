/* WHAT A SEGMENT HOLDS: for each stream with a record in it, the offset behind the last one. A
 * segment whose rows all lie at or below the start offsets of their streams holds nothing that
 * anybody may read.
 *
 * It is gathered while blocks are composed: rows of the segment in use, under the compose lock.
 * With the first block of the next segment they are put aside for the main thread, which fetches
 * them; those that are not fetched before the next ones come are lost, and so are those of the
 * segment in which this process began. What is lost is read from the segment again
 * (log/occupancy.py).
 *
 *   under the compose lock    now: segment n + 1, grows      done: segment n, whole
 *   of the main thread        fetched
 *                             The three change places; nothing is copied under the lock.
 */
#ifndef RW_OCCUPANCY_H
#define RW_OCCUPANCY_H

#include "layout.h"
#include "scan.h"
#include "status.h"

#include <stdbool.h>

typedef struct rw_occupant {
    uint32_t stream; /* its number */
    uint32_t pad_;
    uint64_t end; /* offset behind its last record */
} rw_occupant;

typedef struct rw_occupancy_rows {
    rw_occupant *rows;
    uint64_t segment;
    uint32_t count;
    bool whole; /* nothing of the segment is missing */
} rw_occupancy_rows;

typedef struct rw_occupancy {
    rw_occupancy_rows now, done, fetched;
    uint32_t *row_of; /* by place: in `now`; may be stale, so the row itself is asked */
    uint32_t places;
    uint32_t capacity;
} rw_occupancy;

/* For streams at `places` places. RW_OK, or RW_FULL: no memory. */
int rw_occupancy_open(rw_occupancy *o, uint32_t places);
void rw_occupancy_close(rw_occupancy *o);
/* Under the compose lock: the stream of that number, at that place, has records up to `end` in the
 * segment. Segments come in order. */
void rw_occupancy_note(rw_occupancy *o, uint64_t segment, uint32_t place, uint32_t stream,
                       uint64_t end);
/* Under the compose lock: blocks go to that segment now. */
void rw_occupancy_reach(rw_occupancy *o, uint64_t segment);
/* Under the compose lock, for the main thread: `fetched` are the rows of the last whole segment,
 * not sorted. RW_OK, or RW_PENDING: there are none that have not been fetched. */
int rw_occupancy_fetch(rw_occupancy *o);

/* Pure, for rows sorted by stream. */
void rw_occupancy_sort(rw_occupant *rows, uint32_t count);
/* Adds what an index of a piece of the segment says, which it sorts. `out` has room for both.
 * Returns how many rows there are in it. */
uint32_t rw_occupancy_fold(const rw_occupant *rows, uint32_t count, rw_index_entry *entries,
                           uint32_t entry_count, rw_occupant *out);
/* Those of which a record lies at or behind the start offset that the checkpoint has for the
 * stream; a stream that the checkpoint does not have is no more. `out` has room for all. Returns
 * how many; *reserved: number of one whose name begins with "_", UINT32_MAX if there is none. */
uint32_t rw_occupancy_live(const rw_occupant *rows, uint32_t count,
                           const rw_checkpoint_stream *streams, uint32_t stream_count,
                           rw_occupant *out, uint32_t *reserved);
/* Does a stream begin behind 0, or is one of those that were made no more? Else nothing is free. */
bool rw_occupancy_trimmed(const rw_checkpoint_stream *streams, uint32_t count,
                          uint32_t next_number);

#endif
