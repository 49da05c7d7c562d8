"""Defects in side files, in the keeper that makes them, and in the attic."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row, units

SIDE = "csrc/sidefile.c"
SIDEFILE = "engine/ringwal/log/sidefile.py"

KEEPER = [
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
        "        sidefile.remove(directory, number)\n        if named_end < wanted",
        "        if named_end < wanted",
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
]
