"""Reading a log that nobody serves: all that a start would keep, with nothing written."""

from __future__ import annotations

import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

import ringwal
from ringwal.log.recovery import recover
from tests.support import drafts
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, PAGE, LogWriter, contents, delete, trim


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def again(log: LogWriter) -> LogWriter:
    return LogWriter(log.directory, recover(log_at(log.directory), CONFIG))


def everything(directory: Path) -> dict[str, list[bytes]]:
    """Each stream's records from its start on."""
    with ringwal.open_readonly(directory) as found:
        return {
            info.name: [record.data for record in found.stream(info.name).records()] for info in found.streams()
        }


def files(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()}


def test_a_log_of_several_lives(log: LogWriter) -> None:
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]))
    log = again(log)
    log.put((0, b"b" * 9000))
    log.end()
    log.put((0, b"c"), trim(1, 2), (2, b"gone"))
    log.put(delete(2))
    before = files(log.directory)
    assert everything(log.directory) == {"s0": [b"a", b"b" * 9000, b"c"], "s1": [b"yy"]}
    assert files(log.directory) == before
    with ringwal.open_readonly(log.directory) as found:
        first, second = found.streams()
        assert (first.confirmed_offset, first.records, first.number) == (3, 3, 0)
        assert (second.start_offset, second.confirmed_offset) == (2, 3)
        assert found.stream("s1").stat() == second
        assert not found.live


def test_what_a_start_would_carry_over_is_read_and_what_it_would_drop_is_not(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((1, b"y"), (1, [b"z"] * 3), watermark=PAGE)
    log.put((0, b"behind the hole"), watermark=PAGE)
    log.put((1, b"missing"), state="missing", watermark=PAGE)
    log.put((2, b"u" * 7000), watermark=PAGE)
    log.put((2, b"v"), trim(2, 1), watermark=PAGE)
    expected = {"s0": [b"a"], "s1": [b"x", b"y", b"z", b"z", b"z"], "s2": [b"v"]}
    before = files(log.directory)
    assert everything(log.directory) == expected
    assert files(log.directory) == before
    again(log)
    assert {name: records[-len(expected[name]) :] for name, records in contents(log.directory).items()} == expected
    assert everything(log.directory) == expected


def test_of_a_joint_append_all_is_read_or_nothing(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"), (2, b"u"))
    log.put((1, b"torn"), state="torn")
    log.put((0, b"b"), (1, b"y"), (3, b"n"), joined=True, watermark=PAGE)
    log.put((0, b"c"), (2, b"v"), watermark=PAGE)
    log.put((2, b"w"), (4, b"z"), joined=True, watermark=PAGE)
    expected = {"s0": [b"a"], "s1": [b"x"], "s2": [b"u", b"v", b"w"], "s3": [], "s4": [b"z"]}
    assert everything(log.directory) == expected
    again(log)
    assert everything(log.directory) == expected


@pytest.mark.parametrize("name", drafts.wrong_joints())
def test_a_joint_append_that_is_none_refuses_a_start_and_a_look_behind_the_checkpoint_only(name: str, tmp_path: Path) -> None:
    at, _ = drafts.with_wrong_joint(tmp_path / "below", name)
    assert sum(map(len, everything(at).values())) == 4, "each record is proven by itself"
    at, position = drafts.with_wrong_joint(tmp_path / "behind", name, behind=True)
    for look in (everything, lambda directory: recover(log_at(directory), CONFIG)):
        with pytest.raises(ringwal.CorruptionError) as damage:
            look(at)
        assert damage.value.position == position // PAGE * PAGE


def test_positions_and_times(log: LogWriter) -> None:
    log.put((0, [b"a", b"b", b"c"]))
    with ringwal.open_readonly(log.directory) as found:
        stream = found.stream("s0")
        assert [record.offset for record in stream.read(1, max_records=1)] == [1]
        assert [record.offset for record in stream.read(until=2)] == [0, 1]
        assert [record.data for record in stream.records(ringwal.EARLIEST, 1)] == [b"a"]
        assert stream.read(ringwal.LATEST) == []
        assert stream.offset_at(datetime.now(UTC)) == 3
        with pytest.raises(ValueError, match="max_records"):
            stream.read(max_records=-1)


def test_moments_that_lie_outside_of_damage_are_found(log: LogWriter) -> None:
    for _ in range(3):
        for _ in range(20):
            log.put((0, b"x" * 60_000))
        log.end()
    again(log)
    (log.directory / "segments" / f"{1:020d}.seg").unlink()
    with ringwal.open_readonly(log.directory) as found:
        stream = found.stream("s0")
        for offset in (0, 5, 19, 41, 59):
            assert stream.offset_at(ringwal.At.from_ns(1000 + offset)) == offset
        assert stream.offset_at(ringwal.At.from_ns(5000)) == 60
        for offset in (20, 30, 39, 40):  # the records that are denied may be of the same moment as the one behind them
            with pytest.raises(ringwal.CorruptionError, match="go on from offset 40") as raised:
                stream.offset_at(ringwal.At.from_ns(1000 + offset))
            assert raised.value.first_offset == 20


def test_errors_are_those_of_a_client(log: LogWriter) -> None:
    log.put((0, b"a"), (0, b"b"))
    log.put(trim(0, 1))
    with ringwal.open_readonly(log.directory) as found:
        with pytest.raises(ringwal.OffsetTrimmed):
            found.stream("s0").read(0)
        for call in (found.stream("nobody").stat, found.stream("nobody").read, found.stream("nobody").records):
            with pytest.raises(ringwal.NoSuchStream):
                call()
        stream = found.stream("s0")
        writes = (stream.append, stream.append_many, stream.trim, stream.flush, stream.configure)
        for write in (*writes, found.create_stream, found.delete_stream, found.producer, found.consumer, found.batch):
            with pytest.raises(ringwal.NotWritable, match=r"ringwal\.connect") as refused:
                write(b"x")
            assert refused.value.outcome == "not_appended"
        for tail, start in ((stream.tail, 0), (found.tail, {"s0": 0})):
            with pytest.raises(ringwal.NotWritable, match="read or records"):
                tail(start)
    with pytest.raises(ringwal.ClosedError):
        stream.read(1)
    with pytest.raises(ringwal.ClosedError):
        found.streams()
    found.close()


def test_it_has_every_name_that_a_client_has() -> None:
    engines = {"status", "consumers"}  # of an engine, which there need not be
    for own, others in ((ringwal.ReadOnlyStream, ringwal.Stream), (ringwal.ReadOnlyLog, ringwal.Client)):
        assert {name for name in dir(others) if not name.startswith("_")} - set(dir(own)) <= engines


def test_no_log_is_a_file_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ringwal.FileError):
            ringwal.open_readonly(place)


def test_a_log_that_was_only_made_has_no_streams(log: LogWriter) -> None:
    assert everything(log.directory) == {}


def test_a_log_that_a_start_would_refuse_is_refused(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    log.put((0, b"c"))
    log.flip(bad.position + 20)
    with pytest.raises(ringwal.CorruptionError):
        ringwal.open_readonly(log.directory)


def test_damage_below_the_checkpoint_denies_its_own_records(log: LogWriter) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"))
    log.put((0, b"c"))
    log = again(log)
    log.flip(bad.position + 20)
    with ringwal.open_readonly(log.directory) as found:
        stream = found.stream("s0")
        assert [record.data for record in stream.read(0)] == [b"a"]
        with pytest.raises(ringwal.CorruptionError) as refused:
            stream.read(1)
        assert (refused.value.stream, refused.value.first_offset, refused.value.next_offset) == ("s0", 1, 2)
        assert [record.data for record in stream.read(2)] == [b"c"]


def test_a_start_meanwhile_takes_nothing_away(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((1, b"carried over"), watermark=PAGE)
    with ringwal.open_readonly(log.directory) as found:
        log = again(log)
        log.put((0, b"later"))
        assert [record.data for record in found.stream("s0").read()] == [b"a"]
        assert [record.data for record in found.stream("s1").read()] == [b"carried over"]


def test_threads_share_it(log: LogWriter) -> None:
    for number in range(200):
        log.put((number % 3, b"%d" % number))
    expected, seen = everything(log.directory), []
    with ringwal.open_readonly(log.directory) as found:

        def read(name: str) -> None:
            seen.append((name, [record.data for record in found.stream(name).records()]))

        threads = [threading.Thread(target=read, args=(f"s{i % 3}",)) for i in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 9 and all(records == expected[name] for name, records in seen)


def test_a_file_system_mounted_read_only(log: LogWriter, tmp_path: Path) -> None:
    log.put((0, b"a"))
    log.put((0, b"torn"), state="torn", watermark=PAGE)
    log.put((1, b"carried over"), watermark=PAGE)
    place = tmp_path / "fixed"
    place.mkdir()
    if subprocess.run(["mount", "--bind", str(log.directory), str(place)], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount anything")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (place / "x").touch()
        assert everything(place) == {"s0": [b"a"], "s1": [b"carried over"]}
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
