"""A trained network as a file that runs without this package: ONNX, or torch's own exported program."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import attnreid
from attnreid import fold
from attnreid.files import write_bytes
from reference_pipelines.errors import UserError
from reference_pipelines.serving.embedder import Embedder

_BATCHES = (1, 2, 5)  # that the parity is checked with
TOLERANCE = 1e-4  # largest difference of a number of a unit feature, in single precision
_EXAMPLES = 3  # images that the graph is made with; not 1, which an exporter takes for a constant


class Exported(nn.Module):
    """What is written: images to unit features, as `Embedder.embed` computes them.

    Args:
        model: in eval mode, on the CPU.
        flip: add the features of each image's mirror.
        mean: of each channel; None where images come normalised.
        std: of each channel.

    Shape:
        Input `(N, 3, H, W)` float32, normalised; with `mean`, `(N, H, W, 3)` uint8 RGB. Output `(N, D)`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        flip: bool,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.flip = flip
        self.scale: Tensor
        self.shift: Tensor
        self.inside = mean is not None
        if mean is not None and std is not None:
            wide = torch.tensor([mean, std], dtype=torch.float64).view(2, 1, 3, 1, 1)
            self.register_buffer("scale", (1 / (255 * wide[1])).float())
            self.register_buffer("shift", (-wide[0] / wide[1]).float())

    def forward(self, images: Tensor) -> Tensor:
        """Return unit features."""
        if self.inside:
            images = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        features: Tensor = self.model(images).features
        if self.flip:
            features = features + self.model(images.flip(3)).features
        return functional.normalize(features)


def export(
    model: Embedder,
    *,
    onnx: str | Path | None = None,
    torch_export: str | Path | None = None,
    folded: bool = False,
    preprocessing: bool = False,
) -> dict[str, float]:
    """Write a trained network to files that take any number of images, once each gives the network's own features.

    The metadata (`metadata_props` of an ONNX file, `metadata.json` among the extra files of an exported program) say
    how images are to be prepared: size, interpolation, mean, deviation and the order of the channels.

    Args:
        model: what `reference_pipelines.load` returns.
        onnx: the file to write for ONNX runtimes.
        torch_export: the file to write with `torch.export.save`.
        folded: fold attention first (`attnreid.fold`): the same features from fewer operations.
        preprocessing: take uint8 images `(N, H, W, 3)` of the network's size and normalise them inside; resizing stays
            outside, since no runtime resizes as the training does.

    Returns:
        The largest difference from the network's own features, by file.

    Raises:
        UserError: a package is missing, the network cannot be exported, or the file's features differ; nothing is
            written then.
        ValueError: neither file is named.
    """
    if onnx is None and torch_export is None:
        raise ValueError("export: name a file, onnx= or torch_export=, got neither")
    network, example = _prepare(model, folded=folded, preprocessing=preprocessing)
    about = _metadata(model, folded=folded, preprocessing=preprocessing)
    program = _program(network, example)
    found: dict[str, float] = {}
    contents: dict[Path, bytes] = {}
    if torch_export is not None:
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={"metadata.json": json.dumps(about)})
        contents[Path(torch_export)] = content.getvalue()
        again = torch.export.load(io.BytesIO(content.getvalue())).module()
        found[str(torch_export)] = _parity(str(torch_export), again, model, example)
    if onnx is not None:
        contents[Path(onnx)] = _onnx(network, example, about)
        found[str(onnx)] = _parity(str(onnx), _Session(contents[Path(onnx)]), model, example)
    for path, data in contents.items():
        try:
            write_bytes(path, data)
        except OSError as error:
            raise UserError(f"export: cannot write {path} ({error.strerror}); name another file") from None
    return found


def _prepare(model: Embedder, *, folded: bool, preprocessing: bool) -> tuple[Exported, Tensor]:
    own = copy.deepcopy(model.model).cpu().float().eval()
    for parameter in own.parameters():
        parameter.requires_grad_(False)
    network = fold(own) if folded else own
    mean, std = model.identity.normalisation if preprocessing else (None, None)
    height, width = model.identity.image_size
    generator = torch.Generator().manual_seed(0)
    if preprocessing:
        example = torch.randint(0, 256, (_EXAMPLES, height, width, 3), generator=generator, dtype=torch.uint8)
    else:
        example = torch.randn(_EXAMPLES, 3, height, width, generator=generator)
    return Exported(network, flip=model.identity.flip, mean=mean, std=std).eval(), example


def _metadata(model: Embedder, *, folded: bool, preprocessing: bool) -> dict[str, Any]:
    return {
        **model.identity.to_plain(),
        "title": model.title,
        "dim": model.dim,
        "input": "uint8 (N, H, W, 3), 0 to 255" if preprocessing else "float32 (N, 3, H, W), (x / 255 - mean) / std",
        "output": "unit features float32 (N, dim)",
        "folded": folded,
        "attnreid": attnreid.__version__,
    }


def _program(network: Exported, example: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # what torch cannot capture depends on the backbone
        raise UserError(
            f"export: torch.export must be able to capture the network, and it failed with {type(error).__name__}: "
            f"{' '.join(str(error).split()):.300}"
        ) from None


def _onnx(network: Exported, example: Tensor, about: dict[str, Any]) -> bytes:
    try:
        import onnx
        import onnxruntime  # noqa: F401  the parity is checked in it
        import onnxscript  # noqa: F401  torch writes ONNX by it
    except ModuleNotFoundError as error:
        raise UserError(f"export: --onnx needs the package {error.name}; pip install 'attnreid[onnx]'") from None
    content = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["images"],
                output_names=["features"],
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:
        raise UserError(
            f"export: ONNX must be able to express the network, and it failed with {type(error).__name__}: "
            f"{' '.join(str(error).split()):.300}; --torch-export may do"
        ) from None
    for key, value in about.items():
        proto.metadata_props.append(onnx.StringStringEntryProto(key=key, value=_plain(value)))
    content.write(proto.SerializeToString())
    return content.getvalue()


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Session:
    """An ONNX file in onnxruntime, called as a network."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(["features"], {"images": images.numpy()})[0])


@torch.no_grad()
def _parity(name: str, exported: Any, model: Embedder, example: Tensor) -> float:
    """Return the largest difference over several numbers of images.

    Raises:
        UserError: it is above the tolerance.
    """
    difference = 0.0
    for count in _BATCHES:
        images = example.repeat(-(-count // len(example)), 1, 1, 1)[:count]
        pixels = images if images.is_floating_point() else model.transform.normalise(images, [None] * count)
        difference = max(difference, float((exported(images) - model.embed_batch(pixels)).abs().max()))
    if not difference <= TOLERANCE:
        raise UserError(
            f"export: the features of {name} must be those of the network to {TOLERANCE:g}, the largest difference is "
            f"{difference:.2g}; nothing was written"
        )
    return difference


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters log and warn of others' code from the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
