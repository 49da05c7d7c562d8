"""One row of the campaign's table: what is done to the engine, how often, and by which function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.faults.oracle import Verdict

TIERS = ("change", "nightly", "release")
N = TypeVar("N", int, float)


@dataclasses.dataclass(frozen=True)
class Fault:
    """``body(directory, seed)`` does it and returns the verdict, with `Verdict.runs` counted; `host.NotRun` says why not."""

    group: str
    name: str
    body: Callable[[Path, int], Verdict]


def often(tier: str, change: N, nightly: N, release: N | None = None) -> N:
    """How many times, or for how many seconds, in a tier; a release has as many as a night unless it is said."""
    return {"change": change, "nightly": nightly, "release": release or nightly}[tier]
