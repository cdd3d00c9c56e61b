"""Change single patches of an image and see where in each module's output that shows.

A number of tokens says neither their grid nor their order: 3,136 may be 56 rows of 56, row by row or not. So the
order is looked at. Every patch is changed in an image of its own in one batch, behind one unchanged image. After
global attention all tokens answer to all patches; the patch's own answers most, since what it had passes by on the
shortcuts.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from attnreid.backbones._arranging import Answers, Patch
from attnreid.backbones._measuring import item_of, run_watched, stand_in
from attnreid.backbones._site import Layout, Site

# Corners and edges among them, no two in one row or column: a prefix too many moves every row.
_COLUMNS = (0, 3, 6, 1, 4, 7, 2, 5)
_SHARE = 1 / 16  # of the image's height and width
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


def ask(double: nn.Module, image_shape: tuple[int, int, int], output: int | str | None) -> dict[str, Answers]:
    """Run a real stand-in on changed images and return what each of its modules answered, by name.

    Args:
        double: the stand-in.
        image_shape: (channels, height, width) of the images that it takes.
        output: index or key of the tensor to look at in modules that return several things.
    """
    images, patches = _changed_images(image_shape)
    answers: dict[str, Answers] = {}
    names = {id(module): name for name, module in double.named_modules()}

    def note(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        tensor = item_of(result, None if isinstance(result, Tensor) else output)
        if tensor is not None and tensor.ndim in _CHANNEL_AXIS and tensor.shape[0] == len(images):
            strongest = _strongest(tensor)
            if strongest:
                answers[names[id(module)]] = Answers(patches, strongest)

    failure = run_watched(double, [images.to(_device_of(double))], note)
    return {} if failure else answers


def is_read(double: nn.Module, image_shape: tuple[int, int, int], site: Site) -> bool:
    """Whether what the model returns depends on the map at `site`: where a class token is read, the last ones are not.

    It counts as read where that cannot be seen.
    """
    images, _ = _changed_images(image_shape)
    images = images[:2].to(_device_of(double))
    results: list[list[Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        if module is double:
            results.append([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])

    def change(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        tensor = item_of(result, site.output)
        if tensor is not None:
            patches = tensor[:, site.prefix :]
            patches += torch.randn(patches.shape, generator=torch.Generator().manual_seed(0)).to(patches)

    failed = run_watched(double, [images], note)
    hook = double.get_submodule(site.name).register_forward_hook(change)
    failed = run_watched(double, [images], note) or failed
    hook.remove()
    return failed is not None or not all(map(torch.equal, *results))


def _device_of(double: nn.Module) -> torch.device:
    return next((tensor.device for tensor in double.parameters()), torch.device("cpu"))


def _changed_images(shape: tuple[int, int, int]) -> tuple[Tensor, list[Patch]]:
    """Return one image, and behind it the same image once for each patch, changed there; and the patches."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(channels, height, width, generator=generator).repeat(len(_COLUMNS) + 1, 1, 1, 1)
    tall, wide = max(1, round(height * _SHARE)), max(1, round(width * _SHARE))
    patches = []
    for row, column in enumerate(_COLUMNS):
        last = len(_COLUMNS) - 1
        top, left = round((height - tall) * row / last), round((width - wide) * column / last)
        change = 4 * torch.randn(channels, tall, wide, generator=generator)
        images[row + 1, :, top : top + tall, left : left + wide] = change
        patches.append((top / height, (top + tall) / height, left / width, (left + wide) / width))
    return images, patches


def _strongest(tensor: Tensor) -> Mapping[Layout, tuple[int, ...]]:
    """Return the number of the position that answers most to each patch, for every layout; none where one is mute."""
    found: dict[Layout, tuple[int, ...]] = {}
    values = tensor.detach().to("cpu", torch.float32)
    for layout, axis in _CHANNEL_AXIS[tensor.ndim].items():
        change = (values[1:] - values[:1]).norm(dim=axis).flatten(1)
        length = values[:1].norm(dim=axis).flatten(1)
        change = change / (length + 1e-3 * length.mean())
        if not change.isfinite().all() or 0 in change.amax(1):
            return {}
        # Some tokens answer to everything: what counts is to answer to this patch more than to the others.
        found[layout] = tuple((change.square() / change.mean(0).clamp(min=1e-30)).argmax(1).tolist())
    return found
