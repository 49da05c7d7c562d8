"""Model of the bell, on which a client's event loop sleeps (PAIR: bell; csrc/wait.h).

Roles
    The drain, for each persisted request: looks whether a predecessor has done it; fills the cell, or confirms the stream's
    record; loads bell_wanted, and rings if that is set; releases. What is confirmed already rings nobody again, and what
    is delivered already is delivered again, and rings. A drain that gets the bell rings if it is wanted, be it the first
    or a successor; then it goes on with what is not released. The client awaits completions (`cell`), or records of a
    stream (`confirmed`), one after the other: bell_wanted = 1, look, sleep while the bell is not rung, take the ring,
    look again; bell_wanted = 0. The kernel keeps a ring until it is taken, be it one or many.

    For room (`head`), a lane has place for one request, and a WAL thread is there, too: it seals a request, gives its
    space back, and writes it; a successor gives back what is sealed before it writes that again. The client publishes
    a request whenever there is room, and only completions ring.

Invariant
    At rest the client has found all that it awaits. Also when the drain or the WAL process is killed at any instant and
    replaced.

Findings
    Holds under TSO and PSO, with 3 requests: 644 states, with a kill 1,804; for room 2,249, with a kill of the drain 6,116,
    of the WAL process 10,643. Every mutant is found. A successor that does not ring loses tails only: a completion that
    is not released is delivered again, and rings.

Leaves out
    Several awaits at once: bell_wanted stays 1 then, and a tail that joins is announced by its place in the lane's table,
    as a thread that tails is (test_completion.py). Refusals, which are completions. A drain without the bell.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, PSO, TSO, Kill, Memory, Model, Process, Procs, Step, View, check

REQUESTS = 3


def drain(word: str, mutant: str) -> Process:
    """Fills `word`: the cell, or the confirmed offset of the stream."""
    early = {"looks before it fills": "look early", "rings before it fills": "ring early?"}.get(mutant, "fill")

    def born(v: View) -> str | None:
        if mutant == "a successor does not ring":
            return "resume"
        if not v.drained:
            return None
        return "ring at birth" if v.load("wanted") else "resume"

    def resume(v: View) -> str:
        v.l["n"] = v.load("released") + 1
        return "next"

    def following(v: View) -> str | None:
        if v.l["n"] > REQUESTS:
            return END
        return "there?" if v.load("persisted") >= v.l["n"] else None

    def there(v: View) -> str:
        if v.load(word) < v.l["n"]:
            return early
        return "wanted?" if word == "cell" else "release"

    def look_early(v: View) -> str | None:
        if not v.drained:
            return None
        v.l["seen"] = v.load("wanted")
        return "fill"

    def ring_early(v: View) -> str | None:
        if not v.drained:
            return None
        return "ring early" if v.load("wanted") else "fill"

    def fill(v: View) -> str:
        v.store(word, v.l["n"])
        seen, v.l["seen"] = v.l["seen"], 0
        if mutant == "looks before it fills":
            return "ring" if seen else "release"
        return "release" if mutant == "rings before it fills" else "wanted?"

    def wanted(v: View) -> str | None:
        if not v.drained and mutant != "the drain has no fence":
            return None
        return "ring" if v.load("wanted") else "release"

    def ring(then: str) -> Step:
        def step(v: View) -> str | None:
            if not v.drained:
                return None
            v.m["bell"] = 1  # one step with the wake: the kernel's
            v.futex_wake("bell", everybody=True)
            return then

        return step

    def release(v: View) -> str:
        v.store("released", v.l["n"])
        v.l["n"] += 1
        return "next"

    steps: dict[str, Step] = {
        "born": born, "ring at birth": ring("resume"), "resume": resume, "next": following, "there?": there,
        "look early": look_early, "ring early?": ring_early, "ring early": ring("fill"), "fill": fill,
        "wanted?": wanted, "ring": ring("release"), "release": release,
    }  # fmt: skip
    return Process("drain", "born", steps, {"n": 0, "seen": 0})


def wal(mutant: str) -> Process:
    gives_late = mutant == "the space comes back after the write"
    writes_first = mutant == "a successor writes before it gives back"

    def born(v: View) -> str:
        v.l["n"] = v.load("sealed")
        return "written?" if writes_first else "given?"

    def given(v: View) -> str:
        following = "compose" if writes_first else "written?"
        return "give again" if v.load("head") < v.l["n"] else following

    def written(v: View) -> str:
        following = "given?" if writes_first else "compose"
        return "write again" if v.load("persisted") < v.l["n"] else following

    def compose(v: View) -> str | None:
        if v.load("published") <= v.l["n"]:
            return None
        v.l["n"] += 1
        return "seal"

    def stores(word: str, then: str) -> Step:
        def step(v: View) -> str | None:
            if not v.drained:
                return None
            v.rmw(word, v.l["n"])
            return then

        return step

    steps: dict[str, Step] = {
        "born": born, "given?": given, "written?": written, "compose": compose,
        "give again": stores("head", "compose" if writes_first else "written?"),
        "write again": stores("persisted", "given?" if writes_first else "compose"),
        "seal": stores("sealed", "write" if gives_late else "give"),
        "give": stores("head", "compose" if gives_late else "write"),
        "write": stores("persisted", "give" if gives_late else "compose"),
    }  # fmt: skip
    return Process("wal", "born", steps, {"n": 0})


def client(word: str, mutant: str) -> Process:
    """Awaits that `word` gets to 1, 2 and so on."""
    first = "publish" if word == "head" else "want"

    def publish(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("published", v.l["n"])
        return "want"

    def want(v: View) -> str | None:
        if mutant == "wanted without a fence":
            v.store("wanted", 1)
            return "look"
        if not v.drained:
            return None
        v.rmw("wanted", 1)
        return "sleep" if mutant == "looks before it wants" else "look"

    def look(then: str) -> Step:
        return lambda v: "unwant" if v.load(word) >= v.l["n"] else then

    def sleep(v: View) -> str | None:
        if not v.drained:
            return None
        v.futex_wait("bell", 0)
        return "look late" if mutant == "looks before it takes the ring" else "take"

    def take(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("bell", 0)
        return "sleep" if mutant == "looks before it takes the ring" else "look"

    def unwant(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("wanted", 0)
        if v.l["n"] == REQUESTS:
            return END
        v.l["n"] += 1
        return start

    steps: dict[str, Step] = {
        "publish": publish, "want": want, "look": look("sleep"), "sleep": sleep, "take": take, "unwant": unwant,
        "look late": look("take"), "look early": look("want"),
    }  # fmt: skip
    start = "look early" if mutant == "looks before it wants" else first
    return Process("client", start, steps, {"n": 1})


def model(word: str, mutant: str = "", *, order: str = TSO, kill: str = "") -> Model:
    room = word == "head"
    memory: Memory = {"wanted": 0, "bell": 0, "released": 0, "cell": 0, "confirmed": 0}
    memory |= {"published": 0, "sealed": 0, "head": 0, "persisted": 0 if room else REQUESTS}

    def good(_: Memory, procs: Procs) -> bool:
        return procs[0].label == END

    processes = [client(word, mutant), drain("cell" if room else word, mutant), *([wal(mutant)] if room else [])]
    kills = (Kill((kill,)),) if kill else ()
    return Model(memory, processes, good, order=order, kills=kills)


WAYS = [("cell", ""), ("cell", "drain"), ("confirmed", ""), ("confirmed", "drain")]
WAYS += [("head", ""), ("head", "drain"), ("head", "wal")]


@pytest.mark.parametrize("order", [TSO, PSO])
@pytest.mark.parametrize(("word", "kill"), WAYS)
def test_who_awaits_is_rung(word: str, kill: str, order: str) -> None:
    result = check(model(word, order=order, kill=kill))
    assert result.violation is None, result


MUTANTS = [
    ("looks before it wants", "cell", ""),
    ("wanted without a fence", "cell", ""),
    ("looks before it takes the ring", "cell", ""),
    ("looks before it fills", "cell", ""),
    ("rings before it fills", "cell", ""),
    ("the drain has no fence", "cell", ""),
    ("a successor does not ring", "confirmed", "drain"),
    ("the space comes back after the write", "head", ""),
    ("a successor writes before it gives back", "head", "wal"),
]


@pytest.mark.parametrize(("mutant", "word", "kill"), MUTANTS)
def test_mutant_is_found(mutant: str, word: str, kill: str) -> None:
    assert check(model(word, mutant, kill=kill)).violation == "at rest, and work is left"


def test_a_completion_that_is_not_released_rings_again_by_itself() -> None:
    assert check(model("cell", "a successor does not ring", kill="drain")).violation is None
