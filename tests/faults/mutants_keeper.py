"""Defects in side files, in the keeper that makes them, and in the attic."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

SIDE = "csrc/sidefile.c"
SIDEFILE = "engine/ringwal/log/sidefile.py"

STRAYS = "tests/integration/test_strays.py"

KEEPER = [
    Mutant(
        "a start leaves a stopped child of a dead engine alone",
        "engine/ringwal/processes/strays.py",
        "    return [pid for pid in _named() if _ended(pid, files)]",
        "    return []",
        units(f"{STRAYS}::test_what_outlives_its_supervisor_is_ended_by_the_next_start"),
    ),
    Mutant(
        "a start ends the children of an engine that lives",
        "engine/ringwal/processes/strays.py",
        "return not _holds(parent, files)",
        "return True",
        units(f"{STRAYS}::test_of_an_engine_that_lives_nobody_is_ended"),
    ),
    Mutant(
        "a page of a side file is believed unchecked",
        SIDE,
        "    if (read_all(s->fd, bytes, RW_PAGE, page * RW_PAGE) != RW_OK ||\n        digest != rw_xxh3(bytes, RW_PAGE))",
        "    if (read_all(s->fd, bytes, RW_PAGE, page * RW_PAGE) != RW_OK)",
        units("tests/unit/test_sidefile.py"),
    ),
    Mutant(
        "a side file of another segment is believed",
        SIDE,
        "h->segment != segment ||\n        h->segment_bytes != segment_bytes",
        "h->segment_bytes != segment_bytes",
        units("tests/unit/test_sidefile.py"),
    ),
    Mutant(
        "a block of a side file may lie anywhere",
        SIDE,
        "    return within ? RW_OK : RW_BAD;",
        "    return within || !within ? RW_OK : RW_BAD;",
        units("tests/unit/test_sidefile.py"),
    ),
    Mutant(
        "a side file is written of a segment that may still be cut",
        SIDEFILE,
        "    if number >= limit(manifest) or checkpoint.position < manifest.checkpoint_position:",
        "    if checkpoint.position < manifest.checkpoint_position:",
        units("tests/unit/test_sidefile.py"),
    ),
    Mutant(
        "a side file outlives its segment",
        "engine/ringwal/log/freeing.py",
        "        if number >= attic_end:\n            sidefile.remove(directory, number)\n",
        "",
        units("tests/unit/test_freeing.py"),
    ),
    Mutant(
        "a keeper that dies costs a restart",
        "engine/ringwal/processes/process_group.py",
        "        if child.role.expendable:\n            self._pauses[child.role].died(seen)\n",
        "        if child.role.expendable and ended.code == 0:\n            self._pauses[child.role].died(seen)\n",
        units("tests/integration/test_keeper.py::test_a_killed_keeper_is_replaced_and_costs_no_restart"),
    ),
    Mutant(
        "what a reader finds in a side file is believed unchecked",
        SIDE,
        "    if (read_all(s->fd, bytes, RW_PAGE, page * RW_PAGE) != RW_OK ||\n        digest != rw_xxh3(bytes, RW_PAGE))\n"
        "        return RW_BAD;",
        "    if (read_all(s->fd, bytes, RW_PAGE, page * RW_PAGE) != RW_OK || (digest == 1 && digest == 2))\n"
        "        return RW_BAD;",
        row("keeper", "side files with damaged bits"),
    ),
    Mutant(
        "the word for the attic comes before its catalogue",
        "engine/ringwal/processes/attic_task.py",
        "            attic.store(self._directory, after)\n        self._attic = Attic(self._directory, after)\n"
        "        self._say()",
        "        self._attic = Attic(self._directory, after)\n        self._say()\n        attic.store(self._directory, after)",
        units("tests/integration/test_attic.py::test_the_keeper_dies_while_it_fills_the_attic"),
    ),
    Mutant(
        "the attic is named before it is written",
        "engine/ringwal/log/attic.py",
        "    draft, at = name_of(number) + DRAFT_SUFFIX, directory.segments\n    unlink(draft, at=at)\n",
        "    draft, at = name_of(number) + DRAFT_SUFFIX, directory.segments\n    unlink(draft, at=at)\n"
        "    before = load(directory, uuid)\n"
        "    end = max(block.position for block in blocks) + 1\n"
        "    files = (*before.files, Named(number, place, digest))\n"
        "    store(directory, dataclasses.replace(before, end=end, next_file=number + 1, files=files))\n",
        units("tests/integration/test_attic.py::test_the_keeper_dies_while_it_fills_the_attic"),
    ),
    Mutant(
        "only the first blocks that are alive are kept",
        "csrc/sidefile.c",
        "        live[entry.block] = 1;\n",
        "        live[entry.block] = i == 0;\n",
        units("tests/unit/test_sidefile.py::test_what_is_alive_is_what_lies_behind_the_starts"),
    ),
    Mutant(
        "a segment that is half alive goes into the attic",
        "engine/ringwal/processes/attic_task.py",
        "        if size * ALIVE_PART >= self._size:\n            return None\n",
        "",
        units("tests/integration/test_attic.py::test_a_segment_that_is_mostly_alive_stays"),
    ),
    Mutant(
        "the side file of a segment goes though the attic has blocks of it",
        "engine/ringwal/log/epoch.py",
        "        sidefile.clear(self._directory, self.manifest, kept)\n",
        "        sidefile.clear(self._directory, self.manifest)\n",
        units("tests/integration/test_attic.py::test_the_side_file_of_what_the_attic_has_stays"),
    ),
    Mutant(
        "a backup has no attic",
        "engine/ringwal/log/backup.py",
        "            self.attic = attic_copy.hold(self._source, self._dest, uuid, links=self._links)\n",
        "            self.attic = Catalogue(uuid=uuid, end=1 << 62)\n",
        units("tests/integration/test_attic.py::test_backups_and_checks_know_of_it"),
    ),
]
