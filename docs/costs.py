"""What attention adds to backbones, counted: python docs/costs.py writes docs/results/attention_costs.csv.

Parameters and multiply-adds of one image on the way through the network, in eval mode; nothing is trained or timed.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from attnreid import Attachment, AttentionPyramid, attach_apnet, attach_mla, attach_pyramid, attach_se, set_last_stride
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.files import write_text

OUT = Path(__file__).parent / "results" / "attention_costs.csv"
SIZES = ((256, 128), (384, 192))


@dataclass(frozen=True)
class Cost:
    """What one attention adds to one backbone.

    Args:
        backbone: its name.
        input_size: height x width.
        attention: what is put in.
        sites: how many places it stands at.
        smallest_map: of those places, height x width.
        parameters: added.
        multiply_adds: added, of one image.
        parameters_before: of the backbone.
        multiply_adds_before: of the backbone.
    """

    backbone: str
    input_size: str
    attention: str
    sites: int
    smallest_map: str
    parameters: int
    multiply_adds: int
    parameters_before: int
    multiply_adds_before: int


# At the end of every stage: the options of AttentionPyramid.
STAGED: dict[str, dict[str, Any]] = {
    "SE": {"attention": "se", "levels": 1},
    "SE pyramid, 2 levels": {"attention": "se", "levels": 2},
    "SE pyramid, 3 levels": {"attention": "se", "levels": 3},
    "split attention": {"attention": "split", "levels": 1},
    "RGA-S": {"attention": "rga_s", "levels": 1},
    "RGA-S pyramid, 2 levels": {"attention": "rga_s", "levels": 2},
    "RGA-C": {"attention": "rga_c", "levels": 1},
}
# Elsewhere in the network; each takes a model and, but for SE, an input size.
PLACED: dict[str, Callable[..., Attachment]] = {
    "SE in every block": attach_se,
    "pixel level": partial(attach_mla, levels=("pixel",)),
    "head level": partial(attach_mla, levels=("head",)),
    "domain level": partial(attach_mla, levels=("domain",)),
    "multi-level (MLA)": attach_mla,
    "APNet's released code": partial(attach_apnet, variant="released"),
}


BACKBONES: dict[str, Callable[[tuple[int, int]], nn.Module]] = {
    "ResNet-18": lambda size: torchvision.models.resnet18(),
    "ResNet-34": lambda size: torchvision.models.resnet34(),
    "ResNet-50": lambda size: torchvision.models.resnet50(),
    "ResNet-101": lambda size: torchvision.models.resnet101(),
    "ResNeXt-50": lambda size: torchvision.models.resnext50_32x4d(),
    "DenseNet-121": lambda size: torchvision.models.densenet121(),
    "Inception-V3": lambda size: torchvision.models.inception_v3(aux_logits=False, init_weights=False),
    "MobileNetV2": lambda size: torchvision.models.mobilenet_v2(),
    "MobileNetV3-L": lambda size: torchvision.models.mobilenet_v3_large(),
    "EfficientNet-B0": lambda size: torchvision.models.efficientnet_b0(),
    "RegNetY-400MF": lambda size: torchvision.models.regnet_y_400mf(),
    "ConvNeXt-T": lambda size: torchvision.models.convnext_tiny(),
    "Swin-T": lambda size: torchvision.models.swin_t(),
}


def counted(backbones: Iterable[str] = BACKBONES, sizes: Iterable[tuple[int, int]] = SIZES) -> Iterator[Cost]:
    """Return every cost that can be had; what the library refuses is left out.

    Args:
        backbones: of BACKBONES.
        sizes: height and width.
    """
    for backbone, size in product(backbones, sizes):
        model = BACKBONES[backbone](size).eval()
        with suppress(ValueError):  # a network without a stride to set
            set_last_stride(model, 1)
        before = _costs(model, size)
        with attach_pyramid(model, "se", levels=1, input_size=size) as attached:
            stages = attached.sites
        for attention, options in STAGED.items():
            with suppress(ValueError):
                layers = [
                    AttentionPyramid(stage.channels, size=stage.size, device="meta", **options).eval()
                    for stage in stages
                ]
                added = [
                    (count_parameters(layer), count_multiply_adds(layer, stage.channels, *stage.size) or 0)
                    for layer, stage in zip(layers, stages, strict=True)
                ]
                smallest = _shown(min(stage.size for stage in stages))
                sums = [sum(each) for each in zip(*added, strict=True)]
                yield Cost(backbone, _shown(size), attention, len(stages), smallest, *sums, *before)
        for attention, attach in PLACED.items():
            # SE asks for no size, so that its sites' maps are of another input.
            sized = attach is not attach_se
            with suppress(ValueError), attach(model, **({"input_size": size} if sized else {})) as attached:
                after = _costs(model, size)
                smallest = _shown(min(site.size for site in attached.sites)) if sized else ""
                sums = [now - then for now, then in zip(after, before, strict=True)]
                yield Cost(backbone, _shown(size), attention, len(attached.sites), smallest, *sums, *before)


def _costs(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    multiply_adds = count_multiply_adds(model, 3, *size)
    assert multiply_adds is not None  # all of BACKBONES run on the meta device
    return count_parameters(model), multiply_adds


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def as_csv(costs: list[Cost]) -> str:
    """Return the costs as a CSV file."""
    content = io.StringIO()
    rows = csv.DictWriter(content, [field.name for field in fields(Cost)], lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(cost) for cost in costs)
    return content.getvalue()


def main() -> None:
    """Count all, and write the file anew after each backbone."""
    rows: list[Cost] = []
    for backbone in BACKBONES:
        rows += counted([backbone])
        print(f"{backbone}: {len(rows)} rows", file=sys.stderr)
        write_text(OUT, as_csv(rows))


if __name__ == "__main__":
    main()
