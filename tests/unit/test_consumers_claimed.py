"""Claims of consumers in the supervisor: one after the other of each name, whatever becomes of their streams meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from ringwal.errors import Error, ShmUnavailable, StreamDeleted
from ringwal.processes.claims import Claimed
from ringwal.processes.consumers import Consumers
from ringwal.processes.streams import Key


class Streams:
    """Names, and the streams that have them."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.made = 0
        self.full = False

    def open(self, name: str) -> Key:
        if name not in self.keys:
            if self.full:
                raise ShmUnavailable("no place")
            self.keys[name] = Key(self.made, self.made)
            self.made += 1
        return self.keys[name]

    def look(self, name: str) -> Key | None:
        return self.keys.get(name)

    def by_number(self, number: int) -> tuple[str, Key] | None:
        return next(((name, key) for name, key in self.keys.items() if key.number == number), None)


class Asked:
    """Claims that wait until they are answered."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Key, bytes, Callable[[Claimed | Error], None]]] = []
        self.rows: dict[bytes, set[int]] = {}

    def room(self) -> int:
        return 100

    def check_space(self, what: str) -> None:
        assert what

    def streams_of(self, name: bytes) -> set[int]:
        return self.rows.get(name, set()).copy()

    def claim_position(self, key: Key, name: bytes, start: int, told: Callable[[Claimed | Error], None]) -> None:
        assert start >= 0
        self.waiting.append((key, name, told))

    def answer(self, *, deleted: Collection[int] = ()) -> list[int]:
        """Those that wait now; the streams that they were of."""
        waiting, self.waiting = self.waiting, []
        for key, name, told in waiting:
            if key.number in deleted:
                told(StreamDeleted("gone"))
            else:
                self.rows.setdefault(name, set()).add(key.number)
                told(Claimed(key.number + 1, 1, 0))
        return [key.number for key, _, _ in waiting]


class World:
    def __init__(self) -> None:
        self.streams, self.asked = Streams(), Asked()
        self.consumers = Consumers(self.streams, self.asked)  # type: ignore[arg-type]

    def claim(self, name: str, *streams: str) -> list[Any]:
        """What is told, once it is."""
        told: list[Any] = []
        said: dict[str, Any] = {"name": name, "count": len(streams)}
        for n, stream in enumerate(streams):
            said |= {f"stream{n}": stream, f"start{n}": 0}
        self.consumers.claim(said, told.append)
        return told


@pytest.fixture
def world() -> World:
    return World()


def names(told: list[Any]) -> list[str]:
    (rows,) = told
    return [row["stream"] for row in rows]


def test_claims_of_one_name_are_made_one_after_the_other(world: World) -> None:
    first, second, other = world.claim("c", "a", "b"), world.claim("c", "b", "d"), world.claim("e", "a")
    assert world.asked.answer() == [0, 1, 0]
    assert (names(first), second, names(other)) == (["a", "b"], [], ["a"])
    assert sorted(world.asked.answer()) == [0, 1, 2], "also rows of streams that it does not read"
    assert names(second) == ["b", "d"]
    assert world.claim("nobody") == [[]]


def test_a_stream_that_is_made_anew_while_a_claim_waits_leaves_nobody_waiting(world: World) -> None:
    first, second = world.claim("c", "a"), world.claim("c", "a")
    world.asked.answer()
    assert names(first) == ["a"]
    third = world.claim("c", "a")
    del world.streams.keys["a"]  # it is deleted, and there is another one
    world.asked.rows[b"c"] = {world.streams.open("a").number}
    world.asked.answer(deleted={0})
    assert isinstance(second[0], StreamDeleted)
    assert world.asked.answer(deleted={0}) == [1]
    assert names(third) == ["a"]


def test_a_table_that_is_full_when_its_turn_comes_is_told(world: World) -> None:
    first, second, third = world.claim("c", "a"), world.claim("c", "b"), world.claim("c", "a")
    world.streams.full = True
    world.asked.answer()
    world.asked.answer()
    assert names(first) == names(third) == ["a"]
    assert isinstance(second[0], ShmUnavailable)
    assert isinstance(world.claim("c", "d")[0], ShmUnavailable)
