"""The lock that an exception behind any bytecode leaves free."""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

import pytest

from ringwal.steps import Alone, Rest, Steps, alone, park, within
from ringwal.thread_lock import Occupied, ThreadLock

WAIT = 30.0


class Strike(Exception):
    pass


@pytest.mark.parametrize("seconds", [None, WAIT])
def test_whatever_strikes_whenever_nobody_is_locked_out(seconds: float | None) -> None:
    lock = ThreadLock()
    for after in range(1, 1000):
        left = after

        def trace(frame: types.FrameType, event: str, _: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename != sys.modules[ThreadLock.__module__].__file__:
                return None
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0:
                raise Strike
            return trace

        sys.settrace(trace)
        try:
            lock.run(lambda: None, seconds)
        except Strike:
            assert not lock.held(), f"after {after} bytecodes"
        else:
            assert after > 20
            return
        finally:
            sys.settrace(None)
    raise AssertionError("it never came through")


def test_who_waits_for_so_long_is_told() -> None:
    lock, held, done = ThreadLock(), threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        done.wait(WAIT)

    holder = threading.Thread(target=lock.run, args=[hold])
    holder.start()
    held.wait(WAIT)
    try:
        with pytest.raises(Occupied):
            lock.run(lambda: None, 0.0)
        with pytest.raises(TimeoutError, match="late"):
            park(within(alone(lock, _nothing), 0.0, lambda: TimeoutError("late")))
        assert not lock.held()
    finally:
        done.set()
        holder.join(WAIT)
    assert lock.run(lambda: lock.run(lock.held, 0.0), 0.0), "whoever holds it is in at once"


def _nothing() -> Steps[None]:
    yield from ()


def test_steps_that_wait_too_long_are_ended_where_they_wait() -> None:
    ended: list[str] = []

    def steps() -> Steps[str]:
        try:
            yield Rest(WAIT)
        except TimeoutError as error:
            ended.append(str(error))
            raise
        return "too late"

    def around() -> Steps[str]:
        found: str = yield Alone(ThreadLock(), steps)
        return found

    with pytest.raises(TimeoutError, match="late"):
        park(within(around(), 0.0, lambda: TimeoutError("late")))
    assert ended == ["late"]
