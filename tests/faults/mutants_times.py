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
]
