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
]
