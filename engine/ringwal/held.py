"""Descriptors that are some object's from the moment they exist: csrc/held.h says why a number will not do."""

from __future__ import annotations

import os

from ringwal import limits
from ringwal._native import ffi, lib


class Held:
    """Descriptors, by place. They are closed with this object, by C: no exception comes in between.

    For one thread at a time, except that any may ask for a number.
    """

    __slots__ = ("__weakref__", "cells")

    def __init__(self) -> None:
        self.cells = ffi.gc(ffi.new("rw_descriptors *"), lib.rw_descriptors_close)

    def open(self, path: str | os.PathLike[str], flags: int, *, at: int | None = None) -> int:
        """Opens the path, relative to the directory that is open as ``at``; returns its place. Raises OSError, ValueError."""
        name = os.fsencode(limits.path(path))  # in C it would end at a NUL
        place = int(lib.rw_descriptor_open(self.cells, -1 if at is None else at, name, flags))
        if place < 0:
            raise OSError(-place, os.strerror(-place), os.fspath(path))
        return place

    def __len__(self) -> int:
        return int(self.cells.count)

    def __getitem__(self, place: int) -> int:
        """The number; the descriptor stays this object's. -1: there is none, or it was taken or closed."""
        return int(self.cells.fd[place]) if 0 <= place < len(self) else -1

    def take(self, place: int) -> int:
        """The descriptor, which is the caller's from now on: for one step it is nobody's."""
        return int(lib.rw_descriptor_take(self.cells, place))

    def move(self, place: int, other: Held) -> None:
        """Makes it the other's."""
        lib.rw_descriptor_move(self.cells, place, other.cells)

    def close(self, *places: int) -> None:
        """Closes these, or all. Again, it does nothing."""
        for place in places:
            lib.rw_descriptor_close(self.cells, place)
        if not places:
            lib.rw_descriptors_close(self.cells)
