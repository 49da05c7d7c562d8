"""The before/after model in C, and its build."""
