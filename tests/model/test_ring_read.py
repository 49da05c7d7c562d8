"""Model of reading the log ring while it is overwritten (PAIR: reserve_end in log_ring.c and scan.c).

Roles
    The WAL process composes block after block over the same two words of ring space: it stores reserve_end, full
    fence, writes both words, seals. A reader that wants a certain block copies both words, acquire fence, loads
    reserve_end, and believes the copy only if the block's bytes are not below reserve_end - ring_bytes.

Invariant
    A copy that is believed is the whole wanted block, never a mixture and never another lap's. The WAL process may be
    killed at any instant; its successor composes at the same place (reserve_end is already there) or goes on.

Findings
    Holds under TSO (348 states) and PSO (380). All mutants are found. Without the fence behind reserve_end the
    protocol still holds on x86, whose stores leave in order; PSO shows the torn copy.

Leaves out
    Loads that pass loads: the reader's acquire fence forbids it, and the checker executes loads in order.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, PSO, TSO, Kill, Memory, Model, Process, Step, View, check

LAPS = 2


def wal(mutant: str) -> Process:
    """`lap` is the block being composed; block n lies in [n, n + 1) of a ring one block long."""

    def start(v: View) -> str:
        v.l["lap"] = v.load("sealed")
        return next_block(v)

    def next_block(v: View) -> str:
        if v.l["lap"] == LAPS:
            return END
        return "word0" if mutant == "reserve_end stored after the overwrite" else "reserve"

    def reserve(v: View) -> str:
        if mutant == "no fence after reserve_end":
            v.store("reserve_end", v.l["lap"] + 1)
            return "word0"
        if not v.drained:
            return "reserve"
        v.rmw("reserve_end", v.l["lap"] + 1)
        return "seal" if mutant == "reserve_end stored after the overwrite" else "word0"

    def word(k: int) -> Step:
        def step(v: View) -> str:
            v.store(f"word{k}", v.l["lap"], release=False)
            if k == 0:
                return "word1"
            return "reserve" if mutant == "reserve_end stored after the overwrite" else "seal"

        return step

    def seal(v: View) -> str | None:
        if not v.drained:
            return None
        v.l["lap"] += 1
        v.rmw("sealed", v.l["lap"])
        return next_block(v)

    steps: dict[str, Step] = {"start": start, "reserve": reserve, "word0": word(0), "word1": word(1), "seal": seal}
    return Process("wal", "start", steps, {"lap": 0})


def reader(mutant: str) -> Process:
    """Wants some sealed block, and tries once."""

    def start(v: View) -> str | None:
        sealed = v.load("sealed")
        if not sealed:
            return None
        v.l["want"] = v.choose(sealed)
        return "early" if mutant == "looked at reserve_end before the copy" else "word0"

    def early(v: View) -> str:
        return "word0" if v.l["want"] >= v.load("reserve_end") - 1 else END

    def copy(k: int) -> Step:
        def step(v: View) -> str:
            v.l[f"copy{k}"] = v.load(f"word{k}")
            if k == 0:
                return "word1"
            return "believe" if mutant == "looked at reserve_end before the copy" else "check"

        return step

    def recheck(v: View) -> str:
        return "believe" if v.l["want"] >= v.load("reserve_end") - 1 else END

    def believe(v: View) -> str:
        if (v.l["copy0"], v.l["copy1"]) != (v.l["want"], v.l["want"]):
            v.m["_torn"] = 1
        return END

    steps: dict[str, Step] = {
        "start": start, "early": early, "word0": copy(0), "word1": copy(1), "check": recheck, "believe": believe,
    }  # fmt: skip
    return Process("reader", "start", steps, {"want": 0, "copy0": -1, "copy1": -1})


def model(mutant: str = "", *, order: str = PSO) -> Model:
    memory: Memory = {"reserve_end": 0, "sealed": 0, "word0": -1, "word1": -1, "_torn": 0}
    return Model(
        memory,
        [wal(mutant), reader(mutant)],
        good=lambda m, _: m["sealed"] == LAPS,
        invariant=lambda m: "a torn copy was believed" if m["_torn"] else None,
        order=order,
        kills=(Kill(("wal",)),),
    )


@pytest.mark.parametrize("order", [TSO, PSO])
def test_a_torn_copy_is_never_believed(order: str) -> None:
    result = check(model(order=order))
    assert result.violation is None, result


@pytest.mark.parametrize(
    "mutant",
    ["reserve_end stored after the overwrite", "no fence after reserve_end", "looked at reserve_end before the copy"],
)
def test_mutant_is_found(mutant: str) -> None:
    assert check(model(mutant)).violation == "a torn copy was believed"


def test_x86_forgives_the_missing_fence() -> None:
    assert check(model("no fence after reserve_end", order=TSO)).violation is None
