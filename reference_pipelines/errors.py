"""The exceptions that end a command with one sentence: a mistake of the user's, or a signal."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Who complains, what must hold, what was found and what to do, in one sentence."""


class Stopped(BaseException):
    """A signal has stopped the command; the sentence says how to go on.

    Args:
        sentence: for the user.
        status: exit status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


def require(holds: bool, rule: str, got: object) -> None:
    """Refuse a config's value: `rule` says what must hold, beginning with the key.

    Raises:
        UserError: it does not hold.
    """
    if not holds:
        raise UserError(f"config: {rule}, got {got}")


def closest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" for the known names nearest to `name`, or nothing where none is near.

    Near are, of the same section and else of all, those whose last part is that of `name` or has it for a word or for
    its initials (`--lr`), and those that begin with `name`; else those spelled alike.
    """
    last, whole = _last(name), name.replace("_", "-")
    names = sorted(known, key=lambda each: (_last(each) != last, len(each), each))
    section = {_last(each): each for each in names if _section(name) and _section(each) == _section(name)}
    near = [each for each in section.values() if last in _meanings(each)]
    near = near or [section[each] for each in difflib.get_close_matches(last, section)]
    near = near or [each for each in names if last in _meanings(each) or each.replace("_", "-").startswith(whole)]
    near = near or ([] if section else difflib.get_close_matches(name, names))
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def _meanings(name: str) -> set[str]:
    words = _last(name).split("-")
    return {_last(name), *words, "".join(word[:1] for word in words)}


def _section(name: str) -> str:
    return name.rpartition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("_", "-").lower()
