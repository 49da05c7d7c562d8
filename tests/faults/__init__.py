"""The fault campaign: break the engine in every way that a host can, and hold what is left against the promise.

python -m tests.faults [--tier change|nightly|release] [--only GROUP] [--seed N] [--json FILE]
"""
