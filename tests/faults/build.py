"""Scratch copies of the checkout, built apart from it: with the named points of csrc/points.h, with sanitizers, or with a
defect."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.host import ROOT, NotRun

PARTS = ("engine", "csrc", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
NOT_COPIED = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "_native.c", "build")
LIBRARY = "engine/ringwal/_native.abi3.so"


def copy(to: Path) -> Path:
    """Everything that a build and the campaign need."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, to / part, ignore=NOT_COPIED)
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, to / part)
    return to


def build(root: Path, *, points: bool = False, env: Mapping[str, str] | None = None) -> str:
    """Compiles the copy's core in place; returns what the build said. Raises NotRun: it cannot be compiled here."""
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=root,
        env={**os.environ, **({"RINGWAL_POINTS": "1"} if points else {}), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotRun(f"the core cannot be built: {done.stderr.strip()[-200:]}")
    return done.stdout


@functools.cache
def with_points() -> Path:
    """A copy that stops at named points; made once, gone at the end."""
    root = Path(tempfile.mkdtemp(prefix="ringwal-points-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    copy(root)
    build(root, points=True)
    return root


@functools.cache
def fixed_addresses() -> tuple[str, ...]:
    """The command that runs a program without address space randomisation, or nothing where that is not allowed: shadow
    memory of older sanitizers collides with some kernels' layouts."""
    command = ("setarch", "-R")
    able = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if able else ()


def can_link(compiler: str, *flags: str) -> bool:
    """Has this compiler what the flags ask for?"""
    if shutil.which(compiler) is None:
        return False
    program = "int main(void) { return 0; }\nint LLVMFuzzerTestOneInput(void) { return 0; }\n"
    if "-fsanitize=fuzzer" in flags:
        program = program.partition("\n")[2]  # its main is libFuzzer's
    command = [compiler, *flags, "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=program.encode(), capture_output=True, check=False).returncode == 0


@functools.cache
def with_sanitizers() -> tuple[Path, dict[str, str]]:
    """A copy with AddressSanitizer and UndefinedBehaviorSanitizer, which end the process that they find something in; and
    the environment that its processes need. Made once, gone at the end. Raises NotRun."""
    compiler = "gcc"
    if not can_link(compiler, "-fsanitize=address,undefined"):
        raise NotRun("needs gcc with its sanitizers")
    named = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    runtime = Path(named.stdout.strip())
    root = Path(tempfile.mkdtemp(prefix="ringwal-asan-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    copy(root)
    build(root, env={"RINGWAL_SANITIZE": "address,undefined", "CC": compiler, "LDSHARED": f"{compiler} -shared"})
    return root, {
        "LD_PRELOAD": str(runtime.resolve()),  # the interpreter was linked without it
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }


@dataclasses.dataclass(frozen=True)
class Workshop:
    """A built copy with its object files, so that a change to one source costs one compilation."""

    root: Path
    compiles: dict[str, list[str]]
    """Source, relative to the copy, and the command that compiles it."""
    link: list[str]

    @classmethod
    def make(cls, root: Path) -> Self:
        """Raises NotRun: the core cannot be compiled here."""
        copy(root)
        commands = [shlex.split(line) for line in build(root, points=False).splitlines() if " -o " in line]
        compiles = {command[command.index("-c") + 1]: command for command in commands if "-c" in command}
        (link,) = (command for command in commands if "-c" not in command)
        link[link.index("-o") + 1] = LIBRARY
        return cls(root, compiles, link)

    def replica(self, to: Path) -> Path:
        """Another one of it, built as it is."""
        return shutil.copytree(self.root, to)

    def rebuild(self, root: Path, changed: str) -> None:
        """Builds a replica in which ``changed`` is another: one object of a C file, all of them for a header.

        Raises subprocess.CalledProcessError: it cannot be compiled.
        """
        if not changed.startswith("csrc/"):
            return
        sources = [changed] if changed in self.compiles else list(self.compiles)
        for command in (*(self.compiles[source] for source in sources), self.link):
            subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)


@functools.cache
def workshop() -> Workshop:
    """Made once, gone at the end."""
    root = Path(tempfile.mkdtemp(prefix="ringwal-workshop-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Workshop.make(root / "base")


def at(point: str, hit: int | str, action: str, once: Path | None = None) -> dict[str, str]:
    """The environment that makes a process do ``action`` at its ``hit``-th visit ("*": each); with ``once``, while that file
    exists."""
    environment = {"RINGWAL_POINT": f"{point}:{hit}:{action}"}
    return environment if once is None else {**environment, "RINGWAL_POINT_ONCE": str(once)}
