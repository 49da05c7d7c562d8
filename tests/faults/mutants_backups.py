"""Defects in backups, in what they become, and in the proof that a copy is whole."""

from __future__ import annotations

from tests.faults.mutation import Mutant, units

BACKUP = "engine/ringwal/log/backup.py"
RESTORE = "engine/ringwal/log/restore.py"
COPIES = "engine/ringwal/log/copies.py"

BACKUPS = [
    Mutant(
        "a backup without the checkpoint of its end",
        BACKUP,
        "            streams=bytes(ffi.buffer(rows, count * STREAM_BYTES)),",
        "            streams=state.checkpoint.streams,",
        units("tests/unit/test_backup.py"),
    ),
    Mutant(
        "a backup links the segment in use",
        BACKUP,
        "                if number == whole:\n                    self._copy(state, number)",
        "                if number < 0:\n                    self._copy(state, number)",
        units("tests/unit/test_backup.py"),
    ),
    Mutant(
        "a backup is named before its segments' names are synced",
        BACKUP,
        "            self._side_file(number, state)\n        sync_directory(self._dest.segments)",
        "            self._side_file(number, state)",
        units("tests/unit/test_backup.py::test_nothing_is_named_before_it_is_durable"),
    ),
    Mutant(
        "a backup is named before its note",
        BACKUP,
        '    backup_note.store(directory, Note("backup", made, None if previous is None else previous[0]))\n'
        '    point("bak.noted")\n    manifests.create(directory, manifest)',
        "    manifests.create(directory, manifest)\n"
        '    backup_note.store(directory, Note("backup", made, None if previous is None else previous[0]))\n'
        '    point("bak.noted")',
        units("tests/unit/test_backup.py"),
    ),
    Mutant(
        "segments that are freed during a backup are missed",
        BACKUP,
        "            if manifests.load(self._source).first_segment > first:\n                return False",
        "            if manifests.load(self._source).first_segment > first:\n                return True",
        units("tests/unit/test_backup.py::test_segments_that_are_freed_meanwhile_are_not_missed"),
    ),
    Mutant(
        "a backup is brought up to date from another history of its log",
        "engine/ringwal/log/same_history.py",
        "    return first == _last_block(other, manifest, extent)",
        "    return True",
        units("tests/unit/test_backup.py::test_a_log_that_went_on_once_more_from_a_snapshot_is_not_mixed_with_its_backup"),
    ),
    Mutant(
        "an engine runs on a backup",
        "engine/ringwal/processes/supervisor.py",
        "            backup_note.refuse_engine(self.directory)\n",
        "",
        units("tests/integration/test_backup.py::test_no_engine_runs_on_a_backup"),
    ),
    Mutant(
        "a restored log has the uuid of the lost one",
        RESTORE,
        "            uuid = os.urandom(16)",
        "            uuid = manifest.uuid",
        units("tests/unit/test_backup.py::test_a_restored_log_is_another_one"),
    ),
    Mutant(
        "a restore does not check what it copies",
        "csrc/prove.c",
        "        if (rw_block_verify(block) != RW_OK)\n            return RW_BAD;\n",
        "",
        units("tests/unit/test_backup.py::test_damage_anywhere_in_what_counts_is_refused"),
    ),
    Mutant(
        "a copy's blocks below the checkpoint are believed",
        COPIES,
        "            prove(window, manifest.uuid, extent)\n",
        "",
        units("tests/unit/test_torn_copies.py"),
    ),
    Mutant(
        "a copy may have a manifest that is older than its log",
        COPIES,
        "            search.file(directory, number, cut, direct=direct)\n",
        "",
        units("tests/unit/test_torn_copies.py::test_blocks_of_a_later_start_are_found_wherever_they_are"),
    ),
    Mutant(
        "a copy may end before its other checkpoint",
        COPIES,
        "    _other_checkpoint(directory, manifest, cut)\n    window",
        "    window",
        units("tests/unit/test_torn_copies.py::test_a_checkpoint_beyond_the_end_of_the_log_is_found"),
    ),
    Mutant(
        "a copy that was refused is no copy any more",
        "engine/ringwal/processes/supervisor.py",
        "            with copies.refused(ownership.directory, copied=copied):\n",
        "            homes.keep(ownership.directory, home)\n"
        "            with copies.refused(ownership.directory, copied=copied):\n",
        units("tests/integration/test_copies.py"),
    ),
]
