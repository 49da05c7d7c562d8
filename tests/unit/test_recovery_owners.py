"""Producers and consumers in recovery: what is known of them below the cut, and what of theirs is carried over it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ringwal._native import lib
from ringwal.errors import CorruptionError
from ringwal.log import checkpoint_file
from ringwal.log.checkpoint import OwnerRow
from ringwal.log.recovery import Recovered, recover
from tests.faults import decode
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG, LogWriter, claim, commit, consume, contents, delete, offsets


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log", recover(log_at(tmp_path / "log"), CONFIG))


def again(log: LogWriter) -> Recovered:
    return recover(log_at(log.directory), CONFIG)


def rows(log: LogWriter, recovered: Recovered) -> dict[str, OwnerRow]:
    """By name, as recovery says, and as the checkpoint that it wrote does."""
    found = checkpoint_file.load(log_at(log.directory), recovered.manifest)
    assert (found.owners, found.owners_end) == (recovered.owners, recovered.owners_end)
    return {row.name: row for row in found.owner_rows()}


def places(log: LogWriter, recovered: Recovered) -> dict[str, tuple[int, int, int, int, int]]:
    """Number, epoch, next sequence, sequence and offset of the newest batch."""
    return {
        name: (row.number, row.epoch, row.next_sequence, row.last_sequence, row.last_offset)
        for name, row in rows(log, recovered).items()
    }


def test_a_new_log_knows_nobody(log: LogWriter) -> None:
    recovered = again(log)
    assert (recovered.owners, recovered.owners_end) == (b"", 1)


def test_below_the_cut_all_is_known(log: LogWriter) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"nobody's"))
    log.put((0, [b"1", b"2"]), owner=(1, 1, 0))
    log.put(claim(0, b"b"), owner=(2, 1, 0))
    log.put((0, [b"3", b"4", b"5"]), owner=(1, 1, 2))
    log.put(claim(0, b"a"), owner=(1, 2, 5))
    log.put(claim(3, b"a"), owner=(7, 1, 0))
    recovered = again(log)
    found = rows(log, recovered)
    assert recovered.owners_end == 8
    assert {row.stream for row in found.values()} == {0, 3}
    known = [row[:7] for row in checkpoint_file.load(log_at(log.directory), recovered.manifest).owner_rows()]
    assert known == [(1, 1, 2, 0, 5, 2, 3), (2, 1, 1, 0, 0, 0, 0), (7, 1, 1, 3, 0, 0, 0)]
    after = again(log)  # by the checkpoint alone
    assert (after.owners, after.owners_end) == (recovered.owners, 8)


def test_who_is_forgotten_is_not_there(log: LogWriter) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put(claim(1, b"b"), owner=(2, 1, 0))
    log.put(claim(0, b"c", forgets=1), owner=(3, 1, 0))
    log.put(delete(1))
    recovered = again(log)
    assert places(log, recovered) == {"c": (3, 1, 0, 0, 0)}
    assert recovered.owners_end == 4


@pytest.mark.parametrize("owner", [(2, 1, 0), (1, 2, 0), (1, 1, 1), (1, 0, 0)], ids=["unknown", "epoch", "gap", "none"])
def test_a_batch_that_its_producer_cannot_have_sent_is_a_contradiction(log: LogWriter, owner: tuple[int, int, int]) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"x"), owner=owner)
    log.put((0, b"y"))
    with pytest.raises(CorruptionError, match="does not follow its producer's last one"):
        again(log)


def test_beyond_the_cut_it_goes_on_as_its_stream_does(log: LogWriter) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"1"), owner=(1, 1, 0))
    log.put((9, b"lost"), state="missing")
    log.put((0, [b"2", b"3"]), owner=(1, 1, 1))
    log.put(claim(0, b"a"), owner=(1, 2, 3))
    log.put((0, b"4"), owner=(1, 2, 3))
    log.put(claim(5, b"new"), owner=(2, 1, 0))
    recovered = again(log)
    assert places(log, recovered) == {"a": (1, 2, 4, 3, 3), "new": (2, 1, 0, 0, 0)}
    assert contents(log.directory)["s0"] == [b"1", b"2", b"3", b"4"]
    assert again(log).owners == recovered.owners


@pytest.mark.parametrize("lost", ["a batch", "a claim", "a first claim"])
def test_what_follows_something_lost_goes_with_it(log: LogWriter, lost: str) -> None:
    """Nobody was told of it: it stands behind what is lost in its stream's queue."""
    first = lost == "a first claim"
    log.put(claim(0, b"a"), owner=(1, 1, 0), state="missing" if first else "whole")
    if not first:
        log.put((0, b"1"), owner=(1, 1, 0))
    if lost == "a batch":
        log.put((0, b"2"), owner=(1, 1, 1), state="missing")
    elif lost == "a claim":
        log.put(claim(0, b"a"), owner=(1, 2, 1), state="missing")
    log.put((0, b"3"), owner=(1, 1, 2) if lost == "a batch" else (1, 2, 1) if lost == "a claim" else (1, 1, 0))
    log.put((0, b"of nobody"))
    recovered = again(log)
    assert places(log, recovered) == ({} if first else {"a": (1, 1, 1, 0, 0)})
    assert contents(log.directory).get("s0", []) == ([] if first else [b"1"])


def test_a_lost_claim_takes_nothing_of_others_with_it(log: LogWriter) -> None:
    log.put((0, b"0"))
    log.put(claim(0, b"a"), owner=(1, 1, 0), state="missing")
    log.put((0, b"of nobody"))
    assert contents(log.directory) == {} or again(log)
    assert contents(log.directory) == {"s0": [b"0", b"of nobody"]}


@pytest.mark.parametrize("lost", ["another's claim", "a deletion"])
def test_more_are_known_than_the_engine_holds_where_what_made_room_is_lost(log: LogWriter, lost: str) -> None:
    """Whoever took the place may have been told of it: he is of another stream."""
    few = dataclasses.replace(CONFIG, max_producers=1)
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"1"), owner=(1, 1, 0))
    if lost == "a deletion":
        log.put(delete(0), state="missing")
        log.put(claim(1, b"b"), owner=(2, 1, 0))
    else:
        log.put(claim(9, b"other", forgets=1), owner=(2, 1, 0), state="missing")
        log.put(claim(1, b"b", forgets=2), owner=(3, 1, 0))
    for _ in range(2):
        recovered = recover(log_at(log.directory), few)
        assert set(rows(log, recovered)) == {"a", "b"}


def test_a_name_has_one_producer_where_the_claim_that_forgot_the_older_one_is_lost(log: LogWriter) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"1"), owner=(1, 1, 0))
    log.put(claim(9, b"other", forgets=1), owner=(2, 1, 0), state="missing")
    log.put(claim(1, b"a"), owner=(3, 1, 0))
    log.put(claim(0, b"a"), owner=(4, 1, 0))
    log.put((0, b"2"), owner=(4, 1, 0))
    recovered = again(log)
    found = checkpoint_file.load(log_at(log.directory), recovered.manifest).owner_rows()
    assert [(row.number, row.stream, row.next_sequence) for row in found] == [(3, 1, 0), (4, 0, 1)]
    assert {number: owner.next for number, owner in decode.Log(log.directory).owners().items()} == {3: 0, 4: 1}
    assert again(log).owners == recovered.owners
    assert contents(log.directory)["s0"] == [b"1", b"2"]


def test_what_is_carried_says_whose_it_is(log: LogWriter) -> None:
    """Frames that are carried say whose they are."""
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((9, b"lost"), state="missing")
    log.put((0, b"1"), owner=(1, 1, 0))
    log.put(claim(0, b"a"), owner=(1, 2, 1))
    log.put((0, b"2"), owner=(1, 2, 1))
    recovered = again(log)
    carried = [frame.producer for block in decode.Log(log.directory).blocks() for frame in block.frames if frame.producer[0]]
    assert carried[-3:] == [(1, 1, 0), (1, 2, 1), (1, 2, 1)]
    assert places(log, recovered) == {"a": (1, 2, 2, 1, 1)}


@pytest.mark.parametrize("cut", [False, True])
def test_many_blocks_are_carried_with_their_producers(log: LogWriter, *, cut: bool) -> None:
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    if cut:
        log.put((9, b"lost"), state="missing")
    for n in range(60):
        log.put((0, bytes([n]) * 9000), owner=(1, 1, n))
    recovered = again(log)
    assert places(log, recovered) == {"a": (1, 1, 60, 59, 59)}
    assert len(contents(log.directory)["s0"]) == 60


@pytest.mark.parametrize("what", ["a claim", "a deletion"])
def test_what_has_no_records_is_carried_alone(log: LogWriter, what: str) -> None:
    """The log says what its checkpoint knows: whoever reads both finds no contradiction."""
    log.put(claim(0, b"a"), owner=(1, 1, 0))
    log.put((0, b"1"), owner=(1, 1, 0))
    log.put((9, b"lost"), state="missing")
    log.put(claim(0, b"a"), owner=(1, 2, 1)) if what == "a claim" else log.put(delete(0))
    recovered = again(log)
    assert places(log, recovered) == ({"a": (1, 2, 1, 0, 0)} if what == "a claim" else {})
    assert set(decode.Log(log.directory).owners()) == ({1} if what == "a claim" else set())
    assert again(log).owners == recovered.owners


# ------------------------------------------------------------------------------------------------------- consumers


def positions(log: LogWriter, recovered: Recovered) -> dict[str, tuple[int, int, int, int]]:
    """Of consumers: stream, number, epoch, and where each goes on."""
    found = rows(log, recovered)
    assert {row.kind for row in found.values()} <= {lib.RW_OWNER_CONSUMER}
    assert all(row.last_sequence == row.last_offset == 0 for row in found.values())
    return {name: (row.stream, row.number, row.epoch, row.next_sequence) for name, row in found.items()}


def test_below_the_cut_consumers_are_where_they_have_committed(log: LogWriter) -> None:
    log.put((0, [b"1", b"2", b"3"]), (1, b"x"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(consume(1, b"b"), owner=(2, 1, 1))
    log.put(commit(0, 3), owner=(1, 1, 0))
    log.put(commit(0, 1), owner=(1, 1, 3))
    log.put(consume(0, b"a"), owner=(1, 2, 1))
    log.put(commit(0, 2), owner=(1, 2, 1))
    recovered = again(log)
    assert positions(log, recovered) == {"a": (0, 1, 2, 2), "b": (1, 2, 1, 1)}
    log = LogWriter(log.directory, again(log))  # by the checkpoint alone
    log.put(commit(0, 3), owner=(1, 2, 2))
    assert positions(log, again(log)) == {"a": (0, 1, 2, 3), "b": (1, 2, 1, 1)}
    assert offsets(again(log)) == {"s0": 3, "s1": 1}


def test_a_producer_and_a_consumer_may_have_one_name(log: LogWriter) -> None:
    log.put((0, b"0"))
    log.put(claim(0, b"x"), owner=(1, 1, 0))
    log.put(consume(0, b"x"), owner=(2, 1, 0))
    log.put((0, b"1"), owner=(1, 1, 0))
    log.put(commit(0, 2), owner=(2, 1, 0))
    recovered = again(log)
    found = checkpoint_file.load(log_at(log.directory), recovered.manifest).owner_rows()
    assert [(row.kind, row.next_sequence) for row in found] == [(lib.RW_OWNER_PRODUCER, 1), (lib.RW_OWNER_CONSUMER, 2)]
    assert again(log).owners == recovered.owners


def test_a_consumer_that_is_forgotten_is_not_there(log: LogWriter) -> None:
    log.put((0, b"0"), (1, b"0"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(consume(1, b"b"), owner=(2, 1, 0))
    log.put(commit(0, 1), owner=(1, 1, 0))
    log.put(commit(0, lib.RW_FORGET), owner=(1, 1, 1))
    log.put(delete(1))
    recovered = again(log)
    assert (positions(log, recovered), recovered.owners_end) == ({}, 3)
    log = LogWriter(log.directory, recovered)
    log.put(consume(0, b"a"), owner=(3, 1, 0))
    assert positions(log, again(log)) == {"a": (0, 3, 1, 0)}


@pytest.mark.parametrize(
    "owner", [(2, 1, 0), (1, 2, 0), (1, 1, 1), (1, 0, 0), (3, 1, 0)], ids=["unknown", "epoch", "before", "none", "a producer"]
)
def test_a_commit_that_its_consumer_cannot_have_made_is_a_contradiction(log: LogWriter, owner: tuple[int, int, int]) -> None:
    log.put((0, [b"0", b"1"]))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(claim(0, b"p"), owner=(3, 1, 0))
    log.put(commit(0, 1), owner=owner)
    log.put((0, b"y"))
    with pytest.raises(CorruptionError, match="does not follow its"):
        again(log)


def test_a_commit_beyond_the_end_is_a_contradiction(log: LogWriter) -> None:
    log.put((0, b"0"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(commit(0, 2), owner=(1, 1, 0))
    log.put((0, b"y"))
    with pytest.raises(CorruptionError):
        again(log)


def test_beyond_the_cut_commits_that_follow_are_carried_over(log: LogWriter) -> None:
    log.put((0, [b"0", b"1"]))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put((9, b"lost"), state="missing")
    log.put(commit(0, 1), owner=(1, 1, 0))
    log.put((0, b"2"))
    log.put(commit(0, 3), owner=(1, 1, 1))
    log.put(consume(0, b"a"), owner=(1, 2, 3))
    log.put(commit(0, 2), owner=(1, 2, 3))
    log.put(consume(0, b"new"), owner=(2, 1, 3))
    recovered = again(log)
    assert positions(log, recovered) == {"a": (0, 1, 2, 2), "new": (0, 2, 1, 3)}
    assert contents(log.directory)["s0"] == [b"0", b"1", b"2"]
    assert again(log).owners == recovered.owners


@pytest.mark.parametrize("lost", ["a commit", "a claim", "a first claim"])
def test_a_commit_behind_one_that_is_lost_breaks_its_stream(log: LogWriter, lost: str) -> None:
    """It was confirmed to nobody, as nothing is that stands behind it in its stream; other streams go on."""
    first = lost == "a first claim"
    log.put((0, [b"0", b"1", b"2"]), (1, b"0"))
    log.put(consume(1, b"b"), owner=(7, 1, 0))
    log.put(consume(0, b"a"), owner=(1, 1, 0), state="missing" if first else "whole")
    if not first:
        log.put(commit(0, 1), owner=(1, 1, 0))
    if lost == "a commit":
        log.put(commit(0, 2), owner=(1, 1, 1), state="missing")
    elif lost == "a claim":
        log.put(consume(0, b"a"), owner=(1, 2, 1), state="missing")
    log.put(commit(0, 3), owner={"a commit": (1, 1, 2), "a claim": (1, 2, 1)}.get(lost, (1, 1, 0)))
    log.put((0, b"behind"))
    log.put(commit(1, 1), owner=(7, 1, 0))
    recovered = again(log)
    assert positions(log, recovered) == {"b": (1, 7, 1, 1), **({} if first else {"a": (0, 1, 1, 1)})}
    assert contents(log.directory) == {"s0": [b"0", b"1", b"2"], "s1": [b"0"]}
    assert again(log).owners == recovered.owners


def test_a_lost_commit_takes_nothing_of_others_with_it(log: LogWriter) -> None:
    """What is behind it in its stream was appended all the same, and takes no offset of it."""
    log.put((0, b"0"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(commit(0, 1), owner=(1, 1, 0), state="missing")
    log.put((0, b"1"))
    assert positions(log, again(log)) == {"a": (0, 1, 1, 0)}
    assert contents(log.directory) == {"s0": [b"0", b"1"]}


@pytest.mark.parametrize("follows", [True, False])
def test_a_joint_append_goes_with_its_commit(log: LogWriter, *, follows: bool) -> None:
    """What is appended because of records is there if and only if they are committed."""
    log.put((0, [b"0", b"1", b"2"]), (1, b"out 0"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    hole = log.put(commit(0, 1), owner=(1, 1, 0), state="missing")
    log.put((1, b"out 1"), commit(0, 2), owner=(1, 1, 0 if follows else 1), joined=True, watermark=hole.position)
    log.put(commit(0, 3), (1, b"out 2"), owner=(1, 1, 2), joined=True, watermark=hole.position)
    recovered = again(log)
    assert positions(log, recovered) == {"a": (0, 1, 1, 3 if follows else 0)}
    assert contents(log.directory)["s1"] == ([b"out 0", b"out 1", b"out 2"] if follows else [b"out 0"])
    assert (recovered.statistics.carried, recovered.statistics.dropped) == ((2, 0) if follows else (0, 2))
    assert again(log).owners == recovered.owners


def test_a_commit_goes_with_its_joint_append(log: LogWriter) -> None:
    log.put((0, [b"0", b"1", b"2"]), (1, b"out 0"))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    hole = log.put((1, b"lost"), state="missing")
    log.put(commit(0, 2), (1, b"out 1"), owner=(1, 1, 0), joined=True, watermark=hole.position)
    log.put(commit(0, 3), owner=(1, 1, 2), watermark=hole.position)
    recovered = again(log)
    assert positions(log, recovered) == {"a": (0, 1, 1, 0)}
    assert contents(log.directory)["s1"] == [b"out 0"]


@pytest.mark.parametrize("lost", [False, True])
def test_beyond_the_cut_a_consumer_is_forgotten_with_what_said_so(log: LogWriter, *, lost: bool) -> None:
    log.put((0, [b"0", b"1"]))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    log.put(commit(0, 1), owner=(1, 1, 0))
    log.put((9, b"lost"), state="missing")
    log.put(commit(0, lib.RW_FORGET), owner=(1, 1, 1), state="missing" if lost else "whole")
    log.put(consume(0, b"a"), owner=(2, 1, 2))
    recovered = again(log)
    # Where what forgot it is lost, the newer one counts: who claimed it may know where it begins.
    assert positions(log, recovered) == {"a": (0, 2, 1, 2)}
    assert again(log).owners == recovered.owners


def test_many_joint_appends_are_carried_over_with_their_commits(log: LogWriter) -> None:
    log.put((0, [b"."] * 200))
    log.put(consume(0, b"a"), owner=(1, 1, 0))
    hole = log.put((9, b"lost"), state="missing")
    for n in range(200):
        log.put(commit(0, n + 1), (1, b"out" * 100), owner=(1, 1, n), joined=True, watermark=hole.position)
    recovered = again(log)
    assert positions(log, recovered) == {"a": (0, 1, 1, 200)}
    assert len(contents(log.directory)["s1"]) == 200
