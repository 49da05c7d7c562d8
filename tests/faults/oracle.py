"""Holds what the files contain, read by their documented format only, against the journals: invariants I1 to I3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ringwal.demo.journal import Kind, read
from ringwal.demo.oracle import Oracle, Verdict
from tests.faults.decode import Content, Log, contents
from tests.faults.decode_frames import records_of
from tests.support.host import Engine
from tests.support.payload import own_time

__all__ = ["Verdict", "joints", "judge", "stop_and_judge"]


def judge(
    directory: Path,
    journals: dict[str, Path],
    *,
    strangers: tuple[str, ...] = (),
    seen: tuple[Path, ...] = (),
    drops: bool = False,
    until_ns: int | None = None,
) -> Verdict:
    """The verdict on an engine's directory, which no engine has open. ``strangers``: streams of somebody without a journal;
    ``seen``: journals of readers; ``drops``: the engine drops records by itself; ``until_ns``: it was backed up then, so what
    was confirmed later need not be there."""
    oracle = Oracle(drops=drops)
    for writer, path in journals.items():
        rows = read(path)
        if until_ns is not None:
            rows = (row for row in rows if row.kind != Kind.CONFIRMED or row.when_ns < until_ns)
        oracle.add_writer(writer, rows)
    for path in seen:
        oracle.add_reader(f"the reader of {path.name}", read(path))
    for stream, found in contents(directory).items():
        if stream not in strangers:
            oracle.begins(stream, found.start, found.first)
            oracle.take(stream, found.records)
            _check_times(oracle.verdict, stream, found)
    return oracle.close()


def _check_times(verdict: Verdict, stream: str, found: Content) -> None:
    """Every record has the time that its writer gave it, or none."""
    for offset, data in enumerate(found.records, found.first or 0):
        try:
            writer, number, _ = data.split(b" ", 2)
            wanted = own_time(writer.decode(), int(number))
        except ValueError:  # nobody's: told already
            continue
        extra = found.extras.get(offset)
        own = None if extra is None else extra.own_ns
        if own != wanted:
            verdict.note("invented", f"{stream}[{offset}] has the time {own}, and was given {wanted}")


def joints(directory: Path) -> Iterator[list[tuple[str, int, bytes]]]:
    """Of each joint append of a log, in log order, its records: stream, offset, data. Those of streams that were deleted are
    left out. Raises DecodeError: one is not whole, or the files are damaged."""
    log = Log(directory)
    names = {of.number: name for name, of in log.contents().items()}
    for parts in log.joints():
        yield [
            (names[part.stream], offset, record.data)
            for part in parts if part.stream in names
            for offset, record in enumerate(records_of(part), part.base)
        ]  # fmt: skip


def stop_and_judge(engine: Engine, journals: dict[str, Path], runs: int, *, drops: bool = False) -> Verdict:
    """The end of a row: an orderly stop, and the verdict on what it leaves."""
    code = engine.stop()
    verdict = judge(engine.directory, journals, drops=drops)
    verdict.runs = runs
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict
