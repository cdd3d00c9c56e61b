"""A network's classifier, found by running the network, and taken off."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reference_pipelines.errors import UserError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


def take_head_off(
    network: nn.Module, name: str, image_size: tuple[int, int], say: Callable[[str], object] = print
) -> None:
    """Replace a network's classifier by the identity: the last layer that it uses, if that is linear.

    A convolution of 1x1 counts as linear (SqueezeNet). Dropout in front of the classifier goes with it, since the
    features are matched. Where the last layer is another, the network is taken to return features already.

    Args:
        network: changed in place.
        name: what to call it.
        image_size: (height, width) to run it on.
        say: is given a line on what was taken off.

    Raises:
        UserError: the network does not run on such images, or returns something else than one tensor.
    """
    runs = _Runs(network)
    result = run_on(network, name, image_size, runs)
    head = runs.last_with_weights
    if head is None or not _is_classifier(network.get_submodule(head), result):
        return
    layer = network.get_submodule(head)
    wide, classes = (
        (layer.in_features, layer.out_features)
        if isinstance(layer, nn.Linear)
        else (layer.in_channels, layer.out_channels)
    )
    for dropout in runs.dropouts:
        if runs.given[dropout] == runs.taken.get(head):
            _replace(network, dropout)
    _replace(network, head)
    if name.partition(":")[1]:  # everybody knows torchvision's
        say(f"model: the classifier {head!r} of {name} ({wide} -> {classes}) is taken off")


def run_on(network: nn.Module, name: str, image_size: tuple[int, int], runs: "_Runs | None" = None) -> Tensor:
    """Return what a network gives for two random images in eval mode; it is left as it was."""
    modes = {module: module.training for module in network.modules()}
    hooks = [] if runs is None else runs.watch()
    like = next(network.parameters(), torch.empty(0))
    images = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(like)
    try:
        with torch.no_grad():
            result = network.eval()(images)
    except Exception as error:  # whatever its forward raises
        raise UserError(
            f"model: {name} must run on images of {image_size[0]}x{image_size[1]} (height x width), and it failed with "
            f"{type(error).__name__}: {' '.join(str(error).split()):.300}; choose another --data.image_size or backbone"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(result, Tensor):
        raise UserError(
            f"model: {name} must return one tensor, got {type(result).__name__}; write a callable that returns a "
            "network with the features alone"
        )
    return result


class _Runs:
    """Which of a network's layers ran, and where their tensors lie."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.last_with_weights: str | None = None
        self.dropouts: list[str] = []
        self.taken: dict[str, int] = {}
        self.given: dict[str, int] = {}
        self._kept: list[Tensor] = []  # so that no place in memory is used twice

    def watch(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Note every layer that runs from now on."""
        return [
            module.register_forward_hook(self._note(name))
            for name, module in self._network.named_modules()
            if isinstance(module, _DROPOUTS) or _is_layer(module)
        ]

    def _note(self, name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def note(module: nn.Module, taken: tuple[object, ...], given: object) -> None:
            if taken and isinstance(taken[0], Tensor) and isinstance(given, Tensor):
                self._kept += [taken[0], given]
                self.taken[name], self.given[name] = taken[0].data_ptr(), given.data_ptr()
                if isinstance(module, _DROPOUTS):
                    self.dropouts.append(name)
                else:
                    self.last_with_weights = name

        return note


def _is_layer(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None and next(module.children(), None) is None


def _is_classifier(layer: nn.Module, result: Tensor) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and result.ndim == 2 and layer.out_channels == result.shape[1]
    return isinstance(layer, nn.Linear) and result.ndim == 2 and layer.out_features == result.shape[1]


def _replace(network: nn.Module, name: str) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
