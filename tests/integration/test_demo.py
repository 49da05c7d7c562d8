"""The demo: what it writes, and whole runs with real kills."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal.demo import corpus
from tests.support import shm_names


def test_corpus_names_a_stream_for_each_top_level_package(tmp_path: Path) -> None:
    for name in ("os.py", "json/__init__.py", "json/decoder.py", "site-packages/x.py", "json/__pycache__/y.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"one\ntwo\n")
    files = corpus.sources(tmp_path)
    assert [source.stream for source in files] == ["os", "json", "json"]
    assert corpus.streams(files) == ["hot", "json", "os"]
    endless = corpus.lines(files[:1])
    assert [next(endless) for _ in range(3)] == [("os", b"one"), ("os", b"two"), ("os", b"one")]


def test_the_corpus_of_this_python_is_real_text() -> None:
    files = corpus.sources()
    assert {"json", "asyncio", "os"} <= {source.stream for source in files}


@pytest.mark.parametrize("nothing", [[], ["empty.py"]])
def test_a_corpus_without_lines_is_an_error_and_not_an_endless_loop(tmp_path: Path, nothing: list[str]) -> None:
    for name in nothing:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="no line"):
        next(corpus.lines(corpus.sources(tmp_path)))


# ------------------------------------------------------------------------------------------- the demo as a whole

DEADLINE = 100.0


@contextlib.contextmanager
def running_demo(temp: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in `temp` whose writers are at work."""
    command = [sys.executable, "-m", "ringwal", "demo", "--temp", str(temp), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stderr is not None
            while "writers at work" not in (line := demo.stderr.readline()):
                assert line, "the demo ended early"
            yield demo
        finally:
            demo.kill()


def left_behind(temp: Path) -> list[str]:
    """Files, shared memory and command lines of processes that are still there."""
    found = [*map(str, temp.iterdir()), *shm_names.left()]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(temp).encode() in (line := (entry / "cmdline").read_bytes()):
                found.append(line.decode())
    return found


def test_the_demo_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--json", "--seconds", "3") as demo:
        out, err = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, err
    result = json.loads(out)
    assert result["ok"]
    assert (result["lost"], result["duplicated"], result["out_of_order"], result["invented"]) == (0, 0, 0, 0)
    assert 0 < result["confirmed"] <= result["recovered"]
    assert sorted(kill["target"] for kill in result["kills"]) == ["drain", "drain", "wal", "wal", "writer"]
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    with running_demo(tmp_path) as demo:
        demo.send_signal(signum)
        out, err = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + signum
    assert out == ""
    assert "Traceback" not in err
    assert left_behind(tmp_path) == []


def test_a_demo_interrupted_between_its_two_engines_leaves_nothing(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--seconds", "2") as demo:
        assert demo.stderr is not None
        while "whole engine" not in (line := demo.stderr.readline()):
            assert line, "the demo ended early"
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + signal.SIGINT
    assert left_behind(tmp_path) == []
