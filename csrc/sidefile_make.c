#include "sidefile.h"

#include "block.h"
#include "digest.h"

#include <stdlib.h>
#include <string.h>

#define AHEAD 8 /* frames of the same size: where the next ones are, if they are alike */

/* A stream with records in the segment, by place in the order in which they were met. */
typedef struct made_stream {
    rw_side_stream row;
    uint32_t last_block;
} made_stream;

typedef struct made_entry {
    uint32_t stream; /* its place */
    uint32_t block;
    uint32_t offset;
} made_entry;

struct rw_side_maker {
    made_stream *streams;
    made_entry *entries;
    rw_side_block *blocks;
    uint32_t *table; /* by hash of the number: 1 + place; 0: nothing */
    uint32_t stream_count, stream_room, entry_count, entry_room, block_count, block_room;
    uint32_t table_size; /* a power of two, at least twice the streams */
    uint32_t last; /* place of the stream that was met last */
    uint64_t newest_ns, oldest_ns;
};

rw_side_maker *rw_side_maker_open(void) { return calloc(1, sizeof(rw_side_maker)); }

void rw_side_maker_close(rw_side_maker *m)
{
    if (m == NULL)
        return;
    free(m->streams);
    free(m->entries);
    free(m->blocks);
    free(m->table);
    free(m);
}

void rw_side_maker_clear(rw_side_maker *m)
{
    if (m->table != NULL)
        memset(m->table, 0, m->table_size * sizeof *m->table);
    m->stream_count = m->entry_count = m->block_count = m->last = 0;
    m->newest_ns = m->oldest_ns = 0;
}

uint32_t rw_side_maker_streams(const rw_side_maker *m) { return m->stream_count; }

uint64_t rw_side_maker_bytes(const rw_side_maker *m)
{
    return sizeof *m + m->stream_room * sizeof *m->streams + m->entry_room * sizeof *m->entries +
           m->block_room * sizeof *m->blocks + m->table_size * sizeof *m->table;
}

/* --------------------------------------------------------------------------------------- tables */

/* Room for one more of `size` bytes each. */
static int grow(void **at, uint32_t count, uint32_t *room, size_t size)
{
    if (count < *room)
        return RW_OK;
    if (*room > UINT32_MAX / 2)
        return RW_FULL;
    uint32_t wanted = *room == 0 ? 64 : 2 * *room;
    void *grown = realloc(*at, wanted * size);
    if (grown == NULL)
        return RW_FULL;
    *at = grown;
    *room = wanted;
    return RW_OK;
}

static uint32_t hash(const rw_side_maker *m, uint32_t number)
{
    return (uint32_t)(number * 0x9e3779b97f4a7c15ull >> 32) & (m->table_size - 1);
}

static void enter(rw_side_maker *m, uint32_t place)
{
    uint32_t at = hash(m, m->streams[place].row.number);
    while (m->table[at] != 0)
        at = (at + 1) & (m->table_size - 1);
    m->table[at] = place + 1;
}

static int widen(rw_side_maker *m)
{
    uint32_t size = m->table_size == 0 ? 128 : 2 * m->table_size;
    uint32_t *table = calloc(size, sizeof *table);
    if (table == NULL)
        return RW_FULL;
    free(m->table);
    m->table = table;
    m->table_size = size;
    for (uint32_t i = 0; i < m->stream_count; i++)
        enter(m, i);
    return RW_OK;
}

/* The stream of that number, made if it is new; NULL: no memory. */
static made_stream *stream_of(rw_side_maker *m, uint32_t number, uint64_t first_offset)
{
    if (m->stream_count != 0 && m->streams[m->last].row.number == number)
        return &m->streams[m->last];
    if (m->table_size != 0) {
        for (uint32_t at = hash(m, number); m->table[at] != 0; at = (at + 1) & (m->table_size - 1))
            if (m->streams[m->table[at] - 1].row.number == number) {
                m->last = m->table[at] - 1;
                return &m->streams[m->last];
            }
    }
    if (grow((void **)&m->streams, m->stream_count, &m->stream_room, sizeof *m->streams) != RW_OK)
        return NULL;
    if (2 * (m->stream_count + 1) > m->table_size && widen(m) != RW_OK)
        return NULL;
    m->last = m->stream_count++;
    m->streams[m->last] = (made_stream){
        .row = {.number = number, .first_offset = first_offset, .next_offset = first_offset},
        .last_block = UINT32_MAX,
    };
    enter(m, m->last);
    return &m->streams[m->last];
}

/* ------------------------------------------------------------------------------------ gathering */

static int gather_batch(rw_side_maker *m, const rw_frame *r)
{
    made_stream *s = stream_of(m, r->stream, r->base_offset);
    if (s == NULL)
        return RW_FULL;
    if (r->base_offset < s->row.next_offset || r->base_offset > UINT64_MAX - r->count)
        return RW_BAD;
    if (s->last_block != m->block_count) {
        uint64_t offset = r->base_offset - s->row.first_offset;
        if (offset > UINT32_MAX ||
            grow((void **)&m->entries, m->entry_count, &m->entry_room, sizeof *m->entries) != RW_OK)
            return RW_FULL;
        m->entries[m->entry_count++] = (made_entry){
            .stream = m->last, .block = m->block_count, .offset = (uint32_t)offset};
        s->last_block = m->block_count;
        s->row.entries++;
    }
    s->row.next_offset = r->base_offset + r->count;
    s->row.payload_bytes += r->payload_bytes;
    return RW_OK;
}

/* The frames of a block lie where they are said to be, or this is RW_BAD; nothing else is known. */
static int gather_frames(rw_side_maker *m, const uint8_t *block, const rw_block *h)
{
    uint64_t at = sizeof *h;
    for (uint32_t i = 0; i < h->frames; i++) {
        rw_frame r;
        if (h->used < at || h->used - at < sizeof r)
            return RW_BAD;
        memcpy(&r, block + at, sizeof r);
        uint64_t bytes = rw_frame_bytes(r.payload_bytes);
        if (bytes > h->used - at)
            return RW_BAD;
        /* Else each header is a miss, and the walk takes as long as all of them together. */
        if (bytes * AHEAD < h->used - at)
            __builtin_prefetch(block + at + bytes * AHEAD);
        int code = r.kind == RW_FRAME_BATCH ? gather_batch(m, &r) : RW_OK;
        if (code != RW_OK)
            return code;
        at += bytes;
    }
    return at == h->used ? RW_OK : RW_BAD;
}

static int gather_block(rw_side_maker *m, const uint8_t *block, const rw_block *h)
{
    if (grow((void **)&m->blocks, m->block_count, &m->block_room, sizeof *m->blocks) != RW_OK)
        return RW_FULL;
    int code = gather_frames(m, block, h);
    if (code != RW_OK)
        return code;
    if (m->block_count == 0)
        m->oldest_ns = h->timestamp_ns;
    if (h->timestamp_ns > m->newest_ns)
        m->newest_ns = h->timestamp_ns;
    m->blocks[m->block_count++] = (rw_side_block){.position = h->position,
                                                  .newest_ns = m->newest_ns,
                                                  .length = h->length,
                                                  .frames = h->frames};
    return RW_OK;
}

/* The next block of the walk, checked as far as its header goes. */
static int next_block(const rw_area *area, rw_walk *walk, rw_block *h, const uint8_t **block)
{
    if (walk->position >= area->end)
        return RW_WALK_END;
    uint64_t available = area->end - walk->position;
    walk->need = RW_PAGE;
    if (available < RW_PAGE)
        return RW_WALK_SHORT;
    *block = area->base + ((walk->position - area->origin) & area->mask);
    memcpy(h, *block, sizeof *h);
    if (rw_block_check((const uint8_t *)h, UINT64_MAX, walk->uuid, walk->epoch, walk->position) !=
        RW_OK)
        return RW_WALK_BAD;
    walk->need = h->length;
    return h->length > available ? RW_WALK_SHORT : 0;
}

int rw_side_gather(const rw_area *area, rw_walk *walk, rw_side_maker *m)
{
    for (;;) {
        rw_block h;
        const uint8_t *block;
        int stop = next_block(area, walk, &h, &block);
        if (stop != 0)
            return stop;
        if (rw_block_verify(block) != RW_OK)
            return RW_WALK_BAD;
        int code = gather_block(m, block, &h);
        if (code != RW_OK)
            return code == RW_FULL ? RW_WALK_FULL : RW_WALK_BAD;
        walk->position += h.span;
    }
}

int rw_side_follow(const rw_control *c, const uint8_t *ring, rw_walk *walk, uint64_t end,
                   rw_side_maker *m)
{
    rw_area area;
    rw_log_area(c, ring, &area);
    area.end = area.end < end ? area.end : end;
    for (;;) {
        rw_block h;
        const uint8_t *block = NULL;
        if (!rw_log_holds(c, walk->position) && walk->position < area.end)
            return RW_OVERWRITTEN;
        int stop = next_block(&area, walk, &h, &block);
        if (stop == RW_WALK_END)
            return RW_OK;
        int code = stop == 0 ? gather_block(m, block, &h) : RW_BAD;
        if (!rw_log_holds(c, walk->position)) /* PAIR: reserve_end */
            return RW_OVERWRITTEN;
        if (code != RW_OK)
            return code;
        walk->position += h.span;
    }
}

/* ------------------------------------------------------------------------------------ rendering */

static int compare(const void *a, const void *b)
{
    const made_stream *const *left = a, *const *right = b;
    return ((*left)->row.number > (*right)->row.number) -
           ((*left)->row.number < (*right)->row.number);
}

/* The streams in order of their numbers; the caller frees them. NULL: no memory. */
static made_stream **sorted(rw_side_maker *m)
{
    made_stream **order = malloc((m->stream_count + 1) * sizeof *order);
    for (uint32_t i = 0; order != NULL && i < m->stream_count; i++)
        order[i] = &m->streams[i];
    if (order != NULL)
        qsort(order, m->stream_count, sizeof *order, compare);
    return order;
}

int64_t rw_side_fold_ends(rw_side_maker *m, const rw_occupant *before, uint32_t count,
                          const rw_checkpoint_stream *streams, uint32_t stream_count,
                          rw_occupant *out)
{
    made_stream **order = sorted(m);
    if (order == NULL)
        return RW_FULL;
    uint32_t made = 0, i = 0, k = 0, known = 0;
    while (i < count || k < m->stream_count) {
        rw_occupant one;
        if (k == m->stream_count || (i < count && before[i].stream < order[k]->row.number))
            one = before[i++];
        else
            one = (rw_occupant){.stream = order[k]->row.number, .end = order[k]->row.next_offset};
        if (k < m->stream_count && one.stream == order[k]->row.number)
            k++;
        if (i < count && before[i].stream == one.stream)
            i++;
        while (known < stream_count && streams[known].number < one.stream)
            known++;
        if (known < stream_count && streams[known].number == one.stream)
            out[made++] = one;
    }
    free(order);
    return made;
}

static rw_side_header header_of(const rw_side_maker *m, uint32_t epochs, uint32_t ends)
{
    return (rw_side_header){
        .magic = RW_SIDE_MAGIC,
        .format_version = RW_FORMAT_VERSION,
        .newest_ns = m->newest_ns,
        .oldest_ns = m->oldest_ns,
        .epochs = epochs,
        .streams = m->stream_count,
        .entries = m->entry_count,
        .blocks = m->block_count,
        .ends = ends,
    };
}

uint64_t rw_side_size(const rw_side_maker *m, uint32_t epochs, uint32_t ends)
{
    rw_side_header h = header_of(m, epochs, ends);
    rw_side_plan plan;
    rw_side_plan_of(&h, &plan);
    return plan.bytes;
}

/* Rows of streams, and behind each other their entries, which were gathered in log order. */
static int render_streams(rw_side_maker *m, uint8_t *streams, uint8_t *entries)
{
    made_stream **order = sorted(m);
    uint32_t *next = calloc(m->stream_count + 1, sizeof *next);
    uint32_t first = 0;
    if (order != NULL && next != NULL) {
        for (uint32_t i = 0; i < m->stream_count; i++) {
            made_stream *s = order[i];
            s->row.first_entry = next[s - m->streams] = first;
            first += s->row.entries;
            memcpy(streams + i * sizeof s->row, &s->row, sizeof s->row);
        }
        for (uint32_t i = 0; i < m->entry_count; i++) {
            const made_entry *e = &m->entries[i];
            rw_side_entry entry = {.offset = e->offset, .block = e->block};
            memcpy(entries + next[e->stream]++ * sizeof entry, &entry, sizeof entry);
        }
    }
    int code = order != NULL && next != NULL ? RW_OK : RW_FULL;
    free(order);
    free(next);
    return code;
}

int rw_side_render(rw_side_maker *m, const uint8_t uuid[16], uint64_t segment,
                   uint64_t segment_bytes, const rw_side_epoch *epochs, uint32_t epoch_count,
                   const rw_occupant *ends, uint32_t end_count, uint8_t *out)
{
    rw_side_header h = header_of(m, epoch_count, end_count);
    rw_side_plan plan;
    rw_side_plan_of(&h, &plan);
    memcpy(h.uuid, uuid, sizeof h.uuid);
    h.segment = segment;
    h.segment_bytes = segment_bytes;
    h.bytes = plan.bytes;
    if (epoch_count != 0)
        memcpy(out + plan.epochs, epochs, epoch_count * sizeof *epochs);
    if (m->block_count != 0)
        memcpy(out + plan.blocks, m->blocks, m->block_count * sizeof *m->blocks);
    if (end_count != 0)
        memcpy(out + plan.ends, ends, end_count * sizeof *ends);
    if (render_streams(m, out + plan.streams, out + plan.entries) != RW_OK)
        return RW_FULL;
    for (uint64_t at = plan.epochs, i = 0; at < plan.bytes; at += RW_PAGE, i++) {
        uint64_t digest = rw_xxh3(out + at, RW_PAGE);
        memcpy(out + RW_PAGE + i * sizeof digest, &digest, sizeof digest);
    }
    h.digests = rw_xxh3(out + RW_PAGE, plan.epochs - RW_PAGE);
    h.digest = rw_xxh3((const uint8_t *)&h, offsetof(rw_side_header, digest));
    memcpy(out, &h, sizeof h);
    return RW_OK;
}
