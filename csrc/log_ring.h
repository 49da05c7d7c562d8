/* The log ring: where blocks are composed, and which of its bytes may be overwritten.
 *
 *   log position
 *      released_end        prefix_end           sealed_end      reserve_end
 *   ---------|------------------|--------------------|---------------|------
 *    confirmed,   persisted (all),   sealed; being     being
 *    may be       not all confirmed  written           composed
 *    overwritten
 *
 * The ring holds the bytes of the log at position modulo ring_bytes. A block is composed at
 * sealed_end; it may reach up to released_end + ring_bytes. Everything here runs under the compose
 * turn (wal.h), so it is one thread at a time.
 *
 * reserve_end is stored before any byte below it is written. A reader copies, then loads
 * reserve_end again: what lies at or above reserve_end - ring_bytes was not touched while it
 * copied.                                                                         PAIR: reserve_end
 *
 * A block is sealed by one store: `sealed` + 1, release, after its bytes and its entry are
 * complete. What was composed and not sealed never existed.                              PAIR: seal
 */
#ifndef RW_LOG_RING_H
#define RW_LOG_RING_H

#include "atomics.h"
#include "layout.h"
#include "status.h"

typedef struct rw_log_ring {
    rw_control *c;
    uint8_t *ring;

    /* the block being composed */
    uint8_t *base;
    uint64_t position;
    uint64_t used;
    uint64_t capacity;
    uint32_t frames;  /* frames */
    uint32_t requests; /* frames that answer a request */
    /* requests that it may have: what the tables of WAL process and drain are made for */
    uint32_t most;
    uint32_t seed;

    uint64_t requests_sealed;
    uint64_t prefix; /* first block that is not known to be persisted, and where it begins */
    uint64_t prefix_end;
} rw_log_ring;

void rw_log_ring_open(rw_log_ring *r, rw_control *c, uint8_t *ring);

/* The first block whose ring bytes are still needed. The drain stores released_end first and
 * `released` second: killed or stopped between the two, it leaves `released` behind, and the blocks
 * between may be composed over already. Their entries are safe: those go by `released`. For a
 * process that starts beside the other one.                                           PAIR: release
 */
static inline uint64_t rw_first_unreleased(const rw_control *c)
{
    uint64_t n = rw_load64_seq(&c->released), end = rw_load64_seq(&c->released_end),
             sealed = rw_load64_seq(&c->sealed);
    while (n < sealed && rw_block_entry_of((rw_control *)c, n)->position < end)
        n++;
    return n;
}

/* Moves `prefix` over the blocks that are persisted. */
void rw_log_ring_advance(rw_log_ring *r);

/* Bytes of the segment behind sealed_end that blocks may use (its last page is kept for an END
 * block). */
uint64_t rw_log_ring_segment_room(const rw_log_ring *r);

/* Opens a block whose frames need at least `need` bytes, header included, and that is closed when
 * it reaches `target`. RW_OK; RW_FULL: the ring has no room for it yet; RW_TOO_LARGE: the segment
 * has no room, an END block is due. */
int rw_log_ring_begin(rw_log_ring *r, uint64_t need, uint64_t target);

/* May so many more requests, whose frames take `need` bytes, go into the open block? */
static inline bool rw_log_ring_fits(const rw_log_ring *r, uint64_t need, uint32_t requests)
{
    return need <= r->capacity - r->used && r->requests + requests <= r->most;
}

/* Opens an END block over the rest of the segment; RW_FULL if the ring has no room for its span. */
int rw_log_ring_begin_end(rw_log_ring *r);

/* Closes the open block and announces it. Returns its number. */
uint64_t rw_log_ring_seal(rw_log_ring *r, uint32_t kind, uint64_t span, uint64_t timestamp_ns);

static inline uint8_t *rw_log_ring_at(const rw_log_ring *r, uint64_t position)
{
    return r->ring + rw_ring_place(r->c, position);
}

#endif
