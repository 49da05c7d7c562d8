/* The sequencer: confirms each stream in order. It runs in one process, so its state needs no lock
 * at all.
 *
 * REGISTER. Sealed blocks are read in log order; each request goes to the end of its stream's queue
 * (log order and offset order are the same for one stream).
 * COMPLETE. Blocks become persisted in any order. For each request of a persisted block: is it the
 * head of its stream's queue? Then the queue advances while its head is persisted, confirming the
 * whole run behind the head in one pass. If it is not the head, either the run of an earlier pass
 * has confirmed it already, or a predecessor is not persisted yet: then it costs nothing now and is
 * confirmed by the pass that completes the predecessor. No pass is ever made over a stream whose
 * head did not become persisted.
 * CONFIRM. Per request, in this order: the stream's confirmed offset (readers may see it), then the
 * completion cell of its writer (the caller may know it). After the whole batch: one wake per
 * writer.
 * RELEASE. A block all of whose requests are confirmed is released in log order; its ring space may
 * be used again.
 *
 * CONTROL FRAMES. A trim and a delete are frames of no records with the offset that is next in
 * their stream. They stand in its queue like batches: neither is in force before all that it
 * follows is confirmed, and none that was in force is missing after a recovery, which keeps or
 * drops it as it would a batch of that offset. Confirmed, a trim raises the start offset, and a
 * delete ends the stream (stream.h, PLACES). A verdict says that one request was refused, as its
 * stream is deleted; its place may be another stream's, so it belongs to no queue, and its writer
 * is told when the block is complete: nobody can take it back then. A drop raises the start offsets
 * of many streams when its block is released: all before it, of every stream, is confirmed then, so
 * a recovery that believes no drop beyond a cut forgets none that was in force.
 *
 * JOINT APPENDS. The parts of one are requests of several streams, in one block, and each stands in
 * its stream's queue. They are confirmed together, in one go, when each of them is the head of its
 * queue and persisted. Whatever made the last of them so asks for all: the pass that confirmed its
 * predecessor, or the one that completed the block. Behind it the queues of all of its streams go
 * on: their next requests may have been persisted long before. No two can wait for each other, as
 * log order is the order of every queue. A drain that dies in the middle has confirmed some parts
 * and not the others. Its successor finds the former below their streams' confirmed offsets, and
 * that proves that the others are due: nothing is confirmed between two parts. So who looks at one
 * stream alone may see a part a moment before another stream has the next one; `released_end`,
 * below which the merged tail reads, moves behind all of them.
 *
 * confirm_order "log" differs in one test: only the contiguous prefix of persisted blocks is
 * completed.
 *
 * REPLACEMENT. A successor starts at `released`: it registers the sealed blocks again; what lies
 * below its stream's confirmed offset was confirmed before, and its completion is delivered once
 * more, which is harmless (lane.h, COMPLETIONS). No completion is lost: a block is only released
 * after its cells were filled.
 */
#ifndef RW_SEQUENCER_H
#define RW_SEQUENCER_H

#include "layout.h"
#include "status.h"

typedef struct rw_sequencer rw_sequencer;

/* Starts at c->released, for a first drain process and for a successor alike. NULL and errno if
 * there is no memory. */
rw_sequencer *rw_sequencer_open(rw_control *c, uint8_t *ring, int inner_fd);
void rw_sequencer_close(rw_sequencer *s);

/* What Python has to do: 1: map the lane of (slot, generation) and call attach, which wakes all
 * that sleep there; 2: the generation is closing and has nothing left: call detach, then unmap; 0:
 * nothing. */
int rw_sequencer_wants(rw_sequencer *s, uint32_t *slot, uint32_t *generation);
/* `lane` may be NULL if its owner is gone: nobody waits there. `bell_fd` stays the caller's, open
 * until the lane is detached or another one attached; -1: it has none. */
int rw_sequencer_attach_lane(rw_sequencer *s, uint32_t slot, rw_lane *lane, uint32_t generation,
                             int bell_fd);
int rw_sequencer_detach_lane(rw_sequencer *s, uint32_t slot);

/* Registers, completes, confirms and releases what can be. Returns how many requests it confirmed
 * or blocks it moved on (0: nothing to do), RW_MAINTENANCE if rw_sequencer_wants has something,
 * RW_IO once a write has failed: nothing is confirmed after that. */
int rw_sequencer_step(rw_sequencer *s);

/* Steps until RW_MAINTENANCE, RW_IO or the time is over (RW_PENDING), or a signal came
 * (RW_INTERRUPTED). Spins while blocks are in flight, for at most spin_ns without progress, and for
 * a moment after its last progress; then parks. */
int rw_sequencer_work(rw_sequencer *s, uint64_t spin_ns, uint64_t timeout_ns);

/* 1: every sealed block is released. */
int rw_sequencer_idle(const rw_sequencer *s);

#endif
