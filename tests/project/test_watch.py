"""What guards the campaign's "never two writers" tells processes apart, also when numbers are given anew."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.identity import ask_for
from tests.faults.watch import Process, Watch
from tests.support.host import NotRun

HOLDER = """
import os, sys, threading
fd = os.open(sys.argv[2] + "/segments/0.seg", getattr(os, sys.argv[3]))
numbers, go_on = [], threading.Event()
thread = threading.Thread(target=lambda: (numbers.append(threading.get_native_id()), print(*numbers, flush=True), go_on.wait()))
thread.start()
sys.stdin.read()
go_on.set()
"""
SECONDS = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "0.seg").touch()
    return tmp_path


@contextlib.contextmanager
def holder(directory: Path, mode: str = "O_WRONLY") -> Iterator[tuple[int, int]]:
    """Looks like an engine and holds a segment open: its pid, and the number of its second thread."""
    command = [sys.executable, "-c", HOLDER, "run", str(directory), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


def test_two_that_could_write_at_once_are_told(directory: Path) -> None:
    with Watch(directory) as watch, holder(directory) as (one, _), holder(directory) as (other, _):
        assert sorted(watch.look()) == sorted((one, other))
    (note,) = watch.judge().notes
    assert str(one) in note and str(other) in note and "could write to the log at the same time" in note


def test_one_that_reads_is_no_writer(directory: Path) -> None:
    with Watch(directory) as watch, holder(directory) as (writer, _), holder(directory, "O_RDONLY"):
        assert watch.look() == [writer]
    assert watch.judge().notes == []


def test_the_number_of_a_thread_is_no_process(directory: Path) -> None:
    """As when a process has gone since /proc was listed, and its number is a WAL thread's by now."""
    watch = Watch(directory)
    with holder(directory) as (pid, thread):
        assert watch.candidate(thread) is None
        found = watch.candidate(pid)
        assert found is not None
        found.close()


def test_whoever_is_given_the_number_is_another(directory: Path) -> None:
    with contextlib.ExitStack() as afterwards:
        with holder(directory) as (pid, _):
            first = Process(pid)
            afterwards.callback(first.close)
            assert first.could_write(str(directory))
        end = time.monotonic() + SECONDS
        again = None
        while again != pid:
            if again is not None and time.monotonic() > end:
                pytest.skip(f"others take the pid {pid}")
            try:
                ask_for(pid)
            except NotRun as reason:
                pytest.skip(str(reason))
            again, _ = afterwards.enter_context(holder(directory))
        second = Process(pid)
        afterwards.callback(second.close)
        assert second.could_write(str(directory))
        assert not first.could_write(str(directory))
