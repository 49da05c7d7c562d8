"""Model of the doorbell and of the sleep of the WAL threads (doorbell.h, wal_threads.c; PAIR: publish/doorbell, PAIR: release).

Roles
    Writers publish requests into lanes of their own and ring an eventfd if the doorbell says so. WAL threads watch the
    lanes, take requests under the compose lock, write blocks, and sleep: one as the sentinel on the eventfd, the
    others on the private futex `idle_seq`. Where ring space is short there is also the drain, which releases written
    blocks.

    The doorbell is one word (watchers, sentinel, sequence), changed by CAS only. A writer stores `valid`, fences, loads
    the doorbell, and rings if nobody watches, there is a sentinel, and it has not rung for this very value yet.

    A thread about to sleep: if there is a sentinel or a block is being written (`watched`), it leaves watching, and
    unless a block is still being written looks at the lanes once more before it idles; else it takes the sentinel's
    place, looks once more, and polls. While `starved`, a look counts only if `released` moved since the latest
    attempt to compose.

Invariant
    Whenever nothing can run (writers done, every WAL thread asleep), every published request has been taken. Timeouts
    do not exist here. Three rules of policy are arbitrary choices, so the result holds whatever they are: whether a
    further block is worth while (pipeline_bytes), whether more is left behind, and whether a block that is being
    written will be done soon enough to count on its thread. Every block takes one request: the most demanding size.

    The sequence and idle_seq are unbounded: only their equality with remembered values matters, so they are
    renumbered.

Findings
    Holds: one lane of 2 requests and 2 threads, 15,321 states; 1 request and 3 threads, 46,114; 2 requests, 2 threads
    and a ring of one block, 27,724, and 63,965 with a kill of the drain. All mutants are found. Three of them teach most:
    - No look before idling: a request that is published between a thread's look and its leaving lies until somebody
      else publishes. The sentinel had its last look before, and the writer saw a watcher.
    - Starved is believed: a sentinel that is rung, finds the compose lock taken and goes back to sleep eats the ring of a
      release. Comparing `released` repairs it.
    - A successor of the drain does not ring: its predecessor released the last block and died before it rang.
    Three things are not needed for this invariant: wakes of idle threads (they only get more blocks in flight); the
    order of draining the eventfd and leaving the sentinel's place (the thread looks at the lanes after both); the
    second attempt to compose after `starved` is set (the look before sleeping compares `released`).

Leaves out
    The end of the process, segments that are missing, doorbell values that come round again after 2**23 changes while a
    writer rings for none of those between. More lanes and threads at once: engine.pml.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, TSO, Kill, Memory, Model, Process, Procs, Step, View, check


def writer(k: int, requests: int, mutant: str) -> Process:
    lane = f"lane{k}"

    def publish(v: View) -> str:
        v.l["n"] += 1
        v.store(lane, v.l["n"])
        return "look"

    def look(v: View) -> str | None:
        if not v.drained and mutant != "no fence":
            return None
        watchers, sentinel, sequence = v.load("doorbell")
        if sentinel and watchers == 0 and v.l["rung"] != sequence:
            v.l["rung"] = sequence
            return "ring"
        return "publish" if v.l["n"] < requests else END

    def ring(v: View) -> str | None:
        if not v.drained:
            return None
        v.rmw("eventfd", 1)
        return "publish" if v.l["n"] < requests else END

    steps: dict[str, Step] = {"publish": publish, "look": look, "ring": ring}
    return Process(f"writer{k}", "publish", steps, {"n": 0, "rung": -1})


def drain(blocks: int, mutant: str) -> Process:
    """Releases what is written. PAIR: release. It may be killed; a successor cannot know whether the ring was rung."""

    def opened(_: View) -> str:
        return "starved?" if mutant != "successor of the drain does not ring" else "release"

    def release(v: View) -> str | None:
        if v.m["_written"] == v.m["released"]:
            return END if v.m["released"] == blocks else None
        if mutant == "drain looks at starved before it releases":
            v.l["starved"] = v.load("starved")
            return "release late"
        v.add("released", 1)
        return "starved?"

    def release_late(v: View) -> str:
        v.add("released", 1)
        return "ring" if v.l["starved"] else "release"

    def starved(v: View) -> str:
        return "ring" if v.load("starved") else "release"

    def ring(v: View) -> str:
        v.rmw("eventfd", 1)
        v.l["starved"] = 0
        return "release"

    steps: dict[str, Step] = {"open": opened, "release": release, "release late": release_late, "starved?": starved}
    steps["ring"] = ring
    return Process("drain", "open", steps, {"starved": 0}, buffered=False)


class WalThread:
    """wal_threads.c, one step per access to a shared word.

    `found` is what a look at the lanes came to, `seen` a value of idle_seq.
    """

    def __init__(self, lanes: int, room: int | None, mutant: str) -> None:
        self.lanes = lanes
        self.room = room
        self.mutant = mutant

    def process(self, name: str) -> Process:
        names = {
            "start": self.start, "try": self.try_turn, "worth": self.worth, "note released": self.note_released,
            "room": self.has_room, "starve": self.starve, "unstarve": self.unstarve, "give up": self.give_up,
            "count writing": self.count_writing, "leave": self.leave, "give": self.give, "rouse": self.rouse,
            "ring": self.ring, "idle?": self.any_idle, "bump idle": self.bump_idle, "wake idle": self.wake_idle,
            "io": self.io, "written": self.written, "sentinel there?": self.sentinel_there,
            "writing there?": self.writing_there, "take lock": self.take_lock, "sentinel": self.become_sentinel,
            "sentinel give": self.sentinel_give, "poll": self.poll, "drain": self.drain, "unsentinel": self.unsentinel,
            "count": self.count, "seen": self.seen, "unwatch": self.unwatch, "sentinel still?": self.sentinel_still,
            "writing still?": self.writing_still, "behind?": self.behind, "behind lock": self.behind_turn,
            "behind give": self.behind_give, "park": self.park, "rewatch": self.rewatch, "uncount": self.uncount,
        }  # fmt: skip
        steps: dict[str, Step] = dict(names)
        for kind in ("compose", "sentinel", "behind"):
            steps[f"{kind} starved?"] = self.is_starved(kind)
            steps[f"{kind} moved?"] = self.has_moved(kind)
            steps |= {f"{kind} lane{k}": self.look(kind, k) for k in range(self.lanes)}
        return Process(name, "start", steps, {"found": 0, "seen": 0}, buffered=False)

    def change(self, v: View, watchers: int, sentinel: int) -> None:
        w, s, q = v.m["doorbell"]
        v.rmw("doorbell", (w + watchers, s + sentinel, q + (self.mutant != "sequence not bumped")))

    def start(self, v: View) -> str:
        self.change(v, 1, 0)
        return "try"

    # ------------------------------------------------------------------------------------------ compose and write

    def try_turn(self, v: View) -> str:
        return "worth" if v.cas("compose lock", 0, 1) else "sentinel there?"

    def worth(self, v: View) -> str:
        if v.load("writing") and v.choose(2):
            return "give up"
        return "compose lane0" if self.room is None else "note released"

    def note_released(self, v: View) -> str:
        v.m["_released_seen"] = v.load("released")  # private to the process, and changed under the compose lock
        v.l["seen"] = 0
        return "compose lane0"

    def look(self, kind: str, k: int) -> Step:
        def step(v: View) -> str:
            ready = v.load(f"lane{k}") > v.m[f"_taken{k}"]
            v.l["found"] = k + 1 if ready else 0
            if not ready and k + 1 < self.lanes:
                return f"{kind} lane{k + 1}"
            if kind != "compose":
                return f"{kind} give"
            if not ready:
                return "give up" if self.room is None else "unstarve"
            return "count writing" if self.room is None else "room"

        return step

    def has_room(self, v: View) -> str:
        assert self.room is not None
        if v.m["_sealed"] - v.load("released") < self.room:
            return "unstarve"
        if v.l["seen"] or v.m["starved"]:
            v.l["seen"] = v.l["found"] = 0
            return "give up"
        return "starve"

    def starve(self, v: View) -> str:
        v.rmw("starved", 1)
        v.l["seen"] = 1
        return "compose lane0"

    def unstarve(self, v: View) -> str:
        v.l["seen"] = 0
        v.rmw("starved", 0)
        return "count writing" if v.l["found"] else "give up"

    def give_up(self, v: View) -> str:
        v.store("compose lock", 0)
        return "sentinel there?"

    def count_writing(self, v: View) -> str:
        v.m[f"_taken{v.l['found'] - 1}"] += 1
        v.m["_sealed"] += 1
        v.l["found"] = 0
        v.add("writing", 1)
        return "leave"

    def leave(self, v: View) -> str:
        self.change(v, -1, 0)
        return "give"

    def give(self, v: View) -> str:
        v.store("compose lock", 0)
        return "rouse" if v.choose(2) else "io"

    def rouse(self, v: View) -> str:
        return "ring" if v.load("doorbell")[1] else "idle?"

    def ring(self, v: View) -> str:
        v.rmw("eventfd", 1)
        return "io"

    def any_idle(self, v: View) -> str:
        return "bump idle" if v.load("idle_count") else "io"

    def bump_idle(self, v: View) -> str:
        v.add("idle_seq", 1)
        return "wake idle"

    def wake_idle(self, v: View) -> str:
        v.futex_wake("idle_seq", everybody=False)
        return "io"

    def io(self, v: View) -> str:
        v.m["_written"] += self.room is not None
        self.change(v, 1, 0)
        return "written"

    def written(self, v: View) -> str:
        v.add("writing", -1)
        return "try"

    # ------------------------------------------------------------------------------------------------------ sleep

    def sentinel_there(self, v: View) -> str:
        return "count" if v.load("doorbell")[1] else "writing there?"

    def writing_there(self, v: View) -> str:
        return "count" if v.load("writing") and not v.choose(2) else "take lock"

    def take_lock(self, v: View) -> str | None:
        return "sentinel" if v.cas("compose lock", 0, 1) else None

    def become_sentinel(self, v: View) -> str:
        if v.m["doorbell"][1]:
            v.load("doorbell")
            v.l["seen"] = -1  # the place is taken: back to watching
            return "sentinel give"
        self.change(v, -1, 1)
        if self.mutant == "no look after becoming sentinel":
            return "sentinel give"
        return self.work_left("sentinel")

    def work_left(self, kind: str) -> str:
        return f"{kind} lane0" if self.room is None else f"{kind} starved?"

    def is_starved(self, kind: str) -> Step:
        def step(v: View) -> str:
            return f"{kind} moved?" if v.load("starved") else f"{kind} lane0"

        return step

    def has_moved(self, kind: str) -> Step:
        def step(v: View) -> str:
            moved = v.load("released") != v.m["_released_seen"]
            return f"{kind} lane0" if moved and self.mutant != "starved is believed" else f"{kind} give"

        return step

    def sentinel_give(self, v: View) -> str:
        v.store("compose lock", 0)
        found, taken = v.l["found"], v.l["seen"]
        v.l["found"] = v.l["seen"] = 0
        if taken:
            return "try"
        return "unsentinel" if found else "poll"

    def poll(self, v: View) -> str | None:
        return "drain" if v.load("eventfd") else None

    def drain(self, v: View) -> str:
        v.rmw("eventfd", 0)
        return "unsentinel"

    def unsentinel(self, v: View) -> str:
        self.change(v, 1, -1)
        return "try"

    def count(self, v: View) -> str:
        v.add("idle_count", 1)
        return "seen"

    def seen(self, v: View) -> str:
        v.l["seen"] = v.load("idle_seq")
        return "unwatch"

    def unwatch(self, v: View) -> str:
        self.change(v, -1, 0)
        return "sentinel still?"

    def sentinel_still(self, v: View) -> str:
        watched = "park" if self.mutant == "no look before idling" else "behind?"
        return watched if v.load("doorbell")[1] else "writing still?"

    def writing_still(self, v: View) -> str:
        watched = "park" if self.mutant == "no look before idling" else "behind?"
        return watched if v.load("writing") and not v.choose(2) else "rewatch"

    def behind(self, v: View) -> str:
        return "park" if v.load("writing") and not v.choose(2) else "behind lock"

    def behind_turn(self, v: View) -> str | None:
        return self.work_left("behind") if v.cas("compose lock", 0, 1) else None

    def behind_give(self, v: View) -> str:
        v.store("compose lock", 0)
        found, v.l["found"] = v.l["found"], 0
        return "rewatch" if found else "park"

    def park(self, v: View) -> str:
        v.futex_wait("idle_seq", v.l["seen"])
        v.l["seen"] = 0
        return "rewatch"

    def rewatch(self, v: View) -> str:
        self.change(v, 1, 0)
        return "uncount"

    def uncount(self, v: View) -> str:
        v.add("idle_count", -1)
        v.l["found"] = v.l["seen"] = 0
        return "try"


SEES = {"unwatch", "sentinel still?", "writing still?", "behind?", "behind lock", "behind give", "park"}
SEES |= {"behind starved?", "behind moved?", "behind lane0", "behind lane1"}
"""Labels at which `seen` is a value of idle_seq."""


def model(requests: tuple[int, ...], threads: int, mutant: str = "", *, room: int | None = None, kills: int = 0) -> Model:
    """With `room`, so many blocks fit into the ring, and every request is published before all begins."""
    lanes = len(requests)
    memory: Memory = {"doorbell": (0, 0, 0), "eventfd": 0, "compose lock": 0, "writing": 0, "idle_count": 0, "idle_seq": 0}
    memory |= {f"lane{k}": 0 if room is None else n for k, n in enumerate(requests)}
    memory |= {f"_taken{k}": 0 for k in range(lanes)} | {"starved": 0, "released": 0, "_released_seen": 0}
    memory |= {"_sealed": 0, "_written": 0}
    writers = [writer(k, n, mutant) for k, n in enumerate(requests)]
    others = writers if room is None else [drain(sum(requests), mutant)]

    def good(m: Memory, _: Procs) -> bool:
        return all(m[f"_taken{k}"] == n for k, n in enumerate(requests))

    def canonical(m: Memory, procs: Procs) -> tuple[Memory, Procs]:
        """The doorbell's sequence and idle_seq count from 0 again; the WAL threads are alike."""
        w, s, q = m["doorbell"]
        heads = procs[: len(others)]
        if room is None:
            heads = tuple(p._replace(locals=(p.locals[0], 0 if p.locals[1] == q else -1)) for p in heads)
        i = m["idle_seq"]
        wals = [
            p._replace(locals=(p.locals[0], 0 if p.locals[1] == i else -1)) if p.label in SEES else p
            for p in procs[len(others) :]
        ]
        wals.sort(key=lambda p: (p.label, p.locals, p.asleep or ""))
        return {**m, "doorbell": (w, s, 0), "idle_seq": 0}, (*heads, *wals)

    wal = WalThread(lanes, room, mutant)
    processes = [*others, *(wal.process(f"wal{t}") for t in range(threads))]
    deaths = (Kill(("drain",), kills),) if kills else ()
    return Model(memory, processes, good, order=TSO, kills=deaths, canonical=canonical)


@pytest.mark.parametrize(("requests", "threads"), [((2,), 2), ((1,), 3)])
def test_no_published_request_is_left_lying(requests: tuple[int, ...], threads: int) -> None:
    result = check(model(requests, threads))
    assert result.violation is None, result


@pytest.mark.parametrize("kills", [0, 1])
def test_no_request_is_left_lying_when_the_ring_was_full(kills: int) -> None:
    result = check(model((2,), 2, room=1, kills=kills))
    assert result.violation is None, result


@pytest.mark.parametrize(
    ("mutant", "requests"),
    [
        ("no fence", (1,)),
        ("no look before idling", (1,)),
        ("no look after becoming sentinel", (1,)),
        ("sequence not bumped", (2,)),
    ],
)
def test_mutant_is_found(mutant: str, requests: tuple[int, ...]) -> None:
    assert check(model(requests, 2, mutant)).violation == "at rest, and work is left"


@pytest.mark.parametrize(
    ("mutant", "kills"),
    [
        ("starved is believed", 0),
        ("drain looks at starved before it releases", 0),
        ("successor of the drain does not ring", 1),
    ],
)
def test_mutant_of_a_full_ring_is_found(mutant: str, kills: int) -> None:
    assert check(model((2,), 2, mutant, room=1, kills=kills)).violation == "at rest, and work is left"
