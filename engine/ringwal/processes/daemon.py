"""`python -m ringwal.processes.daemon DIR FD`: the engine that `connect(autostart=True)` starts.

Its starter has put it into a session of its own, with /dev/null and DIR/engine.log as standard descriptors and none of its
own. Here it leaves its starter for good: a second fork, so that nobody has to wait for it. Its exit code goes to the pipe
FD, whose other end the starter closes once it is connected.
"""

from __future__ import annotations

import contextlib
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
    return Supervisor(directory, autostart=True).run()


if __name__ == "__main__":
    main()
