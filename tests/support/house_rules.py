"""The rules of the house. Each is a function from sources, text by path below the root, to findings, which name file and line.

test_tidy.py holds them against the project, and against made-up sources that break them: a rule that finds nothing there
finds nothing here.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import PurePath

Sources = Mapping[str, str]
Rule = Callable[[Sources], list[str]]

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
C_WIDTH_MAX = 100
# As long as what they are rendered from: tests/support/native_stub.py, tests/support/shared_words.py.
RENDERED = {"engine/ringwal/_native.pyi", "engine/ringwal/words.py"}
C = {".c", ".h"}
# Where the length of a wait is the fault itself, or nothing tells when another process is ready; see host.pause.
SLEEPER = "tests/support/host.py"

# Who may import whom: a module imports its own room and rooms that stand lower, never a neighbour of the same height.
ROOMS: dict[str, tuple[int, set[str]]] = {
    "_native": (0, {"ringwal._native"}),
    "errors": (1, {"ringwal.errors"}),
    "interrupts": (0, {"ringwal.interrupts"}),
    "plain": (
        1,
        {"ringwal.version", "ringwal.textio", "ringwal.points", "ringwal.lock_file", "ringwal.thread_lock", "ringwal.standard"}
        | {"ringwal.limits", "ringwal.held", "ringwal.greenlets", "ringwal.words", "ringwal.views", "ringwal.consumed"}
        | {"ringwal.times"},
    ),
    "steps": (2, {"ringwal.steps"}),
    "config": (2, {"ringwal.config", "ringwal.retention"}),
    "file errors": (2, {"ringwal.file_errors"}),
    "exit codes": (2, {"ringwal.exit_codes"}),
    "memory": (3, {"ringwal.memory"}),
    "observer": (4, {"ringwal.observer"}),
    "protocol": (4, {"ringwal.protocol"}),
    "log": (4, {"ringwal.log"}),
    "processes": (5, {"ringwal.processes"}),
    "read": (5, {"ringwal.read"}),
    "model": (2, {"ringwal.model"}),
    "positions": (6, {"ringwal.positions"}),
    "client": (7, {"ringwal.client", "ringwal.payloads", "ringwal.backups", "ringwal.offline"}),
    "public names": (8, {"ringwal"}),
    "asyncio": (8, {"ringwal.aio"}),
    "demo": (9, {"ringwal.demo", "ringwal.ingest"}),
    "for applications": (9, {"ringwal.logging", "ringwal.delivery", "ringwal_pytest"}),
    "cli": (
        10,
        {"ringwal.cli", "ringwal.cli_kit", "ringwal.cli_read", "ringwal.cli_streams"}
        | {"ringwal.cli_offline", "ringwal.cli_dump", "ringwal.cli_backup", "ringwal.cli_source", "ringwal.cli_settings",
           "ringwal.cli_follow", "ringwal.cli_consumer"},
    ),
    "__main__": (11, {"ringwal.__main__", "ringwal_command"}),
}
BUILD_ONLY = {"ringwal.build_native"}
# Of the engine's processes nobody knows but those who start them; all others meet them in memory, on the socket, on the disk.
MAY_IMPORT_PROCESSES = {"processes", "public names", "cli", "__main__"}
STRANGERS = {("processes", "client"), ("processes", "read"), ("log", "client"), ("log", "read")}
BODIES = {"ringwal.processes.wal", "ringwal.processes.drain", "ringwal.processes.keeper"}
SUPERVISOR = "ringwal.processes.supervisor"


def chosen(sources: Sources, rooms: tuple[str, ...], suffixes: Set[str]) -> dict[str, str]:
    return {
        name: text
        for name, text in sources.items()
        if name.startswith(tuple(r + "/" for r in rooms)) and suffix(name) in suffixes
    }


def suffix(name: str) -> str:
    return PurePath(name).suffix


def lines_with(pattern: str, sources: Sources) -> list[str]:
    wanted = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        if wanted.search(line)
    ]


# ------------------------------------------------------------------------------------------------------------ shape


def files_are_short(sources: Sources) -> list[str]:
    lengths = {name: text.count("\n") for name, text in chosen(sources, ("engine", "csrc"), {".py", ".cdef"} | C).items()}
    return [f"{name}: {n}" for name, n in lengths.items() if n > FILE_LINES_MAX and name not in RENDERED]


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def c_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """A function's body opens and closes with a brace in the first column; nothing else does."""
    lines = text.splitlines()
    opened = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            opened = number
        elif line == "}" and opened is not None:
            yield lines[opened - 2], opened, number - opened + 1
            opened = None


def functions_are_short(sources: Sources) -> list[str]:
    found = [
        (name, *one) for name, text in chosen(sources, ("engine", "bench"), {".py"}).items() for one in python_functions(text)
    ]
    found += [
        (name, *one)
        for name, text in chosen(sources, ("csrc", "tests", "bench"), C).items()
        if name != "csrc/views.c"  # rendered
        for one in c_functions(text)
    ]
    return [f"{name}:{at} {what}: {n}" for name, what, at, n in found if n > FUNCTION_LINES_MAX]


DRAWING = re.compile(r"^ \*.*(?:[|│▲└═─►]|\+--)")


def c_lines_are_short(sources: Sources) -> list[str]:
    """Drawings are as wide as they are."""
    return [
        f"{name}:{number}: {len(line)} characters"
        for name, text in chosen(sources, ("csrc", "tests"), C).items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > C_WIDTH_MAX and not DRAWING.search(line)
    ]


# ------------------------------------------------------------------------------------------------------ shared words


def memory_orders_stand_in_one_file(sources: Sources) -> list[str]:
    others = {name: text for name, text in chosen(sources, ("csrc", "tests", "bench"), C).items() if name != "csrc/atomics.h"}
    return lines_with(r"__ATOMIC_|__atomic_|__sync_|memory_order|_Atomic\b|stdatomic|\bvolatile\b", others)


def every_pair_has_two_sides(sources: Sources) -> list[str]:
    """`PAIR: name` marks an access whose order only means something together with the access on the other side."""
    tags: Counter[str] = Counter()
    for text in chosen(sources, ("csrc", "tests", "bench"), C).values():
        tags.update(re.findall(r"PAIR: ([\w/ ]*\w)", text))
    return [tag for tag, times in tags.items() if times < 2]


def one_file_changes_persisted_bytes(sources: Sources) -> list[str]:
    others = {name: text for name, text in chosen(sources, ("csrc",), C).items() if PurePath(name).stem != "persisted"}
    changes = lines_with(r"[.>]persisted\s*(=[^=]|\+\+|[-+|&^]=)|&[\w>.()-]+[.>]persisted\b", others)
    # A private copy of a record header, on its way to the checksum, is nobody's persisted byte.
    found = [change for change in changes if not re.search(r"\bcopy\.persisted = 0;", change)]
    return found + lines_with(r"rw_cas8\(", {name: text for name, text in others.items() if name != "csrc/atomics.h"})


SHARED_POINTER = re.compile(r"(?:^|[._])(?:control|pointer)$")
SHARED_STRUCT = re.compile(r"\brw_(?:slot|stream|completions|block_entry)_of$")


def shared_reads(text: str, words: Set[str]) -> Iterator[tuple[int, str]]:
    """Line and text of each read or store of a field of a shared struct.

    A pointer to one is called `control` or `pointer`, comes from `rw_..._of`, or is a name that was given one of these.
    """
    tree = ast.parse(text)
    aliases: set[str] = set()

    def shared(node: ast.expr) -> bool:
        told = ast.unparse(node)
        if isinstance(node, ast.Call):
            return bool(SHARED_STRUCT.search(ast.unparse(node.func)))
        return told in aliases or bool(SHARED_POINTER.search(told))

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and shared(node.value):
            aliases |= {ast.unparse(target) for target in node.targets}
    for node in ast.walk(tree):
        of_word = isinstance(node, ast.Attribute) and node.attr in words and shared(node.value)
        by_name = isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr"} and shared(node.args[0])
        if of_word or by_name:
            assert isinstance(node, ast.Attribute | ast.Call)
            yield node.lineno, ast.unparse(node)


def python_reads_shared_words_through_c(sources: Sources) -> list[str]:
    """See engine/ringwal/views.py."""
    words = set(re.findall(r'^    Word\("\w+", "(\w+)"', sources["engine/ringwal/words.py"], re.MULTILINE))
    return [
        f"{name}:{line}: {read}"
        for name, text in chosen(sources, ("engine", "bench"), {".py"}).items()
        for line, read in shared_reads(text, words)
    ]


# ------------------------------------------------------------------------------------------------------------ texts


def nothing_is_left_for_later(sources: Sources) -> list[str]:
    return lines_with(r"\b(?:TO" r"DO|FIX" r"ME)\b", sources)


def no_place_of_one_machine_is_named(sources: Sources) -> list[str]:
    return lines_with(r"(?<![\w.}])/(?:home|root|work|Users)/\w", sources)


def no_package_registry_is_named(sources: Sources) -> list[str]:
    return lines_with(r"pypi\.(?:org|io)|pythonhosted\.(?:org)|--(?:extra-)?index-url", sources)


def tests_do_not_sleep(sources: Sources) -> list[str]:
    """A sleep hopes that something has happened; wait for the thing itself."""
    return [
        f"{name}:{node.lineno}"
        for name, text in chosen(sources, ("tests",), {".py"}).items()
        if name != SLEEPER
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]


FILE_NAME = re.compile(r"(?<![\w/.{}*<>$-])((?:[\w-]+/)*[\w-]+\.(?:py|pyi|c|h|cdef|md|toml|pml))(?![\w*])")
"""A file of the project as comments and documents name it. What is made at run time has other suffixes."""
OTHERS_FILES = {"Python.h", "assert.h", "sysexits.h", "doc/xxhash_spec.md", "first.py"}
"""Of other projects, and one that the first page has its reader write."""
OTHERS_NAMES = {"rw_rec", "RW_NAME"}
"""Of a drawing that has no room for more; an example of a name."""


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that are for people: comments and docstrings of code, all of a document."""
    if suffix(name) in {".c", ".h", ".cdef"}:
        for comment in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL):
            first = text.count("\n", 0, comment.start()) + 1
            yield from enumerate(comment.group().splitlines(), first)
    elif suffix(name) == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield from enumerate(node.value.value.splitlines(), node.lineno)
        for number, line in enumerate(text.splitlines(), 1):
            if found := re.search(r"(?:^|\s)#\s(.*)$", line):
                yield number, found[1]
    else:
        yield from enumerate(text.splitlines(), 1)


def all_prose(sources: Sources) -> Iterator[tuple[str, int, str]]:
    for name, text in sources.items():
        if suffix(name) in {".c", ".h", ".cdef", ".py", ".md"}:
            for number, line in prose(name, text):
                yield name, number, line


def files_that_are_named_exist(sources: Sources) -> list[str]:
    """A name may leave out folders in front."""
    ends = {"/".join(parts[i:]) for name in sources for parts in [name.split("/")] for i in range(len(parts))} | OTHERS_FILES
    return [
        f"{name}:{number}: there is no {named}"
        for name, number, line in all_prose(sources)
        for named in FILE_NAME.findall(line)
        if named not in ends
    ]


def code_of(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def what_is_said_of_c_is_there(sources: Sources) -> list[str]:
    """Names of C anywhere in prose; and what is said to be in a certain header, as in `(wal_state.h: THE IDLE WATERMARK)`."""
    c = chosen(sources, ("csrc", "tests"), C | {".cdef"})
    names = {name for text in c.values() for name in re.findall(r"\b(?:rw|RW)_\w+", code_of(text))} | OTHERS_NAMES
    by_file = {PurePath(name).name: text for name, text in c.items() if name.startswith("csrc/")}
    found = []
    for name, number, line in all_prose(sources):
        found += [
            f"{name}:{number}: there is no {one}" for one in re.findall(r"\b(?:rw|RW)_\w+\b(?!\*)", line) if one not in names
        ]
        pointers = re.findall(r"\b(\w+\.[ch])[:,] ([A-Z][A-Z' ]+[A-Z]\b|rw_\w+)", line)
        pointers += [(file, what) for what, file in re.findall(r"\b(rw_\w+)`? \(`?(?:csrc/)?(\w+\.[ch])\b", line)]
        found += [
            f"{name}:{number}: {file} says nothing of {what}" for file, what in pointers if what not in by_file.get(file, what)
        ]
    return found


def tests_that_are_named_exist(sources: Sources) -> list[str]:
    known = {PurePath(name).stem for name in sources}
    for text in chosen(sources, ("tests", "docs"), {".py", ".md"}).values():  # an example may be a test
        known |= set(re.findall(r"\bdef (test_\w+)", text))
    return [
        f"{name}:{number}: there is no {one}"
        for name, number, line in all_prose(sources)
        for one in re.findall(r"\btest_\w+\b", line)
        if one not in known
    ]


def every_file_has_its_room_in_the_architecture(sources: Sources) -> list[str]:
    rooms = sources["ARCHITECTURE.md"].split("\n## Rooms\n")[1].split("\n## ")[0]
    said = {word.rstrip("/").removesuffix(".h") for word in re.findall(r"`([\w./]+)`", rooms)}
    there = {PurePath(name).stem for name in chosen(sources, ("csrc",), C)}
    there |= {module.split(".")[1] for module in modules(sources) if "." in module}
    return sorted(there - said)


# ---------------------------------------------------------------------------------------------------------- imports


def modules(sources: Sources) -> dict[str, str]:
    """Text by the name of the module."""
    found = {}
    for name, text in chosen(sources, ("engine",), {".py"}).items():
        parts = list(PurePath(name).with_suffix("").parts[1:])
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = text
    return found


def imports_of(module: str, text: str, known: Set[str]) -> set[str]:
    """Modules of the engine that `module` imports anywhere, except for the type checker only."""
    tree = ast.parse(text)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for inner in ast.walk(node)
    }
    found: set[str] = set()
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


def imports(sources: Sources) -> dict[str, set[str]]:
    texts = modules(sources)
    known = {*texts, "ringwal._native"}
    return {module: imports_of(module, text, known) for module, text in texts.items() if module not in BUILD_ONLY}


def room_of(module: str) -> str | None:
    """The room that names `module` or the nearest package above it. `ringwal` itself names only itself."""
    candidate = module
    while candidate:
        for room, (_, members) in ROOMS.items():
            if candidate in members and (candidate != "ringwal" or module == "ringwal"):
                return room
        candidate = candidate.rpartition(".")[0]
    return None


def imports_point_one_way(sources: Sources) -> list[str]:
    found = []
    for module, others in imports(sources).items():
        room = room_of(module)
        if room is None:
            found.append(f"{module} stands in no room: give it one in ROOMS of house_rules.py")
            continue
        for other in sorted(others):
            other_room = room_of(other)
            if other_room is None or other in BUILD_ONLY:
                found.append(f"{module} imports {other}, which is no module")
            elif other_room != room and ROOMS[other_room][0] >= ROOMS[room][0]:
                found.append(f"{module} ({room}) imports {other} ({other_room}), which does not stand lower")
    return found


def strangers_do_not_import_each_other(sources: Sources) -> list[str]:
    return [
        f"{module} imports {other}: meet in shared memory and on the socket"
        for module, others in imports(sources).items()
        for other in sorted(others)
        for rooms in [(room_of(module), room_of(other))]
        if rooms in STRANGERS or (rooms[1] == "processes" and rooms[0] not in MAY_IMPORT_PROCESSES)
    ]


def processes_do_not_import_each_other(sources: Sources) -> list[str]:
    found = imports(sources)
    bad = [f"{body} imports {other}" for body in BODIES for other in found.get(body, set()) & (BODIES | {SUPERVISOR})]
    starters = sorted(module for module, others in found.items() if BODIES & others)
    if len(starters) > 1 or not all(starter.startswith("ringwal.processes.") for starter in starters):
        bad.append(f"the process bodies are started in one place, and not in {', '.join(starters)}")
    return bad


def no_modules_import_each_other(sources: Sources) -> list[str]:
    return [" and ".join(group) for group in cycles(imports(sources))]


def cycles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found
