"""Where the last residual branch of a block ends, told by trying: what it gives is added to all else in the block.

A block is *residual* if a module B inside it is added: with B's output set to 0, what comes out of the block, or what
goes into an activation at its end, is less by exactly that output. Blocks that hold residual blocks are rows of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnreid.backbones._measuring import run_watched
from attnreid.backbones._probing import real_stand_in
from attnreid.backbones._stages import Part, parts_of
from attnreid.backbones.sites import Survey

_TRIED = 12  # modules at the end of a block
_CLOSE = 1e-4  # of the largest value: what single precision leaves of a sum


@dataclass
class _Call:
    """What a module was called with."""

    taken: tuple[Any, ...]
    options: dict[str, Any]


def branch_ends(model: nn.Module, survey: Survey) -> list[str]:
    """Return, for each residual block in the order of the network, the module that its last branch ends at.

    Args:
        model: stays as it is; a real copy of it runs.
        survey: of the model.
    """
    parts = {part.name: part for part in parts_of(model, survey)}
    blocks = [part for part in parts.values() if part.is_block and survey.seen[part.name].calls == 1]
    double = _awake(real_stand_in(model))
    calls = _record(double, survey, [block.name for block in blocks])
    ends: dict[str, str] = {}
    for block in sorted(blocks, key=lambda block: -block.name.count(".")):  # what is inside comes first
        if block.name in calls and not any(f"{inner}.".startswith(f"{block.name}.") for inner in ends):
            end = _end_of(double, block, list(parts.values()), calls[block.name])
            if end is not None:
                ends[block.name] = end
    return [end for _, end in sorted(ends.items(), key=lambda pair: parts[pair[0]].finished)]


@torch.no_grad()
def _awake(double: nn.Module) -> nn.Module:
    """Return the copy with 1 for every scale that starts at 0 and hides its branch."""
    for name, parameter in double.named_parameters():
        of_channels = parameter.numel() == max(parameter.shape, default=1)
        if of_channels and not name.endswith("bias") and not parameter.any():
            parameter.fill_(1)
    return double


def _record(double: nn.Module, survey: Survey, names: Sequence[str]) -> dict[str, _Call]:
    """Run the copy on images and return what each of the modules was called with."""
    calls: dict[str, _Call] = {}
    hooks = [
        double.get_submodule(name).register_forward_pre_hook(_keep(calls, name), with_kwargs=True) for name in names
    ]
    generator = torch.Generator().manual_seed(0)
    device = next((tensor.device for tensor in double.parameters()), torch.device("cpu"))
    images = [torch.randn(tensor.shape, generator=generator).to(device) for tensor in survey.inputs]
    run_watched(double, images, lambda *_: None)
    for hook in hooks:
        hook.remove()
    return calls


def _keep(calls: dict[str, _Call], name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def keep(module: nn.Module, taken: tuple[Any, ...], options: dict[str, Any]) -> None:
        calls[name] = _Call(_own(taken), options)

    return keep


def _own(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return copies, since what is kept may be written to."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in values)


@torch.no_grad()
def _end_of(double: nn.Module, block: Part, parts: Sequence[Part], call: _Call) -> str | None:
    """Return the module inside a block that its last residual branch ends at; None where there is none."""
    try:
        return _try_ends(double, block, parts, call)
    except Exception:
        return None  # It does not run by itself, on what it was called with.


def _try_ends(double: nn.Module, block: Part, parts: Sequence[Part], call: _Call) -> str | None:
    module = double.get_submodule(block.name)
    inside = [part for part in parts if block.holds(part) and part.size == block.size]
    inside.sort(key=lambda part: -part.finished)
    plain = _Run(double, module, call, inside)
    if not isinstance(plain.result, Tensor):
        return None
    # What ends with the block's own output follows the addition: look at what it is given.
    after = next((part for part in inside if plain.gives(part, plain.result)), None)
    total = plain.total(after)
    if total is None:
        return None
    for part in inside[:_TRIED]:
        given = plain.given.get(part.name)
        if given is None or not part.fits or given.shape != total.shape or torch.equal(given, total):
            continue
        if plain.gives(part, plain.result) or _is_shortcut(part, inside, plain, call):
            continue
        without = _Run(double, module, call, inside, without=part.name)
        rest = without.total(after)
        # The rest must be a map of the image, and not the same for all: an affine layer behind B adds up, too.
        if not isinstance(rest, Tensor) or not given.any() or _close(rest[:1], rest[1:], rest):
            continue
        if _close(total - rest, given, total):
            return part.name
    return None


def _close(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _CLOSE * scale.abs().max())


def _is_shortcut(part: Part, inside: Sequence[Part], run: "_Run", call: _Call) -> bool:
    """Whether it is a projection of what the block takes, or the end of one: one weight at most."""
    around = [other for other in inside if other is part or other.holds(part)]
    own = call.taken[0] if call.taken else None
    taken = [run.taken.get(other.name) for other in around if other.weights <= 1]
    return any(
        isinstance(own, Tensor) and one is not None and one.shape == own.shape and torch.equal(one, own)
        for one in taken
    )


class _LastActivation(TorchFunctionMode):
    """Keeps what the last function took that makes a map of one map, such as `relu`, and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: Tensor | None = None
        self.given: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
        alone = len(tensors) == 1 and tensors[0].ndim > 2
        taken = tensors[0].clone() if alone else None  # it may be written to
        given = func(*args, **(kwargs or {}))
        if taken is not None and isinstance(given, Tensor) and given.shape == taken.shape:
            self.taken, self.given = taken, given
        elif given is self.given:  # an addition wrote to it in place
            self.taken = self.given = None
        return given


class _Run:
    """One run of a block: what the modules inside took and gave; with `without`, that one's output is 0."""

    def __init__(
        self, double: nn.Module, module: nn.Module, call: _Call, inside: Sequence[Part], without: str | None = None
    ) -> None:
        self.taken: dict[str, Tensor] = {}
        self.given: dict[str, Tensor] = {}
        hooks = []
        for part in inside:
            each = double.get_submodule(part.name)
            hooks.append(each.register_forward_pre_hook(self._before(part.name)))
            hooks.append(each.register_forward_hook(self._after(part.name, without)))
        self._last = _LastActivation()
        try:
            with self._last:
                self.result: Any = module(*_own(call.taken), **call.options)
        finally:
            for hook in hooks:
                hook.remove()

    def total(self, after: Part | None) -> Tensor | None:
        """Return what the block's last activation, a module or a function, takes; the output where there is none."""
        if after is not None:
            return self.taken.get(after.name)
        last = self._last
        if last.given is not None and isinstance(self.result, Tensor) and last.given is self.result:
            return last.taken
        return self.result if isinstance(self.result, Tensor) else None

    def _before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def before(module: nn.Module, taken: tuple[Any, ...]) -> None:
            if taken and isinstance(taken[0], Tensor):
                self.taken[name] = taken[0].clone()

        return before

    def _after(self, name: str, without: str | None) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def after(module: nn.Module, taken: tuple[Any, ...], given: Any) -> Any:
            if isinstance(given, Tensor):
                self.given[name] = given.clone()
            return torch.zeros_like(given) if name == without else None

        return after

    def gives(self, part: Part, output: Tensor) -> bool:
        """Whether the module gives this very tensor, or one that is equal."""
        given = self.given.get(part.name)
        return given is not None and given.shape == output.shape and torch.equal(given, output)
