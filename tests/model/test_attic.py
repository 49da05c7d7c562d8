"""Model of a segment whose one live block goes into the attic, beside the process that frees it, the power, and a reader
(engine/ringwal/log/attic.py, processes/attic_task.py, processes/space.py, read/attic_blocks.py).

Roles
    Segment 0 has a record that nobody has trimmed. The keeper copies its block into attic file 1, syncs it, puts a catalogue
    that names it in the place of the one before, and gives its word; later it writes what is alive to file 2, names that one
    instead, and removes the first. It may be killed at any step; its successor takes its word from the catalogue and clears
    what that does not name. The WAL process frees the segment once the word allows it: first_segment is raised in the
    manifest, told in memory, then the file is removed. The power may be cut at any moment: what was not synced is lost. A
    reader looks where the log begins in memory; from there on the segment is what it reads, below it the catalogue and the
    file that it names. What it finds missing it looks for again.

Invariant
    The reader always gets the record, within three looks; after a power cut it is where the manifest says.

Findings
    Holds. Two looks are not enough: the segment goes after the first, and the file that it went into after the second.

Leaves out
    Memory orders (words that only grow, and files). Trims, which only take from what has to be found.
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, Kill, Memory, Model, Process, Step, View, check

NOBODY = 0
GONE, WRITTEN, SYNCED = "", "written", "synced"
"""A file: whether its bytes would be there after a power cut."""


def keeper(mutant: str) -> Process:
    def begin(v: View) -> str:
        named = v.load("catalogue")
        v.l["named"] = named
        return "word" if named else "name" if mutant == "named before it is written" else "write"

    def write(v: View) -> str:
        v.store("file1", WRITTEN)
        if mutant == "the word before the catalogue":
            return "word"
        return "name" if mutant == "named before it is synced" else "sync"

    def sync(v: View) -> str:
        if v.load("file1") != GONE:
            v.m["file1"] = SYNCED
        return "name"

    def name(v: View) -> str:
        """Durable: file, rename and directory in one step, as the rename is what counts."""
        v.store("catalogue", 1)
        return "write" if mutant == "named before it is written" and v.m["file1"] == GONE else "word"

    def word(v: View) -> str:
        v.store("word", 1)
        if mutant == "the word before the catalogue" and v.m["catalogue"] == NOBODY:
            return "sync"
        return "merge" if v.m["catalogue"] == 1 else "clear"

    def merge(v: View) -> str:
        v.store("file2", SYNCED)
        return "remove" if mutant == "the old file goes before the new one is named" else "rename"

    def rename(v: View) -> str:
        v.store("catalogue", 2)
        return "remove"

    def remove(v: View) -> str:
        v.store("file1", GONE)
        if mutant == "the old file goes before the new one is named" and v.m["catalogue"] == 1:
            return "rename"
        return END

    def clear(v: View) -> str:
        if v.load("catalogue") == 2:
            v.m["file1"] = GONE
        return END

    steps: dict[str, Step] = {
        "begin": begin, "write": write, "sync": sync, "name": name, "word": word, "merge": merge, "rename": rename,
        "remove": remove, "clear": clear,
    }  # fmt: skip
    return Process("keeper", "begin", steps, {"named": 0})


def wal(mutant: str) -> Process:
    def begin(v: View) -> str:
        return "tell" if v.load("manifest") else "wait"

    def wait(v: View) -> str | None:
        if mutant == "freed without a word":
            return "raise"
        return "raise" if v.load("word") else None

    def raise_first(v: View) -> str:
        v.store("manifest", 1)
        return "free" if mutant == "freed before readers are told" else "tell"

    def tell(v: View) -> str:
        v.store("first", 1)
        return "free"

    def free(v: View) -> str:
        v.store("segment", GONE)
        return END

    return Process("wal", "begin", {"begin": begin, "wait": wait, "raise": raise_first, "tell": tell, "free": free})


def power() -> Process:
    """Goes off once, at any moment: is the record where the next start looks for it?"""

    def off(v: View) -> str:
        freed, named = v.load("manifest"), v.m["catalogue"]
        if freed and (named == NOBODY or v.m[f"file{named}"] != SYNCED):
            v.m["_wrong"] = "the power takes a record that is confirmed"
        return END

    return Process("power", "off", {"off": off})


def reader(mutant: str) -> Process:
    def look(v: View) -> str:
        v.l["looks"] += 1
        return "attic" if v.load("first") else "segment"

    def segment(v: View) -> str:
        return END if v.load("segment") != GONE else "again"

    def catalogue(v: View) -> str:
        v.l["file"] = v.load("catalogue")
        return "file" if v.l["file"] else "again"

    def file(v: View) -> str:
        return END if v.load(f"file{v.l['file']}") != GONE else "again"

    def again(v: View) -> str:
        if v.l["looks"] < (2 if mutant == "one look less" else 3):
            return "look"
        v.m["_wrong"] = "a record that is confirmed cannot be read"
        return END

    steps: dict[str, Step] = {"look": look, "segment": segment, "attic": catalogue, "file": file, "again": again}
    return Process("reader", "look", steps, {"looks": 0, "file": 0})


def model(mutant: str = "") -> Model:
    memory: Memory = {
        "segment": SYNCED, "file1": GONE, "file2": GONE, "catalogue": NOBODY, "manifest": 0, "first": 0, "word": 0,
        "_wrong": "",
    }  # fmt: skip
    processes = [keeper(mutant), wal(mutant), reader(mutant), power()]
    kills = (Kill(("keeper",), 2), Kill(("wal",), 1))
    return Model(memory, processes, lambda m, _: m["segment"] == GONE, lambda m: m["_wrong"] or None, kills=kills)


def test_the_record_is_always_found() -> None:
    result = check(model())
    assert result.violation is None, result


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("named before it is synced", "the power takes a record that is confirmed"),
        ("named before it is written", "the power takes a record that is confirmed"),
        ("the word before the catalogue", "the power takes a record that is confirmed"),
        ("freed without a word", "the power takes a record that is confirmed"),
        ("the old file goes before the new one is named", "the power takes a record that is confirmed"),
        ("freed before readers are told", "a record that is confirmed cannot be read"),
        ("one look less", "a record that is confirmed cannot be read"),
    ],
)
def test_mutant_is_found(mutant: str, found: str) -> None:
    assert check(model(mutant)).violation == found
