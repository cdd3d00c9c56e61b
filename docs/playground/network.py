"""The playground's network: a narrow ResNet with a pyramid after each stage, trained on rendered pedestrians."""

import copy
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from attnreid import AttentionPyramid, attach_pyramid, attachments, record_attention
from reference_pipelines import Embedder
from reference_pipelines.commands.cli import main as pipelines
from reference_pipelines.errors import UserError
from reference_pipelines.exporting.files import capture
from reference_pipelines.models.narrow import NarrowBottleneck
from reference_pipelines.rendering import RenderSize, render_market

SIZE = (96, 48)
STAGES = ("layer1", "layer2", "layer3", "layer4")
WIDTHS = (32, 64, 128, 256)
SPATIAL = STAGES[:2]
LEVELS = 2
PARITY = 1e-4
"""Largest difference of a feature or a gate between torch and the exported file."""

INPUT, FEATURES = "pixels", "features"


@dataclass(frozen=True)
class Training:
    """What the network is trained on, and for how long.

    Args:
        people: rendered for training; as many other people are rendered as are tested.
        tested: people for testing.
        epochs: of training.
    """

    people: int = 64
    tested: int = 24
    epochs: int = 22


class NarrowResNet(ResNet):
    """torchvision's ResNet with one narrow bottleneck a stage, half as wide, which keeps its last map large."""

    def __init__(self) -> None:
        super().__init__(NarrowBottleneck, [1, 1, 1, 1], width_per_group=32)
        self.inplanes = WIDTHS[0]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for stage, width, stride in zip(STAGES, WIDTHS, (1, 2, 2, 1), strict=True):
            self.add_module(stage, self._make_layer(NarrowBottleneck, width, 1, stride=stride))
        self.fc = nn.Linear(WIDTHS[-1], 1)


def attended() -> nn.Module:
    """Return the network with random weights: APNet-S's pyramid after its first two stages, APNet-C's after the others.

    The spatial gates start nearly open and nearly even. As the paper has them, each position starts with another gate
    between 0.1 and 0.9, which costs a network that starts with random weights more than attention gives.
    """
    network = NarrowResNet()
    attach_pyramid(network, "rga_s", stages=(1, 2), levels=LEVELS, input_size=SIZE)
    attach_pyramid(network, "se", stages=(3, 4), levels=LEVELS, input_size=SIZE)
    for stage in SPATIAL:
        for level in pyramid_of(network, stage).levels:
            nn.init.constant_(level.score.norm.weight, 0.3)
            nn.init.constant_(level.score.norm.bias, 1.5)
    return network


def train(folder: Path, training: Training) -> tuple[Path, Path]:
    """Render people, train on them, and return the images' folder and the run's.

    Args:
        folder: where both are made, an existing one.
        training: how.

    Raises:
        UserError: the training failed; it has said why.
    """
    images, run = folder / "people", folder / "run"
    size = RenderSize(
        train_ids=training.people, test_ids=training.tested, cameras=4, images_per_camera=3, distractors=0, junk=0
    )
    render_market(images, size=size, image_size=SIZE, domain="mall", workers=0)
    epochs = training.epochs
    keys = {
        "title": "playground",
        "data.root": images,
        "data.image_size": list(SIZE),
        "model.backbone": f"{__name__}:{attended.__name__}",
        "model.last_stride": "null",
        "attention.preset": "none",  # the network comes with its own
        "augment.pad": 6,
        "sampler.ids": 8,
        "optimizer.epochs": epochs,
        "optimizer.milestones": [int(0.65 * epochs), int(0.87 * epochs)],
        "evaluation.every": epochs,
        "evaluation.flip": "false",
        "device": "cpu",
    }
    words = [f"--{key}={value}" for key, value in keys.items()]
    if pipelines(["train", "apnet", "--config", "demo", "--out", str(run), *words]) != 0:
        raise UserError("playground: the network must train, and its training failed; what it said stands above")
    return images, run


class Explained(nn.Module):
    """The network as it is exported: pixels to unit features, and the gates of each level.

    A graph has no listeners, so the stages and levels are walked one by one here; `checked_file` compares the result
    with the network's own forward pass and what `record_attention` says of it.

    Args:
        model: the trained `ReidModel`, in eval mode. Its attention is taken out.
        normalisation: mean and standard deviation of each channel.

    Shape:
        Input `(N, H, W, 3)` uint8 RGB. Output: `(N, D)` unit features; for each stage and level a gate, `(N, 1, h, w)`
        where it is spatial and `(N, C, 1, 1)` where it is of the channels.
    """

    def __init__(self, model: nn.Module, normalisation: Any) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck
        self.pyramids = nn.ModuleDict({stage: pyramid_of(self.backbone, stage) for stage in STAGES})
        for attachment in attachments(self.backbone):
            attachment.remove()
        mean, std = torch.tensor(normalisation, dtype=torch.float32).view(2, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the features and the gates, in the order of `output_names`."""
        net = self.backbone
        x = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        gates = []
        for stage in STAGES:
            x = getattr(net, stage)(x)
            for level in self.pyramids[stage].levels:
                gates.append(level.gate(x))
                x = x * gates[-1]
        features = self.neck(net.avgpool(x).flatten(1))
        return nn.functional.normalize(features), *gates


def pyramid_of(backbone: nn.Module, stage: str) -> AttentionPyramid:
    """Return the pyramid that is attached after a stage."""
    pyramid = backbone.get_submodule(f"{stage}.attention")
    assert isinstance(pyramid, AttentionPyramid)
    return pyramid


def gate_names() -> list[str]:
    """Return the gates' names, as "layer1/level1"."""
    return [f"{stage}/level{level}" for stage in STAGES for level in range(1, LEVELS + 1)]


def output_names() -> list[str]:
    """Return the names of the exported file's outputs."""
    return [FEATURES, *gate_names()]


@torch.no_grad()
def by_torch(embedder: Embedder, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the trained network itself says of images, by output name, with its attention attached.

    Args:
        embedder: the network.
        pixels: (N, H, W, 3) uint8.
    """
    with record_attention(embedder.model.backbone) as gates:
        features = embedder.embed_batch(embedder.preprocess(pixels))
    found = {f"{stage}/{level}": gate.numpy() for stage, levels in gates.items() for level, gate in levels.items()}
    return {FEATURES: features.numpy(), **found}


def by_onnx(content: bytes, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return what an exported file says of images (N, H, W, 3) uint8, by output name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return dict(zip(output_names(), session.run(output_names(), {INPUT: pixels}), strict=True))


def checked_file(embedder: Embedder, pixels: np.ndarray) -> tuple[bytes, float]:
    """Return a trained network as an ONNX file, and how far that is from torch on some images.

    Args:
        embedder: the network.
        pixels: (N, H, W, 3) uint8 with N > 1.

    Raises:
        UserError: a feature or a gate differs by more than `PARITY`.
    """
    explained = Explained(copy.deepcopy(embedder.model), embedder.identity.normalisation).requires_grad_(False).eval()
    program = capture(explained, torch.from_numpy(pixels))
    with redirect_stdout(io.StringIO()):
        written = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=output_names(), optimize=True, verbose=False
        )
    assert written is not None
    proto = written.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # lines and folders of this machine
        node.doc_string = ""
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    distance = largest_difference(by_torch(embedder, pixels), by_onnx(content, pixels))
    if not distance <= PARITY:
        raise UserError(
            f"playground: the exported network must be within {PARITY:g} of torch's, got {distance:.2g}; another "
            "release of torch or onnxscript may do"
        )
    return content, distance


def largest_difference(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of any number of two results that have the same names and shapes."""
    assert one.keys() == two.keys()
    assert all(one[name].shape == two[name].shape for name in one)
    return max(float(np.abs(one[name] - two[name]).max()) for name in one)
