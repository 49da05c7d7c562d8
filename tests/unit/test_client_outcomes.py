"""Every place where an error of the tree is made says what became of the record, by its class or by itself.

What an append or a receipt may raise comes from the modules below. There an error of a class without an outcome has one of its
own, or passes the one place that gives it: `Stream._bind_to_append`, for all that attaching can meet.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringwal
from ringwal import errors
from ringwal._native import lib

ROOM = Path(ringwal.__file__).parent
OF_APPENDS = (
    *(f"client/{name}.py" for name in ("lane", "results", "stream", "stream_core", "receipt", "futures", "core", "attachment")),
    "ingest.py",
)
TREE = {name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.Error)}


class Made:
    """One place where an error is made."""

    def __init__(self, path: Path, function: str, call: ast.Call) -> None:
        assert isinstance(call.func, ast.Name)
        self.cls = TREE[call.func.id]
        self.where = f"{path.relative_to(ROOM)}:{call.lineno} {function}: {call.func.id}"
        self.key = (path.name, function)
        self.said = next((key.value for key in call.keywords if key.arg == "outcome"), None)

    def outcome(self) -> str | None:
        if isinstance(self.said, ast.Constant):
            return str(self.said.value)
        return self.cls.outcome if self.said is None else "said"


def functions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node


def made(path: Path) -> Iterator[Made]:
    for name, function in functions(path):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TREE:
                yield Made(path, name, node)


def calls(path: Path, attribute: str) -> list[tuple[str, ast.Call]]:
    return [
        (name, node)
        for name, function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == attribute
    ]


def test_the_places_are_found() -> None:
    found = [place for name in OF_APPENDS for place in made(ROOM / name)]
    assert {"NotRunning", "EngineFailed", "AckTimeout", "ClosedError", "RecordTooLarge"} <= {p.cls.__name__ for p in found}
    assert {place.outcome() for place in found} >= {"not_appended", "unknown"}


@pytest.mark.parametrize("name", OF_APPENDS)
def test_an_error_that_is_made_on_the_way_of_an_append_has_an_outcome(name: str) -> None:
    silent = [place.where for place in made(ROOM / name) if place.outcome() is None]
    assert silent == []


def test_what_attaching_meets_passes_the_place_that_gives_an_outcome() -> None:
    """An append binds by `_bind_to_append`, and nothing else of it attaches, asks the engine or makes a lane."""
    core = ROOM / "client/stream_core.py"
    binding = [(name, call) for attribute in ("_bind_steps", "_bind") for name, call in calls(core, attribute)]
    assert {name for name, _ in binding} == {"_bind", "_bind_to_append"}
    appending = {"append", "append_many", "_append_slowly", "_one_steps", "_many_steps", "_submit_steps", "_may_follow"}
    for attribute in ("_attachment", "_attachment_steps", "handle_of", "handle_steps", "lane", "lane_steps", "create_stream"):
        assert not {name for path in (core, ROOM / "client/stream.py") for name, _ in calls(path, attribute)} & appending
    source = next(ast.unparse(node) for name, node in functions(core) if name == "_bind_to_append")
    assert "except Error as error" in source
    assert "error.outcome = 'not_appended'" in source


def test_what_ends_a_lane_leaves_its_pending_appends_unknown() -> None:
    """Its error is what their receipts raise."""
    places = (ROOM / "client/lane.py", ROOM / "client/attachment.py")
    ends = [(path.name, call) for path in places for _, call in calls(path, "end")]
    given = [call.args[0] for _, call in ends]
    written = [error for error in given if isinstance(error, ast.Call) and isinstance(error.func, ast.Name)]
    written = [call for call in written if ast.unparse(call.func) in TREE]
    assert len(written) >= 5
    for call in written:
        assert Made(ROOM / "client/lane.py", "end", call).outcome() == "unknown", ast.unparse(call)
    for code in (lib.RW_GONE, lib.RW_FAULT, lib.RW_IO, lib.RW_FAILED_REQUEST):  # what `_why` has from the one map
        assert errors.of_code(code).outcome == "unknown"
    dropped = [place for place in made(ROOM / "client/core.py") if place.key[1] in ("_attach", "_closed")]
    assert {place.outcome() for place in dropped} == {"unknown"}


def test_no_error_of_the_base_class_is_made_without_an_outcome() -> None:
    """It has none by itself. What speaks of the engine's own processes is about no append."""
    silent = [
        place.where
        for path in ROOM.rglob("*.py")
        if path.parent.name != "processes"
        for place in made(path)
        if place.cls is errors.Error and place.outcome() is None and path.name != "errors.py"
    ]
    assert silent == []
