"""The verbs `create`, `configure` and `stat`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringwal.times import iso
from tests.support.cli_rig import ringwal, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path / "d", "--retention-age", "90d"):
        yield tmp_path / "d"


def stat(directory: Path) -> dict[str, Any]:
    done = ringwal("stat", directory, "s", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_stream_is_created_configured_and_shown(served: Path) -> None:
    done = ringwal("create", served, "s", "--retention-bytes", "10GiB", "--retain-until", "ship", "--retain-until", "bill")
    assert (done.returncode, done.stderr) == (0, b"")
    assert dict(line.split(maxsplit=1) for line in done.stdout.decode().splitlines()) == {
        "stream": "s", "number": "0", "start_offset": "0", "confirmed_offset": "0", "records": "0", "confirmed_bytes": "0",
        "newest": "none", "retention_age": "90d (the engine's default)", "retention_bytes": "10GiB",
        "retention_records": "none (the engine's default)", "retain_until": "ship, bill",
    }  # fmt: skip
    said = ("--retention-age", "none", "--retention-bytes", "default", "--retention-records", "7")
    done = ringwal("configure", served, "s", *said, "--json")
    assert {**json.loads(done.stdout), "consumers": []} == stat(served)
    assert {key: value for key, value in stat(served).items() if key.startswith(("ret", "own"))} == {
        "retention_age": None, "retention_bytes": None, "retention_records": 7, "retain_until": ["ship", "bill"],
        "own_settings": ["retention_age", "retention_records"],
    }  # fmt: skip
    assert ringwal("configure", served, "s", "--no-retain-until").stdout.decode().splitlines()[-1].split() == [
        "retain_until", "nobody",
    ]  # fmt: skip
    assert {**json.loads(ringwal("ls", served, "--json").stdout), "consumers": []} == stat(served)
    for data in (b"x", b"y"):
        ringwal("append", served, "s", stdin=data)
    assert stat(served)["records"] == 2
    first, second = (json.loads(line)["timestamp_ns"] for line in ringwal("read", served, "s", "--json").stdout.splitlines())
    shown = {line.split()[0]: line.split()[1] for line in ringwal("stat", served, "s").stdout.decode().splitlines()}
    assert (shown["oldest"], shown["newest"]) == (iso(first), iso(second))


def test_a_stream_that_is_there_is_left_as_it_is_where_that_was_said(served: Path) -> None:
    ringwal("create", served, "s", "--retention-records", "7")
    before = stat(served)
    done = ringwal("create", served, "s", "--retention-age", "1h")
    assert done.returncode == os.EX_CONFIG
    for said in (b"retention_age is the engine's default, not 1h", b"retention_records is 7, not", b"--exist-ok"):
        assert said in done.stderr
    done = ringwal("create", served, "s", "--retention-age", "1h", "--exist-ok", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert {**json.loads(done.stdout), "consumers": []} == before == stat(served)


@pytest.mark.parametrize(
    ("verb", "name", "options", "code", "says"),
    [
        ("create", "s", ("--retention-age", "1h"), os.EX_CONFIG, b"configure"),
        ("create", "s", (), 0, b""),
        ("create", "_s", (), os.EX_CONFIG, b"engine's own"),
        ("create", "t", ("--retention-age", "soon"), 2, b"90s, 1h30m or 30d"),
        ("create", "t", ("--retention-bytes", "1MB"), 2, b"64KiB"),
        ("create", "t", ("--retention-records", "many"), 2, b"none or default"),
        ("create", "t", ("--retention-records", "0"), os.EX_CONFIG, b"from 1"),
        ("create", "t", ("--retain-until", "n" * 88), os.EX_CONFIG, b"room for 88"),
        ("configure", "s", (), 2, b"at least one"),
        ("configure", "s", ("--retain-until", "a", "--no-retain-until"), 2, b"exclude"),
        ("configure", "t", ("--retention-age", "1h"), os.EX_NOINPUT, b"no stream"),
        ("stat", "t", (), os.EX_NOINPUT, b"no stream"),
    ],
)
def test_what_is_wrong_is_said(
    served: Path, verb: str, name: str, options: tuple[str, ...], code: int, says: bytes
) -> None:
    ringwal("create", served, "s")
    done = ringwal(verb, served, name, *options)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert len(ringwal("ls", served, "--json").stdout.splitlines()) == 1


def test_a_default_that_makes_no_sense_starts_nothing(tmp_path: Path) -> None:
    wrong = (("age", "0s"), ("age", "60"), ("bytes", "0"), ("records", "x"))
    for flag, value in ((f"--retention-{name}", value) for name, value in wrong):
        done = ringwal("run", tmp_path / "d", flag, value)
        assert done.returncode == os.EX_CONFIG and flag[2:].replace("-", "_").encode() in done.stderr
