/* How those outside C read shared words: all of a struct at once, each word loaded with acquire
 * (atomics.h), into a plain struct of their own. The supervisor's words come first, in the order
 * of layout.h, so that a `state` or `magic` that is seen vouches for what was stored before it;
 * then the drain's, then the WAL process's: a view never shows more released than sealed, or more
 * confirmed than taken. Rendered from layout.h: python tests/support/shared_words.py */
#ifndef RW_VIEWS_H
#define RW_VIEWS_H

#include "layout.h"

typedef struct rw_engine_view {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t max_clients;
    uint64_t fingerprint;
    uint64_t control_bytes;
    uint64_t ring_bytes;
    uint64_t epoch;
    uint32_t max_streams;
    uint32_t completions_per_client;
    uint64_t segment_bytes;
    uint8_t uuid[16];
    uint64_t epoch_begin;
    uint64_t max_record_bytes;
    uint64_t started_ns;
    uint32_t confirm_order;
    uint32_t supervisor_pid;
    uint32_t life_at;
    uint32_t client_slots;
    uint32_t next_number;
    uint32_t max_owners;
    uint32_t state;
    uint32_t error;
    uint32_t membership;
    uint32_t stream_count;
    uint64_t block_seed;
    uint64_t position_seed;
    uint64_t side_end;
    uint64_t side_files;
    uint32_t keeper_pid;
    uint32_t keeper_error;
    uint64_t attic_end;
    uint64_t attic_bytes;
    uint32_t drain_parked;
    uint32_t drain_pid;
    uint64_t released;
    uint64_t released_end;
    uint32_t callers;
    uint32_t contention;
    uint64_t confirmed_ns;
    uint64_t drain_rings;
    uint64_t drain_passes;
    uint64_t drain_confirmed_requests;
    uint64_t drain_confirmed_records;
    uint64_t drain_batches;
    uint64_t drain_waited;
    uint64_t drain_wakes;
    uint64_t drain_parks;
    uint64_t drain_longest_run;
    uint64_t doorbell;
    uint64_t write_ns;
    uint64_t sealed;
    uint64_t sealed_end;
    uint64_t reserve_end;
    uint32_t numbers_end;
    uint32_t owners_end;
    uint32_t completions;
    uint32_t wal_error;
    uint32_t storage_full;
    uint32_t wal_pid;
    uint32_t io_direct;
    uint32_t starved;
    uint64_t segments_end;
    uint64_t wal_blocks;
    uint64_t wal_requests;
    uint64_t wal_records;
    uint64_t wal_payload_bytes;
    uint64_t wal_block_bytes;
    uint64_t wal_writes;
    uint64_t wal_parks;
    uint64_t wal_rewrites;
    uint64_t first_segment;
    uint64_t segments_freed;
    uint64_t segments_recycled;
    uint64_t segments_dropped;
    uint64_t checkpointed;
} rw_engine_view;

typedef struct rw_progress_view {
    uint64_t magic;
    uint64_t fingerprint;
    uint64_t done;
    uint64_t total;
} rw_progress_view;

typedef struct rw_slot_view {
    uint32_t state;
    uint32_t generation;
    uint32_t pid;
    uint64_t lane_bytes;
    uint32_t wake;
    uint32_t drain_done;
    uint64_t confirmed;
    uint64_t head;
    uint32_t fault;
    uint32_t wal_done;
    uint64_t requests;
} rw_slot_view;

typedef struct rw_stream_view {
    uint32_t state;
    uint32_t name_bytes;
    uint32_t number;
    uint8_t name[128];
    uint64_t start_offset;
    uint32_t deleted;
    uint64_t confirmed_offset;
    uint64_t confirmed_bytes;
    uint64_t last_timestamp_ns;
    uint64_t settings_confirmed;
    uint32_t ended;
    uint64_t trimmed_offset;
    uint64_t next_offset;
    uint64_t defined_end;
    uint64_t composed_bytes;
    uint64_t composed_ns;
    uint32_t settings_turn;
} rw_stream_view;

typedef struct rw_lane_view {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t slot;
    uint32_t generation;
    uint64_t lane_bytes;
    uint64_t epoch;
    uint64_t fingerprint;
    uint64_t salt;
    uint64_t claim;
    uint64_t last_rung;
    uint32_t completion_waiters;
    uint32_t room_waiters;
    uint32_t tail_any;
    uint32_t tail_streams[8];
    uint32_t bell_wanted;
} rw_lane_view;

void rw_view_engine(const rw_control *from, rw_engine_view *out);
void rw_view_progress(const rw_progress *from, rw_progress_view *out);
void rw_view_slot(const rw_slot *from, rw_slot_view *out);
void rw_view_stream(const rw_stream *from, rw_stream_view *out);
void rw_view_lane(const rw_lane *from, rw_lane_view *out);

/* One word, for loops. */
uint32_t rw_engine_next_number(const rw_control *from);
uint32_t rw_engine_state(const rw_control *from);
uint32_t rw_engine_membership(const rw_control *from);
uint64_t rw_engine_sealed_end(const rw_control *from);
uint32_t rw_engine_wal_error(const rw_control *from);
uint32_t rw_engine_storage_full(const rw_control *from);
uint64_t rw_engine_released_end(const rw_control *from);
uint64_t rw_engine_confirmed_ns(const rw_control *from);
uint64_t rw_engine_first_segment(const rw_control *from);
uint64_t rw_engine_checkpointed(const rw_control *from);
uint64_t rw_engine_side_end(const rw_control *from);
uint64_t rw_engine_attic_end(const rw_control *from);
uint32_t rw_slot_state(const rw_slot *from);
uint32_t rw_stream_number(const rw_stream *from);

#endif
