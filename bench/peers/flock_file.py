"""A shared file: lock, write, sync, unlock. What people write when they need no store."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.scenario import Scenario


class _Session(BlockingSession):
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        frames = b"".join(struct.pack("<II", stream, len(record)) + record for record in records)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        try:
            written = os.write(self.fd, frames)
            if written != len(frames):
                raise OSError(f"short write: {written} of {len(frames)} bytes")
            os.fdatasync(self.fd)
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.fd)


class FlockFile(Contender):
    """flock + write + fdatasync on one file that grows."""

    name = "flock-file"
    durability = "fdatasync before each commit returns; no checksums: a torn record is not noticed"

    def __init__(self) -> None:
        self.path = Path()

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "log"

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.path)

    def teardown(self) -> None:
        """The file goes with the directory."""
