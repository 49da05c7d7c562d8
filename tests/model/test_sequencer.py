"""Model of the drain (sequencer.c): confirm each stream in order, give ring space back, be killed and replaced.

Roles
    The WAL process composes blocks into a ring that holds three of them, when room allows, and seals them (`sealed`).
    Disks persist the blocks in any order: the persisted byte of each record, then the block's state. The drain
    registers sealed blocks; for each block whose state says persisted, it advances every stream whose head is in the
    block, over all persisted records behind the head (confirm_order "log": only those of this block, and blocks in
    log order); confirming is two stores, `confirmed_offset` and then the completion cell. Where the head is a part of a
    joint append, it looks at one part after the other: each has to be persisted and the head of its stream, or below its
    confirmed offset. Then it confirms all that are heads, and afterwards advances their streams, too. Blocks all of
    whose records are confirmed are released: two stores, `released_end` (which is what the WAL process counts room by)
    and then `released`. The drain may be killed between any two steps; its successor starts from those words alone,
    and delivers again what is confirmed and not released.

    Being parked is test_drain_park.py: here a drain with nothing to do simply waits until there is something.

Invariant
    Offsets of a stream are confirmed in order, one by one, and only when persisted; a result is delivered only when
    confirmed; a part of a joint append is confirmed only when each of the others is persisted and all before it in its
    stream is confirmed; no block is released while one of its records is unconfirmed; the drain never reads ring bytes
    of a block that the WAL process has composed over; in log order nothing is confirmed while a block before it is out.
    At rest everything is confirmed, delivered and released. "Exactly once" holds for confirming; delivering is repeated
    by a successor and nothing else.

Findings
    Holds in both orders, on the rule that a successor begins at the first block at or beyond `released_end`: two
    streams 14,115 states (log order 5,785), with a kill 35,202 (14,867); one hot stream 8,492 (3,675), with a kill
    19,650 (9,835). With joint appends, one behind the other in two streams: 9,343 (4,663), with a kill 24,365 (12,743);
    three that cross in three streams: 5,067 (3,009), with a kill 13,791 (8,725). All mutants are found. Beginning at
    `released` is one of them: killed between its two stores, the drain leaves `released` behind `released_end`, the WAL
    process composes over the block, and the successor reads garbage. Another one: a successor that takes a part below
    its confirmed offset for one that waits never confirms the other parts. That it was confirmed proves that they are
    due. The count of unconfirmed records of a block is not needed while blocks are released in order: when every
    block up to n is completed, all their records are confirmed.

Leaves out
    Lanes that come and go, wake-ups, failed writes. Stores are seen at once here: each word has one writer, who
    releases, and the reader that matters (the WAL process, of released_end) acts later than it could in any memory
    order.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.model.statespace import Kill, Memory, Model, Process, Procs, Step, View, check

RING = 3
"""Blocks that fit into the ring."""

TWO_STREAMS = ("ab", "b", "a", "ba", "b")
"""Blocks, each a string of the streams of its records; those of a joint append stand in parentheses."""
HOT_STREAM = ("a", "aa", "a", "a")
JOINT = ("a", "(ab)", "b", "(ba)a")
CROSSED = ("(ab)", "(bc)", "(ca)")


class Log:
    """What the blocks hold: records as (block, stream, offset)."""

    def __init__(self, blocks: tuple[str, ...]) -> None:
        self.streams = sorted(set("".join(blocks)) - set("()"))
        self.records: list[tuple[int, str, int]] = []
        self.parts: dict[tuple[int, str, int], tuple[tuple[int, str, int], ...]] = {}
        """Of each record those that were appended with it, itself among them."""
        for n, streams in enumerate(blocks):
            for together in re.findall(r"\(\w+\)|\w", streams):
                made = [(n, s, sum(r[1] == s for r in self.records)) for s in together.strip("()")]
                self.records += made
                self.parts |= dict.fromkeys(made, tuple(made))
        self.blocks = [[r for r in self.records if r[0] == n] for n in range(len(blocks))]

    def at(self, stream: str, offset: int, below: int) -> tuple[int, str, int] | None:
        """The record, if its block is below."""
        return next((r for r in self.records if r[1:] == (stream, offset) and r[0] < below), None)


def byte(r: tuple[int, str, int]) -> str:
    return f"persisted {r[1]}{r[2]}"


def wal(log: Log) -> Process:
    def compose(v: View) -> str | None:
        """Over the bytes of the block that had this place. The disk's view of it comes with the seal."""
        n = v.l["n"]
        if n - v.load("released_end") >= RING:
            return None
        v.m["_ring"] = tuple(n if place == n % RING else there for place, there in enumerate(v.m["_ring"]))
        return "seal"

    def seal(v: View) -> str:
        v.l["n"] += 1
        v.store("sealed", v.l["n"])
        return "compose" if v.l["n"] < len(log.blocks) else "end"

    return Process("wal", "compose", {"compose": compose, "seal": seal}, {"n": 0})


def disk(log: Log, n: int, mutant: str) -> Process:
    """One block on its way."""

    def write(v: View) -> str | None:
        return first if v.load("sealed") > n else None

    def persist(i: int) -> Step:
        def step(v: View) -> str:
            v.store(byte(log.blocks[n][i]), 1)
            if i + 1 < len(log.blocks[n]):
                return f"persist{i + 1}"
            return "end" if mutant == "state before the bytes" else "state"

        return step

    def state(v: View) -> str:
        v.store(f"state{n}", 1)
        return "persist0" if mutant == "state before the bytes" else "end"

    first = "state" if mutant == "state before the bytes" else "persist0"
    steps: dict[str, Step] = {"write": write, "state": state}
    steps |= {f"persist{i}": persist(i) for i in range(len(log.blocks[n]))}
    return Process(f"disk{n}", "write", steps, {})


class Drain:
    """Steps of the drain. Its private state: blocks registered, blocks completed, the block and record it is at, the stream it
    advances. The words that only it writes (confirmed, released) it reads freely: they cost no step."""

    def __init__(self, log: Log, mutant: str, order: str) -> None:
        self.log = log
        self.mutant = mutant
        self.log_order = order == "log"

    def process(self) -> Process:
        steps: dict[str, Step] = {
            "open": self.open, "pass": self.next_pass, "look": self.look, "record": self.record, "advance": self.advance,
            "due": self.due, "confirm": self.confirm, "deliver": self.deliver, "redeliver": self.redeliver,
            "release": self.release, "release_end": self.release_end, "release number": self.release_number,
        }  # fmt: skip
        local = {"registered": 0, "completed": frozenset(), "n": 0, "i": 0, "again": (), "s": "", "j": 0, "behind": ()}
        return Process("drain", "open", steps, local)

    def open(self, v: View) -> str:
        n = v.m["released"]
        if self.mutant != "successor begins at released":
            n = max(n, v.m["released_end"])
        v.l["registered"] = n
        v.l["completed"] = frozenset(range(n))
        v.m["released"] = n
        return "pass"

    def next_pass(self, v: View) -> str | None:
        """Waits until there is something to do."""
        sealed = v.load("sealed")
        if v.l["registered"] < sealed:
            return self.register(v)
        todo = [n for n in range(sealed) if n not in v.l["completed"]]
        if self.log_order and self.mutant != "log order looks at any block":
            todo = todo[:1]
        if any(v.m[f"state{n}"] for n in todo):
            v.l["n"] = todo[0]
            return "look"
        return None if self.releasable(v) == v.m["released"] else "release"

    def register(self, v: View) -> str:
        n = v.l["registered"]
        if v.m["_ring"][n % RING] != n:
            v.m["_wrong"] = "read a block that was composed over"
        v.l["registered"] = n + 1
        v.l["again"] = tuple(r for r in self.log.blocks[n] if r[2] < v.m[f"confirmed {r[1]}"])
        return "redeliver" if v.l["again"] and self.mutant != "successor does not deliver again" else "pass"

    def redeliver(self, v: View) -> str:
        first, *rest = v.l["again"]
        self.give(v, first)
        v.l["again"] = tuple(rest)
        return "redeliver" if rest else "pass"

    def look(self, v: View) -> str:
        n = v.l["n"]
        persisted = v.load(f"state{n}")
        if n not in v.l["completed"] and persisted:
            v.l["i"] = 0
            return "record"
        return self.next_block(v)

    def next_block(self, v: View) -> str:
        stop = self.log_order and v.l["n"] not in v.l["completed"] and self.mutant != "log order looks at any block"
        v.l["n"] = 0 if stop else v.l["n"] + 1
        v.l["i"] = 0
        if stop or v.l["n"] >= v.l["registered"]:
            v.l["n"] = 0
            return "release"
        return "look"

    def record(self, v: View) -> str:
        """If this record is the head of its stream, the stream may advance."""
        n, i = v.l["n"], v.l["i"]
        if i == len(self.log.blocks[n]):
            v.l["completed"] |= {n}
            return self.next_block(v)
        _, s, offset = self.log.blocks[n][i]
        if v.m[f"confirmed {s}"] == offset or self.mutant == "confirms whatever is persisted":
            v.l["s"] = s
            return "advance"
        v.l["i"] += 1
        return "record"

    def head(self, v: View) -> tuple[int, str, int] | None:
        """Of the stream that advances."""
        at = self.log.blocks[v.l["n"]][v.l["i"]]
        if self.mutant == "confirms whatever is persisted" and v.m[f"confirmed {at[1]}"] <= at[2]:
            return at
        return self.log.at(v.l["s"], v.m[f"confirmed {v.l['s']}"], v.l["registered"])

    def advance(self, v: View) -> str:
        r = self.head(v)
        same_block = not self.log_order or self.mutant == "log order runs on" or (r is not None and r[0] == v.l["n"])
        if r is None or not same_block or not (v.load(byte(r)) or self.mutant == "does not look at the byte"):
            return self.next_stream(v)
        if len(self.log.parts[r]) > 1 and self.mutant != "a part is confirmed when it alone is due":
            v.l["j"] = 0
            return "due"
        v.l["again"] = (r,)
        return "confirm"

    def next_stream(self, v: View) -> str:
        """Those whose heads were parts of what the pass has confirmed go on, too; then the block does."""
        if v.l["behind"]:
            *v.l["behind"], v.l["s"] = v.l["behind"]
            v.l["behind"] = tuple(v.l["behind"])
            return "advance"
        v.l["s"] = ""
        v.l["i"] += 1
        return "record"

    def due(self, v: View) -> str:
        """Each part of a joint append: the head of its stream and persisted, or confirmed by a drain before this one."""
        r = self.head(v)
        assert r is not None
        parts = self.log.parts[r]
        part = parts[v.l["j"]]
        if self.is_head(v, part):
            due = v.load(byte(part)) or self.mutant == "does not look at the other parts' bytes"
        elif self.mutant == "a part below the confirmed offset is not due":
            due = False
        else:
            due = v.m[f"confirmed {part[1]}"] > part[2] or self.mutant == "a part that waits for another record is due"
        v.l["j"] = v.l["j"] + 1 if due and part != parts[-1] else 0
        if not due:
            return self.next_stream(v)
        if part != parts[-1]:
            return "due"
        v.l["again"] = tuple(each for each in parts if self.is_head(v, each))
        return "confirm"

    @staticmethod
    def is_head(v: View, r: tuple[int, str, int]) -> bool:
        """Is it registered, as everything in its block is, and everything before it confirmed?"""
        return bool(v.m[f"confirmed {r[1]}"] == r[2])

    def confirm(self, v: View) -> str:
        r = v.l["again"][0]
        self.judge(v, r)
        v.store(f"confirmed {r[1]}", r[2] + 1)
        return "deliver"

    def judge(self, v: View, r: tuple[int, str, int]) -> None:
        if not all(v.m[byte(each)] and v.m[f"confirmed {each[1]}"] >= each[2] for each in self.log.parts[r]):
            v.m["_wrong"] = "confirmed before another part of its joint append is due"
        if v.m[f"confirmed {r[1]}"] != r[2]:
            v.m["_wrong"] = "confirmed out of order"
        if not v.m[byte(r)]:
            v.m["_wrong"] = "confirmed before it is persisted"
        if self.log_order and not all(v.m[byte(e)] for e in self.log.records if e[0] < r[0]):
            v.m["_wrong"] = "confirmed before the log is persisted up to it"

    def deliver(self, v: View) -> str:
        r, *rest = v.l["again"]
        self.give(v, r)
        v.l["again"] = tuple(rest)
        goes_on = r[1] != v.l["s"] and r[1] not in v.l["behind"]
        if goes_on and self.mutant != "the queue behind a joint append is not looked at again":
            v.l["behind"] += (r[1],)
        return "confirm" if rest else "advance"

    @staticmethod
    def give(v: View, r: tuple[int, str, int]) -> None:
        if v.m[f"confirmed {r[1]}"] <= r[2]:
            v.m["_wrong"] = "delivered before it is confirmed"
        v.store(f"cell {r[1]}{r[2]}", 1)

    def releasable(self, v: View) -> int:
        n = int(v.m["released"])
        if self.mutant == "released past a block that is out":
            return max(n, *(int(c) + 1 for c in v.l["completed"]), 0)
        while n in v.l["completed"] and all(v.m[f"confirmed {r[1]}"] > r[2] for r in self.log.blocks[n]):
            n += 1
        return n

    def release(self, v: View) -> str:
        return "pass" if self.releasable(v) == v.m["released"] else "release_end"

    def release_end(self, v: View) -> str:
        n = self.releasable(v)
        if any(v.m[f"confirmed {r[1]}"] <= r[2] for r in self.log.records if r[0] < n):
            v.m["_wrong"] = "released before it is confirmed"
        v.store("released_end", n)
        return "release number"

    def release_number(self, v: View) -> str:
        v.store("released", v.m["released_end"])
        return "pass"


def model(blocks: tuple[str, ...], mutant: str = "", *, order: str = "stream", kills: int = 0) -> Model:
    log = Log(blocks)
    memory: Memory = {"sealed": 0, "released_end": 0, "released": 0, "_ring": (-1,) * RING, "_wrong": ""}
    memory |= {f"state{n}": 0 for n in range(len(blocks))}
    memory |= {f"confirmed {s}": 0 for s in log.streams}
    memory |= {byte(r): 0 for r in log.records} | {f"cell {r[1]}{r[2]}": 0 for r in log.records}

    def good(m: Memory, _: Procs) -> bool:
        delivered: list[Any] = [m[f"cell {r[1]}{r[2]}"] and m[f"confirmed {r[1]}"] > r[2] for r in log.records]
        return all(delivered) and m["released"] == len(blocks)

    processes = [wal(log), *(disk(log, n, mutant) for n in range(len(blocks))), Drain(log, mutant, order).process()]
    return Model(memory, processes, good, lambda m: m["_wrong"] or None, kills=(Kill(("drain",), kills),) if kills else ())


@pytest.mark.parametrize("kills", [0, 1])
@pytest.mark.parametrize("order", ["stream", "log"])
@pytest.mark.parametrize("blocks", [TWO_STREAMS, HOT_STREAM, JOINT, CROSSED])
def test_streams_are_confirmed_in_order_once_and_completely(blocks: tuple[str, ...], order: str, kills: int) -> None:
    result = check(model(blocks, order=order, kills=kills))
    assert result.violation is None, result


MUTANTS = [
    ("does not look at the byte", "stream", 0, "confirmed before it is persisted"),
    ("confirms whatever is persisted", "stream", 0, "confirmed out of order"),
    ("state before the bytes", "stream", 0, "at rest, and work is left"),
    ("released past a block that is out", "stream", 0, "released before it is confirmed"),
    ("log order runs on", "log", 0, "confirmed before the log is persisted up to it"),
    ("log order looks at any block", "log", 0, "confirmed before the log is persisted up to it"),
    ("successor does not deliver again", "stream", 1, "at rest, and work is left"),
    ("successor begins at released", "stream", 1, "read a block that was composed over"),
]
JOINT_MUTANTS = [
    ("a part is confirmed when it alone is due", "stream", 0, "confirmed before another part of its joint append is due"),
    ("does not look at the other parts' bytes", "stream", 0, "confirmed before another part of its joint append is due"),
    ("a part that waits for another record is due", "stream", 0, "confirmed before another part of its joint append is due"),
    ("a part below the confirmed offset is not due", "stream", 1, "at rest, and work is left"),
    ("the queue behind a joint append is not looked at again", "stream", 0, "at rest, and work is left"),
]


@pytest.mark.parametrize(("mutant", "order", "kills", "violation"), MUTANTS)
def test_mutant_is_found(mutant: str, order: str, kills: int, violation: str) -> None:
    blocks = ("aa",) if mutant == "successor does not deliver again" else TWO_STREAMS
    assert check(model(blocks, mutant, order=order, kills=kills)).violation == violation


@pytest.mark.parametrize(("mutant", "order", "kills", "violation"), JOINT_MUTANTS)
def test_mutant_of_joint_appends_is_found(mutant: str, order: str, kills: int, violation: str) -> None:
    assert check(model(JOINT, mutant, order=order, kills=kills)).violation == violation
