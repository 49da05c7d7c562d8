/* Fuzz target: everything that reads bytes of a segment file. Whatever they are, nothing outside of
 * them is read or written, every walk ends, and what comes out holds together: slices lie inside,
 * the carry pass finds what the tail pass decided, and the epoch that recovery writes can be
 * recovered.
 */
#include "segment.h"

#include "block.h"
#include "fuzz.h"
#include "lines.h"
#include "recover.h"
#include "scan.h"

static segment_head head;
static const uint8_t *log_bytes; /* of a block of memory of exactly `size` bytes */
static uint64_t size;
static uint64_t segment_bytes;

/* --------------------------------------------------------------------------------- block checks */

static void check_block(uint64_t at)
{
    if (rw_block_check(log_bytes + at, size - at, head.uuid, head.epoch, head.begin + at) != RW_OK)
        return;
    rw_block h;
    memcpy(&h, log_bytes + at, sizeof h);
    FUZZ_REQUIRE(h.length <= size - at);
    uint8_t *block = fuzz_copy(log_bytes + at, h.length);
    if (rw_block_verify(block) == RW_OK) {
        uint64_t frame_at = sizeof h;
        rw_frame_info frames[7];
        uint64_t total = 0;
        for (uint32_t n; (n = rw_block_frames(block, &frame_at, frames, 7)) != 0; total += n)
            for (uint32_t i = 0; i < n; i++)
                FUZZ_REQUIRE(frames[i].at + sizeof(rw_frame) + frames[i].payload_bytes <= h.used);
        FUZZ_REQUIRE(total == h.frames);
    }
    free(block);
}

static void check_blocks(void)
{
    for (uint64_t at = 0; at < size; at += RW_PAGE)
        check_block(at);
    uint64_t found = rw_block_search(log_bytes, size, head.uuid, head.epoch, head.begin);
    FUZZ_REQUIRE(found == size || (found % RW_PAGE == 0 && found + RW_PAGE <= size));
}

/* ---------------------------------------------------------------------------- collect and index */

static void begin_walk(rw_walk *w, uint32_t stream)
{
    *w = (rw_walk){.epoch = head.epoch,
                   .position = head.begin,
                   .next_offset = head.next_offset,
                   .below = head.below,
                   .stream = stream};
    memcpy(w->uuid, head.uuid, sizeof w->uuid);
}

static void collect(uint32_t stream)
{
    const rw_area area = {
        .base = log_bytes, .origin = head.begin, .mask = UINT64_MAX, .end = head.begin + size};
    rw_walk walk;
    begin_walk(&walk, stream);
    rw_slices *out = malloc(sizeof *out);
    FUZZ_REQUIRE(out != NULL);
    int stop;
    uint64_t rounds = 0;
    do {
        uint64_t before = walk.next_offset;
        out->records_left = 1 + head.limit % 700;
        out->bytes_left = head.draft_pages;
        out->must = 1;
        stop = rw_walk_collect(&area, &walk, out);
        FUZZ_REQUIRE(walk.next_offset - before == out->count && out->count <= RW_SLICES);
        FUZZ_REQUIRE(stop != RW_WALK_FULL || out->count > 0);
        for (uint32_t i = 0; i < out->count; i++)
            FUZZ_REQUIRE(out->begin[i] <= out->end[i] && out->end[i] <= size);
        for (uint32_t i = 0; out->timed && i < out->count; i++)
            FUZZ_REQUIRE(out->own_ns[i] <= RW_TIME_MAX || out->own_ns[i] == RW_NO_TIME);
        FUZZ_REQUIRE(rounds++ <= size);
    } while (stop == RW_WALK_FULL);
    free(out);
}

/* The same as text, into a buffer that is too small at first; returns the offset where it ended. */
static uint64_t print(uint32_t stream)
{
    const rw_area area = {
        .base = log_bytes, .origin = head.begin, .mask = UINT64_MAX, .end = head.begin + size};
    rw_walk walk;
    begin_walk(&walk, stream);
    rw_lines out = {.capacity = 1 + head.limit % 600, .form = head.limit % 3};
    int stop;
    do {
        out.out = fuzz_bytes(out.capacity);
        out.used = 0;
        out.records_left = 1 + head.limit % 700;
        stop = rw_walk_lines(&area, &walk, &out);
        FUZZ_REQUIRE(out.used <= out.capacity);
        free(out.out);
        if (stop == RW_WALK_FULL && out.used == 0 && out.records_left != 0) {
            out.capacity *= 2;
            FUZZ_REQUIRE(out.capacity <= 16 * (size + 1024));
        }
    } while (stop == RW_WALK_FULL);
    return walk.next_offset;
}

/* Takes records, of which it keeps none. */
static int pass(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into)
{
    uint32_t length;
    (void)into;
    for (; rw_walk_wants(r, s); s->next_offset++, s->data_at += length)
        if (rw_walk_record(frame, r, s, &length) != RW_OK)
            return RW_WALK_BAD;
    return RW_WALK_ON;
}

/* And piece by piece, where of a block only what is wanted next is there. */
static uint64_t walk_pieces(uint32_t stream)
{
    rw_walk walk;
    begin_walk(&walk, stream);
    uint64_t piece = RW_PAGE, last = UINT64_MAX;
    for (;;) {
        uint64_t at = walk.position + (walk.used ? walk.frame_at : 0) - head.begin;
        if (at >= size || (at == last && size - at / RW_PAGE * RW_PAGE <= piece))
            return walk.next_offset;
        piece = at == last ? 2 * piece : RW_PAGE;
        last = at;
        at = at / RW_PAGE * RW_PAGE;
        uint64_t bytes = size - at < piece ? size - at : piece;
        uint8_t *held = fuzz_bytes(bytes);
        memcpy(held, log_bytes + at, bytes);
        const rw_area area = {.base = held,
                              .origin = head.begin + at,
                              .mask = UINT64_MAX,
                              .end = head.begin + at + bytes};
        walk.data_at = 0;
        int stop = rw_walk_stream(&area, &walk, pass, NULL);
        free(held);
        if (stop != RW_WALK_SHORT && stop != RW_WALK_END)
            return walk.next_offset;
    }
}

static void read_otherwise(uint32_t stream)
{
    uint64_t printed = print(stream);
    FUZZ_REQUIRE(walk_pieces(stream) == printed);
}

static void make_index(void)
{
    const rw_area area = {
        .base = log_bytes, .origin = head.begin, .mask = UINT64_MAX, .end = head.begin + size};
    rw_walk walk;
    begin_walk(&walk, 0);
    uint32_t capacity = 1 + head.limit % 16, count = 0, streams = 1 + head.max_streams % 8;
    rw_index_entry *entries = (rw_index_entry *)fuzz_bytes(capacity * sizeof *entries);
    uint32_t *last = (uint32_t *)fuzz_bytes(streams * sizeof *last);
    for (uint32_t i = 0; i < streams; i++)
        last[i] = head.limit * (i + 1); /* what another index left there */
    while (rw_walk_index(&area, &walk, entries, capacity, &count, last, streams) == RW_WALK_FULL) {
        FUZZ_REQUIRE(walk.need <= size / sizeof(rw_frame)); /* the caller makes room for so many */
        uint32_t more = count + (uint32_t)walk.need;
        capacity = more > 2 * capacity ? more : 2 * capacity;
        rw_index_entry *grown = (rw_index_entry *)fuzz_bytes(capacity * sizeof *entries);
        memcpy(grown, entries, count * sizeof *entries);
        free(entries);
        entries = grown;
    }
    rw_index_sort(entries, count);
    for (uint32_t i = 0; i < count; i++)
        FUZZ_REQUIRE(rw_index_before(entries, count, entries[i].stream, entries[i].base_offset) <=
                     i);
    free(entries);
    free(last);
}

/* ------------------------------------------------------------------------------------- recovery */

/* Blocks of the next epoch, one behind the other. */
typedef struct epoch {
    uint8_t *bytes;
    uint64_t size;
    uint64_t number;
    uint8_t *memory; /* of the block under construction */
    uint64_t capacity;
    rw_draft draft;
} epoch;

static void open_draft(epoch *e)
{
    rw_draft_begin(&e->draft, e->memory, e->capacity, head.epoch + 1, e->size);
}

static void seal_draft(epoch *e, rw_block like)
{
    like.number = e->number++;
    uint64_t length = rw_draft_seal(&e->draft, head.uuid, &like);
    FUZZ_REQUIRE(length <= e->capacity && rw_block_verify(e->memory) == RW_OK);
    FUZZ_REQUIRE(rw_block_check(e->memory, length, head.uuid, head.epoch + 1, e->size) == RW_OK);
    e->bytes = realloc(e->bytes, e->size + length);
    FUZZ_REQUIRE(e->bytes != NULL);
    memcpy(e->bytes + e->size, e->memory, length);
    e->size += length;
    open_draft(e);
}

/* Shows `s` the bytes of `from` (zeros behind them) up to `end`, window by window; false at a
 * finding. */
static int run(rw_recovery *s, const uint8_t *from, uint64_t begin, uint64_t bytes, uint64_t end,
               epoch *next)
{
    while (s->position < end) {
        uint64_t before = s->position, at = before - begin;
        uint64_t rest = s->segment_bytes - before % s->segment_bytes;
        uint64_t room = (uint64_t)RW_PAGE * (1 + head.window_pages % 16);
        FUZZ_REQUIRE(s->wanted <= rest);
        room = room > s->wanted ? room : s->wanted;
        room = room < rest ? room : rest;
        uint8_t *window = fuzz_bytes(room);
        uint64_t held = at < bytes ? bytes - at : 0;
        memcpy(window, from + (held ? at : 0), held < room ? held : room);
        int rc = rw_recovery_step(s, window, room, next ? &next->draft : NULL);
        free(window);
        FUZZ_REQUIRE(s->position >= before && s->position - before <= rest);
        if (rc == RW_BAD)
            return 0;
        if (rc == RW_FULL) {
            FUZZ_REQUIRE(next != NULL && next->draft.frames > 0);
            seal_draft(next, (rw_block){.kind = RW_BLOCK_DATA});
        } else {
            FUZZ_REQUIRE(s->position > before || s->wanted > room);
        }
    }
    return 1;
}

/* The streams as they were at the cut: what the next epoch's checkpoint would have without the
 * records behind it. */
static void seed_from(rw_recovery *s, const rw_recovery *decided)
{
    for (uint32_t i = 0; i < decided->stream_end; i++) {
        const rw_recovery_stream *t = rw_recovery_stream_of(decided, i);
        if (t->cut_state != RW_RECOVERY_STREAM_DEFINED)
            continue;
        rw_checkpoint_stream row = {
            .number = t->number,
            .name_bytes = (uint16_t)t->name_bytes,
            .next_offset = t->cut_offset,
        };
        memcpy(row.name, t->name, t->name_bytes);
        FUZZ_REQUIRE(rw_recovery_seed(s, &row, 1, s->next_number) == RW_OK);
    }
}

/* The epoch that recovery wrote goes on with the streams that it decided on, and holds what it
 * kept. */
static void recover_again(const epoch *e, const rw_recovery *decided, const uint64_t *offsets)
{
    const uint64_t end = 1ull << 40;
    rw_recovery *s = rw_recovery_open(head.uuid, head.epoch + 1, RW_PAGE, end);
    FUZZ_REQUIRE(s != NULL);
    seed_from(s, decided);
    FUZZ_REQUIRE(run(s, e->bytes, 0, e->size, end, NULL) == 0 && s->finding == RW_RECOVERY_TORN);
    FUZZ_REQUIRE(s->position == e->size && s->records == decided->kept);
    FUZZ_REQUIRE(rw_recovery_living(s) == rw_recovery_living(decided));
    for (uint32_t i = 0; i < decided->stream_end; i++) {
        const rw_recovery_stream *b = rw_recovery_stream_of(decided, i),
                                 *a = rw_recovery_find(s, b->number);
        if (a != NULL && a->state == RW_RECOVERY_STREAM_DEFINED)
            FUZZ_REQUIRE(a->next_offset == offsets[i] && a->start_offset <= a->next_offset &&
                         a->name_bytes == b->name_bytes &&
                         memcmp(a->name, b->name, a->name_bytes) == 0);
    }
    rw_recovery_close(s);
}

static void carry(rw_recovery *s, uint64_t cut, uint64_t end)
{
    uint64_t *offsets = (uint64_t *)fuzz_bytes(s->stream_end * sizeof *offsets);
    for (uint32_t id = 0; id < s->stream_end; id++)
        offsets[id] = rw_recovery_stream_of(s, id)->next_offset;
    uint64_t least = rw_page_up(sizeof(rw_block) + s->largest_frame),
             capacity = (uint64_t)RW_PAGE * (1 + head.draft_pages % 8);
    epoch e = {.capacity = capacity > least ? capacity : least};
    e.memory = fuzz_bytes(e.capacity);
    open_draft(&e);
    seal_draft(&e, (rw_block){.kind = RW_BLOCK_EPOCH, .previous_end = cut});
    rw_recovery_carry(s, cut);
    FUZZ_REQUIRE(run(s, log_bytes, head.begin, size, end, &e));
    if (e.draft.frames != 0)
        seal_draft(&e, (rw_block){.kind = RW_BLOCK_DATA});
    for (uint32_t id = 0; id < s->stream_end; id++)
        FUZZ_REQUIRE(rw_recovery_stream_of(s, id)->next_offset == offsets[id]);
    recover_again(&e, s, offsets);
    rw_checkpoint_stream *rows = (rw_checkpoint_stream *)fuzz_bytes(s->stream_end * sizeof *rows);
    FUZZ_REQUIRE(rw_recovery_rows(s, rows) <= s->stream_end);
    free(rows);
    free(e.bytes);
    free(e.memory);
    free(offsets);
}

static int consistent(const rw_recovery *s)
{
    return s->finding == RW_RECOVERY_NOTHING || s->finding == RW_RECOVERY_TORN;
}

/* A checkpoint that fits: each stream of the first blocks at the offset at which it goes on. */
static void seed(rw_recovery *s)
{
    uint64_t at = 0, left;
    while ((left = size - at) >= RW_PAGE &&
           rw_block_check(log_bytes + at, left, head.uuid, head.epoch, head.begin + at) == RW_OK &&
           rw_block_verify(log_bytes + at) == RW_OK) {
        uint64_t frame_at = sizeof(rw_block);
        rw_frame_info f;
        while (rw_block_frames(log_bytes + at, &frame_at, &f, 1) == 1) {
            if (!rw_frame_queued(f.kind) || rw_recovery_find(s, f.stream) != NULL)
                continue;
            rw_checkpoint_stream row = {
                .number = f.stream, .name_bytes = 1, .next_offset = f.base_offset, .name = "s"};
            FUZZ_REQUIRE(rw_recovery_seed(s, &row, 1, s->next_number) == RW_OK);
        }
        rw_block h;
        memcpy(&h, log_bytes + at, sizeof h);
        if (h.span >= left)
            break;
        at += h.span;
    }
}

/* As engine/ringwal/log/recovery.py does it. */
static void recover(void)
{
    uint64_t end = (head.begin + size + segment_bytes - 1) / segment_bytes * segment_bytes;
    rw_recovery *s = rw_recovery_open(head.uuid, head.epoch, head.begin, segment_bytes);
    FUZZ_REQUIRE(s != NULL);
    if (head.limit % 2)
        seed(s);
    run(s, log_bytes, head.begin, size, end, NULL);
    uint64_t cut = s->position;
    if (consistent(s)) {
        rw_recovery_cut(s);
        if (run(s, log_bytes, head.begin, size, end, NULL)) {
            FUZZ_REQUIRE(s->valid_end <= s->taken_end && s->taken_end <= end);
            carry(s, cut, end);
        }
    }
    rw_recovery_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes < sizeof head)
        return 0;
    memcpy(&head, data, sizeof head);
    segment_bytes = (uint64_t)RW_PAGE * (1 + head.segment_pages % SEGMENT_PAGES_MAX);
    head.begin %= 1ull << 62; /* positions do not come near their end; epochs neither */
    head.begin -= head.begin % RW_PAGE;
    head.epoch %= 1ull << 62;
    size = (bytes - sizeof head) & ~(uint64_t)(RW_PAGE - 1);
    uint8_t *copy = fuzz_copy(data + sizeof head, size);
    log_bytes = copy;
    check_blocks();
    for (uint32_t stream = 0; stream < 3; stream++)
        collect(head.stream + stream);
    read_otherwise(head.stream + head.limit % 3);
    make_index();
    recover();
    free(copy);
    return 0;
}
