#define _GNU_SOURCE
#include "memory.h"

#include "atomics.h"
#include "invariant.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE \
    ((uint64_t)2 \
     << 20) /* where it is another size, the kernel refuses and pages stay as they are */
#define GATHER_TRIES 3

uint64_t rw_control_bytes(const rw_geometry *g)
{
    return rw_page_up(rw_streams_at(g->max_clients, g->completions_per_client) +
                      (uint64_t)g->max_streams * sizeof(rw_stream) +
                      (uint64_t)g->max_owners * sizeof(rw_owner));
}

static uint64_t assumed_page;

uint64_t rw_system_page(void)
{
    return assumed_page != 0 ? assumed_page : (uint64_t)sysconf(_SC_PAGESIZE);
}

void rw_assume_page(uint64_t bytes) { assumed_page = bytes; }

/* Whole pages of this machine for a header; it lies at their end, up against the data. */
static uint64_t front_of(uint64_t header)
{
    uint64_t page = rw_system_page();
    return (header + page - 1) & ~(page - 1);
}

uint64_t rw_lane_object_bytes(uint64_t lane_bytes)
{
    return front_of(sizeof(rw_lane)) + lane_bytes;
}

/* Reserves `bytes` of addresses, so that MAP_FIXED replaces nothing but our own pages, with `ahead`
 * bytes before a multiple of `alignment`. */
static uint8_t *reserve(uint64_t bytes, uint64_t ahead, uint64_t alignment)
{
    uint8_t *base = mmap(NULL, bytes + alignment, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    uint64_t before = -((uintptr_t)base + ahead) & (alignment - 1), behind = alignment - before;
    if (before != 0)
        munmap(base, before);
    munmap(base + before + bytes, behind);
    return base + before;
}

void *rw_map(int fd, uint64_t header, uint64_t data, int writable)
{
    uint64_t page = rw_system_page(), front = front_of(header);
    if (data % page || header + data == 0 || data > SIZE_MAX / 4) {
        errno = EINVAL;
        return NULL;
    }
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *base = reserve(front + 2 * data, front, data >= HUGE_PAGE ? HUGE_PAGE : page);
    if (base == NULL)
        return NULL;
    uint8_t *at[] = {base, base + front, base + front + data};
    uint64_t size[] = {front, data, data}, offset[] = {data, 0, 0};
    for (int i = 0; i < 3; i++) {
        if (size[i] == 0 || mmap(at[i], size[i], protection, MAP_SHARED | MAP_FIXED, fd,
                                 (off_t)offset[i]) != MAP_FAILED)
            continue;
        int error = errno;
        munmap(base, front + 2 * data);
        errno = error;
        return NULL;
    }
    return data != 0 ? base + front - header : base;
}

void rw_gather_pages(void *data, uint64_t bytes)
{
    bytes &= ~(HUGE_PAGE - 1);
    /* EAGAIN: some page was busy for a moment. What cannot be gathered stays as it is. */
    for (int i = 0; bytes != 0 && i < GATHER_TRIES && madvise(data, bytes, MADV_COLLAPSE) != 0 &&
                    errno == EAGAIN;
         i++)
        sched_yield();
}

void rw_prefault(void *at, uint64_t bytes, int writable)
{
    (void)madvise(at, bytes, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

int rw_unmap(void *header_at, uint64_t header, uint64_t data)
{
    uint64_t front = front_of(header), before = data != 0 ? front - header : 0;
    return munmap((uint8_t *)header_at - before, front + 2 * data);
}

void rw_control_create(rw_control *c, const rw_geometry *g, const uint8_t uuid[16], uint64_t epoch,
                       uint64_t epoch_begin, uint64_t position, uint64_t block_number)
{
    c->layout_version = RW_LAYOUT_VERSION;
    c->max_clients = g->max_clients;
    c->client_slots = g->max_clients - g->engine_slots;
    c->fingerprint = rw_fingerprint();
    c->control_bytes = rw_control_bytes(g);
    c->ring_bytes = g->ring_bytes;
    c->epoch = epoch;
    c->max_streams = g->max_streams;
    c->max_owners = g->max_owners;
    c->owners_end = 1;
    c->completions_per_client = g->completions_per_client;
    c->segment_bytes = g->segment_bytes;
    memcpy(c->uuid, uuid, sizeof c->uuid);
    c->epoch_begin = epoch_begin;
    c->max_record_bytes = g->ring_bytes - RW_RING_RESERVE;
    c->started_ns = rw_wall_ns();
    c->confirm_order = g->confirm_order;
    c->supervisor_pid = (uint32_t)getpid();
    /* WAL's and drain's words, before either of them exists: nothing is sealed and nothing waits to
     * be released. */
    c->sealed = c->block_seed = c->released = block_number;
    c->sealed_end = c->reserve_end = c->position_seed = c->released_end = position;
    for (uint32_t i = 0; i < g->max_streams; i++) {
        rw_stream *s = rw_stream_of(c, i);
        s->number = s->ended = s->deleted = RW_NO_STREAM;
    }
    rw_store64(&c->magic, RW_CONTROL_MAGIC); /* PAIR: create/attach */
}

int rw_control_attach(const rw_control *c, uint64_t bytes, const uint8_t uuid[16], uint64_t epoch)
{
    if (bytes < sizeof *c || rw_load64(&c->magic) != RW_CONTROL_MAGIC) /* PAIR: create/attach */
        return RW_MISMATCH;
    const rw_geometry g = {
        .max_clients = c->max_clients,
        .completions_per_client = c->completions_per_client,
        .max_streams = c->max_streams,
        .max_owners = c->max_owners,
    };
    bool fits = c->layout_version == RW_LAYOUT_VERSION && c->fingerprint == rw_fingerprint() &&
                c->control_bytes == bytes && rw_control_bytes(&g) == bytes &&
                memcmp(c->uuid, uuid, sizeof c->uuid) == 0 && c->epoch == epoch;
    return fits ? RW_OK : RW_MISMATCH;
}

void rw_progress_create(rw_progress *p)
{
    p->fingerprint = rw_fingerprint();
    rw_store64(&p->magic, RW_PROGRESS_MAGIC); /* PAIR: create/attach */
}

int rw_progress_attach(const rw_progress *p, uint64_t bytes)
{
    if (bytes < sizeof *p || rw_load64(&p->magic) != RW_PROGRESS_MAGIC) /* PAIR: create/attach */
        return RW_MISMATCH;
    return p->fingerprint == rw_fingerprint() ? RW_OK : RW_MISMATCH;
}

void rw_progress_tell(rw_progress *p, uint64_t done, uint64_t total)
{
    rw_store64(&p->total, total);
    rw_store64(&p->done, done);
}

void rw_lane_create(rw_lane *l, const rw_control *c, uint32_t slot, uint32_t generation,
                    uint64_t lane_bytes)
{
    l->layout_version = RW_LAYOUT_VERSION;
    l->slot = slot;
    l->generation = generation;
    l->lane_bytes = lane_bytes;
    l->epoch = c->epoch;
    l->fingerprint = c->fingerprint;
    if (getrandom(&l->salt, sizeof l->salt, 0) != sizeof l->salt)
        /* a kernel without it: still nothing a payload could know */
        l->salt = rw_wall_ns() ^ (uintptr_t)l;
    l->salt |= 1ull << 63; /* no position reaches this bit, so zeroed memory never looks valid */
    rw_store64(&l->magic, RW_LANE_MAGIC); /* PAIR: create/attach */
}

int rw_lane_attach(const rw_lane *l, const rw_control *c, uint64_t bytes, uint32_t slot,
                   uint32_t generation)
{
    if (bytes < sizeof *l || rw_load64(&l->magic) != RW_LANE_MAGIC) /* PAIR: create/attach */
        return RW_MISMATCH;
    bool fits = l->layout_version == RW_LAYOUT_VERSION && l->fingerprint == c->fingerprint &&
                l->epoch == c->epoch && l->slot == slot && l->generation == generation &&
                rw_lane_object_bytes(l->lane_bytes) == bytes;
    return fits ? RW_OK : RW_MISMATCH;
}

void rw_set_state(rw_control *c, uint32_t state, uint32_t error)
{
    RW_ASSERT(state >= c->state && state <= RW_FAILED);
    rw_store32(&c->error, error);
    rw_store32_seq(&c->state, state);
}

void rw_set_not_before(rw_control *c, uint64_t ns)
{
    if (c->started_ns < ns)
        rw_store64(&c->started_ns, ns);
}

void rw_set_wal_error(rw_control *c, uint32_t error) { rw_store32_seq(&c->wal_error, error); }

void rw_keeper_works(rw_control *c, uint32_t pid) { rw_store32(&c->keeper_pid, pid); }

void rw_keeper_reached(rw_control *c, uint64_t segment, uint64_t written, uint32_t error)
{
    rw_count64(&c->side_files, written);
    rw_store32(&c->keeper_error, error);
    rw_store64(&c->side_end, segment);
}

void rw_keeper_attic(rw_control *c, uint64_t end, uint64_t bytes)
{
    rw_store64(&c->attic_bytes, bytes);
    rw_store64_seq(&c->attic_end, end);
}

void rw_slot_open(rw_control *c, uint32_t k, uint32_t generation, uint32_t pid, uint64_t lane_bytes)
{
    rw_slot *slot = rw_slot_of(c, k);
    RW_ASSERT(slot->state == RW_SLOT_FREE && generation > slot->generation);
    slot->pid = pid;
    slot->lane_bytes = lane_bytes;
    rw_store32(&slot->generation, generation);
    rw_slot_set(c, k, RW_SLOT_ACTIVE);
}

void rw_slot_set(rw_control *c, uint32_t k, uint32_t state)
{
    rw_slot *slot = rw_slot_of(c, k);
    RW_ASSERT(state == (slot->state + 1) % (RW_SLOT_CLOSING + 1)); /* free, active, closing, free */
    rw_store32(&slot->state, state);
    rw_add32(&c->membership, 1);
}

int rw_slot_released(rw_control *c, uint32_t k)
{
    const rw_slot *slot = rw_slot_of(c, k);
    uint32_t generation = rw_load32(&slot->generation);
    return rw_load32(&slot->wal_done) == generation && rw_load32(&slot->drain_done) == generation;
}

/* The word that holds the owner's thread number is looked for, as every C library has it at another
 * place. */
int rw_supervisor_hold(rw_control *c)
{
    _Static_assert(sizeof(pthread_mutex_t) <= sizeof c->life, "life");
    pthread_mutex_t *life = (pthread_mutex_t *)c->life;
    pthread_mutexattr_t a;
    int rc = pthread_mutexattr_init(&a);
    if (rc != 0)
        return RW_BAD;
    rc = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    if (rc == 0)
        rc = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    if (rc == 0)
        rc = pthread_mutex_init(life, &a);
    pthread_mutexattr_destroy(&a);
    if (rc != 0 || pthread_mutex_lock(life) != 0)
        return RW_BAD;
    const uint32_t *words = (const uint32_t *)c->life, self = (uint32_t)syscall(SYS_gettid);
    for (uint32_t i = 0; i < sizeof(pthread_mutex_t) / sizeof *words; i++)
        if ((words[i] & FUTEX_TID_MASK) == self) {
            rw_store32(&c->life_at, i + 1);
            return RW_OK;
        }
    pthread_mutex_unlock(life);
    return RW_BAD;
}

void rw_supervisor_let_go(rw_control *c)
{
    if (c->life_at == 0)
        return;
    rw_store32(&c->life_at, 0);
    pthread_mutex_unlock((pthread_mutex_t *)c->life);
}

int64_t rw_birth_ns(int fd)
{
    struct statx st;
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BTIME, &st) != 0 ||
        !(st.stx_mask & STATX_BTIME))
        return 0;
    return (int64_t)st.stx_btime.tv_sec * 1000000000 + st.stx_btime.tv_nsec;
}

void rw_nudge(rw_control *c) { rw_unpark(&c->completions, INT_MAX); }

void rw_thread_name(char *before, const char *name)
{
    if (before != NULL)
        prctl(PR_GET_NAME, before);
    prctl(PR_SET_NAME, name);
}

int rw_die_with_parent(int parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return getppid() == parent ? RW_OK : RW_GONE; /* it may have died before the line above */
}
