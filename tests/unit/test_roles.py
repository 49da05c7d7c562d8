"""The table of roles says what the supervisor needs to know, and every process in it keeps to that."""

from __future__ import annotations

import types

import pytest

from ringwal.processes.roles import DRAIN, KEEPER, ROLES, WAL, Role, after


def test_each_is_asked_to_stop_when_the_one_before_has_finished() -> None:
    asked = [role for role in ROLES if not role.expendable]
    assert [after(role) for role in asked] == [*asked[1:], None]
    assert ROLES.index(WAL) < ROLES.index(DRAIN)  # what is written last must still be confirmed


@pytest.mark.parametrize("role", ROLES, ids=str)
def test_each_has_a_body(role: Role) -> None:
    assert role.main().__module__ == role.module


def test_names_and_bodies_are_told_apart() -> None:
    assert len({role.name for role in ROLES}) == len({role.module for role in ROLES}) == len(ROLES)


def test_who_wakes_whom() -> None:
    context = types.SimpleNamespace(doorbell_fd=6, inner_fd=7, maintenance_fd=8)
    assert [role.descriptors(context) for role in ROLES] == [{6, 7, 8}, {7}, {8}]  # type: ignore[arg-type]


def test_who_is_expendable_is_nobody_that_others_wait_for() -> None:
    assert [role for role in ROLES if role.expendable] == [KEEPER]
    assert not KEEPER.writes_log
