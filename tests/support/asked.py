"""Seeing from outside how far a trim or a deletion in another thread has come."""

from __future__ import annotations

import sys
import traceback
from concurrent.futures import Future
from typing import Any

from ringwal.client import removal
from tests.support.rig import until


def await_taken(future: Future[Any]) -> None:
    """Until the engine has taken what that thread asks for, or the thread is done: from then on it looks at memory."""

    def looking() -> bool:
        frames = [frame for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top)]
        return any(frame.f_code is removal._await.__code__ for frame in frames)

    until(lambda: looking() or future.done(), "the request is taken")
