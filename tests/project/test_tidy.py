"""The rules of the house, as tests. A message names file and line, and what to do."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringwal.words import WORDS
from tests.support import house_rules

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "engine"
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
ROOMS_ON_DISK = ("engine", "csrc", "docs", "tests", "bench", ".ci")
TEXT_SUFFIXES = {".py", ".pyi", ".c", ".h", ".cdef", ".md", ".toml", ".in", ".sh", ".txt", ""}
# Rendered from engine.cdef by tests/support/native_stub.py: as long as the C core's face is wide.
RENDERED = {SOURCE / "ringwal" / "_native.pyi"}

# Where the length of a wait is the fault itself, or nothing tells when another process is ready; see host.pause.
SLEEPER = ROOT / "tests" / "faults" / "host.py"

# Who may import whom: a module imports its own room and rooms that stand lower, never a neighbour of the same height.
ROOMS: dict[str, tuple[int, set[str]]] = {
    "_native": (0, {"ringwal._native"}),
    "errors": (1, {"ringwal.errors"}),
    "plain": (
        1,
        {"ringwal.version", "ringwal.textio", "ringwal.points", "ringwal.lock_file", "ringwal.thread_lock", "ringwal.standard"}
        | {"ringwal.limits", "ringwal.held", "ringwal.greenlets", "ringwal.words", "ringwal.views"},
    ),
    "config": (2, {"ringwal.config"}),
    "file errors": (2, {"ringwal.file_errors"}),
    "exit codes": (2, {"ringwal.exit_codes"}),
    "memory": (3, {"ringwal.memory"}),
    "observer": (4, {"ringwal.observer"}),
    "protocol": (4, {"ringwal.protocol"}),
    "log": (4, {"ringwal.log"}),
    "processes": (5, {"ringwal.processes"}),
    "reader": (5, {"ringwal.reader", "ringwal.log_extents", "ringwal.log_index"}),
    "client": (
        6,
        {"ringwal.client", "ringwal.attachment", "ringwal.lane", "ringwal.receipt", "ringwal.results", "ringwal.futures"}
        | {"ringwal.autostart", "ringwal.stream"},
    ),
    "public names": (7, {"ringwal"}),
    "demo": (8, {"ringwal.demo", "ringwal.ingest"}),
    "cli": (9, {"ringwal.cli", "ringwal.cli_kit"}),
    "__main__": (10, {"ringwal.__main__"}),
}
BUILD_ONLY = {"ringwal.build_native"}
MAY_IMPORT_PROCESSES = {"processes", "public names", "cli", "__main__"}


def files(*rooms: str, suffixes: set[str]) -> list[Path]:
    found = []
    for room in rooms:
        found += [
            path
            for path in sorted((ROOT / room).rglob("*"))
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts
        ]
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = files("engine", "csrc", suffixes={".py", ".c", ".h", ".cdef"})
PYTHON = files("engine", "tests", "bench", suffixes={".py"})
C_FILES = files("csrc", "tests", "bench", suffixes={".c", ".h"})
MODULES = {module_of(path): path for path in files("engine", suffixes={".py"})}
EVERYTHING = [
    *files(*ROOMS_ON_DISK, suffixes=TEXT_SUFFIXES),
    *(path for path in sorted(ROOT.iterdir()) if path.is_file() and path.suffix in TEXT_SUFFIXES and path.name != ".git"),
]


def lines_with(pattern: str, paths: list[Path]) -> list[str]:
    """Returns "file:line: text" of every line that matches `pattern`."""
    wanted = re.compile(pattern)
    return [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wanted.search(line)
    ]


def python_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def c_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """A function's body opens and closes with a brace in the first column; nothing else does."""
    lines = path.read_text(encoding="utf-8").splitlines()
    opened = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            opened = number
        elif line == "}" and opened is not None:
            yield lines[opened - 2], opened, number - opened + 1
            opened = None


def test_the_rooms_are_found() -> None:
    # Every other test here passes on an empty list of files.
    assert {"ringwal.errors", "ringwal.memory", "ringwal"} <= set(MODULES)
    assert {"record.c", "atomics.h", "persisted.c"} <= {path.name for path in C_FILES}
    assert {"README.md", "pyproject.toml", "run", "engine.cdef"} <= {path.name for path in EVERYTHING}
    assert sum(1 for path in C_FILES for _ in c_functions(path)) > 50


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES if path not in RENDERED}
    assert {name: length for name, length in lengths.items() if length > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    found = [(path, *one) for path in files("engine", "bench", suffixes={".py"}) for one in python_functions(path)]
    found += [(path, *one) for path in C_FILES for one in c_functions(path)]
    assert [f"{name_of(path)}:{at} {name}: {n}" for path, name, at, n in found if n > FUNCTION_LINES_MAX] == []


def test_memory_orders_stand_in_one_file() -> None:
    others = [path for path in C_FILES if path.name != "atomics.h"]
    assert lines_with(r"__ATOMIC_|__atomic_|__sync_|memory_order|_Atomic\b|stdatomic|\bvolatile\b", others) == []


def test_every_pair_has_two_sides() -> None:
    # `PAIR: name` marks an access whose order only means something together with the access on the other side.
    tags: Counter[str] = Counter()
    for path in C_FILES:
        tags.update(re.findall(r"PAIR: ([\w/ ]*\w)", path.read_text(encoding="utf-8")))
    assert tags
    assert [tag for tag, times in tags.items() if times < 2] == []


def test_one_file_changes_persisted_bytes() -> None:
    others = [path for path in files("csrc", suffixes={".c", ".h"}) if path.stem != "persisted"]
    changes = lines_with(r"[.>]persisted\s*(=[^=]|\+\+|[-+|&^]=)|&[\w>.()-]+[.>]persisted\b", others)
    # A private copy of a record header, on its way to the checksum, is nobody's persisted byte.
    assert [change for change in changes if not re.search(r"\bcopy\.persisted = 0;", change)] == []
    assert lines_with(r"rw_cas8\(", [path for path in others if path.name != "atomics.h"]) == []


def test_python_reads_shared_words_through_c() -> None:
    words = frozenset(word.name for word in WORDS)
    found = [
        f"{name_of(path)}:{line}: {text}"
        for path in files("engine", "bench", suffixes={".py"})
        for line, text in house_rules.shared_reads(path.read_text(encoding="utf-8"), words)
    ]
    assert found == [], "see engine/ringwal/views.py"


def test_nothing_is_left_for_later() -> None:
    assert lines_with(r"\b(?:TO" r"DO|FIX" r"ME)\b", EVERYTHING) == []


def test_no_place_of_one_machine_is_named() -> None:
    assert lines_with(r"(?<![\w.}])/(?:home|root|work|Users)/\w", EVERYTHING) == []


def test_no_package_registry_is_named() -> None:
    assert lines_with(r"pypi\.(?:org|io)|pythonhosted\.(?:org)|--(?:extra-)?index-url", EVERYTHING) == []


def test_tests_do_not_sleep() -> None:
    # A sleep hopes that something has happened; wait for the thing itself.
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in files("tests", suffixes={".py"})
        if path != SLEEPER
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]
    assert calls == []


def room_of(module: str) -> str:
    """The room that names `module` or the nearest package above it. `ringwal` itself names only itself."""
    candidate = module
    while candidate:
        for room, (_, members) in ROOMS.items():
            if candidate in members and (candidate != "ringwal" or module == "ringwal"):
                return room
        candidate = candidate.rpartition(".")[0]
    pytest.fail(f"{module} stands in no room: give it one in ROOMS of test_tidy.py")


def imports_of(module: str) -> set[str]:
    """Modules of the engine that `module` imports anywhere, except for the type checker only."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    known = {*MODULES, "ringwal._native"}
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: import by the full name"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return {name for name in found if name == "ringwal" or name.startswith("ringwal.")} - {module}


@pytest.mark.parametrize("module", sorted(set(MODULES) - BUILD_ONLY))
def test_imports_point_one_way(module: str) -> None:
    room = room_of(module)
    height = ROOMS[room][0]
    for other in sorted(imports_of(module)):
        assert other not in BUILD_ONLY
        other_room = room_of(other)
        if (room, other_room) == ("errors", "_native") or other_room == room:
            continue
        assert ROOMS[other_room][0] < height, f"{module} ({room}) imports {other} ({other_room})"
        if other_room == "processes":
            assert room in MAY_IMPORT_PROCESSES, f"{module} imports {other}: meet in shared memory and on the socket"


def test_processes_do_not_import_each_other() -> None:
    bodies = {"ringwal.processes.wal", "ringwal.processes.drain"}
    supervisor = "ringwal.processes.supervisor"
    for body in bodies & set(MODULES):
        assert not (bodies | {supervisor}) & imports_of(body), body
    # The process bodies are started in one place.
    starters = {module for module in MODULES if bodies & imports_of(module)}
    assert len(starters) <= 1, starters
    assert all(starter.startswith("ringwal.processes.") for starter in starters)
