"""The fixtures that ringwal gives to the tests of others: each test has its engine, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rig
from tests.support.rig import CHECKOUT, WAIT, until

pytest_plugins = ["pytester"]


@pytest.fixture
def trial(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A place for tests of somebody else's, who has ringwal installed."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT / "engine"))
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def run(trial: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return trial.runpytest_subprocess("-p", "ringwal_pytest", *arguments, timeout=2 * WAIT)


def places(trial: pytest.Pytester) -> list[Path]:
    """Directories that engines of its tests had."""
    return [Path(line) for line in (trial.path / "places").read_text().splitlines()]


NOTE = """
from pathlib import Path
import os, pytest

@pytest.fixture(autouse=True)
def note(ringwal_dir, request):
    assert (ringwal_dir / "lock").exists()
    with Path(request.config.rootpath, "places").open("a") as places:
        places.write(f"{ringwal_dir}\\n")
"""


def test_each_test_has_an_engine_of_its_own_and_nothing_is_left(trial: pytest.Pytester) -> None:
    trial.makepyfile(
        NOTE
        + """
@pytest.mark.parametrize("n", range(2))
def test_empty(ringwal_client, ringwal_dir, n):
    assert ringwal_client.path == ringwal_dir
    assert ringwal_client.streams() == []
    assert ringwal_client.stream("s").append(b"x").result().offset == 0

def test_fails(ringwal_client):
    ringwal_client.stream("s").append(b"x")
    assert False

def test_kills(ringwal_client):
    os.kill(ringwal_client.status()["pid"], 9)

def test_stops_it(ringwal_client):
    os.kill(ringwal_client.status()["pid"], 19)

def test_removes(ringwal_dir):
    import shutil
    shutil.rmtree(ringwal_dir)
"""
    )
    run(trial).assert_outcomes(passed=5, failed=1)
    found = places(trial)
    assert len(set(found)) == 6
    assert not [place for place in found if place.parent.exists()]


def test_it_works_where_tests_run_side_by_side(trial: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    trial.makepyfile(
        NOTE
        + """
@pytest.mark.parametrize("n", range(6))
def test_alone(ringwal_client, n):
    assert ringwal_client.stream("s").append(b"x").result().offset == 0
"""
    )
    run(trial, "-n", "2").assert_outcomes(passed=6)
    found = places(trial)
    assert len(set(found)) == 6
    assert not [place for place in found if place.parent.exists()]


def test_an_engine_that_cannot_start_is_an_error_that_says_why(
    trial: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.makepyfile(
        """
import resource

def test_never(ringwal_client):
    assert False

def setup_module():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
"""
    )
    result = run(trial)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ringwal_dir: the engine could not start and ended with code *", "*FileError*"])
    result.stdout.no_fnmatch_line("*Traceback*pytest*")


def test_an_engine_leaves_when_its_pytest_is_killed(trial: pytest.Pytester) -> None:
    trial.makepyfile(
        """
def test_long(ringwal_client, request):
    from pathlib import Path
    import os
    draft = Path(request.config.rootpath, "draft")
    draft.write_text(f"{os.getpid()} {ringwal_client.status()['pid']}")
    draft.rename(draft.with_name("there"))
    with open(request.config.rootpath / "fifo") as never:
        never.read()
"""
    )
    os.mkfifo(trial.path / "fifo")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ringwal_pytest", f"--basetemp={trial.path / 'base'}"]
    with subprocess.Popen(command, cwd=trial.path, stdout=subprocess.DEVNULL) as process:
        there = trial.path / "there"
        until(there.exists, "the test runs")
        own, engine = map(int, there.read_text().split())
        assert own == process.pid
        process.send_signal(signal.SIGKILL)
    until(lambda: rig.state_of(engine) in "XZ", "the engine has ended")


def test_nothing_is_loaded_before_a_fixture_is_used(trial: pytest.Pytester) -> None:
    trial.makepyfile(
        """
import sys

def test_without():
    assert "ringwal_pytest" in sys.modules
    assert not [name for name in sys.modules if name == "ringwal" or name.startswith("ringwal.")]
"""
    )
    run(trial).assert_outcomes(passed=1)


def test_the_plugin_is_there_where_ringwal_is_installed() -> None:
    from importlib.metadata import entry_points

    found = [point.value for point in entry_points(group="pytest11", name="ringwal_pytest")]
    assert found == ["ringwal_pytest"], "an older installation? pip install -e '.[test]'"


def test_the_example_of_the_documents_passes(trial: pytest.Pytester) -> None:
    text = (CHECKOUT / "docs" / "testing.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    trial.makepyfile(example)
    run(trial).assert_outcomes(passed=2)
