"""From maps or tokens to one feature an image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attnreid import Site, find_sites
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.errors import UserError
from reference_pipelines.models.heads import run_on

_START = 3.0  # of the exponent, as Radenović et al. have it
_LEAST = 1e-6


class GeneralizedMean(nn.Module):
    """Generalised-mean pooling: `(mean x^p)^(1/p)` over positions, with a learnt p.

    After Radenović et al., TPAMI 2019, Eq. 3. p = 1 is the average and p -> infinity the maximum; p starts at 3. Values
    below 1e-6 count as 1e-6.

    Args:
        keepdim: return `(N, C, 1, 1)`, as a pooling layer inside a network does.

    Shape:
        Input `(N, C, H, W)`; output `(N, C)`.
    """

    def __init__(self, *, keepdim: bool = False) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(_START))
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled map."""
        return x.clamp(min=_LEAST).pow(self.p).mean((2, 3), keepdim=self.keepdim).pow(1 / self.p)


class Average(nn.Module):
    """The mean over positions, `(N, C, H, W)` to `(N, C)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled map."""
        return x.mean((2, 3))


class PoolMaps(nn.Module):
    """Pools what a network without a head returns.

    Args:
        pool: maps `(N, C, H, W)` to `(N, C)`.
        layout: "NCHW", "NHWC" or "tokens".
        prefix: how many tokens stand in front of those of the image; they are left aside.
    """

    def __init__(self, pool: nn.Module, layout: str, prefix: int = 0) -> None:
        super().__init__()
        self.pool, self.layout, self.prefix = pool, layout, prefix

    def forward(self, returned: Tensor) -> Tensor:
        """Return (N, C)."""
        if self.layout == "tokens":
            returned = returned[:, self.prefix :].mT.unsqueeze(-1)
        elif self.layout == "NHWC":
            returned = returned.permute(0, 3, 1, 2)
        pooled: Tensor = self.pool(returned)
        return pooled


def pool_of(network: nn.Module, config: ModelConfig, image_size: tuple[int, int]) -> tuple[nn.Module | None, int]:
    """Return what makes features of what a network returns, None where it pools by itself, and their width.

    With another `model.pooling` than "own", a pooling layer inside the network is replaced.

    Raises:
        UserError: the network cannot be pooled as the config says.
    """
    result = run_on(network, config.backbone, image_size)
    if result.ndim == 2:
        if config.pooling != "own":
            _exchange_pooling(network, config, image_size)
        return None, result.shape[1]
    if result.ndim not in (3, 4):
        raise UserError(
            f"model: {config.backbone} must return features (N, D), maps or tokens, got {tuple(result.shape)}"
        )
    pool = GeneralizedMean() if config.pooling == "gem" else Average()
    if result.ndim == 4 and tuple(result.shape[2:]) == (1, 1):
        return PoolMaps(pool, "NCHW"), result.shape[1]
    site = _site_of(network, image_size)
    if site is None or site.layout is None:
        why = "" if site is None else f" ({site.refusal})"
        raise UserError(
            f"model: what {config.backbone} returns, {tuple(result.shape)}, must be maps or tokens of the image{why}; "
            "write a callable that returns a network with features (N, D)"
        )
    return PoolMaps(pool, site.layout, site.prefix), result.shape[1 if site.layout == "NCHW" else -1]


def _site_of(network: nn.Module, image_size: tuple[int, int]) -> Site | None:
    """Return how the map lies in what the whole network returns."""
    sites = {site.name: site for site in find_sites(nn.Sequential(network), image_size)}
    return sites.get("0")


def _exchange_pooling(network: nn.Module, config: ModelConfig, image_size: tuple[int, int]) -> None:
    """Put the pooling of the config in the place of the layer that makes a vector of the last map."""
    found: list[str] = []
    hooks = [module.register_forward_hook(_note(name, found)) for name, module in network.named_modules()]
    try:
        run_on(network, config.backbone, image_size)
    finally:
        for hook in hooks:
            hook.remove()
    for name in reversed(found):
        if _passes_all(network, name, config, image_size):
            parent, _, child = name.rpartition(".")
            pool = GeneralizedMean(keepdim=True) if config.pooling == "gem" else nn.AdaptiveAvgPool2d(1)
            setattr(network.get_submodule(parent), child, pool)
            return
    raise UserError(
        f"model: {config.backbone} must pool its last map by a layer for model.pooling {config.pooling}, and has none; "
        "set --model.pooling own, or take timm's network of this kind (timm:NAME)"
    )


def _note(name: str, found: list[str]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def note(module: nn.Module, taken: tuple[Any, ...], given: Any) -> None:
        before = taken[0] if taken else None
        if not isinstance(before, Tensor) or not isinstance(given, Tensor) or before.ndim != 4:
            return
        pools = before.shape[2:].numel() > 1 and given.shape == (*before.shape[:2], 1, 1)
        if pools and next(module.parameters(), None) is None:
            found.append(name)

    return note


def _passes_all(network: nn.Module, name: str, config: ModelConfig, image_size: tuple[int, int]) -> bool:
    """Return whether all that tells two images apart goes through a layer: its output set to 0, they look the same."""
    hook = network.get_submodule(name).register_forward_hook(lambda *call: torch.zeros_like(call[2]))
    try:
        one, other = run_on(network, config.backbone, image_size)
    finally:
        hook.remove()
    return bool(torch.equal(one, other))
