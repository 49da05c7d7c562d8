"""Recovery that is itself cut short, at each of its writes, any number of times, ends as if it had not been."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringwal.log import manifest as manifests
from ringwal.log.recovery import recover
from tests.support.crashes import dies
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, LogWriter, contents, delete, drop, trim


def run(directory: Path, hit: int) -> bool:
    """Recover in a process of its own that dies at its `hit`th change. False: it came to its end before."""
    return dies(hit, lambda: recover(log_at(directory), CONFIG))


def empty(_: Path) -> int:
    """No log yet."""
    return 0


def holed(directory: Path) -> int:
    """A log with records to be carried over, others to be dropped, an orphan, and torn bytes in the next segment. Returns where
    its last block ends."""
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    log.put((0, b"a"), (1, b"x"))
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    for _ in range(3):
        log.put((0, b"b" * 900_000))
    hole = log.put((0, b"lost"), state="missing")
    log.put((0, b"dropped"), (1, b"kept" * 3000), (2, b"new"), watermark=hole.position)
    log.end(watermark=hole.position)
    log.put((1, b"torn"), watermark=hole.position, state="torn")
    log.file(log.manifest.named_end).write_bytes(b"half made")
    return log.position


def controlled(directory: Path) -> int:
    """Trims, deletes and a drop, below the cut and beyond it."""
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    log.put((0, [b"a", b"b", b"c"]), (1, b"x"), (2, b"gone"), (3, [b"1", b"2", b"3"]), trim(0, 1))
    log = LogWriter(directory, recover(log_at(directory), CONFIG))
    log.put(delete(2), drop((3, 1)))
    hole = log.put((1, b"lost"), state="missing")
    log.put((0, b"d" * 3000), trim(0, 2), trim(1, 2), delete(1), watermark=hole.position)
    log.put(delete(3), (4, b"new"), drop((0, 4)), (5, b"short"), delete(5), watermark=hole.position)
    return log.position


BUILDERS = [empty, holed, controlled]


def expected(directory: Path) -> tuple[Any, ...]:
    """What a log is after it has been recovered, apart from how many epochs that took."""
    recovered = recover(log_at(directory), CONFIG)
    return recovered.streams, recovered.next_number, contents(directory)


@pytest.mark.parametrize("build", BUILDERS)
def test_a_crash_at_any_call_changes_nothing_in_the_end(tmp_path: Path, build: Callable[[Path], int]) -> None:
    origin = tmp_path / "origin"
    end = build(origin)
    clean = tmp_path / "clean"
    if origin.exists():
        shutil.copytree(origin, clean)
    want = expected(clean)
    old = {path.name: path.read_bytes() for path in origin.rglob("*.seg")}
    hit, crashed = 0, True
    while crashed:
        hit += 1
        directory = tmp_path / "log"
        if origin.exists():
            shutil.copytree(origin, directory)
        crashed = run(directory, hit)
        if crashed and old and manifests.load(log_at(directory)).epoch == 2:
            for number in range((end - 1) // CONFIG.segment_bytes + 1):
                name = f"{number:020d}.seg"
                taken = PAGE + min(end - number * CONFIG.segment_bytes, CONFIG.segment_bytes)  # behind it nothing is believed
                now = (directory / "segments" / name).read_bytes()
                assert now[:taken] == old[name][:taken], f"touched before the switch, at {hit}"
        assert expected(directory) == want, f"after a crash at call {hit}"
        shutil.rmtree(directory)
    assert hit > 20, "the calls that change the disk were not seen"


@pytest.mark.parametrize("build", BUILDERS)
def test_crash_after_crash_on_one_directory_changes_nothing_in_the_end(
    tmp_path: Path, build: Callable[[Path], int]
) -> None:
    clean, directory = tmp_path / "clean", tmp_path / "log"
    build(directory)
    if directory.exists():
        shutil.copytree(directory, clean)
    want = expected(clean)
    crashes = 0
    for hit in (3, 1, 9, 2, 14, 5, 21, 18, 16, 24, 11, 27, 25, 30, 7):
        crashes += run(directory, hit)
    assert crashes > 8
    assert expected(directory) == want
