"""An explicit-state model checker: every interleaving of a few small processes, breadth first.

A model is a set of processes over named shared words. A process is a table of labelled steps; a step is a Python
function that makes at most one access to shared memory (the checker refuses a second one), may change its own local
variables, and returns the label of the next step, or None if it cannot go now. Words whose names begin with "_" are
ghosts: they record what happened so that an invariant can speak of it, cost no step, and no process may decide by
them.

Memory orders:

    SC     every store is seen by all at once
    TSO    x86: a store goes into the process's own FIFO buffer; reaching memory is a step of its own. A load finds the
           newest store of its own buffer. Atomic read-modify-writes, exchanges (a sequentially consistent store), full fences
           and system calls wait until the buffer is empty.
    PSO    as TSO, but stores to different words leave the buffer in any order, unless a release fence or a release store
           stands between them. This is where a missing release shows that x86 forgives. Loads are never reordered.

Sleeping is the kernel's: futex_wait compares and sleeps in one step, futex_wake lets sleepers go on. Time does not
exist: a sleep with a timeout sleeps for ever, because no protocol may rely on the timeout.

A kill ends a process between any two steps (its buffered stores still reach memory, as they do on real processors)
and starts its successor.

What is checked: `invariant` in every state; and from every state, a state that is `good` at rest can still be
reached. At rest means that no process can take a step, other than those listed as `outside` (an I/O that may take for
ever). The second check finds lost wake-ups and deadlocks (a state at rest that is not good) and traps (no way out to
a good one). A violation comes with a shortest run that leads to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SC = "sc"
TSO = "tso"
PSO = "pso"

Value = Hashable
Memory = dict[str, Any]


class Proc(NamedTuple):
    """What there is of a process in a state. `buffer` holds (word, value, is a release), oldest first."""

    label: str
    locals: tuple[Value, ...]
    buffer: tuple[tuple[str, Value, bool], ...] = ()
    asleep: str | None = None


Procs = tuple[Proc, ...]
State = tuple[tuple[Value, ...], Procs]
"""The values of all words, and the processes."""

Successor = tuple[str, bool, Memory, Procs]
"""What happened, whether it is a step that somebody is sure to take, and what is then."""


FENCE = "|"
"""Stands in a PSO buffer for a release fence."""


class View:
    """What a step sees and does. One per step; the checker throws it away."""

    __slots__ = ("_buffered", "_script", "asks", "buffer", "l", "m", "order", "sleep", "used", "wakes")

    def __init__(self, m: Memory, local: Memory, proc: Proc, order: str, script: tuple[int, ...]) -> None:
        self.m = m
        self.l = local
        self.buffer = list(proc.buffer)
        self.order = order
        self.used = False
        self.sleep: str | None = None
        self.wakes: list[tuple[str, bool]] = []
        self.asks: list[int] = []
        self._script = script

    def _access(self, word: str) -> None:
        if self.used:
            raise AssertionError(f"second access in one step: {word}")
        self.used = True

    def load(self, word: str) -> Any:
        self._access(word)
        for name, value, _ in reversed(self.buffer):
            if name == word:
                return value
        return self.m[word]

    def store(self, word: str, value: Value, *, release: bool = True) -> None:
        self._access(word)
        if self.order == SC:
            self.m[word] = value
        else:
            self.buffer.append((word, value, release))

    def release_fence(self) -> None:
        """Orders earlier stores before later ones; nothing to do but under PSO."""
        if self.order == PSO and self.buffer:
            self.buffer.append((FENCE, 0, True))

    @property
    def drained(self) -> bool:
        """What a full fence waits for. A step that needs it begins with `if not v.drained: return None`."""
        return not self.buffer

    def rmw(self, word: str, value: Value) -> Any:
        """Atomic exchange; also a sequentially consistent store. Returns the old value."""
        self._access(word)
        assert not self.buffer, "an atomic operation drains the store buffer first"
        old = self.m[word]
        self.m[word] = value
        return old

    def add(self, word: str, n: int) -> int:
        old: int = self.rmw(word, None)
        self.m[word] = old + n
        return old

    def cas(self, word: str, old: Value, new: Value) -> bool:
        found = self.rmw(word, None)
        self.m[word] = new if found == old else found
        return bool(found == old)

    def futex_wait(self, word: str, seen: Value) -> None:
        """Sleeps if the word still is as seen. The step's returned label is where the process goes on."""
        self._access(word)
        assert not self.buffer
        if self.m[word] == seen:
            self.sleep = word

    def futex_wake(self, word: str, *, everybody: bool) -> None:
        self._access(word)
        assert not self.buffer
        self.wakes.append((word, everybody))

    def choose(self, n: int) -> int:
        """Any of 0..n-1: the checker goes through all."""
        at = len(self.asks)
        self.asks.append(n)
        return self._script[at] if at < len(self._script) else 0


Step = Callable[[View], str | None]


@dataclass
class Process:
    name: str
    start: str
    steps: dict[str, Step]
    local: Memory = field(default_factory=dict)
    buffered: bool = True
    """False: its accesses are all sequentially consistent, so that a store buffer would change nothing."""


@dataclass
class Kill:
    """At most `times` times, at any instant: the processes die together and start again."""

    victims: tuple[str, ...]
    times: int = 1
    reset: Memory = field(default_factory=dict)
    """Words that die with them: a process's private memory."""


@dataclass
class Model:
    memory: Memory
    processes: list[Process]
    good: Callable[[Memory, Procs], bool]
    invariant: Callable[[Memory], str | None] = lambda _: None
    order: str = SC
    outside: frozenset[str] = frozenset()
    kills: tuple[Kill, ...] = ()
    canonical: Callable[[Memory, Procs], tuple[Memory, Procs]] | None = None
    """Maps states that differ in nothing that matters to one of them."""


@dataclass
class Result:
    states: int
    violation: str | None
    trace: list[str]

    def __str__(self) -> str:
        lines = [f"{self.states} states: {self.violation or 'holds'}", *self.trace]
        return "\n  ".join(lines)


END = "end"
"""The label of a process that is done."""


def replaced(procs: Procs, i: int, proc: Proc) -> Procs:
    return (*procs[:i], proc, *procs[i + 1 :])


def wakings(procs: Procs, wakes: list[tuple[str, bool]]) -> Iterable[Procs]:
    """The ways in which the kernel may choose whom to wake."""
    word, everybody = wakes[0]
    if everybody:
        return (tuple(p._replace(asleep=None) if p.asleep == word else p for p in procs),)
    sleepers = [k for k, p in enumerate(procs) if p.asleep == word]
    return [replaced(procs, k, procs[k]._replace(asleep=None)) for k in sleepers] or (procs,)


class Checker:
    def __init__(self, model: Model, *, limit: int = 2_000_000) -> None:
        self.model = model
        self.limit = limit
        self.words = [*model.memory, *(f"_kills{i}" for i in range(len(model.kills)))]
        self.local_names = [tuple(p.local) for p in model.processes]
        self.index = {p.name: i for i, p in enumerate(model.processes)}
        assert len(self.index) == len(model.processes), "two processes of one name"

    # ------------------------------------------------------------------------------------------------ states

    def initial(self) -> State:
        memory = {**self.model.memory, **{f"_kills{i}": 0 for i in range(len(self.model.kills))}}
        return self._state(memory, tuple(Proc(p.start, tuple(p.local.values())) for p in self.model.processes))

    def _state(self, memory: Memory, procs: Procs) -> State:
        if self.model.canonical is not None:
            memory, procs = self.model.canonical(memory, procs)
        return tuple(memory.values()), procs

    def memory_of(self, state: State) -> Memory:
        return dict(zip(self.words, state[0], strict=True))

    # ------------------------------------------------------------------------------------------- transitions

    def successors(self, state: State) -> Iterator[Successor]:
        values, procs = state
        for i, proc in enumerate(procs):
            if proc.buffer:
                yield from self._flushes(state, i, proc)
            if proc.asleep is None and proc.label != END:
                yield from self._steps(values, procs, i)
        for i, kill in enumerate(self.model.kills):
            if self.memory_of(state)[f"_kills{i}"] < kill.times:
                yield self._killed(state, i, kill)

    def _flushes(self, state: State, i: int, proc: Proc) -> Iterator[Successor]:
        seen: set[str] = set()
        for at, (word, value, release) in enumerate(proc.buffer):
            if word == FENCE:
                break
            if word not in seen and not (release and at > 0):
                rest = proc.buffer[:at] + proc.buffer[at + 1 :]
                while rest and rest[0][0] == FENCE:
                    rest = rest[1:]
                memory = self.memory_of(state)
                memory[word] = value
                procs = replaced(state[1], i, proc._replace(buffer=rest))
                yield f"{self.model.processes[i].name}: {word} = {value} reaches memory", True, memory, procs
            seen.add(word)
            if self.model.order == TSO:
                break

    def _steps(self, values: tuple[Value, ...], procs: Procs, i: int) -> Iterator[Successor]:
        process = self.model.processes[i]
        proc = procs[i]
        step = process.steps[proc.label]
        order = self.model.order if process.buffered else SC
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            script = scripts.pop()
            memory = dict(zip(self.words, values, strict=True))
            local = dict(zip(self.local_names[i], proc.locals, strict=True))
            view = View(memory, local, proc, order, script)
            label = step(view)
            full = script + (0,) * (len(view.asks) - len(script))
            for at in range(len(script), len(view.asks)):
                scripts.extend((*full[:at], c) for c in range(1, view.asks[at]))
            if label is None:
                continue
            after = replaced(procs, i, Proc(label, tuple(local.values()), tuple(view.buffer), view.sleep))
            what = f"{process.name}: {proc.label}" + (f" {full}" if full else "") + (" (sleeps)" if view.sleep else "")
            for woken in wakings(after, view.wakes) if view.wakes else (after,):
                yield what, proc.label not in self.model.outside, memory, woken

    def _killed(self, state: State, at: int, kill: Kill) -> Successor:
        memory = self.memory_of(state)
        procs = list(state[1])
        for name in kill.victims:
            i = self.index[name]
            for word, value, _ in procs[i].buffer:
                if word != FENCE:
                    memory[word] = value
            process = self.model.processes[i]
            procs[i] = Proc(process.start, tuple(process.local.values()))
        memory.update(kill.reset)
        memory[f"_kills{at}"] += 1
        return f"kill {', '.join(kill.victims)}", False, memory, tuple(procs)

    # ------------------------------------------------------------------------------------------------- search

    def run(self) -> Result:
        first = self.initial()
        self.states: list[State] = [first]
        self.came: list[tuple[int, str]] = [(-1, "start")]
        found = {first: 0}
        before: list[list[int]] = [[]]
        goods: list[int] = []
        queue = deque([0])
        while queue:
            at = queue.popleft()
            state = self.states[at]
            memory = self.memory_of(state)
            broken = self.model.invariant(memory)
            if broken is not None:
                return Result(len(found), broken, self._trace(at))
            at_rest = True
            for what, sure, words, procs in self.successors(state):
                after = self._state(words, procs)
                if sure and after != state:
                    at_rest = False
                known = found.get(after)
                if known is None:
                    known = found[after] = len(self.states)
                    self.states.append(after)
                    self.came.append((at, what))
                    before.append([])
                    queue.append(known)
                before[known].append(at)
            if at_rest:
                if not self.model.good(memory, state[1]):
                    return Result(len(found), "at rest, and work is left", self._trace(at))
                goods.append(at)
            if len(found) > self.limit:
                raise RuntimeError(f"more than {self.limit} states")
        return self._traps(before, goods)

    def _traps(self, before: list[list[int]], goods: list[int]) -> Result:
        reaches = bytearray(len(self.states))
        for g in goods:
            reaches[g] = 1
        stack = list(goods)
        while stack:
            for earlier in before[stack.pop()]:
                if not reaches[earlier]:
                    reaches[earlier] = 1
                    stack.append(earlier)
        lost = reaches.find(0)
        if lost >= 0:
            return Result(len(self.states), "no way left to a good end", self._trace(lost))
        return Result(len(self.states), None, [])

    def _trace(self, at: int) -> list[str]:
        steps = []
        last = self.states[at]
        while at >= 0:
            at, what = self.came[at]
            steps.append(what)
        steps.reverse()
        memory = self.memory_of(last)
        return [*steps, f"then {memory}", f"with {[(p.label, p.locals, p.asleep) for p in last[1]]}"]


def check(model: Model, *, limit: int = 2_000_000) -> Result:
    """Explores every state of the model, or up to the first violation."""
    return Checker(model, limit=limit).run()
