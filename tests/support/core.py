"""An engine's memory without its processes: the C rooms are driven one call at a time from the tests beside this file."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ringwal._native import ffi, lib
from ringwal.processes.lanes import make_bell

UUID = bytes(range(16, 32))
EPOCH = 5
BEGIN = 4096
KIB = 1024
RING = 1024 * KIB
SEGMENT = 2048 * KIB
HEADER, RECORD, REQUEST = (ffi.sizeof(name) for name in ("rw_block", "rw_frame", "rw_request"))
PERSISTED = ffi.offsetof("rw_frame", "persisted")
STREAMS = 16
DEADLINE = 30.0


@dataclass(frozen=True)
class Frame:
    """A batch frame of the log ring."""

    block: int
    slot: int
    stream: int
    offset: int
    count: int
    number: int
    payload: bytes


def handle(stream: int) -> int:
    """Of a stream of these tests, whose number is that of its place."""
    return int(lib.rw_handle(stream, stream))


def until(condition: Callable[[], bool], what: str) -> None:
    """Gives the processor away until the condition holds; fails after half a minute."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        os.sched_yield()


class Memory:
    """Control memory, log ring and lanes, private to this process."""

    def __init__(
        self, *, clients: int = 4, engine_slots: int = 0, completions: int = 64, confirm_order: int = 0, segment: int = SEGMENT,
        owners: int = 4,
    ) -> None:
        self._maps: list[tuple[Any, int, int]] = []
        geometry = ffi.new(
            "rw_geometry *",
            {
                "max_clients": clients + engine_slots,
                "engine_slots": engine_slots,
                "completions_per_client": completions,
                "max_streams": STREAMS,
                "confirm_order": confirm_order,
                "ring_bytes": RING,
                "segment_bytes": segment,
                "max_owners": owners,
            },
        )
        self.segment = segment
        self.control: Any = ffi.cast("rw_control *", self._map(lib.rw_control_bytes(geometry), 0))
        self.ring: Any = ffi.cast("uint8_t *", self._map(0, RING))
        lib.rw_control_create(self.control, geometry, UUID, EPOCH, 0, BEGIN, 1)
        for stream in range(STREAMS - 1):  # the last one stays closed
            name = f"stream-{stream}".encode()
            lib.rw_stream_open(self.control, stream, stream, name, len(name))
        self.lanes: dict[int, Any] = {}
        self.bells: dict[int, int] = {}
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.inner = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.maintenance = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        lib.rw_set_state(self.control, lib.RW_RUNNING, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        for base, header, data in self._maps:
            lib.rw_unmap(base, header, data)
        for fd in (self.doorbell, self.inner, self.maintenance, *self.bells.values()):
            os.close(fd)

    def _map(self, header: int, data: int) -> Any:
        fd = os.memfd_create("tests", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, header + data)
            base = lib.rw_map(fd, header, data, 1)
        finally:
            os.close(fd)
        assert base != ffi.NULL
        self._maps.append((base, header, data))
        return base

    def open_lane(self, slot: int, *, generation: int = 1, lane_bytes: int = 64 * KIB) -> Any:
        lane = ffi.cast("rw_lane *", self._map(4096, lane_bytes))
        lib.rw_lane_create(lane, self.control, slot, generation, lane_bytes)
        lib.rw_slot_open(self.control, slot, generation, os.getpid(), lane_bytes)
        self.lanes[slot] = lane
        return lane

    def hang_bell(self, slot: int) -> select.epoll:
        """For the lane of that slot, before it is attached. Returns its client's end."""
        self.bells[slot], heard = make_bell()
        return heard

    def free_slot(self, slot: int) -> None:
        """As when its client is gone and WAL and drain have let go."""
        if self.slot(slot).state == lib.RW_SLOT_ACTIVE:
            lib.rw_slot_set(self.control, slot, lib.RW_SLOT_CLOSING)
        lib.rw_slot_set(self.control, slot, lib.RW_SLOT_FREE)

    def slot(self, slot: int) -> Any:
        return lib.rw_slot_of(self.control, slot)

    def stream(self, stream: int) -> Any:
        return lib.rw_stream_of(self.control, stream)

    def entry(self, block: int) -> Any:
        return lib.rw_block_entry_of(self.control, block)

    def cell(self, slot: int, number: int) -> Any:
        return lib.rw_completions_of(self.control, slot)[number % self.control.completions_per_client]

    def completed(self, slot: int, number: int) -> int | None:
        """The offset in the request's completion cell, if it is this request's."""
        cell = self.cell(slot, number)
        return int(cell.offset) if cell.number == number else None

    # ------------------------------------------------------------------------------------------------ the log ring

    def block(self, block: int) -> Any:
        return self.ring + self.entry(block).position % RING

    def records(self, block: int) -> list[Any]:
        """Every frame of the block, stream definitions included, as pointers into the ring."""
        base, at, found = self.block(block), ffi.new("uint64_t *", HEADER), []
        frame = ffi.new("rw_frame_info *")
        while lib.rw_block_frames(base, at, frame, 1) == 1:
            found.append(ffi.cast("rw_frame *", base + frame.at))
        return found

    def frames(self) -> list[Frame]:
        """The batch frames of all blocks that are not released, each block verified."""
        found = []
        for block in range(self.control.released, self.control.sealed):
            entry, base = self.entry(block), self.block(block)
            assert lib.rw_block_check(base, entry.length, UUID, EPOCH, entry.position) == lib.RW_OK
            assert lib.rw_block_verify(base) == lib.RW_OK
            for record in self.records(block):
                if record.kind == lib.RW_FRAME_BATCH:
                    payload = bytes(ffi.buffer(ffi.cast("uint8_t *", record) + RECORD, record.payload_bytes))
                    found.append(
                        Frame(block, record.slot, record.stream, record.base_offset, record.count, record.number, payload)
                    )
        return found

    def persisted(self, block: int) -> list[int]:
        return [record.persisted for record in self.records(block)]

    def persist(self, block: int) -> None:
        """What a WAL thread does when the block's write has completed."""
        lib.rw_persist_block(self.block(block))
        self.entry(block).state = lib.RW_BLOCK_PERSISTED

    def seal(self, requests: list[tuple[int, int, int]], *, slot: int = 0, generation: int = 1) -> int:
        """Composes and seals a block of empty batches (stream, count, number) as the WAL process would. Returns its number."""
        control, position = self.control, self.control.sealed_end
        base, used = self.ring + position % RING, HEADER
        for stream, count, number in requests:
            state = self.stream(stream)
            payload = bytes(4 * count) if count > 1 else b""
            record = ffi.new(
                "rw_frame *",
                {
                    "kind": lib.RW_FRAME_BATCH, "slot": slot, "payload_bytes": len(payload), "count": count, "stream": stream,
                    "place": stream, "base_offset": state.next_offset, "number": generation << 32 | number & 0xFFFFFFFF,
                    "digest": lib.rw_xxh3(payload, len(payload)),
                },
            )  # fmt: skip
            used += lib.rw_frame_put(base + used, record, payload, lib.rw_frame_seed(EPOCH, position))
            state.next_offset += count
        length, block = (used + 4095) // 4096 * 4096, int(control.sealed)
        header = ffi.cast("rw_block *", base)
        header.length, header.used, header.frames = length, used, len(requests)
        entry = self.entry(block)
        entry.position, entry.span, entry.length, entry.frames = position, length, length, len(requests)
        entry.state, entry.number = lib.RW_BLOCK_SEALED, block
        control.sealed_end = position + length
        control.sealed = block + 1
        return block


class Writer:
    """The client's end of a lane."""

    def __init__(self, memory: Memory, slot: int, **options: int) -> None:
        self.memory, self.slot = memory, slot
        self.lane = memory.open_lane(slot, **options)
        self.writer = ffi.gc(lib.rw_writer_open(memory.control, self.lane, memory.doorbell), lib.rw_writer_close)
        self.data = ffi.cast("uint8_t *", self.lane) + 4096
        self.last = int(self.lane.generation) << 32

    def append(self, payload: bytes, stream: int = 0) -> int:
        """Returns the status; the request's number is `self.last`."""
        code = int(lib.rw_append(self.writer, handle(stream), payload, len(payload), self.last + 1))
        self.last += code == lib.RW_OK
        return code

    def append_many(self, payloads: list[bytes], stream: int = 0, times: list[int] | None = None) -> int:
        data, lengths = b"".join(payloads), [len(payload) for payload in payloads]
        own, last = ffi.NULL if times is None else times, self.last + 1
        code = int(lib.rw_append_many(self.writer, handle(stream), lengths, len(lengths), data, len(data), own, last))
        self.last += code == lib.RW_OK
        return code

    def request(self, position: int) -> Any:
        return ffi.cast("rw_request *", self.data + position % self.lane.lane_bytes)


class Wal:
    """A WAL process without its process: a pool's work, done in the caller's thread or in a thread of its own."""

    def __init__(
        self,
        memory: Memory,
        directory: Path,
        *,
        block: int = 64 * KIB,
        quota: int = 64 * KIB,
        pipeline: int = 0,
        idle_watermark_ns: int = 0,
        linger_ns: int = 0,
    ) -> None:
        self.memory, self.directory = memory, directory
        sizes = {"block_bytes": block, "quota_bytes": quota, "pipeline_bytes": pipeline}
        times = {"idle_watermark_ns": idle_watermark_ns, "linger_ns": linger_ns}
        options = ffi.new("rw_wal_options *", {**sizes, **times, "threads": 1})
        eventfds = memory.doorbell, memory.inner, memory.maintenance
        self.wal = lib.rw_wal_open(memory.control, memory.ring, options, *eventfds)
        self.fds: list[int] = []
        for slot, lane in memory.lanes.items():
            lib.rw_wal_attach_lane(self.wal, slot, lane, lane.generation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        lib.rw_wal_close(self.wal)
        for fd in self.fds:
            os.close(fd)

    def add_segments(self, numbers: range, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        for number in numbers:
            path = self.directory / f"{number}.seg"
            if flags & os.O_CREAT:
                path.touch()
                os.truncate(path, 4096 + self.memory.segment)
            self.fds.append(os.open(path, flags | os.O_CLOEXEC, 0o600))
            assert lib.rw_wal_add_segment(self.wal, number, [self.fds[-1]], 1) == lib.RW_OK

    def drain_lanes(self) -> int:
        """Takes and writes everything that is published, then ends."""
        lib.rw_wal_finish(self.wal)
        return int(lib.rw_wal_work(self.wal, 0))

    @contextmanager
    def thread(self) -> Iterator[None]:
        """One pool thread at work; it has ended when the block is left."""
        worker = threading.Thread(target=lib.rw_wal_work, args=(self.wal, 0))
        worker.start()
        try:
            yield
        finally:
            lib.rw_wal_finish(self.wal)
            worker.join()


def take(memory: Memory, directory: Path, **options: int) -> None:
    """A WAL process that lives just long enough to write what is published."""
    with Wal(memory, directory, **options) as wal:
        first = memory.control.sealed_end // memory.segment
        wal.add_segments(range(first, first + 3))
        assert wal.drain_lanes() == lib.RW_OK


class Sequencer:
    """A drain process without its process."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.sequencer = ffi.gc(lib.rw_sequencer_open(memory.control, memory.ring, memory.inner), lib.rw_sequencer_close)
        self.attached: list[int] = []
        self.detached: list[int] = []

    def step(self) -> int:
        """One step, with what it asks of Python."""
        while (code := int(lib.rw_sequencer_step(self.sequencer))) == lib.RW_MAINTENANCE:
            slot, generation = ffi.new("uint32_t *"), ffi.new("uint32_t *")
            wanted = lib.rw_sequencer_wants(self.sequencer, slot, generation)
            if wanted == 1:
                self.attached.append(slot[0])
                lane, bell = self.memory.lanes[slot[0]], self.memory.bells.get(slot[0], -1)
                lib.rw_sequencer_attach_lane(self.sequencer, slot[0], lane, generation[0], bell)
            else:
                assert wanted == 2
                self.detached.append(slot[0])
                lib.rw_sequencer_detach_lane(self.sequencer, slot[0])
        return code

    def settle(self) -> None:
        while (code := self.step()) != 0:
            assert code > 0
