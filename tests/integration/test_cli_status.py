"""`status` of an engine that runs and may not keep its promise: it says what it cannot vouch for."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal as ringwal_library
from ringwal.observer import observe
from tests.support.cli_rig import DEADLINE, feeding, freeze, publish, ringwal, serving
from tests.support.rig import CHECKOUT


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


def test_status_of_an_engine_at_work_has_no_doubts(served: Path) -> None:
    ringwal("append", served, "s", "--lines", stdin=b"one\n")
    done = ringwal("status", served, "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, done.stderr, facts["doubts"]) == (0, b"", [])
    assert facts["processes"] == {"supervisor": "running", "wal": "running", "drain": "running", "keeper": "running"}


@pytest.mark.parametrize("role", ["wal", "drain"])
def test_status_does_not_vouch_for_a_stopped_process(served: Path, role: str) -> None:
    pid = json.loads(ringwal("status", served, "--json").stdout)[f"{role}_pid"]
    freeze(pid)
    try:
        done = ringwal("status", served, "--json")
    finally:
        os.kill(pid, signal.SIGCONT)
    facts = json.loads(done.stdout)
    assert done.returncode == os.EX_TEMPFAIL
    assert facts["processes"][role] == "stopped"
    assert f"its {role} process is stopped".encode() in done.stderr
    assert facts["doubts"]
    assert ringwal("status", served).returncode == 0


def test_status_of_a_stopped_supervisor_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "d") as host:
        freeze(host.pid)
        try:
            done = ringwal("status", tmp_path / "d", "--json", "--timeout", "0.5")
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert done.returncode == os.EX_TEMPFAIL
        assert json.loads(done.stdout)["processes"]["supervisor"] == "stopped"


@pytest.mark.parametrize("verb", [["ls"], ["append", "s"], ["read", "s"], ["stop"]], ids=" ".join)
def test_an_engine_that_does_not_answer_is_not_one_that_is_not_there(tmp_path: Path, verb: list[str]) -> None:
    with serving(tmp_path / "d") as host:
        freeze(host.pid)
        try:
            done = ringwal(verb[0], tmp_path / "d", *verb[1:], "--timeout", "0.3", stdin=b"x\n")
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert (done.returncode, b"did not answer" in done.stderr) == (os.EX_TEMPFAIL, True)


def test_status_tells_that_nothing_is_confirmed(served: Path) -> None:
    facts = json.loads(ringwal("status", served, "--json").stdout)
    feeder = feeding(served, b"one\n")
    freeze(facts["drain_pid"])
    try:
        publish(feeder, facts, b"two\n")
        deadline = time.monotonic() + DEADLINE
        while not pending(served):
            assert time.monotonic() < deadline
        done = ringwal("status", served)
        assert done.returncode == os.EX_TEMPFAIL
        assert b"bytes are pending, and nothing was confirmed for 1 s" in done.stderr
    finally:
        os.kill(facts["drain_pid"], signal.SIGCONT)
    assert feeder.communicate(timeout=DEADLINE)[0] == b"s: 2 records confirmed, offsets 0 to 1\n"


def pending(directory: Path) -> int:
    return int(json.loads(ringwal("status", directory, "--json").stdout)["ring"]["used"])


# ------------------------------------------------------------------------------------------------------- documented


def keys_of(facts: object, name: str = "") -> Iterator[str]:
    """As docs/status.md writes them: `ring.bytes`, and `clients[].pid` for what stands in a list of objects."""
    if isinstance(facts, dict):
        for key, value in facts.items():
            yield from keys_of(value, f"{name}.{key}" if name else key)
        return
    yield name
    if isinstance(facts, list):
        for value in facts:
            if isinstance(value, dict):
                yield from keys_of(value, f"{name}[]")


def test_every_key_stands_on_its_page_with_its_unit_and_no_other(served: Path) -> None:
    page = (CHECKOUT / "docs" / "status.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(row) for row in rows)
    stated = {row[0].strip("`"): row[2] for row in rows}
    assert len(stated) == len(rows)
    ringwal("create", served, "kept", "--retain-until", "consumer")
    with ringwal_library.connect(served) as client:
        client.stream("kept").append(b"x").result(DEADLINE)
        found = set(keys_of(json.loads(ringwal("status", served, "--json").stdout)))
        assert found - {"answers", "doubts"} == set(keys_of(client.status()))
        seen = set(keys_of({**(observe(served) or {}), "answers": False}))
    assert found == stated.keys()
    assert seen == {key for key, unanswered in stated.items() if unanswered == "yes"}
