#include "persisted.h"

#include "invariant.h"
#include "points.h"

static uint32_t settle(uint8_t *block, uint8_t outcome)
{
    const rw_block *h = (const rw_block *)block;
    uint32_t changed = 0;
    uint64_t at = sizeof *h;
    for (uint32_t i = 0; i < h->records; i++) {
        rw_record *r = (rw_record *)(block + at);
        bool now = rw_cas8(&r->persisted, RW_UNPERSISTED, outcome);
        RW_ASSERT(now || rw_load8(&r->persisted) == outcome); /* of a predecessor that was killed in between */
        changed += now;
        (void)RW_POINT("l.publish.mid");
        at += rw_record_frame(r->payload_bytes);
    }
    return changed;
}

uint32_t rw_persist_block(uint8_t *block) { return settle(block, RW_PERSISTED); }
uint32_t rw_fail_block(uint8_t *block) { return settle(block, RW_NOT_WRITTEN); }
