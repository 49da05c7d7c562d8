"""The oracle of the demo, the tests and the campaign, on made-up histories, and the journals that it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ringwal.demo.journal import ROW_BYTES, Journal, Kind, Row, Tally, before, digest, read, rows
from ringwal.demo.oracle import NOTES_MAX, Oracle, Verdict


@dataclass(frozen=True)
class Record:
    offset: int
    data: bytes
    timestamp_ns: int = 0
    own_timestamp_ns: int | None = None


A = [b"0 0 a", b"0 1 b", b"0 2 c"]
B = [b"1 0 a", b"1 1 b"]
Told = list[tuple[int, bytes]]


def row(kind: Kind, data: bytes, value: int = 0) -> Row:
    return Row(kind, "s", int(data.split()[1]), value, digest(data), 1)


def judged(stored: list[bytes], journals: dict[str, list[Row]], *, seen: Told = []) -> Verdict:  # noqa: B006
    oracle = Oracle()
    for writer, journal in journals.items():
        oracle.add_writer(writer, journal)
    oracle.add_reader("reader", [row(Kind.SEEN, data, offset) for offset, data in seen])
    oracle.take_records("s", [Record(offset, data) for offset, data in enumerate(stored)])
    return oracle.close()


def history(submitted: list[bytes], confirmed: Told) -> list[Row]:
    return [row(Kind.SUBMITTED, data, 1) for data in submitted] + [row(Kind.CONFIRMED, data, at) for at, data in confirmed]


def verdict(stored: list[bytes], confirmed_a: Told, confirmed_b: Told = []) -> Verdict:  # noqa: B006
    """On a stream that holds `stored`, when two writers submitted all of A and B and were promised (offset, record)s."""
    return judged(stored, {"0": history(A, confirmed_a), "1": history(B, confirmed_b)})


def counts(found: Verdict) -> tuple[int, int, int, int, int]:
    return (found.confirmed, found.recovered, found.lost, found.duplicated, found.reordered)


def wrong(found: Verdict) -> dict[str, int]:
    names = ("lost", "misplaced", "duplicated", "reordered", "invented", "torn", "hung")
    return {name: count for name in names if (count := getattr(found, name))}


def test_two_writers_in_any_interleaving_are_fine() -> None:
    found = verdict([A[0], B[0], B[1], A[1], A[2]], [(0, A[0]), (3, A[1]), (4, A[2])], [(1, B[0]), (2, B[1])])
    assert counts(found) == (5, 5, 0, 0, 0)
    assert found.kept()


def test_records_that_were_never_confirmed_may_follow() -> None:
    assert counts(verdict(A, [(0, A[0])])) == (1, 3, 0, 0, 0)


def test_a_missing_record_is_lost() -> None:
    found = verdict(A[:2], [(0, A[0]), (1, A[1]), (2, A[2])])
    assert counts(found) == (3, 2, 1, 0, 0)
    assert not found.kept()
    assert "missing or changed" in found.first["lost"]


def test_a_stream_that_is_gone_is_lost() -> None:
    oracle = Oracle()
    oracle.add_writer("0", history(A, [(0, A[0]), (1, A[1])]))
    assert wrong(oracle.close()) == {"lost": 2}


def test_a_changed_byte_is_a_lost_record() -> None:
    found = verdict([b"0 0 A"], [(0, b"0 0 a")])
    assert counts(found) == (1, 0, 1, 0, 0)
    assert found.invented == 1


def test_a_record_at_another_offset_is_misplaced() -> None:
    found = verdict([A[0], B[0], A[1]], [(0, A[0]), (1, A[1])])
    assert wrong(found) == {"misplaced": 1}
    assert "is at 2" in found.first["misplaced"]


def test_a_record_stored_twice_is_duplicated() -> None:
    assert counts(verdict([A[0], A[1], A[0], A[2]], [(0, A[0]), (1, A[1]), (3, A[2])])) == (3, 4, 0, 1, 0)


def test_one_offset_promised_to_two_records_is_a_duplicate() -> None:
    assert verdict([A[0]], [(0, A[0])], [(0, B[0])]).duplicated == 1


def test_swapped_records_are_out_of_order() -> None:
    assert counts(verdict([A[1], A[0], A[2]], [(0, A[1]), (2, A[2])])) == (2, 3, 0, 0, 1)


def test_a_hole_in_a_writer_s_numbers_is_out_of_order_even_if_unconfirmed() -> None:
    assert counts(verdict([A[0], A[2]], [(0, A[0])])) == (1, 2, 0, 0, 1)


@pytest.mark.parametrize("kind", [Kind.REFUSED, Kind.UNKNOWN])
def test_a_hole_that_the_writer_was_told_of_is_fine(kind: Kind) -> None:
    told = [*history(A, [(0, A[0])]), row(kind, A[1])]
    assert judged([A[0], A[2]], {"0": told}).kept()


def test_an_unknown_record_may_be_there_and_a_refused_one_may_not() -> None:
    assert judged(A, {"0": [*history(A, []), row(Kind.UNKNOWN, A[1])]}).kept()
    assert wrong(judged(A, {"0": [*history(A, []), row(Kind.REFUSED, A[1])]})) == {"invented": 1}


def test_confirmations_that_go_backwards_are_out_of_order() -> None:
    assert verdict(A, [(1, A[1]), (0, A[0])]).reordered == 1


@pytest.mark.parametrize("data", [b"rubbish", b"", b"0 0 other", b"0 -1 c", b"0 9999 a", b"7 0 a", b"0 x a"])
def test_bytes_that_no_writer_wrote_are_noticed(data: bytes) -> None:
    assert wrong(verdict([data], [])) == {"invented": 1}


def test_offsets_that_are_not_dense_are_noticed() -> None:
    oracle = Oracle()
    oracle.add_writer("0", history(A, []))
    oracle.take_records("s", [Record(0, A[0]), Record(2, A[1])])
    assert oracle.close().reordered == 1


@pytest.mark.parametrize(
    ("stored", "torn"),
    [([A[0], A[1], A[2]], 0), ([], 0), ([A[0], A[1]], 1), ([A[1], A[2]], 1), ([A[0], B[0], A[1], A[2]], 1)],
)
def test_a_batch_is_whole_and_in_one_piece_or_not_there(stored: list[bytes], torn: int) -> None:
    batch = [row(Kind.SUBMITTED, data, 0 if i else 3) for i, data in enumerate(A)]
    assert judged(stored, {"0": batch, "1": history(B, [])}).torn == torn


def test_what_a_reader_saw_stays_where_it_saw_it() -> None:
    assert judged(A, {"0": history(A, [])}, seen=[(0, A[0]), (1, A[1])]).kept()
    assert wrong(judged(A[:1], {"0": history(A, [])}, seen=[(0, A[0]), (1, A[1])])) == {"lost": 1}
    assert wrong(judged(A, {"0": history(A, [])}, seen=[(1, A[0])])) == {"misplaced": 1}


def test_a_writer_without_an_answer_hangs_and_a_complaint_is_handed_on() -> None:
    found = judged(A, {"0": [*history(A, []), row(Kind.HUNG, A[2])]})
    assert wrong(found) == {"hung": 1}
    said = judged([], {"0": [Row(Kind.COMPLAINT, "", 0, 0, 0, 0, "it hurts")]})
    assert (said.kept(), said.notes) == (False, ["0: it hurts"])


def test_all_is_counted_and_the_first_notes_are_kept() -> None:
    found = judged([], {"0": history([b"0 %d x" % n for n in range(99)], [(n, b"0 %d x" % n) for n in range(99)])})
    assert (found.lost, len(found.notes)) == (99, NOTES_MAX)


# ------------------------------------------------------------------------------------------------ trims and ends


def ended(kind: Kind, value: int = 0) -> Row:
    return Row(kind, "s", 0, value, 0, 1)


ASKED, TOLD = ended(Kind.TRIM, 2), ended(Kind.TRIMMED, 2)
TOLD_ALL = [(0, A[0]), (1, A[1]), (2, A[2])]


def trimmed(stored: list[bytes], start: int, first: int, *more: Row, drops: bool = False, seen: list[Row] = []) -> Verdict:  # noqa: B006
    """On a stream of which the log has `stored` from offset `first` on, and which begins at `start`."""
    oracle = Oracle(drops=drops)
    oracle.add_writer("0", [*history(A, TOLD_ALL), *more])
    oracle.add_reader("reader", seen)
    oracle.begins("s", start, first)
    oracle.take("s", stored)
    return oracle.close()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_records_below_a_trim_may_be_there_or_not(first: int) -> None:
    assert trimmed(A[first:], 2, first, ASKED, TOLD).kept()
    assert trimmed(A[first:], 2, first, ASKED).kept()


def test_a_record_at_or_above_a_trim_has_to_be_there() -> None:
    assert wrong(trimmed([], 2, 2, ASKED, TOLD)) == {"lost": 1}
    assert wrong(trimmed([b"0 2 C"], 2, 2, ASKED, TOLD)) == {"lost": 1, "invented": 1}


def test_nothing_goes_that_nobody_trimmed() -> None:
    assert wrong(trimmed(A[2:], 2, 2)) == {"lost": 2}
    assert trimmed(A[2:], 2, 2, drops=True).kept()


def test_a_start_offset_that_was_told_never_goes_back() -> None:
    assert not trimmed(A, 1, 0, ASKED, TOLD).kept()
    assert not trimmed(A, 0, 0, drops=True, seen=[ended(Kind.TRIMMED, 1)]).kept()
    assert trimmed(A, 1, 0, drops=True, seen=[ended(Kind.TRIMMED, 1)]).kept()


def test_what_a_batch_and_a_writer_have_below_the_beginning_is_no_gap() -> None:
    oracle = Oracle()
    oracle.add_writer("0", [*(row(Kind.SUBMITTED, data, 0 if i else 3) for i, data in enumerate(A)), ASKED])
    oracle.begins("s", 2)
    oracle.take("s", A[2:])
    assert oracle.close().kept()


def test_a_gap_above_the_beginning_is_one() -> None:
    more = [b"0 %d x" % n for n in range(3, 6)]
    oracle = Oracle()
    oracle.add_writer("0", [*history([*A, *more], []), ASKED])
    oracle.begins("s", 2)
    oracle.take("s", [A[2], more[2]])
    assert wrong(oracle.close()) == {"reordered": 1}


def test_a_stream_that_was_deleted_has_gone() -> None:
    lives = [*history(A, TOLD_ALL), ended(Kind.DELETE)]
    for more in [ended(Kind.DELETED)], []:
        oracle = Oracle()
        oracle.add_writer("0", [*lives, *more])
        assert oracle.close().kept()
    assert judged(A, {"0": lives}).kept()
    back = judged(A, {"0": [*lives, ended(Kind.DELETED)]})
    assert (back.kept(), back.invented) == (False, 1 + len(A))


def test_the_next_life_of_a_name_has_nothing_of_the_last_one() -> None:
    new = b"0 3 new"
    lives = [*history(A, TOLD_ALL), ended(Kind.DELETE), ended(Kind.DELETED), *history([new], [(0, new)])]
    assert judged([new], {"0": lives}).kept()
    assert wrong(judged([new, A[2]], {"0": lives})) == {"invented": 1}
    assert wrong(judged([], {"0": lives})) == {"lost": 1}


# --------------------------------------------------------------------------------------------------- the journal


def test_a_journal_gives_back_what_was_noted_and_counts_whole_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    long = "a stream's name " * 10
    tally = Tally(path, Kind.CONFIRMED)
    assert (tally.count(), list(read(path))) == (0, [])
    with Journal(path) as journal:
        journal.submitted("s", 0, (11, 12))
        journal.confirmed("s", 0, 7, (11, 12))
        journal.ended(Kind.UNKNOWN, long, 1, (13,))
        journal.push()
        assert tally.count() == 2
        journal.complain(long)
        journal.seen("s", 9, 14)
        journal.trim("s", 5)
        journal.trimmed("s", 4)
        journal.delete("s")
        journal.deleted("s")
    with Journal(path) as journal:
        journal.confirmed(long, 1, 8, (13,))
    found = list(read(path))
    assert [one[:5] for one in found] == [
        (Kind.SUBMITTED, "s", 0, 2, 11),
        (Kind.SUBMITTED, "s", 1, 0, 12),
        (Kind.CONFIRMED, "s", 0, 7, 11),
        (Kind.CONFIRMED, "s", 1, 8, 12),
        (Kind.UNKNOWN, long, 1, 0, 13),
        (Kind.COMPLAINT, "", 0, 0, 0),
        (Kind.SEEN, "s", 0, 9, 14),
        (Kind.TRIM, "s", 0, 5, 0),
        (Kind.TRIMMED, "s", 0, 4, 0),
        (Kind.DELETE, "s", 0, 0, 0),
        (Kind.DELETED, "s", 0, 0, 0),
        (Kind.CONFIRMED, long, 1, 8, 13),
    ]
    assert found[5].text == long
    assert tally.count() == 3
    data = path.read_bytes()
    assert len(data) % ROW_BYTES == 0
    assert list(rows(data[:-1])) == found[:-1]


def test_a_journal_as_it_was_at_an_instant(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        for number in range(3):
            journal.submitted("s", number, (number + 1,))
            journal.push()
    data = path.read_bytes()
    stamps = [one.when_ns for one in rows(data)]
    assert list(rows(before(data, stamps[0]))) == []
    assert [one.number for one in rows(before(data, stamps[2]))] == [n for n in range(3) if stamps[n] < stamps[2]]
    assert before(data, stamps[2] + 1) == data
