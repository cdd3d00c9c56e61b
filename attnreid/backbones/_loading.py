"""What a state dict does to attached attention: with no key of any it leaves all as it is, with some it needs all.

torch asks module after module, and shows each its own part of the state dict. What the modules of one
`load_state_dict` call share are the lists that it collects its findings in: by them the attention layers of one
call know of one another, whatever model they stand in.
"""

import inspect
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from torch import nn

_REMEMBERED = 8  # calls of a thread: one can begin inside another, and none says that it ends


@dataclass(eq=False)
class _Call:
    """One call of `load_state_dict`, as far as it has come.

    Args:
        missing: torch's list of missing keys. Kept alive, so that no other call has a list of its identity.
        errors: torch's list of errors.
        found: the first attention that the state dict has keys of.
        kept: the prefixes of all attention that it has no key of, which stays as it is.
        unsaid: the keys of that attention, as long as none was found.
        begun: for every attention that is being loaded, how many keys were missing before.
        told: whether the error says how to go on.
    """

    missing: list[str]
    errors: list[str]
    found: str | None = None
    kept: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    told: bool = False

    def judge(self) -> None:
        """Once an attention was found, report the keys of all attention that was not."""
        if self.found is not None and self.unsaid:
            self.missing.extend(self.unsaid)
            self.tell(self.unsaid[0])
            self.unsaid.clear()

    def tell(self, lacking: str) -> None:
        """Have a strict call's error say how to go on; any other call returns the keys."""
        if not self.told and _is_strict(self.missing):
            self.told = True
            self.errors.append(
                "attnreid: a state dict must have all keys of the attention in the model or none of them, got some of "
                f"{self.found!r} and not {lacking!r}; load the weights first and attach the other attention after, or "
                "pass strict=False, which leaves what is missing as it is and returns its keys."
            )


class _Calls(threading.local):
    def __init__(self) -> None:
        self.latest: deque[_Call] = deque(maxlen=_REMEMBERED)

    def of(self, missing: list[str]) -> _Call | None:
        return next((call for call in self.latest if call.missing is missing), None)


_calls = _Calls()


def guard_loading(attention: nn.Module) -> None:
    """Have every later `load_state_dict` of a model around `attention` keep to the rule; harmless twice."""
    if any(getattr(hook, "hook", None) is _before for hook in attention._load_state_dict_pre_hooks.values()):
        return  # a copy of one that does
    attention.register_load_state_dict_pre_hook(_before)  # type: ignore[no-untyped-call]
    attention.register_load_state_dict_post_hook(_after)  # type: ignore[no-untyped-call]


def _before(
    attention: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    call = _calls.of(missing_keys)
    if call is None:
        call = _Call(missing_keys, error_msgs)
        _calls.latest.append(call)
    # Nothing to judge where the attention itself is being loaded, or stands in one that stays as it is.
    if prefix and not any(map(prefix.startswith, call.kept)):
        if any(key.startswith(prefix) for key in state_dict):
            call.found = call.found or prefix.removesuffix(".")
        else:
            own = {prefix + key: value for key, value in attention.state_dict(keep_vars=True).items()}
            state_dict.update(own)  # torch hands every child its own dict, so the caller's is not touched
            call.kept.append(prefix)
            call.unsaid.extend(own)
        call.judge()
    call.begun.append(len(missing_keys))


def _after(attention: nn.Module, incompatible: Any) -> None:
    call = _calls.of(incompatible.missing_keys)
    if call is not None and call.begun:
        lacking = call.missing[call.begun.pop() :]  # of its own keys, by torch's word
        if call.found is not None and lacking:
            call.tell(lacking[0])


def _is_strict(missing: list[str]) -> bool:
    """Return whether the call that collects in `missing` is strict, which torch does not tell its hooks."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "load_state_dict" and frame.f_locals.get("missing_keys") is missing:
            return bool(frame.f_locals.get("strict"))
        frame = frame.f_back
    return False  # some other loader, which has the missing keys all the same
