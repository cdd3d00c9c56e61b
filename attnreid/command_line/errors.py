"""A mistake of the user's."""

from collections.abc import Iterable

from attnreid.text import nearest


class UserError(Exception):
    """A mistake of the user's: who complains, what must hold, what was found and what to do, in one sentence."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the known names nearest to `name`, or nothing where none is near."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""
