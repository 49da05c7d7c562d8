"""The walk through blocks, and the index: every stop of the walk, and no byte taken on trust."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringwal._native import ffi, lib
from tests.support.log_maker import PAGE, UUID, Frame, LogMaker, block_bytes

ANY = (1 << 64) - 1


class Walk:
    """A walk of one stream over some bytes."""

    def __init__(self, data: bytes, *, stream: int = 1, start: int = 0, below: int = 1000, position: int = 0) -> None:
        self.memory = ffi.from_buffer("uint8_t[]", bytearray(data))
        self.area = ffi.new("rw_area *", (self.memory, position, ANY, position + len(data)))
        self.state = ffi.new("rw_walk *")
        ffi.memmove(self.state.uuid, UUID, len(UUID))
        self.state.epoch, self.state.position = 1, position
        self.state.stream, self.state.next_offset, self.state.below = stream, start, below
        self.slices = ffi.new("rw_slices *")

    def collect(self, records: int = 1000, size: int = ANY, must: int = 1) -> tuple[int, list[bytes]]:
        out = self.slices
        out.records_left, out.bytes_left, out.must = records, size, must
        stop = lib.rw_walk_collect(self.area, self.state, out)
        view = ffi.buffer(self.memory)
        return stop, [view[out.begin[i] : out.end[i]] for i in range(out.count)]


def three_blocks() -> bytes:
    data = b""
    for i in range(3):
        frames = [Frame(1, 2 * i, [b"a%d" % i, b"b%d" % i]), Frame(2, i, [b"x" * 5000])]
        data += block_bytes(frames, epoch=1, position=len(data), number=i)
    return data


def test_every_stop_of_the_walk() -> None:
    data = three_blocks()
    everything = [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    assert Walk(data).collect() == (lib.RW_WALK_END, everything)
    assert Walk(data, below=6).collect() == (lib.RW_WALK_DONE, everything)
    assert Walk(data, below=3).collect() == (lib.RW_WALK_DONE, everything[:3])
    assert Walk(data, start=3).collect(2) == (lib.RW_WALK_FULL, everything[3:5])
    assert Walk(data).collect(size=5) == (lib.RW_WALK_FULL, everything[:2])
    assert Walk(data).collect(size=0) == (lib.RW_WALK_FULL, everything[:1])
    assert Walk(data).collect(size=0, must=0) == (lib.RW_WALK_FULL, [])
    assert Walk(data, stream=3).collect() == (lib.RW_WALK_END, [])
    second = len(data) // 3
    ahead = Walk(data[second:], position=second)
    assert ahead.collect() == (lib.RW_WALK_AHEAD, [])
    short = Walk(data[: second + 100])
    assert short.collect() == (lib.RW_WALK_SHORT, everything[:2])
    assert (short.state.position, short.state.frame_at, short.state.need) == (second, 0, PAGE)


def test_only_what_is_looked_at_need_be_there() -> None:
    data = three_blocks()
    second = len(data) // 3
    # The frame behind the wanted one is not, but its header.
    assert Walk(data[: second + PAGE]).collect() == (lib.RW_WALK_END, [b"a0", b"b0", b"a1", b"b1"])
    short = Walk(data[: second + PAGE], stream=2)
    assert short.collect() == (lib.RW_WALK_SHORT, [b"x" * 5000])
    assert (short.state.position, short.state.need) == (second, ffi.sizeof("rw_frame") + 5000)
    place = second + short.state.frame_at
    short.memory = ffi.from_buffer("uint8_t[]", bytearray(data[place - 8 :]))
    short.area.base, short.area.origin, short.area.end = short.memory, place - 8, len(data)
    assert short.collect() == (lib.RW_WALK_END, [b"x" * 5000] * 2)
    short.state.position, short.state.frame_at, short.state.used = 0, 0, 0
    assert short.collect()[0] == lib.RW_WALK_SHORT, "what lies before the area is not in it"


def test_a_walk_goes_on_where_it_stopped() -> None:
    walk = Walk(three_blocks(), below=6)
    found: list[bytes] = []
    for _ in range(6):
        stop, records = walk.collect(1)
        assert (stop, len(records)) == (lib.RW_WALK_DONE if len(found) == 5 else lib.RW_WALK_FULL, 1)
        found += records
    assert found == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"]
    walk.state.below = 7
    assert walk.collect() == (lib.RW_WALK_END, [])


def times_of(walk: Walk) -> list[int | None]:
    out = walk.slices
    return [None if not out.timed or out.own_ns[i] == lib.RW_NO_TIME else out.own_ns[i] for i in range(out.count)]


def test_times_of_their_own_come_with_their_records_wherever_a_walk_stops() -> None:
    frames = [
        Frame(1, 0, [b"plain"]), Frame(1, 1, [b"one"], own=[7]), Frame(2, 0, [b"other"], own=[1]), Frame(1, 2, [b"p", b"lain"]),
        Frame(1, 4, [b"a", b"", b"ccc"], own=[9, 0, 2**63 - 1]),
    ]  # fmt: skip
    data = block_bytes(frames, epoch=1, position=0)
    records = [b"plain", b"one", b"p", b"lain", b"a", b"", b"ccc"]
    own = [None, 7, None, None, 9, 0, 2**63 - 1]
    for start in range(len(records)):
        for most in range(1, len(records) + 1):
            walk = Walk(data, start=start, below=len(records))
            for at in range(start, len(records), most):
                assert walk.collect(most)[1] == records[at : at + most]
                assert times_of(walk) == own[at : at + most]


@pytest.mark.parametrize("own", [[], [5, 6, 7]])
def test_no_flipped_bit_gets_through(own: list[int]) -> None:
    good = block_bytes([Frame(2, 0, [b"other"]), Frame(1, 0, [b"one", b"", b"three"], own=own)], epoch=1, position=0)
    used = ffi.cast("const rw_block *", ffi.from_buffer(good)).used
    persisted = {ffi.offsetof("rw_frame", "persisted") + at for at in (128, 128 + 88 + 8)}  # not covered, on purpose
    payload_of_other = range(128 + 88, 128 + 88 + 8)  # nobody asked for it
    padding = range(used - 4, used)
    for at in range(used):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        stop, records = Walk(bytes(bad)).collect()
        if at in persisted or at in payload_of_other or at in padding:
            assert (stop, records) == (lib.RW_WALK_END, [b"one", b"", b"three"]), at
        else:
            assert (stop, records) == (lib.RW_WALK_BAD, []), at


def test_blocks_of_another_place_epoch_or_engine_are_refused() -> None:
    block = block_bytes([Frame(1, 0, [b"x"])], epoch=1, position=8192)
    assert Walk(block, position=8192).collect() == (lib.RW_WALK_END, [b"x"])
    assert Walk(block, position=4096).collect() == (lib.RW_WALK_BAD, [])
    other_epoch = Walk(block, position=8192)
    other_epoch.state.epoch = 2
    assert other_epoch.collect() == (lib.RW_WALK_BAD, [])
    other_engine = Walk(block, position=8192)
    other_engine.state.uuid[3] ^= 1
    assert other_engine.collect() == (lib.RW_WALK_BAD, [])


# -------------------------------------------------------------------------------------------------------- the index


def index(walk: Walk, capacity: int, *, streams: int = 8) -> tuple[int, list[tuple[int, int, int, int]]]:
    entries = ffi.new("rw_index_entry[]", max(capacity, 1))
    count = ffi.new("uint32_t *")
    scratch = ffi.new("uint32_t[]", [99] * streams)
    stop = lib.rw_walk_index(walk.area, walk.state, entries, capacity, count, scratch, streams)
    lib.rw_index_sort(entries, count[0])
    return stop, [(e.stream, e.base_offset, e.count, e.position) for e in entries[0 : count[0]]]


@pytest.mark.parametrize("streams", [0, 2, 8])
def test_one_entry_per_stream_and_block(streams: int) -> None:
    frames = [Frame(1, 0, [b"a", b"b"]), Frame(2, 5, [b"c"]), Frame(1, 2, [b"d"]), Frame(1, 3, [b"e", b"f"])]
    data = block_bytes(frames, epoch=1, position=0)
    data += block_bytes([Frame(1, 5, [b"g"])], epoch=1, position=len(data))
    stop, entries = index(Walk(data), 16, streams=streams)
    assert stop == lib.RW_WALK_END
    merged = [(1, 0, 5, 0), (1, 5, 1, PAGE), (2, 5, 1, 0)]
    single = [(1, 0, 2, 0), (1, 2, 1, 0), (1, 3, 2, 0), (1, 5, 1, PAGE), (2, 5, 1, 0)]
    assert entries == (merged if streams > 1 else single)


def test_an_index_block_is_taken_whole_or_not() -> None:
    walk = Walk(three_blocks())
    assert index(walk, 1) == (lib.RW_WALK_FULL, [])
    assert (walk.state.need, walk.state.position) == (2, 0)
    stop, entries = index(walk, 3)
    assert (stop, len(entries)) == (lib.RW_WALK_FULL, 2)
    second = walk.state.position
    walk.memory[second + 128 + 88 + 16 + 10] ^= 1  # in the second frame's header
    assert index(walk, 8) == (lib.RW_WALK_BAD, [])
    assert walk.state.position == second
    walk.memory[second + 128 + 88 + 16 + 10] ^= 1
    stop, entries = index(walk, 8)
    assert (stop, len(entries)) == (lib.RW_WALK_END, 4)


def test_search_in_the_index_agrees_with_bisect() -> None:
    chance = random.Random(3)
    keys = sorted({(chance.randrange(5), chance.randrange(100)) for _ in range(200)})
    entries = ffi.new("rw_index_entry[]", len(keys))
    for entry, (stream, offset) in zip(entries, chance.sample(keys, len(keys)), strict=True):
        entry.stream, entry.base_offset = stream, offset
    lib.rw_index_sort(entries, len(keys))
    assert [(e.stream, e.base_offset) for e in entries] == keys
    for stream in range(6):
        for offset in (0, 1, 50, 99, 100, ANY):
            expected = bisect.bisect_left(keys, (stream, offset))
            assert lib.rw_index_before(entries, len(keys), stream, offset) == expected


# ----------------------------------------------------------------------------------------------------- the log ring


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogMaker]:
    maker = LogMaker(tmp_path)
    maker.begin_epoch()
    yield maker
    maker.close()


def find(log: LogMaker, stream: int, offset: int) -> int | None:
    position: Any = ffi.new("uint64_t *")
    code = lib.rw_log_find(log.control, log.ring, stream, offset, position)
    assert code in (lib.RW_OK, lib.RW_OVERWRITTEN)
    return int(position[0]) if code == lib.RW_OK else None


def test_the_ring_holds_what_reserve_end_leaves(log: LogMaker) -> None:
    control, seed = log.control, log.control.position_seed
    assert lib.rw_log_low(control) == seed
    control.reserve_end = seed + log.ring_bytes
    assert lib.rw_log_low(control) == seed
    control.reserve_end += PAGE
    assert lib.rw_log_low(control) == seed + PAGE
    assert lib.rw_log_holds(control, seed + PAGE)
    assert not lib.rw_log_holds(control, seed + PAGE - 1)


def test_find_in_the_ring(log: LogMaker) -> None:
    assert find(log, 1, 0) is None
    places = []
    for _ in range(5):
        places.append(log.add((1, [b"a", b"b"]), (2, [b"c"])))
        log.add((3, [b"d"]))
    assert [find(log, 1, offset) for offset in range(10)] == [place for place in places for _ in range(2)]
    assert find(log, 2, 3) == places[3]
    assert find(log, 4, 0) is None
    log.control.reserve_end = places[2] + PAGE + log.ring_bytes  # the block of offsets 4 and 5 may be overwritten
    assert [find(log, 1, offset) for offset in (5, 6)] == [None, places[3]]


def test_an_entry_that_is_used_anew_ends_the_search(log: LogMaker) -> None:
    places = [log.add((1, [b"a"])) for _ in range(4)]
    lib.rw_block_entry_of(log.control, log.number - 2).number = ANY
    assert [find(log, 1, offset) for offset in range(4)] == [None, None, None, places[3]]


def test_torn_bytes_in_the_ring_are_survived(log: LogMaker) -> None:
    """Whatever the ring holds, search and walk stay inside it. (The sanitizer builds see it if they do not.)"""
    chance = random.Random(5)
    places = [log.add((1, [b"a" * 50, b"b" * 50]), (2, [b"c" * 3000])) for _ in range(8)]
    walk = ffi.new("rw_walk *")
    slices = ffi.new("rw_slices *")
    area = ffi.new("rw_area *")
    lib.rw_log_area(log.control, log.ring, area)
    for _ in range(300):
        place = chance.choice(places) % log.ring_bytes
        at = place + chance.randrange(400)
        log.ring[at] = chance.randrange(256)
        find(log, 1, chance.randrange(16))
        ffi.memmove(walk.uuid, UUID, len(UUID))
        walk.epoch, walk.position = 1, places[0]
        walk.frame_at, walk.data_at = chance.choice([0, 128, 4090]), chance.choice([0, 300])
        walk.stream, walk.next_offset, walk.below = 1, chance.randrange(2), 16
        slices.records_left, slices.bytes_left, slices.must = 100, ANY, 1
        lib.rw_walk_collect(area, walk, slices)
        assert all(slices.end[i] <= 2 * log.ring_bytes for i in range(slices.count))


def test_the_short_way_takes_all_that_is_confirmed_or_leaves_the_walk_alone(log: LogMaker) -> None:
    place = log.add((1, [b"a" * 50, b"b" * 50]))
    walk, before, slices = ffi.new("rw_walk *"), ffi.new("rw_walk *"), ffi.new("rw_slices *")
    ffi.memmove(walk.uuid, UUID, len(UUID))
    walk.epoch, walk.position, walk.stream, walk.place = 1, place, 1, 1

    def short(records: int = 1000) -> bool:
        stood = bytes(ffi.buffer(walk))
        done = bool(lib.rw_log_ring_next(log.control, log.ring, walk, before, slices, records, 1 << 40) == lib.RW_WALK_DONE)
        assert bytes(ffi.buffer(before if done else walk)) == stood
        return done

    assert not short(1)  # it is for all or nothing
    assert short()
    assert (slices.count, walk.next_offset) == (2, 2)
    assert not short()  # nothing new
    for _ in range(lib.RW_FEW):
        log.add((1, [b"c"]))
    assert short()
    assert (slices.count, walk.next_offset) == (lib.RW_FEW, 2 + lib.RW_FEW)
    damaged = log.add((1, [b"d" * 50]))
    payload = damaged % log.ring_bytes + ffi.sizeof("rw_block") + ffi.sizeof("rw_frame")
    log.ring[payload] ^= 1
    assert not short()
    log.ring[payload] ^= 1
    assert short()
    for _ in range(lib.RW_FEW + 1):
        log.add((1, [b"e"]))
    assert not short()
