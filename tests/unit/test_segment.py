"""Segment files are whole before they are named, and recognised or refused when they are opened."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ringwal.errors import ConfigError, CorruptionError, StorageFull
from ringwal.log import files, segment
from ringwal.log import manifest as manifests
from ringwal.log.directory import SEGMENTS
from ringwal.log.manifest import Manifest
from ringwal.log.pace import Pace
from tests.support.log_place import log_at, path_of

PAGE = 4096
SIZE = 2 << 20


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Manifest]:
    (tmp_path / SEGMENTS).mkdir()
    state = Manifest(uuid=os.urandom(16), segment_bytes=SIZE, window_bytes=1 << 20)
    state = segment.prepare(log_at(tmp_path), manifests.create(log_at(tmp_path), state), 0, direct=False)
    return tmp_path, state


@pytest.mark.parametrize("direct", [False, True])
def test_a_new_segment_is_a_header_and_zeros(tmp_path: Path, direct: bool) -> None:
    (tmp_path / SEGMENTS).mkdir()
    direct = direct and files.use_direct(log_at(tmp_path), "auto")
    segment.create(log_at(tmp_path), bytes(range(16)), 5, SIZE, direct=direct)
    path = tmp_path / "segments" / "00000000000000000005.seg"
    data = path.read_bytes()
    magic, version, _, uuid, number, size, created, digest = struct.unpack_from("<8sII16sQQQQ", data)
    assert (magic, version, uuid, number, size) == (b"RWSEGMT1", 2, bytes(range(16)), 5, SIZE)
    assert created > 0 and digest == xxhash.xxh3_64_intdigest(data[:56])
    assert not any(data[64:]) and len(data) == PAGE + SIZE
    assert path.stat().st_blocks * 512 >= PAGE + SIZE, "its blocks must exist before it is used"


def test_preparing_names_a_segment_once_and_leaves_no_gap(made: tuple[Path, Manifest]) -> None:
    directory, state = made
    assert state.named_end == 1 and manifests.load(log_at(directory)) == state
    assert segment.prepare(log_at(directory), state, 0, direct=False) == state
    with pytest.raises(ValueError, match="cannot follow"):
        segment.prepare(log_at(directory), state, 2, direct=False)
    assert segment.numbers(log_at(directory)) == [0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk_leaves_nothing_behind(
    made: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    directory, state = made
    log = log_at(directory)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageFull) as raised:
            segment.prepare(log, state, 1, direct=False)
    assert raised.value.errno == code and raised.value.outcome == "not_appended"
    assert segment.numbers(log) == [0] and manifests.load(log) == state
    assert segment.prepare(log, state, 1, direct=False).named_end == 2


def test_another_error_is_not_called_a_full_disk(
    made: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, state = made
    log = log_at(directory)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="broken"):
            segment.prepare(log, state, 1, direct=False)
    assert segment.numbers(log) == [0]


def shorten(path: Path) -> None:
    os.truncate(path, PAGE + SIZE - PAGE)


def lengthen(path: Path) -> None:
    os.truncate(path, PAGE + SIZE + PAGE)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(33)
        file.write(b"\1")


@pytest.mark.parametrize("damage", [Path.unlink, shorten, lengthen, empty, scribble])
def test_a_damaged_segment_is_refused_with_its_place(
    made: tuple[Path, Manifest], damage: Callable[[Path], None]
) -> None:
    directory, state = made
    state = segment.prepare(log_at(directory), state, 1, direct=False)
    damage(path_of(directory, 1))
    with pytest.raises(CorruptionError) as raised:
        segment.open_for_writing(log_at(directory), state, 1, 1, direct=False)
    assert raised.value.segment == 1
    assert raised.value.position is not None and SIZE <= raised.value.position <= 2 * SIZE
    os.close(segment.open_for_reading(log_at(directory), state, 0))


def test_a_segment_of_another_log_and_one_under_another_name_are_refused(made: tuple[Path, Manifest]) -> None:
    directory, state = made
    segment.create(log_at(directory), bytes(16), 1, SIZE, direct=False)
    with pytest.raises(CorruptionError, match="another log"):
        segment.open_for_reading(log_at(directory), state, 1)
    path_of(directory, 1).write_bytes(path_of(directory, 0).read_bytes())
    with pytest.raises(CorruptionError, match="is segment 0"):
        segment.open_for_reading(log_at(directory), state, 1)


def test_orphans_go_and_nothing_else(made: tuple[Path, Manifest]) -> None:
    directory, state = made
    segment.create(log_at(directory), state.uuid, 1, SIZE, direct=False)
    (directory / SEGMENTS / "notes.txt").write_text("mine")
    assert segment.remove_orphans(log_at(directory), state) == [1]
    assert segment.numbers(log_at(directory)) == [0]
    assert (directory / SEGMENTS / "notes.txt").exists()


def test_direct_io_is_used_where_a_real_write_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / SEGMENTS).mkdir()
    assert files.use_direct(log_at(tmp_path), "off") is False

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        assert files.use_direct(log_at(tmp_path), "auto") is False
        with pytest.raises(ConfigError, match="direct_io"):
            files.use_direct(log_at(tmp_path), "on")
    assert list(tmp_path.rglob("*")) == [tmp_path / SEGMENTS]


def test_direct_io_is_tried_on_a_full_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a page that is there, which is written as it was: a log on a full disk has to start, so that it can be trimmed."""
    (tmp_path / SEGMENTS).mkdir()
    log, pwritev = log_at(tmp_path), os.pwritev

    def without_room(fd: int, *rest: Any) -> int:
        if os.fstat(fd).st_blocks == 0:
            raise OSError(errno.ENOSPC, "no")
        return pwritev(fd, *rest)

    direct = files.use_direct(log, "auto")
    monkeypatch.setattr(os, "pwritev", without_room)
    with pytest.raises(StorageFull):
        files.use_direct(log, "auto")
    there = tmp_path / SEGMENTS / segment.name_of(3)
    there.write_bytes(bytes(range(256)) * 32)
    assert files.use_direct(log, "auto") is direct
    assert there.read_bytes() == bytes(range(256)) * 32
    assert [path.name for path in (tmp_path / SEGMENTS).iterdir()] == [there.name]


def test_reads_fall_back_where_direct_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * PAGE)
    with log_at(tmp_path) as log:
        fd = files.open_synced("file", at=log.fd)
    into = bytearray(PAGE - 1)  # neither aligned nor whole: direct I/O takes neither
    assert files.read_all(fd, memoryview(into), 0) == PAGE - 1
    os.close(fd)
    assert into == b"x" * (PAGE - 1)


def test_a_segment_that_is_only_reserved_reads_as_zeros_and_takes_its_room(tmp_path: Path) -> None:
    (tmp_path / SEGMENTS).mkdir()
    segment.create(log_at(tmp_path), bytes(16), 0, SIZE, direct=False, fill=False)
    path = path_of(tmp_path, 0)
    assert path.stat().st_size == segment.HEADER_BYTES + SIZE
    assert path.stat().st_blocks * 512 >= SIZE
    assert not any(path.read_bytes()[segment.HEADER_BYTES :])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_filling_pauses_while_segments_are_used_up_faster_than_it_pays() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.look(0, 0)
    assert pace.worth_filling()  # what it takes is not known yet
    pace.filled(1.0)
    for number in (1, 2):
        clock.now += 7.0
        pace.look(number, number * SIZE)
        assert not pace.worth_filling()
    clock.now += 9.0  # the one in use has lasted longer by now than those before
    assert pace.worth_filling()
    pace.look(3, 3 * SIZE)
    assert pace.worth_filling()


def test_a_segment_that_is_not_needed_yet_is_filled_while_nobody_appends_or_now_and_then() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.look(0, 0)
    assert pace.can_be_spared()
    pace.filled(1.0)
    clock.now += 20.0  # a segment lasts long enough
    pace.look(0, 10)
    pace.filled(1.0)
    assert not pace.can_be_spared()
    clock.now += 0.5
    pace.look(0, 10)
    assert pace.can_be_spared()  # idle
    pace.look(0, 20)
    assert not pace.can_be_spared()
    clock.now += 8.0
    pace.look(0, 30)
    assert pace.can_be_spared()  # in use, and the latest filling is long enough ago
    clock.now += 3.0
    pace.look(4, 4 * SIZE)
    clock.now += 3.0
    pace.look(5, 5 * SIZE)
    assert not pace.can_be_spared()  # segments are used up too fast
