"""A control group of its own whose processes can be frozen: version 1 (the freezer) and version 2.

Frozen processes of version 1 do not even die of SIGKILL until they are thawed; those of version 2 do.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.host import NotRun, until


class Group:
    """Made by `group`."""

    def __init__(self, path: Path, version: int) -> None:
        self.path, self.version = path, version

    def add(self, *pids: int) -> None:
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All that are in it, until the end."""
        try:
            self._set("freezer.state", "FROZEN") if self.version == 1 else self._set("cgroup.freeze", "1")
            until(self._is_frozen, "the group to be frozen", 10)
            yield
        finally:
            self._set("freezer.state", "THAWED") if self.version == 1 else self._set("cgroup.freeze", "0")

    def empty(self) -> bool:
        return not (self.path / "cgroup.procs").read_text()

    def _set(self, name: str, value: str) -> None:
        (self.path / name).write_text(value)

    def _is_frozen(self) -> bool:
        if self.version == 1:
            return (self.path / "freezer.state").read_text().strip() == "FROZEN"
        return "frozen 1" in (self.path / "cgroup.events").read_text()


@contextlib.contextmanager
def group(version: int) -> Iterator[Group]:
    """An empty group, gone at the end; whoever is still in it must be dead by then. Raises NotRun without a place for it."""
    if os.geteuid() != 0:
        raise NotRun("needs root, for a control group")
    root = _root(version)
    try:
        path = Path(tempfile.mkdtemp(prefix="ringwal-fault-", dir=root))
    except OSError as error:
        raise NotRun(f"no control group can be made: {error}") from error
    try:
        if not (path / ("freezer.state" if version == 1 else "cgroup.freeze")).exists():
            raise NotRun(f"control groups of version {version} cannot be frozen here")
        found = Group(path, version)
        yield found
        until(found.empty, "the group to be empty", 10)
    finally:
        path.rmdir()


def _root(version: int) -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if (version == 2 and kind == "cgroup2") or (version == 1 and kind == "cgroup" and "freezer" in options.split(",")):
            return Path(place)
    raise NotRun(f"no control groups of version {version} are mounted" + (" with a freezer" if version == 1 else ""))
