"""What the commands take."""

from dataclasses import dataclass
from typing import Literal

from attnreid.command_line import typed


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model, and how it is built.

    Args:
        target: what returns the model when it is called, such as torchvision.models:resnet50; its code is run.
        option: an argument for the callable: a Python literal, such as aux_logits=False, or else a text; repeatable.
        input_size: height and width, or channels, height and width.
    """

    target: str = typed(word="MODULE:CALLABLE", like=lambda word: ":" in word)
    option: tuple[str, ...] = typed((), metavar="NAME=VALUE", repeatable=True)
    input_size: tuple[str, ...] = typed(("256", "128"), metavar="N")


@dataclass(frozen=True, kw_only=True)
class SitesOptions(ModelOptions):
    """Which sites to list, and how.

    Args:
        all: list every site, however deep.
        depth: list names of up to N dotted parts; layer4.2 has 2 (default: 2).
        json: print a JSON list, with how often each module is called.
    """

    all: bool = False
    depth: int | None = typed(None, least=1)
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class CostOptions(ModelOptions):
    """A paper's attention.

    Args:
        preset: apnet: pyramids after the four stages, as the paper has them; pyramid: the same with every option; mla:
            multi-level attention for the 3x3 convolutions of a ResNet's last stage; se: a gate in every block of a
            ResNet.
        last_stride: first set the stride of the last stage, 1 or 2; both papers have 1 (default: as it is in
            the model).
        attention: apnet, pyramid: se, rga_s or another registered name, timm:NAME for a layer of timm's, or
            MODULE:CALLABLE for one of yours, whose code is run; several are one for each level (default: se).
        levels: apnet, pyramid: how many, or several for the parts of each, such as 1 2 4 (default: 2); mla: which of
            pixel, head and domain (default: pixel,head,domain).
        radix: apnet, pyramid: into how many parts a level splits those of the one before (default: 2).
        order: apnet, pyramid: which level is applied first (default: coarse_to_fine).
        stages: pyramid: the numbers of the stages that get one, such as 3 4 (default: all).
        variant: apnet: as the paper or its authors' code has it (default: paper).
        blocks: mla: which blocks of the last stage (default: all).
        heads: mla: heads of the head level (default: 4).
        memory: mla: slots of the domain level's memory (default: 64).
        reduction: se: a gate's hidden width is its channels divided by this (default: 16).
        json: print the sites and the whole model's costs as JSON.
    """

    preset: Literal["apnet", "pyramid", "mla", "se"] = typed()
    last_stride: Literal[1, 2] | None = None
    attention: tuple[str, ...] | None = typed(None, metavar="NAME")
    levels: tuple[str, ...] | None = typed(None, metavar="LEVEL")
    radix: int | None = None
    order: Literal["coarse_to_fine", "fine_to_coarse"] | None = None
    stages: tuple[int, ...] | None = typed(None, metavar="STAGE")
    variant: Literal["paper", "released"] | None = None
    blocks: Literal["all", "last"] | None = None
    heads: int | None = None
    memory: int | None = None
    reduction: int | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """How to print what this machine has.

    Args:
        json: print JSON.
    """

    json: bool = False
