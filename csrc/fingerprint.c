/* By what two builds know that they mean the same bytes. Rendered from layout.h:
 * python tests/support/shared_words.py */
#include "memory.h"

#define SAME(what, fact) \
    _Static_assert(fact, what ": layout.h has changed: python tests/support/shared_words.py")
#define CONSTANT(name, value) SAME(#name, (name) == (value))
#define SIZE(type, bytes) SAME(#type, sizeof(type) == (bytes))
#define FIELD(type, at, ctype, field) \
    SAME(#type "." #field, offsetof(type, field) == (at)); \
    SAME(#type "." #field, __builtin_types_compatible_p(__typeof__(((type *)0)->field), ctype))

CONSTANT(RW_BLOCK_BAD, 3u);
CONSTANT(RW_BLOCK_DATA, 1u);
CONSTANT(RW_BLOCK_END, 3u);
CONSTANT(RW_BLOCK_ENTRIES, 1024u);
CONSTANT(RW_BLOCK_EPOCH, 2u);
CONSTANT(RW_BLOCK_HOLE, 4u);
CONSTANT(RW_BLOCK_MAGIC, 3552006738972661586ull);
CONSTANT(RW_BLOCK_PERSISTED, 2u);
CONSTANT(RW_BLOCK_SEALED, 1u);
CONSTANT(RW_CONTROL_MAGIC, 3552304727949005345ull);
CONSTANT(RW_FAILED, 4u);
CONSTANT(RW_FORMAT_VERSION, 2u);
CONSTANT(RW_FRAME_BATCH, 1u);
CONSTANT(RW_FRAME_DELETE, 4u);
CONSTANT(RW_FRAME_DROP, 6u);
CONSTANT(RW_FRAME_STREAM, 2u);
CONSTANT(RW_FRAME_TRIM, 3u);
CONSTANT(RW_FRAME_VERDICT, 5u);
CONSTANT(RW_LANE_MAGIC, 3552861046657471009ull);
CONSTANT(RW_LAYOUT_VERSION, 5u);
CONSTANT(RW_LINE, 64u);
CONSTANT(RW_NO_STREAM, 4294967295u);
CONSTANT(RW_OWN_TIMES, 32u);
CONSTANT(RW_PAGE, 4096u);
CONSTANT(RW_PENDING_MAX, 131072u);
CONSTANT(RW_PROGRESS_MAGIC, 3550894046158737953ull);
CONSTANT(RW_RUNNING, 1u);
CONSTANT(RW_SLOT_ACTIVE, 1u);
CONSTANT(RW_SLOT_CLOSING, 2u);
CONSTANT(RW_SLOT_FREE, 0u);
CONSTANT(RW_STARTING, 0u);
CONSTANT(RW_STOPPED, 3u);
CONSTANT(RW_STOPPING, 2u);
CONSTANT(RW_STREAM_FREE, 0u);
CONSTANT(RW_STREAM_NAME_MAX, 120u);
CONSTANT(RW_STREAM_OPEN, 1u);
CONSTANT(RW_TAIL_INTERESTS, 8u);
CONSTANT(RW_VERDICT_DEAD, 1u);

SIZE(rw_control, 4096);
FIELD(rw_control          , 0, uint64_t, magic);
FIELD(rw_control          , 8, uint32_t, layout_version);
FIELD(rw_control          , 12, uint32_t, max_clients);
FIELD(rw_control          , 16, uint64_t, fingerprint);
FIELD(rw_control          , 24, uint64_t, control_bytes);
FIELD(rw_control          , 32, uint64_t, ring_bytes);
FIELD(rw_control          , 40, uint64_t, epoch);
FIELD(rw_control          , 48, uint32_t, max_streams);
FIELD(rw_control          , 52, uint32_t, completions_per_client);
FIELD(rw_control          , 56, uint64_t, segment_bytes);
FIELD(rw_control          , 64, uint8_t[16], uuid);
FIELD(rw_control          , 80, uint64_t, epoch_begin);
FIELD(rw_control          , 88, uint64_t, max_record_bytes);
FIELD(rw_control          , 96, uint64_t, started_ns);
FIELD(rw_control          , 104, uint32_t, confirm_order);
FIELD(rw_control          , 108, uint32_t, supervisor_pid);
FIELD(rw_control          , 112, uint32_t, life_at);
FIELD(rw_control          , 116, uint32_t, client_slots);
FIELD(rw_control          , 120, uint32_t, next_number);
FIELD(rw_control          , 124, uint8_t[4], pad0);
FIELD(rw_control          , 128, uint32_t, state);
FIELD(rw_control          , 132, uint32_t, error);
FIELD(rw_control          , 136, uint32_t, membership);
FIELD(rw_control          , 140, uint32_t, stream_count);
FIELD(rw_control          , 144, uint64_t[6], life);
FIELD(rw_control          , 192, uint64_t, doorbell);
FIELD(rw_control          , 200, uint64_t, write_ns);
FIELD(rw_control          , 208, uint8_t[48], pad2);
FIELD(rw_control          , 256, uint64_t, sealed);
FIELD(rw_control          , 264, uint64_t, sealed_end);
FIELD(rw_control          , 272, uint64_t, reserve_end);
FIELD(rw_control          , 280, uint64_t, block_seed);
FIELD(rw_control          , 288, uint64_t, position_seed);
FIELD(rw_control          , 296, uint32_t, numbers_end);
FIELD(rw_control          , 300, uint8_t[20], pad3);
FIELD(rw_control          , 320, uint32_t, completions);
FIELD(rw_control          , 324, uint32_t, wal_error);
FIELD(rw_control          , 328, uint32_t, storage_full);
FIELD(rw_control          , 332, uint32_t, wal_pid);
FIELD(rw_control          , 336, uint32_t, io_direct);
FIELD(rw_control          , 340, uint32_t, starved);
FIELD(rw_control          , 344, uint64_t, segments_end);
FIELD(rw_control          , 352, uint8_t[32], pad4);
FIELD(rw_control          , 384, uint32_t, drain_parked);
FIELD(rw_control          , 388, uint32_t, drain_pid);
FIELD(rw_control          , 392, uint64_t, released);
FIELD(rw_control          , 400, uint64_t, released_end);
FIELD(rw_control          , 408, uint32_t, callers);
FIELD(rw_control          , 412, uint32_t, contention);
FIELD(rw_control          , 416, uint64_t, confirmed_ns);
FIELD(rw_control          , 424, uint8_t[24], pad5);
FIELD(rw_control          , 448, uint64_t, wal_blocks);
FIELD(rw_control          , 456, uint64_t, wal_requests);
FIELD(rw_control          , 464, uint64_t, wal_records);
FIELD(rw_control          , 472, uint64_t, wal_payload_bytes);
FIELD(rw_control          , 480, uint64_t, wal_block_bytes);
FIELD(rw_control          , 488, uint64_t, wal_writes);
FIELD(rw_control          , 496, uint64_t, wal_parks);
FIELD(rw_control          , 504, uint64_t, wal_rewrites);
FIELD(rw_control          , 512, uint64_t, drain_passes);
FIELD(rw_control          , 520, uint64_t, drain_confirmed_requests);
FIELD(rw_control          , 528, uint64_t, drain_confirmed_records);
FIELD(rw_control          , 536, uint64_t, drain_batches);
FIELD(rw_control          , 544, uint64_t, drain_waited);
FIELD(rw_control          , 552, uint64_t, drain_wakes);
FIELD(rw_control          , 560, uint64_t, drain_parks);
FIELD(rw_control          , 568, uint64_t, drain_longest_run);
FIELD(rw_control          , 576, uint64_t, first_segment);
FIELD(rw_control          , 584, uint64_t, segments_freed);
FIELD(rw_control          , 592, uint64_t, segments_recycled);
FIELD(rw_control          , 600, uint64_t, segments_dropped);
FIELD(rw_control          , 608, uint8_t[3488], tail);

SIZE(rw_progress, 4096);
FIELD(rw_progress         , 0, uint64_t, magic);
FIELD(rw_progress         , 8, uint64_t, fingerprint);
FIELD(rw_progress         , 16, uint64_t, done);
FIELD(rw_progress         , 24, uint64_t, total);
FIELD(rw_progress         , 32, uint8_t[4064], tail);

SIZE(rw_slot, 256);
FIELD(rw_slot             , 0, uint32_t, state);
FIELD(rw_slot             , 4, uint32_t, generation);
FIELD(rw_slot             , 8, uint32_t, pid);
FIELD(rw_slot             , 12, uint32_t, pad_);
FIELD(rw_slot             , 16, uint64_t, lane_bytes);
FIELD(rw_slot             , 24, uint8_t[40], pad0);
FIELD(rw_slot             , 64, uint64_t, head);
FIELD(rw_slot             , 72, uint32_t, fault);
FIELD(rw_slot             , 76, uint32_t, wal_done);
FIELD(rw_slot             , 80, uint64_t, requests);
FIELD(rw_slot             , 88, uint8_t[40], pad1);
FIELD(rw_slot             , 128, uint32_t, wake);
FIELD(rw_slot             , 132, uint32_t, drain_done);
FIELD(rw_slot             , 136, uint64_t, confirmed);
FIELD(rw_slot             , 144, uint8_t[112], pad2);

SIZE(rw_completion, 16);
FIELD(rw_completion       , 0, uint64_t, number);
FIELD(rw_completion       , 8, uint64_t, offset);

SIZE(rw_block_entry, 64);
FIELD(rw_block_entry      , 0, uint64_t, number);
FIELD(rw_block_entry      , 8, uint64_t, position);
FIELD(rw_block_entry      , 16, uint64_t, span);
FIELD(rw_block_entry      , 24, uint64_t, length);
FIELD(rw_block_entry      , 32, uint64_t, requests);
FIELD(rw_block_entry      , 40, uint32_t, frames);
FIELD(rw_block_entry      , 44, uint32_t, state);
FIELD(rw_block_entry      , 48, uint64_t, timestamp_ns);
FIELD(rw_block_entry      , 56, uint8_t[8], pad0);

SIZE(rw_stream, 256);
FIELD(rw_stream           , 0, uint32_t, state);
FIELD(rw_stream           , 4, uint32_t, name_bytes);
FIELD(rw_stream           , 8, uint32_t, number);
FIELD(rw_stream           , 12, uint32_t, ended);
FIELD(rw_stream           , 16, uint64_t, trimmed_offset);
FIELD(rw_stream           , 24, uint64_t, start_offset);
FIELD(rw_stream           , 32, uint32_t, deleted);
FIELD(rw_stream           , 36, uint8_t[28], pad0);
FIELD(rw_stream           , 64, uint64_t, next_offset);
FIELD(rw_stream           , 72, uint64_t, defined_end);
FIELD(rw_stream           , 80, uint64_t, composed_bytes);
FIELD(rw_stream           , 88, uint64_t, composed_ns);
FIELD(rw_stream           , 96, uint64_t, confirmed_offset);
FIELD(rw_stream           , 104, uint64_t, confirmed_bytes);
FIELD(rw_stream           , 112, uint64_t, last_timestamp_ns);
FIELD(rw_stream           , 120, uint8_t[8], pad2);
FIELD(rw_stream           , 128, uint8_t[128], name);

SIZE(rw_lane, 4096);
FIELD(rw_lane             , 0, uint64_t, magic);
FIELD(rw_lane             , 8, uint32_t, layout_version);
FIELD(rw_lane             , 12, uint32_t, slot);
FIELD(rw_lane             , 16, uint32_t, generation);
FIELD(rw_lane             , 20, uint32_t, pad_);
FIELD(rw_lane             , 24, uint64_t, lane_bytes);
FIELD(rw_lane             , 32, uint64_t, epoch);
FIELD(rw_lane             , 40, uint64_t, fingerprint);
FIELD(rw_lane             , 48, uint64_t, salt);
FIELD(rw_lane             , 56, uint8_t[8], pad0);
FIELD(rw_lane             , 64, uint64_t, claim);
FIELD(rw_lane             , 72, uint64_t, last_rung);
FIELD(rw_lane             , 80, uint8_t[48], pad1);
FIELD(rw_lane             , 128, uint32_t, completion_waiters);
FIELD(rw_lane             , 132, uint32_t, room_waiters);
FIELD(rw_lane             , 136, uint32_t, tail_any);
FIELD(rw_lane             , 140, uint32_t[8], tail_streams);
FIELD(rw_lane             , 172, uint8_t[20], pad2);
FIELD(rw_lane             , 192, uint8_t[3904], tail);

SIZE(rw_request, 64);
FIELD(rw_request          , 0, uint64_t, valid);
FIELD(rw_request          , 8, uint32_t, crc);
FIELD(rw_request          , 12, uint32_t, stream);
FIELD(rw_request          , 16, uint32_t, payload_bytes);
FIELD(rw_request          , 20, uint32_t, count);
FIELD(rw_request          , 24, uint8_t, kind);
FIELD(rw_request          , 25, uint8_t, pad_);
FIELD(rw_request          , 26, uint16_t, flags);
FIELD(rw_request          , 28, uint32_t, place);
FIELD(rw_request          , 32, uint64_t, digest);
FIELD(rw_request          , 40, uint64_t, number);
FIELD(rw_request          , 48, uint64_t, producer_id);
FIELD(rw_request          , 56, uint64_t, producer_sequence);

SIZE(rw_block, 128);
FIELD(rw_block            , 0, uint64_t, magic);
FIELD(rw_block            , 8, uint32_t, crc);
FIELD(rw_block            , 12, uint32_t, format_version);
FIELD(rw_block            , 16, uint8_t[16], uuid);
FIELD(rw_block            , 32, uint64_t, epoch);
FIELD(rw_block            , 40, uint64_t, position);
FIELD(rw_block            , 48, uint32_t, length);
FIELD(rw_block            , 52, uint32_t, used);
FIELD(rw_block            , 56, uint32_t, frames);
FIELD(rw_block            , 60, uint32_t, kind);
FIELD(rw_block            , 64, uint64_t, span);
FIELD(rw_block            , 72, uint64_t, watermark);
FIELD(rw_block            , 80, uint64_t, number);
FIELD(rw_block            , 88, uint64_t, previous_end);
FIELD(rw_block            , 96, uint64_t, previous_epoch);
FIELD(rw_block            , 104, uint64_t, timestamp_ns);
FIELD(rw_block            , 112, uint64_t, previous_begin);
FIELD(rw_block            , 120, uint8_t[8], pad0);

SIZE(rw_frame, 88);
FIELD(rw_frame            , 0, uint32_t, crc);
FIELD(rw_frame            , 4, uint8_t, kind);
FIELD(rw_frame            , 5, uint8_t, persisted);
FIELD(rw_frame            , 6, uint16_t, slot);
FIELD(rw_frame            , 8, uint32_t, payload_bytes);
FIELD(rw_frame            , 12, uint32_t, count);
FIELD(rw_frame            , 16, uint32_t, stream);
FIELD(rw_frame            , 20, uint32_t, flags);
FIELD(rw_frame            , 24, uint64_t, base_offset);
FIELD(rw_frame            , 32, uint64_t, timestamp_ns);
FIELD(rw_frame            , 40, uint64_t, digest);
FIELD(rw_frame            , 48, uint64_t, ticket);
FIELD(rw_frame            , 56, uint64_t, number);
FIELD(rw_frame            , 64, uint64_t, producer_id);
FIELD(rw_frame            , 72, uint64_t, producer_sequence);
FIELD(rw_frame            , 80, uint32_t, producer_epoch);
FIELD(rw_frame            , 84, uint32_t, place);

SIZE(rw_verdict, 16);
FIELD(rw_verdict          , 0, uint32_t, reason);
FIELD(rw_verdict          , 4, uint32_t, request_bytes);
FIELD(rw_verdict          , 8, uint64_t, value);

SIZE(rw_drop_row, 16);
FIELD(rw_drop_row         , 0, uint32_t, stream);
FIELD(rw_drop_row         , 4, uint32_t, place);
FIELD(rw_drop_row         , 8, uint64_t, start_offset);

SIZE(rw_checkpoint_stream, 160);
FIELD(rw_checkpoint_stream, 0, uint32_t, number);
FIELD(rw_checkpoint_stream, 4, uint16_t, state);
FIELD(rw_checkpoint_stream, 6, uint16_t, name_bytes);
FIELD(rw_checkpoint_stream, 8, uint64_t, next_offset);
FIELD(rw_checkpoint_stream, 16, uint64_t, start_offset);
FIELD(rw_checkpoint_stream, 24, uint64_t, payload_bytes);
FIELD(rw_checkpoint_stream, 32, uint64_t, timestamp_ns);
FIELD(rw_checkpoint_stream, 40, uint8_t[120], name);

uint64_t rw_fingerprint(void) { return 0x458f6e0189fc0e90ull; }
