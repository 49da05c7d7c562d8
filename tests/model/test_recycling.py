"""Model of a segment that is recycled beside a reader in the middle of it, and beside a backup that links it
(engine/ringwal/log/freeing.py, engine/ringwal/processes/space.py, engine/ringwal/read/cursor.py).

Roles
    A segment of two words holds one block, of the record that a trim drops. The trim is persisted, and a checkpoint
    that has it is named; the drain confirms it when it gets to it. The main thread of the WAL process waits for that;
    then it raises first_segment, removes the side file, gives the file its new name, removes it if somebody links it,
    else writes the new header, names it, and a thread writes the block of the new place over both words. It may be
    killed at any step; its successor goes on from what the manifest says. A reader looks at the start offset, asks
    the side file where the record is, unless it has that open since before, and goes through the file if there is
    none; so it opens the file by its name, copies both words, and believes them only if both are of the wanted place.
    Else it looks at the start offset again, and only then it says damage. A backup links the file once, by the old
    name, at any moment, and reads it when it likes.

Invariant
    The reader believes nothing but the wanted block; it says neither damage, as there is none, nor that a record is trimmed
    that nobody trims. What a backup linked does not change.

Findings
    Holds. Two things are easily got wrong. The trim is persisted when its checkpoint is named, but the drain may not have
    come to it: a segment that is freed then makes the reader report damage. And the number of links has to be looked at after
    the file has lost its old name: before, a backup may come between look and rename. When the side file goes makes no
    difference, as it says where a record is and not that it is there.

Leaves out
    Memory orders (files, and a word that only grows), power cuts (test_freeing.py).
"""

from __future__ import annotations

import pytest

from tests.model.statespace import END, Kill, Memory, Model, Process, Step, View, check

OLD, NEW = 0, 2
"""Segments: the one that is trimmed, and what it becomes. A word of the file says whose block it is of."""
NOTHING, FIRST, OTHER = "", "the file", "another file"
"""What a name leads to."""


def drain() -> Process:
    """The trim is persisted from the beginning on, whoever confirms it comes late."""

    def confirm(v: View) -> str:
        v.store("start", 1)
        return END

    return Process("drain", "confirm", {"confirm": confirm})


def main_thread(mutant: str) -> Process:
    def begin(v: View) -> str:
        first, end = v.load("manifest")
        if end > NEW:
            return "write0"
        return "side" if first > OLD else "raise" if mutant == "freed before the trim is confirmed" else "wait"

    def wait(v: View) -> str | None:
        return "raise" if v.load("start") > 0 else None

    def raise_first(v: View) -> str:
        v.store("manifest", (OLD + 1, NEW))
        return "side"

    def side(v: View) -> str:
        v.store("side", 0)
        return "links" if mutant == "links counted before the rename" else "rename"

    def rename(v: View) -> str:
        """As rename(2): both names in one step."""
        if v.load("names")[0] != FIRST:
            return "links"  # a predecessor did it
        v.m["names"] = (NOTHING, FIRST)
        if mutant == "recycled whoever links it" or v.l["alone"]:
            return "header"
        return "links"

    def links(v: View) -> str:
        if mutant == "links counted before the rename" and not v.load("_linked"):
            v.l["alone"] = 1
            return "rename"
        return "remove" if v.m["_linked"] else "header"

    def remove(v: View) -> str:
        """And one made from nothing has the name."""
        v.store("names", (NOTHING, OTHER))
        return "name"

    def header(v: View) -> str:
        if v.load("names")[1] == NOTHING:
            v.m["names"] = (NOTHING, OTHER)
        return "name"

    def name(v: View) -> str:
        v.store("manifest", (OLD + 1, NEW + 1))
        return "write0"

    def write(k: int) -> Step:
        def step(v: View) -> str:
            if v.load("names")[1] == FIRST:
                v.m[f"word{k}"] = NEW
                if v.m["_linked"]:
                    v.m["_changed"] = 1
            return "write1" if k == 0 else END

        return step

    steps: dict[str, Step] = {
        "begin": begin, "wait": wait, "raise": raise_first, "side": side, "rename": rename, "links": links, "remove": remove,
        "header": header, "name": name, "write0": write(0), "write1": write(1),
    }  # fmt: skip
    return Process("main", "begin", steps, {"alone": 0})


def reader(mutant: str) -> Process:
    def look(v: View) -> str:
        return END if v.load("start") > 0 else "ask"

    def ask(v: View) -> str:
        v.l["led"] = v.load("side")
        return "open"

    def open_file(v: View) -> str:
        v.l["file"] = v.load("names")[0]
        return "word0" if v.l["file"] else "again"

    def copy(k: int) -> Step:
        def step(v: View) -> str:
            v.l[f"copy{k}"] = v.load(f"word{k}")
            return "word1" if k == 0 else "believe"

        return step

    def believe(v: View) -> str:
        whole = v.l["copy0"] == OLD and (v.l["copy1"] == OLD or mutant == "one word is believed")
        if whole and v.l["copy1"] != OLD:
            v.m["_wrong"] = "a torn block was believed"
        return END if whole else "again"

    def again(v: View) -> str:
        sure = mutant == "what the side file has is there" and v.l["led"]
        if sure or mutant == "no second look at the start offset":
            return "damage"
        return END if v.load("start") > 0 else "damage"

    def damage(v: View) -> str:
        v.m["_wrong"] = "damage where there is none"
        return END

    steps: dict[str, Step] = {
        "look": look, "ask": ask, "open": open_file, "word0": copy(0), "word1": copy(1), "believe": believe, "again": again,
        "damage": damage,
    }  # fmt: skip
    return Process("reader", "look", steps, {"led": 0, "file": "", "copy0": -1, "copy1": -1})


def backup() -> Process:
    """A link keeps the file, whatever becomes of its other name."""

    def link(v: View) -> str:
        if v.load("names")[0] == FIRST:
            v.m["_linked"] = 1
        return END

    return Process("backup", "link", {"link": link})


def wrong(m: Memory) -> str | None:
    return "what a backup linked has changed" if m["_changed"] else m["_wrong"] or None


def model(mutant: str = "") -> Model:
    memory: Memory = {
        "start": 0, "manifest": (OLD, NEW), "names": (FIRST, NOTHING), "side": 1, "word0": OLD, "word1": OLD,
        "_linked": 0, "_changed": 0, "_wrong": "",
    }  # fmt: skip
    processes = [drain(), main_thread(mutant), reader(mutant), backup()]
    return Model(memory, processes, lambda m, _: m["manifest"] == (OLD + 1, NEW + 1), wrong, kills=(Kill(("main",), 2),))


def test_neither_a_reader_nor_a_backup_is_told_what_is_not_so() -> None:
    result = check(model())
    assert result.violation is None, result


@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("one word is believed", "a torn block was believed"),
        ("no second look at the start offset", "damage where there is none"),
        ("what the side file has is there", "damage where there is none"),
        ("freed before the trim is confirmed", "damage where there is none"),
        ("recycled whoever links it", "what a backup linked has changed"),
        ("links counted before the rename", "what a backup linked has changed"),
    ],
)
def test_mutant_is_found(mutant: str, found: str) -> None:
    assert check(model(mutant)).violation == found
