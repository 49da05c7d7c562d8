"""What others on the host take from a virtual machine, and a run that waits it out instead of measuring it.

Two things are looked at, by the same rule for every contender and without a look at its result: before and during each turn
the share of the processors' time that the hypervisor gave to others (``steal`` in proc_stat(5)), and before it how long the
disk takes for a few megabytes beside the best it did in this run, as shared disks are throttled for minutes after heavy
writing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.device import MIB, aligned, open_direct, prewrite

STOLEN_MAX = 0.03
"""Share of all processors' time; a tick of 10 ms is half a percent of a second on two."""
SLOWER_MAX = 2.0
PROBE_BYTES = 8 * MIB
PROBE_TRIES = 3
SPIN_SECONDS = 0.2
STEP_SECONDS = 3.0
ATTEMPTS = 5
"""A contender that is itself the reason would use up the patience of the whole run."""


def ticks() -> tuple[int, int]:
    """Stolen and all ticks of all processors since boot."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


def stolen(before: tuple[int, int]) -> float:
    """The share of the processors' time that others were given since `before`, which was `ticks()`."""
    now = ticks()
    return (now[0] - before[0]) / max(1, now[1] - before[1])


def notes(cell: dict[str, Any]) -> list[str]:
    """What the host took from a contender's turns in a scenario's result, where it is worth a word."""
    found = []
    if aside := cell.get("set_aside"):
        rates = ", ".join(f"{turn['records_per_s']:,.0f}/s with {turn['stolen_share']:.0%} stolen" for turn in aside)
        found.append(f"measured again, as others were given the processors: {rates}")
    if (worst := cell["spread"].get("stolen_share", (0, 0))[1]) > STOLEN_MAX:
        found.append(f"disturbed all the same: others were given {worst:.0%} of the processors during a turn")
    return found


class Host:
    """Knows what the disk can do at its best, and waits until it is near it and the processors are ours.

    Args:
        patience: seconds that may be spent in waiting and in turns that are measured again, in all.
    """

    def __init__(self, directory: Path, patience: float, say: Callable[[str], None]) -> None:
        self.left = patience
        self.waited = 0.0
        self._path = directory / "host-probe"
        self._say = say
        self._best = float("inf")

    def settle(self, disturbed: int = 0) -> None:
        """Returns once the host is calm, or patience has come to its end; the later the more often it was `disturbed` since,
        as it may look calm for a moment."""
        if disturbed:
            with self.charged():
                time.sleep(disturbed * STEP_SECONDS)
        while self.left > 0 and (reason := self.disturbed()):
            self._say(f"waiting for a calm host, {self.left:.0f} s at most: {reason}")
            with self.charged():
                time.sleep(STEP_SECONDS)

    @contextlib.contextmanager
    def charged(self) -> Iterator[None]:
        """What is done meanwhile is waiting."""
        begin = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - begin
            self.left -= spent
            self.waited += spent

    def disturbed(self) -> str | None:
        """Why a turn that began now would measure the host, if so."""
        before, end = ticks(), time.monotonic() + SPIN_SECONDS
        while time.monotonic() < end:
            pass
        if (share := stolen(before)) > STOLEN_MAX:
            return f"others are given {share:.0%} of the processors"
        with contextlib.suppress(OSError):  # a file system without O_DIRECT: the cache would answer, not the disk
            took = self._disk_seconds()
            self._best = min(self._best, took)
            if took > SLOWER_MAX * self._best:
                return f"the disk is {took / self._best:.1f} times as slow as at its best"
        return None

    def _disk_seconds(self) -> float:
        """The quickest of a few durable writes in place."""
        if not self._path.exists():
            prewrite(self._path, PROBE_BYTES)
        fd, buffer, taken = open_direct(self._path, os.O_RDWR), aligned(PROBE_BYTES), []
        try:
            for _ in range(PROBE_TRIES):
                begin = time.perf_counter()
                os.pwritev(fd, [buffer], 0, os.RWF_DSYNC)
                taken.append(time.perf_counter() - begin)
        finally:
            os.close(fd)
        return min(taken)
