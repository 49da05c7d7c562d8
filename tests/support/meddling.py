"""What nobody should do to an engine's directory, or a client to its lane; and a second engine on a directory of its own."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ringwal
from ringwal._native import ffi, lib
from ringwal.client.lane import Lane
from tests.support.rig import CHECKOUT, WAIT, Engine, environment, until

LANE_HEADER = 4096
REQUEST = struct.Struct("<QIIIIQQQQQ")


@contextlib.contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Engine]:
    """An engine on a directory that is not the test's first one. It is killed at the end if it still runs."""
    engine = Engine(directory, **options)
    try:
        yield engine
    finally:
        engine.close()


def command(*arguments: object, cwd: Path | str = "/") -> subprocess.CompletedProcess[str]:
    """`ringwal` with these arguments, from a current directory that has nothing to do with them."""
    return subprocess.run(
        [sys.executable, "-m", "ringwal", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
        cwd=cwd,
        env=environment(CHECKOUT),
    )


def copy(directory: Path, to: Path) -> None:
    """As people copy directories: the lock file and the name of the socket come along."""
    subprocess.run(["cp", "-a", str(directory), str(to)], check=True)


def append_to_successor(stream: ringwal.Stream, data: bytes) -> ringwal.Ack:
    """The first append that meets the end of the engine before is refused, certainly not appended, and may be made again."""
    try:
        return stream.append(data).result(WAIT)
    except ringwal.NotRunning as error:
        refused = error
    assert (refused.outcome, refused.retriable) == ("not_appended", True)
    return stream.append(data).result(WAIT)


def spoil(client: ringwal.Client, lane: Lane) -> None:
    """Writes a request into the client's own lane that no client of ours writes. Returns when the engine has refused the lane.

    Nothing may be under way in the lane.
    """
    mapping: Any = lane._keep[1]
    memory = memoryview(ffi.buffer(mapping.pointer, mapping.bytes))
    position = int(mapping.pointer.claim)
    at = LANE_HEADER + position % int(mapping.pointer.lane_bytes)
    memory[at + 8 : at + REQUEST.size] = b"\xee" * (REQUEST.size - 8)
    memory[at : at + 8] = ((position + 1) ^ int(mapping.pointer.salt)).to_bytes(8, "little")
    slot = lib.rw_slot_of(lane.control, lane.slot)
    until(lambda: ring_and_look(client, slot, lane.generation), "the engine has refused the lane")


def ring_and_look(client: ringwal.Client, slot: Any, generation: int) -> bool:
    os.eventfd_write(client._attachment().registration.doorbell_fd, 1)
    return int(slot.fault) == generation


def places(client: ringwal.Client) -> list[dict[str, Any]]:
    """The places for clients that are taken, as the engine reports them."""
    return list(client.status()["clients"])
