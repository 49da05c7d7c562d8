"""The recording disk's rules: what is safe at a cut, what else may be there, and what had been promised."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import recorder_device as device
from tests.faults.recorder_replay import SECTOR, Disk, Event, Piece, cuts, events, torn
from tests.faults.recorder_server import DONE, EVENT, FLUSH, WRITE

PAGE = 4096
OLD, NEW = b"o" * PAGE, b"n" * PAGE


def write(number: int, data: bytes = NEW, offset: int = 0) -> Event:
    return Event(WRITE, number, offset, number, memoryview(data))


def flush(number: int) -> Event:
    return Event(FLUSH, number, 0, number, memoryview(b""))


def done(number: int) -> Event:
    return Event(DONE, number, 0, number, memoryview(b""))


@pytest.fixture
def fresh() -> Iterator[int]:
    with device.held(device.image(4 * PAGE)) as fd:
        yield fd


def content(fresh: int, happened: list[Event], variant: str, seed: int = 0) -> bytes:
    """Of the first page, after all of it."""
    with contextlib.closing(Disk(fresh, happened)) as disk:
        disk.advance(len(happened))
        with device.held(disk.image(variant, random.Random(seed))) as fd:
            return os.pread(fd, PAGE, 0)


def test_what_was_answered_before_a_flush_came_in_is_safe_when_the_flush_is_answered(fresh: int) -> None:
    happened = [write(1), done(1), flush(2), done(2)]
    assert content(fresh, happened, "nothing") == NEW
    assert content(fresh, happened[:-1], "nothing") == bytes(PAGE)
    assert content(fresh, happened[:-1], "prefix") == NEW


def test_a_flush_does_not_cover_a_write_that_was_under_way_when_it_came_in(fresh: int) -> None:
    happened = [write(1), flush(2), done(1), done(2)]
    assert content(fresh, happened, "nothing") == bytes(PAGE)
    assert content(fresh, [*happened, flush(3), done(3)], "nothing") == NEW


def test_a_write_that_was_never_answered_may_be_there(fresh: int) -> None:
    happened = [write(1)]
    assert content(fresh, happened, "prefix") == bytes(PAGE)
    assert {content(fresh, happened, "subset", seed) for seed in range(40)} >= {bytes(PAGE), NEW}


def test_of_two_writes_in_one_place_the_later_answer_wins(fresh: int) -> None:
    happened = [write(1, OLD), write(2, NEW), done(2), done(1), flush(3), done(3)]
    assert content(fresh, happened, "nothing") == OLD


def test_two_flushes_may_cover_one_write(fresh: int) -> None:
    happened = [write(1), done(1), flush(2), flush(3), done(3), done(2)]
    assert content(fresh, happened, "nothing") == NEW


def test_a_torn_write_is_made_of_whole_sectors() -> None:
    data = b"".join(bytes([i]) * SECTOR for i in range(8))
    shapes = set()
    for seed in range(50):
        parts = torn(Piece(PAGE, memoryview(data)), random.Random(seed))
        assert all(part.data == bytes([(part.offset - PAGE) // SECTOR]) * SECTOR for part in parts)
        shapes.add(tuple(part.offset for part in parts))
    assert len(shapes) > 10


def test_a_copy_of_an_image_is_its_equal_and_nothing_else(fresh: int) -> None:
    os.pwrite(fresh, NEW, PAGE)
    with device.held(device.clone(fresh)) as copy:
        os.pwrite(fresh, OLD, 0)
        assert os.pread(copy, 4 * PAGE, 0) == bytes(PAGE) + NEW + bytes(2 * PAGE)


def test_the_log_reads_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(EVENT.pack(WRITE, 3, 2, 512, 10) + b"abc" + EVENT.pack(FLUSH, 0, 4, 0, 11) + EVENT.pack(DONE, 0, 2, 0, 12))
    happened = events(log)
    assert [tuple(event) for event in happened] == [(WRITE, 2, 512, 10, b"abc"), (FLUSH, 4, 0, 11, b""), (DONE, 2, 0, 12, b"")]
    assert cuts(happened, 10, 13) == [2]
    assert cuts(happened, 10, 12) == []
