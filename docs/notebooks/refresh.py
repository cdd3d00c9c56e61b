"""Runs the notebooks and stores what they show: python docs/notebooks/refresh.py [NAME ...].

Each runs in an empty folder and a kernel of its own. What depends on the machine or the day is taken out of the files,
so that a second run changes outputs only where they differ.
"""

import asyncio
import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from attnreid.files import write_text

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
LARGEST = 1_500_000
"""Bytes of all notebooks together."""

_COLOURS = 128  # of a picture's palette
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
        return cleaned(notebook, (os.path.realpath(folder), folder))


def cleaned(notebook: NotebookNode, folders: Sequence[str] = ()) -> NotebookNode:
    """Return a notebook without times, machines and what progress bars wrote, its pictures with a palette.

    Args:
        notebook: changed in place.
        folders: where it ran, which is taken out of what it printed.
    """
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python", "pygments_lexer": "ipython3"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = _joined([each for each in cell.outputs if each.get("name") != "stderr"], folders)
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])
    return notebook


def _joined(outputs: Sequence[NotebookNode], folders: Sequence[str]) -> list[NotebookNode]:
    """Return a cell's outputs, what it printed in one piece and as a terminal shows it in the end."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            text = re.sub(r"\r+\n", "\n", output.text)
            text = re.sub(r"[^\n]*\r", "", text)  # what a later line was written over
            for folder in folders:
                text = text.replace(f"{folder}/", "")
            output.text = text
    return joined


def smaller(picture: str) -> str:
    """Return a PNG in base64 with a palette, as which it has a third of the bytes; one with a palette as it is."""
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    file = io.BytesIO()
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    flat.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


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
