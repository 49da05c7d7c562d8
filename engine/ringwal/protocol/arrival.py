"""What comes to a client over its socket."""

from __future__ import annotations

import os

from ringwal._native import ffi, lib
from ringwal.held import Held
from ringwal.protocol.messages import MESSAGE_BYTES_MAX, Message, decode


def receive(socket: int) -> tuple[Message, Held] | None:
    """The next packet, and the descriptors that came with it; does not wait. None: the peer has gone.

    Raises BlockingIOError: there is none. OSError. ConfigError: it is no message.
    """
    data, flags, arrival = ffi.new("uint8_t[]", MESSAGE_BYTES_MAX), ffi.new("int32_t *"), Held()
    size = lib.rw_receive(socket, data, MESSAGE_BYTES_MAX, arrival.cells, flags)
    if size < 0:
        raise OSError(-size, os.strerror(-size))
    if size == 0:
        return None
    return decode(bytes(ffi.buffer(data, size)), flags[0]), arrival
