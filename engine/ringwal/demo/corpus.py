"""The demo's input: the source files of Python's standard library, one record per line.

A stream per top-level package or module ("json", "os", ...), without underscores in front, as such names are the engine's own;
HOT takes a record of every line from every writer.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HOT = "hot"
SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__"})


class Source(NamedTuple):
    """A file and the stream that its lines go to."""

    stream: str
    path: Path


def sources(root: Path | None = None) -> list[Source]:
    """Every .py file of the standard library (or of `root`), in a fixed order: all processes see the same list."""
    top = root if root is not None else Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, below, names in os.walk(top):
        below[:] = sorted(set(below) - SKIPPED)
        package = Path(folder).relative_to(top).parts[:1]
        for name in sorted(names):
            if name.endswith(".py"):
                stream = package[0] if package else name.removesuffix(".py")
                found.append(Source(stream.lstrip("_"), Path(folder, name)))
    return found


def streams(files: Sequence[Source]) -> list[str]:
    """The names of all streams."""
    return [HOT, *sorted({source.stream for source in files})]


def lines(files: Sequence[Source]) -> Iterator[tuple[str, bytes]]:
    """(stream, line) of every file, round after round without end. ValueError if a whole round has not one line."""
    while True:
        found = False
        for source in files:
            for line in source.path.read_bytes().splitlines():
                found = True
                yield source.stream, line
        if not found:
            raise ValueError("no line in any file of the corpus")
