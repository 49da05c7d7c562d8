"""Producers, by docs/format.md: what an encoder of claims, batches and rows means is what the oracle's decoder and the engine
take from it, and what the document does not allow is seen by both, as far as the engine looks at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringwal.errors import CorruptionError
from ringwal.log.recovery import recover
from tests.faults.decode import DecodeError, Log, contents
from tests.support import drafts
from tests.support.drafts import Owner, Producer, Row
from tests.support.log_place import log_at
from tests.support.log_writer import CONFIG

SIX = Producer(id=6, epoch=1)
SEVEN = Producer(id=7, epoch=1)
DEFINED = drafts.define(1, "one")
CLAIMED = drafts.claim(1, 0, SIX), drafts.batch(1, 0, b"a", b"b", by=SIX, time=2)
"""Of owner 6: the next record has sequence 2."""


def at(number: Producer, sequence: int, epoch: int = 1) -> Producer:
    return number._replace(sequence=sequence, epoch=epoch)


def written(
    directory: Path, before: tuple[drafts.Frame, ...], behind: tuple[drafts.Frame, ...] = (), *, owners: tuple[Owner, ...] = (),
    rows: tuple[Row, ...] = (), next_owner: int | None = None, prefix: tuple[drafts.Frame, ...] = (DEFINED,),
) -> Path:  # fmt: skip
    """A log of these frames before and behind its checkpoint; without `rows` the checkpoint is about its beginning."""
    made = drafts.Log(directory / "log")
    if rows:
        made.add(*prefix, *before)
        position = made.position
        made.add(*behind)
    else:
        position = made.position
        made.add(*prefix, *before, *behind)
    made.add()
    following = (100 if rows else 1) if next_owner is None else next_owner
    return made.write(*rows, at=position, owners=owners, next_owner=following, next_stream=100 if rows else 0)


def both(directory: Path) -> dict[int, tuple[int, int, int, int, int, str | None]]:
    """Stream, epoch, next, last, offset, name of each owner, as the decoder has them, and as the engine writes them."""
    seen = {number: (one.stream, *one[1:5], one.name) for number, one in Log(directory).owners().items()}
    recover(log_at(directory), CONFIG)
    again = Log(directory)
    assert {number: (one.stream, *one[1:5], one.name) for number, one in again.checkpoint.owners.items()} == seen
    return seen  # type: ignore[return-value]


def test_a_producer_is_what_its_claims_and_batches_say(tmp_path: Path) -> None:
    frames = (
        *CLAIMED,
        drafts.batch(1, 2, b"nobody's"),
        drafts.batch(1, 3, b"c", by=at(SIX, 2)),
        drafts.claim(1, 4, at(SEVEN, 0), "größe"),
        drafts.claim(1, 4, at(SIX, 3, epoch=2)),
        drafts.batch(1, 4, b"d", b"e", by=at(SIX, 3, epoch=2)),
    )
    made = written(tmp_path, frames)
    assert contents(made)["one"].records == [b"a", b"b", b"nobody's", b"c", b"d", b"e"]
    assert both(made) == {6: (1, 2, 5, 3, 4, "p"), 7: (1, 1, 0, 0, 0, "größe")}


def test_owners_of_the_checkpoint_go_on(tmp_path: Path) -> None:
    rows = (Row(1, "one", 2, 0, 10, 2), Row(4, "four"))
    owners = Owner(6, 1, 1, 2, 0, 0, 2), Owner(9, 4, 3, 50, 48, 7, 1, b"q" * 120)
    behind = drafts.batch(1, 2, b"c", by=at(SIX, 2)), drafts.batch(4, 0, b"x", by=Producer(9, 3, 50))
    made = written(tmp_path, CLAIMED, behind, owners=owners, rows=rows)
    assert both(made) == {6: (1, 1, 3, 2, 2, "p"), 9: (4, 3, 51, 50, 0, "q" * 120)}


def test_a_claim_forgets_and_so_does_the_end_of_a_stream(tmp_path: Path) -> None:
    frames = (
        *CLAIMED,
        drafts.define(2, "two"),
        drafts.claim(2, 0, at(SEVEN, 0)),
        drafts.claim(1, 2, Producer(8, 1, 0), "other", forgets=6),
        drafts.delete(2, 0),
    )
    made = written(tmp_path, frames)
    assert both(made) == {8: (1, 1, 0, 0, 0, "other")}


def test_a_claim_of_a_known_owner_forgets_nobody(tmp_path: Path) -> None:
    frames = *CLAIMED, drafts.claim(1, 2, at(SEVEN, 0), "q"), drafts.claim(1, 2, at(SIX, 2, epoch=2), forgets=7)
    assert both(written(tmp_path, frames)).keys() == {6, 7}


def test_a_claim_that_the_log_does_not_have_any_more_is_not_missed(tmp_path: Path) -> None:
    """Before the checkpoint: it was in a segment that is freed."""
    before = (drafts.batch(1, 0, b"c", by=at(SIX, 9, epoch=4)), drafts.claim(1, 1, at(SEVEN, 3, epoch=2), "q"))
    owners = Owner(6, 1, 4, 10, 9, 0, 1), Owner(7, 1, 2, 3, 2, 77, 1, b"q")
    made = written(tmp_path, before, owners=owners, rows=(Row(1, "one", 1, 0, 1, 1),))
    assert both(made) == {6: (1, 4, 10, 9, 0, "p"), 7: (1, 2, 3, 2, 77, "q")}


def test_a_salvage_has_forgotten_all(tmp_path: Path) -> None:
    made = written(tmp_path, CLAIMED, rows=(Row(1, "one", 2, 0, 10, 2),), next_owner=7 + (1 << 20))
    assert both(made) == {}


def test_a_checkpoint_of_an_earlier_draft_has_no_owners(tmp_path: Path) -> None:
    nobodys = (drafts.batch(1, 0, b"a", b"b"),)
    made = written(tmp_path, nobodys, (drafts.claim(1, 2, at(SIX, 0)),), rows=(Row(1, "one", 2, 0, 10, 1),), next_owner=0)
    assert both(made) == {6: (1, 1, 0, 0, 0, "p")}


def test_verdicts_of_every_reason_say_nothing_of_records(tmp_path: Path) -> None:
    verdicts = [drafts.verdict(1, reason, 5, base=2, by=at(SIX, 70, epoch=9)) for reason in range(2, 7)]
    verdicts.append(drafts.verdict(1, 7, 0, base=2))
    assert both(written(tmp_path, (*CLAIMED, *verdicts)))[6] == (1, 1, 2, 0, 0, "p")


BATCHES = {
    "a sequence that was there already": drafts.batch(1, 2, b"c", by=at(SIX, 1)),
    "a sequence that leaves out one": drafts.batch(1, 2, b"c", by=at(SIX, 3)),
    "an epoch that nobody has claimed": drafts.batch(1, 2, b"c", by=at(SIX, 2, epoch=2)),
    "a producer that nobody has claimed": drafts.batch(1, 2, b"c", by=SEVEN),
}
CLAIMS = {
    "an epoch that is over": drafts.claim(1, 2, at(SIX, 2)),
    "another next sequence": drafts.claim(1, 2, at(SIX, 1, epoch=2)),
    "another name": drafts.claim(1, 2, at(SIX, 2, epoch=2), "q"),
    "a name that another one has": drafts.claim(1, 2, SEVEN),
    "a number below one that was given out": drafts.claim(1, 2, Producer(5, 1, 0), "q"),
    "a new owner that begins in between": drafts.claim(1, 2, at(SEVEN, 4), "q"),
    "a name that is no text": drafts.claim(1, 2, SEVEN, b"\xff"),
    "a verdict of a reason that nobody knows": drafts.verdict(1, 8, 0, base=2),
}
FRAMES = {
    "a claim of nobody": drafts.claim(1, 2, Producer(0, 1, 0), "q"),
    "a claim of another kind": drafts.claim(1, 2, SEVEN, "q", kind=3),
    "a claim without a name": drafts.claim(1, 2, SEVEN, ""),
    "a claim with a long name": drafts.claim(1, 2, SEVEN, "q" * 121),
    "a claim without its stream's offset": drafts.claim(1, 1, SEVEN, "q"),
}


@pytest.mark.parametrize("what", [*BATCHES, *CLAIMS, *FRAMES])
def test_what_does_not_follow_is_seen(what: str, tmp_path: Path) -> None:
    frame = {**BATCHES, **CLAIMS, **FRAMES}[what]
    assert Log(written(tmp_path / "good", CLAIMED)).owners()
    made = written(tmp_path, (*CLAIMED, frame))
    with pytest.raises(DecodeError):
        Log(made).owners()
    if what not in CLAIMS:  # the engine takes its own claims for what they say
        with pytest.raises(CorruptionError):
            recover(log_at(made), CONFIG)


FORGOTTEN = {
    "by a claim": drafts.claim(1, 2, SEVEN, "q", forgets=6),
    "with its stream": drafts.delete(1, 2),
}


@pytest.mark.parametrize("how", FORGOTTEN)
@pytest.mark.parametrize("again", [drafts.batch(2, 0, b"c", by=at(SIX, 2)), drafts.claim(2, 0, at(SIX, 2, epoch=2))])
@pytest.mark.parametrize("rows", [(), (Row(2, "two", 1, 0, 1, 1),)], ids=["behind the checkpoint", "before it"])
def test_who_is_forgotten_stays_forgotten(how: str, again: drafts.Frame, rows: tuple[Row, ...], tmp_path: Path) -> None:
    frames = (*CLAIMED, FORGOTTEN[how], drafts.define(2, "two"))
    assert 6 not in both(written(tmp_path / "good", frames))
    with pytest.raises(DecodeError, match=r"(of|producer) 6"):
        Log(written(tmp_path / "bad", (*frames, again), rows=rows)).owners()


OTHERWISE: dict[str, tuple[tuple[Owner, ...], int]] = {
    "no row": ((), 100),
    "a number that has not been given out": ((Owner(6, 1, 1, 2, 0, 0, 2),), 6),
    "another epoch": ((Owner(6, 1, 2, 2, 0, 0, 2),), 100),
    "another next sequence": ((Owner(6, 1, 1, 3, 0, 0, 2),), 100),
    "another newest batch": ((Owner(6, 1, 1, 2, 1, 0, 2),), 100),
    "another offset": ((Owner(6, 1, 1, 2, 0, 1, 2),), 100),
    "another timestamp": ((Owner(6, 1, 1, 2, 0, 0, 3),), 100),
    "another name": ((Owner(6, 1, 1, 2, 0, 0, 2, b"q"),), 100),
    "a stream that it does not have": ((Owner(6, 1, 1, 2, 0, 0, 2), Owner(7, 3)), 100),
    "one name twice": ((Owner(6, 1, 1, 2, 0, 0, 2), Owner(7, 1)), 100),
    "another order": ((Owner(7, 1, name=b"q"), Owner(6, 1, 1, 2, 0, 0, 2)), 100),
    "another kind": ((Owner(6, 1, 1, 2, 0, 0, 2, kind=2),), 100),
    "no name": ((Owner(6, 1, 1, 2, 0, 0, 2, b""),), 100),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_checkpoint_that_says_otherwise_than_the_log_is_seen(what: str, tmp_path: Path) -> None:
    rows = (Row(1, "one", 2, 0, 10, 2),)
    assert 6 in Log(written(tmp_path / "good", CLAIMED, owners=(Owner(6, 1, 1, 2, 0, 0, 2),), rows=rows)).owners()
    owners, next_owner = OTHERWISE[what]
    with pytest.raises(DecodeError):
        Log(written(tmp_path / "bad", CLAIMED, owners=owners, rows=rows, next_owner=next_owner)).owners()


def test_one_who_is_forgotten_in_the_log_has_no_row(tmp_path: Path) -> None:
    before = *CLAIMED, drafts.claim(1, 2, SEVEN, "q", forgets=6)
    owners = Owner(6, 1, 1, 2, 0, 0, 2), Owner(7, 1, name=b"q")
    rows = (Row(1, "one", 2, 0, 10, 2),)
    assert both(written(tmp_path / "good", before, owners=owners[1:], rows=rows)).keys() == {7}
    with pytest.raises(DecodeError, match="forgotten in the log"):
        Log(written(tmp_path / "bad", before, owners=owners, rows=rows)).owners()
