"""Text at the edges: lines in, records and tables out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ringwal import textio


@dataclass(frozen=True)
class Record:
    offset: int
    data: bytes
    timestamp_ns: int = 0
    own_timestamp_ns: int | None = None


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return iter([data[at : at + size] for at in range(0, len(data), size)])


TEXTS = [
    b"",
    b"\n",
    b"\n\n\n",
    b"a",
    b"a\n",
    b"a\nb",
    b"a\r\nb\r\n",
    b"one\n\ntwo\nthree\n" + b"x" * 100 + b"\ny\n\n",
    bytes(range(256)) * 3,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("batch_bytes", [1, 16, 1 << 20])
def test_line_batches_give_every_line_once_in_order(text: bytes, size: int, batch_bytes: int) -> None:
    batches = list(textio.line_batches(cut(text, size), batch_bytes, 1 << 20))
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert [line for batch in batches for line in batch] == expected
    for batch in batches:
        assert len(batch) == 1 or sum(len(line) + textio.LENGTH_BYTES for line in batch) <= batch_bytes


def test_lines_that_are_complete_are_given_out_before_more_is_read() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a\nb\nc"
        pytest.fail("read on although two lines were complete")

    assert next(textio.line_batches(pieces(), 1000, 1000)) == [b"a", b"b"]


def test_a_line_without_an_end_is_not_gathered_for_ever() -> None:
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 10

    assert next(textio.line_batches(pieces(), 100, 50)) == [b"x" * 60]
    assert taken == 6


def test_whole_stops_one_piece_beyond_the_limit() -> None:
    assert textio.whole(cut(b"x" * 100, 10), 35) == b"x" * 40
    assert textio.whole(cut(b"x" * 100, 10), 100) == b"x" * 100
    assert textio.whole(iter(()), 100) == b""


def test_chunks_pass_a_pipe_on_as_it_comes() -> None:
    reading, writing = os.pipe()
    try:
        pieces = textio.chunks(reading, 100)
        os.write(writing, b"first")
        assert next(pieces) == b"first"
        os.write(writing, b"second")
        os.close(writing)
        writing = -1
        assert list(pieces) == [b"second"]
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def test_records_as_lines_and_raw() -> None:
    records = [Record(0, b"a"), Record(1, b""), Record(2, b"\xff")]
    assert textio.record_lines(records) == b"a\n\n\xff\n"
    assert textio.raw_records(records) == b"a\xff"


def test_json_records_name_their_encoding() -> None:
    lines = textio.json_records([Record(3, "zwölf\n".encode(), 5), Record(4, b"\xff\x00", 6, 7)]).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"offset": 3, "timestamp_ns": 5, "encoding": "utf-8", "data": "zwölf\n"},
        {"offset": 4, "timestamp_ns": 6, "own_timestamp_ns": 7, "encoding": "base64", "data": "/wA="},
    ]


def test_table_aligns_numbers_right_and_text_left() -> None:
    text = textio.table([(1, "ab"), (12345, "c")], ("N", "NAME"))
    assert text.splitlines() == ["     N  NAME", "     1  ab", "12,345  c"]


def test_flat_reaches_every_leaf() -> None:
    facts = {"a": 1, "b": {"c": True, "d": None}, "e": [{"f": "x"}, {"f": "y"}], "g": [1, 2]}
    assert list(textio.flat(facts)) == [
        ("a", "1"), ("b.c", "true"), ("b.d", "null"), ("e.0.f", "x"), ("e.1.f", "y"), ("g", "[1, 2]"),
    ]


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")])
def test_size_text(count: int, text: str) -> None:
    assert textio.size_text(count) == text


def test_progress_is_silent_unless_enabled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textio.Progress, "INTERVAL", 0.0)
    for enabled in (False, True):
        progress = textio.Progress(2048, enabled)
        progress.update(3, 1024)
        progress.close()
        printed = capsys.readouterr()
        assert printed.out == ""
        assert ("3 records, 1.0 KiB of 2.0 KiB" in printed.err) is enabled
