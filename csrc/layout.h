/* Every shared and every stored byte: the structs, their drawing, and who writes each word.
 *
 * SHARED MEMORY OF ONE ENGINE (three kinds of object, without names: they are handed over as descriptors)
 *
 *   control                                            log ring                     lane k (one per writer)
 *   +--------------------------------------------+     +-----------------------+    +------------------------+
 *   | rw_control     4096  header, engine words  |     | ring_bytes            |    | rw_lane  4096  header  |
 *   | rw_slot        256 x clients               |     | blocks at             |    | lane_bytes             |
 *   | rw_completion  16 x completions x clients  |     |  log position         |    | rw_request + payload,  |
 *   | rw_block_entry 64 x RW_BLOCK_ENTRIES       |     |  modulo ring_bytes    |    | back to back           |
 *   | rw_stream      256 x streams               |     | (mapped twice in a    |    | (data mapped twice in  |
 *   +--------------------------------------------+     |  row: never wraps)    |    |  a row: never wraps)   |
 *                                                      +-----------------------+    +------------------------+
 * The drawing is of addresses; in the lane's object the data comes first (memory.h: rw_map).
 *
 * WHO WRITES WHAT. Fields are grouped on cache lines by their single writing role: S supervisor, W WAL process,
 * D drain process, C the client that owns the lane. Clients map control and log ring read-only. The one word with
 * two writers in turn is the persisted byte (persisted.h); a replacement process is the same role, because it starts
 * only after the death of its predecessor is proven.
 *
 *   word                                   role  readers   meaning
 *   rw_control.magic                       S     all       stored last; attach refuses anything else
 *   rw_control.state, error                S     all       RUNNING, STOPPING, STOPPED, FAILED; errno of the failure
 *   rw_control.membership                  S     W D       bumped when a slot changes; look at the slots again
 *   rw_control.life                        S, kernel  all  a mutex that the supervisor holds; the kernel marks its death
 *   rw_control.bell                        W     C         whether a publisher has to ring (wal.c: THE BELL)
 *   rw_control.write_ns                    W     S C       how long a small write takes at the least
 *   rw_control.sealed, sealed_end          W     D C       number of sealed blocks; log position after the last one
 *   rw_control.reserve_end                 W     C         ring bytes below reserve_end - ring_bytes may be overwritten
 *   rw_control.completions                 W     D         futex: bumped after the persisted bytes of a block are set
 *   rw_control.wal_error, storage_full     W     S D C     errno of a failed write; errno while no segment can be made
 *   rw_control.starved                     W     D         the WAL process waits for `released` to move
 *   rw_control.segments_end                W     S C       number behind the last segment that is ready for blocks
 *   rw_control.drain_parked                D     W         the drain sleeps (or is about to) on `completions`
 *   rw_control.released, released_end      D     W C       blocks below are confirmed: their ring space may be reused
 *   rw_control.confirmed_ns                D     S C       when the latest confirmations were made
 *   rw_slot line 0                         S     W D C     state, generation, pid, lane size of a writer
 *   rw_slot line 1                         W     C S D     lane head; fault; wal_done
 *   rw_slot line 2                         D     C S       wake sequence, drain_done
 *   rw_completion                          D     C         result of one request
 *   rw_block_entry                         W     D C       place and state of a recent block
 *   rw_stream line 0, name                 S     all       state, name
 *   rw_stream line 1                       W     D C       next offset
 *   rw_stream line 2                       D     C         confirmed offset (its low half is a futex)
 *   rw_lane, all of it                     C     W D       claim, waiting flags, tail interest, requests
 */
#ifndef RW_LAYOUT_H
#define RW_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define RW_LAYOUT_VERSION 4u
#define RW_FORMAT_VERSION 1u

#define RW_CONTROL_MAGIC 0x314c525443575221ull
#define RW_LANE_MAGIC    0x314e4c4c4e575221ull
#define RW_BLOCK_MAGIC   0x314b434f4c425752ull

#define RW_PAGE            4096u
#define RW_LINE            64u
#define RW_BLOCK_ENTRIES   1024u   /* power of two; bounds blocks sealed and not yet released */
#define RW_STREAM_NAME_MAX 120u
#define RW_TAIL_INTERESTS  8u
#define RW_PENDING_MAX     131072u /* power of two; bounds requests sealed and not yet released */

#define RW_PAD(name, used, size) uint8_t name[(size) - (used)]

/* ------------------------------------------------------------------------------------------------ control */

enum rw_engine_state { RW_STARTING = 0, RW_RUNNING = 1, RW_STOPPING = 2, RW_STOPPED = 3, RW_FAILED = 4 };

typedef struct rw_control {
    /* 0: written once by the supervisor before magic; then constant */
    uint64_t magic;
    uint32_t layout_version;
    uint32_t max_clients;
    uint64_t fingerprint;
    uint64_t control_bytes;
    uint64_t ring_bytes;
    uint64_t epoch;
    uint32_t max_streams;
    uint32_t completions_per_client; /* power of two */
    uint64_t segment_bytes;
    /* 64 */
    uint8_t uuid[16];
    uint64_t epoch_begin;      /* log position at which this epoch's barrier begins */
    uint64_t max_record_bytes; /* payload limit that the log ring sets */
    uint64_t started_ns;       /* wall clock, or the log's newest time if that is later: nothing is stamped before it */
    uint32_t confirm_order;    /* 0 stream, 1 log */
    uint32_t supervisor_pid;
    uint32_t life_at; /* which word of `life` the kernel marks, plus 1; 0: none */
    RW_PAD(pad0, 52, 64);
    /* 128: supervisor */
    uint32_t state;
    uint32_t error;
    uint32_t membership;
    uint32_t stream_count;
    uint64_t life[6]; /* memory.h: THE SUPERVISOR'S LIFE */
    /* 192: WAL, read by every publisher */
    uint64_t bell;
    uint64_t write_ns; /* the quickest of the latest small writes; crowd.h */
    RW_PAD(pad2, 16, 64);
    /* 256: WAL, read by the drain and by readers */
    uint64_t sealed;
    uint64_t sealed_end;
    uint64_t reserve_end;
    uint64_t block_seed; /* block number and position of the first block of this memory */
    uint64_t position_seed;
    RW_PAD(pad3, 40, 64);
    /* 320: WAL */
    uint32_t completions;
    uint32_t wal_error;
    uint32_t storage_full;
    uint32_t wal_pid;
    uint32_t io_direct; /* 1: O_DIRECT + RWF_DSYNC; 0: buffered + fdatasync */
    uint32_t starved;   /* requests wait for ring space; the drain rings when it has released some */
    uint64_t segments_end; /* for `status` */
    RW_PAD(pad4, 32, 64);
    /* 384: drain */
    uint32_t drain_parked;
    uint32_t drain_pid;
    uint64_t released;
    uint64_t released_end;
    uint32_t callers; /* clients that had requests confirmed lately; crowd.h */
    uint32_t crowd;   /* more of them than this are a crowd */
    uint64_t confirmed_ns; /* monotonic clock at the latest step that confirmed anything, after its stores; 0: none yet */
    RW_PAD(pad5, 40, 64);
    /* 448: WAL counters */
    uint64_t wal_blocks, wal_requests, wal_records, wal_payload_bytes, wal_block_bytes, wal_writes, wal_parks, wal_rewrites;
    /* 512: drain counters */
    uint64_t drain_passes, drain_confirmed_requests, drain_confirmed_records, drain_batches, drain_waited, drain_wakes,
        drain_parks, drain_longest_run;
    RW_PAD(tail, 576, 4096);
} rw_control;

enum rw_slot_state { RW_SLOT_FREE = 0, RW_SLOT_ACTIVE = 1, RW_SLOT_CLOSING = 2 };

typedef struct rw_slot {
    /* 0: supervisor */
    uint32_t state;
    uint32_t generation;
    uint32_t pid;
    uint32_t pad_;
    uint64_t lane_bytes;
    RW_PAD(pad0, 24, 64);
    /* 64: WAL */
    uint64_t head;      /* lane position up to which requests are in sealed blocks; low half is a futex */
    uint32_t fault;     /* generation whose lane is not looked at any more: refused for what it held, or let go */
    uint32_t wal_done;  /* generation that the WAL process has let go of */
    uint64_t requests;  /* taken, for `status` */
    RW_PAD(pad1, 24, 64);
    /* 128: drain */
    uint32_t wake;       /* futex: bumped once per batch of completions of this writer */
    uint32_t drain_done; /* generation that the drain process has let go of */
    uint64_t confirmed;  /* requests confirmed, for `status` */
    RW_PAD(pad2, 16, 64);
    RW_PAD(pad3, 0, 64);
} rw_slot;

/* Result of one request. `number` is stored 0, then the result, then the request's number: a reader that finds
 * its number before and after it read `offset` has the right result. */
typedef struct rw_completion {
    uint64_t number;
    uint64_t offset; /* stream offset of the first record; RW_FAILED_OFFSET: certainly not confirmed */
} rw_completion;
#define RW_FAILED_OFFSET UINT64_MAX

enum rw_block_state { RW_BLOCK_SEALED = 1, RW_BLOCK_PERSISTED = 2, RW_BLOCK_BAD = 3 };

typedef struct rw_block_entry {
    uint64_t number;   /* block number this entry is about; stored last on seal */
    uint64_t position;
    uint64_t span;     /* log bytes it covers: its length, or up to the segment's end */
    uint64_t length;   /* bytes written to disk */
    uint64_t requests; /* requests sealed before this block */
    uint32_t records;  /* frames in it */
    uint32_t state;
    uint64_t timestamp_ns; /* for a successor: the block itself may be overwritten once it is released */
    RW_PAD(pad0, 56, 64);
} rw_block_entry;

enum rw_stream_state { RW_STREAM_FREE = 0, RW_STREAM_OPEN = 1 };

typedef struct rw_stream {
    /* 0: supervisor */
    uint32_t state;
    uint32_t name_bytes;
    uint64_t start_offset;
    RW_PAD(pad0, 16, 64);
    /* 64: WAL */
    uint64_t next_offset;
    uint64_t defined_end; /* end of the block with this epoch's definition; 0: not defined. Trusted below sealed_end */
    RW_PAD(pad1, 16, 32);
    /* 96: drain */
    uint64_t confirmed_offset;
    uint64_t confirmed_bytes;
    uint64_t last_timestamp_ns;
    RW_PAD(pad2, 24, 32);
    /* 128: supervisor */
    uint8_t name[128];
} rw_stream;

/* --------------------------------------------------------------------------------------------------- lane */

typedef struct rw_lane {
    /* 0: constant after creation by the supervisor */
    uint64_t magic;
    uint32_t layout_version;
    uint32_t slot;
    uint32_t generation;
    uint32_t pad_;
    uint64_t lane_bytes;
    uint64_t epoch;
    uint64_t fingerprint;
    uint64_t salt; /* random: see rw_request.valid */
    RW_PAD(pad0, 56, 64);
    /* 64: client threads; the next lane position to be given out */
    uint64_t claim;
    uint64_t last_rung; /* value of `bell` for which this client has rung already */
    RW_PAD(pad1, 16, 64);
    /* 128: client threads */
    uint32_t completion_waiters; /* threads that sleep on rw_slot.wake */
    uint32_t room_waiters;       /* threads that sleep on rw_slot.head */
    uint32_t tail_any;           /* threads that tail beyond the table below: they sleep on rw_slot.wake */
    uint32_t tail_streams[RW_TAIL_INTERESTS]; /* stream id + 1 that a thread sleeps on; 0 free */
    RW_PAD(pad2, 44, 64);
    RW_PAD(tail, 192, 4096);
} rw_lane;

/* A request in a lane. `valid` is the position of the request plus 1, mixed with the lane's salt, and is stored last, with
 * release. The position differs on every lap, so a header that an earlier lap left behind is never taken for a request;
 * the salt is known to nobody who only supplies payloads, so neither are payload bytes of an earlier lap. */
typedef struct rw_request {
    uint64_t valid;
    uint32_t crc; /* CRC-32C of this header with valid's final value and crc = 0 */
    uint32_t stream;
    uint32_t payload_bytes;
    uint32_t count;
    uint64_t timestamp_ns;
    uint64_t digest; /* XXH3-64 of the payload */
    uint64_t number; /* completion number: generation << 32 | running number */
    uint64_t producer_id;
    uint64_t producer_sequence;
} rw_request;

/* --------------------------------------------------------------------------- log: same bytes in ring and on disk */

enum rw_block_kind { RW_BLOCK_DATA = 1, RW_BLOCK_BARRIER = 2, RW_BLOCK_END = 3 };

typedef struct rw_block {
    uint64_t magic;
    uint32_t crc; /* CRC-32C of these 128 bytes with crc = 0 */
    uint32_t format_version;
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t position;
    uint32_t length;    /* multiple of 4096 */
    uint32_t used;      /* header and records; the rest is zero */
    uint32_t records;   /* frames */
    uint32_t kind;
    uint64_t span;      /* log bytes covered */
    uint64_t watermark; /* log position; every block below was persisted when this one was submitted */
    uint64_t number;
    uint64_t previous_end; /* barrier: log position at which the previous epoch ends; else 0 */
    uint64_t sequence;     /* barrier: running number inside the barrier, the last one has RW_BARRIER_LAST set */
    uint64_t timestamp_ns;
    RW_PAD(pad0, 112, 128);
} rw_block;
#define RW_BARRIER_LAST (1ull << 63)

enum rw_record_kind { RW_RECORD_BATCH = 1, RW_RECORD_STREAM = 2 };

/* A record frame: this header, the payload, zeros up to a multiple of 8. A batch of count > 1 has its count lengths
 * (u32 each) first in the payload, then the data. A stream definition has the name as payload. */
typedef struct rw_record {
    uint32_t crc; /* CRC-32C of the header with crc = 0 and persisted = 0, seeded from epoch and block position */
    uint8_t kind;
    uint8_t persisted; /* persisted.h is the only code that changes it; not covered by crc */
    uint16_t slot;
    uint32_t payload_bytes;
    uint32_t count;
    uint32_t stream;
    uint32_t generation;
    uint64_t base_offset;
    uint64_t timestamp_ns;
    uint64_t digest;
    uint64_t ticket; /* lane position of the request */
    uint64_t number;
    uint64_t producer_id;
    uint64_t producer_sequence;
} rw_record;

#define RW_AT(type, field, at) _Static_assert(offsetof(type, field) == (at), #type "." #field)
#define RW_SIZE(type, size)    _Static_assert(sizeof(type) == (size), #type)
RW_SIZE(rw_control, 4096);
RW_AT(rw_control, uuid, 64);
RW_AT(rw_control, state, 128);
RW_AT(rw_control, life, 144);
RW_AT(rw_control, bell, 192);
RW_AT(rw_control, sealed, 256);
RW_AT(rw_control, completions, 320);
RW_AT(rw_control, drain_parked, 384);
RW_AT(rw_control, wal_blocks, 448);
RW_AT(rw_control, drain_passes, 512);
RW_SIZE(rw_slot, 256);
RW_AT(rw_slot, head, 64);
RW_AT(rw_slot, wake, 128);
RW_SIZE(rw_completion, 16);
RW_SIZE(rw_block_entry, 64);
RW_SIZE(rw_stream, 256);
RW_AT(rw_stream, next_offset, 64);
RW_AT(rw_stream, confirmed_offset, 96);
RW_AT(rw_stream, name, 128);
RW_SIZE(rw_lane, 4096);
RW_AT(rw_lane, salt, 48);
RW_AT(rw_lane, claim, 64);
RW_AT(rw_lane, completion_waiters, 128);
RW_SIZE(rw_request, 64);
RW_SIZE(rw_block, 128);
RW_AT(rw_block, epoch, 32);
RW_AT(rw_block, length, 48);
RW_AT(rw_block, span, 64);
RW_SIZE(rw_record, 80);
RW_AT(rw_record, persisted, 5);
RW_AT(rw_record, base_offset, 24);

/* ------------------------------------------------------------------------------------- where things are in control */

typedef struct rw_geometry {
    uint32_t max_clients;
    uint32_t completions_per_client;
    uint32_t max_streams;
    uint32_t confirm_order;
    uint64_t ring_bytes;
    uint64_t segment_bytes;
} rw_geometry;

static inline uint64_t rw_page_up(uint64_t n) { return (n + RW_PAGE - 1) & ~(uint64_t)(RW_PAGE - 1); }
static inline uint64_t rw_slots_at(void) { return sizeof(rw_control); }
static inline uint64_t rw_completions_at(uint32_t clients) { return rw_page_up(rw_slots_at() + (uint64_t)clients * sizeof(rw_slot)); }
static inline uint64_t rw_blocks_at(uint32_t clients, uint32_t per_client)
{
    return rw_page_up(rw_completions_at(clients) + (uint64_t)clients * per_client * sizeof(rw_completion));
}
static inline uint64_t rw_streams_at(uint32_t clients, uint32_t per_client)
{
    return rw_blocks_at(clients, per_client) + RW_BLOCK_ENTRIES * sizeof(rw_block_entry);
}

static inline rw_slot *rw_slot_of(rw_control *c, uint32_t k) { return (rw_slot *)((uint8_t *)c + rw_slots_at()) + k; }
static inline rw_completion *rw_completions_of(rw_control *c, uint32_t k)
{
    return (rw_completion *)((uint8_t *)c + rw_completions_at(c->max_clients)) + (uint64_t)k * c->completions_per_client;
}
static inline rw_block_entry *rw_block_entry_of(rw_control *c, uint64_t number)
{
    return (rw_block_entry *)((uint8_t *)c + rw_blocks_at(c->max_clients, c->completions_per_client)) + (number & (RW_BLOCK_ENTRIES - 1));
}
static inline rw_stream *rw_stream_of(rw_control *c, uint32_t id)
{
    return (rw_stream *)((uint8_t *)c + rw_streams_at(c->max_clients, c->completions_per_client)) + id;
}

static inline uint64_t rw_align8(uint64_t n) { return (n + 7) & ~7ull; }
static inline uint64_t rw_request_frame(uint64_t payload) { return sizeof(rw_request) + ((payload + 63) & ~63ull); }
static inline uint64_t rw_record_frame(uint64_t payload) { return sizeof(rw_record) + rw_align8(payload); }

#endif
