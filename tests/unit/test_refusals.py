"""Of refused appends, what a flush has to tell."""

from __future__ import annotations

import itertools

import pytest

from ringwal.client.refusals import Refusals


@pytest.mark.parametrize("told", [each for count in range(4) for each in itertools.permutations(range(3), count)])
def test_a_flush_tells_of_the_first_if_its_caller_was_not_told(told: tuple[int, ...]) -> None:
    refusals = Refusals()
    errors = [ValueError(n) for n in range(3)]
    numbers = [refusals.add(error) for error in errors]
    for n in told:
        refusals.told(numbers[n])
    found = refusals.take()
    assert (found is None) is (len(told) == 3)
    if 0 not in told:
        assert found is errors[0]
    assert refusals.take() is None


def test_what_a_flush_has_told_is_not_counted_again() -> None:
    refusals = Refusals()
    old = [refusals.add(ValueError("old")) for _ in range(3)]
    assert refusals.take() is not None
    error = ValueError("new")
    refusals.add(error)
    for number in old:
        refusals.told(number)
    assert refusals.take() is error
