"""examples/import_resume as it is run: killed again and again, with its engine, each row is there once and in order."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ringwal
from tests.support import rig
from tests.support.rig import WAIT, read_all, until

ROWS = 60_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    source = rig.CHECKOUT / "examples" / "import_resume"
    return Path(shutil.copytree(source, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__")))


def importing(place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "import_orders.py", "orders.csv"]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def test_what_is_killed_goes_on_where_it_was(place: Path) -> None:
    chance = random.Random(7)
    (place / "orders.csv").write_text("id,item\n" + "".join(f"{n},coffee\n" for n in range(ROWS)))
    before = -1
    for n in range(8):
        with importing(place) as work:
            assert work.stdout is not None
            said = int(work.stdout.readline().split()[0])
            assert said >= before
            before = said
            deadline = time.monotonic() + chance.random() * 0.1  # the moment of the kill is the random variable
            while time.monotonic() < deadline and work.poll() is None:
                os.sched_yield()
            if n % 2:
                kill_engine(place)
            work.kill()
    with importing(place) as work:
        out, _ = work.communicate(timeout=WAIT)
    assert work.returncode == 0 and out.endswith(b"60000 rows are in the stream, each once\n")
    with ringwal.connect(place / "orders.d", autostart=True, timeout=WAIT) as client:
        found = [json.loads(record.data)["id"] for record in read_all(client.stream("orders"))]
    assert found == [str(n) for n in range(ROWS)]
    until(lambda: not (place / "orders.d" / "engine.sock").exists(), "the engine has left")


def kill_engine(place: Path) -> None:
    try:
        with ringwal.connect(place / "orders.d", timeout=1.0) as client:
            pid = client.status()["pid"]
    except ringwal.Error:
        return
    os.kill(pid, signal.SIGKILL)
