"""Consumers as the engine has them: to be shown, moved and deleted, by whoever is not one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ringwal import consumed
from ringwal._native import lib
from ringwal.client.consumer_place import Place, commit_steps, place_of
from ringwal.client.lane import Completion
from ringwal.client.verdicts import consumer_error_of, is_refused
from ringwal.model import ConsumerInfo
from ringwal.protocol.messages import check_consumer_name
from ringwal.steps import Steps

if TYPE_CHECKING:
    from ringwal.client.attachment import Attachment
    from ringwal.client.core import ClientCore


def consumer_infos(attachment: Attachment) -> list[ConsumerInfo]:
    """Of all consumers, by name and stream."""
    streams = {info.number: info for info in attachment.stream_infos()}
    found = []
    for row in consumed.rows(attachment.control):
        if (info := streams.get(row.stream)) is not None:
            lag = consumed.lag(row.committed, info.start_offset, info.confirmed_offset)
            found.append(ConsumerInfo(row.name, info.name, row.committed, lag, row.epoch, row.timestamp_ns))
    return sorted(found)


def delete_consumer_steps(client: ClientCore[Any], name: str) -> Steps[list[str]]:
    """See `Client.delete_consumer`. It is claimed first, so that nobody commits behind this."""
    deleted: list[str] = []
    while places := (yield from _taken(client, name, [])):  # as many as one answer has
        for place in places:
            yield from _commit_once(place, int(lib.RW_FORGET), name, client._options["timeout"])
            deleted.append(place.stream.name)
    return sorted(deleted)


def seek_consumer_steps(client: ClientCore[Any], name: str, stream: str, offset: int) -> Steps[int | None]:
    """Whoever claims the consumer of that name next goes on there in that stream, not beyond its end; whoever had it is fenced.
    Returns where it would have gone on; None: it has no such stream."""
    attachment = yield from client._attachment_steps()
    if not any((row.name, row.stream) == (name, stream) for row in consumer_infos(attachment)):
        return None
    (place,) = yield from _taken(client, name, [(stream, 0)])
    yield from _commit_once(place, offset, name, client._options["timeout"])
    return place.committed


def _taken(client: ClientCore[Any], name: str, wanted: list[tuple[str, int]]) -> Steps[list[Place]]:
    """Places of the consumer in these streams, or, if none is said, in some of those that it has; whoever had it is fenced."""
    check_consumer_name(name)
    rows = yield from client._in_engine_steps(lambda attachment: attachment.registration.consume_steps(name, wanted))
    return [place_of(client, row) for row in rows]


def _commit_once(place: Place, offset: int, name: str, timeout: float | None) -> Steps[None]:
    results, number = yield from commit_steps(place, offset)
    found: int = yield Completion(results.lane, results, number, place.stream.name, timeout)
    if found < 0:
        results.lane.count_told(number)
        raise consumer_error_of(found, name, place.stream.name) if is_refused(found) else results.lane.tell(
            number, found, place.stream.name
        )
