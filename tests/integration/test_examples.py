"""Every example of the first page, docs/ and examples/ is run, and does what is shown (tests/support/examples.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.examples import ExampleError, Page, Shell, matches, steps
from tests.support.markdown import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md"))
)
RUN = {"python", "sh"}
NOT_EXAMPLES = {"", "text"}
"""Drawings, layouts, and what something prints."""


@pytest.mark.parametrize("name", [name for name in PAGES if any(b.language in RUN for b in blocks((ROOT / name).read_text()))])
def test_the_examples_of_a_page_do_what_it_says(name: str, tmp_path: Path) -> None:
    if name.startswith("examples/"):
        shutil.copytree((ROOT / name).parent, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    Page(name, (ROOT / name).read_text(), tmp_path).run()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run_or_no_example(name: str) -> None:
    for block in blocks((ROOT / name).read_text()):
        place = f"{name}:{block.line}"
        assert block.language in RUN | NOT_EXAMPLES, f"{place}: nobody runs {block.language}"
        assert block.language in RUN or not block.text.startswith(("$ ", ">>> ")), f"{place}: a `sh` or `python` block"


PROGRAM = "```python\nprint(1)\nprint(2)\n```\n"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```python\n1 / 0\n```\n", "p:2: ended with code 1"),
        (PROGRAM + "```text\n1\n3\n```\n", "p:2: said:\n1\n2\n"),
        ("```sh\ntrue\nfalse\n```\n", "p:3: false\nended with code 1"),
        ("```sh\necho a\n# b\n```\n", "p:2: echo a\nsaid:\na\n"),
        ("```sh\nexit 3\n```\n", "the shell has ended"),
        ("<!-- python\nx = 1\n-->\n```python\ny\n```\n", "NameError"),
        ("<!-- sh\nfalse\n-->\n", "p:2: false\nended with code 1"),
    ],
)
def test_an_example_that_does_something_else_is_told(page: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExampleError) as caught:
        Page("p", page, tmp_path).run()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not run: it fails -->\n```python\n1 / 0\n```\n",
        "<!-- not run: it\nfails -->\n\n```sh\nfalse\n```\n",
        PROGRAM + "```text\n...\n2\n```\n",
        "<!-- python\nx = 1\n-->\n```python\nprint(x)\n```\n```text\n1\n```\n",
        "```sh\ncd /\n```\n```sh\nfalse\necho $?\n# 1\n```\n",
        "```sh\necho a \\\n  b\n# a b\necho 'offset 17'\n# offset ...\n```\n",
    ],
)
def test_an_example_that_does_what_it_says_passes(page: str, tmp_path: Path) -> None:
    Page("p", page, tmp_path).run()


def test_a_reason_speaks_of_the_block_right_behind_it_only() -> None:
    page = "<!-- not run: it waits -->\n```sh\na\n```\n```sh\nb\n```\n<!-- not run: lost -->\ntext\n```sh\nc\n```\n"
    assert [block.not_run for block in blocks(page)] == ["it waits", "", ""]


def test_output_is_the_one_that_is_shown() -> None:
    assert matches("a\n...\nb ... d\n", "a\nx\ny\nb c d\n")
    assert not matches("a\n...\nb ... d\n", "a\nx\nb c e\n")
    assert not matches("a\n", "a\nb\n")
    assert not matches("a.c\n", "abc\n")


def test_commands_are_told_with_their_place_and_their_output() -> None:
    assert list(steps("a\n# 1\n#  2\n\nb \\\n c\nd # not output\n")) == [
        ("a", "1\n 2\n", 0),
        ("b \\\n c", "", 4),
        ("d # not output", "", 6),
    ]


def test_a_shell_that_is_left_ends_what_it_has_started(tmp_path: Path) -> None:
    with Shell(tmp_path, {"PATH": "/usr/bin:/bin"}) as shell:
        assert shell.run("tail -f /dev/null &") == (0, "")
        assert shell.run("false") == (1, "")
        assert shell.run("echo $?") == (0, "1\n")
