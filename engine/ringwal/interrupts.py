"""What SIGINT, SIGTERM and SIGHUP do to a verb of the command line, from its first import to its last word.

Everywhere but in a body under `raised`, the process ends in the handler, with 128 and the signal's number: nothing is
unwound, so there is no moment at which a traceback, or half a thing done, could come of it. Before that an `append` says
what became of its input: `fate` knows. Under `raised` the first signal is an exception, so that what is on its way can be
waited for, and the second one ends the process.

Nothing is imported here that Python has not loaded itself: until the handlers are in place its own ones hold.
"""

import _signal as signal  # type: ignore[import-not-found]  # what `signal` wraps; that loads much
import os
import sys

NUMBERS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NO_MEMORY_CODE = 71  # os.EX_OSERR


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as SIGINT is."""


class Hangup(KeyboardInterrupt):
    """SIGHUP, raised as SIGINT is."""


class Fate:
    """What became of the input of an `append` so far: of nothing of it, here."""

    def notes(self) -> list[str]:
        """In words."""
        return ["nothing of the input was appended"]

    def facts(self) -> dict[str, int | None]:
        """In numbers, for JSON."""
        return {"records": 0, "bytes": 0, "first_offset": None, "last_offset": None, "unknown_records": 0}

    def outcome(self) -> str:
        """Of what is not confirmed."""
        return "unknown" if self.facts()["unknown_records"] else "not_appended"


class ChangeFate(Fate):
    """A change of a stream or a consumer that has been asked for, and is not confirmed yet; `verb` shows what became of it."""

    def __init__(self, what: str, verb: str = "ls") -> None:
        self._what, self._verb = what, verb

    def notes(self) -> list[str]:
        return [f"{self._what} may come into force or not: ask `ringwal {self._verb}`; asking for it again does no harm"]

    def facts(self) -> dict[str, int | None]:
        return {}

    def outcome(self) -> str:
        return "unknown"


_ERRORS: dict[int, tuple[type[KeyboardInterrupt], str]] = {
    signal.SIGINT: (KeyboardInterrupt, "interrupted"),
    signal.SIGTERM: (Terminated, "ended by SIGTERM"),
    signal.SIGHUP: (Hangup, "ended by SIGHUP"),
}


class Interrupts:
    """Of this process. `fate` is that of its input, or of what it asked for; None: it has none, and ends without a word."""

    def __init__(self) -> None:
        self.fate: Fate | None = None
        self._as_json = False
        self._raising = self._held = self._off = False
        self._came = self._raised = 0

    def begin(self) -> None:
        """First of all in a program, and again without effect. A signal that the parent has switched off stays so."""
        for number in NUMBERS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._handle)
        if sys.argv[1:2] == ["append"] and self.fate is None:
            self.fate = Fate()
        self._as_json = "--json" in sys.argv
        sys.excepthook = _last_words

    def off(self) -> None:
        """From now on nothing happens here: the verb has its own ways."""
        self._off = True

    def over(self) -> None:
        """The last word has been said, and the code is known. What is ignored Python leaves so, when it ends."""
        self._off = True
        before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # else one comes in the handler of another, and so on
        for number in NUMBERS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> None:
        """While the body runs the first signal is raised, in the main thread."""
        self._raising = True

    def __exit__(self, *_: object) -> None:
        self._raising = False

    def hold(self) -> None:
        """What is done until `let_go` is done as one: a signal that comes meanwhile acts there."""
        self._held = True

    def let_go(self) -> None:
        self._held = False
        number, self._came = self._came, 0
        if number:
            self._act(number)

    def check(self) -> None:
        """Raises again what was raised and lost, where Python lets nothing out (a destructor)."""
        if self._raised:
            self._raise(self._raised)

    def _handle(self, number: int, _frame: object) -> None:
        if self._held:
            self._came = number
        elif not self._off:
            self._act(number)

    def _act(self, number: int) -> None:
        if not self._raising:
            self._end(number)
        self._raising, self._raised = False, number
        self._raise(number)

    def _raise(self, number: int) -> None:
        kind, words = _ERRORS[number]
        raise kind(words)

    def _end(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)  # somebody may send more than can be answered
        fate, (kind, words) = self.fate, _ERRORS[number]
        if fate is not None and self._as_json:
            notes = ", ".join(f'"{note}"' for note in fate.notes())
            facts = "".join(f', "{key}": {"null" if value is None else value}' for key, value in fate.facts().items())
            _say(
                f'{{"error": "{kind.__name__}", "message": "{words}", "outcome": "{fate.outcome()}", "retriable": false, '
                f'"exit_code": {128 + number}, "notes": [{notes}]{facts}}}'
            )
        elif fate is not None:
            _say("\n".join(f"ringwal: {text}" for text in (words, *fate.notes())))
        os._exit(128 + number)


INTERRUPTS = Interrupts()


def is_command_line() -> bool:
    """Is the package being loaded for its own verbs, by ringwal_command.py or by `python -m ringwal`?"""
    if "ringwal_command" in sys.modules:
        return True
    # While Python looks for the module, its name stands before the arguments.
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("ringwal", "-mringwal")


def _say(text: str) -> None:
    try:  # noqa: SIM105  what that loads is not loaded yet
        os.write(2, f"{text}\n".encode())
    except OSError:
        pass


def _last_words(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Of an import that has met a limit on memory: it says so, and not where."""
    if not is_lack_of_memory(error):
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]
        return
    _say("ringwal: there is no memory to begin with: raise what limits it (ulimit -v, the cgroup)")
    if INTERRUPTS.fate is not None:
        _say("ringwal: nothing of the input was appended")
    os._exit(NO_MEMORY_CODE)


def is_lack_of_memory(error: BaseException) -> bool:
    """Does Python say so, or the loader of its libraries?"""
    if isinstance(error, ImportError):
        return any(words in str(error) for words in ("failed to map", "annot allocate", "cannot map", "cannot create"))
    return isinstance(error, MemoryError)


if is_command_line():
    INTERRUPTS.begin()
