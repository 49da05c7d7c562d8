/* The whole data path on threads of one process: what runs as separate processes in the engine shares one mapping here,
 * so that ThreadSanitizer sees both sides of every access, and AddressSanitizer every copy.
 *
 * Two clients with one lane each, two threads per client, a hot stream that all of them write to and one stream per
 * thread; two WAL threads, one drain thread, one thread that prepares segments. At the end the log is read back from the
 * files, and every offset, order and byte is compared with what the writers were promised.
 */
#define _GNU_SOURCE
#include "atomics.h"
#include "digest.h"
#include "lane.h"
#include "memory.h"
#include "record.h"
#include "sequencer.h"
#include "wait.h"
#include "wal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(ok)                                                                                                           \
    do {                                                                                                                   \
        if (!(ok)) {                                                                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #ok);                                               \
            abort();                                                                                                       \
        }                                                                                                                  \
    } while (0)

enum { CLIENTS = 2, PER_CLIENT = 2, WRITERS = CLIENTS * PER_CLIENT, APPENDS = 1500, WINDOW = 16, MAX_BYTES = 3000, BATCH = 3 };
enum { HOT = 0, STREAMS = 1 + WRITERS, WAL_THREADS = 2, SEGMENTS_MAX = 64 };

static const uint8_t uuid[16] = "threads";
static const rw_geometry geometry = {
    .max_clients = CLIENTS, .completions_per_client = 64, .max_streams = 8, .ring_bytes = 1 << 20, .segment_bytes = 4 << 20};
static const uint64_t lane_bytes = 64 << 10;

static rw_control *control;
static uint8_t *ring;
static rw_lane *lanes[CLIENTS];
static rw_writer *ends[CLIENTS];
static rw_wal *wal;
static rw_sequencer *sequencer;
static int bell, chores;
static uint32_t stop;
static int segments[SEGMENTS_MAX]; /* descriptors of our own: the engine closes the ones it gets */

static void *object(uint64_t header, uint64_t data)
{
    int fd = memfd_create("ringwal-test", 0);
    MUST(fd >= 0 && ftruncate(fd, (off_t)(header + data)) == 0);
    void *base = rw_map(fd, header, data, 1);
    MUST(base != NULL);
    close(fd);
    return base;
}

/* ----------------------------------------------------------------------------------------------------- the writers */

typedef struct promise {
    uint64_t offset;
    uint32_t stream, count, bytes;
} promise;

typedef struct writer {
    uint32_t id;
    promise promises[APPENDS];
} writer;

static writer writers[WRITERS];

/* A payload says who wrote it and as which append; the rest follows from that. */
static uint32_t fill(uint8_t *out, uint32_t id, uint32_t i)
{
    uint32_t bytes = 8 + (id * 7919u + i * 104729u) % (MAX_BYTES - 8);
    memcpy(out, &id, 4);
    memcpy(out + 4, &i, 4);
    for (uint32_t k = 8; k < bytes; k++)
        out[k] = (uint8_t)(id + i + k);
    return bytes;
}

/* Numbers of one client's threads never share a completion cell. */
static uint64_t number_of(uint32_t id, uint32_t i) { return 1ull << 32 | (i * PER_CLIENT + id % PER_CLIENT + 1); }

static int publish(rw_writer *end, const promise *p, const uint8_t *data, uint64_t number)
{
    if (p->count == 1)
        return rw_append(end, p->stream, data, p->bytes, number);
    uint32_t lengths[BATCH] = {0, 8, p->bytes - 8};
    return rw_append_many(end, p->stream, lengths, BATCH, data, p->bytes, number);
}

static void settle(rw_writer *end, writer *w, uint32_t i)
{
    int64_t offset;
    do
        offset = rw_completion_wait(end, number_of(w->id, i), 20000, 1000000000);
    while (offset == RW_PENDING);
    MUST(offset >= 0);
    w->promises[i].offset = (uint64_t)offset;
    MUST(rw_stream_confirmed(control, w->promises[i].stream) >= (uint64_t)offset + w->promises[i].count);
}

static void *write_all(void *argument)
{
    writer *w = argument;
    rw_writer *end = ends[w->id / PER_CLIENT];
    uint8_t data[MAX_BYTES];
    for (uint32_t i = 0; i < APPENDS; i++) {
        if (i >= WINDOW)
            settle(end, w, i - WINDOW);
        promise *p = &w->promises[i];
        *p = (promise){.stream = i % 2 ? HOT : 1 + w->id, .count = i % 10 == 3 ? BATCH : 1, .bytes = fill(data, w->id, i)};
        int rc;
        while ((rc = publish(end, p, data, number_of(w->id, i))) == RW_FULL)
            MUST(rw_wait_room(end, p->bytes + 4 * BATCH, 1000000000) != RW_GONE);
        MUST(rc == RW_OK);
    }
    for (uint32_t i = APPENDS - WINDOW; i < APPENDS; i++)
        settle(end, w, i);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ the engine */

static void *wal_thread(void *unused)
{
    (void)unused;
    MUST(rw_wal_work(wal) == RW_OK);
    return NULL;
}

static void *drain_thread(void *unused)
{
    (void)unused;
    while (!rw_load32(&stop) || !rw_sequencer_idle(sequencer)) {
        int rc = rw_sequencer_work(sequencer, 100000, 10000000);
        MUST(rc != RW_IO && rc != RW_BAD);
        uint32_t slot, generation;
        if (rc == RW_CHORE && rw_sequencer_wants(sequencer, &slot, &generation) == 1)
            rw_sequencer_attach_lane(sequencer, slot, lanes[slot], generation);
    }
    return NULL;
}

static void add_segment(uint64_t number)
{
    char path[] = "/tmp/ringwal-native-XXXXXX";
    MUST(number < SEGMENTS_MAX);
    int fd = mkstemp(path);
    MUST(fd >= 0 && unlink(path) == 0 && ftruncate(fd, (off_t)(RW_PAGE + geometry.segment_bytes)) == 0);
    segments[number] = dup(fd);
    MUST(rw_wal_add_segment(wal, number, fd) == RW_OK);
}

static void *housekeeping(void *unused)
{
    (void)unused;
    uint64_t next = 0;
    while (!rw_load32(&stop)) {
        while (next <= rw_wal_segment(wal) + 1)
            add_segment(next++);
        int fd;
        while ((fd = rw_wal_drop_segment(wal)) >= 0)
            close(fd);
        uint64_t rings;
        MUST(read(chores, &rings, sizeof rings) == sizeof rings);
    }
    return NULL;
}

static void open_engine(void)
{
    bell = eventfd(0, EFD_NONBLOCK);
    chores = eventfd(0, 0);
    control = object(rw_control_bytes(&geometry), 0);
    ring = object(0, geometry.ring_bytes);
    rw_control_create(control, &geometry, uuid, 1, 0, 0, 1);
    for (uint32_t id = 0; id < STREAMS; id++)
        rw_stream_open(control, id, (const uint8_t *)"stream", 6);
    rw_set_state(control, RW_RUNNING, 0);
    const rw_wal_options options = {
        .block_bytes = 64 << 10, .quota_bytes = 16 << 10, .pipeline_bytes = 8 << 10, .spin_ns = 20000, .direct = 0};
    wal = rw_wal_open(control, ring, &options, bell, chores);
    sequencer = rw_sequencer_open(control, ring, bell);
    MUST(wal != NULL && sequencer != NULL);
    for (uint32_t k = 0; k < CLIENTS; k++) {
        lanes[k] = object(sizeof(rw_lane), lane_bytes);
        rw_lane_create(lanes[k], control, k, 1, lane_bytes);
        rw_slot_open(control, k, 1, (uint32_t)getpid(), lane_bytes);
        rw_wal_attach_lane(wal, k, lanes[k], 1);
        ends[k] = rw_writer_open(control, lanes[k], bell);
        MUST(ends[k] != NULL);
    }
}

static void close_engine(void)
{
    for (uint32_t k = 0; k < CLIENTS; k++) {
        rw_writer_close(ends[k]);
        rw_unmap(lanes[k], sizeof(rw_lane), lane_bytes);
    }
    rw_sequencer_close(sequencer);
    rw_wal_close(wal);
    rw_unmap(ring, 0, geometry.ring_bytes);
    rw_unmap(control, rw_control_bytes(&geometry), 0);
    close(bell);
    close(chores);
}

/* ------------------------------------------------------------------------------------------------------- the proof */

static uint64_t next_offset[STREAMS]; /* by stream, in log order */
static uint32_t seen[WRITERS][2];     /* by writer and kind of stream: index of the append that has to come next */

static void check_frame(const uint8_t *block, const rw_frame *f)
{
    if (f->kind == RW_RECORD_STREAM)
        return;
    const uint8_t *data = block + f->at + sizeof(rw_record) + (f->count > 1 ? 4 * f->count : 0);
    uint32_t id, i;
    memcpy(&id, data, 4);
    memcpy(&i, data + 4, 4);
    MUST(id < WRITERS && i < APPENDS && f->stream < STREAMS);
    const promise *p = &writers[id].promises[i];
    MUST(f->base_offset == next_offset[f->stream]);
    MUST(p->stream == f->stream && p->count == f->count && p->offset == f->base_offset);
    MUST(i / 2 == seen[id][i % 2]); /* one thread's appends to one stream keep their order */
    uint8_t expected[MAX_BYTES];
    MUST(fill(expected, id, i) == p->bytes && memcmp(expected, data, p->bytes) == 0);
    next_offset[f->stream] += f->count;
    seen[id][i % 2]++;
}

static uint64_t check_block(uint64_t position, uint8_t *block)
{
    uint64_t at = RW_PAGE + position % geometry.segment_bytes, available = geometry.segment_bytes + RW_PAGE - at;
    uint64_t bytes = available < geometry.ring_bytes ? available : geometry.ring_bytes;
    MUST(pread(segments[position / geometry.segment_bytes], block, bytes, (off_t)at) == (ssize_t)bytes);
    MUST(rw_block_check(block, bytes, uuid, 1, position) == RW_OK && rw_block_verify(block) == RW_OK);
    uint64_t from = sizeof(rw_block), span;
    rw_frame frame;
    while (rw_block_frames(block, &from, &frame, 1) == 1)
        check_frame(block, &frame);
    memcpy(&span, block + offsetof(rw_block, span), sizeof span);
    return span;
}

static void check_log(void)
{
    uint8_t *block = malloc(geometry.ring_bytes);
    MUST(block != NULL);
    uint64_t position = 0;
    while (position < control->sealed_end)
        position += check_block(position, block);
    MUST(position == control->sealed_end && control->released_end == control->sealed_end);
    for (uint32_t id = 0; id < WRITERS; id++)
        MUST(seen[id][0] == APPENDS / 2 && seen[id][1] == APPENDS / 2);
    for (uint32_t id = 0; id < STREAMS; id++)
        MUST(rw_stream_confirmed(control, id) == next_offset[id] && next_offset[id] > 0);
    free(block);
    for (uint32_t i = 0; i < SEGMENTS_MAX; i++)
        if (segments[i] > 0)
            close(segments[i]);
}

int main(void)
{
    open_engine();
    pthread_t wal_threads[WAL_THREADS], drain, keeper, threads[WRITERS];
    MUST(pthread_create(&keeper, NULL, housekeeping, NULL) == 0 && pthread_create(&drain, NULL, drain_thread, NULL) == 0);
    for (int i = 0; i < WAL_THREADS; i++)
        MUST(pthread_create(&wal_threads[i], NULL, wal_thread, NULL) == 0);
    for (uint32_t i = 0; i < WRITERS; i++) {
        writers[i].id = i;
        MUST(pthread_create(&threads[i], NULL, write_all, &writers[i]) == 0);
    }
    for (uint32_t i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    rw_wal_finish(wal);
    for (int i = 0; i < WAL_THREADS; i++)
        pthread_join(wal_threads[i], NULL);
    rw_store32(&stop, 1);
    rw_ring_fd(chores);
    pthread_join(drain, NULL);
    pthread_join(keeper, NULL);
    int fd;
    while ((fd = rw_wal_drop_segment(wal)) >= 0)
        close(fd);
    check_log();
    printf("%u appends confirmed in order and read back\n", WRITERS * APPENDS);
    close_engine();
    return 0;
}
