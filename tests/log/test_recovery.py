"""Recovery takes what a crash can leave, keeps what is in order, and refuses the rest with its place."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from log.writer import CONFIG, MIB, PAGE, LogWriter, blocks, contents

from engine._native import lib
from engine.errors import ConfigError, CorruptionError
from engine.log import manifest as manifests
from engine.log import segment
from engine.log.recovery import Recovered, recover

SIZE = CONFIG.segment_bytes


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(tmp_path / "log", CONFIG))


def offsets(recovered: Recovered) -> dict[str, int]:
    return {stream.name: stream.next_offset for stream in recovered.streams}


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refused(log: LogWriter, match: str, position: int, error: type[CorruptionError] = CorruptionError) -> None:
    """Recovery names the place and leaves every byte as it is."""
    before = snapshot(log.directory)
    with pytest.raises(error, match=match) as raised:
        recover(log.directory, CONFIG)
    assert (raised.value.segment, raised.value.position) == (position // SIZE, position)
    assert snapshot(log.directory) == before


def test_a_new_directory_becomes_an_empty_log_in_epoch_one(tmp_path: Path) -> None:
    recovered = recover(tmp_path / "log", CONFIG)
    assert (recovered.epoch, recovered.epoch_begin, recovered.position, recovered.streams) == (1, 0, PAGE, ())
    assert recovered.block_number == 1 and recovered.manifest == manifests.load(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["manifest", "segments"]
    ((head, _),) = blocks(tmp_path / "log")
    assert head["kind"] == lib.RW_BLOCK_BARRIER and head["sequence"] == lib.RW_BARRIER_LAST
    assert head["previous_end"] == 0


def test_a_clean_log_comes_back_whole(log: LogWriter) -> None:
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]))
    end = log.put((0, b"b" * 10_000)).end
    recovered = recover(log.directory, CONFIG)
    assert offsets(recovered) == {"s0": 2, "s1": 3}
    assert (recovered.epoch, recovered.epoch_begin, recovered.previous_end) == (2, SIZE, end)
    assert recovered.timestamp_ns == 2_002
    stats = recovered.statistics
    assert (stats.blocks, stats.records, stats.bytes, stats.holes) == (3, 5, end, 0)
    assert contents(log.directory) == {"s0": [b"a", b"b" * 10_000], "s1": [b"x", b"", b"yy"]}


def test_epochs_follow_each_other_without_losing_anything(log: LogWriter) -> None:
    for epoch in range(2, 6):
        log.put((0, b"%d" % epoch), (epoch, b"new"))
        recovered = recover(log.directory, CONFIG)
        assert recovered.epoch == epoch and recovered.epoch_begin % SIZE == 0
        log = LogWriter(log.directory, recovered)
    assert contents(log.directory)["s0"] == [b"2", b"3", b"4", b"5"]
    assert offsets(recovered) == {"s0": 4, "s2": 1, "s3": 1, "s4": 1, "s5": 1}


def test_a_log_goes_on_over_the_end_of_a_segment(log: LogWriter) -> None:
    big = [bytes([n]) * (MIB - 5000) for n in range(8)]
    for payload in big:
        log.put((0, payload))
    assert log.manifest.named_end > 2
    recovered = recover(log.directory, CONFIG)
    assert contents(log.directory) == {"s0": big}
    assert recovered.epoch_begin == log.manifest.named_end * SIZE


def test_an_end_block_at_the_very_end_makes_the_next_segment_the_first_of_the_epoch(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.end()
    recovered = recover(log.directory, CONFIG)
    assert recovered.epoch_begin == SIZE and recovered.previous_end == SIZE
    assert contents(log.directory) == {"s0": [b"a"]}


def test_valid_blocks_up_to_the_last_named_byte_are_a_whole_log(log: LogWriter) -> None:
    log.put((0, b"a"))
    size = SIZE - log.position
    log._block([], PAGE, "whole", None, {"kind": lib.RW_BLOCK_END, "span": size})
    recovered = recover(log.directory, CONFIG)
    assert recovered.epoch_begin == SIZE and recovered.previous_end == SIZE


@pytest.mark.parametrize("state", ["torn", "header", "missing"])
def test_a_torn_last_block_is_cut_off(log: LogWriter, state: Any) -> None:
    log.put((0, b"a"))
    torn = log.put((0, b"b"), (1, b"c"), state=state)
    recovered = recover(log.directory, CONFIG)
    assert recovered.previous_end == torn.position
    assert offsets(recovered) == {"s0": 1} and contents(log.directory) == {"s0": [b"a"]}


@pytest.mark.parametrize("state", ["torn", "missing"])
def test_a_torn_end_block_is_a_hole_like_any_other(log: LogWriter, state: Any) -> None:
    log.put((0, b"0" * (MIB - 5000)))
    log.put((0, b"1" * (MIB - 5000)), (1, b"x"))
    log.put((0, b"2" * (MIB - 100_000)))
    end = log.end(state=state)
    log.put((1, b"y"), watermark=end.position)
    recovered = recover(log.directory, CONFIG)
    assert recovered.previous_end == end.position
    assert contents(log.directory)["s1"] == [b"x", b"y"]
    assert recovered.statistics.carried == 1 and recovered.statistics.holes == 1


@pytest.mark.parametrize("state", ["torn", "header", "missing"])
def test_beyond_a_hole_other_streams_go_on_and_the_same_one_does_not(log: LogWriter, state: Any) -> None:
    log.put((0, b"a"), (1, b"x"))
    hole = log.put((0, b"lost"), (2, b"lost with its definition"), state=state)
    log.put((0, b"after"), (1, [b"y", b"z"]), (2, b"dropped"), watermark=hole.position)
    log.put((3, b"new"), (1, b"!"), watermark=hole.position)
    recovered = recover(log.directory, CONFIG)
    assert recovered.previous_end == hole.position
    assert offsets(recovered) == {"s0": 1, "s1": 4, "s3": 1}
    assert contents(log.directory) == {"s0": [b"a"], "s1": [b"x", b"y", b"z", b"!"], "s3": [b"new"]}
    stats = recovered.statistics
    assert (stats.carried, stats.dropped, stats.holes) == (4, 2, 1)


def test_what_is_carried_over_is_the_same_record(log: LogWriter) -> None:
    log.put((1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, [b"y", b"z"]), watermark=hole.position)
    recover(log.directory, CONFIG)
    (head, piece), = [b for b in blocks(log.directory) if b[0]["kind"] == lib.RW_BLOCK_DATA and b[0]["epoch"] == 2]
    _, kind, persisted, slot, size, count, stream, generation, *rest = struct.unpack_from("<IBBHIIIIQQQQQQQ", piece, 128)
    payload = piece[208 : 208 + size]
    assert (kind, persisted, slot, count, stream, generation) == (lib.RW_RECORD_BATCH, 0, 0, 2, 1, 0)
    assert rest == [1, 1_001, xxhash.xxh3_64_intdigest(payload), 0, 0, 11, 1]
    assert payload == struct.pack("<II", 1, 1) + b"yz" and head["number"] == 1


def test_what_is_dropped_never_comes_back(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((0, b"zombie"), (1, b"kept"), watermark=hole.position)
    log.put((0, b"zombie too"), watermark=hole.position)
    log = LogWriter(log.directory, recover(log.directory, CONFIG))
    log.put((0, b"b"), (0, b"c"))
    for _ in range(3):
        recovered = recover(log.directory, CONFIG)
        assert offsets(recovered) == {"s0": 3, "s1": 1}
        assert contents(log.directory) == {"s0": [b"a", b"b", b"c"], "s1": [b"kept"]}


def test_carrying_more_than_a_segment_has_room_for_uses_the_next_one(log: LogWriter) -> None:
    directory = log.directory
    log.manifest = manifests.store(directory, dataclasses.replace(log.manifest, window_bytes=8 * MIB))
    hole = log.put((0, b"lost"), state="missing")
    sent = [bytes([n]) * (MIB - 6000) for n in range(5)]
    for payload in sent:
        log.put((1, payload), watermark=hole.position)
    recovered = recover(directory, CONFIG)
    assert recovered.statistics.carried == 5 and recovered.statistics.holes >= 1
    assert contents(directory) == {"s1": sent}
    assert recovered.position // SIZE > recovered.epoch_begin // SIZE
    assert recovered.manifest.named_end == recovered.position // SIZE + 1
    assert contents(directory) == {"s1": sent}
    recover(directory, CONFIG)
    assert contents(directory) == {"s1": sent}


def test_a_barrier_of_many_blocks_is_read_back(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_streams=3000)
    log = LogWriter(tmp_path / "log", recover(tmp_path / "log", config))
    for first in range(0, 3000, 1000):
        names = [(stream, b"%d" % stream) for stream in range(first, first + 1000)]
        log.put(*names)
    for _ in range(2):
        recovered = recover(log.directory, config)
        assert len(recovered.streams) == 3000 and all(s.next_offset == 1 for s in recovered.streams)
    barrier = [head for head, _ in blocks(log.directory) if head["epoch"] == 3]
    assert len(barrier) > 1 and [head["sequence"] & 0xFF for head in barrier] == list(range(len(barrier)))


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_below_a_watermark_is_refused(log: LogWriter, bit: int) -> None:
    first = log.put((0, b"a" * 100))
    log.put((0, b"b"))  # its watermark covers the first
    log.flip(first.position + 128 + 80 + 8 + 80 + 50, bit)
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
    recovered = recover(log.directory, CONFIG)
    log = LogWriter(log.directory, recovered)
    log.flip(recovered.position - PAGE + 200)
    refused(log, "that was on the disk is damaged", recovered.position - PAGE)


def test_a_hole_is_tolerated_up_to_the_window_and_not_beyond(log: LogWriter) -> None:
    fill = b"f" * (MIB // 2 - 128 - 2 * 80 - 8)
    hole = log.put((0, fill), state="missing")
    exact = log.put((1, fill), watermark=hole.position)
    assert exact.end - hole.position == CONFIG.ring_bytes
    saved = log.directory.with_name("saved")
    shutil.copytree(log.directory, saved)
    assert offsets(recover(log.directory, CONFIG)) == {"s1": 1}
    log.directory = saved
    log.put((1, b"one page too far"), watermark=hole.position)
    refused(log, "further on than was in flight", hole.position)


def test_two_holes_count_from_the_first(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((1, b"x"), state="missing")
    log.put((0, b"b"), watermark=hole.position)
    log.put((0, b"c"), watermark=hole.position, state="torn")
    log.put((0, b"d"), (2, b"q"), watermark=hole.position)
    recovered = recover(log.directory, CONFIG)
    assert recovered.statistics.holes == 2
    assert contents(log.directory) == {"s0": [b"a", b"b"], "s2": [b"q"]}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"offset": 2}, "does not follow"),
        ({"offset": 0}, "that another record has"),
        ({"kind": lib.RW_BLOCK_BARRIER}, "does not belong"),
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
    refused(log, "two streams have the name", 0)


def test_an_offset_given_out_twice_is_refused_beyond_a_hole_too(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((1, b"x"), state="missing")
    bad = log.put((0, b"a again"), offset=0, watermark=hole.position)
    refused(log, "that another record has", bad.position)


@pytest.mark.parametrize("at", [0, 8, 40, 130, 200])
def test_a_damaged_barrier_is_refused(log: LogWriter, at: int) -> None:
    log.put((0, b"a"))
    log = LogWriter(log.directory, recover(log.directory, CONFIG))
    log.flip(log.begin + at, 1)
    refused(log, "barrier that begins the epoch", log.begin)


def test_a_missing_barrier_is_not_an_empty_log(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.write_at(0, bytes(PAGE))
    refused(log, "barrier that begins the epoch", 0)


def shorten(path: Path) -> None:
    os.truncate(path, PAGE + MIB)


@pytest.mark.parametrize(("damage", "match"), [(Path.unlink, "missing"), (shorten, "bytes instead of")])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_named_segment_must_be_there(
    log: LogWriter, number: int, damage: Callable[[Path], None], match: str
) -> None:
    for _ in range(2):
        log.put((0, b"a"))
        log = LogWriter(log.directory, recover(log.directory, CONFIG))
    damage(log.file(number))
    at = number * SIZE + (MIB if damage is shorten else 0)
    refused(log, match, at)


def test_segments_of_another_log_and_copies_are_refused(log: LogWriter, tmp_path: Path) -> None:
    log.put((0, b"a"))
    log.end()
    recover(tmp_path / "other", CONFIG)
    good = log.file(1).read_bytes()
    shutil.copy(segment.path_of(tmp_path / "other", 0), log.file(0).with_name("kept"))
    log.file(1).write_bytes(log.file(0).read_bytes())
    refused(log, "is segment 0 under another name", SIZE)
    log.file(1).write_bytes(good)
    log.file(0).write_bytes(log.file(0).with_name("kept").read_bytes())
    refused(log, "another log", 0)


def test_segments_without_a_manifest_are_refused(log: LogWriter) -> None:
    (log.directory / "manifest").unlink()
    with pytest.raises(CorruptionError, match="no manifest"):
        recover(log.directory, CONFIG)
    assert segment.numbers(log.directory) == [0]


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
            recover(log.directory, CONFIG)
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
            recover(log.directory, CONFIG)
    assert manifests.load(log.directory).epoch == 1
    assert offsets(recover(log.directory, CONFIG)) == {"s0": 3, "s1": 1}


def test_settings_that_do_not_fit_the_log_are_refused(log: LogWriter) -> None:
    log.put((0, b"a"), (63, b"b"))
    before = snapshot(log.directory)
    with pytest.raises(ConfigError, match="3MiB, which is fixed"):
        recover(log.directory, dataclasses.replace(CONFIG, segment_bytes=4 * MIB))
    with pytest.raises(ConfigError, match="raise max_streams to 64"):
        recover(log.directory, dataclasses.replace(CONFIG, max_streams=63))
    assert snapshot(log.directory) == before
    assert len(recover(log.directory, CONFIG).streams) == 2


def test_orphans_are_removed_and_the_window_follows_the_settings(log: LogWriter) -> None:
    log.put((0, b"a"))
    segment.create(log.directory, log.manifest.uuid, 1, SIZE, direct=False)
    segment.create(log.directory, log.manifest.uuid, 2, SIZE, direct=False)
    log.manifest = manifests.store(log.directory, dataclasses.replace(log.manifest, window_bytes=5 * MIB))
    recovered = recover(log.directory, dataclasses.replace(CONFIG, direct_io="off"))
    assert segment.numbers(log.directory) == [0, 1]
    assert recovered.direct is False and recovered.manifest.window_bytes == CONFIG.ring_bytes


def test_stale_blocks_of_an_unfinished_attempt_never_show(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.manifest = segment.prepare(log.directory, log.manifest, 1, direct=False)
    # An attempt at epoch 2 got further than this one will: its blocks are valid, right behind the barrier.
    attempt = LogWriter(log.directory, recover_copy(log))
    attempt.directory = log.directory
    attempt.put((0, b"stale"))
    attempt.put((0, b"stale too"))
    recovered = recover(log.directory, CONFIG)
    assert recovered.epoch == attempt.manifest.epoch and recovered.epoch_begin == SIZE
    recover(log.directory, CONFIG)
    assert contents(log.directory) == {"s0": [b"a"]}


def recover_copy(log: LogWriter) -> Recovered:
    copy = log.directory.with_name("copy")
    shutil.copytree(log.directory, copy)
    return recover(copy, CONFIG)
