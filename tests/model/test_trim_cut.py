"""Model of trims, deletes and drops against the cut of a recovery (csrc/sequencer.c, csrc/recover.c).

Roles
    Frames of two streams are sealed in one order, a block each, and written by threads that complete in any order. The drain
    confirms each stream's frames in order, as far as they are written; a trim and a delete are in force when they are
    confirmed, a drop when all blocks up to its own are. Everything may end in any state: then a recovery believes what lies
    before the first hole, and behind it what goes on in its stream, and no drop.

Invariant
    In every state a recovery finds what was in force: no start offset goes back, no deleted stream comes back, no confirmed
    record is missing; and no stream begins behind its end.

Findings
    Holds. Every mutant is found.

Leaves out
    Replaced processes (test_sequencer.py, test_place_reuse.py); recovery cut short, which starts over.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.model.composing import composer, writer
from tests.model.statespace import Memory, Model, Process, Procs, Step, View, check

BATCH, TRIM, DELETE, DROP = "batch", "trim", "delete", "drop"


class Frame(NamedTuple):
    stream: int
    kind: str
    base: int = 0
    start: int = 0


LOG = (
    Frame(0, BATCH, 0),
    Frame(1, BATCH, 0),
    Frame(0, BATCH, 1),
    Frame(0, TRIM, 2, 2),
    Frame(1, DROP, 0, 1),
    Frame(1, DELETE, 1),
    Frame(0, BATCH, 2),
)
QUEUES = [[n for n, frame in enumerate(LOG) if frame.stream == s and frame.kind != DROP] for s in (0, 1)]


def drain(mutant: str) -> Process:
    """`head0`, `head1`: how many frames of the stream are confirmed; `released`: blocks."""

    def look(v: View) -> str | None:
        ready = [s for s in (0, 1) if v.m[f"head{s}"] < len(QUEUES[s]) and v.m[f"disk{QUEUES[s][v.m[f'head{s}']]}"]]
        places: list[str] = [f"confirm{s}" for s in ready]
        n = v.m["released"]
        if n < len(LOG) and v.m[f"disk{n}"] and (LOG[n].kind == DROP or _confirmed(v.m, n)):
            places.append("release")
        if mutant == "a trim is in force when it is written":
            places += [f"early{n}" for n, frame in enumerate(LOG) if frame.kind == TRIM and v.m[f"disk{n}"]]
        if mutant == "a drop is in force when it is written":
            places += [f"early{n}" for n, frame in enumerate(LOG) if frame.kind == DROP and v.m[f"disk{n}"]]
        return places[v.choose(len(places))] if places else None

    def confirming(stream: int) -> Step:
        def confirm(v: View) -> str:
            frame = LOG[QUEUES[stream][v.m[f"head{stream}"]]]
            if frame.kind == TRIM:
                v.m[f"start{stream}"] = max(v.m[f"start{stream}"], frame.start)
            if frame.kind == DELETE:
                v.m[f"deleted{stream}"] = 1
            v.add(f"head{stream}", 1)
            return "look"

        return confirm

    def release(v: View) -> str:
        frame = LOG[v.m["released"]]
        if frame.kind == DROP and not v.m[f"deleted{frame.stream}"]:
            v.m[f"start{frame.stream}"] = max(v.m[f"start{frame.stream}"], frame.start)
        v.add("released", 1)
        return "look"

    def early(n: int) -> Step:
        def apply(v: View) -> str:
            v.store(f"start{LOG[n].stream}", LOG[n].start)
            return "look"

        return apply

    steps: dict[str, Step] = {"look": look, "release": release, "confirm0": confirming(0), "confirm1": confirming(1)}
    steps |= {f"early{n}": early(n) for n in range(len(LOG))}
    return Process("drain", "look", steps)


def _confirmed(m: Memory, block: int) -> bool:
    stream = LOG[block].stream
    return QUEUES[stream].index(block) < int(m[f"head{stream}"])


class Found(NamedTuple):
    """Of a stream, after a recovery."""

    next: int = 0
    start: int = 0
    deleted: bool = False


def recovered(m: Memory, mutant: str) -> list[Found]:
    found, broken = [Found(), Found()], [False, False]
    hole = False
    for block, frame in enumerate(LOG):
        hole |= not m[f"disk{block}"]
        if not m[f"disk{block}"]:
            continue
        s = frame.stream
        was = found[s]
        if frame.kind == DROP:
            if not hole or mutant == "a drop beyond the cut is believed":
                found[s] = was._replace(start=max(was.start, frame.start))
            continue
        broken[s] |= frame.base > was.next and not (mutant == "a control frame has no offset" and frame.kind != BATCH)
        if broken[s] or (hole and mutant == "control frames are not carried over" and frame.kind != BATCH):
            continue
        if frame.kind == BATCH:
            found[s] = was._replace(next=frame.base + 1)
        elif frame.kind == TRIM:
            found[s] = was._replace(start=max(was.start, frame.start))
        else:
            found[s] = was._replace(deleted=True)
    return found


def model(mutant: str = "") -> Model:
    memory: Memory = {"sealed": 0, "released": 0}
    memory |= {f"disk{block}": 0 for block in range(len(LOG))}
    memory |= {f"{word}{s}": 0 for s in (0, 1) for word in ("head", "start", "deleted")}

    def wrong(m: Memory) -> str | None:
        for s, found in enumerate(recovered(m, mutant)):
            if found.start > found.next:
                return f"stream {s} begins behind its end"
            if m[f"deleted{s}"] and not found.deleted:
                return f"stream {s} comes back"
            if found.start < m[f"start{s}"]:
                return f"the start of stream {s} goes back"
            confirmed = sum(LOG[n].kind == BATCH for n in QUEUES[s][: m[f"head{s}"]])
            if found.next < confirmed:
                return f"a confirmed record of stream {s} is lost"
        return None

    def good(m: Memory, _: Procs) -> bool:
        return bool(m["released"] == len(LOG) and m["start0"] == 2 and m["deleted1"])

    return Model(memory, [composer(len(LOG)), *map(writer, range(len(LOG))), drain(mutant)], good, wrong)


def test_what_is_in_force_survives_a_recovery_at_any_moment() -> None:
    result = check(model())
    assert result.violation is None, result


@pytest.mark.parametrize(
    "mutant",
    [
        "a trim is in force when it is written",
        "a drop is in force when it is written",
        "a drop beyond the cut is believed",
        "a control frame has no offset",
        "control frames are not carried over",
    ],
)
def test_mutant_is_found(mutant: str) -> None:
    result = check(model(mutant))
    assert result.violation is not None, f"{mutant}: {result}"
