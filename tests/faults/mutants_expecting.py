"""Defects in appends at one offset or not at all."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

NATIVE = "tests/native/test_expected_offset.py"
FACES = "tests/integration/test_expected_offset.py"

EXPECTING = [
    Mutant(
        "an offset is told of before it is confirmed",
        "csrc/frame.h",
        "           (r->kind == RW_FRAME_VERDICT &&\n"
        "            ((const rw_verdict *)(r + 1))->reason != RW_VERDICT_DEAD);",
        "           (r->kind == RW_FRAME_VERDICT && r->place == RW_NO_STREAM);",
        units(f"{NATIVE}::test_nobody_is_told_of_an_offset_that_is_not_confirmed"),
    ),
    Mutant(
        "a successor takes again what was refused",
        "csrc/wal_restore.c",
        "        payload = ((const rw_verdict *)(r + 1))->request_bytes;",
        "        return;",
        units(f"{NATIVE}::test_a_successor_of_the_wal_process_does_not_change_its_mind"),
    ),
    Mutant(
        "an append goes to where it was not to be",
        "csrc/wal_take.c",
        "    if (!(q->flags & RW_EXPECTS) || q->producer_sequence == p->next_offset)\n",
        "    if (!(q->flags & RW_EXPECTS) || q->producer_sequence >= p->next_offset)\n",
        units(f"{NATIVE}::test_only_what_comes_to_its_offset_is_appended"),
    ),
    Mutant(
        "a stream is made by what it refuses",
        "csrc/wal_take.c",
        "    if (reason != 0) {\n        refuse_request(w, k, q, p, reason, value);",
        "    if (reason != 0) {\n        if (p != NULL && !p->defined) {\n"
        "            put_definition(w, q->place, p);\n            rw_wal_stream_defined(w, p);\n"
        "            rw_wal_stream_touch(w, p, w->c->sealed + 1);\n        }\n"
        "        refuse_request(w, k, q, p, reason, value);",
        units(f"{NATIVE}::test_a_stream_is_not_made_by_what_is_refused"),
    ),
    Mutant(
        "flush of an event loop counts as the appends' own callers",
        "engine/ringwal/client/awaiting.py",
        "lane.bell.flushing(wait.number)",
        "lane.bell.future(wait.number)",
        units("tests/integration/test_flush.py"),
    ),
]
