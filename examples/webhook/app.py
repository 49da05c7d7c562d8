"""An endpoint for webhooks that answers 200 only when the delivery is on stable storage.

    uvicorn app:app --workers 4
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import ringwal
import ringwal.aio

LOG = os.environ.get("WEBHOOK_LOG", "webhooks.d")
AUTOSTART = os.environ.get("WEBHOOK_AUTOSTART", "yes") == "yes"  # "no": a service manager runs `ringwal run`
SOURCES = {"billing", "shop"}
BODY_MAX = 256 << 10
RECONNECT = 5.0  # an engine that is back within five seconds is not noticed by those whose delivery had not been taken
ANSWER_WITHIN = 15.0  # the disk may be full, or stand still: a sender wants to hear something all the same


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Each worker has a client of its own; whoever comes first starts the engine."""
    async with ringwal.aio.connect(LOG, autostart=AUTOSTART, timeout=30.0, reconnect=RECONNECT) as client:
        app.state.deliveries = client.stream("deliveries")
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/{source}")
async def receive(source: str, request: Request) -> JSONResponse:
    if source not in SOURCES:
        return JSONResponse({"error": "no such source"}, 404)
    body = await body_of(request)
    if body is None:
        return JSONResponse({"error": f"more than {BODY_MAX} bytes"}, 413)
    head = {"source": source, "id": request.headers.get("webhook-id")}
    deliveries: ringwal.aio.Stream = request.app.state.deliveries
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            ack = await deliveries.append(json.dumps(head).encode() + b"\n" + body)
    except ringwal.Error as error:  # first: some of them are TimeoutErrors, too
        return failed(error.outcome, str(error), retriable=error.retriable)
    except TimeoutError:
        return failed("unknown", f"not confirmed within {ANSWER_WITHIN:g} s")  # the append goes on
    return JSONResponse({"offset": ack.offset})


def failed(outcome: str | None, why: str, *, retriable: bool = False) -> JSONResponse:
    """503: it is not stored, send it again. 504: it may be stored; with the same webhook-id it may be sent again."""
    if outcome == "not_appended":
        return JSONResponse({"error": why, "stored": "no"}, 503 if retriable else 500, {"Retry-After": "1"})
    return JSONResponse({"error": why, "stored": "unknown"}, 504, {"Retry-After": "1"})


async def body_of(request: Request) -> bytes | None:
    """None: it is too large; what is too large is not gathered."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX:
            return None
    return bytes(body)
