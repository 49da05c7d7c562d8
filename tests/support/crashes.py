"""Runs something in a process of its own that dies at one of the calls through which it changes the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

CRASHED = 77
# Everything through which the log's files are changed.
CALLS = ("pwrite", "pwritev", "fsync", "fdatasync", "posix_fallocate", "ftruncate", "mkdir", "link", "rename", "unlink")


def dies(hit: int, body: Callable[[], object]) -> bool:
    """Does `body` die at its `hit`th change? False: it came to its end before."""
    child = os.fork()
    if child == 0:
        _child(hit, body)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, CRASHED)
    return code == CRASHED


def _child(hit: int, body: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        _crash_at(hit)
        body()
        code = 0
    finally:
        os._exit(code)


def _crash_at(hit: int) -> None:
    """End this process at the `hit`th call that changes the disk; a write is done by half before."""
    left = hit

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left > 0:
                return real(*args, **keywords)
            if name == "pwrite" and len(args[1]) >= 8192:
                real(args[0], args[1][: len(args[1]) // 8192 * 4096], args[2])
            os._exit(CRASHED)

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
