"""What became of the input is always said, apart from what became of the output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal as api
from ringwal.steps import park
from tests.support.cli_rig import DEADLINE, SMALL, command, end, feeding, freeze, publish, ringwal, serving, start


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


def shell(arguments: list[str], redirections: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The verb, with its descriptors as the shell makes them."""
    line = ["sh", "-c", f'"$@" {redirections}', "sh", *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, timeout=DEADLINE, check=False)


def await_records(directory: Path, stream: str, count: int) -> list[bytes]:
    with api.connect(directory) as client:
        found = client.stream(stream).tail(api.EARLIEST, idle_timeout=DEADLINE, missing="wait")
        return [next(found).data for _ in range(count)]


# ------------------------------------------------------------------------------------------------------ the output


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- 2>&-"])
def test_an_append_whose_output_cannot_be_written_is_an_append(served: Path, redirection: str) -> None:
    done = shell(command("append", "--lines", served, "s"), redirection, b"one\ntwo\n")
    assert done.returncode == 0, done.stderr
    said = [b"ringwal: the output cannot be written"] if "2>" not in redirection else []
    assert [line.rpartition(b": ")[0] for line in done.stderr.splitlines()] == said
    assert await_records(served, "s", 2) == [b"one", b"two"]


def test_an_append_whose_reader_has_gone_is_an_append(served: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    feeder = start("append", served, "s", stdout=writing)
    os.close(writing)
    assert feeder.communicate(b"record", timeout=DEADLINE)[1].startswith(b"ringwal: the output cannot be written")
    assert feeder.returncode == 0
    assert await_records(served, "s", 1) == [b"record"]


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "arguments", [("read", "s"), ("status",), ("status", "--json"), ("ls",), ("tail", "s", "--start", "0")]
)
def test_a_verb_that_cannot_say_its_result_is_74(served: Path, arguments: tuple[str, ...], redirection: str) -> None:
    ringwal("append", served, "s", stdin=b"record")
    done = shell(command(arguments[0], served, *arguments[1:]), redirection)
    assert done.returncode == os.EX_IOERR
    assert b"the output cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("redirection", ["</dev/null >&-", ">/dev/full"])
def test_an_engine_whose_ready_line_cannot_be_written_serves(tmp_path: Path, redirection: str) -> None:
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command("run", tmp_path / "d", *SMALL)]
    host = subprocess.Popen(line, stderr=subprocess.PIPE)
    try:
        assert host.stderr is not None
        while b"the output cannot be written" not in host.stderr.readline():
            assert host.poll() is None
        assert ringwal("append", tmp_path / "d", "s", stdin=b"x").returncode == 0
    finally:
        assert end(host)[0] == 0


def test_a_closed_input_is_no_empty_record(served: Path) -> None:
    done = shell(command("append", served, "s", "--json"), "<&-")
    assert done.returncode == os.EX_IOERR
    assert json.loads(done.stderr)["outcome"] == "not_appended"
    assert ringwal("ls", served).stdout == b""


def test_a_stderr_that_takes_nothing_changes_no_code(tmp_path: Path) -> None:
    assert shell(command("ls", tmp_path), "2>/dev/full").returncode == os.EX_UNAVAILABLE
    assert shell(command("ls", tmp_path), "2>&-").returncode == os.EX_UNAVAILABLE
    assert shell(command("nonsense"), "2>/dev/full").returncode == 2


# --------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize(("number", "code", "word"), [
    (signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"ended by SIGTERM"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_says_what_is_confirmed(served: Path, number: int, code: int, word: bytes, as_json: bool) -> None:
    feeder = start("append", "--lines", served, "s", *(["--json"] if as_json else []))
    assert feeder.stdin is not None
    feeder.stdin.write(b"one\ntwo\nthr")
    feeder.stdin.flush()
    assert await_records(served, "s", 2) == [b"one", b"two"]  # and the pipe stays open
    ended, out, err = end(feeder, number)
    assert (ended, out) == (code, b"")
    assert word in err
    assert b"the first 2 records (6 bytes)" in err
    assert b"nothing after these was appended" in err
    if as_json:
        value = json.loads(err)
        assert (value["exit_code"], value["outcome"]) == (code, "not_appended")
    assert ringwal("read", served, "s").stdout == b"one\ntwo\n"


def test_a_signal_says_what_is_unknown(tmp_path: Path) -> None:
    with serving(tmp_path / "d", "--json"):
        report = json.loads(ringwal("status", tmp_path / "d", "--json").stdout)
        feeder = feeding(tmp_path / "d", b"one\n")
        freeze(report["wal_pid"])
        try:
            publish(feeder, report, b"two\nthree\n")
            code, out, err = end(feeder, signal.SIGTERM)
        finally:
            os.kill(report["wal_pid"], signal.SIGCONT)
        assert (code, out) == (143, b"")
        assert b"the first 1 record (3 bytes)" in err
        assert b"2 records after these: outcome unknown" in err


# --------------------------------------------------------------------------------------------------------- too much


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_a_huge_file_is_refused_before_it_is_held(served: Path, tmp_path: Path, lines: list[str]) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(3 << 30)
    limited = ["sh", "-c", 'ulimit -v 1000000 && exec "$@"', "sh"]
    line = [*limited, *command("append", *lines, served, "s", tmp_path / "big")]
    done = subprocess.run(line, capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert b"--lane-bytes" in done.stderr
    assert b"nothing of the input was appended" in done.stderr


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_a_pipe_without_an_end_is_refused_at_the_limit(served: Path, lines: list[str]) -> None:
    endless = [sys.executable, "-c", "import sys\nwhile True: sys.stdout.write('x' * 65536)"]
    with subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as source:
        feeder = start("append", *lines, served, "s", stdin=source.stdout)
        assert source.stdout is not None
        source.stdout.close()
        err = feeder.communicate(timeout=DEADLINE)[1]
        assert feeder.returncode == 1
        assert b"larger than" in err
        source.wait(DEADLINE)


def test_the_limit_itself_fits_and_batches_fit_into_a_small_lane(served: Path, tmp_path: Path) -> None:
    with api.connect(served) as client:
        limit = park(client._bind_steps("s")).lane.record_limit
    source = tmp_path / "source"
    source.write_bytes(b"x" * limit)
    assert ringwal("append", served, "s", source).returncode == 0
    source.write_bytes(b"x" * (limit + 1))
    assert ringwal("append", served, "s", source).returncode == 1
    source.write_bytes(b"a line of text\n" * 20_000)
    done = ringwal("append", "--lines", "--lane-bytes", "64KiB", served, "lines", source)
    assert done.returncode == 0, done.stderr
    assert ringwal("read", served, "lines").stdout == source.read_bytes()


# ------------------------------------------------------------------------------------------------------- a full disk


def test_a_full_disk_is_told_as_such(small_disk: Path) -> None:
    with serving(small_disk / "d"):
        with api.connect(small_disk / "d", append_timeout=0.3) as client:
            stream = client.stream("s")
            with pytest.raises(api.StorageFull):
                while True:
                    stream.append(bytes(8000))
            done = ringwal("append", "--lines", "--json", "--timeout", "1", small_disk / "d", "s", stdin=b"one\ntwo\n")
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        value = json.loads(done.stderr)
        assert done.returncode == value["exit_code"] == os.EX_IOERR
        assert (value["error"], value["outcome"], value["retriable"]) == ("StorageFull", "unknown", False)
        assert "No space left on device" in value["message"]
        assert value["notes"] == ["2 records of the input: outcome unknown"]
