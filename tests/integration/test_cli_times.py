"""Times on the command line: a record's own, and as places in a stream."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_rig import ringwal, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


def done(answer: subprocess.CompletedProcess[bytes]) -> bytes:
    assert answer.returncode == os.EX_OK, answer.stderr
    return answer.stdout


def objects(answer: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done(answer).splitlines()]


def test_a_time_that_is_given_is_shown_where_it_is_there(served: Path) -> None:
    done(ringwal("append", served, "s", stdin=b"plain"))
    done(ringwal("append", served, "s", "--timestamp", "2027-01-31T09:30:00.123456789Z", stdin=b"one"))
    done(ringwal("append", served, "s", "--lines", "--timestamp", "@5.5", stdin=b"a\nb\n" * 20_000))
    shown = objects(ringwal("read", served, "s", "--json"))
    assert [record.get("own_timestamp_ns") for record in shown[:4]] == [None, 1801387800123456789, 5_500_000_000, 5_500_000_000]
    assert {record["own_timestamp_ns"] for record in shown[2:]} == {5_500_000_000}
    assert "own_timestamp_ns" not in shown[0]
    assert done(ringwal("read", served, "s", "--max-records", "3")) == b"plain\none\na\n"


@pytest.mark.parametrize("wrong", ["yesterday", "1969-01-01", "90", "@99999999999"])
def test_a_time_that_there_is_not_is_a_wrong_command_line(wrong: str, served: Path) -> None:
    refused = ringwal("append", served, "s", "--timestamp", wrong, stdin=b"x")
    assert refused.returncode == 2, refused.stderr
    assert b"1970" in refused.stderr
    assert ringwal("read", served, "s").returncode == os.EX_NOINPUT
