"""The demo: its verdict on made-up histories, and one whole run with real kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringwal.demo import corpus
from ringwal.demo.check import Findings, Promises, StreamCheck
from ringwal.demo.journal import Journal, Notes, digest, notes
from tests.support import shm_names


@dataclass(frozen=True)
class Record:
    offset: int
    data: bytes
    timestamp_ns: int = 0


def verdict(stored: list[bytes], *journals: list[tuple[int, bytes]]) -> Findings:
    """What the checker says about a stream that holds `stored`, when the writers were promised (offset, record)s."""
    findings = Findings()
    promises = Promises(["s"], findings)
    for journal in journals:
        columns = [[0] * len(journal), [o for o, _ in journal], [digest(d) for _, d in journal], [0] * len(journal)]
        promises.add_writer(Notes(*(array("Q", column) for column in columns)))
    check = StreamCheck("s", promises.of(0), findings)
    check.take([Record(offset, data) for offset, data in enumerate(stored)])
    check.close()
    return findings


A = [b"0 0 a", b"0 1 b", b"0 2 c"]
B = [b"1 0 a", b"1 1 b"]


def counts(findings: Findings) -> tuple[int, int, int, int, int]:
    return (findings.confirmed, findings.recovered, findings.lost, findings.duplicated, findings.out_of_order)


def test_two_writers_in_any_interleaving_are_fine() -> None:
    findings = verdict([A[0], B[0], B[1], A[1], A[2]], [(0, A[0]), (3, A[1]), (4, A[2])], [(1, B[0]), (2, B[1])])
    assert counts(findings) == (5, 5, 0, 0, 0)
    assert findings.clean


def test_records_that_were_never_confirmed_may_follow() -> None:
    assert counts(verdict(A, [(0, A[0])])) == (1, 3, 0, 0, 0)


def test_a_missing_record_is_lost() -> None:
    findings = verdict(A[:2], [(0, A[0]), (1, A[1]), (2, A[2])])
    assert counts(findings) == (3, 2, 1, 0, 0)
    assert not findings.clean
    assert "missing or changed" in findings.first["lost"]


def test_a_changed_byte_is_a_lost_record() -> None:
    assert counts(verdict([b"0 0 A"], [(0, b"0 0 a")])) == (1, 1, 1, 0, 0)


def test_a_record_at_another_offset_is_lost() -> None:
    assert verdict([A[0], B[0], A[1]], [(0, A[0]), (1, A[1])]).lost == 1


def test_a_record_stored_twice_is_duplicated() -> None:
    findings = verdict([A[0], A[1], A[0], A[2]], [(0, A[0]), (1, A[1]), (3, A[2])])
    assert counts(findings) == (3, 4, 0, 1, 0)


def test_one_offset_promised_to_two_records_is_a_duplicate() -> None:
    assert verdict([A[0]], [(0, A[0])], [(0, B[0])]).duplicated == 1


def test_swapped_records_are_out_of_order() -> None:
    findings = verdict([A[1], A[0], A[2]], [(0, A[1]), (2, A[2])])
    assert counts(findings) == (2, 3, 0, 0, 1)


def test_a_hole_in_a_writer_s_numbers_is_out_of_order_even_if_unconfirmed() -> None:
    assert counts(verdict([A[0], A[2]], [(0, A[0])])) == (1, 2, 0, 0, 1)


def test_confirmations_that_go_backwards_are_out_of_order() -> None:
    assert verdict(A, [(1, A[1]), (0, A[0])]).out_of_order == 1


def test_bytes_that_no_writer_wrote_are_noticed() -> None:
    assert verdict([b"rubbish"], []).out_of_order == 1


def test_offsets_that_are_not_dense_are_noticed() -> None:
    findings = Findings()
    check = StreamCheck("s", Promises(["s"], findings).of(0), findings)
    check.take([Record(0, A[0]), Record(2, A[1])])
    assert findings.out_of_order == 1


def test_journal_counts_whole_entries_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.add(1, 2, 3, 4)
        journal.add(5, 6, 7, 8)
    assert [list(column) for column in notes(path)] == [[1, 5], [2, 6], [3, 7], [4, 8]]
    os.truncate(path, path.stat().st_size - 1)
    assert [list(column) for column in notes(path)] == [[1], [2], [3], [4]]


def test_corpus_names_a_stream_for_each_top_level_package(tmp_path: Path) -> None:
    for name in ("os.py", "json/__init__.py", "json/decoder.py", "site-packages/x.py", "json/__pycache__/y.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"one\ntwo\n")
    files = corpus.sources(tmp_path)
    assert [source.stream for source in files] == ["os", "json", "json"]
    assert corpus.streams(files) == ["hot", "json", "os"]
    endless = corpus.lines(files[:1])
    assert [next(endless) for _ in range(3)] == [("os", b"one"), ("os", b"two"), ("os", b"one")]


def test_the_corpus_of_this_python_is_real_text() -> None:
    files = corpus.sources()
    assert {"json", "asyncio", "os"} <= {source.stream for source in files}


@pytest.mark.parametrize("nothing", [[], ["empty.py"]])
def test_a_corpus_without_lines_is_an_error_and_not_an_endless_loop(tmp_path: Path, nothing: list[str]) -> None:
    for name in nothing:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="no line"):
        next(corpus.lines(corpus.sources(tmp_path)))


# ------------------------------------------------------------------------------------------- the demo as a whole

DEADLINE = 100.0


@contextlib.contextmanager
def running_demo(temp: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in `temp` whose writers are at work."""
    command = [sys.executable, "-m", "ringwal", "demo", "--temp", str(temp), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stderr is not None
            while "writers at work" not in (line := demo.stderr.readline()):
                assert line, "the demo ended early"
            yield demo
        finally:
            demo.kill()


def left_behind(temp: Path) -> list[str]:
    """Files, shared memory and command lines of processes that are still there."""
    found = [*map(str, temp.iterdir()), *shm_names.left()]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(temp).encode() in (line := (entry / "cmdline").read_bytes()):
                found.append(line.decode())
    return found


def test_the_demo_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--json", "--seconds", "3") as demo:
        out, err = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, err
    result = json.loads(out)
    assert result["ok"]
    assert (result["lost"], result["duplicated"], result["out_of_order"]) == (0, 0, 0)
    assert 0 < result["confirmed"] <= result["recovered"]
    assert sorted(kill["target"] for kill in result["kills"]) == ["drain", "drain", "wal", "wal", "writer"]
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    with running_demo(tmp_path) as demo:
        demo.send_signal(signum)
        out, err = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + signum
    assert out == ""
    assert "Traceback" not in err
    assert left_behind(tmp_path) == []


def test_a_demo_interrupted_between_its_two_engines_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--seconds", "2") as demo:
        assert demo.stderr is not None
        while "whole engine" not in (line := demo.stderr.readline()):
            assert line, "the demo ended early"
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + signal.SIGINT
    assert left_behind(tmp_path) == []
