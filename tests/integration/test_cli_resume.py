"""An import of lines that is cut short, and goes on exactly where it was."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

import ringwal as api
from tests.support.cli_rig import DEADLINE, ringwal, serving, start

LINES = [b"line %d" % n for n in range(5000)]
INPUT = b"".join(line + b"\n" for line in LINES)


def confirmed(directory: Path) -> int:
    with api.connect(directory) as client:
        try:
            return client.stream("s").stat().confirmed_offset
        except api.NoSuchStream:
            return 0


def cut_short(directory: Path, upto: int, number: signal.Signals) -> None:
    """An import that has read so many lines, or more, and is ended when some of those that are new are confirmed."""
    before = confirmed(directory)
    work = start("append", "--lines", "--resume", "import", directory, "s")
    try:
        assert work.stdin is not None
        work.stdin.write(b"".join(line + b"\n" for line in LINES[:upto]))
        work.stdin.flush()
        deadline = time.monotonic() + DEADLINE
        while confirmed(directory) <= before:
            assert time.monotonic() < deadline
    finally:
        work.send_signal(number)
        work.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_on_where_it_was_cut_short(tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path / "log"
    with serving(directory):
        for upto in (1000, 2500, 4000):
            cut_short(directory, upto, number)
        there = confirmed(directory)
        done = ringwal("append", "--lines", "--json", "--resume", "import", directory, "s", stdin=INPUT)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["records_before"], said["records"]) == (there, len(LINES) - there)
        again = ringwal("append", "--lines", "--resume", "import", directory, "s", stdin=INPUT)
        assert again.stdout == b"s: 5000 records of this input were there already\ns: nothing to append\n"
        assert ringwal("read", directory, "s").stdout == INPUT


def test_over_an_engine_that_was_killed_it_goes_on_as_well(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with serving(directory) as engine:
        cut_short(directory, 2000, signal.SIGKILL)
        engine.kill()
    with serving(directory):
        done = ringwal("append", "--lines", "--resume", "import", directory, "s", stdin=INPUT)
        assert done.returncode == 0, done.stderr
        assert ringwal("read", directory, "s").stdout == INPUT


def test_keys_are_of_inputs(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with serving(directory):
        for key in ("one", "two"):
            assert ringwal("append", "--lines", "--resume", key, directory, "s", stdin=b"a\nb\n").returncode == 0
        assert ringwal("read", directory, "s").stdout == b"a\nb\n" * 2
        other = ringwal("append", "--lines", "--resume", "one", directory, "s", stdin=b"a\n")
        assert other.returncode == 78
        assert b"2 lines were appended under the key 'one', and this input has 1" in other.stderr
        longer = ringwal("append", "--lines", "--resume", "one", directory, "s", stdin=b"a\nb\nc\n")
        assert longer.stdout == b"s: 2 records of this input were there already\ns[4] confirmed\n"


def test_it_counts_lines_and_nothing_else(tmp_path: Path) -> None:
    done = ringwal("append", "--resume", "key", tmp_path, "s", stdin=b"x")
    assert done.returncode == 2 and b"--resume goes with --lines" in done.stderr
    with serving(tmp_path / "log"):
        done = ringwal("append", "--lines", "--resume", "", tmp_path / "log", "s", stdin=b"x")
        assert done.returncode == 78 and b"producer name" in done.stderr
