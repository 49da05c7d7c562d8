"""`tail` over idle times, readers that leave and engines that end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_rig import DEADLINE, end, line_of, ringwal, serving, start


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


def said_of(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of its stderr."""
    assert process.stderr is not None
    assert select.select([process.stderr], [], [], DEADLINE)[0], "nothing was said"
    return process.stderr.readline()


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("flags", [[], ["-F"]])
def test_an_idle_tail_ends_with_its_reader(served: Path, flags: list[str]) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"one\n")
    follower = start("tail", *flags, served, "s", "--start", "0")
    assert line_of(follower) == b"one\n"
    assert follower.stdout is not None
    follower.stdout.close()
    follower.stdout = None
    assert follower.wait(DEADLINE) == -signal.SIGPIPE  # and nothing is appended meanwhile
    assert follower.communicate()[1] == b""


@pytest.mark.parametrize("verb", ["read", "tail"])
def test_an_offset_beyond_the_end_is_66_and_the_next_one_is_not(served: Path, verb: str) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"one\ntwo\n")
    done = ringwal(verb, served, "s", "--start", "3")
    assert (done.returncode, done.stdout) == (os.EX_NOINPUT, b"")
    assert b"no offset 3" in done.stderr
    assert b"the next record gets 2" in done.stderr
    assert ringwal("read", served, "s", "--start", "2").returncode == 0


def test_tail_of_an_unknown_stream_is_66_and_does_not_make_it(served: Path) -> None:
    assert ringwal("tail", served, "nowhere").returncode == os.EX_NOINPUT
    assert ringwal("ls", served).stdout == b""


# --------------------------------------------------------------------------------------------------------- following


def test_follow_waits_for_a_stream_and_misses_nothing_of_it(served: Path) -> None:
    follower = start("tail", "-F", served, "s")
    assert b"no stream named 's'" in said_of(follower)
    for line in (b"one\n", b"two\n"):
        ringwal("append", served, "s", "--lines", stdin=line)
        assert line_of(follower) == line
    assert end(follower, signal.SIGINT) == (130, b"", b"")


@pytest.mark.parametrize("made", [False, True])
def test_follow_waits_for_the_first_engine(tmp_path: Path, made: bool) -> None:
    directory = tmp_path / "d"
    if made:
        directory.mkdir()
    follower = start("tail", "-F", directory, "s")
    assert said_of(follower).startswith(b"ringwal: no engine runs on ")
    with serving(directory):
        assert b"no stream named 's'" in said_of(follower)
        for line in (b"one\n", b"two\n"):
            ringwal("append", directory, "s", "--lines", stdin=line)
            assert line_of(follower) == line
        assert end(follower, signal.SIGINT) == (130, b"", b"")


def test_a_follower_that_waits_for_an_engine_ends_with_its_reader_and_at_a_signal(tmp_path: Path) -> None:
    follower = start("tail", "-F", tmp_path / "d", "s")
    assert said_of(follower)
    assert end(follower, signal.SIGTERM) == (143, b"", b"")
    follower = start("tail", "-F", tmp_path / "d", "s")
    assert said_of(follower)
    assert follower.stdout is not None
    follower.stdout.close()
    follower.stdout = None
    assert follower.wait(DEADLINE) == -signal.SIGPIPE
    follower.communicate()


def test_without_follow_no_engine_is_69_at_once(tmp_path: Path) -> None:
    assert ringwal("tail", tmp_path, "s").returncode == os.EX_UNAVAILABLE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_follow_goes_on_over_a_restart_where_it_was(tmp_path: Path, number: int) -> None:
    directory = tmp_path / "d"
    with serving(directory) as host:
        ringwal("append", directory, "s", "--lines", stdin=b"one\ntwo\n")
        follower = start("tail", "--follow", directory, "s", "--start", "1")
        assert line_of(follower) == b"two\n"
        end(host, number)
        assert said_of(follower).startswith(b"ringwal: ")
    with serving(directory):
        ringwal("append", directory, "s", "--lines", stdin=b"three\n")
        assert line_of(follower) == b"three\n"
        assert end(follower, signal.SIGINT) == (130, b"", b"")  # it was said once


def test_follow_without_an_engine_ends_with_its_reader(tmp_path: Path) -> None:
    with serving(tmp_path / "d") as host:
        ringwal("append", tmp_path / "d", "s", stdin=b"one")
        follower = start("tail", "-F", tmp_path / "d", "s", "--start", "0")
        assert line_of(follower) == b"one\n"
        assert follower.stdout is not None
        end(host)
        assert said_of(follower)
        follower.stdout.close()
        follower.stdout = None
        assert follower.wait(DEADLINE) == -signal.SIGPIPE
        follower.communicate()


def test_a_tail_that_does_not_follow_ends_with_its_engine(tmp_path: Path) -> None:
    with serving(tmp_path / "d") as host:
        ringwal("append", tmp_path / "d", "s", "--lines", stdin=b"one\n")
        follower = start("tail", tmp_path / "d", "s", "--start", "0")
        assert line_of(follower) == b"one\n"
        end(host)
        assert b"Traceback" not in follower.communicate(timeout=DEADLINE)[1]
        assert follower.returncode in (os.EX_UNAVAILABLE, os.EX_TEMPFAIL)  # by then it has ended, or is about to


# ---------------------------------------------------------------------------------------------------------- several


def test_several_streams_come_in_one_tail_in_log_order(served: Path) -> None:
    for stream, line in (("a", b"one"), ("b b", b"two"), ("a", b"three"), ("c", b"not asked for")):
        ringwal("append", served, stream, stdin=line)
    done = ringwal("tail", served, "a", "b b", "a", "--start", "earliest", "--max-records", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\tone\nb b\ttwo\na\tthree\n", b"")
    done = ringwal("tail", served, "a", "b b", "--start", "-1", "--max-records", "2", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["stream"], one["offset"], one["data"]) for one in found] == [("b b", 0, "two"), ("a", 1, "three")]
    done = ringwal("tail", served, "a", "b b", "--since", "1h", "--until", f"@{int(time.time()) + 1}")
    assert (done.returncode, done.stdout) == (0, b"a\tone\nb b\ttwo\na\tthree\n")
    follower = start("tail", served, "a", "c", "--start", "-1")
    assert follower.stdout is not None
    assert [line_of(follower), follower.stdout.readline()] == [b"a\tthree\n", b"c\tnot asked for\n"]  # in one piece
    for stream in ("c", "b b", "a"):
        ringwal("append", served, stream, stdin=b"new")
    assert [line_of(follower), follower.stdout.readline()] == [b"c\tnew\n", b"a\tnew\n"]
    assert end(follower, signal.SIGINT) == (130, b"", b"")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("a", "b", "--raw"), 2, b"--raw is for one stream"),
        (("a", "b", "-F"), 2, b"--follow is for one stream"),
        (("a", "nobody"), os.EX_NOINPUT, b"no stream named 'nobody'"),
        (("a", "b", "--start", "9"), os.EX_NOINPUT, b"there is no offset 9 in stream 'a'"),
        ((), 2, b"Missing argument"),
    ],
)
def test_what_is_wrong_with_several_streams_is_said(served: Path, options: tuple[str, ...], code: int, says: bytes) -> None:
    for stream in ("a", "b"):
        ringwal("create", served, stream)
    done = ringwal("tail", served, *options)
    assert (done.returncode, done.stdout) == (code, b"")
    assert says in done.stderr
