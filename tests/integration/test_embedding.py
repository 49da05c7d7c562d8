"""A program that runs an engine itself: what it is told when that cannot start, and what is left for whoever looks later."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import ringwal
from tests.support.cli_rig import ringwal as command_line
from tests.support.rig import WAIT

SMALL = ringwal.Config(ring_bytes=1 << 20, segment_bytes=4 << 20, max_streams=256, block_bytes=64 << 10)


def engine(directory: Path) -> ringwal.Supervisor:
    """One that stops as soon as it is ready."""
    made = ringwal.Supervisor(directory, SMALL, on_ready=lambda _: made.stop())
    return made


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def refused(directory: Path) -> ringwal.FileError:
    with pytest.raises(ringwal.FileError) as caught:
        engine(directory).run()
    return caught.value


# ----------------------------------------------------------------------------------------------- what is refused


def test_a_path_that_is_no_directory_is_named_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = refused(tmp_path / "file")
    assert (error.errno, error.path, error.owner) == (errno.EEXIST, str(tmp_path / "file"), os.geteuid())
    assert f"cannot run an engine on {tmp_path / 'file'}" in str(error)


def test_a_file_in_the_directory_is_named(directory: Path) -> None:
    (directory / "lock").mkdir(parents=True)
    error = refused(directory)
    assert (error.errno, error.path) == (errno.EISDIR, str(directory / "lock"))
    assert f"cannot run an engine on {directory}: lock: " in str(error)


def test_a_limit_on_the_size_of_files_is_named(directory: Path) -> None:
    with limited(resource.RLIMIT_FSIZE, 1 << 20):
        error = refused(directory)
    assert error.errno == errno.EFBIG
    assert f"files of {1 << 20} bytes" in str(error)
    assert "ulimit -f" in str(error)


def test_no_descriptor_for_the_engine_itself_is_an_error_of_the_tree(directory: Path) -> None:
    assert callable(ringwal.Supervisor)  # so what it loads is loaded
    opened = [os.open("/", os.O_PATH)]
    with limited(resource.RLIMIT_NOFILE, opened[0] + 1):
        with suppress(OSError):
            while True:
                opened.append(os.open("/", os.O_PATH))
        try:
            with pytest.raises(ringwal.FileError, match="ulimit -n") as caught:
                engine(directory)
        finally:
            for fd in opened:
                os.close(fd)
    assert caught.value.errno == errno.EMFILE


def test_what_on_ready_raises_comes_out_as_it_is(directory: Path) -> None:
    mine = OSError(errno.ECHILD, "mine")

    def ready(facts: object) -> None:
        raise mine

    with pytest.raises(ChildProcessError) as caught:
        ringwal.Supervisor(directory, SMALL, on_ready=ready).run()
    assert caught.value is mine
    assert engine(directory).run() == 0


# ---------------------------------------------------------------------------------------------------------- once


def test_an_engine_is_run_once(directory: Path) -> None:
    used = engine(directory)
    assert used.run() == 0
    with pytest.raises(RuntimeError, match="another Supervisor"):
        used.run()
    assert engine(directory).run() == 0


def test_while_it_runs_it_is_not_run_again(directory: Path) -> None:
    ready = threading.Event()
    running = ringwal.Supervisor(directory, SMALL, on_ready=lambda _: ready.set())
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        assert ready.wait(WAIT)
        with pytest.raises(RuntimeError):
            running.run()
        with ringwal.connect(directory) as client:
            assert client.stream("s").append(b"x").result(WAIT).offset == 0
    finally:
        running.stop()
        thread.join()


# ------------------------------------------------------------------------------------------------ what is left of it


def last_status(directory: Path) -> dict[str, object]:
    found = json.loads((directory / "last-status.json").read_text())
    assert isinstance(found, dict)
    return found


def test_a_start_that_was_refused_is_told_by_status_with_the_report_before(directory: Path) -> None:
    assert engine(directory).run() == 0
    before = last_status(directory)
    assert (before["started"], before["exit_code"]) == (True, 0)
    (directory / "manifest").write_bytes(bytes((directory / "manifest").stat().st_size))
    for _ in range(2):  # a second refusal does not stand for the engine before
        with pytest.raises(ringwal.CorruptionError) as caught:
            engine(directory).run()
        found = last_status(directory)
        assert (found["started"], found["exit_code"], found["error"]) == (False, os.EX_DATAERR, "CorruptionError")
        assert found["reason"] == str(caught.value)
        assert found["before"] == before
    said = command_line("status", directory)
    assert said.returncode == os.EX_UNAVAILABLE
    assert b"the last start was refused at " in said.stderr
    assert str(found["ended"]).encode() in said.stderr
    assert str(caught.value).encode() in said.stderr
    assert b"with code 65" in said.stderr


def test_a_start_that_failed_late_is_told_too(directory: Path) -> None:
    def ready(facts: object) -> None:
        raise ValueError("not like this")

    with pytest.raises(ValueError, match="not like this"):
        ringwal.Supervisor(directory, SMALL, on_ready=ready).run()
    assert (last_status(directory)["started"], last_status(directory)["reason"]) == (False, "not like this")
    assert engine(directory).run() == 0
    assert last_status(directory)["started"] is True


def test_who_finds_the_directory_held_leaves_nothing_in_it(directory: Path) -> None:
    def ready(facts: object) -> None:
        with pytest.raises(ringwal.Locked):
            engine(directory).run()
        assert not (directory / "last-status.json").exists()
        running.stop()

    running = ringwal.Supervisor(directory, SMALL, on_ready=ready)
    assert running.run() == 0
