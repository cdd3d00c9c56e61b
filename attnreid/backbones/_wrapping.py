"""Refuse a model that is no longer the plain one: scripted, or in the hands of a wrapper for many processes."""

import gc

import torch
from torch import nn

# By name, since importing torch.distributed.fsdp takes long; other libraries' wrappers are called the same.
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")


def check_python(who: str, model: nn.Module) -> None:
    """Refuse what is no module, and a model that is scripted or traced, or has a part that is."""
    if not isinstance(model, nn.Module):
        found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"{who}: the model must be an nn.Module, got {found}; pass the model itself.")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{who}: the model must be made of Python modules, got a scripted or traced one"
                f"{f' at {name!r}' if name else ''}; pass the model that it was made from."
            )


def check_plain(who: str, model: nn.Module) -> None:
    """Refuse a model that cannot be looked at or changed, or whose processes would learn different attention.

    A model inside a `DistributedDataParallel` is found by looking for the wrapper among the living objects. One
    inside a wrapper that another library calls by another name is not found. `DataParallel` copies the model
    anew for every batch: passing the one inside is fine.

    Raises:
        TypeError: it is no module.
        ValueError: it is such a model.
    """
    check_python(who, model)
    for module in model.modules():
        if getattr(module, "_is_fsdp_managed_module", False) or "FSDPModule" in _names(module):
            raise _wrapped(who, "fully_shard or FullyShardedDataParallel")
        wrappers = [wrapper for wrapper in _WRAPPERS if wrapper in _names(module)]
        if wrappers:
            raise _wrapped(who, wrappers[0])
    if any("DTensor" in _names(parameter) for parameter in model.parameters()):
        raise _wrapped(who, "something that shards its parameters")
    if torch.distributed.is_available() and torch.distributed.is_initialized() and _has_wrapper_around(model):
        raise _wrapped(who, "DistributedDataParallel, as this one is")


def _wrapped(who: str, wrapper: str) -> ValueError:
    return ValueError(
        f"{who}: attention must be attached and resized before the model is wrapped for many processes, got one in "
        f"{wrapper}. The wrapper does not know parameters that come later, and each process would train its own, so "
        "that the model inside it is no way round: attach to the plain model in every process, then wrap it."
    )


def _names(thing: object) -> set[str]:
    return {cls.__name__ for cls in type(thing).__mro__}


def _has_wrapper_around(model: nn.Module) -> bool:
    own = {id(module) for module in model.modules()}
    kinds = _kinds_of(nn.parallel.DistributedDataParallel)

    def found() -> bool:
        wrappers = [thing for thing in gc.get_objects() if type(thing) in kinds]  # of a million things
        return any(id(module) in own for wrapper in wrappers for module in wrapper.modules())

    if not found():
        return False
    gc.collect()  # a wrapper that nobody holds any more is none
    return found()


def _kinds_of(cls: type) -> set[type]:
    """Return a class and all that are derived from it."""
    return {cls}.union(*map(_kinds_of, cls.__subclasses__()))
