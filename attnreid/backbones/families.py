"""The backbones that the papers use, known by their parts and not by their class.

| family | known by | its four stages end at |
|---|---|---|
| ResNet (18 to 152, ResNeXt, Wide) | blocks of `conv1`, `bn1`, `conv2`, `bn2` in `layer1` to `layer4` | these four |
| DenseNet | `features.denseblock1` to `features.denseblock4` | these four |
| Inception-V3 | `Conv2d_4a_3x3`, `Mixed_5d`, `Mixed_6e`, `Mixed_7c` | these: the last map of each size |

APNet's Table V names the backbones and not the modules; these are where a map of one size is finished, as
after a ResNet's stages.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from attnreid.backbones._surgery import CHILD, mark_of

_BLOCK_PARTS = ("conv1", "bn1", "conv2", "bn2")


@dataclass(frozen=True)
class Family:
    """A kind of backbone: its name, and the modules that its four stages end at."""

    name: str
    stages: tuple[str, ...]


RESNET = Family("ResNet", ("layer1", "layer2", "layer3", "layer4"))
DENSENET = Family("DenseNet", tuple(f"features.denseblock{stage}" for stage in (1, 2, 3, 4)))
INCEPTION_V3 = Family("Inception-V3", ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"))
_FAMILIES = (RESNET, DENSENET, INCEPTION_V3)


def family_of(model: nn.Module) -> Family | None:
    """Return the family that `model` belongs to, or None."""
    if is_resnet(model):
        return RESNET
    for family in (DENSENET, INCEPTION_V3):
        if all(_has(model, stage) for stage in family.stages):
            return family
    return None


def check_resnet(who: str, model: nn.Module) -> None:
    """Refuse a model that is no ResNet."""
    if not is_resnet(model):
        raise ValueError(
            f"{who}: the model must be a ResNet, with blocks of {', '.join(_BLOCK_PARTS)} in "
            f"{', '.join(RESNET.stages)}; {_found(model, is_resnet)}"
        )


def is_resnet(model: nn.Module) -> bool:
    """Whether `model` has a ResNet's stages, each a row of residual blocks."""
    return all(isinstance(model._modules.get(stage), nn.Sequential) for stage in RESNET.stages) and all(
        blocks_of(model, stage) and all(_is_block(block) for _, block in blocks_of(model, stage))
        for stage in RESNET.stages
    )


def blocks_of(model: nn.Module, stage: str) -> list[tuple[str, nn.Module]]:
    """Return the blocks of a ResNet's stage with their names in it."""
    row = model.get_submodule(stage)
    return [(name, block) for name, block in row.named_children() if not (name == CHILD and mark_of(row))]


def _is_block(module: nn.Module) -> bool:
    return all(isinstance(module._modules.get(part), nn.Module) for part in _BLOCK_PARTS)


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _found(model: nn.Module, fits: Callable[[nn.Module], bool]) -> str:
    """Say what the model is instead, and where in it there may be one that fits."""
    children = ", ".join(repr(name) for name, _ in model.named_children()) or "none"
    inside = [name for name, module in model.named_modules() if name and fits(module)]
    advice = (
        f"pass the model inside it, at {inside[0]!r}"
        if inside
        else "use attach(model, ..., at=...) with names that find_sites(model, ...) lists"
    )
    return f"got {type(model).__name__} with the children {children}: {advice}."
