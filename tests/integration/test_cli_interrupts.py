"""SIGINT, SIGTERM and SIGHUP before any line of a verb: no traceback, the code that says which, and what became of records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringwal as api
from tests.support.cli_rig import DEADLINE, command, end, feeding, freeze, line_of, publish, ringwal, serving, start
from tests.support.rig import CHECKOUT

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The console script, as a program that is struck before its lines. `STRIKE n`: before the n-th line of the package, once.
# `EVERY n`: before every n-th; in a child each time, so that the program itself goes on to its end.
STRUCK = """
import os, signal, sys
mode, most, signals, *sys.argv[1:] = sys.argv[1:]
numbers, most = [int(number) for number in signals.split(",")], int(most)
home, lines, found = os.path.join(os.getcwd(), "engine", "ringwal"), 0, []

def struck(frame, number):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        sys.settrace(None)
        found.clear()
        os.dup2(writing, 2)
        os.kill(os.getpid(), number)
        return False
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        words = said.read().decode()
    place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
    found.append((place, int(number), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), words))
    return True

def local(frame, event, _):
    global lines
    if event == "line" and begun():
        lines += 1
        if mode == "EVERY" and lines % most == 0:
            if not struck(frame, numbers[len(found) % len(numbers)]):
                return None
        elif mode == "STRIKE" and lines == most:
            sys.settrace(None)
            os.kill(os.getpid(), numbers[0])
    return local

def begun():
    # Its handlers are in place, and its last word is not said yet.
    return mode == "STRIKE" or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)

def trace(frame, event, _):
    return local if frame.f_code.co_filename.startswith(home) else None

sys.settrace(trace)
code = 0
try:
    from ringwal_command import main
    main()
except SystemExit as end:
    code = end.code
finally:
    sys.settrace(None)
if found:  # which a child has none
    import json
    print(json.dumps(found))
sys.exit(code)
"""


def run_struck(mode: str, every: int, numbers: tuple[int, ...], *arguments: object, stdin: bytes = b"") -> Any:
    """The verb, on an input that is a file: what its children read is theirs."""
    line = [sys.executable, "-c", STRUCK, mode, str(every), ",".join(str(int(n)) for n in numbers), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "engine")}
    return subprocess.run(
        line, input=stdin, capture_output=True, timeout=DEADLINE, check=False, cwd=CHECKOUT, env=environment
    )


BEFORE = {
    "append": (["append", "DIR", "s"], os.EX_UNAVAILABLE),
    "append --json": (["append", "DIR", "s", "--json"], os.EX_UNAVAILABLE),
    "append without a stream": (["append", "DIR"], 2),
    "read": (["read", "DIR", "s"], os.EX_UNAVAILABLE),
    "tail": (["tail", "DIR", "s"], os.EX_UNAVAILABLE),
    "ls": (["ls", "DIR", "--json"], os.EX_UNAVAILABLE),
    "status": (["status", "DIR"], os.EX_UNAVAILABLE),
    "stop": (["stop", "DIR"], os.EX_UNAVAILABLE),
    "run": (["run", "DIR", "--ring-bytes", "3MiB"], os.EX_CONFIG),
    "demo": (["demo", "--seconds", "1"], 2),
}


@pytest.mark.parametrize(("arguments", "code"), BEFORE.values(), ids=BEFORE)
def test_a_signal_before_any_line_of_a_verb(directory: Path, arguments: list[str], code: int) -> None:
    """From the imports on to the end, which comes soon, as no engine runs."""
    done = run_struck("EVERY", 17, NUMBERS, *[str(directory) if word == "DIR" else word for word in arguments])
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 50
    assert any(place.startswith("stream.py:") for place, *_ in found)  # none of its functions is called: while it is loaded
    for place, number, ended, words in found:
        assert "Traceback" not in words, (place, words)
        if place.startswith("interrupts.py:") and ended == code:
            continue  # it had said all that it has to say
        assert ended == 128 + number, (place, number, ended, words)
        if arguments[0] == "append":
            assert "nothing of the input was appended" in words, (place, words)
            if "--json" in arguments:
                value = json.loads(words.splitlines()[-1])
                assert (value["exit_code"], value["outcome"], value["records"]) == (128 + number, "not_appended", 0)


ENTRIES = {
    "-m ringwal": ["-m", "ringwal"],
    "-mringwal": ["-mringwal"],
    "the console script": ["-c", "from ringwal_command import main; main()"],
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_every_way_in_has_its_handlers_before_the_package_is_loaded(tmp_path: Path, entry: list[str], number: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def trace(frame, event, _):\n"
        "    if frame.f_code.co_filename.endswith('client/api.py'):\n"
        "        sys.settrace(None)\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "sys.settrace(trace)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(CHECKOUT / "engine")])}
    line = [sys.executable, *entry, "append", str(tmp_path), "s"]
    done = subprocess.run(line, capture_output=True, timeout=DEADLINE, check=False, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.splitlines()[1:] == [b"ringwal: nothing of the input was appended"]


def test_a_program_that_uses_the_package_keeps_its_own_signals() -> None:
    text = "import signal, sys; import ringwal\n" \
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and sys.excepthook is sys.__excepthook__\n" \
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
    done = subprocess.run([sys.executable, "-c", text], check=False, env={**os.environ, "PYTHONPATH": str(CHECKOUT / "engine")})
    assert done.returncode == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("interrupts") / "d"
    with serving(directory):
        yield directory


def test_a_signal_before_any_line_of_an_append_says_what_is_confirmed(served: Path) -> None:
    said = set()
    for step in range(100):
        stream, number = f"s{step}", NUMBERS[step % 3]
        place = first_line(served) + step * 71
        done = run_struck("STRIKE", place, (number,), "append", served, stream, "--lines", "--json", stdin=b"one\ntwo\n")
        assert b"Traceback" not in done.stderr, (place, done.stderr)
        there = records(served, stream)
        if done.returncode == 0:  # it was over by then
            assert there == 2
            break
        assert done.returncode == 128 + number, (place, done.stderr)
        value = json.loads(done.stderr.splitlines()[-1])
        assert value["exit_code"] == done.returncode
        assert value["records"] <= there <= value["records"] + value["unknown_records"], (place, value)
        assert (value["outcome"] == "unknown") == (value["unknown_records"] > 0)
        said.add((value["records"], value["outcome"]))
    assert {(0, "not_appended"), (2, "not_appended")} <= said


_FIRST: list[int] = []


def first_line(directory: Path) -> int:
    """Of the package's lines that an append runs, about the first after its imports: those of a verb that does nothing."""
    if not _FIRST:
        low, high = 0, 1 << 14
        while high - low > 16:  # the last line at which a verb without an engine is struck
            middle = (low + high) // 2
            done = run_struck("STRIKE", middle, (signal.SIGTERM,), "append", directory.parent / "nowhere", "s")
            low, high = (middle, high) if done.returncode == 143 else (low, middle)
        _FIRST.append(low - 160)
    return _FIRST[0]


def records(directory: Path, stream: str) -> int:
    with api.connect(directory) as client:
        return {info.name: info.records for info in client.streams()}.get(stream, 0)


# ------------------------------------------------------------------------------------------------------- at its work


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_what_the_first_one_waits_for(tmp_path: Path, number: int, code: int) -> None:
    with serving(tmp_path / "d", "--json"):
        report = json.loads(ringwal("status", tmp_path / "d", "--json").stdout)
        feeder = feeding(tmp_path / "d", b"one\n", "--json")
        freeze(report["wal_pid"])
        try:
            publish(feeder, report, b"two\nthree\n")
            feeder.send_signal(number)
            out, err = end_soon(feeder, number)
        finally:
            os.kill(report["wal_pid"], signal.SIGCONT)
        assert (feeder.returncode, out) == (code, b"")
        value = json.loads(err.splitlines()[-1])
        seen = value["records"]  # the first one is confirmed; whether it has looked is a matter of luck
        assert (seen, value["bytes"], value["unknown_records"]) in [(0, 0, 3), (1, 3, 2)]
        offset = 0 if seen else None
        assert (value["first_offset"], value["last_offset"], value["outcome"]) == (offset, offset, "unknown")


def end_soon(feeder: subprocess.Popen[bytes], number: int) -> tuple[bytes, bytes]:
    """Signalled until it has ended, as somebody at a terminal does."""
    while feeder.poll() is None:
        feeder.send_signal(number)
    return feeder.communicate(timeout=DEADLINE)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_tail_ends_in_silence_and_nohup_is_heeded(served: Path, number: int) -> None:
    ringwal("append", served, "tailed", stdin=b"x")
    follower = start("tail", served, "tailed", "--start", "0")
    assert line_of(follower) == b"x\n"
    assert end(follower, number) == (128 + number, b"", b"")
    deaf = subprocess.Popen(
        ["nohup", *command("append", "--lines", served, "deaf")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert deaf.stdin is not None
    deaf.stdin.write(b"one\n")
    deaf.stdin.flush()
    with api.connect(served) as client:
        for _ in client.stream("deaf").tail(api.EARLIEST, idle_timeout=DEADLINE, missing="wait"):
            break
    deaf.send_signal(signal.SIGHUP)
    assert deaf.communicate(b"two\n", timeout=DEADLINE)[0].startswith(b"deaf: ")
    assert deaf.returncode == 0


def requests(directory: Path) -> int:
    return int(json.loads(ringwal("status", directory, "--json").stdout)["counters"]["wal_requests"])


@pytest.mark.parametrize("verb", [["trim", "--before", "1"], ["rm"]], ids=["trim", "rm"])
def test_an_interrupted_change_of_a_stream_says_that_it_may_come_yet(directory: Path, verb: list[str]) -> None:
    with serving(directory):
        assert ringwal("append", directory, "s", stdin=b"x").returncode == 0
        before = json.loads(ringwal("status", directory, "--json").stdout)
        freeze(before["drain_pid"])  # who would confirm it
        change = start(verb[0], directory, "s", *verb[1:], "--json")
        while requests(directory) == before["counters"]["wal_requests"]:
            assert change.poll() is None
        code, out, err = end(change, signal.SIGINT)
        told = json.loads(err)
        assert (code, out, told["outcome"]) == (130, b"", "unknown")
        what = "trim" if verb[0] == "trim" else "deletion"
        assert told["notes"][0].startswith(f"the {what} of stream 's' may come into force")
        os.kill(before["drain_pid"], signal.SIGCONT)
