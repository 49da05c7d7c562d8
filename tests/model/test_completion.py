"""Model of a client that waits for its completion, and of the completion cell (PAIR: wake, PAIR: cell).

Roles
    The drain delivers results: cell.number = 0, release fence, cell.offset, cell.number (release); then adds 1 to the
    slot's `wake`, loads the lane's completion_waiters, and wakes if there are any. A client thread that waits: look
    at the cell; completion_waiters + 1, read `wake`, look again, sleep while `wake` is as read, look again,
    completion_waiters - 1. A look is three loads: number, offset, number; the result counts if both numbers are the
    wanted one.

    Request 2 has the cell of request 1 (one place). A client publishes 2 only after a thread of it has settled 1. A
    second thread may be in the middle of a look for 1 at that time. The drain may be killed at any instant; its
    successor delivers again, in order, whatever is confirmed and not released.

Invariant
    A result that is taken for request n is the offset of request n. At rest both are settled, and nobody
    sleeps for a request that is not.

Findings
    Holds on two rules, under TSO and PSO: one thread 364 states, with a kill 1,932; two threads 9,996 and 75,577. Every
    mutant is found.
    1. A successor leaves a cell alone that holds this request's number or a later one. Else one thread is enough to be
       fooled: it sees number 2, then the offset of request 1 that the successor delivers again into the same cell, then
       number 2 again.
    2. The first result stays: a thread drops what it read if the receipt is settled by then. Else the second thread is
       fooled: it sees number 1, then the offset of request 2 that the drain stored before it died, then number 1
       again from the successor.
    A second thread that goes to sleep for request 1 when the cell is request 2's already is not woken: its receipt is
    settled, and it finds out when its slice of sleep ends. This is the one place that a timeout is needed for.

Leaves out
    Ctrl-C and timeouts (the waiter just looks again), failed requests, several cells.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, PSO, Kill, Memory, Model, Process, Procs, Step, View, check

OVERRIDES = {"late result overrides", "number not zeroed", "no fence after the zero", "no second look at the number"}
"""Mutants of the cell: a torn look must not be dropped unseen."""


def drain(requests: int, mutant: str) -> Process:
    """Starts, and starts again, with request 1: nothing is released here."""
    first = "offset" if mutant == "number not zeroed" else "zero"

    def wait(v: View) -> str | None:
        n = v.l["n"]
        if n > requests:
            return None
        if not v.drained or v.load("published") < n:
            return None
        return first if mutant == "successor delivers what is there already" else "there?"

    def there(v: View) -> str:
        """The cell's own writer looks: a predecessor may have delivered this request, or the next one of this cell."""
        return "bump" if v.load("number") >= v.l["n"] else first

    def zero(v: View) -> str:
        v.store("number", 0)
        if mutant != "no fence after the zero":
            v.release_fence()
        return "offset"

    def offset(v: View) -> str:
        v.store("offset", 100 + v.l["n"], release=False)
        return "number"

    def number(v: View) -> str:
        v.store("number", v.l["n"], release=mutant != "number stored without release")
        return "waiters?" if mutant == "looks for waiters before the bump" else "bump"

    def bump(v: View) -> str | None:
        if not v.drained:
            return None
        v.add("wake", 1)
        return after(v) if mutant == "looks for waiters before the bump" else "waiters?"

    def waiters(v: View) -> str:
        if mutant == "looks for waiters before the bump":
            return "wake early" if v.load("waiters") else "bump"
        return "wake" if v.load("waiters") else after(v)

    def after(v: View) -> str:
        v.l["n"] += 1
        return "wait"

    def wake(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wake("wake", everybody=True)
        return after(v)

    def wake_early(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wake("wake", everybody=True)
        return "bump"

    steps: dict[str, Step] = {
        "wait": wait, "there?": there, "zero": zero, "offset": offset, "number": number, "bump": bump,
        "waiters?": waiters, "wake": wake, "wake early": wake_early,
    }  # fmt: skip
    return Process("drain", "wait", steps, {"n": 1})


def waiter(name: str, last: int, mutant: str) -> Process:
    """Settles requests 1 to `last`; publishes each one, except the first, when it has settled the one before."""

    def look(k: str) -> dict[str, Step]:
        """The three loads, before (`a`) or after (`b`) the announcement, or after the sleep (`c`)."""
        missed = {"a": "announce", "b": "sleep", "c": "retire"}[k]
        if k == "b" and mutant == "value read after the second look":
            missed = "seen"

        def number(v: View) -> str:
            return f"{k} offset" if v.load("number") == v.l["n"] else missed

        def offset(v: View) -> str:
            v.l["found"] = v.load("offset")
            return accept(v) if mutant == "no second look at the number" else f"{k} number again"

        def again(v: View) -> str:
            return accept(v) if v.load("number") == v.l["n"] else missed

        def accept(v: View) -> str:
            n = v.l["n"]
            if not v.m[f"_settled{n}"] or mutant in OVERRIDES:
                v.m[f"_settled{n}"] = v.l["found"]
            v.l["found"] = 0
            return "done" if k == "a" else "retire"

        return {f"{k} number": number, f"{k} offset": offset, f"{k} number again": again}

    def announce(v: View) -> str | None:
        if mutant == "announced after the look":
            return "seen"
        if not v.drained:
            return None
        v.add("waiters", 1)
        return "b number" if mutant == "value read after the second look" else "seen"

    def seen(v: View) -> str:
        v.l["seen"] = v.load("wake")
        return "sleep" if mutant in {"no second look", "value read after the second look"} else "b number"

    def sleep(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wait("wake", v.l["seen"])
        v.l["seen"] = 0
        return "c number"

    def retire(v: View) -> str | None:
        if not v.drained:
            return None
        v.l["seen"] = 0
        if mutant != "announced after the look":
            v.add("waiters", -1)
        return "done" if v.m[f"_settled{v.l['n']}"] else "a number"

    def done(v: View) -> str | None:
        if v.l["n"] == last:
            return END
        if not v.drained:
            return None
        v.l["n"] += 1
        v.rmw("published", v.l["n"])
        return "a number"

    steps: dict[str, Step] = {
        **look("a"), **look("b"), **look("c"),
        "announce": announce, "seen": seen, "sleep": sleep, "retire": retire, "done": done,
    }  # fmt: skip
    return Process(name, "a number", steps, {"n": 1, "found": 0, "seen": 0})


def model(mutant: str = "", *, waiters: tuple[int, ...] = (2, 1), order: str = PSO, kill: bool = False) -> Model:
    requests = max(waiters)
    memory: Memory = {"number": 0, "offset": 55, "wake": 0, "waiters": 0, "published": 1}
    memory |= {f"_settled{n}": 0 for n in range(1, requests + 1)}

    def invariant(m: Memory) -> str | None:
        wrong = any(m[f"_settled{n}"] not in {0, 100 + n} for n in range(1, requests + 1))
        return "a request got another one's result" if wrong else None

    def good(m: Memory, procs: Procs) -> bool:
        return all(p.label == END or m[f"_settled{p.locals[0]}"] for p in procs[1:])

    threads = [waiter(f"thread{k}", last, mutant) for k, last in enumerate(waiters)]
    kills = (Kill(("drain",)),) if kill else ()
    return Model(memory, [drain(requests, mutant), *threads], good, invariant, order, kills=kills)


@pytest.mark.parametrize(("waiters", "kill"), [((2,), False), ((2,), True), ((2, 1), False), ((2, 1), True)])
def test_everyone_gets_the_right_result_and_nobody_sleeps_on(waiters: tuple[int, ...], kill: bool) -> None:
    result = check(model(waiters=waiters, kill=kill))
    assert result.violation is None, result


ASLEEP = "at rest, and work is left"
WRONG = "a request got another one's result"
MUTANTS = [
    ("no second look", (1,), False, ASLEEP),
    ("value read after the second look", (1,), False, ASLEEP),
    ("announced after the look", (1,), False, ASLEEP),
    ("looks for waiters before the bump", (1,), False, ASLEEP),
    ("number stored without release", (1,), False, WRONG),
    ("number not zeroed", (2, 1), False, WRONG),
    ("no fence after the zero", (2, 1), False, WRONG),
    ("no second look at the number", (2, 1), False, WRONG),
    ("late result overrides", (2, 1), True, WRONG),
    ("successor delivers what is there already", (2,), True, WRONG),
]


@pytest.mark.parametrize(("mutant", "waiters", "kill", "violation"), MUTANTS)
def test_mutant_is_found(mutant: str, waiters: tuple[int, ...], kill: bool, violation: str) -> None:
    assert check(model(mutant, waiters=waiters, kill=kill)).violation == violation
