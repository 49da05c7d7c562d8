"""Processes that start an engine at the same moment, as the workers of a server do: one of them does it, for all."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal
from ringwal import lock_file
from tests.support import rig
from tests.support.programs import Program, script

PROCESSES, RECORDS = 32, 20

WORKER = """
import os, sys, ringwal
directory, name, sys.executable, gate = sys.argv[1:]
print("loaded")
os.read(int(gate), 1)
with ringwal.connect(directory, autostart=True) as client:
    orders = client.stream("orders")
    receipts = [orders.append(f"{name} {n}".encode()) for n in range(20)]
    for receipt in receipts:
        receipt.result()
    facts = client.status()
    print(facts["pid"], facts["epoch"])
    while sys.stdin.readline() == "more\\n":
        print(orders.append(b"more").result().offset)
"""


def held(directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return lock_file.held(fd)
    finally:
        os.close(fd)


def await_left(directory: Path, engine: int) -> None:
    """Until that engine, which nobody uses any more, is not there any more."""
    rig.until(lambda: rig.state_of(engine) in "XZ", "the engine has left")
    assert not held(directory)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that notes each of its runs in the file `runs` beside it, and waits there as long as `wait` says."""
    made = tmp_path / "python-of-a-test"
    made.write_text(
        f"#!/bin/sh\necho $$ >> {tmp_path}/runs\n"
        f"test -p {tmp_path}/wait && read line < {tmp_path}/wait\nexec {sys.executable} \"$@\"\n"
    )
    made.chmod(0o755)
    return made


def runs(python: Path) -> list[int]:
    """The pids with which it was run."""
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in python.with_name("runs").read_text().split()]
    return []


@pytest.fixture
def gate() -> Iterator[tuple[int, int]]:
    """A pipe at whose end many may wait for one moment."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_many_at_the_same_moment_have_one_engine_which_leaves_with_the_last(
    directory: Path, tmp_path: Path, python: Path, gate: tuple[int, int]
) -> None:
    program = script(tmp_path, "worker.py", WORKER)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Program(program, directory, f"w{n}", python, str(gate[0]), place=tmp_path, pass_fds=gate[:1]))
            for n in range(PROCESSES)
        ]
        assert {worker.line() for worker in workers} == {"loaded"}
        os.write(gate[1], bytes(PROCESSES))
        said = {worker.line() for worker in workers}
        assert len(said) == 1, "all of them are served by one engine"
        engine, epoch = map(int, said.pop().split())
        assert epoch == 1, "and there was no other before it"
        assert len(runs(python)) == 1, "nor was one begun in vain"
        for worker in workers[1:]:
            worker.tell()
            worker.check()
        workers[0].tell("more")
        assert int(workers[0].line()) == PROCESSES * RECORDS, "it stays for the last one"
        workers[0].tell()
        workers[0].check()
    await_left(directory, engine)
    with ringwal.open_readonly(directory) as log:
        records = [record.data.decode() for record in log.stream("orders").records()]
    assert records.pop() == "more"
    assert len(records) == PROCESSES * RECORDS
    for n in range(PROCESSES):
        assert [record for record in records if record.startswith(f"w{n} ")] == [f"w{n} {k}" for k in range(RECORDS)]


STARTER = """
import sys, ringwal
directory, sys.executable = sys.argv[1:]
print("begins")
with ringwal.connect(directory, autostart=True, timeout=30) as client:
    print(client.stream("orders").append(b"x").result().offset, client.status()["pid"])
    sys.stdin.readline()
"""


@pytest.mark.parametrize("interpreter_too", [False, True])
def test_a_starter_that_is_killed_hinders_nobody(directory: Path, tmp_path: Path, python: Path, interpreter_too: bool) -> None:
    os.mkfifo(tmp_path / "wait")
    program = script(tmp_path, "starter.py", STARTER)
    with Program(program, directory, python, place=tmp_path) as first:
        rig.until(lambda: len(runs(python)) == 1, "its interpreter runs")
        with Program(program, directory, python, place=tmp_path) as second:
            assert second.line() == "begins"
            os.kill(first.pid, signal.SIGKILL)
            if interpreter_too:
                os.kill(runs(python)[0], signal.SIGKILL)
                rig.until(lambda: len(runs(python)) == 2, "another one is run")
            (tmp_path / "wait").write_text("go on\n")
            offset, engine = map(int, second.line().split())
            assert offset == 0
            assert len(runs(python)) == 1 + interpreter_too
            second.tell()
            second.check()
    await_left(directory, engine)


def test_a_starter_that_is_stopped_hinders_nobody(directory: Path, tmp_path: Path, python: Path) -> None:
    os.mkfifo(tmp_path / "wait")
    program = script(tmp_path, "starter.py", STARTER)
    with Program(program, directory, python, place=tmp_path) as first, Program(
        program, directory, python, place=tmp_path
    ) as second:
        rig.until(lambda: len(runs(python)) == 1, "an interpreter runs")
        starter, other = (first, second) if parent_of(runs(python)[0]) == first.pid else (second, first)
        rig.stop_process(starter.pid)
        (tmp_path / "wait").write_text("go on\n")
        assert other.line() == "begins"
        offset, engine = map(int, other.line().split())
        assert offset == 0
        os.kill(starter.pid, signal.SIGCONT)
        assert starter.line() == "begins"
        assert starter.line() == f"1 {engine}"
        for each in (starter, other):
            each.tell()
            each.check()
        assert len(runs(python)) == 1
    await_left(directory, engine)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_an_interpreter_leaves_behind_hinders_no_later_start(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    """It has the same stderr as the engine, and goes on after that."""
    left = tmp_path / "left"
    made = tmp_path / "python-of-a-test"
    made.write_text(f"#!/bin/sh\nsleep 3600 &\necho $! >> {left}\nexec {sys.executable} \"$@\"\n")
    made.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(made))
    try:
        for offset in range(2):
            with ringwal.connect(directory, autostart=True, timeout=rig.WAIT) as client:
                assert client.stream("orders").append(b"x").result(rig.WAIT).offset == offset
                engine = client.status()["pid"]
            os.kill(engine, end)
            rig.until(lambda: not held(directory), "the last of it has left")
    finally:
        for pid in left.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])
