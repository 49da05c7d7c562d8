"""The shared and stored structs as Python sees them. Their offsets inside C are checked by the compiler in layout.h."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from ringwal._native import ffi, lib
from tests.support import native_stub, shared_words

ROOT = Path(__file__).resolve().parents[2]
CDEF = native_stub.declarations()
# Opaque to Python, which only carries pointers to them; cffi aborts the process when asked for their fields.
HANDLES = {line.split()[2] for line in CDEF.splitlines() if line.startswith("typedef struct ") and "{" not in line}
STRUCTS = sorted(name for name in ffi.list_types()[0] if ffi.typeof(name).kind == "struct" and name not in HANDLES)
SIZES = {
    "rw_control": 4096,
    "rw_progress": 4096,
    "rw_slot": 256,
    "rw_completion": 16,
    "rw_block_entry": 64,
    "rw_stream": 384,
    "rw_owner": 192,
    "rw_lane": 4096,
    "rw_checkpoint_stream": 280,
    "rw_checkpoint_owner": 176,
    "rw_settings": 120,
    "rw_request": 64,
    "rw_block": 128,
    "rw_frame": 88,
    "rw_verdict": 16,
    "rw_claim": 16,
    "rw_drop_row": 16,
}
LAYOUT = shared_words.source()
PAGE = 4096


def commented_offsets() -> list[tuple[str, str, int]]:
    """Every `/* 64: ... */` inside a struct of layout.h, with the field that follows it: (struct, field, offset)."""
    found = []
    struct, offset = "", None
    for line in LAYOUT.splitlines():
        words = line.replace(",", " ").replace(";", " ").replace("[", " ").split()
        if line.startswith("typedef struct "):
            struct = words[2]
        elif found_at := re.match(r"    /\* (\d+)(?::| \*/)", line):
            offset = int(found_at[1])
        elif offset is not None and len(words) > 1 and words[0].endswith("_t"):
            found.append((struct, words[1], offset))
            offset = None
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_the_cdef_of_a_struct_is_the_struct_that_was_compiled(name: str) -> None:
    # cffi compares a declaration with the compiler's answer when the type is first used, and raises then.
    fields = ffi.typeof(name).fields
    assert fields
    end = max(field.offset + ffi.sizeof(field.type) for _, field in fields)
    assert end <= ffi.sizeof(name)
    assert ffi.sizeof(ffi.new(name + " *")[0]) == ffi.sizeof(name)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_size(name: str, size: int) -> None:
    assert ffi.sizeof(name) == size
    assert f"RW_SIZE({name}, {size});" in LAYOUT


def test_every_struct_of_layout_h_has_its_size_pinned() -> None:
    declared = {line.split()[2] for line in LAYOUT.splitlines() if line.startswith("typedef struct ")}
    assert declared - {"rw_geometry"} == set(SIZES)


@pytest.mark.parametrize(("struct", "field", "offset"), commented_offsets())
def test_the_offsets_that_the_comments_state(struct: str, field: str, offset: int) -> None:
    assert ffi.offsetof(struct, field) == offset


def test_the_comments_state_offsets_of_every_shared_struct() -> None:
    assert {struct for struct, _, _ in commented_offsets()} >= {"rw_control", "rw_slot", "rw_stream", "rw_lane"}


def test_words_of_different_roles_share_no_cache_line() -> None:
    by_role = {
        "rw_control": (("state", "error", "membership"), ("doorbell", "write_ns"), ("sealed", "reserve_end"),
                       ("completions", "wal_pid"), ("drain_parked", "contention"), ("wal_blocks", "wal_rewrites"),
                       ("drain_passes", "drain_longest_run")),
        "rw_slot": (("state", "lane_bytes"), ("head", "requests"), ("wake", "confirmed")),
    }  # fmt: skip
    for struct, groups in by_role.items():
        lines = [{ffi.offsetof(struct, field) // 64 for field in group} for group in groups]
        assert sum(len(line) for line in lines) == len(set().union(*lines)), struct


def test_the_areas_of_control_follow_each_other_without_overlap() -> None:
    geometry = ffi.new("rw_geometry *", {
        "max_clients": 5, "completions_per_client": 64, "max_streams": 7, "ring_bytes": 1 << 20, "segment_bytes": 4 << 20,
    })  # fmt: skip
    size = lib.rw_control_bytes(geometry)
    backing = ffi.new("uint8_t[]", size + PAGE)
    control = ffi.cast("rw_control *", backing)
    lib.rw_control_create(control, geometry, bytes(16), 1, 0, PAGE, 1)
    start = int(ffi.cast("uintptr_t", control))

    def reach(first: object, last: object, kind: str) -> tuple[int, int]:
        return (
            int(ffi.cast("uintptr_t", first)) - start,
            int(ffi.cast("uintptr_t", last)) - start + ffi.sizeof(kind),
        )

    areas = [
        (0, ffi.sizeof("rw_control")),
        reach(lib.rw_slot_of(control, 0), lib.rw_slot_of(control, 4), "rw_slot"),
        reach(lib.rw_completions_of(control, 0), lib.rw_completions_of(control, 4) + 63, "rw_completion"),
        reach(lib.rw_block_entry_of(control, 0), lib.rw_block_entry_of(control, lib.RW_BLOCK_ENTRIES - 1), "rw_block_entry"),
        reach(lib.rw_stream_of(control, 0), lib.rw_stream_of(control, 6), "rw_stream"),
    ]
    for (_, end), (begin, _) in pairwise(areas):
        assert end <= begin
    assert areas[-1][1] <= size
    assert all(begin % 64 == 0 for begin, _ in areas)
    assert lib.rw_block_entry_of(control, lib.RW_BLOCK_ENTRIES) == lib.rw_block_entry_of(control, 0)


def test_the_stub_is_the_one_that_the_extension_gives() -> None:
    rendered = native_stub.render(ffi, lib, CDEF)
    # Compared without formatting, which belongs to the formatter.
    stub = (ROOT / "engine" / "ringwal" / "_native.pyi").read_text()
    how = "run: python tests/support/native_stub.py > engine/ringwal/_native.pyi"
    assert ast.dump(ast.parse(stub)) == ast.dump(ast.parse(rendered)), how
