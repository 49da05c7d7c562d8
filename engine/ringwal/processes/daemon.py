"""`python -m ringwal.processes.daemon DIR FD`: the engine that `connect(autostart=True)` starts.

Its starter has put it into a session of its own, with /dev/null and DIR/engine.log as standard descriptors and none of its
own. Here it leaves its starter for good: a second fork, so that nobody has to wait for it. Its exit code goes to the pipe
FD, whose other end the starter closes once it is connected. While it starts it keeps others from starting: its stderr is locked
(client/autostart.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import sys
import traceback
from typing import Never

from ringwal.errors import Error
from ringwal.exit_codes import exit_code_of
from ringwal.processes.supervisor import Supervisor
from ringwal.standard import Hasty


def main() -> Never:
    """Ends this process at once, and that of the engine with the engine."""
    directory, status = sys.argv[1], int(sys.argv[2])
    if os.fork():
        os._exit(os.EX_OK)
    code = os.EX_SOFTWARE
    try:
        code = _run(directory)
    except (Error, OSError) as error:
        code, said = exit_code_of(error), f"ringwal: {error}\n"
    except BaseException:  # noqa: BLE001  reported, and the exit code says the rest
        said = traceback.format_exc()
    else:
        said = ""
    _let_others_start()
    with contextlib.suppress(OSError):  # nobody wants to know any more
        os.write(status, bytes([code]))
    with contextlib.suppress(OSError):  # the log may be on the disk that is full
        os.write(2, said.encode(errors="backslashreplace"))
    sys.exit(code)


def _run(directory: str) -> int:
    os.chdir("/")  # the starter's directory may be unmounted or removed
    os.environ.pop("RINGWAL_STARTING", None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    logging.basicConfig(level=logging.INFO, stream=Hasty(2), format="%(asctime)s ringwal %(levelname)s %(message)s")
    return Supervisor(directory, autostart=True, on_ready=_let_others_start).run()


def _let_others_start(_: object = None) -> None:
    """For all that have this stderr, whatever of the engine may hang longer than it holds the directory."""
    with contextlib.suppress(OSError):
        fcntl.flock(2, fcntl.LOCK_UN)


if __name__ == "__main__":
    main()
