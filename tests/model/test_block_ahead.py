"""Model of the block that is composed ahead (PAIR: ahead in ahead.h and wal_threads.c).

Roles
    Two threads that each write a block, and a third with the compose lock, which has blocks to compose: while two are being
    written and none is ahead it puts one there and looks at `writing`, otherwise it writes the block itself. Who has
    written takes the block ahead if there is one, else counts itself out of `writing` and looks once more. Taking is
    a compare-and-set, a copy, and the state's return to NONE.

Invariant
    No block is written twice. At rest (everybody done) every block is written: nobody polls for the block ahead, and
    the guard, who looks after 20 ms, is left out here.

Findings
    Holds under SC, TSO and PSO with three blocks. Every mutant is found.

Leaves out
    Stuck writes, and the guard that takes the block ahead of them; which blocks are worth composing; the doorbell.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, PSO, SC, TSO, Memory, Model, Process, Procs, Step, View, check

NONE, THERE, TAKEN = range(3)
AT_ONCE = 2
BLOCKS = 3


def fenced(step: Step) -> Step:
    """An atomic operation: it waits until the processor's earlier stores are seen."""
    return lambda v: step(v) if v.drained else None


class Thread:
    """The steps that all threads have: write, take the block ahead, leave."""

    def __init__(self, mutant: str, idle: str) -> None:
        self.mutant = mutant
        self.idle = idle  # where a thread goes on that has nothing to write

    def steps(self) -> dict[str, Step]:
        return {
            "write": self.write,
            "there?": self.there("leave"),
            "take": fenced(self.take("leave")),
            "copy": self.copy,
            "free": fenced(self.free),
            "leave": fenced(self.leave),
            "due there?": self.there(self.idle, "due writing?"),
            "due writing?": self.writing,
            "due enter": fenced(self.enter),
            "due take": fenced(self.take("leave")),
        }

    def write(self, v: View) -> str:
        v.m["_written"] = (*v.m["_written"], v.l["job"])
        return "there?"

    def there(self, otherwise: str, then: str = "take") -> Step:
        return lambda v: then if v.load("ahead") == THERE else otherwise

    def take(self, otherwise: str) -> Step:
        def step(v: View) -> str:
            if self.mutant == "taken without compare-and-set":
                v.rmw("ahead", TAKEN)
            elif not v.cas("ahead", THERE, TAKEN):
                return otherwise
            return "free" if self.mutant == "free before it is copied" else "copy"

        return step

    def copy(self, v: View) -> str:
        v.l["job"] = v.load("job")
        return "write" if self.mutant == "free before it is copied" else "free"

    def free(self, v: View) -> str:
        v.rmw("ahead", NONE)
        return "copy" if self.mutant == "free before it is copied" else "write"

    def leave(self, v: View) -> str:
        v.add("writing", -1)
        return self.idle if self.mutant == "no look after leaving" else "due there?"

    def writing(self, v: View) -> str:
        return "due enter" if v.load("writing") < AT_ONCE else self.idle

    def enter(self, v: View) -> str:
        v.add("writing", 1)
        return "due take"


class Composer(Thread):
    """Has the compose lock, and blocks to compose."""

    def steps(self) -> dict[str, Step]:
        put: Step = self.put if self.mutant == "put without fence" else fenced(self.put)
        return super().steps() | {
            "compose": self.compose,
            "free?": self.is_free,
            "job": self.job,
            "put": put,
            "start": fenced(self.start),
        }

    def compose(self, v: View) -> str:
        if v.l["made"] == BLOCKS:
            return END
        v.l["made"] += 1
        return "free?" if v.load("writing") >= AT_ONCE else "start"

    def is_free(self, v: View) -> str:
        return "job" if v.load("ahead") == NONE else "start"

    def job(self, v: View) -> str:
        v.store("job", v.l["made"], release=False)
        return "put"

    def put(self, v: View) -> str:
        if self.mutant == "put without fence":
            v.store("ahead", THERE)
        else:
            v.rmw("ahead", THERE)
        return "compose" if self.mutant == "no look after putting" else "due there?"

    def start(self, v: View) -> str:
        v.add("writing", 1)
        v.l["job"] = v.l["made"]
        return "write"


def model(mutant: str = "", order: str = TSO) -> Model:
    memory: Memory = {"writing": AT_ONCE, "ahead": NONE, "job": 0, "_written": ()}
    writers = [Process(f"writer{k}", "write", Thread(mutant, END).steps(), {"job": -k}) for k in range(AT_ONCE)]
    composer = Process("composer", "compose", Composer(mutant, "compose").steps(), {"job": 0, "made": 0})

    def good(m: Memory, _: Procs) -> bool:
        return len(m["_written"]) == AT_ONCE + BLOCKS

    def invariant(m: Memory) -> str | None:
        return "written twice" if len(set(m["_written"])) != len(m["_written"]) else None

    def canonical(m: Memory, procs: Procs) -> tuple[Memory, Procs]:
        return m | {"_written": tuple(sorted(m["_written"]))}, procs

    return Model(memory, [*writers, composer], good, invariant, order, canonical=canonical)


@pytest.mark.parametrize("order", [SC, TSO, PSO])
def test_every_block_is_written_once(order: str) -> None:
    result = check(model(order=order))
    assert result.violation is None, result


@pytest.mark.parametrize(
    "mutant",
    [
        "no look after putting",
        "no look after leaving",
        "put without fence",
        "taken without compare-and-set",
        "free before it is copied",
    ],
)
def test_mutant_is_found(mutant: str) -> None:
    result = check(model(mutant))
    assert result.violation is not None, f"{mutant}: {result}"
