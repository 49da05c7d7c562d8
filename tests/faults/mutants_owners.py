"""Defects in what is known of producers."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

NATIVE = "tests/native/test_owners.py"
RECOVERY = "tests/unit/test_recovery_owners.py"
WAL, ROWS, RECOVER = "csrc/wal_owners.c", "csrc/owners.c", "csrc/recover_owners.c"

OWNERS = [
    Mutant(
        "who has no row is taken for new",
        WAL,
        "    if (o == NULL)\n        return RW_VERDICT_FENCED;\n    uint64_t sequence",
        "    if (o == NULL)\n        return *value == 0 ? 0 : RW_VERDICT_FENCED;\n    uint64_t sequence",
        units(f"{NATIVE}::test_who_has_no_row_is_fenced_and_never_new"),
    ),
    Mutant(
        "an older claim goes on",
        WAL,
        "    if (o->epoch == (uint32_t)(q->producer_id >> 32))",
        "    if (o->epoch >= (uint32_t)(q->producer_id >> 32))",
        units(f"{NATIVE}::test_a_newer_claim_fences_the_older_one"),
    ),
    Mutant(
        "a consumer that is fenced commits",
        WAL,
        "RW_OWNER_CONSUMER, value) != NULL ? 0 : RW_VERDICT_FENCED;",
        "RW_OWNER_CONSUMER, value) != NULL ? 0 : 0;",
        units("tests/native/test_commits.py::test_one_that_is_not_its_owner_is_fenced"),
    ),
    Mutant(
        "the place of one that has appended since is taken",
        WAL,
        "           w->owners[old].row.timestamp_ns <= claim.seen_ns;",
        "           true;",
        units(f"{NATIVE}::test_a_claim_needs_a_place_and_takes_that_of_a_silent_one_only"),
    ),
    Mutant(
        "a free place is taken instead of that which a claim says",
        WAL,
        "        place = forgotten_by(w, &claim);\n        if (place == NOWHERE)\n            place = free_place(w);\n",
        "        place = free_place(w);\n        if (place == NOWHERE)\n            place = forgotten_by(w, &claim);\n",
        units(f"{NATIVE}::test_a_claim_forgets_whom_it_says_also_where_a_place_has_become_free"),
    ),
    Mutant(
        "a successor finds a place for whom the block forgets",
        WAL,
        "    if (place == NOWHERE && (over || r->producer_epoch != 1)) {",
        "    if (place == NOWHERE && r->producer_epoch != 1) {",
        units(f"{NATIVE}::test_a_successor_needs_no_place_for_whom_the_same_block_forgets"),
    ),
    Mutant(
        "epochs begin anew",
        WAL,
        "        return o->epoch != UINT32_MAX;\n",
        "        return true;\n",
        units(f"{NATIVE}::test_epochs_and_numbers_end_and_do_not_begin_anew"),
    ),
    Mutant(
        "two of one name",
        RECOVER,
        "        forget_namesake(s, o);\n",
        "        (void)forget_namesake;\n",
        units(f"{RECOVERY}::test_a_name_has_one_producer_where_the_claim_that_forgot_the_older_one_is_lost"),
    ),
    Mutant(
        "claims use up what a full log needs to be trimmed",
        "engine/ringwal/processes/claims.py",
        "        if full := int(lib.rw_engine_storage_full(self._control)):",
        "        if full := 0:",
        units("tests/integration/test_claims.py::test_claims_leave_a_full_log_the_room_that_it_needs_to_be_trimmed"),
    ),
    Mutant(
        "a salvage counts numbers of producers from the checkpoint",
        "csrc/audit.c",
        "    note_owner(a, &r);\n",
        "    (void)note_owner;\n",
        units("tests/unit/test_salvage.py::test_producers_are_forgotten_and_their_numbers_stay_theirs"),
    ),
    Mutant(
        "a deleted stream leaves its producers",
        WAL,
        "        if (w->owners[place].row.number != 0 && w->owners[place].row.stream == stream) {",
        "        if (w->owners[place].row.number == 0 && w->owners[place].row.stream == stream) {",
        units(f"{NATIVE}::test_the_owners_of_a_stream_go_with_it"),
    ),
    Mutant(
        "a row that is being stored is nobody's meanwhile",
        ROWS,
        "    if (row == NULL || rw_peek32(&to->number) != row->number)\n        rw_store32(&to->number, 0);\n",
        "    rw_store32(&to->number, 0);\n",
        row("producing", "SIGKILL wal", "nightly"),
    ),
    Mutant(
        "a successor forgets what the last block says of producers",
        "csrc/wal_restore.c",
        "        if (r->kind == RW_FRAME_BATCH && r->producer_id != 0)\n            rw_wal_owner_appended(w, r);\n",
        "",
        units(f"{NATIVE}::test_a_successor_knows_from_the_last_block_what_it_changed"),
    ),
    Mutant(
        "a repeat is told before its original is confirmed",
        "csrc/frame.h",
        "((const rw_verdict *)(r + 1))->reason != RW_VERDICT_DEAD);",
        "((const rw_verdict *)(r + 1))->reason == RW_VERDICT_OFFSET);",
        units(f"{NATIVE}::test_a_repeat_is_told_when_the_original_is_confirmed"),
    ),
    Mutant(
        "the offset of a repeat is that of its batch",
        WAL,
        "                                             : o->last_offset + (sequence - o->last_sequence);",
        "                                             : o->last_offset;",
        units(f"{NATIVE}::test_the_offset_of_a_part_of_the_newest_batch_is_known"),
    ),
    Mutant(
        "one part of a batch counts as a repeat",
        WAL,
        "    if (sequence < end && end <= o->next_sequence) {",
        "    if (sequence < end && sequence < o->next_sequence) {",
        units(f"{NATIVE}::test_each_sequence_is_appended_once"),
    ),
    Mutant(
        "what is carried over is not counted for its producer",
        RECOVER,
        "    o->row.next_sequence = r->producer_sequence + r->count;\n",
        "    o->row.next_sequence += s->pass == RW_RECOVERY_PREFIX ? r->count : 0;\n",
        units(f"{RECOVERY}::test_beyond_the_cut_it_goes_on_as_its_stream_does"),
    ),
    Mutant(
        "a batch outlives the claim that it follows",
        "csrc/recover.c",
        "            return stop(s, RW_RECOVERY_OWNER, r->stream);\n        t->state = RW_RECOVERY_STREAM_BROKEN;\n",
        "            return stop(s, RW_RECOVERY_OWNER, r->stream);\n",
        units(f"{RECOVERY}::test_what_follows_something_lost_goes_with_it"),
    ),
    Mutant(
        "a carried batch has lost its epoch",
        "csrc/recover.c",
        "        .producer_epoch = r->producer_epoch,\n",
        "",
        units(f"{RECOVERY}::test_what_is_carried_says_whose_it_is"),
    ),
    Mutant(
        "a checkpoint has no producers",
        "engine/ringwal/processes/checkpoints.py",
        "            owners=bytes(ffi.buffer(self._owners, found.owners * OWNER_BYTES)),\n",
        "",
        units("tests/integration/test_cli_resume.py::test_over_an_engine_that_was_killed_it_goes_on_as_well"),
    ),
    Mutant(
        "a number of a producer is given out again",
        "csrc/wal_owners.c",
        "    if (number >= w->owners_end)\n        w->owners_end = number + 1;\n",
        "",
        units(f"{NATIVE}::test_an_owner_is_of_one_stream"),
    ),
]
