"""The verbs that need no engine: what a user sees of a log that is stopped, killed, damaged, or served by somebody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_rig import ringwal, serving
from tests.support.log_place import path_of

PAGE = 4096


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A log of two lives, each stopped in order: `s` with the lines 0 to 5, and `quiet` with one."""
    at = tmp_path / "d"
    for life in range(2):
        with serving(at):
            for number in range(3):
                assert ringwal("append", at, "s", stdin=b"line %d" % (3 * life + number)).returncode == 0
            if life == 0:
                assert ringwal("append", at, "quiet", stdin=b"alone").returncode == 0
    return at


def block_with(at: Path, data: bytes) -> int:
    """Byte of the first segment's file at which the block with it begins."""
    return path_of(at, 0).read_bytes().index(data) // PAGE * PAGE


def flip(at: Path, byte: int) -> None:
    with path_of(at, 0).open("r+b") as file:
        old = os.pread(file.fileno(), 1, byte)[0]
        os.pwrite(file.fileno(), bytes([old ^ 4]), byte)


def verified(at: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = ringwal("verify", at, "--json", *options)
    return done.returncode, json.loads(done.stdout)


def test_verify_of_a_log_that_is_whole(stopped: Path) -> None:
    code, found = verified(stopped, "--deep")
    assert (code, found["clean"], found["places"], found["holes"]) == (0, True, [], [])
    assert (found["records"], found["streams"], found["running"]) == (7, 2, False)
    done = ringwal("verify", stopped)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"clean: 2 segments, ")


def test_verify_names_place_and_records(stopped: Path) -> None:
    byte = block_with(stopped, b"line 1")
    flip(stopped, byte + 40)
    code, found = verified(stopped)
    (place,) = found["places"]
    assert (code, found["clean"]) == (65, False)
    assert (place["file"], place["offset"]) == ("segments/00000000000000000000.seg", byte)
    assert place["losses"] == [{"stream": "s", "number": 0, "first_offset": 1, "next_offset": 2}]
    done = ringwal("verify", stopped)
    assert done.returncode == 65
    assert b"segments/00000000000000000000.seg byte %d" % byte in done.stdout
    assert b"takes s: offset 1" in done.stdout


def test_verify_beside_an_engine(stopped: Path) -> None:
    with serving(stopped):
        assert ringwal("append", stopped, "s", stdin=b"line 6").returncode == 0
        code, found = verified(stopped, "--deep")
        assert (code, found["running"], found["clean"]) == (0, True, True)
        flip(stopped, block_with(stopped, b"line 4"))
        code, found = verified(stopped)
        assert (code, [place["losses"][0]["first_offset"] for place in found["places"]]) == (65, [4])
        assert ringwal("append", stopped, "s", stdin=b"line 7").returncode == 0


def test_a_start_that_is_refused_points_to_verify(stopped: Path) -> None:
    for number in (0, 1):
        (stopped / f"checkpoint-{number}").write_bytes(b"nothing")
    done = ringwal("run", stopped)
    assert done.returncode == 65
    assert b"`ringwal verify DIR`" in done.stderr
    code, found = verified(stopped)
    assert code == 65
    assert [place["file"][:-1] for place in found["places"]] == ["checkpoint-"]


def test_verify_where_there_is_no_log(tmp_path: Path) -> None:
    assert ringwal("verify", tmp_path / "nowhere").returncode == 66
    assert ringwal("verify", tmp_path).returncode == 66
