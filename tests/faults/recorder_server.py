"""A disk that writes down what it is told: serves one file, in memory, through /dev/fuse, for a loop device to sit on.

    python -m tests.faults.recorder_server FUSE_FD IMAGE_FD LOG SEED

It reads every request that is there before it answers any, answers in random order, and often gives a write or a flush a
moment for others to come. So there are writes under way when a flush comes in, it is seen that they are, and a host that
takes such a flush for their proof is caught.

The log is a sequence of events in the order in which they happened here: a write or a flush comes in (`WRITE`, `FLUSH`),
or is answered (`DONE`). The time of an incoming request is taken after it was read, that of an answer before it is given:
whoever sees an answer's effect sees it later than its event says. It ends by itself when nobody has the file open any more.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import select
import stat
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

WRITE, FLUSH, DONE = 1, 2, 3
EVENT = struct.Struct("=IIQQQ")
"""Kind, bytes of data that follow, number of the request, offset, nanoseconds of CLOCK_MONOTONIC."""

IN = struct.Struct("=IIQQIIIHH")
OUT = struct.Struct("=IiQ")
READ_WRITE_IN = struct.Struct("=QQIIQII")
WRITE_OUT = struct.Struct("=II")
INIT_IN = struct.Struct("=IIII")
INIT_OUT = struct.Struct("=IIIIHHIIHHI7I")
ATTR_OUT = struct.Struct("=QII6Q10I")
OPEN_OUT = struct.Struct("=QII")
STATFS_OUT = struct.Struct("=5Q10I")

FORGET, GETATTR, SETATTR, OPEN, READ, WRITE_FILE, STATFS, RELEASE, FSYNC = 2, 3, 4, 14, 15, 16, 17, 18, 20
FLUSH_FILE, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 25, 26, 36, 38, 42
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)
SLOW = (WRITE_FILE, FSYNC)
ASYNC_READ, BIG_WRITES, ASYNC_DIO, MAX_PAGES = 1 << 0, 1 << 5, 1 << 15, 1 << 22
OPEN_DIRECT, OPEN_PARALLEL_WRITES = 1 << 0, 1 << 6
WRITE_MAX = 1 << 20
VERSION = (7, 31)
ROOT_MODE = stat.S_IFREG | 0o600


class Request(NamedTuple):
    """What the kernel wants. ``body`` is what follows the header; it is a copy."""

    opcode: int
    unique: int
    body: bytes


class Server:
    """Answers for one file."""

    def __init__(self, fuse: int, image: mmap.mmap, log: BinaryIO, chance: random.Random) -> None:
        self.fuse, self.image, self.log, self.chance = fuse, image, log, chance
        self.buffer = bytearray(WRITE_MAX + mmap.PAGESIZE)
        self.waiting: list[Request] = []

    def run(self) -> None:
        """Until the file system is gone."""
        os.set_blocking(self.fuse, False)
        there = select.poll()
        there.register(self.fuse, select.POLLIN)
        while self._take_all():
            if not self.waiting:
                there.poll()
                continue
            request = self.chance.choice(self.waiting)
            if request.opcode in SLOW and self.chance.random() < 0.5 and there.poll(1):
                continue
            self.waiting.remove(request)
            self._answer(request)

    def _take_all(self) -> bool:
        """Whether there is still a file system."""
        while True:
            try:
                length = os.readv(self.fuse, [self.buffer])
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return True
                if error.errno == errno.ENODEV:
                    return False
                if error.errno not in (errno.ENOENT, errno.EINTR):  # it was interrupted before it was read
                    raise
                continue
            _, opcode, unique, *_ = IN.unpack_from(self.buffer)
            if opcode in UNANSWERED:
                continue
            request = Request(opcode, unique, bytes(memoryview(self.buffer)[IN.size : length]))
            if opcode == WRITE_FILE:
                _, offset, size, *_ = READ_WRITE_IN.unpack_from(request.body)
                self._event(WRITE, unique, offset, size)
                self.log.write(memoryview(request.body)[READ_WRITE_IN.size :])
            elif opcode == FSYNC:
                self._event(FLUSH, unique)
            self.waiting.append(request)

    def _event(self, kind: int, unique: int, offset: int = 0, size: int = 0) -> None:
        self.log.write(EVENT.pack(kind, size, unique, offset, time.monotonic_ns()))

    def _answer(self, request: Request) -> None:
        answer = self._do(request)
        error = -answer if isinstance(answer, int) else 0
        body = b"" if isinstance(answer, int) else answer
        if request.opcode in SLOW:
            self._event(DONE, request.unique)
        try:
            os.writev(self.fuse, [OUT.pack(OUT.size + len(body), error, request.unique), body])
        except FileNotFoundError:
            if request.opcode in SLOW:  # for a goodbye nobody may wait any more
                raise

    def _do(self, request: Request) -> bytes | int:
        """The answer, or an errno."""
        if request.opcode in (READ, WRITE_FILE):
            _, offset, size, *_ = READ_WRITE_IN.unpack_from(request.body)
            if request.opcode == READ:
                return self.image[offset : offset + size]
            self.image[offset : offset + size] = request.body[READ_WRITE_IN.size :]
            return WRITE_OUT.pack(size, 0)
        if request.opcode == INIT:
            return greeting(request.body)
        if request.opcode in (RELEASE, FSYNC, FLUSH_FILE, DESTROY):
            return b""
        size = len(self.image)
        attributes = ATTR_OUT.pack(3600, 0, 0, 1, size, size // 512, *[0] * 6, ROOT_MODE, 1, 0, 0, 0, 4096, 0)
        known = {
            GETATTR: attributes,
            SETATTR: attributes,
            OPEN: OPEN_OUT.pack(0, OPEN_DIRECT | OPEN_PARALLEL_WRITES, 0),
            STATFS: STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7),
        }
        return known.get(request.opcode, errno.ENOSYS)


def greeting(body: bytes) -> bytes:
    """What this server can do of what the kernel offers. Not the kernel's write cache: a write is answered here."""
    _, _, ahead, offered = INIT_IN.unpack_from(body)
    flags = offered & (ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES)
    return INIT_OUT.pack(*VERSION, ahead, flags, 64, 48, WRITE_MAX, 1, WRITE_MAX // mmap.PAGESIZE, 0, 0, *[0] * 7)


def main() -> None:
    fuse, image, log, seed = sys.argv[1:]
    with Path(log).open("wb") as file, mmap.mmap(int(image), 0) as content:
        Server(int(fuse), content, file, random.Random(int(seed))).run()


if __name__ == "__main__":
    main()
