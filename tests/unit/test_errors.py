"""The exception tree is what callers program against: names, parents, outcomes, and what crosses a process border."""

from __future__ import annotations

import errno
import pickle

import pytest

from ringwal import errors
from ringwal._native import lib

# name: standard parent, outcome, retriable
TREE: dict[str, tuple[type[Exception], str | None, bool]] = {
    "NotRunning": (ConnectionError, "not_appended", True),
    "VersionMismatch": (Exception, None, False),
    "Locked": (Exception, None, True),
    "ShmUnavailable": (Exception, None, False),
    "ForkError": (Exception, "unknown", False),
    "ClosedError": (Exception, "not_appended", False),
    "BackpressureTimeout": (TimeoutError, "not_appended", True),
    "AckTimeout": (TimeoutError, "unknown", False),
    "RecordTooLarge": (ValueError, "not_appended", False),
    "StorageFull": (OSError, "not_appended", True),
    "FileError": (OSError, None, False),
    "EngineFailed": (Exception, "unknown", False),
    "NoSuchStream": (LookupError, None, False),
    "OffsetTrimmed": (Exception, None, False),
    "CorruptionError": (Exception, None, False),
    "ConfigError": (ValueError, None, False),
}


def test_the_tree_has_these_classes_and_no_others() -> None:
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.Error) and value is not errors.Error
    }
    assert own == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_each_error_has_its_parents_and_its_two_facts(name: str) -> None:
    parent, outcome, retriable = TREE[name]
    error = getattr(errors, name)("what happened")
    assert isinstance(error, errors.Error)
    assert isinstance(error, parent)
    assert (error.outcome, error.retriable) == (outcome, retriable)
    assert str(error) == "what happened"


EXAMPLES = [
    errors.Locked("in use", 4711),
    errors.ShmUnavailable("no room", 1 << 20),
    errors.RecordTooLarge("too large", limit=42),
    errors.StorageFull("disk full", errno.EDQUOT),
    errors.FileError("not yours", errno.EACCES, "/d", 0),
    errors.EngineFailed("write failed", errno.EIO),
    errors.OffsetTrimmed("gone", 17),
    errors.CorruptionError("bad block", segment=3, position=4096),
    errors.ClosedError("closed", outcome="unknown"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_whole(error: errors.Error) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.facts() == error.facts() != {}
    assert again.outcome == error.outcome


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_the_socket(error: errors.Error) -> None:
    again = errors.by_name(type(error).__name__, str(error), error.facts() | {"ok": False, "tag": 1})
    assert type(again) is type(error)
    assert str(again) == str(error)
    expected = {name: value for name, value in error.facts().items() if name != "outcome"}
    assert {name: again.facts()[name] for name in expected} == expected
    assert "tag" not in again.facts()


def test_an_error_that_this_build_does_not_know_keeps_its_name_and_message() -> None:
    for name in ("SomethingNew", "os", "raise_for"):
        error = errors.by_name(name, "what happened", {})
        assert type(error) is errors.Error
        assert str(error) == f"{name}: what happened"


def test_a_corruption_error_always_names_the_place() -> None:
    assert str(errors.CorruptionError("bad block", 3, 4096)) == "bad block (segment 3, position 4096)"


@pytest.mark.parametrize(
    ("code", "pending", "expected", "outcome"),
    [
        ("RW_PENDING", True, errors.AckTimeout, "unknown"),
        ("RW_FULL", False, errors.BackpressureTimeout, "not_appended"),
        ("RW_TOO_LARGE", False, errors.RecordTooLarge, "not_appended"),
        ("RW_GONE", False, errors.NotRunning, "not_appended"),
        ("RW_GONE", True, errors.EngineFailed, "unknown"),
        ("RW_FAULT", False, errors.EngineFailed, "not_appended"),
        ("RW_FAULT", True, errors.EngineFailed, "unknown"),
        ("RW_BAD", False, errors.CorruptionError, None),
        ("RW_MISMATCH", False, errors.VersionMismatch, None),
        ("RW_IO", True, errors.EngineFailed, "unknown"),
        ("RW_FAILED_REQUEST", True, errors.EngineFailed, "unknown"),
        ("RW_OVERWRITTEN", False, errors.Error, None),
        ("RW_CHORE", False, errors.Error, None),
    ],
)
def test_every_code_of_the_core_has_one_error(
    code: str, pending: bool, expected: type[errors.Error], outcome: str | None
) -> None:
    with pytest.raises(errors.Error) as caught:
        errors.raise_for(getattr(lib, code), "orders", pending=pending)
    assert type(caught.value) is expected
    assert caught.value.outcome == outcome
    assert str(caught.value).startswith("orders: ")


def test_success_raises_nothing_and_facts_become_attributes() -> None:
    errors.raise_for(lib.RW_OK)
    with pytest.raises(errors.RecordTooLarge, match="100 bytes") as too_large:
        errors.raise_for(lib.RW_TOO_LARGE, limit=100)
    assert too_large.value.limit == 100
    with pytest.raises(errors.EngineFailed) as failed:
        errors.raise_for(lib.RW_IO, errno=errno.EIO)
    assert failed.value.errno == errno.EIO
