"""The documents: short pages, tables that say what the code says, numbers that were measured, links that lead somewhere."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path

import pytest

import ringwal
from bench import front_page
from ringwal import cli, errors
from ringwal._native import lib
from ringwal.config import settings
from tests.support.markdown import anchors, blocks, links, prose, wrong_links

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
ROOMS = ("docs", "bench", "examples")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*ROOT.glob("*.md"), *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.md")))]
}
DOCS = {name: text for name, text in PAGES.items() if name == "README.md" or name.startswith(("docs/", "examples/"))}
RENDERED = "docs/shared-words.md"


def page(name: str) -> str:
    return PAGES[f"docs/{name}.md"]


# ------------------------------------------------------------------------------------------------------------ shape


def test_the_first_page_is_short() -> None:
    assert README.count("\n") <= 150
    assert [line for line in README.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", sorted(DOCS.keys() - {RENDERED}))
def test_lines_of_prose_are_short(name: str) -> None:
    assert [line for line in prose(DOCS[name]).splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_its_commands_are_those_that_are_run_before_a_change_is_taken() -> None:
    demo, tests = [block.text for block in blocks(README) if block.language == "sh"][:2]
    assert "ringwal demo" in demo
    assert "pytest" in tests


def test_its_examples_take_five_lines() -> None:
    sync, asyncio = [block.text for block in blocks(README) if block.language == "python"]
    for example in (sync, asyncio):
        assert len([line for line in example.splitlines() if line.strip()]) <= 6
    assert "ringwal.aio.connect" in asyncio


def test_every_page_is_in_the_index() -> None:
    named = {target.partition("#")[0] for _, target in links(page("README"))}
    assert {os.path.relpath(name, "docs") for name in DOCS} - {"README.md", "../README.md"} <= named


# ----------------------------------------------------------------------------------------------------------- tables


def rows(name: str, head: str) -> list[list[str]]:
    """The cells of each row of the table of that page which begins with that head."""
    table = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page(name), re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[1].splitlines()]


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    stated = [(flag.strip("`"), default) for flag, default, _ in rows("configuration", "Flag of `run`")]
    assert stated == [(setting.flag, setting.format()) for setting in settings()]


def test_every_argument_of_connect_stands_in_the_table_with_its_default() -> None:
    parameters = inspect.signature(ringwal.connect).parameters.values()
    assert [name.strip("`") for name, _ in rows("python", "Argument")] == [parameter.name for parameter in parameters]
    assert f"`ringwal.connect({', '.join(shown(parameter) for parameter in parameters)})`" in page("python")


@pytest.mark.parametrize("name", ["read", "records", "tail"])
def test_every_argument_of_a_read_stands_in_the_table_with_its_default(name: str) -> None:
    parameters = list(inspect.signature(getattr(ringwal.Stream, name)).parameters.values())[1:]
    calls = [call for call, *_ in rows("reading", "Call")]
    assert f"`{name}({', '.join(shown(parameter) for parameter in parameters)})`" in calls


def shown(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name
    return f"{parameter.name}={json.dumps(default) if type(default) is str else repr(default)}"


def test_every_field_of_a_record_is_named() -> None:
    for field in ringwal.Record._fields:
        assert f"`{field}`" in page("reading")


def test_every_verb_stands_in_the_table() -> None:
    stated = {command.strip("`").split()[1] for command, _ in rows("command-line", "Command")}
    assert stated == set(cli.cli.commands)


def test_every_error_stands_in_the_table_with_its_standard_exception_and_outcome() -> None:
    stated = {row[0].strip("`"): row[1:4] for row in rows("errors", "Error")}
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Error)} - {errors.Error}
    assert stated.keys() == {cls.__name__ for cls in classes}
    for cls in classes:
        standard, outcome, retriable = stated[cls.__name__]
        bases = [base.__name__ for base in cls.__bases__ if base is not errors.Error]
        assert standard == "".join(f"`{base}`" for base in bases)
        assert retriable.startswith("yes" if cls.retriable else "no")
        said = (cls.outcome or "").replace("_", " ")
        assert outcome.startswith(said) if said else not outcome, cls


def test_errors_of_the_table_of_failures_exist() -> None:
    named = set(re.findall(r"`([A-Z][a-z]\w+)`", page("failures")))
    assert named
    assert named <= set(vars(errors))


def test_limits_are_those_of_the_code() -> None:
    assert f"UTF-8 of 1 to {lib.RW_STREAM_NAME_MAX} bytes" in page("limits")


# ---------------------------------------------------------------------------------------------------------- numbers


RESULT = json.loads(front_page.RESULT.read_text())


def test_the_chart_is_that_of_the_measurement() -> None:
    assert front_page.PICTURE.read_text() == front_page.draw(RESULT)


SHOWN = {
    "README.md": ("one", "sixteen", "pipelined", "batches"),
    "docs/benchmarks.md": ("one", "sixteen", "sixty-four", "pipelined", "streams-100000", "batches"),
}


@pytest.mark.parametrize(("name", "scenario"), [(name, scenario) for name, all_of in SHOWN.items() for scenario in all_of])
def test_numbers_are_those_of_the_measurement(name: str, scenario: str) -> None:
    found = front_page.comparable(RESULT, scenario)
    best = max(found.keys() - {"ringwal"}, key=lambda who: float(found[who]["median"]["records_per_s"]))
    ours, theirs = (rounded(found[who]["median"]["records_per_s"]) for who in ("ringwal", best))
    row = re.search(rf"^\| .*\| {ours}(?: \((.*)\))? \| {theirs} {re.escape(best)}.*\|$", PAGES[name], re.MULTILINE)
    assert row is not None
    if row[1] is not None:
        assert row[1].removeprefix("p50 ") == f"{found['ringwal']['median']['latency_us.p50']:.0f} µs"


def rounded(value: float) -> str:
    """Six digits at most."""
    return f"{float(f'{value:.6g}'):,.0f}"


# ------------------------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert wrong_links(ROOT, name, PAGES[name]) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a](b.md)", "there is no such file"),
        ("![a](b.svg)", "there is no such file"),
        ("[a](docs/README.md#no-heading)", "there is no such heading"),
        ("[a](#no-heading)", "there is no such heading"),
        ("# A\n```\n# B\n```\n[a](#b)", "there is no such heading"),
        ("[a](/etc/hosts)", "outside of the project"),
        ("[a](../x)", "outside of the project"),
        ("[a]()", "not a target"),
        ("[a](one two)", "not a target"),
        ("[a]\n\n[a]: b.md", "there is no such file"),
        ('<img src="b.png">', "there is no such file"),
        ("[a](https:/example.org)", "a malformed address"),
        ("[a](https://example)", "a malformed address"),
        ("see https://exam_ple.org/x.", "a malformed address"),
        ("[a](htps://example.org)", "a malformed address"),
    ],
)
def test_a_wrong_link_is_told(text: str, why: str) -> None:
    (found,) = wrong_links(ROOT, "README.md", text)
    assert found.endswith(f": {why}")


@pytest.mark.parametrize(
    "text",
    [
        "[a](docs/README.md), ![b](docs/numbers.svg), [c](bench/results)",
        "# One `thing`, two\n[a](#one-thing-two)",
        "# A\n# A\n[a](#a-1)",
        "`[a](b.md)`\n\n```\n[a](b.md)\n```\n<!-- [a](b.md) -->",
        "[a](https://example.org/a_b?c=d#e), see <https://example.org> or https://example.org/x.",
    ],
)
def test_a_good_link_passes(text: str) -> None:
    assert wrong_links(ROOT, "README.md", text) == []


def test_anchors_are_those_of_code_hosts() -> None:
    assert anchors("# How fast is it, and why\n## `fsync` & *co*\n### [a](b) under_score\n") == {
        "how-fast-is-it-and-why",
        "fsync--co",
        "a-under_score",
    }
