"""The supervisor's table of streams: names, numbers that are never used again, places that are."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import pytest

from ringwal._native import ffi, lib
from ringwal.errors import ConfigError, NoSuchStream, ShmUnavailable
from ringwal.log.recovery import RecoveredStream
from ringwal.processes.streams import Key, StreamTable

PLACES = 4


@pytest.fixture
def control() -> Iterator[Any]:
    geometry = ffi.new("rw_geometry *", {"max_clients": 1, "completions_per_client": 16, "max_streams": PLACES,
                                         "ring_bytes": 1 << 20, "segment_bytes": 4 << 20})  # fmt: skip
    memory = mmap.mmap(-1, lib.rw_control_bytes(geometry))
    held = ffi.from_buffer(memory)
    control = ffi.cast("rw_control *", held)
    lib.rw_control_create(control, geometry, bytes(16), 1, 0, 4096, 1)
    yield control
    del held  # the memory goes with it


def confirm_delete(control: Any, key: Key) -> None:
    """As the drain does it."""
    lib.rw_stream_of(control, key.place).deleted = key.number


def test_numbers_go_on_behind_those_that_the_log_has_had(control: Any) -> None:
    recovered = [RecoveredStream(3, "a", 10, 4, 99, 7), RecoveredStream(8, "b", 0)]
    table = StreamTable(control, recovered, 12)
    assert (table.find("a"), table.find("b"), table.open("c")) == (Key(3, 0), Key(8, 1), Key(12, 2))
    assert control.next_number == 13 and control.numbers_end == 12
    s = lib.rw_stream_of(control, 0)
    assert (s.number, s.start_offset, s.trimmed_offset, s.next_offset, s.confirmed_offset) == (3, 4, 4, 10, 10)


def test_a_deleted_stream_leaves_its_name_and_its_place(control: Any) -> None:
    table = StreamTable(control, [], 0)
    first = table.open("s")
    control_words = lib.rw_stream_of(control, first.place)
    control_words.next_offset = control_words.confirmed_offset = control_words.start_offset = 5
    assert table.open("s") == first  # `ended` is not enough, nor that it was asked for
    confirm_delete(control, first)
    with pytest.raises(NoSuchStream):
        table.find("s")
    second = table.open("s")
    assert second == Key(1, first.place) and len(table) == lib.rw_streams_living(control) == 1
    s = lib.rw_stream_of(control, second.place)
    assert (s.number, s.start_offset, s.next_offset, s.confirmed_offset, s.deleted) == (1, 0, 0, 0, 0)
    assert not lib.rw_stream_gone(control, second.place)


def test_a_full_table_looks_for_places_that_have_become_free(control: Any) -> None:
    table = StreamTable(control, [], 0)
    keys = [table.open(f"s{n}") for n in range(PLACES)]
    with pytest.raises(ShmUnavailable, match="at most 4 streams"):
        table.open("one more")
    confirm_delete(control, keys[2])
    assert table.open("one more") == Key(PLACES, 2)
    for name in ("s0", "s1", "s3", "one more"):
        confirm_delete(control, table.find(name))
    assert lib.rw_streams_living(control) == 0
    table.forget_deleted()
    assert len(table) == 0
    assert sorted(table.open(f"t{n}").place for n in range(PLACES)) == list(range(PLACES))


@pytest.mark.parametrize("name", [None, 5, "", "x" * 121, "a\nb"])
def test_a_name_that_is_none_is_refused(control: Any, name: object) -> None:
    table = StreamTable(control, [], 0)
    for call in (table.find, table.open):
        with pytest.raises(ConfigError):
            call(name)
