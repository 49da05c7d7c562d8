"""Defects in what is kept of times."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

TIMES = [
    Mutant(
        "what is carried over loses its own times",
        "csrc/recover.c",
        "        .flags = r->flags,\n",
        "",
        units("tests/unit/test_recovery.py::test_times_of_records_are_carried_over"),
    ),
    Mutant(
        "own times of a lane are believed",
        "csrc/frame.c",
        "    if (count > payload_bytes / 8)\n        return false;\n",
        "",
        row("fuzz", "a lane"),
    ),
    Mutant(
        "a record has the time of the first of its batch",
        "csrc/scan.h",
        "                            (uint32_t)(s->next_offset - r->base_offset))\n               : RW_NO_TIME;",
        "                            0)\n               : RW_NO_TIME;",
        units("tests/native/test_scan.py::test_times_of_their_own_come_with_their_records_wherever_a_walk_stops"),
    ),
    Mutant(
        "verify does not look at the times of blocks",
        "csrc/audit.c",
        "    if (h->timestamp_ns < a->timestamp_ns)\n        return",
        "    if (false)\n        return",
        units("tests/unit/test_verify.py::test_a_block_that_is_older_than_one_in_front_of_it_is_told_and_takes_nothing"),
    ),
    Mutant(
        "a time means the record behind it",
        "engine/ringwal/read/moments.py",
        "timestamp_of(self._stream, offset) < self._timestamp_ns",
        "timestamp_of(self._stream, offset) <= self._timestamp_ns",
        units("tests/integration/test_times.py::test_a_time_is_a_place_wherever_an_offset_is_one"),
    ),
    Mutant(
        "a tail from a time that is yet to come begins at once",
        "engine/ringwal/client/following.py",
        "if record.timestamp_ns >= self._not_before]",
        "if record.timestamp_ns >= 0]",
        units("tests/integration/test_times.py::test_a_tail_waits_for_a_time_that_is_yet_to_come"),
    ),
    Mutant(
        "a small block waits for ever where nothing comes",
        "csrc/wal_policy.h",
        "    if (l->until_ns != 0 && now_ns < l->until_ns && !rw_policy_well_filled(bytes))",
        "    if (l->until_ns != 0 && !rw_policy_well_filled(bytes))",
        units("tests/native/test_linger.py"),
    ),
    Mutant(
        "an orderly stop waits for small blocks",
        "csrc/wal_linger.c",
        " || rw_load32(&w->finishing) ||",
        " ||",
        units("tests/native/test_linger.py::test_the_end_waits_for_nobody"),
        hangs=True,
    ),
]
