"""Text in CSV files that a spreadsheet may open: a name that begins as a formula does must not be computed.

Spreadsheets run what follows =, +, - or @ at the beginning of a cell, after a tab or a carriage return too. Such a text
is written behind an apostrophe, which they take for "this is text"; so is one that begins with an apostrophe, so that
every text comes back as it was.
"""

from collections.abc import Iterable

_FIRST = ("=", "+", "-", "@", "\t", "\r", "'")


def as_cell(text: str) -> str:
    """Return a text as it is written to a cell: behind an apostrophe where it would be taken for a formula."""
    return f"'{text}" if text.startswith(_FIRST) else text


def from_cell(cell: str) -> str:
    """Return the text that `as_cell` wrote; a cell that it did not write stays as it is."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FIRST) else cell


def as_line(cells: Iterable[str]) -> str:
    """Return a line of a CSV file, with its end.

    A cell with a carriage return is quoted too: Python's own writer leaves it bare where lines end with "\\n", and
    its reader then takes it for the end of a line.
    """
    return ",".join(_quoted(cell) if any(mark in cell for mark in ',"\r\n') else cell for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'
