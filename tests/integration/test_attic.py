"""The attic: a segment in which little is alive goes, and what is alive stays readable."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import ringwal
from ringwal.log import attic, segment, sidefile
from tests.faults import decode, decode_attic
from tests.support.cli_rig import ringwal as command
from tests.support.log_place import log_at
from tests.support.rig import WAIT, Engine, arm, until

RECORD = 16_000
PER_SEGMENT = 256  # records, about


def old(n: int) -> bytes:
    return b"old %d" % n


def leave_old_records(client: ringwal.Client, segments: int, first: int = 0) -> int:
    """One record of `quiet` in each of so many segments, all else of which is trimmed. Returns how many segments there were."""
    quiet, busy = client.stream("quiet"), client.stream("busy")
    for n in range(first, first + segments):
        quiet.append(old(n))
        for _ in range(PER_SEGMENT + 8):
            last = busy.append(bytes(RECORD))
    busy.trim(last.result(WAIT).offset)
    return int(client.status()["segments"]["current"])


def files(directory: Path, suffix: str) -> list[int]:
    return sorted(int(path.stem) for path in (directory / "segments").glob(f"*.{suffix}"))


def await_attic(client: ringwal.Client, directory: Path, end: int) -> None:
    until(lambda: client.status()["attic"]["end"] >= end, "what is alive is in the attic", WAIT)
    until(lambda: segment.numbers(log_at(directory))[0] >= end, "the segments have gone", WAIT)
    until(lambda: len(files(directory, "attic")) <= 1, "attic files are merged", WAIT)


def check_all(directory: Path, count: int, start: int = 0) -> None:
    """By a fresh client: in order, and each by a search."""
    with ringwal.connect(directory) as client:
        quiet = client.stream("quiet")
        assert [(one.offset, one.data) for one in quiet.records(start)] == [(n, old(n)) for n in range(start, count)]
        for n in random.Random(1).sample(range(start, count), min(30, count - start)):
            assert [bytes(one.data) for one in quiet.read(n, max_records=1)] == [old(n)]
        tail = quiet.tail(start)
        assert [next(tail).data for _ in range(start, count)] == [old(n) for n in range(start, count)]


def test_one_old_record_in_each_of_a_hundred_segments_leaves_two_segments_and_one_file(
    start: Callable[..., Engine], directory: Path
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        current = leave_old_records(client, 100)
        assert current >= 100
        await_attic(client, directory, current - 1)
        until(lambda: len(files(directory, "seg")) <= 2, "one in use, one ahead", WAIT)
        until(lambda: len(files(directory, "attic")) == 1, "attic files are merged", WAIT)
    check_all(directory, 100)
    assert running.terminate() == 0
    assert decode.kept(directory)["quiet"] == [old(n) for n in range(100)]
    again = start()
    check_all(directory, 100)
    assert again.terminate() == 0


def test_a_producer_goes_on_though_the_segments_with_its_claims_are_gone(
    start: Callable[..., Engine], directory: Path
) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        busy = client.stream("busy")
        for n in range(4):
            till = client.producer("quiet", "till")
            assert till.next == n
            till.append(old(n)).result(WAIT)
            client.producer("busy", "passing").append(bytes(RECORD)).result(WAIT)
            for _ in range(PER_SEGMENT + 8):
                last = busy.append(bytes(RECORD))
        busy.trim(last.result(WAIT).offset)
        await_attic(client, directory, int(client.status()["segments"]["current"]) - 1)
        for n in range(4):
            told = till.append(old(n), seq=n).result(WAIT)
            assert (told.duplicate, told.offset) == (True, n)
    for killed in (False, True):
        running.kill() if killed else running.terminate()
        owners = decode.Log(directory).owners()
        assert [(one.name, one.epoch, one.next) for one in owners.values()] == [("till", 4, 4), ("passing", 4, 4)]
        running = start()
    check_all(directory, 4)
    with ringwal.connect(directory) as client:
        assert client.producer("quiet", "till").next == 4


def test_trims_empty_the_attic(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        await_attic(client, directory, leave_old_records(client, 8) - 1)
        before = client.status()["attic"]["bytes"]
        client.stream("quiet").trim(6)
        until(lambda: 0 < client.status()["attic"]["bytes"] < before, "what is dead is left out", WAIT)
        with pytest.raises(ringwal.OffsetTrimmed):
            client.stream("quiet").read(2)
    check_all(directory, 8, start=6)
    with ringwal.connect(directory) as client:
        client.delete_stream("quiet")
        until(lambda: files(directory, "attic") == [], "the attic is empty", WAIT)
        first = segment.numbers(log_at(directory))[0]
        until(lambda: min(sidefile.numbers(log_at(directory)), default=first) >= first, "side files have gone with it", WAIT)
    assert running.terminate() == 0
    assert decode_attic.catalogue(directory, decode.manifest(directory).uuid)[1] == []


def test_what_comes_later_is_merged(start: Callable[..., Engine], directory: Path) -> None:
    """In another life of the engine, too, with readers that stand in what was merged."""
    running = start()
    with ringwal.connect(directory) as client:
        await_attic(client, directory, leave_old_records(client, 4) - 1)
    assert running.terminate() == 0
    running = start()
    with ringwal.connect(directory) as client, ringwal.connect(directory) as reader:
        quiet = reader.stream("quiet")
        assert quiet.read(0, max_records=1)[0].data == old(0)
        await_attic(client, directory, leave_old_records(client, 4, first=4) - 1)
        assert [one.data for one in quiet.records()] == [old(n) for n in range(8)]
        assert quiet.read(1, max_records=1)[0].data == old(1)
    check_all(directory, 8)
    assert running.terminate() == 0
    assert decode.kept(directory)["quiet"] == [old(n) for n in range(8)]


def test_the_side_file_of_what_the_attic_has_stays(start: Callable[..., Engine], directory: Path) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        await_attic(client, directory, leave_old_records(client, 4) - 1)
    had = [number for number in sidefile.numbers(log_at(directory)) if number < segment.numbers(log_at(directory))[0]]
    assert had == [0, 1, 2, 3][: len(had)] and had
    assert running.terminate() == 0
    again = start()
    assert sidefile.numbers(log_at(directory))[: len(had)] == had
    assert again.terminate() == 0


def test_a_segment_that_is_mostly_alive_stays(start: Callable[..., Engine], directory: Path) -> None:
    for _ in range(2):  # by the second time the keeper has looked at what was trimmed in the first
        running = start()
        with ringwal.connect(directory) as client:
            half, busy = client.stream("half"), client.stream("busy")
            for _ in range(3 * PER_SEGMENT // 2):
                half.append(bytes(RECORD))
                last = busy.append(bytes(RECORD))
            busy.trim(last.result(WAIT).offset)
            end = client.status()["segments"]["current"]
            until(partial(reaches, client, end), "side files", WAIT)
            assert client.status()["attic"] == {"end": 0, "bytes": 0}
            assert segment.numbers(log_at(directory))[0] == 0
        assert running.terminate() == 0


def reaches(client: ringwal.Client, end: int) -> bool:
    return bool(client.status()["side_files"]["end"] >= end)


@pytest.mark.parametrize("point", ["k.attic.filled", "k.attic.written", "k.attic.naming", "k.attic.named"])
def test_the_keeper_dies_while_it_fills_the_attic(
    start: Callable[..., Engine], directory: Path, points_build: Path, tmp_path: Path, point: str
) -> None:
    once = tmp_path / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory) as client:
        arm(once, f"{point}:1:kill")
        current = leave_old_records(client, 6)
        until(lambda: not once.exists(), "the keeper has died", WAIT)
        check_all(directory, 6)
        await_attic(client, directory, current - 1)
        check_all(directory, 6)
        assert client.status()["restarts"] == 0
    running.kill()
    assert decode.kept(directory)["quiet"] == [old(n) for n in range(6)]
    running = start()
    check_all(directory, 6)
    assert running.terminate() == 0


def test_a_start_after_the_word_and_before_the_segments_went(
    start: Callable[..., Engine], directory: Path, points_build: Path, tmp_path: Path
) -> None:
    """The engine is killed where the WAL process has begun to free what the attic has."""
    once = tmp_path / "once"
    running = start(points_build, once=once)
    with ringwal.connect(directory) as client:
        arm(once, "seg.first_raised:1:kill")
        leave_old_records(client, 6)
        until(lambda: not once.exists(), "the WAL process has died", WAIT)
    running.kill()
    running = start()
    check_all(directory, 6)
    with ringwal.connect(directory) as client:
        until(lambda: client.status()["attic"]["end"] > 0, "the keeper knows the attic", WAIT)
    check_all(directory, 6)
    assert running.terminate() == 0
    assert decode.kept(directory)["quiet"] == [old(n) for n in range(6)]


@pytest.mark.parametrize("what", ["catalogue", "file", "block", "missing"])
def test_damage_in_the_attic_denies_its_own_records_only(start: Callable[..., Engine], directory: Path, what: str) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        await_attic(client, directory, leave_old_records(client, 6) - 1)
        client.stream("quiet").append(old(6)).result(WAIT)
    assert running.terminate() == 0
    (path,) = (directory / "segments").glob("*.attic")
    if what == "missing":
        path.unlink()
    else:
        target, at = (directory / "attic", 40) if what == "catalogue" else (path, 4096 + 5 if what == "file" else -100)
        data = bytearray(target.read_bytes())
        data[at if at >= 0 else 8192 + 200] ^= 1
        target.write_bytes(data)
    running = start()
    with ringwal.connect(directory) as client:
        quiet = client.stream("quiet")
        with pytest.raises(ringwal.CorruptionError):
            quiet.read(0)
        assert quiet.read(6)[0].data == old(6)
        if what == "block":
            assert quiet.read(3, max_records=1)[0].data == old(3)
        client.stream("busy").append(b"goes on").result(WAIT)
    os.kill(running.status()["keeper_pid"], signal.SIGKILL)
    assert running.terminate() == 0


def test_backups_and_checks_know_of_it(start: Callable[..., Engine], directory: Path) -> None:
    """A backup of a running engine, one brought up to date, a log made of it, and what `verify` says of each."""
    running = start()
    backup, restored = directory.parent / "backup", directory.parent / "restored"
    with ringwal.connect(directory) as client:
        await_attic(client, directory, leave_old_records(client, 5) - 1)
        assert command("backup", directory, backup).returncode == 0
        await_attic(client, directory, leave_old_records(client, 3, first=5) - 1)
        assert command("backup", directory, backup, "--incremental").returncode == 0
    assert running.terminate() == 0
    assert command("restore", backup, restored).returncode == 0
    salvaged = directory.parent / "salvaged"
    assert command("salvage", directory, salvaged).returncode == 0
    for place in (directory, backup, restored, salvaged):
        assert command("verify", place, "--deep").returncode == 0
        read = command("read", place, "quiet", "--offline")
        assert read.stdout.splitlines() == [old(n) for n in range(8)]
        assert decode.kept(place)["quiet"] == [old(n) for n in range(8)]
    again = Engine(restored)
    try:
        check_all(restored, 8)
        with ringwal.connect(restored) as client:
            until(lambda: client.status()["attic"]["bytes"] > 0, "the keeper knows the attic", WAIT)
            before = client.status()["attic"]["bytes"]
            client.stream("quiet").trim(7)
            until(lambda: client.status()["attic"]["bytes"] < before, "what is dead is left out", WAIT)
        assert again.terminate() == 0
    finally:
        again.close()
    (path,) = (directory / "segments").glob("*.attic")
    data = bytearray(path.read_bytes())
    data[8192 + 200] ^= 1
    path.write_bytes(data)
    found = command("verify", directory)
    assert found.returncode == os.EX_DATAERR
    assert b"a block in the attic is damaged" in found.stdout and b"takes quiet: offset" in found.stdout


def test_attic_files_are_neither_segments_nor_side_files(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    log.make_segments()
    (tmp_path / "segments" / attic.name_of(3)).touch()
    assert segment.numbers(log) == [] == sidefile.numbers(log)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_in_place_of_the_attic_is_damage(tmp_path: Path, make: Callable[[Path], None]) -> None:
    log = log_at(tmp_path)
    log.make_segments()
    make(tmp_path / attic.NAME)
    with pytest.raises(ringwal.CorruptionError, match="attic is not a file of the log, but a directory or a special file"):
        attic.load(log, bytes(16))
    make(tmp_path / "segments" / attic.name_of(0))
    with pytest.raises(ringwal.CorruptionError, match="is not a file of the log, but a directory or a special file"):
        attic.index_of(log, bytes(16), attic.Named(0, 4096, 0))
