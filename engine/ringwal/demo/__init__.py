"""`ringwal demo`: eight processes write, others are killed at random, then everything is counted.

corpus    what is written        writer   one writer process       journal   what it was promised
host      the engine under test  check    the verdict              show      the play, in order
"""


class DemoError(Exception):
    """The demo itself could not go on. The message says why, with what the process printed."""
