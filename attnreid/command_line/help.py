"""What --help prints."""

import shutil
import textwrap
from collections.abc import Iterable

from attnreid.command_line.options import REQUIRED, Option

_INDENT = 26


def help_text(usage: str, description: str, options: Iterable[Option], examples: str = "") -> str:
    """Return a command's help."""
    options = list(options)
    words = [option.shown() for option in options if not option.name.startswith("-")]
    lines = [f"usage: {' '.join([usage, *words, '[options]'])}", "", *textwrap.wrap(description, _width()), ""]
    lines += [row(option.shown(), explained(option)) for option in options]
    return "\n".join([*lines, "", examples]).rstrip()


def explained(option: Option) -> str:
    """Return an option's help with its default."""
    default, text = option.default, option.help.rstrip(".")
    if default is REQUIRED and option.name.startswith("-"):
        return f"{text} (required)"
    if default in (REQUIRED, None, ()) or "(default:" in option.help or option.constant is not None:
        return text
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
    return f"{text} (default: {shown})"


def row(left: str, right: str) -> str:
    """Return a line of help, wrapped; what is explained stands above where it is long."""
    lines = textwrap.wrap(right, _width() - _INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    first = f"  {left}"
    beside = len(first) < _INDENT - 1
    body = [f"{first:{_INDENT}}{lines[0]}", *lines[1:]] if beside else [first, *lines]
    return "\n".join([body[0], *(" " * _INDENT + line for line in body[1:])]).rstrip()


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 100)
