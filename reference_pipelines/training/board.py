"""What a run shows in TensorBoard, for those who look at it there: every number of the log, ranked images and gates.

The log is what a run knows; this is made of it. So a run that goes on writes all of its log anew, and no step is there
twice, whatever the earlier process had still written.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from reference_pipelines.arrays import load_arrays
from reference_pipelines.errors import UserError

FOLDER = "tensorboard"
_THUMBNAIL = (64, 128)  # width and height
_FRAMES = {True: (0, 140, 60), False: (190, 30, 30), None: (0, 98, 163)}  # the same person, another, the query
_SCORES = ("mAP", "rank1", "held_out_mAP")


def check_tensorboard() -> None:
    """Refuse to write for TensorBoard where it is not installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "train: --tensorboard needs the package tensorboard, which is not installed; pip install "
            "'attnreid[tensorboard]', or leave the option out: log.jsonl has the same numbers"
        )


class Board:
    """The event files of a run.

    Args:
        run: its folder.
        log: its lines so far.
    """

    def __init__(self, run: Path, log: Sequence[Mapping[str, Any]]) -> None:
        folder = run / FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
        for entry in log:
            self.add(entry)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a line of the log."""
        for name, value in entry.items():
            if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool):
                group = "score" if name in _SCORES else "training"
                self._writer.add_scalar(f"{group}/{name}", value, entry["epoch"])
        self._writer.flush()

    def add_examples(self, run: Path, epoch: int) -> None:
        """Add the ranked images and the gates that a finished run has written into its folder."""
        document = json.loads((run / "examples.json").read_text(encoding="utf-8"))
        for number, shown in enumerate(document["lists"], 1):
            self._writer.add_image(f"ranked/query {number}", _strip(shown), epoch, dataformats="HWC")
        for name, gate in load_arrays(run / "attention.npz").items():
            self._add_gate(f"attention/{name}", gate, epoch)
        self._writer.flush()

    def _add_gate(self, tag: str, gate: np.ndarray, epoch: int) -> None:
        """Add a gate (N, C, H, W): its values, and where it has positions the mean over the channels as pictures."""
        self._writer.add_histogram(tag, gate, epoch)
        if gate.ndim == 4 and gate.shape[2] * gate.shape[3] > 1:
            low, high = gate.min(), gate.max()
            maps = (gate.mean(axis=1, keepdims=True) - low) / max(high - low, 1e-12)
            self._writer.add_images(tag, maps.repeat(8, axis=2).repeat(8, axis=3), epoch)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _strip(shown: Mapping[str, Any]) -> np.ndarray:
    """Return a query and what is ranked for it side by side, framed by whether it is the same person."""
    items = [(shown["query"], None), *((entry["image"], entry["match"]) for entry in shown["ranked"])]
    pictures = []
    for path, match in items:
        with Image.open(path) as image:
            picture = image.convert("RGB").resize(_THUMBNAIL)
        pictures.append(np.asarray(ImageOps.expand(picture, 4, _FRAMES[match])))
    return np.concatenate(pictures, axis=1)
