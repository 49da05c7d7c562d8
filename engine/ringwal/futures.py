"""Receipts as `concurrent.futures.Future`, for code that needs `wait` or `as_completed`.

One daemon thread per process waits for all of them, started with the first future and gone when none is left.
"""

from __future__ import annotations

import collections
import os
import threading
from concurrent.futures import Future

from ringwal.errors import AckTimeout, Error
from ringwal.receipt import Ack, Receipt

_lock = threading.Lock()
_waiting: collections.deque[tuple[Receipt, Future[Ack]]] = collections.deque()
_running = False


def future_of(receipt: Receipt) -> Future[Ack]:
    """A future with the receipt's result. Cancelling it does not cancel the append."""
    global _running
    future: Future[Ack] = Future()
    if receipt.done():
        _finish(receipt, future)
        return future
    with _lock:
        _waiting.append((receipt, future))
        if not _running:
            _running = True
            threading.Thread(target=_wait_for_all, name="ringwal-futures", daemon=True).start()
    return future


def _finish(receipt: Receipt, future: Future[Ack]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(receipt.result(timeout=0))
    except Error as error:
        future.set_exception(error)


def _wait_for_all() -> None:
    global _running
    while True:
        with _lock:
            if not _waiting:
                _running = False
                return
            receipt, future = _waiting.popleft()
        try:
            receipt.exception(timeout=0.05)
        except AckTimeout:
            _waiting.append((receipt, future))  # the next one may be done; a slow stream must not hold up the others
            continue
        _finish(receipt, future)


def _forget_after_fork() -> None:
    global _lock, _running
    _lock = threading.Lock()
    _waiting.clear()
    _running = False


os.register_at_fork(after_in_child=_forget_after_fork)
