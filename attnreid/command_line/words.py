"""The words of a command line: options with what they are given, in any order, and the words between them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from attnreid.command_line.errors import UserError, closest

Names = Mapping[str, Iterable[str]]

_DASHES, _NAMED = 2, 3  # characters before a name; options named to who abbreviates


@dataclass
class Words:
    """A command line taken apart.

    Args:
        bare: the words that belong to no option.
        options: the words of each option, under its name with the dashes.
    """

    bare: list[str] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """Return the options as arguments again."""
        pairs = self.options.items()
        return [
            word for name, given in pairs for word in ([f"{name}={given[0]}"] if len(given) == 1 else [name, *given])
        ]


def separate(
    who: str,
    arguments: Sequence[str],
    counts: Mapping[str, int | None],
    *,
    repeatable: Iterable[str] = (),
    ends: Callable[[str], bool] = lambda word: False,
) -> Words:
    """Take a command line apart: `--data.workers 8 RUN` has the bare word RUN.

    Args:
        who: complains.
        arguments: the words, an option as `--name VALUE` or `--name=VALUE`. A list may have brackets or none:
            `64 32`, `[64, 32]` and `64,32` are the same.
        counts: how many words each option takes, None for any number up to the next option; one that is not in it
            takes one.
        repeatable: options whose words add up.
        ends: whether a word belongs no more to an option that takes any number and has one.

    Raises:
        UserError: an option is given twice, without a value, or with one that it does not take.
    """
    words = Words()
    left = list(arguments)
    while left:
        word = left.pop(0)
        if not is_option(word):
            words.bare.append(word)
            continue
        name, equals, value = word.partition("=")
        if name == "--":
            raise UserError(f"{who}: '--' has no meaning here; leave it out")
        if name in words.options and name not in repeatable:
            raise UserError(f"{who}: {name} must be given once, it is given twice; leave one of them out")
        count = counts.get(name, 1)
        taken = [value] if equals else _take(left, count, ends)
        if equals and count == 0:
            raise UserError(f"{who}: {name} takes no value, got {value!r}; leave it out")
        if not any(taken) and count != 0 and name in counts:
            raise UserError(f"{who}: {name} has no value; write {name} VALUE, or leave it out")
        words.options[name] = [*words.options.get(name, []), *taken]
    return words


def is_option(word: str) -> bool:
    """Return whether a word is an option's name, and no value such as -1 or -.5."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdecimal() and word[1] != "."


def refuse_unknown(
    who: str, names: Iterable[str], known: Iterable[str], *, see: str = "", elsewhere: Names | None = None
) -> None:
    """Refuse the first of the options' `names` that is not `known`, and say which are meant.

    Args:
        who: complains.
        names: what was typed.
        known: what there is.
        see: the command that shows the help; `who --help` when left out.
        elsewhere: the options of others, by their name.

    Raises:
        UserError: there is one.
    """
    known = list(known)
    for name in names:
        if name in known:
            continue
        if keys := [each for each in known if each.startswith(f"{name}.")]:
            raise UserError(f"{who}: {name} is a section of keys: set {', '.join(keys)}")
        if len(name) > _DASHES and (begun := [each for each in known if each.startswith(name)]):
            raise UserError(f"{who}: there is no option {name}; did you mean {' or '.join(begun[:_NAMED])}?")
        if owners := [other for other, theirs in (elsewhere or {}).items() if name in theirs]:
            raise UserError(f"{who}: there is no option {name}; it is one of {', '.join(owners)}")
        section = name.rpartition(".")[0]
        others = [each for each in known if section and each.startswith(f"{section}.")]
        listed = f"; there are {', '.join(others)}" if others else f"; see {see or f'{who} --help'}"
        raise UserError(f"{who}: there is no option {name}{closest(name, known) or listed}")


def _take(left: list[str], count: int | None, ends: Callable[[str], bool]) -> list[str]:
    """Take an option's words from the front of what is left."""
    taken: list[str] = []
    while left and not is_option(left[0]):
        bracketed = count != 1 and bool(taken) and taken[0].startswith("[")
        parts = sum(len(word.split(",")) for word in taken)
        whole = taken[-1].endswith("]") if bracketed else count is not None and parts >= count
        if whole or (count is None and taken and not bracketed and ends(left[0])):
            break
        taken.append(left.pop(0))
    return taken
