"""A client in each of its faces, behind one set of calls: a scenario is written once, and goes through all of them.

The calls wait, whatever the face; where it is not the synchronous one, the adapter runs the loop while they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import ringwal

WAIT = 30.0


class Connected(Protocol):
    """A client. What it raises is what the face raises."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def create(self, name: str, **settings: Any) -> None: ...
    def delete(self, name: str) -> None: ...
    def trim(self, name: str, before: int) -> None: ...
    def append(self, name: str, data: bytes) -> int:
        """Confirmed; returns the offset."""

    def append_all(self, name: str, records: Iterable[bytes]) -> None:
        """Each by itself, and all confirmed at the end."""

    def read(self, name: str, *args: Any, **options: Any) -> list[ringwal.Record]: ...
    def records(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]: ...
    def tail(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]: ...

    def merged(self, streams: Mapping[str, Any], **options: Any) -> Iterator[ringwal.StreamRecord]: ...


class Face(Protocol):
    """One of them."""

    name: str

    def connect(self, directory: Path, **options: Any) -> Connected: ...


class _Sync:
    def __init__(self, client: ringwal.Client) -> None:
        self.client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close(WAIT)

    def create(self, name: str, **settings: Any) -> None:
        self.client.create_stream(name, **settings)

    def delete(self, name: str) -> None:
        self.client.delete_stream(name)

    def trim(self, name: str, before: int) -> None:
        self.client.stream(name).trim(before)

    def append(self, name: str, data: bytes) -> int:
        return self.client.stream(name).append(data).result(WAIT).offset

    def append_all(self, name: str, records: Iterable[bytes]) -> None:
        stream = self.client.stream(name)
        for data in records:
            stream.append(data)
        stream.flush(WAIT)

    def read(self, name: str, *args: Any, **options: Any) -> list[ringwal.Record]:
        return self.client.stream(name).read(*args, **options)

    def records(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self.client.stream(name).records(*args, **options)

    def tail(self, name: str, *args: Any, **options: Any) -> Iterator[ringwal.Record]:
        return self.client.stream(name).tail(*args, **options)

    def merged(self, streams: Mapping[str, Any], **options: Any) -> Iterator[ringwal.StreamRecord]:
        return self.client.tail(streams, **options)


class SyncFace:
    name = "sync"

    def connect(self, directory: Path, **options: Any) -> Connected:
        return _Sync(ringwal.connect(directory, timeout=WAIT, **options))


FACES: tuple[Face, ...] = (SyncFace(),)
