"""What may happen to an engine's directory while it is at work: removed names, other directories in its place, copies.

The table in engine/ringwal/processes/ownership.py says what has to come of it. Whatever it is, no confirmed record is lost
that is not deleted with its directory, and none comes to stand elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import ringwal
from tests.faults import threads
from tests.faults.decode import streams
from tests.faults.oracle import Verdict, judge, stop_and_judge
from tests.faults.scene import STREAMS, WINDOW, held, scene
from tests.faults.table import Fault, often
from tests.support import shm_names
from tests.support.host import PATIENCE, SMALL, Engine, EngineEnded, Hung, Writers, pause, until, writers

LOST = os.EX_OSFILE
LATE = "late"
"""What somebody appends who comes when all that has happened."""
OTHERS = [[f"second-{name}" for name in names] for names in STREAMS]
THREADS_FLAGS = (*SMALL, "--max-streams", "8192")
Loss: TypeAlias = Callable[[Path], contextlib.AbstractContextManager[Path]]
"""Does something to the directory; the result is where its content is then. At its end, with no engine left, it is undone as
far as a start needs that."""


def faults(tier: str) -> list[Fault]:
    def row(name: str, *losses: Loss) -> Fault:
        return Fault("ownership", name, partial(lose, losses))

    names = (manifest_removed, manifest_replaced, segments_moved, segment_removed, lock_replaced, socket_replaced)
    return [
        Fault("ownership", "lock file removed, a second engine", lock_removed),
        Fault("ownership", "socket removed", socket_removed),
        row("directory renamed", renamed),
        row("another directory in its place", replaced_by_nothing, replaced_by_a_copy),
        row("a link that leads elsewhere", link_switched),
        Fault("ownership", "deleted, and an engine in its place", deleted),
        row("names that are lost or another's", *names),
        Fault("ownership", "copies of a live directory", copies),
        Fault("ownership", "a copy made of hard links", hard_links),
        Fault("ownership", "no names in shared memory", no_names),
        Fault("ownership", "restarts under threads", partial(restarts, often(tier, 6, 300))),
    ]


# ------------------------------------------------------------------------------------------- names made again


def lock_removed(directory: Path, seed: int) -> Verdict:
    """It opens no door, and is there again soon. Another engine is refused all the same, and no process of this one takes the
    new file for somebody else's: not at its next segment either."""
    with contextlib.ExitStack() as afterwards, scene(directory, strangers=(LATE,)) as s:
        before, lock = s.workers(), s.directory / "lock"
        said = lock.read_text().partition("\n")[0]
        lock.unlink()
        s.expect_locked(afterwards)
        s.await_progress()
        until(lambda: lock.exists() and bool(lock.read_text()), "the lock file to be made again", 10)
        named = lock.read_text().partition("\n")[0]
        s.verdict.expect(named == said, f"the new lock file names {named}")
        _fill_segments(s.directory, 2)
        s.expect_locked(afterwards)
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = 1
    return s.verdict


def _fill_segments(at: Path, count: int) -> None:
    with ringwal.connect(at) as client:
        stream, last = client.stream(LATE), client.status()["segments"]["current"] + count
        while client.status()["segments"]["current"] < last:
            for _ in range(10):
                stream.append(bytes(20_000))
            stream.flush(PATIENCE)


def socket_removed(directory: Path, seed: int) -> Verdict:
    """Those who are in go on; it is there again soon, and others get in."""
    with scene(directory, strangers=(LATE,)) as s:
        before, name = s.workers(), s.directory / "engine.sock"
        name.unlink()
        s.await_progress()
        until(name.exists, "the socket to be made again", 10)
        with ringwal.connect(s.directory) as late:
            late.stream(LATE).append(b"").result()
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = 1
    return s.verdict


def no_names(directory: Path, seed: int) -> Verdict:
    """Nothing in /dev/shm is there for cleaners to take away, and processes are replaced without."""
    with scene(directory) as s:
        for role in ("wal", "drain"):
            found = shm_names.left()
            s.verdict.expect(not found, f"there are {found}")
            for name in found:
                (shm_names.SHM / name).unlink(missing_ok=True)
            s.running.strike(role)
            s.await_successor()
            s.await_progress()
    s.verdict.runs = 2
    return s.verdict


# -------------------------------------------------------------------------------------------- the epoch is over


def lose(losses: tuple[Loss, ...], directory: Path, seed: int) -> Verdict:
    """The engine ends with the code for it, and what it had confirmed is in its directory, wherever that is."""
    total = Verdict()
    for loss in losses:
        label = getattr(loss, "__name__", "")
        part = directory / label
        part.mkdir()
        try:
            verdict = _lose_one(loss, part)
        except Hung as hung:
            raise Hung(f"{label}: {hung}") from None
        verdict.notes = [f"{label}: {note}" for note in verdict.notes]
        total.add(verdict)
    return total


def _lose_one(loss: Loss, part: Path) -> Verdict:
    at = part / "engine"
    if loss is link_switched:
        (part / "one").mkdir()
        at.symlink_to("one")
    with (
        contextlib.ExitStack() as happened,
        Engine(at, *SMALL) as running,
        writers(at, part, STREAMS, window=WINDOW) as fleet,
    ):
        fleet.await_progress()
        there = happened.enter_context(loss(at))
        code = running.await_exit()
        fleet.kill()
    verdict = _judged(there, fleet, part)
    verdict.expect(code == LOST, f"the engine ended with code {code}")
    return verdict


def _judged(there: Path, fleet: Writers, part: Path) -> Verdict:
    """What a new engine makes of the directory."""
    with Engine(there, *SMALL, log=part / "after.log") as last:
        code = last.stop()
    verdict = judge(there, fleet.journals)
    verdict.runs = 1
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict


@contextlib.contextmanager
def renamed(at: Path) -> Iterator[Path]:
    yield at.rename(at.with_name("moved"))


@contextlib.contextmanager
def replaced_by_nothing(at: Path) -> Iterator[Path]:
    there = at.rename(at.with_name("moved"))
    at.mkdir()
    yield there
    found = [path.name for path in at.iterdir()]
    assert not found, f"in the directory in its place there are {found}"


@contextlib.contextmanager
def replaced_by_a_copy(at: Path) -> Iterator[Path]:
    """The copy keeps what it has, also the socket's name."""
    there = at.rename(at.with_name("moved"))
    copy(there, at)
    before = sorted(path.name for path in at.iterdir())
    yield there
    found = sorted(path.name for path in at.iterdir())
    assert found == before, f"the copy had {before} and has {found}"


@contextlib.contextmanager
def link_switched(at: Path) -> Iterator[Path]:
    other, link = at.with_name("two"), at.with_name("link")
    other.mkdir()
    link.symlink_to(other.name)
    link.rename(at)
    yield at.with_name("one")
    found = [path.name for path in other.iterdir()]
    assert not found, f"in the other directory there are {found}"


@contextlib.contextmanager
def manifest_removed(at: Path) -> Iterator[Path]:
    aside = (at / "manifest").rename(at.with_name("manifest"))
    yield at
    aside.rename(at / "manifest")


@contextlib.contextmanager
def manifest_replaced(at: Path) -> Iterator[Path]:
    with held(_status(at)["wal_pid"]):  # so that the copy is as new as the original
        shutil.copy(at / "manifest", at / "other")
        (at / "other").rename(at / "manifest")
    yield at


@contextlib.contextmanager
def segments_moved(at: Path) -> Iterator[Path]:
    aside = (at / "segments").rename(at.with_name("segments"))
    yield at
    aside.rename(at / "segments")


@contextlib.contextmanager
def segment_removed(at: Path) -> Iterator[Path]:
    """It may be full, and of no more use to the engine, before anybody looks: that is a loss all the same."""
    name = f"{_status(at)['segments']['current']:020d}.seg"
    aside = (at / "segments" / name).rename(at.with_name(name))
    yield at
    aside.rename(at / "segments" / name)


@contextlib.contextmanager
def lock_replaced(at: Path) -> Iterator[Path]:
    (at / "other").touch()
    (at / "other").rename(at / "lock")
    yield at


@contextlib.contextmanager
def socket_replaced(at: Path) -> Iterator[Path]:
    """The other one's stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        fd = os.open(at, os.O_PATH)
        try:
            other.bind(f"/proc/self/fd/{fd}/other")
        finally:
            os.close(fd)
        (at / "other").rename(at / "engine.sock")
        yield at
        assert (at / "engine.sock").exists(), "the engine removed a socket that was not its own"


def _status(at: Path) -> dict[str, Any]:
    with ringwal.connect(at) as client:
        return client.status()


def deleted(directory: Path, seed: int) -> Verdict:
    """Another engine takes the path at once, and is not disturbed by the one that still leaves."""
    at, second = directory / "engine", directory / "second"
    second.mkdir()
    with Engine(at, *SMALL) as old, writers(at, directory, STREAMS, window=WINDOW) as first:
        first.await_progress()
        until(lambda: _gone(at), "the directory to be deleted")
        with Engine(at, *SMALL, log=second / "engine.log") as new, writers(at, second, OTHERS, window=WINDOW) as fleet:
            fleet.await_progress()
            code = old.await_exit()
            fleet.await_progress()
            status = new.status()  # by its socket's name
            first.kill()
            fleet.kill()
            stopped = new.stop()
    verdict = judge(at, fleet.journals, strangers=tuple(name for names in STREAMS for name in names))
    verdict.runs = 1
    verdict.expect(code == LOST, f"the engine whose directory was deleted ended with code {code}")
    verdict.expect(status["pid"] == new.facts["pid"], "somebody else answers at the socket of the second engine")
    verdict.expect(status["restarts"] == 0, f"{status['restarts']} processes of the second engine had to be replaced")
    verdict.expect(stopped == 0, f"the orderly stop ended with code {stopped}")
    return verdict


def _gone(at: Path) -> bool:
    """One attempt to delete it: whoever makes a file meanwhile is in the way."""
    with contextlib.suppress(OSError):
        shutil.rmtree(at)
    return not at.exists()


# ------------------------------------------------------------------------------------------------------- copies


def copy(directory: Path, to: Path, *how: str) -> Path:
    """As `cp -a` makes it: with times, owners and the socket's name."""
    subprocess.run(["cp", "-a", *how, str(directory), str(to)], check=True, capture_output=True)
    return to


class Copies:
    """Copies of one log, and an engine on each. `verdict` is on what they say of themselves."""

    def __init__(self, original: Path, stack: contextlib.ExitStack) -> None:
        self._original, self._stack = original, stack
        self.verdict = Verdict()
        self.engines: list[Engine] = []

    def start(self, name: str, original: Engine, *, torn: bool = False) -> None:
        """An engine on the copy of that name, which is made now unless it is there. ``torn``: files changed meanwhile, and
        it may be refused."""
        at = self._original.with_name(name)
        if not at.exists():
            copy(self._original, at)
        self.verdict.runs += 1
        try:
            engine = self._stack.enter_context(Engine(at, *SMALL))
        except EngineEnded as ended:
            self.verdict.expect(torn and ended.code == os.EX_DATAERR, f"{name}: {ended}")
            return
        with ringwal.connect(at) as client:
            client.stream(LATE).append(name.encode()).result()
        self.engines.append(engine)
        self.verdict.expect(engine.facts["uuid"] == original.facts["uuid"], f"{name} has another uuid")

    def judge(self, fleet: Writers) -> Verdict:
        """When the original has been stopped."""
        homes = [json.loads((engine.directory / "home").read_text())["home"] for engine in self.engines]
        homes.append(json.loads((self._original / "home").read_text())["home"])
        self.verdict.expect(len(set(homes)) == len(homes), f"two directories have one home: {homes}")
        whole = streams(self._original)
        for engine in self.engines:
            name, code = engine.directory.name, engine.stop()
            self.verdict.expect(code == 0, f"{name}: the orderly stop ended with code {code}")
            found = streams(engine.directory)
            self.verdict.expect(found.pop(LATE, []) == [name.encode()], f"{name}: its own record is missing")
            self.verdict.expect(bool(found), f"{name} is empty: this shows nothing")
            for stream, records in found.items():
                beginning = whole.get(stream, [])[: len(records)]
                self.verdict.expect(records == beginning, f"{name}: {stream} is no prefix of the original's")
        self.verdict.add(judge(self._original, fleet.journals))
        return self.verdict


def copies(directory: Path, seed: int) -> Verdict:
    """Made before, beside and after a life of the original, and engines on all of them: the original does not notice, a copy
    is an engine of its own, and holds of every stream what the original had at its moment."""
    at = directory / "engine"
    with contextlib.ExitStack() as stack:
        made = Copies(at, stack)
        with Engine(at, *SMALL) as running:
            fleet = stack.enter_context(writers(at, directory, STREAMS, window=WINDOW))
            fleet.await_progress()
            made.verdict.expect(running.stop() == 0, "no orderly stop")
        copy(at, directory / "before")
        with Engine(at, *SMALL) as running:
            fleet.await_progress()
            made.start("before", running)
            with held(*(process.pid for process in fleet.processes)):
                until(lambda: running.status()["ring"]["used"] == 0, "the log to be at rest")
                copy(at, directory / "beside")
            made.start("beside", running)
            fleet.await_progress()
            made.start("torn", running, torn=True)
            fleet.await_progress()
            made.verdict.expect(running.status()["restarts"] == 0, "the original's processes had to be replaced")
            made.verdict.expect(running.stop() == 0, "no orderly stop")
        copy(at, directory / "after")
        with Engine(at, *SMALL) as running:
            fleet.await_progress()
            made.start("after", running)
            fleet.await_progress()
            made.verdict.expect(running.status()["restarts"] == 0, "the original's processes had to be replaced")
            fleet.kill()
            made.verdict.expect(running.stop() == 0, "no orderly stop")
        return made.judge(fleet)


def hard_links(directory: Path, seed: int) -> Verdict:
    """Its segments are the original's: nobody else may write to them."""
    with contextlib.ExitStack() as afterwards, scene(directory) as s:
        before = s.workers()
        copied = copy(s.directory, directory / "links", "-l")
        s.expect_locked(afterwards, copied)
        s.await_progress()
        s.unharmed(*before)
    s.verdict.runs = 1
    return s.verdict


# -------------------------------------------------------------------------------------------------- restarts


def restarts(times: int, directory: Path, seed: int) -> Verdict:
    """Nothing of one life of the engine is taken for something of the next one's, by none of the threads of a client."""
    chance, at = random.Random(f"{seed}/restarts"), directory / "engine"
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(Engine(at, *THREADS_FLAGS))
        threads.open_streams(at, directory, chance)
        fleet = threads.Threads(at, directory, WINDOW)
        stack.callback(fleet.kill)
        for _ in range(times):
            fleet.await_progress(5)
            pause(chance.random() * 0.05)  # the moment of the kill is the random variable
            running.kill()
            running = stack.enter_context(Engine(at, *THREADS_FLAGS))
            threads.open_streams(at, directory, chance)
        fleet.await_progress()
        fleet.kill()
        return stop_and_judge(running, fleet.journals, times)
