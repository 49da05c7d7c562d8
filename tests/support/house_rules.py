"""Rules of the house that need more than a search for a text, each a function from sources to findings.

test_tidy.py holds them against the project, and against made-up sources that break them: a rule that finds nothing there
would find nothing here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

SHARED_POINTER = re.compile(r"(?:^|[._])(?:control|pointer)$")
SHARED_STRUCT = re.compile(r"\brw_(?:slot|stream|completions|block_entry)_of\(")


def shared_reads(source: str, words: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and text of each read or store of a field of a shared struct: they are read through views and functions of C.

    A pointer to one is called `control` or `pointer`, comes from `rw_..._of`, or is a name that was given one of these.
    """
    tree = ast.parse(source)
    aliases: set[str] = set()

    def shared(node: ast.expr) -> bool:
        text = ast.unparse(node)
        return text in aliases or bool(SHARED_POINTER.search(text)) or (isinstance(node, ast.Call) and is_place(node))

    def is_place(node: ast.Call) -> bool:
        return bool(SHARED_STRUCT.search(ast.unparse(node.func) + "("))

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and shared(node.value):
            aliases |= {ast.unparse(target) for target in node.targets}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in words and shared(node.value):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr"} and shared(node.args[0]):
            yield node.lineno, ast.unparse(node)


def cycles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or round a corner (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(imports.get(module, ())):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            at = stack.index(module)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1 or module in imports.get(module, ()):
                found.append(sorted(group))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return found


def long_lines(text: str, limit: int) -> list[int]:
    """Numbers of the lines with more than `limit` characters."""
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > limit]


FILE_NAME = re.compile(r"(?<![\w/.{}*<>$-])((?:[\w-]+/)*[\w-]+\.(?:py|pyi|c|h|cdef|md|toml|pml))(?![\w*])")
"""A file of the project as comments and documents name it. Not what is made at run time, which has other suffixes."""


def comments_of(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that are prose: comments and docstrings of code, all of a document."""
    if suffix in {".c", ".h", ".cdef"}:
        for comment in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL):
            first = text.count("\n", 0, comment.start()) + 1
            yield from enumerate(comment.group().splitlines(), first)
    elif suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield from enumerate(node.value.value.splitlines(), node.lineno)
        for number, line in enumerate(text.splitlines(), 1):
            if found := re.search(r"(?:^|\s)#\s(.*)$", line):
                yield number, found[1]
    else:
        yield from enumerate(text.splitlines(), 1)


def missing_files(text: str, suffix: str, known: frozenset[str]) -> list[tuple[int, str]]:
    """Line and name of each file that prose names and that is not there. `known`: the paths of all files; a name may leave
    out folders in front."""
    ends = {"/".join(parts[i:]) for path in known for parts in [path.split("/")] for i in range(len(parts))}
    return [
        (number, name) for number, line in comments_of(text, suffix) for name in FILE_NAME.findall(line) if name not in ends
    ]
