"""What a user sees of a stream of which something is gone: which offsets, and how to go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import ringwal as api
from tests.support.cli_rig import SMALL, ringwal, serving
from tests.support.log_place import path_of

RECORDS = 700  # of 20,000 bytes: three segments and some


def data_of(offset: int) -> bytes:
    return b"%d " % offset + b"x" * 20_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    at = tmp_path / "d"
    with serving(at), api.connect(at) as client:
        stream = client.stream("s")
        for offset in range(RECORDS):
            stream.append(data_of(offset))
        stream.flush()
        client.stream("quiet").append(b"alone").result()
    return at


def gap_of(at: Path) -> tuple[int, int]:
    """The first gap, as a reader in this process is told."""
    with api.open_readonly(at) as files:
        stream = files.stream("s")
        with pytest.raises(api.CorruptionError) as caught:
            list(stream.records())
        error = caught.value
        assert error.stream == "s"
        assert error.first_offset is not None
        assert error.next_offset is not None
        assert f"go on from offset {error.next_offset}" in str(error)
        found = next(stream.records(error.next_offset))
        assert (found.offset, found.data) == (error.next_offset, data_of(error.next_offset))
        assert next(files.stream("quiet").records()).data == b"alone"
    return error.first_offset, error.next_offset


@pytest.mark.parametrize("served", [False, True])
def test_a_segment_that_is_gone_takes_its_own_records(log: Path, served: bool) -> None:
    path_of(log, 1).unlink()
    first, behind = gap_of(log)
    assert 100 < first < behind < RECORDS
    rest = b"".join(data_of(offset) + b"\n" for offset in range(behind, RECORDS))
    before = b"".join(data_of(offset) + b"\n" for offset in range(first))

    def check() -> None:
        done = ringwal("read", log, "s")
        assert (done.returncode, done.stdout) == (os.EX_DATAERR, before)
        told = f"records {first} to {behind - 1} of stream 's' cannot be read; go on from offset {behind}"
        assert told in done.stderr.decode()
        done = ringwal("read", log, "s", "--start", str(behind))
        assert (done.returncode, done.stdout) == (0, rest)
        done = ringwal("read", log, "s", "--skip-damaged")
        assert (done.returncode, done.stdout) == (os.EX_DATAERR, before + rest)
        assert f"{behind - first} of {RECORDS} records could not be read" in done.stderr.decode()
        done = ringwal("read", log, "s", "--skip-damaged", "--json")
        one, last = map(json.loads, done.stderr.splitlines())
        assert [json.loads(line)["offset"] for line in done.stdout.splitlines()] == [*range(first), *range(behind, RECORDS)]
        assert (one["stream"], one["first_offset"], one["next_offset"], one["segment"]) == ("s", first, behind, 1)
        assert last["exit_code"] == os.EX_DATAERR

    if served:
        with serving(log, *SMALL):
            check()
    else:
        check()


def test_several_gaps_are_told_one_by_one(log: Path) -> None:
    blocks = []
    for wanted in (150, 151, 350):
        for segment in range(3):
            at = path_of(log, segment).read_bytes().find(data_of(wanted)[:40])
            if at >= 0:
                blocks.append((segment, at))
    for segment, at in blocks:
        with path_of(log, segment).open("r+b") as file:
            file.seek(at + 100)
            file.write(b"y")
    done = ringwal("read", log, "s", "--skip-damaged", "--json")
    read = {json.loads(line)["offset"] for line in done.stdout.splitlines()}
    gaps = [json.loads(line) for line in done.stderr.splitlines()][:-1]
    gone = {offset for gap in gaps for offset in range(gap["first_offset"], gap["next_offset"])}
    assert {150, 151, 350} <= gone
    assert (read & gone, read | gone) == (set(), set(range(RECORDS)))
    assert done.returncode == os.EX_DATAERR
    assert ringwal("read", log, "quiet").stdout == b"alone\n"


def test_a_stream_that_is_whole_has_no_gap(log: Path) -> None:
    done = ringwal("read", log, "s", "--skip-damaged")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(data_of(offset) + b"\n" for offset in range(RECORDS))
