"""One worker process of a web service whose answer means that the body is stored: what `bench.web` starts several of.

    python -m bench.web_app '{"who": "ringwal", "place": "DIR", "port": 8000}'

Every worker binds the port for itself (SO_REUSEPORT), so the kernel deals out connections and no process stands before them.
It prints "ready" when it accepts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response

from bench import aio_loads
from bench.aio_loads import Append

HOST = "127.0.0.1"
BACKLOG = 1024


@asynccontextmanager
async def _nothing(_: aio_loads.Task) -> AsyncIterator[Append]:
    """What the service costs without a store."""

    async def append(_: bytes) -> None:
        return

    yield append


OPENERS: dict[str, Callable[[aio_loads.Task], AbstractAsyncContextManager[Append]]] = {
    "ringwal": aio_loads.OPENERS["ringwal"],
    "redis": aio_loads.OPENERS["redis"],
    "nothing": _nothing,
}


def service(who: str, place: str) -> FastAPI:
    """The same for everybody, but for what is awaited."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with OPENERS[who](aio_loads.Task(who, place)) as app.state.append:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/")
    async def deliver(request: Request) -> Response:
        await app.state.append(await request.body())
        return Response()

    @app.get("/worker")
    async def worker() -> Response:
        return Response(str(os.getpid()))

    return app


class _Worker(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            sys.stdout.write("ready\n")
            sys.stdout.flush()


def bound(port: int) -> socket.socket:
    """A socket on a port (0: any) that others may bind too. It takes no connection until it listens."""
    found = socket.socket()
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((HOST, port))
    except BaseException:
        found.close()
        raise
    return found


def main() -> None:
    """See above."""
    task = json.loads(sys.argv[1])
    config = uvicorn.Config(
        service(task["who"], task["place"]), backlog=BACKLOG, access_log=False, log_level="warning", timeout_graceful_shutdown=5
    )
    with contextlib.closing(bound(task["port"])) as listener:
        _Worker(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
