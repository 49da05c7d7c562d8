"""Defects in what reads, checks and saves a log without its engine."""

from __future__ import annotations

from tests.faults.mutation import Mutant, row

OFFLINE = [
    Mutant(
        "verify does not look at the digests of frames",
        "csrc/audit.c",
        "    return r->digest == rw_xxh3(payload, r->payload_bytes) &&\n           rw_frame_sort_check(r, payload) == RW_OK;",
        "    return rw_frame_sort_check(r, payload) == RW_OK;",
        row("offline", "damage on the medium, verified"),
    ),
]
