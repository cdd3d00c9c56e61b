"""The exceptions that end a command with one sentence: a mistake of the user's, or a signal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnreid.command_line import UserError, closest

__all__ = ["STOPPED", "Stopped", "UserError", "closest", "out_of_memory", "require", "writing"]

STOPPED = "The run has stopped"  # begins the note of an error that ended a run, which says what is kept
# torch tells it in the text alone: on the CPU, where threads cannot start, of other libraries.
_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "new thread")


class Stopped(BaseException):
    """A signal has stopped the command; the sentence says how to go on.

    Args:
        sentence: for the user.
        status: exit status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def out_of_memory(error: BaseException) -> str | None:
    """Return in words that an error is one of too little memory, None where it is another."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "none was left"
    if isinstance(error, RuntimeError | OSError) and any(words in text.lower() for words in _MEMORY):
        return text.partition("] . ")[2] or text.partition(". ")[0]
    return None


def require(holds: bool, rule: str, got: object) -> None:
    """Refuse a config's value: `rule` says what must hold, beginning with the key.

    Raises:
        UserError: it does not hold.
    """
    if not holds:
        raise UserError(f"config: {rule}, got {got}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a sentence.

    Raises:
        UserError: an OSError came.
    """
    try:
        yield
    except OSError as error:
        said = error.strerror or error
        raise UserError(f"run: cannot write {path} ({said}); make room or give the right to write") from None
