"""What the system refuses reaches a caller as an error of the tree, which names the path, the number and the owner."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import ringwal
import ringwal.aio
from ringwal.processes.supervisor import Supervisor
from ringwal.protocol.client import Registration
from tests.support.mounts import tmpfs
from tests.support.rig import (
    CHECKOUT,
    WAIT,
    Engine,
    append_and_hold,
    arm,
    await_readable,
    environment,
    read_all,
    state_of,
    stop_process,
    until,
)

NOBODY = 65534


def outcome_as(uid: int, call: Callable[[], object]) -> object:
    """What a child that gives up its rights returns or raises."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            try:
                result = call()
            except Exception as error:  # noqa: BLE001
                result = error
            os.write(sender, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(sender)
    try:
        await_readable(receiver, "the child's word")
        with os.fdopen(receiver, "rb", closefd=False) as pipe:
            return pickle.loads(pipe.read())
    finally:
        os.close(receiver)
        os.waitpid(child, 0)


def refusal(call: Callable[[], object], number: int, path: Path, owner: int | None = None) -> ringwal.FileError:
    with pytest.raises(ringwal.FileError) as caught:
        call()
    return checked(caught.value, number, path, owner)


def checked(error: object, number: int, path: Path, owner: int | None = None) -> ringwal.FileError:
    assert isinstance(error, ringwal.FileError), repr(error)
    assert (error.errno, error.path) == (number, str(path))
    assert str(path) in str(error)
    if owner is not None:
        assert error.owner == owner
        assert f"belongs to user {owner}" in str(error)
    return error


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Path]:
    """A directory that others may reach; only the last steps are closed to them."""
    place = Path("/tmp") / f"ringwal-open-{os.getpid()}"
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


@needs_root
def test_another_user_is_told_whose_the_engine_is(open_place: Path) -> None:
    running = Engine(open_place / "log")
    try:
        (open_place / "log").chmod(0o755)
        (open_place / "log" / "engine.sock").chmod(0o666)
        for _ in range(50):
            error = outcome_as(NOBODY, partial(ringwal.connect, open_place / "log", timeout=WAIT))
            assert isinstance(error, ringwal.FileError), repr(error)
            assert (error.errno, error.path, error.owner) == (errno.EACCES, str(open_place / "log"), 0)
            assert "runs as user 0" in str(error) and f"is user {NOBODY}" in str(error)
    finally:
        running.close()


# -------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("autostart", [False, True])
def test_paths_that_the_system_does_not_take(tmp_path: Path, autostart: bool) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name, number in (("loop", errno.ELOOP), ("n" * 300, errno.ENAMETOOLONG)):
        error = refusal(partial(ringwal.connect, tmp_path / name, autostart=autostart), number, tmp_path / name)
        assert isinstance(error, OSError)


NO_PATHS = {"a NUL": ("log\0", "contains a NUL character"), "no UTF-8": ("log\ud800", "has a character that utf-8 cannot")}


@pytest.mark.parametrize(("name", "says"), NO_PATHS.values(), ids=NO_PATHS)
@pytest.mark.parametrize(
    "take",
    [ringwal.connect, ringwal.Client, partial(ringwal.connect, autostart=True), Supervisor, Registration],
    ids=["connect", "Client", "autostart", "Supervisor", "Registration"],
)
def test_what_is_no_path_is_said_to_be_none(tmp_path: Path, name: str, says: str, take: Callable[[Path], object]) -> None:
    with pytest.raises(ringwal.ConfigError, match=says) as caught:
        take(tmp_path / name)
    assert "remove it" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_leads_nowhere_says_that_no_engine_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("missing/log", "file", "file/log"):
        with pytest.raises(ringwal.NotRunning, match=r"no engine runs on .*, or connect with autostart=True$"):
            ringwal.connect(tmp_path / path)
        with pytest.raises(ringwal.NotRunning, match="ringwal run") as caught:
            ringwal.Client(tmp_path / path)
        assert "autostart" not in str(caught.value)


def test_a_path_that_leads_nowhere_is_not_told_as_an_engine_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "log").mkdir()
    says = {
        "missing": f"there is no such directory; if the path is right, make a log there with `ringwal run {tmp_path}/missing`",
        "missing/log": "there is no such directory",
        "file": "that is no directory; `ringwal run DIR` makes a log",
        "file/log": "that is no directory",
        "log": f"log; start one with `ringwal run {tmp_path}/log`",
    }
    for path, said in says.items():
        for take in (ringwal.connect, ringwal.Client, lambda path: asyncio.run(attached(path))):
            with pytest.raises(ringwal.NotRunning) as caught:
                take(tmp_path / path)
            assert said in str(caught.value)
            assert caught.value.why == "absent"
        for verb in ("tail", "read", "append", "stat") if path != "file" else ():  # that is a wrong command line
            done = subprocess.run(
                [sys.executable, "-m", "ringwal", verb, str(tmp_path / path), "s"], input=b"", capture_output=True, check=False
            )
            assert said in done.stderr.decode(), (verb, done.stderr)


async def attached(path: Path) -> None:
    await ringwal.aio.connect(path)


def test_only_the_last_directory_of_a_path_is_made(tmp_path: Path) -> None:
    error = refusal(
        lambda: ringwal.connect(tmp_path / "mistyped" / "deep" / "log", autostart=True), errno.ENOENT, tmp_path / "mistyped"
    )
    assert "only the last directory" in str(error)
    (tmp_path / "file").touch()
    refusal(lambda: ringwal.connect(tmp_path / "file" / "log", autostart=True), errno.ENOTDIR, tmp_path / "file")
    refusal(lambda: ringwal.connect(tmp_path / "file", autostart=True), errno.EEXIST, tmp_path / "file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["a pipe", "a directory"])
def test_an_engines_log_that_is_no_file_holds_up_nobody(directory: Path, kind: str) -> None:
    directory.mkdir()
    log = directory / "engine.log"
    if kind == "a pipe":
        os.mkfifo(log)
    else:
        log.mkdir()
    number = errno.ENXIO if kind == "a pipe" else errno.EISDIR
    refusal(lambda: ringwal.connect(directory, autostart=True, timeout=WAIT), number, log)
    if kind == "a pipe":  # also where somebody reads it
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        refusal(lambda: ringwal.connect(directory, autostart=True, timeout=WAIT), number, log)
        os.close(reader)


def test_a_current_directory_that_is_gone(tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        refusal(lambda: ringwal.connect("log"), errno.ENOENT, Path("log"))
    finally:
        os.chdir(before)


# ------------------------------------------------------------------------------------------------- rights and room


@needs_root
def test_a_place_of_another_user(open_place: Path) -> None:
    closed, shut = open_place / "closed", open_place / "shut"
    closed.mkdir(mode=0o755)
    shut.mkdir(mode=0o000)
    checked(
        outcome_as(NOBODY, lambda: ringwal.connect(closed / "log", autostart=True)), errno.EACCES, closed / "log", owner=0
    )
    for autostart in (False, True):
        for path in (shut, shut / "log"):
            found = outcome_as(NOBODY, partial(ringwal.connect, path, autostart=autostart))
            assert checked(found, errno.EACCES, path, owner=0).outcome is None


@needs_root
def test_a_process_that_has_given_up_its_rights(open_place: Path) -> None:
    """The engine is root's, the client attached as root: what it reads from now on, and attaches to, is not its own."""
    running = Engine(open_place / "log")
    try:
        with ringwal.connect(running.directory) as client:
            stream = client.stream("s")
            for n in range(300):  # more than the ring holds: the first ones are in the segments only
                stream.append(b"%d" % n * 5000)
            stream.flush(WAIT)

            def fresh() -> object:
                return ringwal.connect(running.directory)

            def used_in_the_child() -> object:
                return stream.append(b"x")

            for call in (fresh, used_in_the_child):
                error = checked(outcome_as(NOBODY, call), errno.EACCES, running.directory, owner=0)
            assert error.outcome == "not_appended"
            attachment = client._attachment()
            os.seteuid(NOBODY)
            try:
                assert stream.read(299)[0].data == b"299" * 5000
                segments = running.directory / "segments"
                refusal(lambda: stream.read(0), errno.EACCES, segments)
                refusal(lambda: next(stream.tail(0)), errno.EACCES, segments)
            finally:
                os.seteuid(0)
            assert client._attachment() is attachment
            assert len(list(read_all(stream))) == 300
    finally:
        running.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "mounted", "64k") as place:
        yield place


def test_a_place_that_is_full(mounted: Path) -> None:
    (mounted / "log").mkdir()
    with contextlib.suppress(OSError), (mounted / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    with pytest.raises(ringwal.Error) as caught:
        ringwal.connect(mounted / "log", autostart=True, timeout=WAIT)
    assert isinstance(caught.value, (ringwal.StorageFull, ringwal.NotRunning))
    assert str(mounted / "log") in str(caught.value)


def test_a_place_that_may_only_be_read(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    refusal(lambda: ringwal.connect(mounted / "log", autostart=True), errno.EROFS, mounted / "log")
    with pytest.raises(ringwal.NotRunning):
        ringwal.connect(mounted / "log")


def test_a_process_that_may_open_no_more_files(directory: Path, start: Callable[..., Engine]) -> None:
    """At every step of attaching, appending and reading: what is left of them is one less each time."""
    start()
    ringwal.connect(directory).close()
    gc.collect()  # what earlier tests have left closes its files now, and not meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    held = [os.open("/dev/null", os.O_RDONLY)]
    while held[-1] <= highest:  # so that no number below is free
        held.append(os.open("/dev/null", os.O_RDONLY))
    told: list[ringwal.Error] = []
    try:
        for spare in range(16):
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + spare, hard))
            try:
                with ringwal.connect(directory) as client:
                    stream = client.stream("s")
                    stream.append(b"x").result(WAIT)
                    stream.read(0)
                    next(stream.tail(0))
            except ringwal.Error as error:
                told.append(error)
            else:
                break
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        for fd in held:
            os.close(fd)
    assert len(told) > 3
    assert [str(error) for error in told if "files" not in str(error)] == []


def test_of_an_engine_that_has_ended_nothing_is_open(
    points_build: Path, directory: Path, start: Callable[..., Engine]
) -> None:
    """So that its file system can be unmounted, also while an append is lost with it and nobody has asked for its fate."""
    once = directory.parent / "once"
    running = start(points_build, once=once)
    client = ringwal.connect(directory)
    receipts = append_and_hold(client.stream("s"), once, [b"lost"])
    running.kill()
    gc.disable()  # nothing waits for the collector
    try:
        with pytest.raises(ringwal.NotRunning):
            client.status()
        assert [name for name in open_files() if name.is_relative_to(directory)] == []
    finally:
        gc.enable()
    with pytest.raises(ringwal.EngineFailed):
        receipts[0].result(WAIT)


def open_files() -> list[Path]:
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(fd.readlink())
    return found


# --------------------------------------------------------------------------------------- what was waited for in vain


def told_by_connecting(directory: Path, *, autostart: bool = False) -> str:
    with pytest.raises(ringwal.NotRunning) as caught:
        ringwal.connect(directory, timeout=0.05, autostart=autostart)
    return str(caught.value)


@pytest.mark.parametrize("autostart", [False, True])
def test_an_engine_that_does_not_answer_is_said_to_stand_still(
    directory: Path, start: Callable[..., Engine], autostart: bool
) -> None:
    running = start()
    stop_process(running.process.pid)
    said = told_by_connecting(directory, autostart=autostart)
    assert f"its process {running.process.pid} stands still" in said
    assert "0.05 s" in said


@pytest.mark.parametrize("autostart", [False, True])
@pytest.mark.parametrize(("order", "some"), [("rec.walked:2:stop", True), ("s.recovered:1:stop", False)])
def test_an_engine_that_is_recovering_says_how_far_it_is(
    points_build: Path, directory: Path, start: Callable[..., Engine], autostart: bool, order: str, some: bool
) -> None:
    before = start(points_build)
    with ringwal.connect(directory) as client:  # four segments
        for _ in range(450):
            client.stream("s").append(bytes(30_000)).result(WAIT)
        before.kill()
    once = directory.parent / "once"
    arm(once, order)
    recovers = subprocess.Popen(
        [sys.executable, "-m", "ringwal", "run", str(directory)],
        env={**os.environ, "PYTHONPATH": str(points_build / "engine"), "RINGWAL_POINT_ONCE": str(once)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: state_of(recovers.pid) == "T", "it stands in its recovery")
        said = told_by_connecting(directory, autostart=autostart)
        found = re.search(r"process (\d+)\) is recovering, (\d+) % \((\d+) of (\d+) MiB of the log read\)", said)
        assert found is not None, said
        pid, share, done, total = map(int, found.groups())
        assert pid == recovers.pid
        command = [sys.executable, "-m", "ringwal", "ls", "--timeout", "0.05", str(directory)]
        # The command line tells the same.
        listed = subprocess.run(command, env=environment(CHECKOUT), capture_output=True, text=True, check=False)
        assert listed.returncode == os.EX_TEMPFAIL and found[0] in listed.stderr, listed.stderr
        assert 0 < total <= 4 * len(list((directory / "segments").glob("*.seg")))  # from the checkpoint on
        assert 0 < share < 100 and 0 < done < total if some else share == 100 and done == total
    finally:
        recovers.kill()
        recovers.wait(WAIT)


@pytest.mark.parametrize("autostart", [False, True])
def test_an_engine_that_is_stopping_is_said_to_be(directory: Path, start: Callable[..., Engine], autostart: bool) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        client.stream("s").append(b"x").result(WAIT)
        stop_process(running.facts["wal_pid"])
        client.stream("s").append(b"y")
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping in order" in running.said(), "the engine is stopping")
        said = told_by_connecting(directory, autostart=autostart)
        os.kill(running.facts["wal_pid"], signal.SIGCONT)
        assert running.wait() == 0
    if autostart:
        assert f"the old engine (process {running.process.pid}) is still stopping" in said
    else:
        assert "stopping" in said
