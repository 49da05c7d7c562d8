"""What the WAL process's main thread alone changes of the log: the manifest in force, and which segments are in use."""

from __future__ import annotations

import dataclasses
from typing import Any

from ringwal._native import lib
from ringwal.log import manifest as manifests
from ringwal.processes.context import EngineContext


class LostDirectory(Exception):
    """What has happened to the directory (ownership.py)."""


class LogState:
    """One for each life of the WAL process."""

    def __init__(self, context: EngineContext) -> None:
        self.manifest = manifests.load(context.directory)
        """In force, as this process has found or written it."""
        self.segments_end = 0
        """Segments below are with the threads, or behind them."""
        self._context = context

    def store(self, **changes: Any) -> None:
        """Put the manifest with these changes in force. Raises OSError: end the epoch."""
        changed = dataclasses.replace(self.manifest, **changes)
        self.manifest = manifests.store(self._context.directory, changed, fd=self._context.ownership.manifest)

    def oldest_unfinished(self) -> int:
        """The first segment with a block that is not confirmed."""
        return int(lib.rw_engine_released_end(self._context.control.pointer)) // self.manifest.segment_bytes

    def check_directory(self) -> None:
        """Raises LostDirectory."""
        if what := self._context.ownership.check(range(self.oldest_unfinished(), self.segments_end)):
            raise LostDirectory(what)
