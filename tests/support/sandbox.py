"""A sandbox that refuses system calls: `python sandbox.py ERRNO NAME[,NAME...] COMMAND...`, as a seccomp profile does it.

Ends with 99 where this machine cannot do that.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"pidfd_open": 434, "pidfd_send_signal": 424, "pwritev2": 328, "preadv2": 327, "memfd_create": 319},
    "aarch64": {"pidfd_open": 434, "pidfd_send_signal": 424, "pwritev2": 287, "preadv2": 286, "memfd_create": 279},
}
NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
CANNOT = 99


class Program(ctypes.Structure):
    """`struct sock_fprog`"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(names: list[str], error: int) -> bool:
    """For this process and what comes of it. False: cannot be had."""
    known = NUMBERS.get(platform.machine())
    if known is None:
        return False
    steps = [(LOAD, 0, 0, 0)]
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        steps.append((EQUAL, left, 0, known[name]))  # over the others and the way out
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE | error)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return bool(done and libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0) == 0)


if __name__ == "__main__":
    if not refuse(sys.argv[2].split(","), int(sys.argv[1])):
        sys.exit(CANNOT)
    os.execvp(sys.argv[3], sys.argv[3:])
