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


def fill(directory: Path, count: int) -> list[dict[str, Any]]:
    """Records with a time each of the engine's."""
    for n in range(count):
        done(ringwal("append", directory, "s", stdin=b"%d" % n))
    return objects(ringwal("read", directory, "s", "--json"))


def at(stamp: int) -> str:
    return f"@{stamp // 10**9}.{stamp % 10**9:09d}"


def test_reads_and_tails_go_from_a_time_to_a_time(served: Path) -> None:
    records = fill(served, 4)
    second, last = at(records[1]["timestamp_ns"]), at(records[3]["timestamp_ns"])
    for verb in ("read", "tail"):
        assert done(ringwal(verb, served, "s", "--since", second, "--until", last)) == b"1\n2\n"
        assert done(ringwal(verb, served, "s", "--since", "1h", "--until", second)) == b"0\n"
        assert done(ringwal(verb, served, "s", "--start", "1", "--until", last)) == b"1\n2\n"
        assert done(ringwal(verb, served, "s", "--since", "2020-01-01", "--max-records", "2")) == b"0\n1\n"
        assert done(ringwal(verb, served, "s", "--until", "1h")) == b""
    assert done(ringwal("read", served, "s", "--since", second)) == b"1\n2\n3\n"
    assert done(ringwal("read", served, "s", "--since", "2200-01-01")) == b""
    assert done(ringwal("tail", served, "s", "-F", "--since", second, "--until", "now")) == b"1\n2\n3\n"


def test_a_trim_before_a_time_drops_what_is_older(served: Path) -> None:
    records = fill(served, 4)
    third = at(records[2]["timestamp_ns"])
    told = objects(ringwal("trim", served, "s", "--before", third, "--dry-run", "--json"))[0]
    assert (told["start_offset"], told["records"], told["dry_run"]) == (2, 2, True)
    assert len(objects(ringwal("read", served, "s", "--json"))) == 4
    assert objects(ringwal("trim", served, "s", "--before", "30d", "--json"))[0]["records"] == 0
    assert objects(ringwal("trim", served, "s", "--before", third, "--json"))[0]["start_offset"] == 2
    assert done(ringwal("read", served, "s")) == b"2\n3\n"
    assert objects(ringwal("trim", served, "s", "--before", "-1", "--json"))[0]["start_offset"] == 3
    assert objects(ringwal("trim", served, "s", "--before", "now", "--json"))[0]["start_offset"] == 4


@pytest.mark.parametrize(("arguments", "says"), [
    (("read", "--since", "yesterday"), b"--since is 'yesterday'; write a length of time"),
    (("tail", "--until", "90"), b"--until is '90'; write a length of time"),
    (("read", "--start", "1h"), b"for a time, use --since"),
    (("tail", "--since", "1h", "--start", "3"), b"--start and --since exclude each other"),
    (("trim", "--before", "monday"), b"or an offset, latest, or -N"),
    (("trim", "--before", "20270131"), b"there is no offset 20270131"),
])  # fmt: skip
def test_what_is_no_time_is_told_what_to_write(arguments: tuple[str, ...], says: bytes, served: Path) -> None:
    done(ringwal("append", served, "s", stdin=b"x"))
    verb, *rest = arguments
    refused = ringwal(verb, served, "s", *rest)
    assert refused.returncode in (2, os.EX_NOINPUT)
    assert says in b" ".join(refused.stderr.split())


def test_times_of_a_log_without_an_engine(tmp_path: Path) -> None:
    with serving(tmp_path / "d"):
        done(ringwal("append", tmp_path / "d", "s", "--timestamp", "@5", stdin=b"first"))
        records = fill(tmp_path / "d", 3)
    second = at(records[1]["timestamp_ns"])
    assert objects(ringwal("read", tmp_path / "d", "s", "--json")) == records
    assert done(ringwal("read", tmp_path / "d", "s", "--since", second)) == b"0\n1\n2\n"
    assert done(ringwal("read", tmp_path / "d", "s", "--offline", "--until", second)) == b"first\n"
    dumped = [frame for block in objects(ringwal("dump", tmp_path / "d", "--json")) for frame in block.get("frames", [])]
    batches = [frame for frame in dumped if frame["kind"] == "batch"]
    assert [batch.get("own_timestamps_ns") for batch in batches[:2]] == [[5 * 10**9], None]
