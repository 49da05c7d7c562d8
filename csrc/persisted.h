/* The persisted byte of each frame, and the only code that changes it.
 *
 *   0 --CAS--> 1   the write of its block completed and was durable: by the thread that wrote it
 *   0 --CAS--> 2   the write failed: the same thread; the epoch is over
 *
 * Both are final. The byte of a block that is composed anew starts at 0 (the ring space is only
 * reused once everything in it is confirmed).
 *
 * One byte at 1 proves the write of its whole block, also to a WAL process whose predecessor was
 * killed between two bytes. It sets the rest and does not write the block again: the drain may have
 * confirmed the first ones meanwhile, in a pass over their stream that another block set off, and a
 * second write that fails or tears would take what is confirmed.
 *
 * No lock is held. The CAS is sequentially consistent, so the drain, which may look at the byte of
 * a stream's head at any moment, sees it at the latest after the block is announced (PAIR:
 * completions).
 */
#ifndef RW_PERSISTED_H
#define RW_PERSISTED_H

#include "atomics.h"
#include "layout.h"

enum rw_persisted { RW_UNPERSISTED = 0, RW_PERSISTED = 1, RW_NOT_WRITTEN = 2 };

static inline bool rw_is_persisted(const rw_frame *r)
{
    return rw_load8(&r->persisted) == RW_PERSISTED;
}

/* Sets the byte of every frame of the block; returns how many this call changed. */
uint32_t rw_persist_block(uint8_t *block);
uint32_t rw_fail_block(uint8_t *block);

#endif
