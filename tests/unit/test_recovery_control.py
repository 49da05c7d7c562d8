"""Trims, deletes, drops and verdicts in recovery: in force below the cut, and beyond it what a batch there would be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from ringwal._native import lib
from ringwal.errors import ConfigError, CorruptionError
from ringwal.log.recovery import Recovered, recover
from ringwal.log.settings import NEVER_SET, Settings, decode
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, Control, LogWriter, contents, delete, drop, offsets, settings, trim

VERDICT = Control(lib.RW_FRAME_VERDICT, bytes([1]) + bytes(15), 77)


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def again(log: LogWriter) -> Recovered:
    return recover(log_at(log.directory), CONFIG)


def starts(recovered: Recovered) -> dict[str, int]:
    return {stream.name: stream.start_offset for stream in recovered.streams}


def test_below_the_cut_they_are_in_force(log: LogWriter) -> None:
    log.put((0, [b"a", b"b", b"c"]), (1, b"x"), (2, [b"1", b"2"]))
    log.put(trim(0, 2), VERDICT, trim(0, 1), delete(1), drop((2, 1)), (0, b"d"))
    recovered = again(log)
    assert offsets(recovered) == {"s0": 4, "s2": 2}
    assert starts(recovered) == {"s0": 2, "s2": 1}
    assert recovered.next_number == 3
    after = again(log)  # by the checkpoint alone
    assert (after.streams, after.next_number) == (recovered.streams, 3)


def test_a_name_is_free_after_a_delete_and_its_number_is_not(log: LogWriter) -> None:
    log.put((0, [b"old", b"older"]))
    log.put(delete(0))
    log.put((1, b"new"), name="s0")
    recovered = again(log)
    ((number, offset),) = [(stream.number, stream.next_offset) for stream in recovered.streams]
    assert (number, offset, recovered.next_number) == (1, 1, 2)
    assert contents(log.directory) == {"s0": [b"new"]}


def test_the_next_number_outlives_every_stream(log: LogWriter) -> None:
    log.put((40, b"x"))
    log.put(delete(40))
    assert again(log).next_number == 41
    assert again(log).next_number == 41
    assert again(log).streams == ()


def test_numbers_may_be_as_large_as_they_are(log: LogWriter) -> None:
    for number in (1 << 31, 7, (1 << 32) - 2, 5_000_000):
        log.put((number, b"x"))
    recovered = again(log)
    assert [stream.number for stream in recovered.streams] == [7, 5_000_000, 1 << 31, (1 << 32) - 2]
    assert recovered.next_number == (1 << 32) - 1


def test_streams_that_live_are_what_counts_for_their_number(log: LogWriter) -> None:
    config = dataclasses.replace(CONFIG, max_streams=2)
    for number in range(100):
        log.put((number, b"x"))
        log.put(delete(number))
    for number in range(100, 103):
        log.put((number, b"x"))
    with pytest.raises(ConfigError, match="3 streams; raise max_streams to 3"):
        recover(log_at(log.directory), config)
    log.put(delete(101))
    assert offsets(recover(log_at(log.directory), config)) == {"s100": 1, "s102": 1}


def test_beyond_the_cut_they_are_carried_over_in_their_streams_order(log: LogWriter) -> None:
    log.put((0, [b"a", b"b"]), (1, b"x"), (2, b"1"))
    hole = log.put((1, b"lost"), state="missing")
    log.put((0, b"c"), trim(0, 3), delete(2), (3, b"new"), watermark=hole.position)
    log.put((0, b"d"), trim(1, 2), delete(1), watermark=hole.position)  # s1 is broken: neither counts
    recovered = again(log)
    assert offsets(recovered) == {"s0": 4, "s1": 1, "s3": 1}
    assert starts(recovered) == {"s0": 3, "s1": 0, "s3": 0}
    assert contents(log.directory) == {"s0": [b"a", b"b", b"c", b"d"], "s1": [b"x"], "s3": [b"new"]}
    assert again(log).streams == recovered.streams


def test_a_stream_that_began_and_ended_beyond_the_cut_is_gone(log: LogWriter) -> None:
    hole = log.put((0, b"lost"), state="missing")
    log.put((7, b"x"), delete(7), watermark=hole.position)
    recovered = again(log)
    assert (recovered.streams, recovered.next_number) == ((), 8)
    assert contents(log.directory) == {}


def test_a_delete_whose_stream_is_broken_never_was(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((0, b"lost"), state="missing")
    log.put(delete(0), watermark=hole.position)
    recovered = again(log)
    assert offsets(recovered) == {"s0": 1}
    log = LogWriter(log.directory, recovered)
    log.put((0, b"b"))
    assert contents(log.directory) == {"s0": [b"a", b"b"]}


def own(version: int, records: int = 0, *names: str) -> bytes:
    return Settings(version=version, records=records or None, retain_until=names).encode()


def held(recovered: Recovered) -> dict[str, Settings]:
    return {stream.name: decode(stream.settings) for stream in recovered.streams}


def test_settings_below_the_cut_are_in_force_and_stay_so(log: LogWriter) -> None:
    log.put((0, b"a"), settings(0, own(1, 5, "ship", "bill")), (1, b"x"))
    log.put(settings(2, own(1)), settings(0, own(2, 9)), settings(1, own(1, 3)), delete(1), (1 << 5, b"x"))
    recovered = again(log)
    assert held(recovered) == {"s0": Settings(version=2, records=9), "s2": Settings(version=1), "s32": NEVER_SET}
    assert offsets(recovered) == {"s0": 1, "s2": 0, "s32": 1}
    assert again(log).streams == recovered.streams  # by the checkpoint alone
    log = LogWriter(log.directory, again(log))
    log.put(settings(0, own(3, 1)))
    assert held(again(log))["s0"] == Settings(version=3, records=1)


def test_settings_beyond_the_cut_are_carried_over_as_batches_are(log: LogWriter) -> None:
    log.put((0, b"a"), settings(0, own(1, 5)), (1, b"x"))
    hole = log.put((1, b"lost"), state="missing")
    log.put(settings(0, own(2, 6)), settings(1, own(1, 7)), settings(3, own(1, 8)), watermark=hole.position)
    log.put((0, b"b"), settings(0, own(3, 9)), watermark=hole.position)
    recovered = again(log)
    wanted = {"s0": Settings(version=3, records=9), "s1": NEVER_SET, "s3": Settings(version=1, records=8)}
    assert held(recovered) == wanted
    assert contents(log.directory) == {"s0": [b"a", b"b"], "s1": [b"x"], "s3": []}
    assert held(again(log)) == wanted


def test_a_drop_beyond_the_cut_never_was(log: LogWriter) -> None:
    log.put((0, [b"a", b"b"]))
    hole = log.put((1, b"lost"), state="missing")
    log.put(drop((0, 2)), (0, b"c"), watermark=hole.position)
    recovered = again(log)
    assert (offsets(recovered), starts(recovered)) == ({"s0": 3}, {"s0": 0})


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (lambda log: log.put((0, b"more")), "stream 0, which was deleted before"),
        (lambda log: log.put(trim(0, 1)), "stream 0, which was deleted before"),
        (lambda log: log.put(delete(0)), "stream 0, which was deleted before"),
        (lambda log: (log.next.pop(0), log.put((0, b"again"))), "stream 0, which was deleted before"),
        (lambda log: log.put(trim(1, 3)), "drops records of stream 1 that the stream does not have"),
        (lambda log: log.put(drop((1, 3))), "drops records of stream 1 that the stream does not have"),
        (lambda log: log.put(drop((0, 1))), "a record of stream 0, which was never defined"),
        (lambda log: log.put(drop((9, 1))), "a record of stream 9, which was never defined"),
        (lambda log: log.put(trim(1, 1), offset=1), "at an offset that another record has"),
        (lambda log: log.put(delete(1), offset=3), "does not follow the one before"),
        (lambda log: log.put(settings(0, own(1))), "stream 0, which was deleted before"),
        (lambda log: log.put(settings(1, own(1)), offset=1), "at an offset that another record has"),
    ],
)
def test_what_nobody_of_ours_writes_is_refused(log: LogWriter, frames: Callable[[LogWriter], object], says: str) -> None:
    log.put((0, b"a"), (1, [b"x", b"y"]))
    log.put(delete(0))
    before = log.position
    frames(log)
    with pytest.raises(CorruptionError, match=says) as raised:
        again(log)
    assert raised.value.position == before
