/* The lane: one writer process's ring of requests, and its two ends.
 *
 * THE PROTOCOL
 *
 *   data area:  ... | taken by WAL, free | request | request | claimed, being filled | free ...
 *                                        ^ slot->head                                ^ lane->claim
 *
 * Writer (any thread of the process that owns the lane):
 *   1 claim: CAS `claim` from p to p + frame, if p + frame - head <= lane_bytes. From here [p, p +
 *     frame) is this thread's alone.
 *   2 fill: payload, digest, header except `valid`.
 *   3 publish: store valid = p + 1, salted, release.                            PAIR: publish/take
 *   4 look at the doorbell (doorbell.h) and ring if the WAL process asks for it.
 *                                                                            PAIR: publish/doorbell
 * WAL process, one thread at a time (it holds the compose lock):
 *   take: at its cursor p, load `valid`, acquire; p + 1, salted, means a complete request. It
 *   copies header and payload into the log ring, which no client can write, and validates the copy.
 *   After the block is sealed it stores head, which gives the space back.               PAIR: room
 *
 * Key invariant: head <= cursor <= claim, claim - head <= lane_bytes; bytes in [head, claim) are
 * never claimed again.
 * Order: requests are taken in claim order, so one thread's appends keep their order, and threads
 * are ordered by claim.
 * Laps: `valid` holds a position that never repeats, so a request of an earlier lap at the same
 * place does not count. Payload bytes of an earlier lap may come from anybody; without the salt
 * they could forge a request, or get the lane refused. A writer process that forges one harms its
 * own lane only.
 * Wrap-around: the data area is mapped twice in a row, so a request is always contiguous.
 * A thread that stops between 1 and 3 holds up its own lane (the WAL process waits at its request)
 * and nobody else's; no thread waits for another one. If its process dies there, the request was
 * not published and is not written. If the WAL process dies before it sealed the block, the
 * requests are still there and are taken again.
 *
 * COMPLETIONS. Each request has a number, given out by the writer's end, whose low bits choose one
 * of its completion cells. The drain stores 0, then the offset, then the number. A reader that sees
 * its number, then the offset, then its number again has the right offset: a cell is only used for
 * another number after its owner has settled the earlier one, and a replaced drain that delivers an
 * old number again first stores 0.                                                       PAIR: cell
 *
 * JOINT APPENDS. Their parts are requests one behind the other, claimed at once, of which the
 * first is published last. Whoever takes the first one finds the others complete, takes them into
 * the same block, or refuses all of them. Each part has a number, and a completion, of its own.
 *
 * Instead of an offset there may be why that request was refused alone: RW_DELETED_OFFSET, or
 * RW_ANSWERED and what follows from it (layout.h).
 */
#ifndef RW_LANE_H
#define RW_LANE_H

#include "atomics.h"
#include "layout.h"
#include "status.h"

#define RW_ANY_STREAM UINT64_MAX

/* ----------------------------------------------------------------------------- the writer's end */

typedef struct rw_writer rw_writer;

/* NULL and errno if there is no memory. The mappings must outlive the writer. */
rw_writer *rw_writer_open(rw_control *c, rw_lane *lane, int doorbell_fd);
void rw_writer_close(rw_writer *w);

/* From now on every request is refused as if the engine were gone. Results can still be asked for.
 */
void rw_writer_shut(rw_writer *w);

/* Largest payload that one request of this lane can hold. */
uint64_t rw_writer_record_limit(const rw_writer *w);

/* `stream` is its handle (stream.h), here and below.
 *
 * Publishes one request under the next number, which is returned (>= 0). RW_MAINTENANCE: no number
 * is free, grant some. RW_FULL, RW_TOO_LARGE, RW_GONE, RW_FAULT as below; RW_BAD: the lengths are
 * not those of the data, which the WAL process would refuse, and the lane with it; RW_DELETED: the
 * stream's deletion was confirmed before this call, so the caller looks for its successor. Nothing
 * is written, and no number used, unless one is returned. Numbers begin at generation << 32 and
 * have no holes; a thread's numbers are in the order of its requests.
 *
 * `terms` may be NULL: there are none. */
typedef struct rw_terms {
    const uint64_t *times; /* the records' own, up to RW_TIME_MAX; NULL: they have none */
    uint64_t producer;     /* rw_request.producer_id; 0: nobody numbers it */
    uint64_t sequence;     /* rw_request.producer_sequence */
    uint32_t flags;        /* RW_EXPECTS, or 0 */
} rw_terms;
int64_t rw_submit(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes);
int64_t rw_submit_many(rw_writer *w, uint64_t stream, const uint32_t *lengths, uint32_t count,
                       const uint8_t *data, uint64_t bytes, const rw_terms *terms);
/* One record. */
int64_t rw_submit_on(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes,
                     const rw_terms *terms);

/* The consumer (rw_request.producer_id) of that stream goes on at that offset, which must not lie
 * behind what is confirmed; RW_FORGET: there is no such consumer any more. */
int64_t rw_submit_commit(rw_writer *w, uint64_t stream, uint64_t consumer, uint64_t offset);

/* One part of a joint append: what is a batch of its own elsewhere; or, of count 0, a commit of the
 * consumer terms.producer at the offset terms.sequence. */
typedef struct rw_part {
    uint64_t stream;
    const uint32_t *lengths;
    const uint8_t *data;
    uint64_t bytes;
    rw_terms terms; /* of a batch without a producer */
    uint32_t count;
} rw_part;
/* All of them, or none. The parts have the numbers from the one that is returned on, in their
 * order, which is that of the places of their streams; each stream has one part. RW_TOO_LARGE: one
 * of them is, or what rw_part_bytes says of all of them. */
int64_t rw_submit_joint(rw_writer *w, const rw_part *parts, uint32_t count);

/* Before the first grant: leaves out so many numbers, to be near the last one. */
void rw_writer_skip(rw_writer *w, uint32_t count);

/* Allows the numbers below `end`, if they are not allowed yet: saying it twice, or late, changes
 * nothing. The caller has settled the results whose cells they take. */
void rw_writer_grant(rw_writer *w, uint64_t end);
uint64_t rw_writer_granted(const rw_writer *w);
/* How many numbers may be given out now. */
uint64_t rw_writer_permits(const rw_writer *w);
/* Of a lane that is granted nothing any more: if it has numbers left, but less than `count`, which
 * are wanted in a row, nobody gets them. */
void rw_writer_burn(rw_writer *w, uint32_t count);
/* May one that is granted still be given out, or is it about to be? */
bool rw_writer_unfinished(const rw_writer *w);
/* The number that is given out next: all earlier requests of this process have lower ones. */
uint64_t rw_writer_next(const rw_writer *w);

/* What rw_completion_poll says of `count` numbers from `first` on. */
void rw_completions_collect(const rw_writer *w, uint64_t first, uint32_t count, int64_t *out);

/* The first submitted number in [from, to) that belongs to the stream (RW_ANY_STREAM: to any), or
 * `to`. All of them must be among the last completions_per_client that were given out. */
uint64_t rw_submitted_next(const rw_writer *w, uint64_t stream, uint64_t from, uint64_t to);
/* Number of the stream that the request of that number went to. It is among the last, as above. */
uint32_t rw_submitted_stream(const rw_writer *w, uint64_t number);

/* With a number of the caller's choice; only where nothing is submitted. RW_OK; RW_FULL: no room
 * now; RW_TOO_LARGE; RW_GONE; RW_FAULT. Nothing is written unless RW_OK. */
int rw_append(rw_writer *w, uint64_t stream, const uint8_t *data, uint64_t bytes, uint64_t number);

/* The same for a batch: `data` holds the records one behind the other. */
int rw_append_many(rw_writer *w, uint64_t stream, const uint32_t *lengths, uint32_t count,
                   const uint8_t *data, uint64_t bytes, const uint64_t *times, uint64_t number);

/* A request of the engine's own (layout.h: enum rw_frame_kind), in a lane of its own: any other one
 * is refused for it. A TRIM must not be above what is confirmed. */
int rw_append_control(rw_writer *w, uint32_t kind, uint64_t stream, const uint8_t *data,
                      uint64_t bytes, uint64_t number);

/* Sleeps until there may be room for a payload of this size. RW_OK, RW_PENDING, RW_INTERRUPTED,
 * RW_GONE, RW_FAULT. A signal does not end the wait, here and in rw_completion_settle: its handler
 * may append, too, and would wait for the same. Where each signal ended the wait below, handlers
 * that came quicker than confirmations piled up on the stack. */
int rw_wait_room(rw_writer *w, uint64_t payload_bytes, uint64_t timeout_ns);

/* The offset of the request's first record (>= 0), RW_PENDING, RW_FAILED_REQUEST, or RW_DELETED: it
 * was refused, as its stream is deleted; or, refused for another reason, what is in its cell, which
 * is below every status. */
int64_t rw_completion_poll(const rw_writer *w, uint64_t number);

/* Spins for spin_ns, giving the processor away, then parks. As poll, and RW_INTERRUPTED, RW_GONE,
 * RW_FAULT. */
int64_t rw_completion_wait(rw_writer *w, uint64_t number, uint64_t spin_ns, uint64_t timeout_ns);

/* The same without a spin, for an append that needs the number's cell. */
int64_t rw_completion_settle(rw_writer *w, uint64_t number, uint64_t timeout_ns);

/* Sleeps until the stream is confirmed beyond `seen`. RW_OK, RW_PENDING, RW_INTERRUPTED, RW_GONE,
 * RW_DELETED. */
int rw_tail_wait(rw_writer *w, uint64_t stream, uint64_t seen, uint64_t spin_ns,
                 uint64_t timeout_ns);

/* For who sleeps in an event loop and not here (wait.h, THE BELL): whether the lane's bell is to be
 * rung. What is looked at after this call is looked at after the store. PAIR: bell */
void rw_bell_want(rw_writer *w, uint32_t wanted);

/* A lasting interest in the stream, as rw_tail_wait has for the time of its sleep: a bell that is
 * wanted is rung when the stream's confirmed offset has moved, and when it is deleted. Returns what
 * rw_tail_unwatch takes: a place in the lane's table, or RW_TAIL_INTERESTS if all are taken: then
 * it is rung for every batch, whosever it is, and whenever released_end has moved. RW_ANY_STREAM
 * asks for that. */
int rw_tail_watch(rw_writer *w, uint64_t stream);
void rw_tail_unwatch(rw_writer *w, int place);

/* Sleeps until everything in the log up to some place behind `position` is confirmed. RW_OK,
 * RW_PENDING (also woken for nothing), RW_INTERRUPTED, RW_GONE, RW_FAULT. */
int rw_log_wait(rw_writer *w, uint64_t position, uint64_t timeout_ns);

/* ------------------------------------------------------------------------ the WAL process's end */

typedef struct rw_lane_taker {
    const rw_lane *lane;
    const uint8_t *data;
    uint64_t bytes;
    uint64_t salt;
    /* next position to take; ahead of slot->head while a block is being composed */
    uint64_t cursor;
    uint32_t generation;
    uint32_t active;
    uint32_t trusted; /* the engine's own: may make control requests */
    uint32_t touched; /* taken from for the block being composed */
    uint64_t taken;   /* requests taken since this end was attached */
} rw_lane_taker;

/* Is there a complete request at the cursor? Sequentially consistent: the second look of park and
 * wake. */
bool rw_lane_ready(const rw_lane_taker *e);

/* Copies the request header at the cursor and validates it against everything that can be checked
 * without the payload. RW_OK, or RW_BAD: no writer of ours writes this; the lane must be refused.
 */
int rw_lane_peek(const rw_lane_taker *e, uint64_t limit, rw_request *out);

/* What `valid` holds for a request at this position. */
static inline uint64_t rw_lane_valid(uint64_t salt, uint64_t position)
{
    return (position + 1) ^ salt;
}

static inline const uint8_t *rw_lane_payload(const rw_lane_taker *e)
{
    return e->data + (e->cursor & (e->bytes - 1)) + sizeof(rw_request);
}

#endif
