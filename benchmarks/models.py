"""Whole models: images a second of a ResNet-50 with the papers' attention, against the plain one."""

from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid import attach_apnet, attach_mla, fold, set_last_stride
from benchmarks.cases import Case, Peer, Problem, Shape, Skipped, Target, Variant
from benchmarks.work import inference

Attach = Callable[[nn.Module, tuple[int, int]], object]

IMAGE: Shape = (3, 256, 128)
CLASSES = 751  # Market-1501's training identities


def no_attention(model: nn.Module, input_size: tuple[int, int]) -> None:
    """Leave the model plain."""


def apnet_c2(model: nn.Module, input_size: tuple[int, int]) -> None:
    """Attach APNet-C2."""
    attach_apnet(model, "se", levels=2, input_size=input_size)


def apnet_s2(model: nn.Module, input_size: tuple[int, int]) -> None:
    """Attach APNet-S2."""
    attach_apnet(model, "rga_s", levels=2, input_size=input_size)


def mla(model: nn.Module, input_size: tuple[int, int]) -> None:
    """Attach MLA in all blocks of the last stage."""
    attach_mla(model, input_size=input_size)


def make_resnet(problem: Problem, attach: Attach) -> nn.Module:
    """Return a ResNet-50 of random weights and last stride 1 with attention.

    Raises:
        Skipped: torchvision is not installed.
    """
    try:
        models = import_module("torchvision.models")
    except ModuleNotFoundError:
        raise Skipped("torchvision is not installed; pip install 'attnreid[pipelines]'") from None
    torch.manual_seed(0)
    model: nn.Module = models.resnet50(num_classes=CLASSES)
    set_last_stride(model)
    attach(model, problem.size)
    model.to(**problem.factory)
    return model


def inference_variant(
    problem: Problem, *, attach: Attach, folded: bool = False, backbone: bool = False, agrees: bool = False
) -> Variant:
    """Build the inference of one batch of images; `backbone` folds the backbone's own norms, too."""
    model = make_resnet(problem, attach)
    (images,) = problem.make_maps(1)
    _settle(model, images[:2])
    model = fold(model.eval(), backbone=backbone) if folded else model.eval()
    rough = agrees and problem.dtype == torch.bfloat16
    return Variant(
        inference(model, images),
        agrees=agrees and not rough,
        items=problem.batch,
        unit="images",
        note="outputs not compared: bfloat16's rounding grows through a random network" if rough else "",
    )


def training_variant(problem: Problem, *, attach: Attach) -> Variant:
    """Build one step of SGD on one batch of images."""
    model = make_resnet(problem, attach).train()
    (images,) = problem.make_maps(1)
    labels = torch.arange(problem.batch, device=problem.device) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        scores: Tensor = model(images)
        torch.autograd.backward(F.cross_entropy(scores, labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # last, so that every step starts with the same memory live
        return scores.detach()

    return Variant(step, agrees=False, items=problem.batch, unit="images")


def _settle(model: nn.Module, images: Tensor) -> None:
    """Move the norms' statistics half way to those of these images: the maps of a random model stay in range.

    All the way, norms of a tiny variance would enlarge the rounding errors that are compared later.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.5
    with torch.no_grad():
        model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _plain(target: float) -> Peer:
    build = partial(inference_variant, attach=no_attention)
    return Peer("plain", "plain ResNet-50", build, Target(target))


def _case(name: str, what: str, attach: Attach, target: float, *, folded: bool, backbone: bool = False) -> Case:
    peers = [_plain(target)]
    if folded:
        unfolded = partial(inference_variant, attach=attach, agrees=True)
        peers.append(Peer("unfolded", "the same, unfolded", unfolded))
    ours = partial(inference_variant, attach=attach, folded=folded, backbone=backbone)
    return Case(name, what, ours, tuple(peers), (IMAGE,), 8, resizable=False, allows=True)


CASES = (
    _case("apnet_c2", "ResNet-50 + APNet-C2, inference", apnet_c2, 0.97, folded=False),
    _case(
        "apnet_c2_folded",
        "ResNet-50 + APNet-C2, norms folded, inference",
        apnet_c2,
        1.0,
        folded=True,
        backbone=True,
    ),
    _case("apnet_s2_folded", "ResNet-50 + APNet-S2 folded, inference", apnet_s2, 0.73, folded=True),
    _case("mla_folded", "ResNet-50 + MLA folded, inference", mla, 0.87, folded=True),
    Case(
        "apnet_c2_training",
        "ResNet-50 + APNet-C2, training step",
        partial(training_variant, attach=apnet_c2),
        (Peer("plain", "plain ResNet-50", partial(training_variant, attach=no_attention), Target(0.97)),),
        (IMAGE,),
        8,
        resizable=False,
        allows=True,
    ),
)
"""The rows of whole models; their ratios are of images a second."""
