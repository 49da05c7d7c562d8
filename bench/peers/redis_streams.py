"""Redis Streams over a Unix socket, with the append-only file synced before every answer."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.processes import Server
from bench.scenario import Scenario

ANSWER_TIMEOUT = 60.0
CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
auto-aof-rewrite-percentage 0
save ""
maxclients 1000
"""


def take_answers(receive: Callable[[int], bytes], lines: int) -> None:
    """Reads that many lines and refuses errors, which are lines that begin with a minus. A chunk may begin inside a line."""
    fresh = True
    while lines:
        got = receive(65536)
        if not got or (fresh and got[0] == ord("-")) or b"\n-" in got:
            raise ConnectionError(got.decode(errors="replace") or "redis closed the connection")
        lines -= got.count(b"\n")
        fresh = got.endswith(b"\n")


class _Session(BlockingSession):
    """Speaks the protocol itself: a client library's Python costs more than the server's work and would hide it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER_TIMEOUT)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        key = b"s%d" % stream
        head = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nd\r\n" % (len(key), key)
        self.socket.sendall(b"".join([b"%b$%d\r\n%b\r\n" % (head, len(record), record) for record in records]))
        take_answers(self.socket.recv, 2 * len(records))  # each answer is a bulk string: its length and the new entry's id

    def ping(self) -> None:
        self.socket.sendall(b"PING\r\n")
        take_answers(self.socket.recv, 1)

    def close(self) -> None:
        self.socket.close()


class RedisStreams(Contender):
    """One server, XADD; several records go down the socket in one pipeline where the scenario allows it."""

    name = "redis"
    durability = "appendonly yes, appendfsync always: synced once per event loop turn, before the answers of that turn"

    def __init__(self) -> None:
        self.path = Path()
        self.server: Server | None = None

    def unavailable(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not installed (Debian: apt install redis-server)"
        return None

    def version(self) -> str:
        done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
        return "Redis " + done.stdout.split("v=")[1].split()[0]

    def setup(self, directory: Path, scenario: Scenario) -> None:
        self.path = directory / "redis.sock"
        config = directory / "redis.conf"
        config.write_text(CONFIG.format(socket=self.path, directory=directory))
        self.server = Server(["redis-server", str(config)], directory / "redis.log")
        self.server.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            session = _Session(self.path)
            session.ping()
            session.close()
        except OSError:
            return False
        return True

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.path)

    def server_pids(self) -> list[int]:
        return self.server.pids() if self.server else []

    def teardown(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None
