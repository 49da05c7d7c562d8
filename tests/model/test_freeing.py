"""Model of the order in which segments are freed, against a crash at any step and the loss of a copy of the manifest
(engine/ringwal/log/freeing.py, manifest.py).

Roles
    The log has one record a segment. Trims are composed, and persisted later: trim t says that records below t are dropped,
    and lies in the last segment. The main thread of the WAL process takes a checkpoint (it has the trims so far, and is about
    a position behind them), waits until they are persisted, names it in both copies of the manifest, one after the other, and
    frees the oldest segment if the checkpoint says that its record is dropped: both copies of the manifest say that it has
    gone, then it gets the next name, then its new header is written and synced, then the directory is synced, then both
    copies name it. It does so for each segment that is free.
    A power cut may come at any step: what is not synced is there or not, each for itself; a copy that is being written is
    torn. And one copy of the manifest may be unreadable at the start after it. A start writes both copies, when it claims its
    epoch, before it removes what is below the first segment: then it is no further case.

Invariant
    Whatever comes, a start finds a copy of the manifest, the checkpoint that it names, whole; every segment from the
    checkpoint's position on, so that recovery finds the trims behind it; no record that has gone without a trim that the
    checkpoint or the log has; no trim that was confirmed and is not there; every named segment, with its own header.

Findings
    Holds with three segments of which two are freed and become others. All mutants are found. What needs the checkpoint in
    both copies is its position: the other copy would want the log from a place that has gone. The trim alone would be found
    in the log.

Leaves out
    Readers and backups (test_recycling.py). The drain: a trim that is persisted counts as confirmed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.model.statespace import END, Memory, Model, Process, Step, View, check

SEGMENTS = 3
FREED = 2
TORN = None
HEADERLESS = -1


class Copy(NamedTuple):
    """One copy of the manifest."""

    counter: int
    file: int
    first: int
    end: int


class Checkpoint(NamedTuple):
    """Trims below are in it; `position` is the segment from which recovery reads."""

    trimmed: int
    position: int


Files = tuple[tuple[int, int], ...]
"""(name, number in the header), in order. As a program sees them; `_unsynced` is what a power cut may undo."""


def main_thread(mutant: str) -> Process:
    """Every step is one access to the disk."""
    one_only = mutant == "renamed when one copy says so"

    def renewed(v: View, **changes: Any) -> Copy:
        """What a copy will say: `state` is the state in force, as this process knows it."""
        copy: Copy = v.l["state"]
        copy = v.l["state"] = copy._replace(counter=copy.counter + 1, **changes)
        return copy

    def store(label: str, then: str, changes: Any, copies: int = 2) -> dict[str, Step]:
        """Both copies, one after the other: each is torn for a moment."""
        steps: dict[str, Step] = {}
        for i in range(copies):
            begin, done = f"{label}{i}", f"{label}{i} synced"
            last = i == copies - 1

            def tear(v: View, done: str = done, first: bool = i == 0) -> str:
                copy = renewed(v, **(changes(v) if first else {}))
                v.store(f"copy{copy.counter % 2}", TORN)
                return done

            def sync(v: View, after: str = then if last else f"{label}{i + 1}") -> str:
                copy: Copy = v.l["state"]
                v.store(f"copy{copy.counter % 2}", copy)
                return after

            steps |= {begin: tear, done: sync}
        return steps

    def take(v: View) -> str | None:
        if v.l["freed"] == FREED:
            return END
        if v.load("composed") <= v.l["freed"]:
            return None
        v.l["trims"] = v.m["composed"]
        return "raise0" if mutant == "freed by what is composed" else "checkpoint"

    def checkpoint(v: View) -> str:
        v.store(f"file{1 - v.l['state'].file}", TORN)
        return "checkpoint synced"

    def checkpoint_synced(v: View) -> str:
        v.store(f"file{1 - v.l['state'].file}", Checkpoint(v.l["trims"], v.l["state"].end - 1))
        return "persisted"

    def persisted(v: View) -> str | None:
        if v.load("trims") < v.l["trims"]:
            return None
        return "raise0" if mutant == "freed before the checkpoint is named" else "named0"

    def name(v: View) -> Any:
        state: Copy = v.l["state"]
        return {"file": 1 - state.file, "first": state.first + one_only}

    def raise_first(v: View) -> Any:
        return {"first": v.l["state"].first + 1}

    def rename(v: View) -> str:
        state: Copy = v.l["state"]
        files = dict(v.load("files"))
        old = v.l["freed"]
        header = files.pop(old)
        files[state.end] = header
        v.m["_unsynced"] = (*v.m["_unsynced"], ("rename", old, state.end))
        v.m["files"] = tuple(sorted(files.items()))
        return "grow0" if mutant == "named before it has its header" else "header"

    def header(v: View) -> str:
        """Written and synced."""
        new = v.l["state"].end - (mutant == "named before it has its header")
        files = dict(v.load("files"))
        files[new] = new
        v.m["files"] = tuple(sorted(files.items()))
        if mutant == "named before it has its header":
            v.l["freed"] += 1
            return "take"
        return "grow0" if mutant == "named before the directory is synced" else "directory"

    def directory(v: View) -> str:
        v.store("_unsynced", ())
        if mutant == "named before the directory is synced":
            v.l["freed"] += 1
            return "take"
        return "raise0" if mutant == "renamed before it has gone from the manifest" else "grow0"

    def grow(v: View) -> Any:
        return {"end": v.l["state"].end + 1}

    def grown(v: View) -> str:
        v.load("trims")
        if mutant == "named before the directory is synced":
            return "directory"
        if mutant == "named before it has its header":
            return "header"
        v.l["freed"] += 1
        return "take"

    early = mutant == "renamed before it has gone from the manifest"
    steps: dict[str, Step] = {
        "take": take, "checkpoint": checkpoint, "checkpoint synced": checkpoint_synced,
        "persisted": persisted, "rename": rename, "header": header,
        "directory": directory, "grown": grown,
        **store("named", "rename" if early or one_only else "raise0", name, 1 if one_only else 2),
        **store("raise", "grow0" if early else "rename", raise_first),
        **store("grow", "grown", grow),
    }  # fmt: skip
    return Process("main", "take", steps, {"state": START, "freed": 0, "trims": 0})


def trimmer() -> Process:
    """A WAL thread with what somebody trims: composed, then written."""

    def compose(v: View) -> str:
        v.l["trims"] = v.add("composed", 1) + 1
        return "write"

    def write(v: View) -> str:
        v.store("trims", v.l["trims"])
        return END if v.l["trims"] == FREED else "compose"

    return Process("trimmer", "compose", {"compose": compose, "write": write}, {"trims": 0})


START = Copy(2, 0, 0, SEGMENTS)


def crashes(m: Memory) -> Iterator[tuple[list[Copy], Files]]:
    """What a start may find after a power cut now: copies of the manifest, newest first, and files. One copy may be lost."""
    renames = m["_unsynced"]
    for kept in itertools.product((True, False), repeat=len(renames)):
        files = dict(m["files"])
        for (_, old, new), there in zip(renames, kept, strict=True):
            if not there:
                files[old] = files.pop(new)
        copies = [m["copy0"], m["copy1"]]
        for lost in (None, 0, 1):
            left = [copy for i, copy in enumerate(copies) if i != lost and copy is not TORN]
            if left or TORN not in copies:  # a copy that is torn and another that is lost: two faults at once
                yield sorted(left, reverse=True), tuple(sorted(files.items()))


def wrong(m: Memory) -> str | None:
    for copies, found in crashes(m):
        if not copies:
            return "no copy of the manifest"
        files = dict(found)
        broken = unusable(m, copies[0], files)
        if broken is None and m["_clears at once"]:
            # A start removes what is below `first`; then it dies, and the copy that said so is lost.
            left = {number: header for number, header in files.items() if number >= copies[0].first}
            broken = next((why for copy in copies[1:] if (why := unusable(m, copy, left))), None)
        if broken is not None:
            return broken
    return None


def unusable(m: Memory, state: Copy, files: dict[int, int]) -> str | None:
    """What a start that goes by this copy would miss."""
    checkpoint = m[f"file{state.file}"]
    if checkpoint is TORN:
        return "the named checkpoint is torn"
    if any(files.get(number) != number for number in range(checkpoint.position, state.end)):
        return "recovery does not find the log behind the checkpoint"
    trims = max(checkpoint.trimmed, m["trims"])  # what is persisted and not in the checkpoint lies behind its position
    if any(files.get(number) != number for number in range(trims, SEGMENTS)):
        return "a record has gone that nobody trimmed"
    if any(files.get(number) != number for number in range(state.first, state.end)):
        return "a segment is named that is not there"
    return None


def model(mutant: str = "", position: int = 0) -> Model:
    """`position` is that of the checkpoint that is named in the beginning."""
    memory: Memory = {
        "copy0": START, "copy1": START._replace(counter=1), "file0": Checkpoint(0, position), "file1": TORN,
        "files": tuple((number, number) for number in range(SEGMENTS)), "composed": 0,
        "trims": 0, "_unsynced": (), "_clears at once": int(mutant == "cleared before the start has claimed its epoch"),
    }  # fmt: skip
    return Model(memory, [trimmer(), main_thread(mutant)], lambda m, _: max(m["copy0"], m["copy1"]).first == FREED, wrong)


@pytest.mark.parametrize("position", [0, SEGMENTS - 1])
def test_a_start_finds_all_that_it_needs_after_a_power_cut_at_any_step(position: int) -> None:
    result = check(model(position=position))
    assert result.violation is None, result


@pytest.mark.parametrize(
    ("mutant", "position", "found"),
    [
        ("renamed when one copy says so", 0, "recovery does not find the log behind the checkpoint"),
        ("freed before the checkpoint is named", 0, "recovery does not find the log behind the checkpoint"),
        ("freed by what is composed", SEGMENTS - 1, "a record has gone that nobody trimmed"),
        ("renamed before it has gone from the manifest", 0, "a segment is named that is not there"),
        ("cleared before the start has claimed its epoch", SEGMENTS - 1, "a segment is named that is not there"),
        ("named before it has its header", 0, "recovery does not find the log behind the checkpoint"),
        ("named before the directory is synced", 0, "recovery does not find the log behind the checkpoint"),
    ],
)
def test_mutant_is_found(mutant: str, position: int, found: str) -> None:
    result = check(model(mutant, position))
    assert result.violation == found, result
