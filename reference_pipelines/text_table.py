"""A table in plain text, as every command prints it."""

from collections.abc import Sequence

from attnreid import text


def format_table(rows: Sequence[Sequence[str]], headings: Sequence[str], *, words: int = 2) -> str:
    """Return the rows under their headings in aligned columns, the first `words` columns left, the others right."""
    table = [headings, *rows]
    rule = ["-" * max(map(len, column)) for column in zip(*table, strict=True)]
    align = "".join("<" if column < words else ">" for column in range(len(headings)))
    return "\n".join(text.format_table([headings, rule, *rows], align))
