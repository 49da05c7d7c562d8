"""Recovery refuses damage that no crash explains: with its place, and without changing a byte."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import lib
from ringwal.errors import ConfigError, CorruptionError
from ringwal.log import checkpoint_file, segment
from ringwal.log import manifest as manifests
from ringwal.log.recovery import recover
from tests.support.log_place import log_at, path_of
from tests.support.log_writer import CONFIG, MIB, PAGE, LogWriter, offsets

SIZE = CONFIG.segment_bytes


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(log: LogWriter, match: str, position: int) -> None:
    """Recovery names the place and leaves every byte as it is."""
    before = snapshot(log.directory)
    with pytest.raises(CorruptionError, match=match) as raised:
        recover(log_at(log.directory), CONFIG)
    assert (raised.value.segment, raised.value.position) == (position // SIZE, position)
    assert snapshot(log.directory) == before


def refused_whole(log: LogWriter, match: str) -> None:
    """The same, where the damage is in no segment."""
    before = snapshot(log.directory)
    with pytest.raises(CorruptionError, match=match):
        recover(log_at(log.directory), CONFIG)
    assert snapshot(log.directory) == before


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_below_a_watermark_is_refused(log: LogWriter, bit: int) -> None:
    first = log.put((0, b"a" * 100))
    log.put((0, b"b"))  # its watermark covers the first
    log.flip(first.position + 128 + 88 + 8 + 88 + 50, bit)
    refused(log, "that was on the disk is damaged", first.position)


def test_a_watermark_counts_even_in_a_block_that_is_torn_itself(log: LogWriter) -> None:
    first = log.put((0, b"a" * 100))
    log.put((0, b"b"), state="torn")
    log.flip(first.position + 300)
    refused(log, "that was on the disk is damaged", first.position)


def test_a_carried_block_is_never_taken_for_a_torn_tail(log: LogWriter) -> None:
    log.put((1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, b"y"), watermark=hole.position)
    recovered = recover(log_at(log.directory), CONFIG)
    log = LogWriter(log.directory, recovered)
    log.flip(recovered.position - PAGE + 200)
    again = recover(log_at(log.directory), CONFIG)  # it lies below the checkpoint: whoever reads it finds out
    assert (again.previous_end, offsets(again)) == (recovered.position, {"s1": 2})


def test_a_hole_is_tolerated_up_to_the_window_and_not_beyond(log: LogWriter) -> None:
    fill = b"f" * (MIB // 2 - 128 - 2 * 88 - 8)
    hole = log.put((0, fill), state="missing")
    exact = log.put((1, fill), watermark=hole.position)
    assert exact.end - hole.position == CONFIG.ring_bytes
    saved = log.directory.with_name("saved")
    shutil.copytree(log.directory, saved)
    assert offsets(recover(log_at(log.directory), CONFIG)) == {"s1": 1}
    log.directory = saved
    log.put((1, b"one page too far"), watermark=hole.position)
    refused(log, "further on than was in flight", hole.position)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"offset": 2}, "does not follow"),
        ({"offset": 0}, "that another record has"),
        ({"kind": lib.RW_BLOCK_EPOCH}, "does not belong"),
        ({"span": 3 * PAGE}, "does not belong"),
        ({"kind": lib.RW_BLOCK_END}, "does not belong"),
        ({"kind": 9}, "does not belong"),
    ],
)
def test_a_valid_block_that_contradicts_the_log_is_refused(log: LogWriter, fields: dict[str, Any], match: str) -> None:
    log.put((0, b"a"))
    bad = log.put((0, b"b"), **fields)
    refused(log, match, bad.position)


def test_records_without_a_definition_and_streams_with_two_names_are_refused(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.next[1] = 0  # the writer believes that the stream is defined
    bad = log.put((1, b"b"))
    refused(log, "never defined", bad.position)


def test_a_stream_that_is_renamed_is_refused(log: LogWriter) -> None:
    log.put((0, b"a"))
    del log.next[0]
    bad = log.put((0, b""), name="another", stream_offset=1)
    refused(log, "under another name", bad.position)


def test_two_streams_of_one_name_are_refused(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.put((1, b"a"), name="s0")
    refused(log, "two streams have the name", log.begin + PAGE)


def test_an_offset_given_out_twice_is_refused_beyond_a_hole_too(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((1, b"x"), state="missing")
    bad = log.put((0, b"a again"), offset=0, watermark=hole.position)
    refused(log, "that another record has", bad.position)


@pytest.mark.parametrize("bit", range(0, 8 * 200, 37))
def test_a_damaged_checkpoint_is_refused(log: LogWriter, bit: int) -> None:
    log.put((0, b"a"))
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    path = log.directory / checkpoint_file.name_of(log.manifest.checkpoint_file)
    data = bytearray(path.read_bytes())
    data[bit // 8 if bit < 800 else PAGE + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    refused_whole(log, "checkpoint")


def test_a_missing_checkpoint_is_refused(log: LogWriter) -> None:
    (log.directory / checkpoint_file.name_of(log.manifest.checkpoint_file)).unlink()
    refused_whole(log, "missing: the manifest names it")


def test_the_other_checkpoint_is_not_taken_for_the_one_that_is_named(log: LogWriter) -> None:
    log.put((0, b"a"))
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    named, other = (log.directory / checkpoint_file.name_of(n) for n in (1, 0))
    assert log.manifest.checkpoint_file == 1
    named.write_bytes(other.read_bytes())
    refused_whole(log, "checkpoint")


@pytest.mark.parametrize("ends", [0, 1, 2])
def test_damage_that_has_eaten_more_than_was_in_flight_is_not_the_end_of_the_log(log: LogWriter, ends: int) -> None:
    first = log.put((0, b"0"))
    for _ in range(2):
        log.put((0, b"1" * (MIB - 5000)), watermark=first.end)
    for _ in range(ends):
        log.end(watermark=first.end)
    last = log.put((0, b"2"), watermark=first.end)
    assert last.position // SIZE == ends
    for position in range(first.end, last.position, PAGE):
        log.write_at(position, bytes(PAGE))
    refused(log, "further on than was in flight", first.end)


def shorten(path: Path) -> None:
    os.truncate(path, PAGE + MIB)


@pytest.mark.parametrize(("damage", "match"), [(Path.unlink, "missing"), (shorten, "bytes instead of")])
@pytest.mark.parametrize("number", [1, 2])
def test_every_segment_from_the_checkpoint_on_must_be_there(
    log: LogWriter, number: int, damage: Callable[[Path], None], match: str
) -> None:
    log.end()
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    log.end()
    damage(log.file(number))
    refused(log, match, number * SIZE + (MIB if damage is shorten else 0))


@pytest.mark.parametrize("damage", [Path.unlink, shorten])
def test_a_segment_below_the_checkpoint_is_told_and_hinders_nobody(log: LogWriter, damage: Callable[[Path], None]) -> None:
    log.put((0, b"a"))
    for _ in range(2):
        log.end()
        log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    damage(log.file(1))
    for _ in range(2):
        recovered = recover(log_at(log.directory), CONFIG)
        assert recovered.statistics.missing_segments == (1,) and offsets(recovered) == {"s0": 1}


def test_segments_of_another_log_and_copies_are_refused(log: LogWriter, tmp_path: Path) -> None:
    log.put((0, b"a"))
    log.end()
    recover(log_at(tmp_path / "other"), CONFIG)
    good = log.file(1).read_bytes()
    shutil.copy(path_of(tmp_path / "other", 0), log.file(0).with_name("kept"))
    log.file(1).write_bytes(log.file(0).read_bytes())
    refused(log, "is segment 0 under another name", SIZE)
    log.file(1).write_bytes(good)
    log.file(0).write_bytes(log.file(0).with_name("kept").read_bytes())
    refused(log, "another log", 0)


def test_segments_without_a_manifest_are_refused(log: LogWriter) -> None:
    (log.directory / "manifest").unlink()
    with pytest.raises(CorruptionError, match="no manifest"):
        recover(log_at(log.directory), CONFIG)
    assert segment.numbers(log_at(log.directory)) == [0]


def test_a_place_that_the_disk_cannot_read_is_not_the_end_of_the_log(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.put((0, b"a"))
    real, broken = os.preadv, 8192

    def fail(fd: int, into: Any, offset: int, *rest: int) -> int:
        if offset <= broken < offset + sum(len(part) for part in into):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, into, offset, *rest)

    before = snapshot(log.directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(CorruptionError, match="cannot read") as raised:
            recover(log_at(log.directory), CONFIG)
    assert raised.value.segment == 0 and raised.value.position is not None
    assert snapshot(log.directory) == before


def test_bytes_that_change_while_they_are_recovered_are_refused(
    log: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        log.put((0, b"f" * 900_000))
    hole = log.put((0, b"lost"), state="missing")
    kept = log.put((1, b"kept"), watermark=hole.position)
    log.end(watermark=hole.position)
    real, reads = os.preadv, 0

    def forget(fd: int, into: Any, offset: int, *rest: int) -> int:
        nonlocal reads
        count = real(fd, into, offset, *rest)
        at = PAGE + kept.position - offset
        if 0 <= at < count and len(into[0]) > PAGE:
            reads += 1
            if reads > 1:
                into[0][at : at + PAGE] = bytes(PAGE)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", forget)
        with pytest.raises(CorruptionError, match="same bytes twice"):
            recover(log_at(log.directory), CONFIG)
    assert manifests.load(log_at(log.directory)).epoch == 1
    assert offsets(recover(log_at(log.directory), CONFIG)) == {"s0": 3, "s1": 1}


def test_settings_that_do_not_fit_the_log_are_refused(log: LogWriter) -> None:
    log.put((0, b"a"), (63, b"b"))
    before = snapshot(log.directory)
    with pytest.raises(ConfigError, match="3MiB, which is fixed"):
        recover(log_at(log.directory), dataclasses.replace(CONFIG, segment_bytes=4 * MIB))
    with pytest.raises(ConfigError, match="2 streams; raise max_streams to 2"):
        recover(log_at(log.directory), dataclasses.replace(CONFIG, max_streams=1))
    assert snapshot(log.directory) == before
    assert len(recover(log_at(log.directory), CONFIG).streams) == 2


@pytest.mark.parametrize("orderly", [True, False])
def test_an_older_manifest_is_refused_before_a_later_epoch_is_written_over(log: LogWriter, orderly: bool) -> None:
    log.put((0, b"a"))
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    if orderly:
        log.manifest = dataclasses.replace(log.manifest, end=log.manifest.checkpoint_position)
        log.manifest = manifests.store(log_at(log.directory), log.manifest)
    else:
        log.put((0, b"b"))
    end = log.position
    names = ("manifest", checkpoint_file.name_of(log.manifest.checkpoint_file))
    older = {name: (log.directory / name).read_bytes() for name in names}
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    log.put((0, b"confirmed since"))
    for name, content in older.items():
        (log.directory / name).write_bytes(content)
    refused(log, "manifest is older than the log", end)


def test_an_older_manifest_whose_checkpoint_was_written_over_is_named_as_that(log: LogWriter) -> None:
    older = (log.directory / "manifest").read_bytes()
    for _ in range(2):
        log.put((0, b"a"))
        log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    (log.directory / "manifest").write_bytes(older)
    refused_whole(log, "manifest is older than the log")
