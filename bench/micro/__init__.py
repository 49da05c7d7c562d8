"""Micro-benchmarks of the hot pieces."""
