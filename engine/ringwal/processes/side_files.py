"""The keeper's first task: a side file beside every segment that lies below the named checkpoint (log/sidefile.py).

    ring      a thread follows the log in memory, and gathers each segment while its blocks are still there
    segment   where it came too late (a start, a load that began suddenly), the file is read, with a bounded rate

What is gathered waits for the checkpoint. Side files are written oldest first, as each has the ends of all streams, which it
takes over from the one before.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from ringwal import views
from ringwal._native import ffi, lib
from ringwal.errors import CorruptionError, StorageFull
from ringwal.log import checkpoint_file, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint
from ringwal.log.files import free_bytes, storage_full
from ringwal.log.manifest import Manifest
from ringwal.log.sidefile import Maker, SideFile, Unproven
from ringwal.processes.context import EngineContext

REST_SECONDS = 1.0
"""Between two looks when there is nothing to do: more often, it would be seen on an idle machine."""
BUSY_SECONDS = 0.25
"""How often it is looked for a checkpoint while the log grows quickly."""

READ_BYTES_PER_SECOND = 128 << 20
"""Of segments that are read because the ring has not got them any more, and of side files that are proven at a start."""
BUSY_READ_BYTES_PER_SECOND = 8 << 20
"""The same while the log grows quickly: at the full rate this took 6 % from who appends."""

WAITING_BYTES = 32 << 20
"""What is gathered takes no more memory than this; what is dropped is read from its segment."""

ROUND_SECONDS = 0.5
"""A round takes no longer, apart from its last segment: others wait for the next one."""

_RING_PART = 8
"""The ring is looked at before more than such a part of it is new."""
_WAIT_MIN, _WAIT_MAX = 0.002, 0.03
_WINDOW_SECONDS = 0.25


class Follower:
    """Gathers segments from the log ring, in a thread of its own: nothing that waits for the disk makes it come too late."""

    def __init__(self, context: EngineContext) -> None:
        self._control = context.control.pointer
        self._ring = context.ring.pointer
        self._uuid = context.uuid
        engine = views.engine(self._control)
        self._size, self._part = int(engine.segment_bytes), int(engine.ring_bytes) // _RING_PART
        self._walk: Any = ffi.new("rw_walk *", {"epoch": context.epoch})
        ffi.memmove(self._walk.uuid, context.uuid, len(context.uuid))
        self._lock = threading.Lock()
        self._gathered: OrderedDict[int, Maker] = OrderedDict()
        self._more = threading.Event()
        self._rate = 0.0
        self._begin()
        try:
            threading.Thread(target=self._run, name="follow", daemon=True).start()
        except RuntimeError as error:  # as Python tells it
            raise MemoryError("a thread cannot be had") from error

    def look(self) -> None:
        """Follow what is new; if much comes, go on until it is less."""
        if lib.rw_engine_released_end(self._control) != self._walk.position:
            self._more.set()

    @property
    def busy(self) -> bool:
        """Does the log grow quickly?"""
        return self._more.is_set()

    def take(self, number: int) -> Maker | None:
        """What was gathered of that segment, and nothing of those before; None: it has to be read."""
        with self._lock:
            for older in [each for each in self._gathered if each < number]:
                del self._gathered[older]
            return self._gathered.pop(number, None)

    def _begin(self) -> None:
        """From the newest place on of which it is known that a block begins there."""
        self._walk.position = int(lib.rw_engine_released_end(self._control))
        self._maker = Maker()
        self._whole = self._walk.position % self._size == 0

    def _run(self) -> None:
        while True:
            self._more.wait()
            before, began = int(self._walk.position), time.monotonic()
            self._follow()
            more = self._walk.position - before >= self._part
            while more:
                time.sleep(self._wait())
                self._follow()
                now, position = time.monotonic(), int(self._walk.position)
                if now - began >= _WINDOW_SECONDS:
                    self._rate = (position - before) / (now - began)
                    before, began = position, now
                    more = self._rate * REST_SECONDS >= self._part
            self._more.clear()

    def _wait(self) -> float:
        return min(max(self._part / max(self._rate, 1.0), _WAIT_MIN), _WAIT_MAX)

    def _follow(self) -> None:
        """Up to the end of what is confirmed: what is sealed only may never have existed."""
        walk = self._walk
        while walk.position < (end := int(lib.rw_engine_released_end(self._control))):
            behind = (walk.position // self._size + 1) * self._size
            if lib.rw_side_follow(self._control, self._ring, walk, min(end, behind), self._maker.pointer) != lib.RW_OK:
                self._begin()
                return
            if walk.position == behind:
                self._keep(behind // self._size - 1)

    def _keep(self, number: int) -> None:
        if self._whole:
            with self._lock:
                self._gathered[number] = self._maker
                while len(self._gathered) > 1 and sum(each.size for each in self._gathered.values()) > WAITING_BYTES:
                    self._gathered.popitem()  # the oldest are wanted first
        self._maker, self._whole = Maker(), True


class SideFiles:
    """See above. One for each life of the keeper."""

    name = "side files"

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._control = context.control.pointer
        self._size = int(views.engine(self._control).segment_bytes)
        self._directory = context.directory
        self._follower = Follower(context)
        self._next = 0  # below, all have side files, or cannot have any
        self._ends: tuple[int, bytes] = (-1, b"")  # of the segment before the next one, and its number
        self._known: tuple[Manifest, Checkpoint] | None = None
        self._there: set[int] | None = None  # names of a predecessor's, not looked at yet
        self._written = 0
        self._told_lost = -1

    def work(self) -> float:
        """As `keeper.Task`."""
        self._follower.look()
        first = int(lib.rw_engine_first_segment(self._control))
        if self._there is None:
            self._there = set(sidefile.numbers(self._directory))
        self._next = max(self._next, first)
        until = time.monotonic() + ROUND_SECONDS
        end, wrote = int(lib.rw_engine_checkpointed(self._control)) // self._size, self._written
        try:
            while self._next < end and time.monotonic() < until:
                self._look_at(self._next)
                self._next += 1
        finally:
            if self._written != wrote:
                sidefile.sync(self._directory)
            lib.rw_keeper_reached(self._control, self._next, self._written - wrote, 0)
        if self._next < end:
            return 0.0
        return BUSY_SECONDS if self._follower.busy else REST_SECONDS

    def hindered(self, error: int) -> None:
        """As `keeper.Task`."""
        lib.rw_keeper_reached(self._control, self._next, 0, error)

    def _look_at(self, number: int) -> None:
        """See to it that this segment has its side file, if it can."""
        assert self._there is not None
        if number in self._there:
            self._there.discard(number)
            side = SideFile.open(self._directory, self._context.uuid, self._size, number)
            if side is not None and side.prove() and side.is_of(self._directory):
                self._pace(side.size)
                return
        maker = self._follower.take(number)
        try:
            if maker is None:
                maker = self._read(number)
            self._write(number, maker)
        except CorruptionError as damage:
            self._say_lost(number, damage)

    def _read(self, number: int) -> Maker:
        manifest, checkpoint = self._reaching(number)
        epochs = sidefile.extents_of(checkpoint, self._size, number)
        direct = self._context.direct
        return sidefile.gather(self._directory, manifest, epochs, number, direct=direct, meanwhile=self._pace)

    def _write(self, number: int, maker: Maker) -> None:
        manifest, checkpoint = self._reaching(number)
        with storage_full("no room for a side file"):
            self._check_room()
            ends = sidefile.write(self._directory, manifest, checkpoint, number, maker, self._ends_before(number))
        self._ends = number, ends
        self._written += 1
        # The WAL process says that it frees a segment before it removes its files: so one of the two removes this one.
        if number < lib.rw_engine_first_segment(self._control):
            sidefile.remove(self._directory, number)

    def _reaching(self, number: int) -> tuple[Manifest, Checkpoint]:
        """A manifest, and the checkpoint that it or a later one names, behind that segment. Raises CorruptionError, OSError."""
        if self._known is None or number >= sidefile.limit(self._known[0]):
            manifest = manifests.load(self._directory)
            checkpoint = checkpoint_file.look(self._directory, self._context.uuid)
            if checkpoint is None:
                raise CorruptionError("the directory has another log by now")
            self._known = manifest, checkpoint
        return self._known

    def _ends_before(self, number: int) -> bytes:
        """The ends of the nearest segment before that has a side file; b"": there is none."""
        first = int(lib.rw_engine_first_segment(self._control))
        if self._ends[0] == number - 1:
            return self._ends[1]
        for before in range(number - 1, first - 1, -1):
            side = SideFile.open(self._directory, self._context.uuid, self._size, before)
            if side is not None:
                try:
                    return side.ends()
                except Unproven:
                    continue
        return b""

    def _check_room(self) -> None:
        least = self._context.config.min_free_bytes
        if least and free_bytes(self._directory.segments) < least:
            raise StorageFull("no side files: less than min_free_bytes is left on the file system")

    def _pace(self, size: int) -> None:
        """So much was read."""
        busy = self._follower.busy
        self._follower.look()
        time.sleep(size / (BUSY_READ_BYTES_PER_SECOND if busy else READ_BYTES_PER_SECOND))

    def _say_lost(self, number: int, damage: CorruptionError) -> None:
        if number > self._told_lost and number >= lib.rw_engine_first_segment(self._control):
            self._context.log.warning("no side file for segment %d: %s", number, damage)
        self._told_lost = number
