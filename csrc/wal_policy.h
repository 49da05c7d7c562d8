/* What a WAL thread decides from a few numbers: how large a block, how many at once, whether
 * another one. Pure: no shared word, no state.
 */
#ifndef RW_WAL_POLICY_H
#define RW_WAL_POLICY_H

#include "tuning.h"

#include <stdbool.h>
#include <stdint.h>

/* When a block is closed. Where as many are in flight as there are threads, two that are half as
 * large keep the device busier than one: large ones end together, and while all writers append
 * again the device waits for the first of them to be composed. */
static inline uint64_t rw_policy_block_bytes(uint64_t block_bytes, bool filled)
{
    return filled ? block_bytes / 2 : block_bytes;
}

/* How many blocks may be in flight into the segment that is written now; `filled`: its data was
 * written before, not only reserved. */
static inline uint32_t rw_policy_blocks_at_once(uint32_t threads, bool filled)
{
    return filled ? threads : RW_RESERVED_AT_ONCE;
}

/* Do the lanes hold enough (`backlog` bytes) for another block beside the `writing` ones? The
 * second one hides the time in which nothing would be on its way. Measured, a third one only pays
 * if it is full, which in a filled segment is half of block_bytes: a device has so much bandwidth,
 * and many small blocks get less of it than what gathers while two large ones are written. The
 * block ahead pays from there on as well: `room` is for either. */
static inline bool rw_policy_worth_a_block(uint32_t writing, bool room, uint64_t backlog,
                                           uint64_t pipeline_bytes, uint64_t block_bytes)
{
    if (writing < 2)
        return backlog >= pipeline_bytes;
    return room && backlog >= block_bytes / 2;
}

/* Under contention: have enough of the callers that were confirmed appended again? */
static inline uint32_t rw_policy_gathered(uint32_t callers) { return callers / 4 * 3; }

#endif
