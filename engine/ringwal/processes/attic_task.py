"""The keeper's second task: the attic (log/attic.py).

    moved    the oldest segments, as far as each is less than a quarter alive: their live blocks go into an attic file
    pruned   what is dead by now is left out when attic files are merged; a file of nothing else is removed
    merged   small files become one, when there is nothing else to do

What counts as alive is what the checkpoint that the manifest names has not trimmed; that is never less than what anybody may
read. Nothing is moved where the oldest records are to be dropped anyway.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from ringwal import views
from ringwal._native import lib
from ringwal.errors import CorruptionError
from ringwal.log import attic, checkpoint_file, segment, sidefile
from ringwal.log import manifest as manifests
from ringwal.log.attic import Attic, Content, Kept, Named
from ringwal.log.checkpoint import Checkpoint
from ringwal.log.files import read_all, storage_full, unlink
from ringwal.log.sidefile import SideFile, Unproven
from ringwal.processes.context import EngineContext

REST_SECONDS = 1.0
WAIT_SECONDS = 0.05
ALIVE_PART = 4
"""A segment is moved if less than such a part of it is alive."""
SEGMENTS_AT_ONCE = 256
BYTES_AT_ONCE = 16 << 20
"""So much is moved or merged in one round: it is held in memory."""
PRUNE_PART = 2
"""A file is written anew when more than such a part of it is dead."""


class AtticTask:
    """See above. One for each life of the keeper."""

    name = "attic"

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._control = context.control.pointer
        self._directory = context.directory
        self._uuid = context.uuid
        self._size = int(views.engine(self._control).segment_bytes)
        self._attic: Attic | None = None
        self._looked: list[int] = []
        self._stuck = -1

    def work(self) -> float:
        """As `keeper.Task`."""
        if self._attic is None:
            self._begin()
        seen = [int(look(self._control)) for look in _LOOKS]
        if seen == self._looked:
            return REST_SECONDS
        checkpoint = checkpoint_file.look(self._directory, self._uuid)
        if checkpoint is None:
            raise CorruptionError("the directory has another log by now")
        if lib.rw_engine_released_end(self._control) < checkpoint.position:  # readers are told of a trim when it is confirmed
            return WAIT_SECONDS
        moved = self._move(checkpoint)
        merged = self._prune(checkpoint)
        if not moved and not merged:
            self._clear_sides()
            self._looked = seen
        return REST_SECONDS if not moved else 0.0

    def hindered(self, error: int) -> None:
        """As `keeper.Task`: segments stay, and nobody else is concerned."""

    def _begin(self) -> None:
        found = Attic.look(self._directory, self._uuid)
        for damage in found.damage:
            self._context.log.warning("attic: %s", damage)
        attic.clear(self._directory, found.catalogue)
        self._attic = found
        self._say()

    def _say(self) -> None:
        """What the catalogue says is durable: now the WAL process may act on it."""
        assert self._attic is not None
        catalogue = self._attic.catalogue
        lib.rw_keeper_attic(self._control, catalogue.end, sum(each.bytes for each in catalogue.files))
        os.eventfd_write(self._context.maintenance_fd, 1)

    # ------------------------------------------------------------------------------------------------------ moving

    def _move(self, checkpoint: Checkpoint) -> bool:
        """The oldest segments that are mostly dead. False: there are none."""
        assert self._attic is not None
        first = int(lib.rw_engine_first_segment(self._control))
        number = begin = max(first, self._attic.catalogue.end)
        end = min(checkpoint.position // self._size, begin + SEGMENTS_AT_ONCE, int(lib.rw_engine_side_end(self._control)))
        blocks: list[Content] = []
        size = 0
        while number < end and size < BYTES_AT_ONCE and (found := self._alive(number, checkpoint)) is not None:
            blocks += found
            size += sum(len(block.data) for block in found)
            number += 1
        if not blocks or not self._has_room(size):
            return False
        self._replace([], blocks, number)
        self._context.log.info("%d blocks of segments %d to %d are in the attic", len(blocks), begin, number - 1)
        return True

    def _alive(self, number: int, checkpoint: Checkpoint) -> list[Content] | None:
        """The live blocks of that segment; None: it is to stay."""
        if self._context.config.on_full == "drop_oldest" or number == self._stuck:
            return None
        side = SideFile.open(self._directory, self._uuid, self._size, number)
        if side is None:
            return None
        try:
            size, blocks = side.live(checkpoint.streams)
            epochs = side.epochs()
        except Unproven:
            return None
        if size * ALIVE_PART >= self._size:
            return None
        found = []
        fd = segment.open_for_reading(self._directory, manifests.load(self._directory), number, direct=False) if blocks else -1
        try:
            for block in blocks:
                data = bytearray(block.length)
                read_all(fd, memoryview(data), segment.HEADER_BYTES + block.position % self._size)
                epoch = next((row.epoch for row in epochs if row.begin <= block.position < row.end), 0)
                found.append(Content(block.position, epoch, bytes(data)))
        finally:
            if fd >= 0:
                os.close(fd)
        if not all(attic.is_whole(self._uuid, block) for block in found):
            self._context.log.warning("segment %d is mostly dead, and stays: a block that is alive is damaged", number)
            self._stuck = number
            return None
        return found

    def _has_room(self, size: int) -> bool:
        """The attic comes on top of what segments take, and is a quarter of their limit at most."""
        assert self._attic is not None
        most = self._context.config.max_log_bytes
        have = sum(each.bytes for each in self._attic.catalogue.files)
        return most is None or have + size <= most // ALIVE_PART

    def _replace(self, gone: Sequence[Named], blocks: Sequence[Content], end: int) -> None:
        """Put a file of these blocks into the catalogue, in the place of those that are `gone`."""
        assert self._attic is not None
        before = self._attic.catalogue
        number = before.next_file
        with storage_full("no room for the attic"):
            made = (attic.write(self._directory, self._uuid, number, blocks),) if blocks else ()
            kept = tuple(each for each in before.files if each not in gone)
            after = dataclasses.replace(before, end=end, next_file=number + 1, files=(*kept, *made))
            attic.store(self._directory, after)
        self._attic = Attic(self._directory, after)
        self._say()
        for each in gone:
            unlink(attic.name_of(each.number), at=self._directory.segments)

    # ---------------------------------------------------------------------------------------------------- pruning

    def _prune(self, checkpoint: Checkpoint) -> bool:
        """Merge small files, and leave out what is dead. False: there is nothing to do."""
        assert self._attic is not None
        files = self._attic.catalogue.files
        if not files:
            return False
        alive = self._alive_in_attic(checkpoint)
        by_file: dict[int, list[Kept]] = {each.number: [] for each in files}
        for kept in alive:
            by_file[kept.file].append(kept)
        sizes = {number: sum(kept.length for kept in rows) for number, rows in by_file.items()}
        worn = [each for each in files if sizes[each.number] * PRUNE_PART < each.bytes - 2 * segment.HEADER_BYTES]
        small = [each for each in files if sizes[each.number] <= BYTES_AT_ONCE // 2]
        chosen = worn if len(small) < 2 and worn else small if len(small) > 1 else []
        taken: list[Named] = []
        for each in sorted(chosen, key=lambda each: sizes[each.number]):
            if not taken or sum(sizes[one.number] for one in (*taken, each)) <= BYTES_AT_ONCE:
                taken.append(each)
        if not taken or (len(taken) == 1 and taken[0] not in worn):
            return False
        rows = sorted(kept for each in taken for kept in by_file[each.number])
        self._replace(taken, [self._content(kept) for kept in rows], self._attic.catalogue.end)
        return True

    def _content(self, kept: Kept) -> Content:
        assert self._attic is not None
        data = bytearray(kept.length)
        self._attic.read(kept.position, memoryview(data))
        return Content(kept.position, kept.epoch, bytes(data))  # as it is: whoever reads it checks it

    def _alive_in_attic(self, checkpoint: Checkpoint) -> list[Kept]:
        """What is not dead for certain."""
        assert self._attic is not None
        alive: list[Kept] = []
        starts: dict[int, int] | None = None
        for number in sorted({kept.position // self._size for kept in self._attic.rows}):
            rows = self._attic.within(number * self._size, (number + 1) * self._size)
            side = SideFile.open(self._directory, self._uuid, self._size, number)
            try:
                live = None if side is None else {block.position for block in side.live(checkpoint.streams)[1]}
            except Unproven:
                live = None
            if live is None:
                if starts is None:
                    starts = {row.number: row.start_offset for row in checkpoint.rows()}
                alive += [kept for kept in rows if self._is_alive(kept, starts)]
            else:
                alive += [kept for kept in rows if kept.position in live]
        return alive

    def _is_alive(self, kept: Kept, starts: dict[int, int]) -> bool:
        """By the block itself and the start offsets of streams, by number: in a log that was restored its segment has no side
        file. What is damaged is left as it is."""
        try:
            block = self._content(kept)
        except CorruptionError:
            return True
        return not attic.is_whole(self._uuid, block) or any(
            stream in starts and first + count > starts[stream] for stream, first, count in attic.batches(block.data)
        )

    def _clear_sides(self) -> None:
        """Side files of segments that are freed, and of which the attic has nothing any more."""
        assert self._attic is not None
        first = int(lib.rw_engine_first_segment(self._control))
        kept = {row.position // self._size for row in self._attic.rows}
        for number in sidefile.numbers(self._directory):
            if number < first and number not in kept and not self._attic.damage:
                sidefile.remove(self._directory, number)


_LOOKS = (lib.rw_engine_checkpointed, lib.rw_engine_first_segment, lib.rw_engine_side_end)
