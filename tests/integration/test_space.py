"""What the log takes on the disk: freed when nobody may read it, used again, and never more than was allowed."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ringwal
from ringwal.log import checkpoint_file, segment
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import pack
from ringwal.steps import park
from tests.support.cli_rig import ringwal as ringwal_command
from tests.support.endless import endless
from tests.support.endless import record as endless_record
from tests.support.log_place import log_at
from tests.support.mounts import tmpfs
from tests.support.rig import WAIT, Engine, arm, until

SEGMENT = 4 << 20
FILE = SEGMENT + 4096
RECORD = 16_000
PER_SEGMENT = 256  # records, about


def segments(directory: Path) -> list[int]:
    return segment.numbers(log_at(directory))


def used(directory: Path) -> int:
    """Of segments: side files are not part of the limit."""
    return sum(path.stat().st_size for path in (directory / "segments").glob("*.seg"))


def record(offset: int) -> bytes:
    return offset.to_bytes(8, "little") * (RECORD // 8)


def fill(stream: ringwal.Stream, first: int, count: int) -> None:
    receipts = [stream.append(record(first + n)) for n in range(count)]
    assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(first, first + count))


@contextlib.contextmanager
def impatient(directory: Path) -> Iterator[ringwal.Client]:
    """A client that waits neither long for room nor for what is out at its end."""
    client = ringwal.connect(directory, append_timeout=0.3)
    try:
        yield client
    finally:
        with contextlib.suppress(ringwal.Error):
            client.close(0)


def begin_at(directory: Path, **starts: int) -> None:
    """The streams of a stopped log have lost what is below these offsets."""
    log = log_at(directory)
    manifest = manifests.load(log)
    known = checkpoint_file.load(log, manifest)
    rows = [row._replace(start_offset=starts.get(row.name, row.start_offset)) for row in known.rows()]
    named = checkpoint_file.put(log, manifest, dataclasses.replace(known, streams=pack(rows)), 256)
    manifests.store(log, dataclasses.replace(named, end=manifest.end))


def starts_in_checkpoint(directory: Path) -> list[int]:
    """Of the streams, by the one in force."""
    known = checkpoint_file.look(log_at(directory), manifests.load(log_at(directory)).uuid)
    assert known is not None
    return [row.start_offset for row in known.rows()]


def test_what_nobody_may_read_is_freed_and_the_rest_is_there(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("quiet").append(b"in the first segment").result(WAIT)
        fill(client.stream("s"), 0, 5 * PER_SEGMENT)
    assert running.terminate() == 0
    before = segments(directory)
    begin_at(directory, s=4 * PER_SEGMENT)
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 5 * PER_SEGMENT, 2 * PER_SEGMENT)
        assert segments(directory)[0] == before[0], "one record of a quiet stream keeps the first segment, and all behind it"
        assert client.status()["space"]["freed"] == 0
    assert running.terminate() == 0
    begin_at(directory, quiet=1)
    running = start()
    with ringwal.connect(directory) as client:
        until(lambda: segments(directory)[0] == 4, "what was trimmed is freed")
        space = client.status()["space"]
        assert space["freed"] == 4 * FILE
        assert (space["used"] + space["ahead"], space["limit"]) == (used(directory), None)
        stream = client.stream("s")
        found = list(stream.read(4 * PER_SEGMENT, max_records=10_000))
        assert [one.data for one in found] == [record(n) for n in range(4 * PER_SEGMENT, 7 * PER_SEGMENT)]
        with pytest.raises(ringwal.OffsetTrimmed):
            stream.read(0)
    running.kill()
    running = start()
    with ringwal.connect(directory) as client:
        assert segments(directory)[0] == 4
        assert len(client.stream("s").read(4 * PER_SEGMENT, max_records=10_000)) == 3 * PER_SEGMENT
    assert running.terminate() == 0


def test_a_log_does_not_grow_beyond_its_limit(directory: Path, start: Callable[..., Engine]) -> None:
    limit = 5 * FILE + 17
    running = start(max_log_bytes=limit)
    with impatient(directory) as client:
        stream = client.stream("s")
        with pytest.raises(ringwal.StorageFull, match="max_log_bytes") as caught:
            for n in range(10 * PER_SEGMENT):
                stream.append(record(n))
        assert (caught.value.errno, caught.value.outcome) == (errno.EDQUOT, "not_appended")
        assert used(directory) == 5 * FILE <= limit
        space = client.status()["space"]
        assert (space["used"], space["ahead"], space["limit"]) == (5 * FILE, 0, limit)
        assert len(stream.read(0, max_records=10_000)) > 3 * PER_SEGMENT, "what is confirmed can be read"
    running.kill()
    assert "would be beyond max_log_bytes" in running.said()
    running = start(max_log_bytes=2 * limit)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, stream.stat().confirmed_offset, PER_SEGMENT)
    assert running.terminate() == 0


def test_room_is_left_on_the_file_system(tmp_path: Path) -> None:
    least = 20 << 20
    with tmpfs(tmp_path / "disk", "40m") as disk:
        running = Engine(disk / "log", min_free_bytes=least)
        try:
            with impatient(disk / "log") as client:
                stream = client.stream("s")
                with pytest.raises(ringwal.StorageFull) as caught:
                    for n in range(10 * PER_SEGMENT):
                        stream.append(record(n))
                assert caught.value.errno == errno.ENOSPC
                found = os.statvfs(disk)
                assert least <= found.f_bavail * found.f_frsize < least + FILE
        finally:
            running.close()
        assert "min_free_bytes" in running.said()


# ------------------------------------------------------------------------------------------------- trim and delete


def test_a_trimmed_log_is_freed_and_its_files_are_used_again(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream, other = client.stream("s"), client.stream("other")
        other.append(b"in the first segment").result(WAIT)
        fill(stream, 0, 5 * PER_SEGMENT)
        assert stream.trim(4 * PER_SEGMENT) == 4 * PER_SEGMENT
        fill(stream, 5 * PER_SEGMENT, 1)
        assert client.status()["counters"]["segments_freed"] == 0, "the other stream still has its record"
        client.delete_stream("other")
        until(lambda: segments(directory)[0] == 4, "what is trimmed and deleted is freed")
        assert [one.data for one in stream.read(4 * PER_SEGMENT, max_records=9999)] == [
            record(n) for n in range(4 * PER_SEGMENT, 5 * PER_SEGMENT + 1)
        ]
        said = ringwal_command("trim", directory, "s", "--before", str(5 * PER_SEGMENT), "--dry-run", "--json")
        assert json.loads(said.stdout)["segments"] == client.status()["segments"]["current"] - 4 > 0
        for _ in range(8):  # always a segment or two of records
            following = stream.stat().confirmed_offset
            fill(stream, following, PER_SEGMENT)
            stream.trim(following)
        until(lambda: client.status()["counters"]["segments_freed"] >= 9, "what is trimmed is freed")
    running.kill()
    running = start()
    with ringwal.connect(directory) as client:
        info = client.stream("s").stat()
        assert (info.start_offset, info.confirmed_offset) == (following, following + PER_SEGMENT)
        assert [one.data for one in client.stream("s").read(following, max_records=9999)] == [
            record(n) for n in range(following, following + PER_SEGMENT)
        ]
        assert client.status()["recovery"]["missing_segments"] == []
    assert running.terminate() == 0
    assert used(directory) <= 6 * FILE


@pytest.mark.parametrize("how", ["trim", "delete"])
def test_a_full_log_goes_on_when_it_is_trimmed(how: str, directory: Path, start: Callable[..., Engine]) -> None:
    """Also by somebody who has only just come."""
    running = start(max_log_bytes=4 * FILE)
    with impatient(directory) as client, ringwal.connect(directory) as other:
        stream = client.stream("s")
        receipts: list[ringwal.Receipt] = []
        with pytest.raises(ringwal.StorageFull):
            receipts.extend(stream.append(record(n)) for n in range(10 * PER_SEGMENT))
        receipts[0].result(WAIT)
        waiting = sum(not receipt.done() for receipt in receipts)
        assert waiting > 0
        for _ in range(8):  # each has the room that is kept for it
            other.stream("s").trim(1)
        with ringwal.connect(directory) as newcomer:
            if how == "trim":
                newcomer.stream("s").trim(2 * PER_SEGMENT)
            else:
                newcomer.delete_stream("s")
        if how == "trim":
            assert [receipt.result(WAIT).offset for receipt in receipts] == list(range(len(receipts)))
            fill(stream, len(receipts), PER_SEGMENT // 2)
        else:
            fill(other.stream("t"), 0, 2 * PER_SEGMENT)
        until(lambda: running.status()["storage_full"] is None, "there is room again")
        assert running.status()["counters"]["segments_recycled"] > 0
        assert used(directory) <= 4 * FILE
    assert running.terminate() == 0


def test_a_full_log_can_be_trimmed_however_little_each_trim_is(directory: Path, start: Callable[..., Engine]) -> None:
    """More often than the segment in use has room for: the log gets one segment beyond its limit then, for trims alone."""
    running = start(max_log_bytes=4 * FILE)
    with impatient(directory) as client, ringwal.connect(directory) as other:
        stream = client.stream("s")
        receipts: list[ringwal.Receipt] = []
        with pytest.raises(ringwal.StorageFull):
            receipts.extend(stream.append(record(n)) for n in range(10 * PER_SEGMENT))
        for before in range(1, SEGMENT // 16 // 4096 * 3):
            assert other.stream("s").trim(before) == before
        assert len(segments(directory)) == 5
        with pytest.raises(ringwal.StorageFull):
            for n in range(1000):
                stream.append(record(n))
        assert running.status()["storage_full"] is not None
        waiting = [receipt for receipt in receipts if not receipt.done()]
        assert waiting
        other.stream("s").trim(2 * PER_SEGMENT)
        waiting[0].result(WAIT)
        until(lambda: used(directory) <= 4 * FILE, "the log is within its limit again")
    running.kill()
    running = start(max_log_bytes=4 * FILE)
    with ringwal.connect(directory) as newcomer:
        assert newcomer.stream("s").stat().start_offset == 2 * PER_SEGMENT
    assert running.terminate() == 0


def test_segments_that_an_earlier_engine_filled_ahead_are_counted(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(segments_ahead=5)
    until(lambda: running.status()["segments"]["ahead"] == 5, "the segments ahead")
    assert running.terminate() == 0
    running = start(segments_ahead=1)
    until(lambda: running.status()["space"]["used"] == FILE, "the segment in use")
    assert running.status()["space"]["ahead"] == 5 * FILE
    assert used(directory) == 6 * FILE
    assert running.terminate() == 0


def test_a_full_log_stops_in_order_without_what_waits_for_room(directory: Path, start: Callable[..., Engine]) -> None:
    """What to do about it `status` says before, and the log behind it; a limit that is raised, or a trim, lets it go on."""
    running = start(max_log_bytes=4 * FILE)
    receipts: list[ringwal.Receipt] = []
    with impatient(directory) as client:
        stream = client.stream("s")
        with pytest.raises(ringwal.StorageFull, match=r"max_log_bytes.*trim or delete streams"):
            receipts.extend(stream.append(record(n)) for n in range(10 * PER_SEGMENT))
        shown = ringwal_command("status", directory)
        assert (shown.returncode, b"trim or delete streams" in shown.stderr) == (os.EX_TEMPFAIL, True)
        assert running.terminate() == 0
        errors = [receipt.exception(WAIT) for receipt in receipts]
        confirmed = errors.index(next(error for error in errors if error is not None))
        assert all(error is None for error in errors[:confirmed])
        assert {(type(error), error.outcome) for error in errors[confirmed:] if error} == {(ringwal.EngineFailed, "unknown")}
        assert None not in errors[confirmed:]
    again = start(max_log_bytes=8 * FILE)
    with ringwal.connect(directory) as newcomer:
        assert newcomer.stream("s").stat().confirmed_offset == confirmed
        fill(newcomer.stream("s"), confirmed, PER_SEGMENT)
    assert again.terminate() == 0


def test_what_was_trimmed_just_before_the_wal_process_died_is_freed(directory: Path, start: Callable[..., Engine]) -> None:
    """Its successor does not know that there was a trim."""
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        client.stream("other").append(b"in the first segment").result(WAIT)
        fill(stream, 0, 5 * PER_SEGMENT)
        stream.trim(1)
        until(lambda: 1 in starts_in_checkpoint(directory), "the trim to be in a checkpoint")
        stream.trim(3 * PER_SEGMENT)
        client.delete_stream("other")
        running.strike("wal")
        until(lambda: client.status()["counters"]["segments_freed"] >= 2, "what is trimmed is freed")
        fill(stream, 5 * PER_SEGMENT, 1)
    assert running.terminate() == 0


# ------------------------------------------------------------------------------------------------- drop_oldest

DROPS = {"max_log_bytes": 6 * FILE, "on_full": "drop_oldest"}
STREAMS = ["one", "two"]


def within_limit(directory: Path) -> None:
    assert used(directory) <= 6 * FILE


def test_a_log_that_drops_its_oldest_records_goes_on_for_ever(directory: Path, start: Callable[..., Engine]) -> None:
    """And says what it has dropped, to everybody who reads."""
    running = start(**DROPS)
    with endless(directory, directory.parent, STREAMS, readers=2) as load:
        until(lambda: running.status()["counters"]["segments_dropped"] > 8, "segments to be dropped")
        load.await_records(1000)
        within_limit(directory)
        status = running.status()
        assert status["storage_full"] is None and status["counters"]["segments_recycled"] > 4
        assert status["space"]["freed"] == status["counters"]["segments_freed"] * FILE >= 8 * FILE
        with ringwal.connect(directory) as client:
            for info in client.streams():
                with pytest.raises(ringwal.OffsetTrimmed) as caught:
                    client.stream(info.name).read(0)
                assert (caught.value.start_offset or 0) >= info.start_offset > 0
        assert load.stop() == []
    assert "StorageFull" not in running.said() and "appends wait" not in running.said()
    assert running.said().count("the oldest records are dropped") == 1
    assert running.terminate() == 0
    within_limit(directory)
    kept = {}
    running = start(**DROPS)
    with ringwal.connect(directory) as client:
        for info in client.streams():
            kept[info.name] = info.start_offset
            records = client.stream(info.name).read(info.start_offset, max_records=100_000, max_bytes=None)
            assert [one.offset for one in records] == list(range(info.start_offset, info.confirmed_offset))
            assert all(one.data == endless_record(info.name, one.offset, 1000) for one in records)
    assert min(kept.values()) > 0
    assert running.terminate() == 0


def test_a_load_that_fills_segments_quickly_is_not_told_that_the_log_is_full(
    directory: Path, start: Callable[..., Engine]
) -> None:
    """A segment is begun at any moment, also just after it was looked whether there is room for the next one."""
    running = start(**DROPS)
    with ringwal.connect(directory, lane_bytes=1 << 20) as client:
        stream = client.stream("s")
        receipts: collections.deque[ringwal.Receipt] = collections.deque()
        for n in range(100 * SEGMENT // 60_000):
            receipts.append(stream.append(record(n) * 4))
            if len(receipts) > 16:
                receipts.popleft().result(WAIT)
        stream.flush(WAIT)
    assert "appends wait" not in running.said()
    assert running.terminate() == 0
    within_limit(directory)


def test_kills_of_everything_while_records_are_dropped(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**DROPS)
    with endless(directory, directory.parent, STREAMS, readers=2) as load:
        for _ in range(6):
            load.await_records(2000)
            running.kill()
            within_limit(directory)
            running = start(**DROPS)
            assert running.facts["recovery"]["missing_segments"] == []
        until(lambda: running.status()["counters"]["segments_dropped"] > 2, "segments to be dropped")
        load.await_records(1000)
        assert load.stop() == []
    assert running.terminate() == 0
    within_limit(directory)


@pytest.mark.parametrize("point", ["seg.first_raised", "seg.renamed", "seg.header", "seg.named"])
def test_the_wal_process_dies_while_it_frees_a_segment(
    point: str, points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    """Once replaced, and once with all the others."""
    once = directory.parent / "once"
    running = start(points_build, once=once, **DROPS)
    with endless(directory, directory.parent, STREAMS, readers=1) as load:
        until(lambda: running.status()["counters"]["segments_recycled"] > 1, "segments to be used again")
        arm(once, f"{point}:1:kill")
        until(lambda: running.status()["restarts"] == 1, "the WAL process to die and be replaced")
        load.await_records(500)
        within_limit(directory)
        arm(once, f"{point}:1:kill")
        until(lambda: not once.exists(), "the WAL process to die")
        running.kill()
        running = start(**DROPS)
        assert running.facts["recovery"]["missing_segments"] == []
        load.await_records(2000)
        within_limit(directory)
        assert load.stop() == []
    assert running.terminate() == 0
    state = manifests.load(log_at(directory))
    assert segments(directory) == list(range(state.first_segment, state.named_end)), "no file is left over"


def test_a_backup_made_of_hard_links_keeps_its_bytes(directory: Path, start: Callable[..., Engine]) -> None:
    running = start(**DROPS)
    backup = directory.parent / "backup"
    backup.mkdir()
    with endless(directory, directory.parent, STREAMS) as load:
        until(lambda: running.status()["counters"]["segments_dropped"] > 2, "segments to be dropped")
        full = running.status()["segments"]["current"]
        for path in sorted((directory / "segments").glob("*.seg")):
            if int(path.stem) < full:
                with contextlib.suppress(FileNotFoundError):  # freed meanwhile
                    os.link(path, backup / path.name)
        linked = {path: path.read_bytes() for path in backup.iterdir()}
        assert linked
        gone = max(int(path.stem) for path in linked)
        until(lambda: segments(directory)[0] > gone + 2, "all of them to be freed")
        load.await_records(1000)
        within_limit(directory)
        assert load.stop() == []
    assert {path: path.read_bytes() for path in backup.iterdir()} == linked
    assert running.terminate() == 0


def test_a_full_log_has_room_to_drop_records_of_all_its_streams(directory: Path, start: Callable[..., Engine]) -> None:
    """Which takes more than the sixteenth of a segment that trims have."""
    most = 60_000
    sizes = {"ring_bytes": 1 << 20, "segment_bytes": 15 << 20, "max_streams": most, "max_log_bytes": 4 * (4096 + (15 << 20))}
    running = start(**sizes)
    with impatient(directory) as client:
        streams = [client.stream(f"s{n}") for n in range(most)]
        for stream in streams:
            # Which takes longer than an append, so that each would have a block of its own.
            park(client._bind_steps(stream.name))
        for stream in streams:
            stream.append(b"")
        client.stream("s0").flush(WAIT)
        with pytest.raises(ringwal.StorageFull):
            for n in range(20_000):
                streams[0].append(record(n))
    running.kill()
    running = start(**sizes, on_full="drop_oldest")
    with ringwal.connect(directory) as client:
        stream = client.stream("s0")
        for n in range(2 * (15 << 20) // RECORD):
            receipt = stream.append(record(n))
        receipt.result(WAIT)
        with pytest.raises(ringwal.OffsetTrimmed):
            client.stream("s1").read(0)
    assert running.terminate() == 0


def test_streams_of_the_engines_own_are_not_dropped(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"whose").result(WAIT)
    assert running.terminate() == 0
    log = log_at(directory)
    manifest = manifests.load(log)
    known = checkpoint_file.load(log, manifest)
    rows = [row._replace(name="_own") for row in known.rows()]
    named = checkpoint_file.put(log, manifest, dataclasses.replace(known, streams=pack(rows)), 256)
    manifests.store(log, dataclasses.replace(named, end=manifest.end))
    running = start(**DROPS)
    with impatient(directory) as client:
        stream = client.stream("t")
        with pytest.raises(ringwal.StorageFull):
            for n in range(20 * PER_SEGMENT):
                stream.append(record(n))
        assert [one.data for one in client.stream("_own").read(0)] == [b"whose"]
        within_limit(directory)
    running.kill()
    assert "segment 0 has some of stream '_own'" in running.said()


def test_a_limit_that_is_lowered_is_reached(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 14 * PER_SEGMENT)
    assert running.terminate() == 0
    before = len(segments(directory))
    assert before > 12
    running = start(**DROPS)
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        fill(stream, 14 * PER_SEGMENT, 2 * PER_SEGMENT)
        until(lambda: len(segments(directory)) <= 6, "the log to be within its limit")
        first = stream.stat().start_offset
        found = stream.read(first, max_records=99_999)
        assert [one.data for one in found] == [record(n) for n in range(first, 16 * PER_SEGMENT)]
        assert first > 9 * PER_SEGMENT
    assert running.terminate() == 0
    within_limit(directory)


def test_many_segments_that_were_trimmed_in_an_earlier_life_are_freed(directory: Path, start: Callable[..., Engine]) -> None:
    """What they hold has to be read from them."""
    running = start()
    with ringwal.connect(directory) as client:
        fill(client.stream("s"), 0, 14 * PER_SEGMENT)
    assert running.terminate() == 0
    begin_at(directory, s=14 * PER_SEGMENT - 1)
    running = start()
    with ringwal.connect(directory) as client:
        until(lambda: segments(directory)[0] >= 12, "what was trimmed is freed")
        assert [one.data for one in client.stream("s").read(14 * PER_SEGMENT - 1)] == [record(14 * PER_SEGMENT - 1)]
    assert running.terminate() == 0
