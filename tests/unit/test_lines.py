"""Records as text: the very bytes that Python makes of them, wherever they come from."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringwal import textio
from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError
from ringwal.model import Record
from ringwal.read import lines as printing
from ringwal.read.lines import Form, Lines
from ringwal.read.range import Range
from tests.support.log_maker import PAGE, UUID, Frame, LogMaker, add, block_bytes, data_of, fill_ring

MAKERS = {"raw": textio.raw_records, "lines": textio.record_lines, "json": textio.json_records}
FORMS: list[Form] = ["raw", "lines", "json"]


class Still:
    """A window over bytes that nobody changes."""

    def __init__(self, data: bytes) -> None:
        self.view = bytearray(data)
        self.area = ffi.new("rw_area *", (ffi.from_buffer("uint8_t[]", self.view), 0, (1 << 64) - 1, len(data)))


def printed(data: Sequence[bytes], form: Form, *, first: int = 0, timestamp_ns: int = 0, own: Sequence[int] = ()) -> bytes:
    """One batch as C prints it."""
    walk = ffi.new("rw_walk *", {"epoch": 1, "stream": 1, "next_offset": first, "below": first + len(data)})
    ffi.memmove(walk.uuid, UUID, len(UUID))
    window = Still(block_bytes([Frame(1, first, data, timestamp_ns, own)], epoch=1, position=0))
    lines, found = Lines(form), b""
    while walk.next_offset < walk.below:
        lines.begin(len(data))
        while lines.take(window, walk) == lib.RW_WALK_FULL and not lines.full():  # type: ignore[arg-type]
            pass
        lines.keep()
        found += lines.text()
    return found


TEXT = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
SOME = st.one_of(st.binary(), TEXT, st.tuples(TEXT, st.binary(max_size=4), TEXT).map(b"".join))


@given(st.lists(SOME, min_size=1, max_size=5), st.integers(0, 1 << 61), st.integers(0, 1 << 61))
@example([b""], 0, 0)
@example([bytes(range(32)) + b'"\\/\x7f', "\u200e\u2028\ud7ff\ue000\U0010ffff\x85".encode(), b"\xed\xa0\x80"], 9, 10)
@example([b"\xc0\x80", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8", b"\xc3"], 99, 1)
def test_the_bytes_are_those_that_python_makes(data: list[bytes], first: int, timestamp_ns: int) -> None:
    records = [Record(first + i, item, timestamp_ns) for i, item in enumerate(data)]
    for form in FORMS:
        assert printed(data, form, first=first, timestamp_ns=timestamp_ns) == MAKERS[form](records)


@given(st.lists(st.tuples(SOME, st.integers(0, (1 << 63) - 1)), min_size=1, max_size=5))
@example([(b"", 0)])
def test_a_record_of_its_own_time_is_printed_with_it(given_: list[tuple[bytes, int]]) -> None:
    records = [Record(i, item, 7, own) for i, (item, own) in enumerate(given_)]
    for form in FORMS:
        text = printed([item for item, _ in given_], form, timestamp_ns=7, own=[own for _, own in given_])
        assert text == MAKERS[form](records)


def test_every_beginning_of_a_character_is_judged_as_python_does() -> None:
    singles = [bytes([lead, second]) for lead in range(128, 256) for second in range(256)]
    triples = [
        bytes([lead, second, third, fourth])
        for lead in (0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5)
        for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
        for third in (0x7F, 0x80, 0xBF, 0xC0)
        for fourth in (0x41, 0x80, 0xC2)
    ]
    every = [pad + item + end for item in [*singles, *triples] for pad in (b"", b"ascii7 ") for end in (b"", b"\xa0")]
    every += [b"x" * place + bytes([byte]) + b"y" * (16 - place) for byte in range(256) for place in range(8)]
    for start in range(0, len(every), 1000):
        piece = every[start : start + 1000]
        assert printed(piece, "json") == textio.json_records([Record(i, item, 0) for i, item in enumerate(piece)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_range_gives_the_same_as_text_and_as_records(
    log: LogMaker, monkeypatch: pytest.MonkeyPatch, form: Form, on_disk: bool
) -> None:
    monkeypatch.setattr(printing, "BUFFER_BYTES", 3000)
    chance = random.Random(7)
    for n in range(60):
        log.add((1, [chance.randbytes(chance.choice((0, 9, 700))) for _ in range(n % 4 + 1)]), (2, [b"x"]), timestamp_ns=n)
        add(log, 1, size=chance.choice((10, 5000)))
    if on_disk:
        fill_ring(log)
    end = log.next_offset[1]
    for first, behind in ((0, end), (7, end - 3), (end - 1, end), (5, 5), (9, 3)):
        records = list(Range(log.reader(), 1, first, behind, contextlib.nullcontext()).records())
        text = b"".join(map(bytes, Range(log.reader(), 1, first, behind, contextlib.nullcontext()).text(form)))
        assert [record.offset for record in records] == list(range(first, behind))
        assert text == MAKERS[form](records)


def test_a_record_that_is_larger_than_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printing, "BUFFER_BYTES", 16)
    data = [b"", b"\x00" * 5000, b"\xff" * 5000, b"a", b"", b"b" * 16]
    for form in FORMS:
        assert printed(data, form) == MAKERS[form]([Record(i, item, 0) for i, item in enumerate(data)])


def test_what_is_overwritten_while_it_is_printed_is_printed_from_disk(log: LogMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(6):
        add(log, 1, 3, size=700)
    take = Lines.take
    laps: list[int] = []

    def lapped(lines: Lines, window: object, walk: object) -> int:
        stop = take(lines, window, walk)  # type: ignore[arg-type]
        if not laps:
            laps.append(1)
            fill_ring(log)
            fill_ring(log)
            lines._data[:1000] = b"?" * 1000  # what it may have seen instead
        return stop

    monkeypatch.setattr(Lines, "take", lapped)
    cursor, lines = log.reader().cursor(1, 0), Lines("lines")
    lines.begin(18)
    cursor.fill(lines, 1 << 30)
    assert bytes(lines.text()) == b"".join(data_of(1, i, 700) + b"\n" for i in range(18))
    assert laps


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_before_damage_is_printed_first(log: LogMaker, form: Form) -> None:
    places = [add(log, 1, 2, size=50) for _ in range(20)]
    fill_ring(log)
    log.damage(places[11], ffi.sizeof("rw_block") + ffi.sizeof("rw_frame") + 5)
    pieces = Range(log.reader(), 1, 0, 40, contextlib.nullcontext()).text(form)
    assert bytes(next(pieces)) == MAKERS[form]([Record(i, data_of(1, i, 50), 0) for i in range(22)])
    with pytest.raises(CorruptionError) as caught:
        next(pieces)
    assert caught.value.position == places[11] // PAGE * PAGE


def test_keys_of_the_objects() -> None:
    found = json.loads(printed(["zwölf\n".encode()], "json", first=3, timestamp_ns=5))
    assert found == {"offset": 3, "timestamp_ns": 5, "encoding": "utf-8", "data": "zwölf\n"}
