"""Defects in what reads, checks and saves a log without its engine."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

OFFLINE = [
    Mutant(
        "verify does not look at the digests of frames",
        "csrc/audit.c",
        "    return r->digest == rw_xxh3(payload, r->payload_bytes) &&\n           rw_frame_sort_check(r, payload) == RW_OK;",
        "    return rw_frame_sort_check(r, payload) == RW_OK;",
        row("offline", "damage on the medium, verified"),
    ),
    Mutant(
        "open_readonly shows what an engine has written and not confirmed",
        "engine/ringwal/offline.py",
        "_held(directory) if lock_file.held(directory.fd) else _at_rest(directory)",
        "ReadOnlyLog(directory, _Files(directory, standing.look(directory)))",
        units("tests/integration/test_cli_offline.py::test_beside_an_engine_only_what_is_confirmed_is_shown"),
    ),
    Mutant(
        "salvage believes blocks of an old epoch beyond its cut",
        "engine/ringwal/log/salvage.py",
        "            if row.epoch in premise.open and ends_epoch(finding, premise.open[row.epoch]):",
        "            if row.epoch in premise.open and finding.place < 0:",
        units("tests/unit/test_salvage.py::test_nothing_beyond_a_cut_is_believed_though_nobody_states_it"),
    ),
    Mutant(
        "salvage copies an old epoch up to where the next one begins",
        "engine/ringwal/log/salvage.py",
        "        end = row.end or max(self._vouched, row.begin + PAGE)",
        "        later = [one.begin for one in premise.epochs if one.begin > row.begin]\n"
        "        end = later[0] if later else max(self._vouched, row.begin + PAGE)",
        units("tests/unit/test_salvage.py::test_nothing_beyond_a_cut_is_believed"),
    ),
    Mutant(
        "the times of a salvaged log go back where those of the damaged one did",
        "engine/ringwal/log/salvage_blocks.py",
        "max(self.timestamp_ns, int(head.timestamp_ns))",
        "int(head.timestamp_ns)",
        units("tests/unit/test_salvage.py::test_times_that_went_back_in_the_damaged_log_do_not_in_the_new_one"),
    ),
    Mutant(
        "a hole is older than the frames that are saved in it",
        "engine/ringwal/log/salvage_blocks.py",
        "max([int(head.timestamp_ns), *(frame.timestamp_ns for frame in frames)])",
        "int(head.timestamp_ns)",
        units("tests/unit/test_salvage.py::test_a_hole_is_not_older_than_what_is_saved_in_it"),
    ),
    Mutant(
        "a joint append may have two parts of one stream",
        "csrc/block.c",
        "        right = j->streams[i] != r->stream;",
        "        right = i < RW_PARTS_MAX;",
        units("tests/native/test_frame.py::test_each_part_is_of_another_stream"),
    ),
    Mutant(
        "verify does not see that a joint append ends with its block and goes on",
        "csrc/audit.c",
        "rw_joint_take(&a->joint, r) != RW_OK || (a->left == 0 && a->joint.parts != 0)",
        "rw_joint_take(&a->joint, r) != RW_OK",
        units("tests/unit/test_verify.py::test_a_joint_append_that_is_none_is_told_and_takes_nothing"),
    ),
    Mutant(
        "salvage keeps a block with a joint append that is none as it is",
        "engine/ringwal/log/salvage.py",
        "    lib.RW_AUDIT_JOINED,\n",
        "",
        units("tests/unit/test_salvage.py::test_a_joint_append_that_is_none_loses_nothing"),
    ),
    Mutant(
        "salvage keeps those parts of a joint append that go on, behind the last watermark",
        "engine/ringwal/log/salvage_tail.py",
        "if hole and len(parts) > 1 and not all(map(self._goes_on, parts)):",
        "if not parts:",
        units("tests/unit/test_salvage.py::test_behind_the_last_watermark_a_joint_append_is_saved_whole_or_not_at_all"),
    ),
]
