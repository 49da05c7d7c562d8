"""DIR/last-status.json: what was known at an engine's end, or refused its start, for whoever asks when nobody answers."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ringwal.errors import Error
from ringwal.exit_codes import exit_code_of
from ringwal.log.directory import Directory
from ringwal.log.files import replace_file
from ringwal.observer import LAST_STATUS_NAME, last_status_at
from ringwal.processes.context import LOG


def leave_status(directory: Directory, facts: Callable[[], dict[str, Any]], code: int, reason: str | None) -> None:
    """Of an engine that has served, and ends with that code."""
    try:
        _write(directory, {"ended": _now(), "exit_code": code, "reason": reason, "started": True, **facts()})
    except OSError as error:
        LOG.warning("cannot leave %s: %s", _path(directory), error)


class Refusals:
    """An error that leaves the body is left in the directory, which this process holds, with what was there before."""

    def __init__(self, directory: Directory, translated: Callable[[Exception], Exception]) -> None:
        """`translated` gives what the caller will be told."""
        self._directory = directory
        self._translated = translated
        self.before: dict[str, Any] | None = None
        """The report of the engine before; kept here, as its file is removed when the start succeeds."""

    def __enter__(self) -> Refusals:
        before = last_status_at(self._directory.fd)
        self.before = before.get("before") if before is not None and before.get("started") is False else before
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        told = self._translated(error)
        refusal = {
            "ended": _now(),
            "exit_code": exit_code_of(told),
            "reason": str(told) or type(told).__name__,
            "error": type(told).__name__,
            "started": False,
            "pid": os.getpid(),
            "directory": str(self._directory.path),
            "before": self.before,
        }
        try:
            _write(self._directory, refusal)
        except (OSError, Error) as failure:
            LOG.warning("cannot leave %s: %s", _path(self._directory), failure)


def _path(directory: Directory) -> Path:
    return directory.path / LAST_STATUS_NAME


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _write(directory: Directory, status: dict[str, Any]) -> None:
    replace_file(LAST_STATUS_NAME, json.dumps(status, indent=1).encode() + b"\n", at=directory.fd)
