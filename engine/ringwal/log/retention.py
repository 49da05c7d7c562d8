"""How long a stream keeps its records: what holds for it, and up to which offset it may be trimmed by that. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from ringwal.log.settings import Settings

SAID = {"retention_age": "age_ns", "retention_bytes": "payload_bytes", "retention_records": "records"}
"""Settings as people call them, and in `Settings` and `Limits`."""


class Limits(NamedTuple):
    """What a stream keeps at the least; beyond one of them records may go. None: no such limit."""

    age_ns: int | None = None
    payload_bytes: int | None = None
    records: int | None = None

    def over(self, own: Settings) -> Limits:
        """What holds for a stream, where these are the engine's defaults."""
        return Limits(*(default if said is None else said or None for default, said in zip(self, _said(own), strict=True)))


NO_LIMITS = Limits()


def own_settings(own: Settings) -> tuple[str, ...]:
    """Which limits the stream has said itself."""
    return tuple(name for name, said in zip(SAID, _said(own), strict=True) if said is not None)


def _said(own: Settings) -> tuple[int | None, int | None, int | None]:
    return own.age_ns, own.payload_bytes, own.records
