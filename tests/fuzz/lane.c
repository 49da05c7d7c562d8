/* Fuzz target: what the WAL process and the drain read of a lane whose writer is hostile. An input
 * is a program: what the hostile writer stores, and when, also between two looks of the WAL
 * process; what an honest writer appends; when blocks are composed, persisted, confirmed; when a
 * process is replaced.
 *
 * Nothing outside of the lane, the ring and the control area is touched. Every block is whole.
 * Every request of the honest writer is taken, in order, with the bytes that it had, and confirmed
 * at the offset at which its record stands.
 */
#define _GNU_SOURCE
#include "block.h"
#include "digest.h"
#include "fuzz.h"
#include "lane_world.h"
#include "log_ring.h"
#include "memory.h"
#include "stream.h"
#include "persisted.h"
#include "sequencer.h"
#include "wal_state.h"

#include <time.h>

enum { HONEST_MAX = 4096, OPS_MAX = 400 };
static const int no_file = 1000000;

static world w;
static rw_wal *wal;
static rw_sequencer *drain;
static rw_writer *writers[LANES];
static uint32_t generation[LANES];

/* ------------------------------------------------------------------------------------ the input */

static const uint8_t *next, *input_end;

static uint64_t take(uint32_t width)
{
    uint64_t value = 0;
    uint64_t left = (uint64_t)(input_end - next);
    uint32_t n = width < left ? width : (uint32_t)left;
    memcpy(&value, next, n);
    next += n;
    return value;
}

/* --------------------------------------------------------------------------- the hostile writer */

static uint64_t chain; /* where its next forged request goes */

static void store(void)
{
    uint64_t bytes = sizeof(rw_lane) + w.lane_bytes[HOSTILE], at = take(3) % (bytes - 8),
             value = take(8);
    memcpy((uint8_t *)w.lanes[HOSTILE] + at, &value, sizeof value);
}

static void store_header(void)
{
    static const uint16_t words[] = {
        offsetof(rw_lane, lane_bytes),   offsetof(rw_lane, generation),
        offsetof(rw_lane, claim),        offsetof(rw_lane, last_rung),
        offsetof(rw_lane, room_waiters), offsetof(rw_lane, tail_any),
        offsetof(rw_lane, tail_streams), offsetof(rw_lane, tail_streams) + 16};
    uint64_t at = words[take(1) % (sizeof words / sizeof *words)], value = take(8);
    memcpy((uint8_t *)w.lanes[HOSTILE] + at, &value, sizeof value);
}

static void fill(void)
{
    uint64_t bytes = w.lane_bytes[HOSTILE], at = take(3) % bytes, n = take(2);
    uint8_t *data = (uint8_t *)w.lanes[HOSTILE] + sizeof(rw_lane);
    memset(data + at, (int)take(1), n < bytes - at ? n : bytes - at);
}

/* A request that a writer of ours could have published, but for the fields. */
static void put_request(uint32_t stream, uint32_t payload, uint32_t count, uint64_t number,
                        uint32_t wrong, uint16_t flags)
{
    uint8_t *data = (uint8_t *)w.lanes[HOSTILE] + sizeof(rw_lane);
    uint64_t bytes = w.lane_bytes[HOSTILE], at = chain & (bytes - 1);
    uint64_t held = payload < bytes - sizeof(rw_request) ? payload : bytes - sizeof(rw_request);
    rw_request q = {
        .valid = rw_lane_valid(1ull << 63 | generation[HOSTILE] * 0x123456789ull, chain),
        .stream = wrong & 4 ? stream + 1 : stream,
        .place = stream,
        .kind = wrong & 8 ? (uint8_t)wrong >> 4 : RW_FRAME_BATCH,
        .flags = flags,
        .payload_bytes = payload,
        .count = count,
        .number = number,
        .digest = wrong & 1 ? 5 : rw_xxh3(data + at + sizeof q, held),
    };
    q.crc = wrong & 2 ? 5 : rw_request_crc(&q);
    memcpy(data + at, &q, sizeof q);
    chain += rw_request_bytes(payload);
}

static void forge(void)
{
    uint32_t how = (uint32_t)take(1);
    if (how & 1)
        chain = rw_slot_of(w.c, HOSTILE)->head;
    if (how & 2)
        chain = wal->lanes[HOSTILE].cursor;
    /* x86 would let it stand anywhere; what is asked for there is the reader's doing */
    chain &= ~7ull;
    uint32_t stream = how & 4 ? (uint32_t)take(4) : (uint32_t)take(1);
    uint32_t payload = how & 8 ? (uint32_t)take(4) : (uint32_t)take(2);
    uint32_t count = how & 16 ? (uint32_t)take(4) : 1;
    uint64_t number = (uint64_t)generation[HOSTILE] << 32 | take(2);
    put_request(stream, payload, count, how & 32 ? take(8) : number,
                how & 64 ? (uint32_t)take(1) : 0,
                how & 128 ? (uint16_t)(how & 64 ? take(2) : RW_OWN_TIMES) : 0);
}

/* Many small ones, each of another stream. */
static void flood(void)
{
    chain = wal->lanes[HOSTILE].cursor;
    uint32_t n = (uint32_t)take(1) * 4, payload = (uint32_t)take(1);
    for (uint32_t i = 0; i < n; i++)
        put_request(i % (WORLD_STREAMS - 1), payload, 1, (uint64_t)generation[HOSTILE] << 32 | i,
                    0, i % 3 ? 0 : RW_OWN_TIMES);
}

/* --------------------------------------------------------- between two looks of the WAL process */

static uint32_t between; /* how many acts are left */

static void act_between(void)
{
    static void (*const acts[])(void) = {store, store_header, fill, forge, forge, flood};
    if (between == 0)
        return;
    uint64_t which = take(1) % (2 * sizeof acts / sizeof *acts);
    between--;
    if (which < sizeof acts / sizeof *acts) /* else it waits for the next look */
        acts[which]();
}

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    act_between();
    return __real_clock_gettime(id, t);
}

int __real_rw_lane_peek(const rw_lane_taker *e, uint64_t limit, rw_request *out);
int __wrap_rw_lane_peek(const rw_lane_taker *e, uint64_t limit, rw_request *out);
int __wrap_rw_lane_peek(const rw_lane_taker *e, uint64_t limit, rw_request *out)
{
    act_between();
    int rc = __real_rw_lane_peek(e, limit, out);
    act_between();
    return rc;
}

uint64_t __real_rw_frame_put(uint8_t *at, const rw_frame *r, const uint8_t *payload,
                              uint32_t seed);
uint64_t __wrap_rw_frame_put(uint8_t *at, const rw_frame *r, const uint8_t *payload,
                              uint32_t seed);
uint64_t __wrap_rw_frame_put(uint8_t *at, const rw_frame *r, const uint8_t *payload,
                              uint32_t seed)
{
    act_between();
    return __real_rw_frame_put(at, r, payload, seed);
}

/* ---------------------------------------------------------------------------- the honest writer */

typedef struct request {
    uint64_t digest, offset;
    uint32_t stream, count;
} request;

static request sent[HONEST_MAX];
static uint32_t sent_count, taken_count; /* request i has the number i + 1 */
static uint8_t payload[8 << 10];

static void append_honestly(void)
{
    uint32_t stream = (uint32_t)take(1) % 8, count = 1 + (uint32_t)take(1) % 4,
             length = (uint32_t)take(2) % 900;
    uint32_t lengths[4] = {length, length, length, length};
    if (sent_count == HONEST_MAX || sent_count - taken_count >= WORLD_COMPLETIONS)
        return;
    uint64_t table = count > 1 ? 4ull * count : 0, bytes = (uint64_t)count * length;
    memcpy(payload, lengths, table);
    memset(payload + table, (int)sent_count, bytes);
    uint64_t number = (uint64_t)generation[HONEST] << 32 | (sent_count + 1),
             handle = rw_handle(stream, stream);
    uint64_t times[4] = {length, number, 0, RW_TIME_MAX}, own = length % 2 ? 8ull * count : 0;
    memcpy(payload + table + bytes, times, own);
    int rc = count > 1 || own
                 ? rw_append_many(writers[HONEST], handle, lengths, count, payload + table, bytes,
                                  own ? times : NULL, number)
                 : rw_append(writers[HONEST], handle, payload, bytes, number);
    FUZZ_REQUIRE(rc == RW_OK || rc == RW_FULL);
    if (rc == RW_OK)
        sent[sent_count++] = (request){
            .digest = rw_xxh3(payload, table + bytes + own), .stream = stream, .count = count};
}

/* By the hostile writer, as others do it. */
static void append_as_usual(void)
{
    uint64_t bytes = take(2) % sizeof payload;
    w.lanes[HOSTILE]->claim &= ~63ull; /* what it does to itself is its own affair */
    uint32_t stream = (uint32_t)take(1) % 8;
    rw_append(writers[HOSTILE], rw_handle(stream, stream), payload, bytes,
              (uint64_t)generation[HOSTILE] << 32 | take(2));
    chain = rw_peek64(&w.lanes[HOSTILE]->claim);
}

/* ----------------------------------------------------------------------------------- the engine */

static void open_wal(void)
{
    const rw_wal_options o = {
        .block_bytes = WORLD_BLOCK, .quota_bytes = WORLD_BLOCK, .pipeline_bytes = 1, .threads = 1};
    wal = rw_wal_open(w.c, w.ring, &o, -1, -1, -1);
    FUZZ_REQUIRE(wal != NULL);
    for (uint32_t k = 0; k < LANES; k++)
        rw_wal_attach_lane(wal, k, w.lanes[k], generation[k]);
    FUZZ_REQUIRE(rw_wal_add_segment(wal, rw_wal_segment(wal), &no_file, true) == RW_OK);
}

static void open_drain(void)
{
    drain = rw_sequencer_open(w.c, w.ring, -1);
    FUZZ_REQUIRE(drain != NULL);
    for (uint32_t k = 0; k < LANES; k++)
        rw_sequencer_attach_lane(drain, k, w.lanes[k], generation[k], -1);
}

static void replace_wal(void)
{
    rw_wal_close(wal);
    open_wal();
    FUZZ_REQUIRE(rw_wal_restore(wal) >= 0);
}

static void replace_drain(void)
{
    rw_sequencer_close(drain);
    open_drain();
}

static void check_block(const rw_block_job *job)
{
    const rw_block *h = (const rw_block *)job->block;
    FUZZ_REQUIRE(rw_block_check(job->block, job->length, w.c->uuid, WORLD_EPOCH, h->position) ==
                 RW_OK);
    FUZZ_REQUIRE(rw_block_verify(job->block) == RW_OK);
    uint64_t at = sizeof *h;
    rw_frame_info f;
    while (rw_block_frames(job->block, &at, &f, 1) == 1) {
        if (f.kind != RW_FRAME_BATCH || f.slot != HONEST)
            continue;
        request *r = &sent[taken_count++];
        FUZZ_REQUIRE(taken_count <= sent_count &&
                     f.number == ((uint64_t)generation[HONEST] << 32 | taken_count));
        FUZZ_REQUIRE(f.digest == r->digest && f.stream == r->stream && f.count == r->count);
        r->offset = f.base_offset;
    }
}

static int compose(uint32_t acts)
{
    rw_block_job job;
    between = acts;
    rw_lanes_backlog(wal);
    int rc = rw_compose(wal, 0, &job);
    if (rc == RW_MAINTENANCE) {
        int dropped;
        rw_wal_drop_segment(wal, &dropped);
        /* the one that blocks go to, or the one behind it: data waits for that before the end */
        uint64_t wanted = rw_wal_segment(wal);
        wanted += rw_wal_segment_fd(wal, wanted, 0) >= 0;
        FUZZ_REQUIRE(rw_wal_add_segment(wal, wanted, &no_file, true) == RW_OK);
        rc = rw_compose(wal, 0, &job);
    }
    between = 0;
    if (rc == RW_OK)
        check_block(&job);
    FUZZ_REQUIRE(rc == RW_OK || rc == RW_PENDING || rc == RW_FULL);
    FUZZ_REQUIRE(rw_slot_of(w.c, HONEST)->fault == 0);
    return rc;
}

/* The write of one block that is on its way has ended: the n-th of them. */
static void persist(uint64_t n)
{
    uint64_t first = w.c->released, count = w.c->sealed - first;
    if (count != 0) {
        rw_block_entry *e = rw_block_entry_of(w.c, first + n % count);
        rw_persist_block(w.ring + (e->position & (WORLD_RING - 1)));
        e->state = RW_BLOCK_PERSISTED;
    }
    rw_sequencer_step(drain);
}

/* The hostile writer dies, and comes back. */
static void register_anew(void)
{
    rw_slot_set(w.c, HOSTILE, RW_SLOT_CLOSING);
    for (int i = 0; i < 64 && !rw_wal_lane_idle(wal, HOSTILE); i++) {
        compose(0);
        persist(0);
    }
    rw_wal_detach_lane(wal, HOSTILE);
    while (!rw_sequencer_idle(drain))
        persist(0);
    rw_sequencer_detach_lane(drain, HOSTILE);
    FUZZ_REQUIRE(rw_slot_released(w.c, HOSTILE));
    rw_slot_set(w.c, HOSTILE, RW_SLOT_FREE);
    rw_writer_close(writers[HOSTILE]);
    world_open_lane(&w, HOSTILE, ++generation[HOSTILE]);
    writers[HOSTILE] = rw_writer_open(w.c, w.lanes[HOSTILE], -1);
    rw_wal_attach_lane(wal, HOSTILE, w.lanes[HOSTILE], generation[HOSTILE]);
    rw_sequencer_attach_lane(drain, HOSTILE, w.lanes[HOSTILE], generation[HOSTILE], -1);
    chain = 0;
}

/* Whatever the hostile lane holds now, the honest one gets its turns. */
static void settle(void)
{
    for (uint32_t rounds = 0; taken_count < sent_count || !rw_sequencer_idle(drain); rounds++) {
        FUZZ_REQUIRE(rounds < 4 * HONEST_MAX);
        compose(0);
        persist(0);
    }
    uint32_t old = sent_count > WORLD_COMPLETIONS ? sent_count - WORLD_COMPLETIONS : 0;
    for (uint32_t i = old; i < sent_count; i++)
        FUZZ_REQUIRE(rw_completion_poll(writers[HONEST], (uint64_t)generation[HONEST] << 32 |
                                                             (i + 1)) == (int64_t)sent[i].offset);
}

static void act(void)
{
    switch (take(1) % 16) {
    case 0:
        return store();
    case 1:
        return store_header();
    case 2:
        return fill();
    case 3:
    case 4:
        return forge();
    case 5:
        return flood();
    case 6:
    case 7:
        return append_honestly();
    case 8:
        return append_as_usual();
    case 9:
        return persist(take(1));
    case 10:
        return replace_wal();
    case 11:
        return replace_drain();
    case 12:
        return register_anew();
    default:
        compose((uint32_t)take(1) % 16);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    next = data;
    input_end = data + bytes;
    chain = sent_count = taken_count = between = 0;
    world_open(&w);
    for (uint32_t k = 0; k < LANES; k++) {
        world_open_lane(&w, k, generation[k] = 1);
        writers[k] = rw_writer_open(w.c, w.lanes[k], -1);
        FUZZ_REQUIRE(writers[k] != NULL);
    }
    open_wal();
    open_drain();
    for (uint32_t n = 0; n < OPS_MAX && next < input_end; n++)
        act();
    settle();
    rw_wal_close(wal);
    rw_sequencer_close(drain);
    for (uint32_t k = 0; k < LANES; k++)
        rw_writer_close(writers[k]);
    return 0;
}
