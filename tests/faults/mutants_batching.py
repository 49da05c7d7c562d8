"""Defects in batches of several streams."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

NATIVE = "tests/native/test_joint.py"
SEQUENCER, TAKE, RECOVER = "csrc/sequencer.c", "csrc/wal_take.c", "csrc/recover.c"
LANE = "engine/ringwal/client/lane.py"

BATCHING = [
    Mutant(
        "a part is confirmed when it is due alone",
        SEQUENCER,
        "        if (e->part == 0) {\n",
        "        if (e->part < UINT32_MAX) {\n",
        units(f"{NATIVE}::test_nothing_is_confirmed_before_every_part_is_due"),
    ),
    Mutant(
        "a drain waits for parts that its predecessor has confirmed",
        SEQUENCER,
        "                                 : !rw_stream_over(stream, r->stream) &&\n"
        "                                       r->base_offset >= stream->confirmed_offset)\n",
        "                                 : stream != NULL)\n",
        row("batching", "kill at d.part.confirmed"),
    ),
    Mutant(
        "what stands behind a part waits for the next block",
        SEQUENCER,
        "        if (r->place != place && !s->is_behind[r->place]) {\n",
        "        if (r->place == place && !s->is_behind[r->place]) {\n",
        units(f"{NATIVE}::test_whatever_the_order_of_the_disks_all_is_confirmed_in_order_and_together"),
    ),
    Mutant(
        "who follows several streams sees what is not confirmed",
        "csrc/scan.c",
        "    return rw_load64(&c->released_end); /* PAIR: release */\n",
        "    return rw_load64(&c->sealed_end);\n",
        units("tests/unit/test_merged.py"),
    ),
    Mutant(
        "parts are taken though a later one is refused",
        TAKE,
        "        refused += reasons[i] != 0;\n",
        "        refused += i == 0 && reasons[i] != 0;\n",
        row("batching", "transfers, SIGKILL wal"),
    ),
    Mutant(
        "parts stay in the block of which one turns out to be wrong",
        TAKE,
        "            e->cursor = begin;\n            return take_back(w, k, used, frames);\n",
        "            e->cursor = begin;\n            return take_back(w, k, r->used, r->frames);\n",
        units(f"{NATIVE}::test_a_forged_part_refuses_its_lane_and_leaves_nothing_of_the_others"),
    ),
    Mutant(
        "a successor of the WAL process takes the later parts again",
        TAKE,
        "        e->cursor += rw_request_bytes(q->payload_bytes);\n        (void)RW_POINT(\"l.part.put\");\n",
        "        (void)RW_POINT(\"l.part.put\");\n",
        units(NATIVE),
    ),
    Mutant(
        "the first part is published first",
        "csrc/lane.c",
        "        end -= rw_request_bytes(part_payload(&parts[i]));\n",
        "        end -= rw_request_bytes(part_payload(&parts[i]));\n"
        "        if (i + 1 == count && count > 1) {\n"
        "            rw_terms early = parts[0].terms;\n"
        "            early.flags |= RW_JOINED;\n"
        "            put_batch(w, at, parts[0].stream, parts[0].lengths, parts[0].count, parts[0].data, parts[0].bytes,\n"
        "                      &early, (uint64_t)number);\n"
        "            (void)RW_POINT(\"w.part.put\");\n"
        "        }\n",
        row("batching", "stop at w.part.put"),
    ),
    Mutant(
        "one part is carried over without the others",
        RECOVER,
        "            t->state = RW_RECOVERY_STREAM_BROKEN;\n    } while (r.flags & RW_JOINED);\n",
        "            (void)t;\n    } while (r.flags & RW_JOINED);\n",
        units("tests/unit/test_recovery.py::test_a_joint_append_beyond_a_hole_comes_back_whole_or_not_at_all"),
    ),
    Mutant(
        "parts that are carried over are divided between blocks",
        RECOVER,
        "draft->capacity - draft->used < whole && is_next(s, &r))",
        "draft->capacity - draft->used < frame && is_next(s, &r))",
        units("tests/unit/test_recovery.py::test_joint_appends_that_are_carried_over_are_not_divided"),
    ),
    Mutant(
        "any number that is left is enough for a batch",
        LANE,
        "            if lib.rw_writer_permits(self.writer) >= count or self.used_up()",
        "            if lib.rw_writer_permits(self.writer) >= 1 or self.used_up()",
        units("tests/integration/test_numbers.py::test_a_batch_gets_its_numbers_in_a_row_where_fewer_are_left"),
        hangs=True,
    ),
    Mutant(
        "the last numbers of a lane are kept for nobody",
        LANE,
        "            lib.rw_writer_burn(self.writer, count)\n",
        "",
        units("tests/integration/test_client_last_numbers.py::test_batches_of_several_streams_meet_the_end"),
    ),
]
