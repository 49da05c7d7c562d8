"""Holds what the files contain, read by their documented format only, against the journals: invariants I1 to I3."""

from __future__ import annotations

from pathlib import Path

from ringwal.demo.journal import read
from ringwal.demo.oracle import Oracle, Verdict
from tests.faults.decode import contents
from tests.support.host import Engine

__all__ = ["Verdict", "judge", "stop_and_judge"]


def judge(
    directory: Path,
    journals: dict[str, Path],
    *,
    strangers: tuple[str, ...] = (),
    seen: tuple[Path, ...] = (),
    drops: bool = False,
) -> Verdict:
    """The verdict on an engine's directory, which no engine has open. ``strangers``: streams of somebody without a journal;
    ``seen``: journals of readers; ``drops``: the engine drops records by itself."""
    oracle = Oracle(drops=drops)
    for writer, path in journals.items():
        oracle.add_writer(writer, read(path))
    for path in seen:
        oracle.add_reader(f"the reader of {path.name}", read(path))
    for stream, found in contents(directory).items():
        if stream not in strangers:
            oracle.begins(stream, found.start, found.first)
            oracle.take(stream, found.records)
    return oracle.close()


def stop_and_judge(engine: Engine, journals: dict[str, Path], runs: int, *, drops: bool = False) -> Verdict:
    """The end of a row: an orderly stop, and the verdict on what it leaves."""
    code = engine.stop()
    verdict = judge(engine.directory, journals, drops=drops)
    verdict.runs = runs
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict
