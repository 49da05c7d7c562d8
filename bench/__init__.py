"""The benchmark runner: `python -m bench` from a checkout."""
