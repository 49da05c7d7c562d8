"""Model of a place in the table of streams that becomes another stream's (csrc/stream.h: PLACES, csrc/wal_restore.c,
csrc/sequencer.c).

Roles
    A client has requests in its lane: a batch of stream A, its DELETE, a late batch of A, and, once the supervisor has given
    the place to stream B, a batch of B. The WAL process takes one after the other: it believes the place's words while the
    number there is the request's and its DELETE is not composed; else it seals a verdict. A block is sealed, then told of
    (next offset, `ended` last of the stream's words, the lane's head), then written. Its successor tells of the last sealed
    block again, unless the stream has ended, and writes what is not written. The drain registers sealed blocks, and confirms
    those that are written, in order; its successor begins with the first block. The supervisor waits for `deleted`, takes the
    number away, makes the words anew and gives the place the number of B. A reader of A believes what it has read if the
    number was A's before and after.

Invariant
    Whoever stores a word of the place stores it for the stream whose place it is, and no offset goes back; nothing of A
    stands behind its DELETE; what the reader believes of A was true of A; and in the end B has its record.

Findings
    Holds where WAL and drain are each replaced once at any instant, and beside a reader where neither is, under TSO with the
    supervisor buffering its stores. What keeps a successor of the WAL process from storing A's words beside a drain that
    confirms the DELETE is `ended` alone; whether the block was written need not be looked at. Every mutant is found.

Leaves out
    More than one stream at a time; the ring's space (`released`): the drain's successor registers everything.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model.statespace import END, SC, TSO, Kill, Memory, Model, Process, Procs, Step, View, check

NOBODY, A, B = 0, 1, 2
BATCH, DELETE, VERDICT = "batch", "delete", "verdict"
REQUESTS = ((A, BATCH), (A, DELETE), (A, BATCH), (B, BATCH))

Frame = tuple[int, str, int]
"""Number, kind, offset."""


def bad(v: View, what: str) -> None:
    v.m["_bad"] = v.m["_bad"] or what


def stored_by(v: View, role: str, number: int) -> None:
    if v.m["number"] != number:
        bad(v, f"{role} stores words of {number} into the place of {v.m['number']}")


def wal(mutant: str) -> Process:
    """Locals: `at`: request; `known`, `next`, `over`: what it knows of the place; `frame`: what it tells of."""

    def take(v: View) -> str | None:
        if v.l["at"] == len(REQUESTS):
            return END
        if REQUESTS[v.l["at"]][0] == B and not v.load("granted"):
            return None
        return "known"

    def known(v: View) -> str:
        number, _ = REQUESTS[v.l["at"]]
        if v.l["known"] == number:
            return "verdict" if v.l["over"] else "seal"
        return "ended" if v.load("number") == number else "verdict"

    def ended(v: View) -> str:
        return "verdict" if v.load("ended") == REQUESTS[v.l["at"]][0] else "adopt"

    def adopt(v: View) -> str:
        v.l["known"], v.l["over"] = REQUESTS[v.l["at"]][0], 0
        v.l["next"] = v.load("next")
        return "seal"

    def append(v: View, frame: Frame) -> None:
        log = v.m["log"]  # its own word
        if frame[1] != VERDICT and (frame[0], DELETE) in [(number, kind) for number, kind, _ in log]:
            bad(v, "something stands behind a DELETE")
        v.l["frame"] = frame
        v.store("log", (*log, frame))

    def verdict(v: View) -> str:
        append(v, (REQUESTS[v.l["at"]][0], VERDICT, 0))
        return "head"

    def seal(v: View) -> str:
        number, kind = REQUESTS[v.l["at"]]
        append(v, (number, kind, v.l["next"]))
        v.l["next"] += kind == BATCH
        v.l["over"] = int(kind == DELETE)
        return "tell next"

    def tell_next(v: View) -> str:
        number, kind, offset = v.l["frame"]
        stored_by(v, "WAL", number)
        after = offset + (kind == BATCH)
        if v.m["next"] > after:
            bad(v, "a next offset goes back")
        v.store("next", after)
        return "tell ended" if kind == DELETE else "head"

    def tell_ended(v: View) -> str:
        stored_by(v, "WAL", v.l["frame"][0])
        v.store("ended", v.l["frame"][0])
        return "head"

    def head(v: View) -> str:
        v.l["at"] += 1
        v.store("head", v.l["at"])
        return "hand out"

    def hand_out(v: View) -> str:
        v.store("handed", len(v.m["log"]))
        return "take"

    # ---- a successor

    def begin(v: View) -> str:
        v.l["at"] = v.load("head")
        return "last"

    def last(v: View) -> str:
        log = v.load("log")
        if not log:
            return "take"
        v.l["frame"] = log[-1]
        # Its ticket says which request it was.
        v.l["at"] = len(log)
        return "told"

    def told(v: View) -> str:
        number, kind, _ = v.l["frame"]
        if kind == VERDICT:
            return "head again"
        follow = "restore" if mutant == "a successor does not look whether the stream has ended" else "told ended"
        return follow if v.load("number") == number else "head again"

    def told_ended(v: View) -> str:
        return "head again" if v.load("ended") == v.l["frame"][0] else "restore"

    def restore(v: View) -> str:
        number, kind, offset = v.l["frame"]
        v.l["known"], v.l["next"], v.l["over"] = number, offset + (kind == BATCH), int(kind == DELETE)
        return "tell next again"

    def tell_next_again(v: View) -> str:
        return "tell ended again" if tell_next(v) == "tell ended" else "head again"

    def tell_ended_again(v: View) -> str:
        tell_ended(v)
        return "head again"

    def head_again(v: View) -> str:
        v.store("head", v.l["at"])
        return "hand out"

    steps: dict[str, Step] = {
        "begin": begin, "last": last, "told": told, "told ended": told_ended, "restore": restore,
        "tell next again": tell_next_again, "tell ended again": tell_ended_again, "head again": head_again,
        "take": take, "known": known, "ended": ended, "adopt": adopt, "verdict": verdict, "seal": seal,
        "tell next": tell_next, "tell ended": tell_ended, "head": head, "hand out": hand_out,
    }  # fmt: skip
    local: Memory = {"at": 0, "known": NOBODY, "next": 0, "over": 0, "frame": (NOBODY, VERDICT, 0)}
    return Process("wal", "begin", steps, local, buffered=False)


def writer() -> Process:
    """The threads' writes: of what is handed out, in any order."""

    def write(v: View) -> str | None:
        left = [n for n in range(v.load("handed")) if not v.m[f"disk{n}"]]
        if not left:
            return END if v.m["handed"] == len(REQUESTS) else None
        v.l["block"] = left[v.choose(len(left))]
        return "done"

    def done(v: View) -> str:
        v.store(f"disk{v.l['block']}", 1)
        return "write"

    return Process("writer", "write", {"write": write, "done": done}, {"block": 0}, buffered=False)


def drain(mutant: str) -> Process:
    """Locals: `at`: block to register; `queue`: blocks that wait."""

    def look(v: View) -> str | None:
        log = v.load("log")
        if len(log) > v.l["at"]:
            v.l["frame"] = log[v.l["at"]]
            v.l["at"] += 1
            return "look" if v.l["frame"][1] == VERDICT else "deleted"
        if v.l["queue"]:
            return "disk"
        return END if v.l["at"] == len(REQUESTS) else None

    def deleted(v: View) -> str:
        if mutant == "the drain registers whatever it finds":
            return "offset"
        return "look" if v.load("deleted") == v.l["frame"][0] else "number"

    def number(v: View) -> str:
        return "offset" if v.load("number") == v.l["frame"][0] else "look"

    def offset(v: View) -> str:
        number, kind, base = v.l["frame"]
        if base >= v.load("confirmed"):
            v.l["queue"] = (*v.l["queue"], (number, kind, base, v.l["at"] - 1))
        return "look"

    def disk(v: View) -> str | None:
        if v.load(f"disk{v.l['queue'][0][3]}"):
            return "confirm"
        return "look" if len(v.m["log"]) > v.l["at"] else None

    def confirm(v: View) -> str:
        (number, kind, base, _), *rest = v.l["queue"]
        v.l["queue"] = tuple(rest)
        stored_by(v, "drain", number)
        if v.m["confirmed"] != base:
            bad(v, "a confirmed offset does not go on where it was")
        if kind == DELETE:
            v.store("deleted", number)
        else:
            v.m[f"_confirmed{number}"] = base + 1
            v.store("confirmed", base + 1)
        return "look"

    steps: dict[str, Step] = {
        "look": look, "deleted": deleted, "number": number, "offset": offset, "disk": disk, "confirm": confirm,
    }  # fmt: skip
    return Process("drain", "look", steps, {"at": 0, "queue": (), "frame": (NOBODY, VERDICT, 0)}, buffered=False)


def supervisor(mutant: str) -> Process:
    handshake = "ended" if mutant == "a place is given away when its DELETE is composed" else "deleted"

    def wait(v: View) -> str | None:
        return "take away" if v.load(handshake) == A else None

    def storing(word: str, value: int, then: str) -> Step:
        def store(v: View) -> str:
            v.store(word, value)
            return then

        return store

    def fence(v: View) -> str | None:
        return "next" if v.drained else None

    steps: dict[str, Step] = {"wait": wait, "take away": storing("number", NOBODY, "fence"), "fence": fence}
    if mutant == "the number is given before the words":
        steps |= {"take away": storing("number", B, "grant"), "grant": storing("granted", 1, "next")}
        steps |= {"next": storing("next", 0, "confirmed"), "confirmed": storing("confirmed", 0, END)}
    else:
        steps |= {"next": storing("next", 0, "confirmed"), "confirmed": storing("confirmed", 0, "give")}
        steps |= {"give": storing("number", B, "grant"), "grant": storing("granted", 1, END)}
    return Process("supervisor", "wait", steps)


def reader(mutant: str) -> Process:
    def before(v: View) -> str:
        v.l["least"] = v.m["_confirmed1"]
        return "words" if v.load("number") == A else END

    def words(v: View) -> str:
        v.l["seen"] = v.load("confirmed")
        return "believe" if mutant == "a reader looks at the number once" else "after"

    def after(v: View) -> str:
        return "believe" if v.load("number") == A else END

    def believe(v: View) -> str:
        if not v.l["least"] <= v.l["seen"] <= v.m["_confirmed1"]:
            bad(v, "the reader of A believes what was not A's")
        return END

    steps: dict[str, Step] = {"before": before, "words": words, "after": after, "believe": believe}
    return Process("reader", "before", steps, {"least": 0, "seen": 0})


def model(mutant: str = "", *, order: str = SC, wal_kills: int = 1, drain_kills: int = 1) -> Model:
    memory: Memory = {"number": A, "next": 0, "ended": NOBODY, "confirmed": 0, "deleted": NOBODY, "granted": 0}
    memory |= {"log": (), "head": 0, "handed": 0, "_bad": "", "_confirmed1": 0, "_confirmed2": 0}
    memory |= {f"disk{block}": 0 for block in range(len(REQUESTS))}

    def good(m: Memory, _: Procs) -> bool:
        return bool((m["number"], m["next"], m["confirmed"]) == (B, 1, 1) and len(m["log"]) == len(REQUESTS))

    def wrong(m: Memory) -> str | None:
        return m["_bad"] or None

    processes = [wal(mutant), writer(), drain(mutant), supervisor(mutant)]
    if not wal_kills and not drain_kills:  # the reader stores nothing
        processes.append(reader(mutant))
    kills = [Kill(("wal", "writer"), wal_kills, {"handed": 0}), Kill(("drain",), drain_kills)]
    return Model(memory, processes, good, wrong, order=order, kills=tuple(kill for kill in kills if kill.times))


@pytest.mark.parametrize("kills", [0, 1])
def test_nobody_stores_into_a_place_that_is_anothers(kills: int) -> None:
    result = check(model(order=TSO, wal_kills=kills, drain_kills=kills))
    assert result.violation is None, result


MUTANTS: dict[str, Callable[[str], Model]] = {
    "a successor does not look whether the stream has ended": lambda name: model(name, drain_kills=0),
    "the drain registers whatever it finds": lambda name: model(name, wal_kills=0),
    "a place is given away when its DELETE is composed": lambda name: model(name, wal_kills=0, drain_kills=0),
    "the number is given before the words": lambda name: model(name, wal_kills=0, drain_kills=0),
    "a reader looks at the number once": lambda name: model(name, wal_kills=0, drain_kills=0),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_found(mutant: str) -> None:
    result = check(MUTANTS[mutant](mutant))
    assert result.violation is not None, f"{mutant}: {result}"
