"""What an engine inherits from whoever starts it, and what it leaves with them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringwal
from tests.support import rig
from tests.support.rig import WAIT, until


def program(text: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a Python program of its own."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    options = {"env": rig.environment(rig.CHECKOUT), "timeout": WAIT, **options}
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def await_end(pid: int) -> None:
    until(lambda: rig.state_of(pid) in "XZ", f"process {pid} has ended")


# ------------------------------------------------------------------------------------------- standard descriptors


@pytest.mark.parametrize("closed", [(0,), (2,), (1, 2), (0, 1, 2)])
def test_closed_standard_descriptors_become_nothing_elses(directory: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for fd in closed:
            os.close(fd)

    command = [sys.executable, "-m", "ringwal", "run", str(directory), "--ring-bytes=1MiB", "--segment-bytes=8MiB"]
    engine = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=close, env=rig.environment(rig.CHECKOUT),  # noqa: PLW1509
    )  # fmt: skip
    try:
        until(lambda: served(directory) or engine.poll() is not None, "the engine serves")
        with ringwal.connect(directory, timeout=WAIT, append_timeout=WAIT) as client:
            stream = client.stream("s")
            stream.append(b"before").result(WAIT)
            for pid in (engine.pid, client.status()["wal_pid"], client.status()["drain_pid"]):
                assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == [os.devnull] * 3
            os.kill(client.status()["wal_pid"], signal.SIGKILL)
            stream.append(b"after").result(WAIT)
            assert [record.data for record in stream.read(0)] == [b"before", b"after"]
        engine.terminate()
        assert engine.wait(WAIT) == 0
    finally:
        engine.kill()
        engine.wait(WAIT)


def served(directory: Path) -> bool:
    with contextlib.suppress(ringwal.NotRunning):
        ringwal.connect(directory, timeout=WAIT).close()
        return True
    return False


def test_descriptors_that_are_open_are_left_alone_though_python_has_no_stream_for_them(tmp_path: Path) -> None:
    file = tmp_path / "file"
    done = program(
        "import os, sys; sys.stderr.close(); sys.stderr = None; os.close(2); os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "from ringwal import standard; standard.hold_streams(); print('said', file=sys.stderr, flush=True)",
        file,
    )
    assert done.returncode == 0
    assert file.read_bytes() == b""


# -------------------------------------------------------------------------------------------------------- signals


def ignore_children_and_block() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


@pytest.mark.parametrize("role", ["wal_pid", "drain_pid"])
def test_ignored_and_blocked_signals_of_the_parent_change_nothing(start: Callable[..., rig.Engine], role: str) -> None:
    engine = start(preexec=ignore_children_and_block)
    with ringwal.connect(engine.directory, timeout=WAIT, append_timeout=WAIT) as client:
        os.kill(engine.facts[role], signal.SIGKILL)
        client.stream("s").append(b"x").result(WAIT)
        until(lambda: client.status()["restarts"] == 1, "the dead process is replaced")
    assert engine.terminate() == 0


def test_a_host_that_waits_for_all_its_children_takes_no_exit_code_from_the_engine(directory: Path) -> None:
    done = program(
        """
import os, signal, sys, threading, ringwal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
ready = threading.Event()
engine = ringwal.Supervisor(sys.argv[1], on_ready=lambda facts: ready.set())
codes = []
thread = threading.Thread(target=lambda: codes.append(engine.run()))
thread.start()
assert ready.wait(30)
with ringwal.connect(sys.argv[1], timeout=30, append_timeout=30) as client:
    os.kill(client.status()["wal_pid"], signal.SIGKILL)
    client.stream("s").append(b"x").result(30)
    print(client.status()["restarts"])
engine.stop()
thread.join()
print(codes)
""",
        directory,
    )
    assert done.stdout == "1\n[0]\n", done.stderr


def test_a_hangup_ends_an_engine_in_order(start: Callable[..., rig.Engine]) -> None:
    engine = start()
    engine.process.send_signal(signal.SIGHUP)
    assert engine.wait() == 0
    assert "stopping in order (SIGHUP)" in engine.said()


def test_an_engine_whose_parent_ignores_hangups_goes_on(start: Callable[..., rig.Engine]) -> None:
    engine = start(preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    engine.process.send_signal(signal.SIGHUP)
    assert engine.status()["state"] == "running"
    assert engine.terminate() == 0


@pytest.mark.parametrize("lost", [False, True], ids=["in order", "of a lost directory"])
def test_signals_that_come_at_its_end_change_no_exit_code(start: Callable[..., rig.Engine], lost: bool) -> None:
    engine = start()
    if lost:
        engine.directory.rename(engine.directory.with_name("moved"))
    else:
        engine.process.terminate()
    until(lambda: "ended with code" in engine.said(), "the engine has ended")
    while engine.process.poll() is None:
        engine.process.send_signal(signal.SIGTERM)
    assert engine.wait() == (os.EX_OSFILE if lost else 0)


def test_hangups_do_not_reach_wal_and_drain(start: Callable[..., rig.Engine]) -> None:
    engine = start()
    for role in ("wal_pid", "drain_pid"):
        os.kill(engine.facts[role], signal.SIGHUP)
    with ringwal.connect(engine.directory) as client:
        client.stream("s").append(b"x").result(WAIT)
        assert client.status()["restarts"] == 0


# ---------------------------------------------------------------------------------------------------- names of DIR


@pytest.mark.parametrize("name", ["caf\udce9", "two\nlines", "a b\t'\""])
def test_the_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    for number in range(2):  # again after an end, whose report is left there
        with ringwal.connect(tmp_path / name, autostart=True, timeout=WAIT) as client:
            assert client.stream("s").append(b"x").result(WAIT).offset == number
            facts = client.status()
            assert facts["directory"] == str(tmp_path / name)
            os.kill(facts["pid"], signal.SIGTERM)
            await_end(facts["pid"])


# ------------------------------------------------------------------------------------------------------- autostart


def test_a_started_engine_is_nobodys_child_and_takes_nothing_along(directory: Path, tmp_path: Path) -> None:
    done = program(
        """
import fcntl, gc, os, sys, ringwal
held = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
os.set_inheritable(held, True)
fcntl.flock(held, fcntl.LOCK_EX)
client = ringwal.connect(sys.argv[1], autostart=True, timeout=30)
client.stream("s").append(b"x").result(30)
gc.collect()
try:
    os.wait()
    print("it has a child")
except ChildProcessError:
    pid = client.status()["pid"]
    print(os.getsid(pid) == os.getsid(0), os.readlink(f"/proc/{pid}/cwd"))
    print([name for name in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{name}") == sys.argv[2]])
""",
        directory,
        tmp_path / "lock",
    )
    assert done.stdout == "False /\n[]\n", done.stderr


def test_a_program_that_is_strict_hears_nothing_of_a_start(directory: Path) -> None:
    done = program(
        "import gc, sys, ringwal; ringwal.connect(sys.argv[1], autostart=True, timeout=30).close(); gc.collect()",
        directory,
        env={**rig.environment(rig.CHECKOUT), "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_started_engine_stays_at_a_hangup_and_stops_at_a_signal(directory: Path) -> None:
    with ringwal.connect(directory, autostart=True, timeout=WAIT) as client:
        pid = client.status()["pid"]
        os.kill(pid, signal.SIGHUP)
        assert client.status()["state"] == "running"
        os.kill(pid, signal.SIGTERM)
        await_end(pid)


NOT_A_PYTHON = {
    "frozen": ("sys.frozen = True", "frozen"),
    "none": ("sys.executable = None", "does not know its own executable"),
    "empty": ("sys.executable = ''", "does not know its own executable"),
    "another": ("sys.executable = '/bin/true'", "does not look like a Python"),
    "again": ("os.environ['RINGWAL_STARTING'] = '1'", "runs this program instead"),
}


@pytest.mark.parametrize(("change", "says"), NOT_A_PYTHON.values(), ids=NOT_A_PYTHON)
def test_what_is_no_python_starts_no_engine(directory: Path, change: str, says: str) -> None:
    done = program(
        f"import os, sys, ringwal; {change}\n"
        "try: ringwal.connect(sys.argv[1], autostart=True, timeout=30)\nexcept ringwal.NotRunning as error: print(error)",
        directory,
    )
    assert says in done.stdout, done.stderr
    assert "ringwal run" in done.stdout
    assert not directory.exists()


def test_a_program_that_takes_the_place_of_python_is_started_once(directory: Path, tmp_path: Path) -> None:
    runs, python = tmp_path / "runs", tmp_path / "python3"
    python.write_text(f'#!/bin/sh\necho run >> {runs}\nexec {sys.executable} {tmp_path}/app.py "$@"\n')
    python.chmod(0o755)
    (tmp_path / "app.py").write_text(
        f"import sys, ringwal\nsys.executable = {str(python)!r}\n"
        f"try: ringwal.connect({str(directory)!r}, autostart=True, timeout=30)\n"
        "except ringwal.NotRunning as error: sys.exit(str(error))\n"
    )
    environment = rig.environment(rig.CHECKOUT)
    done = subprocess.run([python], capture_output=True, text=True, check=False, timeout=WAIT, env=environment)
    assert "runs this program instead" in done.stderr
    assert runs.read_text().count("run") == 2


def interpreter(place: Path, script: str) -> Path:
    made = place / "python-of-a-test"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    return made


@pytest.mark.parametrize("forked", [False, True])
def test_an_interpreter_that_starts_slowly_is_waited_for_as_long_as_was_said(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    """And leaves nothing: neither itself nor an engine that it has started already."""
    pids = tmp_path / "pids"
    wait = f"sleep 3600 & echo $! >> {pids}; wait" if forked else "exec sleep 3600"
    slow = interpreter(tmp_path, f"echo $$ >> {pids}\n{wait}")
    monkeypatch.setattr(sys, "executable", str(slow))
    with pytest.raises(ringwal.NotRunning, match=r"none was started within 2 s: .*python-of-a-test \(process \d+\).*ended"):
        ringwal.connect(directory, autostart=True, timeout=2)
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 1 + forked
    for pid in started:
        rig.until(lambda pid=pid: rig.state_of(pid) in "XZ", "it has ended")  # type: ignore[misc]
    monkeypatch.undo()
    with ringwal.connect(directory, autostart=True, timeout=WAIT) as client:
        assert client.stream("s").append(b"x").result(WAIT).offset == 0
        engine = client.status()["pid"]
    await_end(engine)


def test_ctrl_c_while_an_interpreter_starts_ends_it(directory: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    slow = interpreter(tmp_path, f"echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 3600")
    code = f"import sys, ringwal; sys.executable = {str(slow)!r}; ringwal.connect(sys.argv[1], autostart=True, timeout=None)"
    with subprocess.Popen(
        [sys.executable, "-c", code, directory], stderr=subprocess.DEVNULL, env=rig.environment(rig.CHECKOUT)
    ) as program:
        rig.until(pids.exists, "the interpreter runs")
        program.send_signal(signal.SIGINT)
        program.wait(WAIT)
    rig.until(lambda: rig.state_of(int(pids.read_text())) in "XZ", "it has ended")


def test_an_interpreter_that_is_missing_is_named(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "removed" / "python3"
    monkeypatch.setattr(sys, "executable", str(missing))
    with pytest.raises(ringwal.FileError, match=r"cannot start an engine with the interpreter .*ringwal run") as caught:
        ringwal.connect(directory, autostart=True, timeout=WAIT)
    assert (caught.value.errno, caught.value.path) == (errno.ENOENT, str(missing))
    assert str(directory) not in str(caught.value)


def test_an_engine_that_cannot_start_is_told_at_once(directory: Path) -> None:
    directory.mkdir()
    (directory / "segments").mkdir()
    (directory / "manifest").write_bytes(b"nonsense" * 512)
    with pytest.raises(ringwal.NotRunning, match=r"ended at once with exit code 65; it said: ringwal: .*manifest"):
        ringwal.connect(directory, autostart=True, timeout=WAIT)


def test_while_an_engine_is_ending_the_next_one_waits_and_is_started(start: Callable[..., rig.Engine]) -> None:
    engine = start()
    with ringwal.connect(engine.directory) as client:
        client.stream("s").append(b"x").result(WAIT)
    rig.stop_process(engine.facts["wal_pid"])
    engine.process.terminate()
    until(lambda: "stopping in order" in engine.said(), "the engine is stopping")
    late = subprocess.Popen(
        [sys.executable, "-c", "import sys, ringwal\n"
         "with ringwal.connect(sys.argv[1], autostart=True, timeout=30) as c:\n"
         "  print(c.stream('s').append(b'y').result(30).offset)",
         str(engine.directory)],
        stdout=subprocess.PIPE, text=True, env=rig.environment(rig.CHECKOUT),
    )  # fmt: skip
    with late:
        # It has knocked in vain when it is told that the engine is stopping.
        until(lambda: "is stopping" in engine.said(), "a client has asked the engine that is stopping")
        os.kill(engine.facts["wal_pid"], signal.SIGCONT)
        assert engine.wait() == 0
        assert late.communicate(timeout=WAIT)[0] == "1\n"


def test_a_restart_that_says_no_sizes_takes_those_of_the_log(directory: Path) -> None:
    def run(*flags: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "ringwal", "run", "--json", str(directory), *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=rig.environment(rig.CHECKOUT)) as engine:
            assert engine.stdout is not None
            facts: dict[str, Any] = json.loads(engine.stdout.readline() or "{}")
            engine.terminate()
            assert engine.wait(WAIT) == (0 if facts else os.EX_CONFIG)
            return facts

    first = run("--ring-bytes=1MiB", "--segment-bytes=4MiB", "--max-streams=256")
    again = run()
    assert again["segments"]["bytes"] == first["segments"]["bytes"] == 4 << 20
    assert again["ring"]["bytes"] == 1 << 20
    assert run("--segment-bytes=64MiB") == {}
    bounded = run("--max-log-bytes=17MiB")  # four segments of 64 MiB take more
    assert bounded["space"]["limit"] == 17 << 20
    assert run("--max-log-bytes=16MiB") == {}


# -------------------------------------------------------------------------------------------- forks, and other owners


def test_a_fork_of_the_program_around_an_engine_does_not_keep_its_directory_locked(directory: Path) -> None:
    done = program(
        """
import os, sys, threading, ringwal
ready = threading.Event()
engine = ringwal.Supervisor(sys.argv[1], on_ready=lambda facts: ready.set())
thread = threading.Thread(target=engine.run)
thread.start()
assert ready.wait(30)
ended, end = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(end)
    os.read(ended, 1)
    os._exit(0)
engine.stop()
thread.join()
again = ringwal.Supervisor(sys.argv[1], on_ready=lambda facts: again.stop())
print(again.run())
os.close(end)
os.waitpid(pid, 0)
""",
        directory,
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other owners' directories")
def test_what_roots_engine_makes_belongs_to_the_owner_of_the_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65533)
    with ringwal.connect(directory, autostart=True, timeout=WAIT) as client:
        client.stream("s").append(b"x").result(WAIT)
        pid = client.status()["pid"]
        names = {path.relative_to(directory): path.stat() for path in directory.rglob("*")}
        assert Path("engine.sock") in names
        os.kill(pid, signal.SIGTERM)
        await_end(pid)
    names |= {path.relative_to(directory): path.stat() for path in directory.rglob("*")}
    assert {str(name) for name, found in names.items() if (found.st_uid, found.st_gid) != (65534, 65533)} == set()
