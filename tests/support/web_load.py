"""Requests to a web server whose application appends what it is sent, and what may be in the stream after that.

The application's records are three words: the pid of its worker, a number that counts that worker's appends from 0, and the
request's body. It answers a request when its append is confirmed, with its pid and the record's offset.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.rig import WAIT, until


@contextlib.contextmanager
def listening(place: Path) -> Iterator[socket.socket]:
    """A socket for a server to be given: whoever connects is served as soon as it is there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "s"))
        listener.listen(128)
        listener.set_inheritable(True)
        yield listener


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(self._path)


def ask(listener: socket.socket, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and text of the answer. Raises OSError, http.client.HTTPException: there was none."""
    with contextlib.closing(_Connection(listener.getsockname())) as connection:
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@dataclass
class Requester:
    """What one of them was told. It waits for each answer before it asks for the next append."""

    name: str
    answered: list[tuple[str, int, int]] = field(default_factory=list)
    """Body, pid and offset."""
    unanswered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Crowd:
    """Threads that go on until the end, one for each of whom they are. A context manager."""

    def __init__(self, listener: socket.socket, ask: Callable[[Any], None], those: Sequence[object]) -> None:
        self._listener = listener
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=ask, args=(each,)) for each in those]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Load(Crowd):
    """Requesters that go on until the end. A context manager."""

    def __init__(self, listener: socket.socket, path: str, requesters: int = 4) -> None:
        self._path = path
        self.requesters = [Requester(f"r{n}") for n in range(requesters)]
        super().__init__(listener, self._ask, self.requesters)

    def _ask(self, who: Requester) -> None:
        number = 0
        while not self._stop.is_set():
            body, number = f"{who.name}.{number}", number + 1
            try:
                status, said = ask(self._listener, self._path, body)
            except TimeoutError:
                who.wrong.append(f"{body}: no answer within {WAIT:g} s")
                return
            except (OSError, http.client.HTTPException):  # its worker was killed
                who.unanswered.append(body)
                continue
            if status != 200:
                who.wrong.append(f"{status}: {said}")
                return
            pid, offset = map(int, said.split())
            who.answered.append((body, pid, offset))

    def answers(self) -> int:
        return sum(len(each.answered) for each in self.requesters)

    def workers(self) -> set[int]:
        """Pids that have answered."""
        return {pid for each in self.requesters for _, pid, _ in each.answered}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            assert [each.wrong for each in self.requesters if each.wrong] == []
            return condition()

        until(holds, what)

    def await_answers(self, count: int = 40) -> None:
        """So many more."""
        before = self.answers()
        self.until(lambda: self.answers() >= before + count, f"{count} answers")

    def check(self, records: list[str], *, in_order: bool = True) -> None:
        """What is in the stream is what was answered, once, at its place, and what a killed worker did not come to answer.

        ``in_order``: a worker has one thread, which makes one append after the other.
        """
        rows = [(int(pid), int(number), body) for pid, number, body in map(str.split, records)]
        for who in self.requesters:
            assert who.wrong == []
            assert [offset for _, _, offset in who.answered] == sorted(offset for _, _, offset in who.answered)
            for body, pid, offset in who.answered:
                assert (rows[offset][0], rows[offset][2]) == (pid, body)
        times = Counter(body for _, _, body in rows)
        assert max(times.values()) == 1
        unanswered = {body for who in self.requesters for body in who.unanswered}
        assert times.keys() <= unanswered | {body for who in self.requesters for body, _, _ in who.answered}
        for pid in {row[0] for row in rows}:
            numbers = [number for worker, number, _ in rows if worker == pid]
            if in_order:
                assert numbers == list(range(len(numbers)))
            else:
                assert len(set(numbers)) == len(numbers)
