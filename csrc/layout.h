/* Every shared and every stored byte: the structs, their drawing, and who writes each word.
 *
 * SHARED MEMORY OF ONE ENGINE (these kinds of object, without names: they are handed over as
 * descriptors)
 *
 *   control                                            log ring                     lane k
 *   +--------------------------------------------+     +-----------------------+    +------------------------+
 *   | rw_control     4096  header, engine words  |     | ring_bytes            |    | rw_lane  4096  header  |
 *   | rw_slot        256 x clients               |     | blocks at             |    | lane_bytes             |
 *   | rw_completion  16 x completions x clients  |     |  log position         |    | rw_request + payload,  |
 *   | rw_block_entry 64 x RW_BLOCK_ENTRIES       |     |  modulo ring_bytes    |    | back to back           |
 *   | rw_stream      384 x streams               |     | (mapped twice in a    |    | (data mapped twice in  |
 *   +--------------------------------------------+     |  row: never wraps)    |    |  a row: never wraps)   |
 *                                                      +-----------------------+    +------------------------+
 * The drawing is of addresses; in the lane's object the data comes first (memory.h: rw_map). While
 * recovery reads the log and none of these exists, there is one of a single rw_progress.
 *
 * WHO WRITES WHAT. Fields are grouped on cache lines by their single writing role: S supervisor, W
 * WAL process, D drain process, P the keeper, C the client that owns the lane, K the kernel.
 * Clients map control and log ring read-only. The one word with two writers in turn is the
 * persisted byte (persisted.h); a replacement process is the same role, because it starts only
 * after the death of its predecessor is proven.
 *
 * THE ONE SOURCE. What is known of a word stands in the comment behind its field, or in the line
 * before it, and nowhere else:
 *
 *     uint32_t state;   [enum rw_engine_state]  S > all:  what the engine is doing
 *                       |unit|                  |writers > readers: meaning|
 *
 * tests/support/shared_words.py reads the structs and these comments and renders from them:
 * fingerprint.c, by which two builds know that they mean the same bytes; views.h and views.c,
 * through which Python reads; layout.cdef, which declares both to cffi; engine/ringwal/words.py and
 * docs/shared-words.md. A changed struct does not compile before they are rendered anew.
 */
#ifndef RW_LAYOUT_H
#define RW_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* Bumped when a word changes its meaning and no field does; the fingerprint sees everything else by
 * itself. */
#define RW_LAYOUT_VERSION 5u
#define RW_FORMAT_VERSION 2u

#define RW_CONTROL_MAGIC 0x314c525443575221ull
#define RW_LANE_MAGIC    0x314e4c4c4e575221ull
#define RW_PROGRESS_MAGIC 0x31474f5250575221ull
#define RW_BLOCK_MAGIC   0x314b434f4c425752ull

#define RW_PAGE            4096u
#define RW_LINE            64u
#define RW_BLOCK_ENTRIES   1024u   /* power of two; bounds blocks sealed and not yet released */
#define RW_STREAM_NAME_MAX 120u
#define RW_NO_STREAM       0xffffffffu /* is no stream's number */
#define RW_TAIL_INTERESTS  8u
#define RW_PENDING_MAX     131072u /* power of two; bounds requests sealed and not yet released */
#define RW_SETTINGS_BYTES  120u    /* of rw_settings */
#define RW_SETTINGS_HEAD   32u     /* of it, without its text */
#define RW_SETTINGS_TEXT   88u     /* bytes of text at the most */

#define RW_PAD(name, used, size) uint8_t name[(size) - (used)]

/* -------------------------------------------------------------------------------------- control */

enum rw_engine_state {
    RW_STARTING = 0,
    RW_RUNNING = 1,
    RW_STOPPING = 2,
    RW_STOPPED = 3,
    RW_FAILED = 4
};

typedef struct rw_control {
    /* 0: written once by the supervisor before magic; then constant */
    uint64_t magic; /* [constant] S > all: stored last; attach refuses anything else */
    uint32_t layout_version; /* [constant] S > all: RW_LAYOUT_VERSION of the build that made this */
    uint32_t max_clients; /* [slots] S > all: how many slots there are */
    /* [hash] S > all: layout of the build that made this; attach refuses another one */
    uint64_t fingerprint;
    uint64_t control_bytes; /* [bytes] S > all: size of this object */
    uint64_t ring_bytes; /* [bytes] S > all: size of the log ring, a power of two */
    uint64_t epoch; /* [number] S > all: the life of the log that this memory belongs to */
    uint32_t max_streams; /* [streams] S > all: how many streams there may be */
    /* [cells] S > all: completion cells of a slot, a power of two */
    uint32_t completions_per_client;
    uint64_t segment_bytes; /* [bytes] S > all: log bytes of a segment file */
    /* 64 */
    uint8_t uuid[16]; /* [bytes] S > all: of the log */
    uint64_t epoch_begin; /* [log position] S > C: of this epoch's first block */
    uint64_t max_record_bytes; /* [bytes] S > W C: the payload limit that the log ring sets */
    /* [ns, wall clock] S > W: start, or the log's newest time if later; no stamp is earlier */
    uint64_t started_ns;
    uint32_t confirm_order; /* [0 stream, 1 log] S > D: what a confirmation waits for */
    uint32_t supervisor_pid; /* [pid] S > all: for people; never proof of life or death */
    uint32_t life_at; /* [index + 1] S > C: which word of `life` the kernel marks; 0: none */
    uint32_t client_slots; /* [slots] S > all: slots below are clients', the others the engine's */
    /* [stream number] S > C: of the next stream that is made; changes with each */
    uint32_t next_number;
    uint32_t max_owners; /* [owners] S > all: how many owners there may be */
    /* 128: supervisor */
    uint32_t state; /* [enum rw_engine_state] S > all: what the engine is doing */
    uint32_t error; /* [errno] S > C: why it failed; stored before the state */
    /* [changes] S > W D: bumped when a slot changes; look at the slots again */
    uint32_t membership;
    uint32_t stream_count; /* [streams] S > W C: places below may be open */
    /* [mutex] S K > C: held by the supervisor; the kernel marks its death (memory.h) */
    uint64_t life[6];
    /* 192: WAL, read by every publisher */
    uint64_t doorbell; /* [bits] W > C: whether a publisher has to ring (doorbell.h) */
    uint64_t write_ns; /* [ns] W > S C: how long a small write takes at the least (contention.h) */
    RW_PAD(pad2, 16, 64);
    /* 256: WAL, read by the drain and by readers */
    uint64_t sealed; /* [block number] W > D C: blocks below are sealed */
    uint64_t sealed_end; /* [log position] W > S D C: behind the last sealed block */
    /* [log position] W > C: ring bytes below it minus ring_bytes may be overwritten */
    uint64_t reserve_end;
    uint64_t block_seed; /* [block number] S > W C: first block of this memory */
    uint64_t position_seed; /* [log position] S > W C: of that block */
    /* [stream number] W > W: no stream in a sealed block has it or a larger one */
    uint32_t numbers_end;
    /* [owner number] W > W S: no owner in a sealed block has it or a larger one; 1 at first */
    uint32_t owners_end;
    RW_PAD(pad3, 48, 64);
    /* 320: WAL */
    /* [changes] W > D: futex, bumped after the persisted bytes of a block are set */
    uint32_t completions;
    uint32_t wal_error; /* [errno] W > S D: of a failed write; the epoch ends */
    uint32_t storage_full; /* [errno] W > S C: while no segment can be made */
    uint32_t wal_pid; /* [pid] W > S: of the WAL process, once it serves */
    uint32_t io_direct; /* [0, 1] W > S: 1: O_DIRECT and RWF_DSYNC; 0: buffered and fdatasync */
    /* [0, 1] W > D: requests wait for ring space; the drain rings after a release */
    uint32_t starved;
    /* [segment number] W > S C: behind the last segment that is ready for blocks */
    uint64_t segments_end;
    RW_PAD(pad4, 32, 64);
    /* 384: drain */
    uint32_t drain_parked; /* [0, 1] D > W: the drain sleeps, or is about to, on `completions` */
    uint32_t drain_pid; /* [pid] D > S: of the drain process, once it serves */
    /* [block number] D > W C: blocks below are confirmed; their entries may be reused */
    uint64_t released;
    uint64_t released_end; /* [log position] D > S W C: ring space below may be reused */
    uint32_t callers; /* [clients] D > W C: that had requests confirmed lately (contention.h) */
    uint32_t contention; /* [clients] D > W C: more callers than this are contention */
    /* [ns, monotonic] D > S C: latest step that confirmed, after its stores; 0: none yet */
    uint64_t confirmed_ns;
    uint64_t drain_rings; /* [counter] D > S: bells rung (wait.h) */
    RW_PAD(pad5, 48, 64);
    /* 448: WAL counters */
    uint64_t wal_blocks; /* [counter] W > S: blocks composed */
    uint64_t wal_requests; /* [counter] W > S: requests in them */
    uint64_t wal_records; /* [counter] W > S: records in them */
    uint64_t wal_payload_bytes; /* [counter] W > S: payload bytes in them */
    uint64_t wal_block_bytes; /* [counter] W > S: bytes of them, as written to disk */
    uint64_t wal_writes; /* [counter] W > S: durable writes */
    uint64_t wal_parks; /* [counter] W > S: times that a thread went to sleep */
    uint64_t wal_rewrites; /* [counter] W > S: blocks that a successor wrote again */
    /* 512: drain counters */
    uint64_t drain_passes; /* [counter] D > S: passes over a stream whose head became persisted */
    uint64_t drain_confirmed_requests; /* [counter] D > S: requests confirmed */
    uint64_t drain_confirmed_records; /* [counter] D > S: records confirmed */
    uint64_t drain_batches; /* [counter] D > S: steps that confirmed something */
    uint64_t drain_waited; /* [counter] D > S: requests persisted before a predecessor */
    uint64_t drain_wakes; /* [counter] D > S: writers woken */
    uint64_t drain_parks; /* [counter] D > S: times that the drain went to sleep */
    uint64_t drain_longest_run; /* [counter] D > S: most requests confirmed in one pass */
    /* 576: WAL: what has been freed */
    uint64_t first_segment; /* [segment number] W > S C: files below are gone, or go after this */
    uint64_t segments_freed; /* [counter] W > S: segments freed */
    uint64_t segments_recycled; /* [counter] W > S: of them, used again at the end of the log */
    uint64_t segments_dropped; /* [counter] W > S: whose live records were dropped to make room */
    uint64_t checkpointed; /* [log position] W > S P: that the named checkpoint is about */
    RW_PAD(pad6, 40, 64);
    /* 640: keeper */
    uint64_t side_end; /* [segment number] P > S C: below all have side files that can have one */
    uint64_t side_files; /* [counter] P > S: side files written */
    uint32_t keeper_pid; /* [pid] P > S: of the keeper, once it works */
    uint32_t keeper_error; /* [errno] P > S: why it writes none at present; 0: it does */
    /* [segment number] P > W: what is alive in segments below is in the attic: they may go */
    uint64_t attic_end;
    uint64_t attic_bytes; /* [bytes] P > S: of the attic's files */
    RW_PAD(tail, 680, 4096);
} rw_control;

/* An object of its own: while recovery reads the log, there is no control area yet. DIR/lock says
 * where it is (lock_file.py). */
typedef struct rw_progress {
    uint64_t magic; /* [constant] S > C: stored last; attach refuses anything else */
    uint64_t fingerprint; /* [hash] S > C: as in rw_control */
    uint64_t done; /* [bytes] S > C: of `total`, what recovery has read */
    uint64_t total; /* [bytes] S > C: that it has to read, as far as it knows; 0: not known yet */
    RW_PAD(tail, 32, 4096);
} rw_progress;

enum rw_slot_state { RW_SLOT_FREE = 0, RW_SLOT_ACTIVE = 1, RW_SLOT_CLOSING = 2 };

typedef struct rw_slot {
    /* 0: supervisor */
    uint32_t state; /* [enum rw_slot_state] S > W D: whose lane is looked at */
    uint32_t generation; /* [number] S > W D: of the slot's present owner */
    uint32_t pid; /* [pid] S > W: of the owner, for people */
    uint32_t pad_;
    uint64_t lane_bytes; /* [bytes] S > W: data of the lane, a power of two */
    RW_PAD(pad0, 24, 64);
    /* 64: WAL */
    /* [lane position] W > C: requests below are in sealed blocks; its low half is a futex */
    uint64_t head;
    /* [generation] W > C: its lane is looked at no more: refused for what it held, or let go */
    uint32_t fault;
    uint32_t wal_done; /* [generation] W > S D: that the WAL process has let go of */
    uint64_t requests; /* [counter] W > S: requests taken from this lane */
    RW_PAD(pad1, 24, 64);
    /* 128: drain */
    uint32_t wake; /* [changes] D > C: futex, bumped once per batch of completions of this writer */
    uint32_t drain_done; /* [generation] D > S: that the drain process has let go of */
    uint64_t confirmed; /* [counter] D > S: requests confirmed */
    RW_PAD(pad2, 16, 128);
} rw_slot;

/* Result of one request. `number` is stored 0, then the result, then the request's number: a reader
 * that finds its number before and after it read `offset` has the right result. */
typedef struct rw_completion {
    uint64_t number; /* [request number] D > C: stored 0 first, and this last */
    /* [offset] D > C: of the first record; or one of those below, which say why there is none */
    uint64_t offset;
} rw_completion;
#define RW_FAILED_OFFSET  UINT64_MAX       /* certainly not confirmed */
#define RW_DELETED_OFFSET (UINT64_MAX - 1) /* certainly not written: its stream is deleted */
/* Certainly not written, for a reason that is not RW_VERDICT_DEAD: the highest byte is this and the
 * reason, the others are the verdict's value. */
#define RW_ANSWERED      0x80u
#define RW_ANSWER_SHIFT  56
#define RW_ANSWER_VALUES (1ull << RW_ANSWER_SHIFT)

enum rw_block_state { RW_BLOCK_SEALED = 1, RW_BLOCK_PERSISTED = 2, RW_BLOCK_BAD = 3 };

typedef struct rw_block_entry {
    /* [block number] W > D C: this entry is about; taken away first and stored last on seal */
    uint64_t number;
    uint64_t position; /* [log position] W > D C: of the block */
    uint64_t span; /* [bytes] W > D C: log bytes covered: its length, or up to the segment's end */
    uint64_t length; /* [bytes] W > W: written to disk */
    uint64_t requests; /* [requests] W > W C: sealed before this block */
    uint32_t frames; /* [count] W > D C: in the block */
    uint32_t state; /* [enum rw_block_state] W > W D: how far its write is */
    /* [ns, wall clock] W > W: for a successor: a released block may be overwritten */
    uint64_t timestamp_ns;
    RW_PAD(pad0, 56, 64);
} rw_block_entry;

enum rw_stream_state { RW_STREAM_FREE = 0, RW_STREAM_OPEN = 1 };

/* A place in the table of streams: one stream's after the other (stream.h, PLACES). */
typedef struct rw_stream {
    /* 0: supervisor; then what WAL and drain seldom store */
    /* [enum rw_stream_state] S > W C: stored last; who sees it open sees name and offsets */
    uint32_t state;
    uint32_t name_bytes; /* [bytes] S > W C: of the name */
    /* [stream number] S > all: whose place this is; RW_NO_STREAM: nobody's, or being made anew */
    uint32_t number;
    uint32_t ended; /* [stream number] W > W: whose DELETE is in a sealed block */
    uint64_t trimmed_offset; /* [offset] W > W: start_offset as the sealed blocks will have it */
    uint64_t start_offset; /* [offset] D > S C: of the first record that the stream still has */
    uint32_t deleted; /* [stream number] D > S W C: whose DELETE is confirmed: its place is free */
    RW_PAD(pad0, 36, 64);
    /* 64: WAL */
    uint64_t next_offset; /* [offset] W > W: of the next record in a sealed block */
    /* [log position] W > W: end of its definition's block, trusted below sealed_end; 0: none */
    uint64_t defined_end;
    uint64_t composed_bytes; /* [bytes] W > W: payload of all its batches; before next_offset */
    uint64_t composed_ns; /* [ns, wall clock] W > W: of the newest record; 0: none */
    /* 96: drain */
    /* [offset] D > C: records below are confirmed; its low half is a futex */
    uint64_t confirmed_offset;
    uint64_t confirmed_bytes; /* [bytes] D > C: payload of all that was ever confirmed */
    /* [ns, wall clock] D > C: of the record confirmed last; 0: none */
    uint64_t last_timestamp_ns;
    uint64_t settings_confirmed; /* [changes] D > C: version of the settings confirmed last */
    /* 128: supervisor */
    uint8_t name[128]; /* [UTF-8] S > W C: name_bytes of it */
    /* 256: WAL, seldom (settings.h) */
    uint32_t settings_turn; /* [changes] W > S W C: odd while the settings are being stored */
    uint32_t pad_;
    uint8_t settings[RW_SETTINGS_BYTES]; /* [rw_settings] W > S W C: as sealed blocks have them */
} rw_stream;

enum rw_owner_kind { RW_OWNER_PRODUCER = 1, RW_OWNER_CONSUMER = 2 };

/* A row of the table of owners (wal_owners.c): who numbers what it appends or reads, and how far
 * it is. */
typedef struct rw_owner {
    /* 0: WAL */
    uint32_t turn; /* [changes] W > S C: odd while the row is being stored */
    uint32_t number; /* [owner number] W > W S C: whose row this is; 0: nobody's */
    uint32_t kind; /* [enum rw_owner_kind] W > W S C: PRODUCER, CONSUMER */
    uint32_t epoch; /* [number] W > W S C: of the claim in force: how often it was claimed */
    uint32_t stream; /* [stream number] W > W S C: that it appends to, or reads */
    uint32_t name_bytes; /* [bytes] W > W S C: of the name */
    /* [number] W > W S P C: of its next record, in a sealed block; of a CONSUMER its offset */
    uint64_t next_sequence;
    uint64_t last_sequence; /* [number] W > W S C: of the first record of its newest batch */
    uint64_t last_offset; /* [offset] W > W S C: of that record */
    uint64_t composed_ns; /* [ns, wall clock] W > W S C: of its newest frame */
    RW_PAD(pad0, 56, 64);
    /* 64: WAL */
    uint8_t name[128]; /* [UTF-8] W > W S C: name_bytes of it */
} rw_owner;

/* ----------------------------------------------------------------------------------------- lane */

typedef struct rw_lane {
    /* 0: constant after creation by the supervisor */
    uint64_t magic; /* [constant] S > W D C: stored last; attach refuses anything else */
    uint32_t layout_version; /* [constant] S > W D C: as in rw_control */
    uint32_t slot; /* [index] S > W D C: whose lane this is */
    uint32_t generation; /* [number] S > W D C: of the slot's owner */
    uint32_t pad_;
    uint64_t lane_bytes; /* [bytes] S > W D C: of the data behind this header */
    uint64_t epoch; /* [number] S > W D C: as in rw_control */
    uint64_t fingerprint; /* [hash] S > W D C: as in rw_control */
    uint64_t salt; /* [random] S > W C: see rw_request.valid */
    RW_PAD(pad0, 56, 64);
    /* 64: client threads */
    uint64_t claim; /* [lane position] C > W: the next one to be given out */
    /* [bits] C > C: value of `doorbell` for which this client has rung already */
    uint64_t last_rung;
    RW_PAD(pad1, 16, 64);
    /* 128: client threads */
    uint32_t completion_waiters; /* [threads] C > D: that sleep on rw_slot.wake */
    uint32_t room_waiters; /* [threads] C > W: that sleep on rw_slot.head */
    /* [threads] C > D: of tails that are not in the table below: they sleep on rw_slot.wake */
    uint32_t tail_any;
    /* [place + 1] C > D: of a stream that a thread sleeps on; 0: free */
    uint32_t tail_streams[RW_TAIL_INTERESTS];
    uint32_t bell_wanted; /* [0, 1] C > D: somebody awaits: ring the lane's bell (wait.h) */
    RW_PAD(pad2, 48, 64);
    RW_PAD(tail, 192, 4096);
} rw_lane;

/* A request in a lane. `valid` is the position of the request plus 1, mixed with the lane's salt,
 * and is stored last, with release. The position differs on every lap, so a header that an earlier
 * lap left behind is never taken for a request; the salt is known to nobody who only supplies
 * payloads, so neither are payload bytes of an earlier lap. */
typedef struct rw_request {
    uint64_t valid; /* [lane position + 1, salted] C > W: stored last, with release */
    uint32_t crc; /* [CRC-32C] C > W: of this header with valid's final value and crc = 0 */
    uint32_t stream; /* [stream number] C > W: that the request goes to */
    uint32_t payload_bytes; /* [bytes] C > W: behind this header */
    uint32_t count; /* [records] C > W: in the batch; 0 in a control request */
    /* [enum rw_frame_kind] C > W: BATCH; in the engine's own lanes all that are queued */
    uint8_t kind;
    uint8_t pad_;
    uint16_t flags; /* [bits] C > W: RW_OWN_TIMES, RW_EXPECTS, RW_JOINED in a batch, or 0 */
    uint32_t place; /* [index] C > W: where the stream's words are */
    uint64_t digest; /* [XXH3-64] C > W: of the payload */
    uint64_t number; /* [generation << 32 | running number] C > W: chooses its completion cell */
    uint64_t producer_id; /* [epoch << 32 | owner number] C > W: who numbers it; 0: nobody */
    /* [number] C > W: its first record's; with RW_EXPECTS the offset that it must get; else 0 */
    uint64_t producer_sequence;
} rw_request;

#include "layout_log.h"

/* Where every field lies is asserted in fingerprint.c. */
#define RW_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
RW_SIZE(rw_control, 4096);
RW_SIZE(rw_progress, 4096);
RW_SIZE(rw_slot, 256);
RW_SIZE(rw_completion, 16);
RW_SIZE(rw_block_entry, 64);
RW_SIZE(rw_stream, 384);
RW_SIZE(rw_owner, 192);
RW_SIZE(rw_lane, 4096);
RW_SIZE(rw_request, 64);
RW_SIZE(rw_block, 128);
RW_SIZE(rw_frame, 88);
RW_SIZE(rw_verdict, 16);
RW_SIZE(rw_claim, 16);
RW_SIZE(rw_drop_row, 16);
RW_SIZE(rw_settings, 120);
RW_SIZE(rw_checkpoint_stream, 280);
RW_SIZE(rw_checkpoint_owner, 176);

#include "places.h"

#endif
