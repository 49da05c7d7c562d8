"""`ringwal demo`: eight processes write, others are killed at random, then everything is counted.

corpus    what is written        writer   one writer process       journal   what it did and was promised
host      the engine under test  oracle   the verdict              show      the play, in order

The tests and the fault campaign of the source tree use the same `journal`, `oracle` and engine process.
"""


class DemoError(Exception):
    """The demo itself could not go on. The message says why, with what the process printed."""
