"""`ringwal verify` finds whatever damage the media rows make, and changes nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ringwal.errors import CorruptionError, VersionMismatch
from ringwal.log.directory import Directory
from ringwal.log.verify import Report, verify
from tests.faults import life_media, media
from tests.faults.media import Base, Damage
from tests.faults.oracle import Verdict
from tests.faults.table import Fault, often

UNTOLD = ("harmless", "end", "either")
"""What `media.trial` says of damage that nobody has to notice: there, only what is said about it must be true."""


AT_REST = (media.covered_bits, media.payload_bits)
"""There no start looks at the blocks, so it is for nobody else to notice."""


def faults(tier: str) -> list[Fault]:
    share = often(tier, 0.4, 0.2)  # of what the media rows do themselves
    return [
        Fault("offline", "damage on the medium, verified", partial(run, tier, share, trimmed=False)),
        Fault("offline", "damage in a trimmed log, verified", partial(run, tier, share, trimmed=True)),
    ]


def run(tier: str, share: float, directory: Path, seed: int, *, trimmed: bool) -> Verdict:
    chance, verdict = random.Random(f"{seed}/verify/{trimmed}"), Verdict()
    for name, trials, change, nightly in life_media.TRIALS if trimmed else media.TRIALS:
        scratch = directory / name.replace(" ", "-")
        scratch.mkdir()
        base = life_media.make(scratch) if trimmed else media.make(scratch, at_rest=trials in AT_REST)
        verdict.expect(_looked_at(base.directory).clean, f"{name}: a log without damage is not clean")
        for label, damage, must in trials(base, scratch, max(1, round(share * often(tier, change, nightly))), chance):
            trial(base, scratch, damage, f"{name}: {label}", verdict, must=must)
        shutil.rmtree(scratch)
    del verdict.notes[20:]
    return verdict


def trial(base: Base, scratch: Path, damage: Damage, label: str, verdict: Verdict, *, must: str) -> None:
    """Damages a copy, and looks at it."""
    at = media.copy_of(base, scratch / "log")
    damage(at)
    before = media.digest(at)
    verdict.runs += 1
    verdict.confirmed += sum(map(len, base.content.values()))
    found = _outcome(partial(_looked_at, at))
    verdict.expect(must in UNTOLD or found != "clean", f"{label}: nobody noticed")
    verdict.expect(found in ("clean", "damaged", "refused"), f"{label}: {found}")
    verdict.expect(media.digest(at) == before, f"{label}: files were changed")
    shutil.rmtree(at)


def _outcome(look: Callable[[], Report]) -> str:
    try:
        return "clean" if look().clean else "damaged"
    except (CorruptionError, VersionMismatch):
        return "refused"
    except Exception as error:  # noqa: BLE001  the point is to find it
        return f"{type(error).__name__}: {error}"


def _looked_at(at: Path) -> Report:
    with Directory(at) as log:
        return verify(log, deep=True)
