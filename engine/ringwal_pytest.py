"""Fixtures of pytest for who tests with an engine: `ringwal_dir` and `ringwal_client`. See docs/testing.md.

It stands outside of the package, as pytest loads it in every run, and the package only where a fixture is used.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ringwal import Client

READY_SECONDS = 60.0
STOP_SECONDS = 5.0
SAID = 2000
"""Characters of what an engine said that has not started."""

ENGINE = """
import logging, sys
import ringwal
logging.basicConfig(level=logging.INFO)
config = ringwal.Config(ring_bytes=1 << 20, lane_bytes=1 << 18, segment_bytes=4 << 20, max_streams=256, max_clients=64)
ready = lambda facts: print("ready", flush=True)
try:
    sys.exit(ringwal.Supervisor(sys.argv[1], config, on_ready=ready, autostart=True).run())
except ringwal.Error as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""It ends with its last client. The fixture is one, so no engine outlives a pytest that is killed."""


@pytest.fixture
def ringwal_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on which an engine of this test's own runs, with small settings; both are gone at the end."""
    place = tmp_path_factory.mktemp("ringwal")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        log = place / "engine.log"
        process = _started(place / "log", log, stack)
        _await_ready(process, log)
        import ringwal

        try:
            held = ringwal.connect(place / "log", timeout=READY_SECONDS)
        except ringwal.Error as error:
            pytest.fail(f"ringwal_dir: the engine does not answer: {error}\n{_said(log)}", pytrace=False)
        stack.callback(_close, held)
        yield place / "log"


@pytest.fixture
def ringwal_client(ringwal_dir: Path) -> Iterator[Client]:
    """A client of the engine on `ringwal_dir`; closed at the end."""
    import ringwal

    client = ringwal.connect(ringwal_dir, timeout=READY_SECONDS)
    yield client
    _close(client)


def _started(directory: Path, log: Path, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parent)
    search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with log.open("wb") as said:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", ENGINE, str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for pytest, which ends it afterwards
                env={**os.environ, "PYTHONPATH": search},
            )
        except OSError as error:
            pytest.fail(f"ringwal_dir: no engine could be started: {error}", pytrace=False)
    stack.callback(_end, process)
    return process


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], READY_SECONDS)[0]:
        pytest.fail(f"ringwal_dir: the engine was not ready within {READY_SECONDS:g} s\n{_said(log)}", pytrace=False)
    if process.stdout.readline() != b"ready\n":
        code = process.wait(STOP_SECONDS)
        pytest.fail(f"ringwal_dir: the engine could not start and ended with code {code}\n{_said(log)}", pytrace=False)


def _said(log: Path) -> str:
    return log.read_text(errors="replace")[-SAID:]


def _close(client: Client) -> None:
    import ringwal

    with contextlib.suppress(ringwal.Error):  # what a test leaves unconfirmed, or whose engine it has ended, is its own
        client.close(STOP_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order, and where that takes too long, by force. Its processes are a group, and die with the first of them."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _await_others(process)


def _await_others(process: subprocess.Popen[bytes]) -> None:
    """Where the first was killed, the kernel ends the others a moment later; with the last one goes the end of this pipe."""
    assert process.stdout is not None
    with process.stdout as said:
        deadline = time.monotonic() + STOP_SECONDS
        while select.select([said], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not os.read(said.fileno(), SAID):
                return
