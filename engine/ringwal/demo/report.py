"""The demo's result for people."""

from __future__ import annotations

from ringwal.demo.show import LABELS, Result


def text_of(result: Result) -> str:
    """Several lines without a newline at the end."""
    extra = result.recovered - result.confirmed + result.lost
    unsaid = f"   ({extra:,} more had reached the disk when the engine died)" if extra > 0 else ""
    lines = [
        f"confirmed         {result.confirmed:>12,}   ({result.writers} writers, {result.streams} streams)",
        f"recovered         {result.recovered:>12,}{unsaid}",
        f"lost              {result.lost:>12,}",
        f"duplicated        {result.duplicated:>12,}",
        f"out of order      {result.out_of_order:>12,}",
        f"invented          {result.invented:>12,}",
        f"rate              {result.appends_per_second:>12,}   durable appends a second, kills included",
        f"appends per sync  {result.appends_per_sync:>12,.1f}",
        f"recovery          {result.recovery_seconds:>12.2f}   seconds from start to ready after the SIGKILL",
        "longest wait of a surviving writer for its next confirmation:",
        f"  {result.quiet_gap_ms:>8.1f} ms  in the half seconds before the kills",
    ]
    lines += [
        f"  {kill.longest_gap_ms:>8.1f} ms  around the SIGKILL to {LABELS[kill.target]} at {kill.at_seconds:.2f} s"
        for kill in result.kills
    ]
    lines += [f"WRONG: {sentence}" for sentence in result.wrong.values()]
    return "\n".join(lines)
