"""Model of how a lane's descriptor comes to the WAL process (processes/lanes.py, slots.py, process_group.py), as to the drain.

Roles
    The supervisor has one thread. It grants two lanes, one after the other, each in three steps: it keeps the
    descriptor, sends it over the socket of the process that runs, opens the slot. Between two grants, never inside one,
    it forks a successor for a process that died: with a new socket, and with every descriptor that it keeps. The WAL
    process sees an open slot, reads its socket to the end, and attaches the lane. It is killed at any instant, up to
    twice; what its socket holds is gone then.

Invariant
    Who sees an open slot has its lane: it was inherited, or has come. At rest every lane is attached.

Findings
    Holds: 303 states. Each of the mutants is found: the slot opened before the packet is sent, a successor without the
    lanes that there are, and a successor that is forked inside a grant, from what was kept before it.

Leaves out
    A full socket: then no grant begins (`Lanes.room`). Slots that close (test_sequencer.py has the generations).
"""

from __future__ import annotations

import pytest

from tests.model.statespace import Kill, Memory, Model, Process, Procs, Step, View, check

GRANTS = 2


def supervisor(mutant: str) -> Process:
    def idle(v: View) -> str | None:
        if v.load("dead"):
            return "fork"
        return "keep" if v.l["granted"] < GRANTS else None

    def keep(v: View) -> str:
        v.store("kept", (*v.m["kept"], v.l["granted"]))  # the supervisor's own: nobody else reads it, a fork copies it
        if mutant == "a fork inside a grant" and v.m["dead"]:
            v.l["inside"] = 1
            return "fork"
        return "open" if mutant == "the slot first" else "send"

    def send(v: View) -> str:
        if not v.m["dead"]:
            v.store("socket", (*v.m["socket"], v.l["granted"]))
        return "done" if mutant == "the slot first" else "open"

    def open_slot(v: View) -> str:
        v.store("open", v.l["granted"] + 1)
        return "send" if mutant == "the slot first" else "done"

    def done(v: View) -> str:
        v.l["granted"] += 1
        return "idle"

    def fork(v: View) -> str:
        kept = v.m["kept"]
        inside, v.l["inside"] = v.l["inside"], 0
        if mutant == "a fork inside a grant" and inside:
            kept = kept[:-1]
        v.store("born", ((),) if mutant == "nothing inherited" else (kept,))
        return "open" if inside else "idle"

    steps: dict[str, Step] = {"idle": idle, "keep": keep, "send": send, "open": open_slot, "done": done, "fork": fork}
    return Process("supervisor", "idle", steps, {"granted": 0, "inside": 0})


def wal() -> Process:
    def birth(v: View) -> str | None:
        born = v.load("born")
        if not born:
            return None
        v.m["dead"] = 0  # the fork's, in one step with it
        v.l["waiting"] = born[0]
        return "look"

    def look(v: View) -> str | None:
        return "receive" if v.load("open") > v.l["attached"] else None

    def receive(v: View) -> str:
        v.l["waiting"] = (*v.l["waiting"], *v.load("socket"))
        v.m["socket"] = ()  # one step with the read: the kernel's
        return "attach"

    def attach(v: View) -> str:
        lane = v.l["attached"]
        if lane not in v.l["waiting"]:
            v.m["_wrong"] = "an open slot, and no lane"
        v.l["attached"] += 1
        v.store("attached", v.l["attached"])
        return "look"

    steps: dict[str, Step] = {"birth": birth, "look": look, "receive": receive, "attach": attach}
    return Process("wal", "birth", steps, {"waiting": (), "attached": 0})


def model(mutant: str = "") -> Model:
    memory: Memory = {"kept": (), "socket": (), "open": 0, "dead": 0, "born": ((),), "attached": 0, "_wrong": ""}
    lost: Memory = {"dead": 1, "born": (), "attached": 0, "socket": ()}

    def invariant(m: Memory) -> str | None:
        return str(m["_wrong"]) or None

    def good(m: Memory, _: Procs) -> bool:
        return bool(m["open"] == m["attached"] == GRANTS)

    return Model(memory, [supervisor(mutant), wal()], good, invariant, kills=(Kill(("wal",), 2, lost),))


def test_who_sees_an_open_slot_has_its_lane() -> None:
    result = check(model())
    assert result.violation is None, result


@pytest.mark.parametrize("mutant", ["the slot first", "nothing inherited", "a fork inside a grant"])
def test_mutant_is_found(mutant: str) -> None:
    assert check(model(mutant)).violation == "an open slot, and no lane"
