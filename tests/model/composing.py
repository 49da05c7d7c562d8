"""Blocks that are composed in order and written in any: two processes that several models share.

Words: `sealed`, how many blocks are composed; `disk0`, `disk1`, ...: 1 when that block is written.
"""

from __future__ import annotations

from tests.model.statespace import END, Process, View


def composer(blocks: int) -> Process:
    """Composes so many."""

    def compose(v: View) -> str:
        return END if v.add("sealed", 1) + 1 == blocks else "compose"

    return Process("composer", "compose", {"compose": compose})


def writer(block: int) -> Process:
    """Writes that one, some time after it is composed."""

    def write(v: View) -> str | None:
        return "done" if v.load("sealed") > block else None

    def done(v: View) -> str:
        v.store(f"disk{block}", 1)
        return END

    return Process(f"writer{block}", "write", {"write": write, "done": done})
