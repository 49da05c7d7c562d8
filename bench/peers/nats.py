"""NATS JetStream with file storage, over loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from bench.contender import BlockingSession, Contender, Plan
from bench.processes import Server
from bench.scenario import Scenario

CONFIG = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
jetstream {{
  store_dir: "{directory}"
  max_file_store: 64GB
  {sync}
}}
"""
ALWAYS = "sync_interval: always"
SYNCED = "file storage, sync_interval=always: synced before each answer"
UNSYNCED = (
    "NOT comparable: this server version has no sync setting; it answers from the page cache and syncs every two minutes, "
    "so a power cut loses confirmed records"
)
ANSWER_TIMEOUT = 60.0


class _Session(BlockingSession):
    """Speaks the protocol itself: a client library's Python costs more than the server's work and would hide it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = b"_INBOX." + uuid.uuid4().hex.encode()
        self.input = self.socket.makefile("rb")
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB %b 1\r\nPING\r\n' % self.inbox)
        while not self.input.readline().startswith(b"PONG"):
            pass

    def commit(self, stream: int, records: Sequence[bytes]) -> None:
        head = b"PUB s.%d %b " % (stream, self.inbox)
        self.socket.sendall(b"".join([b"%b%d\r\n%b\r\n" % (head, len(record), record) for record in records]))
        for _ in records:
            self.answer()

    def create(self) -> None:
        """Makes the stream."""
        request = json.dumps({"name": "log", "subjects": ["s.*"], "storage": "file", "retention": "limits"}).encode()
        self.socket.sendall(b"PUB $JS.API.STREAM.CREATE.log %b %d\r\n%b\r\n" % (self.inbox, len(request), request))
        self.answer()

    def answer(self) -> None:
        """Waits for one confirmation."""
        while not (line := self.input.readline()).startswith(b"MSG"):
            if line.startswith(b"PING"):
                self.socket.sendall(b"PONG\r\n")
            elif not line or line.startswith(b"-ERR"):
                raise ConnectionError(line.decode(errors="replace") or "nats-server closed the connection")
        body = self.input.read(int(line.rsplit(b" ", 1)[1]) + 2)
        if b'"error"' in body:
            raise ConnectionError(body.decode(errors="replace"))

    def close(self) -> None:
        self.input.close()
        self.socket.close()


class NatsJetStream(Contender):
    """One server, one stream for all subjects; several publishes are in flight where the scenario allows it."""

    name = "nats"
    durability = UNSYNCED

    def __init__(self) -> None:
        self.port = 0
        self.server: Server | None = None
        self.sync = ""

    def unavailable(self) -> str | None:
        if _program() is None:
            return "nats-server is not installed (Debian: apt install nats-server)"
        return None

    def version(self) -> str:
        done = subprocess.run([str(_program()), "--version"], capture_output=True, text=True, check=True)
        return "NATS " + done.stdout.split()[-1]

    def prepare(self, directory: Path) -> None:
        """Uses the strictest sync setting that this server accepts."""
        config = directory / "nats-probe.conf"
        config.write_text(CONFIG.format(port=0, directory=directory / "nats-probe", sync=ALWAYS))
        done = subprocess.run([str(_program()), "-t", "-c", str(config)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self.sync, NatsJetStream.durability = ALWAYS, SYNCED

    def setup(self, directory: Path, scenario: Scenario) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = directory / "nats.conf"
        config.write_text(CONFIG.format(port=self.port, directory=directory / "jetstream", sync=self.sync))
        self.server = Server([str(_program()), "-c", str(config)], directory / "nats.log")
        self.server.wait_until(self._answers)
        session = _Session(self.port)
        session.create()
        session.close()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False

    def open(self, plan: Plan) -> BlockingSession:
        return _Session(self.port)

    def server_pids(self) -> list[int]:
        return self.server.pids() if self.server else []

    def teardown(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None


def _program() -> str | None:
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")
