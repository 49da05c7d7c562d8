/* A lane's other end: what the WAL process takes out of it, and what it believes of that. */
#include "lane.h"

#include "frame.h"

#include <string.h>

static const rw_request *at_cursor(const rw_lane_taker *e)
{
    return (const rw_request *)(e->data + (e->cursor & (e->bytes - 1)));
}

bool rw_lane_ready(const rw_lane_taker *e)
{
    /* PAIR: publish/take */
    return rw_load64_seq(&at_cursor(e)->valid) == rw_lane_valid(e->salt, e->cursor);
}

/* Control requests come from the engine's own lanes only, but for commits. */
static bool sort_is_right(const rw_lane_taker *e, const rw_request *q)
{
    if (q->kind == RW_FRAME_BATCH)
        return q->count != 0 && (q->flags & ~(RW_OWN_TIMES | RW_EXPECTS | RW_JOINED)) == 0;
    if (q->kind == RW_FRAME_COMMIT)
        return q->count == 0 && (q->flags & ~RW_JOINED) == 0 &&
               q->payload_bytes == sizeof(uint64_t) && q->producer_id != 0 &&
               q->producer_sequence == 0;
    if (!e->trusted || q->count != 0 || q->flags != 0)
        return false;
    if (q->kind == RW_FRAME_SETTINGS)
        return q->payload_bytes >= RW_SETTINGS_HEAD && q->payload_bytes <= RW_SETTINGS_BYTES;
    if (q->kind == RW_FRAME_CLAIM)
        return q->payload_bytes > sizeof(rw_claim) &&
               q->payload_bytes <= sizeof(rw_claim) + RW_STREAM_NAME_MAX;
    return (q->kind == RW_FRAME_TRIM && q->payload_bytes == sizeof(uint64_t)) ||
           (q->kind == RW_FRAME_DELETE && q->payload_bytes == 0);
}

int rw_lane_peek(const rw_lane_taker *e, uint64_t limit, rw_request *out)
{
    memcpy(out, at_cursor(e), sizeof *out);
    if (out->valid != rw_lane_valid(e->salt, e->cursor) || out->crc != rw_request_crc(out))
        return RW_BAD;
    if (out->payload_bytes > limit || rw_request_bytes(out->payload_bytes) > e->bytes ||
        out->pad_ != 0 || !sort_is_right(e, out))
        return RW_BAD;
    /* An owner's batch says a sequence, one for an offset says that, and none says both. */
    bool owned = out->producer_id != 0, expects = out->flags & RW_EXPECTS;
    if ((owned && out->kind != RW_FRAME_COMMIT &&
         (out->flags & (RW_EXPECTS | RW_JOINED) || out->kind != RW_FRAME_BATCH)) ||
        (!owned && !expects && out->producer_sequence != 0))
        return RW_BAD;
    return out->number >> 32 == e->generation ? RW_OK : RW_BAD;
}
