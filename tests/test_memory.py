"""Shared memory: complete before it is found, refused when it does not fit, gone when it should be."""

from __future__ import annotations

import errno
import faulthandler
import os
import resource
import secrets
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal import memory
from ringwal._native import ffi, lib
from ringwal.config import KIB, MIB, Config
from ringwal.errors import ConfigError, NotRunning, ShmUnavailable, VersionMismatch

CONFIG = Config(ring_bytes=MIB, segment_bytes=4 * MIB, max_streams=256, max_clients=4, max_outstanding=64)


@pytest.fixture
def uuid() -> Iterator[bytes]:
    """The uuid of an engine of our own; nothing of it is left in /dev/shm, whatever the test does."""
    value = secrets.token_bytes(16)
    yield value
    for name in memory.leftovers(value):
        memory.unlink(name)


def create_control(uuid: bytes, epoch: int = 1) -> memory.Mapping:
    return memory.create_control(CONFIG, uuid, epoch, epoch_begin=4096, position=8192, block_number=7)


def file_of(mapping: memory.Mapping) -> Path:
    return Path(memory.SHM_DIRECTORY + mapping.name)


def open_descriptors() -> set[str]:
    return {link for fd in os.listdir("/proc/self/fd") if (link := _link(fd)).startswith(memory.SHM_DIRECTORY)}


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_defaults_with_eight_writers_fit_into_64_mib() -> None:
    config = Config()
    geometry = ffi.new("rw_geometry *")
    geometry.max_clients = config.max_clients
    geometry.completions_per_client = config.max_outstanding
    geometry.max_streams = config.max_streams
    lanes = 8 * lib.rw_lane_object_bytes(config.lane_bytes)
    assert lib.rw_control_bytes(geometry) + config.ring_bytes + lanes <= 64 * MIB


def test_created_control_is_seeded_for_an_empty_log(uuid: bytes) -> None:
    with create_control(uuid) as control:
        c = control.pointer
        assert (c.sealed, c.block_seed, c.released) == (7, 7, 7)
        assert {c.sealed_end, c.reserve_end, c.position_seed, c.released_end} == {8192}
        assert (c.epoch, c.epoch_begin, c.state) == (1, 4096, lib.RW_STARTING)
        assert bytes(c.uuid) == uuid
        assert c.max_record_bytes == MIB - 64 * KIB
        assert c.control_bytes == control.bytes == file_of(control).stat().st_size


def test_objects_are_private_and_really_allocated_whatever_the_umask(uuid: bytes) -> None:
    before = os.umask(0o777)
    try:
        log = memory.create_log(CONFIG, uuid, 1)
    finally:
        os.umask(before)
    with log:
        facts = file_of(log).stat()
        assert stat.S_IMODE(facts.st_mode) == 0o600
        assert facts.st_blocks * 512 >= MIB


def test_no_descriptor_stays_open_after_mapping(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.attach_control(control.name, control.bytes, uuid, 1):
        assert not open_descriptors()


def test_the_ring_is_mapped_twice_in_a_row(uuid: bytes) -> None:
    with memory.create_log(CONFIG, uuid, 1) as log:
        view = ffi.buffer(log.pointer, 2 * MIB)
        view[MIB - 4 : MIB + 4] = b"abcdefgh"
        assert view[0:4] == b"efgh"
        assert view[2 * MIB - 4 : 2 * MIB] == b"abcd"
        with memory.attach_log(log.name, MIB) as attached:
            assert ffi.buffer(attached.pointer, 2 * MIB)[MIB - 4 : MIB + 4] == b"abcdefgh"


def test_a_lane_has_its_header_once_and_its_data_twice(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.create_lane(control, uuid, 1, 2, 5, 64 * KIB) as lane:
        assert (lane.pointer.slot, lane.pointer.generation, lane.pointer.lane_bytes) == (2, 5, 64 * KIB)
        view = ffi.buffer(lane.pointer, lane.header + 2 * lane.data)
        view[lane.header : lane.header + 4] = b"data"
        assert view[lane.header + lane.data : lane.header + lane.data + 4] == b"data"


@pytest.mark.parametrize("data", [2 * MIB, 6 * MIB])
def test_large_data_lies_as_huge_pages_do_in_the_object_and_in_the_addresses(uuid: bytes, data: int) -> None:
    with create_control(uuid) as control, memory.create_lane(control, uuid, 1, 0, 1, data) as lane:
        first = int(ffi.cast("uintptr_t", lane.pointer)) + lane.header
        assert first % (2 * MIB) == 0
        ffi.buffer(lane.pointer, lane.header + 1)[lane.header] = b"x"
        assert file_of(lane).read_bytes()[0] == ord("x")


def test_a_read_only_mapping_cannot_be_written(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.attach_control(control.name, control.bytes, uuid, 1) as attached:
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            attached.pointer.state = 1  # must die here
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV


@pytest.mark.parametrize("what", ["uuid", "epoch", "magic", "layout_version", "fingerprint", "max_streams"])
def test_attach_refuses_control_of_another_engine_build_or_epoch(uuid: bytes, what: str) -> None:
    with create_control(uuid) as control:
        other_uuid = secrets.token_bytes(16) if what == "uuid" else uuid
        other_epoch = 2 if what == "epoch" else 1
        if what not in ("uuid", "epoch"):
            setattr(control.pointer, what, getattr(control.pointer, what) ^ 1)
        with pytest.raises(VersionMismatch):
            memory.attach_control(control.name, control.bytes, other_uuid, other_epoch)


@pytest.mark.parametrize(
    "field", ["magic", "layout_version", "slot", "generation", "epoch", "fingerprint", "lane_bytes"]
)
def test_attach_refuses_a_lane_that_does_not_fit(uuid: bytes, field: str) -> None:
    with create_control(uuid) as control, memory.create_lane(control, uuid, 1, 0, 1, 64 * KIB) as lane:
        memory.attach_lane(control, lane.name, 0, 1, 64 * KIB).close()
        setattr(lane.pointer, field, getattr(lane.pointer, field) ^ 1)
        with pytest.raises(VersionMismatch):
            memory.attach_lane(control, lane.name, 0, 1, 64 * KIB)


def test_attach_refuses_another_size(uuid: bytes) -> None:
    with memory.create_log(CONFIG, uuid, 1) as log, pytest.raises(VersionMismatch):
        memory.attach_log(log.name, 2 * MIB)


def test_attach_refuses_memory_that_is_open_to_others(uuid: bytes) -> None:
    with memory.create_log(CONFIG, uuid, 1) as log:
        file_of(log).chmod(0o644)
        with pytest.raises(ShmUnavailable):
            memory.attach_log(log.name, MIB)


def test_attach_to_what_is_gone_says_that_the_engine_ended(uuid: bytes) -> None:
    with pytest.raises(NotRunning):
        memory.attach_log(memory.object_name(uuid, 1, "log"), MIB)


def test_an_existing_object_is_never_taken_over(uuid: bytes) -> None:
    with memory.create_log(CONFIG, uuid, 1) as log:
        with pytest.raises(ShmUnavailable):
            memory.create_log(CONFIG, uuid, 1)
        assert file_of(log).exists()


def test_full_shared_memory_names_the_size_and_leaves_nothing(uuid: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # What posix_fallocate says of a 64 MB /dev/shm; filling the machine's own would hurt whoever shares it.
    def no_space(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(ShmUnavailable, match=r"1048576 bytes \(1MiB\).*--shm-size") as caught:
        memory.create_log(CONFIG, uuid, 1)
    assert caught.value.size == MIB
    assert memory.leftovers(uuid) == []


def test_leftovers_are_those_of_one_engine_of_any_epoch(uuid: bytes) -> None:
    with memory.create_log(CONFIG, uuid, 1) as first, memory.create_log(CONFIG, uuid, 22) as second:
        assert memory.leftovers(uuid) == sorted([first.name, second.name])
        memory.unlink(first.name)
        memory.unlink(first.name)
        assert memory.leftovers(uuid) == [second.name]
        assert memory.leftovers(secrets.token_bytes(16)) == []


@pytest.mark.parametrize(
    ("requested", "given"),
    [(0, 4096), (1, 64 * KIB), (64 * KIB, 64 * KIB), (64 * KIB + 1, 128 * KIB), (3 * MIB, 4 * MIB), (1 << 30, 1 << 30)],
)
def test_lane_sizes_are_rounded_up_to_a_power_of_two(requested: int, given: int) -> None:
    assert memory.lane_size(requested) == given


@pytest.mark.parametrize("requested", [-1, (1 << 30) + 1])
def test_lane_sizes_beyond_the_limits_are_refused(requested: int) -> None:
    with pytest.raises(ConfigError):
        memory.lane_size(requested)


def test_a_slot_is_released_when_both_wal_and_drain_let_its_generation_go(uuid: bytes) -> None:
    with create_control(uuid) as control:
        c = control.pointer
        lib.rw_slot_open(c, 1, 3, 4711, 64 * KIB)
        slot = lib.rw_slot_of(c, 1)
        assert (slot.state, slot.generation, slot.pid, slot.lane_bytes) == (lib.RW_SLOT_ACTIVE, 3, 4711, 64 * KIB)
        membership = c.membership
        lib.rw_slot_set(c, 1, lib.RW_SLOT_CLOSING)
        assert c.membership == membership + 1
        assert not lib.rw_slot_released(c, 1)
        slot.wal_done = 3
        assert not lib.rw_slot_released(c, 1)
        slot.drain_done = 2
        assert not lib.rw_slot_released(c, 1)
        slot.drain_done = 3
        assert lib.rw_slot_released(c, 1)


def test_restored_streams_go_on_where_they_ended(uuid: bytes) -> None:
    with create_control(uuid) as control:
        c = control.pointer
        lib.rw_stream_restore(c, 2, b"orders", 6, 0, 41)
        lib.rw_stream_open(c, 3, b"fresh", 5)
        assert c.stream_count == 4
        restored, fresh = lib.rw_stream_of(c, 2), lib.rw_stream_of(c, 3)
        assert (restored.state, restored.next_offset, restored.confirmed_offset) == (lib.RW_STREAM_OPEN, 41, 41)
        assert restored.defined_end == 1
        assert ffi.buffer(restored.name, restored.name_bytes)[:] == b"orders"
        assert (fresh.state, fresh.next_offset, fresh.defined_end) == (lib.RW_STREAM_OPEN, 0, 0)


def test_a_child_learns_that_its_parent_is_not_the_one_it_expects() -> None:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        as_expected = lib.rw_die_with_parent(parent) == lib.RW_OK
        refused = lib.rw_die_with_parent(parent + 1) == lib.RW_GONE
        os._exit(0 if as_expected and refused else 1)
    assert os.waitpid(child, 0)[1] == 0
