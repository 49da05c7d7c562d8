"""Recovery takes what a crash can leave, keeps what is in order, and refuses the rest with its place."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ringwal._native import lib
from ringwal.log import manifest as manifests
from ringwal.log import segment
from ringwal.log.recovery import Recovered, recover
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, MIB, PAGE, LogWriter, blocks, contents, offsets

SIZE = CONFIG.segment_bytes


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def test_a_new_directory_becomes_an_empty_log_in_epoch_one(tmp_path: Path) -> None:
    recovered = recover(log_at(tmp_path / "log"), CONFIG)
    assert (recovered.epoch, recovered.epoch_begin, recovered.position, recovered.streams) == (1, 0, PAGE, ())
    assert recovered.block_number == 1 and recovered.manifest == manifests.load(log_at(tmp_path / "log"))
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    made = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert made == ["checkpoint-0", "checkpoint-1", "manifest", "segments"]
    ((head, _),) = blocks(tmp_path / "log")
    assert head["kind"] == lib.RW_BLOCK_EPOCH and head["previous_epoch"] == head["previous_end"] == 0


def test_recovery_tells_how_far_it_is(log: LogWriter) -> None:
    log.put((0, b"a"))
    told: list[tuple[int, int]] = []
    recover(log_at(log.directory), CONFIG, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert len({total for _, total in told}) == 1
    assert 0 < told[0][0] <= told[-1][0] == told[-1][1]


def test_a_clean_log_comes_back_whole(log: LogWriter) -> None:
    log.put((0, b"a"), (1, [b"x", b"", b"yy"]))
    end = log.put((0, b"b" * 10_000)).end
    recovered = recover(log_at(log.directory), CONFIG)
    assert offsets(recovered) == {"s0": 2, "s1": 3}
    assert (recovered.epoch, recovered.epoch_begin, recovered.previous_end) == (2, end, end)
    assert recovered.timestamp_ns == 2_002
    stats = recovered.statistics
    assert (stats.blocks, stats.records, stats.bytes, stats.holes) == (2, 5, end - PAGE, 0)
    assert contents(log.directory) == {"s0": [b"a", b"b" * 10_000], "s1": [b"x", b"", b"yy"]}


def test_epochs_follow_each_other_without_losing_anything(log: LogWriter) -> None:
    for epoch in range(2, 6):
        log.put((0, b"%d" % epoch), (epoch, b"new"))
        recovered = recover(log_at(log.directory), CONFIG)
        assert recovered.epoch == epoch and recovered.epoch_begin == log.position
        log = LogWriter(log.directory, recovered)
    assert contents(log.directory)["s0"] == [b"2", b"3", b"4", b"5"]
    assert offsets(recovered) == {"s0": 4, "s2": 1, "s3": 1, "s4": 1, "s5": 1}


def test_a_log_goes_on_over_the_end_of_a_segment(log: LogWriter) -> None:
    big = [bytes([n]) * (MIB - 5000) for n in range(8)]
    for payload in big:
        log.put((0, payload))
    assert log.manifest.named_end > 2
    recovered = recover(log_at(log.directory), CONFIG)
    assert contents(log.directory) == {"s0": big}
    assert recovered.epoch_begin == log.position and recovered.manifest.named_end == log.manifest.named_end


def test_an_end_block_at_the_very_end_makes_the_next_segment_the_first_of_the_epoch(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.end()
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.epoch_begin == SIZE and recovered.previous_end == SIZE
    assert contents(log.directory) == {"s0": [b"a"]}


def test_valid_blocks_up_to_the_last_named_byte_are_a_whole_log(log: LogWriter) -> None:
    log.put((0, b"a"))
    size = SIZE - log.position
    log._block([], PAGE, "whole", None, {"kind": lib.RW_BLOCK_END, "span": size})
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.epoch_begin == SIZE and recovered.previous_end == SIZE


@pytest.mark.parametrize("state", ["torn", "header", "missing"])
def test_a_torn_last_block_is_cut_off(log: LogWriter, state: Any) -> None:
    log.put((0, b"a"))
    torn = log.put((0, b"b"), (1, b"c"), state=state)
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.previous_end == torn.position
    assert offsets(recovered) == {"s0": 1} and contents(log.directory) == {"s0": [b"a"]}


@pytest.mark.parametrize("state", ["torn", "missing"])
def test_a_torn_end_block_is_a_hole_like_any_other(log: LogWriter, state: Any) -> None:
    log.put((0, b"0" * (MIB - 5000)))
    log.put((0, b"1" * (MIB - 5000)), (1, b"x"))
    log.put((0, b"2" * (MIB - 100_000)))
    end = log.end(state=state)
    log.put((1, b"y"), watermark=end.position)
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.previous_end == end.position
    assert contents(log.directory)["s1"] == [b"x", b"y"]
    assert recovered.statistics.carried == 1 and recovered.statistics.holes == 1


@pytest.mark.parametrize("state", ["torn", "header", "missing"])
def test_beyond_a_hole_other_streams_go_on_and_the_same_one_does_not(log: LogWriter, state: Any) -> None:
    log.put((0, b"a"), (1, b"x"))
    hole = log.put((0, b"lost"), (2, b"lost with its definition"), state=state)
    log.put((0, b"after"), (1, [b"y", b"z"]), (2, b"dropped"), watermark=hole.position)
    log.put((3, b"new"), (1, b"!"), watermark=hole.position)
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.previous_end == hole.position
    assert offsets(recovered) == {"s0": 1, "s1": 4, "s3": 1}
    assert contents(log.directory) == {"s0": [b"a"], "s1": [b"x", b"y", b"z", b"!"], "s3": [b"new"]}
    stats = recovered.statistics
    assert (stats.carried, stats.dropped, stats.holes) == (4, 2, 1)


def test_what_is_carried_over_is_the_same_record(log: LogWriter) -> None:
    log.put((1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, [b"y", b"z"]), watermark=hole.position)
    recover(log_at(log.directory), CONFIG)
    (head, piece), = [b for b in blocks(log.directory) if b[0]["kind"] == lib.RW_BLOCK_DATA and b[0]["epoch"] == 2]
    _, kind, persisted, slot, size, count, stream, flags, *rest = struct.unpack_from("<IBBHIIIIQQQQQQQII", piece, 128)
    payload = piece[216 : 216 + size]
    assert (kind, persisted, slot, count, stream, flags) == (lib.RW_FRAME_BATCH, 0, 0, 2, 1, 0)
    assert rest == [1, 1_001, xxhash.xxh3_64_intdigest(payload), 0, 0, 0, 0, 0, 0]
    assert payload == struct.pack("<II", 1, 1) + b"yz" and head["number"] == 1


def test_times_of_records_are_carried_over(log: LogWriter) -> None:
    log.put((1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, [b"y", b"z"]), watermark=hole.position, own=[9, 5])
    recover(log_at(log.directory), CONFIG)
    (_, piece), = [b for b in blocks(log.directory) if b[0]["kind"] == lib.RW_BLOCK_DATA and b[0]["epoch"] == 2]
    size, count, _, flags = struct.unpack_from("<IIII", piece, 128 + 8)
    assert (count, flags) == (2, lib.RW_OWN_TIMES)
    assert piece[216 : 216 + size] == struct.pack("<II", 1, 1) + b"yz" + struct.pack("<QQ", 9, 5)


def test_a_joint_append_beyond_a_hole_comes_back_whole_or_not_at_all(log: LogWriter) -> None:
    log.put((0, b"a"), (1, b"x"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, b"y"), (2, [b"new", b"too"]), watermark=hole.position, joined=True)
    log.put((0, b"after"), (1, b"with what was lost"), (3, b"nor this"), watermark=hole.position, joined=True)
    log.put((1, b"behind it"), watermark=hole.position)
    log.put((2, b"!"), (4, b"!"), watermark=hole.position, joined=True)
    recovered = recover(log_at(log.directory), CONFIG)
    assert contents(log.directory) == {"s0": [b"a"], "s1": [b"x", b"y"], "s2": [b"new", b"too", b"!"], "s3": [], "s4": [b"!"]}
    assert (recovered.statistics.carried, recovered.statistics.dropped) == (5, 4)
    carried = [piece for head, piece in blocks(log.directory) if head["kind"] == lib.RW_BLOCK_DATA and head["epoch"] == 2]
    assert [flags_of(piece) for piece in carried] == [[True, False, True, False]]


def flags_of(block: bytes) -> list[bool]:
    """Of each batch: is another part behind it?"""
    used, frames = struct.unpack_from("<II", block, 52)
    at, found = 128, []
    for _ in range(frames):
        _, kind, _, _, size, _, _, flags = struct.unpack_from("<IBBHIIII", block, at)
        if kind == lib.RW_FRAME_BATCH:
            found.append(bool(flags & lib.RW_JOINED))
        at += 88 + (size + 7) // 8 * 8
    assert at == used
    return found


def test_joint_appends_that_are_carried_over_are_not_divided(log: LogWriter) -> None:
    """Each is larger than half of a block; together they need several."""
    log.manifest = manifests.store(log_at(log.directory), dataclasses.replace(log.manifest, window_bytes=8 * MIB))
    hole = log.put((0, b"lost"), state="missing")
    for n in range(4):
        log.put(*((stream, bytes([n]) * 300_000) for stream in (1, 2, 3)), watermark=hole.position, joined=True)
    recover(log_at(log.directory), CONFIG)
    assert {name: len(records) for name, records in contents(log.directory).items()} == {"s1": 4, "s2": 4, "s3": 4}
    carried = [piece for head, piece in blocks(log.directory) if head["kind"] == lib.RW_BLOCK_DATA and head["epoch"] == 2]
    assert len(carried) > 1 and all(flags_of(piece)[-1:] == [False] for piece in carried)


def test_what_is_dropped_never_comes_back(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((0, b"lost"), state="missing")
    log.put((0, b"zombie"), (1, b"kept"), watermark=hole.position)
    log.put((0, b"zombie too"), watermark=hole.position)
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    log.put((0, b"b"), (0, b"c"))
    for _ in range(3):
        recovered = recover(log_at(log.directory), CONFIG)
        assert offsets(recovered) == {"s0": 3, "s1": 1}
        assert contents(log.directory) == {"s0": [b"a", b"b", b"c"], "s1": [b"kept"]}


def test_carrying_more_than_a_segment_has_room_for_uses_the_next_one(log: LogWriter) -> None:
    directory = log.directory
    log.manifest = manifests.store(log_at(directory), dataclasses.replace(log.manifest, window_bytes=8 * MIB))
    hole = log.put((0, b"lost"), state="missing")
    sent = [bytes([n]) * (MIB - 6000) for n in range(5)]
    for payload in sent:
        log.put((1, payload), watermark=hole.position)
    recovered = recover(log_at(directory), CONFIG)
    assert recovered.statistics.carried == 5 and recovered.statistics.holes >= 1
    assert contents(directory) == {"s1": sent}
    assert recovered.position // SIZE > recovered.epoch_begin // SIZE
    assert recovered.manifest.named_end == recovered.position // SIZE + 1
    assert contents(directory) == {"s1": sent}
    recover(log_at(directory), CONFIG)
    assert contents(directory) == {"s1": sent}


def test_as_many_streams_as_there_may_be_come_back(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, max_streams=3000)
    log = LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), config))
    for first in range(0, 3000, 1000):
        names = [(stream, b"%d" % stream) for stream in range(first, first + 1000)]
        log.put(*names)
    for _ in range(2):
        recovered = recover(log_at(log.directory), config)
        assert len(recovered.streams) == 3000 and all(s.next_offset == 1 for s in recovered.streams)
    assert {name: len(records) for name, records in contents(log.directory).items()} == {f"s{n}": 1 for n in range(3000)}


def test_what_is_known_of_a_stream_is_counted_over_epochs(log: LogWriter) -> None:
    log.put((0, b"a"), (1, [b"xx", b"yyy"]))  # a batch has four bytes of length for each
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    hole = log.put((0, b"lost"), state="missing")
    log.put((1, b"zzzz"), watermark=hole.position)
    for _ in range(3):
        one, other = recover(log_at(log.directory), CONFIG).streams
        assert (one.payload_bytes, one.timestamp_ns) == (1, 1_000)
        assert (other.payload_bytes, other.timestamp_ns) == (13 + 4, 1_002)


def test_a_start_costs_a_page(log: LogWriter) -> None:
    log.put((0, b"a"))
    files = 0
    for start in range(1, 30):
        recovered = recover(log_at(log.directory), CONFIG)
        assert recovered.position == log.position + start * PAGE
        files = files or sum(1 for _ in log.directory.rglob("*"))
    assert recovered.epoch == 30 and recovered.manifest.named_end == 1
    assert sum(1 for _ in log.directory.rglob("*")) == files
    assert contents(log.directory) == {"s0": [b"a"]}


@pytest.mark.parametrize("left", range(4))
def test_an_epoch_begins_wherever_there_is_room_for_its_first_block_and_an_end(log: LogWriter, left: int) -> None:
    while SIZE - log.position > (left + 1) * PAGE:
        pages = min((SIZE - log.position) // PAGE - left - 1, 200)
        log.put((0, bytes(pages * PAGE - 400)))
    assert SIZE - log.position == (left + 1) * PAGE
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.epoch_begin == (log.position if left else SIZE)
    log = LogWriter(log.directory, recovered)
    log.put((0, b"a"), (1, b"b"))
    recovered = recover(log_at(log.directory), CONFIG)
    assert contents(log.directory)["s1"] == [b"b"] and contents(log.directory)["s0"][-1] == b"a"


def test_a_segment_that_a_copy_shares_is_not_written(log: LogWriter, tmp_path: Path) -> None:
    log.put((0, b"a"))
    os.link(log.file(0), tmp_path / "copied")
    before = log.file(0).read_bytes()
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.epoch_begin == SIZE and log.file(0).read_bytes() == before
    assert contents(log.directory) == {"s0": [b"a"]}


def test_no_segment_below_the_checkpoint_is_opened(log: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        log.put((0, b"0" * (MIB - 5000)))
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    assert log.position > SIZE
    real, opened = os.open, []

    def seen(path: Any, *arguments: Any, **keywords: Any) -> int:
        opened.append(path)
        return real(path, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", seen)
        recover(log_at(log.directory), CONFIG)
    assert segment.name_of(1) in opened and segment.name_of(0) not in opened


def test_an_orderly_end_is_believed_and_cleared_by_the_next_start(log: LogWriter) -> None:
    log.put((0, b"a"))
    log = LogWriter(log.directory, recover(log_at(log.directory), CONFIG))
    state = manifests.load(log_at(log.directory))
    ended = manifests.store(log_at(log.directory), dataclasses.replace(state, end=state.checkpoint_position))
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.statistics.blocks == recovered.manifest.end == 0
    assert (recovered.previous_end, recovered.epoch_begin) == (ended.end, ended.end)
    assert offsets(recovered) == {"s0": 1} and contents(log.directory) == {"s0": [b"a"]}


def test_two_holes_count_from_the_first(log: LogWriter) -> None:
    log.put((0, b"a"))
    hole = log.put((1, b"x"), state="missing")
    log.put((0, b"b"), watermark=hole.position)
    log.put((0, b"c"), watermark=hole.position, state="torn")
    log.put((0, b"d"), (2, b"q"), watermark=hole.position)
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.statistics.holes == 2
    assert contents(log.directory) == {"s0": [b"a", b"b"], "s2": [b"q"]}


def test_orphans_are_removed_and_the_window_follows_the_settings(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.manifest = segment.prepare(log_at(log.directory), log.manifest, 1, direct=False)
    segment.create(log_at(log.directory), log.manifest.uuid, 2, SIZE, direct=False)
    log.manifest = manifests.store(log_at(log.directory), dataclasses.replace(log.manifest, window_bytes=5 * MIB))
    recovered = recover(log_at(log.directory), dataclasses.replace(CONFIG, direct_io="off"))
    assert segment.numbers(log_at(log.directory)) == [0, 1]
    assert recovered.direct is False and recovered.manifest.window_bytes == CONFIG.ring_bytes


def test_stale_blocks_of_an_unfinished_attempt_never_show(log: LogWriter) -> None:
    log.put((0, b"a"))
    log.manifest = segment.prepare(log_at(log.directory), log.manifest, 1, direct=False)
    # An attempt at epoch 2 got further than this one will: its blocks are valid, right behind its first one.
    attempt = LogWriter(log.directory, recover_copy(log))
    attempt.directory = log.directory
    claimed = dataclasses.replace(log.manifest, claimed=attempt.manifest.claimed)  # what it did first
    manifests.store(log_at(log.directory), claimed)
    attempt.put((0, b"stale"))
    attempt.put((0, b"stale too"))
    recovered = recover(log_at(log.directory), CONFIG)
    assert recovered.epoch == attempt.manifest.epoch + 1 and recovered.epoch_begin == attempt.begin
    recover(log_at(log.directory), CONFIG)
    assert contents(log.directory) == {"s0": [b"a"]}


def recover_copy(log: LogWriter) -> Recovered:
    copy = log.directory.with_name("copy")
    shutil.copytree(log.directory, copy)
    return recover(log_at(copy), CONFIG)


def test_a_large_record_that_is_dropped_takes_no_room(log: LogWriter) -> None:
    hole = log.put((0, b"lost"), (1, b"lost"), state="missing")
    log.next.pop(1)
    log.put((0, b"d" * 900_000), watermark=hole.position)
    log.put((1, b"kept"), watermark=hole.position)
    recovered = recover(log_at(log.directory), CONFIG)
    assert contents(log.directory) == {"s1": [b"kept"]}
    assert recovered.position == recovered.epoch_begin + 2 * PAGE


def test_a_block_inside_a_torn_block_is_payload(log: LogWriter, tmp_path: Path) -> None:
    # A copy of the log has a real block one page further on; here its bytes are part of a record.
    shutil.copytree(log.directory, tmp_path / "other")
    other = copy.copy(log)
    other.directory, other.next, other.position = tmp_path / "other", {}, log.position + PAGE
    inner = other.put((1, b"forged"))
    image = other.file(0).read_bytes()[PAGE + inner.position : PAGE + inner.end]
    payload = bytes(PAGE - 128 - 96 - 88) + image
    torn = log.put((0, payload), state="torn")
    assert log.file(0).read_bytes()[PAGE + inner.position : PAGE + inner.end] == image
    log.put((2, b"after"), watermark=torn.position)
    recover(log_at(log.directory), CONFIG)
    assert contents(log.directory) == {"s2": [b"after"]}
