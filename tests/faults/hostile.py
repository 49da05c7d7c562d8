"""Clients that do what no client should. A program of its own, so that what happens to it happens to nobody else.

    python -m tests.faults.hostile DIR KIND AMOUNT SEED

KIND: `scribble` and `mutate` (AMOUNT seconds), `store-control` and `store-ring` (die of it), `vanish` (AMOUNT clients).
Everything goes to streams that are named after the kind.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import threading
import time
from typing import Any

import ringwal
from ringwal._native import ffi, lib
from ringwal.steps import park

REQUEST = struct.Struct("<QIIIIBBHIQQQQ")
HEADER = 4096
LANE = 64 << 10


def lane_of(client: ringwal.Client, name: str) -> tuple[Any, memoryview]:
    """This client's lane, in which it appends to that stream, and all of its memory."""
    lane = park(client._bind_steps(name)).lane
    mapping: Any = lane._keep[1]
    return lane, memoryview(ffi.buffer(mapping.pointer, HEADER + LANE))


def forge(client: ringwal.Client, lane: Any, memory: memoryview, own: int, chance: random.Random) -> None:
    """A request that passes every check of its form, with fields that make no sense."""
    shared = lane._keep[1].pointer
    position = lib.rw_slot_of(lane.control, lane.slot).head if chance.random() < 0.5 else shared.claim
    at = HEADER + position % LANE
    size = chance.choice((0, 1, 8, 100, 3000, LANE // 2, LANE - 64, LANE, 1 << 20, 0xFFFFFFFF))
    payload = bytes(memory[at + REQUEST.size : at + REQUEST.size + min(size, 3000)])
    number, place = own & 0xFFFFFFFF, own >> 32
    fields = [
        (position + 1) ^ shared.salt,
        0,
        chance.choice((number, number, number, 255, 256, 0xFFFFFFFF, 1 << 31)),
        size,
        chance.choice((0, 1, 1, 2, 3, 750, 0xFFFFFFFF)),
        chance.choice((lib.RW_FRAME_BATCH, lib.RW_FRAME_BATCH, *range(8), 255)),
        0,
        chance.choice((0, 0, 1, 0xFFFF)),
        chance.choice((place, place, place, 0, 1, 0xFFFFFFFF)),
        lib.rw_xxh3(payload, len(payload)),
        chance.choice((lane.generation << 32 | 5, lane.generation << 32 | 0xFFFFFFFF, 0, (1 << 64) - 1)),
        chance.getrandbits(64),
        chance.getrandbits(64),
    ]
    raw = REQUEST.pack(*fields)
    fields[1] = lib.rw_crc32c(0, raw, len(raw))
    raw = REQUEST.pack(*fields)
    space = memory[at : at + len(raw)]
    space[8:] = raw[8 : 8 + len(space) - 8]
    space[:8] = raw[:8]
    if chance.random() < 0.5:
        os.eventfd_write(client._attachment().registration.doorbell_fd, 1)


def scribble(directory: str, seconds: float, chance: random.Random) -> None:
    """Random bytes over the whole lane, its header, and forged requests, between real appends."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = ringwal.connect(directory, lane_bytes=LANE, append_timeout=0.1)
        with contextlib.suppress(ringwal.Error):
            stream = client.stream("scribble")
            lane, memory = lane_of(client, "scribble")
            for _ in range(chance.randrange(1, 60)):
                kind = chance.randrange(5)
                if kind == 0:
                    at = chance.randrange(len(memory) - 64)
                    memory[at : at + 64] = chance.randbytes(64)
                elif kind == 1:
                    memory[HEADER:] = chance.randbytes(len(memory) - HEADER)
                elif kind == 2:
                    at = 64 + 4 * chance.randrange(48)
                    memory[at : at + 4] = chance.randbytes(4)
                elif kind == 3:
                    forge(client, lane, memory, client._attachment().handle_of("scribble"), chance)
                stream.append(chance.randbytes(chance.randrange(2000)))
        with contextlib.suppress(ringwal.Error):
            client.close(timeout=0.05)


def mutate(directory: str, seconds: float, chance: random.Random) -> None:
    """Changes payloads while they are read: what is stored is either what was published, or nothing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = ringwal.connect(directory, lane_bytes=LANE, append_timeout=0.1)
        gone = threading.Event()
        with contextlib.suppress(ringwal.Error):
            stream = client.stream("mutate")
            _, memory = lane_of(client, "mutate")

            def disturb(memory: memoryview = memory, gone: threading.Event = gone) -> None:
                while not gone.is_set():
                    at = random.randrange(HEADER + 64, len(memory) - 8)
                    memory[at] ^= 1

            disturber = threading.Thread(target=disturb)
            disturber.start()
            with contextlib.suppress(ringwal.Error):
                for _ in range(50):
                    stream.append(chance.randbytes(20_000)).result(0.5)
            gone.set()
            disturber.join()
        with contextlib.suppress(ringwal.Error):
            client.close(timeout=0.05)


def store(directory: str, what: str) -> None:
    """Writes into memory that is the engine's: the kernel ends this process."""
    client = ringwal.connect(directory)
    attachment = client._attachment()
    mapping = attachment.control_map if what == "store-control" else attachment.ring_map
    ffi.memmove(ffi.cast("uint8_t *", mapping.pointer) + 4096, b"mine", 4)


def vanish(directory: str, count: int) -> None:
    """Clients that attach, append, and are gone without a word: some before their append is confirmed."""
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                client = ringwal.connect(directory, timeout=30.0)
                receipt = client.stream("vanish").append(b"%d" % number)
                if number % 3 == 0:
                    receipt.result()
            except ringwal.ShmUnavailable:
                os._exit(3)  # those before have not been cleared away yet
            except BaseException:  # noqa: BLE001  told by the code
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code not in (0, 3):
            sys.exit(f"client {number} ended with {code}")


def main() -> None:
    directory, kind, amount, seed = sys.argv[1:]
    if kind == "scribble":
        scribble(directory, float(amount), random.Random(seed))
    elif kind == "mutate":
        mutate(directory, float(amount), random.Random(seed))
    elif kind == "vanish":
        vanish(directory, int(amount))
    else:
        store(directory, kind)


if __name__ == "__main__":
    main()
