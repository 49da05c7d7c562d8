"""Model of the drain's park and wake (PAIR: completions in wal_threads.c and sequencer.c).

Roles
    WAL threads, each with one block: store that it is persisted, add 1 to `completions`, load `drain_parked`, and
    futex-wake if it is set. The drain: look for persisted blocks; when there are none, drain_parked = 1, read
    `completions`, look again, sleep while `completions` is as read, drain_parked = 0.

Invariant
    At rest (all blocks persisted, everybody asleep or done) every persisted block is confirmed. Also when either side
    is killed at any instant and replaced: a new drain clears drain_parked and looks; new WAL threads write again what
    is not persisted, and tell the drain in any case, because their predecessors may have died between the byte and
    the bump.

Findings
    Holds under TSO and PSO: with 2 threads 1,604 states, with a kill of the drain 3,414, of the WAL process 13,345.
    Every mutant is found. One that is none: storing drain_parked without a fence. FUTEX_WAIT compares under the
    kernel's lock, after the store has left the buffer, so either the compare sees the waker's bump, or the bump comes
    after the flag is set. The fence that matters is the waker's, between its stores and its look at the flag.

Leaves out
    What a look costs and how many blocks one look confirms (test_sequencer.py); the sealed-block nudge, which is the
    same pair with `sealed` in the place of the persisted byte.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, PSO, TSO, Kill, Memory, Model, Process, Procs, Step, View, check

THREADS = 2


def wal_thread(k: int, mutant: str) -> Process:
    byte = f"persisted{k}"

    def persist(v: View) -> str:
        v.store(byte, 1)
        return "told" if mutant == "bump before persisted" else "bump"

    def bump(v: View) -> str | None:
        if mutant == "waker without fence":  # one thread, so this loses no bump
            v.store("completions", v.m["completions"] + 1)
            return "parked?"
        if not v.drained:
            return None
        v.add("completions", 1)
        return "parked?"

    def parked(v: View) -> str:
        last = "persist" if mutant == "bump before persisted" else END
        return "wake" if v.load("parked") else last

    def wake(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wake("completions", everybody=True)
        return "persist" if mutant == "bump before persisted" else END

    def again(v: View) -> str:
        """What a successor does: a block whose byte is set is not written again."""
        if mutant == "successor does not tell the drain":
            return END if v.load(byte) else "persist"
        return "persist"

    steps: dict[str, Step] = {"again": again, "persist": persist, "bump": bump, "parked?": parked, "wake": wake}
    steps["told"] = lambda _: END
    return Process(f"wal{k}", "bump" if mutant == "bump before persisted" else "again", steps, {})


def drain(threads: int, mutant: str) -> Process:
    def opened(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("parked", 0)
        return "look0"

    def look(k: int, kind: str) -> Step:
        def step(v: View) -> str:
            if v.load(f"persisted{k}") and not v.m[f"_confirmed{k}"]:
                v.m[f"_confirmed{k}"] = 1
                v.l["moved"] = 1
            if k + 1 < threads:
                return f"{kind}{k + 1}"
            moved, v.l["moved"] = v.l["moved"], 0
            if kind == "look":
                return "look0" if moved else "announce"
            if moved:
                return "unpark"
            return "seen" if mutant == "value read after the second look" else "sleep"

        return step

    def announce(v: View) -> str | None:
        if mutant == "announced without fence":
            v.store("parked", 1)
        elif not v.drained:
            return None
        else:
            v.rmw("parked", 1)
        return "again0" if mutant == "value read after the second look" else "seen"

    def seen(v: View) -> str:
        v.l["seen"] = v.load("completions")
        return "sleep" if mutant in {"no second look", "value read after the second look"} else "again0"

    def sleep(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wait("completions", v.l["seen"])
        return "unpark"

    def unpark(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("parked", 0)
        v.l["seen"] = 0
        return "look0"

    steps: dict[str, Step] = {"open": opened, "announce": announce, "seen": seen, "sleep": sleep, "unpark": unpark}
    for k in range(threads):
        steps |= {f"look{k}": look(k, "look"), f"again{k}": look(k, "again")}
    return Process("drain", "open", steps, {"moved": 0, "seen": 0})


def model(mutant: str = "", *, threads: int = THREADS, order: str = TSO, kill: str = "") -> Model:
    memory: Memory = {"completions": 0, "parked": 0}
    memory |= {f"persisted{k}": 0 for k in range(threads)} | {f"_confirmed{k}": 0 for k in range(threads)}

    def good(m: Memory, _: Procs) -> bool:
        return all(m[f"_confirmed{k}"] for k in range(threads))

    def invariant(m: Memory) -> str | None:
        early = any(m[f"_confirmed{k}"] and not m[f"persisted{k}"] for k in range(threads))
        return "confirmed before it is persisted" if early else None

    wals = [wal_thread(k, mutant) for k in range(threads)]
    victims = {"": (), "drain": ("drain",), "wal": tuple(w.name for w in wals)}[kill]
    kills = (Kill(victims),) if victims else ()
    return Model(memory, [*wals, drain(threads, mutant)], good, invariant, order, kills=kills)


@pytest.mark.parametrize("order", [TSO, PSO])
@pytest.mark.parametrize("kill", ["", "drain", "wal"])
def test_no_persisted_block_is_left_unconfirmed_with_everyone_asleep(order: str, kill: str) -> None:
    result = check(model(order=order, kill=kill))
    assert result.violation is None, result


MUTANTS = [
    ("no second look", 2, ""),
    ("value read after the second look", 2, ""),
    ("bump before persisted", 2, ""),
    ("waker without fence", 1, ""),
    ("successor does not tell the drain", 2, "wal"),
]


@pytest.mark.parametrize(("mutant", "threads", "kill"), MUTANTS)
def test_mutant_is_found(mutant: str, threads: int, kill: str) -> None:
    assert check(model(mutant, threads=threads, kill=kill)).violation == "at rest, and work is left"


def test_the_kernels_compare_makes_up_for_a_missing_fence_of_the_sleeper() -> None:
    assert check(model("announced without fence")).violation is None
