"""examples/exactly_once as it is run: killed again and again, with its engine, each order has one invoice, in order."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import ringwal
from tests.support import rig
from tests.support.programs import Program
from tests.support.rig import WAIT, read_all, until

ORDERS = 40_000
LOG = "shop.d"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    source = rig.CHECKOUT / "examples" / "exactly_once"
    place = Path(shutil.copytree(source, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__")))
    with Program("orders.py", str(ORDERS), place=place) as program:
        assert program.line() == f"{ORDERS} orders are in the stream"
        assert program.wait() == 0
    return place


def begun(program: Program) -> int:
    """How many orders are done, as it says when it has claimed its name."""
    return int(program.line().split()[0])


def finish(place: Path) -> None:
    """It goes through what is left, and what is in the log is what has to be there."""
    with Program("invoices.py", place=place) as program:
        begun(program)
        assert program.line() == f"{ORDERS} orders are done, each with one invoice"
        assert program.wait() == 0
    with ringwal.connect(place / LOG, autostart=True, timeout=WAIT) as client:
        found = [json.loads(record.data) for record in read_all(client.stream("invoices"))]
        assert [(one["number"], one["cents"]) for one in found] == [(n, 250 + n % 100) for n in range(ORDERS)]
        assert [(info.name, info.committed, info.lag) for info in client.consumers()] == [("invoices", ORDERS, 0)]
    until(lambda: not (place / LOG / "engine.sock").exists(), "the engine has left")
    with Program("-m", "ringwal", "verify", "--deep", LOG, place=place) as verify:
        verify.check()


def test_what_is_killed_goes_on_where_it_was(place: Path) -> None:
    chance, before, moved = random.Random(11), 0, 0
    for n in range(9):
        with Program("invoices.py", place=place) as program:
            done = begun(program)
            assert done >= before
            moved += done > before
            before = done
            deadline = time.monotonic() + chance.random() * 0.1  # the moment of the kill is the random variable
            while time.monotonic() < deadline and program.process.poll() is None:
                os.sched_yield()
            if n % 3 == 2:
                kill_engine(place)
            program.process.kill()
            program.process.wait()
    assert moved > 3, "it was killed at work"
    finish(place)


def test_of_two_at_the_same_time_the_newer_works(place: Path) -> None:
    with Program("invoices.py", place=place) as older:
        assert begun(older) == 0
        with Program("invoices.py", place=place) as newer:
            begun(newer)
            assert older.wait() == 1
            assert "ConsumerFenced" in older.said()
            newer.process.kill()
            newer.process.wait()
    finish(place)


def kill_engine(place: Path) -> None:
    try:
        with ringwal.connect(place / LOG, timeout=1.0) as client:
            pid = client.status()["pid"]
    except ringwal.Error:
        return
    os.kill(pid, signal.SIGKILL)
