"""Recovery that is itself cut short, at each of its writes, any number of times, ends as if it had not been."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ringwal.log import manifest as manifests
from ringwal.log.recovery import recover
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, LogWriter, contents, delete, drop, trim

CRASHED = 77
# Everything through which recovery changes the disk.
CALLS = ("pwrite", "pwritev", "fsync", "fdatasync", "posix_fallocate", "mkdir", "rename", "unlink")


def crash_at(hit: int) -> None:
    """End this process at the `hit`th call that changes the disk; a write is done by half before."""
    left = hit

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left > 0:
                return real(*args, **keywords)
            if name == "pwrite" and len(args[1]) >= 8192:
                real(args[0], args[1][: len(args[1]) // 8192 * 4096], args[2])
            os._exit(CRASHED)

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))


def run(directory: Path, hit: int) -> bool:
    """Recover in a process of its own that dies at its `hit`th change. False: it came to its end before."""
    child = os.fork()
    if child == 0:
        _child(directory, hit)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, CRASHED)
    return code == CRASHED


def _child(directory: Path, hit: int) -> NoReturn:
    code = 1
    try:
        crash_at(hit)
        recover(log_at(directory), CONFIG)
        code = 0
    finally:
        os._exit(code)


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
