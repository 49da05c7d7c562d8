"""The manifest survives what can happen to one of its slots, and refuses what happened to both."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import xxhash

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log import manifest as manifests
from ringwal.log.manifest import Manifest
from tests.support.log_place import log_at

PAGE = 4096
SLOT_BYTES = 144
CHANGED: dict[str, Any] = {
    "epoch": 7, "claimed": 9, "epoch_begin": 2 * PAGE, "checkpoint_position": 3 * PAGE, "window_bytes": 5,
    "checkpoint_bytes": 99, "checkpoint_digest": 2**64 - 3, "checkpoint_file": 1, "end": 3 * PAGE,
    "backup": True,
}  # fmt: skip


def fresh(directory: Path) -> Manifest:
    state = Manifest(uuid=bytes(range(16)), segment_bytes=3 << 20, window_bytes=1 << 20, named_end=2, epoch=1, claimed=1)
    return manifests.create(log_at(directory), state)


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def without_counter(state: Manifest) -> Manifest:
    return dataclasses.replace(state, counter=0)


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    assert manifests.load(log_at(tmp_path)) == state
    changed = manifests.store(log_at(tmp_path), dataclasses.replace(state, **CHANGED))
    assert changed.counter == state.counter + 2
    assert manifests.load(log_at(tmp_path)) == changed
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]
    assert (tmp_path / "manifest").stat().st_mode & 0o777 == 0o600


def test_the_slot_is_laid_out_as_documented(tmp_path: Path) -> None:
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), **CHANGED))
    data = (tmp_path / "manifest").read_bytes()
    assert len(data) == 2 * PAGE
    for slot in (0, 1):
        page = data[slot * PAGE :][:PAGE]
        counter = state.counter - (state.counter + slot) % 2
        body = struct.pack("<8sIIQ16s", b"RWMANIF1", 2, 0, counter, state.uuid)
        body += struct.pack("<QQQQQQQ", 9, 7, 2 * PAGE, 0, 2, 3 << 20, 5)
        body += struct.pack("<QQQIIQ", 3 * PAGE, 99, 2**64 - 3, 1, 1, 3 * PAGE)
        assert page == (body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def test_any_one_flipped_bit_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), claimed=3))
    data = (tmp_path / "manifest").read_bytes()
    for slot in (0, 1):
        for bit in range(SLOT_BYTES * 8):
            pages = [bytearray(data[:PAGE]), bytearray(data[PAGE:])]
            pages[slot][bit // 8] ^= 1 << bit % 8
            monkeypatch.setattr(manifests, "_read_copies", lambda _, pages=pages: tuple(map(bytes, pages)))
            loaded = manifests.load(log_at(tmp_path))
            assert without_counter(loaded) == without_counter(state)
            assert loaded.counter == state.counter - (state.counter % 2 == slot), "the damaged slot was believed"


def test_two_bad_slots_are_refused(tmp_path: Path) -> None:
    fresh(tmp_path)
    flip(tmp_path / "manifest", 40, 0)
    flip(tmp_path / "manifest", PAGE + 20, 3)
    with pytest.raises(CorruptionError, match="neither copy"):
        manifests.load(log_at(tmp_path))


@pytest.mark.parametrize("size", [0, 90, PAGE, PAGE + 50])
def test_a_short_file_has_the_slots_that_are_whole(tmp_path: Path, size: int) -> None:
    fresh(tmp_path)
    os.truncate(tmp_path / "manifest", size)
    if size < PAGE:
        with pytest.raises(CorruptionError):
            manifests.load(log_at(tmp_path))
    else:
        assert manifests.load(log_at(tmp_path)).counter == 2


def test_equal_counters_are_impossible_to_believe(tmp_path: Path) -> None:
    state = fresh(tmp_path)
    path = tmp_path / "manifest"
    data = bytearray(path.read_bytes())
    newest = state.counter % 2
    data = bytearray(data[newest * PAGE :][:PAGE] * 2)
    path.write_bytes(data)
    assert manifests.load(log_at(tmp_path)) == state  # the copy stands in the wrong slot and is not believed
    flip(path, newest * PAGE, 0)
    with pytest.raises(CorruptionError):
        manifests.load(log_at(tmp_path))


def test_slots_of_different_logs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fresh(tmp_path / "a")
    manifests.create(log_at(tmp_path / "b"), Manifest(uuid=bytes(16), segment_bytes=3 << 20, window_bytes=1 << 20))
    one, other = (tmp_path / "a/manifest").read_bytes(), (tmp_path / "b/manifest").read_bytes()
    (tmp_path / "a/manifest").write_bytes(one[:PAGE] + other[PAGE:])
    with pytest.raises(CorruptionError, match="different logs"):
        manifests.load(log_at(tmp_path / "a"))


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_named_with_what_to_do_and_not_touched(tmp_path: Path, version: int) -> None:
    fresh(tmp_path)
    path = tmp_path / "manifest"
    data = bytearray(path.read_bytes())
    for slot in (0, PAGE):
        struct.pack_into("<I", data, slot + 8, version)
        data[slot + 88 : slot + PAGE] = bytes(PAGE - 88)  # its slots are of another size
    path.write_bytes(data)
    with pytest.raises(VersionMismatch, match=f"format {version}, .*append its records to a new log"):
        manifests.load(log_at(tmp_path))
    assert path.read_bytes() == bytes(data)


def test_a_log_that_needs_an_unknown_feature_is_refused(tmp_path: Path) -> None:
    fresh(tmp_path)
    path = tmp_path / "manifest"
    data = bytearray(path.read_bytes())
    for slot in (0, PAGE):
        struct.pack_into("<I", data, slot + 12, 1 << 31)
        end = slot + SLOT_BYTES - 8
        struct.pack_into("<Q", data, end, xxhash.xxh3_64_intdigest(bytes(data[slot:end])))
    path.write_bytes(data)
    with pytest.raises(VersionMismatch, match="0x80000000"):
        manifests.load(log_at(tmp_path))


def test_no_manifest_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        manifests.load(log_at(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch_begin", 4 << 20),
        ("epoch_begin", 2**64 - 8191),
        ("epoch_begin", PAGE + 1),
        ("checkpoint_position", PAGE),
        ("checkpoint_position", 7 << 20),
        ("checkpoint_file", 2),
        ("end", 8 * PAGE),
        ("first_segment", 3),
        ("named_end", 2**60),
        ("epoch", 5),
        ("claimed", 2**64 - 1),
        ("segment_bytes", 0),
    ],
)
def test_numbers_that_nobody_wrote_are_refused_even_with_a_right_digest(tmp_path: Path, field: str, value: int) -> None:
    good: dict[str, Any] = {"epoch_begin": 2 * PAGE, "checkpoint_position": 3 * PAGE, "claimed": 4}
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), **good))
    assert manifests.load(log_at(tmp_path)) == state
    manifests.store(log_at(tmp_path), dataclasses.replace(state, **dict[str, Any]({field: value})))
    with pytest.raises(CorruptionError, match=r"contradict|different logs"):
        manifests.load(log_at(tmp_path))
