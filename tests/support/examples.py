"""Runs the examples of a page as a reader would who goes from its top to its end.

All of a page runs in one directory. A `python` block is a program of its own, behind the latest hidden `python` block; the
`sh` blocks, hidden ones too, are typed into one shell, a line at a time. Shown output is compared: that of a program is the
`text` block right behind it, that of a command the comment lines below it. In both `...` stands for anything: for lines, where
it is a line, else for the rest of a word or line.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.markdown import Block, blocks

DEADLINE = 60.0
MARK = "--- done:"
# `serve DIR [OPTION...]` for hidden blocks: an engine that is ready when it returns, and ends with the shell.
PREAMBLE = """
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
serve() { mkfifo ready; exec {ready}<>ready; rm ready; ringwal run "$@" >&"$ready" 2>>engine.err & read -r -u "$ready"; }
"""


class ExampleError(AssertionError):
    """An example that does not do what its page says."""


class Shell:
    """A bash that is told one command after the other."""

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=place, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._said = b""
        self.run(PREAMBLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output. The next command finds the code in `$?`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f'{{ {command}\n}} </dev/null; code=$?; echo "{MARK} $code"; (exit $code)\n'.encode())
        stdin.flush()
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(rb"^%s (\d+)\n" % MARK.encode(), self._said, re.MULTILINE)):
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ExampleError(f"no end after {DEADLINE:g} s; it said {self._said.decode()!r}")
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise ExampleError(f"the shell has ended; it said {self._said.decode()!r}")
            self._said += chunk
        said, self._said = self._said[: found.start()], self._said[found.end() :]
        return int(found[1]), said.decode()


def matches(wanted: str, said: str) -> bool:
    """Whether that output is the one that the page shows."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else ".*".join(map(re.escape, line.rstrip().split("..."))) + "[ \t]*\n"
        for line in wanted.splitlines()
    )
    return re.fullmatch(pattern, said if said.endswith("\n") or not said else said + "\n") is not None


def steps(text: str) -> Iterator[tuple[str, str, int]]:
    """The commands of a `sh` block, the output that is shown below each, and the line of each within the block."""
    lines = text.replace("\\\n", "\0").splitlines()
    at, number = 0, 0
    while at < len(lines):
        command, first = lines[at].replace("\0", "\\\n"), number
        number += 1 + lines[at].count("\0")
        at += 1
        shown = []
        while at < len(lines) and lines[at].startswith("#"):
            shown.append(lines[at].removeprefix("#").removeprefix(" "))
            at, number = at + 1, number + 1
        if command.strip():
            yield command, "".join(f"{line}\n" for line in shown), first


def environment(place: Path) -> dict[str, str]:
    """`ringwal` and `python` are the ones that run the tests, by name and in `.venv/bin`, as the pages have it."""
    tools = place / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, command in (("python", ""), ("ringwal", " -m ringwal")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        (tools / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONWARNINGS": "error"}


class Page:
    """A page whose examples run in `place`, an empty directory."""

    def __init__(self, name: str, text: str, place: Path) -> None:
        self._name, self._place = name, place
        self._blocks = list(blocks(text))
        self._env = environment(place)

    def run(self) -> None:
        """Runs all that can be run.

        Raises:
            ExampleError: one does not do what the page says.
        """
        setup = ""
        with Shell(self._place, self._env) as shell:
            for at, block in enumerate(self._blocks):
                if block.not_run:
                    continue
                if block.language == "sh":
                    self._type(shell, block)
                elif block.language == "python" and block.hidden:
                    setup = block.text
                elif block.language == "python":
                    after = self._blocks[at + 1 : at + 2]
                    self._program(setup, block, after[0].text if after and after[0].language == "text" else None)

    def _type(self, shell: Shell, block: Block) -> None:
        todo = list(steps(block.text))
        for i, (command, wanted, line) in enumerate(todo):
            place = f"{self._name}:{block.line + line}: {command}"
            code, said = shell.run(command)
            asked = i + 1 < len(todo) and todo[i + 1][0] == "echo $?"
            if code != 0 and not asked:
                raise ExampleError(f"{place}\nended with code {code} and said:\n{said}")
            if wanted and not matches(wanted, said):
                raise ExampleError(f"{place}\nsaid:\n{said}and the page shows:\n{wanted}")

    def _program(self, setup: str, block: Block, wanted: str | None) -> None:
        file = self._place / "example.py"
        file.write_text(setup + block.text)
        done = subprocess.run(
            [sys.executable, file], cwd=self._place, env=self._env,
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        place = f"{self._name}:{block.line}"
        if done.returncode != 0 or done.stderr:
            raise ExampleError(f"{place}: ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        if wanted is not None and not matches(wanted, done.stdout):
            raise ExampleError(f"{place}: said:\n{done.stdout}and the page shows:\n{wanted}")
