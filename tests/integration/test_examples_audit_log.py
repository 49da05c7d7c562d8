"""examples/audit_log as it is run: nothing is changed of which the trail does not tell, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ringwal
from tests.support import rig
from tests.support.programs import Program
from tests.support.rig import until

LOG, DATABASE = "audit.d", "accounts.db"
PROGRAMS = 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the example's programs."""
    source = rig.CHECKOUT / "examples" / "audit_log"
    return Path(shutil.copytree(source, tmp_path / "example", ignore=shutil.ignore_patterns("__pycache__")))


class Clerk:
    """One `accounts.py`, which is told to grant one role after the other, and to show each."""

    def __init__(self, name: str, program: Program) -> None:
        self.name, self.program = name, program
        self.done: dict[str, tuple[str, int]] = {}
        """User, role and record of what it says is done."""
        self.not_done: list[str] = []
        self.shown: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        number = 0
        with contextlib.suppress(AssertionError, OSError):  # it was killed
            while not self._stop.is_set():
                user, role = f"{self.name}-{number}", f"role{number}"
                number += 1
                self.program.tell(f"{self.name} grant {user} {role}")
                said = self.program.line()
                if said.startswith("not done"):
                    self.not_done.append(user)
                    continue
                self.done[user] = (role, int(said.split("(record ")[1].rstrip(")")))
                self.program.tell(f"{self.name} show {user}")
                assert self.program.line() == f"{user} is {role}"
                self.shown.append(user)

    def stop(self) -> None:
        """Returns when it has said its last."""
        self._stop.set()
        self._thread.join()

    def end(self) -> None:
        """An orderly end, with what it logs."""
        self.stop()
        assert self.program.process.stdin is not None
        self.program.process.stdin.close()
        assert self.program.wait() == (1 if self.not_done else 0), self.program.said()


def records(directory: Path, stream: str) -> list[dict[str, str]]:
    with ringwal.open_readonly(directory) as log:
        return [json.loads(record.data) for record in log.stream(stream).records()]


def command(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=place, env=rig.environment(rig.CHECKOUT), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_changed_of_which_the_trail_does_not_tell_whatever_is_killed(place: Path) -> None:
    with contextlib.ExitStack() as programs:
        clerks = [Clerk(f"c{n}", programs.enter_context(Program("accounts.py", place=place))) for n in range(PROGRAMS)]
        for clerk in clerks:
            programs.callback(clerk.stop)

        def await_more(*these: Clerk) -> None:
            before = [len(clerk.shown) for clerk in these]
            until(
                lambda: all(len(clerk.shown) > count + 5 for clerk, count in zip(these, before, strict=True)),
                "each has done more",
            )

        await_more(*clerks)
        for victim in ("wal_pid", "drain_pid", "pid"):
            with ringwal.connect(place / LOG, timeout=rig.WAIT) as client:
                os.kill(client.status()[victim], signal.SIGKILL)
            await_more(*clerks)
        killed, others = clerks[0], clerks[1:]
        killed.program.process.kill()
        await_more(*others)
        for clerk in others:
            clerk.end()
        killed.stop()

    changes, views = records(place / LOG, "changes"), records(place / LOG, "views")
    for clerk in clerks:
        for user, (role, offset) in clerk.done.items():
            told = changes[offset]
            assert (told["actor"], told["action"], told["object"]) == (clerk.name, f"granted {role}", user)
    with contextlib.closing(sqlite3.connect(place / DATABASE)) as database:
        rows = database.execute("SELECT user, role, record FROM roles").fetchall()
    for user, role, offset in rows:
        assert (changes[offset]["object"], changes[offset]["action"]) == (user, f"granted {role}")
    assert {user for user, _, _ in rows} >= {user for clerk in clerks for user in clerk.done}
    assert {user for user, _, _ in rows}.isdisjoint(user for clerk in clerks for user in clerk.not_done)
    assert len({told["object"] for told in changes}) == len(changes), "none is there twice"
    looked = [told["object"] for told in views if told["actor"]]
    assert len(set(looked)) == len(looked)
    missing = {user for clerk in clerks for user in clerk.shown} - set(looked)
    told_missing = sum("log records before this one" in told["action"] for told in views)
    assert not missing or told_missing, "what is lost of a look is said in the stream"

    shown = command(place, "who.py", "--since", "1h").splitlines()
    assert len(shown) == len(changes) + len(views)
    assert shown == sorted(shown, key=lambda line: line.split()[0])
    mine = command(place, "who.py", "--since", "1h", "--actor", "c1").splitlines()
    assert {line.split()[2] for line in mine} == {"c1"}
    command(place, "-m", "ringwal", "verify", "--deep", LOG)
    command(place, "-m", "ringwal", "backup", LOG, "audit.backup")
    assert command(place, "who.py", "audit.backup").splitlines() == shown


def test_a_change_is_not_made_without_its_record_and_a_look_needs_none(place: Path) -> None:
    with contextlib.closing(rig.Engine(place / LOG)) as engine:
        env = {"AUDIT_AUTOSTART": "no"}
        with Program("accounts.py", place=place, env=env) as program:
            program.tell("alice grant bob editor")
            assert program.line() == "bob is editor (record 0)"
            assert engine.terminate() == 0
            program.tell("alice show bob")
            assert program.line() == "bob is editor"
            program.tell("alice grant bob admin")
            assert program.line() == "not done: alice grant bob admin; the trail's record: not_appended"
            program.tell("alice show bob")
            assert program.line() == "bob is editor"
    assert [told["action"] for told in records(place / LOG, "changes")] == ["granted editor"]
