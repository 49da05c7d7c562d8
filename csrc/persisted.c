#include "persisted.h"

#include "block.h"
#include "invariant.h"
#include "points.h"

static uint32_t settle(uint8_t *block, uint8_t outcome)
{
    uint32_t changed = 0;
    rw_frames frames = rw_frames_of(block, ((const rw_block *)block)->frames);
    for (rw_frame *r; (r = rw_frames_next(&frames)) != NULL;) {
        bool now = rw_cas8(&r->persisted, RW_UNPERSISTED, outcome);
        /* of a predecessor that was killed in between */
        RW_ASSERT(now || rw_load8(&r->persisted) == outcome);
        changed += now;
        (void)RW_POINT("l.publish.mid");
    }
    return changed;
}

uint32_t rw_persist_block(uint8_t *block) { return settle(block, RW_PERSISTED); }
uint32_t rw_fail_block(uint8_t *block) { return settle(block, RW_NOT_WRITTEN); }
