"""Writes and syncs that fail, once or for ever, at every call of a short script; short writes; no space; no descriptors."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from functools import partial
from pathlib import Path

import ringwal
from tests.faults.disk import command, disk
from tests.faults.oracle import Verdict, judge
from tests.faults.shim import Mode, Shim
from tests.faults.table import Fault, often
from tests.support.host import SMALL, Engine, EngineEnded, NotRun, pause, until, writers
from tests.support.payload import Origin
from tests.support.writer import Writer

SCRIPT = 12
"""Appends of the short script, one outstanding at a time: each is a block, a write, and a sync."""
LATE_SECONDS = 0.5
THIN_ROOM = 2 << 20
"""What a thin device has left: less than a segment."""
TROUBLE = (ringwal.EngineFailed, ringwal.NotRunning)


def faults(tier: str) -> list[Fault]:
    few, several = often(tier, 2, SCRIPT), often(tier, 2, 20)
    rows = [
        Fault(
            "io",
            f"write fails {mode.name.lower()}, {errno.errorcode[error]}",
            partial(sweep, "write_block", mode, error, few),
        )
        for mode, error in (
            (Mode.ONCE, errno.EIO),
            (Mode.EVER, errno.EIO),
            (Mode.ONCE, errno.ENOSPC),
            (Mode.ONCE, errno.EDQUOT),
            (Mode.EVER, errno.EFBIG),
        )
    ]
    rows += [
        Fault("io", f"sync fails {mode.name.lower()}, EIO", partial(sweep, "datasync", mode, errno.EIO, few))
        for mode in (Mode.ONCE, Mode.EVER)
    ]
    return [
        *rows,
        Fault("io", "short writes", partial(harmless, Mode.SHORT, 0)),
        Fault("io", "interrupted writes", partial(harmless, Mode.ONCE, errno.EINTR)),
        Fault("io", "lone appends after lulls of any length", partial(lulls, often(tier, 300, 20_000))),
        Fault("io", "write fails under load", partial(under_load, several, (Mode.ONCE, Mode.EVER), ("hot",), "auto")),
        # Streams of their own: in a shared one, a block that is known to be lost holds up what would be confirmed wrongly.
        Fault("io", "blocks that cannot be written back", partial(under_load, several, (Mode.UNWRITTEN,), (), "off")),
        Fault("io", "preparing and recovering, call by call", partial(starts, often(tier, 6, 200))),
        Fault("io", "reads fail in recovery, call by call", partial(reads, often(tier, 8, 50))),
        Fault("io", "no space for a segment", no_space),
        Fault("io", "no descriptors left", no_descriptors),
        Fault("io", "thin device runs out", partial(thin, "auto")),
        Fault("io", "thin device runs out, buffered", partial(thin, "off")),
        Fault("io", "thin device runs out, cache stays", partial(thin, "off", cache_stays=True)),
        Fault("io", "file system shut down under load", partial(shut_down, often(tier, 2, 30))),
    ]


def numbers(count: int, limit: int, chance: random.Random) -> list[int]:
    """Which calls to fail: all up to the limit, or a sample of them."""
    return list(range(1, limit + 1)) if count >= limit else sorted(chance.sample(range(1, limit + 1), count))


def sweep(call: str, mode: Mode, error: int, count: int, directory: Path, seed: int) -> Verdict:
    """The script, once for each call that fails; each time everything confirmed is there after a restart."""
    total = Verdict()
    for at in numbers(count, SCRIPT, random.Random(f"{seed}/{call}/{mode}/{error}")):
        part = directory / f"at-{at}"
        part.mkdir()
        total.add(_script(part, call, mode, error, at))
    return total


def _script(directory: Path, call: str, mode: Mode, error: int, at: int) -> Verdict:
    engine_dir, journal = directory / "engine", directory / "w0.journal"
    flags = (*SMALL, "--direct-io", "off" if call == "datasync" else "auto")
    shim = Shim(directory / "shim")
    notes: list[str] = []
    with Engine(engine_dir, *flags, env=shim.env) as running:
        writer = Writer(engine_dir, journal, "w0", ["hot"], 1)
        bystander = Writer(engine_dir, directory / "w1.journal", "w1", ["calm"], 1)
        bystander.append(Origin("calm", "w1", 0))
        bystander.settle()
        shim.arm((call,), at, mode, error, segments_only=True)
        confirmed = 0
        with contextlib.suppress(*TROUBLE):
            for n in range(SCRIPT):
                writer.append(Origin("hot", "w0", n))
                try:
                    writer.settle()
                except ringwal.EngineFailed as failed:
                    if failed.errno != error:
                        notes.append(f"EngineFailed says errno {failed.errno} instead of {error}")
                    raise
                confirmed += 1
        if confirmed != at - 1:
            notes.append(f"{confirmed} appends were confirmed, and call {at} failed")
        for one in (writer, bystander):
            try:
                one.append(Origin("calm", one.name, 1000))
                one.settle()
            except TROUBLE:
                continue
            notes.append(f"{one.name} had an append confirmed after the failure")
        code = running.await_exit()
        for one in (writer, bystander):
            one.abandon()
    if code != os.EX_IOERR:
        notes.append(f"the engine ended with code {code}")
    if shim.failures == 0 or shim.later != 0:
        notes.append(f"{shim.failures} failures, and {shim.later} calls on the same file afterwards")
    verdict = _again(engine_dir, {"w0": journal, "w1": directory / "w1.journal"}, flags)
    verdict.notes += notes
    return verdict


def _again(engine_dir: Path, journals: dict[str, Path], flags: tuple[str, ...] = SMALL) -> Verdict:
    """A start without the fault, an orderly stop, and the verdict on what is there."""
    with Engine(engine_dir, *flags) as last:
        code = last.stop()
    verdict = judge(engine_dir, journals)
    verdict.runs = 1
    verdict.expect(code == 0, f"the orderly stop ended with code {code}")
    return verdict


def harmless(mode: Mode, error: int, directory: Path, seed: int) -> Verdict:
    """What a write may do without having failed: nobody notices."""
    engine_dir, journal = directory / "engine", directory / "w0.journal"
    total = Verdict()
    for at in (1, 2, 4):
        shim = Shim(directory / f"shim-{at}")
        with Engine(engine_dir, *SMALL, env=shim.env) as running:
            writer = Writer(engine_dir, journal, "w0", ["hot"], 1)
            writer.numbers["hot"] = 1000 * at
            shim.arm(("write_block",), at, mode, error, segments_only=True)
            writer.fill(16, 400)
            writer.client.close()
            code = running.stop()
        total.expect(code == 0 and shim.calls >= at, f"code {code} after {shim.calls} writes")
        total.runs += 1
    total.add(_again(engine_dir, {"w0": journal}))
    total.runs -= 1
    return total


def lulls(times: int, directory: Path, seed: int) -> Verdict:
    """Between two appends everybody falls asleep, or is about to. A wake-up that gets lost is made good by somebody's next
    look, a second later at the earliest: that may be the machine once, but not one time in twenty."""
    chance, late = random.Random(f"{seed}/lulls"), 0
    engine_dir, journal = directory / "engine", directory / "w0.journal"
    with Engine(engine_dir, *SMALL) as running:
        writer = Writer(engine_dir, journal, "w0", ["hot"], 1)
        for n in range(times):
            began = time.monotonic()
            writer.append(Origin("hot", "w0", n))
            writer.settle()
            late += time.monotonic() - began > LATE_SECONDS
            if late > times // 20:
                break
            pause(0.008 * chance.random() ** 2)
        writer.client.close()
        code = running.stop()
    verdict = judge(engine_dir, {"w0": journal})
    verdict.runs = times
    verdict.expect(late <= times // 20, f"{late} appends took more than {LATE_SECONDS:g} s each: wake-ups get lost")
    verdict.expect(code == 0, f"the engine ended with code {code}")
    return verdict


def under_load(
    times: int, modes: tuple[Mode, ...], shared: tuple[str, ...], direct: str, directory: Path, seed: int
) -> Verdict:
    """Several blocks in flight, many callers: each hears of it, and goes on with the next engine.

    With UNWRITTEN several threads have written, and then the kernel fails to write back. It tells each open file once: if
    threads shared one, the second to sync would take its lost block for durable.
    """
    chance = random.Random(f"{seed}/{modes}")
    engine_dir, notes = directory / "engine", []
    flags = (*SMALL, "--direct-io", direct)
    running = Engine(engine_dir, *flags)
    try:
        with writers(engine_dir, directory, [[*shared, f"own-{i}"] for i in range(4)]) as fleet:
            for i in range(times):
                fleet.await_progress()
                running.kill()
                shim = Shim(directory / f"shim-{i}")
                running = Engine(engine_dir, *flags, env=shim.env)
                fleet.await_progress()
                shim.arm(("write_block",), chance.randrange(1, 100), modes[i % len(modes)], segments_only=True)
                if (code := running.await_exit()) != os.EX_IOERR:
                    notes.append(f"the engine ended with code {code}")
                running = Engine(engine_dir, *flags)
                fleet.await_progress()
        running.kill()
    finally:
        running.__exit__(None, None, None)
    verdict = _again(engine_dir, fleet.journals, flags)
    verdict.runs, verdict.notes = times, verdict.notes + notes
    return verdict


def _base(directory: Path, records: int = 200) -> tuple[Path, Path]:
    """A killed log with confirmed records, and their journal."""
    engine_dir, journal = directory / "engine", directory / "w0.journal"
    with Engine(engine_dir, *SMALL) as running:
        writer = Writer(engine_dir, journal, "w0", ["hot", "calm"], 8)
        for n in range(records):
            writer.append(Origin(("hot", "calm")[n % 2], "w0", n))
            if n % 4 == 3:
                while writer.pending:
                    writer.settle()
        running.kill()
        writer.abandon()
    return engine_dir, journal


def _prepared(running: Engine) -> bool:
    segments = running.status()["segments"]
    return bool(segments["files"] > segments["current"] + 1)


def starts(count: int, directory: Path, seed: int) -> Verdict:
    """The N-th write, sync or allocation of a start fails: of recovery, of a segment's making, of the manifest."""
    engine_dir, journal = _base(directory)
    calls = ("write", "datasync", "sync", "allocate")
    notes: list[str] = []
    counter = Shim(directory / "shim")
    counter.arm(calls, 1 << 30)
    with Engine(engine_dir, *SMALL, env=counter.env) as running:
        until(lambda: _prepared(running), "the segment ahead")
        running.stop()
    chosen = numbers(count, counter.calls, random.Random(f"{seed}/starts"))
    for at in chosen:
        for mode in (Mode.ONCE, Mode.EVER):
            shim = Shim(directory / "shim")
            shim.arm(calls, at, mode, (errno.EIO, errno.ENOSPC)[at % 2])
            try:
                with Engine(engine_dir, *SMALL, env=shim.env) as running:
                    running.stop()
            except EngineEnded as ended:
                if ended.code in (0, 1) or ended.code < 0:
                    notes.append(f"call {at} failed, and the start ended with {ended}")
    verdict = _again(engine_dir, {"w0": journal})
    verdict.runs, verdict.notes = 2 * len(chosen), verdict.notes + notes
    return verdict


def reads(count: int, directory: Path, seed: int) -> Verdict:
    """A read that fails in recovery is never taken for the end of the log, nor for a log of other sizes. A start may do without
    one read of `home`, or of one of the manifest's slots: what only the other one says, nobody has acted upon."""
    engine_dir, journal = _base(directory)
    notes: list[str] = []
    for at in range(1, count + 1):
        for mode in (Mode.ONCE, Mode.EVER, Mode.SHORT):
            dispensable = [(engine_dir / name).stat().st_ino for name in ("home", "manifest")]
            shim = Shim(directory / "shim")
            shim.arm(("read",), at, mode)
            try:
                with Engine(engine_dir, env=shim.env) as running:
                    sizes = running.facts["segments"]["bytes"], running.facts["ring"]["bytes"]
                    running.stop()
                if sizes != (4 << 20, 1 << 20):
                    notes.append(f"read {at} {mode.name}: the engine took sizes of {sizes} bytes")
                if shim.failures and not (mode is Mode.ONCE and shim.failed_in(dispensable)):
                    notes.append(f"read {at} failed {mode.name}, and the engine started all the same")
            except EngineEnded as ended:
                if ended.code in (0, 1) or ended.code < 0 or mode is Mode.SHORT:
                    notes.append(f"read {at} {mode.name}: the start ended with {ended}")
    verdict = _again(engine_dir, {"w0": journal})
    verdict.runs, verdict.notes = 3 * count, verdict.notes + notes
    return verdict


def no_space(directory: Path, seed: int) -> Verdict:
    """The disk is full when a segment is needed: StorageFull, and on it goes when there is space again."""
    with disk(directory, "ext4", 64 << 20) as medium:
        engine_dir, journal = medium.mount / "engine", directory / "w0.journal"
        notes: list[str] = []
        with Engine(engine_dir, *SMALL) as running:
            writer = Writer(engine_dir, journal, "w0", ["hot"], 8)
            writer.fill(8, 1000)
            writer.client._append_timeout = 0.5
            ballast = medium.mount / "ballast"
            room = os.statvfs(medium.mount)
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (room.f_bavail - 300) * room.f_bsize)
            try:
                writer.pour(500_000)
                notes.append("the disk is full, and no append heard of it")
            except ringwal.StorageFull as full:
                if full.errno != errno.ENOSPC or full.outcome != "not_appended":
                    notes.append(f"StorageFull says errno {full.errno}, outcome {full.outcome}")
            ballast.unlink()
            writer.client._append_timeout = 20.0
            writer.fill(8, 500)
            writer.client.close()
            code = running.stop()
            if code != 0:
                notes.append(f"the engine ended with code {code}")
        verdict = judge(engine_dir, {"w0": journal})
        verdict.runs, verdict.notes = 1, verdict.notes + notes
        return verdict


def no_descriptors(directory: Path, seed: int) -> Verdict:
    """The supervisor has no descriptor for another client: those it has go on, and there is room again when some leave."""
    engine_dir = directory / "engine"
    verdict = Verdict()
    with Engine(engine_dir, *SMALL, wrapper=("prlimit", "--nofile=64:64")) as running:
        with writers(engine_dir, directory, [["hot"]]) as fleet:
            fleet.await_progress()
            held = []
            for _ in range(60):
                try:
                    held.append(ringwal.connect(engine_dir, timeout=0.2))
                except ringwal.Error:
                    continue
            verdict.expect(0 < len(held) < 60, f"{len(held)} of 60 clients came in with 64 descriptors")
            fleet.await_progress()
            for client in held:
                client.close()
            with ringwal.connect(engine_dir, timeout=10.0) as late:
                late.stream("late").append(b"").result()
            fleet.await_progress()
        verdict.expect(running.stop() == 0, "no orderly stop")
    verdict.add(judge(engine_dir, fleet.journals, strangers=("late",)))
    verdict.runs = 1
    return verdict


def thin(direct: str, directory: Path, seed: int, *, cache_stays: bool = False) -> Verdict:
    """The device has less than it promised, also for a segment that was filled with zeros, which it did not keep: writes
    fail, then a sync may say success. Nothing is believed after the first.

    With ``cache_stays`` the next engine finds in the page cache what never reached the device, and only then it is gone.
    """
    small, notes = directory / "thin", []
    small.mkdir()
    if os.geteuid() != 0 or not command("mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", small):
        raise NotRun("needs root, to mount a small tmpfs")
    flags = (*SMALL, "--direct-io", direct)
    try:
        with disk(small, "ext4 without a journal" if cache_stays else "ext4") as medium:
            engine_dir = medium.mount / "engine"
            streams = [["hot", f"own-{i}"] for i in range(2)]
            with Engine(engine_dir, *flags) as running, contextlib.ExitStack() as stack:
                until(lambda: _prepared(running), "the segment ahead")
                medium.run_short(THIN_ROOM)
                fleet = stack.enter_context(writers(engine_dir, directory, streams))
                code = running.await_exit()
                if not cache_stays:  # power goes with it: what the page cache shows is lost, as on a real device
                    medium.cut()
                if code not in (os.EX_IOERR, os.EX_SOFTWARE):
                    notes.append(f"the engine ended with code {code}")
                command("mount", "-o", "remount,size=600m", small)
                if cache_stays:
                    with Engine(engine_dir, *flags) as second:
                        fleet.await_progress()
                        second.kill()
                fleet.kill()
            medium.again()
            verdict = _again(engine_dir, fleet.journals, flags)
    finally:
        command("umount", small)
    verdict.notes += notes
    return verdict


def shut_down(times: int, directory: Path, seed: int) -> Verdict:
    """Every operation of the file system fails from one moment to the next, and nobody kills the engine."""
    chance = random.Random(f"{seed}/shut_down")
    with disk(directory, "ext4") as medium:
        engine_dir, notes = medium.mount / "engine", []
        running = Engine(engine_dir, *SMALL)
        try:
            with writers(engine_dir, directory, [["hot", f"own-{i}"] for i in range(3)]) as fleet:
                for _ in range(times):
                    fleet.await_progress()
                    pause(chance.random() * 0.05)
                    medium.cut()
                    if (code := running.await_exit()) not in (os.EX_IOERR, os.EX_SOFTWARE):
                        notes.append(f"the engine ended with code {code}")
                    medium.again()
                    running = Engine(engine_dir, *SMALL)
                fleet.await_progress()
            running.kill()
            verdict = _again(engine_dir, fleet.journals)
        finally:
            running.__exit__(None, None, None)
        verdict.runs, verdict.notes = times, verdict.notes + notes
        return verdict
