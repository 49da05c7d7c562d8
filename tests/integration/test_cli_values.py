"""What is typed, and what is shown of it: numbers at their limits, verbs that do not exist, names that play tricks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ringwal.cli import cli
from tests.support.cli_rig import ringwal, serving

NUMBERS = ["inf", "-inf", "nan", "-1", "1e400", "9" * 30, "9" * 5000, "", "0x10"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an engine running on it."""
    with serving(tmp_path / "d"):
        yield tmp_path / "d"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("arguments", "limit"), [
    (("ls", "d", "--timeout"), "1000000000"),
    (("append", "d", "s", "--timeout"), "1000000000"),
    (("stop", "d", "--timeout"), "1000000000"),
    (("append", "d", "s", "--lane-bytes"), "1GiB"),
    (("read", "d", "s", "--max-records"), "9223372036854775807"),
    (("tail", "d", "s", "--max-records"), "9223372036854775807"),
    (("demo", "--seconds"), "60"),
    (("demo", "--writers"), "64"),
    (("demo", "--seed"), "9223372036854775807"),
])
def test_a_number_outside_of_its_limits_is_2_and_told_the_limit(
    arguments: tuple[str, ...], limit: str, number: str
) -> None:
    assert limit in refusal_of(*arguments, number)


@pytest.mark.parametrize("number", [value for value in NUMBERS if value != "-1"])
@pytest.mark.parametrize("verb", ["read", "tail"])
def test_a_start_that_is_no_offset_is_2(verb: str, number: str) -> None:
    assert "--start" in refusal_of(verb, "d", "s", "--start", number)


def refusal_of(*arguments: str) -> str:
    """What is said of a wrong command line. In this process: the verb does not even begin."""
    with pytest.raises(click.UsageError) as caught:
        cli.main(list(arguments), prog_name="ringwal", standalone_mode=False)
    assert caught.value.exit_code == 2
    said = caught.value.format_message()
    assert len(said) < 1000
    return said


def test_the_limits_themselves_are_taken(served: Path) -> None:
    ringwal("append", served, "s", stdin=b"x")
    assert ringwal("read", served, "s", "--max-records", str((1 << 63) - 1), "--timeout", "1e9").stdout == b"x\n"
    assert ringwal("read", served, "s", "--start", str(1 - (1 << 63))).stdout == b"x\n"
    assert ringwal("read", served, "s", "--start", str((1 << 63) - 1)).returncode == os.EX_NOINPUT
    assert ringwal("append", served, "s", "--timeout", "1000000000", "--lane-bytes", "64KiB", stdin=b"x").returncode == 0
    assert ringwal("stop", served, "--timeout", "1000000000").returncode == 0


@pytest.mark.parametrize(("typed", "meant"), [
    ("raed", "read"), ("stauts", "status"), ("appned", "append"), ("top", None), ("", None), ("start", "run"),
])
def test_a_mistyped_verb_is_told_which_there_are(typed: str, meant: str | None) -> None:
    done = ringwal(typed)
    assert done.returncode == 2
    verbs = done.stderr.decode().partition("There are: ")[2].rstrip(".\n").split(", ")
    assert verbs == sorted(verbs) and {"append", "backup", "run", "stat", "status", "stop", "trim", "verify"} <= set(verbs)
    guesses = done.stderr.partition(b"Did you mean ")[2]
    assert guesses.startswith(repr(meant).encode()) if meant else not guesses


@pytest.mark.parametrize("verb", ["ls", "status", "stop", "read", "tail", "append"])
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_hint_names_nothing_that_the_verb_does_not_have(tmp_path: Path, verb: str, as_json: list[str]) -> None:
    stream = ["s"] if verb in ("read", "tail", "append") else []
    done = ringwal(verb, tmp_path, *stream, *as_json)
    assert done.returncode == os.EX_UNAVAILABLE
    assert b"autostart" not in done.stderr
    assert b"ringwal run" in done.stderr


TRICKS = "a\u202eb\u200bc\u2066d\ufeffe\U000e0001"
ESCAPED = b"a\\u202eb\\u200bc\\u2066d\\ufeffe\\U000e0001"


def test_a_name_that_plays_tricks_is_shown_as_it_is(served: Path) -> None:
    assert ringwal("append", served, TRICKS, stdin=b"x").stdout == ESCAPED + b"[0] confirmed\n"
    assert ESCAPED in ringwal("ls", served).stdout
    listed = ringwal("ls", served, "--json").stdout
    assert json.loads(listed)["name"] == TRICKS
    assert listed.isascii()
    assert ringwal("read", served, TRICKS).stdout == b"x\n"
    for verb in ("read", "tail"):
        for as_json in ([], ["--json"]):
            assert ringwal(verb, served, TRICKS + "x", *as_json).stderr.isascii()


def test_a_path_that_plays_tricks_is_shown_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / f"{TRICKS}\x1b[31m\n"
    with serving(directory):
        for arguments in (["status"], ["status", "--json"]):
            done = ringwal(*arguments, directory)
            assert done.returncode == 0
            assert done.stdout.isascii()
            assert b"\x1b" not in done.stdout
    done = ringwal("status", directory)
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.isascii()
    assert b"\x1b" not in done.stderr
    assert ESCAPED in done.stderr
    directory.rename(tmp_path / "elsewhere")
    directory.write_text("a file")
    assert ringwal("status", directory).stderr.isascii()


def test_names_of_all_languages_are_shown_as_they_are(served: Path) -> None:
    name = "zwölf/日本語/ελληνικά"
    assert ringwal("append", served, name, stdin=b"x").stdout == f"{name}[0] confirmed\n".encode()
    assert name.encode() in ringwal("ls", served, "--json").stdout
