"""Look at a model without changing it: what each module takes and gives in one forward pass."""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from attnreid.backbones._surgery import CHILD, Replacement, mark_of

Note = Callable[[nn.Module, tuple[Any, ...], Any], None]


@dataclass(frozen=True)
class Seen:
    """What one module did in one forward pass; of several calls, the last.

    Args:
        calls: how often it was called.
        taken: shape of its first argument, where that is a tensor.
        given: shape of what it returned, where that is a tensor.
        returned: the class of what it returned.
        holds_map: whether there is a tensor in it that may be a map: of three or four dimensions.
        floating: whether it is a tensor of a floating type.
        items: where it returned several things, what is known of each tensor among them, by index or key.
        finished: its place in the order in which the modules ended their last call.
    """

    calls: int = 0
    taken: tuple[int, ...] | None = None
    given: tuple[int, ...] | None = None
    returned: str = ""
    holds_map: bool = False
    floating: bool = False
    items: "dict[int | str, Seen]" = field(default_factory=dict)
    finished: int = -1

    def chosen(self, output: int | str | None) -> "Seen":
        """Return what is known of this item; of all where `output` is None."""
        if output is None:
            return self
        item = self.items.get(output)
        if item is None:
            return replace(self, given=None, floating=False)
        return replace(self, given=item.given, floating=item.floating)


@dataclass(frozen=True)
class Observation:
    """One forward pass: what each module did, by name (`""` is the model), and the error that ended it."""

    seen: dict[str, Seen]
    error: Exception | None = None


def stand_in(model: nn.Module, *, meta: bool, bypass: bool) -> nn.Module:
    """Return a copy of `model` in eval mode, without hooks, that can be run in its place.

    Args:
        model: stays as it is.
        meta: whether the copy's tensors are on the meta device, or are copies.
        bypass: whether attention that the model carries lets every map through, since it may refuse other
            sizes.

    Raises:
        ValueError: the model has lazy parameters, or cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, Replacement):
            memo[id(module.replaced)] = nn.Identity()  # It does not run.
        for value in [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]:
            if isinstance(value, Tensor) and id(value) not in memo:
                if is_lazy(value):
                    raise ValueError("the model's parameters must have sizes; it has lazy ones: run it once first")
                memo[id(value)] = _empty_or_copied(value, meta)
            elif type(value) is OrderedDict and not value:
                memo[id(value)] = OrderedDict()  # a dozen tables of hooks: most of the time of copying
    try:
        double = copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise ValueError(f"the model must survive copy.deepcopy to be looked at; it failed with: {error}") from error
    for module in double.modules():
        # The caller's hooks may keep what they see.
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        if bypass and mark_of(module) is not None:
            module._modules[CHILD] = nn.Identity()
    return double


def _empty_or_copied(tensor: Tensor, meta: bool) -> Tensor:
    data = torch.empty_like(tensor, device="meta") if meta else tensor.detach().clone()
    return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data.detach()


def observe(model: nn.Module, inputs: Sequence[Tensor]) -> Observation:
    """Run a stand-in on `inputs` and note what every module did; an error ends the pass, it is not raised."""
    seen: dict[int, Seen] = {}
    failure = run_watched(model, inputs, _note(seen))
    names = model.named_modules(remove_duplicate=False)
    return Observation({name: seen.get(id(module), Seen()) for name, module in names}, failure)


class _ShapesAlone(TorchFunctionMode):
    """Batch norms and ReLUs of meta tensors return their input: torch works their shapes out in Python, slowly."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.batch_norm, torch.batch_norm) and args and args[0].is_meta and args[0].ndim > 1:
            sizes = {len(each) for each in args[1:] if isinstance(each, Tensor)}
            if sizes == {args[0].shape[1]}:  # else torch has to say what is wrong
                return args[0].detach()
        if func is F.relu and args and args[0].is_meta and args[0].is_floating_point():
            return args[0] if (kwargs or {}).get("inplace") else args[0].detach()
        return func(*args, **(kwargs or {}))


def run_watched(model: nn.Module, inputs: Sequence[Tensor], note: Note) -> Exception | None:
    """Run a stand-in, have `note` see every module with what it took and returned, and return what ended the run."""
    hooks = [module.register_forward_hook(note) for module in model.modules()]
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad(), _ShapesAlone():
            model(*inputs)
    except Exception as error:
        return error
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _note(seen: dict[int, Seen]) -> Note:
    count = itertools.count()

    def note(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        first = arguments[0] if arguments else None
        seen[id(module)] = Seen(
            calls=seen.get(id(module), Seen()).calls + 1,
            taken=tuple(first.shape) if isinstance(first, Tensor) else None,
            given=tuple(result.shape) if isinstance(result, Tensor) else None,
            returned=type(result).__name__,
            holds_map=_holds_map(result),
            floating=isinstance(result, Tensor) and result.is_floating_point(),
            items={
                name: Seen(given=tuple(item.shape), floating=item.is_floating_point())
                for name, item in _items(result)
                if isinstance(item, Tensor)
            },
            finished=next(count),
        )

    return note


def _items(result: Any) -> Iterable[tuple[int | str, Any]]:
    if isinstance(result, dict):
        return result.items()
    return enumerate(result) if isinstance(result, list | tuple) else ()


def _holds_map(result: Any) -> bool:
    if isinstance(result, Tensor):
        return result.ndim in (3, 4)
    return any(_holds_map(item) for _, item in _items(result))


def item_of(result: Any, output: int | str | None) -> Tensor | None:
    """Return the tensor in what a module returned, by index or key, or all of it; None where there is none."""
    if output is not None:
        result = dict(_items(result)).get(output)
    return result if isinstance(result, Tensor) else None
