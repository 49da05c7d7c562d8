"""Defects in what is set for streams, and in what is trimmed by it."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

CONTROL_FRAMES = "tests/native/test_control_frames.py"

RETENTION = [
    Mutant(
        "settings are not in the checkpoint",
        "csrc/wal_streams.c",
        "        rw_settings_copy(s, rows[i].settings);\n",
        "",
        row("retention", "SIGKILL all while streams are set"),
    ),
    Mutant(
        "settings are not in the first checkpoint of an epoch",
        "csrc/recover_streams.c",
        "        memcpy(r->settings, t->settings, sizeof r->settings);\n",
        "",
        units("tests/unit/test_recovery_control.py"),
    ),
    Mutant(
        "settings of a stream are those of the one that had its place",
        "csrc/stream.c",
        "    rw_settings_store(s, NULL, 0);\n",
        "",
        units(f"{CONTROL_FRAMES}::test_settings_go_with_their_stream"),
    ),
    Mutant(
        "a successor does not store the settings of the last block",
        "csrc/wal_restore.c",
        "        if (r->kind == RW_FRAME_SETTINGS)\n            w->settings_in = block;\n",
        "",
        units(f"{CONTROL_FRAMES}::test_a_successor_stores_the_settings_that_its_predecessor_did_not"),
    ),
    Mutant(
        "half of the settings are taken for all of them",
        "csrc/settings.c",
        "        if (whole)\n            return RW_OK;",
        "        if (whole || turn != 0)\n            return RW_OK;",
        units(f"{CONTROL_FRAMES}::test_a_successor_stores_the_settings_that_its_predecessor_did_not"),
    ),
    Mutant(
        "settings are told to be confirmed when they are composed",
        "engine/ringwal/client/configuring.py",
        '        return bool(lib.rw_settings_confirmed(attachment.control, handle) >= told["version"])',
        "        return look(attachment.control, handle, attachment.usable).version > 0",
        row("retention", "power cut while streams are set"),
    ),
    Mutant(
        "the number of a stream that was created is not in the log",
        "engine/ringwal/processes/stream_changes.py",
        "        return self._set(key.place, key.number, current, wanted)",
        "        return Set(key.number, key.place, 0)",
        units("tests/integration/test_settings.py"),
    ),
    Mutant(
        "a record less is kept than is to be",
        "csrc/retention.c",
        "row->before = row->confirmed_offset - most;",
        "row->before = row->confirmed_offset - most + 1;",
        units("tests/integration/test_retention.py::test_of_so_many_records_exactly_so_many_are_kept"),
    ),
    Mutant(
        "a segment goes as soon as its first record is old",
        "engine/ringwal/log/retention.py",
        "        count = bisect.bisect_left(self._newest, now_ns - age_ns)",
        "        count = min(len(self._newest), bisect.bisect_left(self._newest, now_ns - age_ns) + 1)",
        units("tests/unit/test_retention.py"),
    ),
    Mutant(
        "a segment goes as long as it is not enough without it",
        "engine/ringwal/log/retention.py",
        "            if left < limit:",
        "            if left + size < limit:",
        units("tests/unit/test_retention.py"),
    ),
    Mutant(
        "a clock that is set ahead is believed",
        "engine/ringwal/log/retention.py",
        "        return min(wall_ns, steady_ns + self._ahead)",
        "        return wall_ns",
        row("retention", "the clock is set a year ahead"),
    ),
    Mutant(
        "a stream that consumers hold is trimmed",
        "csrc/retention.c",
        "if (rows[i].before > rows[i].until)",
        "if (false)",
        units("tests/integration/test_retention.py::test_a_stream_that_is_held_keeps_all_and_is_named"),
    ),
    Mutant(
        "what is not told yet is taken for more than there is",
        "engine/ringwal/processes/retention.py",
        "            return max(0, row.confirmed_bytes - base.confirmed)",
        "            return row.confirmed_bytes",
        row("retention", "SIGKILL keeper, bytes kept"),
    ),
]
