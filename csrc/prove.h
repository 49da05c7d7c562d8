/* Blocks of a log, proven one after the other, in bytes that somebody has read. No I/O, no policy.
 *
 * Recovery proves what is behind the checkpoint. A copy, a backup and a restore want all of the log
 * proven: from the first block of a part of an epoch on each block must begin where the one before
 * says that it ends, and pass every check of block.h, up to the very end of that part. So nothing
 * is missing in between, be it ever so well formed.
 */
#ifndef RW_PROVE_H
#define RW_PROVE_H

#include "layout.h"
#include "status.h"

/* Where it stands, between calls. The caller sets uuid, epoch, position; the rest to zeros. */
typedef struct rw_proof {
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t position; /* of the block that comes next */
    uint64_t need;     /* RW_PENDING: bytes from there on that have to be shown */
    uint64_t blocks;   /* proven so far */
    /* A restored log has a uuid of its own: each block that is proven gets this one, in place. The
     * checksums of frames know epoch and position only, so that is all that changes. */
    uint8_t renamed[16];
    uint32_t renames; /* 0: nothing is changed */
    uint32_t pad_;
} rw_proof;

/* Goes on through `window`, whose first byte is at p->position and of which `available` bytes may
 * be read, up to log position `end`, where a block has to end.
 *   RW_OK       p->position is `end`
 *   RW_PENDING  show p->need bytes from p->position on, or, where it is 0, as many as there are
 *   RW_BAD      no valid block at p->position, or it goes beyond `end` */
int rw_prove(uint8_t *window, uint64_t available, rw_proof *p, uint64_t end);

/* The first place in `bytes` of `area`, whose first byte is log position `position`, with a block
 * header of this log, of whichever epoch: its byte offset, and its epoch in *epoch; or `bytes`. */
uint64_t rw_prove_search(const uint8_t *area, uint64_t bytes, const uint8_t uuid[16],
                         uint64_t position, uint64_t *epoch);

#endif
