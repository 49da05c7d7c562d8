#define _GNU_SOURCE
#include "rig.h"

#include "block.h"
#include "memory.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const uint8_t rig_uuid[16] = "ringwal native t";

uint64_t rig_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* -------------------------------------------------------------------------------------- failure */

static const rig *current; /* a process has one */
static pid_t owner;       /* the process that removes its files */

static void segment_path(const rig *r, uint64_t number, char *out, size_t size)
{
    snprintf(out, size, "%s/%06u.seg", r->directory, (unsigned)number);
}

static void remove_files(const rig *r)
{
    char path[96];
    for (uint32_t i = 0; i < RIG_SEGMENTS; i++) {
        segment_path(r, i, path, sizeof path);
        unlink(path);
    }
    rmdir(r->directory);
}

static void dump(const rig *r)
{
    rw_control *c = r->c;
    fprintf(
        stderr,
        "seed %lu state %u doorbell %#lx starved %u wal_error %u drain_parked %u completions %u\n",
        r->seed, c->state, c->doorbell, c->starved, c->wal_error, c->drain_parked, c->completions);
    fprintf(stderr, "sealed %lu end %lu reserve %lu released %lu end %lu\n", c->sealed,
            c->sealed_end, c->reserve_end, c->released, c->released_end);
    for (uint64_t n = c->released; n < c->sealed && n < c->released + 8; n++)
        fprintf(stderr, "block %lu state %u records %u\n", n, rw_block_entry_of(c, n)->state,
                rw_block_entry_of(c, n)->frames);
    for (uint32_t k = 0; k <= RIG_LANES; k++) {
        const rw_slot *s = rw_slot_of(c, k);
        const rw_lane *l = r->lanes[k];
        if (l != NULL)
            fprintf(stderr,
                    "lane %u state %u gen %u head %lu claim %lu fault %u rung %#lx waiters %u room "
                    "%u done %u %u\n",
                    k, s->state, s->generation, s->head, l->claim, s->fault, l->last_rung,
                    l->completion_waiters, l->room_waiters, s->wal_done, s->drain_done);
    }
}

_Noreturn void rig_die(const char *file, int line, const char *what)
{
    static uint32_t dying;
    if (rw_add32(&dying, 1) != 0)
        for (;;)
            pause(); /* the first one tells the story */
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    if (current != NULL)
        dump(current);
    if (current != NULL && getpid() == owner)
        remove_files(current);
    abort();
}

static void on_alarm(int number)
{
    (void)number;
    rig_die(__FILE__, __LINE__, "nothing moves any more");
}

void rig_watch(unsigned seconds)
{
    signal(SIGALRM, on_alarm);
    alarm(seconds);
}

/* --------------------------------------------------------------------------------------- memory */

static void *object(uint64_t header, uint64_t data)
{
    int fd = memfd_create("rig", MFD_CLOEXEC);
    RIG_REQUIRE(fd >= 0 && ftruncate(fd, (off_t)(header + data)) == 0);
    void *base = rw_map(fd, header, data, 1);
    RIG_REQUIRE(base != NULL);
    close(fd);
    return base;
}

void rig_open(rig *r, uint64_t seed, uint32_t confirm_order)
{
    *r = (rig){.seed = seed};
    const rw_geometry g = {
        .max_clients = RIG_LANES + 1,
        .completions_per_client = RIG_COMPLETIONS,
        .max_streams = RIG_STREAMS,
        .confirm_order = confirm_order,
        .ring_bytes = RIG_RING,
        .segment_bytes = RIG_SEGMENT,
    };
    r->c = object(rw_control_bytes(&g), 0);
    r->ring = object(0, RIG_RING);
    rw_control_create(r->c, &g, rig_uuid, RIG_EPOCH, 0, RIG_BEGIN, 1);
    for (uint32_t id = 0; id < RIG_STREAMS; id++) {
        char name[32];
        int n = snprintf(name, sizeof name, "stream-%u", id);
        rw_stream_open(r->c, id, id, (const uint8_t *)name, (uint32_t)n);
    }
    r->doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r->maintenance = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    RIG_REQUIRE(r->doorbell >= 0 && r->maintenance >= 0);
    const char *parent = getenv("TMPDIR");
    snprintf(r->directory, sizeof r->directory, "%s/rig-XXXXXX",
             parent && strlen(parent) < 40 ? parent : "/tmp");
    RIG_REQUIRE(mkdtemp(r->directory) != NULL);
    current = r;
    owner = getpid();
    for (uint32_t i = 0; i < RIG_SEGMENTS; i++)
        r->writing[i][0] = RIG_NOT_YET;
    int probe = open(r->directory, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    r->direct = probe >= 0 && seed % 4 != 0; /* every fourth seed takes the buffered path */
    if (probe >= 0)
        close(probe);
    /* one lane with big records, the tailer's with none */
    for (uint32_t k = 0; k <= RIG_LANES; k++)
        r->lane_bytes[k] = k == RIG_LANES ? RW_PAGE : k == 1 ? 1u << 20 : 1u << 16;
    rw_set_state(r->c, RW_RUNNING, 0);
}

void rig_close(rig *r)
{
    for (uint32_t i = 0; i < RIG_SEGMENTS; i++)
        for (uint32_t k = 0; k < RIG_POOL && r->writing[i][0] >= 0; k++)
            close(r->writing[i][k]);
    remove_files(r);
    current = NULL;
    for (uint32_t k = 0; k <= RIG_LANES; k++)
        if (r->lanes[k] != NULL)
            rw_unmap(r->lanes[k], sizeof(rw_lane), r->lane_bytes[k]);
    rw_unmap(r->ring, 0, RIG_RING);
    rw_unmap(r->c, r->c->control_bytes, 0);
    close(r->doorbell);
    close(r->maintenance);
}

void rig_open_lane(rig *r, uint32_t k, uint32_t generation)
{
    if (r->lanes[k] != NULL)
        rw_unmap(r->lanes[k], sizeof(rw_lane), r->lane_bytes[k]);
    r->lanes[k] = object(sizeof(rw_lane), r->lane_bytes[k]);
    rw_lane_create(r->lanes[k], r->c, k, generation, r->lane_bytes[k]);
    rw_slot_open(r->c, k, generation, (uint32_t)getpid(), r->lane_bytes[k]);
}

rw_wal_options rig_options(const rig *r)
{
    return (rw_wal_options){
        .block_bytes = 64u << 10,
        .quota_bytes = 8u << 10,
        .pipeline_bytes = r->seed % 3 ? 16u << 10 : 0,
        .spin_ns = r->seed % 2 ? 30000 : 0,
        .linger_ns = r->seed % 3 == 1 ? 200000 : 0,
        .direct = (uint32_t)r->direct,
        .threads = RIG_POOL,
    };
}

static void open_segment(rig *r, uint64_t number)
{
    RIG_REQUIRE(number < RIG_SEGMENTS);
    char path[96];
    segment_path(r, number, path, sizeof path);
    for (uint32_t k = 0; k < RIG_POOL; k++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (r->direct ? O_DIRECT : 0), 0600);
        RIG_REQUIRE(fd >= 0 && ftruncate(fd, RW_PAGE + RIG_SEGMENT) == 0);
        r->writing[number][k] = fd;
    }
}

static void close_segment(rig *r, const int *fds)
{
    uint32_t number = 0;
    while (r->writing[number][0] != fds[0])
        number++;
    for (uint32_t k = 0; k < RIG_POOL; k++)
        close(fds[k]);
    r->writing[number][0] = RIG_DONE;
}

void rig_add_segments(rig *r, rw_wal *w, uint64_t from, uint64_t ahead)
{
    int dropped[RIG_POOL];
    while (rw_wal_drop_segment(w, dropped) == RW_OK)
        close_segment(r, dropped);
    for (uint64_t n = from; n <= rw_wal_segment(w) + ahead; n++)
        if (r->writing[n][0] == RIG_NOT_YET) {
            open_segment(r, n);
            RIG_REQUIRE(rw_wal_add_segment(w, n, r->writing[n], n % 2 == 0) == RW_OK);
        }
}

/* ------------------------------------------------------------------------------------- requests */

rig_request rig_request_of(const rig *r, uint32_t k, uint64_t number, uint64_t limit)
{
    uint64_t x = rig_mix(r->seed ^ rig_mix(number ^ (uint64_t)k << 56));
    rig_request q = {.stream = x & 1 ? 0 : (uint32_t)(x >> 1) % RIG_STREAMS, .count = 1};
    uint64_t size = rig_mix(x) % 2048;
    if (x >> 8 & 31) {
        q.bytes = (uint32_t)(x >> 13 & 3 ? size % 256 : size);
    } else if (x >> 14 & 3) {
        q.count = 2 + (uint32_t)(x >> 16) % 3;
        q.bytes = 4 * q.count;
        for (uint32_t i = 0; i < q.count; i++)
            q.bytes += q.lengths[i] = (uint32_t)(rig_mix(x + i) % 300);
    } else {
        /* up to the largest that the lane takes */
        q.bytes = (uint32_t)(limit - size % (limit / 2));
    }
    return q;
}

void rig_payload(const rig *r, uint32_t k, uint64_t number, const rig_request *q, uint8_t *out)
{
    uint64_t bytes = q->bytes - (q->count > 1 ? 4ull * q->count : 0), x = r->seed ^ number * 31 ^ k;
    for (uint64_t i = 0; i < bytes; i += 8) {
        x = rig_mix(x);
        memcpy(out + i, &x, bytes - i < 8 ? bytes - i : 8);
    }
}

void rig_append(rig *r, rw_writer *w, uint32_t k, uint64_t number, uint8_t *scratch)
{
    rig_request q = rig_request_of(r, k, number, rw_writer_record_limit(w));
    rig_payload(r, k, number, &q, scratch);
    for (;;) {
        uint64_t stream = rw_handle(q.stream, q.stream);
        int rc = q.count == 1 ? rw_append(w, stream, scratch, q.bytes, number)
                              : rw_append_many(w, stream, q.lengths, q.count, scratch,
                                               q.bytes - 4ull * q.count, NULL, number);
        if (rc == RW_OK)
            return;
        RIG_REQUIRE(rc == RW_FULL);
        rc = rw_wait_room(w, q.bytes, RIG_FOREVER);
        RIG_REQUIRE(rc == RW_OK || rc == RW_PENDING || rc == RW_INTERRUPTED);
    }
}

/* ---------------------------------------------------------------------------------------- check */

static int by_request(const void *a, const void *b)
{
    const rig_result *x = a, *y = b;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static void check_frame(const rig *r, const uint8_t *block, const rw_frame_info *f, uint64_t *next,
                        rig_result *results, uint64_t count)
{
    uint64_t limit = r->lane_bytes[f->slot] / 2 < r->c->max_record_bytes
                         ? r->lane_bytes[f->slot] / 2
                         : r->c->max_record_bytes;
    rig_request q = rig_request_of(r, f->slot, f->number, limit);
    RIG_REQUIRE(f->stream == q.stream && f->count == q.count && f->payload_bytes == q.bytes);
    RIG_REQUIRE(f->base_offset == next[f->stream]); /* dense, no duplicate, nothing lost below */
    next[f->stream] += f->count;
    const uint8_t *payload = block + f->at + sizeof(rw_frame);
    uint64_t table = q.count > 1 ? 4ull * q.count : 0;
    RIG_REQUIRE(memcmp(payload, q.lengths, table) == 0);
    uint8_t *expected = malloc(q.bytes + 8);
    rig_payload(r, f->slot, f->number, &q, expected);
    RIG_REQUIRE(memcmp(payload + table, expected, q.bytes - table) == 0);
    free(expected);
    rig_result key = {.lane = f->slot, .number = f->number};
    rig_result *found = bsearch(&key, results, count, sizeof key, by_request);
    RIG_REQUIRE(found != NULL && found->offset == f->base_offset);
    found->offset = UINT64_MAX; /* seen; a second one would be a duplicate */
}

uint64_t rig_check(rig *r, const rig_result *all, uint64_t count)
{
    rig_result *results = malloc(count * sizeof *results);
    memcpy(results, all, count * sizeof *results);
    qsort(results, count, sizeof *results, by_request);
    uint8_t *segment = malloc(RIG_SEGMENT);
    uint64_t next[RIG_STREAMS] = {0}, loaded = UINT64_MAX, requests = 0, watermark = 0;
    for (uint64_t position = RIG_BEGIN; position < r->c->sealed_end;) {
        uint64_t number = position / RIG_SEGMENT, at = position % RIG_SEGMENT;
        if (loaded != number) {
            char path[96];
            segment_path(r, number, path, sizeof path);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            RIG_REQUIRE(fd >= 0 && pread(fd, segment, RIG_SEGMENT, RW_PAGE) == RIG_SEGMENT);
            close(fd);
            loaded = number;
        }
        const uint8_t *block = segment + at;
        const rw_block *h = (const rw_block *)block;
        RIG_REQUIRE(rw_block_check(block, RIG_SEGMENT - at, rig_uuid, RIG_EPOCH, position) ==
                    RW_OK);
        RIG_REQUIRE(rw_block_verify(block) == RW_OK);
        RIG_REQUIRE(h->watermark >= watermark && h->watermark <= position);
        watermark = h->watermark;
        uint64_t frame_at = sizeof(rw_block);
        rw_frame_info f;
        while (rw_block_frames(block, &frame_at, &f, 1) == 1)
            if (f.kind == RW_FRAME_BATCH) {
                check_frame(r, block, &f, next, results, count);
                requests++;
            }
        position += h->span;
    }
    RIG_REQUIRE(requests == count);
    uint64_t records = 0;
    for (uint32_t id = 0; id < RIG_STREAMS; id++) {
        const rw_stream *s = rw_stream_of(r->c, id);
        RIG_REQUIRE(s->next_offset == next[id] && s->confirmed_offset == next[id]);
        records += next[id];
    }
    free(segment);
    free(results);
    return records;
}
