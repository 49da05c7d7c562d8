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
SLOT_BYTES = 96


def fresh(directory: Path) -> Manifest:
    state = Manifest(uuid=bytes(range(16)), segment_bytes=3 << 20, window_bytes=1 << 20, named_end=2, epoch=1)
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
    changed = manifests.store(log_at(tmp_path), dataclasses.replace(state, epoch=7, epoch_segment=1, window_bytes=5))
    assert changed.counter == state.counter + 2
    assert manifests.load(log_at(tmp_path)) == changed
    assert [path.name for path in tmp_path.iterdir()] == ["manifest"]
    assert (tmp_path / "manifest").stat().st_mode & 0o777 == 0o600


def test_the_slot_is_laid_out_as_documented(tmp_path: Path) -> None:
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), epoch=9))
    data = (tmp_path / "manifest").read_bytes()
    assert len(data) == 2 * PAGE
    for slot in (0, 1):
        page = data[slot * PAGE :][:PAGE]
        counter = state.counter - (state.counter + slot) % 2
        body = struct.pack("<8sIIQ16sQQQQQQ", b"RWMANIF1", 1, 0, counter, state.uuid, 9, 0, 0, 2, 3 << 20, 1 << 20)
        assert page == (body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def test_any_one_flipped_bit_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), epoch=3))
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


def test_another_format_is_named_and_not_touched(tmp_path: Path) -> None:
    fresh(tmp_path)
    path = tmp_path / "manifest"
    data = bytearray(path.read_bytes())
    for slot in (0, PAGE):
        struct.pack_into("<I", data, slot + 8, 2)
        digest = xxhash.xxh3_64_intdigest(bytes(data[slot : slot + 88]))
        struct.pack_into("<Q", data, slot + 88, digest)
    path.write_bytes(data)
    with pytest.raises(VersionMismatch, match="format 2"):
        manifests.load(log_at(tmp_path))
    assert path.read_bytes() == bytes(data)


def test_no_manifest_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        manifests.load(log_at(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch_segment", 4), ("epoch_segment", 2**64 - 8191), ("first_segment", 3), ("named_end", 2**60), ("epoch", 2**64 - 1)],
)
def test_numbers_that_nobody_wrote_are_refused_even_with_a_right_digest(tmp_path: Path, field: str, value: int) -> None:
    state = manifests.store(log_at(tmp_path), dataclasses.replace(fresh(tmp_path), epoch=1, epoch_segment=2, named_end=4))
    manifests.store(log_at(tmp_path), dataclasses.replace(state, **dict[str, Any]({field: value})))
    with pytest.raises(CorruptionError, match="contradict"):
        manifests.load(log_at(tmp_path))
