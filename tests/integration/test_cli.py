"""The command line as a user meets it: real processes, a real engine, real pipes and signals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal import errors
from ringwal.config import settings
from ringwal.exit_codes import EXIT_CODES, exit_code_of
from tests.support import shm_names
from tests.support.cli_rig import DEADLINE, SMALL, end, feeding, freeze, line_of, publish, ringwal, serving, start

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


# -------------------------------------------------------------------------------------------------- exit codes


def test_every_error_class_has_the_exit_code_of_the_table() -> None:
    leaves = {
        name for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.Error) and value is not errors.Error
    }
    named = {name for row in EXIT_CODES for name in row.errors}
    assert leaves <= named


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CorruptionError("x"), os.EX_DATAERR),
        (errors.OffsetTrimmed("x"), os.EX_NOINPUT),
        (errors.NotRunning("x"), os.EX_UNAVAILABLE),
        (errors.ShmUnavailable("x"), os.EX_CANTCREAT),
        (errors.EngineFailed("x"), os.EX_IOERR),
        (errors.StorageFull("x"), os.EX_IOERR),
        (errors.FileError("x", errno.EACCES), os.EX_NOPERM),
        (errors.FileError("x", errno.ENOENT), os.EX_NOINPUT),
        (errors.FileError("x", errno.EMFILE), os.EX_IOERR),
        (errors.AckTimeout("x"), os.EX_TEMPFAIL),
        (errors.BackpressureTimeout("x"), os.EX_TEMPFAIL),
        (errors.Locked("x"), os.EX_TEMPFAIL),
        (errors.VersionMismatch("x"), os.EX_PROTOCOL),
        (errors.ConfigError("x"), os.EX_CONFIG),
        (errors.RecordTooLarge("x"), 1),
        (PermissionError(), os.EX_NOPERM),
        (FileNotFoundError(), os.EX_NOINPUT),
        (IsADirectoryError(), os.EX_IOERR),
        (KeyboardInterrupt(), 130),
        (ValueError(), 1),
    ],
)
def test_exit_code_of(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_codes_are_sorted_and_unique() -> None:
    codes = [row.code for row in EXIT_CODES]
    assert codes == sorted(set(codes))


def test_the_documentation_holds_the_same_table() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    rows = re.search(r"## Exit codes\n.*?\n\|---\|---\|\n((?:\|.*\n)+)", text, re.DOTALL)
    assert rows is not None
    assert rows[1].splitlines() == [f"| {row.code} | {row.meaning} |" for row in EXIT_CODES]


def test_help_shows_every_code() -> None:
    shown = ringwal("--help").stdout.decode()
    for row in EXIT_CODES:
        assert re.search(rf"^ +{row.code}  {re.escape(row.meaning)}$", shown, re.MULTILINE)


# ------------------------------------------------------------------------------------- without an engine running


VERBS = ("append", "configure", "create", "demo", "ls", "read", "run", "stat", "status", "stop", "tail")


def test_help_lists_every_verb_and_loads_neither_supervisor_nor_demo() -> None:
    code = "import sys; sys.argv = ['ringwal', '--help']\ntry: __import__('ringwal.cli').cli.main()\n" \
        "finally: assert not {'ringwal.processes.supervisor', 'ringwal.demo.show'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", done.stdout.decode(), re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_json_and_help(verb: str) -> None:
    done = ringwal(verb, "--help")
    assert done.returncode == 0
    assert b"--json" in done.stdout


def test_run_has_a_flag_for_every_setting() -> None:
    shown = ringwal("run", "--help").stdout.decode()
    for setting in settings():
        assert setting.flag in shown
        assert f"[default: {setting.format()}]" in re.sub(r"\s+", " ", shown)


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run",), ("read", "d"), ("read", "d", "s", "--start", "x"), ("ls", "d", "--bad")]
)
def test_a_wrong_command_line_is_2_and_says_why_on_stderr(arguments: tuple[str, ...]) -> None:
    done = ringwal(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Error" in done.stderr


@pytest.mark.parametrize(("arguments", "outcome"), [
    (("nonsense",), None), (("run",), None), (("read", "d", "s", "--start", "x"), None), (("ls", "d", "--bad"), None),
    (("read", "d", "s", "--raw"), None), (("append", "d"), "not_appended"),
])
def test_a_wrong_command_line_as_json(tmp_path: Path, arguments: tuple[str, ...], outcome: str | None) -> None:
    plain, done = ringwal(*arguments), ringwal(*arguments, "--json")
    value = json.loads(done.stderr)
    assert (done.returncode, done.stdout) == (2, b"")
    assert (value["exit_code"], value["outcome"], value["retriable"]) == (2, outcome, False)
    if arguments[-1] != "--raw":  # which --json alone contradicts
        assert value["message"] in " ".join(plain.stderr.decode().split())
    assert any(note.startswith("Usage: ") for note in value["notes"])


@pytest.mark.parametrize("arguments", [("status",), ("ls",), ("stop",)])
def test_without_an_engine_69(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = ringwal(*arguments, tmp_path)
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, b"")
    assert done.stderr.startswith(b"ringwal: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("append",), ("read",), ("tail",)])
def test_without_an_engine_69_for_a_stream(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert ringwal(*arguments, tmp_path, "s").returncode == os.EX_UNAVAILABLE


def test_an_error_as_json(tmp_path: Path) -> None:
    done = ringwal("ls", tmp_path, "--json")
    value = json.loads(done.stderr)
    assert value["error"] == "NotRunning"
    assert value["exit_code"] == done.returncode == os.EX_UNAVAILABLE
    assert set(value) == {"error", "message", "outcome", "retriable", "exit_code", "notes"}


@pytest.mark.parametrize("flag", [("--ring-bytes", "3MiB"), ("--ring-bytes", "lots"), ("--confirm-order", "random")])
def test_a_bad_setting_is_78(tmp_path: Path, flag: tuple[str, str]) -> None:
    done = ringwal("run", tmp_path / "d", *flag)
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, b"")
    assert flag[0][2:].replace("-", "_").encode() in done.stderr or flag[1].encode() in done.stderr


# --------------------------------------------------------------------------------------------------- with an engine


def test_run_prints_one_ready_line_and_leaves_nothing(tmp_path: Path) -> None:
    host = start("run", tmp_path / "d", "--json", *SMALL)
    ready = json.loads(line_of(host))
    assert ready["ready"] is True
    assert ready["pid"] == host.pid
    assert shm_names.left() == []  # not even while it runs
    code, out, _ = end(host)
    assert (code, out) == (0, b"")
    assert shm_names.left() == []


def test_ctrl_c_stops_an_engine_in_order(tmp_path: Path) -> None:
    host = start("run", tmp_path / "d", *SMALL)
    line_of(host)
    assert end(host, signal.SIGINT)[0] == 0


def test_a_second_engine_is_told_to_try_again(served: Path) -> None:
    done = ringwal("run", served, *SMALL)
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, b"")
    assert str(json.loads(ringwal("status", served, "--json").stdout)["pid"]).encode() in done.stderr


def test_lines_come_back_as_they_went_in(served: Path, tmp_path: Path) -> None:
    text = b"".join(b"%d \xff line\r\n" % n if n % 7 else b"\n" for n in range(20_000))
    source = tmp_path / "text"
    source.write_bytes(text)
    done = ringwal("append", served, "logs", "--lines", source, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value.pop("seconds") >= 0
    assert value == {
        "stream": "logs", "first_offset": 0, "last_offset": 19_999, "records": 20_000, "bytes": len(text) - 20_000,
    }
    assert ringwal("read", served, "logs").stdout == text
    assert ringwal("read", served, "logs", "--raw").stdout == text.replace(b"\n", b"")
    assert ringwal("read", served, "logs", "--start", "19998", "--max-records", "1").stdout == b"19998 \xff line\r\n"
    assert ringwal("read", served, "logs", "--start", "-1").stdout == text.splitlines(keepends=True)[-1]
    assert ringwal("read", served, "logs", "--start", "latest").stdout == b""


def test_one_record_from_stdin(served: Path) -> None:
    done = ringwal("append", served, "s", stdin=b"two\nlines\n")
    assert (done.returncode, done.stdout) == (0, b"s[0] confirmed\n")
    assert ringwal("append", served, "s", stdin=b"").stdout == b"s[1] confirmed\n"
    records = [json.loads(line) for line in ringwal("read", served, "s", "--json").stdout.splitlines()]
    assert [(record["offset"], record["encoding"], record["data"]) for record in records] == [
        (0, "utf-8", "two\nlines\n"), (1, "utf-8", ""),
    ]


def test_nothing_to_append_is_fine_and_makes_no_stream(served: Path) -> None:
    assert ringwal("append", served, "s", "--lines").returncode == 0
    assert ringwal("ls", served).stdout == b""


def test_an_append_that_is_refused_makes_no_stream(served: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    for arguments in (["/nonexistent/file"], [tmp_path / "large"], ["--lines", tmp_path / "large"]):
        done = ringwal("append", served, "s", "--json", *arguments)
        assert done.returncode != 0
        value = json.loads(done.stderr)
        assert [value[key] for key in ("records", "bytes", "first_offset", "unknown_records")] == [0, 0, None, 0]
    assert ringwal("ls", served).stdout == b""


def test_a_missing_file_is_66(served: Path) -> None:
    done = ringwal("append", served, "s", "/nonexistent/file")
    assert done.returncode == os.EX_NOINPUT
    assert b"/nonexistent/file" in done.stderr


@pytest.mark.parametrize("verb", ["read", "tail"])
def test_reading_an_unknown_stream_is_66_and_does_not_make_it(served: Path, verb: str) -> None:
    assert ringwal(verb, served, "nowhere").returncode == os.EX_NOINPUT
    assert ringwal("ls", served).stdout == b""


def test_a_record_too_large_says_how_far_it_came(served: Path) -> None:
    text = b"a\nb\n" + b"x" * 3_000_000 + b"\nc\n"
    done = ringwal("append", served, "s", "--lines", stdin=text)
    assert done.returncode == 1
    assert b"lane" in done.stderr
    assert b"the first 2 records" in done.stderr
    assert ringwal("read", served, "s").stdout == b"a\nb\n"


@pytest.mark.parametrize(
    ("more", "error"),
    [(b"", "EngineFailed"), (b"a line of text\n" * 300_000, "NotRunning")],  # the lane takes the first, not the second
)
def test_an_engine_that_is_killed_under_an_append_leaves_its_outcome_unknown(
    tmp_path: Path, more: bytes, error: str
) -> None:
    host = start("run", tmp_path / "d", "--json", *SMALL)
    report = json.loads(line_of(host))
    feeder = feeding(tmp_path / "d", b"first\n", "--json")
    freeze(report["wal_pid"])  # what comes now is published and never written
    publish(feeder, report, b"second\nthird\n")
    assert end(host, signal.SIGKILL)[0] == -signal.SIGKILL
    out, err = feeder.communicate(more, timeout=DEADLINE)
    assert (feeder.returncode, out) == (exit_code_of(vars(errors)[error]("")), b"")
    value = json.loads(err)
    assert (value["error"], value["outcome"], value["retriable"]) == (error, "unknown", False)
    assert "the first 1 record " in value["notes"][0]
    assert value["notes"][1].endswith("outcome unknown")
    assert (value["records"], value["bytes"], value["first_offset"], value["last_offset"]) == (1, 5, 0, 0)
    assert value["unknown_records"] >= 2
    again = start("run", tmp_path / "d", *SMALL)
    line_of(again)
    assert ringwal("read", tmp_path / "d", "s").stdout == b"first\n"
    assert end(again)[0] == 0


def test_ls_and_status(served: Path) -> None:
    ringwal("append", served, "b", "--lines", stdin=b"1\n2\n3\n")
    ringwal("append", served, "a", stdin=b"1")
    assert [line.split() for line in ringwal("ls", served).stdout.splitlines()] == [
        [b"START", b"CONFIRMED", b"STREAM"], [b"0", b"1", b"a"], [b"0", b"3", b"b"],
    ]
    rows = [json.loads(line) for line in ringwal("ls", served, "--json").stdout.splitlines()]
    assert [(row["name"], row["start_offset"], row["confirmed_offset"]) for row in rows] == [("a", 0, 1), ("b", 0, 3)]
    status = json.loads(ringwal("status", served, "--json").stdout)
    assert status["state"] == "running"
    assert status["counters"]["wal_records"] >= 4
    assert b"counters.wal_records" in ringwal("status", served).stdout


def test_a_reader_that_goes_away_ends_read_in_silence(served: Path) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"line of text\n" * 100_000)
    reader = start("read", served, "s")
    assert line_of(reader) == b"line of text\n"
    assert reader.stdout is not None
    assert reader.stderr is not None
    reader.stdout.close()
    assert reader.wait(DEADLINE) == -signal.SIGPIPE
    assert reader.stderr.read() == b""
    reader.stderr.close()
    assert reader.stdin is not None
    reader.stdin.close()


def test_tail_follows_and_ctrl_c_is_130_without_a_word(served: Path) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"old\n")
    follower = start("tail", served, "s", "--start", "earliest")
    assert line_of(follower) == b"old\n"
    ringwal("append", served, "s", "--lines", stdin=b"new\n")
    assert line_of(follower) == b"new\n"
    assert end(follower, signal.SIGINT) == (130, b"", b"")


def test_tail_ends_after_max_records(served: Path) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"1\n2\n3\n")
    assert ringwal("tail", served, "s", "--start", "-2", "--max-records", "2").stdout == b"2\n3\n"


def test_lines_are_appended_as_a_pipe_gives_them(served: Path) -> None:
    feeder = feeding(served, b"first\nsec")
    out, _ = feeder.communicate(b"ond", timeout=DEADLINE)
    assert out == b"s: 2 records confirmed, offsets 0 to 1\n"


def test_stop_says_that_an_engine_has_not_ended_in_order(tmp_path: Path) -> None:
    with serving(tmp_path / "d", "--json", "--stop-timeout", "0.2") as host:
        wal = json.loads(ringwal("status", tmp_path / "d", "--json").stdout)["wal_pid"]
        freeze(wal)  # it cannot end in time
        try:
            done = ringwal("stop", tmp_path / "d")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(wal, signal.SIGCONT)
        assert host.wait(DEADLINE) == os.EX_SOFTWARE
        assert (done.returncode, done.stdout) == (os.EX_IOERR, b"")
        assert b"did not finish within 0.2 s" in done.stderr
        assert b"(code 70)" in done.stderr


def test_stop_stops_and_what_was_appended_is_there_afterwards(served: Path) -> None:
    ringwal("append", served, "s", stdin=b"kept")
    assert ringwal("stop", served).returncode == 0
    assert ringwal("status", served).returncode == os.EX_UNAVAILABLE
    host = start("run", served, *SMALL)
    try:
        line_of(host)
        assert ringwal("read", served, "s", "--raw").stdout == b"kept"
    finally:
        end(host)
