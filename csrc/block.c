#include "block.h"

#include "digest.h"

#include <string.h>

static uint32_t block_crc(const rw_block *h)
{
    rw_block copy = *h;
    copy.crc = 0;
    return rw_crc32c(0, &copy, sizeof copy);
}

void rw_block_stamp(rw_block *h) { h->crc = block_crc(h); }

uint64_t rw_block_seal(uint8_t *block, const rw_block *like, const uint8_t uuid[16])
{
    uint64_t length = rw_page_up(like->used);
    memset(block + like->used, 0, length - like->used);
    rw_block *h = (rw_block *)block;
    *h = *like;
    h->magic = RW_BLOCK_MAGIC;
    h->format_version = RW_FORMAT_VERSION;
    memcpy(h->uuid, uuid, sizeof h->uuid);
    h->length = (uint32_t)length;
    if (h->span == 0)
        h->span = length;
    rw_block_stamp(h);
    return length;
}

static int header_check(const rw_block *h, const uint8_t uuid[16], uint64_t epoch,
                        uint64_t position)
{
    if (h->magic != RW_BLOCK_MAGIC || h->format_version != RW_FORMAT_VERSION ||
        h->crc != block_crc(h))
        return RW_BAD;
    if (memcmp(h->uuid, uuid, 16) != 0 || h->epoch != epoch || h->position != position)
        return RW_BAD;
    if (h->length < RW_PAGE || h->length % RW_PAGE || h->used < sizeof *h || h->used > h->length ||
        h->span < h->length)
        return RW_BAD;
    /* Who walks on by `span` must come to a further place of a block, and who makes room for
     * `records` must not be asked for the moon. */
    if (h->span % RW_PAGE || h->span > UINT64_MAX - position ||
        h->frames > (h->used - sizeof *h) / sizeof(rw_frame))
        return RW_BAD;
    return RW_OK;
}

int rw_block_check(const uint8_t *block, uint64_t available, const uint8_t uuid[16], uint64_t epoch,
                   uint64_t position)
{
    rw_block h;
    if (available < sizeof h)
        return RW_BAD;
    memcpy(&h, block, sizeof h);
    if (header_check(&h, uuid, epoch, position) != RW_OK || h.length > available)
        return RW_BAD;
    return RW_OK;
}

uint64_t rw_block_search(const uint8_t *area, uint64_t bytes, const uint8_t uuid[16],
                         uint64_t epoch, uint64_t position)
{
    for (uint64_t at = 0; at + RW_PAGE <= bytes; at += RW_PAGE) {
        uint64_t magic;
        memcpy(&magic, area + at, sizeof magic);
        if (magic != RW_BLOCK_MAGIC)
            continue;
        rw_block h;
        memcpy(&h, area + at, sizeof h);
        if (header_check(&h, uuid, epoch, position + at) == RW_OK)
            return at;
    }
    return bytes;
}

int rw_frame_check(const uint8_t *block, uint64_t used, uint64_t at, uint32_t seed, rw_frame *r)
{
    if (used < at || used - at < sizeof *r)
        return RW_BAD;
    memcpy(r, block + at, sizeof *r);
    return r->crc == rw_frame_crc(r, seed) && rw_frame_bytes(r->payload_bytes) <= used - at
               ? RW_OK
               : RW_BAD;
}

int rw_joint_take(rw_joint *j, const rw_frame *r)
{
    const bool goes_on = r->flags & RW_JOINED && rw_frame_joins(r->kind);
    if (j->parts == 0 && !goes_on)
        return RW_OK;
    bool right = rw_frame_joins(r->kind) && j->parts < RW_PARTS_MAX;
    if (r->kind == RW_FRAME_BATCH && r->producer_id != 0)
        right = false; /* a producer is of one stream */
    for (uint32_t i = 0; right && i < j->parts; i++)
        right = j->streams[i] != r->stream;
    if (right)
        j->streams[j->parts] = r->stream;
    j->parts = right && goes_on ? j->parts + 1 : 0;
    return right ? RW_OK : RW_BAD;
}

int rw_block_verify(const uint8_t *block)
{
    rw_block h;
    memcpy(&h, block, sizeof h);
    uint32_t seed = rw_frame_seed(h.epoch, h.position);
    uint64_t at = sizeof h;
    rw_joint joint = {.parts = 0};
    for (uint32_t i = 0; i < h.frames; i++) {
        rw_frame r;
        if (rw_frame_check(block, h.used, at, seed, &r) != RW_OK)
            return RW_BAD;
        if (h.kind != RW_BLOCK_HOLE && rw_joint_take(&joint, &r) != RW_OK)
            return RW_BAD;
        const uint8_t *payload = block + at + sizeof r;
        if (r.digest != rw_xxh3(payload, r.payload_bytes))
            return RW_BAD;
        if (rw_frame_sort_check(&r, payload) != RW_OK)
            return RW_BAD;
        at += rw_frame_bytes(r.payload_bytes);
    }
    return at == h.used && joint.parts == 0 ? RW_OK : RW_BAD;
}

uint32_t rw_block_frames(const uint8_t *block, uint64_t *at, rw_frame_info *out, uint32_t capacity)
{
    rw_block h;
    memcpy(&h, block, sizeof h);
    uint32_t n = 0;
    while (n < capacity && h.used - *at >= sizeof(rw_frame) && *at < h.used) {
        rw_frame r;
        memcpy(&r, block + *at, sizeof r);
        out[n++] = (rw_frame_info){
            .at = *at,
            .base_offset = r.base_offset,
            .timestamp_ns = r.timestamp_ns,
            .digest = r.digest,
            .ticket = r.ticket,
            .number = r.number,
            .stream = r.stream,
            .count = r.count,
            .payload_bytes = r.payload_bytes,
            .place = r.place,
            .slot = r.slot,
            .kind = r.kind,
            .flags = r.flags,
        };
        *at += rw_frame_bytes(r.payload_bytes);
    }
    return n;
}
