"""Backups while an engine and its writers go on, and the logs that are made of them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ringwal
from ringwal.log import segment
from tests.support.log_place import log_at
from tests.support.meddling import command, serving
from tests.support.rig import WAIT, Engine, until

SMALL_LOG = {"segment_bytes": "4MiB", "ring_bytes": "1MiB", "max_streams": 256}
STREAMS = ("a", "b")


def record(offset: int) -> bytes:
    return b"%08d" % offset + bytes([offset % 251]) * 3000


@contextmanager
def load(directory: Path) -> Iterator[Callable[[], dict[str, int]]]:
    """Two streams that are appended to all the time. Gives what says how far each is confirmed."""
    over = threading.Event()
    client = ringwal.connect(directory, append_timeout=WAIT)
    streams = [client.create_stream(name) for name in STREAMS]

    def confirmed() -> dict[str, int]:
        return {stream.name: stream.stat().confirmed_offset for stream in streams}

    def write() -> None:
        offset = 0
        while not over.is_set():
            for stream in streams:
                stream.append(record(offset))
            offset += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until(lambda: min(confirmed().values(), default=0) > 1500, "more than two segments", WAIT)
        yield confirmed
    finally:
        over.set()
        thread.join()
        client.close()


def check(directory: Path, least: dict[str, int]) -> None:
    """The log there has all that was confirmed, as it was appended, and goes on."""
    with serving(directory), ringwal.connect(directory) as client:
        for name in STREAMS:
            stream = client.stream(name)
            info = stream.stat()
            assert info.confirmed_offset >= least[name]
            at = info.start_offset
            while records := stream.read(at, 5000):
                assert [each.data for each in records] == [record(at + k) for k in range(len(records))]
                at += len(records)
            assert at == info.confirmed_offset
            assert stream.append(record(at)).result(WAIT).offset == at


def test_everything_that_was_confirmed_before_is_in_a_backup_made_under_load(
    directory: Path, start: Callable[..., Engine], tmp_path: Path
) -> None:
    start(**SMALL_LOG)
    least: dict[Path, dict[str, int]] = {}
    with load(directory) as confirmed:
        for n in range(4):
            to = tmp_path / f"backup-{n % 2}"
            least[to] = confirmed()
            done = command("backup", "--incremental", "--json", directory, to)
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert said["segments"] == said["linked"] + said["copied"] + said["kept"]
            assert said["copied"] <= 1 and (said["linked"] > 0 or n > 1)
    for to, offsets in least.items():
        assert command("verify", "--deep", to).returncode == 0
        with ringwal.open_readonly(to) as found:  # a backup is a log, stopped in order
            for name in STREAMS:
                assert found.stream(name).stat().confirmed_offset >= offsets[name]
                assert found.stream(name).read(offsets[name] - 1, 1)[0].data == record(offsets[name] - 1)
        out = tmp_path / f"restored-{to.name}"
        done = command("restore", to, out)
        assert done.returncode == 0, done.stderr
        check(out, offsets)


def test_files_that_a_backup_has_are_never_written_again(
    directory: Path, start: Callable[..., Engine], tmp_path: Path
) -> None:
    """Also where the log drops its oldest segments and uses their files for the next ones."""
    start(**SMALL_LOG, max_log_bytes="24MiB", on_full="drop_oldest")
    kept: dict[Path, tuple[dict[str, bytes], dict[str, int]]] = {}
    with load(directory) as confirmed:
        for n in range(6):
            least, to = confirmed(), tmp_path / f"backup-{n}"
            ringwal.backup(directory, to)
            kept[to] = {path.name: path.read_bytes() for path in (to / "segments").iterdir()}, least
            until(lambda least=least: confirmed()["a"] > least["a"] + 500, "the log to go on", WAIT)  # type: ignore[misc]
    for to, (files, least) in kept.items():
        assert {path.name: path.read_bytes() for path in (to / "segments").iterdir()} == files
        ringwal.restore(to, tmp_path / "restored")
        check(tmp_path / "restored", least)
        shutil.rmtree(tmp_path / "restored")


def test_the_segment_in_use_is_never_shared(directory: Path, start: Callable[..., Engine], tmp_path: Path) -> None:
    start(**SMALL_LOG, segments_ahead=2)
    with load(directory):
        ringwal.backup(directory, tmp_path / "backup")
    last = segment.numbers(log_at(tmp_path / "backup"))[-1]
    for number in segment.numbers(log_at(directory)):
        name = f"segments/{segment.name_of(number)}"
        assert ((directory / name).stat().st_nlink == 2) == (number < last)


def test_no_engine_runs_on_a_backup(directory: Path, start: Callable[..., Engine], tmp_path: Path) -> None:
    start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        client.stream("a").append(record(0)).result(WAIT)
    ringwal.backup(directory, tmp_path / "backup")
    before = {path.name: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    with pytest.raises(ringwal.Error):
        ringwal.connect(tmp_path / "backup", autostart=True)
    (tmp_path / "backup" / "engine.log").unlink()  # says why
    refused = command("run", tmp_path / "backup")
    assert refused.returncode == os.EX_CONFIG
    assert "is a backup" in refused.stderr and "`ringwal restore" in refused.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("moment", ["bak.begun", "bak.linked"])
def test_an_engine_that_is_killed_meanwhile(
    moment: str, directory: Path, start: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end is known, the backup before stays in force; afterwards nobody needs the engine any more."""
    running = start(**SMALL_LOG)
    with load(directory) as confirmed:
        first = confirmed()
        ringwal.backup(directory, tmp_path / "backup")
        until(lambda: confirmed()["a"] > first["a"] + 1500, "another segment", WAIT)
        second = confirmed()

    def kill(name: str) -> None:
        if name == moment and running.process.poll() is None:
            running.kill()

    monkeypatch.setattr("ringwal.log.backup.point", kill)
    if moment == "bak.begun":
        with pytest.raises(ringwal.EngineFailed, match="make it again"):
            ringwal.backup(directory, tmp_path / "backup", incremental=True)
    else:
        ringwal.backup(directory, tmp_path / "backup", incremental=True)
    monkeypatch.undo()
    ringwal.restore(tmp_path / "backup", tmp_path / "restored")
    check(tmp_path / "restored", first if moment == "bak.begun" else second)
    start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        third = {name: client.stream(name).stat().confirmed_offset for name in STREAMS}
    ringwal.backup(directory, tmp_path / "backup", incremental=True)
    ringwal.restore(tmp_path / "backup", tmp_path / "again")
    check(tmp_path / "again", third)


def test_a_client_of_the_lost_log_does_not_take_the_restored_one_for_it(
    directory: Path, start: Callable[..., Engine], tmp_path: Path
) -> None:
    running = start(**SMALL_LOG)
    client = ringwal.connect(directory)
    stream = client.stream("a")
    stream.append(record(0)).result(WAIT)
    ringwal.backup(directory, tmp_path / "backup")
    stream.append(record(1)).result(WAIT)
    assert running.terminate() == 0
    directory.rename(tmp_path / "lost")
    ringwal.restore(tmp_path / "backup", directory)
    start(**SMALL_LOG)
    with pytest.raises(ringwal.NotRunning) as refused:
        stream.append(record(2)).result(WAIT)
    assert (refused.value.outcome, refused.value.retriable) == ("not_appended", False)
    client.close()
    with ringwal.connect(directory) as fresh:
        assert fresh.stream("a").append(record(1)).result(WAIT).offset == 1


def test_where_an_engine_runs_is_no_backup(directory: Path, start: Callable[..., Engine], tmp_path: Path) -> None:
    start(**SMALL_LOG)
    with ringwal.connect(directory) as client:
        client.stream("a").append(record(0)).result(WAIT)
    with pytest.raises(ringwal.ConfigError, match="is in the log that is to be backed up"):
        ringwal.backup(directory, directory)
    with pytest.raises(ringwal.ConfigError, match="is a log, on which an engine"):
        ringwal.restore(directory, tmp_path / "restored")
    with serving(tmp_path / "other"), pytest.raises(ringwal.ConfigError, match="is a log, on which an engine"):
        ringwal.backup(directory, tmp_path / "other")


@pytest.mark.parametrize("arguments", [("backup",), ("restore",)])
def test_what_is_not_there_is_said(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = command(*arguments, tmp_path / "absent", tmp_path / "new", "--json")
    assert done.returncode == os.EX_NOINPUT
    said: dict[str, Any] = json.loads(done.stderr)
    assert str(tmp_path / "absent") in said["message"]
