"""The rules of the house (house_rules.py) hold, and each of them can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import house_rules
from tests.support.house_rules import Rule, Sources

ROOT = Path(__file__).resolve().parents[2]
ROOMS_ON_DISK = ("engine", "csrc", "docs", "tests", "bench", "examples", ".ci")
TEXT_SUFFIXES = {".py", ".pyi", ".c", ".h", ".cdef", ".md", ".toml", ".in", ".sh", ".txt", ".pml", ""}


def project() -> dict[str, str]:
    found = [path for room in ROOMS_ON_DISK for path in sorted((ROOT / room).rglob("*")) if "__pycache__" not in path.parts]
    found += [path for path in sorted(ROOT.iterdir()) if path.name != ".git"]
    texts = [path for path in found if path.is_file() and path.suffix in TEXT_SUFFIXES]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in texts}


PROJECT = project()


def module(name: str, text: str) -> dict[str, str]:
    return {f"engine/ringwal/{name}.py": text}


WORDS = module("words", 'WORDS = (\n    Word("rw_control", "state", "uint32_t"),\n)')
LONG = "".join(f"    x = {n}\n" for n in range(house_rules.FUNCTION_LINES_MAX + 1))

# The rule, what is wrong, sources in which nothing else is.
BAD: list[tuple[Rule, str, Sources]] = [
    (house_rules.files_are_short, "a long file", {"csrc/a.c": "\n" * (house_rules.FILE_LINES_MAX + 1)}),
    (house_rules.functions_are_short, "a long function of Python", module("a", f"def f():\n{LONG}")),
    (house_rules.functions_are_short, "a long function of C", {"csrc/a.c": f"int f(void)\n{{\n{LONG}}}\n"}),
    (house_rules.c_lines_are_short, "a long line", {"csrc/a.c": "/* " + "x" * house_rules.C_WIDTH_MAX + " */"}),
    (house_rules.memory_orders_stand_in_one_file, "a builtin", {"csrc/a.c": "x = __atomic_load_n(p, 5);"}),
    (house_rules.memory_orders_stand_in_one_file, "volatile", {"tests/native/a.c": "volatile int x;"}),
    (house_rules.every_pair_has_two_sides, "one side", {"csrc/a.c": "/* PAIR: seal */ /* PAIR: seal */ /* PAIR: one side */"}),
    (house_rules.one_file_changes_persisted_bytes, "a store", {"csrc/a.c": "r->persisted = 1;"}),
    (house_rules.one_file_changes_persisted_bytes, "its address", {"csrc/a.c": "f(&r->persisted);"}),
    (house_rules.one_file_changes_persisted_bytes, "a CAS of a byte", {"csrc/a.c": "rw_cas8(p, 0, 1);"}),
    (house_rules.python_reads_shared_words_through_c, "a read", WORDS | module("a", "x = self.control.state")),
    (house_rules.python_reads_shared_words_through_c, "a store", WORDS | module("a", "context.control.pointer.state = 4")),
    (house_rules.python_reads_shared_words_through_c, "by another name", WORDS | module("a", "c = control\nx = c.state")),
    (house_rules.python_reads_shared_words_through_c, "of a place", WORDS | module("a", "x = lib.rw_slot_of(c, 1).state")),
    (house_rules.python_reads_shared_words_through_c, "a place's name",
     WORDS | module("a", "s = lib.rw_slot_of(c, 1)\ns.state")),
    (house_rules.python_reads_shared_words_through_c, "any field", WORDS | module("a", "x = getattr(control, name)")),
    (house_rules.nothing_is_left_for_later, "a note", {"README.md": "TO" + "DO: more"}),
    (house_rules.no_place_of_one_machine_is_named, "a home", {"README.md": "see /ho" + "me/me"}),
    (house_rules.no_package_registry_is_named, "a registry", {"README.md": "from py" + "pi.org"}),
    (house_rules.tests_do_not_sleep, "a sleep", {"tests/test_a.py": "import time\ntime.sleep(1)"}),
    (house_rules.files_that_are_named_exist, "in C", {"csrc/a.c": "/* see no_such_file.h */"}),
    (house_rules.files_that_are_named_exist, "in another folder", {"csrc/a.c": "/* see log/a.c */"}),
    (house_rules.files_that_are_named_exist, "in a docstring", module("a", '"""See no_such_file.py."""')),
    (house_rules.files_that_are_named_exist, "in a comment", module("a", "x = 1  " + "# no_such_file.c")),
    (house_rules.files_that_are_named_exist, "in a document", {"README.md": "`csrc/no_such_file.c`"}),
    (house_rules.what_is_said_of_c_is_there, "no such function", {"csrc/a.c": "/* rw_no_such_function */"}),
    (house_rules.what_is_said_of_c_is_there, "not in that file", {"csrc/a.h": "", "csrc/b.h": "/* a.h: THE DOORBELL */"}),
    (house_rules.what_is_said_of_c_is_there, "in another file",
     {"csrc/a.h": "int rw_f(void);", "csrc/c.h": "", "README.md": "`rw_f` (`c.h`)"}),
    (house_rules.tests_that_are_named_exist, "no such test", {"README.md": "held by `test_no_such_thing`"}),
    (house_rules.every_file_has_its_room_in_the_architecture, "a file without one",
     {"csrc/new.c": "", "ARCHITECTURE.md": "\n## Rooms\n`old`\n## Decisions\n"}),
    (house_rules.imports_point_one_way, "no room", module("made_up", "")),
    (house_rules.imports_point_one_way, "upwards", module("config", "from ringwal import memory") | module("memory", "")),
    (house_rules.imports_point_one_way, "a neighbour",
     module("observer", "from ringwal.log import walk") | module("log/walk", "")),
    (house_rules.imports_point_one_way, "inside a function",
     module("errors", "def f():\n    import ringwal.config") | module("config", "")),
    (house_rules.strangers_do_not_import_each_other, "client and processes",
     module("client/api", "from ringwal.processes import wal") | module("processes/wal", "")),
    (house_rules.strangers_do_not_import_each_other, "processes and client",
     module("processes/wal", "import ringwal.client.api") | module("client/api", "")),
    (house_rules.strangers_do_not_import_each_other, "log and processes",
     module("log/files", "from ringwal.processes import wal") | module("processes/wal", "")),
    (house_rules.strangers_do_not_import_each_other, "log and client",
     module("log/files", "from ringwal.client.lane import Lane") | module("client/lane", "")),
    (house_rules.processes_do_not_import_each_other, "WAL and drain",
     module("processes/wal", "from ringwal.processes import drain") | module("processes/drain", "")),
    (house_rules.processes_do_not_import_each_other, "a second place that starts them",
     module("processes/a", "from ringwal.processes import wal") | module("processes/b", "from ringwal.processes import drain")
     | module("processes/wal", "") | module("processes/drain", "")),
    (house_rules.no_modules_import_each_other, "two", module("a", "from ringwal import b") | module("b", "import ringwal.a")),
    (house_rules.no_modules_import_each_other, "round a corner",
     module("a", "import ringwal.b") | module("b", "def f():\n    import ringwal.c") | module("c", "import ringwal.a")),
]  # fmt: skip
RULES = list(dict.fromkeys(rule for rule, _, _ in BAD))

# What looks like it and is allowed.
GOOD: list[tuple[Rule, str, Sources]] = [
    (house_rules.python_reads_shared_words_through_c, "a view", WORDS | module("a", "x = views.engine(control).state")),
    (house_rules.python_reads_shared_words_through_c, "a view's name",
     WORDS | module("a", "s = views.slot(control, 1)\ns.state")),
    (house_rules.c_lines_are_short, "a drawing", {"csrc/a.h": " *  | " + "x" * house_rules.C_WIDTH_MAX + " |"}),
    (house_rules.one_file_changes_persisted_bytes, "a private copy", {"csrc/a.c": "copy.persisted = 0;"}),
    (house_rules.no_modules_import_each_other, "for the type checker only",
     module("a", "if TYPE_CHECKING:\n    from ringwal import b") | module("b", "import ringwal.a")),
    (house_rules.files_that_are_named_exist, "a file with its folder", {"csrc/a.h": "", "README.md": "`csrc/a.h`, `a.h`"}),
]  # fmt: skip


def test_the_project_is_found() -> None:
    # Every rule holds for an empty list of files.
    assert {"ringwal.errors", "ringwal.memory", "ringwal"} <= set(house_rules.modules(PROJECT))
    assert {"csrc/frame.c", "csrc/atomics.h", "README.md", "pyproject.toml", ".ci/run", "csrc/engine.cdef"} <= set(PROJECT)
    c = house_rules.chosen(PROJECT, ("csrc",), house_rules.C)
    assert sum(1 for text in c.values() for _ in house_rules.c_functions(text)) > 50
    assert any("PAIR: " in text for text in c.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Rule) -> None:
    assert rule(PROJECT) == []


@pytest.mark.parametrize(("rule", "sources"), [(r, s) for r, _, s in BAD], ids=[f"{r.__name__}: {n}" for r, n, _ in BAD])
def test_a_rule_can_fail(rule: Rule, sources: Sources) -> None:
    assert len(rule(sources)) == 1


@pytest.mark.parametrize(("rule", "sources"), [(r, s) for r, _, s in GOOD], ids=[f"{r.__name__}: {n}" for r, n, _ in GOOD])
def test_a_rule_leaves_alone_what_is_allowed(rule: Rule, sources: Sources) -> None:
    assert rule(sources) == []
