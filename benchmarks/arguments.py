"""Arguments that several of the programs take."""

import argparse
from pathlib import Path


def made_folder(name: str) -> Path:
    """Return a folder, which is made where it is not there; argparse tells of one that cannot be."""
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"it must be a folder, got '{name}': {error.strerror}") from None
    return folder
