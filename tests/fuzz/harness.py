"""What a fuzzed entry point is, and how an outcome is judged.

An entry point is a call with a strategy of arguments around its valid region. A generated case comes out in one of
two ways: what is returned is right, by an oracle or an invariant of the entry's own, or what is raised is documented:
of a stated type, raised on purpose by this project's code, and one sentence. All else is a bug: an error from a
library below, a hang, a wrong result, an argument that was changed.
"""

import dis
import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch._dynamo  # what imports it first would seem to hang
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
_OURS = tuple(f"{ROOT / package}/" for package in ("attnreid", "reference_pipelines"))
SHRINK = not os.environ.get("FUZZ_AS_FOUND")  # a failing case is made small, which takes a while
SECONDS = 5.0  # a case that takes longer hangs

Arguments = dict[str, Any]


class Hang(BaseException):
    """A case took too long; no `Exception`, so that nothing takes it for a failure to answer."""


class Accepted(Exception):
    """An outcome that an entry's own call takes for right, such as torch's error on two dtypes; its text counts it."""


@dataclass(frozen=True)
class Entry:
    """An entry point.

    Args:
        name: for the table.
        arguments: what it is called with, right and wrong.
        call: the call; what it returns is checked.
        check: raises AssertionError where what was returned is wrong.
        errors: the documented ones.
        system: whether the system's own OSError is documented too.
        weight: how many cases of all are its, compared with others.
        tell: names what was returned, where there is more than one right outcome.
    """

    name: str
    arguments: SearchStrategy[Arguments]
    call: Callable[[Arguments], Any]
    check: Callable[[Arguments, Any], None]
    errors: tuple[type[BaseException], ...] = (TypeError, ValueError)
    system: bool = False
    weight: float = 1.0
    tell: Callable[[Any], str] = lambda result: "right"


@contextmanager
def time_limit(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `Hang` in code that takes longer; Python's code, since signals wait for others'.

    The seconds are those that this process computes, since others may keep the machine busy, and six times as many of
    those on the clock.
    """
    computed, clock = time.process_time(), time.monotonic()

    def stop(number: int, frame: object) -> None:
        if time.process_time() - computed >= seconds or time.monotonic() - clock >= 6 * seconds:
            raise Hang(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault_of(
    error: BaseException, errors: tuple[type[BaseException], ...], *, system: bool = False, lines: int = 1
) -> str | None:
    """Return what makes an error undocumented; None for one that is.

    Args:
        error: as it was caught.
        errors: the documented types.
        system: whether an OSError of the system's is documented too.
        lines: of its message at most.
    """
    if system and isinstance(error, OSError):
        return None
    if not isinstance(error, errors):
        return f"{type(error).__name__} is not documented: {error!s:.300}"
    place = raised_at(error.__traceback__)
    if place is not None:
        return f"it is not raised on purpose, but by {place}: {type(error).__name__}: {error!s:.300}"
    message = str(error)
    if not message.strip() or message.count("\n") >= lines:
        return f"its message is no sentence: {message!r:.300}"
    return None


def raised_at(trace: TracebackType | None) -> str | None:
    """Return where an error comes from if no `raise` of this project's made it; None if one did."""
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    if not code.co_filename.startswith(_OURS):
        return f"{code.co_filename}:{trace.tb_lineno}"
    operation = dis.opname[code.co_code[trace.tb_lasti]]
    if operation not in ("RAISE_VARARGS", "RERAISE"):
        return f"{Path(code.co_filename).relative_to(ROOT)}:{trace.tb_lineno} ({operation})"
    return None


def judge(entry: Entry, arguments: Arguments) -> str:
    """Run a case and return how it came out, "right" or the documented error's name.

    Raises:
        AssertionError: it came out wrong.
        Hang: it did not come out.
    """
    before = frozen(arguments)
    result, outcome = None, "right"
    with time_limit():
        try:
            result = entry.call(arguments)
        except (AssertionError, Hang):
            raise
        except Accepted as error:
            outcome = str(error)
        except BaseException as error:
            fault = fault_of(error, entry.errors, system=entry.system)
            assert fault is None, f"{entry.name}: {fault}"
            outcome = type(error).__name__
    after = frozen(arguments)
    assert before == after, f"{entry.name}: an argument was changed: {before} -> {after}"
    if outcome == "right":
        entry.check(arguments, result)
        outcome = entry.tell(result)
    return outcome


def run(entry: Entry, examples: int, *, random: bool) -> Counter[str]:
    """Judge so many generated cases of an entry point and return the outcomes' counts.

    Args:
        entry: the entry point.
        examples: at most.
        random: draw others each time; False for the same ones.
    """
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=not random,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(entry.arguments)
    def case(arguments: Arguments) -> None:
        outcomes[judge(entry, arguments)] += 1

    case()
    return outcomes


def frozen(value: Any) -> Any:
    """Return what a value holds, as something that compares and that later changes do not reach."""
    if isinstance(value, Tensor):
        numbers = b"" if value.is_meta else value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return (
            "tensor",
            str(value.dtype),
            tuple(value.shape),
            value.requires_grad,
            hashlib.sha256(numbers).hexdigest(),
        )
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, nn.Module):
        return model_state(value)
    if isinstance(value, Mapping):
        return ("mapping", tuple((repr(key), frozen(inside)) for key, inside in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return (type(value).__name__, tuple(frozen(inside) for inside in value))
    if isinstance(value, Built):
        return ("built",)
    return (type(value).__name__, repr(value))


class Built:
    """An argument that the call is meant to change, such as a model to attach to; the entry's check looks at it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Built({type(self.value).__name__})"


def model_state(model: nn.Module) -> Any:
    """Return all of a model that attaching could change: its modules, tensors, hooks, modes and attributes' names."""
    modules = tuple(
        (
            name,
            id(module),
            module.training,
            tuple(sorted(vars(module))),
            tuple(len(hooks) for hooks in _hooks(module)),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    )
    tensors = tuple((name, id(value), frozen(value)) for name, value in model.state_dict(keep_vars=True).items())
    return ("module", modules, tensors)


def _hooks(module: nn.Module) -> Iterator[Mapping[Any, Any]]:
    for name, value in vars(module).items():
        if name.endswith("_hooks") and isinstance(value, Mapping):
            yield value
