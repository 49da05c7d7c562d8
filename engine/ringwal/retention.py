"""What people say of how long a stream keeps its records, as numbers: nanoseconds, bytes, records.

Each limit is said, or not; ``"none"`` says that there is none, whatever the engine's default is, and ``None`` that the
engine's default is to hold.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from ringwal.config import age_ns, parse_size
from ringwal.errors import ConfigError
from ringwal.limits import shown, whole

Age: TypeAlias = str | datetime.timedelta | float
"""``"30d"``, a timedelta, or seconds; ``"none"``."""
Size: TypeAlias = str | int
"""``"10GiB"``, or bytes; ``"none"``."""
Count: TypeAlias = int | str
"""Records; ``"none"``."""

NOT_SAID, NO_LIMIT = -1, 0


class Unchanged(enum.Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""What is not given to `Stream.configure` stays as it is."""


def asked(
    age: Age | Unchanged | None,
    size: Size | Unchanged | None,
    records: Count | Unchanged | None,
    retain_until: Iterable[str] | Unchanged | None,
) -> dict[str, Any]:
    """What a request to the engine says (protocol/messages.py). Raises ConfigError."""
    found = {"age": age, "bytes": size, "records": records, "retain": retain_until}
    taken = {"age": _age, "bytes": _size, "records": _count, "retain": _names}
    return {name: taken[name](value) for name, value in found.items() if value is not UNCHANGED}


def _age(value: Any) -> int:
    if value is None or value == "none":
        return NOT_SAID if value is None else NO_LIMIT
    return age_ns(value, "retention_age")


def _size(value: Any) -> int:
    if value is None or value == "none":
        return NOT_SAID if value is None else NO_LIMIT
    size = parse_size(value) if isinstance(value, str) else value
    return whole(size, "retention_bytes", 1, error=ConfigError)


def _count(value: Any) -> int:
    if value is None or value == "none":
        return NOT_SAID if value is None else NO_LIMIT
    return whole(value, "retention_records", 1, error=ConfigError)


def _names(value: Any) -> str:
    names = () if value is None else value
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(f"retain_until is {shown(value)}; it takes names of consumers, several or none")
    found = list(names)
    for name in found:
        if not isinstance(name, str) or not name or "\n" in name:
            raise ConfigError(f"retain_until has {shown(name)}, which is no name of a consumer")
    return "\n".join(found)
