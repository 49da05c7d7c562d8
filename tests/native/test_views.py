"""Views: what Python sees of shared words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.config import Config
from tests.support import shared_words

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = shared_words.parse((ROOT / "csrc" / "layout.h").read_text())
VIEWED = list(shared_words.viewed(LAYOUT))


@pytest.mark.parametrize(("struct", "view"), VIEWED, ids=[view for _, view in VIEWED])
def test_a_view_shows_every_word_and_keeps_what_it_saw(struct: shared_words.Struct, view: str) -> None:
    shared, seen = ffi.new(f"{struct.name} *"), ffi.new(f"rw_{view}_view *")
    raw = ffi.buffer(shared)
    raw[:] = bytes((7 * i + i // 256) % 256 for i in range(struct.bytes))
    getattr(lib, f"rw_view_{view}")(shared, seen)
    wanted = {field.name: content(getattr(shared, field.name)) for field in shared_words.view_fields(struct)}
    raw[:] = bytes(struct.bytes)
    assert {name: content(getattr(seen, name)) for name in wanted} == wanted
    assert {name for name, _ in ffi.typeof(f"rw_{view}_view").fields} == set(wanted)


def content(value: Any) -> Any:
    return list(value) if type(value).__module__ == "_cffi_backend" else value


@pytest.mark.parametrize(("field", "head"), list(shared_words.read_alone(LAYOUT)), ids=lambda value: getattr(value, "name", ""))
def test_a_word_that_is_read_alone_is_that_word(field: shared_words.Field, head: str) -> None:
    found = re.search(r"(rw_\w+)\(const (rw_\w+) \*", head)
    assert found is not None
    shared = ffi.new(f"{found[2]} *")
    setattr(shared, field.name, 4711)
    assert getattr(lib, found[1])(shared) == 4711


@pytest.mark.parametrize(
    ("view", "first", "second"),
    [
        ("engine", "state", "error"),  # the error is stored first
        ("engine", "released_end", "sealed_end"),  # what is released was sealed before
        ("slot", "state", "generation"),
        ("slot", "confirmed", "requests"),  # what is confirmed was taken before
        ("stream", "state", "name"),
        ("stream", "confirmed_offset", "next_offset"),
    ],
)
def test_who_vouches_for_another_word_is_loaded_first(view: str, first: str, second: str) -> None:
    struct = next(struct for struct, name in VIEWED if name == view)
    order = [field.name for field in shared_words.view_fields(struct)]
    assert order.index(first) < order.index(second)
    body = (ROOT / "csrc" / "views.c").read_text().split(f"void rw_view_{view}(")[1].split("\n}")[0]
    assert re.findall(r"&?from->(\w+)", body) == [name for name in order if f"from->{name}" in body]


def test_the_modules_functions_look_at_the_place_that_is_asked_for() -> None:
    config = Config(ring_bytes=1 << 20, max_clients=3, max_streams=4)
    with memory.create_control(config, bytes(range(16)), 5, epoch_begin=0, position=4096, block_number=7) as control:
        c = control.pointer
        lib.rw_slot_open(c, 2, 9, 1234, 1 << 16)
        lib.rw_stream_open(c, 3, 3, b"third", 5)
        engine = views.engine(c)
        assert (engine.epoch, engine.sealed_end, bytes(ffi.buffer(engine.uuid))) == (5, 4096, bytes(range(16)))
        assert [views.slot(c, k).generation for k in range(3)] == [0, 0, 9]
        stream = views.stream(c, 3)
        assert bytes(ffi.buffer(stream.name, stream.name_bytes)) == b"third"
        lane = ffi.new("rw_lane *")
        lib.rw_lane_create(lane, c, 2, 9, 1 << 16)
        assert (views.lane(lane).slot, views.lane(lane).generation) == (2, 9)
