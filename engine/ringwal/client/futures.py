"""Receipts as `concurrent.futures.Future`, for code that needs `wait` or `as_completed`.

One daemon thread per lane waits for its futures, started with the first one and gone when none is left: an engine that
hangs holds up nobody who waits for another one.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ringwal.client.lane import SLICE, Lane
from ringwal.errors import AckTimeout, Error

if TYPE_CHECKING:
    from ringwal.client.receipt import Receipt
    from ringwal.model import Ack


class Watch:
    """The futures of one lane that are pending, and the thread that resolves them."""

    def __init__(self) -> None:
        self._pending: collections.deque[tuple[Receipt, Future[Ack]]] = collections.deque()
        self._busy = threading.Lock()  # held by the thread, and waited for by nobody

    def add(self, receipt: Receipt, future: Future[Ack]) -> None:
        self._pending.append((receipt, future))
        if not self._busy.locked():  # else the thread looks again when it has let go of it
            threading.Thread(target=self._serve, name="ringwal-futures", daemon=True).start()

    def _serve(self) -> None:
        while self._pending and self._busy.acquire(blocking=False):
            try:
                self._resolve()
            finally:
                self._busy.release()

    def _resolve(self) -> None:
        pending = self._pending
        while pending:
            receipt, future = pending[0]
            try:
                receipt.exception(SLICE)
            except AckTimeout:  # another one may be done
                for _ in range(len(pending)):
                    receipt, future = pending.popleft()
                    if receipt.done():
                        _finish(receipt, future)
                    else:
                        pending.append((receipt, future))
            else:
                pending.popleft()
                _finish(receipt, future)


_watches: weakref.WeakKeyDictionary[Lane, Watch] = weakref.WeakKeyDictionary()


def future_of(receipt: Receipt) -> Future[Ack]:
    """A future with the receipt's result. Cancelling it does not cancel the append."""
    future: Future[Ack] = Future()
    if receipt.done():
        _finish(receipt, future)
    else:
        _watches.setdefault(receipt._results.lane, Watch()).add(receipt, future)
    return future


def _finish(receipt: Receipt, future: Future[Ack]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(receipt.result(timeout=0))
    except Error as error:
        future.set_exception(error)


def _forget_after_fork() -> None:
    global _watches
    _watches = weakref.WeakKeyDictionary()  # the threads are the parent's


os.register_at_fork(after_in_child=_forget_after_fork)
