"""Shared memory: without a name, complete before it is handed out, refused when it does not fit, gone when it should be."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import mmap
import os
import resource
import secrets
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ringwal import memory, views
from ringwal._native import ffi, lib
from ringwal.config import KIB, MIB, Config
from ringwal.errors import ConfigError, ShmUnavailable, VersionMismatch
from tests.support import shm_names

CONFIG = Config(ring_bytes=MIB, segment_bytes=4 * MIB, max_streams=256, max_clients=4, max_outstanding=64)


@pytest.fixture(params=["posix", "memfd"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What control areas and log rings are made of: where there is no posix_ipc, of memfds, as lanes are everywhere."""
    chosen = str(request.param)
    if chosen == "memfd":
        monkeypatch.setattr(memory, "posix_ipc", None)
    elif vars(memory)["posix_ipc"] is None:
        pytest.skip("posix_ipc is not installed")
    return chosen


@pytest.fixture
def uuid() -> bytes:
    return secrets.token_bytes(16)


def create_control(uuid: bytes, epoch: int = 1) -> memory.Mapping:
    return memory.create_control(CONFIG, uuid, epoch, epoch_begin=4096, position=8192, block_number=7)


def fd_of(mapping: memory.Mapping) -> int:
    """What its maker hands out."""
    assert mapping.fd is not None
    return mapping.fd


def attach_control(control: memory.Mapping, uuid: bytes, epoch: int = 1) -> memory.Mapping:
    return memory.attach_control(fd_of(control), control.bytes, uuid, epoch)


def new_lane(control: memory.Mapping, slot: int, generation: int, size: int) -> memory.Mapping:
    fd = memory.create_lane(control, slot, generation, size)
    try:
        return memory.attach_lane(control, fd, slot, generation, size)
    finally:
        os.close(fd)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def ended_by(work: Callable[[], object]) -> int:
    """The signal that ends a child that does `work`; 0: none."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


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
        assert c.control_bytes == control.bytes == os.fstat(fd_of(control)).st_size


def test_nothing_has_a_name(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.create_log(CONFIG) as log, new_lane(control, 0, 1, 64 * KIB):
        assert shm_names.left() == []
        assert not any(Path(os.readlink(f"/proc/self/fd/{fd_of(mapping)}")).exists() for mapping in (control, log))


def test_objects_are_private_and_really_allocated_whatever_the_umask(kind: str) -> None:
    before = os.umask(0o777)
    try:
        log = memory.create_log(CONFIG)
    finally:
        os.umask(before)
    with log:
        facts = os.fstat(fd_of(log))
        if kind == "posix":  # a memfd never has a name by which others could open it
            assert stat.S_IMODE(facts.st_mode) == 0o600
        assert facts.st_nlink == 0
        assert facts.st_blocks * 512 >= MIB


def test_what_is_handed_out_can_be_read_only(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.create_log(CONFIG) as log:
        for mapping in (control, log):
            with mmap.mmap(fd_of(mapping), mapping.bytes, prot=mmap.PROT_READ) as view:
                assert len(view) == mapping.bytes
            with pytest.raises(PermissionError):
                mmap.mmap(fd_of(mapping), mapping.bytes)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(fd_of(mapping), b"x")
            with pytest.raises(OSError, match="Invalid argument"):
                os.ftruncate(fd_of(mapping), 0)


def test_no_descriptor_stays_open_but_the_one_to_hand_out(uuid: bytes) -> None:
    before = descriptors()
    control = create_control(uuid)
    handed_out = str(fd_of(control))
    with attach_control(control, uuid), new_lane(control, 0, 1, 64 * KIB):
        assert descriptors() - before == {handed_out}
        assert not os.get_inheritable(fd_of(control))
    control.close()
    control.close()
    assert descriptors() == before


def test_what_was_handed_out_outlives_its_maker(uuid: bytes) -> None:
    control = create_control(uuid)
    kept = os.dup(fd_of(control))
    size = control.bytes
    control.pointer.state = lib.RW_RUNNING
    control.close()
    with memory.attach_control(kept, size, uuid, 1) as attached:
        os.close(kept)
        assert attached.pointer.state == lib.RW_RUNNING


def test_the_ring_is_mapped_twice_in_a_row() -> None:
    with memory.create_log(CONFIG) as log:
        view = ffi.buffer(log.pointer, 2 * MIB)
        view[MIB - 4 : MIB + 4] = b"abcdefgh"
        assert view[0:4] == b"efgh"
        assert view[2 * MIB - 4 : 2 * MIB] == b"abcd"
        with memory.attach_log(fd_of(log), MIB) as attached:
            assert ffi.buffer(attached.pointer, 2 * MIB)[MIB - 4 : MIB + 4] == b"abcdefgh"


def test_a_lane_has_its_header_once_and_its_data_twice(uuid: bytes) -> None:
    with create_control(uuid) as control, new_lane(control, 2, 5, 64 * KIB) as lane:
        assert (lane.pointer.slot, lane.pointer.generation, lane.pointer.lane_bytes) == (2, 5, 64 * KIB)
        view = ffi.buffer(lane.pointer, lane.header + 2 * lane.data)
        view[lane.header : lane.header + 4] = b"data"
        assert view[lane.header + lane.data : lane.header + lane.data + 4] == b"data"


@pytest.mark.parametrize("data", [2 * MIB, 6 * MIB])
def test_large_data_lies_as_huge_pages_do_in_the_object_and_in_the_addresses(uuid: bytes, data: int) -> None:
    with create_control(uuid) as control:
        fd = memory.create_lane(control, 0, 1, data)
        with memory.attach_lane(control, fd, 0, 1, data) as lane:
            first = int(ffi.cast("uintptr_t", lane.pointer)) + lane.header
            assert first % (2 * MIB) == 0
            ffi.buffer(lane.pointer, lane.header + 1)[lane.header] = b"x"
            assert os.pread(fd, 1, 0) == b"x"
        os.close(fd)


def test_the_size_of_a_lane_is_sealed(uuid: bytes) -> None:
    with create_control(uuid) as control:
        fd = memory.create_lane(control, 0, 1, 64 * KIB)
        size = os.fstat(fd).st_size
        for change in (0, size - 4096, size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, change)
        with pytest.raises(PermissionError):
            os.posix_fallocate(fd, 0, size + 4096)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)  # nor can a client stop others from writing
        assert os.fstat(fd).st_size == size
        os.close(fd)


def test_a_lane_is_allocated_to_its_last_byte(uuid: bytes) -> None:
    with create_control(uuid) as control:
        fd = memory.create_lane(control, 0, 1, 64 * KIB)
        facts = os.fstat(fd)
        assert facts.st_blocks * 512 >= facts.st_size == lib.rw_lane_object_bytes(64 * KIB)
        os.close(fd)


def test_a_read_only_mapping_cannot_be_written(uuid: bytes) -> None:
    with create_control(uuid) as control, attach_control(control, uuid) as attached:
        assert ended_by(lambda: attached.pointer.state) == 0
        assert ended_by(lambda: setattr(attached.pointer, "state", 1)) == signal.SIGSEGV
        fd = memory.create_lane(control, 0, 1, 64 * KIB)
        with memory.attach_lane(control, fd, 0, 1, 64 * KIB, writable=False) as lane:
            os.close(fd)
            assert ended_by(lambda: setattr(lane.pointer, "claim", 1)) == signal.SIGSEGV


@pytest.mark.parametrize("what", ["uuid", "epoch", "magic", "layout_version", "fingerprint", "max_streams"])
def test_attach_refuses_control_of_another_engine_build_or_epoch(uuid: bytes, what: str) -> None:
    with create_control(uuid) as control:
        other_uuid = secrets.token_bytes(16) if what == "uuid" else uuid
        other_epoch = 2 if what == "epoch" else 1
        if what not in ("uuid", "epoch"):
            setattr(control.pointer, what, getattr(control.pointer, what) ^ 1)
        with pytest.raises(VersionMismatch):
            attach_control(control, other_uuid, other_epoch)


@pytest.mark.parametrize("another", ["size", "magic", "fingerprint"])
def test_how_far_recovery_is_can_be_read_and_nothing_else(another: str) -> None:
    with memory.create_progress() as told:
        lib.rw_progress_tell(told.pointer, 3, 8)
        with memory.observe_progress(fd_of(told)) as seen:
            words = views.progress(seen.pointer)
            assert (words.done, words.total) == (3, 8)
        if another == "size":
            fd = os.memfd_create("another")
            os.write(fd, b"short")
            with os.fdopen(fd), pytest.raises(VersionMismatch):
                memory.observe_progress(fd)
            return
        setattr(told.pointer, another, getattr(told.pointer, another) ^ 1)
        with pytest.raises(VersionMismatch):
            memory.observe_progress(fd_of(told))


@pytest.mark.parametrize(
    "field", ["magic", "layout_version", "slot", "generation", "epoch", "fingerprint", "lane_bytes"]
)
def test_attach_refuses_a_lane_that_does_not_fit(uuid: bytes, field: str) -> None:
    with create_control(uuid) as control:
        fd = memory.create_lane(control, 0, 1, 64 * KIB)
        with memory.attach_lane(control, fd, 0, 1, 64 * KIB) as lane:
            setattr(lane.pointer, field, getattr(lane.pointer, field) ^ 1)
            with pytest.raises(VersionMismatch):
                memory.attach_lane(control, fd, 0, 1, 64 * KIB)
        os.close(fd)


def test_attach_refuses_another_size(uuid: bytes) -> None:
    with create_control(uuid) as control, memory.create_log(CONFIG) as log:
        fd = memory.create_lane(control, 0, 1, 64 * KIB)
        for size in (MIB // 2, 2 * MIB):
            with pytest.raises(VersionMismatch, match="log ring"):
                memory.attach_log(fd_of(log), size)
        for size in (control.bytes - 4096, control.bytes + 4096):
            with pytest.raises(VersionMismatch, match="control area"):
                memory.attach_control(fd_of(control), size, uuid, 1)
        for size in (4096, 128 * KIB):
            with pytest.raises(VersionMismatch, match="lane 0"):
                memory.attach_lane(control, fd, 0, 1, size)
        os.close(fd)


def test_full_shared_memory_names_the_size_and_leaves_nothing(uuid: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # What posix_fallocate says of a 64 MB /dev/shm; filling the machine's own would hurt whoever shares it.
    def no_space(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with create_control(uuid) as control:
        before = descriptors()
        monkeypatch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(ShmUnavailable, match=r"1048576 bytes \(1MiB\).*--shm-size") as caught:
            memory.create_log(CONFIG)
        assert caught.value.size == MIB
        with pytest.raises(ShmUnavailable, match=r"lane 0.*lower .*lane_bytes") as caught:
            memory.create_lane(control, 0, 1, MIB)
        assert caught.value.size == lib.rw_lane_object_bytes(MIB)
        assert descriptors() == before
    assert shm_names.left() == []


@pytest.mark.parametrize(
    ("requested", "given"),
    [(0, 4096), (64 * KIB, 64 * KIB), (64 * KIB + 1, 128 * KIB), (3 * MIB, 4 * MIB), (1 << 30, 1 << 30)],
)
def test_lane_sizes_are_rounded_up_to_a_power_of_two(requested: int, given: int) -> None:
    assert memory.lane_size(requested) == given


@pytest.mark.parametrize("requested", [-1, 1, 64 * KIB - 1, (1 << 30) + 1])
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
        row = {"number": 5, "name": b"orders", "name_bytes": 6, "next_offset": 41, "payload_bytes": 99, "timestamp_ns": 7}
        lib.rw_stream_restore(c, 2, ffi.new("rw_checkpoint_stream *", row))
        lib.rw_stream_open(c, 3, 6, b"fresh", 5)
        assert c.stream_count == 4
        restored, fresh = lib.rw_stream_of(c, 2), lib.rw_stream_of(c, 3)
        assert (restored.state, restored.next_offset, restored.confirmed_offset) == (lib.RW_STREAM_OPEN, 41, 41)
        assert restored.defined_end == 1
        assert ffi.buffer(restored.name, restored.name_bytes)[:] == b"orders"
        assert (fresh.state, fresh.next_offset, fresh.defined_end) == (lib.RW_STREAM_OPEN, 0, 0)


@pytest.mark.parametrize("way", ["killed", "exits", "lets go"])
def test_everybody_sees_the_death_of_a_supervisor_that_could_not_tell(uuid: bytes, way: str) -> None:
    with create_control(uuid) as control, attach_control(control, uuid) as attached:
        assert not lib.rw_supervisor_died(attached.pointer)
        held, holds = os.pipe()
        end, ends = os.pipe()
        supervisor = os.fork()
        if supervisor == 0:
            os.write(holds, b"1" if lib.rw_supervisor_hold(control.pointer) == lib.RW_OK else b"0")
            os.read(end, 1)
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "lets go":
                lib.rw_supervisor_let_go(control.pointer)
            os._exit(0)
        assert os.read(held, 1) == b"1"
        assert not lib.rw_supervisor_died(attached.pointer)
        os.write(ends, b"x")
        os.waitpid(supervisor, 0)
        assert bool(lib.rw_supervisor_died(attached.pointer)) == (way != "lets go")
        for fd in (held, holds, end, ends):
            os.close(fd)


def test_a_child_learns_that_its_parent_is_not_the_one_it_expects() -> None:
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        as_expected = lib.rw_die_with_parent(parent) == lib.RW_OK
        refused = lib.rw_die_with_parent(parent + 1) == lib.RW_GONE
        os._exit(0 if as_expected and refused else 1)
    assert os.waitpid(child, 0)[1] == 0
