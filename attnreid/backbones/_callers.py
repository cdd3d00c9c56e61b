"""Whose line a warning points at."""

import os
import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


def users_frame() -> int:
    """Return the `stacklevel` for a warning of the function that calls this: the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
