"""Runs the notebooks and stores what they show: python docs/notebooks/refresh.py [NAME ...].

Each runs in an empty folder and a kernel of its own. What depends on the machine or the day is taken out of the files,
so that a second run changes outputs only where they differ.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from attnreid.files import write_text

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
LARGEST = 1_500_000
"""Bytes of all notebooks together."""

_SECONDS = 1800  # of one cell, on a busy machine


def notebooks() -> list[Path]:
    """Return the notebooks in the order of the site."""
    return sorted(FOLDER.glob("*.ipynb"))


def run(path: Path) -> NotebookNode:
    """Return a notebook as it is after running all of it.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        asyncio.run(client.async_execute(env=environment))
    return cleaned(notebook)


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook without times, machines and what progress bars wrote."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def main(names: Sequence[str]) -> int:
    """Run the notebooks that are named, or all, and write them."""
    for path in notebooks():
        if names and path.stem not in names:
            continue
        write_text(path, nbformat.writes(run(path)) + "\n")
        print(f"{path.name}: {path.stat().st_size // 1024} KiB")
    total = sum(path.stat().st_size for path in notebooks())
    if total > LARGEST:
        print(f"error: the notebooks must have at most {LARGEST:,} bytes together, got {total:,}", file=sys.stderr)
    return int(total > LARGEST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
