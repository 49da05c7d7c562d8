"""The exception tree is what callers program against: names, parents, outcomes, and what crosses a process border."""

from __future__ import annotations

import errno
import os
import pickle
from typing import Any

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
    "NotWritable": (Exception, "not_appended", False),
    "EngineFailed": (Exception, "unknown", False),
    "NoSuchStream": (LookupError, None, False),
    "StreamDeleted": (errors.NoSuchStream, "not_appended", False),
    "OffsetMismatch": (Exception, "not_appended", False),
    "OffsetTrimmed": (Exception, None, False),
    "CorruptionError": (Exception, None, False),
    "SequenceGap": (Exception, "not_appended", False),
    "ProducerFenced": (Exception, "not_appended", False),
    "ConsumerFenced": (Exception, "not_appended", False),
    "ConfigError": (ValueError, None, False),
    "StreamExists": (errors.ConfigError, None, False),
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
    errors.OffsetMismatch("elsewhere", 17),
    errors.OffsetTrimmed("gone", 17),
    errors.SequenceGap("missing", 17),
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
    for name in ("SomethingNew", "os", "of_code"):
        error = errors.by_name(name, "what happened", {})
        assert type(error) is errors.Error
        assert str(error) == f"{name}: what happened"


def test_a_corruption_error_always_names_the_place() -> None:
    assert str(errors.CorruptionError("bad block", 3, 4096)) == "bad block (segment 3, position 4096)"


@pytest.mark.parametrize(
    ("code", "expected", "outcome"),
    [
        ("RW_TOO_LARGE", errors.RecordTooLarge, "not_appended"),
        ("RW_GONE", errors.EngineFailed, "unknown"),
        ("RW_FAULT", errors.EngineFailed, "unknown"),
        ("RW_BAD", errors.CorruptionError, None),
        ("RW_MISMATCH", errors.VersionMismatch, None),
        ("RW_IO", errors.EngineFailed, "unknown"),
        ("RW_FAILED_REQUEST", errors.EngineFailed, "unknown"),
        ("RW_OVERWRITTEN", errors.Error, None),
        ("RW_MAINTENANCE", errors.Error, None),
    ],
)
def test_every_code_of_the_core_has_one_error(code: str, expected: type[errors.Error], outcome: str | None) -> None:
    error = errors.of_code(getattr(lib, code), "orders", limit=7)
    assert type(error) is expected
    assert error.outcome == outcome
    assert str(error).startswith("orders: ")


def test_facts_become_attributes() -> None:
    too_large = errors.of_code(lib.RW_TOO_LARGE, size=101, limit=100)
    assert isinstance(too_large, errors.RecordTooLarge)
    assert (too_large.limit, "101 bytes" in str(too_large)) == (100, True)
    failed = errors.of_code(lib.RW_IO, errno=errno.EIO)
    assert isinstance(failed, errors.EngineFailed)
    assert failed.errno == errno.EIO


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"stopped": True}, "was stopped"),
        ({"errno": errno.ESTALE}, "its directory was moved"),
        ({"errno": errno.EIO}, os.strerror(errno.EIO)),
        ({}, "was killed, or gave up"),
    ],
)
def test_an_engine_that_is_gone_says_why(facts: dict[str, Any], said: str) -> None:
    error = errors.of_code(lib.RW_GONE, **facts)
    assert isinstance(error, errors.EngineFailed)
    assert (said in str(error), error.errno) == (True, facts.get("errno"))
