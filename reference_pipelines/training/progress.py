"""Progress bars on a terminal; where there is none, a line now and then."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any], total: int, title: str) -> Any:
    """Return `items` with a bar that shows rate and time left and disappears when done."""
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=title,
        total=total,
        leave=False,
        file=sys.stderr,
        mininterval=0.1 if terminal else 30.0,
        # The first line on a non-terminal would come at once and say nothing.
        delay=0.0 if terminal else 30.0,
        ascii=not terminal,
        dynamic_ncols=terminal,
    )
