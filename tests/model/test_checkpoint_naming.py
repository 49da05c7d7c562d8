"""Model of checkpoints beside the threads that write (engine/ringwal/processes/checkpoints.py, log/recovery.py).

Roles
    Blocks are composed in order, and written by threads of their own, which complete in any order. Beside them the main
    thread of the WAL process takes a checkpoint of what is composed, looks until all of that is persisted, writes the file
    that the manifest does not name, and names it. It may be killed at any step; its successor begins with the manifest.
    Everything may end in any state: then there is a recovery, from the checkpoint that is named.

Invariant
    In every state a recovery finds the checkpoint that the manifest names, whole; everything below its position is on
    the disk, so that no offset is given out for a record that is not there; and every record that may have been
    confirmed (it is on the disk, and so is everything before it in its stream) is found again: below the position, up
    to the first hole, or carried over from behind it.

Findings
    Holds with four blocks of two streams, two checkpoints in each of two lives. Every mutant is found.

Leaves out
    The two copies of the manifest, which is changed in one step here; power cuts between a write and its sync.
"""

from __future__ import annotations

import pytest

from tests.model.composing import composer, writer
from tests.model.statespace import END, Kill, Memory, Model, Process, Procs, Step, View, check

BLOCKS = 4
STREAMS = 2
TAKEN_MAX = 2
TORN = -1


def main_thread(mutant: str) -> Process:
    def begin(v: View) -> str:
        v.l["named"], v.l["file"] = v.load("manifest")
        return "take"

    def take(v: View) -> str | None:
        if v.l["taken"] == TAKEN_MAX:
            return END
        position = v.load("sealed")
        if position == v.l["named"]:
            return None
        v.l["taken"] += 1
        v.l["position"], v.l["looked"] = position, v.l["named"]
        return "write" if mutant == "named before all below is persisted" else "look"

    def look(v: View) -> str | None:
        if v.l["looked"] == v.l["position"]:
            return "name" if mutant == "named before it is written" else "write"
        if not v.load(f"disk{v.l['looked']}"):
            return None
        v.l["looked"] += 1
        return "look"

    def other(v: View) -> int:
        return int(v.l["file"] if mutant == "written over the one that is named" else 1 - v.l["file"])

    def write(v: View) -> str:
        v.store(f"file{other(v)}", TORN)
        return "written"

    def written(v: View) -> str:
        v.store(f"file{other(v)}", v.l["position"])
        return "take" if mutant == "named before it is written" else "name"

    def name(v: View) -> str:
        file = other(v)
        v.store("manifest", (v.l["position"], file))
        v.l["named"], v.l["file"] = v.l["position"], file
        return "write again" if mutant == "named before it is written" else "take"

    def write_again(v: View) -> str:
        v.store(f"file{v.l['file']}", v.l["position"])
        return "take"

    steps: dict[str, Step] = {
        "begin": begin, "take": take, "look": look, "write": write, "written": written, "name": name,
        "write again": write_again,
    }  # fmt: skip
    return Process("main", "begin", steps, {"named": 0, "file": 0, "position": 0, "looked": 0, "taken": 0})


def recovered(m: Memory, position: int) -> set[int]:
    """The blocks whose records are there after a recovery from there."""
    found = set(range(position))
    following = [sum(block % STREAMS == stream for block in found) for stream in range(STREAMS)]
    for block in range(position, BLOCKS):
        stream, offset = block % STREAMS, block // STREAMS
        if m[f"disk{block}"] and offset == following[stream]:  # in the prefix always, behind a hole if it is next
            found.add(block)
            following[stream] += 1
    return found


def wrong(m: Memory) -> str | None:
    position, file = m["manifest"]
    if m[f"file{file}"] != position:
        return "the checkpoint is not the one that is named"
    if not all(m[f"disk{block}"] for block in range(position)):
        return "an offset is given out for a record that is not there"
    for block in range(BLOCKS):
        before = range(block % STREAMS, block + 1, STREAMS)
        if all(m[f"disk{each}"] for each in before) and block not in recovered(m, position):
            return "a confirmed record is lost"
    return None


def model(mutant: str = "") -> Model:
    memory: Memory = {"sealed": 0, "manifest": (0, 0), "file0": 0, "file1": TORN}
    memory |= {f"disk{block}": 0 for block in range(BLOCKS)}

    def good(m: Memory, _: Procs) -> bool:
        return all(m[f"disk{block}"] for block in range(BLOCKS))

    processes = [composer(BLOCKS), *map(writer, range(BLOCKS)), main_thread(mutant)]
    return Model(memory, processes, good, wrong, kills=(Kill(("main",)),))


def test_whatever_is_named_can_be_recovered_from_at_any_moment() -> None:
    result = check(model())
    assert result.violation is None, result


@pytest.mark.parametrize(
    "mutant",
    ["named before all below is persisted", "written over the one that is named", "named before it is written"],
)
def test_mutant_is_found(mutant: str) -> None:
    result = check(model(mutant))
    assert result.violation is not None, f"{mutant}: {result}"
