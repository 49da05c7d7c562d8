"""Model of replacing the WAL process (wal_compose.c, log_ring.c, wal_threads.c, wal_restore.c).

Roles
    Two lanes hold two and one requests of one shared stream. The WAL process composes a block from any requests that
    are next in their lanes (privately: nobody sees it), fills the block's entry, seals it (`sealed` + 1), publishes
    lane heads and the stream's next offset, writes the block to disk, sets the persisted bytes, then the block's
    state. Composing and writing are two threads; both die together, at any instant, up to twice. The successor takes
    heads and offsets from shared memory, raises them by the tickets and offsets of the last sealed block, publishes
    them, writes the blocks again that have neither the state nor a persisted byte, and goes on. While a block is being
    written its place on disk is torn. The drain confirms blocks in order by their persisted bytes.

    A writer reuses lane space below the head: a request is gone from its lane once the head has passed it.

Invariant
    Every request is in at most one sealed block, each lane's in order; offsets are dense from 0 in block order; what
    is marked persisted is on disk; what is on disk at a place never changes to something else once sealed; what was
    confirmed is whole on disk at every later instant; no request is gone from its lane and in no sealed block. At rest
    every request is sealed, on disk and persisted.

Findings
    Holds: 76,854 states, 171,843 with two kills. All mutants are found. Sealing is the only instant at which a request
    changes from "in its lane" to "in the log", which is why the order head-after-seal and the recomputation go together.
    A successor that goes by the state alone writes a block again whose first record is confirmed already: torn, or
    failing, that write loses it.

Leaves out
    How the drain finds what to confirm, ring space (test_sequencer.py), lanes that are let go of, several streams (they
    differ in nothing here). Stores are seen at once: the reader of these words is the next process, after the death of
    the one that stored them.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import Kill, Memory, Model, Process, Procs, Step, View, check

REQUESTS = (2, 1)
"""In each lane."""

LANES = len(REQUESTS)
TOTAL = sum(REQUESTS)

TORN = "torn"

Record = tuple[int, int, int]
"""Lane, ticket, offset."""


class Wal:
    """The composing thread: one step per store. Private: cursors, next offset, the block being composed."""

    def __init__(self, mutant: str) -> None:
        self.mutant = mutant

    def process(self) -> Process:
        steps: dict[str, Step] = {
            "open": self.open, "next offset": self.read_next, "last block": self.last_block, "compose": self.compose,
            "entry": self.entry, "seal": self.seal, "publish offset": self.publish_offset,
        }  # fmt: skip
        steps |= {f"head{k}": self.read_head(k) for k in range(LANES)}
        steps |= {f"publish head{k}": self.publish_head(k) for k in range(LANES)}
        return Process("composer", "open", steps, {"cursor": (0,) * LANES, "next": 0, "block": (), "number": 0})

    def open(self, v: View) -> str:
        v.l["number"] = v.load("sealed")
        return "head0"

    def read_head(self, k: int) -> Step:
        def step(v: View) -> str:
            self.move(v, k, v.load(f"head{k}"))
            return f"head{k + 1}" if k + 1 < LANES else "next offset"

        return step

    @staticmethod
    def move(v: View, k: int, to: int) -> None:
        v.l["cursor"] = tuple(to if i == k else at for i, at in enumerate(v.l["cursor"]))

    def read_next(self, v: View) -> str:
        v.l["next"] = v.load("next")
        return "last block" if v.l["number"] else self.ready(v)

    def last_block(self, v: View) -> str:
        """Raises what the predecessor did not live to publish."""
        for lane, ticket, offset in v.load(f"entry{v.l['number'] - 1}"):
            if self.mutant != "successor trusts the heads" and v.l["cursor"][lane] <= ticket:
                self.move(v, lane, ticket + 1)
            if self.mutant != "successor trusts the offsets":
                v.l["next"] = max(v.l["next"], offset + 1)
        return "publish head0"

    @staticmethod
    def ready(v: View) -> str:
        v.m["restored"] = 1  # the writing threads start now: within one process, so this is no access
        return "compose"

    def compose(self, v: View) -> str | None:
        """Any next requests of any lanes: which ones have been published by now is up to the writers."""
        cursor: tuple[int, ...] = v.l["cursor"]
        left = [n - at for n, at in zip(REQUESTS, cursor, strict=True)]
        takes = [(a, b) for a in range(left[0] + 1) for b in range(left[1] + 1) if 0 < a + b <= 2]
        if not takes:
            return None
        block: list[Record] = []
        for lane, count in enumerate(takes[v.choose(len(takes))]):
            for _ in range(count):
                block.append((lane, v.l["cursor"][lane], v.l["next"]))
                self.move(v, lane, v.l["cursor"][lane] + 1)
                v.l["next"] += 1
        v.l["block"] = tuple(block)
        return "publish head0" if self.mutant == "heads before seal" else self.first_seal_step()

    def first_seal_step(self) -> str:
        return "seal" if self.mutant == "sealed before the entry is whole" else "entry"

    def entry(self, v: View) -> str:
        v.store(f"entry{v.l['number']}", v.l["block"])
        return self.after_seal(v) if self.mutant == "sealed before the entry is whole" else "seal"

    def seal(self, v: View) -> str:
        v.store("sealed", v.l["number"] + 1)
        return "entry" if self.mutant == "sealed before the entry is whole" else self.after_seal(v)

    def after_seal(self, v: View) -> str:
        v.l["number"] += 1
        v.l["block"] = ()
        return "compose" if self.mutant == "heads before seal" else "publish head0"

    def publish_head(self, k: int) -> Step:
        def step(v: View) -> str:
            v.store(f"head{k}", v.l["cursor"][k])
            return f"publish head{k + 1}" if k + 1 < LANES else "publish offset"

        return step

    def publish_offset(self, v: View) -> str:
        v.store("next", v.l["next"])
        if self.mutant == "heads before seal" and v.l["block"]:
            return self.first_seal_step()
        return self.ready(v)


def writing_thread(mutant: str) -> Process:
    """Any sealed block that is not persisted, one at a time: the write, the bytes, the state."""

    def pick(v: View) -> str | None:
        if not v.m["restored"]:
            return None
        if mutant == "successor does not write again":
            todo = [n for n in range(v.l["from"], v.load("sealed")) if not v.m[f"state{n}"]]
        else:
            todo = [n for n in range(v.load("sealed")) if not v.m[f"state{n}"]]
        if not todo:
            return None
        v.l["n"] = todo[v.choose(len(todo))]
        return "persist" if mutant == "persisted before the write" else "look"

    def look(v: View) -> str:
        written = v.load(f"persisted{v.l['n']}") and mutant != "successor goes by the state alone"
        return "state" if written else "write"

    def start(v: View) -> str:
        v.l["from"] = v.load("sealed")
        return "pick"

    def write(v: View) -> str:
        n = v.l["n"]
        old, new = v.m[f"_disk{n}"], v.m[f"entry{n}"]
        if old not in {(), TORN, new}:
            v.m["_wrong"] = "a written block was changed"
        v.store(f"_disk{n}", TORN)
        return "written"

    def written(v: View) -> str:
        v.store(f"_disk{v.l['n']}", v.m[f"entry{v.l['n']}"])
        return "state" if mutant == "persisted before the write" else "persist"

    def persist(v: View) -> str:
        n = v.l["n"]
        if v.m[f"_disk{n}"] != v.m[f"entry{n}"]:
            v.m["_wrong"] = "persisted and not on disk"
        v.store(f"persisted{n}", 1)
        return "write" if mutant == "persisted before the write" else "state"

    def state(v: View) -> str:
        v.store(f"state{v.l['n']}", 1)
        v.l["n"] = 0
        return "pick"

    steps: dict[str, Step] = {"start": start, "pick": pick, "look": look, "write": write, "written": written}
    steps |= {"persist": persist, "state": state}
    return Process("writing", "start", steps, {"n": 0, "from": 0})


def drain() -> Process:
    """It may look at any moment, and needs the byte only."""

    def look(v: View) -> str | None:
        n = v.l["confirmed"]
        return "confirm" if n < TOTAL and v.load(f"persisted{n}") else None

    def confirm(v: View) -> str:
        v.l["confirmed"] += 1
        v.store("confirmed", v.l["confirmed"])
        return "look"

    return Process("drain", "look", {"look": look, "confirm": confirm}, {"confirmed": 0})


def invariant(m: Memory) -> str | None:
    if m["_wrong"] or any(m[f"_disk{n}"] != m[f"entry{n}"] for n in range(m["confirmed"])):
        return str(m["_wrong"] or "what is confirmed is not whole on disk")
    records: list[Record] = [r for n in range(m["sealed"]) for r in m[f"entry{n}"]]
    if len({r[:2] for r in records}) != len(records):
        return "a request was taken twice"
    if [r[2] for r in records] != list(range(len(records))):
        return "offsets are not dense"
    for k in range(LANES):
        tickets = [r[1] for r in records if r[0] == k]
        if tickets != list(range(len(tickets))):
            return "a lane's requests changed their order"
        if m[f"head{k}"] > len(tickets):
            return "a request is gone from its lane and in no sealed block"
    return None


def good(m: Memory, _: Procs) -> bool:
    blocks = range(m["sealed"])
    return sum(len(m[f"entry{n}"]) for n in blocks) == TOTAL and all(m[f"persisted{n}"] and m[f"state{n}"] for n in blocks)


def model(mutant: str = "", *, kills: int = 2) -> Model:
    memory: Memory = {"sealed": 0, "next": 0, "confirmed": 0, "restored": 0, "_wrong": ""}
    memory |= {f"head{k}": 0 for k in range(LANES)}
    for n in range(TOTAL):
        memory |= {f"entry{n}": (), f"_disk{n}": (), f"persisted{n}": 0, f"state{n}": 0}
    victims = Kill(("composer", "writing"), kills, {"restored": 0})
    return Model(memory, [Wal(mutant).process(), writing_thread(mutant), drain()], good, invariant, kills=(victims,))


def test_no_request_is_lost_or_taken_twice_and_offsets_stay_dense() -> None:
    result = check(model(kills=2))
    assert result.violation is None, result


MUTANTS = [
    ("heads before seal", "a request is gone from its lane and in no sealed block"),
    ("successor trusts the heads", "a request was taken twice"),
    ("successor trusts the offsets", "offsets are not dense"),
    ("sealed before the entry is whole", "persisted and not on disk"),
    ("persisted before the write", "persisted and not on disk"),
    ("successor does not write again", "at rest, and work is left"),
    ("successor goes by the state alone", "what is confirmed is not whole on disk"),
]


@pytest.mark.parametrize(("mutant", "violation"), MUTANTS)
def test_mutant_is_found(mutant: str, violation: str) -> None:
    assert check(model(mutant, kills=1)).violation == violation
