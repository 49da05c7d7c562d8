/* How inputs of segment.c are changed: mostly so that checksums still hold, for what matters lies
 * behind them. A checksum keeps accidents out; the code behind it must be safe without it. */
#include "block.h"
#include "digest.h"
#include "fuzz.h"
#include "segment.h"

static fuzz_dice dice;

static uint64_t pages_of(size_t size)
{
    return size < sizeof(segment_head) ? 0 : (size - sizeof(segment_head)) / RW_PAGE;
}
static uint8_t *page_of(uint8_t *data, uint64_t page)
{
    return data + sizeof(segment_head) + page * RW_PAGE;
}

/* ------------------------------------------------------------------------------------ checksums */

/* Frames as far as they lie inside `room`; their digests and CRCs become right. Returns how many
 * there are, and where the last one ends. */
static uint32_t restamp_frames(uint8_t *block, const rw_block *h, uint64_t room, uint64_t *end)
{
    uint32_t n = 0, seed = rw_frame_seed(h->epoch, h->position);
    uint64_t at = sizeof *h;
    while (n < h->frames && at + sizeof(rw_frame) <= room) {
        rw_frame r;
        memcpy(&r, block + at, sizeof r);
        if (rw_frame_bytes(r.payload_bytes) <= room - at)
            r.digest = rw_xxh3(block + at + sizeof r, r.payload_bytes);
        r.crc = rw_frame_crc(&r, seed);
        memcpy(block + at, &r, sizeof r);
        n++;
        *end = at += rw_frame_bytes(r.payload_bytes);
    }
    return n;
}

static void restamp(uint8_t *data, size_t size, uint64_t page)
{
    segment_head head;
    memcpy(&head, data, sizeof head);
    uint8_t *block = page_of(data, page);
    uint64_t room = (pages_of(size) - page) * RW_PAGE, end = 0;
    uint64_t segment = (uint64_t)RW_PAGE * (1 + head.segment_pages % SEGMENT_PAGES_MAX),
             begin = head.begin % (1ull << 62);
    rw_block h;
    memcpy(&h, block, sizeof h);
    if (h.magic != RW_BLOCK_MAGIC)
        return;
    uint64_t kind = fuzz_below(&dice, 8);
    if (kind < 7) {
        memcpy(h.uuid, head.uuid, sizeof h.uuid);
        h.epoch = head.epoch % (1ull << 62);
        h.position = begin - begin % segment + page * RW_PAGE;
    }
    uint32_t n = restamp_frames(block, &h, room, &end);
    if (kind < 4) { /* a whole block: what the header says of its frames is so */
        if (n != 0) {
            h.frames = n;
            h.used = (uint32_t)end;
        }
        if (h.length < h.used || h.length > room || h.length % RW_PAGE)
            h.length = (uint32_t)rw_page_up(h.used);
        h.span = h.kind == RW_BLOCK_END ? segment - h.position % segment : h.length;
    }
    rw_block_stamp(&h);
    memcpy(block, &h, sizeof h);
}

/* --------------------------------------------------------------------------------------- fields */

typedef struct field {
    uint8_t at, width;
} field;
#define FIELD(type, name) {offsetof(type, name), sizeof(((type *)0)->name)}

static void change_field(uint8_t *at, const field *fields, size_t count)
{
    const field *f = &fields[fuzz_below(&dice, count)];
    uint64_t value = 0;
    memcpy(&value, at + f->at, f->width);
    value = fuzz_edge(&dice, value);
    memcpy(at + f->at, &value, f->width);
}

static void change_header(uint8_t *block)
{
    static const field fields[] = {
        FIELD(rw_block, format_version), FIELD(rw_block, epoch),    FIELD(rw_block, position),
        FIELD(rw_block, length),         FIELD(rw_block, used),     FIELD(rw_block, frames),
        FIELD(rw_block, kind),           FIELD(rw_block, span),     FIELD(rw_block, watermark),
        FIELD(rw_block, previous_end),   FIELD(rw_block, previous_epoch),
        FIELD(rw_block, timestamp_ns),
    };
    change_field(block, fields, sizeof fields / sizeof *fields);
}

static void change_frame(uint8_t *block, uint64_t room)
{
    static const field fields[] = {
        FIELD(rw_frame, kind),          FIELD(rw_frame, persisted),
        FIELD(rw_frame, payload_bytes), FIELD(rw_frame, count),
        FIELD(rw_frame, stream),        FIELD(rw_frame, base_offset),
        FIELD(rw_frame, timestamp_ns),  FIELD(rw_frame, flags),
        {sizeof(rw_frame), 4},
        {sizeof(rw_frame) + 4, 4}, /* the first lengths of a batch */
    };
    uint64_t at = sizeof(rw_block);
    for (uint64_t skip = fuzz_below(&dice, 6);; skip--) {
        if (at + sizeof(rw_frame) + 8 > room)
            return;
        rw_frame r;
        memcpy(&r, block + at, sizeof r);
        if (skip == 0)
            break;
        at += rw_frame_bytes(r.payload_bytes);
    }
    change_field(block + at, fields, sizeof fields / sizeof *fields);
}

static void change_head(uint8_t *data)
{
    static const field fields[] = {
        FIELD(segment_head, next_offset),   FIELD(segment_head, below),
        FIELD(segment_head, stream),        FIELD(segment_head, max_streams),
        FIELD(segment_head, segment_pages), FIELD(segment_head, window_pages),
        FIELD(segment_head, draft_pages),   FIELD(segment_head, limit),
        FIELD(segment_head, begin),
    };
    change_field(data, fields, sizeof fields / sizeof *fields);
}

/* ---------------------------------------------------------------------------------------- pages */

static size_t move_pages(uint8_t *data, size_t size, size_t max)
{
    uint64_t pages = pages_of(size), from = fuzz_below(&dice, pages), to = fuzz_below(&dice, pages);
    uint64_t most = pages - (from > to ? from : to), n = 1 + fuzz_below(&dice, most);
    switch (fuzz_below(&dice, 5)) {
    case 0:
        memset(page_of(data, to), 0, n * RW_PAGE);
        break;
    case 1:
        return sizeof(segment_head) + (to + 1) * RW_PAGE;
    case 2:
        if (size + n * RW_PAGE > max)
            break;
        memmove(page_of(data, to + n), page_of(data, to), (pages - to) * RW_PAGE);
        memset(page_of(data, to), 0, n * RW_PAGE);
        return sizeof(segment_head) + (pages + n) * RW_PAGE;
    default:
        memmove(page_of(data, to), page_of(data, from), n * RW_PAGE);
    }
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    dice.state = seed;
    if (max < sizeof(segment_head) + RW_PAGE)
        return LLVMFuzzerMutate(data, size, max);
    if (pages_of(size) == 0) {
        memset(data + size, 0, sizeof(segment_head) + RW_PAGE - size);
        size = sizeof(segment_head) + RW_PAGE;
    }
    for (uint64_t left = 1 + fuzz_below(&dice, 3); left > 0; left--) {
        uint64_t pages = pages_of(size), page = fuzz_below(&dice, pages),
                 room = (pages - page) * RW_PAGE;
        switch (fuzz_below(&dice, 8)) {
        case 0:
            change_head(data);
            break;
        case 1:
            size = move_pages(data, size, max);
            break;
        case 2:
            LLVMFuzzerMutate(page_of(data, page), RW_PAGE, RW_PAGE);
            break;
        case 3:
        case 4:
            change_header(page_of(data, page));
            break;
        default:
            change_frame(page_of(data, page), room);
        }
    }
    if (fuzz_below(&dice, 8) != 0)
        for (uint64_t page = 0; page < pages_of(size); page++)
            restamp(data, size, page);
    return size;
}
