/* What a WAL thread decides from a few numbers: how large a block, how many at once, whether
 * another one, and whether now. Pure: no shared word, and what it remembers is handed to it.
 */
#ifndef RW_WAL_POLICY_H
#define RW_WAL_POLICY_H

#include "tuning.h"

#include <stdbool.h>
#include <stdint.h>

#define RW_POLICY_PAGE 4096u

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

/* LINGERING, if that is wanted. A block takes whole pages, so one small record alone takes 4096
 * bytes. Where much of a block would be zeros, it waits for more, up to a time; but only where such
 * waits bring something. Callers that wait for each append have none to come while all of them are
 * in the block, and no other sign of it: they may be threads that wait while others go on. So the
 * waits themselves are the measure: after a few in a row that brought nothing, blocks go without
 * one for a while, and for a longer while each time. */
typedef struct rw_linger {
    uint64_t until_ns;   /* when the wait for this block ends; 0: there is none */
    uint64_t from_bytes; /* what there was when it began */
    uint32_t missed;     /* waits in a row that brought nothing */
    uint32_t skip;       /* so many blocks go without one */
} rw_linger;

static inline bool rw_policy_well_filled(uint64_t bytes)
{
    uint64_t length = (bytes + RW_POLICY_PAGE - 1) / RW_POLICY_PAGE * RW_POLICY_PAGE;
    return (length - bytes) * RW_LINGER_ZEROS <= length;
}

/* The wait, if there is one, is over, with `bytes` to be written. */
static inline void rw_policy_linger_over(rw_linger *l, uint64_t bytes)
{
    if (l->until_ns == 0)
        return;
    l->until_ns = 0;
    if (bytes > l->from_bytes) {
        l->missed = 0;
    } else if (++l->missed >= RW_LINGERS_MISSED) {
        uint32_t more = l->missed - RW_LINGERS_MISSED;
        l->skip = more < 4 ? RW_LINGER_SKIP_FIRST << more : RW_LINGER_SKIP_MOST;
    }
}

/* Does a block of `bytes` wait, at `now_ns`, where waits may take `linger_ns`? If not, it is
 * composed, and this is not asked again before the next one. */
static inline bool rw_policy_lingers(rw_linger *l, uint64_t linger_ns, uint64_t bytes,
                                     uint64_t now_ns)
{
    if (l->until_ns != 0 && now_ns < l->until_ns && !rw_policy_well_filled(bytes))
        return true;
    if (l->until_ns == 0 && !rw_policy_well_filled(bytes)) {
        if (l->skip == 0) {
            l->until_ns = now_ns + linger_ns;
            l->from_bytes = bytes;
            return true;
        }
        l->skip--;
        return false;
    }
    rw_policy_linger_over(l, bytes);
    return false;
}

#endif
