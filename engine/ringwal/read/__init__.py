"""Ordered reads: which bytes of the files are the log, where a record is in them, and a place in a stream."""
