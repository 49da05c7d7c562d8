/* Rendered from layout.h: python tests/support/shared_words.py */
#include "views.h"

#include "atomics.h"

#include <string.h>

void rw_view_engine(const rw_control *from, rw_engine_view *out)
{
    out->magic = rw_load64(&from->magic);
    out->layout_version = rw_load32(&from->layout_version);
    out->max_clients = rw_load32(&from->max_clients);
    out->fingerprint = rw_load64(&from->fingerprint);
    out->control_bytes = rw_load64(&from->control_bytes);
    out->ring_bytes = rw_load64(&from->ring_bytes);
    out->epoch = rw_load64(&from->epoch);
    out->max_streams = rw_load32(&from->max_streams);
    out->completions_per_client = rw_load32(&from->completions_per_client);
    out->segment_bytes = rw_load64(&from->segment_bytes);
    memcpy(out->uuid, from->uuid, sizeof out->uuid);
    out->epoch_begin = rw_load64(&from->epoch_begin);
    out->max_record_bytes = rw_load64(&from->max_record_bytes);
    out->started_ns = rw_load64(&from->started_ns);
    out->confirm_order = rw_load32(&from->confirm_order);
    out->supervisor_pid = rw_load32(&from->supervisor_pid);
    out->life_at = rw_load32(&from->life_at);
    out->client_slots = rw_load32(&from->client_slots);
    out->next_number = rw_load32(&from->next_number);
    out->max_owners = rw_load32(&from->max_owners);
    out->state = rw_load32(&from->state);
    out->error = rw_load32(&from->error);
    out->membership = rw_load32(&from->membership);
    out->stream_count = rw_load32(&from->stream_count);
    out->block_seed = rw_load64(&from->block_seed);
    out->position_seed = rw_load64(&from->position_seed);
    out->side_end = rw_load64(&from->side_end);
    out->side_files = rw_load64(&from->side_files);
    out->keeper_pid = rw_load32(&from->keeper_pid);
    out->keeper_error = rw_load32(&from->keeper_error);
    out->attic_end = rw_load64(&from->attic_end);
    out->attic_bytes = rw_load64(&from->attic_bytes);
    out->drain_parked = rw_load32(&from->drain_parked);
    out->drain_pid = rw_load32(&from->drain_pid);
    out->released = rw_load64(&from->released);
    out->released_end = rw_load64(&from->released_end);
    out->callers = rw_load32(&from->callers);
    out->contention = rw_load32(&from->contention);
    out->confirmed_ns = rw_load64(&from->confirmed_ns);
    out->drain_rings = rw_load64(&from->drain_rings);
    out->drain_passes = rw_load64(&from->drain_passes);
    out->drain_confirmed_requests = rw_load64(&from->drain_confirmed_requests);
    out->drain_confirmed_records = rw_load64(&from->drain_confirmed_records);
    out->drain_batches = rw_load64(&from->drain_batches);
    out->drain_waited = rw_load64(&from->drain_waited);
    out->drain_wakes = rw_load64(&from->drain_wakes);
    out->drain_parks = rw_load64(&from->drain_parks);
    out->drain_longest_run = rw_load64(&from->drain_longest_run);
    out->doorbell = rw_load64(&from->doorbell);
    out->write_ns = rw_load64(&from->write_ns);
    out->sealed = rw_load64(&from->sealed);
    out->sealed_end = rw_load64(&from->sealed_end);
    out->reserve_end = rw_load64(&from->reserve_end);
    out->numbers_end = rw_load32(&from->numbers_end);
    out->owners_end = rw_load32(&from->owners_end);
    out->completions = rw_load32(&from->completions);
    out->wal_error = rw_load32(&from->wal_error);
    out->storage_full = rw_load32(&from->storage_full);
    out->wal_pid = rw_load32(&from->wal_pid);
    out->io_direct = rw_load32(&from->io_direct);
    out->starved = rw_load32(&from->starved);
    out->segments_end = rw_load64(&from->segments_end);
    out->wal_blocks = rw_load64(&from->wal_blocks);
    out->wal_requests = rw_load64(&from->wal_requests);
    out->wal_records = rw_load64(&from->wal_records);
    out->wal_payload_bytes = rw_load64(&from->wal_payload_bytes);
    out->wal_block_bytes = rw_load64(&from->wal_block_bytes);
    out->wal_writes = rw_load64(&from->wal_writes);
    out->wal_parks = rw_load64(&from->wal_parks);
    out->wal_rewrites = rw_load64(&from->wal_rewrites);
    out->first_segment = rw_load64(&from->first_segment);
    out->segments_freed = rw_load64(&from->segments_freed);
    out->segments_recycled = rw_load64(&from->segments_recycled);
    out->segments_dropped = rw_load64(&from->segments_dropped);
    out->checkpointed = rw_load64(&from->checkpointed);
}

void rw_view_progress(const rw_progress *from, rw_progress_view *out)
{
    out->magic = rw_load64(&from->magic);
    out->fingerprint = rw_load64(&from->fingerprint);
    out->done = rw_load64(&from->done);
    out->total = rw_load64(&from->total);
}

void rw_view_slot(const rw_slot *from, rw_slot_view *out)
{
    out->state = rw_load32(&from->state);
    out->generation = rw_load32(&from->generation);
    out->pid = rw_load32(&from->pid);
    out->lane_bytes = rw_load64(&from->lane_bytes);
    out->wake = rw_load32(&from->wake);
    out->drain_done = rw_load32(&from->drain_done);
    out->confirmed = rw_load64(&from->confirmed);
    out->head = rw_load64(&from->head);
    out->fault = rw_load32(&from->fault);
    out->wal_done = rw_load32(&from->wal_done);
    out->requests = rw_load64(&from->requests);
}

void rw_view_stream(const rw_stream *from, rw_stream_view *out)
{
    out->state = rw_load32(&from->state);
    out->name_bytes = rw_load32(&from->name_bytes);
    out->number = rw_load32(&from->number);
    memcpy(out->name, from->name, sizeof out->name);
    out->start_offset = rw_load64(&from->start_offset);
    out->deleted = rw_load32(&from->deleted);
    out->confirmed_offset = rw_load64(&from->confirmed_offset);
    out->confirmed_bytes = rw_load64(&from->confirmed_bytes);
    out->last_timestamp_ns = rw_load64(&from->last_timestamp_ns);
    out->settings_confirmed = rw_load64(&from->settings_confirmed);
    out->ended = rw_load32(&from->ended);
    out->trimmed_offset = rw_load64(&from->trimmed_offset);
    out->next_offset = rw_load64(&from->next_offset);
    out->defined_end = rw_load64(&from->defined_end);
    out->composed_bytes = rw_load64(&from->composed_bytes);
    out->composed_ns = rw_load64(&from->composed_ns);
    out->settings_turn = rw_load32(&from->settings_turn);
}

void rw_view_lane(const rw_lane *from, rw_lane_view *out)
{
    out->magic = rw_load64(&from->magic);
    out->layout_version = rw_load32(&from->layout_version);
    out->slot = rw_load32(&from->slot);
    out->generation = rw_load32(&from->generation);
    out->lane_bytes = rw_load64(&from->lane_bytes);
    out->epoch = rw_load64(&from->epoch);
    out->fingerprint = rw_load64(&from->fingerprint);
    out->salt = rw_load64(&from->salt);
    out->claim = rw_load64(&from->claim);
    out->last_rung = rw_load64(&from->last_rung);
    out->completion_waiters = rw_load32(&from->completion_waiters);
    out->room_waiters = rw_load32(&from->room_waiters);
    out->tail_any = rw_load32(&from->tail_any);
    for (uint32_t i = 0; i < 8; i++)
        out->tail_streams[i] = rw_load32(&from->tail_streams[i]);
    out->bell_wanted = rw_load32(&from->bell_wanted);
}

uint32_t rw_engine_next_number(const rw_control *from) { return rw_load32(&from->next_number); }

uint32_t rw_engine_state(const rw_control *from) { return rw_load32(&from->state); }

uint32_t rw_engine_membership(const rw_control *from) { return rw_load32(&from->membership); }

uint64_t rw_engine_sealed_end(const rw_control *from) { return rw_load64(&from->sealed_end); }

uint32_t rw_engine_wal_error(const rw_control *from) { return rw_load32(&from->wal_error); }

uint32_t rw_engine_storage_full(const rw_control *from) { return rw_load32(&from->storage_full); }

uint64_t rw_engine_released_end(const rw_control *from) { return rw_load64(&from->released_end); }

uint64_t rw_engine_confirmed_ns(const rw_control *from) { return rw_load64(&from->confirmed_ns); }

uint64_t rw_engine_first_segment(const rw_control *from) { return rw_load64(&from->first_segment); }

uint64_t rw_engine_checkpointed(const rw_control *from) { return rw_load64(&from->checkpointed); }

uint64_t rw_engine_side_end(const rw_control *from) { return rw_load64(&from->side_end); }

uint64_t rw_engine_attic_end(const rw_control *from) { return rw_load64(&from->attic_end); }

uint32_t rw_slot_state(const rw_slot *from) { return rw_load32(&from->state); }

uint32_t rw_stream_number(const rw_stream *from) { return rw_load32(&from->number); }
