/* The kinds of shared object: mapping them, filling in their headers, refusing what does not
 * fit, and the stores that belong to the supervisor. Creating, sizing and unlinking the objects
 * themselves is engine/ringwal/memory.py's.
 *
 * ATTACH. The creator fills everything in and stores `magic` last, with release; who loads it with
 * acquire sees the rest. A header that fails any check belongs to another build, engine or epoch,
 * or is half made: all the same answer, because the client asks the supervisor again in each case.
 *                                                                               PAIR: create/attach
 */
#ifndef RW_MEMORY_H
#define RW_MEMORY_H

#include "atomics.h"
#include "layout.h"
#include "status.h"

#include <linux/futex.h>

/* The ring keeps this much between the largest record and its own size: headers, padding, and room
 * to breathe. */
#define RW_RING_RESERVE (64u * 1024u)

uint64_t rw_control_bytes(const rw_geometry *g);
uint64_t rw_lane_object_bytes(uint64_t lane_bytes);

/* Digest of every name, type, place and size of layout.h, and of its constants. Two builds with the
 * same fingerprint read each other's memory. Rendered, and held against the structs by the
 * compiler: fingerprint.c. */
uint64_t rw_fingerprint(void);

/* The page size of this machine: 4, 16 or 64 KiB. What is mapped is a multiple of it; RW_PAGE is
 * the unit of files and of the layout, on every machine. `rw_assume_page` is for tests: a larger
 * one than it has, 0 for its own. */
uint64_t rw_system_page(void);
void rw_assume_page(uint64_t bytes);

/* Maps `header` bytes once and behind them the `data` bytes, a multiple of the system's page, twice
 * in a row, so that data never wraps. In the object it is the other way round, data first: so data
 * lies as a huge page does, in the object and, if it is large enough, in the addresses. The header
 * is the end of the object, which has whole pages. Returns where the header begins; NULL and errno
 * on failure; the descriptor may be closed afterwards. */
void *rw_map(int fd, uint64_t header, uint64_t data, int writable);
/* Asks the kernel to put the data of a new object, which nobody else maps yet, into huge pages: one
 * entry in the processor's page tables, and one piece of a device's transfer, instead of 512. Where
 * it cannot (before 6.1, no such pages free), nothing happens. */
void rw_gather_pages(void *data, uint64_t bytes);
int rw_unmap(void *header_at, uint64_t header, uint64_t data);
/* Puts the pages of a mapping into this process's page table now rather than one by one on first
 * touch, which costs a microsecond each in the middle of an append. Where the kernel cannot (before
 * 5.14), nothing happens. */
void rw_prefault(void *at, uint64_t bytes, int writable);

/* `c` is fresh, zeroed memory of rw_control_bytes(g). `position` is where the next block goes,
 * `block_number` its number; `epoch_begin` is the position of the epoch's first block. */
void rw_control_create(rw_control *c, const rw_geometry *g, const uint8_t uuid[16], uint64_t epoch,
                       uint64_t epoch_begin, uint64_t position, uint64_t block_number);
/* RW_OK or RW_MISMATCH. `bytes` is the size of the mapped object. */
int rw_control_attach(const rw_control *c, uint64_t bytes, const uint8_t uuid[16], uint64_t epoch);

/* `p` is fresh, zeroed memory. */
void rw_progress_create(rw_progress *p);
int rw_progress_attach(const rw_progress *p, uint64_t bytes);
/* Recovery has read `done` of `total` bytes. */
void rw_progress_tell(rw_progress *p, uint64_t done, uint64_t total);

/* `l` is fresh, zeroed memory of rw_lane_object_bytes(lane_bytes). */
void rw_lane_create(rw_lane *l, const rw_control *c, uint32_t slot, uint32_t generation,
                    uint64_t lane_bytes);
/* RW_OK or RW_MISMATCH. */
int rw_lane_attach(const rw_lane *l, const rw_control *c, uint64_t bytes, uint32_t slot,
                   uint32_t generation);

/* ---------------------------------------------------------------- supervisor only, from here on */

/* The error is in place before the state that makes anyone look at it. Nobody is woken: clients
 * wait in slices and look at the state between them. */
void rw_set_state(rw_control *c, uint32_t state, uint32_t error);

/* Before the WAL process is started: nothing is stamped with an earlier time than `ns`, as
 * something in the log has it. */
void rw_set_not_before(rw_control *c, uint64_t ns);

/* Gives slot k to a new generation. The slot must be free, and the lane of that generation must be
 * complete: WAL and drain may map it as soon as they see the state. */
void rw_slot_open(rw_control *c, uint32_t k, uint32_t generation, uint32_t pid,
                  uint64_t lane_bytes);
void rw_slot_set(rw_control *c, uint32_t k, uint32_t state);
/* 1 when WAL and drain have both let this generation go, so that its lane may be unlinked and the
 *   slot used again. */
int rw_slot_released(rw_control *c, uint32_t k);

/* Wakes the drain so that it looks at the slots. It changes no word, so a drain that is just about
 * to sleep can miss it: call again while something is still owed. */
void rw_nudge(rw_control *c);

/* THE SUPERVISOR'S LIFE. A supervisor that is killed can tell nobody, and nobody else may write its
 * words. So its thread holds a robust mutex in the control area for as long as it serves: when the
 * thread ends, whatever ended it, the kernel sets FUTEX_OWNER_DIED in the mutex's word, in
 * whichever process has the page mapped. An append finds it there without a system call, and is
 * refused instead of going into a lane that nobody reads.
 *
 * By the thread that lives as long as the engine. RW_OK, or RW_BAD: cannot be had; death shows on
 * the socket only then. */
int rw_supervisor_hold(rw_control *c);
/* By the same thread, at an end that the state has told. Nothing happens if it does not hold. */
void rw_supervisor_let_go(rw_control *c);
static inline int rw_supervisor_died(const rw_control *c)
{
    uint32_t at = rw_load32(&c->life_at);
    return at != 0 && (rw_load32((const uint32_t *)c->life + at - 1) & FUTEX_OWNER_DIED) != 0;
}

/* By the WAL process's main thread: what it met counts as a failed write. */
void rw_set_wal_error(rw_control *c, uint32_t error);

/* By the keeper: it is there; its side files reach so far, so many more are written, and errno of
 * what keeps it from writing more. */
void rw_keeper_works(rw_control *c, uint32_t pid);
void rw_keeper_reached(rw_control *c, uint64_t segment, uint64_t written, uint32_t error);
/* By the keeper: what is alive in segments below is in the attic, durably; 0: not known yet. */
void rw_keeper_attic(rw_control *c, uint64_t end, uint64_t bytes);

/* Of this thread, as a fork inherits it: what it was, unless `before` is NULL, and what it is from
 * now on, cut after RW_THREAD_NAME_BYTES - 1. */
#define RW_THREAD_NAME_BYTES 16
void rw_thread_name(char *before, const char *name);
/* In a child, first thing: SIGKILL when the parent dies. RW_GONE if `parent` is dead already. */
int rw_die_with_parent(int parent);

/* When the file behind `fd` was made, wall clock; 0 where the file system does not say. */
int64_t rw_birth_ns(int fd);

#endif
