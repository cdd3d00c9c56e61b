"""The options that fill a dataclass, and what the help says of them."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from attnreid.command_line.errors import UserError
from attnreid.command_line.values import convert, describe
from attnreid.command_line.words import Names, Words, refuse_unknown, separate

REQUIRED: Any = object()
_PLACEHOLDER = {bool: "true|false", int: "N", float: "X", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Option:
    """What may be typed.

    Args:
        name: "--workers"; "RUN_DIR" for a word that belongs to no option.
        key: its field.
        kind: its type.
        default: REQUIRED where it must be given.
        help: what it is for.
        metavar: what stands for its value in the help.
        least: the smallest number.
        repeatable: it may be given several times; its value is a tuple.
        like: of one that stands by itself: whether a word looks like it, and not like the last of a list.
        constant: what it means where it takes no value.
    """

    name: str
    key: str
    kind: Any
    default: Any = REQUIRED
    help: str = ""
    metavar: str = ""
    least: int | None = None
    repeatable: bool = False
    like: Callable[[str], bool] = lambda word: False
    constant: bool | None = None

    @property
    def count(self) -> int | None:
        """How many words it takes; None is any number."""
        if self.constant is not None:
            return 0
        if self.repeatable or get_origin(self.kind) is not tuple:
            return 1
        parts = get_args(self.kind)
        return None if Ellipsis in parts else len(parts)

    def value(self, who: str, words: Sequence[str]) -> Any:
        """Return the value that was typed.

        Raises:
            UserError: the words are of another type, or too small a number.
        """
        if self.constant is not None:
            return self.constant
        try:
            value = convert(self.kind, words if get_origin(self.kind) is tuple else words[0])
        except ValueError:
            said = " ".join(words) if all(" ".join(word.split()) == word for word in words) else repr(list(words))
            raise UserError(f"{who}: {self.name} must be {describe(self.kind)}, got {said}") from None
        if self.least is not None and min(value if isinstance(value, tuple) else [value]) < self.least:
            raise UserError(f"{who}: {self.name} must be at least {self.least}, got {' '.join(words)}")
        return value

    def shown(self) -> str:
        """Return how it is typed."""
        if self.constant is not None:
            return self.name
        kind = next((part for part in get_args(self.kind) if part in _PLACEHOLDER), self.kind)
        parts = get_args(self.kind)
        choices = parts if get_origin(self.kind) is Literal else get_args(parts[0]) if parts else ()
        placeholder = self.metavar or "|".join(map(str, choices)) or _PLACEHOLDER.get(kind, "TEXT")
        if not self.name.startswith("-"):
            return f"{self.name}..." if self.count is None else self.name
        if self.count is None:
            return f"{self.name} {placeholder}..."
        return " ".join([self.name, *[placeholder] * (1 if self.metavar else self.count or 0)])


def typed(
    default: Any = dataclasses.MISSING,
    *,
    word: str = "",
    name: str = "",
    metavar: str = "",
    least: int | None = None,
    repeatable: bool = False,
    like: Callable[[str], bool] = lambda word: False,
) -> Any:
    """Return a field of options with more than its type.

    `word` names one that stands without an option's name, `name` the option where it is not the field's.
    """
    told = {"word": word or name, "metavar": metavar, "least": least, "repeatable": repeatable, "like": like}
    return field(default=default, metadata=told)


def options_of(schema: type) -> list[Option]:
    """Return the options that fill a dataclass: dashes for underscores, and truths as flags."""
    helps, options = argument_help(schema), []
    for each in dataclasses.fields(schema):
        told = dict(each.metadata)
        default = REQUIRED if each.default is dataclasses.MISSING else each.default
        name = told.pop("word", "") or f"--{each.name.replace('_', '-')}"
        # None is what an option is that is left out; it cannot be typed.
        kind = next((part for part in get_args(each.type) if default is None and part is not type(None)), each.type)
        option = Option(name, each.name, kind, default, helps.get(each.name, ""), **told)
        if kind is bool:
            option = dataclasses.replace(option, constant=True)
        options.append(option)
        if option.constant and each.type is not bool:  # one that may be left to others to decide
            options.append(dataclasses.replace(option, name=f"--no-{option.name[2:]}", constant=False, help=""))
    return options


def argument_help(schema: type) -> dict[str, str]:
    """Return what `Args:` says of each field in the docstrings of a class and its bases."""
    pattern = re.compile(r"^    (\w+): (.+(?:\n     +.+)*)", re.MULTILINE)
    helps: dict[str, str] = {}
    for each in reversed(schema.__mro__[:-1]):
        helps |= {name: " ".join(text.split()) for name, text in pattern.findall(inspect.cleandoc(each.__doc__ or ""))}
    return helps


def read_options(
    who: str, schema: type, arguments: Sequence[str], *, see: str, elsewhere: "Names | None" = None
) -> Any:
    """Return a `schema` filled from the words of a command line.

    Args:
        who: complains.
        schema: the dataclass.
        arguments: the words.
        see: the command that shows the help.
        elsewhere: options of other commands, by the command's name.

    Raises:
        UserError: words that are unknown, missing, too many or of another type.
    """
    options = options_of(schema)
    named = {option.name: option for option in options if option.name.startswith("-")}
    repeatable = [name for name, option in named.items() if option.repeatable]
    words = separate(who, arguments, {name: option.count for name, option in named.items()}, repeatable=repeatable)
    refuse_unknown(who, words.options, named, see=see, elsewhere=elsewhere)
    _give_back(words, options)
    values: dict[str, Any] = {}
    for name, given in words.options.items():
        if named[name].key in values:
            both = " and ".join(each for each in words.options if named[each].key == named[name].key)
            raise UserError(f"{who}: {both} must be given once, not both; leave one of them out")
        values[named[name].key] = _filled(who, named[name], given)
    bare = list(words.bare)
    for option in options:
        if option.name not in named and bare:
            taken = len(bare) if option.count is None else 1
            values[option.key] = _filled(who, option, bare[:taken])
            del bare[:taken]
        if option.default is REQUIRED and option.key not in values:
            what = describe(option.kind) if get_origin(option.kind) is Literal else option.help.rstrip(".")
            raise UserError(f"{who}: {option.name} is missing, {what}; see {see}")
    if bare:
        raise UserError(f"{who}: {bare[0]!r} is one word too many; see {see}")
    return schema(**values)


def _give_back(words: Words, options: Sequence[Option]) -> None:
    """Find the word that stands by itself where a list, of any number of words, has taken it for its last."""
    for option in options:
        for other in options:
            taken = words.options.get(other.name, []) if other.count is None else []
            if not words.bare and len(taken) > 1 and option.like(taken[-1]):
                words.bare.append(taken.pop())


def _filled(who: str, option: Option, words: Sequence[str]) -> Any:
    if any(not word.strip() for word in words):
        raise UserError(f"{who}: {option.name} must not be empty")
    return option.value(who, words)
