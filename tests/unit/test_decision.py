"""The decision table has exactly one row for every combination of its inputs."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ringwal.log.decision import ROWS, Evidence, Outcome, decide

FIELDS = [field.name for field in dataclasses.fields(Evidence)]
EVERY = [Evidence(*values) for values in itertools.product((False, True), repeat=len(FIELDS))]


def test_every_combination_matches_exactly_one_row() -> None:
    for evidence in EVERY:
        assert len([row.label for row in ROWS if row.matches(evidence)]) == 1, evidence


def test_every_row_is_reached_and_has_a_label_of_its_own() -> None:
    assert {row.label for row in ROWS for evidence in EVERY if row.matches(evidence)} == {row.label for row in ROWS}
    assert len({row.label for row in ROWS}) == len(ROWS)
    assert all(len(row.pattern) == len(FIELDS) for row in ROWS)


def test_impossible_evidence_aborts() -> None:
    impossible = [e for e in EVERY if any(r.matches(e) and r.outcome is Outcome.IMPOSSIBLE for r in ROWS)]
    assert impossible
    for evidence in impossible:
        with pytest.raises(AssertionError):
            decide(evidence)


def test_a_log_is_accepted_only_if_nothing_speaks_against_it() -> None:
    for evidence in EVERY:
        row = next(row for row in ROWS if row.matches(evidence))
        if row.outcome in (Outcome.ACCEPT, Outcome.CARRY):
            assert evidence.segments_whole and evidence.has_epoch and evidence.consistent
            assert not evidence.covered and evidence.in_window
        if row.outcome is Outcome.CORRUPT:
            assert row.message
