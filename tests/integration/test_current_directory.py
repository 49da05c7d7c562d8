"""A relative path means what it meant when it was given, wherever the process goes then."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ringwal
from tests.support.meddling import append_to_successor
from tests.support.rig import CHECKOUT, WAIT, Engine, environment, read_all, state_of, until


def test_a_client_means_the_same_directory_after_a_change_of_the_current_one(
    directory: Path, start: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(directory.parent)
    with ringwal.connect(directory.name) as client:
        orders = client.stream("orders")
        for n in range(60):
            orders.append(b"%05d" % n + bytes(30_000))  # more than the ring holds: the first are read from their segment
        orders.flush(WAIT)
        monkeypatch.chdir(elsewhere)
        assert client.path == directory
        assert [int(record.data[:5]) for record in read_all(orders)] == list(range(60))

        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if orders.append(b"00060").result(WAIT).offset == 60 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        with pickle.loads(pickle.dumps(client)) as other:
            assert other.status()["pid"] == running.process.pid

        assert running.terminate() == 0
        successor = start()
        assert append_to_successor(orders, b"00061").offset == 61
        assert client.status()["pid"] == successor.process.pid
        assert [int(record.data[:5]) for record in read_all(orders)] == list(range(62))


AUTOSTART = """
import json, os, select
import ringwal
with ringwal.connect("log", autostart=True, timeout=30.0) as client:
    first = client.status()
    client.stream("s").append(b"0").result()
    os.chdir("elsewhere")
    ended = os.pidfd_open(first["pid"])
    os.kill(first["pid"], 9)
    select.select([ended], [], [])
    try:
        acks = [client.stream("s").append(b"1").result()]
    except ringwal.NotRunning:
        acks = [client.stream("s").append(b"1").result()]
    second = client.status()
    print(json.dumps([first, second, acks]))
"""


def test_a_client_starts_an_engine_where_it_did_before(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", AUTOSTART]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=2 * WAIT, cwd=tmp_path, env=environment(CHECKOUT)
    )
    assert done.returncode == 0, done.stderr
    first, second, acks = json.loads(done.stdout)
    assert first["directory"] == second["directory"] == str(directory)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert acks[0] == ["s", 1, 1]
    until(lambda: state_of(second["pid"]) in "ZX", "the engine has ended with its last client")
    assert list(elsewhere.iterdir()) == []


def test_a_client_stays_with_its_log_and_a_new_one_takes_what_is_there(directory: Path, start: Callable[..., Engine]) -> None:
    running = start()
    with ringwal.connect(directory) as client:
        stream = client.stream("s")
        assert stream.append(b"first log").result(WAIT).offset == 0
        assert running.terminate() == 0
        directory.rename(directory.with_name("old"))
        with pytest.raises(ringwal.NotRunning):
            stream.append(b"nobody is there")
        start()
        with pytest.raises(ringwal.NotRunning, match="holds another log") as refused:
            stream.append(b"to the first log")
        assert (refused.value.outcome, refused.value.retriable) == ("not_appended", False)
        with ringwal.connect(directory) as fresh:
            assert fresh.stream("s").append(b"second log").result(WAIT).offset == 0
            assert [record.data for record in fresh.stream("s").read(0)] == [b"second log"]
