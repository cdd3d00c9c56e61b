"""Grad-CAM (Selvaraju et al., ICCV 2017) of a re-ID network: after every stage, and after every level of a pyramid.

A pyramid's fast path never has the map after a level; `attnreid.explain_levels` has it made. captum's LayerGradCam does
the rest: the mean gradient of the score over a map's positions weighs its channels, and what is above 0 is the map.
Maps of any layout are seen as (N, C, H, W), tokens of a transformer as the grid of patches that they are.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

from attnreid import AttentionPyramid, Site, attach_pyramid, attachments, explain_levels
from attnreid.backbones.layouts import MapAdapter
from reference_pipelines.errors import UserError
from reference_pipelines.models import ReidModel
from reference_pipelines.unit_vectors import unit_rows

ATTENTION = "attention"  # the name that attached attention has in its host
STAGE, BEFORE = "after the stage", "before its attention"

Score = Callable[[Tensor], Tensor]
"""From images (N, 3, H, W) to a number for each, (N,), with its gradient."""


@dataclass(frozen=True)
class HeatMap:
    """Grad-CAM of one place.

    Args:
        site: the module in the backbone, such as "layer4".
        level: "level1", ... of the pyramid there; of a stage STAGE, or BEFORE what stands at its end.
        values: (N, h, w) float32, 0 or more, of the place's own size; all 0 where nothing speaks for the score.
    """

    site: str
    level: str
    values: np.ndarray


@dataclass(frozen=True)
class Target:
    """What Grad-CAM asks for.

    Args:
        score: of images.
        said: for each of the N images, what the score is, in words.
    """

    score: Score
    said: tuple[str, ...]


def class_target(model: ReidModel, images: Tensor) -> Target:
    """Return the score that the classifier gives to the person of the training whom each image resembles most.

    Args:
        model: in eval mode, with its classifier.
        images: (N, 3, H, W), prepared, where the model is.

    Raises:
        UserError: there is no classifier.
    """
    require_classifier(model)
    with torch.no_grad():
        scores = _class_scores(model, images)
    chosen, shares = scores.argmax(dim=1), scores.softmax(dim=1).amax(dim=1)
    said = tuple(
        f"person {int(person) + 1} of the {scores.shape[1]} of the training, {float(share):.0%}"
        for person, share in zip(chosen, shares, strict=True)
    )
    return Target(lambda x: _class_scores(model, x).gather(1, chosen[:, None])[:, 0], said)


def require_classifier(model: ReidModel) -> None:
    """Refuse a network that gives no score of its own.

    Raises:
        UserError: there is no classifier.
    """
    if model.classifier is None:
        raise UserError(
            "explain: the network must have a classifier, whose score is explained, and its weights have none, as "
            "after training without labels; name an image of the same person with --against"
        )


def similarity_target(model: ReidModel, images: Tensor, others: Tensor, names: tuple[str, ...]) -> Target:
    """Return the cosine similarity of each image's feature to that of another image, which is held fixed.

    Args:
        model: in eval mode.
        images: (N, 3, H, W), prepared, where the model is.
        others: (N, 3, H, W), what each is compared with, or (1, 3, H, W) for all of them.
        names: of the others.
    """
    with torch.no_grad():
        fixed = unit_rows(model(others).features.float())
        found = (unit_rows(model(images).features.float()) * fixed).sum(dim=1)
    names = names * (len(images) // len(names))
    said = tuple(f"similarity to {name}, {float(value):.3f}" for name, value in zip(names, found, strict=True))
    return Target(lambda x: (unit_rows(model(x).features.float()) * fixed).sum(dim=1), said)


def _class_scores(model: ReidModel, images: Tensor) -> Tensor:
    """Return (N, classes); where each of several features has a classifier, the sum of theirs."""
    logits = model(images).logits
    assert logits is not None
    return logits.unflatten(1, (model.features, -1)).sum(dim=1)


def heat_maps(model: ReidModel, images: Tensor, score: Score, stages: Sequence[Site] | None = None) -> list[HeatMap]:
    """Return Grad-CAM after each stage and each level, from the first stage to the last; the model is as before.

    Where a pyramid stands at the end of a stage, the stage's own map is the one before it, and that after its last
    level is the last level's.

    Args:
        model: in eval mode.
        images: (N, 3, H, W), prepared, where the model is.
        score: of these images.
        stages: what `stages_of` tells of the backbone; it is asked where they are left out.

    Raises:
        UserError: the backbone has no stages with maps, or runs no such images.
        ValueError: it is compiled or traced.
    """
    images = images.detach().clone().requires_grad_()
    found = stages_of(model.backbone, (images.shape[2], images.shape[3])) if stages is None else stages
    with _tapped(model.backbone, found) as taps:
        return [
            HeatMap(site, level, _grad_cam(score, images, tap).numpy(force=True)) for (site, level), tap in taps.items()
        ]


def _grad_cam(score: Score, images: Tensor, tap: nn.Module) -> Tensor:
    """Return (N, h, w) of what passes `tap`, an (N, C, h, w)."""
    found = LayerGradCam(score, tap).attribute(images, relu_attributions=True)
    assert isinstance(found, Tensor)
    return found[:, 0].float()


@contextmanager
def _tapped(backbone: nn.Module, stages: Sequence[Site]) -> Iterator[dict[tuple[str, str], nn.Module]]:
    """Have the map at every place pass a module of its own, by site and level."""
    pyramids = any(isinstance(module, AttentionPyramid) for module in backbone.modules())
    taps: dict[tuple[str, str], nn.Module] = {}
    with ExitStack() as stack:
        levels = stack.enter_context(explain_levels(backbone) if pyramids else nullcontext({}))
        for stage in stages:
            host = backbone.get_submodule(stage.name)
            attention = host._modules.get(ATTENTION)
            adapters = {level: _adapter(stage) for level in (BEFORE, STAGE)}
            if attention is not None:
                taps[stage.name, BEFORE] = adapters[BEFORE].layer
                stack.callback(attention.register_forward_pre_hook(partial(_look_at_input, adapters[BEFORE])).remove)
            taps.update({(stage.name, level): tap for level, tap in levels.pop(stage.name, {}).items()})
            if attention is None or not _ends_with_a_level(attention):
                taps[stage.name, STAGE] = adapters[STAGE].layer
                stack.callback(host.register_forward_hook(partial(_look_at_output, adapters[STAGE])).remove)
        taps.update({(site, level): tap for site, found in levels.items() for level, tap in found.items()})
        yield taps


def stages_of(backbone: nn.Module, size: tuple[int, int]) -> list[Site]:
    """Return where the stages of a backbone end, told by a copy without its attention.

    Args:
        backbone: stays as it is.
        size: (height, width) of its images.

    Raises:
        UserError: it has no stages with maps, or runs no such images.
    """
    plain = copy.deepcopy(backbone)
    try:
        for attachment in reversed(attachments(plain)):
            attachment.remove()
        with warnings.catch_warnings():
            # Tokens that nothing reads are no mistake here: nothing speaks for the score there, and that is shown.
            warnings.simplefilter("ignore", UserWarning)
            return list(attach_pyramid(plain, "se", levels=1, input_size=size).sites)
    except ValueError as error:
        said = str(error).partition(": ")[2]
        raise UserError(f"explain: the backbone must have stages that end with a map, and {said}") from None


def _adapter(site: Site) -> MapAdapter:
    return MapAdapter(nn.Identity(), site.layout or "NCHW", site.grid, site.prefix, site.output)


def _look_at_input(adapter: MapAdapter, module: nn.Module, taken: tuple[Any, ...]) -> tuple[Any, ...]:
    return (adapter(taken[0]), *taken[1:])


def _look_at_output(adapter: MapAdapter, module: nn.Module, taken: object, given: Any) -> Any:
    return adapter(given)


def _ends_with_a_level(attention: nn.Module) -> bool:
    """Whether what leaves an attention is its last level's map."""
    inner = attention.layer if isinstance(attention, MapAdapter) else attention
    return isinstance(inner, AttentionPyramid) and not inner.identity_init
