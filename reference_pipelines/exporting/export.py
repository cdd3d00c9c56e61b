"""`export`: a trained network to files, each checked against the network before it is written."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

import attnreid
from attnreid.files import replacing
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.extraction import unit_features_of
from reference_pipelines.exporting.files import Runs, capture, onnx_file, program_file, require_onnx
from reference_pipelines.exporting.network import Preprocessing, as_input, network_of, random_pixels
from reference_pipelines.serving.embedder import Embedder, require_embedder

BATCHES = (1, 2, 5)
"""Numbers of random images that a file is run with before it is written."""

TOLERANCE = 1e-4
"""How far a file's unit feature may lie from the network's, computed on the CPU; no cosine changes by more."""

_EXAMPLES = 3  # images that the graph is captured with


@dataclass(frozen=True)
class ExportedFile:
    """A file that `export` has written.

    Args:
        path: where.
        kind: what reads it.
        size: in bytes.
        difference: the largest distance of its unit features from the network's own.
        metadata: what the file says of itself.
    """

    path: Path
    kind: Literal["ONNX", "torch.export"]
    size: int
    difference: float
    metadata: dict[str, Any]


def export(
    model: Embedder,
    *,
    onnx: str | Path | None = None,
    torch_export: str | Path | None = None,
    fold: bool = False,
    preprocessing: Preprocessing = "outside",
) -> list[ExportedFile]:
    """Write a trained network to files that map any number of images to unit features.

    Each is made in memory and run on random images; none is written unless all give the network's features up to
    `TOLERANCE`. What a file says of itself, in the metadata of an ONNX file and in the extra file metadata.json of an
    exported program, is how images are prepared for it, whose features they are, and attnreid's version.

    Args:
        model: what `load` returns; on any device, exported on the CPU.
        onnx: ONNX file to write, for onnxruntime and others.
        torch_export: file to write with torch.export.save.
        fold: fold attention first (`attnreid.fold`): the same features with fewer operations.
        preprocessing: "outside", images come as (N, 3, H, W) float32, resized and normalised as by `model.preprocess`;
            or "inside", as (N, H, W, 3) uint8 RGB of the network's size. Resizing stays outside in both: the training
            rounds to 8 bits along each direction, which neither kind of file has an operation for.

    Returns:
        What was written, a file each.

    Raises:
        TypeError: `model` is no Embedder.
        ValueError: no file is named, or an option is none.
        UserError: a package is missing, the network cannot be exported, its features differ, or a file cannot be
            written.

    Example:
        model = reference_pipelines.load("runs/apnet")
        reference_pipelines.export(model, onnx="model.onnx", fold=True)
        features = onnxruntime.InferenceSession("model.onnx").run(None, {"images": model.preprocess("a.jpg").numpy()})
    """
    require_embedder(model, "export")
    if preprocessing not in get_args(Preprocessing):
        raise ValueError(f'export: preprocessing must be "outside" or "inside", got {preprocessing!r}')
    paths = {kind: Path(path) for kind, path in (("ONNX", onnx), ("torch.export", torch_export)) if path is not None}
    _check_paths(list(paths.values()))
    if onnx is not None:
        require_onnx()
    about = metadata(model, folded=fold, preprocessing=preprocessing)
    network = network_of(model, folded=fold, preprocessing=preprocessing)
    pixels = random_pixels(_EXAMPLES, model.identity.image_size, seed=0)
    program = capture(network, as_input(model, pixels, preprocessing))
    made = {kind: (onnx_file if kind == "ONNX" else program_file)(program, about) for kind in paths}
    files = [
        ExportedFile(paths[kind], kind, len(content), _difference(kind, runs, model, preprocessing), about)  # type: ignore[arg-type]
        for kind, (content, runs) in made.items()
    ]
    _write({paths[kind]: content for kind, (content, _) in made.items()})
    return files


def metadata(model: Embedder, *, folded: bool, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a file says of itself: the features' identity, and how images are given to it."""
    height, width = model.identity.image_size
    takes = {
        "outside": f"float32 (N, 3, {height}, {width}), (x / 255 - mean) / std of resized RGB pixels x",
        "inside": f"uint8 (N, {height}, {width}, 3), resized RGB pixels",
    }
    return {
        **model.identity.to_plain(),
        "description": model.title,
        "dim": model.dim,
        "input": takes[preprocessing],
        "output": f"float32 (N, {model.dim}), unit features: their products are cosines",
        "preprocessing": preprocessing,
        "folded": folded,
        "attnreid": attnreid.__version__,
    }


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write all files, or none."""
    path = next(iter(contents))
    try:
        with ExitStack() as stack:
            drafts = {path: stack.enter_context(replacing(path)) for path in contents}
            for path, draft in drafts.items():
                draft.write_bytes(contents[path])
    except OSError as error:
        raise UserError(f"export: cannot write {path} ({error.strerror}); name another file") from None


def _check_paths(paths: list[Path]) -> None:
    if not paths:
        raise ValueError("export: a file must be named, onnx or torch_export or both, got none")
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UserError(f"export: the two files must be different ones, got {paths[0]} twice; name another")
    for path in paths:
        if os.path.isdir(path) or not os.path.isdir(path.absolute().parent):
            what = "is a folder" if os.path.isdir(path) else "is in no folder that exists"
            raise UserError(f"export: a file to write must be named, {path} {what}; name a file")


@torch.no_grad()
def _difference(kind: str, runs: Runs, model: Embedder, preprocessing: Preprocessing) -> float:
    """Return the largest distance from the network's own features, on images that the graph was not captured with.

    Raises:
        UserError: it is above the tolerance, or not a number.
    """
    own = network_of(model, folded=False, preprocessing="outside").model
    found = []
    for count in BATCHES:
        pixels = random_pixels(count, model.identity.image_size, seed=count)
        expected = unit_features_of(own, as_input(model, pixels, "outside"), flip=model.identity.flip)
        difference = (runs(as_input(model, pixels, preprocessing)) - expected).norm(dim=1).max().item()
        found.append(difference)
        if not difference <= TOLERANCE:
            raise UserError(
                f"export: the features of the {kind} file must be the network's up to a distance of {TOLERANCE:g}, of "
                f"{count} random images they are {difference:.2g} away; nothing is written"
            )
    return max(found)
