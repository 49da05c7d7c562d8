"""The verbs that take something away, `trim` and `rm`, and what the others say of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal as engine
from tests.support.cli_rig import DEADLINE, end, line_of, ringwal, serving, start
from tests.support.rig import until


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it, and a stream "s" of the ten lines 0 to 9."""
    with serving(tmp_path / "d"):
        ringwal("append", tmp_path / "d", "s", "--lines", stdin=b"".join(b"%d\n" % n for n in range(10)))
        yield tmp_path / "d"


@pytest.mark.parametrize(("before", "first"), [("0", 0), ("4", 4), ("-3", 7), ("latest", 10)])
def test_trim_says_what_is_gone_and_where_the_stream_begins(served: Path, before: str, first: int) -> None:
    done = ringwal("trim", served, "s", "--before", before)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"s: %d records trimmed, begins at %d\n" % (first, first)
    assert ringwal("read", served, "s").stdout == b"".join(b"%d\n" % n for n in range(first, 10))
    again = ringwal("trim", served, "s", "--before", "earliest", "--json")
    assert json.loads(again.stdout) == {"stream": "s", "start_offset": first, "records": 0, "dry_run": False}


def test_rm_deletes_and_the_name_is_free(served: Path) -> None:
    done = ringwal("rm", served, "s")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"s: removed, with 10 records\n", b"")
    assert ringwal("ls", served).stdout == b""
    for verb in ("read", "rm", "tail"):
        assert ringwal(verb, served, "s").returncode == os.EX_NOINPUT
    assert ringwal("append", served, "s", stdin=b"new").stdout == b"s[0] confirmed\n"
    done = ringwal("rm", served, "s", "--json")
    assert json.loads(done.stdout) == {"stream": "s", "records": 1, "dry_run": False}


@pytest.mark.parametrize(("verb", "options", "said"), [
    ("trim", ("--before", "4"), b"s: 4 records would be trimmed, would begin at 4; "),
    ("rm", (), b"s: would be removed, with 10 records; "),
])
def test_a_dry_run_changes_nothing(served: Path, verb: str, options: tuple[str, ...], said: bytes) -> None:
    done = ringwal(verb, served, "s", *options, "--dry-run")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(said)
    assert b"0 segments (0 bytes) would be freed" in done.stdout  # there is but one, and it is in use
    facts = json.loads(ringwal(verb, served, "s", *options, "--dry-run", "--json").stdout)
    assert facts["dry_run"] is True
    assert (facts["segments"], facts["bytes"]) == (0, 0)
    assert facts["records"] == (4 if verb == "trim" else 10)
    assert len(ringwal("read", served, "s").stdout.splitlines()) == 10


def test_a_dry_run_counts_the_segments_that_only_this_stream_holds(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    file_bytes = 4096 + (4 << 20)
    with serving(directory):
        with engine.connect(directory, timeout=DEADLINE, append_timeout=DEADLINE) as client:
            big, small = client.stream("big"), client.stream("small")
            first = [big.append(bytes(30_000)).result(DEADLINE).offset for _ in range(150)][-1]  # more than a segment
            small.append(b"in the second one").result(DEADLINE)
            for _ in range(300):
                big.append(bytes(30_000)).result(DEADLINE)

        def freed(*arguments: str) -> tuple[int, int]:
            facts = json.loads(ringwal(arguments[0], directory, *arguments[1:], "--dry-run", "--json").stdout)
            return facts["segments"], facts["bytes"]

        assert freed("trim", "big", "--before", "0") == (0, 0)
        assert freed("trim", "big", "--before", str(first)) == (1, file_bytes)
        assert freed("trim", "big", "--before", "latest") == freed("rm", "big") == (1, file_bytes)  # then comes the small one
        assert freed("rm", "small") == (0, 0)
        with engine.connect(directory, timeout=DEADLINE) as client:
            until(lambda: client.status()["side_files"]["behind"] == 0, "all side files are there", DEADLINE)
        done = ringwal("trim", directory, "big", "--before", "latest", "--dry-run", "--json")
        facts = json.loads(done.stdout)
        more = facts["attic_segments"]
        assert more >= 1, "the one in which only the small record is alive"
        assert (more - 1) * file_bytes < facts["attic_bytes"] < more * file_bytes
        assert b" more (" in ringwal("trim", directory, "big", "--before", "latest", "--dry-run").stdout
        assert "attic_segments" in json.loads(ringwal("trim", directory, "big", "--before", "0", "--dry-run", "--json").stdout)
        assert ringwal("rm", directory, "small").returncode == 0
        segments, size = freed("rm", "big")
        assert segments >= 3
        assert size == segments * file_bytes


def test_what_cannot_be_trimmed_or_removed_has_its_code(served: Path) -> None:
    codes = {
        ("trim", served, "s", "--before", "11"): os.EX_NOINPUT,
        ("trim", served, "t", "--before", "0"): os.EX_NOINPUT,
        ("rm", served, "t"): os.EX_NOINPUT,
        ("trim", served, "s"): 2,
        ("trim", served, "s", "--before", "x"): 2,
        ("rm", served): 2,
        ("rm", served.parent / "other", "s"): os.EX_UNAVAILABLE,
        ("append", served, "_s"): os.EX_CONFIG,
    }
    for arguments, code in codes.items():
        done = ringwal(*arguments, stdin=b"x")
        assert (done.returncode, done.stdout) == (code, b""), arguments
        assert b"Traceback" not in done.stderr
    assert len(ringwal("read", served, "s").stdout.splitlines()) == 10


def test_reading_below_a_trim_is_66_and_says_where_the_stream_begins(served: Path) -> None:
    ringwal("trim", served, "s", "--before", "4")
    for verb in ("read", "tail"):
        done = ringwal(verb, served, "s", "--start", "3")
        assert done.returncode == os.EX_NOINPUT
        assert b"begins at 4" in done.stderr
    assert ringwal("read", served, "s", "--start", "-100").stdout.startswith(b"4\n")
    facts = json.loads(ringwal("ls", served, "--json").stdout)
    assert (facts["start_offset"], facts["confirmed_offset"], facts["records"]) == (4, 10, 6)


def test_a_name_that_plays_tricks_is_shown_escaped(served: Path) -> None:
    name = "\u202eevil"
    ringwal("append", served, name, stdin=b"x")
    for arguments in (("trim", served, name, "--before", "1"), ("rm", served, name)):
        assert "\u202e".encode() not in ringwal(*arguments).stdout


def test_a_tail_ends_with_its_stream_and_one_that_follows_goes_on_with_the_next_of_its_name(served: Path) -> None:
    tails = [start("tail", served, "s", "--start", "9"), start("tail", "-F", served, "s", "--start", "9")]
    for each in tails:
        assert line_of(each) == b"9\n"
    assert ringwal("rm", served, "s").returncode == 0
    out, err = tails[0].communicate(timeout=DEADLINE)
    assert (tails[0].returncode, out) == (os.EX_NOINPUT, b"")
    assert b"deleted" in err or b"no stream" in err
    ringwal("append", served, "s", "--lines", stdin=b"new\n")
    assert line_of(tails[1]) == b"new\n"
    assert end(tails[1], signal.SIGINT)[0] == 130


def test_one_that_follows_notices_that_the_stream_is_another_though_it_has_not_looked_meanwhile(served: Path) -> None:
    follower = start("tail", "-F", served, "s", "--start", "9", "--max-records", "13")
    assert line_of(follower) == b"9\n"
    os.kill(follower.pid, signal.SIGSTOP)
    ringwal("rm", served, "s")
    lines = b"".join(b"new %d\n" % n for n in range(12))
    ringwal("append", served, "s", "--lines", stdin=lines)
    os.kill(follower.pid, signal.SIGCONT)
    assert follower.communicate(timeout=DEADLINE)[0] == lines
    assert follower.returncode == 0


def test_one_that_follows_notices_over_a_restart_that_the_stream_is_another(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    with serving(directory) as host:
        ringwal("append", directory, "s", "--lines", stdin=b"1\n2\n3\n")
        follower = start("tail", "-F", directory, "s", "--start", "2", "--max-records", "5")
        assert line_of(follower) == b"3\n"
        os.kill(follower.pid, signal.SIGSTOP)
        ringwal("rm", directory, "s")
        ringwal("append", directory, "s", "--lines", stdin=b"a\nb\nc\nd\n")
        end(host)
    with serving(directory):
        os.kill(follower.pid, signal.SIGCONT)
        assert follower.communicate(timeout=DEADLINE)[0] == b"a\nb\nc\nd\n"
        assert follower.returncode == 0
