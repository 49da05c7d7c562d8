"""A log for a WAL process without its process (`core.Wal`): what its main thread works on."""

from __future__ import annotations

import logging
import types
from pathlib import Path
from typing import Any

from ringwal.config import Config
from ringwal.log import checkpoint_file
from ringwal.log import manifest as manifests
from ringwal.log.checkpoint import Checkpoint, EpochRow
from ringwal.log.manifest import Manifest
from tests.support.core import BEGIN, EPOCH, SEGMENT, UUID, Memory
from tests.support.log_place import log_at

MIB = 1 << 20


def named(directory: Path) -> Manifest:
    """A manifest that names a checkpoint of where the memory begins."""
    log = log_at(directory)
    state = Manifest(
        uuid=UUID, segment_bytes=SEGMENT, window_bytes=MIB, epoch=EPOCH, claimed=EPOCH, epoch_begin=BEGIN - 4096,
        named_end=BEGIN // SEGMENT + 9,
    )  # fmt: skip
    first = Checkpoint(
        uuid=UUID, epoch=EPOCH, position=BEGIN, block_number=1, timestamp_ns=0, next_number=0, streams=b"",
        epochs=(EpochRow(EPOCH, BEGIN - 4096, 0),),
    )  # fmt: skip
    return manifests.create(log, checkpoint_file.put(log, state, first, 16))


def context(memory: Memory, directory: Path, *, replacement: bool = False) -> Any:
    """Of the WAL process."""
    return types.SimpleNamespace(
        uuid=UUID,
        epoch=EPOCH,
        directory=log_at(directory),
        config=Config(max_streams=64),
        control=types.SimpleNamespace(pointer=memory.control),
        ownership=types.SimpleNamespace(manifest=None, check=lambda _: ""),
        replacement=replacement,
        direct=False,
        log=logging.getLogger("ringwal"),
    )
