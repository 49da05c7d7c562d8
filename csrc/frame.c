#include "frame.h"

#include "digest.h"
#include "owners.h"
#include "settings.h"

#include <string.h>

uint32_t rw_frame_seed(uint64_t epoch, uint64_t position)
{
    uint64_t both[2] = {epoch, position};
    return rw_crc32c(0, both, sizeof both);
}

uint32_t rw_frame_crc(const rw_frame *r, uint32_t seed)
{
    rw_frame copy = *r;
    copy.crc = 0;
    copy.persisted = 0;
    return rw_crc32c(seed, &copy, sizeof copy);
}

uint32_t rw_request_crc(const rw_request *q)
{
    rw_request copy = *q;
    copy.crc = 0;
    return rw_crc32c(0, &copy, sizeof copy);
}

static bool times_are_right(const uint8_t *payload, uint32_t payload_bytes, uint32_t count)
{
    if (count > payload_bytes / 8)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (rw_time_of(payload, payload_bytes, count, i) > RW_TIME_MAX)
            return false;
    return true;
}

int rw_batch_check(const uint8_t *payload, uint32_t payload_bytes, uint32_t count, uint32_t flags)
{
    if (flags & RW_OWN_TIMES) {
        if (!times_are_right(payload, payload_bytes, count))
            return RW_BAD;
        payload_bytes -= (uint32_t)rw_times_bytes(count, flags);
    }
    if (count == 1)
        return RW_OK;
    if (count == 0 || count > payload_bytes / 4)
        return RW_BAD;
    uint64_t sum = 4ull * count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t length;
        memcpy(&length, payload + 4ull * i, 4);
        sum += length;
    }
    return sum == payload_bytes ? RW_OK : RW_BAD;
}

int rw_frame_sort_check(const rw_frame *r, const uint8_t *payload)
{
    if (r->flags & ~((r->kind == RW_FRAME_BATCH ? RW_OWN_TIMES : 0) |
                     (rw_frame_joins(r->kind) ? RW_JOINED : 0)))
        return RW_BAD;
    if (r->kind == RW_FRAME_BATCH)
        return rw_batch_check(payload, r->payload_bytes, r->count, r->flags);
    bool right = false;
    switch (r->kind) {
    case RW_FRAME_STREAM:
        right = r->payload_bytes != 0 && r->payload_bytes <= RW_STREAM_NAME_MAX;
        break;
    case RW_FRAME_TRIM:
        right = r->payload_bytes == sizeof(uint64_t);
        break;
    case RW_FRAME_DELETE:
        right = r->payload_bytes == 0;
        break;
    case RW_FRAME_VERDICT:
        right = r->payload_bytes == sizeof(rw_verdict);
        break;
    case RW_FRAME_DROP:
        right = r->payload_bytes != 0 && r->payload_bytes % sizeof(rw_drop_row) == 0;
        break;
    case RW_FRAME_COMMIT:
        right = r->producer_id != 0 && r->payload_bytes == sizeof(uint64_t);
        break;
    case RW_FRAME_CLAIM:
        right = r->producer_id != 0 && rw_claim_is_right(payload, r->payload_bytes);
        break;
    case RW_FRAME_SETTINGS:
        right = rw_settings_check(payload, r->payload_bytes) == RW_OK;
        break;
    default:
        break;
    }
    return right && r->count == 0 ? RW_OK : RW_BAD;
}

uint64_t rw_frame_put(uint8_t *at, const rw_frame *r, const uint8_t *payload, uint32_t seed)
{
    rw_frame copy = *r;
    copy.persisted = 0;
    copy.crc = rw_frame_crc(&copy, seed);
    memcpy(at, &copy, sizeof copy);
    memcpy(at + sizeof copy, payload, r->payload_bytes);
    uint64_t frame = rw_frame_bytes(r->payload_bytes);
    uint64_t end = sizeof copy + r->payload_bytes;
    memset(at + end, 0, frame - end);
    return frame;
}

uint64_t rw_definition_put(uint8_t *at, uint32_t place, uint32_t stream, const uint8_t *name,
                           uint32_t name_bytes, uint64_t next_offset, uint64_t timestamp_ns,
                           uint32_t seed)
{
    const rw_frame r = {
        .kind = RW_FRAME_STREAM,
        .payload_bytes = name_bytes,
        .stream = stream,
        .place = place,
        .base_offset = next_offset,
        .timestamp_ns = timestamp_ns,
        .digest = rw_xxh3(name, name_bytes),
    };
    return rw_frame_put(at, &r, name, seed);
}

uint64_t rw_lengths_widen(const uint8_t *small, uint32_t count, uint32_t *lengths)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        lengths[i] = small[i];
        sum += small[i];
    }
    return sum;
}

uint64_t rw_lengths_sum(const uint32_t *lengths, uint32_t count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += lengths[i];
    return sum;
}
