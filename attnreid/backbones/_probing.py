"""Change single patches of an image and see where in each module's output that shows.

A number of tokens says neither their grid nor their order: 3,136 may be 56 rows of 56, row by row or not. So the
order is looked at, twice: patches that lie anyhow leave a few grids, and patches that are one position's own in such a
grid prove it. Every patch is changed in an image of its own in one batch, behind one unchanged image. After global
attention all tokens answer to all patches; the patch's own answers most, since what it had passes by on the shortcuts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from attnreid.backbones._arranging import Answers, Patch
from attnreid.backbones._measuring import item_of, run_watched, stand_in
from attnreid.backbones._site import Layout, Site

ImageShape = tuple[int, int, int]

_SHARE = 1 / 16  # of the image's height and width
# Corners and edges among them, no two in one row or column: a prefix too many moves every row.
ANYHOW: tuple[Patch, ...] = tuple(
    (row, row + _SHARE, column, column + _SHARE)
    for row, column in (
        ((1 - _SHARE) * number / 5, (1 - _SHARE) * place / 5) for number, place in enumerate((0, 3, 5, 1, 4, 2))
    )
)
_CHANNEL_AXIS: dict[int, dict[Layout, int]] = {3: {"tokens": 2}, 4: {"NCHW": 1, "NHWC": 3}}


def real_stand_in(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in single precision that can be asked, its attention passing every map.

    The tensors of a model on the meta device have no numbers: the copy has some of its own, since the order of tokens
    does not depend on them.
    """
    if not any(tensor.is_meta for tensor in model.parameters()):
        return stand_in(model, meta=False, bypass=True).float()
    double = stand_in(model, meta=True, bypass=True).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in double.buffers():
            tensor.zero_()
        for name, tensor in double.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, (tensor.shape[0] / max(1, tensor.numel())) ** 0.5, generator=generator)
            else:
                tensor.fill_(name.endswith("weight"))
    return double


def ask(
    double: nn.Module, image_shape: ImageShape, output: int | str | None, patches: Sequence[Patch]
) -> dict[str, Answers]:
    """Run a real stand-in on changed images and return what each of its modules answered, by name.

    Args:
        double: the stand-in.
        image_shape: of the images that it takes.
        output: index or key of the tensor to look at in modules that return several things.
        patches: what is changed, each in an image of its own.
    """
    images = _changed_images(image_shape, patches)
    answers: dict[str, Answers] = {}
    names = {id(module): name for name, module in double.named_modules()}

    def note(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        tensor = item_of(result, None if isinstance(result, Tensor) else output)
        if tensor is not None and tensor.ndim in _CHANNEL_AXIS and tensor.shape[0] == len(images):
            answers[names[id(module)]] = Answers(patches, _strongest(tensor))

    failure = run_watched(double, [images.to(_device_of(double))], note)
    return {} if failure else answers


def unread_among(double: nn.Module, image_shape: ImageShape, sites: Sequence[Site]) -> list[Site]:
    """Return those of the sites whose maps what the model returns does not depend on.

    Where a class token is read, the tokens behind it of the last block are not. Where that cannot be seen, a site
    counts as read.
    """
    images = _changed_images(image_shape, ()).to(_device_of(double))
    results: list[list[Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        if module is double:
            results.append([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])

    def change(site: Site) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            tensor = item_of(result, site.output)
            if tensor is not None:
                patches = tensor[:, site.prefix :]
                patches += torch.randn(patches.shape, generator=torch.Generator().manual_seed(0)).to(patches)

        return hook

    failed = run_watched(double, [images], note)
    unread = []
    for site in sites:
        hook = double.get_submodule(site.name).register_forward_hook(change(site))
        failed = run_watched(double, [images], note) or failed
        hook.remove()
        if failed is None and all(map(torch.equal, results[0], results.pop())):
            unread.append(site)
    return unread


def _device_of(double: nn.Module) -> torch.device:
    return next((tensor.device for tensor in double.parameters()), torch.device("cpu"))


def _changed_images(shape: ImageShape, patches: Sequence[Patch]) -> Tensor:
    """Return one image, and behind it the same image once for each patch, changed there."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(channels, height, width, generator=generator).repeat(len(patches) + 1, 1, 1, 1)
    for number, (top, bottom, left, right) in enumerate(patches, start=1):
        # At least a pixel, and none of the next position's.
        rows = slice(math.ceil(top * height), max(math.ceil(top * height) + 1, math.floor(bottom * height)))
        columns = slice(math.ceil(left * width), max(math.ceil(left * width) + 1, math.floor(right * width)))
        place = images[number, :, rows, columns]
        place.copy_(4 * torch.randn(place.shape, generator=generator))
    return images


def _strongest(tensor: Tensor) -> Mapping[Layout, tuple[int, ...]]:
    """Return the number of the position that answers most to each patch, for every layout."""
    found: dict[Layout, tuple[int, ...]] = {}
    values = tensor.detach().to("cpu", torch.float32)
    for layout, axis in _CHANNEL_AXIS[tensor.ndim].items():
        # norm() took 16 times as long along an axis that is not the last.
        change = (values[1:] - values[:1]).square_().sum(axis).sqrt_().flatten(1)
        # Some tokens answer to everything: what counts is to answer to this patch more than to most.
        found[layout] = tuple((change - change.median(0).values).argmax(1).tolist())
    return found
