"""The console script `ringwal`. It stands outside of the package, which is loaded on the way and has to know for whom: its
handlers for signals come first then (ringwal/interrupts.py)."""

from ringwal.cli import main

__all__ = ["main"]
