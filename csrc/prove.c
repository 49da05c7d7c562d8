#include "prove.h"

#include "block.h"

#include <string.h>

int rw_prove(uint8_t *window, uint64_t available, rw_proof *p, uint64_t end)
{
    const uint64_t begin = p->position;
    p->need = 0;
    while (p->position < end) {
        uint64_t at = p->position - begin;
        if (at > available || available - at < sizeof(rw_block))
            return RW_PENDING;
        uint8_t *block = window + at;
        if (rw_block_check(block, UINT64_MAX, p->uuid, p->epoch, p->position) != RW_OK)
            return RW_BAD;
        rw_block h;
        memcpy(&h, block, sizeof h);
        if (h.span > end - p->position)
            return RW_BAD;
        if (h.length > available - at) {
            p->need = h.length;
            return RW_PENDING;
        }
        if (rw_block_verify(block) != RW_OK)
            return RW_BAD;
        if (p->renames) {
            memcpy(h.uuid, p->renamed, sizeof h.uuid);
            rw_block_stamp(&h);
            memcpy(block, &h, sizeof h);
        }
        p->blocks++;
        p->position += h.span;
    }
    return RW_OK;
}

uint64_t rw_prove_search(const uint8_t *area, uint64_t bytes, const uint8_t uuid[16],
                         uint64_t position, uint64_t *epoch)
{
    for (uint64_t at = 0; at + RW_PAGE <= bytes; at += RW_PAGE) {
        rw_block h;
        memcpy(&h, area + at, sizeof h);
        if (h.magic != RW_BLOCK_MAGIC)
            continue;
        if (rw_block_check(area + at, UINT64_MAX, uuid, h.epoch, position + at) == RW_OK) {
            *epoch = h.epoch;
            return at;
        }
    }
    return bytes;
}
