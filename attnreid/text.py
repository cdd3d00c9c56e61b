"""What is said to people, here and in the pipelines: which name was meant, and tables in plain text.

Imports nothing but the standard library, so that a command answers a mistyped word at once.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """Return up to three of the known names that `name` may stand for, the nearest first; none where none is near.

    Names may be dotted. Near are, of the same section and else of all, those whose last part is that of `name` or has
    it for a word or for its initials (`lr` for `learning_rate`), and those that begin with `name`; else those spelled
    alike. A name whose section is unknown is compared as a whole.

    Args:
        name: what was typed.
        known: what could have been meant.
        cutoff: how alike two spellings must be, from 0 to 1.

    Example:
        >>> nearest("optimizer.lr", ["optimizer.learning_rate", "optimizer.epochs", "data.root"])
        ['optimizer.learning_rate']
    """
    last, whole = _last(name), name.replace("_", "-")
    names = sorted(known, key=lambda each: (_last(each) != last, len(each), each))
    section = {_last(each): each for each in names if _section(name) and _section(each) == _section(name)}
    near = [each for each in section.values() if last in _meanings(each)]
    near = near or [section[each] for each in get_close_matches(last, section, cutoff=cutoff)]
    if not section and _section(name):
        near = get_close_matches(name, names, cutoff=cutoff)
    near = near or [each for each in names if last in _meanings(each) or each.replace("_", "-").startswith(whole)]
    near = near or ([] if section else get_close_matches(name, names, cutoff=cutoff))
    return near[:3]


def _meanings(name: str) -> set[str]:
    words = _last(name).split("-")
    return {_last(name), *words, "".join(word[:1] for word in words)}


def _section(name: str) -> str:
    return name.rpartition(".")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("_", "-").lower()


def closest(name: str, known: Iterable[str]) -> str:
    """Say which of the known names are meant, as the last part of an error; all of them where none is near.

    Example:
        >>> closest("sse", ["se", "split"])
        "did you mean 'se'?"
    """
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(known) or 'none'}"


def format_table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return the lines of a table whose columns are as wide as their widest cell.

    Args:
        rows: cells, of a heading too.
        align: "<" or ">" for each column.

    Example:
        >>> format_table([("site", "cost"), ("layer4", "1,024")], "<>")
        ['site     cost', 'layer4  1,024']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]
