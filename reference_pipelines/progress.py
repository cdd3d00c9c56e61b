"""Progress bars on a terminal; where there is none, a line now and then."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

QUIET = "ATTNREID_QUIET"  # an environment variable, so that worker processes have it
_SECONDS_BETWEEN_LINES = 30.0


def progress_bar(
    items: Iterable[Any] | None, total: int, title: str, *, unit: str = "batch", shown: bool = True
) -> Any:
    """Return a bar with rate and time left that disappears when done.

    Args:
        items: what to go through; None for a bar that is moved by its `update`.
        total: how many there are.
        title: what stands before it.
        unit: of the rate.
        shown: False for no bar at all.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=title,
        total=total,
        unit=unit,
        leave=False,
        file=sys.stderr,
        mininterval=0.1 if terminal else _SECONDS_BETWEEN_LINES,
        # Without a terminal the first line would come at once and say nothing.
        delay=0.0 if terminal else _SECONDS_BETWEEN_LINES,
        ascii=None if terminal else True,  # None asks the terminal
        dynamic_ncols=terminal,
        disable=not shown or QUIET in os.environ,
    )
