/* Several streams in log order: one walk for all of them (scan.h says how a walk goes).
 *
 * A walk stands at a log position; of each stream that is wanted it knows the next offset. It gives
 * the records of a block in the order of its frames, and passes over frames of other streams, and
 * over records that lie before what is wanted. The caller sees to it that no record that is wanted
 * lies before the walk, and that the area ends where everything before is confirmed.
 */
#ifndef RW_MERGED_H
#define RW_MERGED_H

#include "scan.h"

/* One of the streams; sorted by `stream`. */
typedef struct rw_want {
    uint64_t next_offset;
    uint64_t confirmed_offset; /* when it was looked at */
    uint64_t start_offset;
    uint32_t stream; /* its number */
    uint32_t place;
    uint32_t deleted; /* 1: it was, when it was looked at */
    uint32_t tag;     /* the caller's */
} rw_want;

/* What is wanted, and what one call found: indexes as in rw_slices, which has the limits, too. */
typedef struct rw_merged {
    rw_want *wants;
    uint32_t count;
    uint32_t at; /* the want whose frame the walk stands at, or has come to last */
    rw_slices slices;
    uint64_t offset[RW_SLICES];
    uint32_t want[RW_SLICES]; /* indexes of `wants` */
} rw_merged;

/* How far each of the streams reaches now; those that are deleted are marked. Everything that is
 * confirmed below the log position returned was confirmed before the looks: what a stream confirms
 * later lies at or beyond it. */
uint64_t rw_merged_look(const rw_control *c, rw_merged *m);

/* Collects from the walk's place up to the end of the area, or the limits. END, FULL, SHORT, BAD,
 * or AHEAD: the stream m->wants[m->at] goes on behind the record wanted. What is in m->slices is
 * good whatever it is (for the ring: if rw_log_holds says so). */
int rw_merged_collect(const rw_area *area, rw_walk *s, rw_merged *m);

#endif
