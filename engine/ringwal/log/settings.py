"""A stream's settings as the log has them (csrc/layout.h, `rw_settings`). Pure bytes; what they mean is retention.py.

They are written and replaced as a whole: each time all of them, with a version.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable
from typing import Any

from ringwal._native import lib
from ringwal.config import format_size
from ringwal.errors import ConfigError, CorruptionError
from ringwal.limits import shown
from ringwal.times import duration_text

_HEAD = struct.Struct("<IHHQQQ")
_SAID = {"age_ns": lib.RW_SET_AGE, "payload_bytes": lib.RW_SET_BYTES, "records": lib.RW_SET_RECORDS}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a stream has of its own. A limit is None where the stream has not said one, and 0 where it has said that
    there is none."""

    version: int = 0
    """0: nobody has ever set any."""
    age_ns: int | None = None
    payload_bytes: int | None = None
    records: int | None = None
    retain_until: tuple[str, ...] = ()
    """Consumers: what one of them has not committed yet stays."""

    def encode(self) -> bytes:
        """The payload of a SETTINGS frame."""
        text = text_of(self.retain_until)
        limits = [getattr(self, name) for name in _SAID]
        said = sum(bit for bit, limit in zip(_SAID.values(), limits, strict=True) if limit is not None)
        return _HEAD.pack(self.version, said, len(text), *(limit or 0 for limit in limits)) + text

    def same(self, other: Settings) -> bool:
        """But for the version."""
        return self == dataclasses.replace(other, version=self.version)


NEVER_SET = Settings()


def difference(has: Settings, asked: Settings) -> str:
    """What of these settings is not the same, for people."""
    kinds: dict[str, tuple[str, Callable[[Any], str]]] = {
        "age_ns": ("retention_age", duration_text),
        "payload_bytes": ("retention_bytes", format_size),
        "records": ("retention_records", str),
    }
    found = []
    for field, (name, text) in kinds.items():
        one, other = getattr(has, field), getattr(asked, field)
        if one != other:
            found.append(f"{name} is {_limit_text(one, text)}, not {_limit_text(other, text)}")
    if has.retain_until != asked.retain_until:
        found.append(f"retain_until is {shown(list(has.retain_until))}, not {shown(list(asked.retain_until))}")
    return ", ".join(found)


def _limit_text(limit: int | None, text: Callable[[Any], str]) -> str:
    return "the engine's default" if limit is None else text(limit) if limit else "none"


def decode(payload: bytes) -> Settings:
    """What a frame's payload says, or a checkpoint's row; nothing, or zeros: never set.

    Raises CorruptionError: no engine of ours wrote it.
    """
    head = payload[: _HEAD.size].ljust(_HEAD.size, b"\0")
    version, said, text_bytes, *values = _HEAD.unpack(head)
    if not any(payload):
        return NEVER_SET
    held = payload[: _HEAD.size + text_bytes]
    if lib.rw_settings_check(held, len(held)) != lib.RW_OK or any(payload[len(held) :]):
        raise CorruptionError("a stream's settings make no sense")
    limits: dict[str, Any] = {
        name: value if said & bit else None for (name, bit), value in zip(_SAID.items(), values, strict=True)
    }
    return Settings(version=version, retain_until=_names_of(held[_HEAD.size :]), **limits)


def text_of(names: Iterable[str]) -> bytes:
    """The consumers' names as they are stored. Raises ConfigError: one is not legal, or there is no room for all."""
    text = b""
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name or any(c < " " or "\x7f" <= c < "\xa0" for c in name) or name in seen:
            raise ConfigError(
                f"retain_until has {shown(name)}: it takes names of consumers, each once, of one character and more, none of"
                " which is a control character"
            )
        try:
            encoded = name.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"retain_until has {shown(name)}, which cannot be written as UTF-8") from None
        seen.add(name)
        text += bytes((min(len(encoded), 255),)) + encoded
    if len(text) > lib.RW_SETTINGS_TEXT:
        raise ConfigError(
            f"the names in retain_until take {len(text)} bytes, one more than its UTF-8 each;"
            f" a stream has room for {lib.RW_SETTINGS_TEXT}"
        )
    return text


def _names_of(text: bytes) -> tuple[str, ...]:
    names = []
    while text:
        try:
            names.append(text[1 : 1 + text[0]].decode())
        except UnicodeDecodeError:
            raise CorruptionError("a stream's settings have a name that is not UTF-8") from None
        text = text[1 + text[0] :]
    return tuple(names)
